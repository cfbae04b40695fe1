"""Reads pseudopotentials from files: UPF (version 2, norm-conserving) and psp8.

UPF: https://pseudopotentials.quantum-espresso.org/home/unified-pseudopotential-format; psp8: ABINIT's documentation of
pspcod 8. Sections of a UPF file are found by their tags, since many files are no well-formed XML.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase.calculators.calculator import InputError
from ase.data import atomic_numbers, chemical_symbols

from . import tabulated
from .protocol import Array, coulomb_in_space
from .tabulated import Mesh, Radial, Tabulated, TabulatedChannel

SUFFIXES = (".upf", ".psp8")
COULOMB = 0.05  # electrons; a local potential that is not -Z/r within this, where the mesh ends, is a mistake

# What the functionals of files are called as families of tables ("pade" is LDA): words of UPF, numbers of ABINIT
_FUNCTIONALS = {
    "pade": ("lda", "pz", "pw", "sla pz nogx nogc", "sla pw nogx nogc"),
    "pbe": ("sla pw pbe pbe", "sla pw pbx pbc"),
    "pbesol": ("sla pw psx psc",),
    "blyp": ("sla lyp b88 blyp", "b88 blyp"),
}
_IXC = {
    "pade": (1, 2, 3, 7, -1007, -1009, -1012),
    "pbe": (11, -101130),
    "pbesol": (-116133,),
    "blyp": (-106131,),
    "revpbe": (14, -102130),
    "rpbe": (15, -117130),
    "scan": (-263267,),
    "r2scan": (-497498,),
}


def read_pseudo(path: str | Path) -> Tabulated:
    """A pseudopotential from a file.

    Parameters
    ----------
    path : str or Path
        UPF, or psp8 by its suffix.

    Raises
    ------
    InputError
        If there is no such file, it is damaged, or of a kind that cannot be used (ultrasoft, PAW, spin-orbit coupling).
    """
    try:
        stamp = Path(path).stat()
    except OSError:
        raise InputError(f"there is no pseudopotential {str(path)!r}") from None
    return _read(str(path), stamp.st_mtime_ns, stamp.st_size, tabulated.CUTOFF)


@lru_cache(maxsize=256)
def _read(path: str, time: int, size: int, cutoff: float) -> Tabulated:
    """Read each file once in a process."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        return _read_psp8(text, path) if path.lower().endswith(".psp8") else _read_upf(text, path)
    except (ValueError, IndexError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: the file is damaged ({error})") from error


# ---- UPF -----------------------------------------------------------------------------------------------------------


def _read_upf(text: str, path: str) -> Tabulated:
    # the human readable part may hold anything
    text = re.sub(r"<PP_INFO>.*?</PP_INFO>", "", text, flags=re.DOTALL)
    if not re.search(r"<UPF\s+version\s*=\s*[\"']2\.", text):
        old = "; it is of version 1: QE's upfconv.x makes version 2 of it" if "<PP_HEADER>" in text else ""
        raise InputError(f"{path} is no UPF file of version 2{old}")
    header, _ = _section(text, "PP_HEADER")
    symbol = header["element"].strip().capitalize()
    _check_kind(path, header)
    radii, spacing = (_numbers(_section(text, tag)[1]) for tag in ("PP_R", "PP_RAB"))
    mesh = Mesh.within_cutoff(radii, spacing)
    size = len(mesh.radii)
    valence = _whole(header["z_valence"], path)

    def field(tag: str) -> Array:
        return _numbers(_section(text, tag)[1])[:size]

    # potentials and couplings are in Rydberg; projectors are r beta
    count = int(header["number_of_proj"])
    angular = [int(_section(text, f"PP_BETA.{i + 1}")[0]["angular_momentum"]) for i in range(count)]
    projectors = [field(f"PP_BETA.{i + 1}") for i in range(count)]
    couplings = 0.5 * _numbers(_section(text, "PP_DIJ")[1] if count else "").reshape(count, count)
    has_density = "<PP_RHOATOM" in text
    return _numeric(
        path=path,
        symbol=symbol,
        valence=valence,
        mesh=mesh,
        local=0.5 * field("PP_LOCAL"),
        angular=angular,
        projectors=projectors,
        couplings=couplings,
        core=field("PP_NLCC") if _is_true(header, "core_correction") else None,
        density=field("PP_RHOATOM") / (4 * np.pi) if has_density else None,  # 4 pi r^2 n
        configuration=_occupations(text, valence),
        functional=_family(header["functional"]),
        ecut=0.5 * _number(header.get("wfc_cutoff", "0")) or None,  # rho_cutoff is a radius in ONCVPSP's files
    )


def _section(text: str, tag: str) -> tuple[dict[str, str], str]:
    """Attributes and body of a section."""
    found = re.search(rf"<{re.escape(tag)}(?=[\s/>])([^>]*?)(?:/>|>(.*?)</{re.escape(tag)}\s*>)", text, re.DOTALL)
    if found is None:
        raise ValueError(f"it has no whole section {tag}")
    attributes = re.findall(r"([\w-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", found[1])
    return {name: one or other for name, one, other in attributes}, found[2] or ""


def _check_kind(path: str, header: Mapping[str, str]) -> None:
    """InputError unless the pseudopotential is norm-conserving and without spin-orbit coupling."""
    kind = header.get("pseudo_type", "NC").strip().upper()
    kinds = {"US": "ultrasoft", "USPP": "ultrasoft", "PAW": "a PAW data set", "1/R": "a bare Coulomb potential"}
    refused = (
        "a PAW data set" if _is_true(header, "is_paw") else None,
        "ultrasoft" if _is_true(header, "is_ultrasoft") else None,
        "a bare Coulomb potential" if _is_true(header, "is_coulomb") else None,
        "relativistic with spin-orbit coupling" if _is_true(header, "has_so") else None,
        kinds.get(kind, None if kind in ("NC", "SL") else f"of type {kind}"),
        "semilocal, without projectors" if kind == "SL" else None,
    )
    for what in filter(None, refused):
        raise InputError(f"{path} is {what}: only norm-conserving pseudopotentials with projectors can be used")


def _occupations(text: str, valence: int) -> tuple[int, ...] | None:
    """Electrons in s, p, d, f by the atomic orbitals of a UPF file, if they are whole and add up to the valence."""
    filled = [0.0] * 4
    for attributes in re.findall(r"<PP_CHI\.\d+\s([^>]*)>", text):
        values = dict(re.findall(r"(\w+)\s*=\s*\"([^\"]*)\"", attributes))
        filled[int(values.get("l", 0))] += max(0.0, _number(values.get("occupation", "0")))
    if sum(filled) != valence or any(f % 1 for f in filled):
        return None
    return tuple(int(f) for f in filled)


def _is_true(header: Mapping[str, str], name: str) -> bool:
    return header.get(name, "F").strip().strip(".").upper() in ("T", "TRUE")


def _family(functional: str) -> str:
    """Family of tables for what a UPF header calls its functional."""
    words = " ".join(functional.lower().replace("+", " ").replace("-", " ").split())
    return next((family for family, names in _FUNCTIONALS.items() if words in names), words)


# ---- psp8 ----------------------------------------------------------------------------------------------------------


def _read_psp8(text: str, path: str) -> Tabulated:
    lines = text.replace("D", "E").replace("d", "e").splitlines()
    head = [line.split() for line in lines[:6]]
    code, ixc, lmax, lloc, points = (int(word) for word in head[2][:5])
    if code != 8:
        raise InputError(f"{path} is of ABINIT's pspcod {code}: 8 can be read")
    if int(head[5][0]) > 1:
        raise InputError(f"{path} is relativistic with spin-orbit coupling: that cannot be used")
    has_core = _number(head[3][1]) > 0
    counts = [int(word) for word in head[4][: lmax + 1]]
    rest = iter(lines[6:])

    def block(columns: int) -> Array:
        return np.array([[float(x) for x in next(rest).split()[1 : 2 + columns]] for _ in range(points)])

    angular, projectors, couplings, (radii, local) = [], [], [], np.empty((2, 0))
    for channel in sorted({*(n for n, count in enumerate(counts) if count), lloc}):
        first, *energies = next(rest).split()
        if int(first) != channel:
            raise ValueError(f"the block of l = {channel} begins with {first}")
        if channel == lloc:
            radii, local = block(1).T
            continue
        angular += [channel] * counts[channel]
        couplings += [float(energy) for energy in energies[: counts[channel]]]
        projectors += list(block(counts[channel]).T[1:])
    core = block(1).T[1] / (4 * np.pi) if has_core else None
    mesh = Mesh.within_cutoff(radii, np.gradient(radii))
    size = len(mesh.radii)
    return _numeric(
        path=path,
        symbol=chemical_symbols[round(_number(head[1][0]))],
        valence=_whole(head[1][1], path),
        mesh=mesh,
        local=local[:size],
        angular=angular,
        projectors=[p[:size] for p in projectors],
        couplings=np.diag(couplings),
        core=None if core is None else core[:size],
        density=None,
        configuration=None,
        functional=next((family for family, numbers in _IXC.items() if ixc in numbers), f"ixc={ixc}"),
        ecut=None,
    )


# ---- both ----------------------------------------------------------------------------------------------------------


def _numeric(
    *,
    path: str,
    symbol: str,
    valence: int,
    mesh: Mesh,
    local: Array,
    angular: Sequence[int],
    projectors: Sequence[Array],
    couplings: Array,
    core: Array | None,
    density: Array | None,
    configuration: tuple[int, ...] | None,
    functional: str,
    ecut: float | None,
) -> Tabulated:
    """Put together what a file holds.

    All on the mesh: the local potential, Hartree, r times the projectors, bohr^(-1/2), the core density, bohr^-3, and
    r^2 times the density of the valence, bohr^-1; couplings (nproj, nproj) in Hartree.
    """
    radii = mesh.radii
    if symbol not in atomic_numbers or not 0 < valence <= atomic_numbers[symbol]:
        raise ValueError(f"{symbol!r} with {valence} valence electrons is no element")
    fields = [local, *projectors, *(f for f in (core, density) if f is not None)]
    if any(len(f) != len(radii) or not np.isfinite(f).all() for f in fields):
        raise ValueError("a radial function has not a number for each radius")
    if len(radii) < 5 or (np.diff(radii) <= 0).any():
        raise ValueError("the radii do not rise")
    if abs(radii[-1] * local[-1] + valence) > COULOMB:
        raise ValueError(f"at {radii[-1]:.2f} bohr the local potential is {local[-1]:.4f} Ha, not -Z/r")
    if any(couplings[i, j] != 0 for i, a in enumerate(angular) for j, b in enumerate(angular) if a != b):
        raise ValueError("projectors of different angular momenta are coupled")
    digest = hashlib.sha256()
    for f in (radii, mesh.weights, *fields, couplings):
        digest.update(np.ascontiguousarray(f, dtype="<f8").tobytes())
    digest.update(repr((symbol, valence, list(angular), core is None, density is None)).encode())
    inner = np.maximum(radii, 1e-12)
    coulomb = coulomb_in_space(valence, tabulated.WIDTH, inner)
    channels = []
    for l in sorted(set(angular)):  # noqa: E741
        own = [i for i, a in enumerate(angular) if a == l]
        h = couplings[np.ix_(own, own)]
        functions = tuple(Radial(l, mesh, projectors[i]) for i in own)
        channels.append(TabulatedChannel(l, functions, tuple(map(tuple, (0.5 * (h + h.T)).tolist()))))
    return Tabulated(
        symbol=symbol,
        number=atomic_numbers[symbol],
        valence=valence,
        configuration=configuration or _madelung(atomic_numbers[symbol], valence),
        channels=tuple(channels),
        remainder=Radial(0, mesh, radii * (local - coulomb)),
        core=None if core is None else Radial(0, mesh, radii * core),
        density=None if density is None else Radial(0, mesh, density / inner),
        functional=functional,
        ecut=ecut,
        digest=digest.hexdigest(),
        name=path,
    )


def _madelung(number: int, valence: int) -> tuple[int, ...]:
    """Electrons in s, p, d, f of an atom filled by Madelung's rule, less those of the lowest shells: the core."""
    order = sorted(((n, m) for n in range(1, 9) for m in range(min(n, 4))), key=lambda shell: (sum(shell), shell[0]))
    shells, left = {}, number
    for shell in order:
        shells[shell] = min(left, 4 * shell[1] + 2)
        left -= shells[shell]
    core, filled = number - valence, [0] * 4
    for (_, l), electrons in sorted(shells.items()):  # noqa: E741
        inner = min(core, electrons)
        core -= inner
        filled[l] += electrons - inner
    return tuple(filled)


def _numbers(body: str) -> Array:
    return np.array([_number(word) for word in body.split()])


def _number(word: str) -> float:
    """A number, as Fortran may write it."""
    return float(word.strip().upper().replace("D", "E"))


def _whole(word: str, path: str) -> int:
    """The valence charge."""
    charge = _number(word)
    if charge != round(charge):
        raise InputError(f"{path} has {charge} valence electrons: a whole number is needed")
    return round(charge)
