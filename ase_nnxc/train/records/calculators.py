"""Calculators for the structures of one record, with settings that make their energies comparable."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from ...calculator import NNXCCalculator
from ...registry import get_functional


def calculators_for(
    structures: Sequence[Atoms], calculator: NNXCCalculator, settings: Sequence[Mapping[str, Any]] | None = None
) -> list[NNXCCalculator]:
    """Return new calculators, one for each structure, with the functional and the parameters of another one.

    Pseudopotentials are those of `fixed_pseudos`. All get the highest of the cutoffs that they would get alone.
    Structures of the same atoms in different cells get the k-points of the largest cell, and its FFT box if they are
    periodic in three directions, so that their energies lie on one smooth curve. The settings of a structure take
    precedence over these.

    Parameters
    ----------
    structures : sequence of Atoms
        The structures of one record.
    calculator : NNXCCalculator
        The calculator to copy; it is not changed.
    settings : sequence of mapping, optional
        Settings of each structure, see `Record`.
    """
    settings = settings or [{}] * len(structures)
    parameters = calculator.parameters | {"pseudos": fixed_pseudos(calculator)}
    calculators = [NNXCCalculator(**parameters) for _ in structures]
    for calc, changes in zip(calculators, settings, strict=True):
        calc.set(**changes)
    if len(structures) == 1:
        return calculators
    first, indices = structures[0], list(range(len(structures)))
    one_crystal = all(np.array_equal(first.numbers, a.numbers) and np.array_equal(first.pbc, a.pbc) for a in structures)
    if one_crystal:
        indices = [max(indices, key=lambda i: _extent(structures[i]))]
    resolved = [calculators[i].resolve(structures[i]) for i in indices]
    common = {"ecut": max(parameters["ecut"] for parameters in resolved)}
    if one_crystal:
        names = ("kpts", "pseudos", "gpts") if first.pbc.all() else ("kpts", "pseudos")
        common |= {name: resolved[0][name] for name in names}
    for calc, changes in zip(calculators, settings):
        calc.set(**common | dict(changes))
    return calculators


def fixed_pseudos(calculator: NNXCCalculator) -> str | dict[str, str]:
    """Return `pseudos` of a calculator, with pseudopotentials that stay as they are when its functional changes.

    By default pseudopotentials are generated for the functional, and would change with it in a training. In their place
    are those generated for PBE, for LDA if the functional depends on the density only, and for r2SCAN if it depends on
    tau, which are those of all meta-GGAs.
    """
    features = set(get_functional(calculator.parameters["xc"]).features)
    default = "oncv-LDA" if features == {"density"} else "oncv-r2SCAN" if "tau" in features else "oncv-PBE"
    pseudos = calculator.parameters["pseudos"]
    if pseudos is None or isinstance(pseudos, str):
        return pseudos or default
    return {"default": default, **pseudos}


def _extent(atoms: Atoms) -> float:
    """Return the square of the volume or area of the periodic directions; one for a molecule."""
    periods = atoms.cell.array[atoms.pbc]
    return float(np.linalg.det(periods @ periods.T))
