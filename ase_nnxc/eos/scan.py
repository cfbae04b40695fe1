"""Equation-of-state scans that find their minimum: energies at scaled volumes, a fit, its lattice constant.

The volumes are ``V_i = V_start (1 + span)^(i / h)`` with integer i, first i = -h ... h. The window is extended on the
side where the free energy still falls until the lowest point has two finished points on either side. The points nearest
to the lowest one are fitted. Which points are computed and fitted depends only on their energies, not on the order in
which they are computed. Groups of ranks compute several at the same time.

The free energy F is fitted, because forces and stress are its derivatives: the stress vanishes at its minimum. The
minimum of the energy extrapolated to zero width is given beside it.
"""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, InputError
from tqdm import tqdm

from ..folder_lock import folder_lock
from ..ranks import Ranks
from .faults import faults
from .fit import ase_fit, doubts, fit_energies, model_errors, nearest
from .points import Point, PointFile
from .result import EOSResult, write_result
from .settings import CommonSettings, parameters_kept, shared_in
from .structures import cubic_lattice_constant, scaled, without_calculator

logger = logging.getLogger(__name__)


class ScanError(RuntimeError):
    """A scan found no minimum, or its points are not those of an equation of state.

    Attributes
    ----------
    points : list of Point
        Finished points in order of volume, which are also kept in the folder of the scan.
    """

    def __init__(self, message: str, points: Sequence[Point] = ()):
        super().__init__(message)
        self.points = list(points)


def scan_eos(
    atoms: Atoms,
    calc: Calculator,
    *,
    folder: str | os.PathLike[str] | None = None,
    points: int = 7,
    span: float = 0.06,
    order: str = "up",
    max_points: int = 25,
    smooth_cutoff: bool = True,
    force: bool = False,
    groups: int = 1,
) -> EOSResult:
    """Scan the volume of a crystal at constant cell shape and scaled positions, and fit its equation of state.

    Parameters
    ----------
    atoms : Atoms
        Start structure, periodic in three directions; left as it is.
    calc : Calculator
        Any ASE calculator with an energy. If it has a method ``resolve``, its k-point mesh is fixed at that of the
        start structure and its FFT box at that of the largest volume. Its own parameters are restored at the end. If
        ranks share its k-points, all of them call this function, and rank 0 reads and writes the folder.
    folder : path, optional
        Folder for ``points.jsonl`` (a line for each finished point, from which an interrupted scan resumes),
        ``eos.json``, ``eos.traj`` and ``eos.png``. Nothing is written without it.
    points : int
        Number of points of the first window and of the fit; odd, at least 5.
    span : float
        Largest relative change of volume in the first window; 0.06 is 2 % in the lattice constant.
    order : {"up", "down"}
        Whether the first window is run from small to large volumes or back.
    max_points : int
        Largest number of points in the window; the scan ends with an error beyond it.
    smooth_cutoff : bool
        Value for this parameter of the calculator, if it has one: the kinetic energy rises to infinity at the cutoff,
        so that E(V) is smooth.
    force : bool
        Discard the points of another scan in `folder`.
    groups : int
        Number of groups of equal size that the ranks of the calculator are split into. The groups calculate different
        volumes at the same time, and the ranks of each share the k-points of its volume. The log of the calculator has
        the volumes of the first group.

    Returns
    -------
    EOSResult

    Raises
    ------
    InputError
        If the structure or an option is not allowed, if the folder is used by another run or holds another scan, or if
        the ranks have different structures, calculators or options.
    ScanError
        If no minimum is found, or if the fit makes no sense: B0' outside of 0 to 12, a scatter of the points of more
        than a tenth of the depth of the curve, its minimum at the rim of the points, a second minimum, or a jump of the
        magnetic moment or of the free energy. The finished points are kept in `folder` and in the error.
    OSError
        If the folder cannot be written.
    """
    if atoms.cell.rank < 3 or not atoms.pbc.all():
        raise InputError("an equation of state needs a crystal that is periodic in three directions")
    if points < 5 or points % 2 == 0 or max_points < points:
        raise InputError(f"points={points}: expected an odd number, at least 5 and at most max_points ({max_points})")
    if not 0.005 <= span <= 0.3:
        raise InputError(f"span={span}: expected a relative change of volume from 0.005 to 0.3")
    if order not in ("up", "down"):
        raise InputError(f"order={order!r}: expected 'up' or 'down'")
    ranks = getattr(calc, "ranks", None)
    ranks = ranks if isinstance(ranks, Ranks) else Ranks()
    options = points, span, order, max_points, smooth_cutoff, force, groups
    if any(others != options for others in ranks.gather(lambda: options)):
        raise InputError("ranks that share a scan must have the same options")
    group = _group_of(ranks, groups)
    path = None if folder is None or ranks.number > 0 else Path(folder)

    def scan() -> EOSResult:
        with folder_lock(path), parameters_kept(calc), shared_in(group, ranks, calc):
            if "smooth_cutoff" in calc.parameters:
                calc.set(smooth_cutoff=smooth_cutoff)
                logger.info("smooth_cutoff: %s", smooth_cutoff)
            result = _Scan(atoms, calc, ranks, group, path, points // 2, span, order, max_points, force).run()
        if path is not None:
            write_result(result, path)
        return result

    result = ranks.together(scan)
    for message in result.warnings:
        warnings.warn(message, stacklevel=2)
    return result


def _group_of(ranks: Ranks, groups: int) -> Ranks:
    """Return the group of this rank."""
    try:
        return ranks.split(groups)
    except ValueError as error:
        if ranks.count > 1:
            raise InputError(str(error)) from error
        one = f"groups={groups!r}: there is one rank, and so one group"
        raise InputError(f"{one}; more ranks need torchrun and, in Python, share_kpoints=True") from error


class _Scan:
    """The window of one scan, which grows until it contains the minimum."""

    def __init__(
        self,
        atoms: Atoms,
        calc: Calculator,
        ranks: Ranks,
        group: Ranks,
        folder: Path | None,
        half: int,
        span: float,
        order: str,
        max_points: int,
        force: bool,
    ) -> None:
        self.start, self.calc, self.ranks, self.group = without_calculator(atoms), calc, ranks, group
        self.half, self.ratio = half, (1 + span) ** (1 / half)
        self.order, self.max_points = order, max_points
        self.settings = CommonSettings(calc, self.start, self.ratio, self.ratio**half)
        if len(set(ranks.gather(lambda: self.settings.fingerprint))) > 1:
            raise InputError("ranks that share a scan must have the same atoms, functionals and parameters")
        self.file = PointFile(None if folder is None else folder / "points.jsonl", self.settings.fingerprint, force)
        self.finished = self._read()
        self.failed: dict[int, str] = {}

    def _read(self) -> dict[int, Point]:
        """Return the points that rank 0 has in its file."""
        return self.ranks.first(lambda: self.file.finished(self.settings.fingerprint))

    def run(self) -> EOSResult:
        """Extend the window until it contains the minimum, then fit."""
        low, high = -self.half, self.half
        silent = True if self.ranks.number > 0 else None  # None: if there is no terminal
        with tqdm(desc=self.start.get_chemical_formula(), unit="point", disable=silent) as bar:
            while True:
                self._complete(low, high, bar)
                inside = sorted(i for i in self.finished if low <= i <= high)
                if len(inside) < 3:
                    reason = next(iter(self.failed.values()), "")
                    message = f"only {len(inside)} of {high - low + 1} points finished ({reason})"
                    raise ScanError(message, self._points(inside))
                lowest = min(inside, key=lambda i: self.finished[i].free_energy_eV)
                wider = self._wider(low, high, inside, lowest)
                if wider == (low, high):
                    return self._result(inside, lowest)
                low, high = wider
                if high - low + 1 > self.max_points:
                    a, b = self.finished[inside[0]].volume_A3, self.finished[inside[-1]].volume_A3
                    raise ScanError(
                        f"no minimum with two points on either side between {a:.2f} and {b:.2f} A^3 "
                        f"(start {self.start.get_volume():.2f} A^3); start nearer to it, or allow more points",
                        self._points(inside),
                    )

    def _wider(self, low: int, high: int, inside: list[int], lowest: int) -> tuple[int, int]:
        """Return the window extended on the sides where the lowest point has fewer than two finished points."""
        below = inside.index(lowest)
        above = len(inside) - 1 - below
        return (
            min(lowest - self.half, low - 1) if below < 2 else low,
            max(lowest + self.half, high + 1) if above < 2 else high,
        )

    def _complete(self, low: int, high: int, bar: tqdm) -> None:
        """Compute what is missing of low ... high."""
        if self.settings.extend(self.ratio**high):
            self.finished, self.failed = self._read(), {}
        missing = [i for i in range(low, high + 1) if i not in self.finished and i not in self.failed]
        bar.total = high - low + 1
        bar.n = bar.total - len(missing)
        bar.refresh()
        for indices in self._rounds(missing):
            self._compute(indices)
            bar.update(sum(index is not None for index in indices))

    def _rounds(self, missing: Sequence[int]) -> Iterator[tuple[int | None, ...]]:
        """Return what the groups compute at the same time: an index for each, or None where it has none left.

        A group gets indices that follow each other, if the window does not grow on both sides: those of the first
        window in the order asked for, then outward.
        """
        groups = self.ranks.count // self.group.count
        parts = [list(missing[len(missing) * n // groups : len(missing) * (n + 1) // groups]) for n in range(groups)]
        for part in parts:
            if not self.finished:
                part.sort(reverse=self.order == "down")
            else:
                part.sort(key=lambda i: min(abs(i - j) for j in self.finished))
        return zip_longest(*parts)

    def _compute(self, indices: Sequence[int | None]) -> None:
        """Compute one volume in each group, and keep what comes out."""
        own = indices[self.ranks.number // self.group.count]
        outcomes = self.ranks.gather(
            lambda: None if own is None else (own, self.group.together(lambda: self._outcome(own)))
        )
        of_groups = outcomes[:: self.group.count]
        self.ranks.together(lambda: self._keep([outcome for outcome in of_groups if outcome is not None]))

    def _keep(self, outcomes: Sequence[tuple[int, Point | str]]) -> None:
        """Keep finished points, and the reasons why others failed, by index."""
        for index, outcome in outcomes:
            volume = self.start.get_volume() * self.ratio**index
            if isinstance(outcome, Point):
                self.finished[index] = outcome
                self.file.add(self.settings.fingerprint, outcome)
                logger.info("point %d: V = %.4f A^3, F = %.7f eV", index, volume, outcome.free_energy_eV)
            else:
                self.failed[index] = outcome
                self.file.add_failure(self.settings.fingerprint, index, outcome)
                logger.info("point %d (%.3f A^3) failed: %s", index, volume, outcome)

    def _outcome(self, index: int) -> Point | str:
        """Return the point of one volume, or why its calculation failed."""
        atoms = scaled(self.start, self.ratio**index)
        atoms.calc = self.calc
        began = time.perf_counter()
        try:
            energy = float(atoms.get_potential_energy())
            has_free = "free_energy" in self.calc.implemented_properties
            free_energy = float(atoms.get_potential_energy(force_consistent=True)) if has_free else energy
            if not (math.isfinite(energy) and math.isfinite(free_energy)):
                raise CalculationFailed("the energy is not a finite number")
            deviations = self._deviations()
        except CalculationFailed as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
        magmom = self.calc.results.get("magmom")
        return Point(
            index=index,
            volume_A3=float(atoms.get_volume()),
            free_energy_eV=free_energy,
            energy_eV=energy,
            magmom_muB=None if magmom is None else float(magmom),
            time_s=round(time.perf_counter() - began, 3),
            deviations_eV=deviations,
        )

    def _deviations(self) -> list[float] | None:
        """Return the deviations of the free energy of the last point, eV, if the functional has probable errors."""
        calc: Any = self.calc
        return calc.get_energy_deviations().tolist() if getattr(calc, "has_ensemble", False) else None

    def _points(self, indices: Sequence[int]) -> list[Point]:
        """Return the finished points of these indices."""
        return [self.finished[i] for i in indices]

    def _result(self, inside: list[int], lowest: int) -> EOSResult:
        """Fit the points around the lowest one."""
        fitted, points = nearest(inside, lowest, 2 * self.half + 1), self._points(inside)
        chosen = self._points(fitted)
        volumes, free_energies = [p.volume_A3 for p in chosen], [p.free_energy_eV for p in chosen]
        try:
            fit = fit_energies(volumes, free_energies)
        except ValueError as error:
            raise ScanError(str(error), points) from error
        if reasons := faults(fit, chosen, points):
            raise ScanError(
                f"the points are not those of an equation of state: {'; '.join(reasons)}. The points are kept. "
                "Check the structure and its initial moments, start nearer to the minimum, or change span, cutoff or "
                "k-points",
                points,
            )
        try:
            extrapolated = fit_energies(volumes, [p.energy_eV for p in chosen])
        except ValueError:  # these need not have a minimum
            extrapolated = None
        by_ase = ase_fit(volumes, free_energies)
        atoms = scaled(self.start, fit.volume.item() / self.start.get_volume())
        return EOSResult(
            atoms=atoms,
            points=points,
            fitted=fitted,
            failed=self.failed,
            fit=fit,
            model_errors=model_errors(chosen, getattr(self.calc, "error_scatter", {})),
            extrapolated=extrapolated,
            ase_fit=by_ase,
            conventional_a=cubic_lattice_constant(atoms),
            warnings=doubts(fit, by_ase, self.failed),
            parameters=self.settings.parameters,
            fingerprint=self.settings.fingerprint,
        )
