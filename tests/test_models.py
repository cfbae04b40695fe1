"""The shipped functionals in use: through ASE's own tools, and beside the functionals that they were made from."""

import pickle

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from ase_nnxc import NNXCCalculator, get_functional, list_models
from ase_nnxc.cli import main

CLONES = [f"{m.name}@{m.version}" for m in list_models() if m.origin == "package" and "-clone" in m.name]
AL = {"ecut": 250, "kpts": {"size": (4, 4, 4), "gamma": True}, "smooth_cutoff": True}
SI = {"ecut": 250, "kpts": {"size": (2, 2, 2), "gamma": True}, "smooth_cutoff": True}


@pytest.mark.parametrize("name", [f"{m.name}@{m.version}" for m in list_models() if m.origin == "package"])
def test_shipped_models_can_be_sent_to_other_processes(name):
    functional = get_functional(name)
    copy = pickle.loads(pickle.dumps(functional))
    density = torch.full((2, 1), 0.1, dtype=torch.float64)
    features = {"density": density, "gradient": density[:, None].expand(2, 3, 1) / 2, "tau": density}
    assert torch.equal(copy(features), functional(features))


def silicon(xc: str, **other):
    atoms = bulk("Si", a=5.43)
    atoms.positions[1] += [0.05, 0.02, -0.03]
    atoms.calc = NNXCCalculator(xc, **SI, **other)
    return atoms


def parent_of(name: str) -> str:
    return next(m for m in ("PBE", "r2SCAN") if name.startswith(m.lower()))


@pytest.mark.parametrize("name", CLONES)
def test_clone_has_the_energy_and_forces_of_its_parent_at_its_cost(name):
    """With the same pseudopotential: that of the clone moves the energy of the core."""
    parent = parent_of(name)
    clone, parent = (silicon(xc, pseudos=f"oncv-{parent}") for xc in (name, parent))
    energies = [atoms.get_potential_energy() for atoms in (clone, parent)]
    assert energies[0] == pytest.approx(energies[1], abs=0.15 if name.startswith("r2scan-clone-mlp") else 0.02)
    assert np.abs(clone.get_forces() - parent.get_forces()).max() < 0.02
    assert len(clone.calc.history) <= len(parent.calc.history) + 3


@pytest.mark.slow
@pytest.mark.parametrize("name", CLONES)
def test_clone_with_its_own_pseudopotential_has_the_forces_of_its_parent(name):
    clone, parent = silicon(name), silicon(parent_of(name))
    assert np.abs(clone.get_forces() - parent.get_forces()).max() < 0.02


@pytest.mark.parametrize("name", CLONES)
def test_forces_of_a_clone_with_spin_are_those_of_its_parent(name):
    forces = []
    for xc in (name, parent_of(name)):
        atoms = bulk("Li", "bcc", a=3.4, cubic=True)
        atoms.positions[1] += [0.1, 0.0, 0.05]
        atoms.set_initial_magnetic_moments([0.5, 0.5])
        atoms.calc = NNXCCalculator(xc, ecut=200, kpts=(1, 1, 1), pseudos=f"oncv-{parent_of(name)}")
        forces.append(atoms.get_forces())
    assert np.abs(forces[0] - forces[1]).max() < 0.03


@pytest.mark.parametrize(
    ("name", "parent", "tolerance"),  # the last is relative, three times that of the lattice constant
    [("pbe-clone", "PBE", 0.0015), ("hybridxc", "PBEsol", 0.009), ("hybridxc-constrained", "PBEsol", 0.006)],
)
def test_equation_of_state_of_ase_with_a_neural_functional(name, parent, tolerance):
    volumes = {}
    for xc in (name, parent):
        calculator, points = NNXCCalculator(xc, **AL), []
        for a in (3.93, 3.98, 4.03, 4.08, 4.13):
            atoms = bulk("Al", a=a)
            atoms.calc = calculator
            points.append((atoms.get_volume(), atoms.get_potential_energy(force_consistent=True)))
        volumes[xc] = EquationOfState(*zip(*points), eos="birchmurnaghan").fit()[0]
    assert volumes[name] == pytest.approx(volumes[parent], rel=tolerance)


@pytest.mark.slow
def test_cell_relaxed_with_a_neural_functional_is_that_of_its_parent():
    lengths = []
    for xc in ("pbe-clone", "PBE"):
        atoms = silicon(xc)
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=30)
        lengths.append(atoms.cell.lengths())
    assert np.abs(lengths[0] / lengths[1] - 1).max() < 1e-3


def test_command_takes_a_neural_functional(tmp_path, capsys):
    arguments = ["eos", "Al", "--xc", "pbe-clone", "--ecut", "200", "--kpts", "3,3,3", "--output", str(tmp_path)]
    assert main(arguments) == 0
    assert "pbe-clone@1 (sha256 " in (tmp_path / "log.txt").read_text()
