"""Records, configurations, and the commands that write and use them."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from ase.calculators.emt import EMT
from ase.io import write

from ase_nnxc import NNXCCalculator
from ase_nnxc.cli import main
from ase_nnxc.train.objectives import (
    OBJECTIVES,
    EnergyPerAtom,
)
from ase_nnxc.train.records import (
    Provenance,
    Record,
    all_electron,
    atomization_energy,
    cohesive_energy,
    digest,
    experimental_solid,
    label,
    read_records,
    scaled_structures,
    write_records,
)


def eos_record(name="Al", a=4.05):
    return label(name, scaled_structures(bulk("Al", a=a)), EMT())


# ---- records


def records_of_every_kind():
    moments = bulk("Ni", a=3.52)
    moments.set_initial_magnetic_moments([0.6])
    full = label("forces", [bulk("Al", cubic=True), bulk("Cu")], EMT(), ("energy", "forces", "stress"))
    reaction = label("reaction", [bulk("Cu"), bulk("Au")], EMT(), coefficients=(1, -1))
    measured = experimental_solid("measured", bulk("Al"), 4.05, 4.02, 79)
    fields = {
        "density": [np.random.default_rng(0).random(box) for box in ((2, 3, 4), (3, 3, 3))],
        "band_gap": [0.1, 1 / 3],
    }
    levels = Record("levels", (bulk("Si"), bulk("Al")), fields)
    atoms = cohesive_energy("AlN", bulk("AlN", "rocksalt", a=4.0), 5.7)
    return [eos_record(), full, reaction, label("Ni", [moments], EMT()), measured, levels, atoms]


def test_json_keeps_every_record_to_the_last_bit(tmp_path):
    write_records(tmp_path / "set.json", records_of_every_kind())
    assert digest(read_records(tmp_path / "set.json")) == digest(records_of_every_kind())


@pytest.mark.parametrize("name", ["set.db", "set.extxyz", "set.traj"])
def test_files_of_ase_keep_the_records(tmp_path, name):
    write_records(tmp_path / name, records_of_every_kind())
    for read, written in zip(read_records(tmp_path / name), records_of_every_kind(), strict=True):
        assert (read.name, read.coefficients) == (written.name, written.coefficients)
        assert read.provenance == written.provenance
        assert read.settings == written.settings
        assert read.targets.keys() == written.targets.keys()
        for key in written.targets:
            a, b = (
                np.concatenate([np.ravel(y) for y in x]) if isinstance(x, tuple) else x
                for x in (read.targets[key], written.targets[key])
            )
            assert a == pytest.approx(b, abs=1e-7)
        for a, b in zip(read.structures, written.structures):
            assert a.positions == pytest.approx(b.positions, abs=1e-7)
            assert (a.get_initial_magnetic_moments() == b.get_initial_magnetic_moments()).all()


def test_digest_sees_a_moved_atom_a_changed_target_and_a_setting():
    record = eos_record()
    moved = replace(record, structures=scaled_structures(bulk("Al", a=4.0500001)))
    shifted = replace(record, targets={"energy": record.targets["energy"] + 1e-12})
    charged = replace(record, settings=({"charge": 1},) * 5)
    assert len({digest([r]) for r in (record, moved, shifted, charged)}) == 4


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"targets": {"energies": [1.0] * 5}}, "unknown target"),
        ({"targets": {"energy": [1.0] * 4}}, r"energy: expected the shape \(5,\), got \(4,\)"),
        ({"targets": {"energy": [math.nan] * 5}}, "must be finite"),
        ({"targets": {"energy": ["low"] * 5}}, r"targets.energy\[0\]='low': expected a number"),
        ({"targets": {"density": [np.ones((2, 2))] * 5}}, r"expected the shape \(any, any, any\)"),
        ({"targets": {"density": [{"shape": [2, 2, 2]}] * 5}}, r"targets.density\[0\].base64 is missing"),
        ({"targets": {"band_gap": [1.0]}}, r"expected the shape \(5,\)"),
        ({"targets": {"reaction_energy": 1.0}}, "no coefficients"),
        ({"coefficients": (1.0,)}, "expected one of the coefficients for each of the 5 structures, got 1"),
        ({"structures": ()}, "at least one structure"),
        ({"settings": ({"charge": 1},)}, "expected one of the settings for each of the 5 structures, got 1"),
        ({"settings": ({"hunt": True},) * 5}, "did you mean 'hund'"),
        ({"settings": ({"charge": "+1"},) * 5}, r"charge='\+1'"),
        ({"settings": ({"ecut": 300, "hund": True},) * 5}, "ecut cannot be a setting of a structure"),
        ({"settings": ({"share_kpoints": True},) * 5}, "share_kpoints cannot be a setting of a structure"),
        ({"settings": ("hund",) * 5}, "record 'Al'"),
    ],
)
def test_record_with_a_wrong_argument_is_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        replace(eos_record(), **changes)


def test_records_of_one_name_are_not_written(tmp_path):
    with pytest.raises(InputError, match="two records have the name 'Al'"):
        write_records(tmp_path / "set.json", [eos_record(), eos_record()])


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("set.json", '{"format": "ase_nnxc-records", "version": 1, "records": [{}]}', r"records\[0\].name is missing"),
        ("set.json", '{"format": "ase_nnxc-records", "version": 1, "records": [1]}', "does not contain valid records"),
        ("set.json", '{"format": "ase_nnxc-records", "version": 2}', "version 2 of the format, expected 1"),
        ("set.json", '{"format": ', "is not JSON"),
        ("set.db", "nothing", "cannot be read by ASE"),
        ("set.extxyz", '1\nprovenance="{\\"program\\": 1}"\nAl 0 0 0\n', "info of the first image is not valid"),
    ],
)
def test_file_without_valid_records_is_refused(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_records(tmp_path / name)


def test_missing_file_is_not_created(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()


def test_measured_lattice_constant_becomes_the_volume_of_the_cell():
    record = experimental_solid("Al", bulk("Al", a=4.05), 4.05, 4.02, 79.0)
    assert record.targets["volume"] == pytest.approx(4.02**3 / 4)
    assert record.targets["bulk_modulus"] / units.GPa == pytest.approx(79.0)
    assert record.volumes[2] == pytest.approx(4.02**3 / 4)
    assert record.provenance == Provenance("experiment", "none")


# ---- configurations and commands

CONFIG = """
name: again
functional: {architecture: pbe, config: {kappa: 0.7, trainable: [kappa]}}
calculator: {ecut: 150, kpts: [2, 2, 2], smooth_cutoff: true}
records: set.json
objectives: {energy_differences: 1e4}
penalties:
  parameter_anchor: 1e-3
  functional_anchor: {parent: PBE, weight: 1e-3}
  bounds: 1.0
  kernel_size: 1e-3
optimizer: {name: SGD, lr: 1e-3}
scheduler: {name: ExponentialLR, gamma: 0.9}
settings: {epochs: 1}
models: models
"""


def test_dataset_train_and_evaluate_from_the_command_line(tmp_path, capsys):
    (tmp_path / "calculator.yaml").write_text("{ecut: 150, kpts: [2, 2, 2], smooth_cutoff: true}")
    (tmp_path / "again.yaml").write_text(CONFIG)
    calculator = ["--calculator", str(tmp_path / "calculator.yaml"), "--json"]
    properties = ["--properties", "energy,forces,stress,density,band_gap"]
    assert main(["dataset", str(tmp_path / "set.json"), "Al", "--points", "4", *properties, *calculator]) == 0
    assert main(["train", str(tmp_path / "again.yaml")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "models" / "again@1"), str(tmp_path / "set.json"), *calculator]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["record"] == "Al"
    assert 0 < row["errors"]["energy_differences"]["rms"] < 0.1
    assert row["errors"].keys() == OBJECTIVES.keys() - {"reaction_energy", "density_on_points", "density_matrix"}
    assert main(["train", str(tmp_path / "again.yaml")]) == 2  # this version exists
    assert "use the next" in capsys.readouterr().err


def test_evaluate_reports_the_other_objectives_of_a_curve_without_minimum(tmp_path, capsys):
    (tmp_path / "calculator.yaml").write_text("{ecut: 150, kpts: [1, 1, 1]}")
    write_records(tmp_path / "set.json", [label("Al", scaled_structures(bulk("Al", a=3.4), 4), EMT())])
    command = ["evaluate", "PBE", str(tmp_path / "set.json"), "--calculator", str(tmp_path / "calculator.yaml")]
    assert main([*command, "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert row["errors"]["energy_differences"]["rms"] > 0
    assert "minimum" in row["errors"]["lattice_constant"]["error"]
    assert main(command) == 1
    assert re.search(r"energy_differences \S+ eV/atom  .*lattice_constant: .*minimum", capsys.readouterr().out)


@pytest.mark.parametrize("options", [[], ["--align"]])
def test_dataset_says_what_records_of_all_electrons_are(options, tmp_path, capsys):
    write_records(tmp_path / "h2.json", [all_electron(atomization_energy("H2", molecule("H2"), 4.75), "sto-3g")])
    assert main(["dataset", str(tmp_path / "set.json"), str(tmp_path / "h2.json"), *options]) == 2
    assert "record 'H2' is of molecules with all electrons in a Gaussian basis set" in capsys.readouterr().err


def test_dataset_reads_all_images_of_a_file_and_names_them_after_it(tmp_path):
    write(tmp_path / "path.extxyz", [bulk("Cu", a=a) for a in (3.5, 3.6)])
    assert main(["dataset", str(tmp_path / "set.json"), str(tmp_path / "path.extxyz"), "Au", "--ase", "emt"]) == 0
    records = read_records(tmp_path / "set.json")
    assert [r.name for r in records] == ["path-0", "path-1", "Au"]
    assert records[1].volumes == pytest.approx(3.6**3 / 4)


def test_dataset_calculates_the_reaction_of_a_file_with_its_settings(tmp_path):
    atom = Atoms("He", info={"ionization_potential": 24.59, "ion_magmom": 1})
    write(tmp_path / "He.extxyz", atom)
    (tmp_path / "calculator.yaml").write_text("{ecut: 100, kpts: [2, 2, 2]}")
    paths = [str(tmp_path / name) for name in ("set.json", "He.extxyz")]
    assert main(["dataset", *paths, "--calculator", str(tmp_path / "calculator.yaml")]) == 0
    (record,) = read_records(tmp_path / "set.json")
    assert record.settings == read_records(tmp_path / "He.extxyz")[0].settings
    assert record.targets["reaction_energy"] == pytest.approx(record.targets["energy"] @ [-1, 1])
    assert record.targets["reaction_energy"] == pytest.approx(24.59, abs=5)  # at this cutoff
    assert EnergyPerAtom().obstacle(record, NNXCCalculator("PBE", kpts=(2, 2, 2))) is None


def test_dataset_aligns_the_energies_of_another_code(tmp_path):
    (tmp_path / "calculator.yaml").write_text("{ecut: 150, kpts: [2, 2, 2]}")
    write_records(tmp_path / "emt.json", [eos_record()])
    paths = [str(tmp_path / name) for name in ("set.json", "emt.json")]
    assert main(["dataset", *paths, "--align", "--calculator", str(tmp_path / "calculator.yaml")]) == 0
    (record,) = read_records(tmp_path / "set.json")
    (offset,) = record.provenance.settings["offsets"].values()
    assert record.targets["energy"] + offset == pytest.approx(eos_record().targets["energy"])
    ours = label("Al", record.structures, NNXCCalculator("PBE", ecut=150, kpts=(2, 2, 2)))
    assert np.mean(record.targets["energy"] - ours.targets["energy"]) == pytest.approx(0, abs=1e-6)
    assert EnergyPerAtom().obstacle(record, NNXCCalculator("PBE")) is None


@pytest.mark.parametrize(
    "options",
    [
        ["--align", "--points", "3"],
        ["--ase", "emt", "--properties", "density"],
        ["--ase", "emt", "--points", "0"],
        ["--ase", "emt", "--points", "3", "--span", "nan"],
    ],
)
def test_dataset_refuses_options_that_are_wrong_or_exclude_each_other(tmp_path, options):
    write_records(tmp_path / "emt.json", [eos_record()])
    assert main(["dataset", str(tmp_path / "set.json"), str(tmp_path / "emt.json"), *options]) == 2
    assert not (tmp_path / "set.json").exists()


def test_dataset_of_another_calculator(tmp_path):
    assert main(["dataset", str(tmp_path / "set.db"), "Cu", "Au", "--ase", "emt", "--properties", "energy,forces"]) == 0
    records = read_records(tmp_path / "set.db")
    assert [(r.name, r.provenance.code, set(r.targets)) for r in records] == [
        ("Cu", "EMT", {"energy", "forces"}),
        ("Au", "EMT", {"energy", "forces"}),
    ]
