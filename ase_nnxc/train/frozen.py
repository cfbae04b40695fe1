"""Frozen densities: points of the self-consistent ground states of a parent, where other functionals have energies.

Energies are stationary in the density. To first order in the change of the functional the energy of a structure is

    E[theta] = E_parent + int {e_theta - e_parent} at the density of the parent

without a new SCF, and so are the lattice constants, bulk moduli and reaction energies that follow from energies. Solids
are calculated by `NNXCCalculator`, with the core densities that its functionals see, and records of all electrons by
PySCF. Each structure has a file of its own in safetensors, so that an interrupted collection goes on where it was.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import CalculationFailed, InputError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..calculator import NNXCCalculator, PySCFCalculator
from ..interop.pyscf import grid_features
from ..regular_files import complete_or_absent
from ..units import HARTREE
from ..xc import Functional
from .records import Record, calculators_for
from .samples import FEATURES, crystal_features

NEGLIGIBLE = 1e-10
"""Density, bohr^-3, of points that are left out."""

_NEUTRAL = ("txt", "device", "share_kpoints")  # keywords that do not change a number


@dataclass(frozen=True, eq=False)
class FrozenPoints:
    """The points of one ground state of the parent.

    Attributes
    ----------
    features : dict of str to Tensor
        Density (nspin, n), gradient (nspin, 3, n) and tau (nspin, n), Hartree atomic units; nspin is 1 for a closed
        shell, see `Functional`.
    volumes : Tensor
        (n,) volumes of the points, bohr^3.
    energy : float
        Free energy of the parent, eV.
    """

    features: dict[str, Tensor]
    volumes: Tensor
    energy: float

    @classmethod
    def of(cls, features: Mapping[str, Tensor], volumes: Tensor, energy: float, closed_shell: bool) -> "FrozenPoints":
        """Return the points of two spin channels that are not negligible, for a closed shell with one channel."""
        kept = features["density"].sum(0) > NEGLIGIBLE
        nspin = 1 if closed_shell else 2
        return cls({name: features[name][:nspin, ..., kept].contiguous() for name in FEATURES}, volumes[kept], energy)

    def energy_of(self, functional: Functional) -> Tensor:
        """Return the integral () of the energy of a functional, eV, with gradients by its parameters."""
        return (functional({name: self.features[name] for name in functional.features}) * self.volumes).sum() * HARTREE

    def save(self, path: Path) -> None:
        """Write the points to a file, completely or not at all."""
        with complete_or_absent(path) as temporary:
            save_file(self.features | {"volumes": self.volumes}, temporary, {"energy_eV": repr(self.energy)})

    @classmethod
    def load(cls, path: Path) -> "FrozenPoints":
        """Read the points that `save` wrote.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                features = {name: file.get_tensor(name) for name in FEATURES}
                return cls(features, file.get_tensor("volumes"), float(file.metadata()["energy_eV"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged: {error}; delete it to calculate its structure again") from error


@dataclass(frozen=True, eq=False)
class FrozenSet:
    """Records with the points of their structures.

    Attributes
    ----------
    records : tuple of Record
        The records.
    points : tuple of FrozenPoints
        Of each structure once, also where several records have it, such as a free atom.
    structures : tuple of tuple of int
        For each record the positions of its structures in `points`.
    """

    records: tuple[Record, ...]
    points: tuple[FrozenPoints, ...]
    structures: tuple[tuple[int, ...], ...]


class FrozenDensities:
    """A folder of the ground states of a parent.

    Parameters
    ----------
    folder : path
        Folder of the files; it is created if necessary.
    calculator : NNXCCalculator
        With the parent as functional. Solids have its parameters, molecules with all electrons its functional.
    """

    def __init__(self, folder: str | Path, calculator: NNXCCalculator) -> None:
        self.folder, self.calculator = Path(folder), calculator

    def collect(self, records: Sequence[Record]) -> list[Record]:
        """Calculate what is missing, and return the records all of whose structures have points.

        A record whose calculation fails is left out, with a warning.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        complete = []
        for record in tqdm(records, desc="frozen densities", disable=None):
            try:
                self._calculate(record)
                complete.append(record)
            except (CalculationFailed, InputError) as error:
                warnings.warn(f"record {record.name!r} is left out: {error}", stacklevel=2)
        return complete

    def load(self, records: Sequence[Record]) -> "FrozenSet":
        """Return records that were collected, with their points."""
        paths = [[path for _, _, path in self._structures(record)] for record in records]
        index = {path: i for i, path in enumerate(dict.fromkeys(path for group in paths for path in group))}
        points = tuple(FrozenPoints.load(path) for path in index)
        return FrozenSet(tuple(records), points, tuple(tuple(index[path] for path in group) for group in paths))

    def _calculate(self, record: Record) -> None:
        last: NNXCCalculator | PySCFCalculator | None = None
        for atoms, calculator, path in self._structures(record):
            if path.exists():
                continue
            if last is not None and last.parameters == calculator.parameters:
                calculator = last  # it starts from the ground state of the structure before
            last = calculator
            if isinstance(calculator, PySCFCalculator):
                state = calculator.mean_field(atoms)
                features, volumes = grid_features(state)
                closed_shell = state.make_rdm1().ndim == 2
            else:
                ground_state = calculator.ground_state(atoms)
                features, volumes = crystal_features(ground_state)
                closed_shell = ground_state.crystal.nspin == 1
            energy = float(calculator.results["free_energy"])
            FrozenPoints.of(features, volumes, energy, closed_shell).save(path)

    def _structures(self, record: Record) -> Iterator[tuple[Atoms, NNXCCalculator | PySCFCalculator, Path]]:
        """Yield the structures of a record, their calculators, and their files."""
        parent = self.calculator.parameters["xc"]
        calculators: Sequence[NNXCCalculator | PySCFCalculator]
        if record.is_all_electron:
            calculators = [PySCFCalculator(parent, **settings) for settings in record.settings or ()]
        else:
            calculators = calculators_for(record.structures, self.calculator, record.settings)
        for atoms, calculator, data in zip(record.structures, calculators, record.todict()["structures"]):
            yield atoms, calculator, self.folder / f"{atoms.symbols}-{_digest(data, calculator)}.safetensors"


def _digest(structure: Mapping[str, Any], calculator: NNXCCalculator | PySCFCalculator) -> str:
    """Return a digest of a structure, the parameters of its calculation and the functional."""
    parameters = {name: value for name, value in calculator.todict().items() if name not in _NEUTRAL}
    identity = [structure, parameters]
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
