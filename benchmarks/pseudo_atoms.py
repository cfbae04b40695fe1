"""Compare excitations of spherical atoms by generated pseudopotentials with those of all electrons.

    python benchmarks/pseudo_atoms.py [ELEMENT ...] [--xc r2SCAN] [--generated-for PBEsol]
    python benchmarks/pseudo_atoms.py --page

The energy differences between configurations are those of self-consistent, unpolarised, scalar-relativistic atoms on
radial elements, so no plane waves and no boxes are involved. The pseudopotential is generated for another functional
with --generated-for; the default is the functional itself. Results are kept in benchmarks/pseudo_atoms.json; --page
rewrites the table in docs/pseudopotentials.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from results import read_results, write_results

from ase_nnxc.atoms import AllElectronAtom, Elements, Shell, parse_shells, solve_atom, xc_of_sphere
from ase_nnxc.atoms.all_electron import shell_tau
from ase_nnxc.atoms.elements import atomic_edges
from ase_nnxc.atoms.mixing import AndersonMixing
from ase_nnxc.atoms.radial_equation import RadialEquation, State, coulomb_potential
from ase_nnxc.pseudopotentials.oncv.generator import Generated, build, core_fields
from ase_nnxc.pseudopotentials.oncv.inputs import Inputs, load_inputs
from ase_nnxc.pseudopotentials.oncv.pseudo_atom import bound_state
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import Functional

OUTPUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "pseudopotentials.md"
BEGIN, END = "<!-- table: python benchmarks/pseudo_atoms.py --page -->", "<!-- end of this table -->"
EXCITATIONS = {  # shells whose occupations change
    "Li": ("2s0",),
    "B": ("2s1 2p2", "2p0"),
    "C": ("2s1 2p3", "2p1"),
    "N": ("2s1 2p4", "2p2"),
    "O": ("2s1 2p5", "2p3"),
    "F": ("2s1 2p6", "2p4"),
    "Na": ("3s0",),
    "Mg": ("3s1",),
    "Al": ("3s1 3p2", "3p0"),
    "Si": ("3s1 3p3", "3p1"),
    "P": ("3s1 3p4", "3p2"),
    "Cl": ("3s1 3p6", "3p4"),
    "V": ("3d4 4s1", "4s1"),
    "Cu": ("3d9 4s2", "4s0"),
    "Ga": ("4s1 4p2", "4p0"),
    "Ge": ("4s1 4p3", "4p1"),
}
TOLERANCE, MOST_STEPS = 1e-8, 80  # Hartree


def excited(shells: tuple[Shell, ...], configuration: str) -> tuple[Shell, ...]:
    """Return shells with other occupations, such as "3s1 3p3"; those that are not named keep theirs."""
    electrons = {(shell.n, shell.l): shell.electrons for shell in parse_shells(configuration)}
    return tuple(shell._replace(electrons=electrons.get((shell.n, shell.l), shell.electrons)) for shell in shells)


def all_electron_energy(ground: AllElectronAtom, inputs: Inputs, functional: Functional, configuration: str) -> float:
    """Return the energy (Hartree) of a configuration, started from the functions of the ground state."""
    shells = excited(inputs.valence, configuration)
    states = dict(ground.states) | {new: ground.states[old] for old, new in zip(inputs.valence, shells)}
    start = replace(ground, states=states)
    atom = solve_atom(inputs.number, (*inputs.core, *shells), functional, elements=ground.elements, start=start)
    return atom.total_energy


def pseudo_energy(generated: Generated, functional: Functional, shells: tuple[Shell, ...]) -> float:
    """Return the energy (Hartree) of valence shells with the potential of the ion, without that of the core alone."""
    smooth, volume = generated.smooth, 4 * np.pi * generated.smooth.weights * generated.smooth.radii**2
    core, core_tau = core_fields(generated.core, smooth)
    functions = {
        (shell.n, shell.l): (channel, State(generated.atom.states[shell].energy, values))
        for channel in generated.channels
        for shell, values in zip(generated.inputs.valence_shells(channel.l), channel.functions.values)
    }
    v, v_tau, mix = generated.local, generated.v_tau, AndersonMixing()
    for _ in range(MOST_STEPS):
        equation = RadialEquation(smooth, 0.0, relativistic=False, v_tau=v_tau)
        density, tau, energy = np.zeros(len(v)), np.zeros(len(v)), 0.0
        for shell in shells:
            channel, state = functions[shell.n, shell.l]
            state = bound_state(equation, v, channel, state)
            functions[shell.n, shell.l] = channel, state
            density += shell.electrons * state.values**2 / (4 * np.pi)
            tau += shell.electrons * shell_tau(shell.l, state.values, smooth)
            energy += shell.electrons * state.energy
        xc = xc_of_sphere(functional, smooth, density + core, tau + core_tau)
        coulomb = coulomb_potential(smooth, density)
        energy += volume @ (density * (generated.ion + 0.5 * coulomb - v) - tau * v_tau) + xc.energy
        residual = np.concatenate((generated.ion + coulomb + xc.v - v, xc.v_tau - v_tau))
        weights = np.concatenate((volume * density, volume * tau))
        if weights @ residual**2 < TOLERANCE**2:
            return float(energy)
        v, v_tau = np.split(mix(np.concatenate((v, v_tau)), residual, weights), 2)
    raise RuntimeError(f"{generated.inputs.symbol}: {' '.join(map(str, shells))} does not converge")


def errors(symbol: str, xc: str, generated_for: str) -> dict[str, list[float]]:
    """Return the excitation energies (Hartree) of all electrons, and the errors of the pseudopotential (Hartree)."""
    functional, parent = get_functional(xc), get_functional(generated_for)
    inputs = load_inputs(symbol, "tau" in parent.features)
    elements = Elements(atomic_edges(inputs.number))
    ground = solve_atom(inputs.number, (*inputs.core, *inputs.valence), functional, elements=elements)
    generated = build(inputs, parent)
    lowest = pseudo_energy(generated, functional, inputs.valence)
    result = {}
    for configuration in EXCITATIONS[symbol]:
        expected = all_electron_energy(ground, inputs, functional, configuration) - ground.total_energy
        actual = pseudo_energy(generated, functional, excited(inputs.valence, configuration)) - lowest
        result[configuration] = [round(expected, 5), round(actual - expected, 6)]
    return result


def table(results: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Return the table of errors in Markdown, a column for each pair of functionals."""
    columns = sorted({key.split(" ", 1)[1] for key in results})
    functional = columns[-1].split(",")[0]
    lines = [["excitation", f"energy with {functional}, mHa", *columns], ["---", *["--:"] * (len(columns) + 1)]]
    for symbol, configurations in EXCITATIONS.items():
        for configuration in configurations:
            found = [results.get(f"{symbol} {column}", {}).get(configuration) for column in columns]
            if any(found):
                energy = next(f"{1000 * values[0]:.1f}" for values in reversed(found) if values)
                lines.append(
                    [f"{symbol} {configuration}", energy, *(f"{1000 * x[1]:+.2f}" if x else "" for x in found)]
                )
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def main() -> None:
    """Calculate what is asked for, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("elements", nargs="*", default=list(EXCITATIONS), metavar="ELEMENT")
    parser.add_argument("--xc", default="r2SCAN")
    parser.add_argument("--generated-for", help="default: the functional itself")
    parser.add_argument("--page", action="store_true", help="write the table")
    arguments = parser.parse_args()
    if arguments.page:
        before, after = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table(read_results(OUTPUT))}{END}{after.split(END)[1]}")
        return
    generated_for = arguments.generated_for or arguments.xc
    for symbol in arguments.elements:
        key = f"{symbol} {arguments.xc}, potential of {generated_for}"
        try:
            result = errors(symbol, arguments.xc, generated_for)
        except RuntimeError as error:
            print(key, error, flush=True)
            continue
        print(key, result, flush=True)
        write_results(OUTPUT, {**read_results(OUTPUT), key: result})


if __name__ == "__main__":
    main()
