"""What the readers of UPF and psp8 files share: the content of a file, its checks, and how it is tabulated."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.calculators.calculator import InputError
from ase.data import atomic_numbers

from .ion_charge import gaussian_charge_potential
from .protocol import Array, RecommendedCutoff
from .radial import RadialMesh, TabulatedFunction
from .tabulated import WIDTH, Tabulated, TabulatedChannel

COULOMB_TOLERANCE = 0.05  # electrons, of the local potential against -Z/r at the end of the mesh


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


def tabulate(content: FileContent, radial_cutoff: float, name: str) -> Tabulated:
    """Make a pseudopotential of the content of a file.

    Parameters
    ----------
    content : FileContent
        What the file holds.
    radial_cutoff : float
        Radius where all radial functions end, bohr, if the mesh does not end before.
    name : str
        Name of the result.

    Raises
    ------
    ValueError
        If the content makes no sense.
    """
    symbol, valence, angular, couplings = content.symbol, content.valence, content.angular, content.couplings
    _check_element(symbol, valence)
    mesh = RadialMesh.up_to(radial_cutoff, content.radii, content.spacing)
    size = len(mesh.radii)
    local, projectors = content.local[:size], [p[:size] for p in content.projectors]
    core, density = (None if f is None else f[:size] for f in (content.core, content.density))
    functions = [local, *projectors, *(f for f in (core, density) if f is not None)]
    _check_functions(mesh, functions)
    _check_coulomb(mesh, local, valence)
    if any(couplings[i, j] != 0 for i, a in enumerate(angular) for j, b in enumerate(angular) if a != b):
        raise ValueError("projectors of different angular momenta are coupled")
    digest = hashlib.sha256()
    for f in (mesh.radii, mesh.weights, *functions, couplings):
        digest.update(np.ascontiguousarray(f, dtype="<f8").tobytes())
    digest.update(repr((symbol, valence, list(angular), core is None, density is None)).encode())
    inner = np.maximum(mesh.radii, 1e-12)  # the first radius may be zero
    coulomb = gaussian_charge_potential(valence, WIDTH, inner)
    return Tabulated(
        symbol=symbol,
        number=atomic_numbers[symbol],
        valence=valence,
        configuration=content.configuration or valence_configuration(atomic_numbers[symbol], valence),
        channels=_channels(mesh, angular, projectors, couplings),
        remainder=TabulatedFunction(0, mesh, mesh.radii * (local - coulomb)),
        core=None if core is None else TabulatedFunction(0, mesh, mesh.radii * core),
        density=None if density is None else TabulatedFunction(0, mesh, density / inner),
        functional=content.functional,
        recommended_cutoff=None if content.ecut is None else RecommendedCutoff(content.ecut, "from the file"),
        digest=digest.hexdigest(),
        name=name,
    )


def _check_element(symbol: str, valence: int) -> None:
    if symbol not in atomic_numbers:
        raise ValueError(f"unknown element {symbol!r}")
    if not 0 < valence <= atomic_numbers[symbol]:
        raise ValueError(f"expected 1 to {atomic_numbers[symbol]} valence electrons for {symbol}, got {valence}")


def _check_functions(mesh: RadialMesh, functions: Sequence[Array]) -> None:
    if (np.diff(mesh.radii) <= 0).any():
        raise ValueError("the radii do not increase")
    if any(len(f) != len(mesh.radii) or not np.isfinite(f).all() for f in functions):
        raise ValueError("a radial function does not have one finite number for each radius")


def _check_coulomb(mesh: RadialMesh, local: Array, valence: int) -> None:
    """Raise ValueError unless the local potential is -Z/r at the end of the mesh."""
    end, value = mesh.radii[-1], local[-1]
    if abs(end * value + valence) > COULOMB_TOLERANCE:
        raise ValueError(f"the local potential at {end:.2f} bohr is {value:.4f} Ha, not -Z/r = {-valence / end:.4f} Ha")


def _channels(
    mesh: RadialMesh, angular: Sequence[int], projectors: Sequence[Array], couplings: Array
) -> tuple[TabulatedChannel, ...]:
    """Sort projectors and couplings by angular momentum."""
    channels = []
    for l in sorted(set(angular)):  # noqa: E741
        indices = [i for i, a in enumerate(angular) if a == l]
        h = couplings[np.ix_(indices, indices)]
        functions = tuple(TabulatedFunction(l, mesh, projectors[i]) for i in indices)
        channels.append(TabulatedChannel(l, functions, tuple(map(tuple, (0.5 * (h + h.T)).tolist()))))
    return tuple(channels)


def valence_configuration(number: int, valence: int) -> tuple[int, ...]:
    """Valence configuration of an atom by Madelung's rule.

    Parameters
    ----------
    number : int
        Atomic number.
    valence : int
        Number of valence electrons; the others fill the lowest shells, the core.

    Returns
    -------
    tuple of int
        Numbers of valence electrons in s, p, d, f.
    """
    pairs = [(n, angular) for n in range(1, 9) for angular in range(min(n, 4))]
    order = sorted(pairs, key=lambda shell: (sum(shell), shell[0]))  # by n + l, then by n
    shells, left = {}, number
    for shell in order:
        shells[shell] = min(left, 4 * shell[1] + 2)
        left -= shells[shell]
    core, filled = number - valence, [0] * 4
    for (_, angular), electrons in sorted(shells.items()):
        inner = min(core, electrons)
        core -= inner
        filled[angular] += electrons - inner
    return tuple(filled)


def fortran_number(word: str) -> float:
    """Convert a number as Fortran may write it, such as "1.0D-3"."""
    return float(word.strip().upper().replace("D", "E"))


def whole_valence(word: str, path: str) -> int:
    """Convert the charge of an ion core.

    Raises
    ------
    InputError
        If it is not an integer.
    """
    charge = fortran_number(word)
    if charge != round(charge):
        raise InputError(f"{path} has {charge} valence electrons; only integer numbers are supported")
    return round(charge)
