"""The self-consistent field (SCF): density -> potential -> orbitals -> density, until input and output agree."""

import time
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from .convergence import ConvergenceError, OrbitalTolerance, SCFSettings, Stall, Step
from .eigensolver import davidson
from .ground_state import GroundState
from .initial_guess import more_orbitals
from .minimisation import EnergyOfOrbitals, minimise
from .mixing import Mixer, default_mixer
from .nbands import EMPTY, TOO_FULL, bands_in_use, default_nbands, extra_bands
from .occupations import TRY_WHOLE, WHOLE, Smearing, TooFewBands
from .output import Eigensolver, Output, diagonalise, fill
from .system import System
from .total_energy import TotalEnergy
from .warm_start import start_from, start_from_atoms

# Widths with which an SCF goes on that does not converge with its own: from at least the first, Hartree, down by the
# factor. Each but the last need only reach the error LOOSE_ERROR, Hartree.
WIDE, NARROWER, LOOSE_ERROR = 0.03, 0.25, 1e-5


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

    The density is mixed. Where that stalls, the SCF goes on in two other ways before it fails: if the states hold whole
    electrons, the energy of these orbitals is minimised (`minimisation.minimise`); otherwise, or if that does not end
    in a ground state, the electrons are smeared widely, and the width is lowered in steps.

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
        Eigensolver of several blocks, see `output.Eigensolver`; default: `eigensolver.davidson`.
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
    schedule = tolerance or OrbitalTolerance.for_energy(begin.tolerance, settings.energy, crystal.nelectrons)
    orbitals = energy.to_real(begin.orbitals)
    run = _SCF(energy, smearing, nbands, settings, eigensolver, schedule, callback, orbitals, begin.in_use)
    state = run.solve(begin.fields, mixer or default_mixer(system, begin.secants))
    if state is None:
        state = run.solve(run.smeared_widely(begin.fields), last=True)
    assert state is not None  # the last attempt ends only in a ground state or an error
    return state


class _SCF:
    """An SCF that is under way.

    Parameters
    ----------
    energy, smearing, nbands, settings, eigensolver, tolerance, callback
        Those of `scf`.
    orbitals : list of Tensor
        (nbands, npw) of each block, where the first diagonalisation starts; real or complex, as all others will be.
    in_use : int
        Number of bands that the first diagonalisation must converge.
    """

    def __init__(
        self,
        energy: TotalEnergy,
        smearing: Smearing,
        nbands: int | None,
        settings: SCFSettings,
        eigensolver: Eigensolver,
        tolerance: OrbitalTolerance,
        callback: Callable[[Step], None] | None,
        orbitals: list[Tensor],
        in_use: int,
    ):
        self.energy, self.smearing, self.nbands, self.settings = energy, smearing, nbands, settings
        self.eigensolver, self.tolerance, self.callback = eigensolver, tolerance, callback
        self.orbitals, self.in_use = orbitals, in_use
        self.stall = Stall()
        self.history: list[Step] = []

    def solve(self, fields: Tensor, mixer: Mixer | None = None, *, last: bool = False) -> GroundState | None:
        """Mix fields, with a minimisation of the energy where that helps; return None if both stall.

        Parameters
        ----------
        fields : Tensor
            (nfields, ng) input fields of the first step.
        mixer : Mixer, optional
            Mixer of the fields.
        last : bool
            Whether to go on mixing until all steps are used.
        """
        outcome = self._mix(fields, self.smearing, self.tolerance.first, mixer)
        if isinstance(outcome, Output) and self.stall.whole:
            outcome = self._mix(self._minimised(outcome), self.smearing, 0.5 * self.tolerance.final)
        if isinstance(outcome, Output) and last:
            outcome = self._mix(outcome.fields, self.smearing, self.tolerance.first, patient=True)
        return outcome if isinstance(outcome, GroundState) else None

    def smeared_widely(self, fields: Tensor) -> Tensor:
        """Return fields (nfields, ng) for the smearing of the SCF, from fields with wider ones.

        Wide smearing weakens magnetism. So the total moment is held meanwhile, at that of the best step so far.
        """
        crystal = self.energy.system.crystal
        if crystal.nspin == 2 and crystal.fixed_moment is None:
            crystal = replace(crystal, fixed_moment=min(self.history, key=lambda step: step.error).moment)
        widths = [self.smearing.width / NARROWER]
        while widths[-1] < WIDE:
            widths.append(widths[-1] / NARROWER)
        for width in reversed(widths):
            smearing = replace(self.smearing, width=width)
            outcome = self._mix(fields, smearing, self.tolerance.first, loose=True, reservoirs=crystal.reservoirs)
            fields = outcome.fields
        return fields

    def _mix(
        self,
        fields: Tensor,
        smearing: Smearing,
        asked: float,
        mixer: Mixer | None = None,
        *,
        loose: bool = False,
        patient: bool = False,
        reservoirs: list[tuple[slice, float]] | None = None,
    ) -> GroundState | Output:
        """Mix fields until input and output agree, or until the error stalls; then return the last output.

        Parameters
        ----------
        fields : Tensor
            (nfields, ng) input fields of the first step.
        smearing : Smearing
            Occupations.
        asked : float
            Residual norm of the first diagonalisation, Hartree.
        mixer : Mixer, optional
            Mixer; default: a new one.
        loose : bool
            Whether to end at an error of `LOOSE_ERROR`.
        patient : bool
            Whether to go on when the error stalls.
        reservoirs : list of (slice, float), optional
            Electrons of the spin channels; default: those of the crystal.
        """
        reservoirs = reservoirs or self.energy.system.crystal.reservoirs
        mixer, whole = mixer or default_mixer(self.energy.system, None), TRY_WHOLE
        volume = float(self.energy.system.crystal.volume)
        self.stall = Stall()
        coarse = False
        while True:
            self._check_steps()
            clock = time.perf_counter()
            was_coarse, coarse = coarse, self.tolerance.allows_coarse(asked) and self.energy.has_coarse
            if was_coarse and not coarse:
                mixer.change_map()
                self.stall = Stall()
            potential = self.energy.potential(fields, coarse=coarse)
            precision = self.tolerance.precision(asked)
            pairs = diagonalise(
                self.energy, potential.values, self.orbitals, self.eigensolver, asked, self.in_use, precision
            )
            output = fill(self.energy, smearing, pairs, reservoirs, whole)
            self.orbitals, residual = output.orbitals, output.fields - fields
            step = Step(
                number=len(self.history) + 1,
                method="mixing",
                width=smearing.width,
                free_energy=output.energy + potential.double_counting,
                error=mixer.error(residual, self.energy.system.crystal.volume),
                tolerance=asked,
                residual=output.residual,
                fermi_level=float(output.states.fermi_levels.max()),
                moment=self._moment(output.fields),
                applications=output.applications,
                seconds=time.perf_counter() - clock,
            )
            self._record(step)
            missing = self._missing_bands(output)
            converged = step.error <= self.settings.energy and self.tolerance.is_met(asked, step.residual)
            if missing:
                self.orbitals = more_orbitals(self.energy, self.orbitals, missing)
            elif loose and step.error <= LOOSE_ERROR:
                return output
            elif converged and output.states.missed > WHOLE:
                whole = WHOLE  # the gap is too narrow for whole electrons
            elif converged:
                self._check_bands(output)
                return _ground_state(
                    self.energy, smearing, output, residual, self.history, mixer.secants(fields, residual)
                )
            elif self.stall.after(step.error, output.states.whole) and not patient:
                return output
            fields = mixer.step(fields, residual, output.states.density_of_states / volume)
            asked = self.tolerance.next(asked, step.error)
            self.in_use = len(self.orbitals[0]) if missing else bands_in_use(output.states.occupations)

    def _minimised(self, output: Output) -> Tensor:
        """Return the fields (nfields, ng) of the orbitals that minimise the energy, with the electrons of `output`.

        The minimisation ends after half of the steps that are left, so that other ways can follow.
        """
        crystal, kpoints = self.energy.system.crystal, self.energy.system.kpoints
        electrons = output.states.occupations.round() * (2 / crystal.nspin) * kpoints.weights[:, None]
        function = EnergyOfOrbitals(self.energy, electrons)
        last, clock, applications = self.history[-1], time.perf_counter(), 0
        tolerance, most = 0.5 * self.tolerance.final, (len(self.history) + self.settings.maxiter) // 2
        for point in minimise(function, output.orbitals, tolerance, 0.1 * self.settings.energy):
            step = replace(
                last,
                number=len(self.history) + 1,
                method="minimisation",
                width=0.0,
                free_energy=point.energy,
                error=abs(last.free_energy - point.energy),
                tolerance=tolerance,
                residual=point.residual,
                moment=self._moment(point.fields),
                applications=function.applications - applications,
                seconds=time.perf_counter() - clock,
            )
            self._record(step)
            if step.number >= most:
                break
            last, clock, applications = step, time.perf_counter(), function.applications
        self.orbitals = point.orbitals
        return point.fields

    def _record(self, step: Step) -> None:
        self.history.append(step)
        if self.callback is not None:
            self.callback(step)

    def _check_steps(self) -> None:
        """Raise ConvergenceError if all steps are used."""
        if len(self.history) < self.settings.maxiter:
            return
        last = self.history[-1]
        raise ConvergenceError(
            f"the SCF has not converged in {last.number} steps: the estimated error of the energy is {last.error:.1e} "
            f"Ha, the tolerance is {self.settings.energy:.1e} Ha; the largest residual of an orbital is "
            f"{last.residual:.1e} Ha",
            self.history,
        )

    def _moment(self, fields: Tensor) -> float:
        crystal = self.energy.system.crystal
        return float(fields[1, 0].real * crystal.volume) if crystal.nspin == 2 else 0.0

    def _missing_bands(self, output: Output) -> int:
        """Return the number of bands to add."""
        if self.nbands is not None or output.highest_occupation <= EMPTY:
            return 0
        return extra_bands(self.energy.system, len(self.orbitals[0]))

    def _check_bands(self, output: Output) -> None:
        """Raise TooFewBands if the highest band holds too many electrons."""
        highest = output.highest_occupation
        if highest > TOO_FULL:
            remedy = "more plane waves (a higher cutoff)" if self.nbands is None else "more bands"
            raise TooFewBands(
                f"too few bands: the occupation of band {len(self.orbitals[0])}, the highest, is {highest:.1e}; "
                f"expected at most {TOO_FULL:.0e}; use {remedy}"
            )


def _ground_state(
    energy: TotalEnergy, smearing: Smearing, output: Output, residual: Tensor, history: list[Step], secants: Tensor
) -> GroundState:
    states, orbitals = output.states, energy.to_plane_waves(output.orbitals)
    return GroundState(
        system=energy.system,
        smearing=smearing,
        orbitals=orbitals,
        eigenvalues=states.eigenvalues,
        occupations=states.occupations,
        fermi_levels=states.fermi_levels,
        fields=output.fields,
        residual=residual,
        terms=energy.components(orbitals, states.electrons, output.fields, states.entropy),
        history=history,
        secants=secants,
    )
