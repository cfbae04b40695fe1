"""HybridXC of arXiv:2602.15923 in plane waves: a network and PBE, trained on energies of nine crystals.

    python -m examples.papers.hybrid_xc [MODEL ...]

Run it in the root of the repository. The crystals and lattice constants are those of the paper, A.6. Its MgO has the
CsCl structure, and 3.900 is the length of the primitive vector of CaF2. A record has four volumes of a crystal and
their PBEsol energies by this program: the untrained functional is PBE, for which the paper's PBE energies leave nothing
to learn. The loss is that of eq. 3, with the absolute value in the denominator, and that of relative energies. A
penalty holds the functional near PBE. "six" models are trained without Al, Ni and Ca. "constrained" models are networks
that obey exact constraints, without the form a E_network + b E_PBE.

A training has two passes. Each solves for the ground states of the present functional, and then changes the parameters
at fixed orbitals, which is much cheaper. The energy is stationary, so that what is neglected is of second order.

The script continues from the folders records, runs and models, writes hybrid_xc.json with the errors of all models,
draws learning.png, and writes the table in README.md and docs/results.md. Records of other pseudopotentials than those
in use are calculated again, as are models of other records, and errors of other models or records.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from matplotlib.figure import Figure

from ase_nnxc import NNXCCalculator, get_functional
from ase_nnxc.train.functionals import functional_from
from ase_nnxc.train.objectives import EnergyDifferences, TotalEnergy
from ase_nnxc.train.penalties import FunctionalAnchor
from ase_nnxc.train.records import Record, digest, label, other_table, read_records, scaled_structures, write_records
from ase_nnxc.train.trainer import Trainer, TrainerSettings, evaluate
from ase_nnxc.xc import PBE
from benchmarks import training
from benchmarks.results import read_results, write_results

from ..command_line import parse
from ..models import folder_of_run, remove_unless_trained_on
from ..points import settings_of, write_table

FOLDER = Path(__file__).parent
TEACHER = "PBEsol"
SETTINGS: dict[str, Any] = {
    "kpts": {"density": 2.0, "gamma": True},
    "pseudos": f"oncv-{TEACHER}",
    "smooth_cutoff": True,
    "convergence": {"energy": 1e-6},
}
POINTS, SPAN = 4, 0.08
HELD_OUT = ("Al", "Ni", "Ca")
FORMS: dict[str, Any] = {"hybrid": {"hybrid": ["nngga", "PBE"]}, "constrained": {"constrained": {"parent": "PBE"}}}
MODELS = {f"{form}-{number}": (form, number) for number in ("six", "nine") for form in FORMS}
OBJECTIVES = (TotalEnergy(10.0), EnergyDifferences(1e5))
EPOCHS = (8, 4)  # of the two passes; an epoch is ten steps of LBFGS
RESULT = "{}@1"
ERRORS = {  # in the file of results: objective and factor
    "energies_meV": ("energy_differences", 1000),
    "a0_pct": ("lattice_constant", 100),
    "B0_pct": ("bulk_modulus", 100),
}


def crystals() -> dict[str, Atoms]:
    """Return the primitive cells of the nine crystals by name; nickel is ferromagnetic."""
    cells = {name: atoms for name, (atoms, _) in training.crystals().items()}
    cells["Ni"].set_initial_magnetic_moments([0.6])
    return cells


def record(name: str, atoms: Atoms, folder: Path, settings: Mapping[str, Any]) -> Record:
    """Return the record of a crystal, which is calculated if there is none of the present pseudopotentials."""
    path, calc = folder / "records" / f"{name}.json", NNXCCalculator(TEACHER, **settings)
    if path.exists() and other_table(kept := read_records(path)[0], calc) is None:
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    new = label(name, scaled_structures(atoms, POINTS, SPAN), calc)
    write_records(path, [new])
    print(f"{name}: record written", flush=True)
    return new


def train(
    name: str, form: Any, records: list[Record], folder: Path, settings: Mapping[str, Any], epochs: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Train a functional in passes, save it as a model, and return the history."""
    functional, history = functional_from(form), []
    for number, count in enumerate(epochs, 1):
        trainer = Trainer(
            NNXCCalculator(functional, **settings),
            records,
            OBJECTIVES,
            penalties=[FunctionalAnchor(PBE(), 0.1)],
            optimizer=torch.optim.LBFGS(functional.parameters(), max_iter=10, line_search_fn="strong_wolfe"),
            settings=TrainerSettings(epochs=count, fixed_density_epochs=count),
            folder=folder_of_run(folder, name, records, number),
        )
        history += trainer.run()
        print(f"{name}, pass {number}: {history[-1]['loss']:.2e} {history[-1]['errors']}", flush=True)
    description = f"Trained on {TEACHER} energies of {', '.join(r.name for r in records)}."
    trainer.save(folder / "models", name=name, description=description)
    return history


def errors(xc: Any, records: list[Record], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return errors by crystal: relative energies in meV per atom, lattice constant and bulk modulus in per cent.

    What cannot be calculated is left out.
    """
    rows = {}
    for row in evaluate(NNXCCalculator(xc, **settings), records):
        found = row.get("errors", {})
        rows[row["record"]] = {
            name: factor * found[objective]["rms"]
            for name, (objective, factor) in ERRORS.items()
            if "rms" in found.get(objective, {})
        }
    return rows


def run(names: list[str], folder: Path = FOLDER, chosen: Mapping[str, Atoms] | None = None, **changes: Any) -> None:
    """Complete the records, the named models and their errors; `changes` are epochs and keywords of calculators.

    A model of the same records is not trained again. Errors are kept as long as model, records and settings are the
    same.
    """
    epochs = changes.pop("epochs", EPOCHS)
    settings, path = SETTINGS | changes, folder / "hybrid_xc.json"
    cells = chosen or crystals()
    records = [record(name, atoms, folder, settings) for name, atoms in cells.items()]
    for name in ("PBE", *names):
        results, model = read_results(path), folder / "models" / RESULT.format(name)
        result = results.setdefault(name, {})
        if name != "PBE":
            form, number = MODELS[name]
            fitted = [r for r in records if number == "nine" or r.name not in HELD_OUT]
            remove_unless_trained_on(model, fitted, fitted)
            if not model.exists():
                history = train(name, FORMS[form], fitted, folder, settings, epochs)
                result["curve_meV"] = [epoch["errors"]["energy_differences"] * 1000 for epoch in history]
                result["seconds"] = sum(epoch["seconds"] for epoch in history)
                write_results(path, results)
        functional = get_functional(name if name == "PBE" else model)
        kept_by = settings_of(NNXCCalculator(functional, **settings), cells) | {"records": digest(records)}
        if result.get("settings") != kept_by:
            result |= {"settings": kept_by, "errors": errors(functional, records, settings)}
            write_results(path, results)
    draw(folder)


def table(folder: Path = FOLDER) -> str:
    """Return the errors of lattice constants and bulk moduli of all models; those of crystals not fitted are bold."""
    results = {name: r for name, r in read_results(folder / "hybrid_xc.json").items() if "errors" in r}
    rows = ["| a0, B0, % | " + " | ".join(results) + " |", "| --- |" + " --: |" * len(results)]
    for crystal in results["PBE"]["errors"]:
        cells = []
        for name, result in results.items():
            error = result["errors"][crystal]
            cell = f"{error['a0_pct']:.3f}, {error['B0_pct']:.1f}" if "a0_pct" in error else "failed"
            cells.append(f"**{cell}**" if name.endswith("six") and crystal in HELD_OUT else cell)
        rows.append(f"| {crystal} | " + " | ".join(cells) + " |")
    seconds = [f"{result['seconds']:.0f}" if "seconds" in result else "" for result in results.values()]
    return "\n".join([*rows, "| training, s | " + " | ".join(seconds) + " |"])


def draw(folder: Path = FOLDER) -> None:
    """Draw the errors of relative energies of the fitted crystals against the epoch."""
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, result in read_results(folder / "hybrid_xc.json").items():
        if "curve_meV" in result:
            axes.semilogy(range(1, len(result["curve_meV"]) + 1), result["curve_meV"], ".-", label=name)
    axes.set_xlabel("epoch (ten steps of LBFGS)")
    axes.set_ylabel("error of relative energies, meV per atom")
    axes.legend()
    figure.savefig(folder / "learning.png", dpi=110)


if __name__ == "__main__":
    run(parse(__doc__, "MODEL", list(MODELS)).names)
    write_table("hybrid_xc", table())
