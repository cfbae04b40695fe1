"""Recommended plane-wave cutoffs: the shipped list for GTH tables, and the question asked of any pseudopotential."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

from ase.calculators.calculator import InputError

from .protocol import Pseudopotential, RecommendedCutoff

SOURCES: tuple[Literal["measured", "estimated"], ...] = ("measured", "estimated")  # the first that is listed counts


@cache
def _cutoffs() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Source -> element -> table -> Hartree."""
    return json.loads((files("ase_nnxc") / "data" / "cutoffs.json").read_text(encoding="utf-8"))


def listed_cutoff(symbol: str, name: str) -> RecommendedCutoff | None:
    """Return the cutoff of a GTH table in ase_nnxc/data/cutoffs.json, or None if the table is not listed.

    Parameters
    ----------
    symbol : str
        Element.
    name : str
        Full name of the table, such as "gth-pbe-q4".
    """
    for source in SOURCES:
        ecut = _cutoffs()[source].get(symbol, {}).get(name)
        if ecut is not None:
            return RecommendedCutoff(float(ecut), source)
    return None


def recommended_cutoff(pseudopotential: Pseudopotential) -> RecommendedCutoff:
    """Return the plane-wave cutoff that a pseudopotential needs, Hartree, and how it is known.

    "measured" and "estimated" cutoffs converge a lattice constant to 0.1 %. The first were obtained from lattice
    constants (benchmarks/measure_cutoffs.py). The second are the cutoffs at which the truncation error of the
    pseudo-atom's energy falls below a threshold common to all tables (benchmarks/estimate_cutoffs.py, which states the
    formula and its calibration). A cutoff "from the file" is the attribute wfc_cutoff of a UPF file; its accuracy is
    what the author of the file chose. A "generated" cutoff follows from the residual kinetic energy of the worst
    pseudo function (`oncv.generator.Generated.recommended_cutoff`).

    Raises
    ------
    InputError
        If no cutoff is known.
    """
    cutoff = pseudopotential.recommended_cutoff
    if cutoff is None:
        raise InputError(
            f"no recommended cutoff is known for the pseudopotential {pseudopotential.name} of "
            f"{pseudopotential.symbol}; specify ecut"
        )
    return cutoff
