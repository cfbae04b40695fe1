"""Results of an SCF as differentiable functions of displacements, strain and the functional's parameters.

The free energy E(lambda, x) is stationary in the orbitals and occupations x, so that F' = dE/dlambda at fixed x. A loss
L(F', fields, eigenvalues) defines a perturbation of H, H_L = dL/dx. The first-order response dx to H_L gives all
gradients at once,

    dL/dlambda = d/dlambda [ w E_lambda + E_x dx + L ] at fixed x and dx,    w = dL/dF',

so that any number of parameters requires only one linear system. The method is that of S. Baroni, S. de Gironcoli,
A. Dal Corso and P. Giannozzi, Rev. Mod. Phys. 73, 515 (2001), section II. The loss is one of the two perturbations, and
the roles of the two are exchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .derivatives import derivative_along, gradients, movable
from .fields import strained_fields
from .ground_state import GroundState
from .kpoints import Block
from .movement import Movement
from .response import FirstOrder, OrbitalPerturbation, Response
from .response_solvers import ResponseError

NO_FERMI_LEVEL = 1e-6  # larger derivatives of a loss with respect to the Fermi level of an insulator are an error


@dataclass(frozen=True, eq=False)
class Differentiable:
    """A ground state as tensors with gradients; any function of them can be differentiated by `backward`.

    The gradient of a loss that depends only on the free energy needs no response. Any other loss requires the solution
    of one linear system. `backward` raises `ResponseError` if there is no solution or it does not converge.

    Attributes
    ----------
    state : GroundState
        The ground state.
    free_energy : Tensor
        Scalar, F, Hartree.
    fields : Tensor
        (nfields, n1, n2, n3) `GroundState.fields` in real space.
    eigenvalues : Tensor
        (nspin, nk, nbands), Hartree. For degenerate levels only symmetric functions of them have derivatives.
    fermi_levels : Tensor
        (nspin,), Hartree.
    """

    state: GroundState
    free_energy: Tensor
    fields: Tensor
    eigenvalues: Tensor
    fermi_levels: Tensor
    _displacements: Tensor  # (natoms, 3), zero
    _strain: Tensor  # (3, 3), zero
    _slopes: tuple[Tensor, Tensor]  # zeros that carry the gradients of dF/d(displacements) and dF/d(strain)

    @property
    def fermi_level(self) -> Tensor:
        """Fermi level, (), Hartree; the higher one if each spin channel has its own."""
        return self.fermi_levels.max()

    @cached_property
    def occupations(self) -> Tensor:
        """(nspin, nk, nbands) electrons in [0, 1] per spin orbital."""
        return self.state.smearing.occupations(self.eigenvalues, self.fermi_levels[:, None, None])

    @cached_property
    def energy(self) -> Tensor:
        """Free energy extrapolated to zero width of the smearing, (), Hartree."""
        smearing, degeneracy = self.state.smearing, 2 / self.state.crystal.nspin
        entropy = (
            smearing.entropy(self.eigenvalues, self.fermi_levels[:, None, None]).sum((0, 2))
            @ self.state.system.kpoints.weights
        )
        return self.free_energy - smearing.extrapolation * smearing.width * degeneracy * entropy

    @cached_property
    def forces(self) -> Tensor:
        """(natoms, 3) forces, Hartree/bohr."""
        forces, _ = self._derivatives
        # displacements are applied before the strain: r = (1 + strain)^T (r_0 + u)
        stretch = torch.eye(3, dtype=torch.float64, device=forces.device) + self._strain
        return (forces - self._slopes[0]) @ torch.linalg.inv(stretch).mT

    @cached_property
    def stress(self) -> Tensor:
        """(3, 3) stress of the strained cell, Hartree/bohr^3."""
        _, stress = self._derivatives
        volume = self.state.crystal.volume
        stretch = torch.eye(3, dtype=torch.float64, device=stress.device) + self._strain
        changed = stretch.mT @ (volume * stress + self._slopes[1]) / (volume * torch.linalg.det(stretch))
        return self.state.crystal.along_periods(0.5 * (changed + changed.mT))

    @cached_property
    def _derivatives(self) -> tuple[Tensor, Tensor]:
        return self.state.derivatives()


def differentiable(
    state: GroundState,
    displacements: Tensor | None = None,
    strain: Tensor | None = None,
    tolerance: float | None = None,
) -> Differentiable:
    """Return a ground state as a function of the functional's parameters and, if given, of displacements and strain.

    Parameters
    ----------
    state : GroundState
        Converged ground state.
    displacements : Tensor, optional
        (natoms, 3) zeros, bohr. Displacements are applied before the strain.
    strain : Tensor, optional
        (3, 3) zeros, dimensionless: r -> (1 + strain) r along periodic directions.
    tolerance : float, optional
        Relative error of the response; default: that of the state's density.

    Raises
    ------
    ValueError
        If displacements or strain require gradients, and the basis uses the symmetry of the crystal.
    """
    crystal = state.crystal
    moving = any(x is not None and x.requires_grad for x in (displacements, strain))
    if moving and len(state.basis.symmetry) > 1:
        raise ValueError("derivatives with respect to positions and strain need a ground state without symmetry")
    displacements = torch.zeros_like(crystal.positions) if displacements is None else displacements
    strain = crystal.along_periods(torch.zeros_like(crystal.lattice) if strain is None else strain)
    numbers = _GroundState.apply(state, tolerance, displacements, strain, *state.parameters)
    free_energy, fields, eigenvalues, fermi_levels, *slopes = numbers
    return Differentiable(
        state, free_energy, fields, eigenvalues, fermi_levels, displacements, strain, (slopes[0], slopes[1])
    )


class _GroundState(torch.autograd.Function):
    """(displacements, strain, parameters) -> (free energy, fields, eigenvalues, Fermi levels, zeros of `_slopes`)."""

    @staticmethod
    def forward(
        ctx: Any,
        state: GroundState,
        tolerance: float | None,
        displacements: Tensor,
        strain: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.state, ctx.tolerance = state, tolerance
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*parameters)  # torch raises an error if they change before `backward`
        free_energy = torch.full_like(state.fields.real[0, 0], state.free_energy)
        fields = state.basis.grid.to_real(state.fields)
        zeros = torch.zeros_like(displacements), torch.zeros_like(strain)
        return free_energy, fields, state.eigenvalues.clone(), state.fermi_levels.clone(), *zeros

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        free_energy: Tensor | None,
        fields: Tensor | None,
        eigenvalues: Tensor | None,
        fermi_levels: Tensor | None,
        *along: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        state, parameters = ctx.state, ctx.saved_tensors
        moving = any(ctx.needs_input_grad[2:4])
        total: list[Tensor] = []
        if free_energy is not None:
            total = [free_energy * g for g in _first_derivatives(state, parameters, moving)]
        if any(x is not None for x in (fields, eigenvalues, fermi_levels, *along)):
            adjoint = _Adjoint(state, ctx.tolerance, fields, eigenvalues, fermi_levels, along, moving)
            second = adjoint.derivatives(parameters)
            total = [a + b for a, b in zip(total, second)] if total else second
        return None, None, *(total or (None,) * (2 + len(parameters)))


def _first_derivatives(state: GroundState, parameters: Sequence[Tensor], moving: bool) -> list[Tensor]:
    """Return derivatives of the free energy with respect to displacements, strain and parameters."""
    crystal = state.crystal
    movements = [torch.zeros_like(crystal.positions), torch.zeros_like(crystal.lattice)]
    if moving:
        forces, stress = state.derivatives()
        movements = [-forces, crystal.volume * stress]
    if not parameters:
        return movements
    return movements + gradients(state.energy_tensor(), parameters)


class _Adjoint:
    """The perturbation defined by a loss, the response to it, and the gradients of the loss.

    Parameters
    ----------
    state, tolerance
        Parameters of `differentiable`.
    fields, eigenvalues, fermi_levels : Tensor or None
        Derivatives of the loss with respect to these.
    along : sequence of Tensor or None
        Derivatives of the loss with respect to dF/d(displacements) and dF/d(strain).
    moving : bool
        Whether to compute gradients with respect to displacements and strain.
    """

    def __init__(
        self,
        state: GroundState,
        tolerance: float | None,
        fields: Tensor | None,
        eigenvalues: Tensor | None,
        fermi_levels: Tensor | None,
        along: Sequence[Tensor | None],
        moving: bool,
    ):
        self.state, self.moving, self.response = state, moving, Response(state, tolerance)
        crystal, basis = state.crystal, state.basis
        real = basis.grid.to_real(state.fields)
        # the fields are symmetric, so only the symmetric part of the derivatives matters
        self.by_fields = torch.zeros_like(real) if fields is None else basis.orbits.symmetrize(fields)
        self.levels = self._levels(eigenvalues, fermi_levels)
        zeros = torch.zeros_like(crystal.positions), torch.zeros_like(crystal.lattice)
        directions = [z if w is None else w for z, w in zip(zeros, along)]
        self.along = [
            basis.symmetry.symmetrize_forces(directions[0], crystal.lattice),
            basis.symmetry.symmetrize_stress(directions[1], crystal.lattice),
        ]
        self.moved = any(bool(w.any()) for w in self.along)
        strained = moving or bool(self.along[1].any())
        self.kinetic = state.kinetic_tensors() if strained else None

    def _levels(self, eigenvalues: Tensor | None, fermi_levels: Tensor | None) -> Tensor:
        """Return derivatives of the loss with respect to eigenvalues, including those through the Fermi levels."""
        response = self.response
        levels = torch.zeros_like(self.state.eigenvalues) if eigenvalues is None else eigenvalues.clone()
        if fermi_levels is None:
            return levels
        for (spins, _), metallic in zip(self.state.crystal.reservoirs, response.metallic):
            weight, derivatives = fermi_levels[spins].sum(), response.occupation_derivatives[spins]
            if metallic:  # dmu = sum f' de / sum f'
                levels[spins, :, : response.nbands] += weight * derivatives / derivatives.sum()
            elif abs(float(weight)) > NO_FERMI_LEVEL:
                raise ResponseError("the Fermi level lies in a gap, where it has no derivatives")
        return levels

    def derivatives(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return gradients of the loss with respect to displacements, strain (zero unless `moving`) and parameters."""
        state, response = self.state, self.response
        crystal, basis, energy = state.crystal, state.basis, response.energy
        perturbation = self.by_fields * (basis.grid.size / crystal.volume)
        added: OrbitalPerturbation | None = None
        if self.moved:
            movement = Movement(response, self.along, self.kinetic)
            perturbation, added = perturbation + movement.perturbation, movement.apply
        change = torch.zeros_like(state.fields)
        # de_n = <n|dH|n>: derivatives with respect to eigenvalues act as occupations of the orbitals
        if bool(self.levels.any()):
            change = energy.fields_of(state.orbitals, self.levels)
            perturbation = perturbation + response.kernel(change)
        answer, first = torch.zeros_like(state.fields), None
        if added is not None or bool(perturbation.any()):
            answer = response.solve(perturbation, added)
        if self.moving:
            first = response.first_order(perturbation + response.kernel(answer), response.tolerance, added)
            answer = energy.fields_of(first.orbitals, first.electrons)
        total = self._by_density(basis.grid.to_real(change + answer), first, parameters)
        if first is not None:
            total[:2] = [a + b for a, b in zip(total[:2], self._by_orbitals(first))]
        return total

    def _by_density(self, change: Tensor, first: FirstOrder | None, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return gradients of w E_lambda + E_x dx + L, without the part of orbital terms.

        `change` (nfields, n1, n2, n3) is the change of the fields.
        """
        state, basis = self.state, self.state.basis
        with torch.enable_grad():
            movements, crystal = movable(state.crystal)
            energy = state.total_energy(state.system.at(crystal))
            inputs = [basis.grid.to_real(state.fields).requires_grad_(), *movements]
            changes = [change, *self.along]
            if self.kinetic is not None:
                inputs.append(self.kinetic.detach().requires_grad_())
                changes.append(torch.zeros_like(self.kinetic) if first is None else self._changed_kinetic(first))
            kinetic = inputs[3] if self.kinetic is not None else None
            fields = strained_fields(basis, state.crystal, crystal, inputs[0], kinetic)
            slopes = gradients(energy.of_density(energy.fields(real=fields), True), inputs, create_graph=True)
            total = derivative_along(slopes, changes)
            total = total + (self.by_fields * fields).sum()
        return gradients(total, [*movements, *parameters])

    def _changed_kinetic(self, first: FirstOrder) -> Tensor:
        energy = self.response.energy
        by_response = energy.kinetic_tensors(first.orbitals, first.electrons)
        by_levels = energy.kinetic_tensors(self.state.orbitals, self.levels)
        assert by_response is not None
        assert by_levels is not None
        return by_response + by_levels

    def _by_orbitals(self, first: FirstOrder) -> list[Tensor]:
        """Return the part of orbital terms in these gradients, with respect to displacements and strain."""
        state, electrons = self.state, self.state.electrons

        def of_block(block: Block, psi: Tensor, changed: Tensor) -> list[Tensor]:
            at = (block.spin, block.k)
            with torch.enable_grad():
                movements, crystal = movable(state.crystal)
                energy = state.total_energy(state.system.at(crystal))
                first_order = energy.of_orbitals(block, changed, first.electrons[at]).sum()
                total = first_order + energy.of_orbitals(block, psi, self.levels[at]).sum()
                if self.moved:
                    energies = energy.of_orbitals(block, psi, electrons[at]).sum()
                    slopes = gradients(energies, movements, create_graph=True)
                    total = total + derivative_along(slopes, self.along)
                return gradients(total, movements)

        return state.system.kpoints.sum(of_block, state.orbitals, first.orbitals)
