"""A record: one or more structures with targets, and where the targets come from."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import InputError

from ...calculator import NNXCCalculator, PySCFCalculator
from ..schema import text
from ..targets import target_from_data, target_to_data
from .schema import check_calculator, check_coefficients, check_provenance, check_record, check_structure

SHARED = ("xc", "ecut", "pseudos", "smooth_cutoff", "device", "share_kpoints", "txt")
"""Keywords of the calculator that a structure cannot change: differences of energies need one value for all."""

COMPARABLE = ("basis", "grid_level", "density_fit")
"""Keywords of `PySCFCalculator` that must be equal in all structures of a record: energies depend on them."""

ONLY_ALL_ELECTRON = ("density_on_points", "density_matrix")
"""Targets that only records of all electrons have."""

ALL_ELECTRON = ("energy", "reaction_energy", *ONLY_ALL_ELECTRON)
"""Targets of records of all electrons."""


@dataclass(frozen=True)
class Provenance:
    """Origin of the targets of a record.

    Attributes
    ----------
    code : str
        Program with its version, or "experiment".
    functional : str
        Name of the functional.
    tables : mapping of str to str
        Digest (`Pseudopotential.digest`) of the pseudopotential of each element; empty for the potentials of other
        programs. Absolute energies are compared only where these digests are equal.
    settings : mapping
        Parameters of the calculation, as plain data.

    Raises
    ------
    InputError
        If a value has another type, or a key of `tables` is not an element.
    """

    code: str = "unknown"
    functional: str = "unknown"
    tables: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_provenance(vars(self), "provenance")

    def todict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"code": self.code, "functional": self.functional} | {
            "tables": dict(self.tables),
            "settings": dict(self.settings),
        }


MEASURED = Provenance("experiment", "none")
"""Provenance of experiments."""


@dataclass(frozen=True, eq=False)
class Record:
    """One or more structures with targets.

    Attributes
    ----------
    name : str
        Shown in messages; not empty, unique in a set.
    structures : tuple of Atoms
        At least one.
    targets : mapping of str to array
        Keys are those of `TARGETS`.
    coefficients : tuple of float, optional
        Coefficients of the structures in a reaction, positive for products.
    provenance : Provenance
        Where the targets come from.
    settings : tuple of mapping, optional
        For each structure the keywords of `NNXCCalculator`, plain data, that differ from those of the calculator:
        charge, hund, fixed_magmom, kpts ... but not those in `SHARED`. With all electrons: the keywords of
        `PySCFCalculator`, basis among them, except xc and pseudo.
    calculator : {"nnxc", "nnxc-pyscf"}
        Name of the calculator of the structures: `NNXCCalculator` with plane waves, or `PySCFCalculator` for molecules
        with all electrons in Gaussian basis sets, see `all_electron`.

    Raises
    ------
    InputError
        If a structure has no atoms, an atomic number that is not from 1 to 118, or a position, cell or moment that is
        not finite; if a target is unknown, not finite, or has a shape that does not fit the structures; if a setting is
        unknown or has a wrong value; if there is not one finite coefficient or one mapping of settings for each
        structure; if a record of all electrons has a periodic structure, no basis, settings in `COMPARABLE` that differ
        between its structures, or targets that are not in `ALL_ELECTRON`; if another has a target in
        `ONLY_ALL_ELECTRON`.
    """

    name: str
    structures: tuple[Atoms, ...]
    targets: Mapping[str, Any]
    coefficients: tuple[float, ...] | None = None
    provenance: Provenance = field(default_factory=Provenance)
    settings: tuple[Mapping[str, Any], ...] | None = None
    calculator: str = NNXCCalculator.name

    def __post_init__(self) -> None:
        set_attribute = object.__setattr__  # the class is frozen
        text(self.name, "name")
        copies = (_copy_structure(atoms, f"structures[{i}]") for i, atoms in enumerate(self.structures))
        try:
            set_attribute(self, "structures", tuple(copies))
            check_coefficients(self.coefficients, "coefficients")
            check_calculator(self.calculator, "calculator")
        except InputError as error:
            raise InputError(f"record {self.name!r}: {error}") from error
        if not self.structures:
            raise InputError(f"record {self.name!r} must have at least one structure")
        try:
            targets = {key: target_from_data(key, value, self.structures) for key, value in self.targets.items()}
        except InputError as error:
            raise InputError(f"record {self.name!r}: {error}") from error
        set_attribute(self, "targets", targets)
        if self.coefficients is not None:
            set_attribute(self, "coefficients", tuple(map(float, self.coefficients)))
            self._check_count("coefficients", self.coefficients)
        elif "reaction_energy" in self.targets:
            raise InputError(f"record {self.name!r} has a reaction energy but no coefficients")
        if self.settings is not None:
            set_attribute(self, "settings", tuple(self._plain_settings(one) for one in self.settings))
            self._check_count("settings", self.settings)
        self._check_targets()
        if self.is_all_electron:
            self._check_all_electron()

    def _check_count(self, attribute: str, values: tuple[Any, ...]) -> None:
        if len(values) != len(self.structures):
            raise InputError(
                f"record {self.name!r}: expected one of the {attribute} for each of the {len(self.structures)} "
                f"structures, got {len(values)}"
            )

    def _check_targets(self) -> None:
        for key in self.targets:
            if self.is_all_electron and key not in ALL_ELECTRON:
                expected = ", ".join(ALL_ELECTRON)
                raise InputError(f"record {self.name!r}: with all electrons the targets are {expected}, not {key}")
            if not self.is_all_electron and key in ONLY_ALL_ELECTRON:
                raise InputError(
                    f"record {self.name!r}: {key} is a target of all electrons: set calculator to "
                    f"{PySCFCalculator.name!r}, and a basis in the settings of each structure"
                )

    def _check_all_electron(self) -> None:
        if any(atoms.pbc.any() for atoms in self.structures):
            raise InputError(f"record {self.name!r}: a periodic structure cannot be calculated with all electrons")
        if self.settings is None or not all("basis" in settings for settings in self.settings):
            raise InputError(f"record {self.name!r}: with all electrons the settings of each structure need a basis")
        for key in COMPARABLE:
            values = sorted({settings.get(key, PySCFCalculator.default_parameters[key]) for settings in self.settings})
            if len(values) > 1:
                raise InputError(
                    f"record {self.name!r}: the structures have {key}={' and '.join(map(str, values))}; expected one "
                    "for all, as energies that differ in it cannot be compared"
                )

    def _plain_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of one structure as plain data, as they are read from a file."""
        refused = [key for key in (("xc", "pseudo") if self.is_all_electron else SHARED) if key in settings]
        if refused:
            raise InputError(
                f"record {self.name!r}: {', '.join(refused)} cannot be a setting of a structure: it must be the same "
                "for all structures"
            )
        try:
            plain = json.loads(json.dumps(dict(settings), default=lambda array: np.asarray(array).tolist()))
            (PySCFCalculator() if self.is_all_electron else NNXCCalculator()).set(**plain)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"record {self.name!r}: {error}") from error
        return plain

    @property
    def is_all_electron(self) -> bool:
        """Whether the structures are molecules that PySCF calculates, with all electrons."""
        return self.calculator == PySCFCalculator.name

    @property
    def natoms(self) -> np.ndarray:
        """Number of atoms of each structure (n,)."""
        return np.array([len(atoms) for atoms in self.structures])

    @property
    def volumes(self) -> np.ndarray:
        """Volume of the cell of each structure (n,), Angstrom^3; zero for a molecule without a cell."""
        return np.array([abs(np.linalg.det(atoms.cell.array)) for atoms in self.structures])

    def todict(self) -> dict[str, Any]:
        """Return plain data."""
        settings = {} if self.settings is None else {"settings": list(self.settings)}
        calculator = {"calculator": self.calculator} if self.is_all_electron else {}
        return (
            settings
            | calculator
            | {
                "name": self.name,
                "structures": [_structure_to_data(atoms) for atoms in self.structures],
                "targets": {key: target_to_data(key, value) for key, value in self.targets.items()},
                "coefficients": None if self.coefficients is None else list(self.coefficients),
                "provenance": self.provenance.todict(),
            }
        )

    @classmethod
    def fromdict(cls, data: Mapping[str, Any], path: str = "record") -> "Record":
        """Return the record that `todict` was called on.

        Parameters
        ----------
        data : mapping
            Plain data.
        path : str
            Place of the data in their file, for messages.

        Raises
        ------
        InputError
            If the data are not those of a record, with the path of the wrong value.
        """
        check_record(data, path)
        structures = tuple(Atoms(**atoms) for atoms in data["structures"])
        provenance = Provenance(**data.get("provenance", {}))
        others = {key: data[key] for key in ("coefficients", "settings", "calculator") if key in data}
        try:
            return cls(data["name"], structures, data["targets"], provenance=provenance, **others)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def digest(records: Iterable[Record]) -> str:
    """Return the SHA-256 of everything in the records, hexadecimal."""
    text = json.dumps([record.todict() for record in records], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _copy_structure(atoms: Atoms, path: str) -> Atoms:
    """Return a copy that holds only what a calculation depends on, after a check."""
    data = _structure_to_data(atoms)
    check_structure(data, path)
    return Atoms(**data)


def _structure_to_data(atoms: Atoms) -> dict[str, Any]:
    data = {"numbers": atoms.numbers.tolist(), "positions": atoms.positions.tolist(), "cell": atoms.cell.array.tolist()}
    data["pbc"] = atoms.pbc.tolist()
    moments = atoms.get_initial_magnetic_moments()
    return data | ({"magmoms": moments.tolist()} if moments.any() else {})
