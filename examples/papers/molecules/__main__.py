"""Atomization energies, ionization potentials and the dissociation of H2, with all electrons, as in arXiv:2309.15985.

    python -m examples.papers.molecules DATA CURVE REPORTED [MODEL ...]

Run it in the root of the repository. DATA is a JSON file with the entries of XCNN's sets, CURVE one with the exact
energies of H2, REPORTED the CSV file of errors that XCNN's authors report (see `data.py`). Models are trained on six
energies through the SCF, and the parameters are those with the lowest loss on six others. A training has two passes,
as in hybrid_xc: each solves for the densities of the present functional, and then changes the parameters at these.

The script continues from the folders runs and models and from molecules.json, draws dissociation.png, and writes the
tables in README.md and docs/results.md.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import SCFError
from ase.units import Bohr, Hartree, kcal, mol
from matplotlib.figure import Figure

from ase_nnxc import NNXCCalculator, PySCFCalculator, get_functional
from ase_nnxc.train.functionals import functional_from
from ase_nnxc.train.objectives import ReactionEnergy
from ase_nnxc.train.penalties import FunctionalAnchor
from ase_nnxc.train.records import Record
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.xc import Functional
from benchmarks.results import read_results, write_results

from ..command_line import parse
from ..models import folder_of_run, remove_unless_trained_on
from ..points import Point, complete, write_table
from .data import FITTED, GRID_LEVEL, VALIDATION, electrons, read_curve, read_sets, reported_errors, with_grid

FOLDER = Path(__file__).parent
PARENTS = ("LDA", "PBE")
FORMS: dict[str, Any] = {
    "hybrid-lda": {"hybrid": ["nnlda", "LDA"]},
    "gradient-hybrid-lda": {"hybrid": ["nngga", "LDA"]},
    "hybrid-pbe": {"hybrid": ["nngga", "PBE"]},
    "constrained-pbe": {"constrained": {"parent": "PBE"}},
}
MODELS = {f"{form}-{norm}": (form, norm) for norm in ("l2", "l1") for form in FORMS}
ANCHOR = 10.0
Passes = Sequence[tuple[int, float]]
TRAINING_LEVEL = 0  # of PySCF's grid
PASSES = ((100, 3e-3), (30, 1e-3))  # epochs and learning rate of each
PATIENCE = 40
RESULT = "{}@1"

H2_BASIS = "6-311++G(3df,3pd)"
DISTANCES = (1.0, 1.4, 2.0, 2.6, 3.0, 4.0, 5.0, 6.0)  # bohr
SHOWN = (1.4, 3.0, 6.0)  # in the table
STARTS = {"restricted": (0, 0), "broken symmetry": (1, -1)}  # initial moments


def parent_of(form: str) -> str:
    """Return the functional that a model begins as."""
    return form.rpartition("-")[2].upper()


def train(
    name: str, fitted: Sequence[Record], validation: Sequence[Record], folder: Path, passes: Passes = PASSES
) -> list[dict[str, Any]]:
    """Train a functional in passes, save it as a model, and return the history."""
    form, norm = MODELS[name]
    functional, history = functional_from(FORMS[form]), []
    for number, (epochs, rate) in enumerate(passes, 1):
        trainer = Trainer(
            NNXCCalculator(functional),
            fitted,
            [ReactionEnergy(norm=norm)],
            validation=validation,
            penalties=[FunctionalAnchor(get_functional(parent_of(form)), ANCHOR)],
            optimizer=torch.optim.Adam(functional.parameters(), lr=rate),
            settings=TrainerSettings(epochs=epochs, fixed_density_epochs=epochs, patience=PATIENCE),
            folder=folder_of_run(folder, name, fitted, number),
        )
        history += trainer.run()
        print(f"{name}, pass {number}: {len(trainer.history)} epochs, {history[-1]['errors']}", flush=True)
    description = f"Trained on energies of {', '.join(r.name for r in fitted)} with all electrons."
    trainer.save(folder / "models", name=name, description=description)
    return history


def species(records: Sequence[Record]) -> dict[str, Atoms]:
    """Return the structures of records by a label; charge and basis are in them, so that each is calculated once."""
    structures = {}
    for record in records:
        for i, (original, settings) in enumerate(zip(record.structures, record.settings)):
            atoms = structures[_label(record, i)] = original.copy()
            atoms.set_initial_charges([settings["charge"] / len(atoms)] * len(atoms))
            atoms.info["basis"] = settings["basis"]
    return structures


def _label(record: Record, i: int) -> str:
    """Name of a structure: atoms by symbol and basis, molecules by the name of the record."""
    atoms, settings = record.structures[i], record.settings[i]
    name = atoms.symbols[0] if len(atoms) == 1 else record.name.rstrip("+")
    return f"{name}{'+' * settings['charge']} {settings['basis']}"


def dissociation() -> dict[str, Atoms]:
    """Return H2 at all distances with both starts, by label."""
    structures = {}
    for distance in DISTANCES:
        for start, moments in STARTS.items():
            atoms = Atoms("H2", [(0, 0, 0), (0, 0, distance * Bohr)], magmoms=moments, info={"basis": H2_BASIS})
            structures[f"H2 {distance} {start}"] = atoms
    return structures


def energy_of(xc: str | Functional) -> Callable[[Atoms], Point]:
    """Return a function that calculates the energy of a molecule; it is NaN if the SCF does not converge."""

    def calculate(atoms: Atoms) -> Point:
        calc = PySCFCalculator(xc, basis=atoms.info["basis"], grid_level=GRID_LEVEL)
        try:
            return {"free_energy": calc.get_potential_energy(atoms)}
        except SCFError:
            return {"free_energy": float("nan")}

    return calculate


def reaction_errors(records: Sequence[Record], points: Mapping[str, Point]) -> dict[str, float]:
    """Return the errors of the reaction energies of records, kcal/mol."""
    errors = {}
    for record in records:
        energies = [points[_label(record, i)]["free_energy"] for i in range(len(record.structures))]
        error = float(np.dot(record.coefficients, energies)) - float(record.targets["reaction_energy"])
        errors[record.name] = error * mol / kcal
    return errors


def run(
    names: Sequence[str],
    sets: tuple[Sequence[Record], Sequence[Record], Sequence[Record]],
    exact: Mapping[float, float],
    reported: Mapping[str, Mapping[str, float]],
    folder: Path = FOLDER,
    passes: Passes = PASSES,
) -> None:
    """Complete the named models, the energies of all functionals, and what follows from these.

    Parameters
    ----------
    names : sequence of str
        Names in `MODELS`.
    sets : tuple
        Records that are fitted, those of the validation, and those of the test.
    exact : mapping
        Energies of H2, Hartree, by distance, bohr.
    reported : mapping
        Errors of other functionals, kcal/mol, by functional and name of the record.
    folder : Path
        Folder of the results.
    passes : sequence
        Epochs and learning rate of each pass of a training.
    """
    path, (fitted, validation, test) = folder / "molecules.json", sets
    records = [*fitted, *validation, *test]
    structures = species(records) | dissociation()
    training = [[with_grid(record, TRAINING_LEVEL) for record in part] for part in (fitted, validation)]
    for name in (*PARENTS, *names):
        xc: str | Functional = name
        if name not in PARENTS:
            model = folder / "models" / RESULT.format(name)
            remove_unless_trained_on(model, *training)
            if not model.exists():
                history = train(name, *training, folder, passes)
                results = read_results(path)
                results.setdefault("training_s", {})[name] = sum(epoch["seconds"] for epoch in history)
                write_results(path, results)
            xc = get_functional(model)  # its description has no path
        settings = {"functional": PySCFCalculator(xc).todict()["versions"]["functional"], "grid_level": GRID_LEVEL}
        points = complete(path, name, settings, structures, energy_of(xc))
        results = read_results(path)
        results[name]["errors"] = reaction_errors(records, points)
        results[name]["H2"] = {label: energy - exact[float(label.split()[1])] for label, energy in _curves(points)}
        results["sets"] = {"test": [record.name for record in test], "electrons": max(map(electrons, test))}
        results["reported"] = {
            functional: {record.name: known[record.name] for record in test if record.name in known}
            for functional, known in reported.items()
        }
        write_results(path, results)


def _curves(points: Mapping[str, Point]) -> list[tuple[str, float]]:
    """Return the labels of `dissociation` and the energies, Hartree."""
    return [(label, points[label]["free_energy"] / Hartree) for label in dissociation()]


def mean_absolute(errors: Mapping[str, float], names: Sequence[str], ionization: bool) -> str:
    """Return the mean absolute error of the atomization energies, or of the ionization potentials, among names."""
    values = [abs(errors[name]) for name in names if name in errors and name.endswith("+") == ionization]
    failed = sum(np.isnan(values)) if values else 0
    return ("-" if not values else f"{np.nanmean(values):.1f}") + (f" ({failed} failed)" if failed else "")


def table(folder: Path = FOLDER) -> str:
    """Return the errors of all functionals, and those of the dissociation."""
    results = read_results(folder / "molecules.json")
    sets = {"fitted": FITTED, "validation": VALIDATION, "test": results["sets"]["test"]}
    kinds = [(names, ionization) for names in sets.values() for ionization in (False, True)]
    head = [f"{name}, {kind}" for name in sets for kind in ("AE", "IP")]
    rows = [f"| functional | {' | '.join(head)} | training, s |", "| --- |" + " --: |" * 7]
    ours = {name: result for name, result in results.items() if "H2" in result}
    for name, result in ours.items():
        cells = [mean_absolute(result["errors"], names, ionization) for names, ionization in kinds]
        seconds = f"{results['training_s'][name]:.0f}" if name in results["training_s"] else ""
        rows.append(f"| {name} | {' | '.join(cells)} | {seconds} |")
    for name, errors in results["reported"].items():
        cells = [mean_absolute(errors, sets["test"], ionization) for ionization in (False, True)]
        rows.append(f"| {name}, reported | | | | | {' | '.join(cells)} | |")
    columns = [f"{distance} {start}" for start in STARTS for distance in SHOWN]
    rows += ["", f"| H2 | {' | '.join(columns)} |", "| --- |" + " --: |" * len(columns)]
    for name, result in ours.items():
        errors = [result["H2"][f"H2 {column}"] * Hartree * mol / kcal for column in columns]
        rows.append(f"| {name} | {' | '.join(f'{error:.1f}' for error in errors)} |")
    return "\n".join(rows)


def draw(exact: Mapping[float, float], folder: Path = FOLDER) -> None:
    """Draw the energies of H2 against the distance, from both starts."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    results = read_results(folder / "molecules.json")
    for axes, start in zip(figure.subplots(1, 2, sharey=True), STARTS):
        axes.plot(list(exact), list(exact.values()), "k-", label="exact")
        for number, (name, result) in enumerate((name, r) for name, r in results.items() if "H2" in r):
            energies = [exact[d] + result["H2"][f"H2 {d} {start}"] for d in DISTANCES]
            axes.plot(DISTANCES, energies, "os^vDx+*"[number % 8] + "--", markersize=4, linewidth=0.7, label=name)
        axes.set(title=start, xlabel="distance, bohr", xlim=(0.9, 6.1), ylim=(-1.19, -0.85))
    figure.axes[0].set_ylabel("energy, Ha")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(folder / "dissociation.png", dpi=110)


if __name__ == "__main__":
    arguments = parse(__doc__, "MODEL", list(MODELS), files=("DATA", "CURVE", "REPORTED"))
    exact = read_curve(arguments.curve)
    run(arguments.names, read_sets(arguments.data), exact, reported_errors(arguments.reported))
    draw(exact)
    write_table("molecules", table())
