"""Labels: records with targets that an ASE calculator has calculated."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, InputError, PropertyNotImplementedError

from ... import __version__
from ...calculator import NNXCCalculator
from ..targets import ASE_PROPERTIES, PROPERTIES
from .calculators import calculators_for
from .record import Provenance, Record
from .tables import digests_of_structures


def label(
    name: str,
    structures: Sequence[Atoms],
    calculator: Calculator,
    properties: Sequence[str] = ("energy",),
    coefficients: Sequence[float] | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
) -> Record:
    """Return a record with targets from an ASE calculator: free energies where it gives them, else energies.

    With an `NNXCCalculator` these are the records {R, L, E_tot} of arXiv:2602.15923, eq. 2, with the digests of the
    pseudopotentials; k-points, cutoff and FFT box are those of `calculators_for`, as in training.

    Parameters
    ----------
    name : str
        Name of the record.
    structures : sequence of Atoms
        One or more structures.
    calculator : Calculator
        Any ASE calculator.
    properties : sequence of {"energy", "forces", "stress", "density", "band_gap"}
        Properties to calculate; the last two need an `NNXCCalculator`.
    coefficients : sequence of float, optional
        Coefficients of a reaction; the record then has the target reaction_energy.
    settings : sequence of mapping, optional
        Settings of each structure, see `Record`; they need an `NNXCCalculator`.

    Raises
    ------
    InputError
        If a property is unknown, if density, band gap or settings are given with another calculator, or if a reaction
        is labelled without energies.
    """
    available = PROPERTIES if isinstance(calculator, NNXCCalculator) else ASE_PROPERTIES
    if not set(properties) <= set(available):
        raise InputError(
            f"properties={', '.join(properties)}: {type(calculator).__name__} gives only {', '.join(available)}"
        )
    if coefficients is not None and "energy" not in properties:
        raise InputError(f"properties={', '.join(properties)}: a reaction needs the property energy")
    record = Record(
        name,
        tuple(structures),
        {},
        None if coefficients is None else tuple(coefficients),
        settings=None if settings is None else tuple(settings),
    )
    calculators: Sequence[Calculator] = [calculator] * len(structures)
    tables: dict[str, str] = {}
    if isinstance(calculator, NNXCCalculator):
        calculators = ours = calculators_for(structures, calculator, record.settings)
        tables = digests_of_structures(structures, ours)
    elif settings is not None:
        raise InputError(f"record {name!r} has settings, which only NNXCCalculator accepts")
    targets: dict[str, Any] = {key: [] for key in properties}
    for atoms, calc in zip(record.structures, calculators):
        structure = atoms.copy()
        structure.calc = calc
        for key in properties:
            targets[key].append(_calculate(key, structure))
    if coefficients is not None:
        targets["reaction_energy"] = float(np.dot(coefficients, targets["energy"]))
    return replace(record, targets=targets, provenance=_provenance(calculator, tables))


def _calculate(key: str, atoms: Atoms) -> Any:
    """Return one of `PROPERTIES` from the calculator that is attached to the atoms."""
    calculator = atoms.calc
    if isinstance(calculator, NNXCCalculator) and key in ("density", "band_gap"):
        return getattr(calculator.differentiable(atoms), key).detach().cpu().numpy()
    if key != "energy":
        return calculator.get_property(key, atoms)
    try:
        return atoms.get_potential_energy(force_consistent=True)
    except PropertyNotImplementedError:  # this calculator has no free energy
        return atoms.get_potential_energy()


def _provenance(calculator: Calculator, tables: Mapping[str, str]) -> Provenance:
    settings = json.loads(json.dumps(calculator.todict(), default=str))
    ours = isinstance(calculator, NNXCCalculator)
    code = f"ase_nnxc {__version__}" if ours else type(calculator).__name__
    return Provenance(code, str(settings.get("xc", "unknown")), tables, settings)
