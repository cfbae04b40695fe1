"""The self-consistent field (SCF): density -> potential -> orbitals -> density, until input and output agree."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .convergence import SINGLE_PRECISION, ConvergenceError, OrbitalTolerance, SCFSettings, Step
from .eigensolver import Eigenpairs, davidson
from .ground_state import GroundState
from .hamiltonian import Hamiltonian
from .initial_guess import more_orbitals
from .kpoints import Block
from .mixing import Mixer, default_mixer
from .nbands import EMPTY, TOO_FULL, bands_in_use, default_nbands, extra_bands
from .occupations import TRY_WHOLE, WHOLE, FilledStates, Smearing, TooFewBands
from .system import System
from .total_energy import TotalEnergy
from .warm_start import start_from, start_from_atoms

Eigensolver = Callable[[Hamiltonian, Tensor, float, int], Eigenpairs]
"""Function of H, orbitals (nbands, npw), a tolerance of the residuals, and the number of bands to converge."""


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
    begin = start_from_atoms(energy, wanted) if start is None else start_from(start, energy, wanted, nbands is not None)
    fields, orbitals = begin.fields, begin.orbitals
    mixer = mixer or default_mixer(system, begin.secants)
    tolerance = tolerance or OrbitalTolerance.for_energy(begin.tolerance, settings.energy, crystal.nelectrons)
    asked, in_use = tolerance.first, len(orbitals[0])
    history: list[Step] = []
    whole = TRY_WHOLE
    for number in range(1, settings.maxiter + 1):
        clock = time.perf_counter()
        potential = energy.potential(fields)
        pairs = _diagonalise(energy, potential.values, orbitals, eigensolver, asked, in_use)
        output = _fill(energy, smearing, pairs, whole)
        states = output.states
        orbitals, residual = output.orbitals, output.fields - fields
        step = Step(
            number=number,
            free_energy=output.energy + potential.double_counting,
            error=mixer.error(residual, crystal.volume),
            tolerance=asked,
            residual=output.residual,
            fermi_level=float(states.fermi_levels.max()),
            moment=float(output.fields[1, 0].real * crystal.volume) if crystal.nspin == 2 else 0.0,
            applications=output.applications,
            seconds=time.perf_counter() - clock,
        )
        history.append(step)
        if callback is not None:
            callback(step)
        highest = float(states.occupations[..., -1].abs().max())
        missing = extra_bands(system, len(orbitals[0])) if nbands is None and highest > EMPTY else 0
        converged = step.error <= settings.energy and tolerance.is_met(asked, step.residual)
        if missing:
            orbitals = more_orbitals(energy, orbitals, missing)
        elif converged and states.missed > WHOLE:
            whole = WHOLE  # the gap is too narrow for whole electrons
        elif converged:
            if highest > TOO_FULL:
                remedy = "more plane waves (a higher cutoff)" if nbands is None else "more bands"
                raise TooFewBands(
                    f"too few bands: the occupation of band {len(orbitals[0])}, the highest, is {highest:.1e}; "
                    f"expected at most {TOO_FULL:.0e}; use {remedy}"
                )
            return _ground_state(energy, smearing, output, history, mixer.secants(fields, residual))
        fields = mixer.step(fields, residual)
        asked = tolerance.next(asked, step.error)
        in_use = len(orbitals[0]) if missing else bands_in_use(states.occupations)
    last = history[-1]
    raise ConvergenceError(
        f"the SCF has not converged in {last.number} steps: the estimated error of the energy is {last.error:.1e} Ha, "
        f"the tolerance is {settings.energy:.1e} Ha; the largest residual of an orbital is {last.residual:.1e} Ha",
        history,
    )


def _diagonalise(
    energy: TotalEnergy,
    potential: Tensor,
    orbitals: list[Tensor],
    eigensolver: Eigensolver,
    tolerance: float,
    in_use: int,
) -> list[Eigenpairs]:
    """Return eigenpairs of every block, `in_use` of them converged; loose tolerances are reached in complex64."""
    dtype = torch.complex64 if tolerance > SINGLE_PRECISION else torch.complex128

    def solve(block: Block, psi: Tensor) -> Eigenpairs:
        hamiltonian = energy.hamiltonian(block, potential[block.spin], dtype)
        return eigensolver(hamiltonian, psi.to(dtype), tolerance, in_use)

    return energy.system.kpoints.map(solve, orbitals)


@dataclass(frozen=True, eq=False)
class _Output:
    """Orbitals in the potential of the input fields, filled with electrons, and the fields that they make.

    Attributes
    ----------
    orbitals : list of Tensor
        (nbands, npw) of each block.
    states : FilledStates
        Eigenvalues and occupations.
    fields : Tensor
        (nfields, ng).
    energy : float
        Sum of the eigenvalues with the terms of ions, orbitals and entropy, Hartree; the double counting of the
        potential makes it the Harris-Foulkes functional.
    residual : float
        Largest residual norm of an orbital that holds electrons, Hartree.
    applications : int
        Applications of H to an orbital, over all blocks.
    """

    orbitals: list[Tensor]
    states: FilledStates
    fields: Tensor
    energy: float
    residual: float
    applications: int


def _fill(energy: TotalEnergy, smearing: Smearing, pairs: list[Eigenpairs], whole: float) -> _Output:
    system, kpoints = energy.system, energy.system.kpoints
    orbitals = [p.vectors for p in pairs]
    eigenvalues, residuals = kpoints.gather([p.values for p in pairs]), kpoints.gather([p.residuals for p in pairs])
    states = smearing.fill(eigenvalues, kpoints.weights, system.crystal.reservoirs, whole)
    energy.prepare(kpoints, orbitals, states.electrons)
    band_energy = float((states.eigenvalues * states.electrons).sum())
    return _Output(
        orbitals=orbitals,
        states=states,
        fields=energy.fields_of(orbitals, states.electrons),
        energy=band_energy + energy.double_counting + energy.of_ions + states.entropy,
        residual=float(residuals[states.occupations.abs() > EMPTY].max()),
        applications=int(kpoints.gather([torch.tensor(p.applications, device="cpu") for p in pairs]).sum()),
    )


def _ground_state(
    energy: TotalEnergy, smearing: Smearing, output: _Output, history: list[Step], secants: Tensor
) -> GroundState:
    states = output.states
    return GroundState(
        system=energy.system,
        smearing=smearing,
        orbitals=output.orbitals,
        eigenvalues=states.eigenvalues,
        occupations=states.occupations,
        fermi_levels=states.fermi_levels,
        fields=output.fields,
        terms=energy.components(output.orbitals, states.electrons, output.fields, states.entropy),
        history=history,
        secants=secants,
    )
