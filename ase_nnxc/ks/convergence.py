"""When an SCF has converged: what ends it, how well orbitals are solved on the way, and the record of its steps."""

import math
from dataclasses import dataclass

# residual norms of the first diagonalisation, Hartree: from atoms; from a ground state of other positions; from one of
# the same positions and another functional, whose small change of the density rougher orbitals would hide
FROM_ATOMS, FROM_MOVED, FROM_SAME_POSITIONS = 1e-2, 1e-3, 3.1e-4
SINGLE_PRECISION = 3e-4  # looser residual norms than this are reached in complex64


class ConvergenceError(RuntimeError):
    """The SCF did not reach its tolerance; `history` holds its steps."""

    def __init__(self, message: str, history: "list[Step]"):
        super().__init__(message)
        self.history = history


@dataclass(frozen=True)
class Step:
    """One step of the SCF.

    Attributes
    ----------
    number : int
        From 1.
    free_energy : float
        Harris-Foulkes functional of the input density, Hartree.
    error : float
        Electrostatic energy of the density's residual, an estimate of the energy's error, Hartree.
    tolerance, residual : float
        Largest residual norm asked of the occupied orbitals, and the one reached, Hartree.
    fermi_level : float
        Hartree.
    moment : float
        Bohr magnetons.
    applications : int
        Applications of H, summed over k-points.
    seconds : float
        Wall time of the step.
    """

    number: int
    free_energy: float
    error: float
    tolerance: float
    residual: float
    fermi_level: float
    moment: float
    applications: int
    seconds: float


@dataclass(frozen=True)
class SCFSettings:
    """What ends an SCF.

    Attributes
    ----------
    energy : float
        Error of the energy, Hartree, as estimated by the electrostatic energy of the density's residual.
    maxiter : int
        Largest number of steps.
    """

    energy: float = 1e-9
    maxiter: int = 100


class OrbitalTolerance:
    """Schedule of the residual norms that orbitals must reach: no better than the density deserves.

    Parameters
    ----------
    first : float
        Of the first diagonalisation, Hartree.
    energy : float
        Error of the energy at which the SCF ends, Hartree.
    nelectrons : float
        Number of electrons.

    Attributes
    ----------
    value : float
        For the next diagonalisation, Hartree.
    final : float
        Norm at which an error of the orbitals changes the energy by less than `energy`, Hartree.
    """

    def __init__(self, first: float, energy: float, nelectrons: float):
        self.value = first
        self.final = min(SINGLE_PRECISION, 0.3 * math.sqrt(energy / nelectrons))
        self._nelectrons = nelectrons

    def is_final(self, residual: float) -> bool:
        """Whether orbitals with this largest residual norm, Hartree, are good enough to end the SCF."""
        return self.value <= self.final and residual <= self.final

    def tighten(self, error: float) -> None:
        """Set `value` for the next step after one with this estimated error of the energy, Hartree."""
        self.value = min(self.value, 0.2 * math.sqrt(error / self._nelectrons))
        if self.value < 3 * self.final:  # no further step for its sake
            self.value = 0.5 * self.final
