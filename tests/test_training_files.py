"""Training files: the forms of functionals, defaults, the page on them, and the examples that it quotes."""

import json
import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from ase.build import bulk
from ase.calculators.calculator import InputError
from ase.calculators.emt import EMT
from test_train import eos_record

from ase_nnxc.checkpoints import load_functional
from ase_nnxc.checkpoints.files import LARGEST, WEIGHTS
from ase_nnxc.cli import main
from ase_nnxc.conventional import CONVENTIONAL
from ase_nnxc.train.config import _CHECKS, read_config
from ase_nnxc.train.functionals import EXAMPLES, functional_from
from ase_nnxc.train.input_files import read_yaml
from ase_nnxc.train.records import (
    Record,
    cohesive_energy,
    experimental_solid,
    label,
    scaled_structures,
    write_records,
)
from ase_nnxc.train.samples import sample_mesh
from ase_nnxc.train.trainer import TrainerSettings
from ase_nnxc.xc import PBE, R2SCAN, Functional, describe, register_architecture
from ase_nnxc.xc.architecture import architecture_names

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "training-files.md").read_text(encoding="utf-8")
FILES = sorted(path for path in (REPOSITORY / "examples" / "training").glob("*.yaml") if path.stem != "calculator")
TINY = {"ecut": 150, "kpts": [2, 2, 2], "smooth_cutoff": True}


def trainable(functional):
    return {name for name, p in functional.named_parameters() if p.requires_grad}


# ---- forms


FORMS = [
    ("pbe-clone", "Sum", 707),
    ("nngga", "NNGGA", 353),
    ("NN_MGGA", "NNMGGA", 369),
    ("0.5*pbe-clone+0.5*PBE", "Sum", 707),
    ({"pbe-clone": None}, "Sum", 707),
    ({"PBE": {"trainable": ["kappa", "mu"]}}, "PBE", 2),
    ({"nngga": {"widths": [16], "seed": 1}}, "NNGGA", 81),
    ({"hybrid": ["nngga", "PBE"]}, "HybridXC", 355),
    ({"Hybrid": {"neural": "nnlda", "conventional": "r2SCAN", "a": 0.1, "trainable": False}}, "HybridXC", 337),
    ({"hybrid": ["pbe-clone", {"sum": [[0.5, "PBE"], [0.5, "pbesol"]]}]}, "HybridXC", 709),
    ({"sum": ["NeuralExchange", "gga_c_pbe"]}, "Sum", 321),
    ({"sum": [[0.5, "nnlda"], [0.5, "PBE"]]}, "Sum", 337),
    ({"constrained": "PBE"}, "Sum", 706),
    ({"constrained": {"parent": "r2SCAN", "seed": 2}}, "Sum", 1164),
    ({"constrained": {"parent": {"PBE": {"kappa": 0.7}}}}, "Sum", 706),
    ({"architecture": "PBE", "config": {"trainable": ["mu"]}}, "PBE", 1),
    (describe(PBE(trainable=("kappa",))), "PBE", 1),
    (
        {
            "architecture": "hybrid",
            "config": {"neural": {"architecture": "nngga", "version": 1}, "conventional": {"libxc": {"name": "blyp"}}},
        },
        "HybridXC",
        355,
    ),
]


@pytest.mark.parametrize(("form", "name", "count"), FORMS, ids=[str(form) for form, _, _ in FORMS])
def test_form_of_a_functional_is_read(form, name, count):
    functional = functional_from(form)
    assert type(functional).__name__ == name
    assert sum(p.numel() for p in functional.parameters() if p.requires_grad) == count


def test_network_of_a_hybrid_is_the_part_with_parameters_in_either_order():
    one, other = functional_from({"hybrid": ["nngga", "PBE"]}), functional_from({"hybrid": ["PBE", "nngga"]})
    assert describe(one) == describe(other)


def test_arguments_replace_those_of_the_named_functional():
    functional = functional_from({"pbesol": {"trainable": ["beta"], "kappa": 0.7}})
    assert (functional.kappa, functional.mu, functional.beta.item()) == (0.7, 10 / 81, 0.046)


@pytest.mark.parametrize(("name", "parent"), [("PBE", PBE()), ("r2SCAN", R2SCAN())])
def test_constrained_networks_begin_as_their_parent(name, parent):
    functional = functional_from({"constrained": {"parent": name}})
    features = sample_mesh(64).features
    assert torch.allclose(functional(features), parent(features), rtol=1e-12)


def test_path_of_a_checkpoint_is_relative_to_the_file(tmp_path):
    from ase_nnxc.checkpoints import save_functional

    save_functional(PBE(trainable=("mu",)), tmp_path / "models", name="own", description="own")
    assert trainable(functional_from("models/own@1", base=tmp_path)) == {"mu"}


@register_architecture("own-x-factor", 2)
class XFactor(Functional):
    """A functional of another package, with an argument that this package uses for something else."""

    def __init__(self, parent: str = "none", factor: float = 1.0) -> None:
        super().__init__()
        self.parent, self.factor = parent, torch.nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, features):
        return -self.factor * features["density"].sum(0) ** (4 / 3)

    def config(self):
        return {"parent": self.parent}


def test_architecture_of_another_package_has_a_short_form():
    assert functional_from({"Own_X_Factor": {"parent": "some text", "factor": 2}}).parent == "some text"
    with pytest.raises(InputError, match="own-x-factor has no argument 'factors'; did you mean 'factor'"):
        functional_from({"own-x-factor": {"factors": 2}})


WRONG = [
    ("nngg", "did you mean 'nngga'"),
    ("PBF", r"did you mean 'PBE'\? \(expected a form such as pbe-clone"),
    ("", "functional='': expected a string that is not empty"),
    ("hybrid", r"hybrid needs neural, conventional, as in {hybrid: \[nngga, PBE\]}"),
    ("constrained", "a constrained network needs a parent.*as in {constrained: {parent: PBE}}"),
    ("NeuralExchange", "'NeuralExchange' has no correlation: add it, as in {sum:"),
    ("models/none@1", "no such folder"),
    ("~nosuchuser/own@1", "functional='~nosuchuser/own@1': there is no such home folder"),
    (5, "functional=5: expected a form such as pbe-clone"),
    (["nngga", "PBE"], r"expected a form such as .*{hybrid: \[nngga, PBE\]}"),
    ({}, "must have one key; expected a form"),
    ({1: 2}, "expected a form"),
    ({"hybrid": ["nngga", "PBE"], "a": 1}, "the arguments of a functional belong to its name"),
    ({"hybird": ["nngga", "PBE"]}, "functional.hybird: unknown functional 'hybird'; did you mean 'hybrid'"),
    ({"hybrid": "nngga"}, "functional.hybrid='nngga': expected a mapping of arguments of hybrid"),
    ({"hybrid": ["nngga"]}, "expected two parts, as in {hybrid:"),
    ({"hybrid": ["nngga", "PBF"]}, r"functional.hybrid\[1\]: unknown functional xc='PBF'.*did you mean 'PBE'"),
    ({"hybrid": {"neural": "nngga"}}, "hybrid needs conventional"),
    ({"hybrid": {"neural": "nngga", "conventional": "PBE", "a": "x"}}, "functional.hybrid.a='x': must be"),
    ({"hybrid": ["NeuralExchange", "PBE"]}, "expected the same kind"),
    ({"sum": ["nngga", "PBE"]}, "exchange adds up to 2, correlation to 2"),
    ({"sum": []}, "expected at least 1 items"),
    ({"sum": [[1, 2, 3]]}, r"functional.sum\[0\]=\[1, 2, 3\]: expected a form, or a coefficient and a form"),
    ({"sum": [[math.nan, "PBE"]]}, "must be a finite number"),
    ({"constrained": {"parnt": "PBE"}}, "did you mean 'parent'"),
    ({"constrained": {"parent": "LDA"}}, "functional.constrained.parent='LDA': expected a functional of the PBE or"),
    ({"constrained": {"parent": "revPBE"}}, "exceeds the bound of lieb_oxford"),
    ({"constrained": {"parent": "PBE", "seed": -1}}, "functional.constrained.seed=-1: must be an integer, at least 0"),
    ({"PBE": ["kappa"]}, r"functional.PBE=\['kappa'\]: expected a mapping of arguments of PBE \(kappa, mu"),
    ({"PBE": {"trainable": "kappa"}}, r"functional.PBE.trainable='kappa': expected a list, such as \[kappa, mu\]"),
    ({"PBE": {"trainable": ["kapa"]}}, "expected some of kappa, mu, beta"),
    ({"PBE": {"trainable": [1]}}, r"functional.PBE.trainable\[0\]=1"),
    ({"PBE": {"kappa": 0}}, "kappa above zero"),
    ({"PBE": {"kappa": True}}, "functional.PBE.kappa=True: must be a finite number"),
    ({"PBE": {"kappa": math.inf}}, "functional.PBE.kappa=inf: must be a finite number"),
    ({"PBE": {"kappa": None}}, "functional.PBE.kappa=None: must be a finite number"),
    ({"nngga": 3}, "functional.nngga=3: expected a mapping of arguments"),
    ({"nngga": {"width": 16}}, r"did you mean 'widths'\? .*as in {nngga: {widths: \[16, 16\]}}"),
    ({"nngga": {"widths": 16}}, r"expected a list, such as \[16, 16\]"),
    ({"nngga": {"widths": [10**9]}}, "must be an integer, from 1 to 4096"),
    ({"nngga": {"seed": True}}, "functional.nngga.seed=True: must be an integer"),
    ({"nngga": {"activation": "relu"}}, "unknown activation 'relu'"),
    ({"nngga": {"descriptors": ["s"]}}, "unknown descriptor 's'"),
    ({"pbe-clone": {"seed": 1}}, "a model has no arguments"),
    ({"dpyscf": {"part": "x"}}, "dpyscf needs layers, gate, bound"),
    ({"r2SCAN": {"trainable": ["c"]}}, "r2SCAN has no trainable parameters; .* {neural-factors: {parent: r2SCAN}}"),
    ({"LDA": {"trainable": ["c"]}}, r"LDA has no trainable parameters; .* {hybrid: \[nnlda, LDA\]}"),
    ({"architecture": "pb"}, "did you mean 'pbe'"),
    ({"architecture": "pbe", "version": 3}, "only registered with version 1"),
    ({"architecture": 5}, "functional.architecture=5: expected a string"),
    ({"architecture": "pbe", "config": None}, "functional.config=None: expected a mapping"),
    ({"architecture": "hybrid", "config": {"neural": {"config": {}}}}, "hybrid needs conventional|unknown functional"),
]


@pytest.mark.parametrize(("form", "complaint"), WRONG, ids=[str(form) for form, _ in WRONG])
def test_wrong_form_is_refused_with_what_is_allowed(form, complaint):
    with pytest.raises(InputError, match=complaint) as raised:
        functional_from(form)
    assert "functional" in str(raised.value)


@pytest.mark.parametrize("name", [*CONVENTIONAL, *(n for n in architecture_names() if not n.startswith("test-"))])
def test_example_in_a_message_is_a_functional(name):
    with pytest.raises(InputError, match="as in ") as raised:
        functional_from({name: {"none": 1}} if name not in ("libxc", "dpyscf") else {name: {}})
    functional_from(yaml.safe_load(str(raised.value).partition("as in ")[2]))


# ---- defaults


def read(folder, **data):
    write_records(folder / "set.json", data.pop("made", [eos_record()]))
    path = folder / data.pop("file", "my-run.yaml")
    path.write_text(yaml.safe_dump({"functional": "pbe-clone", "records": "set.json", "models": "models", **data}))
    return read_config(path)


def names(run):
    return [objective.config()["name"] for objective in run.trainer.objectives]


def test_defaults_of_all_keys_but_two(tmp_path):
    run = read(tmp_path, objectives=None)  # a key without a value counts as absent
    assert (run.name, run.version, run.description) == ("my-run", 1, "Trained with nnxc train, my-run.")
    assert names(run) == ["energy_differences"]
    assert type(run.trainer.optimizer).__name__ == "Adam"
    assert run.trainer.optimizer.param_groups[0]["lr"] == 1e-3
    assert (run.trainer.scheduler, run.trainer.penalties) == (None, ())
    assert run.trainer.folder == tmp_path / "nnxc-train-my-run"


def test_name_of_the_file_that_is_no_name_of_a_model_asks_for_one(tmp_path):
    with pytest.raises(InputError, match=r"missing: name, as that of the file cannot be used.*add name: my-model"):
        read(tmp_path, file="My Run.yaml")


TARGETS = {
    "forces": label("forces", [bulk("Al", cubic=True)], EMT(), ("forces", "stress")),
    "reaction": cohesive_energy("reaction", bulk("Al"), 3.4),
    "volume": experimental_solid("volume", bulk("Al"), 4.05, 4.02),
    "modulus": experimental_solid("modulus", bulk("Al"), 4.05, 4.02, 79),
    "gap": Record("gap", (bulk("Si"),), {"band_gap": [0.6]}),
    "scan": eos_record("scan"),
}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["scan"], ["energy_differences"]),
        (["forces", "gap"], ["forces", "stress", "band_gap"]),
        (["volume"], ["lattice_constant"]),
        (["modulus"], ["lattice_constant", "bulk_modulus"]),
        (["scan", "reaction"], ["energy_differences", "reaction_energy"]),
    ],
)
def test_default_objectives_are_those_of_the_targets(tmp_path, chosen, expected):
    made = [TARGETS[name] for name in chosen]
    assert names(read(tmp_path, made=made, calculator={"pseudos": "gth-pbe"})) == expected


def test_single_energies_are_compared_per_atom_by_default(tmp_path):
    single = label("one", [bulk("Al")], EMT())
    with pytest.raises(InputError, match="align"):  # of another code
        read(tmp_path, made=[single], calculator=TINY)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"objectives": []}, "objectives: expected at least 1 items"),
        ({"objectives": {}}, "objectives: none is given"),
        ({"objectives": ["forces", "forces"]}, "a name is given twice"),
        ({"objectives": [["forces"]]}, r"objectives\[0\]=\['forces'\]: must be one of"),
        ({"objectives": {"energy_differences": 0}}, "objectives: all weights are 0, expected some above"),
        ({"objectives": ["energy_differences", "forces"]}, "objectives.forces: no record has its target"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr=0: nothing would be trained"),
        ({"objectives": 5}, "objectives=5: expected a string or a list or a mapping"),
        ({"penalties": "functional_anchor"}, "parent is missing, as in {functional_anchor: {parent: PBE"),
        ({"penalties": {"functional_anchor": {"parent": "gga_x_pbe"}}}, "parent: 'gga_x_pbe' has no correlation"),
        ({"penalties": {"bounds": {"weight": 1, "points": 3}}}, "unknown key penalties.bounds.points"),
        ({"optimizer": []}, r"optimizer=\[\]: expected a string or a mapping"),
        ({"optimizer": {"lr": None}}, "optimizer.lr=None: must be a number"),
        ({"scheduler": "ExponentialLR"}, "scheduler: ExponentialLR needs gamma"),
        ({"scheduler": {"gamma": 0.9}}, "scheduler.name is missing"),
        ({"settings": 5}, "settings=5: expected a mapping"),
        ({"calculator": {"pseudos": "none"}}, "no record can be calculated; record 'Al': unknown pseudopotential"),
        ({"calculator": {"kpts": 3}}, "calculator: kpts=3"),
        ({"calculator": TINY | {"nbands": 1}}, "record 'Al': nbands=1: 3 electrons need 2 at least"),
        ({"calculator": TINY | {"nbands": 99999}}, "record 'Al': nbands=99999: .* plane waves make .* at most"),
        ({"basis": "plane-waves"}, "basis: no file of records is in DeepChem's format"),
        ({"records": {"a": "b"}}, "records={'a': 'b'}: expected the name of a file of records"),
        ({"records": "empty.json"}, "records='empty.json' contains no records: expected some, as nnxc"),
        ({"validation": ["empty.json"]}, "validation='empty.json' contains no records"),
        ({"records": ["set.json", "set.json"]}, "records='set.json': 'set.json' has a record 'Al', too"),
        ({"records": "."}, r"records='.': .* cannot be read: it is a folder"),
        ({"records": "my-run.yaml"}, "records='my-run.yaml': .*my-run.yaml must contain a list of entries"),
        ({"records": "damaged.json"}, "records='damaged.json': .* is not JSON"),
        ({"records": "~nosuchuser/set.json"}, "records='~nosuchuser/set.json': there is no such home folder"),
        ({"models": "~nosuchuser/run"}, "models='~nosuchuser/run': there is no such home folder"),
        ({"made": [Record("Al", (bulk("Al"),), {})]}, "records: no record has a target to fit; targets are energy"),
        (
            {
                "made": [Record("Al", scaled_structures(bulk("Al"), 3), {"energy": [0, 1, 0]})],
                "objectives": "bulk_modulus",
            },
            "record 'Al': .* no minimum .* so that they give no bulk_modulus; leave the record out",
        ),
        ({"records": "none.json"}, "records='none.json': .*none.json does not exist; paths are relative"),
        ({"validation": "set.json"}, "two records of training and validation have the same name, 'Al'"),
        ({"epochs": 5}, "unknown key epochs: it belongs to settings"),
        ({"ecut": 5}, "unknown key ecut: it belongs to calculator"),
        ({"lr": 5}, "unknown key lr: it belongs to optimizer"),
        ({"functional": "PBE"}, "'PBE' has no trainable parameters; forms that have some are pbe-clone"),
    ],
    ids=str,
)
def test_wrong_value_is_refused_before_anything_is_calculated(tmp_path, changes, complaint):
    write_records(tmp_path / "empty.json", [])
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(InputError, match=complaint):
        read(tmp_path, **changes)
    assert not (tmp_path / "nnxc-train-my-run").exists()


@pytest.mark.parametrize("content", ["", "- functional: pbe-clone\n"])
def test_file_without_keys_is_refused_with_an_example(tmp_path, content):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(InputError, match=r"names to values; for example functional: pbe-clone and records: set.json"):
        read_config(tmp_path / "run.yaml")


def test_functional_whose_file_would_be_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(LARGEST, WEIGHTS, 1000)
    with pytest.raises(InputError, match=r"cannot be saved as a model .* bytes, more than the limit 1000"):
        read(tmp_path, functional="nngga")


def test_weights_and_rates_of_0_that_leave_something_to_train_are_accepted(tmp_path):
    run = read(
        tmp_path,
        objectives={"energy_differences": 0},
        penalties="bounds",
        optimizer={"lr": 0},
        scheduler={"name": "OneCycleLR", "max_lr": 0.01, "total_steps": 100},
    )
    assert [loss.weight for loss in (*run.trainer.objectives, *run.trainer.penalties)] == [0, 1]


def test_objective_that_only_the_validation_has_is_accepted(tmp_path):
    write_records(tmp_path / "other.json", [TARGETS["forces"]])
    run = read(tmp_path, validation="other.json", calculator={"pseudos": "gth-pbe"})
    assert names(run) == ["energy_differences", "forces", "stress"]


def test_lists_and_names_stand_for_default_arguments(tmp_path):
    run = read(
        tmp_path,
        objectives=["energy_differences"],
        penalties=["bounds", "parameter_anchor"],
        optimizer="AdamW",
        made=[eos_record()],
    )
    assert [penalty.weight for penalty in run.trainer.penalties] == [1.0, 1.0]
    assert type(run.trainer.optimizer).__name__ == "AdamW"


# ---- the page


def test_page_quotes_the_examples():
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    assert blocks[-6:-5] == [(REPOSITORY / "examples" / "training" / "calculator.yaml").read_text(encoding="utf-8")]
    assert sorted(blocks[-5:]) == sorted(path.read_text(encoding="utf-8") for path in FILES)
    calculator = read_yaml(REPOSITORY / "examples" / "training" / "calculator.yaml")
    assert all(read_yaml(path)["calculator"] == calculator for path in FILES)


def test_page_has_every_key_and_every_form():
    keys, settings = (section(title) for title in ("## Keys", "### Settings"))
    assert sorted(re.findall(r"^\| `(\w+)` \|", keys, re.M)) == sorted(_CHECKS)
    words = {"all records": None, "no limit": None}
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*?) \|$", settings, re.M)
    defaults = {name: words[text] if text in words else float(text) for name, text in rows}
    assert defaults == {field.name: field.default for field in fields(TrainerSettings)}
    forms = re.findall(r"^\| `functional: (.*?)` \|", PAGE, re.M)
    assert {*EXAMPLES} <= {*forms}
    for form in forms:
        functional_from(yaml.safe_load(form))
    (other_layers,) = re.findall(r"^functional: (\{sum: .*)$", PAGE, re.M)
    functional_from(yaml.safe_load(other_layers))


def section(title):
    """Return the text of the page between a title and the next."""
    return PAGE.split(f"\n{title}\n")[1].split("\n#")[0]


@pytest.mark.parametrize("form", ["constrained", "neural-factors"])
def test_parents_that_the_page_names(form):
    (row,) = re.findall(rf"^\| `functional: \{{{form}: .*$", PAGE, re.M)
    assert "parent: PBE, PBEsol, RPBE, SCAN or r2SCAN" in row
    for parent in ("PBE", "PBEsol", "RPBE", "SCAN", "r2SCAN"):
        functional_from({form: {"parent": parent}})
    with pytest.raises(InputError, match="exceeds the bound"):
        functional_from({form: {"parent": "revPBE"}})


def test_keys_that_may_have_no_value(tmp_path):
    run = read(tmp_path, settings={"batch": None, "clip": None, "patience": None}, calculator={**TINY, "maxiter": None})
    assert run.trainer.settings == TrainerSettings()
    with pytest.raises(InputError, match=r"settings\.epochs=None"):
        read(tmp_path, settings={"epochs": None})


# ---- the examples


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    (folder / "calculator.yaml").write_text(yaml.safe_dump(TINY))
    options = ["--xc", "PBEsol", "--points", "4", "--calculator", str(folder / "calculator.yaml")]
    assert main(["dataset", str(folder / "eos.json"), "Al", "Si", *options]) == 0
    zincblende = ["AlP", "--structure", "zincblende"]
    assert main(["dataset", str(folder / "validation.json"), *zincblende, *options]) == 0
    return folder


def tiny(path, folder, epochs=2, **changes):
    """Write an example with the smallest calculator and few epochs into the folder of its records."""
    data = read_yaml(path) | {"calculator": TINY} | changes
    data["settings"] = data["settings"] | {"epochs": epochs}
    (folder / path.name).write_text(yaml.safe_dump(data))
    return str(folder / path.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_example_trains(path, records):
    assert main(["train", tiny(path, records)]) == 0
    folder = read_yaml(path).get("folder", f"nnxc-train-{path.stem}")
    metrics = [json.loads(line) for line in (records / folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2]
    assert metrics[1]["loss"] < metrics[0]["loss"]
    trained = load_functional(records / "models" / f"{path.stem}@1")
    start = functional_from(read_yaml(path)["functional"])
    assert describe(trained)["architecture"] == describe(start)["architecture"]
    if path.stem == "validated":  # more epochs of the same run, saved as the next version
        assert main(["train", tiny(path, records, 3, version=2)]) == 0
        again = (records / folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in again[:2]] == metrics
        assert len(again) == 3
        assert (records / "models" / "validated@2").is_dir()
