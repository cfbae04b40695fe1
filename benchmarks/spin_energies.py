"""Compare energies of spin polarisation of d shells with those of all electrons, and fit partial cores to them.

    python benchmarks/spin_energies.py [Fe Ni ...] [--xc r2SCAN] [--core SCALE [HEIGHT]]
    python benchmarks/spin_energies.py Cr Mn Fe Co Ni --fit 3

Functions are frozen: the d shell of the spherical atom is polarised by two Bohr magnetons, gives an electron to the s
shell and takes one from it, or gains and loses an electron, with all electrons and pseudised. Printed is the change of
the exchange-correlation energy, eV, and the pseudopotential's error of it. The last two are second differences: terms
linear in the occupations are those of the projectors, which restore the levels.

A pseudised d function lies farther outside than the real one, where there is less core, so that polarisation lowers the
energy too much. More core there corrects this. --core takes another partial core, for functionals of tau. --fit writes
to "core_with_tau" in ase_nnxc/data/oncv.json the height of partial cores of this scale with which the energy of
polarisation with r2SCAN is right.
"""

import argparse
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.units import Hartree
from numpy.typing import NDArray
from oncv import rewrite
from scipy.optimize import brentq

from ase_nnxc.atoms import Elements, Shell
from ase_nnxc.atoms.all_electron import shell_tau
from ase_nnxc.pseudopotentials.oncv.generate import parent_of
from ase_nnxc.pseudopotentials.oncv.generator import Generated, build, build_with, core_fields
from ase_nnxc.pseudopotentials.oncv.inputs import PartialCoreInputs, elements_with_inputs, load_inputs
from ase_nnxc.pseudopotentials.oncv.pseudo_atom import valence_fields
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import R2SCAN
from ase_nnxc.xc.functional import Functional

Array = NDArray[np.float64]
MOMENT = 2  # Bohr magnetons
CUSP = 0.02  # bohr, where densities of all electrons are infinite or have a cusp
LOWEST, HIGHEST = 0.1, 50.0  # of the heights that are tried


@dataclass(frozen=True)
class Sphere:
    """A spherical atom.

    Attributes
    ----------
    elements : Elements
        Where functions are represented.
    total, d, s : Array
        (2, N) density, bohr^-3, and tau, Hartree bohr^-3, of the atom, and of one electron of its d and s shells.
    """

    elements: Elements
    total: Array
    d: Array
    s: Array

    def energy(self, functional: Functional, change: Array, moment: Array) -> float:
        """Return the exchange-correlation energy, eV, with a change of the total and a magnetisation (2, N)."""
        density, tau = np.array([(self.total + change + sign * moment) / 2 for sign in (1, -1)]).transpose(1, 0, 2)
        radii, gradient = self.elements.radii, np.zeros((2, 3, density.shape[1]))
        for spin, one in enumerate(density):  # n' = n (ln n)' is accurate in the tail
            gradient[spin, 0] = one * self.elements.derivative(np.log(np.maximum(one, 1e-280)))
        fields = {"density": density, "gradient": gradient, "tau": tau}
        with torch.no_grad():
            energies = functional({name: torch.as_tensor(field) for name, field in fields.items()}).numpy()
        weights = 4 * np.pi * self.elements.weights * radii**2
        return float(weights[radii > CUSP] @ energies[radii > CUSP]) * Hartree

    def changes(self, functional: Functional) -> Array:
        """Return the changes of the energy (3,), eV: by polarisation, by transfer to s, by electrons of d."""
        none, transfer = np.zeros_like(self.d), self.d - self.s
        start = self.energy(functional, none, none)
        polarised = self.energy(functional, none, MOMENT * self.d) - start
        second = [
            self.energy(functional, x, none) + self.energy(functional, -x, none) - 2 * start for x in (transfer, self.d)
        ]
        return np.array([polarised, *second])


def all_electrons(generated: Generated) -> Sphere:
    """Return the atom with all electrons."""
    inputs, atom = generated.inputs, generated.atom
    s, d = inputs.valence_shells(0)[-1], inputs.valence_shells(2)[-1]

    def fields(*shells: Shell) -> Array:
        return np.array([atom.density_of(shells), atom.tau_of(shells)])

    return Sphere(
        atom.elements, fields(*inputs.core, *inputs.valence), fields(d) / d.electrons, fields(s) / s.electrons
    )


def pseudised(generated: Generated) -> Sphere:
    """Return the atom with pseudised functions and the core of the pseudopotential."""
    inputs, smooth = generated.inputs, generated.smooth
    functions = [channel.functions for channel in generated.channels]  # by l
    total = np.array(valence_fields(functions, inputs, smooth)) + core_fields(generated.core, smooth)

    def outermost(l: int) -> Array:  # noqa: E741
        values = functions[l].values[len(inputs.valence_shells(l)) - 1]
        return np.array([values**2 / (4 * np.pi), shell_tau(l, values, smooth)])

    return Sphere(smooth, total, outermost(2), outermost(0))


def with_core(generated: Generated, functional: Functional, core: PartialCoreInputs) -> Generated:
    """Return the pseudopotential of the same atom with another partial core."""
    return build_with(replace(generated.inputs, model_core=core), functional, generated.atom)


def fitted_core(generated: Generated, functional: Functional, scale: float) -> PartialCoreInputs:
    """Return the inputs of the partial core of this scale with which the energy of polarisation is right."""
    expected = all_electrons(generated).changes(functional)[0]

    def error(height: float) -> float:
        other = with_core(generated, functional, PartialCoreInputs(height, scale))
        return pseudised(other).changes(functional)[0] - expected

    return PartialCoreInputs(round(brentq(error, LOWEST, HIGHEST, xtol=1e-3), 2), scale)


def errors(symbol: str, functional: Functional, core: PartialCoreInputs | None = None) -> tuple[Array, Array]:
    """Return the changes (3,) with all electrons, and the errors of the pseudopotential that is used for it, eV."""
    parent = parent_of(functional)
    generated = build(load_inputs(symbol, "tau" in parent.features), parent)
    if core is not None:
        generated = with_core(generated, parent, core)
    expected = all_electrons(generated).changes(functional)
    return expected, pseudised(generated).changes(functional) - expected


def transition_metals() -> list[str]:
    """Return the elements with inputs whose outer shells are d and the next s."""

    def outer(symbol: str) -> set[tuple[int, int]]:
        shells = load_inputs(symbol).valence
        last = max(shell.n for shell in shells)
        return {(shell.n - last, shell.l) for shell in shells if shell.n == last or shell.l == 2}

    return [symbol for symbol in elements_with_inputs() if outer(symbol) == {(0, 0), (-1, 2)}]


def fit(symbols: list[str], scale: float) -> None:
    """Write the heights of partial cores of this scale."""
    for symbol in symbols:
        core = fitted_core(build(load_inputs(symbol, True), R2SCAN()), R2SCAN(), scale)
        text = f'"core_with_tau": {{"height": {core.height}, "scale": {core.scale}}}'
        pattern = r'("model_core": \{[^}]*\})(,\s*"core_with_tau": \{[^}]*\})?'
        rewrite(symbol, pattern, rf"\g<1>,\n      {text}")
        print(symbol, text, flush=True)


def main() -> None:
    """Print the errors of each element, or fit its core."""
    metals = transition_metals()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("symbols", nargs="*", metavar="SYMBOL", help="transition metals; default: all")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--xc", default="r2SCAN", help="functional (default r2SCAN)")
    choice.add_argument("--fit", type=float, metavar="SCALE", help="write heights of r2SCAN's cores of this scale")
    parser.add_argument("--core", nargs="+", type=float, metavar="X", help="scale and, if wanted, height of the core")
    arguments = parser.parse_args()
    if unknown := set(arguments.symbols) - set(metals):
        parser.error(f"unknown symbols {', '.join(sorted(unknown))}: expected some of {' '.join(metals)}")
    if arguments.fit is not None:
        if not arguments.symbols:
            parser.error("--fit rewrites the inputs of the elements that are named: name some")
        fit(arguments.symbols, arguments.fit)
        return
    scale, height = [*(arguments.core or []), None, None][:2]
    core = None if scale is None else PartialCoreInputs(height, scale)
    for symbol in arguments.symbols or metals:
        expected, found = errors(symbol, get_functional(arguments.xc), core)
        changes = zip(("polarised", "d to s", "d"), expected, found)
        texts = (f"{name} {x:.3f} {error:+.4f} ({100 * error / x:+.1f} %)" for name, x, error in changes)
        print(f"{symbol:2} {'   '.join(texts)}", flush=True)


if __name__ == "__main__":
    main()
