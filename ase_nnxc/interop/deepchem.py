"""Reader of DeepChem's data: entries of its DFT files become records, and its periodic systems become Atoms.

Arrays of density matrices and densities are in files of numpy, which are never unpickled (`array_files`).

The formats are those of DeepChem's `DFTYamlLoader` (arXiv:2309.15985), of XCNN, from which it derives (Phys. Rev. Lett.
127, 126403 (2021)), and of appendix A.3 of arXiv:2602.15923. Lengths are in bohr and energies in Hartree there; they
are converted to ASE's units. Numbers may be in quotes, and expressions are parsed, never evaluated.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import InputError
from ase.data import ground_state_magnetic_moments

from ..calculator import PySCFCalculator
from ..train.array_files import read_array, read_arrays
from ..train.input_files import read_yaml, read_yaml_list
from ..train.records import FREE, Provenance, Record, all_electron, atomization_energy, ionization_potential
from ..train.records.schema import ELEMENTS, LONGEST
from ..train.schema import Check, anything, closest, fail, integer, mapping, number, one_of, optional, sequence, text
from ..train.targets import ELECTRONS_ON_POINTS
from ..units import BOHR, HARTREE

PLANE_WAVES = "plane-waves"
"""The basis in which records are calculated if it is asked for, instead of those that a file names."""

TYPES = {"ae": "atomization energy", "ie": "ionization energy", "dm": "density matrix", "dens": "density profile"}
"""Types of the entries of a file."""

ENERGIES = ("ae", "ie")
"""Types whose true value is an energy."""

LARGEST_CHARGE = 200

POINTS = ("points", "weights", "density")
"""Names of the arrays in the file of a density."""

# name of the objective that reads the records of a type, and the unit of its loss in that of the loss in the files
_OBJECTIVES = {
    "ae": ("reaction_energy", HARTREE**2),
    "ie": ("reaction_energy", HARTREE**2),
    "dm": ("density_matrix", 1.0),
    "dens": ("density_on_points", BOHR**-3),
}

_TERM = re.compile(r"\s*([+-]?)\s*(?:([0-9]{1,6})\s*\*\s*)?energy\(systems\[([0-9]{1,3})\]\)\s*")


def read_deepchem(path: str | Path, basis: str | None = None, types: Sequence[str] | None = None) -> list[Record]:
    """Return the records of a YAML file in the format of DeepChem or XCNN.

    An entry "ae" becomes `atomization_energy`, "ie" becomes `ionization_potential`: free atoms follow Hund's rule, the
    spins of molecules and ions are held. "dm" and "dens" become records with the targets density_matrix and
    density_on_points. PySCF calculates the structures with all electrons in the basis set of the entry
    (`all_electron`). Names of basis sets, `ref` and `weight` are kept in the settings of the provenance.

    The true value of "dm" is the name of a .npy file with a density matrix (nao, nao), or of each spin (2, nao, nao),
    in PySCF's order of basis functions. That of "dens" is the name of a .npz file with the arrays points (n, 3),
    bohr, weights (n,), bohr^3, and density (n,), or (2, n) of each spin, electrons/bohr^3. Names are relative to the
    folder of the YAML file or, as in DeepChem, to the working directory.

    Parameters
    ----------
    path : path
        The file, a list of entries with e_type (or type), true_val and systems; cmd, name, ref and weight may be given.
    basis : {"plane-waves"}, optional
        Says that the energies are to be calculated in plane waves and not in the basis sets that the file names. Only
        targets that were measured or do not depend on a basis can be compared then. Default: all electrons.
    types : sequence of {"ae", "ie", "dm", "dens"}, optional
        Types of the entries to read; all others are left out. Default: every entry.

    Warns
    -----
    UserWarning
        If the entries of different objectives have different weights, with the weights for the training file.

    Raises
    ------
    InputError
        If a value is wrong or missing, with its path such as "entries[3].systems[0].spin"; if an array is missing, is
        not as above, or if a density has another number of electrons than the system; if the systems of an entry have
        different basis sets; if the systems and the command of an entry are not those of one atomization or vertical
        ionization; if "dm" or "dens" is to be calculated in plane waves; or if the weights of entries that one
        objective reads differ.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    if types is not None:
        sequence(one_of(TYPES), least=1)(types, "types")
    optional(one_of([PLANE_WAVES]))(basis, "basis")
    data = read_yaml_list(path)
    try:
        entries = _chosen(data, types)
        return [_record(entry, name, path, basis) for entry, name in zip(entries, _names(entries, path))]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_sys_desc(source: Mapping[str, Any] | str | Path) -> Atoms:
    """Return the crystal of a `sys_desc` dictionary of arXiv:2602.15923, periodic in three directions.

    Parameters
    ----------
    source : mapping or path
        The dictionary or a YAML file that contains it: mol_desc, atoms such as 'C 0 0 0; C 2.324 1.342 0'; lattice, the
        three vectors in the same form, both in bohr; and optionally the names basis and auxbasis, which are kept in
        `atoms.info` as gaussian_basis and gaussian_auxbasis.

    Raises
    ------
    InputError
        If a key is unknown or missing, or a value is wrong.
    OSError
        If the file cannot be read.
    """
    if not isinstance(source, Mapping | str | os.PathLike):
        raise InputError(f"{source!r}: expected a dictionary with mol_desc and lattice, or the path of a YAML file")
    data = source if isinstance(source, Mapping) else read_yaml(source)
    try:
        mapping(dict.fromkeys(("mol_desc", "lattice", "basis", "auxbasis"), text), ("mol_desc", "lattice"))(data, "")
        symbols, positions = _parse_atoms(data["mol_desc"], "mol_desc")
        rows = _rows(data["lattice"])
        cell = np.array([_vector(row, data["lattice"], "lattice") for row in rows])
        if cell.shape != (3, 3) or abs(np.linalg.det(cell)) < 1e-6:
            fail("lattice", data["lattice"], "expected three independent vectors such as '8 0 0; 0 8 0; 0 0 8', bohr")
    except InputError as error:
        if source is data:
            raise
        raise InputError(f"{source}: {error}") from error
    info = {f"gaussian_{key}": data[key] for key in ("basis", "auxbasis") if key in data}
    return Atoms(symbols, positions * BOHR, cell=cell * BOHR, pbc=True, info=info)


# ---- the schema of a file --------------------------------------------------------------------------------------------


def _quoted(convert: Callable[[str], Any], check: Check) -> Check:
    """Return a check of a number that may be in quotes, as in DeepChem's files."""

    def check_number(value: Any, path: str) -> None:
        try:
            converted = convert(value) if isinstance(value, str) else value
        except ValueError:
            converted = value
        check(converted, path)

    return check_number


_SYSTEM: dict[str, Check] = {
    "moldesc": text,
    "basis": text,
    "spin": _quoted(int, integer(0, LARGEST_CHARGE)),
    "charge": _quoted(int, integer(-LARGEST_CHARGE, LARGEST_CHARGE)),
    "number": _quoted(int, integer(1, 1000)),
}
_check_system = mapping(_SYSTEM, ("moldesc", "basis"))
_check_long_system = mapping({"type": one_of(["mol"]), "kwargs": _check_system}, ("type", "kwargs"))


def _check_any_system(value: Any, path: str) -> None:
    """Check a system of DeepChem, or one of XCNN with `type` and `kwargs`."""
    is_long = isinstance(value, Mapping) and not {"type", "kwargs"}.isdisjoint(value)
    (_check_long_system if is_long else _check_system)(value, path)


_ENTRY: dict[str, Check] = {
    "e_type": one_of(TYPES),
    "type": one_of(TYPES),
    "true_val": anything,  # a number, or the name of a file of a density
    "cmd": text,
    "name": text,
    "ref": text,
    "weight": _quoted(float, number(above=0)),
    "systems": sequence(_check_any_system, least=1),
}


@dataclass(frozen=True)
class _Entry:
    """An entry that passed the schema: its data, its place in the file, and the key that has its type."""

    data: Mapping[str, Any]
    index: int
    key: str

    @property
    def kind(self) -> str:
        return str(self.data[self.key])

    @property
    def path(self) -> str:
        return f"entries[{self.index}]"


def _entry(data: Any, index: int) -> _Entry:
    path = f"entries[{index}]"
    mapping(_ENTRY, ("systems",))(data, path)
    keys = [key for key in ("e_type", "type") if key in data]
    if len(keys) != 1:
        raise InputError(f"{path}: expected e_type, or type in its place, one of {', '.join(TYPES)}")
    return _Entry(data, index, keys[0])


def _chosen(data: Sequence[Any], types: Sequence[str] | None) -> list[_Entry]:
    """Return the entries of a file that become records."""
    entries = [_entry(one, i) for i, one in enumerate(data)]
    chosen = [entry for entry in entries if types is None or entry.kind in types]
    if not chosen:
        raise InputError(f"expected entries of the types {', '.join(types or TYPES)}, got none")
    _check_weights(chosen)
    return chosen


def _check_weights(entries: Sequence[_Entry]) -> None:
    """Raise an InputError if one objective would need several weights; warn if several objectives need their own."""
    weights: dict[str, float] = {}
    for entry in entries:
        objective, unit = _OBJECTIVES[entry.kind]
        weight = float(entry.data.get("weight", 1)) / unit
        if weights.setdefault(objective, weight) != weight:
            raise InputError(
                f"{entry.path}.weight={entry.data.get('weight', 1)!r} differs from that of other entries; records have "
                "no weights: give all entries of an objective the same weight, or none"
            )
    if len({float(entry.data.get("weight", 1)) for entry in entries}) > 1:
        needed = ", ".join(f"{objective}: {weight:.4g}" for objective, weight in weights.items())
        warnings.warn(
            f"weights of the entries are not read: write objectives: {{{needed}}} in the training file for the same "
            "loss",
            stacklevel=4,
        )


def _all_electron(record: Record, entry: _Entry) -> Record:
    """Return a record whose structures are calculated in the basis set of its entry."""
    bases = _bases(entry)
    if len(bases) > 1:
        raise InputError(
            f"{entry.path}: the systems have the basis sets {', '.join(bases)}; expected one for all, as energies in "
            "different basis sets cannot be compared"
        )
    try:
        return all_electron(record, bases[0])
    except InputError as error:
        raise InputError(f"{entry.path}: {error}") from error


def _bases(entry: _Entry) -> list[str]:
    return sorted({_kwargs(one)["basis"] for one in entry.data["systems"]})


def _names(entries: Sequence[_Entry], file: Path) -> list[str]:
    """Return the names of the records; those that several entries have get the number of the entry."""
    names = [entry.data.get("name", f"{file.stem}-{entry.index}") for entry in entries]
    return [f"{n} ({entry.index})" if names.count(n) > 1 else n for n, entry in zip(names, entries)]


# ---- entries ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _System:
    """A molecule, atom or ion of an entry; the initial moments of the atoms add up to the spin."""

    atoms: Atoms
    spin: int
    charge: int
    number: int
    path: str


def _kwargs(data: Mapping[str, Any]) -> Mapping[str, Any]:
    kwargs: Mapping[str, Any] = data.get("kwargs", data)
    return kwargs


def _system(data: Mapping[str, Any], path: str) -> _System:
    path = f"{path}.kwargs" if "kwargs" in data else path
    data = _kwargs(data)
    spin, charge, count = (int(data.get(key, default)) for key, default in (("spin", 0), ("charge", 0), ("number", 1)))
    symbols, positions = _parse_atoms(data["moldesc"], f"{path}.moldesc")
    atoms = Atoms(symbols, positions * BOHR)
    electrons = int(atoms.numbers.sum()) - charge
    if electrons < spin or (electrons - spin) % 2:
        raise InputError(f"{path}.spin={spin}: {electrons} electrons cannot have {spin} unpaired ones")
    if spin:
        atoms.set_initial_magnetic_moments([spin / len(atoms)] * len(atoms))
    return _System(atoms, spin, charge, count, path)


def _record(entry: _Entry, name: str, file: Path, basis: str | None) -> Record:
    """Return the record of an entry, with all electrons or in plane waves."""
    bases = _bases(entry)
    settings = {"file": file.name, "entry": entry.index, "basis": bases[0] if len(bases) == 1 else bases}
    settings |= {key: entry.data[key] for key in ("ref", "weight") if key in entry.data}
    provenance = Provenance(settings=settings)
    if entry.kind in ENERGIES:
        record = _energy_record(entry, name, provenance)
        return record if basis == PLANE_WAVES else _all_electron(record, entry)
    if basis == PLANE_WAVES:
        raise InputError(
            f"{entry.path}.{entry.key}={entry.kind!r}: a {TYPES[entry.kind]} of all electrons cannot be compared with "
            f"plane waves; remove the entry, leave out basis, or call read_deepchem with types={ENERGIES}"
        )
    return _density_record(entry, name, file.parent, provenance)


def _density_record(entry: _Entry, name: str, folder: Path, provenance: Provenance) -> Record:
    """Return the record of an entry "dm" or "dens", whose arrays are in a file."""
    path = f"{entry.path}.true_val"
    if len(entry.data["systems"]) != 1:
        raise InputError(f"{entry.path}.systems: expected one, as of a {TYPES[entry.kind]}")
    system = _system(entry.data["systems"][0], f"{entry.path}.systems[0]")
    if system.number != 1:
        raise InputError(f"{system.path}.number={system.number}: expected 1, or none, in a {TYPES[entry.kind]}")
    one_of([f"{entry.kind}(systems[0])"])(entry.data.get("cmd", f"{entry.kind}(systems[0])"), f"{entry.path}.cmd")
    file = _array_file(entry.data.get("true_val"), folder, path)
    try:
        targets = (
            {"density_matrix": [read_array(file)]}
            if entry.kind == "dm"
            else {"density_on_points": [_points(read_arrays(file, POINTS), system)]}
        )
        settings = {"basis": _bases(entry)[0], "charge": system.charge}
        return Record(name, (system.atoms,), targets, None, provenance, (settings,), calculator=PySCFCalculator.name)
    except InputError as error:
        raise InputError(f"{path}={entry.data['true_val']!r}: {error}") from error


def _array_file(value: Any, folder: Path, path: str) -> Path:
    """Return the file of arrays that a true value names."""
    if not isinstance(value, str) or not value.endswith((".npy", ".npz")):
        fail(
            path,
            value,
            "expected the name of a .npy or .npz file; XCNN calculates what such an entry needs by CCSD with PySCF, "
            "and docs/deepchem.md shows how to write the file",
        )
    places = [folder / value, Path(value)]
    file = next((place for place in places if place.exists()), None)
    if file is None:
        raise InputError(f"{path}={value!r}: there is no such file in {folder} or in the working directory")
    return file


def _points(arrays: Mapping[str, np.ndarray], system: _System) -> np.ndarray:
    """Return the target density_on_points of the arrays of a file, after a check of shapes and units."""
    points, weights, density = (arrays[name] for name in POINTS)
    n = weights.size
    if weights.shape != (n,) or points.shape != (n, 3) or density.shape not in ((n,), (2, n)):
        raise InputError(
            "expected points (n, 3), weights (n,) and density (n,) or (2, n), got the shapes "
            f"{points.shape}, {weights.shape} and {density.shape}"
        )
    electrons = int(system.atoms.numbers.sum()) - system.charge
    total = float((density * weights).sum())
    if not abs(total - electrons) <= ELECTRONS_ON_POINTS * electrons:
        raise InputError(
            f"the density has {total:.3f} electrons, expected {electrons}; points, weights and density are in bohr, "
            "bohr^3 and electrons/bohr^3"
        )
    return np.column_stack([points * BOHR, weights * BOHR**3, density.T / BOHR**3])


def _energy_record(entry: _Entry, name: str, provenance: Provenance) -> Record:
    """Return the record of an entry "ae" or "ie"."""
    data, path = entry.data, entry.path
    if data.get("true_val") is None:
        raise InputError(f"{path}.true_val is missing: expected an energy, Hartree")
    _quoted(float, number())(data["true_val"], f"{path}.true_val")
    systems = [_system(one, f"{path}.systems[{i}]") for i, one in enumerate(data["systems"])]
    _check_hund(systems)
    coefficients = _coefficients(data, systems, path)
    energy = -coefficients[0] * float(data["true_val"]) * HARTREE  # the first system is what the energy is taken from
    if entry.kind == "ae":
        _check_atomization(systems, coefficients, path)
        return atomization_energy(name, systems[0].atoms, energy, provenance)
    _check_ionization(systems, coefficients, path)
    atoms = systems[0].atoms
    if len(systems) == 1:  # H: the energy of the proton is zero
        settings_of_atom = FREE | {"hund": True}
        return Record(name, (atoms,), {"reaction_energy": energy}, (-1.0,), provenance, (settings_of_atom,))
    return ionization_potential(name, atoms, energy, systems[1].spin, provenance)


def _check_hund(systems: Sequence[_System]) -> None:
    """Check that neutral atoms have the spins of Hund's rule, as in the records of this package."""
    for system in systems:
        expected = round(ground_state_magnetic_moments[system.atoms.numbers[0]])
        if len(system.atoms) == 1 and system.charge == 0 and system.spin != expected:
            symbol = system.atoms.symbols[0]
            raise InputError(
                f"{system.path}.spin={system.spin}: free atoms follow Hund's rule, {symbol} has {expected}"
            )


def _coefficients(data: Mapping[str, Any], systems: Sequence[_System], path: str) -> list[int]:
    """Return the coefficients of the systems in the energy of an entry."""
    if "cmd" not in data:  # the rule of DeepChem
        coefficients = [system.number for system in systems]
        coefficients[0] *= -1
    else:
        if any("number" in _kwargs(one) for one in data["systems"]):
            raise InputError(f"{path}: expected cmd or numbers of the systems, got both")
        coefficients = parse_command(data["cmd"], len(systems), f"{path}.cmd")
    if coefficients[0] not in (-1, 1):
        raise InputError(f"{path}: the coefficient of systems[0] must be 1 or -1, got {coefficients[0]}")
    return coefficients


def parse_command(command: str, count: int, path: str = "cmd") -> list[int]:
    """Return the coefficients of a sum such as "2 * energy(systems[1]) - energy(systems[0])".

    Parameters
    ----------
    command : str
        Terms `energy(systems[i])`, each with a whole number as a factor or none; nothing else is accepted.
    count : int
        Number of systems.
    path : str
        Place of the command, for messages.

    Raises
    ------
    InputError
        If it is not such a sum, or does not contain every system.
    """
    coefficients = [0] * count
    for sign, factor, place in _terms(command, path):
        index = int(place)
        if index >= count:
            fail(path, command, f"there is no systems[{index}], only {count} systems")
        coefficients[index] += int(sign + (factor or "1"))
    if 0 in coefficients:
        fail(path, command, f"systems[{coefficients.index(0)}] is not used")
    return coefficients


def _terms(command: str, path: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield sign, factor and index of each term of a command; all terms but the first must have a sign."""
    start = 0
    while start < len(command):
        term = _TERM.match(command, start)
        if term is None or not (term[1] or start == 0):
            raise InputError(f"{path}={command!r}: expected a sum such as 2 * energy(systems[1]) - energy(systems[0])")
        yield term[1], term[2], term[3]
        start = term.end()


def _check_atomization(systems: Sequence[_System], coefficients: Sequence[int], path: str) -> None:
    """Check that the systems are a neutral molecule and all its free atoms."""
    molecule, *atoms = systems
    counts: dict[str, int] = {}
    for atom, coefficient in zip(atoms, coefficients[1:]):
        if len(atom.atoms) != 1 or atom.charge != 0:
            raise InputError(f"{atom.path}: expected a neutral free atom")
        symbol = atom.atoms.symbols[0]
        counts[symbol] = counts.get(symbol, 0) - coefficients[0] * coefficient
    formula = molecule.atoms.symbols.formula.count()
    if molecule.charge != 0 or counts != formula:
        raise InputError(f"{path}: expected a neutral molecule and its free atoms {formula}, got the atoms {counts}")


def _check_ionization(systems: Sequence[_System], coefficients: Sequence[int], path: str) -> None:
    """Check that the systems are a neutral molecule and its cation at the same positions, or the atom H alone."""
    first, ion = systems[0], systems[-1]
    if len(systems) == 1 and first.atoms.get_chemical_symbols() == ["H"] and first.charge == 0:
        return
    same = first.atoms.get_chemical_symbols() == ion.atoms.get_chemical_symbols() and np.allclose(
        first.atoms.positions, ion.atoms.positions, rtol=0, atol=1e-6
    )
    if len(systems) != 2 or coefficients[0] != -coefficients[1] or (first.charge, ion.charge) != (0, 1) or not same:
        raise InputError(
            f"{path}: expected a neutral system and its cation (charge 1) at the same positions, and their difference"
        )


# ---- atoms -----------------------------------------------------------------------------------------------------------


def _parse_atoms(description: str, path: str) -> tuple[list[str], np.ndarray]:
    """Return symbols and positions (n, 3) of atoms such as "H 0.86 0 0; F -0.86 0 0"."""
    symbols, positions = [], []
    for symbol, *rest in _rows(description):
        if symbol not in ELEMENTS:
            fail(path, description, f"{symbol!r} is not an element{closest(symbol, ELEMENTS)}")
        symbols.append(symbol)
        positions.append(_vector(rest, description, path))
    if not symbols:
        fail(path, description, "expected atoms such as 'H 0 0 0; F 1.7 0 0', bohr")
    return symbols, np.array(positions)


def _rows(description: str) -> list[list[str]]:
    return [row.split() for row in description.split(";") if row.strip()]


def _vector(words: Sequence[str], whole: str, path: str) -> list[float]:
    try:
        vector = [float(word) for word in words]
    except ValueError:
        vector = []
    if len(vector) != 3 or not all(abs(x) <= LONGEST for x in vector):
        fail(path, whole, f"expected three numbers in the place of {' '.join(words)!r}")
    return vector
