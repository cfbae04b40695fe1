"""Finds and keeps ground states for the calculator: plan, SCF, and the start of the next SCF."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, InputError, SCFError
from torch import Tensor

from ..ks.convergence import Step
from ..ks.ground_state import GroundState
from ..pseudopotentials import Pseudopotential
from ..ranks import Ranks, world
from ..registry import Resolved
from .calculation import Calculation, Fingerprint, solve
from .device import choose_device, on_device, torch_device
from .geometry import fingerprint
from .log import Log, facts_of, notes_of
from .packing import check_packed, pack, packed_fingerprint, unpack
from .parameters import for_files
from .plan import Plan, check_bands, check_ranks, find_tables, lattice_of_same_atoms, make_plan


class GroundStateSolver(Calculator):
    """The part of NNXCCalculator that solves for ground states and keeps the last one."""

    # these follow from the parameters
    _xc: Resolved
    _tables: dict[str, Pseudopotential]  # pseudopotentials by element
    _log: Log
    # the memory of the last calculation
    _calculation: Calculation

    def reset(self) -> None:
        """Forget everything but the parameters: results, ground state and mesh."""
        super().reset()
        self._calculation = Calculation()

    @property
    def history(self) -> list[Step]:
        """Steps of the last SCF (`ase_nnxc.ks.convergence.Step`, Hartree), converged or not; empty before the first."""
        return list(self._calculation.history)

    @property
    def ranks(self) -> Ranks:
        """Processes that share the k-points (`share_kpoints`)."""
        share = self.parameters["share_kpoints"]
        if isinstance(share, Ranks):
            return share
        return world() if share else Ranks()

    @property
    def held_state(self) -> GroundState | None:
        """Ground state that the next SCF starts from, of any functional and geometry; None before the first one.

        It holds the functional object itself: if the numbers in the object have changed, so have those that the state
        computes with it.
        """
        return self._calculation.state

    def _tables_of(self, atoms: Atoms) -> dict[str, Pseudopotential]:
        """Return the pseudopotentials of the atoms, which are read once."""
        symbols = list(dict.fromkeys(atoms.get_chemical_symbols()))
        missing = [symbol for symbol in symbols if symbol not in self._tables]
        if missing:
            pseudos, radial_cutoff = self.parameters["pseudos"], self.parameters["radial_cutoff"]
            self._tables |= find_tables(missing, self._xc, pseudos, radial_cutoff)
        return {symbol: self._tables[symbol] for symbol in symbols}

    def regenerate(self) -> None:
        """Forget the pseudopotentials and all results, so that the next calculation finds pseudopotentials anew.

        A generated pseudopotential (`pseudos="oncv"`) is that of the functional's numbers when it was first needed.
        Call this when the numbers of a functional object have changed, as in a training.
        """
        self._tables = {}
        self.reset()

    def _plan(self, atoms: Atoms, lattice: Tensor | None = None) -> Plan:
        """Return what is to be calculated for a geometry.

        The lengths of a `lattice` (3, 3), bohr, by default that of the ground state that is held, are kept along
        directions that are not periodic if they suit.
        """
        tables, state = self._tables_of(atoms), self._calculation.state
        if lattice is None:
            lattice = lattice_of_same_atoms(None if state is None else state.crystal, atoms, tables)
        return make_plan(atoms, self.parameters, tables, self._xc.functional, self._calculation.mesh, lattice)

    def _fingerprint(self, atoms: Atoms) -> tuple[bytes, ...]:
        """Return what identifies a ground state: the geometry and, last, the functional with its present numbers."""
        return (*fingerprint(atoms), self._xc.fingerprint().encode())

    def _ground_state(self, atoms: Atoms, without_symmetry: bool) -> GroundState:
        """Return the ground state of the present atoms and functional, solved for unless it is held."""
        wanted = self._fingerprint(atoms)
        self._check_ranks_agree(wanted)
        if not self._calculation.is_of(wanted, without_symmetry):
            # if the SCF fails, the old results must not stay: they are not those of these atoms
            self._calculation, self.results = self._calculation.outdated(), {}
            state = self.ranks.together(lambda: self._solve(atoms, without_symmetry))
            self._calculation = self._calculation.solved(state, wanted)
        assert self._calculation.state is not None
        return self._calculation.state

    def _check_ranks_agree(self, wanted: Fingerprint) -> None:
        """Raise InputError unless all ranks want the ground state of this fingerprint with the same parameters."""
        parameters = {name: value for name, value in for_files(self.parameters).items() if name != "xc"}
        if len(set(self.ranks.gather(lambda: (wanted, repr(parameters))))) > 1:
            raise InputError(
                "ranks that share k-points must calculate the same, but their atoms, functionals or parameters differ"
            )

    def _solve(self, atoms: Atoms, without_symmetry: bool) -> GroundState:
        """Run an SCF that starts from the ground state that is held, if it suits."""
        clock = time.perf_counter()
        parameters, earlier = self.parameters, self._calculation
        plan = self._plan(atoms)
        if without_symmetry:
            plan = plan.without_symmetry()
        device, gpu_fault = choose_device(parameters["device"])
        functional = on_device(self._xc.functional, device)
        system = plan.system(functional, device, self.ranks)
        check_ranks(system)
        check_bands(parameters["nbands"], system)
        facts = facts_of(plan, system, atoms, self._xc.describe(), parameters["smearing"])
        self._log.header(facts, notes_of(plan, atoms, earlier.mesh, gpu_fault))
        self._calculation = earlier.begun(plan.mesh, plan.explicit(parameters, self._xc))
        steps: list[Step] = []

        def report(step: Step) -> None:
            self._log.step(step, steps[-1] if steps else None)
            steps.append(step)

        try:
            state = solve(system, plan.smearing, parameters, earlier.state, report)
        except SCFError as error:
            self._log.write(f"  NOT CONVERGED: {error}")
            raise
        finally:
            self._calculation = self._calculation.ended(steps)
        self._log.ground_state(state, time.perf_counter() - clock)
        return state

    def pack_state(self) -> dict[str, Any]:
        """Return the ground state that is held as tensors and plain data, for `torch.save`; see `unpack_state`.

        What follows from the atoms and the parameters is left out.

        Raises
        ------
        InputError
            If no ground state is held.
        """
        if self._calculation.state is None:
            raise InputError("no ground state is held: calculate something first")
        return pack(self._calculation.state, self._calculation.fingerprint)

    def unpack_state(self, atoms: Atoms, data: Mapping[str, Any]) -> None:
        """Hold the ground state of `pack_state`, of a calculator with these parameters for these atoms.

        If functional and geometry are those that it was solved with, no SCF is needed for them.

        Parameters
        ----------
        atoms : Atoms
            The atoms of the ground state.
        data : mapping
            What `pack_state` returned.

        Raises
        ------
        InputError
            If it is not a ground state of these atoms with these parameters.
        """
        check_packed(data)
        with torch.inference_mode(False):
            plan, device = self._plan(atoms, data["lattice"]), torch_device(self.parameters["device"])
            state = unpack(data, plan, on_device(self._xc.functional, device), device, self.ranks)
        self.reset()
        begun = self._calculation.begun(plan.mesh, plan.explicit(self.parameters, self._xc))
        self._calculation = begun.solved(state, packed_fingerprint(data))
