"""Direct minimisation of the energy, and how an SCF goes on where mixing does not converge."""

import itertools

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from kohn_sham import basis_of, crystal_of
from test_molecules import NARROW, whole_electrons

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.convergence import ConvergenceError, SCFSettings
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.minimisation import EnergyOfOrbitals, minimise
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.system import System
from ase_nnxc.registry import get_functional


class StuckMixer:
    """The density stays as it is."""

    def error(self, residual: torch.Tensor, volume: torch.Tensor) -> float:
        return float(volume * residual.abs().square().sum())

    def step(self, density: torch.Tensor, residual: torch.Tensor, states: float) -> torch.Tensor:
        return density

    def secants(self, density: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return torch.zeros(0)


def solve(atoms: Atoms, xc: str = "PBE", width: float = 0.001, **arguments) -> GroundState:
    crystal = crystal_of(atoms)
    system = System(crystal, basis_of(crystal, 5.0, (2, 2, 2)), get_functional(xc))
    return scf(system, Smearing("gaussian", width), **{"settings": SCFSettings(energy=1e-10)} | arguments)


def silicon() -> Atoms:
    return bulk("Si", "diamond", a=5.4)


def hydrogen() -> Atoms:
    """An antiferromagnet with whole electrons."""
    return Atoms("H2", positions=[(0, 0, 0), (1.9, 1.9, 1.9)], cell=[3.8] * 3, pbc=True, magmoms=[1, -1])


def function_of(state: GroundState) -> EnergyOfOrbitals:
    return EnergyOfOrbitals(state.total_energy(), state.electrons * state.occupations.round())


def shaken(orbitals: list[torch.Tensor], size: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [psi + size * torch.randn(psi.shape, dtype=psi.dtype, generator=generator) for psi in orbitals]


@pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])
@pytest.mark.parametrize("atoms", [silicon(), hydrogen()], ids=["Si", "H2"])
def test_gradient_is_the_derivative_of_the_energy(atoms: Atoms, xc: str) -> None:
    state = solve(atoms, xc)
    function = function_of(state)
    point = function.at(shaken(state.orbitals, 0.02))
    direction = function.preconditioned(point.gradient, point)
    plus, minus = (function.moved(point, direction, length).energy for length in (1e-4, -1e-4))
    slope = function.inner(point.gradient, direction)
    assert (plus - minus) / 2e-4 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("atoms", [silicon(), hydrogen()], ids=["Si", "H2"])
def test_minimum_is_the_ground_state_and_each_step_lowers_the_energy(atoms: Atoms) -> None:
    state = solve(atoms, settings=SCFSettings(energy=1e-12))
    points = list(minimise(function_of(state), shaken(state.orbitals, 0.02), 1e-6, 0.0))
    energies = [point.energy for point in points]
    assert all(b <= a + 1e-11 for a, b in itertools.pairwise(energies))
    assert points[-1].residual <= 1e-6
    assert energies[-1] == pytest.approx(state.free_energy, abs=1e-9)


def test_whole_electrons_are_minimised_where_mixing_stalls() -> None:
    state = solve(silicon(), mixer=StuckMixer())
    assert [method for method, _ in itertools.groupby(step.method for step in state.history)] == [
        "mixing",
        "minimisation",
        "mixing",
    ]
    assert state.free_energy == pytest.approx(solve(silicon()).free_energy, abs=1e-9)


def test_wide_smearing_comes_next_for_fractional_occupations() -> None:
    metal = bulk("Al", "fcc", a=4.0)
    state = solve(metal, width=0.02, mixer=StuckMixer())
    widths = [width for width, _ in itertools.groupby(step.width for step in state.history)]
    assert widths == pytest.approx([0.02, 0.08, 0.02])
    assert state.free_energy == pytest.approx(solve(metal, width=0.02).free_energy, abs=1e-9)


@pytest.mark.slow
def test_magnet_keeps_its_moment_through_wide_smearing() -> None:
    """Where the moment is free, simple cubic Mn loses it at the width of 0.12 Hartree, and ends 29 meV higher."""
    atoms = bulk("Mn", "sc", a=2.78)
    atoms.set_initial_magnetic_moments([3.0])
    crystal = crystal_of(atoms)
    system = System(crystal, basis_of(crystal, 22.0, (4, 4, 4)), get_functional("PBE"))
    state = scf(system, Smearing("marzari-vanderbilt", 0.00735), mixer=StuckMixer())
    assert max(step.width for step in state.history) == pytest.approx(0.1176)
    assert state.history[-1].moment == pytest.approx(0.487, abs=0.002)


def test_minimisation_leaves_half_of_the_steps_and_maxiter_counts_all() -> None:
    with pytest.raises(ConvergenceError) as caught:
        solve(silicon(), mixer=StuckMixer(), settings=SCFSettings(energy=1e-18, maxiter=20))
    methods = [step.method for step in caught.value.history]
    before = methods.index("minimisation")
    assert len(methods) == 20
    assert methods.count("minimisation") == (20 - before) // 2


@pytest.mark.slow
def test_radical_with_a_degenerate_hole_converges_in_an_odd_direction(tmp_path) -> None:
    """Mixing alone does not find the direction of the hole."""
    atoms = Atoms("OH", positions=[(0, 0, 0), (0.2939, 0.4899, 0.7838)], magmoms=[1, 0])
    atoms.calc = NNXCCalculator(ecut=400, txt=tmp_path / "oh.txt", fixed_magmom=1, **NARROW)
    assert atoms.get_potential_energy() == pytest.approx(-422.3552, abs=1e-3)
    assert whole_electrons(atoms.calc) == ([0, 1, 2, 3], [0, 1, 2])
    assert "note: direct minimisation" in (tmp_path / "oh.txt").read_text()
