"""Digests of pseudopotentials, by which absolute energies and densities of two sources can be compared."""

from collections.abc import Sequence

from ase import Atoms

from ...calculator import NNXCCalculator
from .calculators import calculators_for
from .record import Record


def digests_of_structures(structures: Sequence[Atoms], calculators: Sequence[NNXCCalculator]) -> dict[str, str]:
    """Return the digest of the pseudopotential of each element in structures, each with its calculator."""
    digests: dict[str, str] = {}
    for atoms, calculator in zip(structures, calculators):
        digests |= calculator.pseudopotential_digests(atoms)
    return digests


def digests_of_record(record: Record, calculator: NNXCCalculator) -> dict[str, str]:
    """Return the digest of the pseudopotential of each element that a calculator uses for a record; none in PySCF."""
    if record.is_all_electron:
        return {}
    calculators = calculators_for(record.structures, calculator, record.settings)
    return digests_of_structures(record.structures, calculators)


def other_table(record: Record, calculator: NNXCCalculator) -> str | None:
    """Return an element whose pseudopotential in the record's targets is unknown or not the calculator's, if any.

    Neither side has one if all electrons are calculated.
    """
    theirs, ours = record.provenance.tables, digests_of_record(record, calculator)
    symbols = sorted({symbol for atoms in record.structures for symbol in atoms.symbols})
    return next((symbol for symbol in symbols if theirs.get(symbol) != ours.get(symbol)), None)
