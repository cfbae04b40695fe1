"""Restart files: tensors as safetensors, and everything else as JSON in the header of the same file.

Nothing in a file is executed, and one that is damaged or of another kind is an error.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from ase.calculators.calculator import ReadError
from ase.io.jsonio import decode, encode
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import __version__

FORMAT = 1
"""Number of the format that this version reads and writes."""

_HEADER = "ase_nnxc"
_ORBITALS = "orbitals"


def write_restart(path: str | os.PathLike[str], state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a file; what was there is replaced when the new one is complete.

    Parameters
    ----------
    path : str or PathLike
        Of the file.
    state : mapping
        What `NNXCCalculator.pack_state` gives.
    facts : mapping
        All else: what ASE writes as JSON.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    nk = state["eigenvalues"].shape[1]
    tensors |= {f"{_ORBITALS}.{i // nk}.{i % nk}": psi for i, psi in enumerate(state[_ORBITALS])}
    header = encode(
        {
            "format": FORMAT,
            "versions": {"ase_nnxc": __version__, "torch": torch.__version__},
            "state": {name: value for name, value in state.items() if name not in {_ORBITALS, *tensors}},
            "complex": [name for name, tensor in tensors.items() if tensor.is_complex()],
            **facts,
        }
    )
    tensors = {name: torch.view_as_real(t) if t.is_complex() else t for name, t in tensors.items()}
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, {_HEADER: header})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_restart(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """State, on the CPU, and facts that `write_restart` wrote.

    Raises
    ------
    ReadError
        If there is no such file, or it is no restart file of this format.
    """
    try:
        with torch.inference_mode(False), safe_open(path, framework="pt", device="cpu") as file:
            header = decode((file.metadata() or {})[_HEADER])
            if header["format"] != FORMAT:
                raise ReadError(
                    f"{path} is of format {header['format']}, written by ase_nnxc {header['versions']['ase_nnxc']}; "
                    f"this version, {__version__}, reads {FORMAT}"
                )
            # copies: in the file complex numbers may lie where torch's vector instructions cannot load them
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error}") from error
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise ReadError(f"{path} is no restart file, or damaged: {type(error).__name__}: {error}") from error
    try:
        for name in header.pop("complex"):
            tensors[name] = torch.view_as_complex(tensors[name])
        return _nested(tensors) | header.pop("state"), header
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ReadError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _nested(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tensors as `NNXCCalculator.pack_state` has them."""
    nspin, nk = tensors["eigenvalues"].shape[:2]
    orbitals = [tensors.pop(f"{_ORBITALS}.{spin}.{k}") for spin in range(nspin) for k in range(nk)]
    return {**tensors, _ORBITALS: orbitals}
