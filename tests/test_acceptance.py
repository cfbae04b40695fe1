"""Acceptance of a functional against its parent: `nnxc models certify`."""

import json
from types import SimpleNamespace

import pytest
from ase.calculators.calculator import InputError, SCFError

from ase_nnxc import get_functional
from ase_nnxc.atoms import AtomError
from ase_nnxc.cli import main
from ase_nnxc.pseudopotentials.oncv.errors import GenerationError
from ase_nnxc.train import acceptance
from ase_nnxc.train.acceptance import CHECKS, Outcome, run_checks
from ase_nnxc.xc import LDA, NNGGA, PBE


@pytest.mark.parametrize("names", [("conditions", "molecules"), pytest.param((), marks=pytest.mark.slow)])
def test_clone_is_accepted_in_place_of_its_parent(names):
    outcomes = run_checks(get_functional("pbe-clone"), PBE(), names)
    assert set(outcomes) == set(names or CHECKS)
    assert [o for found in outcomes.values() for o in found if o.passed is False] == []


def test_network_that_breaks_the_bounds_is_not_accepted():
    bounds, local = run_checks(NNGGA(seed=1), PBE(), ["conditions"])["conditions"]
    assert bounds.value > bounds.parent == 0
    assert bounds.passed is False
    assert (local.passed, local.accepted) == (None, "NNGGA has no separate correlation, which local conditions need")


def test_steps_beyond_those_of_the_parent_are_not_accepted(monkeypatch):
    counts = {"PBE": 13, "LDA": 10}

    def calculator(xc, name):
        state = SimpleNamespace(history=[None] * counts[type(xc).__name__])
        return SimpleNamespace(ground_state=lambda atoms: state)

    monkeypatch.setattr(acceptance, "_calculator", calculator)
    assert {o.passed for o in run_checks(PBE(), LDA(), ["steps"])["steps"]} == {False}
    assert {o.passed for o in run_checks(LDA(), PBE(), ["steps"])["steps"]} == {True}


def test_finished_checks_are_kept(tmp_path, monkeypatch):
    runs = []

    def check(functional, parent):
        runs.append(functional)
        yield Outcome("quantity", 1.0, 1.0, "1", True)

    monkeypatch.setitem(CHECKS, "check", check)
    first, second = (run_checks(PBE(), LDA(), ["check"], tmp_path / "checks.json") for _ in range(2))
    assert first == second
    assert len(runs) == 1


@pytest.mark.parametrize("error", [SCFError, GenerationError, AtomError])
def test_check_fails_if_a_calculation_does(monkeypatch, error):
    def check(functional, parent):
        yield Outcome("quantity", 1.0, 1.0, "1", True)
        raise error("no convergence")

    monkeypatch.setitem(CHECKS, "check", check)
    first, last = run_checks(PBE(), LDA(), ["check"])["check"]
    assert first.passed
    assert (last.quantity, last.value, last.passed) == ("no convergence", None, False)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"checks": {"grid": [{}]}}'])
def test_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "checks.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"checks\.json is not a file of finished checks"):
        run_checks(PBE(), LDA(), ["calibration"], path)
    assert path.read_text() == content


def test_file_that_cannot_be_written_is_an_error_before_any_check(tmp_path, monkeypatch):
    monkeypatch.setitem(CHECKS, "check", lambda functional, parent: pytest.fail("was run"))
    with pytest.raises(FileNotFoundError):
        run_checks(PBE(), LDA(), ["check"], tmp_path / "missing" / "checks.json")


def test_checks_of_another_functional_are_refused(tmp_path):
    run_checks(PBE(), LDA(), ["calibration"], tmp_path / "checks.json")
    with pytest.raises(InputError, match=r"checks\.json has checks of other functionals"):
        run_checks(LDA(), LDA(), ["calibration"], tmp_path / "checks.json")


def test_unknown_check_is_refused():
    with pytest.raises(InputError, match=r"unknown checks curvs: expected some of conditions"):
        run_checks(PBE(), LDA(), ["curvs"])


def test_command_prints_a_table_and_ends_with_one_if_a_check_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["models", "certify", "nnxc-solids", "--checks", "conditions", "calibration"]) == 1
    out = capsys.readouterr().out
    assert "normalised error, bulk_modulus" in out
    assert "1 failed; results are kept in nnxc-solids.acceptance.json" in out
    kept = json.loads((tmp_path / "nnxc-solids.acceptance.json").read_text())
    assert set(kept["checks"]) == {"conditions", "calibration"}


def test_command_asks_for_a_parent_that_the_card_does_not_have(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ase_nnxc.checkpoints.load_functional", lambda name: PBE())
    assert main(["models", "certify", "x"]) == 2
    assert "choose one with --parent" in capsys.readouterr().err
