"""Models that scripts train and keep."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ase_nnxc import load_functional
from ase_nnxc.train.records import Record, digest


def remove_unless_trained_on(model: Path, fitted: Sequence[Record], validation: Sequence[Record]) -> None:
    """Remove a model whose card does not have the digests of these records."""
    if model.exists():
        training = load_functional(model).card["training"]
        if (training["data_sha256"], training["validation_sha256"]) != (digest(fitted), digest(validation)):
            shutil.rmtree(model)


def folder_of_run(folder: Path, name: str, fitted: Sequence[Record], number: int) -> Path:
    """Return the folder of a pass of the training of a model on records, from which an ended training continues."""
    return folder / "runs" / f"{name}-{digest(fitted)[:8]}-{number}"
