"""The kinds of files that the package reads: how a good one is made, and what is read from it; for spoiled_files.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from ase_nnxc import NNXCCalculator
from ase_nnxc.checkpoints import load_functional, read_card, roots, save_functional, write_index
from ase_nnxc.cli.common import UsageError
from ase_nnxc.cli.structures import read_structure
from ase_nnxc.eos.points import Point, PointFile
from ase_nnxc.interop.published_weights import import_weights
from ase_nnxc.pseudopotentials import read_pseudo
from ase_nnxc.train.config import read_config
from ase_nnxc.train.input_files import read_yaml
from ase_nnxc.train.objectives import ReactionEnergy
from ase_nnxc.train.records import cohesive_energy, label, read_records, scaled_structures, write_records
from ase_nnxc.train.samples import Samples, sample_mesh
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.xc import NNGGA, PBE

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from test_spoilt_pseudo_files import good_psp8, good_upf

TINY = {"ecut": 150, "kpts": (1, 1, 1), "pseudos": "gth-pbe"}
TRAINING = """# a training
name: again
functional: {architecture: pbe, config: {kappa: 0.7, trainable: [kappa]}}
calculator: {ecut: 150, kpts: [2, 2, 2], smooth_cutoff: true}
records: set.json
objectives: {energy_differences: 1e4}
penalties:
  parameter_anchor: 1e-3
  functional_anchor: {parent: PBE, weight: 1e-3}
optimizer: {name: SGD, lr: 1e-3, momentum: 0.5}
scheduler: {name: ExponentialLR, gamma: 0.9}
settings: {epochs: 5, batch: 1, clip: 2.5, seed: 3}
models: models
"""
KEYWORDS = "ecut: 300\nkpts: {size: [2, 2, 2], gamma: true}\nsmearing: {name: gaussian, width: 0.1}  # eV\n"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    make : callable
        Writes good files into a folder and returns the path of the one that is spoilt.
    read : callable
        Reads the file as the package does and returns what it holds.
    sealed : bool
        Whether checksums protect what is read, so that nothing else than the original may ever be read.
    parts : bool
        Whether checksums protect each line, so that lines may be missing, but not be other than those of the original.
    text : bool
        Whether the file is text.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    sealed: bool = False
    parts: bool = False
    text: bool = True


# ---- calculations and functionals -----------------------------------------------------------------------------------


def make_restart(folder: Path) -> Path:
    """Write the restart file of a magnetic crystal of hydrogen."""
    atoms = Atoms("H", cell=[3.5] * 3, pbc=True, magmoms=[1.0])
    atoms.calc = NNXCCalculator(**TINY)
    atoms.get_forces()
    atoms.calc.write(folder / "h.nnxc")
    return folder / "h.nnxc"


def read_restart(path: Path) -> Any:
    """Return results, parameters, atoms and ground state."""
    calc = NNXCCalculator(restart=path)
    return calc.results, dict(calc.parameters), calc.get_atoms(), calc.pack_state()


def make_model(folder: Path, file: str) -> Path:
    """Write a checkpoint and return the path of one of its files."""
    functional = NNGGA(widths=(4, 4), activation="tanh", seed=1)
    return save_functional(functional, folder, name="spoilt", description="A test.", licence="MIT") / file


def read_model(path: Path) -> Any:
    """Return the tensors of a checkpoint; its card is text that nothing is calculated from."""
    functional = load_functional(path.parent)
    return functional.state_dict(), functional.kind, functional.features


def read_model_card(path: Path) -> Any:
    """Return the tensors and the card of a checkpoint."""
    return read_model(path), read_card(path.parent)


def make_index(folder: Path) -> Path:
    """Write a folder of models with an index."""
    make_model(folder, "card.json")
    return write_index(folder)


def read_index(path: Path) -> Any:
    """Return the tensors of a model that is verified by an index, as those of the package are."""
    roots.model_roots = lambda: [roots.Root("package", path.parent)]
    return read_model(path.parent / "spoilt@1" / "card.json")


def make_weights(folder: Path) -> Path:
    """Write weights in the form of Nagai, Akashi and Sugino."""
    torch.manual_seed(1)
    widths = (3, 10, 10, 10, 1)
    layers = {f"fc{i + 1}": torch.nn.Linear(*widths[i : i + 2]) for i in range(4)}
    torch.save(torch.nn.ModuleDict(layers).state_dict(), folder / "NNGGA")
    return folder / "NNGGA"


def read_weights(path: Path) -> Any:
    """Return the tensors of published weights, as `nnxc models import` reads them."""
    try:
        return import_weights("nagai", [path])[0].state_dict()
    except ValueError as error:
        raise UsageError(str(error)) from error


def make_text(name: str, text: Callable[[], str]) -> Callable[[Path], Path]:
    """Return a function that writes a text to a file in a folder."""

    def make(folder: Path) -> Path:
        (folder / name).write_text(text())
        return folder / name

    return make


# ---- training -------------------------------------------------------------------------------------------------------


def make_records(name: str) -> Callable[[Path], Path]:
    """Return a function that writes records to a file in a folder."""

    def make(folder: Path) -> Path:
        records = [
            label("Al", scaled_structures(bulk("Al"), 3), EMT(), ("energy", "forces", "stress")),
            label("Cu", [bulk("Cu", cubic=True)], EMT(), ("energy",)),
            cohesive_energy("Al cohesive", bulk("Al"), 3.4),
        ]
        write_records(folder / name, records)
        return folder / name

    return make


def make_training(folder: Path) -> Path:
    """Write the configuration of a training, and its records."""
    write_records(folder / "set.json", [label("Al", scaled_structures(bulk("Al"), 3), EMT())])
    return make_text("run.yaml", lambda: TRAINING)(folder)


def read_training(path: Path) -> Any:
    """Return everything that a configuration decides."""
    run = read_config(path)
    folders = [str(folder).replace(str(path.parent), "") for folder in (run.models, run.trainer.folder)]
    return run.trainer._identity, repr(run.trainer.settings), run.name, run.version, run.description, folders


def read_keywords(path: Path) -> Any:
    """Return the parameters that a file of keywords gives, as `nnxc evaluate --calculator` does."""
    from argparse import Namespace

    from ase_nnxc.cli.train import _calculator

    return dict(_calculator(Namespace(calculator=path), "PBE").parameters), read_yaml(path)


def trainer(folder: Path) -> Trainer:
    """Return a training of one step in a folder, resumed if it was started before."""
    functional = PBE(kappa=0.7, trainable=("kappa",))
    records = [label("Al", [bulk("Al")], EMT(), coefficients=[1])]
    optimizer = torch.optim.SGD(functional.parameters(), lr=1e-3)
    objectives, settings = [ReactionEnergy(1e-3)], TrainerSettings(epochs=1)
    calculator = NNXCCalculator(functional, **TINY)
    return Trainer(calculator, records, objectives, optimizer=optimizer, settings=settings, folder=folder / "run")


def make_state(name: str) -> Callable[[Path], Path]:
    """Return a function that trains for a step and returns a file of its folder: by name, or that of a ground state."""

    def make(folder: Path) -> Path:
        trainer(folder).run()
        files = sorted(path for path in (folder / "run").rglob("*.*") if path.is_file())
        ground_states = [path for path in files if path.suffix == ".pt" and path.name != "trainer.pt"]
        return next((path for path in files if path.name == name), ground_states[0])

    return make


def read_state(path: Path) -> Any:
    """Return all that a resumed training continues from."""
    folder = next(parent for parent in path.parents if parent.name == "run").parent
    run = trainer(folder)
    states = [calc.pack_state() for calc in run._warm._held]
    return run.functional.state_dict(), run.optimizer.state_dict(), run.history, states


def make_samples(folder: Path) -> Path:
    """Write the samples of a clone."""
    sample_mesh(64, seed=1).save(folder / "samples.npz")
    return folder / "samples.npz"


def read_samples(path: Path) -> Any:
    """Return the arrays of samples."""
    samples = Samples.load(path)
    return samples.features, samples.weights, samples.system, samples.systems


# ---- scans and structures -------------------------------------------------------------------------------------------


def make_points(folder: Path) -> Path:
    """Write the points of a scan, one of which failed."""
    file = PointFile(folder / "points.jsonl", "0123456789abcdef", force=False)
    for index in range(-3, 4):
        file.add("fedcba9876543210", Point(index, 40.0 + index, -50.1 + 0.01 * index**2, -50.2, 0.1, 0.3))
    file.add_failure("fedcba9876543210", 4, "SCFError: not converged")
    return folder / "points.jsonl"


def read_points(path: Path) -> Any:
    """Return the finished points in their order, one text each."""
    points = PointFile(path, "0123456789abcdef", force=False).finished("fedcba9876543210")
    return [repr(points[index]) for index in sorted(points)]


def make_structure(name: str) -> Callable[[Path], Path]:
    """Return a function that writes a crystal of two elements to a file in a folder."""

    def make(folder: Path) -> Path:
        atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
        atoms.positions[0] += 0.1
        write(folder / name, atoms)
        return folder / name

    return make


def read_atoms(path: Path) -> Any:
    """Return the crystal of a file, as the commands read it."""
    atoms, _ = read_structure(str(path))
    return atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_initial_magnetic_moments()


def all_records(path: Path) -> Any:
    """Return the records of a file as plain data."""
    return [record.todict() for record in read_records(path)]


def pseudopotential(path: Path) -> Any:
    """Return the numbers of a pseudopotential by their digest."""
    pseudo = read_pseudo(path)
    return pseudo.digest, pseudo.symbol, pseudo.valence, pseudo.configuration, repr(pseudo.recommended_cutoff)


KINDS = {
    "restart file": Kind(make_restart, read_restart, sealed=True, text=False),
    "tensors of a model": Kind(lambda f: make_model(f, "functional.safetensors"), read_model, sealed=True, text=False),
    "card of a model": Kind(lambda f: make_model(f, "card.json"), read_model_card),
    "index of models": Kind(make_index, read_index, sealed=True),
    "published weights": Kind(make_weights, read_weights, sealed=True, text=False),
    "UPF": Kind(make_text("Si.upf", lambda: good_upf(wfc_cutoff="30.0")), pseudopotential),
    "psp8": Kind(make_text("Si.psp8", good_psp8), pseudopotential),
    "records, JSON": Kind(make_records("set.json"), all_records),
    "records, extxyz": Kind(make_records("set.extxyz"), all_records),
    "records, trajectory": Kind(make_records("set.traj"), all_records, text=False),
    "records, database": Kind(make_records("set.db"), all_records, text=False),
    "training, YAML": Kind(make_training, read_training),
    "keywords, YAML": Kind(make_text("calculator.yaml", lambda: KEYWORDS), read_keywords),
    "state of a training": Kind(make_state("trainer.pt"), read_state, sealed=True, text=False),
    "digest of a state": Kind(make_state("trainer.sha256"), read_state, sealed=True, text=False),
    "ground state of a training": Kind(make_state("ground state"), read_state, sealed=True, text=False),
    "metrics of a training": Kind(make_state("metrics.jsonl"), read_state, sealed=True),
    "samples of a clone": Kind(make_samples, read_samples, sealed=True, text=False),
    "points of a scan": Kind(make_points, read_points, parts=True),
    "structure, CIF": Kind(make_structure("salt.cif"), read_atoms),
    "structure, extxyz": Kind(make_structure("salt.extxyz"), read_atoms),
    "structure, POSCAR": Kind(make_structure("salt.vasp"), read_atoms),
    "structure, trajectory": Kind(make_structure("salt.traj"), read_atoms, text=False),
}


def leaves(value: Any) -> list[Any]:
    """Return the numbers and texts in plain data, tensors, arrays and structures, in a fixed order."""
    if isinstance(value, torch.Tensor):
        return leaves(value.detach().numpy())
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, *value.ravel().tolist()]
    if isinstance(value, Atoms):
        return leaves([value.numbers, value.positions, value.cell.array, value.pbc])
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in (str(key), *leaves(item))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value if isinstance(value, bool | int | float | complex | str | None) else repr(value)]
