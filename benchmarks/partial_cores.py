"""Compare r2SCAN energies of free and bonded atoms with partial cores with those of all electrons.

    python benchmarks/partial_cores.py [C N O F] [--core SCALE [HEIGHT]]

The valence functions are those of the spherical atom, with all electrons or pseudised, and are occupied as in the free
atom or roughly as in a molecule. Printed is what the exchange-correlation energy changes from the spherical,
unpolarised atom, beyond the linear terms, which are equal for both: with the pseudopotential less with all electrons,
kcal/mol. The last columns are the errors of binding energies that follow, for this atom of the molecule.
"core_with_tau" of these elements in ase_nnxc/data/oncv.json is chosen with these numbers and the atomization energies
of molecules.py, which decided for C and F; for metals see spin_energies.py. --core takes another scale, with another
height or none.
"""

import argparse
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.units import Hartree, kcal, mol
from numpy.typing import NDArray

from ase_nnxc.atoms import Elements
from ase_nnxc.pseudopotentials.oncv.generator import build, core_fields
from ase_nnxc.pseudopotentials.oncv.inputs import PartialCoreInputs, load_inputs
from ase_nnxc.xc import R2SCAN

Array = NDArray[np.float64]
Orbital = tuple[float, float, float, float]  # amplitudes of s, p_x, p_y, p_z
Spin = list[tuple[float, Orbital]]  # occupations of orbitals
State = tuple[Spin, Spin]

S, X, Y, Z = (tuple(row) for row in np.eye(4))
BOND, BACK = (0.5**0.5, 0.0, 0.0, 0.5**0.5), (0.5**0.5, 0.0, 0.0, -(0.5**0.5))  # sp
TETRAHEDRON = [(0.5, 0.5 * x, 0.5 * y, 0.5 * z) for x, y, z in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]


def closed(*electrons: tuple[float, Orbital]) -> State:
    """Return the state with half of these electrons in each spin."""
    half = [(number / 2, orbital) for number, orbital in electrons]
    return half, half


FREE = "atom"
STATES: dict[str, dict[str, State]] = {
    "C": {
        FREE: ([(1, S), (1, X), (1, Y)], [(1, S)]),
        "CH4": closed((1, S), (1, X), (1, Y), (1, Z)),
        "CO": closed((1.85, BACK), (0.8, BOND), (0.6, X), (0.6, Y)),
    },
    "N": {
        FREE: ([(1, S), (1, X), (1, Y), (1, Z)], [(1, S)]),
        "N2": closed((1.85, BACK), (1.15, BOND), (1, X), (1, Y)),
        "NH3": closed(*zip((2, 1, 1, 1), TETRAHEDRON)),
    },
    "O": {
        FREE: ([(1, S), (1, X), (1, Y), (1, Z)], [(1, S), (1, Z)]),
        "OH": ([(1, S), (1, X), (1, Y), (0.5, Z)], [(1, S), (1, X), (0.5, Z)]),
        "H2O": closed(*zip((2, 2, 1, 1), TETRAHEDRON)),
        "CO": closed((1.9, BACK), (1.3, BOND), (1.4, X), (1.4, Y)),
    },
    "F": {
        FREE: ([(1, S), (1, X), (1, Y), (1, Z)], [(1, S), (1, X), (1, Z)]),
        "HF": closed((2, S), (2, X), (2, Y), (1.3, Z)),
        "F2": closed((2, BACK), (1, BOND), (2, X), (2, Y)),
    },
}


@dataclass
class Fields:
    """Spin densities of a state on all points, radii times directions, in Hartree atomic units."""

    density: Array  # (2, n)
    gradient: Array  # (2, 3, n)
    tau: Array  # (2, n)

    def evaluate(self, functional: R2SCAN) -> tuple[Array, list[Array]]:
        """Return the energy per volume (n,) and its derivatives with respect to the fields."""
        fields = [torch.as_tensor(x).requires_grad_() for x in (self.density, self.gradient, self.tau)]
        energies = functional(dict(zip(("density", "gradient", "tau"), fields)))
        derivatives = torch.autograd.grad(energies.sum(), fields)
        return energies.detach().numpy(), [x.numpy() for x in derivatives]


class FrozenAtom:
    """A core and radial functions of s and p, whose occupations may change.

    Parameters
    ----------
    elements, core, core_tau
        Density and kinetic energy density of the core (N,) on the elements, Hartree atomic units.
    functions
        The radial functions R_s and R_p (N,).
    """

    def __init__(self, elements: Elements, core: Array, core_tau: Array, functions: list[Array]) -> None:
        near = (elements.radii > 2e-3) & (elements.radii < 8)  # bohr: without the cusp
        cosines, weights = np.polynomial.legendre.leggauss(10)
        angles = 2 * np.pi * np.arange(12) / 12
        sines = np.sqrt(1 - cosines**2)
        circle = np.array([np.cos(angles), np.sin(angles), np.ones(12)])
        self.directions = np.array(
            [s * circle * [[1], [1], [0]] + c * circle * [[0], [0], [1]] for s, c in zip(sines, cosines)]
        )
        self.directions = self.directions.transpose(1, 0, 2).reshape(3, -1)
        self.radii = elements.radii[near, None]
        self.weights = np.outer(
            (elements.weights * elements.radii**2)[near], np.repeat(weights, 12) * np.pi / 6
        ).ravel()
        self.core, self.core_tau = core[near, None], core_tau[near, None]
        self.core_slope = (elements.derivative(np.log(np.maximum(core, 1e-280))) * core)[near, None]
        self.functions = [f[near, None] for f in functions]
        self.slopes = [elements.derivative(f)[near, None] for f in functions]

    def orbital(self, amplitudes: Orbital) -> tuple[Array, Array]:
        """Return values and gradient of an orbital: with unit vector e, R_s / sqrt(4 pi) and R_p sqrt(3 / 4 pi) v.e."""
        s, v = amplitudes[0] / np.sqrt(4 * np.pi), np.array(amplitudes[1:]) * np.sqrt(3 / (4 * np.pi))
        along = v @ self.directions
        (r_s, r_p), (slope_s, slope_p) = self.functions, self.slopes
        radial = s * slope_s + (slope_p - r_p / self.radii) * along
        return s * r_s + r_p * along, radial * self.directions[:, None] + r_p / self.radii * v[:, None, None]

    def fields(self, state: State) -> Fields:
        """Return density, gradient and tau of a state."""
        shape = (len(self.radii), self.directions.shape[1])
        spins = []
        for electrons in state:
            density = np.broadcast_to(self.core / 2, shape).copy()
            tau = np.broadcast_to(self.core_tau / 2, shape).copy()
            gradient = self.core_slope / 2 * self.directions[:, None]
            for number, amplitudes in electrons:
                value, slope = self.orbital(amplitudes)
                density += number * value**2
                gradient += 2 * number * value * slope
                tau += number * (slope**2).sum(0) / 2
            spins.append((density.ravel(), gradient.reshape(3, -1), tau.ravel()))
        return Fields(*(np.array(field) for field in zip(*spins)))

    def change(self, functional: R2SCAN, start: State, end: State) -> float:
        """Return E_xc[end] - E_xc[start] less the terms linear in the change of the fields, kcal/mol."""
        a, b = self.fields(start), self.fields(end)
        before, derivatives = a.evaluate(functional)
        linear = derivatives[0] * (b.density - a.density) + derivatives[2] * (b.tau - a.tau)
        linear += (derivatives[1] * (b.gradient - a.gradient)).sum(1)
        return float(self.weights @ (b.evaluate(functional)[0] - before - linear.sum(0))) * Hartree / (kcal / mol)


def errors(symbol: str, core: PartialCoreInputs | None = None) -> dict[str, float]:
    """Return the change of the energy with the pseudopotential less that with all electrons, kcal/mol, by state."""
    functional, inputs = R2SCAN(), load_inputs(symbol, with_tau=True)
    if core is not None:
        inputs = replace(inputs, model_core=core)
    generated = build(inputs, functional)
    atom = generated.atom
    shells = sorted(inputs.valence, key=lambda shell: shell.l)
    whole = FrozenAtom(
        atom.elements,
        atom.density_of(inputs.core),
        atom.tau_of(inputs.core),
        [atom.states[shell].values for shell in shells],
    )
    pseudised = FrozenAtom(
        generated.smooth,
        *core_fields(generated.core, generated.smooth),
        [generated.channels[shell.l].functions.values[0] for shell in shells],
    )
    p = shells[1].electrons / 3
    sphere = closed((2, S), (p, X), (p, Y), (p, Z))
    return {
        name: pseudised.change(functional, sphere, state) - whole.change(functional, sphere, state)
        for name, state in STATES[symbol].items()
    }


def main() -> None:
    """Print the errors of each element."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", help=f"of {' '.join(STATES)}; default: all")
    parser.add_argument("--core", nargs="+", type=float, metavar="X", help="scale and, if wanted, height of the core")
    arguments = parser.parse_args()
    if unknown := set(arguments.symbols) - set(STATES):
        parser.error(f"no states of {', '.join(sorted(unknown))}; expected some of {' '.join(STATES)}")
    for symbol in arguments.symbols or STATES:
        scale, height = [*(arguments.core or []), None, None][:2]
        found = errors(symbol, None if scale is None else PartialCoreInputs(height, scale))
        states = "   ".join(f"{name} {error:+.2f}" for name, error in found.items())
        bonds = "   ".join(f"{name} {found[FREE] - error:+.2f}" for name, error in found.items() if name != FREE)
        print(f"{symbol:2} {states}   binding: {bonds}", flush=True)


if __name__ == "__main__":
    main()
