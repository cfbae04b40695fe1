"""What the readers of UPF and psp8 files share: how the content of a file is tabulated, and how numbers are read."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from ase.calculators.calculator import InputError
from ase.data import atomic_numbers

from .content import FileContent, check_content
from .ion_charge import gaussian_charge_potential
from .protocol import Array, RecommendedCutoff
from .radial import RadialMesh, TabulatedFunction
from .tabulated import WIDTH, Tabulated, TabulatedChannel

COULOMB_TOLERANCE = 0.05  # electrons, of the local potential against -Z/r at the end of the mesh


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
        If the content is not consistent (see `check_content`), or its local potential is not -Z/r at the end.
    """
    symbol, valence, angular, couplings = content.symbol, content.valence, content.angular, content.couplings
    check_content(content)
    mesh = RadialMesh.up_to(radial_cutoff, content.radii, content.spacing)
    size = len(mesh.radii)
    local, projectors = content.local[:size], [p[:size] for p in content.projectors]
    core, density = (None if f is None else f[:size] for f in (content.core, content.density))
    functions = [local, *projectors, *(f for f in (core, density) if f is not None)]
    _check_coulomb(mesh, local, valence)
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


def _check_coulomb(mesh: RadialMesh, local: Array, valence: int) -> None:
    """Raise ValueError unless the local potential is -Z/r at the end of the mesh."""
    end, value = mesh.radii[-1], local[-1]
    if not abs(end * value + valence) <= COULOMB_TOLERANCE:
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
    if not math.isfinite(charge) or charge != round(charge):
        raise InputError(f"{path} has {charge} valence electrons; only integer numbers are supported")
    return round(charge)
