"""Reader of UPF files, version 2, norm-conserving.

Format: https://pseudopotentials.quantum-espresso.org/home/unified-pseudopotential-format. Sections are found by their
tags, because many files are not well-formed XML.
"""

import re
from collections.abc import Mapping

import numpy as np
from ase.calculators.calculator import InputError

from .content import LARGEST_L, MOST_POINTS, FileContent
from .protocol import Array
from .reading import fortran_number, whole_valence

# Names of functionals in files, by the name of the family of tables ("pade" is LDA)
_FUNCTIONALS = {
    "pade": ("lda", "pz", "pw", "sla pz nogx nogc", "sla pw nogx nogc"),
    "pbe": ("sla pw pbe pbe", "sla pw pbx pbc"),
    "pbesol": ("sla pw psx psc",),
    "blyp": ("sla lyp b88 blyp", "b88 blyp"),
}
_KINDS = {"US": "ultrasoft", "USPP": "ultrasoft", "PAW": "a PAW data set", "1/R": "a bare Coulomb potential"}


def read_upf(text: str, path: str) -> FileContent:
    """Read the content of a UPF file, converted from Rydberg to Hartree atomic units.

    Parameters
    ----------
    text : str
        The file.
    path : str
        Its path, for messages.

    Raises
    ------
    InputError
        If the pseudopotential is of a kind or version that is not supported.
    ValueError
        If the file is damaged.
    """
    text = _without_info(text)
    if not re.search(r"<UPF\s+version\s*=\s*[\"']2\.", text):
        hint = " but of version 1; convert it with upfconv.x of Quantum ESPRESSO" if "<PP_HEADER>" in text else ""
        raise InputError(f"{path} is not a UPF file of version 2{hint}")
    if "</UPF>" not in text:
        raise ValueError("the file is not complete: its end </UPF> is missing")
    header, _ = _section(text, "PP_HEADER")
    _check_kind(path, header)
    valence = whole_valence(_attribute(header, "z_valence"), path)
    count = int(_attribute(header, "number_of_proj"))
    present = len(re.findall(r"<PP_BETA\.\d", text))
    if present != count:
        raise ValueError(f"the header states number_of_proj={count}, but the file has {present} projectors")
    radii = _field(text, "PP_R")
    points = int(header.get("mesh_size", len(radii)))
    if points != len(radii):
        raise ValueError(f"the header states mesh_size={points}, but PP_R has {len(radii)} numbers")
    betas = [_section(text, f"PP_BETA.{i + 1}") for i in range(count)]
    return FileContent(
        symbol=_attribute(header, "element").strip().capitalize(),
        valence=valence,
        radii=radii,
        spacing=_field(text, "PP_RAB"),
        local=0.5 * _field(text, "PP_LOCAL"),
        angular=[int(_attribute(attributes, "angular_momentum")) for attributes, _ in betas],
        projectors=[_numbers(f"PP_BETA.{i + 1}", body) for i, (_, body) in enumerate(betas)],  # r beta
        couplings=0.5 * _couplings(text, count),
        core=_core(text, header),
        density=_field(text, "PP_RHOATOM") / (4 * np.pi) if "PP_RHOATOM" in text else None,  # 4 pi r^2 n
        configuration=_configuration(text, valence),
        functional=_functional(_attribute(header, "functional")),
        # 0: none is known. rho_cutoff is a radius in ONCVPSP's files
        ecut=0.5 * fortran_number(header.get("wfc_cutoff", "0")) or None,
    )


def _without_info(text: str) -> str:
    """The file without its human-readable part, which may contain anything."""
    start = text.find("<PP_INFO")
    if start < 0:
        return text
    end = text.find("</PP_INFO>", start)
    if end < 0:
        raise ValueError("the section PP_INFO is incomplete: its end </PP_INFO> is missing")
    return text[:start] + text[end:]


def _section(text: str, tag: str) -> tuple[dict[str, str], str]:
    """Attributes and body of a section, found in a time that is proportional to the length of the file."""
    opening = re.search(rf"<{re.escape(tag)}(?=[\s/>])", text)
    close = -1 if opening is None else text.find(">", opening.end())
    if opening is None or close < 0:
        raise ValueError(f"the section {tag} is missing or incomplete")
    inside = text[opening.end() : close]
    if "</" in inside or "<PP_" in inside:
        raise ValueError(f"the section {tag} is incomplete: its opening tag has no end >")
    attributes = re.findall(r"(?<![\w-])([\w-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')", inside)
    values = {name: double or single for name, double, single in attributes}
    if inside.endswith("/"):
        return values, ""
    body, end, _ = text[close + 1 :].partition(f"</{tag}")
    if not end:
        raise ValueError(f"the section {tag} is missing or incomplete: its end </{tag}> is missing")
    return values, body


def _attribute(attributes: Mapping[str, str], name: str) -> str:
    if name not in attributes:
        raise ValueError(f"the attribute {name} is missing")
    return attributes[name]


def _field(text: str, tag: str) -> Array:
    """The numbers of a section."""
    return _numbers(tag, _section(text, tag)[1])


def _numbers(tag: str, body: str) -> Array:
    words = body.split(maxsplit=MOST_POINTS)
    if len(words) > MOST_POINTS:
        raise ValueError(f"the section {tag} has more than {MOST_POINTS} numbers")
    try:
        return np.array([fortran_number(word) for word in words])
    except ValueError as error:
        raise ValueError(f"the section {tag} does not contain only numbers: {error}") from None


def _core(text: str, header: Mapping[str, str]) -> Array | None:
    """The core density, bohr^-3."""
    if _is_true(header, "core_correction"):
        return _field(text, "PP_NLCC")
    if "PP_NLCC" in text:
        raise ValueError("the header states core_correction=F, but the file has a section PP_NLCC")
    return None


def _couplings(text: str, count: int) -> Array:
    """D_ij of `count` projectors (count, count), Rydberg."""
    numbers = _field(text, "PP_DIJ") if count else np.empty(0)
    if numbers.size != count**2:
        raise ValueError(f"PP_DIJ has {numbers.size} numbers, expected {count} x {count}")
    return numbers.reshape(count, count)


def _is_true(header: Mapping[str, str], name: str) -> bool:
    word = header.get(name, "F").strip().strip(".").upper()
    if word not in ("T", "TRUE", "F", "FALSE"):
        raise ValueError(f"the header states {name}={header[name]!r}, expected T or F")
    return word in ("T", "TRUE")


def _check_kind(path: str, header: Mapping[str, str]) -> None:
    """Raise InputError unless the pseudopotential is norm-conserving and without spin-orbit coupling."""
    kind = header.get("pseudo_type", "NC").strip().upper()
    refused = (
        "a PAW data set" if _is_true(header, "is_paw") else None,
        "ultrasoft" if _is_true(header, "is_ultrasoft") else None,
        "a bare Coulomb potential" if _is_true(header, "is_coulomb") else None,
        "relativistic with spin-orbit coupling" if _is_true(header, "has_so") else None,
        _KINDS.get(kind, None if kind in ("NC", "SL") else f"of type {kind}"),
        "semilocal, without projectors" if kind == "SL" else None,
    )
    for reason in filter(None, refused):
        raise InputError(f"{path} is {reason}; only norm-conserving pseudopotentials with projectors are supported")


def _configuration(text: str, valence: int) -> tuple[int, ...] | None:
    """Electrons in s, p, d, f from the atomic orbitals, if the occupations are integers and sum to the valence."""
    filled = [0.0] * 4
    for attributes in re.findall(r"<PP_CHI\.\d+\s([^<>]*)>", text):
        values = dict(re.findall(r"(?<!\w)(\w+)\s*=\s*\"([^\"]*)\"", attributes))
        angular = int(values.get("l", 0))
        if not 0 <= angular <= LARGEST_L:
            raise ValueError(f"an atomic orbital (PP_CHI) has l={angular}, expected 0 to {LARGEST_L}")
        filled[angular] += max(0.0, fortran_number(values.get("occupation", "0")))
    if sum(filled) != valence or any(f % 1 for f in filled):
        return None
    return tuple(int(f) for f in filled)


def _functional(name: str) -> str:
    """Family of tables for the name of a functional; the name itself if there is none."""
    words = " ".join(name.lower().replace("+", " ").replace("-", " ").split())
    return next((family for family, names in _FUNCTIONALS.items() if words in names), words)
