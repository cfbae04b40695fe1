"""Files of trained networks, opened without running code, and what cards report about them."""

import hashlib
import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..regular_files import read_regular_file
from ..xc import Functional
from ..xc.reduced import features_at
from ..xc.spins import spin_sum

LARGEST = 2**24
"""Largest size of a file, bytes, also unpacked; the published ones have less than 2**18."""

DOUBLE: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
"""Arguments of tensors."""


@dataclass(frozen=True)
class WeightFile:
    """A network that was read: its tensors, named as in `published_networks`, and the widths of its layers."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    layers: tuple[int, ...]


def read_content(path: Path) -> tuple[Any, str]:
    """Return what a file of torch.save or safetensors holds, and the SHA-256 of the file.

    Raises
    ------
    ValueError
        If the file cannot be read, is too large or damaged, or cannot be opened without running code.
    """
    try:
        data = read_regular_file(path, LARGEST)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    return _load(path, data), hashlib.sha256(data).hexdigest()


def _load(path: Path, data: bytes) -> Any:
    """The content of a file, opened without running code."""
    in_safetensors = data[8:9] == b"{"  # a JSON object after its length
    if not in_safetensors:
        _check_archive(path, data)
    try:
        if in_safetensors:
            return safetensors.torch.load(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # both raise many types for bytes of another format
        raise ValueError(f"{path} is damaged, is not a file of tensors, or runs code when it is opened") from error


def _check_archive(path: Path, data: bytes) -> None:
    """Raise ValueError if a zip archive, the format of torch.save, is damaged, or larger when it is unpacked."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return  # the older format of torch.save, or damaged: torch.load finds out
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > LARGEST:
                raise ValueError(f"it has {size} bytes when it is unpacked, more than the limit {LARGEST}")
            damaged = archive.testzip()  # torch.load does not compare the checksums
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or not a file of tensors: {error}") from error
    if damaged:
        raise ValueError(f"{path} is damaged: {damaged} in it does not have its checksum")


def check_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the content of a file if it is a dict of tensors, each dense, in memory, and with its own numbers.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{path} does not hold a dict of tensors by name (state dict)")
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on the device {tensor.device}"
            raise ValueError(f"{path}: the tensor {name} is {kind}, expected a dense tensor with its numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{path}: the tensor {name} has {tensor.numel()} elements, more than its storage of "
                f"{tensor.untyped_storage().nbytes()} bytes holds"
            )
    return content


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a number in a file is infinite or not a number."""
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"{path}: some weights are not finite numbers")


def layer_widths(path: Path, tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return numbers of inputs, hidden units and outputs of layers given as weight, bias, weight, bias ...

    Raises
    ------
    ValueError
        If their shapes are not those of a network with one output.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors]
    widths = [math.prod(shapes[0][1:]), *(math.prod(shape) for shape in shapes[1::2])]
    expected = [shape for a, b in pairwise(widths) for shape in ((b, a), (b,))]
    if shapes != expected or widths[-1] != 1:
        raise ValueError(f"{path}: tensors of shapes {', '.join(map(str, shapes))} are not a network with one output")
    return tuple(widths)


def sequential(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return weight, bias, weight, bias ... in double precision, by their names in `published_networks`."""
    # in a torch.nn.Sequential every second module is an activation
    names = [f"net.{2 * i}.{kind}" for i in range(len(tensors) // 2) for kind in ("weight", "bias")]
    return {name: tensor.detach().to(torch.float64) for name, tensor in zip(names, tensors)}


def digests(files: Sequence[WeightFile]) -> dict[str, str]:
    """Return the SHA-256 of files by their folder and name, for a card."""
    return {"/".join(file.path.absolute().parts[-2:]): file.sha256 for file in files}


def uniform_gas_energy(functional: Functional) -> float:
    """Return eps_xc of the unpolarised uniform gas at rs = 2, Hartree, for a card."""
    zero, one = torch.tensor([[0.0], [1.0]], **DOUBLE)
    features = features_at(3 / (4 * math.pi * 2**3) * one, zero, zero, one)
    with torch.no_grad():
        return (functional(features) / spin_sum(features["density"])).item()


def listed(paths: Sequence[Path]) -> str:
    """Return paths for a message."""
    return ", ".join(map(str, paths)) or "nothing"
