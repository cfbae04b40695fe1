"""Checkpoints: written whole or not at all, found by name, the same functional again or an error that says why not."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.calculator import InputError
from safetensors.torch import load_file, save_file

import ase_nnxc
from ase_nnxc.checkpoints import (
    CheckpointError,
    files,
    list_models,
    load,
    load_functional,
    model_roots,
    read_card,
    roots,
    save,
    save_functional,
    write_index,
)
from ase_nnxc.registry import pseudo_family
from ase_nnxc.xc import LDA, PBE, Functional, HybridXC, Sum, UnknownArchitecture, register_architecture

SHIPPED = [f"{m.name}@{m.version}" for m in list_models() if m.origin == "package"]


@register_architecture("test-perceptron", 1)
class Perceptron(Functional):
    """E = -n^(4/3) (1 + net(n^(1/3))), with a buffer."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.net = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
        self.register_buffer("scale", torch.tensor(0.5))
        self.double()

    def forward(self, features):
        cbrt = features["density"].sum(0).clamp(min=1e-12).pow(1 / 3)
        return -(cbrt**4) * (1 + self.scale * self.net(cbrt[:, None])[:, 0])

    def config(self):
        return {"width": self.width}


class Unregistered(Perceptron):
    pass


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """The only folder of models beside the package's."""
    monkeypatch.setenv("NNXC_MODEL_PATH", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "ase_nnxc" / "models"


def perceptron(width=3, seed=0):
    torch.manual_seed(seed)
    return Perceptron(width)


@pytest.fixture
def folder(root):
    return save_functional(perceptron(), root, name="mine", description="A test.", pseudos="gth-pade")


POINTS = {"density": torch.tensor([[0.03, 0.2, 1e-9, 0.4], [0.01, 0.2, 0.0, 0.1]], dtype=torch.float64)}
POINTS["gradient"] = torch.linspace(-0.2, 0.3, 24, dtype=torch.float64).reshape(2, 3, 4)


def change_card(folder, without=(), **fields):
    card = json.loads((folder / "card.json").read_text()) | fields
    (folder / "card.json").write_text(json.dumps({k: v for k, v in card.items() if k not in without}))


def change_tensors(folder, change):
    """Change the tensors and make the hash in the card fit again."""
    file = folder / "functional.safetensors"
    save_file(change(load_file(file)), file)
    change_card(folder, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


# ---- there and back


@pytest.mark.parametrize(
    "functional",
    [
        perceptron(),
        PBE(mu=0.2),
        Sum([(0.25, perceptron(5)), (0.75, PBE())]),
        Sum([(1, PBE(part="x")), (1, HybridXC(LDA(part="c"), PBE(part="c"), a=0.1, b=0.7, trainable=False))]),
        HybridXC(perceptron(4), Sum([(0.5, LDA()), (0.5, PBE())]), a=0.3, b=1 / 3),
    ],
    ids=["network", "no tensors", "sum", "parts", "hybrid"],
)
def test_loaded_functional_is_the_saved_one_bit_by_bit(root, functional):
    save_functional(functional, root, name="mine", description="A test.")
    loaded = load_functional("mine")
    assert torch.equal(loaded(POINTS), functional(POINTS))
    assert type(loaded) is type(functional)
    assert loaded.state_dict().keys() == functional.state_dict().keys()
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in functional.named_parameters()}
    assert not loaded.training


def test_single_precision_functional_is_kept_in_double_precision(root):
    functional = perceptron().float()
    save_functional(functional, root, name="mine", description="A test.")
    assert {t.dtype for t in functional.state_dict().values()} == {torch.float32}
    assert {t.dtype for t in load_functional("mine").state_dict().values()} == {torch.float64}


def test_card_tells_what_was_saved(root):
    save_functional(
        perceptron(),
        root,
        name="mine",
        version=3,
        description="A test.",
        parent="LDA",
        training={"data": "Al", "seconds": 2.5},
        metrics={"error_mHa": 0.1},
        pseudos="gth-pade",
        licence="MIT",
        citation="nobody",
        text="Do not use it.",
    )
    card = load_functional("mine").card
    assert card == read_card("mine@3")
    expected = {"name": "mine", "version": 3, "kind": "xc", "features": ["density"], "parameters": 10, "parent": "LDA"}
    expected |= {"training": {"data": "Al", "seconds": 2.5}, "licence": "MIT", "pseudos": "gth-pade"}
    expected |= {"architecture": {"architecture": "test-perceptron", "version": 1, "config": {"width": 3}}}
    assert {key: card[key] for key in expected} == expected
    readme = (root / "mine@3" / "README.md").read_text()
    for text in ("# mine@3", "A test.", "Do not use it.", "| licence | MIT |", "- seconds: 2.5", "- error_mHa: 0.1"):
        assert text in readme


def test_loading_does_not_depend_on_the_grad_mode_outside(folder):
    with torch.inference_mode():
        loaded = load_functional("mine")
    loaded(POINTS).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_each_load_is_a_functional_of_its_own(folder):
    first, second = load_functional("mine"), load_functional("mine")
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert torch.equal(second(POINTS), perceptron()(POINTS))


# ---- writing


def test_written_versions_are_not_overwritten(folder, root):
    before = (folder / "card.json").read_bytes()
    with pytest.raises(FileExistsError, match="mine@1 exists"):
        save_functional(perceptron(seed=1), root, name="mine", description="Another.")
    assert (folder / "card.json").read_bytes() == before


@pytest.mark.parametrize(("module", "step"), [(save, "write_file"), (load, "run_self_test")])
def test_failure_while_writing_leaves_nothing(root, monkeypatch, module, step):
    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(OSError, match="disk full"):
        save_functional(perceptron(), root, name="mine", description="A test.")
    assert list(root.iterdir()) == []


def test_functional_that_is_not_finite_is_not_written(root):
    functional = perceptron()
    with torch.no_grad():
        functional.scale.fill_(torch.inf)
    with pytest.raises(CheckpointError, match="the energy density is not finite on all points"):
        save_functional(functional, root, name="mine", description="A test.")
    assert not root.exists()


def test_functional_that_its_config_does_not_make_again_is_not_written(root):
    functional = perceptron()
    functional.width = 4
    with pytest.raises(CheckpointError, match=r"not written, because mine@1 could not be loaded again: tensor net\.0"):
        save_functional(functional, root, name="mine", description="A test.")
    assert list(root.iterdir()) == []


def test_own_class_must_be_registered(root):
    with pytest.raises(UnknownArchitecture, match="Unregistered is not registered: decorate it with @register_arch"):
        save_functional(Unregistered(2), root, name="mine", description="A test.")


@pytest.mark.parametrize("name", ["", ".hidden", "Mine", "a/b", "../mine", "mine@2", "größe", "a b", "-a+b", "a\n"])
def test_names_of_other_letters_are_refused(root, name):
    with pytest.raises(CheckpointError, match="name"):
        save_functional(perceptron(), root, name=name, description="A test.")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metrics", {"error": float("nan")}),
        ("training", {"losses": [1.0, float("inf")]}),
        ("metrics", {"error": torch.tensor(1.0)}),
    ],
)
def test_card_of_anything_but_plain_finite_data_is_not_written(root, field, value):
    with pytest.raises(CheckpointError, match=f"not written: {field} must be plain data of finite numbers"):
        save_functional(perceptron(), root, name="mine", description="A test.", **{field: value})
    assert not root.exists()


def test_unknown_family_of_pseudopotentials_is_not_written(root):
    with pytest.raises(InputError, match=r"unknown pseudopotential family 'gth-pbf'.*did you mean 'gth-pbe'"):
        save_functional(perceptron(), root, name="mine", description="A test.", pseudos="gth-pbf")


def test_generated_pseudopotentials_are_written(root):
    functional = load_functional(save_functional(PBE(), root, name="mine", description="A test.", pseudos="oncv-PBE"))
    assert functional.card["pseudos"] == "oncv-PBE"
    assert pseudo_family(functional) == "pbe"


@pytest.mark.parametrize("version", [0, -1, True, "x", "1", 1.0, 1.5, np.int64(1)])
def test_versions_count_from_one(root, version):
    with pytest.raises(CheckpointError, match="version"):
        save_functional(perceptron(), root, name="mine", version=version, description="A test.")


# ---- finding


def test_bare_name_is_the_highest_version_of_the_first_root(root, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("NNXC_MODEL_PATH", f"{first}{os.pathsep}{tmp_path / 'absent'}{os.pathsep}{second}")
    for folder, version in ((first, 2), (first, 10), (second, 10), (second, 11), (root, 12)):
        save_functional(perceptron(), folder, name="mine", version=version, description=f"{folder.name} {version}")
    assert load_functional("mine").card["description"] == "first 10"
    assert load_functional("mine@10").card["description"] == "first 10"
    assert load_functional("mine@11").card["description"] == "second 11"
    assert load_functional("mine@12").card["description"] == "models 12"
    assert [(m.version, m.origin) for m in list_models() if m.name == "mine"] == [
        *((2, "path"), (10, "path"), (11, "path"), (12, "user"))
    ]


def ship(monkeypatch, folder):
    """Take a folder for the package's models."""
    monkeypatch.setattr(roots, "model_roots", lambda: [roots.Root("package", folder), *model_roots()[1:]])


def test_shipped_names_are_not_extended_elsewhere(root, tmp_path, monkeypatch):
    save_functional(perceptron(), tmp_path / "shipped", name="theirs", description="Shipped.")
    save_functional(perceptron(seed=1), root, name="theirs", version=2, description="Of a user.")
    write_index(tmp_path / "shipped")
    ship(monkeypatch, tmp_path / "shipped")
    assert load_functional("theirs").card["description"] == "Shipped."
    with pytest.raises(CheckpointError, match="no model 'theirs@2'; the models are theirs@1"):
        load_functional("theirs@2")
    assert [m.version for m in list_models() if m.name == "theirs"] == [1]
    assert load_functional(root / "theirs@2").card["description"] == "Of a user."


def test_shipped_models_must_be_in_the_index(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    for version in (1, 2):
        save_functional(perceptron(seed=version), shipped, name="theirs", version=version, description="Shipped.")
    write_index(shipped)
    change_card(shipped / "theirs@2", description="Changed.")
    save_functional(perceptron(), shipped, name="theirs", version=3, description="Not pinned.")
    ship(monkeypatch, shipped)
    assert load_functional("theirs@1").card["version"] == 1
    for name in ("theirs@2", shipped / "theirs@2"):
        with pytest.raises(CheckpointError, match=r"differ from those in the package's index\.json"):
            load_functional(name)
    with pytest.raises(CheckpointError, match=r"not listed in the package's index\.json"):
        load_functional("theirs@3")
    (shipped / "index.json").unlink()
    with pytest.raises(CheckpointError, match=r"index\.json is missing"):
        load_functional("theirs@1")


def test_card_of_a_shipped_model_is_checked_too(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    save_functional(perceptron(), shipped, name="theirs", description="Shipped.")
    write_index(shipped)
    ship(monkeypatch, shipped)
    assert read_card("theirs")["description"] == "Shipped."
    change_card(shipped / "theirs@1", description="Changed.")
    with pytest.raises(CheckpointError, match=r"differ from those in the package's index\.json"):
        read_card("theirs")


def test_what_is_compared_with_the_index_is_what_is_used(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    save_functional(perceptron(), shipped, name="theirs", description="Shipped.")
    write_index(shipped)
    ship(monkeypatch, shipped)
    reads = []
    read = files.read_file
    monkeypatch.setattr(files, "read_file", lambda path: reads.append(path.name) or read(path))
    load_functional("theirs")
    assert sorted(reads) == ["card.json", "functional.safetensors", "index.json"]


def test_damaged_models_are_not_pinned(folder, root):
    change_tensors(folder, lambda tensors: {})
    with pytest.raises(CheckpointError, match="has 0 numbers"):
        write_index(root)
    assert not (root / "index.json").exists()


def test_path_is_taken_as_a_path(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for path in (folder, str(folder), "./mine@1", f"../models/{folder.name}"):
        assert load_functional(path).card["name"] == "mine"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="no model 'mine@1'"):  # it lies in the working folder
        load_functional("mine@1")


def test_own_folder_is_found_by_the_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_functional("~/mine@1").card["name"] == "mine"


def test_folder_that_cannot_be_read_is_an_error(folder, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match=r"the folder of models .* cannot be read: Permission denied"):
        load_functional("mine")


def test_list_tells_of_good_and_damaged_models(folder, root):
    shutil.copytree(folder, root / "other@7")
    (root / "notes").mkdir()
    good, bad = (m for m in list_models() if m.origin == "user")
    assert (good.name, good.version, good.parameters, good.features, good.error) == ("mine", 1, 10, ("density",), None)
    assert (bad.name, bad.version, bad.kind) == ("other", 7, None)
    assert "card.json is that of mine@1" in bad.error


# ---- every way to fail


@pytest.mark.parametrize("name", ["", "..", "../mine", "mine@0", "mine@01", "mine@x", "mine@1@1", ".mine@1"])
def test_bare_names_do_not_leave_their_root(folder, name):
    with pytest.raises(CheckpointError, match=r"is not a name of a model|no such folder"):
        load_functional(name)


@pytest.mark.parametrize("name", ["Mine", "MINE@1"])
def test_case_does_not_matter(folder, name):
    assert load_functional(name).card == read_card(name) == read_card("mine")


@pytest.mark.parametrize("name", ["PBE", "r2scan", "lda-pz@1"])
def test_conventional_functional_is_no_checkpoint(name):
    called = {"PBE": "PBE", "r2scan": "r2SCAN", "lda-pz@1": "LDA-PZ"}[name]
    with pytest.raises(CheckpointError, match=f"^{called} is a conventional functional, not a checkpoint"):
        load_functional(name)


def test_unknown_model_is_an_error_with_the_known_ones(folder):
    with pytest.raises(CheckpointError, match=r"no model 'yours'; the models are .*mine@1"):
        load_functional("yours")


@pytest.mark.parametrize("name", ["./absent@1", "/absent/mine@1"])
def test_absent_folder(folder, name):
    with pytest.raises(CheckpointError, match=f"{Path(name).name}: no such folder"):
        load_functional(name)


@pytest.mark.parametrize("path", ["~no-such-user/mine@1", "a\0/mine@1"])
def test_path_that_is_none(path):
    with pytest.raises(CheckpointError, match="is not a valid path"):
        load_functional(path)


def test_folder_of_another_name(folder):
    folder.rename(folder.with_name("models"))
    with pytest.raises(CheckpointError, match="must be called name@version"):
        load_functional(folder.with_name("models"))


def test_card_of_another_name(folder):
    folder.rename(folder.with_name("mine@2"))
    with pytest.raises(CheckpointError, match=r"card\.json is that of mine@1"):
        load_functional("mine")


def test_linked_folder(folder, tmp_path):
    folder.rename(tmp_path / "mine@1")
    folder.symlink_to(tmp_path / "mine@1")
    with pytest.raises(CheckpointError, match="links are not followed"):
        load_functional("mine")


@pytest.mark.parametrize("name", ["card.json", "functional.safetensors"])
def test_linked_file(folder, tmp_path, name):
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: it is a symbolic link, expected a regular file"):
        load_functional("mine")


@pytest.mark.parametrize("name", ["card.json", "functional.safetensors"])
def test_file_that_is_a_fifo_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: it is a FIFO, expected a regular file"):
        load_functional("mine")


@pytest.mark.parametrize("name", ["card.json", "functional.safetensors"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_functional("mine")


@pytest.mark.parametrize("name", ["card.json", "functional.safetensors"])
def test_file_beyond_all_measure(folder, name):
    with (folder / name).open("r+b") as file:
        file.truncate(2**30)  # sparse
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: it has 1073741824 bytes, more than the limit"):
        load_functional("mine")


@pytest.mark.parametrize(
    "text", ["", "{", '{"format": 1', "[]", "\xff", '{"format": NaN}', "[" * 100_000, '{"format": 1e999}']
)
def test_damaged_card(folder, text):
    (folder / "card.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"card\.json is"):
        load_functional("mine")


def test_card_of_another_format(folder):
    change_card(folder, format=2)
    with pytest.raises(CheckpointError, match="of format 2, this version of ase_nnxc reads 1"):
        load_functional("mine")


@pytest.mark.parametrize("field", ["kind", "architecture", "parameters", "sha256", "self_test", "created"])
def test_card_without_a_field(folder, field):
    change_card(folder, without=[field])
    with pytest.raises(CheckpointError, match=f"has no field '{field}'"):
        load_functional("mine")


@pytest.mark.parametrize("fields", [{"version": "1"}, {"features": "density"}, {"training": []}, {"parameters": True}])
def test_card_with_a_field_of_another_type(folder, fields):
    change_card(folder, **fields)
    with pytest.raises(CheckpointError, match=f"card.json: {next(iter(fields))} is of type .*, expected"):
        load_functional("mine")


@pytest.mark.parametrize("fields", [{"features": [1]}, {"features": [["density"]]}, {"created": {"torch": 2}}])
def test_card_with_something_else_in_a_list_of_texts(folder, fields):
    change_card(folder, **fields)
    with pytest.raises(CheckpointError, match=f"card.json: {next(iter(fields))} must contain only text"):
        read_card("mine")


@pytest.mark.parametrize("fields", [{"kind": "x"}, {"features": ["density", "tau"]}, {"parameters": 9}])
def test_card_that_claims_what_the_functional_is_not(folder, fields):
    change_card(folder, **fields)
    with pytest.raises(CheckpointError, match=f"says {next(iter(fields))}"):
        load_functional("mine")


def test_card_that_claims_more_numbers_than_there_are(folder, monkeypatch):
    change_card(folder, parameters=10**12)
    monkeypatch.setattr(load, "build_functional", None)  # it is refused before
    with pytest.raises(CheckpointError, match="has 11 numbers, fewer than the 1000000000000 parameters"):
        load_functional("mine")


def test_changed_tensors(folder):
    file = folder / "functional.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="does not have the SHA-256 in the card"):
        load_functional("mine")


def test_truncated_tensors(folder):
    file = folder / "functional.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="does not have the SHA-256 in the card"):
        load_functional("mine")


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"\xff" * 8 + b"{}", b"\x02" + b"\x00" * 7 + b"{]"])
def test_file_that_is_no_safetensors(folder, data):
    (folder / "functional.safetensors").write_bytes(data)
    change_card(folder, sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(CheckpointError, match=r"functional\.safetensors is damaged"):
        load_functional("mine")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("protocol", [2, 4, 5, "zip", "legacy"])
def test_pickle_in_place_of_tensors_is_named_and_not_opened(folder, tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    file = folder / "functional.safetensors"
    if isinstance(protocol, int):
        file.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    else:
        torch.save(Bomb(), file, _use_new_zipfile_serialization=protocol == "zip")
    change_card(folder, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match=r"is a pickle or an archive of torch\.save"):
        load_functional("mine")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t | {"net.0.bias": torch.zeros(4, dtype=torch.float64)},
            r"net.0.bias is of shape \(4,\), expected \(3,\)",
        ),
        (lambda t: t | {"scale": t["scale"].float()}, "scale is of torch.float32, expected torch.float64"),
        (lambda t: {k: v for k, v in t.items() if k != "scale"}, "lacks the tensors scale"),
        (lambda t: t | {"more": t["scale"].clone()}, "has tensors that the architecture does not have: more"),
        (
            lambda t: t | {"scale": t["scale"] * (1 + 1e-8)},
            "failed self-test: the energy density has a relative error",
        ),
        (lambda t: t | {"scale": t["scale"] * torch.nan}, "failed self-test"),
    ],
    ids=["shape", "dtype", "missing", "extra", "value", "nan"],
)
def test_tensors_that_do_not_fit(folder, change, message):
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_functional("mine")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"architecture": "absent", "version": 1}, "'absent' version 1 is not registered.*@register_architecture"),
        ({"architecture": "pbee", "version": 1}, r"'pbee' version 1 is not registered \(did you mean 'pbe'\?\)"),
        ({"version": 2}, "version 2 is only registered with version 1"),
        ({"config": {"depth": 3}}, "cannot be built: TypeError"),
        ({"config": {"width": "wide"}}, "cannot be built"),
        ({"config": [3]}, "cannot be built"),
        ({"architecture": ["os", "system"]}, "cannot be built"),
    ],
)
def test_architecture_that_is_not_there(folder, architecture, message):
    described = json.loads((folder / "card.json").read_text())["architecture"]
    change_card(folder, architecture=described | architecture)
    with pytest.raises(CheckpointError, match=message):
        load_functional("mine")


def test_architecture_without_version(folder):
    change_card(folder, architecture={"architecture": "test-perceptron", "config": {"width": 3}})
    with pytest.raises(CheckpointError, match="cannot be built: KeyError"):
        load_functional("mine")


@pytest.mark.parametrize("output", ["energy", "density"])
def test_failed_self_test(folder, output):
    test = json.loads((folder / "card.json").read_text())["self_test"]
    values = torch.tensor(test["outputs"][output], dtype=torch.float64)
    test["outputs"][output] = (values * (1 + 3e-10)).tolist()
    change_card(folder, self_test=test)
    what = "the energy density" if output == "energy" else "the derivative by density"
    with pytest.raises(CheckpointError, match=f"failed self-test: {what} has a relative error of 3"):
        load_functional("mine")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({}, "cannot be run"),
        ({"inputs": {"density": [[0.1], [0.1]]}, "outputs": {}}, "not one output for each"),
        ({"inputs": {"density": [[0.1], [0.1]]}, "outputs": {"energy": [0.1, 0.2]}}, "not one output for each"),
        ({"inputs": {}, "outputs": {}}, "cannot be run"),
        ({"inputs": {"density": [[], []]}, "outputs": {"energy": [], "density": [[], []]}}, "has no inputs"),
        ({"inputs": {"density": [[0.1], [0.1, 0.2]]}, "outputs": {}}, "cannot be run"),
        ({"inputs": {"density": "0.1"}, "outputs": {}}, "cannot be run"),
        ({"inputs": [], "outputs": []}, "cannot be run"),
    ],
)
def test_self_test_that_tests_nothing(folder, test, message):
    change_card(folder, self_test=test)
    with pytest.raises(CheckpointError, match=message):
        load_functional("mine")


def test_errors_are_those_of_ase_and_name_the_folder(folder):
    (folder / "card.json").unlink()
    with pytest.raises(InputError, match=f"checkpoint {folder}: card.json is missing"):
        load_functional("mine")


# ---- what is shipped


def test_index_holds_what_is_shipped():
    root = model_roots()[0].folder
    index = json.loads((root / "index.json").read_text())
    assert sorted(index) == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_model_is_verified_and_told_of(name):
    card = load_functional(name).card
    for field in ("description", "training", "metrics", "pseudos", "licence"):
        assert card[field], f"the card of {name} has no {field}"
    assert (model_roots()[0].folder / name / "README.md").read_text().startswith(f"# {name}\n")


@pytest.mark.skipif(not SHIPPED, reason="no models are shipped yet")
def test_shipped_models_load_without_slow_imports():
    heavy = "{'scipy', 'pyscf', 'matplotlib', 'spglib', 'ase.io'}"
    code = f"""
import sys
from ase_nnxc.checkpoints import load_functional
for name in {SHIPPED}:
    load_functional(name)
print({heavy} & set(sys.modules) or "")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ase_nnxc.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_cards_are_read_and_models_listed_without_torch():
    code = """
import sys
from ase_nnxc.checkpoints import list_models, read_card
for model in list_models():
    read_card(f"{model.name}@{model.version}")
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ase_nnxc.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
