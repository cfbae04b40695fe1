"""The search for the space group; warnings are errors here, so these tests also catch those of spglib."""

import os

import numpy as np
import pytest
import spglib
from ase.build import bulk

from ase_nnxc.ks.space_group import SymmetrySearchError, search_space_group

TOO_CLOSE = (np.eye(3) * 5, np.array([[0, 0, 0], [0, 0, 1e-9]]), np.array([1, 1]), 1e-5)


def test_search_finds_the_space_group_without_a_warning():
    silicon = bulk("Si")
    group = search_space_group(silicon.cell[:], silicon.get_scaled_positions(), silicon.numbers, 1e-5)
    assert group.number == 227
    assert group.rotations.shape == (48, 3, 3)


def test_failed_search_raises_with_the_reason_of_spglib():
    with pytest.raises(SymmetrySearchError, match="too close"):
        search_space_group(*TOO_CLOSE)


@pytest.mark.parametrize("setting", [None, "true", "false"])
def test_search_neither_reads_nor_changes_the_global_switch_of_spglib(monkeypatch, setting):
    if setting is None:
        monkeypatch.delenv("SPGLIB_OLD_ERROR_HANDLING", raising=False)
    else:
        monkeypatch.setenv("SPGLIB_OLD_ERROR_HANDLING", setting)
    before = getattr(getattr(spglib, "error", None), "OLD_ERROR_HANDLING", None)
    with pytest.raises(SymmetrySearchError, match="too close"):
        search_space_group(*TOO_CLOSE)
    assert os.environ.get("SPGLIB_OLD_ERROR_HANDLING") == setting
    assert getattr(getattr(spglib, "error", None), "OLD_ERROR_HANDLING", None) == before


def test_malformed_input_is_an_error_and_not_a_failed_search():
    with pytest.raises(TypeError, match="lattice"):
        search_space_group(np.eye(2), np.zeros((1, 3)), np.array([1]), 1e-5)
