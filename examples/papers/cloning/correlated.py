"""Training on correlated atomization energies (W4-11): networks that begin as a clone, or with random weights.

The energies are those of the parent's densities, E[theta] = E + E_xc[theta] - E_xc, in def2-TZVP with all electrons.
The trained functional is a sum of networks of exchange and correlation, and the loss is the mean square error of the
atomization energies.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.units import Hartree, kcal, mol
from torch import Tensor

from ase_nnxc.interop.pyscf import grid_features, solve_molecule
from ase_nnxc.xc import Functional

TRAINING = ("h2", "hf", "h2o", "nh3", "ch3", "n2", "co", "hcn", "co2", "f2", "c2h2", "ch2-trip")
TESTS = ("oh", "nh", "ch", "nh2", "hnc", "h2co", "hooh", "ch4", "hof", "n2o", "no", "c2h4")
BASIS = "def2-tzvp"
ROUNDS, STEPS = 8, 10  # of LBFGS
LOWEST_DENSITY = 1e-5  # bohr^-3
KCAL = Hartree / (kcal / mol)


class Energies:
    """Atomization energies at fixed densities as functions of the functional.

    Parameters
    ----------
    path : Path
        JSON file of GMTKN55's W4-11 with `reactions` and `systems`.
    names : sequence of str
        Names of the molecules.
    parent : Functional
        The functional of the densities.
    basis : str
        Name of a basis set in PySCF.
    """

    def __init__(self, path: Path, names: Sequence[str], parent: Functional, basis: str = BASIS) -> None:
        data = json.loads(path.read_text())
        reactions = {reaction["systems"][0]: reaction for reaction in data["reactions"]}
        systems = sorted({system for name in names for system in reactions[name]["systems"]})
        self.stoichiometry = torch.zeros(len(names), len(systems), dtype=torch.float64)
        for row, name in enumerate(names):
            for system, number in zip(reactions[name]["systems"], reactions[name]["stoich"]):
                self.stoichiometry[row, systems.index(system)] = number
        self.reference = torch.tensor([reactions[name]["ref_kcal"] for name in names], dtype=torch.float64)
        features, weights, index, rest = [], [], [], []
        for number, system in enumerate(systems):
            mf = solve_molecule(atoms_of(data["systems"][system]), parent, basis, grid_level=1, second_order=True)
            mf.grids.level = 0  # enough for the difference of two functionals
            mf.grids.build()
            every, volumes = grid_features(mf)
            dense = every["density"].sum(0) > LOWEST_DENSITY
            features.append({name: every[name][..., dense] for name in parent.features})
            weights.append(volumes[dense])
            index.append(torch.full_like(weights[-1], number, dtype=torch.int64))
            rest.append(float(mf.e_tot) - float(weights[-1] @ parent(features[-1])))
        self.features = {name: torch.cat([f[name] for f in features], dim=-1) for name in parent.features}
        self.weights, self.index, self.rest = torch.cat(weights), torch.cat(index), weights[0].new_tensor(rest)

    def errors(self, functional: Functional) -> Tensor:
        """Return the errors of the atomization energies (molecules,), kcal/mol."""
        energy = self.weights * functional(self.features)
        totals = torch.zeros_like(self.rest).index_add(0, self.index, energy) + self.rest
        return KCAL * (self.stoichiometry @ totals) - self.reference


def atoms_of(system: dict[str, Any]) -> Atoms:
    """Return the atoms of a system of the file, with moments if electrons are unpaired."""
    symbols, *positions = zip(*system["xyz_A"])
    atoms = Atoms("".join(symbols), np.array(positions).T)
    moments = np.zeros(len(atoms))
    moments[0] = system["unpaired"]
    atoms.set_initial_magnetic_moments(moments if system["unpaired"] else None)
    return atoms


def train(functional: Functional, training: Energies, tests: Energies, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Train a functional in place and return mean absolute errors, kcal/mol, before and after each round."""
    parameters = [p for p in functional.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(parameters, max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = training.errors(functional).square().mean()
        value.backward()
        return value

    curves: dict[str, list[float]] = {"training": [], "tests": []}
    for number in range(rounds + 1):
        if number:
            optimizer.step(loss)
        with torch.no_grad():
            for name, energies in (("training", training), ("tests", tests)):
                curves[name].append(float(energies.errors(functional).abs().mean()))
    return curves
