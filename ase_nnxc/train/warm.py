"""Warm calculators: one for each structure, whose ground state is kept in memory, and on disk between runs."""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ase.calculators.calculator import CalculationFailed, InputError

from ..calculator import Differentiable, NNXCCalculator
from ..interop.pyscf import FrozenDensity
from ..ks.ground_state import GroundState
from ..registry import get_functional
from ..units import HARTREE
from .all_electron import DifferentiableMolecule, WarmMolecule
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
        # calculators with a ground state, oldest first, and the name of the structure that was calculated last
        self._held: OrderedDict[_Warm, str] = OrderedDict()
        # ground states in the folder that was saved last, with the names and the SHA-256 of their files
        self._written: dict[_Warm, tuple[GroundState | FrozenDensity, str, str]] = {}

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
        solved: list[Differentiable] = []
        molecules: list[DifferentiableMolecule] = []
        energies = []
        for i, (atoms, calculator) in enumerate(zip(record.structures, self._calculators_of(record))):
            try:
                if fixed_density and calculator.held_state is not None:
                    energies.append(calculator.held_state.energy_tensor() * HARTREE)
                elif isinstance(calculator, WarmMolecule):
                    molecules.append(calculator.differentiable(atoms))
                    energies.append(molecules[-1].free_energy)
                else:
                    solved.append(calculator.differentiable(atoms))
                    energies.append(solved[-1].free_energy)
            except Exception:  # of any type: the next calculation must not start from this state
                calculator.reset()
                self._held.pop(calculator, None)
                raise
            self._hold(calculator, f"{record.name}/{i}")
        if fixed_density:
            return Prediction(torch.stack(energies))
        return Prediction(torch.stack(energies), solved or None, molecules or None)

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

    def _hold(self, calculator: _Warm, name: str) -> None:
        """Keep the ground state of a calculator, and drop the oldest ones until all fit in the memory."""
        self._held[calculator] = name
        self._held.move_to_end(calculator)
        sizes = [_size(kept.held_state) for kept in self._held]
        total = sum(sizes)
        for size in sizes[:-1]:
            if total <= self.memory:
                return
            oldest, _ = self._held.popitem(last=False)
            oldest.reset()
            total -= size

    def save(self, folder: Path, previous: Path | None) -> dict[str, str]:
        """Write the ground states to a folder, unchanged ones as links to a previous folder.

        Returns
        -------
        dict
            SHA-256 of the files by the names of the structures.
        """
        written = {}
        for calculator, name in self._held.items():
            state, file = calculator.held_state, folder / _file_of(name)
            assert state is not None
            before, name_before, digest = self._written.get(calculator, (None, "", ""))
            if previous is None or before is not state:
                digest = save_tensors(calculator.pack_state(), file)
            else:
                os.link(previous / _file_of(name_before), file)
            written[calculator] = state, name, digest
        self._written = written
        return {name: digest for _, name, digest in written.values()}

    def load(self, folder: Path, digests: Mapping[str, str], records: Mapping[str, Record]) -> None:
        """Load the ground states of these records, by name, that `save` wrote and whose digests it returned.

        Raises
        ------
        InputError
            If a file is not as it was written.
        """
        for name, digest in digests.items():
            record_name, _, i = name.rpartition("/")
            if record_name not in records:
                continue
            record = records[record_name]
            atoms, calculator = record.structures[int(i)], self._calculators_of(record)[int(i)]
            calculator.unpack_state(atoms, load_tensors(folder / _file_of(name), digest))
            assert calculator.held_state is not None
            self._held[calculator] = name
            self._written[calculator] = calculator.held_state, name, digest


def _file_of(name: str) -> str:
    """Return a file name for a structure, as the name of its record may contain any character."""
    return hashlib.sha256(name.encode()).hexdigest()[:32] + ".pt"


def _size(state: GroundState | FrozenDensity | None) -> int:
    """Return the size of orbitals, fields, their residual and secants, or of a molecule's density, bytes."""
    if isinstance(state, FrozenDensity):
        tensors = [state.matrices, state.channels, state.weights]
    else:
        tensors = [] if state is None else [state.fields, state.residual, state.secants, *state.orbitals]
    return sum(t.numel() * t.element_size() for t in tensors)
