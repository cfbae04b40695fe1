"""Ground states kept warm: one calculator for each structure, within a limit of memory, on disk between runs."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from ase import Atoms

from ..calculator import NNXCCalculator
from ..ks.ground_state import GroundState
from ..units import HARTREE
from .prediction import Prediction
from .records import Record, calculators_for


class WarmCalculators:
    """Predictions for records by calculators that start from the ground states which they found last.

    Parameters
    ----------
    calculator : NNXCCalculator
        Its functional and parameters are those of all; see `calculators_for`.
    memory : float
        GiB of ground states to hold; beyond it, those of the structures calculated longest ago are forgotten.
    """

    def __init__(self, calculator: NNXCCalculator, memory: float) -> None:
        self.calculator, self.memory = calculator, memory * 2**30
        self._calculators: dict[str, list[NNXCCalculator]] = {}  # by the name of the record
        self._held: OrderedDict[str, tuple[Atoms, NNXCCalculator]] = OrderedDict()  # with a ground state, oldest first
        self._written: dict[str, GroundState] = {}  # as they lie in the last folder that was saved

    def predict(self, record: Record, fixed_density: bool = False) -> Prediction:
        """What the functional predicts of the structures, with gradients by its parameters.

        Parameters
        ----------
        record : Record
            Whose structures.
        fixed_density : bool
            Keep the orbitals where there are any, instead of solving for those of the functional as it is now; only
            energies are then predicted.

        Raises
        ------
        SCFError, CalculationFailed
            If a ground state is not found; those of the record are then forgotten.
        """
        solved, energies = [], []
        for i, (atoms, calculator) in enumerate(zip(record.structures, self._calculators_of(record))):
            key = f"{record.name}/{i}"
            try:
                if fixed_density and calculator.held_state is not None:
                    energies.append(calculator.held_state.energy_tensor() * HARTREE)
                else:
                    solved.append(calculator.differentiable(atoms))
                    energies.append(solved[-1].free_energy)
            except Exception:  # whatever it was: its state is not gone on from
                calculator.reset()
                self._held.pop(key, None)
                raise
            self._hold(key, atoms, calculator)
        return Prediction(torch.stack(energies), None if fixed_density else solved)

    def _calculators_of(self, record: Record) -> list[NNXCCalculator]:
        if record.name not in self._calculators:
            self._calculators[record.name] = calculators_for(record.structures, self.calculator, record.settings)
        return self._calculators[record.name]

    def _hold(self, key: str, atoms: Atoms, calculator: NNXCCalculator) -> None:
        """Remember that this ground state is there, and forget the oldest until all fit."""
        self._held[key] = (atoms, calculator)
        self._held.move_to_end(key)
        sizes = [_size(held.held_state) for _, held in self._held.values()]
        total = sum(sizes)
        for size in sizes[:-1]:
            if total <= self.memory:
                return
            _, (_, oldest) = self._held.popitem(last=False)
            oldest.reset()
            total -= size

    def save(self, folder: Path, previous: Path | None) -> list[str]:
        """Write the ground states to a folder, those that have not changed as links to a previous one; their names."""
        written = {}
        for key, (_, calculator) in self._held.items():
            state, file = calculator.held_state, folder / _file_of(key)
            if previous is None or self._written.get(key) is not state:
                torch.save(calculator.pack_state(), file)
            else:
                os.link(previous / file.name, file)
            assert state is not None
            written[key] = state
        self._written = written
        return list(written)

    def load(self, folder: Path, names: list[str], records: Mapping[str, Record]) -> None:
        """Take up the ground states of these records that `save` wrote."""
        for key in names:
            name, _, i = key.rpartition("/")
            if name not in records:
                continue
            record = records[name]
            atoms, calculator = record.structures[int(i)], self._calculators_of(record)[int(i)]
            calculator.unpack_state(atoms, torch.load(folder / _file_of(key), weights_only=True))
            self._held[key] = (atoms, calculator)
            assert calculator.held_state is not None
            self._written[key] = calculator.held_state


def _file_of(key: str) -> str:
    """A file name for a structure: record names may hold anything."""
    return hashlib.sha256(key.encode()).hexdigest()[:32] + ".pt"


def _size(state: GroundState | None) -> int:
    """Bytes of the orbitals, fields and secants."""
    tensors = [] if state is None else [state.fields, state.secants, *state.orbitals]
    return sum(t.numel() * t.element_size() for t in tensors)
