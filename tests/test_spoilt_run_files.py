"""Spoilt files of runs and structures are refused by name: points of a scan, states of a training, samples."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import InputError
from ase.calculators.emt import EMT
from ase.io import write
from test_trainer import pbe_record, trainer

from ase_nnxc import cli
from ase_nnxc.cli.common import UsageError
from ase_nnxc.cli.structures import read_structure
from ase_nnxc.eos import scan_eos
from ase_nnxc.eos.points import Point, PointFile
from ase_nnxc.train.records import write_records
from ase_nnxc.train.samples import LARGEST, Samples, sample_mesh
from ase_nnxc.train.trainer import TrainerSettings


def flips(data: bytes, count: int) -> list[bytes]:
    """The content of a file with one of its bits flipped, `count` times."""
    rng, spoilt = random.Random(7), []
    for _ in range(count):
        place = rng.randrange(len(data))
        spoilt.append(data[:place] + bytes([data[place] ^ (1 << rng.randrange(7))]) + data[place + 1 :])
    return spoilt


# ---- points of a scan -----------------------------------------------------------------------------------------------


@pytest.fixture
def points(tmp_path) -> Path:
    """The file of a scan of two points."""
    path = tmp_path / "points.jsonl"
    file = PointFile(path, "scan", force=False)
    for index in range(2):
        file.add("settings", Point(index, 40.0 + index, -50.1, -50.2, None, 0.3))
    return path


def test_point_with_any_flipped_bit_is_refused_with_its_line(points):
    good = points.read_bytes()
    for data in flips(good, 60):
        points.write_bytes(data)
        # a flip of the last end of line leaves half a line, that of the digest's own digits is a wrong digest
        if not data.endswith(b"\n"):
            continue
        with pytest.raises(InputError, match=r"points.jsonl, line [12], is not the record of a scan, or it is damaged"):
            PointFile(points, "scan", force=False)
    points.write_bytes(good)
    assert len(PointFile(points, "scan", force=False).finished("settings")) == 2


def test_other_files_in_the_place_of_points_are_refused_and_kept(points, tmp_path):
    points.write_bytes(b"a long text without an end of line")
    with pytest.raises(InputError, match="is not the record of a scan"):
        PointFile(points, "scan", force=False)
    assert points.read_bytes() == b"a long text without an end of line"
    points.unlink()
    os.mkfifo(points)
    with pytest.raises(InputError, match=r"points.jsonl cannot be read: it is a FIFO, expected a regular file"):
        scan_eos(bulk("Cu"), EMT(), folder=tmp_path)
    points.unlink()
    with points.open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(InputError, match="more than the limit"):
        PointFile(points, "scan", force=False)


# ---- states of a training -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a training of one step."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    trainer([pbe_record()], settings=TrainerSettings(epochs=1), folder=folder).run()
    return folder


def test_state_of_a_training_that_is_spoilt_is_refused_with_the_file_and_what_to_do(trained, tmp_path):
    record, settings = pbe_record(), TrainerSettings(epochs=1)
    for file in next(trained.glob("resume-*")).iterdir():
        good = file.read_bytes()
        for data in (b"", good[: len(good) // 2], *flips(good, 5)):
            shutil.copytree(trained, tmp_path / "run")
            spoilt = tmp_path / "run" / file.relative_to(trained)
            spoilt.write_bytes(data)
            with pytest.raises(InputError, match=r"resume-\d+/.* is damaged or was changed.*train from the start"):
                trainer([record], settings=settings, folder=tmp_path / "run")
            spoilt.unlink()
            with pytest.raises(InputError, match=f"{file.name} cannot be read: No such file"):
                trainer([record], settings=settings, folder=tmp_path / "run")
            shutil.rmtree(tmp_path / "run")


def test_metrics_are_written_anew_from_the_state(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    good = metrics.read_text()
    for spoilt in ("", good[:10], good + good, "\0" * 1000):
        metrics.write_text(spoilt)
        run = trainer([pbe_record()], settings=TrainerSettings(epochs=1), folder=tmp_path / "run")
        assert metrics.read_text() == good
        assert len(run.history) == 1
    metrics.unlink()
    os.mkfifo(metrics)
    with pytest.raises(InputError, match=r"metrics.jsonl cannot be written: it is a FIFO"):
        trainer([pbe_record()], settings=TrainerSettings(epochs=1), folder=tmp_path / "run")


# ---- samples --------------------------------------------------------------------------------------------------------


def changed(samples: Samples, **arrays) -> dict[str, np.ndarray]:
    names = ("density", "gradient", "tau", "weights", "system")
    return {name: getattr(samples, name).numpy().copy() for name in names} | {"systems": np.array([], str)} | arrays


def outcome(path: Path) -> str:
    """What reading samples gives: their digest, or "refused" if the message has the name of the file."""
    try:
        return Samples.load(path).digest
    except InputError as error:
        return "refused" if str(path) in str(error) else str(error)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"density": np.full((2, 8), np.nan)}, "density has numbers that are not finite"),
        ({"density": np.full((2, 8), -1.0)}, "density and tau must be zero or more"),
        ({"tau": np.zeros((2, 7))}, r"tau has the shape \(2, 7\)"),
        ({"tau": np.zeros((2, 8), "f4")}, "tau has the shape .* and the type torch.float32"),
        ({"weights": np.ones(8)}, "the weights must be zero or more, with the sum one"),
        ({"weights": np.array(1.0)}, "has the shape"),
        ({"system": np.zeros(8, int)}, "system must be from -1 to -1"),
        ({"systems": np.array([1])}, "the names of the systems must be text"),
        ({"gradient": np.array([{}], object)}, "allow_pickle"),
    ],
)
def test_samples_with_a_wrong_array_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "points.npz", **changed(sample_mesh(8), **arrays))
    with pytest.raises(InputError, match=f"points.npz is not a file of samples, or it is damaged: .*{message}"):
        Samples.load(tmp_path / "points.npz")


def test_file_that_is_no_archive_of_samples_is_refused(tmp_path):
    path = tmp_path / "points.npz"
    sample_mesh(8).save(path)
    good = path.read_bytes()
    for data in (b"", good[:500], good[:-5], b"\0" * 100, *flips(good, 20)):
        path.write_bytes(data)
        assert outcome(path) in ("refused", sample_mesh(8).digest)  # dates in the archive mean nothing
    np.savez_compressed(path, **changed(sample_mesh(8), density=np.zeros(LARGEST // 8)))
    with pytest.raises(InputError, match="when it is unpacked, more than the limit"):
        Samples.load(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="it is a FIFO"):
        Samples.load(path)


# ---- structures and keywords ----------------------------------------------------------------------------------------


def test_structure_that_is_no_regular_file_or_not_finite_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.cif")
    (tmp_path / "zero.cif").symlink_to("/dev/zero")
    (tmp_path / "folder.cif").mkdir()
    (tmp_path / "loop.cif").symlink_to("loop.cif")
    with (tmp_path / "large.cif").open("wb") as file:
        file.truncate(2**40)  # sparse
    messages = {"fifo": "a FIFO", "zero": "a device", "folder": "a folder", "loop": "Too many levels", "large": "limit"}
    for name, message in messages.items():
        with pytest.raises(UsageError, match=f"{name}.cif cannot be read: .*{message}"):
            read_structure(str(tmp_path / f"{name}.cif"))
    write(tmp_path / "si.extxyz", bulk("Si"))
    text = (tmp_path / "si.extxyz").read_text()
    for old in ("2.715", "1.35750000"):  # in the cell, of a position
        (tmp_path / "si.extxyz").write_text(text.replace(old, "nan", 1))
        with pytest.raises(UsageError, match=r"si.extxyz: a position or a cell vector is not a finite number"):
            read_structure(str(tmp_path / "si.extxyz"))


def cif_refusal(path: Path, text: str) -> str:
    """The message of the error that a CIF file causes, which names the file."""
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_structure(str(path))
    assert str(path) in str(error.value)
    return str(error.value)


def test_cif_file_that_lacks_sites_or_a_length_is_refused(tmp_path):
    path = tmp_path / "salt.cif"
    write(path, bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    good = path.read_text()
    assert len(read_structure(str(path))[0]) == 8
    cut = "\n".join(good.splitlines()[:-3]) + "\n"
    assert "the cell holds Cl2Na3, which is not a whole number of the formula units Na4 Cl4" in cif_refusal(path, cut)
    assert "a length or an angle of the cell is missing" in cif_refusal(path, good.replace("5.64", "", 1))
    assert "a line has 1000" in cif_refusal(path, good + "a" * 10**7)
    path.write_text(good.replace("Na4 Cl4", "Na1 Cl1"))  # the cell has four units
    assert len(read_structure(str(path))[0]) == 8
    for formula in ("?", "Na0.5 Cl", "C6 H12 (H2O)"):  # none, or one that is not compared
        path.write_text(good.replace("Na4 Cl4", formula))
        assert len(read_structure(str(path))[0]) == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2.715", "1e300", "is not a finite number, or longer than 1e.06 Angstrom"),
        ("Si ", "X ", "an atomic number is not one from 1 to 118"),
        ("1.35750000", "[" * 10_000, r"could not convert string to float: '\[{200,300}[)]$"),
    ],
)
def test_structure_of_impossible_numbers_is_refused_in_a_short_message(tmp_path, old, new, message):
    path = tmp_path / "si.extxyz"
    write(path, bulk("Si"))
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=f"si.extxyz.*{message}"):
        read_structure(str(path))


def test_wrong_keyword_in_a_file_of_the_calculator_is_refused_with_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_records("set.json", [pbe_record()])
    Path("tiny.yaml").write_text("ecut: high\n")
    assert cli.main(["evaluate", "PBE", "set.json", "--calculator", "tiny.yaml"]) == 2
    assert "tiny.yaml: ecut='high'" in capsys.readouterr().err
