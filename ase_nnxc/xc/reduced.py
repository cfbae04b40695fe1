"""Dimensionless measures of inhomogeneity: reduced gradients and the iso-orbital indicator.

For a density n with gradient g and kinetic energy density tau, with k_F = (3 pi^2 n)^(1/3):

    s^2 = g^2 / (2 k_F n)^2
    t^2 = g^2 / (2 phi k_s n)^2,  k_s^2 = 4 k_F / pi,  phi = ((1 + zeta)^(2/3) + (1 - zeta)^(2/3)) / 2
    alpha = (tau - tau_W) / tau_unif,  tau_W = g^2 / 8 n = 5/3 s^2 tau_unif,
            tau_unif = 3/10 (3 pi^2)^(2/3) n^(5/3) ((1 + zeta)^(5/3) + (1 - zeta)^(5/3)) / 2

The functions named "channel" are those of the doubled channels 2 n_s, as the spin scaling of exchange needs them, of
shape (nspin, n); nspin = 1 is a closed shell, see `Spins`.
Sources: J. P. Perdew, K. Burke and M. Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996); J. Sun, A. Ruzsinszky and
J. P. Perdew, Phys. Rev. Lett. 115, 036402 (2015).
"""

import math

import torch
from torch import Tensor

from .spins import SPIN_THRESHOLD, Spins, spin_sum

_FERMI2 = (3 * math.pi**2) ** (2 / 3)
_S2 = 1 / (4 * _FERMI2)
_T2 = math.pi / 16 * (3 * math.pi**2) ** (-1 / 3)
# phi = _PHI sum_s (n_s / n)^(2/3)
_PHI = 2 ** (-1 / 3)
# tau_unif = _TAU_UNIFORM n^(5/3) sum_s (n_s / n)^(5/3)
_TAU_UNIFORM = 0.3 * 2 ** (2 / 3) * _FERMI2

EMPTY_CHANNEL = 1e-15
"""Density of one spin channel, bohr^-3, below which it is noise: there alpha is zero, see `channel_alpha`."""


def features_at(density: Tensor, zeta: Tensor, s: Tensor, alpha: Tensor) -> dict[str, Tensor]:
    """Return density (2, n), gradient (2, 3, n) and tau (2, n) of points with the given local variables.

    Both channels have their share of the gradient, along z, and the same alpha, which is then also that of the total.

    Parameters
    ----------
    density, zeta, s, alpha : Tensor
        (n,) total density, bohr^-3, polarisation, reduced gradient and iso-orbital indicator.
    """
    share = torch.stack((1 + zeta, 1 - zeta)) / 2
    channels = share * density
    slope = 2 * _FERMI2**0.5 * density ** (4 / 3) * s  # |grad n| = 2 k_F n s
    zero = torch.zeros_like(slope)
    # tau_s = |grad n_s|^2 / (8 n_s) + alpha 3/10 (6 pi^2)^(2/3) n_s^(5/3), and grad n_s / n_s is that of n
    tau = share * slope**2 / (8 * density) + alpha * _TAU_UNIFORM * channels ** (5 / 3)
    return {"density": channels, "gradient": share[:, None] * torch.stack((zero, zero, slope)), "tau": tau}


def channel_sigma(gradient: Tensor) -> Tensor:
    """Return |grad n_s|^2 (nspin, n), bohr^-8, of the gradients (nspin, 3, n) of the channels."""
    return gradient.square().sum(1)


def total_sigma(gradient: Tensor) -> Tensor:
    """Return |grad n|^2 (n,), bohr^-8, of the gradients (nspin, 3, n) of the channels."""
    return spin_sum(gradient).square().sum(0)


def channel_s2(spins: Spins, sigma: Tensor) -> Tensor:
    """Return s^2 (nspin, n) of the doubled channels from `channel_sigma`."""
    n_cbrt = spins.root.square()
    # 4 sigma / (2 n_s)^(8/3)
    return _S2 * 2 ** (-2 / 3) * sigma / (n_cbrt.square().square() * spins.part_4_3).square()


def total_s2(spins: Spins, sigma: Tensor) -> Tensor:
    """Return s^2 (n,) of the total density from `total_sigma`."""
    return _S2 * sigma / spins.root.square().square().square().square()


def phi(spins: Spins) -> Tensor:
    """Return phi (n,), the spin scaling factor of correlation."""
    return _PHI * spin_sum(spins.part_cbrt.square())


def t2(spins: Spins, sigma: Tensor, phi: Tensor) -> Tensor:
    """Return t^2 (n,) of the total density from `total_sigma` and `phi`."""
    return _T2 * sigma / (phi * spins.root.square() ** 3 * spins.root).square()


def channel_alpha(spins: Spins, s2: Tensor, tau: Tensor, eta: float = 0.0) -> Tensor:
    """Return the iso-orbital indicator alpha (nspin, n) of the channels.

    It fades to zero as the channel's density falls to `EMPTY_CHANNEL` or to its clip in `Spins`. Otherwise the noise
    of an empty channel would move an orbital of that spin: d(e_x)/d(tau_s) goes as n_s^(-1/3).

    Parameters
    ----------
    spins : Spins
        Clipped density.
    s2 : Tensor
        (nspin, n) `channel_s2`.
    tau : Tensor
        (nspin, n) kinetic energy density, Hartree bohr^-3.
    eta : float
        Constant of alpha = (tau - tau_W) / (tau_unif + eta tau_W); r2SCAN has 0.001.
    """
    n_cbrt = spins.root.square()
    part_5_3 = spins.part_4_3 * spins.part_cbrt
    alpha = _indicator(tau / (_TAU_UNIFORM * n_cbrt.square().square() * n_cbrt * part_5_3), s2, eta)
    if spins.paired:
        return alpha
    empty = (0.5 * SPIN_THRESHOLD + EMPTY_CHANNEL / (n_cbrt * n_cbrt * n_cbrt)) / (spins.part_4_3 / spins.part_cbrt)
    return alpha * (1 - empty.clamp(max=1.0) ** 6)


def total_alpha(spins: Spins, s2: Tensor, tau: Tensor, eta: float = 0.0) -> Tensor:
    """Return alpha (n,) of the total density; `s2` is `total_s2` (n,), other parameters as in `channel_alpha`."""
    n_cbrt = spins.root.square()
    scaling = spin_sum(spins.part_4_3 * spins.part_cbrt)  # 2^(-2/3) of ((1 + zeta)^(5/3) + (1 - zeta)^(5/3)) / 2
    uniform = _TAU_UNIFORM * n_cbrt.square().square() * n_cbrt * scaling
    return _indicator(spin_sum(tau) / uniform, s2 / (2 ** (2 / 3) * scaling), eta)


def smooth_floor(alpha: Tensor, depth: float = 0.5) -> Tensor:
    """Return alpha where it is positive, and below zero a smooth function of it that approaches -depth.

    Alpha of a density is never negative, but rounding makes it so where a single orbital holds the density, and mixed
    densities with mixed taus can have large negative ones. Two derivatives are continuous at zero, so that rounding of
    tau only causes rounding of the potential. The slope falls as alpha^-3, so that a meaningless tau has no effect.
    """
    negative = alpha.clamp(max=0.0)
    return alpha - negative + negative * (1 + (negative / depth).square()).rsqrt()


def floored(alpha: Tensor) -> Tensor:
    """Return alpha with a smooth lower limit of -0.03, for networks and their gates.

    Networks are fitted to densities, whose alpha is never negative; mixed densities with mixed taus can have a negative
    one. Without the limit dE/dtau of `r2scan-clone` reached -150 there in an SCF of graphene, r2SCAN's 0.3, and the SCF
    took 20 steps in place of 7.
    """
    return smooth_floor(alpha, depth=0.03)


def _indicator(tau_ratio: Tensor, s2: Tensor, eta: float) -> Tensor:
    """Alpha from tau / tau_unif and s^2 = 3/5 tau_W / tau_unif."""
    alpha = tau_ratio - 5 / 3 * s2
    return smooth_floor(alpha / (1 + 5 / 3 * eta * s2) if eta else alpha)
