"""Nonlocal pseudopotential: E = sum_n f_n sum_ij <psi_n|p_i> D_ij <p_j|psi_n>.

<k+G|p> = Omega^(-1/2) (-i)^l p_l(|k+G|) Y_lm(k+G) exp(-i (k+G) R); the order of projectors is species, atom,
channel, m, number of the projector.
"""

import torch
from torch import Tensor

from ..basis import Sphere
from ..crystal import Crystal
from ..harmonics import solid_harmonics


def projectors(crystal: Crystal, sphere: Sphere) -> Tensor:
    """<k+G|p> for all projectors of the cell: complex (nproj, npw), differentiable in cell and positions."""
    q = sphere.wavevectors(crystal.reciprocal)
    q2 = q.square().sum(-1)
    phases = sphere.phases(crystal.positions) / crystal.volume.sqrt()
    rows = []
    for potential, atoms in crystal.species.items():
        forms = []  # (rows, npw), without the atom's phase
        for channel in potential.channels:
            radial = torch.stack([channel.projector(i, q2) for i in range(len(channel.h))])
            angular = solid_harmonics(channel.l, q)
            forms.append((-1j) ** channel.l * (angular[:, None] * radial[None]).flatten(0, 1))
        if forms:
            form = torch.cat([f.to(phases.dtype) for f in forms])
            rows.append((phases[atoms][:, None] * form[None]).flatten(0, 1))
    if not rows:
        return torch.zeros(0, sphere.npw, dtype=phases.dtype, device=phases.device)
    return torch.cat(rows)


def coupling(crystal: Crystal) -> Tensor:
    """D (nproj, nproj), Hartree, in the order of `projectors`."""
    blocks = [
        torch.tensor(channel.h, dtype=torch.float64, device=crystal.device)
        for potential, atoms in crystal.species.items()
        for _ in atoms
        for channel in potential.channels
        for _ in range(2 * channel.l + 1)
    ]
    if not blocks:
        return torch.zeros(0, 0, dtype=torch.float64, device=crystal.device)
    return torch.block_diag(*blocks)
