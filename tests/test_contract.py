"""What ASE's tools ask of a calculator: protocol, levels, restart files, company of other calculators, torch's state.

Energies, forces, stress, parameters, errors and the log are in test_calculator.
"""

import configparser
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import ase.db
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import (
    BaseCalculator,
    CalculatorError,
    InputError,
    PropertyNotImplementedError,
    ReadError,
    SCFError,
    all_changes,
    get_calculator_class,
)
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.calculators.names import names
from ase.calculators.subprocesscalculator import MPICommand, NamedPackedCalculator
from ase.constraints import FixAtoms
from ase.dft.bandgap import bandgap
from ase.dft.dos import DOS
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.io.cube import read_cube_data
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.phonons import Phonons
from ase.spectrum.band_structure import get_band_structure
from ase.units import GPa, _e, _hbar, fs, kB
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_package import REPOSITORY, run_python

import ase_nnxc
from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator.levels import LEVELS
from ase_nnxc.calculator.restart import tensor_digest, text_digest
from ase_nnxc.xc import PBE, Functional

CHEAP = {"ecut": 140, "kpts": {"size": (2, 2, 2), "gamma": True}}


def attached(atoms: Atoms, **parameters) -> Atoms:
    atoms.calc = NNXCCalculator(**CHEAP | parameters)
    return atoms


def silicon(rattle: float = 0.0, **parameters) -> Atoms:
    atoms = bulk("Si")
    atoms.rattle(rattle, seed=1)
    return attached(atoms, **parameters)


def hydrogen(**parameters) -> Atoms:
    """Stretched simple cubic: magnetic."""
    return attached(Atoms("H", cell=[3.5] * 3, pbc=True, magmoms=[1.0]), **parameters)


def calculated(atoms: Atoms) -> NNXCCalculator:
    """The calculator of atoms whose energy was asked for."""
    atoms.get_potential_energy()
    return atoms.calc


@pytest.fixture
def no_calculation(monkeypatch):
    """From when it is called on, every SCF fails."""

    def forbid() -> None:
        def fail(*_, **__):
            raise AssertionError("an SCF was run")

        monkeypatch.setattr(NNXCCalculator, "_solve", fail)

    return forbid


# ---- protocol


def test_class_shares_nothing_with_the_base_class():
    assert NNXCCalculator.implemented_properties is not BaseCalculator.implemented_properties
    assert "stress" not in BaseCalculator.implemented_properties


def test_calculator_without_arguments_chooses_everything():
    atoms = bulk("Si")
    chosen = NNXCCalculator().resolve(atoms)
    assert (chosen["xc"], chosen["pseudos"]) == ("PBE", {"Si": "oncv"})
    assert chosen["ecut"] > 200
    assert chosen["kpts"] == {"size": (9, 9, 9), "gamma": True}


def test_nothing_is_calculated_where_asked_not_to(no_calculation):
    atoms = silicon(0.05)
    assert atoms.calc.calculation_required(atoms, ["energy"])
    no_calculation()
    assert atoms.calc.get_property("energy", atoms, allow_calculation=False) is None


def test_calculation_is_required_after_any_change_of_the_atoms_but_their_notes(no_calculation):
    atoms = silicon(0.05)
    energy = atoms.get_potential_energy()
    no_calculation()
    atoms.info["note"] = "not physics"
    atoms.set_tags([1, 2])
    assert atoms.get_potential_energy() == energy
    for change in (
        lambda a: a.positions.__iadd__(1e-9),
        lambda a: a.set_cell(a.cell * 1.001),
        lambda a: a.set_pbc([True, True, False]),
        lambda a: a.set_atomic_numbers([14, 32]),
        lambda a: a.set_initial_magnetic_moments([0.0, 0.0]),
        lambda a: a.set_initial_charges([0.0, 0.0]),
    ):
        changed = atoms.copy()
        change(changed)
        assert atoms.calc.calculation_required(changed, ["energy"])
    assert not atoms.calc.calculation_required(atoms, ["energy", "free_energy", "magmoms"])


def test_unknown_property_is_not_implemented(no_calculation):
    no_calculation()
    for name in ("dipole", "born_effective_charges", "nonsense"):
        with pytest.raises(PropertyNotImplementedError, match=name):
            silicon().calc.get_property(name, bulk("Si"))


def test_results_and_atoms_are_the_callers_own_copies():
    atoms = silicon(0.05)
    for get in (atoms.get_forces, atoms.get_stress, atoms.calc.get_eigenvalues, atoms.calc.get_pseudo_density):
        first = get()
        kept = first.copy()
        first += 1.0
        assert np.array_equal(get(), kept)
    atoms.calc.get_atoms().positions += 1.0
    assert np.array_equal(atoms.calc.get_atoms().positions, atoms.positions)


def test_properties_by_ases_names_have_its_shapes():
    atoms = hydrogen()
    wanted = [*LEVELS, "fermi_level", "energy", "free_energy", "forces", "stress", "magmom", "magmoms"]
    found = atoms.calc.calculate_properties(atoms, wanted)
    assert (found["nspins"], found["natoms"]) == (2, 1)
    assert set(wanted) <= set(found)
    for name, value in atoms.calc.results.items():  # no tensors: tools and files of ASE take none
        assert type(value) is float or (type(value) is np.ndarray and value.dtype == float), name


# ---- electronic structure


def test_levels_hold_the_electrons():
    for atoms, electrons, full in ((silicon(), 8, 2), (hydrogen(), 1, 1)):
        calc = calculated(atoms)
        spins, weights = range(calc.get_number_of_spins()), calc.get_k_point_weights()
        filled = sum(w * calc.get_occupation_numbers(k, s).sum() for s in spins for k, w in enumerate(weights))
        assert filled == pytest.approx(electrons)
        assert calc.get_occupation_numbers(0, 0).max() == pytest.approx(full, abs=0.1)
        assert calc.get_eigenvalues(0, 0).shape == (calc.get_number_of_bands(),)
        assert calc.get_spin_polarized() == (len(spins) == 2)
        assert weights.sum() == pytest.approx(1)


def test_empty_bands_are_converged():
    few, many = (calculated(silicon(nbands=n, convergence={"energy": 1e-8})) for n in (8, 20))
    for k in range(len(few.get_ibz_k_points())):
        assert few.get_eigenvalues(k) == pytest.approx(many.get_eigenvalues(k)[:8], abs=1e-4)
    rough = few.ground_state().eigenvalues.numpy() - many.ground_state().eigenvalues.numpy()[..., :8]
    assert np.abs(rough).max() > 1e-4  # Hartree; else this test shows nothing


def test_levels_of_the_irreducible_points_are_those_of_the_whole_mesh():
    calc, full = calculated(silicon()), calculated(silicon(symmetry=False))
    where = calc.get_bz_to_ibz_map()
    points = full.get_ibz_k_points().tolist()
    assert len(calc.get_ibz_k_points()) < len(where) == 8
    for point, k in zip(calc.get_bz_k_points().tolist(), where):
        there = points.index(point) if point in points else points.index((-np.array(point) % 1).tolist())
        assert calc.get_eigenvalues(k)[:6] == pytest.approx(full.get_eigenvalues(there)[:6], abs=1e-3)


def test_gap_of_ase_is_that_of_the_levels():
    calc = calculated(silicon(kpts={"size": (4, 4, 4), "gamma": True}))
    levels = np.array([calc.get_eigenvalues(k) for k in range(len(calc.get_ibz_k_points()))])
    gap, (_, top, _), (_, bottom, _) = bandgap(calc)
    assert gap == pytest.approx(levels[:, 4].min() - levels[:, 3].max())
    assert 0.3 < gap < 1.2
    assert (top, bottom) == (levels[:, 3].argmax(), levels[:, 4].argmin())
    assert calc.get_fermi_level() == pytest.approx((levels[:, 4].min() + levels[:, 3].max()) / 2, abs=0.3)


@pytest.mark.parametrize("width", [0.1, 0.0])
def test_density_of_states_of_ase_holds_the_electrons(width):
    atoms = silicon(kpts={"size": (4, 4, 4), "gamma": True})
    dos = DOS(calculated(atoms), width=width, npts=1001)
    energies = dos.get_energies()
    below = energies < 0
    assert np.trapezoid(dos.get_dos()[below], energies[below]) == pytest.approx(8, abs=0.05)


def test_levels_make_a_band_structure_of_ase():
    atoms = silicon()
    calculated(atoms)
    bands = get_band_structure(atoms)
    assert bands.energies.shape == (1, len(atoms.calc.get_ibz_k_points()), atoms.calc.get_number_of_bands())
    assert bands.reference == atoms.calc.get_fermi_level()


def test_density_in_a_cube_file_holds_the_electrons(tmp_path):
    for atoms, electrons, moment in ((silicon(0.05), 8, 0), (hydrogen(), 1, 1)):
        calc, cell = calculated(atoms), atoms.get_volume()
        density = calc.get_pseudo_density()
        up, down = calc.get_pseudo_density(0), calc.get_pseudo_density(1)
        assert density.mean() * cell == pytest.approx(electrons)
        assert (up - down).mean() * cell == pytest.approx(moment, abs=0.05)
        assert up + down == pytest.approx(density)
        write(tmp_path / "density.cube", atoms, data=density)
        stored, image = read_cube_data(tmp_path / "density.cube")
        assert stored == pytest.approx(density, abs=1e-6)
        assert image.positions == pytest.approx(atoms.positions, abs=1e-5)


def test_orbitals_make_the_density(tmp_path):
    atoms = silicon(symmetry=False, kpts=[[0.1, 0.2, 0.3], [-0.1, -0.2, 0.4]], convergence={"energy": 1e-10})
    calc = calculated(atoms)
    density = np.zeros_like(calc.get_pseudo_density())
    for k, weight in enumerate(calc.get_k_point_weights()):
        for band, electrons in enumerate(calc.get_occupation_numbers(k)):
            psi = calc.get_pseudo_wave_function(band, k)
            density += weight * electrons * np.abs(psi) ** 2
    assert density == pytest.approx(calc.get_pseudo_density(), abs=1e-5)
    periodic = calc.get_pseudo_wave_function(2, 1, periodic=True)
    phase = calc.get_pseudo_wave_function(2, 1) / periodic
    assert phase[3, 0, 0] == pytest.approx(np.exp(2j * np.pi * -0.1 * 3 / len(phase)))
    write(tmp_path / "orbital.cube", atoms, data=periodic)
    assert (read_cube_data(tmp_path / "orbital.cube")[0] ** 2).mean() * atoms.get_volume() == pytest.approx(1, abs=1e-4)


def test_levels_of_another_geometry_are_never_returned():
    tight = {"convergence": {"energy": 1e-8}}
    atoms = silicon(**tight)
    first = calculated(atoms).get_eigenvalues(), atoms.calc.get_pseudo_wave_function(5)
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
    atoms.get_potential_energy()
    fresh = calculated(attached(atoms.copy(), **tight))
    assert atoms.calc.get_eigenvalues() == pytest.approx(fresh.get_eigenvalues(), abs=1e-4)
    assert np.abs(atoms.calc.get_eigenvalues() - first[0]).max() > 0.01
    assert atoms.calc.get_pseudo_wave_function(5).shape == fresh.get_pseudo_wave_function(5).shape


def test_levels_before_any_calculation_are_an_error():
    with pytest.raises(InputError, match="nothing has been calculated yet"):
        NNXCCalculator().get_fermi_level()
    with pytest.raises(InputError, match="spin=2"):
        calculated(silicon()).get_pseudo_density(2)


# ---- restart files


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Atoms, Path]:
    """Atoms that were calculated, and the restart file of their calculator."""
    atoms = silicon(0.05, kpts={"density": 1.5}, smearing={"name": "gaussian", "width": 0.1})
    atoms.set_constraint(FixAtoms([0]))
    atoms.info["anything"] = object()
    atoms.get_stress(), atoms.calc.get_eigenvalues()
    path = tmp_path_factory.mktemp("restart") / "si.nnxc"
    atoms.calc.write(path)
    return atoms, path


def test_restart_needs_no_calculation(written, no_calculation):
    no_calculation()
    atoms, path = written
    calc = NNXCCalculator(restart=path)
    again = calc.get_atoms()
    assert calc.results.keys() == atoms.calc.results.keys()
    assert again.get_potential_energy() == atoms.get_potential_energy()
    assert np.array_equal(again.get_forces(), atoms.get_forces())
    assert np.array_equal(again.get_stress(), atoms.get_stress())
    assert np.array_equal(calc.get_eigenvalues(), atoms.calc.get_eigenvalues())
    assert calc.get_pseudo_density() == pytest.approx(atoms.calc.get_pseudo_density())
    assert calc.parameters == atoms.calc.parameters
    assert calc.todict() == atoms.calc.todict()
    assert [type(c) for c in again.constraints] == [FixAtoms]
    assert NNXCCalculator.read_atoms(path).calc.results["energy"] == atoms.get_potential_energy()


def test_label_writes_each_calculation_and_restart_finds_it(tmp_path, monkeypatch, no_calculation):
    monkeypatch.chdir(tmp_path)
    atoms = silicon(0.05, label="runs/si")
    energy = atoms.get_potential_energy()
    assert NNXCCalculator(restart="runs/si").results["energy"] == energy
    atoms.positions[0] += 0.01
    forces = atoms.get_forces()
    assert np.array_equal(NNXCCalculator(restart="runs/si").results["forces"], forces)
    atoms.calc.set(xc="LDA")
    changed = atoms.get_potential_energy()
    no_calculation()
    again = NNXCCalculator(restart="runs/si", label="other")
    assert again.parameters["xc"] == "LDA"
    assert not again.calculation_required(atoms, ["energy"])
    assert again.results["energy"] == changed != energy
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["si.nnxc", "si.txt"]


def test_file_of_a_label_is_written_once_for_each_ground_state(tmp_path, monkeypatch, no_calculation):
    atoms, file = silicon(0.05, label=str(tmp_path / "si")), tmp_path / "si.nnxc"
    atoms.get_potential_energy()
    written = file.stat()
    forces = atoms.get_forces()
    atoms.get_stress()
    atoms.calc.get_eigenvalues()
    assert file.stat().st_ino == written.st_ino
    no_calculation()
    again = NNXCCalculator.read_atoms(tmp_path / "si")
    assert again.get_forces() == pytest.approx(forces, abs=1e-10)


def test_calculation_that_fails_leaves_the_file_of_its_label(tmp_path):
    atoms = silicon(0.05, label=str(tmp_path / "si"))
    energy = atoms.get_potential_energy()
    atoms.rattle(0.3, seed=2)
    atoms.calc.set(maxiter=1)
    with pytest.raises(SCFError):
        atoms.get_potential_energy()
    assert NNXCCalculator(restart=tmp_path / "si").results["energy"] == energy


def test_file_of_the_exact_name_wins_over_a_label(written, tmp_path):
    (tmp_path / "si").write_bytes(written[1].read_bytes())
    (tmp_path / "si.nnxc").write_bytes(b"not a restart file")
    assert NNXCCalculator(restart=tmp_path / "si").results["energy"] == written[0].calc.results["energy"]


def test_restart_goes_on_warm_as_if_never_interrupted(written):
    _, path = written
    moved = NNXCCalculator.read_atoms(path)
    moved.positions[0] += 0.02
    energy = moved.get_potential_energy()
    fresh = attached(moved.copy(), kpts={"density": 1.5}, smearing={"name": "gaussian", "width": 0.1})
    assert energy == pytest.approx(fresh.get_potential_energy(), abs=1e-6)
    assert len(moved.calc.history) < len(fresh.calc.history)


def test_restart_keeps_the_mesh_that_was_chosen_earlier(tmp_path, no_calculation):
    parameters = {"kpts": {"density": 1.5}}
    atoms = attached(bulk("Al", a=3.9), **parameters)
    mesh = atoms.calc.resolve(atoms)["kpts"]
    atoms.get_potential_energy()
    atoms.set_cell(bulk("Al", a=4.15).cell, scale_atoms=True)
    atoms.get_potential_energy()
    assert NNXCCalculator(**CHEAP | parameters).resolve(atoms)["kpts"] != mesh  # else this test shows nothing
    atoms.calc.write(tmp_path / "al")
    no_calculation()
    again = NNXCCalculator(restart=tmp_path / "al")
    assert again.resolve(atoms)["kpts"] == mesh
    assert again.get_potential_energy(atoms) == atoms.get_potential_energy()


def test_restart_keeps_the_positions_that_the_mesh_was_chosen_for(tmp_path):
    atoms = silicon(kpts={"density": 1.95})
    atoms.set_cell(0.96 * atoms.cell, scale_atoms=True)
    mesh = atoms.calc.resolve(atoms)["kpts"]
    atoms.get_potential_energy()
    atoms.set_cell(1.04 * atoms.cell, scale_atoms=True)
    atoms.positions[0, 0] += 0.8  # each atom is 0.4 from the centre of its first place
    atoms.get_potential_energy()
    atoms.calc.write(tmp_path / "si")
    again = NNXCCalculator(restart=tmp_path / "si")
    near, far = atoms.copy(), atoms.copy()
    far.positions[0, 0] += 0.8
    assert atoms.calc.resolve(near)["kpts"] == again.resolve(near)["kpts"] == mesh
    assert atoms.calc.resolve(far)["kpts"] == again.resolve(far)["kpts"] != mesh


def test_restart_of_a_magnet_and_of_a_meta_gga(tmp_path, no_calculation):
    crystals = [hydrogen(), silicon(0.05, xc="r2SCAN")]
    for i, atoms in enumerate(crystals):
        atoms.get_potential_energy()
        atoms.calc.write(tmp_path / str(i))
    no_calculation()
    for i, atoms in enumerate(crystals):
        again = NNXCCalculator(restart=tmp_path / str(i))
        assert again.get_property("magmom", atoms) == atoms.get_magnetic_moment()
        assert again.get_property("forces", atoms) == pytest.approx(atoms.get_forces(), abs=1e-9)


def test_restart_gives_atoms_their_positions(written, no_calculation):
    no_calculation()
    atoms, path = written
    other = bulk("Si", a=5.0)
    NNXCCalculator(restart=path, atoms=other)
    assert np.array_equal(other.positions, atoms.positions)
    assert other.get_potential_energy() == atoms.get_potential_energy()
    with pytest.raises(CalculatorError, match="other elements"):
        NNXCCalculator(restart=path, atoms=bulk("Ge"))


def test_restart_with_other_parameters_is_refused_and_set_changes_them(written):
    _, path = written
    for parameters, named in (({"kpts": (1, 1, 1)}, "kpts"), ({"xc": "PBE"}, "xc"), ({"symmetry": True}, "symmetry")):
        with pytest.raises(InputError, match=f"restart file brings its own {named}"):
            NNXCCalculator(restart=path, **parameters)
    calc = NNXCCalculator(restart=path, txt="-", device="cpu")
    calc.set(nbands=9)
    assert calc.results == {}
    assert calc.held_state is not None


def test_restart_file_is_json_and_tensors_with_versions(written):
    _, path = written
    with safe_open(path, framework="pt") as file:
        header = file.metadata()["ase_nnxc"]
        assert {"fields", "eigenvalues", "occupations", "orbitals.0.0"} <= set(file.keys())
    for text in (f'"ase_nnxc": "{ase_nnxc.__version__}"', '"functional": "PBE"', '"format": 3'):
        assert text in header


def test_restart_with_a_functional_object_needs_the_same_numbers(tmp_path):
    def functional(mu: float = 0.2) -> Functional:
        made = PBE(trainable=("mu",))
        with torch.no_grad():
            made.mu.fill_(mu)
        return made

    atoms = silicon(xc=functional())
    energy = atoms.get_potential_energy()
    atoms.calc.write(tmp_path / "si")
    assert NNXCCalculator(functional(), restart=tmp_path / "si").results["energy"] == energy
    for wrong in ({}, {"xc": functional(0.21)}):
        with pytest.raises(ReadError, match="its functional is PBE, 1 parameters"):
            NNXCCalculator(restart=tmp_path / "si", **wrong)
    named = silicon()
    calculated(named).write(tmp_path / "named")
    with pytest.raises(ReadError, match="by its name"):
        NNXCCalculator(functional(), restart=tmp_path / "named")


def test_restart_of_a_ground_state_without_symmetry(tmp_path, no_calculation):
    atoms = silicon()
    strain = torch.zeros((3, 3), dtype=torch.float64, requires_grad=True)
    atoms.calc.differentiable(atoms, strain=strain)  # symmetric crystal, but solved without
    energy = calculated(atoms).results["free_energy"]
    atoms.calc.write(tmp_path / "si")
    no_calculation()
    for mode in (torch.inference_mode(), torch.device("meta")):
        with mode:
            again = NNXCCalculator(restart=tmp_path / "si", device="cpu")
        assert again.energy_tensor().item() == pytest.approx(energy)
        assert again.ground_state(atoms).fields.is_inference() is False


def test_calculator_that_failed_to_read_holds_nothing_of_the_file(written, tmp_path):
    _, path = written
    calc = NNXCCalculator(**CHEAP)
    with pytest.raises(ReadError, match="the file has pseudos="):
        calc.read(rewritten(path, tmp_path / "si", '"Si": "oncv"', '"Si": "gth-pbe-q5"'))
    assert (calc.results, calc.atoms, calc.held_state) == ({}, None, None)
    assert calc.parameters == NNXCCalculator(**CHEAP).parameters


def rewritten(path: Path, to: Path, old: str = "", new: str = "", drop: str | None = None) -> Path:
    """A restart file with other text in its header, or without one of its tensors, with digests of what it holds."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()["ase_nnxc"]
    assert old in header
    header = header.replace(old, new)
    tensors = load_file(path)
    if drop is not None:
        header = header.replace(f'"{drop}": "{tensor_digest(tensors.pop(drop))}", ', "")
        assert f'"{drop}": "' not in header
    save_file(tensors, to, {"ase_nnxc": header, "sha256": text_digest(header)})
    return to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": '"format": 3', "new": '"format": 99'}, "has format 99"),
        (
            {"old": '"functional": "PBE"', "new": '"functional": "pbe-clone@1 (sha256 0)"'},
            "its functional is pbe-clone",
        ),
        ({"old": '"ecut": 140', "new": '"ecut": 150'}, "not one of these atoms"),
        ({"old": '"name": "gaussian"', "new": '"name": "triangle"'}, "unknown smearing"),
        ({"old": '"Si": "oncv"', "new": '"Si": "gth-pbe-q5"'}, "the file has pseudos="),
        ({"old": '"nbands"', "new": '"bands"'}, "unknown keyword 'bands'"),
        ({"old": '"positions"', "new": '"places"'}, "damaged"),
        ({"old": '"results"', "new": '"numbers"'}, "results"),
        ({"drop": "fields"}, "fields"),
        ({"drop": "orbitals.0.1"}, "orbitals.0.1"),
    ],
)
def test_damaged_or_foreign_restart_file_is_a_read_error(written, tmp_path, change, message):
    with pytest.raises(ReadError, match=message):
        NNXCCalculator(restart=rewritten(written[1], tmp_path / "si", **change))


@pytest.mark.parametrize("content", [None, b"", b"not a restart file", pickle.dumps({"a": 1})])
def test_file_of_another_kind_is_a_read_error(tmp_path, content):
    if content is not None:
        (tmp_path / "si").write_bytes(content)
    with pytest.raises(ReadError, match="si"):
        NNXCCalculator(restart=tmp_path / "si")


def test_functional_that_is_not_there_is_a_read_error(tmp_path):
    atoms = silicon(xc="pbe-clone")
    atoms.get_potential_energy()
    atoms.calc.write(tmp_path / "si")
    with pytest.raises(ReadError, match="pbe-clonf"):
        NNXCCalculator(restart=rewritten(tmp_path / "si", tmp_path / "other", "pbe-clone@1", "pbe-clonf@1"))


def test_nothing_is_written_without_a_calculation_or_over_a_good_file(written, tmp_path):
    with pytest.raises(InputError, match="nothing to write"):
        NNXCCalculator().write(tmp_path / "si")
    _, path = written
    calc = NNXCCalculator(restart=path)
    calc.results["energy"] = object()
    before = path.read_bytes()
    with pytest.raises(TypeError):
        calc.write(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_copy_of_a_calculator_writes_as_well(tmp_path):
    atoms = hydrogen(kpts=(1, 1, 1))
    energy = atoms.get_potential_energy()
    pickle.loads(pickle.dumps(atoms.calc)).write(tmp_path / "copy")
    assert NNXCCalculator(restart=tmp_path / "copy").results["energy"] == pytest.approx(energy, abs=1e-8)


def test_label_names_the_log(tmp_path):
    atoms = attached(bulk("Al"), label=f"{tmp_path}/run/al")
    atoms.get_potential_energy()
    assert (atoms.calc.directory, atoms.calc.prefix) == (f"{tmp_path}/run", "al")
    assert "converged in" in (tmp_path / "run" / "al.txt").read_text()
    assert NNXCCalculator(label="al", txt="-").parameters["txt"] == "-"


# ---- company


def test_ase_knows_the_name():
    assert "nnxc" in names
    assert isinstance(get_calculator_class("nnxc")(ecut=140), NNXCCalculator)


def test_name_is_registered_without_torch(tmp_path):
    code = (
        "import sys, ase_nnxc; from ase.calculators.calculator import get_calculator_class;"
        "get_calculator_class('nnxc'); print('torch' in sys.modules)"
    )
    assert run_python(code, tmp_path).strip() == "False"


def test_calculation_loads_no_scipy(tmp_path):
    """It takes longer to load than everything else that the calculator needs beyond torch, NumPy and ASE's Atoms."""
    code = (
        "import sys; from ase import Atoms; from ase_nnxc import NNXCCalculator;"
        "atoms = Atoms('Al', cell=[[0, 2, 2], [2, 0, 2], [2, 2, 0]], pbc=True);"
        "atoms.calc = NNXCCalculator(ecut=100, kpts=(2, 2, 2), pseudos='gth-pbe');"
        "atoms.get_forces(); print([m for m in sys.modules if m.startswith('scipy')])"
    )
    assert run_python(code, tmp_path).strip() == "[]"


@pytest.mark.skipif(not (REPOSITORY / "setup.cfg").is_file(), reason="not a checkout")
def test_entry_point_is_a_plugin_of_ase():
    plugins = pytest.importorskip("ase._4.plugins")
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert setup["options.entry_points"]["ase.plugins"].split() == ["nnxc", "=", "ase_nnxc.plugin"]
    from ase_nnxc.plugin import __ase_plugins__

    (plugin,) = __ase_plugins__
    assert isinstance(plugin, plugins.Plugin)
    assert (plugin.name, plugin.implementation) == ("nnxc", NNXCCalculator)


def test_packed_calculator_in_another_process():
    start = "import ase_nnxc; from ase.calculators.subprocesscalculator import main; main()"
    command = MPICommand([sys.executable, "-W", "ignore", "-c", start, "standard"])
    atoms = silicon(0.05)
    twin = atoms.copy()
    with NamedPackedCalculator("nnxc", CHEAP).calculator(command) as twin.calc:
        assert twin.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert twin.get_forces() == pytest.approx(atoms.get_forces(), abs=1e-4)
        assert twin.calc.backend().get_fermi_level() == pytest.approx(atoms.calc.get_fermi_level(), abs=1e-4)


def test_calculator_goes_to_other_processes_before_and_after_use():
    unused, used, moved = silicon(0.05), silicon(0.05), silicon()
    forces = used.get_forces()
    moved.get_potential_energy()
    moved.positions = used.positions
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for found in [pool.submit(atoms.get_forces) for atoms in (unused, used, moved)]:
            assert found.result() == pytest.approx(forces, abs=1e-4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_process_does_not_wait_for_threads_of_its_parent(tmp_path):
    code = (
        "import torch; from multiprocessing import get_context; from ase.build import bulk;"
        "from ase_nnxc import NNXCCalculator; torch.set_num_threads(2); atoms = bulk('Si');"
        "atoms.calc = NNXCCalculator(ecut=140, kpts=(2, 2, 2)); atoms.get_potential_energy(); atoms.rattle(0.05);"
        "child = get_context('fork').Process(target=atoms.get_forces); child.start(); child.join(60);"
        "print(child.exitcode); child.kill()"
    )
    assert run_python(code, tmp_path).strip() == "0"


def test_sum_with_a_dispersion_correction(tmp_path):
    atoms, pairs = silicon(0.05), LennardJones(sigma=2.0, epsilon=0.01, rc=6.0)
    parts = [atoms.calc.get_property(name, atoms) + pairs.get_property(name, atoms) for name in ("energy", "forces")]
    total = atoms.copy()
    total.calc = SumCalculator([atoms.calc, pairs])
    assert total.get_potential_energy() == pytest.approx(parts[0])
    assert total.get_forces() == pytest.approx(parts[1])
    assert np.isfinite(total.get_stress()).all()
    total.positions[0] += 0.01
    assert total.get_potential_energy() != parts[0]
    write(tmp_path / "sum.traj", total)


def test_sum_with_grimmes_dispersion_correction():
    dftd3 = pytest.importorskip("dftd3.ase", reason="the package dftd3 is not here")
    atoms, dispersion = silicon(0.05, smooth_cutoff=True), dftd3.DFTD3(method="PBE", damping="d3bj")
    total = atoms.copy()
    total.calc = SumCalculator([atoms.calc, dispersion])
    names = ("energy", "forces", "stress")
    parts = [[calc.get_property(name, atoms) for name in names] for calc in (atoms.calc, dispersion)]
    for name, kohn_sham, pairs in zip(names, *parts):
        assert total.calc.get_property(name, total) == pytest.approx(kohn_sham + pairs), name
    with BFGS(FrechetCellFilter(total), logfile=None) as optimizer:
        assert optimizer.run(fmax=0.05, steps=20)
    assert dispersion.get_potential_energy(total) < -0.3


def test_files_hold_results_also_after_the_levels_were_asked_for(tmp_path):
    atoms = hydrogen()
    energy, moment = atoms.get_potential_energy(), atoms.get_magnetic_moment()
    atoms.get_forces(), atoms.calc.get_eigenvalues()
    for suffix in ("traj", "extxyz", "json", "db"):
        write(tmp_path / f"h.{suffix}", atoms)
        image = read(tmp_path / f"h.{suffix}")
        assert (image.get_potential_energy(), image.get_magnetic_moment()) == pytest.approx((energy, moment))
    with ase.db.connect(tmp_path / "h.db") as database:
        row = database.get(1)
        assert row.calculator == "nnxc"
        assert row.calculator_parameters["xc"] == "PBE"
        written = [row.calculator_parameters, read(tmp_path / "h.traj").calc.parameters]
    for parameters in written:
        assert parameters["versions"] == {"ase_nnxc": ase_nnxc.__version__, "functional": "PBE"}
        assert NNXCCalculator(**parameters).get_potential_energy(atoms) == pytest.approx(energy, abs=1e-8)


def test_no_matplotlib_is_needed_to_calculate(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None; from ase.build import bulk; from ase_nnxc import NNXCCalculator;"
        "atoms = bulk('Al'); atoms.calc = NNXCCalculator(ecut=140, kpts=(1, 1, 1));"
        "atoms.get_stress(); atoms.calc.band_structure('GX').write('bands.json');"
        "print(atoms.get_potential_energy() < 0)"
    )
    assert run_python(code, tmp_path).strip() == "True"


@pytest.mark.slow
def test_acoustic_phonons_of_aluminium_vanish_at_gamma_without_a_sum_rule(tmp_path):
    atoms, thz = bulk("Al", a=4.04), 1e12 * (2 * np.pi * _hbar) / _e
    calc = NNXCCalculator(ecut=250, kpts={"size": (4, 4, 4), "gamma": True}, convergence={"energy": 1e-9})
    phonons = Phonons(atoms, calc, supercell=(2, 2, 2), delta=0.03, name=str(tmp_path / "phonon"))
    phonons.run()
    phonons.read(method="standard", acoustic=False)
    gamma, x = phonons.band_structure([[0, 0, 0], [0.5, 0.5, 0.0]], verbose=False) / thz
    assert np.abs(gamma).max() < 0.3
    assert x[:2] == pytest.approx(5.8, abs=0.3)  # R. Stedman and G. Nilsson, Phys. Rev. 145, 492 (1966): 5.8


@pytest.mark.slow
def test_molecular_dynamics_of_silicon_conserves_energy():
    atoms, energies = silicon(), []
    momenta = np.random.default_rng(1).normal(size=(2, 3)) * np.sqrt(kB * 600 * atoms.get_masses()[:, None])
    atoms.set_momenta(momenta - momenta.mean(0))

    def note() -> None:
        energies.append((atoms.get_potential_energy(force_consistent=True), atoms.get_kinetic_energy()))

    with VelocityVerlet(atoms, timestep=1 * fs) as dynamics:
        dynamics.attach(note)
        dynamics.run(100)
    potential, kinetic = np.array(energies).T / len(atoms)
    drift, _ = np.polyfit(np.arange(101) / 1000, potential + kinetic, 1)
    assert abs(drift) < 1e-3  # eV per atom and picosecond
    assert np.ptp(kinetic) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("symbol", "n"), [("Si", 3), ("Al", 6)])
@pytest.mark.parametrize("strain", [np.diag([1, 0, 0]), np.array([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]])])
def test_elastic_constants_from_stress_are_those_from_energies(symbol, n, strain):
    size, atoms, energies, slopes = 0.01, bulk(symbol), [], []
    kpts, smearing = {"size": (n, n, n), "gamma": True}, {"name": "marzari-vanderbilt", "width": 0.5}
    calc = NNXCCalculator(ecut=200, kpts=kpts, gpts=(24, 24, 24), smooth_cutoff=True, smearing=smearing)
    for e in (-size, 0, size):
        deformation = np.eye(3) + e * strain
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        energies.append(calc.get_property("free_energy", strained))
        # dF/de = V sigma : (1 + e E)^-1 E
        stress = strained.get_volume() * calc.get_property("stress", strained)[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
        slopes.append((stress * (np.linalg.inv(deformation) @ strain)).sum())
    curvature = (energies[0] + energies[2] - 2 * energies[1]) / size**2
    assert (slopes[2] - slopes[0]) / (2 * size) == pytest.approx(curvature, rel=0.02)
    assert curvature / atoms.get_volume() > 20 * GPa


# ---- torch


META, NO_GRAD, INFERENCE = (lambda: torch.device("meta")), torch.no_grad, torch.inference_mode


@contextmanager
def low_precision() -> Iterator[None]:
    """What another library may have left as torch's default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    ("mode", "xc"),
    [
        *((META, "PBE"), (META, "r2SCAN"), (META, "pbe-clone"), (NO_GRAD, "PBE"), (INFERENCE, "PBE")),
        *((INFERENCE, "r2SCAN"), (low_precision, "PBE"), (low_precision, "r2SCAN"), (low_precision, "pbe-clone")),
    ],
)
def test_calculator_made_and_used_in_a_mode_of_torch_gives_the_same_numbers(mode, xc):
    parameters = {"xc": xc, "device": "cpu", "kpts": (1, 1, 1)}
    outside = silicon(0.05, **parameters)
    with mode():
        inside = silicon(0.05, **parameters)
        found = inside.get_potential_energy(), inside.get_forces(), inside.get_stress(), inside.calc.get_eigenvalues()
        inside.calc.get_pseudo_wave_function(), inside.calc.get_pseudo_density()
    assert found[0] == pytest.approx(outside.get_potential_energy(), abs=1e-9)
    assert found[1] == pytest.approx(outside.get_forces(), abs=1e-6)
    assert found[2] == pytest.approx(outside.get_stress(), abs=1e-8)
    assert found[3] == pytest.approx(outside.calc.get_eigenvalues(), abs=1e-6)
    inside.positions[0] += 0.01  # what was made inside serves outside as well
    assert np.isfinite(inside.get_forces()).all()


def test_two_threads_give_the_numbers_of_one_and_leave_the_thread_count():
    before, count = torch.get_num_threads(), 3

    def new_thread_count() -> int:
        seen: list[int] = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return seen[0]

    def work(i: int, found: dict) -> None:
        atoms = silicon(0.05 * (i + 1))
        found[i] = atoms.get_potential_energy(), atoms.get_forces(), torch.get_num_threads()

    in_turn: dict = {}
    together: dict = {}
    try:
        torch.set_num_threads(count)
        for i in range(2):
            work(i, in_turn)
        threads = [threading.Thread(target=work, args=(i, together)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_num_threads() == new_thread_count() == count
    finally:
        torch.set_num_threads(before)
    for i in range(2):
        assert together[i][0] == pytest.approx(in_turn[i][0], abs=1e-9)
        assert together[i][1] == pytest.approx(in_turn[i][1], abs=1e-5)
        assert together[i][2] == count


def test_system_changes_of_ase_do_not_decide_what_is_calculated():
    atoms = silicon()
    energy = atoms.get_potential_energy()
    moved = atoms.copy()
    moved.rattle(0.1, seed=3)
    for changes in ([], all_changes):
        atoms.calc.calculate(moved, ["energy"], changes)
        assert atoms.calc.results["energy"] > energy + 0.01
