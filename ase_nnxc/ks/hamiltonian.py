"""The Kohn-Sham Hamiltonian at one k-point: H psi = T psi + P^H D P psi + V(r) psi - 1/2 div(v(r) grad psi).

The last term is there if the energy depends on the kinetic energy density tau; v = dE_xc/dtau (J. Neumann, R. H. Nobes
and N. C. Handy, Mol. Phys. 87, 1 (1996)). By the product rule it takes two transforms of an orbital in place of three,

    -1/2 div(v grad psi) = 1/2 (T v psi + v T psi) + 1/4 (lap v) psi,   T = |k+G|^2 / 2,

all of them products that the FFT box holds exactly.
"""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from .basis import Sphere

_workspace = threading.local()


def chunk_size(npoints: int, device: torch.device) -> int:
    """How many orbitals are transformed at once: few on a CPU, whose cache holds them, many on a GPU."""
    return max(1, 4 if device.type == "cpu" else 2**26 // npoints)


def _buffers(count: int, shape: tuple[int, int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Two scratch boxes (count, n1, n2, n3), kept by a thread while it lives so that pages are faulted in once."""
    key = (shape, like.dtype, like.device)
    if getattr(_workspace, "key", None) != key or len(_workspace.boxes[0]) < count:
        _workspace.key = key
        _workspace.boxes = tuple(torch.empty(count, *shape, dtype=like.dtype, device=like.device) for _ in range(2))
    source, target = _workspace.boxes
    return source[:count], target[:count]


def to_box(psi: Tensor, sphere: Sphere, shape: tuple[int, int, int]) -> Tensor:
    """Omega^(1/2) psi(r) on the FFT box of orbitals (n, npw): (n, n1, n2, n3) in scratch memory of this thread."""
    source, target = _buffers(len(psi), shape, psi)
    source.zero_().view(len(psi), -1).index_copy_(1, sphere.index, psi)
    return torch.fft.ifftn(source, dim=(1, 2, 3), norm="forward", out=target)


def from_box(box: Tensor, sphere: Sphere) -> Tensor:
    """Coefficients (n, npw) of fields (n, n1, n2, n3) that lie in the scratch memory of this thread."""
    spare = _workspace.boxes[0][: len(box)]
    torch.fft.fftn(box, dim=(1, 2, 3), norm="forward", out=spare)
    return spare.view(len(box), -1).index_select(1, sphere.index)


@dataclass(frozen=True, eq=False)
class TauOperator:
    """What -1/2 div(v grad psi) needs besides 1/4 lap v, which is added to the local potential.

    Attributes
    ----------
    half_squares : Tensor
        (npw,) |k+G|^2 / 2, Hartree, without smoothing at the cutoff.
    potential : Tensor
        (n1, n2, n3) v.
    """

    half_squares: Tensor
    potential: Tensor


@dataclass(frozen=True, eq=False)
class Hamiltonian:
    """H at one k-point for one spin.

    Attributes
    ----------
    sphere : Sphere
        Plane waves.
    kinetic : Tensor
        (npw,) Hartree; above `ecut` where a smooth cutoff makes it rise.
    ecut : float
        Hartree.
    projectors : Tensor
        (nproj, npw) complex.
    coupling : Tensor
        (nproj, nproj) complex, Hartree.
    potential : Tensor
        (n1, n2, n3) local potential, Hartree.
    tau : TauOperator, optional
        If the energy depends on tau.
    """

    sphere: Sphere
    kinetic: Tensor
    ecut: float
    projectors: Tensor
    coupling: Tensor
    potential: Tensor
    tau: TauOperator | None = None

    @property
    def dtype(self) -> torch.dtype:
        """complex128, or complex64 for early iterations."""
        return self.projectors.dtype

    def apply(self, psi: Tensor) -> Tensor:
        """H psi for orbitals (nbands, npw)."""
        result = psi * self.kinetic
        if len(self.projectors):
            result.addmm_(psi @ self.projectors.mH @ self.coupling, self.projectors)
        step = chunk_size(self.potential.numel(), psi.device)
        for start in range(0, len(psi), step):
            result[start : start + step] += self._apply_local(psi[start : start + step])
        return result

    def _apply_local(self, psi: Tensor) -> Tensor:
        """The potentials of the grid on orbitals (n, npw)."""
        shape = (self.potential.shape[0], self.potential.shape[1], self.potential.shape[2])
        if self.tau is None:
            box = to_box(psi, self.sphere, shape)
            return from_box(box.mul_(self.potential), self.sphere)
        count, v = len(psi), self.tau.potential
        box = to_box(torch.cat((psi, (0.5 * self.tau.half_squares) * psi)), self.sphere, shape)
        box[count:].mul_(v).addcmul_(box[:count], self.potential)  # 1/2 v T psi + V psi
        box[:count].mul_(v)
        waves = from_box(box, self.sphere)
        return torch.addcmul(waves[count:], waves[:count], 0.5 * self.tau.half_squares)
