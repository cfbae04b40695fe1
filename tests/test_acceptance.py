"""Acceptance of a functional against its parent: `nnxc models certify`."""

import json

import pytest
from ase.calculators.calculator import InputError, SCFError

from ase_nnxc import get_functional
from ase_nnxc.cli import main
from ase_nnxc.train import acceptance
from ase_nnxc.train.acceptance import CHECKS, Outcome, accept
from ase_nnxc.xc import LDA, NNGGA, PBE


@pytest.mark.parametrize("names", [("conditions", "molecules"), pytest.param((), marks=pytest.mark.slow)])
def test_clone_is_accepted_in_place_of_its_parent(names):
    outcomes = accept(get_functional("pbe-clone"), PBE(), names)
    assert set(outcomes) == set(names or CHECKS)
    assert [o for found in outcomes.values() for o in found if not o.passed] == []


def test_network_that_breaks_the_bounds_is_not_accepted():
    [bounds] = accept(NNGGA(seed=1), PBE(), ["conditions"])["conditions"]
    assert bounds.value > bounds.parent == 0
    assert not bounds.passed


def test_steps_beyond_those_of_the_parent_are_not_accepted():
    assert acceptance._at_most("steps", (12.0, 10.0), factor=1.2).passed
    assert not acceptance._at_most("steps", (13.0, 10.0), factor=1.2).passed


def test_finished_checks_are_kept(tmp_path, monkeypatch):
    runs = []

    def check(functional, parent):
        runs.append(functional)
        yield Outcome("quantity", 1.0, 1.0, "1", True)

    monkeypatch.setitem(CHECKS, "check", check)
    first, second = (accept(PBE(), LDA(), ["check"], tmp_path / "checks.json") for _ in range(2))
    assert first == second
    assert len(runs) == 1


def test_check_without_convergence_fails(monkeypatch):
    def check(functional, parent):
        raise SCFError("no convergence in 3 steps")
        yield

    monkeypatch.setitem(CHECKS, "check", check)
    [outcome] = accept(PBE(), LDA(), ["check"])["check"]
    assert (outcome.quantity, outcome.passed) == ("no convergence in 3 steps", False)


def test_checks_of_another_functional_are_refused(tmp_path):
    accept(PBE(), LDA(), ["calibration"], tmp_path / "checks.json")
    with pytest.raises(InputError, match=r"checks\.json has checks of other functionals"):
        accept(LDA(), LDA(), ["calibration"], tmp_path / "checks.json")


def test_unknown_check_is_refused():
    with pytest.raises(InputError, match=r"unknown checks curvs: expected some of conditions"):
        accept(PBE(), LDA(), ["curvs"])


def test_command_prints_a_table_and_ends_with_one_if_a_check_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["models", "certify", "nnxc-solids", "--checks", "conditions", "calibration"]) == 1
    out = capsys.readouterr().out
    assert "normalised error, bulk_modulus" in out
    assert "2 failed; results are kept in nnxc-solids.acceptance.json" in out
    kept = json.loads((tmp_path / "nnxc-solids.acceptance.json").read_text())
    assert set(kept["checks"]) == {"conditions", "calibration"}


def test_command_asks_for_a_parent_that_the_card_does_not_have(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ase_nnxc.checkpoints.load_functional", lambda name: PBE())
    assert main(["models", "certify", "x"]) == 2
    assert "choose one with --parent" in capsys.readouterr().err
