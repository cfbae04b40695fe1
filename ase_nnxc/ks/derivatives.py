"""Derivatives of the free energy with respect to positions and strain.

The free energy F = E - T S is stationary in orbitals and occupations. Its first derivatives with respect to positions,
strain and parameters of a functional are therefore exact at fixed orbital coefficients and occupations.

An SCF ends with orbitals in the potential V_in of the fields n_in, and their own fields n_out differ by a residual.
Derivatives at fixed orbitals are then wrong by first order in it. With the density response chi0 to a potential, the
kernel K, and 1 - chi0 K = e,

    n_out - n = -chi0 K e^-1 (n_out - n_in),    dn/dl = e^-1 chi0 dV/dl,

so that the error of dF/dl is

    int dV/dl (n_out - n) = -int (V_out - V_in) dn/dl,    V_out - V_in = K (n_out - n_in).

It is subtracted with the approximation that the fields follow the atoms, dn/dl ~ d/dl sum_a n_a(r - R_a): C. T. Chan,
K. P. Bohnen and K. M. Ho, Phys. Rev. B 47, 4771 (1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .crystal import Crystal
from .fields import strained_fields
from .initial_guess import atomic_fields
from .kpoints import Block
from .total_energy import TotalEnergy

if TYPE_CHECKING:
    from .ground_state import GroundState

VACUUM = 1e-4  # bohr^-3; at lower densities the residual of the potential of a GGA is noise, and is not used


def movable(crystal: Crystal) -> tuple[list[Tensor], Crystal]:
    """Return zero displacements (natoms, 3) and strain (3, 3) that require gradients, and the crystal after them."""
    displacements = torch.zeros_like(crystal.positions, requires_grad=True)
    strain = torch.zeros_like(crystal.lattice, requires_grad=True)
    return [displacements, strain], crystal.deformed(strain, displacements)


def gradients(energy: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Return derivatives of an energy with respect to each input; they are zero if it does not depend on the input."""
    if not energy.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return list(
        torch.autograd.grad(energy, inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )


def derivative_along(derivatives: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """Return the derivative () along directions: the sum of the products of partial derivatives and components."""
    return torch.stack([(d * c).sum() for d, c in zip(derivatives, directions)]).sum()


def forces_and_stress(state: GroundState) -> tuple[Tensor, Tensor]:
    """Return forces -dF/dR (natoms, 3), Hartree/bohr, and stress (1/Omega) dF/dstrain (3, 3), Hartree/bohr^3.

    Both are derivatives at fixed orbital coefficients, corrected for the residual of the SCF: the stress is that of a
    fixed set of plane waves. Along directions that are not periodic the forces add up to zero, and the stress is zero.
    """
    system, crystal, basis = state.system, state.crystal, state.basis
    electrons, kinetic = state.electrons, state.kinetic_tensors()

    def of_batch(blocks: Sequence[Block], orbitals: Sequence[Tensor]) -> Tensor:
        with torch.enable_grad():
            movements, moved = movable(crystal)
            energy, sphere = state.total_energy(system.at(moved)), system.kpoints.stacked_sphere(blocks)
            return torch.cat(gradients(energy.of_batch(blocks, sphere, orbitals, electrons).sum(), movements))

    with torch.enable_grad():
        movements, moved = movable(crystal)
        energy = state.total_energy(system.at(moved))
        fields = strained_fields(basis, crystal, moved, basis.grid.to_real(state.fields), kinetic)
        with_residual = energy.of_density(energy.fields(real=fields)) + _of_residual(state, moved, fields)
        of_density = gradients(with_residual, movements)
    memory = energy.memory(len(state.orbitals[0]))
    of_orbitals = system.kpoints.sum_batches_of_spins(of_batch, memory, state.orbitals).sum(0)
    by_positions, by_strain = (torch.cat(of_density) + of_orbitals).split((len(crystal.positions), 3))
    stress = basis.symmetry.symmetrize_stress(0.5 * (by_strain + by_strain.mT) / crystal.volume, crystal.lattice)
    forces = basis.symmetry.symmetrize_forces(-by_positions, crystal.lattice)
    return forces, stress


def _of_residual(state: GroundState, moved: Crystal, fields: Tensor) -> Tensor:
    """Return int (V_out - V_in) (sum_a n_a - n), Hartree, whose derivatives correct those at fixed orbitals.

    n are the fields of the moved crystal at fixed orbitals, `fields`: a strain changes tau by this much already.
    """
    energy, basis = TotalEnergy(state.system), state.basis
    residual = energy.potential(state.fields).by_fields - energy.potential(state.fields - state.residual).by_fields
    dense = basis.grid.to_real(state.density[:1]) > VACUUM
    atoms = basis.grid.to_real(atomic_fields(moved, basis, energy.nfields))
    return (residual * dense * (atoms - fields)).sum() * (moved.volume / basis.grid.size)
