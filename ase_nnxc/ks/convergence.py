"""Convergence of the SCF: its tolerance, the schedule of tolerances for the orbitals, and the record of its steps."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

# Residual norms of the first diagonalisation, Hartree, for a start from atoms, from a ground state at other positions,
# and from a ground state at the same positions. The last one is small, because a change of the functional alone changes
# the density only slightly, and the errors of rougher orbitals would be larger than this change.
FROM_ATOMS, FROM_MOVED, FROM_SAME_POSITIONS = 1e-2, 1e-3, 3.1e-4
LOOSEST = 1e-3  # Hartree, the largest residual norm of orbitals that end an SCF
# Hartree; potentials are coarse (`TotalEnergy.potential`) while residuals above it are allowed, which those of a start
# from a ground state never are.
COARSE_POTENTIAL = 2e-3
SINGLE_PRECISION = 3e-4  # Hartree; above it, orbitals of a step that cannot be the last one are solved in 4-byte floats


# The number of steps in which the estimated error must be halved. Whole electrons can be treated in another way, with
# which an SCF goes on sooner; with fractional occupations the mixer may restart twice (`mixing.PATIENCE`).
PATIENCE_WHOLE, PATIENCE_FRACTIONAL = 10, 45


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
    method : str
        "mixing", or "minimisation" of the energy of whole electrons; see `scf`.
    width : float
        Width of the smearing, Hartree; zero in a minimisation.
    free_energy : float
        Harris-Foulkes functional of the input density, Hartree; in a minimisation the energy of the orbitals.
    error : float
        Estimated error of the energy, Hartree: the electrostatic energy of the density's residual; in a minimisation
        the decrease from the last step.
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
    method: Literal["mixing", "minimisation"]
    width: float
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


class Stall:
    """Whether the estimated error of the energy has stopped decreasing."""

    def __init__(self) -> None:
        self._least, self._idle, self._whole = math.inf, 0, 0

    @property
    def whole(self) -> bool:
        """Whether states have held whole electrons in each of the last steps."""
        return self._whole >= PATIENCE_WHOLE

    def after(self, error: float, whole: bool) -> bool:
        """Take the error of a step, Hartree, and whether electrons are whole; return whether it has stalled."""
        self._idle, self._whole = self._idle + 1, self._whole + 1 if whole else 0
        if error < 0.5 * self._least:
            self._least, self._idle = error, 0
        return self._idle >= (PATIENCE_WHOLE if self.whole else PATIENCE_FRACTIONAL)


@dataclass(frozen=True)
class OrbitalTolerance:
    """A schedule of the residual norms that orbitals must reach: they are solved no better than the density deserves.

    Attributes
    ----------
    first : float
        Residual norm of the first diagonalisation, Hartree.
    final : float
        Residual norm that ends the SCF, Hartree.
    nelectrons : float
        Number of electrons.
    """

    first: float
    final: float
    nelectrons: float

    @classmethod
    def for_energy(cls, first: float, energy: float, nelectrons: float) -> "OrbitalTolerance":
        """Return a schedule whose final residual norm changes the energy by less than `energy`, Hartree."""
        return cls(first, min(LOOSEST, 0.3 * math.sqrt(energy / nelectrons)), nelectrons)

    def precision(self, asked: float) -> torch.dtype:
        """Return the precision, float32 or float64, in which orbitals are solved to a residual norm, Hartree."""
        return torch.float32 if asked > max(SINGLE_PRECISION, self.final) else torch.float64

    def allows_coarse(self, asked: float) -> bool:
        """Whether a coarse potential is enough for a step whose orbitals are solved to a residual norm, Hartree."""
        return asked > COARSE_POTENTIAL

    def is_met(self, asked: float, residual: float) -> bool:
        """Whether orbitals with this largest residual norm end the SCF, if this norm was asked for; both Hartree."""
        return asked <= self.final and residual <= self.final

    def next(self, asked: float, error: float) -> float:
        """Return the residual norm for the next step, from the last one and from the error of the energy, Hartree."""
        tighter = min(asked, 0.2 * math.sqrt(error / self.nelectrons))
        # the last value avoids an additional step that would only improve the orbitals
        return 0.5 * self.final if tighter < 3 * self.final else tighter
