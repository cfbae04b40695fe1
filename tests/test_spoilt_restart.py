"""Spoilt restart files are refused by name, and files of a kind that is not written are not replaced."""

import json
import math
import os
import random
import time
from pathlib import Path

import pytest
import torch
from ase.calculators.calculator import InputError, ReadError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_contract import calculated, hydrogen

from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator.restart import text_digest


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A restart file."""
    path = tmp_path_factory.mktemp("restart") / "h.nnxc"
    atoms = hydrogen(kpts=(1, 1, 1))
    atoms.get_forces()
    atoms.calc.write(path)
    return path


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def refusal(path: Path) -> str:
    """The message of the error that a file causes, which names the file."""
    start = time.perf_counter()
    with pytest.raises(ReadError) as error:
        NNXCCalculator(restart=path)
    assert time.perf_counter() - start < 1
    assert str(path) in str(error.value)
    return str(error.value)


def test_file_that_is_spoilt_below_is_good(written):
    assert math.isfinite(NNXCCalculator(restart=written).results["energy"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("orbitals.0.0", lambda t: t["orbitals.0.0"].mul_(2)),
        ("occupations", lambda t: t["occupations"].mul_(0.5)),
        ("lattice", lambda t: t["lattice"].mul_(2)),
        ("eigenvalues", lambda t: t["eigenvalues"].fill_(math.nan)),
        ("fields", lambda t: t["fields"].view(-1)[3].add_(1e-12)),
        ("fermi_levels", lambda t: t.update(fermi_levels=t["fermi_levels"].float())),
        ("occupations", lambda t: t.update(occupations=t["occupations"].reshape(-1))),
    ],
)
def test_changed_tensor_is_refused_by_its_name(written, tmp_path, name, change):
    tensors = load_file(written)
    change(tensors)
    save_file(tensors, tmp_path / "h.nnxc", metadata(written))
    assert f"was changed: the tensor {name} does not have its SHA-256" in refusal(tmp_path / "h.nnxc")


@pytest.mark.parametrize("change", [lambda t: t.pop("fields"), lambda t: t.update(more=torch.zeros(1))])
def test_missing_and_additional_tensors_are_refused_by_name(written, tmp_path, change):
    tensors = load_file(written)
    change(tensors)
    save_file(tensors, tmp_path / "h.nnxc", metadata(written))
    name = "fields" if "fields" not in tensors else "more"
    assert f"tensors {name}" in refusal(tmp_path / "h.nnxc")


def test_changed_result_is_refused(written, tmp_path):
    header = metadata(written)["ase_nnxc"]
    energy = json.loads(header)["results"]["energy"]
    for wrong in (energy + 1e-9, 2 * energy, math.nan, None):
        text = header.replace(f'"energy": {energy}', f'"energy": {json.dumps(wrong)}')
        assert text != header
        save_file(load_file(written), tmp_path / "h.nnxc", metadata(written) | {"ase_nnxc": text})
        assert "was changed: its header does not have its SHA-256" in refusal(tmp_path / "h.nnxc")


def test_file_without_the_digest_of_its_header_is_refused(written, tmp_path):
    save_file(load_file(written), tmp_path / "h.nnxc", {"ase_nnxc": metadata(written)["ase_nnxc"]})
    assert "the SHA-256 of its header is missing" in refusal(tmp_path / "h.nnxc")


def test_file_of_the_format_without_digests_names_the_version_that_wrote_it(written, tmp_path):
    header = json.loads(metadata(written)["ase_nnxc"])
    del header["tensors"]
    header |= {"format": 1, "versions": {"ase_nnxc": "0.0.7", "torch": "2.0"}}
    save_file(load_file(written), tmp_path / "h.nnxc", {"ase_nnxc": json.dumps(header)})
    assert "has format 1, written by ase_nnxc 0.0.7; this version" in refusal(tmp_path / "h.nnxc")


@pytest.mark.parametrize(("name", "value"), [("txt", "stolen.txt"), ("device", "cpu")])
def test_file_chooses_neither_a_path_to_write_to_nor_a_device(written, tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    text = metadata(written)["ase_nnxc"].replace('"parameters": {', f'"parameters": {{"{name}": "{value}", ')
    save_file(load_file(written), tmp_path / "h.nnxc", {"ase_nnxc": text, "sha256": text_digest(text)})
    assert f"it sets {name}, which a file must not set" in refusal(tmp_path / "h.nnxc")
    assert not (tmp_path / "stolen.txt").exists()


def test_cut_lengthened_and_flipped_files_are_refused(written, tmp_path):
    rng, data = random.Random(13), written.read_bytes()
    spoilt = [data + b"0", data + data, data[8:]]
    spoilt += [data[: rng.randrange(len(data))] for _ in range(30)]
    for _ in range(60):
        place = rng.randrange(len(data))
        spoilt.append(data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :])
    for content in spoilt:
        (tmp_path / "h.nnxc").write_bytes(content)
        refusal(tmp_path / "h.nnxc")


def test_fifo_device_and_folder_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name, kind in (("fifo", "a FIFO"), ("zero", "a device file"), ("folder", "a folder")):
        assert f"cannot be read: it is {kind}, expected a regular file" in refusal(tmp_path / name)


def test_file_larger_than_the_memory_is_refused(tmp_path):
    with (tmp_path / "h.nnxc").open("wb") as file:
        file.truncate(2**43)  # sparse
    assert "more than the limit" in refusal(tmp_path / "h.nnxc")


def test_links_and_devices_are_not_replaced_by_a_restart_file(tmp_path):
    calculator = calculated(hydrogen(kpts=(1, 1, 1)))
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    kinds = {"link": "a symbolic link", "dangling": "a symbolic link", "fifo": "a FIFO", "folder": "a folder"}
    for name, kind in kinds.items():
        with pytest.raises(InputError, match=f"{name} cannot be written: it is {kind}.*which is not replaced"):
            calculator.write(tmp_path / name)
    assert (tmp_path / "target").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"target", *kinds}


def test_link_at_the_place_of_a_label_is_refused_before_the_calculation(tmp_path, monkeypatch):
    (tmp_path / "h.nnxc").symlink_to(tmp_path / "none")
    monkeypatch.setattr(NNXCCalculator, "_solve", None)
    with pytest.raises(InputError, match="cannot be written: it is a symbolic link"):
        calculated(hydrogen(kpts=(1, 1, 1), label=str(tmp_path / "h")))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none/h.nnxc", OSError, "h.nnxc cannot be written: .*No such file or directory"),
        ("", InputError, "cannot be written: it is a folder"),
        ("h\0", InputError, "cannot be written: embedded null"),
    ],
)
def test_path_that_cannot_be_written_is_named(written, tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        NNXCCalculator(restart=written).write(f"{tmp_path}/{name}")
    assert list(tmp_path.iterdir()) == []
