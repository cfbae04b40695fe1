"""Generate pseudopotentials, and compare them with all electrons and with published ones.

    python benchmarks/oncv.py elements [--xc NAME] [--reference FILE] [Si Cu ...]
    python benchmarks/oncv.py lattice FOLDER [Al MgO ...]
    python benchmarks/oncv.py fit --reference FILE [Si Cu ...]
    python benchmarks/oncv.py cores --reference FILE --inputs FILE2 [Si Cu ...]

`elements` prints for each element the CPU seconds, the plane-wave cutoff E4 at which the residual kinetic energy is
1e-4 Ha, the largest difference of an eigenvalue from that of the all-electron atom, and whether the inputs were
changed. FILE is a JSON file of what ONCVPSP prints for the same inputs, which is not part of this repository: then
follow the largest differences of all-electron eigenvalues above -6 Ha, of the norms inside r_c, and of the coefficients
of the first projectors. The functional is PBE, also in all that follows, or that of --xc.

`fit` writes to ase_nnxc/data/oncv.json the value of the local potential at r = 0 with which the coefficients of the
projectors are closest to those of FILE. In ONCVPSP this value follows from the third derivative of the potential.

`cores` writes there heights and lengths of the model cores, relative to the density and the radius where the densities
of core and valence are equal. ONCVPSP takes the point of its mesh next to this radius, and the factors of FILE2, its
inputs, belong to it. The elements of TUNED, whose cores are chosen otherwise, are left out.

`lattice` prints lattice constant and bulk modulus with generated pseudopotentials and with the files ELEMENT.upf of
FOLDER, at the same settings. Files of PseudoDojo 0.4, PBE, standard, have the same inputs; they are not part of this
repository.
"""

import argparse
import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import bulk
from ase.formula import Formula
from ase.units import GPa, Hartree
from scipy.optimize import minimize_scalar

from ase_nnxc import NNXCCalculator
from ase_nnxc.eos import scan_eos
from ase_nnxc.pseudopotentials.oncv.errors import GenerationError
from ase_nnxc.pseudopotentials.oncv.generator import Generated, build, build_with
from ase_nnxc.pseudopotentials.oncv.inputs import Inputs, elements_with_inputs, load_inputs
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import PBE, Functional

# structure, start of the lattice constant in Angstrom, cutoff in Hartree, divisions of the mesh along each axis
SOLIDS = {
    "Al": ("fcc", 4.04, 30, 10),
    "Si": ("diamond", 5.47, 26, 6),
    "C": ("diamond", 3.57, 45, 6),
    "Cu": ("fcc", 3.63, 50, 8),
    "Mg": ("fcc", 4.52, 45, 10),
    "Ca": ("fcc", 5.53, 40, 8),
    "Ni": ("fcc", 3.51, 55, 8),
    "H": ("fcc", 2.28, 45, 16),
    "MgO": ("rocksalt", 4.25, 55, 6),
    "CaF2": ("fluorite", 5.50, 55, 4),
}
TUNED = ("C", "N", "O", "F")  # by atomization energies, see benchmarks/molecules.py
TRIALS = np.linspace(0.85, 1.15, 13)  # factors of the local potential at r = 0
OUTLIER = 0.1  # relative errors of coefficients above it count as it: those of nearly singular channels
SHALLOW = -6.0  # Hartree: only eigenvalues above are compared, deeper ones hold the error of the other mesh


def published(results: Mapping[str, Any], inputs: Inputs) -> Mapping[str, Any] | None:
    """Return the output for the same element and radii, or None."""
    for name, result in results.items():
        radii = result["rc_used"]
        same = all(abs(radii.get(str(channel.l), 0) - channel.radius) < 1e-3 for channel in inputs.channels)
        if name.split("-")[0] == inputs.symbol and same and len(radii) == len(inputs.channels):
            return result
    return None


def differences(generated: Generated, result: Mapping[str, Any]) -> str:
    """Return a text of the differences from an output of ONCVPSP."""
    levels = [
        abs(state.energy - result["eigenvalues"][str(shell)])
        for shell, state in generated.atom.states.items()
        if state.energy > SHALLOW
    ]
    occupied = [channel for channel in generated.channels if generated.inputs.valence_shells(channel.l)]
    norms = [abs(channel.functions.overlaps[0, 0] - result["overlaps"][str(channel.l)][0]) for channel in occupied]
    ratios = [abs(channel.coefficients[0] / result["evkb"][str(channel.l)][0] - 1) for channel in occupied]
    return f"ONCVPSP: levels {max(levels):.1e} Ha, norms {max(norms):.1e}, coefficients {100 * max(ratios):.2f} %"


def elements(symbols: list[str], reference: Path | None, functional: Functional) -> None:
    """Generate elements and print what is known of each."""
    results = json.loads(reference.read_text())["results"] if reference else {}
    build(load_inputs("H"), functional)  # loads what is loaded once
    for symbol in symbols or elements_with_inputs():
        inputs, start = load_inputs(symbol, "tau" in functional.features), time.process_time()
        generated = build(inputs, functional)
        seconds = time.process_time() - start
        result = published(results, generated.inputs)
        changed = "" if generated.inputs == inputs else " with changed inputs"
        print(
            f"{symbol:2} {seconds:.2f} s, E4 {generated.cutoff:.1f} Ha, eigenvalues {generated.eigenvalue_error:.1e} Ha"
            f"{changed}{'' if result is None else '; ' + differences(generated, result)}",
            flush=True,
        )


def coefficient_errors(generated: Generated, result: Mapping[str, Any]) -> np.ndarray:
    """Return the relative differences of all coefficients of projectors from an output of ONCVPSP."""
    pairs = [(c.coefficients, result["evkb"].get(str(c.l), [])) for c in generated.channels]  # some are not printed
    pairs = [(sorted(ours, key=abs), sorted(theirs, key=abs)) for ours, theirs in pairs if len(ours) == len(theirs)]
    return np.concatenate([np.divide(ours, theirs) - 1 for ours, theirs in pairs])


def fitted(symbol: str, result: Mapping[str, Any]) -> Inputs:
    """Return inputs whose local potential is that of an output of ONCVPSP."""
    inputs = load_inputs(symbol)
    atom = build(inputs, PBE()).atom

    def trial(factor: float) -> Inputs:
        return replace(inputs, local=replace(inputs.local, v0=round(factor * inputs.local.v0, 4)))

    def error(factor: float) -> float:
        try:
            errors = coefficient_errors(build_with(trial(factor), PBE(), atom), result)
        except GenerationError:
            return 1.0
        return float(np.square(errors).clip(max=OUTLIER**2).mean())

    start = min(TRIALS, key=error)
    step = TRIALS[1] - TRIALS[0]
    best = minimize_scalar(error, bounds=(start - step, start + step), options={"xatol": 2e-4})
    return trial(best.x if best.fun < error(start) else start)


def fit(symbols: list[str], reference: Path) -> None:
    """Write the inputs that are fitted to outputs of ONCVPSP."""
    results = json.loads(reference.read_text())["results"]
    for symbol in symbols or elements_with_inputs():
        result = published(results, load_inputs(symbol))
        if result is None:
            print(f"{symbol:2} has no output with the same radii")
            continue
        before = coefficient_errors(build(load_inputs(symbol), PBE()), result)
        inputs = fitted(symbol, result)
        after = coefficient_errors(build(inputs, PBE()), result)
        rewrite(symbol, r'"v0": [-.\d]+', f'"v0": {inputs.local.v0}')
        print(
            f"{symbol:2} V_loc(0) {inputs.local.v0}, coefficients within {100 * abs(after).max():.2f} % (median "
            f"{100 * np.median(abs(after)):.2f} %), before {100 * abs(before).max():.2f} %",
            flush=True,
        )


def rewrite(symbol: str, pattern: str, text: str) -> None:
    """Replace the first match of a pattern in the inputs of an element."""
    path = Path(str(files("ase_nnxc") / "data" / "oncv.json"))
    before, entry = path.read_text().split(f'"{symbol}": {{', 1)
    path.write_text(f'{before}"{symbol}": {{{re.sub(pattern, text, entry, count=1)}')


def cores(symbols: list[str], reference: Path, published_inputs: Path) -> None:
    """Write heights and lengths of model cores that with PBE are those of outputs of ONCVPSP."""
    results = json.loads(reference.read_text())["results"]
    factors = json.loads(published_inputs.read_text())["sets"]["standard"]
    for symbol in symbols or elements_with_inputs():
        inputs = load_inputs(symbol)
        result = published(results, inputs)
        if result is None or inputs.model_core is None or symbol in TUNED:
            continue
        core = build(inputs, PBE()).core
        assert core is not None
        density, radius = core.height / inputs.model_core.height, core.length / inputs.model_core.scale
        height = factors[symbol]["model_core"]["fcfact"] * result["rhocmatch"] / (4 * np.pi) / density
        scale = factors[symbol]["model_core"]["rcfact"] * result["rmatch"] / radius
        rewrite(symbol, r'"model_core": \{[^}]*\}', f'"model_core": {{"height": {height:.4f}, "scale": {scale:.4f}}}')
        print(f"{symbol:2} height {height:.4f} (published {factors[symbol]['model_core']['fcfact']})", flush=True)


def equation_of_state(solid: str, pseudos: str | dict[str, Path]) -> tuple[float, float]:
    """Return the lattice constant, Angstrom, and the bulk modulus, GPa."""
    structure, a, ecut, kpts = SOLIDS[solid]
    calc = NNXCCalculator(
        "PBE",
        ecut=ecut * Hartree,
        kpts={"size": [kpts] * 3, "gamma": True},
        smearing={"name": "marzari-vanderbilt", "width": 0.01 * Hartree},
        pseudos=pseudos,
    )
    result = scan_eos(bulk(solid, structure, a=a), calc)
    return result.conventional_a, result.fit.bulk_modulus.item() / GPa


def lattice(solids: list[str], folder: Path) -> None:
    """Print lattice constants with generated and with published pseudopotentials."""
    if not folder.is_dir():
        print(f"no folder {folder}: nothing is compared")
        return
    for solid in solids or SOLIDS:
        published = {symbol: folder / f"{symbol}.upf" for symbol in Formula(solid).count()}
        a, modulus = equation_of_state(solid, "oncv")
        other_a, other_modulus = equation_of_state(solid, published)
        print(
            f"{solid:4} generated {a:.4f} A {modulus:.2f} GPa, files {other_a:.4f} A {other_modulus:.2f} GPa, "
            f"lattice constant {100 * (a / other_a - 1):+.3f} %",
            flush=True,
        )


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("elements", help="generate elements")
    first.add_argument("--reference", type=Path, help="JSON file of outputs of ONCVPSP")
    first.add_argument("--xc", default="PBE", help="functional")
    second = commands.add_parser("lattice", help="compare lattice constants")
    second.add_argument("folder", type=Path, help="folder of the UPF files")
    third = commands.add_parser("fit", help="write the inputs")
    third.add_argument("--reference", type=Path, required=True, help="JSON file of outputs of ONCVPSP")
    fourth = commands.add_parser("cores", help="write the inputs of model cores")
    fourth.add_argument("--reference", type=Path, required=True, help="JSON file of outputs of ONCVPSP")
    fourth.add_argument("--inputs", type=Path, required=True, help="JSON file of inputs of ONCVPSP")
    for command in (first, second, third, fourth):
        names = "solids" if command is second else "elements"
        command.add_argument("names", nargs="*", metavar="NAME", help=f"{names}; default: all")
    arguments = parser.parse_args()
    if arguments.command == "elements":
        elements(arguments.names, arguments.reference, get_functional(arguments.xc))
    elif arguments.command == "fit":
        fit(arguments.names, arguments.reference)
    elif arguments.command == "cores":
        cores(arguments.names, arguments.reference, arguments.inputs)
    else:
        lattice(arguments.names, arguments.folder)


if __name__ == "__main__":
    main()
