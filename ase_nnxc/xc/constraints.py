"""Exact conditions on enhancement factors, chosen one by one for neural functionals.

A factor is made from the outputs of the network, N_i, and from a base F0, which is 1 or the factor of a parent:

    F = F0 + B(y),   y = sum_i G_i N_i + mu u

Gates G_i vanish where F has to be F0, see `gated`; the map B keeps F between its bounds, see `bounded`. The constraints
on the inputs of the network, "spin_scaling" and "uniform_scaling", are described in `NeuralExchange`. Each constraint
holds for all weights of the network in the form given here. For a meta-GGA "gradient_expansion" is weaker than the
exact condition: it fixes dF/ds^2 along alpha = 1 and leaves dF/dalpha free.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LIEB_OXFORD = 1.804
ONE_ORBITAL = 1.174
GRADIENT_EXPANSION = 10 / 81  # E. Antoniewicz and L. Kleinman, Phys. Rev. B 31, 6779 (1985)

EXCHANGE_CONSTRAINTS = (
    "spin_scaling",
    "uniform_scaling",
    "uniform_gas",
    "gradient_expansion",
    "lieb_oxford",
    "one_orbital",
    "non_positive",
)
CORRELATION_CONSTRAINTS = ("uniform_gas", "non_positive")

_ROUNDING = 1e-15  # of a factor of order one


def fraction(x: Tensor) -> Tensor:
    """Return x / (1 + x), which maps positive numbers to those below one."""
    return x / (1 + x)


def gated(constraints: Sequence[str], outputs: Tensor, u: Tensor, alpha: Tensor | None) -> Tensor:
    """Return y, the outputs of a network added up so that F = F0 in the uniform gas.

    "uniform_gas": y = 0 where the gradient is zero and, for a meta-GGA, alpha = 1 (J. P. Perdew, K. Burke and
    M. Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996); J. Sun, A. Ruzsinszky and J. P. Perdew, Phys. Rev. Lett. 115, 036402
    (2015)). Every smooth function that vanishes there is u N_1 + a N_2 with a = (alpha - 1) / (alpha + 1).

    "gradient_expansion": y = O(s^4), for a meta-GGA along alpha = 1: u^2 N_1 + a N_2. With the mu u that exchange adds,
    F = F0 + mu s^2 + O(s^4). The published gate (1 - exp(-s^2)) ln(1 + s) of S. Dick and M. Fernandez-Serra, Phys.
    Rev. B 104, L161109 (2021), begins with s^3 and has no term mu s^2. In a slowly varying density alpha - 1
    counts, after partial integration, as -20/27 s^2 (J. W. Furness, A. D. Kaplan, J. Ning, J. P. Perdew and J. Sun, J.
    Phys. Chem. Lett. 11, 8208 (2020)): the 10/81 of exchange is then that of mu - 20/27 dF/dalpha, as in r2SCAN. This
    sum is not constrained: N_2 is free.

    Parameters
    ----------
    constraints : sequence of str
        Names of constraints, including "uniform_gas".
    outputs : Tensor
        (1, ...) for a GGA, (2, ...) for a meta-GGA.
    u : Tensor
        s^2 / (1 + s^2) or t^2 / (1 + t^2), (...).
    alpha : Tensor or None
        Iso-orbital indicator (...), None for a GGA.
    """
    y = outputs[0] * (u * u if "gradient_expansion" in constraints else u)
    return y if alpha is None else y + outputs[1] * ((alpha - 1) / (alpha + 1))


def upper_bound(
    constraints: Sequence[str], lieb_oxford: float, one_orbital: float, alpha: Tensor | None
) -> Tensor | float | None:
    """Return the largest value of the exchange factor, or None if it is not bounded.

    "lieb_oxford": F_x <= 1.804 keeps E_x above the bound of E. H. Lieb and S. Oxford, Int. J. Quantum Chem. 19, 427
    (1981), on each point (J. P. Perdew, K. Burke and M. Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996), with its
    constant 1.804).

    "one_orbital": F_x <= 1.174 for densities of one orbital (J. P. Perdew, A. Ruzsinszky, J. Sun and K. Burke, J. Chem.
    Phys. 140, 18A533 (2014)). A GGA, which cannot recognise them, keeps it everywhere, a meta-GGA where alpha = 0: its
    bound rises from there as r = alpha^2 / (1 + alpha), and with "lieb_oxford" as r d / (r + d) to the height d between
    the two bounds.

    Parameters
    ----------
    constraints : sequence of str
        Names of constraints.
    lieb_oxford, one_orbital : float
        Bounds of the constraints of these names.
    alpha : Tensor or None
        Iso-orbital indicator (...); None for a GGA.
    """
    if "one_orbital" not in constraints:
        return lieb_oxford if "lieb_oxford" in constraints else None
    if alpha is None:
        return one_orbital
    rise = alpha * fraction(alpha)
    if "lieb_oxford" in constraints:
        height = lieb_oxford - one_orbital
        rise = rise * height / (rise + height)
    return one_orbital + rise


def lower_bound(constraints: Sequence[str]) -> float | None:
    """Return the smallest value of a factor, or None if it is not bounded.

    "non_positive": F >= 0. Exchange energies are negative, and correlation energies are not positive by the variational
    principle; the constraint applies this on each point.
    """
    return 0.0 if "non_positive" in constraints else None


def bounded(y: Tensor, base: Tensor | float, lower: float | None, upper: Tensor | float | None) -> Tensor:
    """Return B(y) with lower <= base + B(y) <= upper, B(0) = 0, B'(0) = 1 and B''(0) = 0.

    B = R tanh(y / R), where R is the distance to the bound: upper - base for y > 0, base - lower for y < 0. Where the
    base is at its bound, R = 0 and B = 0. B = y on a side without a bound.

    Parameters
    ----------
    y : Tensor
        Any real numbers.
    base : Tensor or float
        F0, between the bounds.
    lower, upper : Tensor, float or None
        Bounds of F.
    """
    if upper is None:
        return y if lower is None else torch.where(y > 0, y, _saturated(y, base - lower))
    if lower is None:
        return torch.where(y > 0, _saturated(y, upper - base), y)
    above, below = (torch.as_tensor(room, dtype=y.dtype, device=y.device) for room in (upper - base, base - lower))
    return _saturated(y, torch.where(y > 0, above, below))


def _saturated(y: Tensor, room: Tensor | float) -> Tensor:
    """R tanh(y / R); zero for R = 0, also where rounding has made it negative."""
    room = torch.as_tensor(room, dtype=y.dtype, device=y.device).clamp(min=0.0)
    return room * torch.tanh(y / room.clamp(min=_ROUNDING))
