"""Transforms of orbitals between plane waves and the FFT box, in scratch memory.

The plane waves of an orbital fill about half of the box along each axis. Except in large boxes, three products with
matrices that are restricted to this part take less time than an FFT:

    psi(r1, r2, r3) = sum_g1 F(r1, g1) sum_g2 F(r2, g2) sum_g3 F(r3, g3) c(g1, g2, g3),   F(r, g) = exp(2 pi i r g / n).

Along the first two axes the matrices are made real, which halves the work: with h the largest index,

    sum_g F(r, g) c(g) = sum_{g=0..h} cos(2 pi r g / n) u(g) + sum_{g=1..h} sin(2 pi r g / n) w(g),
    u(g) = c(g) + c(-g),   u(0) = c(0),   w(g) = i (c(g) - c(-g)).
"""

import math
import threading
from functools import lru_cache

import torch
from torch import Tensor

from .basis import Sphere

# Largest number of complex multiplications for each point of the box in products that replace an FFT, that of a cubic
# box of 90 points. For 24, 40, 60, 72, 90 points products take 0.31, 0.38, 0.52, 0.63, 0.80 of the time of FFTs in
# complex64, and 0.65, 0.60, 0.72, 0.83, 0.53 in complex128 (one core of an AMD EPYC with AVX-512).
MOST_PRODUCTS = 45.0

MOST_TRANSFORMS = 256  # that a thread keeps, 20 kB each

_scratch = threading.local()  # for each thread: `memory`, and `transforms`, which have views of it


def chunk_size(npoints: int, device: torch.device) -> int:
    """Return the number of orbitals to transform at once: few on a CPU, whose cache holds them, many on a GPU."""
    return max(4, 2**17 // npoints) if device.type == "cpu" else max(1, 2**26 // npoints)


def to_box(psi: Tensor, sphere: Sphere, shape: tuple[int, int, int]) -> Tensor:
    """Return Omega^(1/2) psi(r) (..., n, n1, n2, n3) of orbitals (..., n, npw) on the FFT box, in scratch memory.

    The leading axes are those of the sphere. The next call of this function by the same thread overwrites the result.
    """
    transform = _transform(math.prod(psi.shape[:-1]), sphere, shape, psi)
    index = transform.index(sphere)[..., None, :].expand(psi.shape)
    transform.waves.zero_().view(*psi.shape[:-1], -1).scatter_add_(-1, index, psi)
    transform.to_box()
    return transform.box.view(*psi.shape[:-1], *shape)


def from_box(box: Tensor, sphere: Sphere) -> Tensor:
    """Return coefficients (..., n, npw) of fields (..., n, n1, n2, n3), which must be in the memory of `to_box`."""
    *lead, n1, n2, n3 = box.shape
    transform = _transform(math.prod(lead), sphere, (n1, n2, n3), box)
    transform.from_box()
    index = transform.index(sphere)[..., None, :].expand(*lead, -1)
    waves = transform.waves.view(*lead, -1).gather(-1, index)
    return waves if sphere.padding is None else waves.masked_fill_(sphere.padding[..., None, :], 0)


class _FFT:
    """The transform of `waves` (n, n1 n2 n3), a box of coefficients, to and from `box` (n, n1, n2, n3)."""

    def __init__(self, source: Tensor, target: Tensor):
        self.waves, self._source, self.box = source.flatten(1), source, target

    def index(self, sphere: Sphere) -> Tensor:
        """Return the place (..., npw) of each plane wave in `waves`."""
        return sphere.index

    def to_box(self) -> None:
        """Transform `waves` to `box`."""
        torch.fft.ifftn(self._source, dim=(1, 2, 3), norm="forward", out=self.box)

    def from_box(self) -> None:
        """Transform `box` to `waves`."""
        torch.fft.fftn(self.box, dim=(1, 2, 3), norm="forward", out=self._source)


class _Products:
    """The same for `waves` (n, m1 m2 m3) with m = 2 h + 1, the part of the box that holds the sphere."""

    def __init__(self, source: Tensor, target: Tensor, reach: tuple[int, int, int]):
        (count, n1, n2, n3), (h1, h2, h3) = source.shape, reach
        m1, m2, m3 = (2 * h + 1 for h in reach)
        inner = _start(source, count, m1, m2, m3)
        along3 = _start(target, count, m1, m2, n3)  # after the sum over g3
        along2 = _start(source, count, m1, n2, n3)  # and over g2
        self.waves, self.box = inner.flatten(1), target
        self._pairs = [(inner[:, 1 : h1 + 1], inner[:, h1 + 1 :]), (inner[:, :, 1 : h2 + 1], inner[:, :, h2 + 1 :])]
        phases, conjugate = _matrices(n3, h3, source.dtype, source.device)
        (waves2, back2), (waves1, back1) = (
            _matrices(n, h, source.dtype.to_real(), source.device) for n, h in ((n2, h2), (n1, h1))
        )
        self._last = inner.view(-1, m3), phases.mT, along3.view(-1, n3), conjugate.mT
        self._others = [
            (waves2.expand(count * m1, -1, -1), _real(along3, 2), _real(along2, 2), back2.expand(count * m1, -1, -1)),
            (waves1.expand(count, -1, -1), _real(along2, 1), _real(target, 1), back1.expand(count, -1, -1)),
        ]

    def index(self, sphere: Sphere) -> Tensor:
        """Return the place (..., npw) of each plane wave in `waves`."""
        return sphere.inner_index

    def to_box(self) -> None:
        """Transform `waves` to `box`."""
        for plus, minus in self._pairs:  # c(g), c(-g) -> u(g), w(g)
            plus.add_(minus)
            torch.sub(plus, minus, alpha=2, out=minus).mul_(1j)
        coefficients, phases, sums, _ = self._last
        torch.mm(coefficients, phases, out=sums)
        for matrix, coefficients, sums, _ in self._others:
            torch.bmm(matrix, coefficients, out=sums)

    def from_box(self) -> None:
        """Transform `box` to `waves`."""
        for _, coefficients, sums, back in reversed(self._others):
            torch.bmm(back, sums, out=coefficients)
        coefficients, _, sums, back = self._last
        torch.mm(sums, back, out=coefficients)
        for plus, minus in self._pairs:  # u(g), w(g) -> c(g) = u - i w, c(-g) = u + i w
            plus.sub_(minus.mul_(1j))
            torch.add(plus, minus, alpha=2, out=minus)


def _start(memory: Tensor, *shape: int) -> Tensor:
    """Return the first elements of memory as a tensor of another shape."""
    return memory.view(-1)[: math.prod(shape)].view(shape)


def _real(array: Tensor, axis: int) -> Tensor:
    """Return a complex array as a real one of three axes, of which the second is the given one."""
    return torch.view_as_real(array).view(math.prod(array.shape[:axis]), array.shape[axis], -1)


@lru_cache(maxsize=64)
def _matrices(n: int, reach: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the matrix (n, 2 h + 1) of the sum over g, with h = `reach`, and the matrix (2 h + 1, n) of its inverse.

    In a complex `dtype` the columns are exp(2 pi i r g / n) for g = 0, 1, ... h, -1, ... -h. In a real one they are
    cosines for g = 0, ... h and sines for g = 1, ... h.
    """
    r, g = torch.arange(n, device=device), torch.arange(reach + 1, device=device)
    angles = (2 * math.pi / n) * (r[:, None] * g % n).to(torch.float64)
    cosines, sines = torch.cos(angles), torch.sin(angles[:, 1:])
    matrix = torch.cat((cosines, sines), dim=1)
    if dtype.is_complex:
        zero_up = torch.complex(cosines, torch.sin(angles))
        matrix = torch.cat((zero_up, zero_up[:, 1:].conj()), dim=1)
    return matrix.to(dtype), (matrix.mH / n).to(dtype)


def _pays(sphere: Sphere, shape: tuple[int, int, int]) -> bool:
    """Whether products take less time than an FFT; a real matrix needs half the multiplications of a complex one."""
    (n1, n2, _), (m1, m2, m3) = shape, (2 * h + 1 for h in sphere.reach)
    return m1 / 2 + m1 / n1 * (m2 / 2 + m2 / n2 * m3) <= MOST_PRODUCTS


def _transform(count: int, sphere: Sphere, shape: tuple[int, int, int], like: Tensor) -> "_FFT | _Products":
    """Return the transform of `count` orbitals in memory that the thread keeps, so that page faults occur only once."""
    key = (count, shape, sphere.reach, like.dtype, like.device)
    try:
        return _scratch.transforms[key]
    except (AttributeError, KeyError):
        pass
    with torch.inference_mode(False):  # whatever the mode of this call, others will write to the same memory
        source, target = _boxes(count, shape, like)
        pays = _pays(sphere, shape)
        transform = _Products(source, target, sphere.reach) if pays else _FFT(source, target)
    if len(_scratch.transforms) >= MOST_TRANSFORMS:
        del _scratch.transforms[next(iter(_scratch.transforms))]  # the oldest
    _scratch.transforms[key] = transform
    return transform


def _boxes(count: int, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Return two boxes (2, count, n1, n2, n3) in the memory of the thread, which grows if it must."""
    needed = 2 * count * math.prod(shape) * like.element_size()
    memory = getattr(_scratch, "memory", None)
    if memory is None or len(memory) < needed or memory.device != like.device:
        _scratch.memory = memory = torch.empty(needed, dtype=torch.uint8, device=like.device)
        _scratch.transforms = {}
    return memory[:needed].view(like.dtype).view(2, count, *shape)
