"""Transforms of orbitals between plane waves and the FFT box, a few at a time, in scratch memory."""

import math
import threading

import torch
from torch import Tensor

from .basis import Sphere

_scratch = threading.local()  # of each thread: `memory`, and `boxes`, the views of it that were used before


def chunk_size(npoints: int, device: torch.device) -> int:
    """How many orbitals are transformed at once: few on a CPU, whose cache holds them, many on a GPU."""
    return max(1, 4 if device.type == "cpu" else 2**26 // npoints)


def _boxes(count: int, shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Two boxes (count, n1, n2, n3) in the memory that a thread keeps, so that its pages are faulted in once."""
    key = (count, shape, like.dtype, like.device)
    try:
        return _scratch.boxes[key]
    except (AttributeError, KeyError):
        pass
    needed = 2 * count * math.prod(shape) * like.element_size()
    memory = getattr(_scratch, "memory", None)
    if memory is None or len(memory) < needed or memory.device != like.device:
        _scratch.memory = memory = torch.empty(needed, dtype=torch.uint8, device=like.device)
        _scratch.boxes = {}
    source, target = memory[:needed].view(like.dtype).view(2, count, *shape)
    _scratch.boxes[key] = source, target
    return source, target


def to_box(psi: Tensor, sphere: Sphere, shape: tuple[int, int, int]) -> Tensor:
    """Omega^(1/2) psi(r) on the FFT box of orbitals (n, npw): (n, n1, n2, n3) in scratch memory of this thread."""
    source, target = _boxes(len(psi), shape, psi)
    source.zero_().view(len(psi), -1).index_copy_(1, sphere.index, psi)
    return torch.fft.ifftn(source, dim=(1, 2, 3), norm="forward", out=target)


def from_box(box: Tensor, sphere: Sphere) -> Tensor:
    """Coefficients (n, npw) of fields (n, n1, n2, n3) that lie where `to_box` has left them."""
    spare, _ = _boxes(len(box), tuple(box.shape[1:]), box)
    torch.fft.fftn(box, dim=(1, 2, 3), norm="forward", out=spare)
    return spare.view(len(box), -1).index_select(1, sphere.index)
