"""The Pulay stress: the error of the stress due to a finite cutoff.

The stress is a derivative at a fixed set of plane waves, not at a fixed cutoff. It lacks the pressure
2/3 ecut/Omega dE/decut (Francis and Payne, J. Phys.: Condens. Matter 2, 4395 (1990), eq. 10).
"""

from dataclasses import replace

import torch
from torch import Tensor

from .basis import make_sphere, shared_waves
from .ground_state import GroundState
from .kpoints import Block

MARGIN = 0.1  # width of the shell of additional plane waves, in units of the cutoff


def pulay_pressure(state: GroundState) -> float:
    """Return an estimate of the Pulay pressure, Hartree/bohr^3. It is not positive, as dE/decut is not positive.

    Second-order perturbation theory gives the derivative of the energy,

        dE/decut ~ -1/(MARGIN ecut) sum_n f_n sum_G |<k+G|H|psi_n>|^2 / (|k+G|^2/2 - e_n),

    where G runs over the plane waves between ecut and (1 + MARGIN) ecut.
    """
    crystal, basis, electrons = state.crystal, state.basis, state.electrons
    potential = state.total_energy().potential(state.fields).values
    spheres = tuple(
        make_sphere(crystal, (1 + MARGIN) * basis.ecut, s.kpoint, s.weight, basis.grid.shape) for s in basis.spheres
    )
    wide = replace(state.system, basis=replace(basis, spheres=spheres))
    wide_energy = state.total_energy(wide)

    def lowering(block: Block, orbitals: Tensor) -> Tensor:
        at = (block.spin, block.k)
        old, new = shared_waves(basis.spheres[block.k].miller, block.sphere.miller)
        filled = electrons[at] != 0
        psi = orbitals.new_zeros(int(filled.sum()), block.sphere.npw)
        psi[:, new] = orbitals[filled][:, old]
        gap = block.sphere.half_squares(crystal.reciprocal) - state.eigenvalues[at][filled][:, None]
        hamiltonian = wide_energy.hamiltonian(block, potential[block.spin], torch.complex128)
        change = hamiltonian.apply(psi).abs().square() / gap
        change[:, new] = 0.0
        return electrons[at][filled] @ change.sum(1)

    slope = -float(wide.kpoints.sum(lowering, state.orbitals)) / (MARGIN * basis.ecut)
    return 2 / 3 * basis.ecut / float(crystal.volume) * slope
