"""Files of input: regular files only, and YAML that would hang, exhaust the memory, or be understood differently."""

import os
import time

import pytest
from ase.calculators.calculator import InputError

from ase_nnxc.train.input_files import LARGEST_YAML, read_text, read_yaml
from ase_nnxc.train.records import read_records

LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10))


def yaml_file(folder, text):
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("a: [" + "1," * 100_000 + "]", "more than 20000 values", id="long list"),
        pytest.param(LAUGHS, "more than 20000 values", id="alias bomb"),
        pytest.param(MERGES, "more than 20000 values", id="bomb of merges"),
        pytest.param("a: &a [*a]", "contains it", id="list in itself"),
        pytest.param("a: &a {b: {c: *a}}", "contains it", id="mapping in itself"),
        pytest.param("a: &a {<<: *a}", "contains it", id="merge of itself"),
        pytest.param("a: " + "[" * 100_000, "more than 20 nested values", id="deep list"),
        pytest.param("a: " + "{b: " * 25 + "1" + "}" * 25, "more than 20 nested values", id="deep mapping"),
        pytest.param("{a: 1, b: 2, a: 3}", "duplicate key 'a'", id="duplicate key"),
        pytest.param("a: {b: 1, 'b': 2}", "duplicate key 'b'", id="duplicate key below"),
        pytest.param("a: !!int abc", "not YAML", id="tag of an integer"),
        pytest.param("a: !!float ''", "not YAML", id="tag of an empty float"),
        pytest.param("a: !!timestamp x", "not YAML", id="tag of a date"),
        pytest.param("a: 2001-99-99", "not YAML", id="wrong date"),
        pytest.param("a: " + "1" * 5000, "not YAML", id="integer of 5000 digits"),
        pytest.param("a: *b", "not YAML", id="alias of nothing"),
        pytest.param("a: 1\n---\nb: 1", "not YAML", id="two documents"),
        pytest.param("? [a]\n: 1", "not YAML", id="list as a key"),
        pytest.param("1: a", "mapping of names", id="number as a key"),
        pytest.param("", "mapping of names", id="empty"),
        pytest.param(b"a: \xff", "not text in UTF-8", id="not UTF-8"),
        pytest.param("#" * (LARGEST_YAML + 1), "more than the limit 262144", id="too large"),
    ],
)
def test_yaml_that_would_hang_or_be_misunderstood_is_refused_at_once(tmp_path, text, complaint):
    path, start = yaml_file(tmp_path, text), time.perf_counter()
    with pytest.raises(InputError, match=complaint) as raised:
        read_yaml(path)
    assert "file.yaml" in str(raised.value)
    assert time.perf_counter() - start < 5


def test_aliases_and_merges_of_usual_files_are_read(tmp_path):
    text = "base: &base {ecut: 300, kpts: [2, 2, 2]}\nfine: {<<: *base, ecut: 1e3}\nagain: *base"
    base = {"ecut": 300, "kpts": [2, 2, 2]}
    assert read_yaml(yaml_file(tmp_path, text)) == {"base": base, "fine": base | {"ecut": 1000.0}, "again": base}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO on this system")
@pytest.mark.parametrize("name", ["set.json", "set.extxyz", "set.db", "set.traj", "run.yaml"])
def test_fifo_device_and_folder_are_refused_without_waiting(tmp_path, name):
    read = read_yaml if name == "run.yaml" else read_records
    (tmp_path / "fifo").mkdir()
    os.mkfifo(tmp_path / "fifo" / name)
    (tmp_path / name).symlink_to("/dev/zero")
    (tmp_path / "folder" / name).mkdir(parents=True)
    for path in (tmp_path / "fifo" / name, tmp_path / name, tmp_path / "folder" / name):
        with pytest.raises(InputError, match="expected a regular file"):
            read(path)


def test_link_to_a_regular_file_is_read(tmp_path):
    yaml_file(tmp_path, "a: 1")
    (tmp_path / "link").symlink_to("file.yaml")
    assert read_text(tmp_path / "link", 10) == "a: 1"
