"""Warm calculators: one for each structure, whose ground state is kept in memory, and on disk between runs."""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, InputError

from ..calculator import NNXCCalculator
from ..interop.pyscf import FrozenDensity
from ..ks.ground_state import GroundState
from ..registry import get_functional
from ..units import HARTREE
from .all_electron import WarmMolecule
from .prediction import Prediction
from .records import Record, calculators_for
from .tensor_files import load_tensors, save_tensors

_Warm = NNXCCalculator | WarmMolecule
"""The calculator of one structure: its ground state is held, packed and unpacked."""


class WarmCalculators:
    """Predictions for records by calculators that start from their last ground states.

    Parameters
    ----------
    calculator : NNXCCalculator
        All calculators have its functional and parameters; see `calculators_for`.
    memory : float
        GiB of ground states to keep; if they need more, those of the structures calculated longest ago are dropped.
    """

    def __init__(self, calculator: NNXCCalculator, memory: float) -> None:
        self.calculator, self.memory = calculator, memory * 2**30
        self._calculators: dict[str, Sequence[_Warm]] = {}  # by the name of the record
        self._molecules: dict[str, WarmMolecule] = {}  # by structure and settings
        self._held: OrderedDict[str, tuple[Atoms, _Warm]] = OrderedDict()  # by structure, oldest first
        # ground states in the folder that was saved last, and the SHA-256 of their files
        self._written: dict[str, tuple[GroundState | FrozenDensity, str]] = {}

    def predict(self, record: Record, fixed_density: bool = False) -> Prediction:
        """Return the predictions of the functional for the structures, with gradients by its parameters.

        Parameters
        ----------
        record : Record
            The record with the structures.
        fixed_density : bool
            Whether to keep the orbitals where there are any, instead of solving for those of the present functional;
            only energies are then predicted.

        Raises
        ------
        SCFError, CalculationFailed
            If a structure cannot be calculated; its ground state is then dropped.
        """
        try:
            return self._predict(record, fixed_density)
        except InputError as error:  # atoms on top of each other, too few bands ...
            raise CalculationFailed(str(error)) from error

    def _predict(self, record: Record, fixed_density: bool) -> Prediction:
        solved, energies = [], []
        for i, (atoms, calculator) in enumerate(zip(record.structures, self._calculators_of(record))):
            key = f"{record.name}/{i}"
            try:
                if fixed_density and calculator.held_state is not None:
                    energies.append(calculator.held_state.energy_tensor() * HARTREE)
                elif isinstance(calculator, WarmMolecule):
                    energies.append(calculator.solve(atoms).energy_tensor() * HARTREE)
                else:
                    solved.append(calculator.differentiable(atoms))
                    energies.append(solved[-1].free_energy)
            except Exception:  # of any type: the next calculation must not start from this state
                calculator.reset()
                self._held.pop(key, None)
                raise
            self._hold(key, atoms, calculator)
        return Prediction(torch.stack(energies), None if fixed_density or record.is_all_electron else solved)

    def _calculators_of(self, record: Record) -> Sequence[_Warm]:
        if record.name not in self._calculators:
            self._calculators[record.name] = self._new_calculators(record)
        return self._calculators[record.name]

    def _new_calculators(self, record: Record) -> Sequence[_Warm]:
        if record.is_all_electron:
            data = record.todict()
            return [self._molecule(atoms, settings) for atoms, settings in zip(data["structures"], data["settings"])]
        return calculators_for(record.structures, self.calculator, record.settings)

    def _molecule(self, atoms: Mapping[str, Any], settings: Mapping[str, Any]) -> WarmMolecule:
        """Return the calculator of a molecule in plain data, the same one in all records that contain it."""
        key = json.dumps([atoms, settings], sort_keys=True)
        if key not in self._molecules:
            self._molecules[key] = WarmMolecule(get_functional(self.calculator.parameters["xc"]), settings)
        return self._molecules[key]

    def _hold(self, key: str, atoms: Atoms, calculator: _Warm) -> None:
        """Keep the ground state of a calculator, and drop the oldest ones until all fit in the memory."""
        self._held[key] = (atoms, calculator)
        self._held.move_to_end(key)
        sizes = [_size(kept.held_state) for _, kept in self._held.values()]
        total = sum(sizes)
        for size in sizes[:-1]:
            if total <= self.memory:
                return
            _, (_, oldest) = self._held.popitem(last=False)
            oldest.reset()
            total -= size

    def save(self, folder: Path, previous: Path | None) -> dict[str, str]:
        """Write the ground states to a folder, unchanged ones as links to a previous folder.

        Returns
        -------
        dict
            SHA-256 of the files by the names of the ground states.
        """
        written = {}
        for key, (_, calculator) in self._held.items():
            state, file = calculator.held_state, folder / _file_of(key)
            assert state is not None
            before, digest = self._written.get(key, (None, ""))
            if previous is None or before is not state:
                digest = save_tensors(calculator.pack_state(), file)
            else:
                os.link(previous / file.name, file)
            written[key] = state, digest
        self._written = written
        return {key: digest for key, (_, digest) in written.items()}

    def load(self, folder: Path, digests: Mapping[str, str], records: Mapping[str, Record]) -> None:
        """Load the ground states of these records, by name, that `save` wrote and whose digests it returned.

        Raises
        ------
        InputError
            If a file is not as it was written.
        """
        for key, digest in digests.items():
            name, _, i = key.rpartition("/")
            if name not in records:
                continue
            record = records[name]
            atoms, calculator = record.structures[int(i)], self._calculators_of(record)[int(i)]
            calculator.unpack_state(atoms, load_tensors(folder / _file_of(key), digest))
            self._held[key] = (atoms, calculator)
            assert calculator.held_state is not None
            self._written[key] = calculator.held_state, digest


def _file_of(key: str) -> str:
    """Return a file name for a structure, as the name of its record may contain any character."""
    return hashlib.sha256(key.encode()).hexdigest()[:32] + ".pt"


def _size(state: GroundState | FrozenDensity | None) -> int:
    """Return the size of orbitals, fields, their residual and secants, or of a molecule's density, bytes."""
    if isinstance(state, FrozenDensity):
        tensors = [state.matrices, state.channels, state.weights]
    else:
        tensors = [] if state is None else [state.fields, state.residual, state.secants, *state.orbitals]
    return sum(t.numel() * t.element_size() for t in tensors)
