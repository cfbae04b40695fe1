"""Terms of the energy that are written outside of the core: energies, forces, stress and response follow from them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from kohn_sham import TIGHT, Bent, basis_of, crystal_of, rattled_silicon_carbide, slope
from torch import Tensor

from ase_nnxc.ks.adjoint import differentiable
from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.crystal import Crystal
from ase_nnxc.ks.fields import Fields
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.kpoints import Block, KPoints
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.operators import Diagonal, Operator, Separable
from ase_nnxc.ks.response import Response, ResponseError
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.superposition import superposition
from ase_nnxc.ks.system import System
from ase_nnxc.ks.terms import STANDARD_TERMS
from ase_nnxc.ks.terms.term import DensityTerm, OrbitalTerm
from ase_nnxc.ks.total_energy import TotalEnergy

STRAIN = torch.tensor([[0.3, 0.5, -0.2], [0.5, -0.7, 0.4], [-0.2, 0.4, 0.6]], dtype=torch.float64)
MOVE = torch.tensor([[0.0, 0.0, 0.0], [0.6, -0.3, 0.7]], dtype=torch.float64)


class ExternalField(DensityTerm):
    """Gaussian hills at the atoms, and a repulsion of the density with itself: int n V + 1/2 int n^2 / 20."""

    name = "field"

    def energy(self, fields: Fields) -> Tensor:
        crystal, grid = self.system.crystal, self.system.basis.grid
        hills = grid.to_real(superposition(crystal, grid, lambda table, q2: 0.8 * torch.exp(-0.4 * q2)))
        density = fields.real[0]
        return (density * (hills + density / 40)).sum() * crystal.volume / grid.size


class AtomicProjector(OrbitalTerm):
    """A penalty for the share of a Gaussian at each atom in the orbitals: sum_n f_n 2 sum_a |<p_a|psi_n>|^2."""

    name = "projector"

    def projectors(self, block: Block) -> Tensor:
        crystal = self.system.crystal
        shape = torch.exp(-0.5 * block.sphere.half_squares(crystal.reciprocal))
        return shape * block.sphere.phases(crystal.positions) / crystal.volume.sqrt()

    def operator(self, block: Block) -> Operator:
        projectors = self.projectors(block)
        return Separable(projectors, 2.0 * torch.eye(len(projectors), dtype=projectors.dtype))

    def energy(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        return 2.0 * ((self.projectors(block).conj() @ psi.mT).abs().square().sum(0) @ electrons)


TERMS = pytest.mark.parametrize("term", [ExternalField, AtomicProjector])


def system_with(term: Callable[[System], object]) -> System:
    crystal = crystal_of(rattled_silicon_carbide())
    return System(crystal, basis_of(crystal, 5.0, (1, 1, 1), symmetric=False), Bent("PBE"), (*STANDARD_TERMS, term))


def solve(system: System, start: GroundState | None = None) -> GroundState:
    return scf(system, Smearing("gaussian", 0.01), settings=TIGHT, start=start)


@pytest.fixture(scope="module")
def states() -> dict[type, GroundState]:
    return {term: solve(system_with(term)) for term in (ExternalField, AtomicProjector)}


@TERMS
def test_added_term_is_part_of_the_energy(term, states) -> None:
    state = states[term]
    without = scf(replace(state.system, terms=STANDARD_TERMS), state.smearing, settings=SCFSettings(1e-10))
    assert state.terms[term.name] > 0.05
    energy = TotalEnergy(state.system)
    added = energy.components(without.orbitals, without.electrons, without.fields, 0.0)[term.name]
    # the variational principle; neither term is ever negative
    assert without.free_energy < state.free_energy < without.free_energy + added
    assert state.history[-1].free_energy == pytest.approx(state.free_energy, abs=1e-10)  # Harris-Foulkes


@TERMS
def test_forces_and_stress_with_an_added_term_are_derivatives_of_the_free_energy(term, states) -> None:
    state = states[term]
    forces, stress = state.derivatives()
    crystal = state.crystal

    def free_energy(crystal: Crystal) -> float:
        return solve(state.system.at(crystal), state).free_energy

    strained = slope(lambda x: free_energy(crystal.deformed(x * STRAIN, 0 * MOVE)), 2e-3)
    assert strained == pytest.approx(float((stress * STRAIN).sum() * crystal.volume), rel=1e-5)
    moved = slope(lambda x: free_energy(crystal.deformed(0 * STRAIN, x * MOVE)), 1e-2)
    assert moved == pytest.approx(-float((forces * MOVE).sum()), rel=1e-5)


@TERMS
def test_response_with_an_added_term_is_that_of_shifted_ground_states(term, states) -> None:
    """Gradients of a loss on the density by a parameter of the functional, which needs the term's kernel."""
    state = states[term]
    (gradient,) = torch.autograd.grad(differentiable(state).fields.square().sum(), state.functional.scale)

    def shifted(x: float) -> float:
        functional = Bent("PBE")
        functional.scale.data += torch.tensor([0.3 * x, x], dtype=torch.float64)
        there = solve(replace(state.system, functional=functional), state)
        return float(there.basis.grid.to_real(there.fields).square().sum())

    assert float(0.3 * gradient[0] + gradient[1]) == pytest.approx(slope(shifted, 5e-3), rel=1e-5)


@TERMS
def test_gradient_by_positions_with_an_added_term_is_that_of_moved_ground_states(term, states) -> None:
    state = states[term]
    displacements = torch.zeros_like(MOVE, requires_grad=True)
    loss = differentiable(state, displacements).fields.square().sum()
    (gradient,) = torch.autograd.grad(loss, displacements)

    def moved(x: float) -> float:
        there = solve(state.system.at(state.crystal.deformed(0 * STRAIN, x * MOVE)), state)
        return float(there.basis.grid.to_real(there.fields).square().sum())

    assert float((gradient * MOVE).sum()) == pytest.approx(slope(moved, 1e-2), rel=1e-5)


@TERMS
def test_matrix_of_the_hamiltonian_holds_the_added_term(term, states) -> None:
    """The start of the orbitals is made of it."""
    state = states[term]
    energy, block = state.total_energy(), state.system.kpoints.blocks[0]
    hamiltonian = energy.hamiltonian(block, energy.potential(state.fields).values[0], torch.complex128)
    waves = torch.tensor([0, 3, 7, 20])
    unit = torch.eye(hamiltonian.npw, dtype=torch.complex128)[waves]
    torch.testing.assert_close(hamiltonian.matrix(waves), hamiltonian.apply(unit)[:, waves].mT, rtol=0, atol=1e-12)


def test_operator_without_a_matrix_of_its_own_gets_it_from_applying_it() -> None:
    generator = torch.Generator().manual_seed(0)
    projectors = torch.randn(2, 9, dtype=torch.complex128, generator=generator)
    separable = Separable(projectors, torch.eye(2, dtype=torch.complex128))
    waves = torch.tensor([1, 4, 8])
    torch.testing.assert_close(Operator.matrix(separable, waves), separable.matrix(waves))


class SquaredProjector(AtomicProjector):
    """Half the square of the sum N of all shares, E = N^2 / 20, whose operator is N / 10 sum_a |p_a><p_a|."""

    name = "squared"
    share = 0.0

    def prepare(self, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor) -> None:
        def of_block(block: Block, psi: Tensor) -> Tensor:
            return 0.5 * AtomicProjector.energy(self, block, psi.to(torch.complex128), electrons[block.spin, block.k])

        self.share = float(kpoints.sum(of_block, orbitals).detach())

    def double_counting(self) -> float:
        return -(self.share**2) / 20

    def operator(self, block: Block) -> Operator:
        projectors = self.projectors(block)
        return Separable(projectors, self.share / 10 * torch.eye(len(projectors), dtype=projectors.dtype))

    def energy(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        return self.share / 20 * 0.5 * super().energy(block, psi, electrons)


def test_term_made_of_the_orbitals_is_shown_all_of_them_and_has_no_response() -> None:
    settings = SCFSettings(1e-12)
    state = scf(system_with(SquaredProjector), Smearing("gaussian", 0.01), settings=settings)
    share = (
        0.5
        * TotalEnergy(replace(state.system, terms=(AtomicProjector,))).components(
            state.orbitals, state.electrons, state.fields, 0.0
        )["projector"]
    )
    assert state.terms["squared"] == pytest.approx(share**2 / 20, rel=1e-10)
    assert state.history[-1].free_energy == pytest.approx(state.free_energy, abs=1e-8)  # Harris-Foulkes
    warm = scf(state.system, state.smearing, settings=settings, start=state)
    assert warm.free_energy == pytest.approx(state.free_energy, abs=1e-10)
    with pytest.raises(ResponseError, match="squared"):
        Response(state)


class Lowered(OrbitalTerm):
    """All long plane waves have their energy lowered, below zero at k = 0."""

    name = "lowered"

    def operator(self, block: Block) -> Operator:
        return Diagonal(-0.3 * torch.exp(-block.sphere.half_squares(self.system.crystal.reciprocal)))

    def energy(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        shape = -0.3 * torch.exp(-block.sphere.half_squares(self.system.crystal.reciprocal))
        return (electrons @ psi.abs().square()) @ shape


def test_diagonal_operator_may_be_negative() -> None:
    state = scf(system_with(Lowered), Smearing("gaussian", 0.01), settings=SCFSettings(1e-10))
    assert state.terms["lowered"] < -0.3
    assert state.history[-1].free_energy == pytest.approx(state.free_energy, abs=1e-8)


def test_parameters_that_could_not_be_trained_are_an_error() -> None:
    class Trained(AtomicProjector):
        parameters = (torch.zeros(1, requires_grad=True),)

    with pytest.raises(ValueError, match="'projector' has parameters; only those of a DensityTerm"):
        TotalEnergy(system_with(Trained))


def test_two_terms_of_one_name_are_an_error() -> None:
    system = system_with(ExternalField)
    with pytest.raises(ValueError, match="two terms of the energy are called 'field'"):
        TotalEnergy(replace(system, terms=(*system.terms, ExternalField)))


def test_term_of_an_unknown_field_is_an_error() -> None:
    class OfLaplacian(ExternalField):
        fields = ("laplacian",)

    with pytest.raises(ValueError, match="known fields are density, tau"):
        TotalEnergy(system_with(OfLaplacian))


def test_something_else_than_a_term_is_an_error() -> None:
    with pytest.raises(TypeError, match="not an IonTerm"):
        TotalEnergy(system_with(lambda system: "a term"))
