"""Targets: the quantities that a record may give for its structures, with their units and shapes.

This module does not load torch, so that the command line can use the names.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import InputError

from .schema import fail, integer, mapping, not_numbers, sequence, text

if TYPE_CHECKING:
    from ase import Atoms

TARGETS = {
    "energy": "eV",
    "reaction_energy": "eV",
    "forces": "eV/Angstrom",
    "stress": "eV/Angstrom^3",
    "volume": "Angstrom^3",
    "bulk_modulus": "eV/Angstrom^3",
    "density": "electrons/Angstrom^3",
    "density_on_points": "Angstrom, Angstrom^3, electrons/Angstrom^3",
    "density_matrix": "1",
    "band_gap": "eV",
}
"""Targets that a record may have, with their units.

energy (n,) free energies of the n structures; reaction_energy () sum of the record's coefficients times energies;
forces (natoms, 3) and stress (6,) of each structure, in ASE's form; volume () and bulk_modulus () at zero pressure, of
the cell of the structures; density (n1, n2, n3) of each structure, of the valence electrons on the points of the FFT
box; band_gap (n,), from the highest occupied to the lowest empty level.

With all electrons: density_on_points (npoints, 5) of each structure, where a row has the three coordinates of a point,
its integration weight and the density there; or (npoints, 6), with the density of each spin in place of their sum.
density_matrix (nao, nao) of each structure or, of each spin, (2, nao, nao), symmetric, in PySCF's order of basis
functions.
"""

PROPERTIES = ("energy", "forces", "stress", "density", "band_gap")
"""Targets that `ase_nnxc.train.records.label` calculates."""

ASE_PROPERTIES = ("energy", "forces", "stress")
"""Targets that any ASE calculator gives, and that files of ASE hold as results of each image."""

LARGEST = 1e12
"""Largest absolute value of a target."""

POSITIVE = ("volume", "bulk_modulus")
"""Targets that are positive."""

ARRAY_PER_STRUCTURE = ("forces", "density", "density_on_points", "density_matrix")
"""Targets with one array for each structure, as the shapes of these differ."""

ELECTRONS_ON_POINTS = 1e-2
"""Largest error of the number of electrons of a density on points, relative: that of a coarse grid."""

PACKED = ("density", "density_on_points", "density_matrix")
"""Targets whose arrays are large, see `_pack`."""

SYMMETRIC = 1e-6
"""Largest difference between an element of a density matrix and the transposed one, relative to the largest."""


def target_from_data(name: str, value: Any, structures: Sequence[Atoms]) -> np.ndarray | tuple[np.ndarray, ...]:
    """Return a target as a float64 array, or as a tuple of arrays if it has one for each structure.

    Parameters
    ----------
    name : str
        One of `TARGETS`.
    value : array_like or sequence of array_like
        Numbers, or the plain data that `target_to_data` returns.
    structures : sequence of Atoms
        The structures of the record.

    Raises
    ------
    InputError
        If the target is unknown, is not made of finite numbers, or has the wrong shape.
    """
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r} (known targets: {', '.join(TARGETS)})")
    try:
        arrays = (
            [
                _unpack(one, f"targets.{name}[{i}]")
                if isinstance(one, Mapping)
                else _array(one, f"targets.{name}[{i}]")
                for i, one in enumerate(value)
            ]
            if name in ARRAY_PER_STRUCTURE
            else [_array(value, f"targets.{name}")]
        )
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"target {name} must be made of numbers: {error}") from error
    expected, shapes = _expected_shapes(name, structures), [array.shape for array in arrays]
    if len(shapes) != len(expected) or not all(map(_matches, shapes, expected)):
        got, wanted = ", ".join(map(str, shapes)), ", ".join(map(_allowed, expected))
        raise InputError(f"target {name}: expected the shape {wanted or 'of no structure'}, got {got or 'none'}")
    if not all((abs(array) <= LARGEST).all() for array in arrays):
        raise InputError(f"target {name} must be finite, with absolute values of at most {LARGEST:g} {TARGETS[name]}")
    if name in POSITIVE and not arrays[0] > 0:
        raise InputError(f"target {name}={arrays[0]} must be positive")
    if name == "density_matrix" and not all(map(_is_symmetric, arrays)):
        raise InputError(f"target {name} must be made of square, symmetric matrices")
    return tuple(arrays) if name in ARRAY_PER_STRUCTURE else arrays[0]


def target_to_data(name: str, value: np.ndarray | Sequence[np.ndarray]) -> Any:
    """Return a target of a record as plain data, exact to the last bit."""
    if name in PACKED:
        return [_pack(array) for array in value]
    if name in ARRAY_PER_STRUCTURE:
        return [array.tolist() for array in value]
    assert isinstance(value, np.ndarray)
    return value.tolist()


_Shapes = tuple[tuple[int | None, ...], ...]
"""The shapes that an array may have; None stands for any length."""

_SHAPES: dict[str, _Shapes] = {
    "density": ((None, None, None),),
    "density_on_points": ((None, 5), (None, 6)),
    "density_matrix": ((None, None), (2, None, None)),
}


def _expected_shapes(name: str, structures: Sequence[Atoms]) -> list[_Shapes]:
    """Shapes that the arrays of a target may have."""
    n = len(structures)
    if name == "forces":
        return [((len(atoms), 3),) for atoms in structures]
    if name in _SHAPES:
        return [_SHAPES[name]] * n
    if name == "stress":
        return [((n, 6),)]
    return [((n,),)] if name in ("energy", "band_gap") else [((),)]


def _matches(shape: tuple[int, ...], allowed: _Shapes) -> bool:
    return any(
        len(shape) == len(expected) and all(b is None or a == b for a, b in zip(shape, expected))
        for expected in allowed
    )


def _allowed(shapes: _Shapes) -> str:
    """The shapes that an array may have, for a message."""
    return " or ".join(str(shape).replace("None", "any") for shape in shapes)


def _is_symmetric(matrices: np.ndarray) -> bool:
    """Whether matrices (..., n, n) are square and symmetric."""
    transposed = matrices.swapaxes(-1, -2)
    return matrices.shape == transposed.shape and bool(
        abs(matrices - transposed).max(initial=0) <= SYMMETRIC * abs(matrices).max(initial=0)
    )


def _pack(array: np.ndarray) -> dict[str, Any]:
    """Return a large array as plain data, exact to the last bit: little-endian float64 in base64."""
    return {"shape": list(array.shape), "base64": base64.b64encode(array.astype("<f8").tobytes()).decode()}


def _unpack(data: Mapping[str, Any], path: str) -> np.ndarray:
    """Return the array of the data that `_pack` returned."""
    mapping({"shape": sequence(integer(1), least=2), "base64": text}, ("shape", "base64"))(data, path)
    content = base64.b64decode(data["base64"], validate=True)
    if len(content) != 8 * math.prod(data["shape"]):
        raise InputError(
            f"{path}.base64: {len(content)} bytes are not numbers of 8 bytes in an array of the shape {data['shape']}"
        )
    return np.frombuffer(content, "<f8").reshape(data["shape"]).astype(float)


def _array(value: Any, path: str) -> np.ndarray:
    """Return an array of numbers; text and bool, which numpy would convert, are errors."""
    for wrong_path, wrong in not_numbers(value, path):
        fail(wrong_path, wrong, "expected a number")
    return np.array(value, float)
