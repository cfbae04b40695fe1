"""Real solid harmonics."""

import math

import torch
from torch import Tensor


def solid_harmonics(l: int, q: Tensor) -> Tensor:  # noqa: E741
    """Return real solid harmonics q^l Y_lm(q), polynomials in the components of q, orthonormal on the unit sphere.

    Parameters
    ----------
    l : int
        Angular momentum, 0 to 3.
    q : Tensor
        (..., n, 3) vectors.

    Returns
    -------
    Tensor
        (..., 2 l + 1, n), m from -l to l.

    Raises
    ------
    ValueError
        If `l` is larger than 3.
    """
    x, y, z = q.unbind(-1)
    x2, y2, z2 = x * x, y * y, z * z
    if l == 0:
        return torch.full_like(x, math.sqrt(1 / (4 * math.pi)))[..., None, :]
    if l == 1:
        return math.sqrt(3 / (4 * math.pi)) * torch.stack((y, z, x), dim=-2)
    if l == 2:
        a = math.sqrt(15 / (4 * math.pi))
        return a * torch.stack((x * y, y * z, (2 * z2 - x2 - y2) / math.sqrt(12), x * z, (x2 - y2) / 2), dim=-2)
    if l == 3:
        a, b, c = math.sqrt(35 / (32 * math.pi)), math.sqrt(105 / (4 * math.pi)), math.sqrt(21 / (32 * math.pi))
        d = math.sqrt(7 / (16 * math.pi))
        return torch.stack(
            (
                a * y * (3 * x2 - y2),
                b * x * y * z,
                c * y * (4 * z2 - x2 - y2),
                d * z * (2 * z2 - 3 * x2 - 3 * y2),
                c * x * (4 * z2 - x2 - y2),
                b / 2 * z * (x2 - y2),
                a * x * (x2 - 3 * y2),
            ),
            dim=-2,
        )
    raise ValueError(f"angular momentum {l}: expected one of 0, 1, 2, 3")
