"""Error bars: deviations of energies, ensembles, and the errors of lattice constants and bulk moduli."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT

from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator import PySCFCalculator
from ase_nnxc.calculator.ensemble import ensemble_energies
from ase_nnxc.cli.eos import _rows
from ase_nnxc.eos import Point, fit_birch_murnaghan, scan_eos
from ase_nnxc.eos.fit import model_errors
from ase_nnxc.xc import PBE, R2SCAN, NeuralFactors, describe


def with_posterior(parent):
    """Factors with a made-up triangular posterior of small weights."""
    functional = NeuralFactors(describe(parent), widths=(2,))
    size = len(functional.posterior)
    generator = torch.Generator().manual_seed(0)
    functional.posterior.copy_(0.1 * torch.randn(size, size, dtype=torch.float64, generator=generator).tril())
    return functional


def moved(functional, direction, step):
    """A copy whose last layer is moved along a direction of the posterior."""
    copy = NeuralFactors(**functional.config())
    weights, biases = copy.last_layer
    change = step * functional.posterior[:, direction]
    with torch.no_grad():
        weights += change[: weights.numel()].view_as(weights)
        biases += change[weights.numel() :].view_as(biases)
    return copy


def test_deviations_of_an_atom_are_changes_of_self_consistent_energies():
    functional, atoms = with_posterior(R2SCAN()), Atoms("He")
    deviations = PySCFCalculator(functional, basis="6-31g").get_energy_deviations(atoms)
    for direction in (0, 3):
        energies = [
            PySCFCalculator(moved(functional, direction, step), basis="6-31g").get_potential_energy(atoms)
            for step in (-0.01, 0.01)
        ]
        assert deviations[direction] == pytest.approx((energies[1] - energies[0]) / 0.02, rel=1e-4)


@pytest.mark.parametrize(
    ("parent", "atoms"),
    [(PBE(), bulk("Al")), (R2SCAN(), Atoms("Li", cell=[4.0] * 3, pbc=True, magmoms=[1.0]))],
    ids=["GGA", "meta-GGA with spin"],
)
def test_deviations_of_a_crystal_are_changes_of_self_consistent_energies(parent, atoms):
    functional = with_posterior(parent)
    calc = NNXCCalculator(functional, ecut=100, kpts=(2, 2, 2), pseudos="gth-pbe", convergence={"energy": 1e-8})
    deviations = calc.get_energy_deviations(atoms)
    energies = []
    for step in (-0.02, 0.02):
        calc.set(xc=moved(functional, 1, step))  # starts from the ground state before
        energies.append(calc.get_property("free_energy", atoms))
    assert deviations[1] == pytest.approx((energies[1] - energies[0]) / 0.04, rel=1e-3)
    assert bool(calc.results["magmom"] > 0.5) == bool(atoms.get_initial_magnetic_moments().any())


def test_ensemble_has_the_deviations_around_the_energy():
    functional, atoms = with_posterior(R2SCAN()), Atoms("He")
    atoms.calc = PySCFCalculator(functional, basis="6-31g")
    energies = atoms.calc.get_ensemble_energies(atoms, size=20000, seed=1)
    assert energies.shape == (20000,)
    assert energies.std() == pytest.approx(np.linalg.norm(atoms.calc.get_energy_deviations()), rel=0.03)
    assert energies.mean() == pytest.approx(atoms.get_potential_energy(), abs=4 * energies.std() / 20000**0.5)


def test_members_of_the_same_seed_are_the_same_functionals():
    first, second = np.array([1.0, 0.5, 0.0]), np.array([1.0, 0.5, 0.1])
    differences = ensemble_energies(-5.0, first, 4000, 7) - ensemble_energies(-3.0, second, 4000, 7)
    assert differences.std() == pytest.approx(0.1, rel=0.05)
    assert (ensemble_energies(0.0, first, 10, 1) != ensemble_energies(0.0, first, 10, 2)).all()


@pytest.mark.parametrize("xc", ["PBE", NeuralFactors(widths=(2,))], ids=["PBE", "not fitted"])
def test_a_functional_without_probable_errors_has_no_ensemble(xc):
    calc = PySCFCalculator(xc, basis="sto-3g")
    assert not calc.has_ensemble
    with pytest.raises(PropertyNotImplementedError, match="has no probable errors"):
        calc.get_ensemble_energies(Atoms("He"))


def well(volumes):
    return 0.02 * (volumes - 40.0) ** 2 - 0.0003 * (volumes - 40.0) ** 3


def test_errors_of_an_equation_of_state_are_changes_of_its_fit():
    volumes = np.linspace(37.0, 43.0, 7)
    deviations = np.stack((1e-3 * (volumes - 40.0), np.full(7, 5.0)), axis=1)  # a slope, and a constant that cancels
    points = [
        Point(i, v, e, 0.0, None, 0.0, d)
        for i, (v, e, d) in enumerate(zip(volumes, well(volumes), deviations.tolist()))
    ]
    fits = [
        fit_birch_murnaghan(torch.from_numpy(volumes), torch.from_numpy(well(volumes) + step * deviations[:, 0]))
        for step in (-0.1, 0.1)
    ]
    volume, bulk_modulus = model_errors(points, {})
    assert volume == pytest.approx(abs(fits[1].volume - fits[0].volume).item() / 0.2, rel=1e-4)
    assert bulk_modulus == pytest.approx(abs(fits[1].bulk_modulus - fits[0].bulk_modulus).item() / 0.2, rel=1e-4)


def test_scatter_adds_to_the_errors_in_squares():
    volumes = np.linspace(37.0, 43.0, 7)
    points = [Point(i, v, e, 0.0, None, 0.0, [1e-3 * v]) for i, (v, e) in enumerate(zip(volumes, well(volumes)))]
    alone = model_errors(points, {})
    both = model_errors(points, {"lattice_constant": 0.004, "bulk_modulus": 0.05, "reaction_energy": 0.1})
    fit = fit_birch_murnaghan(torch.from_numpy(volumes), torch.from_numpy(well(volumes)))
    assert both[0] ** 2 - alone[0] ** 2 == pytest.approx((0.012 * fit.volume.item()) ** 2)
    assert both[1] ** 2 - alone[1] ** 2 == pytest.approx((0.05 * fit.bulk_modulus.item()) ** 2)


def test_calculators_have_the_scatter_of_their_functional():
    functional = NeuralFactors(widths=(2,), scatter={"reaction_energy": 0.1})
    for calculator in (NNXCCalculator, PySCFCalculator):
        assert calculator(functional).error_scatter == {"reaction_energy": 0.1}
        assert calculator("PBE").error_scatter == {}
    assert NeuralFactors(**functional.config()).scatter == functional.scatter


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, True, "0.1"])
def test_scatter_is_a_standard_deviation(value):
    with pytest.raises(ValueError, match=r"scatter.bulk_modulus=.*: expected a standard deviation"):
        NeuralFactors(widths=(2,), scatter={"bulk_modulus": value})


class Uncertain(EMT):
    """EMT with an error that grows with the volume."""

    has_ensemble = True

    def get_energy_deviations(self):
        return np.array([1e-3 * self.atoms.get_volume(), 0.0])


def test_scan_gives_the_errors_of_the_functional_and_keeps_them(tmp_path):
    results = [scan_eos(bulk("Al"), Uncertain(), folder=tmp_path) for _ in range(2)]  # the second reads the points
    data = [result.todict() for result in results]
    assert data[0]["a0_model_error_A"] == data[1]["a0_model_error_A"] > 0
    assert any("a0, functional" in row and "+-" in row for row in _rows(data[1], spin_polarised=False))
    plain = scan_eos(bulk("Al"), EMT()).todict()
    assert "a0_model_error_A" not in plain
    assert not any("functional" in row for row in _rows(plain, spin_polarised=False))
