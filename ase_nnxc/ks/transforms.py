"""Transforms of orbitals between plane waves and the FFT box, in scratch memory."""

import math
import threading

import torch
from torch import Tensor

from .basis import Sphere

_scratch = threading.local()  # for each thread: `memory`, and `boxes`, the views of it by their shape


def chunk_size(npoints: int, device: torch.device) -> int:
    """Return the number of orbitals to transform at once: few on a CPU, whose cache holds them, many on a GPU."""
    return max(1, 4 if device.type == "cpu" else 2**26 // npoints)


def _boxes(count: int, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return two boxes (count, n1, n2, n3) in memory that the thread keeps, so that page faults occur only once."""
    key = (count, shape, like.dtype, like.device)
    try:
        return _scratch.boxes[key]
    except (AttributeError, KeyError):
        pass
    needed = 2 * count * math.prod(shape) * like.element_size()
    memory = getattr(_scratch, "memory", None)
    if memory is None or len(memory) < needed or memory.device != like.device:
        with torch.inference_mode(False):
            _scratch.memory = memory = torch.empty(needed, dtype=torch.uint8, device=like.device)
        _scratch.boxes = {}
    source, target = memory[:needed].view(like.dtype).view(2, count, *shape)
    _scratch.boxes[key] = source, target
    return source, target


def to_box(psi: Tensor, sphere: Sphere, shape: tuple[int, int, int]) -> Tensor:
    """Return Omega^(1/2) psi(r) (n, n1, n2, n3) of orbitals (n, npw) on the FFT box, in scratch memory of this thread.

    The next call of this function overwrites the result.
    """
    source, target = _boxes(len(psi), shape, psi)
    source.zero_().view(len(psi), -1).index_copy_(1, sphere.index, psi)
    return torch.fft.ifftn(source, dim=(1, 2, 3), norm="forward", out=target)


def from_box(box: Tensor, sphere: Sphere) -> Tensor:
    """Return the coefficients (n, npw) of fields (n, n1, n2, n3), which must be in the memory returned by `to_box`."""
    spare, _ = _boxes(len(box), tuple(box.shape[1:]), box)
    torch.fft.fftn(box, dim=(1, 2, 3), norm="forward", out=spare)
    return spare.view(len(box), -1).index_select(1, sphere.index)
