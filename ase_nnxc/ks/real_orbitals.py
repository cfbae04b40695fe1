"""Real orbitals, at k-points k that are their own inverses: 2 k is a reciprocal lattice vector, as at Gamma.

There H is real if its potentials are, and its eigenfunctions can be: c(-k-G) = c(k+G)*. They are expanded in the
functions cos (k+G) r + sin (k+G) r, one for each plane wave (R. N. Bracewell, J. Opt. Soc. Am. 73, 1832 (1983)). With
the wave -k-G that is opposite to each wave k+G,

    c(k+G) = [T x](k+G) = (1 - i) / 2 x(k+G) + (1 + i) / 2 x(-k-G),    x = T^H c = Re c - Im c.

T is unitary, so the x are orthonormal if the orbitals are, and what is even in k+G, such as the kinetic energy, is the
same for x and c. The x of two orbitals are the real and imaginary part of one complex vector, to which T^H O T applies
an operator O at the cost of one.
"""

import torch
from torch import Tensor

from .basis import Sphere


def to_real(coefficients: Tensor, sphere: Sphere) -> Tensor:
    """Return real x (n, npw) that span the space of orbitals (n, npw) of any phase.

    The real and imaginary parts of T^H c span it twice; the x are their n combinations with the largest norms.
    """
    z = _turned(coefficients, sphere, 0.5 + 0.5j)
    parts = torch.cat((z.real, z.imag))
    _, vectors = torch.linalg.eigh(parts @ parts.mT)
    return vectors[:, len(coefficients) :].mT @ parts


def to_plane_waves(x: Tensor, sphere: Sphere) -> Tensor:
    """Return the coefficients T x (n, npw) of real x (n, npw)."""
    return _turned(x.to(x.dtype.to_complex()), sphere, 0.5 - 0.5j)


def pack(x: Tensor, sphere: Sphere) -> Tensor:
    """Return T (x_1 + i x_2) (..., m, npw), m = ceil(n / 2), of real x (..., n, npw): x_1 are the first m of them.

    The leading axes are those of the sphere. If n is odd, the last x_2 is zero.
    """
    *lead, n, npw = x.shape
    first, second = x.tensor_split([(n + 1) // 2], dim=-2)
    z = x.new_zeros(*lead, (n + 1) // 2, npw, 2)
    z[..., 0], z[..., : n // 2, :, 1] = first, second
    return _turned(torch.view_as_complex(z), sphere, 0.5 - 0.5j)


def unpack(coefficients: Tensor, sphere: Sphere, n: int) -> Tensor:
    """Return the real x (..., n, npw) of which `pack` makes these coefficients (..., m, npw)."""
    z = _turned(coefficients, sphere, 0.5 + 0.5j)
    return torch.cat((z.real, z.imag[..., : n // 2, :]), dim=-2)


def _turned(z: Tensor, sphere: Sphere, a: complex) -> Tensor:
    """Return a z(k+G) + a* z(-k-G): T z with a = (1 - i) / 2, T^H z with a = (1 + i) / 2."""
    opposite = z.gather(-1, sphere.opposite[..., None, :].expand(z.shape))
    return (a * z).add_(opposite, alpha=a.conjugate())
