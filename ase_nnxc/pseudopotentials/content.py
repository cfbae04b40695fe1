"""What a file of a pseudopotential holds, and the checks of it that need no knowledge of the format."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers

from .protocol import Array

LARGEST_L = 3
"""Largest angular momentum of a projector."""

# Tolerances: files are printed with few digits, and their model densities have tails of rounding
SPACING_TOLERANCE = 0.02, 1e-4  # of dr/di against the radii: relative, and bohr
SYMMETRY_TOLERANCE = 1e-6  # of the couplings, against the largest
NEGATIVE_TOLERANCE = 1e-3  # of densities, against their maximum
SMOOTHNESS_TOLERANCE = 0.05  # of a number against its neighbours, relative to the largest
# of the electrons in the density of the atom, against the valence: PseudoDojo's files need 1e-9, and 2e-3 (Ca) if they
# are cut at 6 bohr, where other files end
NORM_TOLERANCE = 0.01
LONGEST_DECAY = 2.0  # bohr, of the density of an atom; alkali atoms have 1
LARGEST_CUTOFF = 1000.0  # Hartree
LARGEST_NUMBER = 1e12  # of a radial function
MOST_POINTS = 100_000
"""Largest number of points of a mesh, and of numbers in a section."""


@dataclass(frozen=True, eq=False)
class FileContent:
    """What a file holds, in Hartree atomic units, on the n points of its own mesh.

    Attributes
    ----------
    symbol : str
        Element.
    valence : int
        Charge of the ion core, electrons.
    radii, spacing : Array
        (n,) radii r and dr/di, bohr.
    local : Array
        (n,) local potential, Hartree.
    angular : sequence of int
        Angular momentum of each projector.
    projectors : sequence of Array
        (n,) r times each projector, bohr^(-1/2).
    couplings : Array
        (nproj, nproj) Hartree.
    core : Array or None
        (n,) core density, bohr^-3.
    density : Array or None
        (n,) r^2 times the valence density of the atom, bohr^-1.
    configuration : tuple of int or None
        Numbers of valence electrons in s, p, d, f.
    functional : str
        Functional for which it was generated, as families of tables are named.
    ecut : float or None
        Recommended plane-wave cutoff, Hartree.
    """

    symbol: str
    valence: int
    radii: Array
    spacing: Array
    local: Array
    angular: Sequence[int]
    projectors: Sequence[Array]
    couplings: Array
    core: Array | None
    density: Array | None
    configuration: tuple[int, ...] | None
    functional: str
    ecut: float | None


@np.errstate(all="ignore")  # whatever the numbers are, they end in a message
def check_content(content: FileContent) -> None:
    """Raise ValueError unless the content of a file is consistent; the message says what is wrong and what is expected.

    Counts, finiteness and smoothness of functions, the mesh against its spacing, symmetry of the couplings, signs and
    norm of densities, and ranges of the integers are checked.
    """
    symbol = content.symbol
    if symbol not in atomic_numbers or not atomic_numbers[symbol]:
        raise ValueError(f"unknown element {symbol!r}")
    if not 0 < content.valence <= atomic_numbers[symbol]:
        raise ValueError(
            f"expected 1 to {atomic_numbers[symbol]} valence electrons for {symbol}, got {content.valence}"
        )
    if content.ecut is not None and not 0 < content.ecut <= LARGEST_CUTOFF:
        raise ValueError(f"the recommended cutoff is {content.ecut} Ha, expected 0 to {LARGEST_CUTOFF:.0f} Ha")
    _check_mesh(content.radii, content.spacing)
    functions = _functions(content)
    for name, function in functions.items():
        _check_numbers(name, function, len(content.radii))
    _check_separable(content)
    if content.core is not None:
        _check_sign("core density", content.core)
    if content.density is not None:
        _check_sign("density of the atom", content.density)
        _check_norm(content.density, content.spacing, content.valence)
    for name, function in functions.items():
        _check_smoothness(name, function)


def _functions(content: FileContent) -> dict[str, Array]:
    """The radial functions by their names in messages."""
    optional = {"core density": content.core, "density of the atom": content.density}
    return {
        "local potential": content.local,
        **{f"projector {i + 1}": projector for i, projector in enumerate(content.projectors)},
        **{name: function for name, function in optional.items() if function is not None},
    }


def _check_mesh(radii: Array, spacing: Array) -> None:
    """The radii increase from zero or more, and the spacing is their derivative."""
    _check_numbers("mesh", radii, len(radii))
    _check_numbers("spacing dr/di (PP_RAB)", spacing, len(radii))
    if len(radii) < 3:
        raise ValueError(f"the mesh has {len(radii)} radii, expected 3 or more")
    if radii[0] < 0:
        raise ValueError(f"the first radius is {radii[0]:g} bohr, expected zero or more")
    if (np.diff(radii) <= 0).any():
        raise ValueError("the radii do not increase")
    expected = np.gradient(radii, edge_order=2)
    relative, absolute = SPACING_TOLERANCE
    wrong = (spacing < 0) | (np.abs(spacing - expected) > relative * np.abs(expected) + absolute)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"the spacing dr/di at radius {i + 1} is {spacing[i]:g} bohr, expected {expected[i]:g} bohr")


def _check_numbers(name: str, function: Array, points: int) -> None:
    if function.shape != (points,):
        raise ValueError(f"the {name} has {function.size} numbers, expected one for each of the {points} radii")
    wrong = ~(np.abs(function) < LARGEST_NUMBER)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"number {i + 1} of the {name} is {function[i]}, expected a finite number")


def _check_smoothness(name: str, function: Array) -> None:
    """Each number is close to (-f[i-2] + 4 f[i-1] + 4 f[i+1] - f[i+2]) / 6, the interpolation of its neighbours."""
    if len(function) < 5:
        return
    expected = (4 * (function[1:-3] + function[3:-1]) - function[:-4] - function[4:]) / 6
    deviations = np.abs(function[2:-2] - expected)
    i = int(np.argmax(deviations))
    if deviations[i] > SMOOTHNESS_TOLERANCE * np.abs(function).max():
        raise ValueError(
            f"the {name} is not smooth near its number {i + 3}: it is {function[i + 2]:g}, expected about "
            f"{expected[i]:g} from its neighbours"
        )


def _check_separable(content: FileContent) -> None:
    """Angular momenta are supported; the couplings are finite, symmetric, and within one angular momentum."""
    angular, couplings, count = content.angular, content.couplings, len(content.projectors)
    if len(angular) != count or couplings.shape != (count, count):
        raise ValueError(
            f"{count} projectors have {len(angular)} angular momenta and couplings of shape {couplings.shape}"
        )
    for l in angular:  # noqa: E741
        if not 0 <= l <= LARGEST_L:
            raise ValueError(f"a projector has the angular momentum {l}, expected 0 to {LARGEST_L}")
    if not (np.abs(couplings) < LARGEST_NUMBER).all():
        raise ValueError("the couplings D_ij of the projectors are not all finite numbers")
    if np.abs(couplings - couplings.T).max(initial=0) > SYMMETRY_TOLERANCE * np.abs(couplings).max(initial=0):
        raise ValueError("the couplings D_ij of the projectors are not symmetric")
    if any(couplings[i, j] != 0 for i, a in enumerate(angular) for j, b in enumerate(angular) if a != b):
        raise ValueError("projectors of different angular momenta are coupled")


def _check_sign(name: str, density: Array) -> None:
    lowest, highest = density.min(), density.max()
    if lowest < -NEGATIVE_TOLERANCE * highest or highest < 0:
        raise ValueError(f"the {name} is negative: its minimum is {lowest:.3g}, its maximum {highest:.3g}")


def _check_norm(density: Array, spacing: Array, valence: int) -> None:
    """The density r^2 n of the atom holds the valence electrons: 4 pi int r^2 n dr = Z."""
    electrons = 4 * np.pi * (float(density @ spacing) + _tail(density, spacing))
    if abs(electrons - valence) > NORM_TOLERANCE * valence:
        raise ValueError(f"the density of the atom has {electrons:.3f} electrons, expected {valence}")


def _tail(density: Array, spacing: Array) -> float:
    """The integral of r^2 n beyond the end of the mesh, where it decays as exp(-r / length)."""
    before, last = density[-2:]
    if not 0 < last < before:
        return 0.0
    length = spacing[-1] * last / (before - last)
    return float(last * min(length, LONGEST_DECAY))
