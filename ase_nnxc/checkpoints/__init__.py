"""Checkpoints: trained functionals as folders, found by name, verified before they are used.

A checkpoint is a folder called `name@version` with the files

    functional.safetensors   every parameter and buffer, float64
    card.json                architecture, provenance, the SHA-256 of the tensors and a self-test
    README.md                the card for people

Nothing in a checkpoint is executed, no link in it is followed, and one that fails any check is an error. `roots` says
where checkpoints are looked for.

torch is loaded when a functional is first loaded or saved; listing models and reading cards does not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .card import FORMAT, read_card
from .catalogue import Model, list_models
from .roots import (
    CheckpointError,
    Root,
    find_model,
    is_checkpoint_path,
    is_libxc_name,
    is_reserved,
    model_roots,
    parse_name,
)

if TYPE_CHECKING:
    from .load import is_unchanged, load_functional
    from .save import check_storable, save_functional, write_index
    from .self_test import TOLERANCE

_HOME = {
    "TOLERANCE": "self_test",
    "check_storable": "save",
    "is_unchanged": "load",
    "load_functional": "load",
    "save_functional": "save",
    "write_index": "save",
}

__all__ = [
    "FORMAT",
    "TOLERANCE",
    "CheckpointError",
    "Model",
    "Root",
    "check_storable",
    "find_model",
    "is_checkpoint_path",
    "is_libxc_name",
    "is_reserved",
    "is_unchanged",
    "list_models",
    "load_functional",
    "model_roots",
    "parse_name",
    "read_card",
    "save_functional",
    "write_index",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
