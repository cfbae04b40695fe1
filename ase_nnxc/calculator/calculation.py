"""One calculation of a ground state: what a calculator remembers of it, and how it is solved for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from ase.calculators.calculator import CalculationFailed, InputError, SCFError

from ..ks.convergence import ConvergenceError, SCFSettings, Step
from ..ks.ground_state import GroundState
from ..ks.occupations import Smearing, TooFewBands
from ..ks.scf import scf
from ..ks.system import System
from ..ks.warm_start import can_start
from ..units import HARTREE
from .levels import ConvergedBands
from .mesh import Mesh
from .parameters import energy_tolerance

Fingerprint = tuple[bytes, ...]


@dataclass(frozen=True)
class Calculation:
    """The last calculation of a calculator. It does not change; its methods return the one that follows it.

    Attributes
    ----------
    state : GroundState or None
        The ground state that is held. It belongs to `fingerprint`; if that is None, it is only a start for the next
        SCF.
    fingerprint : tuple of bytes or None
        Geometry and functional of the ground state and of the results.
    parameters : dict or None
        Parameters for the last geometry, with all automatic choices made explicit; None after a change of parameters.
    mesh : Mesh or None
        The k-points to keep for the next geometry.
    history : sequence of Step
        Steps of the last SCF, converged or not.
    """

    state: GroundState | None = None
    fingerprint: Fingerprint | None = None
    parameters: dict[str, Any] | None = None
    mesh: Mesh | None = None
    history: Sequence[Step] = ()

    def is_of(self, fingerprint: Fingerprint, without_symmetry: bool) -> bool:
        """Whether the ground state that is held is that of this geometry and functional, without symmetry if asked."""
        if self.state is None or self.fingerprint != fingerprint:
            return False
        return not without_symmetry or len(self.state.basis.symmetry) == 1

    @cached_property
    def bands(self) -> ConvergedBands:
        """All bands of the ground state, converged when they are first asked for."""
        assert self.state is not None
        return ConvergedBands.of(self.state)

    def outdated(self) -> "Calculation":
        """Return a copy whose ground state is only a start, because the geometry or the functional has changed."""
        return replace(self, fingerprint=None)

    def with_other_parameters(self, keep_mesh: bool) -> "Calculation":
        """Return a copy without what depends on the parameters, after a change of them."""
        return replace(self, fingerprint=None, parameters=None, mesh=self.mesh if keep_mesh else None)

    def begun(self, mesh: Mesh, parameters: dict[str, Any]) -> "Calculation":
        """Return the next calculation when its SCF begins, with this ground state as its start."""
        return replace(self, fingerprint=None, mesh=mesh, parameters=parameters, history=())

    def ended(self, history: Sequence[Step]) -> "Calculation":
        """Return a copy with the steps of the SCF, which has converged or failed."""
        return replace(self, history=tuple(history))

    def solved(self, state: GroundState, fingerprint: Fingerprint | None) -> "Calculation":
        """Return a copy with the ground state of a fingerprint."""
        return replace(self, state=state, fingerprint=fingerprint)

    def without_state(self) -> "Calculation":
        """Return a copy without the ground state, which is large, for a copy of the calculator."""
        return replace(self, state=None)


def solve(
    system: System,
    smearing: Smearing,
    parameters: Mapping[str, Any],
    start: GroundState | None,
    callback: Callable[[Step], None],
) -> GroundState:
    """Solve for the ground state, raising ASE's exceptions.

    Parameters
    ----------
    system : System
        Crystal, basis and functional.
    smearing : Smearing
        Occupations.
    parameters : mapping
        Those of the calculator: `nbands`, `convergence` and `maxiter` are read.
    start : GroundState or None
        A ground state to start from, if it is one of these atoms.
    callback : callable
        Receives each step as it is finished.

    Raises
    ------
    SCFError
        If the SCF does not converge.
    CalculationFailed
        If numbers are not finite, if linear algebra fails, or if the memory of a GPU is not enough.
    InputError
        If there are too few bands.
    """
    energy = energy_tolerance(parameters["convergence"])  # eV per valence electron
    if start is not None and not can_start(start.crystal, system.crystal):
        start = None
    settings = SCFSettings(energy * system.crystal.nelectrons / HARTREE, parameters["maxiter"])
    try:
        return scf(
            system,
            smearing,
            nbands=parameters["nbands"],
            settings=settings,
            start=start,
            callback=callback,
        )
    except ConvergenceError as error:
        raise SCFError(
            f"{error} (convergence: {energy:g} eV per valence electron). Try more steps (maxiter), a larger width of "
            "the smearing, which `set` then lowers in steps, or other initial magnetic moments"
        ) from error
    except FloatingPointError as error:
        raise CalculationFailed(str(error)) from error
    except torch.linalg.LinAlgError as error:
        raise CalculationFailed(f"linear algebra failed in the SCF: {error}") from error
    except torch.cuda.OutOfMemoryError as error:
        raise CalculationFailed(
            f"the memory of {system.crystal.device} is not enough: {error}. Try a lower cutoff, fewer k-points, "
            "device='cpu', or more GPUs with share_kpoints=True"
        ) from error
    except TooFewBands as error:
        raise InputError(str(error)) from error
