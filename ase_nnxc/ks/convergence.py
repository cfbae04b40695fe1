"""Convergence of the SCF: its tolerance, the schedule of tolerances for the orbitals, and the record of its steps."""

import math
from dataclasses import dataclass

# Residual norms of the first diagonalisation, Hartree, for a start from atoms, from a ground state at other positions,
# and from a ground state at the same positions. The last one is small, because a change of the functional alone changes
# the density only slightly, and the errors of rougher orbitals would be larger than this change.
FROM_ATOMS, FROM_MOVED, FROM_SAME_POSITIONS = 1e-2, 1e-3, 3.1e-4
SINGLE_PRECISION = 3e-4  # Hartree; for tolerances above it orbitals are solved in complex64


class ConvergenceError(RuntimeError):
    """Raised when an SCF or a band calculation does not converge; `history` holds the steps of the SCF."""

    def __init__(self, message: str, history: "list[Step]"):
        super().__init__(message)
        self.history = history


@dataclass(frozen=True)
class Step:
    """One step of the SCF.

    Attributes
    ----------
    number : int
        Number of the step, from 1.
    free_energy : float
        Harris-Foulkes functional of the input density, Hartree.
    error : float
        Estimated error of the energy, Hartree: the electrostatic energy of the density's residual.
    tolerance, residual : float
        Largest residual norm of the occupied orbitals that was allowed, and that was reached, Hartree.
    fermi_level : float
        Fermi level, Hartree; the higher one if each spin channel has its own.
    moment : float
        Total magnetic moment, Bohr magnetons.
    applications : int
        Number of products of H with an orbital, summed over all blocks.
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
    """Settings that end an SCF.

    Attributes
    ----------
    energy : float
        Largest estimated error of the energy, Hartree: the electrostatic energy of the density's residual.
    maxiter : int
        The largest number of steps.
    """

    energy: float = 1e-9
    maxiter: int = 100


class OrbitalTolerance:
    """Schedule of tolerances for the residual norms of orbitals, which follow the error of the density.

    Parameters
    ----------
    first : float
        Residual norm of the first diagonalisation, Hartree.
    energy : float
        Estimated error of the energy at which the SCF ends, Hartree.
    nelectrons : float
        Number of electrons.

    Attributes
    ----------
    value : float
        Residual norm of the next diagonalisation, Hartree.
    final : float
        Residual norm below which errors of the orbitals change the energy by less than `energy`, Hartree.
    """

    def __init__(self, first: float, energy: float, nelectrons: float):
        self.value = first
        self.final = min(SINGLE_PRECISION, 0.3 * math.sqrt(energy / nelectrons))
        self._nelectrons = nelectrons

    def is_final(self, residual: float) -> bool:
        """Whether orbitals with this largest residual norm (Hartree) are accurate enough to end the SCF."""
        return self.value <= self.final and residual <= self.final

    def tighten(self, error: float) -> None:
        """Set `value` for the next step from the estimated error of the energy (Hartree) in this step."""
        self.value = min(self.value, 0.2 * math.sqrt(error / self._nelectrons))
        if self.value < 3 * self.final:  # avoids an additional step that would only improve the orbitals
            self.value = 0.5 * self.final
