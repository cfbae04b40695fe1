"""Data in DeepChem's and XCNN's formats: records and crystals in ASE's units, and entries that are refused."""

import copy
import zipfile

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError
from ase.units import Bohr, Hartree

from ase_nnxc import NNXCCalculator, PySCFCalculator
from ase_nnxc.interop.deepchem import parse_command, read_deepchem, read_sys_desc
from ase_nnxc.interop.pyscf import prepare_crystal
from ase_nnxc.train.config import read_config
from ase_nnxc.train.records import FREE, read_records
from ase_nnxc.xc import PBE

BASIS = "6-311++G(3df,3pd)"
WATER = "O 0 0 0; H 1.4 1.1 0; H -1.4 1.1 0"


def system(moldesc, **keys):
    return {"moldesc": moldesc, "basis": BASIS} | keys


def long_system(moldesc, **keys):
    return {"type": "mol", "kwargs": system(moldesc, **keys)}


# made-up numbers in the form of DeepChem: no cmd, numbers in quotes
WATER_ENTRY = {
    "e_type": "ae",
    "true_val": "0.35",
    "systems": [system(WATER), system("H 0 0 0", spin="1", number="2"), system("O 0 0 0", spin=2)],
}
# made-up numbers in the form of XCNN
OXYGEN_ENTRY = {
    "name": "oxygen",
    "type": "ie",
    "cmd": "energy(systems[1]) - energy(systems[0])",
    "true_val": 0.51,
    "ref": "nowhere",
    "systems": [long_system("O 0 0 0", spin=2), long_system("O 0 0 0", charge=1, spin=3)],
}
PROTON_ENTRY = {"type": "ie", "cmd": "-energy(systems[0])", "true_val": 0.51, "systems": [system("H 0 0 0", spin=1)]}
DENSITY_ENTRY = {"e_type": "dens", "true_val": "density.npy", "systems": [system("He 0 0 0")]}
RUN = "functional: {hybrid: [nnlda, PBE]}\nrecords: set.yaml\nmodels: models\ncalculator: {ecut: 100}\n"


def read(folder, *entries, **keywords):
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return read_deepchem(path, **{"basis": "plane-waves", **keywords})


# ---- records


def test_atomization_energy_has_ases_units_and_the_free_atoms_by_deepchems_rule(tmp_path):
    (record,) = read(tmp_path, WATER_ENTRY)
    assert record.name == "set-0"
    assert record.targets["reaction_energy"] == pytest.approx(0.35 * Hartree)
    assert [str(atoms.symbols) for atoms in record.structures] == ["OH2", "O", "H"]
    assert record.coefficients == (-1, 1, 2)
    assert record.structures[0].positions[1] == pytest.approx([1.4 * Bohr, 1.1 * Bohr, 0])


def test_ionization_energy_holds_the_spin_of_the_ion(tmp_path):
    (record,) = read(tmp_path, OXYGEN_ENTRY)
    assert record.targets["reaction_energy"] == pytest.approx(0.51 * Hartree)
    assert record.coefficients == (-1, 1)
    assert record.settings == (FREE | {"hund": True}, FREE | {"charge": 1, "fixed_magmom": 3})


def test_ionization_energy_of_hydrogen_needs_no_proton(tmp_path):
    (record,) = read(tmp_path, PROTON_ENTRY)
    assert (record.coefficients, record.settings) == ((-1,), (FREE | {"hund": True},))


def test_spin_of_a_molecule_is_held(tmp_path):
    oxygen = {"e_type": "ae", "true_val": 0.2, "cmd": "2 * energy(systems[1]) - energy(systems[0])"}
    (record,) = read(tmp_path, oxygen | {"systems": [system("O 0 0 0; O 2.3 0 0", spin=2), system("O 0 0 0", spin=2)]})
    assert record.settings[0]["fixed_magmom"] == 2


def test_energy_with_the_opposite_sign_is_turned(tmp_path):
    command = "energy(systems[0]) - 2*energy(systems[1]) - energy(systems[2])"
    entry = copy.deepcopy(WATER_ENTRY) | {"cmd": command}
    del entry["systems"][1]["number"]
    (record,) = read(tmp_path, entry)
    assert record.targets["reaction_energy"] == pytest.approx(-0.35 * Hartree)
    assert record.coefficients == (-1, 1, 2)


def test_basis_and_reference_are_kept_in_the_provenance(tmp_path):
    (record,) = read(tmp_path, OXYGEN_ENTRY)
    assert record.provenance.settings == {"file": "set.yaml", "entry": 0, "basis": BASIS, "ref": "nowhere"}


def test_entries_of_one_name_get_different_names(tmp_path):
    records = read(tmp_path, OXYGEN_ENTRY, WATER_ENTRY, OXYGEN_ENTRY)
    assert [record.name for record in records] == ["oxygen (0)", "set-1", "oxygen (2)"]


def test_other_types_are_left_out_when_asked(tmp_path):
    assert len(read(tmp_path, DENSITY_ENTRY, WATER_ENTRY, OXYGEN_ENTRY, types=["ae"])) == 1


# ---- density matrices and densities

H2 = {"moldesc": "H 0 0 0; H 1.4 0 0", "basis": "6-31g"}
MATRIX_ENTRY = {"name": "matrix", "e_type": "dm", "true_val": "matrix.npy", "systems": [H2]}
POINTS_ENTRY = {
    "name": "points",
    "type": "dens",
    "cmd": "dens(systems[0])",
    "true_val": "points.npz",
    "systems": [{"type": "mol", "kwargs": H2}],
}


@pytest.fixture(scope="module")
def hydrogen():
    """Density matrix of H2 by PBE, points and weights of a grid and the density there, all in bohr."""
    calculator = PySCFCalculator("PBE", basis="6-31g", grid_level=0)
    mf = calculator.mean_field(Atoms("H2", [[0, 0, 0], [1.4 * Bohr, 0, 0]]))
    matrix = mf.make_rdm1()
    return matrix, {
        "points": mf.grids.coords,
        "weights": mf.grids.weights,
        "density": mf._numint.get_rho(mf.mol, matrix, mf.grids),
    }


@pytest.fixture
def arrays(tmp_path, hydrogen):
    """The folder of a YAML file, with the files of its arrays."""
    np.save(tmp_path / "matrix.npy", hydrogen[0])
    np.savez(tmp_path / "points.npz", **hydrogen[1])
    return tmp_path


def test_density_matrix_and_density_become_records_of_all_electrons(arrays, hydrogen):
    matrix, points = read(arrays, MATRIX_ENTRY, POINTS_ENTRY, basis=None)
    assert (matrix.calculator, matrix.settings) == ("nnxc-pyscf", ({"basis": "6-31g", "charge": 0},))
    assert np.array_equal(matrix.targets["density_matrix"][0], hydrogen[0])
    table = points.targets["density_on_points"][0]
    assert table.shape == (len(hydrogen[1]["weights"]), 5)
    assert (table[:, 3] * table[:, 4]).sum() == pytest.approx(2, abs=5e-3)
    assert table[:, :3] == pytest.approx(hydrogen[1]["points"] * Bohr)
    assert points.provenance.settings["basis"] == "6-31g"


def test_spin_of_a_density_matrix_is_held(arrays):
    ion = H2 | {"charge": 1, "spin": 1}
    np.save(arrays / "matrix.npy", np.zeros((2, 4, 4)))
    (record,) = read(arrays, MATRIX_ENTRY | {"systems": [ion]}, basis=None)
    assert record.settings[0]["charge"] == 1
    assert record.structures[0].get_initial_magnetic_moments().sum() == 1


def test_file_of_an_array_may_be_relative_to_the_working_directory(arrays, monkeypatch):
    folder = arrays / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(arrays)
    assert len(read(folder, MATRIX_ENTRY, basis=None)) == 1


def test_training_file_with_densities_runs_unchanged(arrays):
    read(arrays, MATRIX_ENTRY, POINTS_ENTRY, basis=None)
    (arrays / "run.yaml").write_text(RUN + "settings: {epochs: 1}\n")
    trainer = read_config(arrays / "run.yaml").trainer
    (metrics,) = trainer.run()
    assert metrics["errors"].keys() == {"density_on_points", "density_matrix"}
    assert 0 < metrics["loss"] < 1
    assert metrics["failed"] == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"true_val": "no.npy"}, r"entries\[0\].true_val='no.npy': there is no such file in"),
        ({"true_val": "ccsd_dm(systems[0])"}, r"true_val='ccsd_dm\(systems\[0\]\)': expected the name of a .npy"),
        ({"true_val": None}, "true_val=None: expected the name of a .npy or .npz file; XCNN calculates"),
        ({"true_val": "points.npz"}, "contains several arrays: expected a .npy file"),
        ({"true_val": "set.npy"}, r"entries\[0\].true_val='set.npy': .*set.npy cannot be read: "),
        ({"true_val": "pickled.npy"}, r"pickled.npy cannot be read: .*allow_pickle"),
        ({"true_val": "nan.npy"}, "nan.npy: expected finite numbers, got NaN"),
        ({"true_val": "flat.npy"}, r"target density_matrix: expected the shape .*, got \(4,\)"),
        ({"true_val": "text.npy"}, "text.npy: expected an array of real numbers, got <U3"),
        ({"cmd": "dm(systems[1])"}, r"entries\[0\].cmd='dm\(systems\[1\]\)': must be one of dm\(systems\[0\]\)"),
        ({"systems": [H2, H2]}, r"entries\[0\].systems: expected one"),
        ({"systems": [H2 | {"number": 2}]}, r"entries\[0\].systems\[0\].number=2: expected 1"),
    ],
)
def test_mistake_in_a_density_matrix_is_refused(arrays, changes, complaint):
    (arrays / "set.npy").write_text("no array")
    np.save(arrays / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.save(arrays / "nan.npy", np.full((4, 4), np.nan))
    np.save(arrays / "flat.npy", np.ones(4))
    np.save(arrays / "text.npy", np.array([["one"]]))
    with pytest.raises(InputError, match=complaint):
        read(arrays, MATRIX_ENTRY | changes, basis=None)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.pop("weights"), r"points.npz does not contain weights: expected a .npz file with the arrays"),
        (lambda a: a.update(weights=a["weights"][1:]), r"expected points \(n, 3\), .* got the shapes \("),
        (lambda a: a.update(weights=1.0), r"expected points \(n, 3\), .*, \(\) and \("),
        (lambda a: a.update(weights=a["weights"] * Bohr**3), "the density has 0.296 electrons, expected 2; points"),
        (
            lambda a: a.update(density=a["density"] * 1j),
            "array density: expected an array of real numbers, got complex",
        ),
        (lambda a: a.update(density=a["density"] * np.inf), "array density: expected finite numbers"),
    ],
)
def test_mistake_in_a_density_is_refused(arrays, hydrogen, change, complaint):
    spoilt = dict(hydrogen[1])
    change(spoilt)
    np.savez(arrays / "points.npz", **spoilt)
    with pytest.raises(InputError, match=rf"entries\[0\].true_val='points.npz': .*{complaint}"):
        read(arrays, POINTS_ENTRY, basis=None)


def test_density_without_its_points_is_refused(arrays):
    with pytest.raises(InputError, match=r"one array without names: expected a .npz file with the arrays points"):
        read(arrays, POINTS_ENTRY | {"true_val": "matrix.npy"}, basis=None)


def test_damaged_archive_is_refused(arrays, hydrogen):
    file = arrays / "points.npz"
    np.savez_compressed(file, **hydrogen[1])
    content = bytearray(file.read_bytes())
    content[100:200] = bytes(100)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"true_val='points.npz': .*points.npz cannot be read"):
        read(arrays, POINTS_ENTRY, basis=None)


def test_file_that_is_not_an_array_in_an_archive_is_refused(arrays):
    with zipfile.ZipFile(arrays / "points.npz", "w") as file:
        for name in ("points", "weights", "density"):
            file.writestr(name, b"no array")
    with pytest.raises(InputError, match="array points: expected an array of real numbers, got other data"):
        read(arrays, POINTS_ENTRY, basis=None)


@pytest.mark.parametrize("entry", [MATRIX_ENTRY, POINTS_ENTRY])
def test_density_is_not_compared_with_plane_waves(arrays, entry):
    with pytest.raises(InputError, match=r"entries\[1\].(e_)?type='d.* of all electrons cannot be compared with plane"):
        read(arrays, WATER_ENTRY, entry)


def test_weights_of_objectives_are_given_in_a_warning(arrays):
    with pytest.warns(UserWarning, match="write objectives: {reaction_energy: 1.81, density_matrix: 220, density_on_p"):
        read(
            arrays,
            WATER_ENTRY | {"weight": 1340},
            MATRIX_ENTRY | {"weight": 220},
            POINTS_ENTRY | {"weight": 170},
            basis=None,
        )


# ---- what is refused


def test_record_is_calculated_with_all_electrons_in_the_basis_of_the_file(tmp_path):
    water, oxygen = read(tmp_path, WATER_ENTRY, OXYGEN_ENTRY, basis=None)
    assert water.is_all_electron
    assert water.settings == ({"basis": BASIS, "charge": 0},) * 3
    assert [atoms.get_initial_magnetic_moments().sum() for atoms in water.structures] == [0, 2, 1]
    assert oxygen.settings == ({"basis": BASIS, "charge": 0}, {"basis": BASIS, "charge": 1})
    assert [atoms.get_initial_magnetic_moments().sum() for atoms in oxygen.structures] == [2, 3]


def test_different_basis_sets_in_one_entry_are_refused(tmp_path):
    entry = copy.deepcopy(WATER_ENTRY)
    entry["systems"][1]["basis"] = "sto-3g"
    with pytest.raises(InputError, match=r"entries\[0\]: the systems have the basis sets 6-311.*, sto-3g"):
        read(tmp_path, entry, basis=None)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda e: e.update(e_type="aee"), r"entries\[0\].e_type='aee': must be one of ae, ie, dm, dens; did you mean"),
        (lambda e: e.pop("e_type"), r"entries\[0\]: expected e_type"),
        (lambda e: e.pop("true_val"), r"entries\[0\].true_val is missing"),
        (lambda e: e.update(true_val="low"), r"entries\[0\].true_val='low': must be a finite number"),
        (lambda e: e.update(true_val="nan"), r"true_val=nan: must be a finite number"),
        (lambda e: e.update(true_value=1), r"unknown key entries\[0\].true_value; did you mean 'true_val'"),
        (lambda e: e.update(systems=[]), r"entries\[0\].systems: expected at least 1 items"),
        (lambda e: e.update(cmd="energy(systems[0])"), "expected cmd or numbers"),
        (lambda e: e["systems"][0].pop("basis"), r"entries\[0\].systems\[0\].basis is missing"),
        (lambda e: e["systems"][0].update(moldesc="O 0 0"), r"systems\[0\].moldesc='O 0 0': expected three numbers"),
        (lambda e: e["systems"][0].update(moldesc="Ox 0 0 0"), "'Ox' is not an element"),
        (lambda e: e["systems"][0].update(moldesc="O 0 0 inf"), "expected three numbers in the place of '0 0 inf'"),
        (lambda e: e["systems"][0].update(spin=1), r"systems\[0\].spin=1: 10 electrons cannot have 1 unpaired"),
        (lambda e: e["systems"][0].update(charge=2), "expected a neutral molecule"),
        (lambda e: e["systems"][1].update(spin=0.5), r"systems\[1\].spin=0.5: must be an integer"),
        (lambda e: e["systems"][1].update(number=3), "free atoms .*'H': 2.*got the atoms .*'H': 3"),
        (lambda e: e["systems"][2].update(spin=0), r"systems\[2\].spin=0: free atoms follow Hund's rule, O has 2"),
    ],
)
def test_mistake_is_refused_with_its_place(tmp_path, spoil, complaint):
    entry = copy.deepcopy(WATER_ENTRY)
    spoil(entry)
    with pytest.raises(InputError, match=complaint):
        read(tmp_path, entry)


def test_ionization_at_other_positions_is_refused(tmp_path):
    systems = [system("H 0 0 0; H 1.4 0 0"), system("H 0 0 0; H 2.0 0 0", charge=1, spin=1)]
    with pytest.raises(InputError, match=r"cation .* at the same positions"):
        read(tmp_path, {"e_type": "ie", "true_val": 0.6, "systems": systems})


def test_different_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"entries\[1\].weight=5 differs"):
        read(tmp_path, WATER_ENTRY, OXYGEN_ENTRY | {"weight": 5})


def test_yaml_file_without_entries_is_refused(tmp_path):
    (tmp_path / "set.yaml").write_text("e_type: ae\n")
    with pytest.raises(InputError, match="must contain a list of entries"):
        read_deepchem(tmp_path / "set.yaml", "plane-waves")


# ---- commands


@pytest.mark.parametrize(
    ("command", "coefficients"),
    [
        ("energy(systems[1]) - energy(systems[0])", [-1, 1]),
        ("-energy(systems[0])+3*energy(systems[1])", [-1, 3]),
        (" 2 * energy(systems[1]) + energy(systems[1]) - energy(systems[0]) ", [-1, 3]),
    ],
)
def test_sum_of_energies_is_parsed(command, coefficients):
    assert parse_command(command, 2) == coefficients


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("__import__('os').getcwd()", "expected a sum"),
        ("energy(systems[0]) energy(systems[1])", "expected a sum"),
        ("energy(systems[0]) * energy(systems[1])", "expected a sum"),
        ("energy(systems[0]) - energy(systems[2])", r"there is no systems\[2\]"),
        ("energy(systems[0])", r"systems\[1\] is not used"),
    ],
)
def test_other_command_is_refused(command, complaint):
    with pytest.raises(InputError, match=complaint):
        parse_command(command, 2)


# ---- training files


def test_training_file_with_a_basis_reads_the_entries(tmp_path):
    read(tmp_path, WATER_ENTRY, OXYGEN_ENTRY)
    (tmp_path / "run.yaml").write_text(RUN + "basis: plane-waves\n")
    trainer = read_config(tmp_path / "run.yaml").trainer
    assert [record.name for record in trainer.training] == ["set-0", "oxygen"]


def test_training_file_without_a_basis_calculates_with_all_electrons(tmp_path):
    read(tmp_path, WATER_ENTRY)
    (tmp_path / "run.yaml").write_text(RUN)
    assert all(record.is_all_electron for record in read_config(tmp_path / "run.yaml").trainer.training)


def test_basis_that_pyscf_does_not_have_is_refused_before_the_training(tmp_path):
    read(tmp_path, {"type": "ie", "true_val": 0.5, "systems": [system("H 0 0 0", spin=1, basis="sto-33g")]})
    (tmp_path / "run.yaml").write_text(RUN)
    with pytest.raises(InputError, match=r"no record can be calculated; record 'set-0': .*sto-33g"):
        read_config(tmp_path / "run.yaml")


def test_reader_of_records_says_who_reads_yaml(tmp_path):
    read(tmp_path, WATER_ENTRY)
    with pytest.raises(InputError, match="read_deepchem"):
        read_records(tmp_path / "set.yaml")


# ---- periodic systems

CRYSTAL = {"mol_desc": "B 0 0 0; N 2.4 1.4 0", "lattice": "4.8 0 0; 2.4 4.2 0; 0 0 30", "basis": "sto-3g"}


def test_sys_desc_becomes_a_crystal_in_angstrom():
    atoms = read_sys_desc(CRYSTAL)
    assert (str(atoms.symbols), atoms.pbc.all()) == ("BN", True)
    assert atoms.positions[1] == pytest.approx([2.4 * Bohr, 1.4 * Bohr, 0])
    assert atoms.cell.lengths()[[0, 2]] == pytest.approx([4.8 * Bohr, 30 * Bohr])


def test_crystal_of_sys_desc_is_not_calculated_in_plane_waves():
    atoms = read_sys_desc(CRYSTAL)
    atoms.calc = NNXCCalculator(ecut=100, kpts=(1, 1, 1))
    with pytest.raises(InputError, match="gaussian_basis'\\] is 'sto-3g'"):
        atoms.get_potential_energy()


def test_crystal_of_sys_desc_has_the_energy_of_pyscf():
    from pyscf.pbc import dft

    atoms = read_sys_desc({"mol_desc": "H 0 0 0; H 0 0 1.4", "lattice": "6 0 0; 0 6 0; 0 0 5", "basis": "sto-3g"})
    ours = prepare_crystal(atoms, PBE(), kpts=(1, 1, 1), width=0.01)
    theirs = dft.KRKS(ours.cell, ours.kpts, xc="pbe").density_fit()
    theirs.grids = ours.grids
    assert ours.kernel() == pytest.approx(theirs.kernel(), abs=1e-6)


@pytest.mark.parametrize(
    ("atoms", "keywords", "complaint"),
    [
        (bulk("Al"), {}, "basis is missing"),
        (bulk("Al"), {"basis": "sto-3g"}, "13 electrons needs smearing"),
        (bulk("Si"), {"basis": "sto-3gg"}, "no basis set of this name"),
        (bulk("Si"), {"basis": "gth-szv"}, "add pseudo"),
        (bulk("Si"), {"basis": "sto-3g", "kpts": 2}, "three positive integers"),
        (Atoms("He"), {"basis": "sto-3g"}, "periodic in three directions"),
    ],
)
def test_crystal_that_pyscf_cannot_calculate_is_refused(atoms, keywords, complaint):
    with pytest.raises(InputError, match=complaint):
        prepare_crystal(atoms, PBE(), **{"kpts": (1, 1, 1), **keywords})


@pytest.mark.parametrize("source", [["mol_desc"], 5, None])
def test_sys_desc_of_another_type_is_refused(source):
    with pytest.raises(InputError, match="expected a dictionary with mol_desc and lattice"):
        read_sys_desc(source)


def test_sys_desc_of_a_file_keeps_the_names_of_the_basis_sets(tmp_path):
    (tmp_path / "bn.yaml").write_text(yaml.safe_dump(CRYSTAL | {"auxbasis": "def2-sv(p)"}))
    assert read_sys_desc(tmp_path / "bn.yaml").info == {"gaussian_basis": "sto-3g", "gaussian_auxbasis": "def2-sv(p)"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"lattice": "1 0 0; 0 1 0; 1 1 0"}, "lattice=.*three independent vectors"),
        ({"lattice": "1 0 0; 0 1 0"}, "lattice=.*three independent vectors"),
        ({"lattice": "1 0 0; 0 1 0; 0 0 x"}, "lattice=.*three numbers in the place of '0 0 x'"),
        ({"mol_desc": 5}, "mol_desc=5: expected a string"),
        ({"latice": "1"}, "unknown key latice; did you mean 'lattice'"),
    ],
)
def test_wrong_sys_desc_is_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        read_sys_desc(CRYSTAL | changes)
