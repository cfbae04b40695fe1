"""Files of records that were spoilt, cut or mistyped: each is refused, with the path of the wrong value."""

import copy
import json
import math
import random
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread, write

from ase_nnxc.cli import main
from ase_nnxc.train.records import (
    Provenance,
    Record,
    cohesive_energy,
    digest,
    label,
    read_records,
    scaled_structures,
    write_records,
)

TRIES = 40


@pytest.fixture(scope="module")
def records():
    nickel = bulk("Ni", a=3.52)
    nickel.set_initial_magnetic_moments([0.6])
    fields = {"density": [np.random.default_rng(0).random((2, 3, 4))], "band_gap": [0.1]}
    scan = label("scan", scaled_structures(bulk("Al")), EMT(), ("energy", "forces", "stress"))
    levels = Record("levels", (bulk("Si"),), fields, provenance=Provenance("x", "PBE", {"Si": "0123"}))
    volume = Record("volume", (bulk("Al"),), {"volume": 16.0, "bulk_modulus": 0.5})
    return [
        scan,
        label("Ni", [nickel], EMT()),
        levels,
        volume,
        cohesive_energy("AlN", bulk("AlN", "rocksalt", a=4.0), 5.7),
    ]


@pytest.fixture(scope="module")
def content(records, tmp_path_factory):
    path = tmp_path_factory.mktemp("valid") / "set.json"
    write_records(path, records)
    return json.loads(path.read_text())


def places(value, path=""):
    """Yield path, container and key of all values below one, except the settings, whose values may be anything."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, item in items:
        name = f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}".lstrip(".")
        if key != "settings":
            yield name, value, key
            yield from places(item, name)


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def replacement(new):
    def spoil(container, key):
        container[key] = new

    return spoil


def add_key(container, key):
    container[key]["energie"] = 1.0


def drop_last(container, key):
    container[key].pop()


# name: what is spoilt, and how
SPOILERS = {
    **{
        f"number {new!r}": (is_number, replacement(new))
        for new in ("1.0", True, None, math.nan, math.inf, {}, [1.0], 10**400)
    },
    **{f"text {new!r}": (lambda value: isinstance(value, str), replacement(new)) for new in (5, None, ["a"], {}, True)},
    **{f"flag {new!r}": (lambda value: isinstance(value, bool), replacement(new)) for new in ("yes", None, 2, [True])},
    "unknown key": (lambda value: isinstance(value, dict), add_key),
    "number left out": (
        lambda value: isinstance(value, list) and value != [] and not isinstance(value[0], dict),
        drop_last,
    ),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_json_spoilt_anywhere_is_refused_with_the_path(tmp_path, content, spoiler):
    applies, spoil = SPOILERS[spoiler]
    count = len([0 for _, container, key in places(content) if applies(container[key])])
    for place in random.Random(1).sample(range(count), min(TRIES, count)):
        data = copy.deepcopy(content)
        path, container, key = [p for p in places(data) if applies(p[1][p[2]])][place]
        spoil(container, key)
        (tmp_path / "set.json").write_text(json.dumps(data))
        with pytest.raises(InputError) as raised:
            read_records(tmp_path / "set.json")
        names = re.findall(r"[a-z_0-9]+", path)  # records, 0, structures, 2, positions, 0, 1
        key_name = [name for name in names if not name.isdigit()][-1]
        for part in ("set.json", path.split(".")[0], key_name):
            assert part in str(raised.value), (path, str(raised.value))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda r: r["structures"][2]["numbers"].__setitem__(0, -1), r"records\[0\].structures\[2\].numbers\[0\]=-1"),
        (
            lambda r: r["structures"][2]["numbers"].__setitem__(0, 500),
            r"numbers\[0\]=500: must be an integer, from 1 to 118",
        ),
        (lambda r: r["structures"][2]["numbers"].__setitem__(0, 1.5), r"numbers\[0\]=1.5: must be an integer"),
        (
            lambda r: r["structures"][0]["positions"][0].__setitem__(1, math.nan),
            r"positions\[0\]\[1\]=nan: must be a number, at least -1e.06 and at most 1e.06",
        ),
        (lambda r: r["structures"][0]["cell"][0].__setitem__(1, 1e300), r"cell\[0\]\[1\]=1e.300: .* at most 1e.06"),
        (lambda r: r["targets"]["energy"].__setitem__(3, 1e20), "energy must be finite, .* at most 1e.12 eV"),
        (lambda r: r["structures"].pop(), r"energy: expected the shape \(4,\), got \(5,\)"),
        (lambda r: r["structures"].clear(), "expected at least 1 items"),
        (lambda r: r["targets"]["energy"].__setitem__(3, "low"), r"energy\[3\]='low': expected a number"),
        (lambda r: r["targets"]["energy"].__setitem__(3, True), r"energy\[3\]=True: expected a number"),
        (lambda r: r["targets"].update(energys=[1.0]), "did you mean 'energy'"),
        (lambda r: r.update(name=["Al"]), r"records\[0\].name=\['Al'\]: expected a string"),
        (lambda r: r.update(name=" "), "expected a string that is not empty"),
        (lambda r: r.update(coefficients=["1"] * 5), r"coefficients\[0\]='1'"),
        (lambda r: r.update(weight=1), r"unknown key records\[0\].weight"),
        (lambda r: r["provenance"].update(tables={"Xy": "0"}), "must be one of"),
        (lambda r: r["targets"].update(density=[{"shape": [-1, 2, 3], "base64": ""}]), r"density\[0\].shape\[0\]=-1"),
        (lambda r: r["targets"].update(density=[{"shape": [1, 1, 2], "base64": "AAAA"}]), "3 bytes are not"),
        (lambda r: r["targets"].update(density=[{"shape": [1, 1, 1], "base64": "A*"}]), "numbers"),
        (lambda r: r["targets"].update(volume=-1.0), "volume=-1.0 must be positive"),
    ],
)
def test_wrong_value_in_json_is_refused_with_what_is_allowed(tmp_path, content, spoil, complaint):
    data = copy.deepcopy(content)
    spoil(data["records"][0])
    (tmp_path / "set.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=complaint):
        read_records(tmp_path / "set.json")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"units": {"energy": "Ha"}}, "units.energy='Ha': expected 'eV'; convert"),
        ({"units": {"energies": "eV"}}, "did you mean 'energy'"),
        ({"units": "Ha"}, "units='Ha': must be one of eV"),
        ({"units": ["eV"]}, "expected a mapping of targets"),
        ({"format": "ase_nnxc-record"}, "did you mean 'ase_nnxc-records'"),
        ({"version": True}, "version True of the format"),
        ({"comment": "mine"}, "unknown key comment"),
        ({"records": {}}, "expected a list"),
    ],
)
def test_wrong_head_of_a_json_file_is_refused(tmp_path, content, changes, complaint):
    (tmp_path / "set.json").write_text(json.dumps({**content, **changes}))
    with pytest.raises(InputError, match=complaint):
        read_records(tmp_path / "set.json")


@pytest.mark.parametrize("text", ['{"format": "a", "format": "b"}', "[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_json_with_duplicate_keys_or_too_deep_is_refused(tmp_path, text):
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(InputError, match="is not JSON"):
        read_records(tmp_path / "set.json")


def test_trajectory_whose_places_are_wrong_is_refused_by_name(tmp_path, records):
    write_records(tmp_path / "set.traj", records)
    data = (tmp_path / "set.traj").read_bytes()
    (tmp_path / "set.traj").write_bytes(data[:100] + data[60:])
    with pytest.raises(InputError, match=r"set.traj cannot be read by ASE"):
        read_records(tmp_path / "set.traj")


def test_json_cut_anywhere_is_refused(tmp_path, content):
    text = json.dumps(content)
    for length in random.Random(2).sample(range(len(text)), TRIES):
        (tmp_path / "set.json").write_text(text[:length])
        with pytest.raises(InputError):
            read_records(tmp_path / "set.json")


@pytest.fixture
def extxyz(tmp_path, records):
    write_records(tmp_path / "set.extxyz", records[:1])
    return tmp_path / "set.extxyz"


def test_extxyz_cut_anywhere_is_refused(extxyz):
    text = extxyz.read_text()
    ends = [i for i in range(len(text)) if text[i] == "\n"]
    after_lines = [i + 1 for i in ends[:-1]]
    for length in {*ends, *after_lines, *random.Random(3).sample(range(len(text)), TRIES)}:
        extxyz.write_text(text[:length])
        with pytest.raises(InputError):
            read_records(extxyz)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda images: images[:3], "3 images were read, and the one at position 0 has image=0 and images=5"),
        (lambda images: images[1:], "not complete"),
        (lambda images: [*images[:2], *images[3:]], "not complete"),
        (lambda images: images[::-1], "not complete"),
        (lambda images: [*images, *images], "not complete: 10 images"),
    ],
)
def test_record_without_all_images_in_their_order_is_refused(extxyz, change, complaint):
    write(extxyz, change(list(iread(extxyz, ":"))))
    with pytest.raises(InputError, match=complaint):
        read_records(extxyz)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (r" energy=\S+", " energy=low", "energy='low': must be a finite number"),
        (r" free_energy=\S+", " free_energy=T", "free_energy=True: must be a finite number"),
        (r" free_energy=\S+", " free_energy=nan", "free_energy=nan: must be a finite number"),
        ("\nAl  ", "\nX  ", r"structures\[0\].numbers\[0\]=0: must be an integer, from 1 to 118"),
        ("\nAl  ", "\nAx  ", "cannot be read by ASE"),
        ("0.00000000", "nan", r"structures\[0\].positions\[0\]\[0\]=nan"),
        ("record=scan", r'record="_JSON [\"a\"]"', "must be the name of a record"),
        ("image=0", "image=1", "not complete"),
        ("images=5", "", "not complete"),
        (" image=0", " target=1 image=0", "unknown key .*target"),
        (r"{\"energy\": \"eV\"", r"{\"energy\": \"Ha\"", "units.energy='Ha': expected 'eV'"),
        (r"\"code\": \"EMT\"", r"\"code\": [1]", r"provenance.code=\[1\]"),
        (r"\"code\": \"EMT\"", r"\"cod\": \"EMT\"", "cod"),
        ('targets="_JSON {}"', r'targets="_JSON {\"energie\": [1]}"', "unknown target"),
        ('targets="_JSON {}"', 'targets="_JSON [1]"', "not valid"),
    ],
)
def test_wrong_value_in_extxyz_is_refused(extxyz, old, new, complaint):
    text = extxyz.read_text()
    pattern = old if old.startswith(" ") else re.escape(old)
    assert re.search(pattern, text)
    extxyz.write_text(re.sub(pattern, lambda match: new, text, count=1))
    with pytest.raises(InputError, match=complaint) as raised:
        read_records(extxyz)
    assert "set.extxyz" in str(raised.value)


@pytest.mark.parametrize(
    ("info", "complaint"),
    [
        ({"cohesive_enrgy": 3.4}, "unknown key cohesive_enrgy .*did you mean 'cohesive_energy'"),
        ({"cohesive_energy": "high"}, "cohesive_energy='high': must be a number, above 0"),
        ({"atomization_energy": -1.0}, "atomization_energy=-1.0: must be a number, above 0"),
        ({"ionization_potential": 5.0, "ion_magmom": True}, "ion_magmom=True: must be a finite number"),
    ],
)
def test_reaction_of_a_file_of_ase_with_a_wrong_energy_is_refused(tmp_path, info, complaint):
    write(tmp_path / "Al.extxyz", Atoms("Al", info=info))
    with pytest.raises(InputError, match=complaint):
        read_records(tmp_path / "Al.extxyz")


@pytest.mark.parametrize("key", ["unit", "units", "energy_unit", "energy_units"])
def test_energies_of_a_foreign_file_in_another_unit_are_refused(tmp_path, key):
    path = tmp_path / "Al.extxyz"
    for unit in ("eV", "Hartree"):
        atoms = Atoms("Al", info={key: unit})
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
        write(path, atoms)
        if unit == "eV":
            assert read_records(path)[0].targets["energy"] == [-1.0]
    with pytest.raises(InputError, match=f"info of image 0: {key}='Hartree': must be one of eV"):
        read_records(path)


def test_files_of_ase_and_of_older_versions_without_the_number_of_images_are_read(tmp_path, extxyz, records):
    images = list(iread(extxyz, ":"))
    for image in images:
        for key in ("image", "images", "units"):
            image.info.pop(key, None)
        image.info["temperature"] = 300
    write(tmp_path / "old.extxyz", images)
    (record,) = read_records(tmp_path / "old.extxyz")
    assert record.targets["energy"] == pytest.approx(records[0].targets["energy"])


def test_json_without_what_is_optional_is_read(tmp_path, content, records):
    data = copy.deepcopy(content)
    del data["units"]
    for record in data["records"]:
        record.pop("settings", None)
        if record["coefficients"] is None:
            del record["coefficients"]
    (tmp_path / "set.json").write_text(json.dumps(data))
    assert digest(read_records(tmp_path / "set.json")[:4]) == digest(records[:4])


def test_reaction_of_one_structure_survives_extxyz(tmp_path):
    record = Record("one", (bulk("Al"),), {"reaction_energy": 1.0}, (2.0,))
    write_records(tmp_path / "set.extxyz", [record])
    assert read_records(tmp_path / "set.extxyz")[0].coefficients == (2.0,)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("missing/set.json", "does not exist"),
        ("file/set.json", "does not exist"),
        ("folder.json", "not a regular file"),
        ("set.abc", "use the suffix .json"),
        ("set.db", "exists"),
        ("/proc/set.json", "cannot be written"),
    ],
)
def test_dataset_that_cannot_be_written_is_refused_before_the_calculations(
    tmp_path, output, complaint, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    (tmp_path / "set.db").touch()
    (tmp_path / "folder.json").mkdir()
    monkeypatch.setattr("ase_nnxc.train.records.label", lambda *args: pytest.fail("calculated"))
    assert main(["dataset", str(tmp_path / output), "Al", "--ase", "emt"]) == 2
    assert complaint in capsys.readouterr().err
