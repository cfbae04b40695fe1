"""Alignment: energies of another code are shifted by a constant for each element to those of a calculator."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ase.calculators.calculator import InputError

from ...calculator import NNXCCalculator
from .labels import label
from .record import Record
from .tables import digests_of_record


def align_energies(records: Sequence[Record], calculator: NNXCCalculator) -> list[Record]:
    """Return records of another code or of other pseudopotentials with energies shifted to those of a calculator.

    The shift is a constant o_Z for each element Z, found by linear least squares over all structures,

        min_o sum_i ((E_ref,i - sum_Z N_iZ o_Z - E_i) / N_i)^2,

    where E_i are the calculator's free energies, N_iZ is the number of atoms of Z and N_i that of all atoms; if the
    compositions leave the constants open, the smallest ones are taken. The remaining differences E_ref - E can be
    compared as absolute energies of the calculator's pseudopotentials, so the records get the digests of these. The
    constants are in the settings of the provenance.

    Parameters
    ----------
    records : sequence of Record
        Records of one code and one functional; those without energies are returned unchanged.
    calculator : NNXCCalculator
        With the functional that training starts from, and its settings.

    Raises
    ------
    InputError
        If the records come from several codes or functionals, or have densities, which would remain those of another
        pseudopotential.
    """
    with_energy = [record for record in records if "energy" in record.targets]
    _check_sources(with_energy)
    if not with_energy:
        return list(records)
    symbols = sorted({symbol for record in with_energy for atoms in record.structures for symbol in atoms.symbols})
    counts = {record.name: _counts(record, symbols) for record in with_energy}
    matrix, right = [], []
    for record in with_energy:
        energies = label(record.name, record.structures, calculator, settings=record.settings).targets["energy"]
        matrix.append(counts[record.name] / record.natoms[:, None])
        right.append((record.targets["energy"] - energies) / record.natoms)
    offsets = np.linalg.lstsq(np.vstack(matrix), np.concatenate(right), rcond=1e-10)[0]
    by_symbol = dict(zip(symbols, offsets.tolist()))

    def align(record: Record) -> Record:
        tables = digests_of_record(record, calculator)
        settings = {**record.provenance.settings, "offsets": {symbol: by_symbol[symbol] for symbol in tables}}
        targets = {**record.targets, "energy": record.targets["energy"] - counts[record.name] @ offsets}
        return replace(record, targets=targets, provenance=replace(record.provenance, tables=tables, settings=settings))

    return [align(record) if "energy" in record.targets else record for record in records]


def _check_sources(records: Sequence[Record]) -> None:
    sources = sorted({f"{record.provenance.code}, {record.provenance.functional}" for record in records})
    if len(sources) > 1:
        raise InputError(f"energies of {'; '.join(sources)} have no common zero: align the records of each separately")
    for record in records:
        if "density" in record.targets:
            raise InputError(
                f"record {record.name!r} has a density, which a shift of energies does not convert to another "
                "pseudopotential: remove the density"
            )


def _counts(record: Record, symbols: Sequence[str]) -> np.ndarray:
    """Return the number of atoms of each element in each structure (n, nsymbols)."""
    return np.array([[atoms.symbols.count(symbol) for symbol in symbols] for atoms in record.structures])
