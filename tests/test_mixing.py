"""The mixer of densities: it leaves where it stalls, and what it has learned can be handed on."""

import pytest
import torch
from ase.build import bulk
from kohn_sham import basis_of, crystal_of

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.coulomb import coulomb_kernel
from ase_nnxc.ks.mixing import MORE_DAMPING, PATIENCE, AndersonMixer

DENSE = 0.2  # a density of states at the Fermi level, Hartree^-1 bohr^-3, of more than one electron in a bohr^3


@pytest.fixture
def mixer():
    """A function that makes one, of a small grid."""
    crystal = crystal_of(bulk("Al"))
    grid = basis_of(crystal, 2.0, (1, 1, 1)).grid
    kernel = coulomb_kernel(grid, crystal)
    return lambda **keywords: AndersonMixer(grid, kernel, 1, **keywords)


def waves(made: AndersonMixer, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(1, *made.grid.shape, dtype=torch.float64, generator=generator)
    fields = made.grid.to_fourier(fields)
    fields[:, 0] = 0.0
    return fields


def test_mixer_that_stalls_begins_anew_with_more_damping_and_less_memory(mixer):
    made = mixer()
    densities = [waves(made, step) for step in range(PATIENCE + 1)]
    residuals = [waves(made, 100 + step) for step in range(PATIENCE + 1)]  # of about equal size
    for density, residual in zip(densities[:-1], residuals[:-1]):
        made.step(density, residual, DENSE)
    assert made.damping == 0.8
    again = made.step(densities[-1], residuals[-1], DENSE)
    assert made.damping == 0.8 * MORE_DAMPING
    assert made.history == 4
    assert torch.allclose(again, densities[0] + made.damping * made.kerker(DENSE) * residuals[0])


def test_screening_is_that_of_the_states_at_the_fermi_level(mixer):
    made = mixer(screening=0.8)
    squares = 4 * torch.pi * made.grid.multiplicity[1:] / made.metric[0][1:]
    assert torch.equal(made.kerker(0.0), torch.ones_like(made.metric[0]))  # none in an insulator
    for states, square in ((0.03, 4 * torch.pi * 0.03), (DENSE, 0.8**2)):
        torch.testing.assert_close(made.kerker(states)[1:], squares / (squares + square))


def test_a_change_of_the_map_leaves_the_differences_of_the_steps(mixer):
    made, target = mixer(screening=0.0), waves(mixer(), 1)
    density = torch.zeros_like(target)
    for _ in range(6):  # to the fixed point of another map with the same derivative
        density = made.step(density, linear_residual(1.1 * target, density), DENSE)
    made.change_map()
    density = made.step(density, linear_residual(target, density), DENSE)
    assert made.error(linear_residual(target, density), torch.tensor(1.0)) < 1e-9


def test_mixer_near_the_solution_does_not_begin_anew(mixer):
    made = mixer()
    made.step(waves(made, 0), waves(made, 1), DENSE)
    for step in range(2 * PATIENCE):  # of about equal size, a ten-thousandth of the first
        made.step(waves(made, 2), 1e-4 * waves(made, 3 + step), DENSE)
    assert made.damping == 0.8


def linear_residual(target: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """Residual of a linear map whose fixed point is the target."""
    slope = 1.0 + 3.0 * (torch.arange(target.shape[1]) % 4)  # four different ones
    return slope * (target - density)


def steps_to(made: AndersonMixer, target: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Steps to the fixed point of a linear map, and the secants learned."""
    density = torch.zeros_like(target)
    for step in range(1, 40):
        residual = linear_residual(target, density)
        if float(made.error(residual, torch.tensor(1.0))) < 1e-9:
            return step, made.secants(density, residual)
        density = made.step(density, residual, DENSE)
    raise AssertionError("not converged")


def test_secants_of_one_problem_shorten_the_next(mixer):
    first, learned = steps_to(mixer(screening=0.0), waves(mixer(), 3))
    second, _ = steps_to(mixer(screening=0.0, secants=learned), waves(mixer(), 3) * 1.1)
    assert second <= first - 2


def test_converged_at_once_hands_on_what_it_was_given(mixer):
    made = mixer(screening=0.0)
    _, learned = steps_to(made, waves(made, 4))
    fresh = mixer(secants=learned)
    assert fresh.secants(waves(made, 5), waves(made, 6)) is learned


@pytest.mark.slow
def test_antiferromagnetic_oxide_on_which_the_first_mixer_stalls_converges():
    atoms = bulk("FeO", "rocksalt", a=4.3) * (1, 1, 2)
    atoms.set_initial_magnetic_moments([4, 0, -4, 0])
    atoms.calc = NNXCCalculator(ecut=600, kpts=(2, 2, 2), pseudos="gth-pbe")
    atoms.get_potential_energy()
    assert len(atoms.calc.history) > PATIENCE + 30  # it did stall
    up, _, down, _ = atoms.get_magnetic_moments()
    assert up > 1 > -1 > down
