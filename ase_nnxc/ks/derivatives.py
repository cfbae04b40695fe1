"""Derivatives of the free energy by positions and strain.

The free energy F = E - T S is stationary in orbitals and occupations, so at fixed orbital coefficients and occupations
its derivatives by positions, strain (and a functional's parameters) are the exact first-order ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .crystal import Crystal
from .fields import strained_fields
from .kpoints import Block

if TYPE_CHECKING:
    from .ground_state import GroundState


def movable(crystal: Crystal) -> tuple[list[Tensor], Crystal]:
    """Displacements (natoms, 3) and strain (3, 3), zero, that record gradients, and the crystal under them."""
    displacements = torch.zeros_like(crystal.positions, requires_grad=True)
    strain = torch.zeros_like(crystal.lattice, requires_grad=True)
    return [displacements, strain], crystal.deformed(strain, displacements)


def gradients(energy: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Derivatives of an energy by inputs, zero by those that it does not depend on."""
    if not energy.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return list(
        torch.autograd.grad(energy, inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )


def forces_and_stress(state: GroundState) -> tuple[Tensor, Tensor]:
    """Forces -dF/dR (natoms, 3), Hartree/bohr, and stress (1/Omega) dF/dstrain (3, 3), Hartree/bohr^3.

    Both are derivatives at fixed orbital coefficients, which makes the stress the one of a fixed set of plane waves.
    Along directions that are not periodic the forces add up to zero, and there is no stress.
    """
    system, crystal, basis = state.system, state.crystal, state.basis
    electrons, kinetic = state.electrons, state.kinetic_tensors()

    def of_block(block: Block, psi: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            movements, moved = movable(crystal)
            energy = state.total_energy(system.at(moved))
            return gradients(energy.of_orbitals(block, psi, electrons[block.spin, block.k]).sum(), movements)

    with torch.enable_grad():
        movements, moved = movable(crystal)
        energy = state.total_energy(system.at(moved))
        fields = strained_fields(basis, crystal, moved, basis.grid.to_real(state.fields), kinetic)
        of_density = gradients(energy.of_density(energy.fields(real=fields)), movements)
    of_orbitals = system.kpoints.sum(of_block, state.orbitals)
    by_positions, by_strain = (a + b for a, b in zip(of_density, of_orbitals))
    stress = basis.symmetry.symmetrize_stress(0.5 * (by_strain + by_strain.mT) / crystal.volume, crystal.lattice)
    forces = basis.symmetry.symmetrize_forces(-by_positions, crystal.lattice)
    return forces, stress
