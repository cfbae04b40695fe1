"""The result of a scan, and the files that it is written to."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.jsonio import encode
from ase.io.trajectory import Trajectory

from .. import __version__
from .birch_murnaghan import BirchMurnaghan
from .plot import plot_eos
from .points import Point
from .structures import scaled

_NUMBERS = ("volume", "energy", "bulk_modulus", "bulk_derivative")


@dataclass(frozen=True)
class EOSResult:
    """Result of a scan; energies in eV and volumes in Angstrom^3 of the cell as given.

    Attributes
    ----------
    atoms : Atoms
        The structure at the fitted equilibrium volume.
    points : list of Point
        Finished points in order of volume.
    fitted : list of int
        Indices of the points that were fitted.
    failed : dict
        Index to error message of the points whose calculation failed.
    fit : BirchMurnaghan
        Fit of the free energies (eV, A^3, eV/A^3).
    model_errors : tuple of float or None
        Standard deviations of V0 and B0 from the probable errors of the functional; None if it has none.
    extrapolated : BirchMurnaghan or None
        Fit of the energies extrapolated to zero width, at the same points; None if they have no minimum.
    ase_fit : tuple of float or None
        V0, B0 and B0' (A^3, eV/A^3, 1) of ASE's EquationOfState with the same equation; None if it did not converge.
    conventional_a : float or None
        Lattice constant (A) of the cubic conventional cell at `atoms`; None if the crystal is not cubic.
    warnings : list of str
        Reasons to doubt the fit.
    parameters : dict
        Parameters of the calculator, with the mesh and the box of the scan.
    fingerprint : str
        Equal for scans whose points have the same energies.
    """

    atoms: Atoms
    points: list[Point]
    fitted: list[int]
    failed: dict[int, str]
    fit: BirchMurnaghan
    model_errors: tuple[float, float] | None
    extrapolated: BirchMurnaghan | None
    ase_fit: tuple[float, float, float] | None
    conventional_a: float | None
    warnings: list[str]
    parameters: dict[str, Any]
    fingerprint: str

    def lattice_constant(self, volume: float) -> float | None:
        """Return the lattice constant (A) at a cell volume (A^3); None if the crystal is not cubic."""
        if self.conventional_a is None:
            return None
        return self.conventional_a * (volume / self.fit.volume.item()) ** (1 / 3)

    def magmom(self) -> float | None:
        """Return the magnetic moment (Bohr magnetons) at the minimum, interpolated; None without moments."""
        moments = [p.magmom_muB for p in self.points if p.magmom_muB is not None]
        if len(moments) < len(self.points):
            return None
        return float(np.interp(self.fit.volume.item(), [p.volume_A3 for p in self.points], moments))

    def todict(self) -> dict[str, Any]:
        """Return plain data with the unit in each key, as written to eos.json."""
        volume, energy, bulk, derivative = (getattr(self.fit, name).item() for name in _NUMBERS)
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
        if self.model_errors is not None:
            v_model, b_model = self.model_errors
            fields |= {
                "a0_model_error_A": None if a0 is None else a0 * v_model / (3 * volume),
                "V0_model_error_A3": v_model,
                "B0_model_error_GPa": b_model / units.GPa,
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


def _finite(x: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return x if math.isfinite(x) else None


def write_result(result: EOSResult, folder: Path) -> None:
    """Write eos.json, eos.traj and eos.png to a folder."""
    (folder / "eos.json").write_text(json.dumps(result.todict(), indent=1) + "\n")
    with Trajectory(folder / "eos.traj", "w") as trajectory:
        for point in result.points:
            atoms = scaled(result.atoms, point.volume_A3 / result.fit.volume.item())
            results = {"energy": point.energy_eV, "free_energy": point.free_energy_eV, "magmom": point.magmom_muB}
            atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
            trajectory.write(atoms)
    plot_eos(result, folder / "eos.png")
