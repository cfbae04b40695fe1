"""Ground states kept warm: one calculator for each structure, within a limit of memory, on disk between runs."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch import Tensor

from ..calculator import NNXCCalculator, _device
from ..ks.basis import make_basis
from ..ks.ground_state import GroundState
from ..ks.occupations import Smearing
from ..units import HARTREE
from .records import Record, calculators_for


class WarmCalculators:
    """Free energies of records by calculators that start from the ground states which they found last.

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

    def energies(self, record: Record, fixed_density: bool = False) -> Tensor:
        """Free energies (n,), eV, of the structures, with the gradient by the functional's parameters.

        Parameters
        ----------
        record : Record
            Whose structures.
        fixed_density : bool
            Keep the orbitals where there are any, instead of solving for those of the functional as it is now.

        Raises
        ------
        SCFError, CalculationFailed
            If a ground state is not found; those of the record are then forgotten.
        """
        if record.name not in self._calculators:
            self._calculators[record.name] = calculators_for(record.structures, self.calculator)
        energies = []
        for i, (atoms, calculator) in enumerate(zip(record.structures, self._calculators[record.name])):
            key = f"{record.name}/{i}"
            try:
                energies.append(_energy(atoms, calculator, fixed_density))
            except Exception:  # whatever it was: its state is not gone on from
                calculator.reset()
                self._held.pop(key, None)
                raise
            self._hold(key, atoms, calculator)
        return torch.stack(energies)

    def _hold(self, key: str, atoms: Atoms, calculator: NNXCCalculator) -> None:
        """Remember that this ground state is there, and forget the oldest until all fit."""
        self._held[key] = (atoms, calculator)
        self._held.move_to_end(key)
        sizes = [_size(held._state) for _, held in self._held.values()]
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
        for number, (key, (_, calculator)) in enumerate(self._held.items()):
            state, file = calculator._state, folder / f"{number}.pt"
            old = list(self._written).index(key) if self._written.get(key) is state else None
            if old is None or previous is None:
                torch.save(_pack(calculator), file)
            else:
                os.link(previous / f"{old}.pt", file)
            assert state is not None
            written[key] = state
        self._written = written
        return list(written)

    def load(self, folder: Path, names: list[str], records: Mapping[str, Record]) -> None:
        """Take up the ground states that `save` wrote."""
        for number, key in enumerate(names):
            name, _, i = key.rpartition("/")
            record = records[name]
            if name not in self._calculators:
                self._calculators[name] = calculators_for(record.structures, self.calculator)
            atoms, calculator = record.structures[int(i)], self._calculators[name][int(i)]
            _unpack(calculator, atoms, torch.load(folder / f"{number}.pt", weights_only=True))
            self._held[key] = (atoms, calculator)
            assert calculator._state is not None
            self._written[key] = calculator._state


def _energy(atoms: Atoms, calculator: NNXCCalculator, fixed_density: bool) -> Tensor:
    if fixed_density and calculator._state is not None:
        return calculator._state.energy_tensor() * HARTREE
    return calculator.energy_tensor(atoms)


def _size(state: GroundState | None) -> int:
    """Bytes of the orbitals and fields."""
    tensors = [] if state is None else [state.fields, *(psi for row in state.orbitals for psi in row)]
    return sum(t.numel() * t.element_size() for t in tensors)


def _pack(calculator: NNXCCalculator) -> dict[str, Any]:
    """The ground state that a calculator holds, without what follows from the atoms and the parameters."""
    state = calculator._state
    assert state is not None
    return {
        "orbitals": state.orbitals,
        "eigenvalues": state.eigenvalues,
        "occupations": state.occupations,
        "fermi_level": state.fermi_level,
        "fields": state.fields,
        "terms": state.terms,
        "solved": [part.hex() for part in calculator._solved or ()],
    }


def _unpack(calculator: NNXCCalculator, atoms: Atoms, data: dict[str, Any]) -> None:
    """Give a calculator the ground state of `_pack`."""
    p, plan = calculator.parameters, calculator._plan(atoms)
    crystal = plan.crystal.to(_device(p["device"]))
    solved = data.pop("solved")
    calculator._state = GroundState(
        crystal=crystal,
        basis=make_basis(crystal, plan.ecut, plan.mesh.points, plan.symmetry, plan.box, p["smooth_cutoff"]),
        functional=calculator._xc.functional,
        smearing=Smearing(p["smearing"]["name"], p["smearing"]["width"] / HARTREE),
        history=[],
        **data,
    )
    calculator._mesh = plan.mesh
    calculator._solved = tuple(bytes.fromhex(part) for part in solved) or None
