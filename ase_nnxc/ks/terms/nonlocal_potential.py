"""Nonlocal pseudopotential: E = sum_n f_n sum_ij <psi_n|p_i> D_ij <p_j|psi_n>.

<k+G|p> = Omega^(-1/2) (-i)^l p_l(|k+G|) Y_lm(k+G) exp(-i (k+G) R). The projectors are ordered by species, atom,
channel, m, and index of the projector in the channel.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..basis import Sphere
from ..crystal import Crystal
from ..harmonics import solid_harmonics
from ..kpoints import Block
from ..operators import Separable
from .term import OrbitalTerm

if TYPE_CHECKING:
    from ..system import System


class NonlocalPotential(OrbitalTerm):
    """Energy of the electrons in the separable part of the pseudopotentials."""

    name = "nonlocal"

    def __init__(self, system: "System"):
        super().__init__(system)
        self._operators: dict[int, Separable] = {}  # by the index of the k-point
        self._batches: dict[tuple[int, ...], Separable] = {}  # by the indices of several ones

    @cached_property
    def coupling(self) -> Tensor:
        """(nproj, nproj) coupling D, complex128, Hartree."""
        return coupling(self.system.crystal).to(torch.complex128)

    def operator(self, block: Block) -> Separable:
        """Return sum_ij |p_i> D_ij <p_j| of a block."""
        if block.k not in self._operators:
            self._operators[block.k] = Separable(projectors(self.system.crystal, block.sphere), self.coupling)
        return self._operators[block.k]

    def operator_of_batch(self, blocks: Sequence[Block], sphere: Sphere) -> Separable:
        """Return sum_ij |p_i> D_ij <p_j| of several blocks; `operator` then returns views of it."""
        ks = tuple(block.k for block in blocks)
        kept = self._batches.get(ks)
        if kept is not None:
            return kept
        stack = projectors(self.system.crystal, sphere)
        if sphere.padding is not None:
            stack.masked_fill_(sphere.padding[:, None], 0)
        batch = Separable(stack, self.coupling.expand(len(ks), -1, -1))
        views = {block.k: p[:, : block.sphere.npw] for block, p in zip(blocks, stack)}
        # Other threads do the same for their k-points: each change of a dictionary is one step.
        for other in tuple(self._batches):
            if not set(other).isdisjoint(ks):
                self._batches.pop(other, None)
        self._batches[ks] = batch
        self._operators.update({k: Separable(view, self.coupling) for k, view in views.items()})
        return batch

    def energy(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        """Return sum_n f_n b_n^H D b_n, Hartree, with b_n = <p|psi_n>."""
        return self._energy(block.sphere, psi, electrons)

    def energy_of_batch(self, blocks: Sequence[Block], sphere: Sphere, psi: Tensor, electrons: Tensor) -> Tensor:
        """Return the sum of the energies of several blocks, Hartree."""
        return self._energy(sphere, psi, electrons)

    def _energy(self, sphere: Sphere, psi: Tensor, electrons: Tensor) -> Tensor:
        b = projectors(self.system.crystal, sphere).conj() @ psi.mT  # (..., nproj, nbands)
        return ((b.conj() * (self.coupling @ b)).real.sum(-2) * electrons).sum()


def projectors(crystal: Crystal, sphere: Sphere) -> Tensor:
    """Return <k+G|p> of all projectors of the cell, complex (..., nproj, npw), differentiable in cell and positions."""
    q = sphere.wavevectors(crystal.reciprocal)
    q2 = q.square().sum(-1)
    phases = sphere.phases(crystal.positions) / crystal.volume.sqrt()
    rows = []
    for potential, atoms in crystal.species.items():
        forms = []  # (..., projectors of a channel, npw), without the phase of the atom
        for channel in potential.channels:
            radial = torch.stack([channel.projector(i, q2) for i in range(len(channel.h))], dim=-2)
            angular = solid_harmonics(channel.l, q)
            forms.append((-1j) ** channel.l * (angular[..., None, :] * radial[..., None, :, :]).flatten(-3, -2))
        if forms:
            form = torch.cat([f.to(phases.dtype) for f in forms], dim=-2)
            rows.append((phases[..., atoms, None, :] * form[..., None, :, :]).flatten(-3, -2))
    if not rows:
        return phases[..., :0, :]
    return torch.cat(rows, dim=-2)


def coupling(crystal: Crystal) -> Tensor:
    """Return D (nproj, nproj), Hartree, in the order of `projectors`."""
    blocks = [
        torch.tensor(channel.h, dtype=torch.float64, device="cpu")
        for potential, atoms in crystal.species.items()
        for _ in atoms
        for channel in potential.channels
        for _ in range(2 * channel.l + 1)
    ]
    if not blocks:
        return torch.zeros(0, 0, dtype=torch.float64, device=crystal.device)
    return torch.block_diag(*blocks).to(crystal.device)
