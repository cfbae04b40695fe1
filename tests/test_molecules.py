"""Open shells, charged molecules, antiferromagnets."""

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from ase_nnxc import NNXCCalculator

NARROW = {"pseudos": "gth-pbe", "smearing": {"name": "gaussian", "width": 0.01}, "convergence": {"energy": 1e-7}}


def whole_electrons(calc: NNXCCalculator) -> tuple[list[int], list[int]]:
    """Occupied levels of the spins, from the lowest on, each with one electron."""
    up, down = calc.ground_state().occupations[:, 0]
    assert abs(up - up.round()).max() < 1e-6
    assert abs(down - down.round()).max() < 1e-6
    return up.round().nonzero().flatten().tolist(), down.round().nonzero().flatten().tolist()


@pytest.mark.parametrize(("symbol", "up", "down"), [("C", 3, 1), ("O", 4, 2)])
def test_whole_electrons_fill_the_open_shell_of_an_atom(symbol: str, up: int, down: int) -> None:
    atoms = Atoms(symbol, magmoms=[up - down])
    atoms.calc = NNXCCalculator(ecut=120, **NARROW)
    assert atoms.get_magnetic_moment() == pytest.approx(up - down, abs=1e-6)
    assert whole_electrons(atoms.calc) == (list(range(up)), list(range(down)))


def test_whole_electrons_fill_the_open_shell_of_a_molecule() -> None:
    atoms = molecule("OH", magmoms=[1.0, 0.0])  # one hole in two levels
    atoms.calc = NNXCCalculator(ecut=120, **NARROW)
    assert atoms.get_magnetic_moment() == pytest.approx(1.0, abs=1e-6)
    assert whole_electrons(atoms.calc) == ([0, 1, 2, 3], [0, 1, 2])


@pytest.mark.slow
def test_chromium_dimer_converges_when_the_width_goes_down_in_steps() -> None:
    """At 0.2 eV and below it does not at once."""
    atoms = Atoms("Cr2", [(0, 0, 0), (0, 0, 1.7)], cell=[5, 5, 6], pbc=True, magmoms=[5, -5])
    atoms.calc = NNXCCalculator(ecut=600, kpts=(1, 1, 1), convergence={"energy": 1e-6})
    for width in (1.0, 0.5, 0.2, 0.05, 0.01):
        atoms.calc.set(smearing={"name": "gaussian", "width": width})
        atoms.get_potential_energy()
    whole_electrons(atoms.calc)


def test_ionization_energy_does_not_depend_on_the_box() -> None:
    energies = []
    for cell in (None, [18.0, 18.0, 18.0]):
        for charge in (1, 0):
            atoms = Atoms("Mg", cell=cell, magmoms=[charge])
            parameters = NARROW | {"pseudos": "gth-pbe-q2", "charge": charge}
            atoms.calc = NNXCCalculator(ecut=80, smooth_cutoff=True, **parameters)
            energies.append(atoms.get_potential_energy(force_consistent=True))
    assert energies[0] - energies[1] == pytest.approx(energies[2] - energies[3], abs=2e-3)


def test_antiferromagnet_keeps_its_order() -> None:
    atoms = bulk("H", "bcc", a=3.6, cubic=True)
    atoms.set_initial_magnetic_moments([1.0, -1.0])
    atoms.calc = NNXCCalculator(ecut=150, kpts=(2, 2, 2))
    up, down = atoms.get_magnetic_moments()
    assert up == pytest.approx(-down, abs=1e-6)
    assert up > 0.7


@pytest.mark.slow
def test_chromium_keeps_its_order() -> None:
    atoms = bulk("Cr", "bcc", a=2.95, cubic=True)
    atoms.set_initial_magnetic_moments([2.5, -2.5])
    atoms.calc = NNXCCalculator(ecut=900, kpts={"size": (2, 2, 2), "gamma": True})
    up, down = atoms.get_magnetic_moments()
    assert up == pytest.approx(-down, abs=0.02)
    assert up > 0.5
