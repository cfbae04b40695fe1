"""Measure how fast generated pseudopotentials converge with the cutoff, and write benchmarks/generated_cutoffs.json.

    python benchmarks/generated_cutoffs.py [Si Cu ...]
    python benchmarks/generated_cutoffs.py --page

Each element is calculated at the volume of its own crystal, if this has at most two atoms in the cell, and else of an
fcc crystal, and at volumes 4 % above and below: at fractions of the recommended cutoff, with the smooth cutoff and
without, on a mesh of 4x4x4 k-points, with PBE. The errors of the energy difference of the two outer volumes, meV per
atom, and of the lattice constant, per cent, are against the smooth cutoff at 1.5 times the recommended one. A denser
mesh would average the steps of the energy without the smooth cutoff.

The result of an element is saved as soon as it is calculated, and is not calculated again. --page rewrites the table in
docs/pseudopotentials.md.
"""

import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import SCFError
from ase.units import Hartree
from results import read_results, write_results

from ase_nnxc import NNXCCalculator
from ase_nnxc.pseudopotentials.oncv.inputs import elements_with_inputs

OUTPUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "pseudopotentials.md"
BEGIN, END = "<!-- table: python benchmarks/generated_cutoffs.py --page -->", "<!-- end of the table of cutoffs -->"
FRACTIONS = (1.0, 0.9, 0.8, 0.7)
REFERENCE = 1.5
STRAIN = 0.04  # of the volume
MODES = {"smooth": True, "plain": False}
TOLERANCE = 0.1  # per cent of the lattice constant
# volumes of fcc crystals with PBE, Angstrom^3 per atom, of elements whose own crystals are molecular, large or magnetic
FCC = {"H": 3.0, "He": 17.8, "B": 5.9, "N": 7.6, "O": 7.9, "F": 10.2, "P": 14.5, "S": 15.9, "Cl": 21.4, "Mn": 10.8}
FCC |= {"Fe": 10.2, "Ga": 18.9, "Se": 20.0, "Br": 27.0, "Te": 28.3, "I": 35.1, "La": 36.9, "Rn": 93.0}


def crystal(symbol: str) -> Atoms:
    """Return the crystal of an element."""
    if symbol in FCC:
        return bulk(symbol, "fcc", a=(4 * FCC[symbol]) ** (1 / 3))
    return bulk(symbol)


def energy_differences(atoms: Atoms, calc: NNXCCalculator) -> dict[str, tuple[float, float]]:
    """Return E(V+) - E(V-) and E(V+) + E(V-) - 2 E(V) per atom by mode, eV."""
    results = {}
    for mode, smooth_cutoff in MODES.items():
        calc.set(smooth_cutoff=smooth_cutoff)
        energies = []
        for strain in (-STRAIN, 0.0, STRAIN):
            strained = atoms.copy()
            strained.set_cell(atoms.cell * (1 + strain) ** (1 / 3), scale_atoms=True)
            energies.append(calc.get_potential_energy(strained, force_consistent=True) / len(atoms))
        low, middle, high = energies
        results[mode] = (high - low, high + low - 2 * middle)
    return results


def measure(symbol: str) -> dict[str, Any]:
    """Return the errors by fraction of the recommended cutoff and mode."""
    atoms, start = crystal(symbol), time.process_time()
    calc = NNXCCalculator("PBE", kpts={"size": (4, 4, 4), "gamma": True}, convergence={"energy": 1e-6})
    recommended = calc.resolve(atoms)["ecut"]

    def at(fraction: float) -> dict[str, tuple[float, float]]:
        calc.set(ecut=fraction * recommended)
        return energy_differences(atoms, calc)

    reference, curvature = at(REFERENCE)["smooth"]
    errors = {}
    for fraction in FRACTIONS:
        differences = {mode: difference - reference for mode, (difference, _) in at(fraction).items()}
        # E = c x^2 / (2 STRAIN^2), x = V/V0 - 1, and a slope dE / (2 STRAIN):  dx = -STRAIN dE / (2 c), da / a = dx / 3
        errors[f"{fraction:.1f}"] = {
            mode: {
                "meV": round(1000 * difference, 3),
                "a0_percent": round(-100 / 3 * STRAIN * difference / (2 * curvature), 4),
            }
            for mode, difference in differences.items()
        }
    return {
        "recommended_Ha": round(recommended / Hartree, 1),
        "errors": errors,
        "seconds": round(time.process_time() - start),
    }


def converged(result: dict[str, Any]) -> float:
    """Return the smallest fraction of the recommended cutoff down to which the lattice constant is within TOLERANCE."""
    smallest = REFERENCE
    for fraction, modes in result["errors"].items():
        if any(abs(error["a0_percent"]) > TOLERANCE for error in modes.values()):
            break
        smallest = float(fraction)
    return smallest


def table(results: dict[str, Any]) -> str:
    """Return medians and largest errors over the elements as a table."""
    lines = []
    for fraction in FRACTIONS:
        cells = []
        for mode in MODES:
            errors = {symbol: result["errors"][f"{fraction:.1f}"][mode] for symbol, result in results.items()}
            for key, digits in (("a0_percent", 3), ("meV", 2)):
                sizes = {symbol: abs(error[key]) for symbol, error in errors.items()}
                worst = sorted(sizes, key=lambda symbol: -sizes[symbol])[:3]
                names = ", ".join(f"{symbol} {sizes[symbol]:.{digits}f}" for symbol in worst)
                cells.append(f"{median(sizes.values()):.{digits}f}; {names}")
        lines.append(f"| {fraction:.1f} | {' | '.join(cells)} |\n")
    head = "| fraction | a0, %, smooth | E, meV, smooth | a0, %, plain | E, meV, plain |\n"
    return f"{len(results)} elements:\n\n{head}| --- | --- | --- | --- | --- |\n{''.join(lines)}"


def main() -> None:
    """Measure the elements that are not in the output, or write the table."""
    warnings.simplefilter("ignore")
    results = read_results(OUTPUT)
    if sys.argv[1:] == ["--page"]:
        text = PAGE.read_text()
        PAGE.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n{table(results)}{END}{text.split(END, 1)[1]}")
        return
    for symbol in sys.argv[1:] or elements_with_inputs():
        if symbol in results:
            continue
        try:
            results[symbol] = measure(symbol)
        except SCFError as error:
            print(symbol, error, flush=True)
            continue
        print(symbol, converged(results[symbol]), results[symbol], flush=True)
        write_results(OUTPUT, {symbol: results[symbol] for symbol in elements_with_inputs() if symbol in results})


if __name__ == "__main__":
    main()
