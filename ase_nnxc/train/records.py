"""Records: what functionals are trained on. Structures with targets, and where the targets come from.

A record holds one structure, the structures of an equation of state, or those of a reaction. Units are ASE's (eV,
Angstrom). Files are JSON of this package, which keeps every number, or what ASE reads and writes: extxyz (which rounds
positions), trajectories, databases. There each image is a structure; images whose `info` (in a database: data) has the
same "record" make one record, and the other targets stand in the `info` of the first of them. An image with
"cohesive_energy", "atomization_energy", or "ionization_potential" and "ion_magmom", becomes the record of that energy.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, InputError, PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator

from .. import NNXCCalculator, __version__
from ..pseudopotentials import find_table, table_digest

FORMAT, VERSION = "ase_nnxc-records", 1

TARGETS = {
    "energy": "eV",
    "reaction_energy": "eV",
    "forces": "eV/Angstrom",
    "stress": "eV/Angstrom^3",
    "volume": "Angstrom^3",
    "bulk_modulus": "eV/Angstrom^3",
    "density": "electrons/Angstrom^3",
    "band_gap": "eV",
}
"""What a record may tell, with its unit.

energy (n,) free energies of the n structures; reaction_energy () the sum of the record's coefficients times energies;
forces (natoms, 3) and stress (6,) of each structure, in ASE's form; volume () and bulk_modulus () at zero pressure, of
the cell of the structures; density (n1, n2, n3) of each structure, of the valence electrons on the points of the FFT
box; band_gap (n,), from the highest occupied to the lowest empty level.
"""

SHARED = ("xc", "ecut", "pseudos", "smooth_cutoff", "device", "txt")
"""Keywords that are the calculator's alone: differences of energies need them to be the same for all structures."""

PROPERTIES = ("energy", "forces", "stress", "density", "band_gap")
"""What `label` calculates."""

_OF_IMAGE = ("energy", "forces", "stress")  # in files of ASE: results of the images
_BY_STRUCTURE = ("forces", "density")  # arrays whose shapes may differ


@dataclass(frozen=True)
class Provenance:
    """Where targets come from.

    Attributes
    ----------
    code : str
        Program with its version, or "experiment".
    functional : str
        By its name.
    tables : mapping of str to str
        `table_digest` of the pseudopotential of each element; empty for other programs' potentials. Absolute energies
        are compared only where these are equal.
    settings : mapping
        Plain data: parameters of the calculation.
    """

    code: str = "unknown"
    functional: str = "unknown"
    tables: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def todict(self) -> dict[str, Any]:
        """Plain data."""
        return {"code": self.code, "functional": self.functional} | {
            "tables": dict(self.tables),
            "settings": dict(self.settings),
        }


MEASURED = Provenance("experiment", "none")


@dataclass(frozen=True, eq=False)
class Record:
    """One or more structures with targets.

    Attributes
    ----------
    name : str
        Told in messages; unique in a set.
    structures : tuple of Atoms
        At least one.
    targets : mapping of str to array
        By the keys of `TARGETS`.
    coefficients : tuple of float, optional
        Of the structures in a reaction, products positive.
    provenance : Provenance
        Where the targets come from.
    settings : tuple of mapping, optional
        Of each structure the keywords of `NNXCCalculator`, plain data, in which it differs from the others: charge,
        hund, fixed_magmom, kpts ... but none of `SHARED`.

    Raises
    ------
    InputError
        If a target is unknown, not finite, or not of the shape that the structures ask for; if a setting is no keyword
        or makes no sense.
    """

    name: str
    structures: tuple[Atoms, ...]
    targets: Mapping[str, Any]
    coefficients: tuple[float, ...] | None = None
    provenance: Provenance = field(default_factory=Provenance)
    settings: tuple[Mapping[str, Any], ...] | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # the class is frozen
        set_(self, "structures", tuple(_bare(atoms) for atoms in self.structures))
        set_(self, "targets", {key: self._checked(key, value) for key, value in self.targets.items()})
        if not self.structures:
            raise InputError(f"record {self.name!r} has no structure")
        if self.coefficients is not None:
            set_(self, "coefficients", tuple(map(float, self.coefficients)))
            if len(self.coefficients) != len(self.structures):
                raise InputError(f"record {self.name!r} has not one coefficient for each structure")
        if "reaction_energy" in self.targets and self.coefficients is None:
            raise InputError(f"record {self.name!r} has a reaction energy, but no coefficients")
        if self.settings is not None:
            set_(self, "settings", tuple(self._checked_settings(one) for one in self.settings))
            if len(self.settings) != len(self.structures):
                raise InputError(f"record {self.name!r} has not one mapping of settings for each structure")

    def _checked(self, key: str, value: Any) -> Any:
        """A target as an array, or a tuple of arrays where atoms may differ in number."""
        if key not in TARGETS:
            raise InputError(f"record {self.name!r} has the unknown target {key!r}; known are {', '.join(TARGETS)}")
        n = len(self.structures)
        fits = {
            "forces": lambda shapes: shapes == [(len(atoms), 3) for atoms in self.structures],
            "density": lambda shapes: [len(shape) for shape in shapes] == [3] * n,
            "stress": lambda shapes: shapes == [(n, 6)],
            "energy": lambda shapes: shapes == [(n,)],
            "band_gap": lambda shapes: shapes == [(n,)],
        }.get(key, lambda shapes: shapes == [()])
        try:
            arrays = tuple(_unpacked(one) for one in value) if key in _BY_STRUCTURE else (np.array(value, float),)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"record {self.name!r}: {key} is not made of numbers") from error
        if not fits([array.shape for array in arrays]) or not all(np.isfinite(array).all() for array in arrays):
            raise InputError(f"record {self.name!r}: {key} is not finite, or not one for each structure")
        return arrays if key in _BY_STRUCTURE else arrays[0]

    def _checked_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Those of one structure, as they come back from a file."""
        shared = [key for key in SHARED if key in settings]
        if shared:
            raise InputError(f"record {self.name!r}: {', '.join(shared)} must be the same for all structures")
        try:
            plain = json.loads(json.dumps(dict(settings), default=lambda array: np.asarray(array).tolist()))
            NNXCCalculator().set(**plain)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"record {self.name!r}: {error}") from error
        return plain

    @property
    def natoms(self) -> np.ndarray:
        """Number of atoms of each structure (n,)."""
        return np.array([len(atoms) for atoms in self.structures])

    @property
    def volumes(self) -> np.ndarray:
        """Of the cell of each structure (n,), Angstrom^3; zero of a molecule without one."""
        return np.array([abs(np.linalg.det(atoms.cell.array)) for atoms in self.structures])

    def todict(self) -> dict[str, Any]:
        """Plain data."""
        pack = {"density": _packed}
        targets = {
            key: [pack.get(key, np.ndarray.tolist)(v) for v in value] if key in _BY_STRUCTURE else value.tolist()
            for key, value in self.targets.items()
        }
        settings = {} if self.settings is None else {"settings": list(self.settings)}
        return settings | {
            "name": self.name,
            "structures": [_atoms_to_dict(atoms) for atoms in self.structures],
            "targets": targets,
            "coefficients": None if self.coefficients is None else list(self.coefficients),
            "provenance": self.provenance.todict(),
        }

    @classmethod
    def fromdict(cls, data: Mapping[str, Any]) -> "Record":
        """What `todict` made."""
        structures = tuple(Atoms(**atoms) for atoms in data["structures"])
        provenance = Provenance(**data.get("provenance", {}))
        return cls(
            data["name"], structures, data["targets"], data.get("coefficients"), provenance, data.get("settings")
        )


def digest(records: Iterable[Record]) -> str:
    """SHA-256 of everything in the records, hexadecimal."""
    text = json.dumps([record.todict() for record in records], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _packed(array: np.ndarray) -> dict[str, Any]:
    """A large array as plain data, to the last bit: little-endian float64 in base64."""
    return {"shape": list(array.shape), "base64": base64.b64encode(array.astype("<f8").tobytes()).decode()}


def _unpacked(value: Any) -> np.ndarray:
    """An array of numbers, or of what `_packed` made."""
    if not isinstance(value, Mapping):
        return np.array(value, float)
    return np.frombuffer(base64.b64decode(value["base64"]), "<f8").reshape(value["shape"]).astype(float)


def _bare(atoms: Atoms) -> Atoms:
    """A copy with nothing but what a calculation depends on."""
    return Atoms(**_atoms_to_dict(atoms))


def _atoms_to_dict(atoms: Atoms) -> dict[str, Any]:
    data = {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist(), "cell": atoms.cell.array.tolist()}
    data["pbc"] = atoms.pbc.tolist()
    moments = atoms.get_initial_magnetic_moments()
    return data | ({"magmoms": moments.tolist()} if moments.any() else {})


# ---- making records -------------------------------------------------------------------------------------------------


def scaled_structures(atoms: Atoms, points: int = 5, span: float = 0.06) -> tuple[Atoms, ...]:
    """Structures of an equation of state: volumes (1 + span)^(-1 ... 1) times that of the atoms.

    Parameters
    ----------
    atoms : Atoms
        The structure in the middle.
    points : int
        Number of volumes.
    span : float
        How much larger the largest volume is than the middle one, as a fraction.
    """
    scaled = []
    for exponent in np.linspace(-1, 1, points):
        copy = atoms.copy()
        copy.set_cell(atoms.cell * (1 + span) ** (exponent / 3), scale_atoms=True)
        scaled.append(copy)
    return tuple(scaled)


def experimental_solid(
    name: str, atoms: Atoms, lattice_constant: float, a0: float, bulk_modulus: float | None = None, **scan: Any
) -> Record:
    """Record of a cubic solid with a measured lattice constant, for losses on equations of state.

    Parameters
    ----------
    name : str
        Of the record.
    atoms : Atoms
        Any cell of the solid.
    lattice_constant : float
        Of `atoms`, Angstrom.
    a0 : float
        The measured one, Angstrom, best without the zero-point expansion.
    bulk_modulus : float, optional
        GPa.
    **scan
        `points` and `span` of `scaled_structures`, around `a0`.
    """
    middle = atoms.copy()
    middle.set_cell(atoms.cell * (a0 / lattice_constant), scale_atoms=True)
    targets = {"volume": middle.get_volume()}
    if bulk_modulus is not None:
        targets["bulk_modulus"] = bulk_modulus * units.GPa
    return Record(name, scaled_structures(middle, **scan), targets, provenance=MEASURED)


FREE: dict[str, Any] = {
    "smearing": {"name": "gaussian", "width": 0.01},
    "kpts": [1, 1, 1],
    "gpts": None,
    "nbands": None,
    "spinpol": None,
    "charge": 0.0,
    "fixed_magmom": False,
    "hund": False,
}
"""Settings of free atoms and molecules, whatever a calculator says for a crystal."""


def cohesive_energy(name: str, crystal: Atoms, energy: float, provenance: Provenance = MEASURED) -> Record:
    """Record of the energy per atom by which a crystal, or a layer, lies below its free atoms.

    Compared are free energies. The atoms are calculated by Hund's rule with the smearing `FREE`, the crystal as the
    calculator says.

    Parameters
    ----------
    name : str
        Of the record.
    crystal : Atoms
        With initial magnetic moments if it is magnetic.
    energy : float
        eV per atom, positive; a measured one best without the zero-point energy.
    provenance : Provenance
        Where the energy comes from; default: an experiment.
    """
    return _above(name, crystal, {}, energy, len(crystal), provenance)


def atomization_energy(name: str, molecule: Atoms, energy: float, provenance: Provenance = MEASURED) -> Record:
    """Record of the energy that takes a molecule apart into its free atoms.

    Compared are free energies, all with the smearing `FREE`, the atoms by Hund's rule.

    Parameters
    ----------
    name : str
        Of the record.
    molecule : Atoms
        Calculated without periods, whatever its `pbc` say; the sum of its initial magnetic moments is held.
    energy : float
        eV per molecule, positive; a measured one best without the zero-point energy.
    provenance : Provenance
        Where the energy comes from; default: an experiment.
    """
    return _above(name, *_free(molecule), energy, 1, provenance)


def ionization_potential(
    name: str, molecule: Atoms, energy: float, magmom: float, provenance: Provenance = MEASURED
) -> Record:
    """Record of the energy that takes an electron from a molecule or an atom, the positions staying (vertical).

    Compared are free energies, both with the smearing `FREE`.

    Parameters
    ----------
    name : str
        Of the record.
    molecule : Atoms
        Calculated without periods, whatever its `pbc` say; the sum of its initial magnetic moments is held. An atom is
        calculated by Hund's rule.
    energy : float
        eV.
    magmom : float
        Total moment of the ion, Bohr magnetons, to be held: 1 if the molecule has a closed shell, 3 for O.
    provenance : Provenance
        Where the energy comes from; default: an experiment.

    Raises
    ------
    InputError
        If the ion's number of electrons does not allow the moment.
    """
    if (molecule.numbers.sum() - 1 - magmom) % 2 != 0:
        raise InputError(f"record {name!r}: {molecule.numbers.sum() - 1} electrons cannot have magmom={magmom}")
    neutral, settings = _free(molecule)
    ion = neutral.copy()
    ion.set_initial_magnetic_moments([magmom / len(ion)] * len(ion))
    charged = FREE | {"charge": 1} | ({"fixed_magmom": magmom} if magmom else {})
    targets = {"reaction_energy": energy}
    return Record(name, (neutral, ion), targets, (-1.0, 1.0), provenance, (settings, charged))


def _free(molecule: Atoms) -> tuple[Atoms, dict[str, Any]]:
    """Atoms without periods and cell, and their settings."""
    moments = molecule.get_initial_magnetic_moments()
    free = Atoms(molecule.numbers, molecule.positions, magmoms=moments if moments.any() else None)
    if len(free) == 1:
        return free, FREE | {"hund": True}
    return free, FREE | ({"fixed_magmom": float(moments.sum())} if moments.any() else {})


def _above(
    name: str, atoms: Atoms, settings: Mapping[str, Any], energy: float, units: int, provenance: Provenance
) -> Record:
    """Record of the energy of the free atoms above that of the atoms bound, for each of so many units."""
    counts = atoms.symbols.formula.count()
    free = [_free(Atoms(symbol)) for symbol in counts]
    return Record(
        name,
        (atoms, *(atom for atom, _ in free)),
        {"reaction_energy": energy},
        (-1 / units, *(count / units for count in counts.values())),
        provenance,
        (settings, *(own for _, own in free)),
    )


def label(
    name: str,
    structures: Sequence[Atoms],
    calculator: Calculator,
    properties: Sequence[str] = ("energy",),
    coefficients: Sequence[float] | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
) -> Record:
    """Record with targets calculated by an ASE calculator: free energies where it knows them, else energies.

    With an `NNXCCalculator` these are the records {R, L, E_tot} of arXiv:2602.15923, eq. 2, with the digests of the
    pseudopotentials; mesh, cutoff and FFT box are those of `calculators_for`, as in training.

    Parameters
    ----------
    name : str
        Of the record.
    structures : sequence of Atoms
        One or more.
    calculator : Calculator
        Any of ASE.
    properties : sequence of {"energy", "forces", "stress", "density", "band_gap"}
        What to calculate; the last two with an `NNXCCalculator` only.
    coefficients : sequence of float, optional
        Makes the record one of a reaction, with the target reaction_energy.
    settings : sequence of mapping, optional
        Of each structure, as of `Record`, with an `NNXCCalculator`.

    Raises
    ------
    InputError
        If a property is unknown, another calculator is asked for density, band gap or settings, or a reaction has no
        energies.
    """
    known = PROPERTIES if isinstance(calculator, NNXCCalculator) else _OF_IMAGE
    if not set(properties) <= set(known):
        raise InputError(f"properties={', '.join(properties)}: {type(calculator).__name__} gives {', '.join(known)}")
    if coefficients is not None and "energy" not in properties:
        raise InputError(f"properties={', '.join(properties)}: a reaction needs energy")
    made = tuple(coefficients) if coefficients is not None else None
    record = Record(name, tuple(structures), {}, made, settings=tuple(settings) if settings is not None else None)
    calculators: Sequence[Calculator] = [calculator] * len(structures)
    tables: dict[str, str] = {}
    if isinstance(calculator, NNXCCalculator):
        calculators = own = calculators_for(structures, calculator, record.settings)
        tables = _table_digests(structures, own)
    elif settings is not None:
        raise InputError(f"record {name!r} has settings, which are keywords of NNXCCalculator alone")
    targets: dict[str, Any] = {key: [] for key in properties}
    for atoms, calc in zip(record.structures, calculators):
        structure = atoms.copy()
        structure.calc = calc
        for key in properties:
            targets[key].append(_calculated(key, structure))
    if coefficients is not None:
        targets["reaction_energy"] = float(np.dot(coefficients, targets["energy"]))
    return replace(record, targets=targets, provenance=_provenance(calculator, tables))


def _calculated(key: str, atoms: Atoms) -> Any:
    """One of `PROPERTIES`, by the calculator that is attached."""
    calculator = atoms.calc
    if isinstance(calculator, NNXCCalculator) and key in ("density", "band_gap"):
        return getattr(calculator.differentiable(atoms), key).detach().cpu().numpy()
    if key != "energy":
        return calculator.get_property(key, atoms)
    try:
        return atoms.get_potential_energy(force_consistent=True)
    except PropertyNotImplementedError:
        return atoms.get_potential_energy()


def _provenance(calculator: Calculator, tables: Mapping[str, str]) -> Provenance:
    settings = json.loads(json.dumps(calculator.todict(), default=str))
    ours = isinstance(calculator, NNXCCalculator)
    code = f"ase_nnxc {__version__}" if ours else type(calculator).__name__
    return Provenance(code, str(settings.get("xc", "unknown")), tables, settings)


def table_digests(atoms: Atoms, calculator: NNXCCalculator) -> dict[str, str]:
    """`table_digest` of the pseudopotentials, by element, that a calculator takes for the atoms."""
    names = calculator.resolve(atoms)["pseudos"]
    return {symbol: table_digest(find_table(symbol, name)) for symbol, name in names.items()}


def _table_digests(structures: Sequence[Atoms], calculators: Sequence[NNXCCalculator]) -> dict[str, str]:
    """Those of several structures, each with its calculator."""
    return {symbol: digest for pair in zip(structures, calculators) for symbol, digest in table_digests(*pair).items()}


def _own_digests(record: Record, calculator: NNXCCalculator) -> dict[str, str]:
    return _table_digests(record.structures, calculators_for(record.structures, calculator, record.settings))


def other_table(record: Record, calculator: NNXCCalculator) -> str | None:
    """An element whose pseudopotential the record's targets are not known to share with a calculator, if any."""
    for symbol, own in _own_digests(record, calculator).items():
        if record.provenance.tables.get(symbol) != own:
            return symbol
    return None


def align_energies(records: Sequence[Record], calculator: NNXCCalculator) -> list[Record]:
    """Records of another code or of other pseudopotentials, their energies shifted to those of a calculator.

    The shift is a constant o_Z for each element Z, found by linear least squares over all structures,

        min_o sum_i ((E_ref,i - sum_Z N_iZ o_Z - E_i) / N_i)^2,

    E_i the calculator's free energies, N_iZ the number of atoms of Z and N_i of all; where compositions leave them
    open, the smallest. What is left of E_ref - E can be compared as absolute energies are, with the calculator's
    pseudopotentials, whose digests the records get. The constants stand in the settings of their provenance.

    Parameters
    ----------
    records : sequence of Record
        Of one code and one functional; those without energies stay as they are.
    calculator : NNXCCalculator
        With the functional that training starts with, and its settings.

    Raises
    ------
    InputError
        If the records are of several codes or functionals, or tell densities, which stay another potential's.
    """
    told = [record for record in records if "energy" in record.targets]
    sources = sorted({f"{record.provenance.code}, {record.provenance.functional}" for record in told})
    if len(sources) > 1:
        raise InputError(f"energies of {'; '.join(sources)} have no common zero: align those of each by themselves")
    for record in told:
        if "density" in record.targets:
            raise InputError(f"record {record.name!r} has a density, which a shift of energies makes no other")
    symbols = sorted({symbol for record in told for atoms in record.structures for symbol in atoms.symbols})
    counts = {record.name: _counts(record, symbols) for record in told}
    rows, right = [], []
    for record in told:
        own = label(record.name, record.structures, calculator, settings=record.settings).targets["energy"]
        rows.append(counts[record.name] / record.natoms[:, None])
        right.append((record.targets["energy"] - own) / record.natoms)
    offsets = np.linalg.lstsq(np.vstack(rows), np.concatenate(right), rcond=1e-10)[0] if told else np.zeros(0)
    by_symbol = dict(zip(symbols, offsets.tolist()))

    def aligned(record: Record) -> Record:
        tables = _own_digests(record, calculator)
        settings = {**record.provenance.settings, "offsets": {s: by_symbol[s] for s in tables}}
        targets = {**record.targets, "energy": record.targets["energy"] - counts[record.name] @ offsets}
        provenance = replace(record.provenance, tables=tables, settings=settings)
        return replace(record, targets=targets, provenance=provenance)

    return [aligned(record) if "energy" in record.targets else record for record in records]


def _counts(record: Record, symbols: Sequence[str]) -> np.ndarray:
    """Number of atoms of each element in each structure (n, nsymbols)."""
    return np.array([[atoms.symbols.count(symbol) for symbol in symbols] for atoms in record.structures])


def calculators_for(
    structures: Sequence[Atoms], calculator: NNXCCalculator, settings: Sequence[Mapping[str, Any]] | None = None
) -> list[NNXCCalculator]:
    """New calculators, one for each structure, with the functional and the parameters of another but for the settings.

    All get the highest cutoff of those that are theirs by themselves. Structures of the same atoms in different cells
    get the k-points and the FFT box of the largest one, so that their energies are on one smooth curve; the box only if
    it is periodic in all directions. Settings of a structure go before that.

    Parameters
    ----------
    structures : sequence of Atoms
        Of one record.
    calculator : NNXCCalculator
        Stays as it is.
    settings : sequence of mapping, optional
        Of each structure, as of `Record`.
    """
    each = settings or [{}] * len(structures)
    made = [NNXCCalculator(**calculator.parameters) for _ in structures]
    for own, changes in zip(made, each, strict=True):
        own.set(**changes)
    if len(structures) == 1:
        return made
    first, asked = structures[0], list(range(len(structures)))
    one_crystal = all(np.array_equal(first.numbers, a.numbers) and np.array_equal(first.pbc, a.pbc) for a in structures)
    if one_crystal:
        asked = [max(asked, key=lambda i: _extent(structures[i]))]
    chosen = [made[i].resolve(structures[i]) for i in asked]
    common = {"ecut": max(parameters["ecut"] for parameters in chosen)}
    if one_crystal:
        names = ("kpts", "pseudos", "gpts") if first.pbc.all() else ("kpts", "pseudos")
        common |= {name: chosen[0][name] for name in names}
    for own, changes in zip(made, each):
        own.set(**common | dict(changes))
    return made


def _extent(atoms: Atoms) -> float:
    """Square of the volume or area of the periods; one of a molecule."""
    periods = atoms.cell.array[atoms.pbc]
    return float(np.linalg.det(periods @ periods.T))


# ---- files ----------------------------------------------------------------------------------------------------------


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write records: to .json in this package's format, to .db as an ASE database, else by ASE (extxyz, traj).

    Raises
    ------
    InputError
        If two records have one name.
    FileExistsError
        If there is a database; others are written anew.
    """
    path = Path(path)
    _check_names(records)
    if path.suffix == ".json":
        data = {"format": FORMAT, "version": VERSION, "units": TARGETS, "records": [r.todict() for r in records]}
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        return
    images = [image for record in records for image in _to_images(record)]
    if path.suffix != ".db":
        ase.io.write(path, images)
        return
    if path.exists():
        raise FileExistsError(f"{path} is there")
    with ase.db.connect(path) as database:
        for image in images:
            database.write(image, data=image.info)


def read_records(path: str | Path) -> list[Record]:
    """Records of a file that `write_records` or ASE wrote; images without "record" are one record each.

    These are called as the file, and numbered if they are several.

    Raises
    ------
    InputError
        If the file makes no sense.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    try:
        records = _read(path)
    except (OSError, InputError):
        raise
    except Exception as error:  # whatever json, ASE's readers and constructors make of a damaged file
        raise InputError(f"{path} holds no records: {type(error).__name__}: {error}") from error
    _check_names(records)
    return records


def _read(path: Path) -> list[Record]:
    if path.suffix == ".json":
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("format") == FORMAT:
            if data.get("version") != VERSION:
                raise InputError(f"{path} is of version {data.get('version')}, this one of ase_nnxc reads {VERSION}")
            return [Record.fromdict(record) for record in data["records"]]
    path.open("rb").close()  # an error where there is none: ase.db would make it
    if path.suffix in (".db", ".json"):
        images: list[Atoms] = []
        for row in ase.db.connect(path).select():
            images.append(row.toatoms())
            images[-1].info = {**({"record": row.record} if "record" in row else {}), **row.data}
    else:
        images = list(ase.io.iread(path, index=":"))
    return _from_images(images, path.stem)


def _to_images(record: Record) -> list[Atoms]:
    """The structures, each with its own targets as results, the first with all else in its info."""
    images = []
    for i, atoms in enumerate(record.structures):
        image = atoms.copy()
        results = {key: record.targets[key][i] for key in _OF_IMAGE if key in record.targets}
        if "energy" in results:
            results["free_energy"] = results["energy"] = float(results["energy"])
        image.calc = SinglePointCalculator(image, **results)
        image.info["record"] = record.name
        images.append(image)
    whole = record.todict()
    scalars = {key: value for key, value in whole["targets"].items() if key not in _OF_IMAGE}
    images[0].info |= {"targets": scalars, "provenance": whole["provenance"]}
    if record.coefficients is not None:
        images[0].info["coefficients"] = whole["coefficients"]
    if record.settings is not None:
        images[0].info["settings"] = whole["settings"]
    return images


def _from_images(images: Sequence[Atoms], name: str) -> list[Record]:
    groups: dict[str, list[Atoms]] = {}
    for i, image in enumerate(images):
        own = name if len(images) == 1 else f"{name}-{i}"
        groups.setdefault(str(image.info.get("record", own)), []).append(image)
    return [_from_group(name, group) for name, group in groups.items()]


def _from_group(name: str, images: Sequence[Atoms]) -> Record:
    info = images[0].info
    energies = [key for key in _ENERGIES if key in info]
    if energies:
        return _from_energy(name, images, energies)
    targets = dict(info.get("targets", {}))
    results = [image.calc.results if image.calc is not None else {} for image in images]
    for key in _OF_IMAGE:
        found = [r.get("free_energy", r.get("energy")) if key == "energy" else r.get(key) for r in results]
        if all(value is not None for value in found):
            targets[key] = found
        elif any(value is not None for value in found):
            raise InputError(f"record {name!r} has {key} for some of its structures only")
    provenance = Provenance(**info.get("provenance", {}))
    return Record(name, tuple(images), targets, info.get("coefficients"), provenance, info.get("settings"))


_ENERGIES: dict[str, Callable[..., Record]] = {
    "cohesive_energy": cohesive_energy,
    "atomization_energy": atomization_energy,
    "ionization_potential": ionization_potential,
}


def _from_energy(name: str, images: Sequence[Atoms], keys: Sequence[str]) -> Record:
    """Record of one image whose `info` has one of these energies."""
    info = images[0].info
    if len(images) > 1 or len(keys) > 1:
        raise InputError(f"record {name!r}: {', '.join(keys)} is told of one image, and no other energy of it")
    magmom = {}
    if keys[0] == "ionization_potential":
        if "ion_magmom" not in info:
            raise InputError(f"record {name!r}: an ionization_potential needs ion_magmom, the total moment of the ion")
        magmom = {"magmom": info["ion_magmom"]}
    provenance = Provenance(**info["provenance"]) if "provenance" in info else MEASURED
    return _ENERGIES[keys[0]](name, images[0], info[keys[0]], **magmom, provenance=provenance)


def _check_names(records: Iterable[Record]) -> None:
    seen: set[str] = set()
    for record in records:
        if record.name in seen:
            raise InputError(f"two records are called {record.name!r}")
        seen.add(record.name)
