"""The Ewald energy against published numbers, and its derivatives."""

import math
import time

import pytest
import torch
from torch import Tensor

from ase_nnxc.ks.terms import ewald
from ase_nnxc.ks.terms.ewald import ewald_energy


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


FCC = tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
SILICON = 10.263141334305942 * FCC, tensor([[1 / 8] * 3, [-1 / 8] * 3])
BOX = 16.0 * torch.eye(3, dtype=torch.float64)
# triclinic, elongated, ions of several charges
ODD = (
    tensor([[4.1, 0.3, -0.2], [1.1, 5.2, 0.4], [0.7, -0.9, 17.3]]),
    tensor([[0.1, 0.2, 0.3], [0.6, 0.55, 0.41], [0.97, -0.2, 0.8]]),
    tensor([4.0, 6.0, 1.0]),
)


# test/ewald.jl of DFTK.jl (MIT licence)
@pytest.mark.parametrize(
    ("lattice", "positions", "charge", "energy", "tolerance"),
    [
        (*SILICON, 14.0, -102.8741963352893, 1e-8),
        (*SILICON, 4.0, -8.39789357839024, 1e-8),
        (BOX, tensor([[0.0] * 3]), 1.0, -0.088665545, 1e-8),
        (BOX, tensor([[0.0] * 3, [0.14763485355139283, 0.0, 0.0]]), 5.0, 1.790634595, 1e-7),
        (BOX, tensor([[0.45312500031210007, 0.5, 0.5], [0.5468749996028622, 0.5, 0.5]]), 1.0, 0.31316999, 1e-7),
    ],
    ids=["Si Z=14", "Si Z=4", "H", "B2", "H2"],
)
def test_energy_is_published_value(lattice, positions, charge, energy, tolerance):
    charges = torch.full((len(positions),), charge, dtype=torch.float64)
    assert float(ewald_energy(lattice, positions, charges)) == pytest.approx(energy, abs=tolerance)


def test_madelung_constants():
    """Rock salt and caesium chloride, per nearest distance: OEIS A085469 and A181152."""
    charges = tensor([1.0, -1.0])
    half = tensor([[0.0] * 3, [0.5] * 3])
    assert float(ewald_energy(2 * FCC, half, charges)) == pytest.approx(-1.7475645946331822, abs=1e-13)
    simple = torch.eye(3, dtype=torch.float64)
    assert float(ewald_energy(simple, half, charges)) * math.sqrt(3) / 2 == pytest.approx(
        -1.7626747730709883, abs=1e-13
    )


def test_energy_does_not_depend_on_splitting_origin_or_cell(monkeypatch):
    lattice, positions, charges = ODD
    energy = ewald_energy(lattice, positions, charges)
    for eta in (0.25, 0.6, 1.1):
        with monkeypatch.context() as patch:
            patch.setattr(ewald, "splitting", lambda *_: eta)
            torch.testing.assert_close(ewald_energy(lattice, positions, charges), energy, rtol=1e-13, atol=0)
    moved = positions + tensor([0.31, -1.77, 2.4]) + tensor([[0, 0, 0], [3, -1, 0], [0, 0, 5]])
    torch.testing.assert_close(ewald_energy(lattice, moved, charges), energy, rtol=1e-13, atol=0)
    change = tensor([[1, 2, 0], [0, 1, 0], [1, 0, 1]])  # another cell of the same lattice
    skewed = ewald_energy(change @ lattice, positions @ torch.linalg.inv(change), charges)
    torch.testing.assert_close(skewed, energy, rtol=1e-13, atol=0)


def test_supercell_has_the_energy_of_its_cells():
    lattice, positions, charges = ODD
    doubled = tensor([[2.0], [1.0], [1.0]]) * lattice
    half = tensor([0.5, 1.0, 1.0])
    two = torch.cat([positions * half, positions * half + tensor([0.5, 0.0, 0.0])])
    energy = ewald_energy(doubled, two, charges.repeat(2))
    torch.testing.assert_close(energy, 2 * ewald_energy(lattice, positions, charges), rtol=1e-13, atol=0)


def test_gradients_are_finite_differences():
    lattice, positions, charges = ODD

    def energy(strain: Tensor, displacement: Tensor) -> Tensor:
        return ewald_energy(lattice + lattice @ strain, positions + displacement, charges)

    inputs = [torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)]
    exact = torch.autograd.functional.jacobian(energy, tuple(inputs))
    h = 1e-4
    for which, gradient in enumerate(exact):
        for i in range(9):
            values = []
            for step in (-2 * h, -h, h, 2 * h):
                moved = [x.clone() for x in inputs]
                moved[which].view(-1)[i] = step
                values.append(float(energy(*moved)))
            numerical = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
            assert float(gradient.view(-1)[i]) == pytest.approx(numerical, rel=1e-8, abs=1e-8)


def test_second_derivatives_are_finite_and_translation_costs_nothing():
    lattice, positions, charges = ODD
    hessian = torch.autograd.functional.hessian(lambda x: ewald_energy(lattice, x, charges), positions)
    assert hessian.isfinite().all()
    assert hessian.sum(0).abs().max() < 1e-9 * hessian.abs().max()


@pytest.mark.timing
def test_two_atoms_take_milliseconds():
    charges = tensor([4.0, 4.0])
    ewald_energy(*SILICON, charges)
    start = time.perf_counter()
    for _ in range(10):
        ewald_energy(*SILICON, charges)
    assert (time.perf_counter() - start) / 10 < 0.02  # 1 ms when the machine is idle
