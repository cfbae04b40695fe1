"""The self-consistent field (SCF): density -> potential -> orbitals -> density, until input and output agree."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .convergence import SINGLE_PRECISION, ConvergenceError, OrbitalTolerance, SCFSettings, Step
from .coulomb import lattice_kernel
from .crystal import Crystal
from .eigensolver import Eigenpairs, davidson
from .ground_state import GroundState
from .hamiltonian import Hamiltonian
from .initial_guess import more_orbitals
from .kpoints import Block
from .mixing import AndersonMixer
from .occupations import FilledStates, Smearing, TooFewBands
from .system import System
from .total_energy import TotalEnergy
from .warm_start import start_from, start_from_atoms

SCREENING = 0.8  # Kerker's wave vector, bohr^-1, for systems with periodic directions
EMPTY = 1e-6  # bands with smaller occupations need not be converged
TOO_FULL = 1e-3  # largest allowed occupation of the highest band if the caller sets the number of bands

Eigensolver = Callable[[Hamiltonian, Tensor, float, int], Eigenpairs]
"""Function of H, orbitals (nbands, npw), a tolerance of the residuals, and the number of bands to converge."""


class Mixer(Protocol):
    """Interface of a density mixer; see `mixing.AndersonMixer`."""

    def error(self, residual: Tensor, volume: Tensor) -> float:
        """Return the estimated error of the energy, Hartree, for a residual (nfields, ng)."""

    def step(self, density: Tensor, residual: Tensor) -> Tensor:
        """Return the next input fields (nfields, ng), from input fields and their `residual` = output - input."""

    def secants(self, density: Tensor, residual: Tensor) -> Tensor:
        """Return changes of fields and residuals (n, 2, nfields, ng), n >= 0, for the SCF of a similar system."""


def default_nbands(crystal: Crystal) -> int:
    """Return the filled bands of the majority spin channel, plus a fifth of their number, at least four."""
    moment = crystal.fixed_moment
    if moment is None:
        moment = 0.0 if crystal.magmoms is None else float(crystal.magmoms.sum())
    filled = math.ceil((crystal.nelectrons + abs(moment)) / 2)
    return filled + max(4, math.ceil(0.2 * filled))


def default_mixer(system: System, secants: Tensor | None) -> AndersonMixer:
    """Return an Anderson mixer, with Kerker's preconditioner if there are periodic directions.

    The metric of the residuals is 4 pi / G^2, which is never negative; a truncated interaction can be negative. Charge
    sloshing does not occur in molecules: without screening H2O, CO and Si need 9 steps instead of 17.
    """
    crystal, grid = system.crystal, system.basis.grid
    metric = lattice_kernel(grid.miller, crystal.lattice, (True, True, True))
    screening = SCREENING if any(crystal.pbc) else 0.0
    return AndersonMixer(grid, metric, crystal.nspin, screening=screening, secants=secants)


def scf(
    system: System,
    smearing: Smearing,
    nbands: int | None = None,
    *,
    settings: SCFSettings | None = None,
    start: GroundState | None = None,
    mixer: Mixer | None = None,
    eigensolver: Eigensolver = davidson,
    tolerance: OrbitalTolerance | None = None,
    callback: Callable[[Step], None] | None = None,
) -> GroundState:
    """Solve the Kohn-Sham equations.

    Parameters
    ----------
    system : System
        Crystal, basis, functional and terms of the energy.
    smearing : Smearing
        Smearing of the occupations.
    nbands : int, optional
        Number of bands at each k-point. By default it is `default_nbands`, and bands are added while the highest one
        is occupied.
    settings : SCFSettings, optional
        Tolerance and largest number of steps.
    start : GroundState, optional
        Ground state of the same atoms to start from; they may have moved, and the cell may be strained.
    mixer : Mixer, optional
        Density mixer; default: `default_mixer`.
    eigensolver : callable, optional
        Eigensolver of a block; default: `eigensolver.davidson`.
    tolerance : OrbitalTolerance, optional
        Schedule of the tolerances for orbitals. The default depends on `start` and `settings`.
    callback : callable, optional
        Function that is called with each `Step` when the step is complete.

    Raises
    ------
    ConvergenceError
        If the tolerance is not reached within `settings.maxiter` steps.
    TooFewBands
        If `nbands` is given and these bands cannot hold the electrons.
    FloatingPointError
        If a term of the energy or its potential is not finite.
    ValueError
        If `start` is a ground state of other atoms, or of another cell along directions that are not periodic.
    """
    settings = settings or SCFSettings()
    energy, crystal = TotalEnergy(system), system.crystal
    wanted = nbands or min(default_nbands(crystal), system.basis.fewest_waves)
    first = start_from_atoms(energy, wanted) if start is None else start_from(start, energy, wanted, nbands is not None)
    fields, orbitals = first.fields, first.orbitals
    mixer = mixer or default_mixer(system, first.secants)
    schedule = tolerance or OrbitalTolerance.for_energy(first.tolerance, settings.energy, crystal.nelectrons)
    asked, in_use = schedule.first, len(orbitals[0])
    history: list[Step] = []
    for number in range(1, settings.maxiter + 1):
        clock = time.perf_counter()
        output = _solve(energy, smearing, fields, _Diagonalisation(eigensolver, orbitals, asked, in_use))
        orbitals, residual = output.orbitals, output.fields - fields
        step = Step(
            number=number,
            free_energy=output.free_energy,
            error=mixer.error(residual, crystal.volume),
            tolerance=asked,
            residual=output.residual,
            fermi_level=float(output.filled.fermi_levels.max()),
            moment=float(output.fields[1, 0].real * crystal.volume) if crystal.nspin == 2 else 0.0,
            applications=output.applications,
            seconds=time.perf_counter() - clock,
        )
        history.append(step)
        if callback is not None:
            callback(step)
        highest = float(output.filled.occupations[..., -1].abs().max())
        missing = missing_bands(system, len(orbitals[0])) if nbands is None and highest > EMPTY else 0
        if missing:
            orbitals = more_orbitals(energy, orbitals, missing)
        elif step.error <= settings.energy and schedule.is_met(asked, step.residual):
            if highest > TOO_FULL:
                raise TooFewBands(
                    f"too few bands: the occupation of band {len(orbitals[0])}, the highest, is {highest:.1e}; "
                    f"expected at most {TOO_FULL:.0e}"
                )
            return _ground_state(energy, smearing, output, history, mixer.secants(fields, residual))
        fields = mixer.step(fields, residual)
        asked = schedule.next(asked, step.error)
        in_use = len(orbitals[0]) if missing else _bands_in_use(output.filled.occupations)
    last = history[-1]
    raise ConvergenceError(
        f"the SCF has not converged in {last.number} steps: the estimated error of the energy is {last.error:.1e} Ha, "
        f"the tolerance is {settings.energy:.1e} Ha; the largest residual of an orbital is {last.residual:.1e} Ha",
        history,
    )


@dataclass(frozen=True)
class _Diagonalisation:
    """The diagonalisation of one SCF step.

    Attributes
    ----------
    eigensolver : callable
        Eigensolver of a block.
    orbitals : list of Tensor
        (nbands, npw) of each block, to start from.
    tolerance : float
        Residual norm, Hartree.
    in_use : int
        Number of bands that must reach it.
    """

    eigensolver: Eigensolver
    orbitals: list[Tensor]
    tolerance: float
    in_use: int

    def solve(self, energy: TotalEnergy, potential: Tensor) -> list[Eigenpairs]:
        """Return eigenpairs of every block; loose tolerances are reached in complex64."""
        dtype = torch.complex64 if self.tolerance > SINGLE_PRECISION else torch.complex128

        def solve(block: Block, psi: Tensor) -> Eigenpairs:
            hamiltonian = energy.hamiltonian(block, potential[block.spin], dtype)
            return self.eigensolver(hamiltonian, psi.to(dtype), self.tolerance, self.in_use)

        return energy.system.kpoints.map(solve, self.orbitals)


@dataclass(frozen=True)
class _Output:
    """The result of one SCF step: orbitals in the potential of the input fields, and their own fields.

    Attributes
    ----------
    orbitals : list of Tensor
        (nbands, npw) of each block.
    filled : FilledStates
        Eigenvalues and occupations.
    fields : Tensor
        (nfields, ng) of these orbitals.
    free_energy : float
        Harris-Foulkes functional of the input fields, Hartree.
    residual : float
        Largest residual norm of an orbital that holds electrons, Hartree.
    applications : int
        Applications of H.
    """

    orbitals: list[Tensor]
    filled: FilledStates
    fields: Tensor
    free_energy: float
    residual: float
    applications: int


def _solve(energy: TotalEnergy, smearing: Smearing, fields: Tensor, diagonalisation: _Diagonalisation) -> _Output:
    """Return the orbitals in the potential of fields (nfields, ng), filled, and the fields that they make."""
    system, kpoints = energy.system, energy.system.kpoints
    potential = energy.potential(fields)
    pairs = diagonalisation.solve(energy, potential.values)
    orbitals = [p.vectors for p in pairs]
    eigenvalues, residuals = kpoints.gather([p.values for p in pairs]), kpoints.gather([p.residuals for p in pairs])
    filled = smearing.fill(eigenvalues, system.basis.weights, system.crystal.reservoirs)
    energy.prepare(kpoints, orbitals, filled.electrons)
    band_energy = float((filled.eigenvalues * filled.electrons).sum())
    return _Output(
        orbitals=orbitals,
        filled=filled,
        fields=energy.fields_of(orbitals, filled.electrons),
        free_energy=band_energy + potential.double_counting + energy.of_ions + filled.entropy,
        residual=float(residuals[filled.occupations.abs() > EMPTY].max()),
        applications=sum(p.applications for p in pairs),
    )


def _ground_state(
    energy: TotalEnergy, smearing: Smearing, output: _Output, history: list[Step], secants: Tensor
) -> GroundState:
    filled = output.filled
    return GroundState(
        system=energy.system,
        smearing=smearing,
        orbitals=output.orbitals,
        eigenvalues=filled.eigenvalues,
        occupations=filled.occupations,
        fermi_levels=filled.fermi_levels,
        fields=output.fields,
        terms=energy.components(output.orbitals, filled.electrons, output.fields, filled.entropy),
        history=history,
        secants=secants,
    )


def missing_bands(system: System, nbands: int) -> int:
    """Return the number of bands to add if the highest is occupied: 2 + nbands // 4, limited by the plane waves."""
    return max(0, min(2 + nbands // 4, system.basis.fewest_waves - nbands))


def _bands_in_use(occupations: Tensor) -> int:
    """Return the number of bands up to the highest that is occupied in any block, plus one."""
    filled = (occupations.abs().amax(dim=(0, 1)) > EMPTY).nonzero()
    return min(occupations.shape[-1], int(filled.max()) + 2)
