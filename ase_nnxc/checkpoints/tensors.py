"""The tensors of a checkpoint: safetensors, never a pickle."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import safetensors.torch
from torch import Tensor

from .files import WEIGHTS
from .roots import CheckpointError

if TYPE_CHECKING:
    from ..xc import Functional


def serialize(functional: "Functional") -> bytes:
    """Return the parameters and buffers of a functional as the content of a file."""
    state = {name: t.detach().cpu().clone().contiguous() for name, t in functional.state_dict().items()}
    return safetensors.torch.save(state)


def refuse_pickle(data: bytes) -> None:
    """Raise CheckpointError if a file could run code when it is opened.

    torch.save writes a zip archive, or a pickle that begins with 0x80; in safetensors byte 8 opens a JSON object.
    """
    if data.startswith(b"PK") or (data.startswith(b"\x80") and data[8:9] != b"{"):
        raise CheckpointError(f"{WEIGHTS} is a pickle or an archive of torch.save, which could run code: not opened")


def parse_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors in the content of a file.

    Raises
    ------
    CheckpointError
        If the file is not in the format of safetensors.
    """
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # SafetensorError, and KeyError for types that torch does not have
        raise CheckpointError(f"{WEIGHTS} is damaged: {error}") from error


def fill(functional: "Functional", tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into a functional.

    Raises
    ------
    CheckpointError
        If they do not have exactly the names, shapes and types of the functional.
    """
    expected = functional.state_dict()
    for verb, names in (
        ("lacks the tensors", expected.keys() - tensors.keys()),
        ("has tensors that the architecture does not have:", tensors.keys() - expected.keys()),
    ):
        if names:
            raise CheckpointError(f"{WEIGHTS} {verb} {', '.join(sorted(names))}")
    for name, wanted in expected.items():
        tensor = tensors[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(f"tensor {name} is of shape {tuple(tensor.shape)}, expected {tuple(wanted.shape)}")
        if tensor.dtype != wanted.dtype:
            raise CheckpointError(f"tensor {name} is of {tensor.dtype}, expected {wanted.dtype}")
    functional.load_state_dict(tensors)
