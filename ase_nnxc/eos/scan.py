"""Equation-of-state scans that find their minimum: energies at scaled volumes, a fit, its lattice constant.

The procedure of the papers, made robust. The volumes are ``V_i = V_start (1 + span)^(i / h)`` with integer i, first
i = -h ... h; the window is extended on the side where the free energy still falls until the lowest point has two
finished points on either side, and the points nearest to the lowest one are fitted. Which points are computed and
fitted depends on their energies only, not on the order in which they came.

What is fitted is the free energy F, the quantity that forces and stress are derivatives of: its minimum is where the
stress vanishes. The minimum of the zero-width extrapolated energy is given beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import spglib
import torch
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed, Calculator, InputError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.eos import EquationOfState
from ase.io.jsonio import encode
from ase.io.trajectory import Trajectory
from tqdm import tqdm

from ase_nnxc import __version__
from ase_nnxc.eos.birch_murnaghan import BirchMurnaghan, fit_birch_murnaghan
from ase_nnxc.pseudopotentials import find_table, table_digest

logger = logging.getLogger(__name__)

# mesh and FFT box are fixed for a volume this much above the largest one of the window, so that one extension fits
HEADROOM = 1.08
# parameters that a calculator's resolve() makes explicit, whatever it has computed before
RESOLVED = ("ecut", "gpts", "kpts", "pseudos")
# parameters that do not change a number, and so do not tell two scans apart
NEUTRAL = {"txt", "directory", "label", "device"}
# a fit worse than this draws a warning: one standard deviation of V0 (0.1 % of a lattice constant), of B0, and B0'
VOLUME_TOLERANCE, BULK_TOLERANCE, DERIVATIVE_RANGE = 0.003, 0.05, (1.0, 9.0)


class ScanError(RuntimeError):
    """The scan could not find a minimum; finished points are kept."""


@dataclass(frozen=True)
class Point:
    """One finished volume; energies of the cell as given."""

    index: int
    volume_A3: float
    free_energy_eV: float
    energy_eV: float
    magmom_muB: float | None
    time_s: float


@dataclass(frozen=True)
class EOSResult:
    """What a scan found. Energies in eV and volumes in cubic Angstrom, of the cell as given.

    Attributes
    ----------
    atoms : Atoms
        The structure at the fitted equilibrium volume.
    points : list of Point
        Finished points in order of volume; `fitted` holds the indices of those that were fitted.
    failed : dict
        Index to error message of the points whose calculation failed.
    fit : BirchMurnaghan
        Of the free energies (eV, A^3, eV/A^3).
    extrapolated : BirchMurnaghan or None
        Of the zero-width extrapolated energies at the same points; None when they have no minimum.
    ase_fit : tuple of float or None
        V0, B0 and B0' (A^3, eV/A^3, 1) of ASE's EquationOfState with the same equation; None when it did not converge.
    conventional_a : float or None
        Lattice constant (A) of the cubic conventional cell at `atoms`; None when the crystal is not cubic.
    warnings : list of str
    parameters : dict
        Of the calculator, with the mesh and the box of the scan.
    fingerprint : str
    """

    atoms: Atoms
    points: list[Point]
    fitted: list[int]
    failed: dict[int, str]
    fit: BirchMurnaghan
    extrapolated: BirchMurnaghan | None
    ase_fit: tuple[float, float, float] | None
    conventional_a: float | None
    warnings: list[str]
    parameters: dict[str, Any]
    fingerprint: str

    def lattice_constant(self, volume: float) -> float | None:
        """Lattice constant (A) at a cell volume (A^3); None for a crystal that is not cubic."""
        if self.conventional_a is None:
            return None
        return self.conventional_a * (volume / self.fit.volume.item()) ** (1 / 3)

    def magmom(self) -> float | None:
        """Magnetic moment (Bohr magnetons) at the minimum, between the points beside it; None without moments."""
        moments = [p.magmom_muB for p in self.points if p.magmom_muB is not None]
        if len(moments) < len(self.points):
            return None
        return float(np.interp(self.fit.volume.item(), [p.volume_A3 for p in self.points], moments))

    def todict(self) -> dict[str, Any]:
        """Plain data with the unit in each key, as written to eos.json."""
        volume, energy, bulk, derivative = (getattr(self.fit, n).item() for n in _NUMBERS)
        v_error, e_error, b_error, d_error = (_finite(x) for x in self.fit.errors.tolist())
        a0 = self.conventional_a
        scale = (1.0 if self.extrapolated is None else self.extrapolated.volume.item() / volume) ** (1 / 3)
        lengths = self.atoms.cell.lengths()
        fields = {
            "formula": self.atoms.get_chemical_formula(),
            "version": __version__,
            "a0_A": a0,
            "a0_error_A": None if a0 is None or v_error is None else a0 * v_error / (3 * volume),
            "cell_lengths_A": lengths.tolist(),
            "cell_angles_deg": self.atoms.cell.angles().tolist(),
            "V0_A3": volume,
            "V0_error_A3": v_error,
            "V0_per_atom_A3": volume / len(self.atoms),
            "F0_eV": energy,
            "F0_error_eV": e_error,
            "B0_GPa": bulk / units.GPa,
            "B0_error_GPa": None if b_error is None else b_error / units.GPa,
            "B0_prime": derivative,
            "B0_prime_error": d_error,
            "magmom_muB": self.magmom(),
            "rms_residual_eV": self.fit.residuals.square().mean().sqrt().item(),
        }
        if self.extrapolated is not None:
            fields |= {
                "extrapolated_a0_A": None if a0 is None else a0 * scale,
                "extrapolated_cell_lengths_A": (lengths * scale).tolist(),
                "extrapolated_V0_A3": self.extrapolated.volume.item(),
                "extrapolated_E0_eV": self.extrapolated.energy.item(),
                "extrapolated_B0_GPa": self.extrapolated.bulk_modulus.item() / units.GPa,
            }
        if self.ase_fit is not None:
            v_ase, b_ase, d_ase = self.ase_fit
            fields |= {"ase_V0_A3": v_ase, "ase_B0_GPa": b_ase / units.GPa, "ase_B0_prime": d_ase}
        return fields | {
            "points": [asdict(p) | {"fitted": p.index in self.fitted} for p in self.points],
            "failed": [{"index": i, "error": message} for i, message in sorted(self.failed.items())],
            "warnings": self.warnings,
            "parameters": json.loads(encode(self.parameters)),
            "fingerprint": self.fingerprint,
        }


_NUMBERS = ("volume", "energy", "bulk_modulus", "bulk_derivative")


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
) -> EOSResult:
    """Scan the volume of a crystal at constant cell shape and scaled positions, and fit its equation of state.

    Parameters
    ----------
    atoms : Atoms
        Start structure, periodic in three directions; left as it is.
    calc : Calculator
        Any ASE calculator with an energy. When it has a method ``resolve``, its k-point mesh is fixed as of the start
        structure and its FFT box as of the largest volume; its own parameters are put back at the end.
    folder : path, optional
        Where ``points.jsonl`` (a line for each finished point, from which an interrupted scan resumes), ``eos.json``,
        ``eos.traj`` and ``eos.png`` are written. Nothing is written without it.
    points : int
        Number of points of the first window and of the fit; odd, at least 5.
    span : float
        Largest relative change of volume in the first window; 0.06 is 2 % in the lattice constant.
    order : {"up", "down"}
        Whether the first window is run from small to large volumes or back.
    max_points : int
        Widest window before the scan gives up.
    smooth_cutoff : bool
        Set on a calculator that has this parameter: the kinetic-energy blow-up that makes E(V) smooth.
    force : bool
        Discard the points of another scan that `folder` holds.

    Returns
    -------
    EOSResult

    Raises
    ------
    InputError
        For a structure or an option that cannot be scanned, a folder in use by another run, or one that holds another
        scan.
    ScanError
        When no minimum was found.
    OSError
        When the folder cannot be written.
    """
    if atoms.cell.rank < 3 or not atoms.pbc.all():
        raise InputError("an equation of state needs a crystal that is periodic in three directions")
    if points < 5 or points % 2 == 0 or max_points < points:
        raise InputError(f"the number of points must be odd, at least 5 and at most max_points, not {points}")
    if not 0.005 <= span <= 0.3:
        raise InputError(f"the span is a relative change of volume between 0.005 and 0.3, not {span}")
    if order not in ("up", "down"):
        raise InputError(f"the order of a scan is 'up' or 'down', not {order!r}")
    path = None if folder is None else Path(folder)
    with folder_lock(path), _parameters_kept(calc):
        if "smooth_cutoff" in calc.parameters:
            calc.set(smooth_cutoff=smooth_cutoff)
            logger.info("kinetic-energy blow-up (smooth_cutoff): %s", "on" if smooth_cutoff else "off")
        scan = _Scan(atoms, calc, path, points // 2, span, order, max_points, force)
        result = scan.run()
    for message in result.warnings:
        warnings.warn(message, stacklevel=2)
    if path is not None:
        _write(result, path)
    return result


class _Scan:
    """The points of one scan and the window that grows over them."""

    def __init__(
        self,
        atoms: Atoms,
        calc: Calculator,
        folder: Path | None,
        half: int,
        span: float,
        order: str,
        max_points: int,
        force: bool,
    ) -> None:
        self.start = atoms.copy()
        self.start.set_constraint()
        self.start.calc = None
        self.calc, self.half, self.ratio = calc, half, (1 + span) ** (1 / half)
        self.order, self.max_points = order, max_points
        self.automatic = {name: calc.parameters[name] for name in ("kpts", "gpts") if name in calc.parameters}
        self.box_factor, self.parameters = math.inf, dict[str, Any]()
        self.failed: dict[int, str] = {}
        self.fingerprint = self.settings = self._fix_parameters(self.ratio**half)
        self.file = _PointFile(None if folder is None else folder / "points.jsonl", self.fingerprint, force)
        self.finished = self.file.points(self.settings)

    def scaled(self, factor: float) -> Atoms:
        """A copy of the start structure at `factor` times its volume."""
        atoms = self.start.copy()
        atoms.set_cell(self.start.cell[:] * factor ** (1 / 3), scale_atoms=True)
        return atoms

    def _fix_parameters(self, factor: float) -> str:
        """Fix mesh and box so that they serve `factor` times the start volume; return the fingerprint of the result."""
        self.box_factor, resolved = math.inf, dict[str, Any]()
        if hasattr(self.calc, "resolve"):
            self.box_factor = factor * (HEADROOM if self.automatic.get("gpts") is None else 1.0)
            self.calc.set(**self.automatic)
            resolved = self.calc.resolve(self.start)
            resolved["gpts"] = self.calc.resolve(self.scaled(self.box_factor))["gpts"]
            self.calc.set(kpts=resolved["kpts"], gpts=resolved["gpts"])
            logger.info("mesh %s and FFT box %s are kept over the scan", resolved["kpts"], resolved["gpts"])
        explicit = {name: resolved[name] for name in RESOLVED if name in resolved}
        self.parameters = dict(sorted((self.calc.todict() | explicit).items()))
        start = self.start
        identity = {
            "numbers": start.numbers.tolist(),
            "cell_A": start.cell.tolist(),
            "scaled_positions": start.get_scaled_positions(wrap=False).tolist(),
            "magmoms": start.get_initial_magnetic_moments().tolist(),
            "charges": start.get_initial_charges().tolist(),
            "ratio": self.ratio,
            "calculator": self.calc.name,
            "parameters": {k: v for k, v in self.parameters.items() if k not in NEUTRAL},
            "tables": {s: table_digest(find_table(s, n)) for s, n in resolved.get("pseudos", {}).items()},
            "version": __version__,
        }
        return hashlib.sha256(encode(identity).encode()).hexdigest()[:16]

    def run(self) -> EOSResult:
        """Extend the window until it holds the minimum, then fit."""
        low, high = -self.half, self.half
        with tqdm(desc=self.start.get_chemical_formula(), unit="point", disable=None) as bar:
            while True:
                self._complete(low, high, bar)
                inside = sorted(i for i in self.finished if low <= i <= high)
                if len(inside) < 3:
                    reason = next(iter(self.failed.values()), "")
                    raise ScanError(f"only {len(inside)} of {high - low + 1} points finished ({reason})")
                lowest = min(inside, key=lambda i: self.finished[i].free_energy_eV)
                wider = low, high
                if inside.index(lowest) < 2:
                    wider = min(lowest - self.half, low - 1), high
                if len(inside) - inside.index(lowest) < 3:
                    wider = wider[0], max(lowest + self.half, high + 1)
                if wider == (low, high):
                    return self._result(inside, lowest)
                low, high = wider
                if high - low + 1 > self.max_points:
                    a, b = self.finished[inside[0]].volume_A3, self.finished[inside[-1]].volume_A3
                    raise ScanError(
                        f"no minimum with two points on either side between {a:.2f} and {b:.2f} A^3 "
                        f"(start {self.start.get_volume():.2f} A^3); start nearer to it, or allow more points"
                    )

    def _complete(self, low: int, high: int, bar: tqdm) -> None:
        """Compute what is missing of low ... high: the first window in the order asked for, then outward."""
        if self.ratio**high > self.box_factor:
            self.settings = self._fix_parameters(self.ratio**high)
            self.finished, self.failed = self.file.points(self.settings), {}
        missing = [i for i in range(low, high + 1) if i not in self.finished and i not in self.failed]
        if not self.finished:
            missing.sort(reverse=self.order == "down")
        else:
            missing.sort(key=lambda i: min(abs(i - j) for j in self.finished))
        bar.total = high - low + 1
        bar.n = bar.total - len(missing)
        bar.refresh()
        for index in missing:
            self._compute(index)
            bar.update()

    def _compute(self, index: int) -> None:
        """One volume, kept as it comes."""
        atoms = self.scaled(self.ratio**index)
        atoms.calc = self.calc
        began = time.perf_counter()
        try:
            energy = float(atoms.get_potential_energy())
            has_free = "free_energy" in self.calc.implemented_properties
            free_energy = float(atoms.get_potential_energy(force_consistent=True)) if has_free else energy
            if not (math.isfinite(energy) and math.isfinite(free_energy)):
                raise CalculationFailed("the energy is not a number")
        except CalculationFailed as error:
            self.failed[index] = " ".join(f"{type(error).__name__}: {error}".split())
            self.file.add(self.settings, {"index": index, "error": self.failed[index]})
            logger.info("point %d (%.3f A^3) failed: %s", index, atoms.get_volume(), self.failed[index])
            return
        magmom = self.calc.results.get("magmom")
        point = Point(
            index=index,
            volume_A3=float(atoms.get_volume()),
            free_energy_eV=free_energy,
            energy_eV=energy,
            magmom_muB=None if magmom is None else float(magmom),
            time_s=round(time.perf_counter() - began, 3),
        )
        self.finished[index] = point
        self.file.add(self.settings, asdict(point))
        logger.info("point %d: V = %.4f A^3, F = %.7f eV", index, point.volume_A3, point.free_energy_eV)

    def _result(self, inside: list[int], lowest: int) -> EOSResult:
        fitted = _nearest(inside, lowest, 2 * self.half + 1)
        chosen = [self.finished[i] for i in fitted]
        volumes = [p.volume_A3 for p in chosen]
        try:
            fit = _fit(volumes, [p.free_energy_eV for p in chosen])
        except ValueError as error:
            raise ScanError(str(error)) from error
        try:
            extrapolated = _fit(volumes, [p.energy_eV for p in chosen])
        except ValueError:
            extrapolated = None
        atoms = self.scaled(fit.volume.item() / self.start.get_volume())
        ase_fit = _ase_fit(volumes, [p.free_energy_eV for p in chosen])
        return EOSResult(
            atoms=atoms,
            points=[self.finished[i] for i in inside],
            fitted=fitted,
            failed=self.failed,
            fit=fit,
            extrapolated=extrapolated,
            ase_fit=ase_fit,
            conventional_a=_conventional_a(atoms),
            warnings=_judge(fit, ase_fit, volumes, self.failed),
            parameters=self.parameters,
            fingerprint=self.settings,
        )


class _PointFile:
    """Finished points, one JSON line each, under the fingerprint of their scan; in memory only without a path."""

    def __init__(self, path: Path | None, scan: str, force: bool) -> None:
        self.path, self.scan = path, scan
        self.records: list[dict[str, Any]] = []
        if path is None or not path.exists():
            return
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]  # an interrupted write leaves half a line
        try:
            records = [json.loads(line) for line in whole.splitlines()]
            self.records = [r for r in records if r["scan"] == scan]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not the record of a scan") from error
        if len(self.records) < len(records) and not force:
            raise InputError(
                f"{path.parent} holds points of another scan: choose another folder (-o), or discard them (--force)"
            )
        if len(self.records) < len(records) or whole != text:
            kept = path.with_suffix(".part")
            kept.write_text("".join(json.dumps(r) + "\n" for r in self.records))
            kept.replace(path)

    def points(self, settings: str) -> dict[int, Point]:
        """Finished points of the scan at these settings, by index; failed ones are tried again."""
        fields = [
            {k: v for k, v in r.items() if k not in ("scan", "settings")}
            for r in self.records
            if r["settings"] == settings and "error" not in r
        ]
        return {r["index"]: Point(**r) for r in fields}

    def add(self, settings: str, record: dict[str, Any]) -> None:
        record = {"scan": self.scan, "settings": settings} | record
        self.records.append(record)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def _nearest(indices: list[int], lowest: int, count: int) -> list[int]:
    """The `count` indices nearest to the lowest point, among them two on either side; `indices` are sorted."""
    at = indices.index(lowest)
    core = indices[at - 2 : at + 3]
    others = sorted((i for i in indices if i not in core), key=lambda i: (abs(i - lowest), i))
    return sorted(core + others[: count - len(core)])


def _fit(volumes: list[float], energies: list[float]) -> BirchMurnaghan:
    tensors = (torch.tensor(x, dtype=torch.float64, device="cpu") for x in (volumes, energies))
    return fit_birch_murnaghan(*tensors)


def _ase_fit(volumes: list[float], energies: list[float]) -> tuple[float, float, float] | None:
    """V0, B0, B0' of the same equation by ASE's nonlinear fit."""
    eos = EquationOfState(volumes, energies, eos="birchmurnaghan")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy's, about the covariance that is not used
            eos.fit(warn=False)
    except (RuntimeError, ValueError):
        return None
    _, bulk, derivative, volume = (float(x) for x in eos.eos_parameters)
    return volume, bulk, derivative


def _conventional_a(atoms: Atoms) -> float | None:
    """Lattice constant (A) of the conventional cell of a cubic crystal, else None."""
    cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, about how it reports errors
            dataset = spglib.get_symmetry_dataset(cell, symprec=1e-4)
    except getattr(spglib, "SpglibError", ()):
        return None
    if dataset is None or dataset.number < 195:  # the cubic space groups are 195 to 230
        return None
    return float(np.linalg.det(dataset.std_lattice) ** (1 / 3))


def _judge(
    fit: BirchMurnaghan,
    ase_fit: tuple[float, float, float] | None,
    volumes: list[float],
    failed: dict[int, str],
) -> list[str]:
    """Reasons to distrust the fit, in words."""
    found = []
    if failed:
        found.append(f"{len(failed)} of the points failed and were left out: {next(iter(failed.values()))}")
    volume, bulk, derivative = fit.volume.item(), fit.bulk_modulus.item(), fit.bulk_derivative.item()
    v_error, _, b_error, _ = fit.errors.tolist()
    if not volumes[0] < volume < volumes[-1]:
        found.append(f"the fitted volume {volume:.3f} A^3 lies outside of the points")
    poor = []
    if v_error > VOLUME_TOLERANCE * volume:
        poor.append(f"V0 is uncertain by {100 * v_error / volume:.1f} %")
    if b_error > BULK_TOLERANCE * bulk:
        poor.append(f"B0 is uncertain by {100 * b_error / bulk:.0f} %")
    if not DERIVATIVE_RANGE[0] < derivative < DERIVATIVE_RANGE[1]:
        poor.append(f"B0' = {derivative:.1f}")
    if ase_fit is not None and abs(ase_fit[0] / volume - 1) > VOLUME_TOLERANCE:
        poor.append(f"ASE's fit gives V0 = {ase_fit[0]:.3f} A^3 instead of {volume:.3f}")
    if poor:
        found.append(f"poor fit: {', '.join(poor)}; the energies may be rough (cutoff, mesh, moments)")
    return found


@contextmanager
def _parameters_kept(calc: Calculator) -> Iterator[None]:
    """Put the parameters that a scan fixes back as they were."""
    before = {n: calc.parameters[n] for n in ("kpts", "gpts", "smooth_cutoff") if n in calc.parameters}
    try:
        yield
    finally:
        if before:
            calc.set(**before)


@contextmanager
def folder_lock(folder: Path | None) -> Iterator[None]:
    """Make `folder` and keep other runs out of it; a lock that a dead process of this machine left is taken over."""
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "run.lock"
    owner = f"{os.getpid()} {socket.gethostname()}"
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        holder = lock.read_text()
        if not _is_dead(holder):
            who = f"process {holder}" if holder else "just starting"
            raise InputError(f"another run ({who}) is using {folder}; if there is none, remove {lock}") from None
        lock.unlink()
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        os.write(handle, owner.encode())
        os.close(handle)
        yield
    finally:
        lock.unlink(missing_ok=True)


def _is_dead(holder: str) -> bool:
    """Whether 'pid host' names a process of this machine that no longer runs."""
    pid, _, host = holder.partition(" ")
    if host != socket.gethostname() or not pid.isdigit() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _finite(x: float) -> float | None:
    """None in place of NaN, which JSON does not have."""
    return x if math.isfinite(x) else None


def _write(result: EOSResult, folder: Path) -> None:
    """eos.json, eos.traj and eos.png."""
    (folder / "eos.json").write_text(json.dumps(result.todict(), indent=1) + "\n")
    with Trajectory(folder / "eos.traj", "w") as trajectory:
        for point in result.points:
            atoms = result.atoms.copy()
            factor = (point.volume_A3 / result.fit.volume.item()) ** (1 / 3)
            atoms.set_cell(atoms.cell[:] * factor, scale_atoms=True)
            results = {"energy": point.energy_eV, "free_energy": point.free_energy_eV, "magmom": point.magmom_muB}
            atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
            trajectory.write(atoms)
    plot_eos(result, folder / "eos.png")


def plot_eos(result: EOSResult, path: str | os.PathLike[str]) -> None:
    """Picture of the points, the fitted curve and its minimum; free energies per atom above the minimum."""
    from matplotlib.figure import Figure

    number, fit = len(result.atoms), result.fit
    v0, f0 = fit.volume.item(), fit.energy.item()
    volumes = np.array([p.volume_A3 for p in result.points])
    energies = np.array([p.free_energy_eV for p in result.points])
    fitted = np.array([p.index in result.fitted for p in result.points])
    grid = np.linspace(min(volumes[fitted].min(), v0), max(volumes[fitted].max(), v0), 200)
    curve = fit.energy_at(torch.from_numpy(grid)).detach().numpy()

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        grid / number, 1000 * (curve - f0) / number, color="#1f5fa8", lw=1.8, label="Birch-Murnaghan fit", zorder=2
    )
    for mask, face, label in ((fitted, "#1f5fa8", "fitted"), (~fitted, "white", "not fitted")):
        if mask.any():
            axes.plot(
                volumes[mask] / number,
                1000 * (energies[mask] - f0) / number,
                "o",
                ms=6.5,
                mfc=face,
                mec="#1f5fa8",
                label=label,
                zorder=3,
            )
    a0 = result.conventional_a
    minimum = f"$V_0$ = {v0 / number:.3f} Å³/atom" if a0 is None else f"$a_0$ = {a0:.4f} Å"
    minimum += f", $B_0$ = {fit.bulk_modulus.item() / units.GPa:.1f} GPa"
    axes.axvline(v0 / number, color="0.75", lw=1, zorder=1)
    axes.plot([v0 / number], [0], "*", ms=15, color="#d1495b", mec="white", label=minimum, zorder=4)
    axes.set_xlabel("volume (Å³/atom)")
    axes.set_ylabel("free energy above the minimum (meV/atom)")
    axes.spines["right"].set_visible(False)
    axes.legend(loc="upper center", facecolor="white", edgecolor="none", framealpha=1)
    if a0 is None:
        axes.set_title(result.atoms.get_chemical_formula(), loc="left")
        axes.spines["top"].set_visible(False)
    else:
        cells = v0 / number / a0**3  # atomic volume in conventional cells
        to_length, to_volume = (lambda v: np.cbrt(np.asarray(v) / cells)), (lambda a: cells * np.asarray(a) ** 3)
        top = axes.secondary_xaxis("top", functions=(to_length, to_volume))
        top.set_xlabel(f"lattice constant of {result.atoms.get_chemical_formula()} (Å)")
    figure.savefig(path, dpi=160)
