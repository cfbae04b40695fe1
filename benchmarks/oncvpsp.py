"""Compare coefficients of projectors with those that ONCVPSP prints for the same inputs.

    python benchmarks/oncvpsp.py FILE [Si Cu ...]

FILE is a JSON file of what ONCVPSP 3.2.3 prints, which is not part of this repository. Coefficients depend on two
things that the generator chooses in another way:

- The tails of functions at positive energies. ONCVPSP takes bound states of the atom and a barrier
  v x^3 / (1 + x^3), x = (r - r_5) / w, where r_5 is the fifth point of its mesh beyond r_c. The width w is the first of
  8 r_c, 6 r_c, 4.5 r_c, ... for which a height v from e to e + 1 Ha has a level at the energy e.
- V_loc(0). It follows there from the third derivative of the potential. Here it is one of the inputs; it is fitted.

The largest relative differences of the coefficients of an element are printed as they are generated, with ONCVPSP's
tails, and with its tails and the best V_loc(0). Energies of channels without occupied shells are those of FILE.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from oncv import coefficient_errors, published
from scipy.optimize import brentq, minimize_scalar

from ase_nnxc.atoms import AllElectronAtom
from ase_nnxc.atoms.radial_equation import State
from ase_nnxc.pseudopotentials.oncv.errors import GenerationError
from ase_nnxc.pseudopotentials.oncv.generator import build, build_with
from ase_nnxc.pseudopotentials.oncv.inputs import ChannelInputs, Inputs, elements_with_inputs, load_inputs
from ase_nnxc.xc import PBE

MESH = 1.012  # ratio of neighbouring radii
FIRST_WIDTH, NEXT_WIDTH, WIDTHS = 8.0, 0.75, 20  # relative to r_c; relative to the width before; number of trials
HIGHEST = 1.0  # Hartree, of the barrier above the energy
TRIALS = np.linspace(0.95, 1.05, 21)  # factors of V_loc(0)


def confined_state(atom: AllElectronAtom, channel: ChannelInputs, energy: float, nodes: int) -> State:
    """Return the bound state of an atom with ONCVPSP's barrier that has the given energy, Hartree."""
    for width in FIRST_WIDTH * channel.radius * NEXT_WIDTH ** np.arange(WIDTHS):
        x = np.maximum(atom.elements.radii - channel.radius * MESH**5, 0) / width
        barrier = x**3 / (1 + x**3)

        def level(height: float, barrier: np.ndarray = barrier) -> State:
            return atom.equation.bound_state(channel.l, atom.v + height * barrier, nodes)

        if level(energy + HIGHEST).energy >= energy:
            return level(brentq(lambda v: level(v).energy - energy, energy, energy + HIGHEST, xtol=1e-9))
    raise GenerationError(f"no barrier has a level of l = {channel.l} at {energy} Ha")


def with_energies(inputs: Inputs, result: Mapping[str, Any]) -> Inputs:
    """Return inputs with the energies of an output for the channels without occupied shells."""

    def changed(channel: ChannelInputs) -> ChannelInputs:
        energies = [well["eigenvalue"] for well in result["wells"] if well["l"] == channel.l]
        empty = not inputs.valence_shells(channel.l) and energies
        return replace(channel, energy=energies[0]) if empty else channel

    return replace(inputs, channels=tuple(map(changed, inputs.channels)))


def largest_errors(symbol: str, result: Mapping[str, Any]) -> list[float]:
    """Return the largest relative differences as generated, with the tails, and with the best V_loc(0) as well."""
    inputs = with_energies(load_inputs(symbol), result)
    plain = build(inputs, PBE())

    def error(factor: float) -> float:
        local = replace(inputs.local, v0=factor * inputs.local.v0)
        try:
            generated = build_with(replace(inputs, local=local), PBE(), plain.atom, confined_state)
        except GenerationError:
            return np.inf
        return float(abs(coefficient_errors(generated, result)).max())

    start = min(TRIALS, key=error)
    step = TRIALS[1] - TRIALS[0]
    best = minimize_scalar(error, bounds=(start - step, start + step), options={"xatol": 1e-6}).fun
    return [float(abs(coefficient_errors(plain, result)).max()), error(1.0), float(best)]


def main() -> None:
    """Print the differences of each element."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    results = json.loads(Path(sys.argv[1]).read_text())["results"]
    for symbol in sys.argv[2:] or elements_with_inputs():
        result = published(results, load_inputs(symbol))
        if result is None:
            print(f"{symbol:2} has no output with the same radii")
            continue
        try:
            now, tails, best = largest_errors(symbol, result)
        except GenerationError as error:
            print(f"{symbol:2} {error}")
            continue
        print(
            f"{symbol:2} {100 * now:6.2f} %, tails {100 * tails:6.2f} %, and V_loc(0) {100 * best:6.3f} %", flush=True
        )


if __name__ == "__main__":
    main()
