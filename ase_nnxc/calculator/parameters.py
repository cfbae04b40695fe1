"""Parameters of NNXCCalculator: their defaults, the form in which they are kept, and the values that are allowed."""

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase.calculators.calculator import InputError

from ..pseudopotentials import check_pseudos, plain_pseudos
from ..ranks import Ranks
from .device import torch_device

DEFAULTS: dict[str, Any] = {
    "xc": "PBE",
    "ecut": None,
    "kpts": {"density": 4.0, "gamma": True},
    "smearing": {"name": "marzari-vanderbilt", "width": 0.2},
    "pseudos": None,
    "radial_cutoff": None,
    "spinpol": None,
    "charge": 0.0,
    "fixed_magmom": False,
    "hund": False,
    "nbands": None,
    "gpts": None,
    "symmetry": True,
    "smooth_cutoff": False,
    "convergence": {"energy": 1e-6},
    "maxiter": 200,
    "device": "auto",
    "share_kpoints": False,
    "txt": None,
}
LOCAL = frozenset({"txt", "device", "share_kpoints"})
"""Parameters that change no result and are not written to files."""

FORCES = 1e-3
"""Errors of forces, eV/Angstrom, with the default tolerance of the energy (benchmarks/scf_tolerance.py)."""

FINEST_FORCES = 1e-6  # eV/Angstrom, the smallest error that can be asked for
LARGEST_CUTOFF = 1e6  # eV
MOST_POINTS = 10**6  # of a k-point mesh

SMEARINGS = ("fermi-dirac", "gaussian", "marzari-vanderbilt", "methfessel-paxton")


def checked(name: str, value: Any) -> Any:
    """Return a private copy of the value of a parameter, as plain Python data where possible.

    Raises
    ------
    InputError
        If there is no parameter of this name, or if the value is not allowed. `xc` is checked when it is resolved.
    """
    if name not in DEFAULTS:
        raise InputError(f"unknown keyword {name!r}{closest(name, DEFAULTS)} (keywords: {', '.join(DEFAULTS)})")
    value = plain(plain_pseudos(value) if name == "pseudos" else value)
    if name in _CHECKS:
        _CHECKS[name](value)
    return value


def for_files(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that files hold: all but the local ones."""
    return {name: value for name, value in parameters.items() if name not in LOCAL}


def plain(value: Any) -> Any:
    """Return a copy of dicts and sequences, with numpy's arrays and numbers as lists and numbers of Python."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else value


def closest(name: object, known: Iterable[str]) -> str:
    """Return a question that names the closest match, to append to a message; empty if nothing is close."""
    matches = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def are_counts(value: Any) -> bool:
    """Whether a value is a sequence of three positive integers."""
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_count, value))


def are_points(value: Any) -> bool:
    """Whether a value is a sequence of one or more triples of numbers."""
    rows = value if isinstance(value, list | tuple) else ()
    return len(rows) > 0 and all(isinstance(r, list | tuple) and len(r) == 3 and all(map(_is_number, r)) for r in rows)


def check_mesh(size: Sequence[int]) -> None:
    """Raise InputError if a mesh has more k-points than any calculation needs."""
    points = math.prod(map(int, size))
    if points > MOST_POINTS:
        raise InputError(f"kpts: a mesh of {points} points, at most {MOST_POINTS} are allowed; choose fewer")


def check_nbands(value: Any) -> None:
    """Raise InputError unless the value is None or a positive integer."""
    _count("nbands", optional=True)(value)


def check_versions(versions: Any, functional: str) -> None:
    """Raise InputError unless the description of the functional is that in the versions of `todict`."""
    if not isinstance(versions, Mapping):
        raise InputError(f"versions={versions!r}: expected a dict as `todict` returns it")
    if versions.get("functional", functional) != functional:
        raise InputError(f"the parameters were written with {versions['functional']}, but here it is {functional}")


# ---- checks of single parameters -------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _count(name: str, optional: bool = False) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not (optional and value is None) and not _is_count(value):
            raise InputError(f"{name}={value!r}: expected a positive integer")

    return check


def _flag(name: str, optional: bool = False) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not (isinstance(value, bool) or (optional and value is None)):
            raise InputError(f"{name}={value!r}: expected True or False")

    return check


def _check_ecut(ecut: Any) -> None:
    if ecut is not None and not (_is_number(ecut) and 80 <= ecut <= LARGEST_CUTOFF):
        raise InputError(
            f"ecut={ecut!r}: expected a number, at least 80 and at most {LARGEST_CUTOFF:.0f}; ecut is in eV "
            "(20 Ha is 544 eV)"
        )


def _check_kpts(kpts: Any) -> None:
    if not isinstance(kpts, dict):
        if are_counts(kpts):
            check_mesh(kpts)
        elif not are_points(kpts):
            raise InputError(f"kpts={kpts!r}: expected three positive integers, a dict, or an array (nk, 3)")
        return
    if set(kpts) - {"size", "density", "gamma", "even"} or ("size" in kpts) == ("density" in kpts):
        raise InputError(f"kpts={kpts!r}: the dict must have the key size or density, and may have gamma and even")
    if "density" in kpts and not (_is_number(kpts["density"]) and kpts["density"] > 0):
        raise InputError(f"kpts={kpts!r}: the density must be a positive number, in points per inverse Angstrom")
    if "size" in kpts:
        if not are_counts(kpts["size"]):
            raise InputError(f"kpts={kpts!r}: the size must be three positive integers")
        check_mesh(kpts["size"])
    for key in ("gamma", "even"):
        _flag(f"{key} of kpts", optional=True)(kpts.get(key))


def _check_smearing(smearing: Any) -> None:
    if not isinstance(smearing, dict) or set(smearing) != {"name", "width"}:
        raise InputError(f"smearing={smearing!r}: expected a dict with the keys name and width (eV)")
    name, width = smearing["name"], smearing["width"]
    if name not in SMEARINGS:
        raise InputError(f"unknown smearing {name!r}{closest(name, SMEARINGS)} (known: {', '.join(SMEARINGS)})")
    if not (_is_number(width) and 1e-4 <= width <= 10):
        raise InputError(f"smearing width {width!r}: expected a number from 0.0001 to 10, in eV (300 K is 0.026 eV)")


def _check_radial_cutoff(radius: Any) -> None:
    if radius is not None and not (_is_number(radius) and radius > 0):
        raise InputError(f"radial_cutoff={radius!r}: expected a positive number, in Angstrom")


def _check_charge(charge: Any) -> None:
    if not _is_number(charge):
        raise InputError(f"charge={charge!r}: expected a number of elementary charges (+1 is a cation)")


def _check_fixed_magmom(fixed: Any) -> None:
    if not (isinstance(fixed, bool) or _is_number(fixed)):
        raise InputError(f"fixed_magmom={fixed!r}: expected True, False or a number of Bohr magnetons")


def _check_gpts(gpts: Any) -> None:
    if gpts is not None and not are_counts(gpts):
        raise InputError(f"gpts={gpts!r}: expected three positive integers")


def energy_tolerance(convergence: Mapping[str, float]) -> float:
    """Return the tolerance of the energy, eV per valence electron, for the `convergence` that is asked for.

    Errors of forces are of first order in that of the density, errors of the energy of second order.
    """
    tolerances = {**convergence}
    if "forces" in tolerances:
        tolerances["forces"] = DEFAULTS["convergence"]["energy"] * (convergence["forces"] / FORCES) ** 2
    return min(tolerances.values())


def _check_convergence(convergence: Any) -> None:
    if not isinstance(convergence, dict) or not convergence or not set(convergence) <= {"energy", "forces"}:
        raise InputError(
            f"convergence={convergence!r}: expected a dict with the keys energy (eV per valence electron) or forces "
            "(eV/Angstrom), or both"
        )
    if not all(map(_is_number, convergence.values())):
        raise InputError(f"convergence={convergence!r}: expected numbers")
    if not 0 < convergence.get("energy", DEFAULTS["convergence"]["energy"]) < 1:
        raise InputError(
            f"convergence={convergence!r}: the energy must be positive and below 1, in eV per valence electron"
        )
    if not FINEST_FORCES <= convergence.get("forces", FORCES) < 1:
        raise InputError(
            f"convergence={convergence!r}: the forces must be at least {FINEST_FORCES:g} and below 1, in eV/Angstrom"
        )


def _check_device(device: Any) -> None:
    if device != "auto":
        torch_device(device)


def _check_share_kpoints(share: Any) -> None:
    if not isinstance(share, bool | Ranks):
        raise InputError(f"share_kpoints={share!r}: expected True, False, or a group of ranks (`Ranks.split`)")


def _check_txt(txt: Any) -> None:
    if txt is not None and not isinstance(txt, str | os.PathLike) and not hasattr(txt, "write"):
        raise InputError(f"txt={txt!r}: expected None, '-', a path or an open file")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "ecut": _check_ecut,
    "kpts": _check_kpts,
    "smearing": _check_smearing,
    "pseudos": check_pseudos,
    "radial_cutoff": _check_radial_cutoff,
    "spinpol": _flag("spinpol", optional=True),
    "charge": _check_charge,
    "fixed_magmom": _check_fixed_magmom,
    "hund": _flag("hund"),
    "nbands": check_nbands,
    "gpts": _check_gpts,
    "symmetry": _flag("symmetry"),
    "smooth_cutoff": _flag("smooth_cutoff"),
    "convergence": _check_convergence,
    "maxiter": _count("maxiter"),
    "device": _check_device,
    "share_kpoints": _check_share_kpoints,
    "txt": _check_txt,
}
