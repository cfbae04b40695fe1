"""Former import paths still work, with a warning that names the new one."""

import sys
from importlib import import_module

import pytest

from ase_nnxc._moved import MODULES


@pytest.mark.parametrize("former", MODULES)
def test_former_module_is_the_new_one(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{former} is now {MODULES[former]}"):
        module = import_module(former)
    assert module is import_module(MODULES[former])
    monkeypatch.delitem(sys.modules, former)


@pytest.mark.parametrize(
    ("module", "former", "new"),
    [
        ("ase_nnxc.train.trainer", "Settings", "ase_nnxc.train.trainer.TrainerSettings"),
        ("ase_nnxc.train.clone", "Settings", "ase_nnxc.train.clone.CloneSettings"),
        ("ase_nnxc.calculator.levels", "FixedDensity", "ase_nnxc.calculator.fixed_density.FixedDensity"),
        ("ase_nnxc.xc.functional", "Spins", "ase_nnxc.xc.spins.Spins"),
    ],
)
def test_former_name_is_the_new_one(module: str, former: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{module}.{former} is now"):
        value = getattr(import_module(module), former)
    place, name = new.rsplit(".", 1)
    assert value is getattr(import_module(place), name)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = import_module(module).absent
