"""Graphene with PBE, r2SCAN and every shipped model: lattice constant, and whether the layer stays flat.

    python -m examples.papers.graphene [FUNCTIONAL ...]

Run it in the root of the repository. The energy is scanned against the lattice constant. At the minimum of PBE the two
atoms of the cell are then moved out of the plane, in opposite directions. A flat layer is stable against this if the
energy rises and the forces point back to the plane. The script continues from graphene.json, draws graphene.png, and
writes the table in README.md and docs/results.md.
"""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import graphene
from matplotlib.figure import Figure

from ase_nnxc import NNXCCalculator, list_models
from benchmarks.results import read_results, write_results

from ..command_line import parse
from ..cubic import minimum_of_cubic
from ..points import Point, complete, results_of, settings_of, write_table

RESULTS = Path(__file__).with_name("graphene.json")
CONSTANTS = np.round(np.arange(2.54, 2.39, -0.02), 2)  # Angstrom; the largest comes first and fixes the FFT box
FLAT = 2.467  # Angstrom, for the displaced atoms
HEIGHTS = (0.0, 0.05, 0.10, 0.15)  # Angstrom, of one atom above the other
SETTINGS: dict[str, Any] = {
    "kpts": {"size": (6, 6, 1), "gamma": True},
    "smooth_cutoff": True,
    "convergence": {"energy": 1e-8},
}


def functionals() -> list[str]:
    """Return PBE, r2SCAN and the names of all models that are part of the package."""
    return ["PBE", "r2SCAN", *(f"{model.name}@{model.version}" for model in list_models() if model.origin == "package")]


def layer(a: float, height: float = 0.0) -> Atoms:
    """Return a cell of graphene with one atom above the other by a height, Angstrom."""
    atoms = graphene(a=a, vacuum=7.0)
    atoms.positions[:, 2] += (-height / 2, height / 2)
    return atoms


def run(xc: str, path: Path = RESULTS, **changes: Any) -> dict[str, float | None]:
    """Complete the points of a functional, add what follows from them to the file, and return this."""
    settings = SETTINGS | changes
    calc = NNXCCalculator(xc, **settings)
    calc.set(gpts=calc.resolve(layer(CONSTANTS[0]))["gpts"])
    structures = {f"a {a}": layer(a) for a in CONSTANTS} | {f"h {h}": layer(FLAT, h) for h in HEIGHTS}
    points = complete(path, xc, settings_of(calc, structures), structures, results_of(calc, "free_energy", "forces"))
    results = read_results(path)
    results[xc] |= summary(points)
    write_results(path, results)
    return summary(points)


def summary(points: dict[str, Point]) -> dict[str, float | None]:
    """Return the lattice constant; the rise of the energy, the force and its error; and the frequency of the motion.

    The lattice constant is None if the scan has no minimum.
    """
    found = minimum_of_cubic(CONSTANTS**2, [points[f"a {a}"]["free_energy"] for a in CONSTANTS])
    heights, displaced = np.array(HEIGHTS), [points[f"h {h}"] for h in HEIGHTS]
    rise = np.array([point["free_energy"] - displaced[0]["free_energy"] for point in displaced])
    # E(h) = k h^2 / 2 + c h^4, by least squares
    k, c = np.linalg.lstsq(np.stack((heights**2 / 2, heights**4), axis=1), rise, rcond=None)[0]
    force = np.array([(point["forces"][1][2] - point["forces"][0][2]) / 2 for point in displaced])  # -dE/dh
    reduced_mass = graphene().get_masses()[0] / 2
    quantum = units._hbar * units.J * units.second * np.sqrt(abs(k) / reduced_mass)  # eV
    return {
        "a0_A": None if found is None else found[0] ** 0.5,
        "rise_meV": float(1000 * rise[-1]),
        "force_eV_per_A": float(force[-1]),
        "error_of_force_eV_per_A": float(abs(force + k * heights + 4 * c * heights**3).max()),
        "frequency_per_cm": float(np.sign(k) * quantum / units.invcm),
    }


def draw(path: Path = RESULTS) -> None:
    """Draw the energies of all functionals in the file against lattice constant and height."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    complete_ones = {xc: result for xc, result in read_results(path).items() if "a0_A" in result}
    for number, (xc, result) in enumerate(complete_ones.items()):
        points, style = result["points"], {"marker": "o+x^1*"[number % 6], "markersize": 5, "label": xc}
        energies = np.array([points[f"a {a}"]["free_energy"] for a in CONSTANTS]) / 2
        left.plot(CONSTANTS, energies - energies.min(), **style)
        rise = np.array([points[f"h {h}"]["free_energy"] for h in HEIGHTS]) / 2
        right.plot(HEIGHTS, 1000 * (rise - rise[0]), **style)
    left.set_xlabel("lattice constant, Å")
    left.set_ylabel("energy per atom, eV")
    right.set_xlabel("height of one atom above the other, Å")
    right.set_ylabel("energy per atom, meV")
    left.legend()
    figure.savefig(path.with_suffix(".png"), dpi=110)


def table(path: Path = RESULTS) -> str:
    """Return the results of all functionals in the file that are complete."""
    rows = ["| functional | a0, Å | rise, meV | force, eV/Å | error of forces, eV/Å | frequency, cm⁻¹ | time, s |"]
    rows.append("| --- | --: | --: | --: | --: | --: | --: |")
    for xc, result in read_results(path).items():
        if "a0_A" in result:
            seconds = sum(point["seconds"] for point in result["points"].values())
            a0 = "no minimum" if result["a0_A"] is None else f"{result['a0_A']:.4f}"
            rows.append(
                f"| {xc} | {a0} | {result['rise_meV']:.1f} | {result['force_eV_per_A']:.3f} | "
                f"{result['error_of_force_eV_per_A']:.4f} | {result['frequency_per_cm']:.0f} | {seconds:.0f} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    for name in parse(__doc__, "FUNCTIONAL", functionals()).names:
        run(name)
    draw()
    write_table("graphene", table())
