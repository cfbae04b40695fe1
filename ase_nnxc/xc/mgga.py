"""Meta-generalised gradient approximations: SCAN and r2SCAN.

SCAN: J. Sun, A. Ruzsinszky and J. P. Perdew, Phys. Rev. Lett. 115, 036402 (2015). r2SCAN: J. W. Furness, A. D. Kaplan,
J. Ning, J. P. Perdew and J. Sun, J. Phys. Chem. Lett. 11, 8208 (2020), with its correction on page 9248; equations "S"
below are those of its supplement. Constants are those of libxc: mgga_x_scan, mgga_c_scan, mgga_x_r2scan, mgga_c_r2scan.

Both interpolate from one orbital (alpha = 0) to the slowly varying gas (alpha = 1) and beyond with functions f of
alpha:

    F_x = (h1 + f_x (h0 - h1)) g(s),  eps_c = eps_1 + f_c (eps_0 - eps_1),  f(0) = 1, f(1) = 0

Where rounding makes alpha negative, both use SCAN's formula for alpha < 1, as in the definition of r2SCAN.
"""

import math

import torch
from torch import Tensor

from .architecture import register_architecture
from .gga import BETA, GAMMA
from .lda import WIGNER_SEITZ, Semilocal, polarisation, pw92, pw92_and_slope, slater
from .reduced import channel_alpha, channel_s2, channel_sigma, phi, t2, total_alpha, total_s2, total_sigma
from .spins import Spins, spin_sum

# exchange of SCAN
MU = 10 / 81
H0X = 1.174
K1 = 0.065
A1 = 4.9479
B2 = math.sqrt(5913 / 405000)
B1 = 511 / 13500 / (2 * B2)
B3 = 0.5
B4 = MU**2 / K1 - 1606 / 18225 - B1**2
# correlation of SCAN
B1C, B2C, B3C = 0.0285764, 0.0889, 0.125541
CHI = 0.12802585262625815
G_ZETA = 2.363 * (2 ** (1 / 3) - 1)
# f of SCAN, of exchange and correlation: c1, c2, d
SWITCH_X = (0.667, 0.8, 1.24)
SWITCH_C = (0.64, 1.5, 0.7)
# f of r2SCAN for 0 < alpha < 2.5: coefficients of alpha^0 .. alpha^7
SERIES_X = (
    *(1.0, -0.667, -0.4445555, -0.663086601049),
    *(1.451297044490, -0.887998041597, 0.234528941479, -0.023185843322),
)
SERIES_C = (
    *(1.0, -0.64, -0.4352, -1.535685604549),
    *(3.061560252175, -1.915710236206, 0.516884468372, -0.051848879792),
)
SERIES_END = 2.5
# gradient expansion of r2SCAN
ETA = 0.001
DP2 = 0.361
C_ETA = 20 / 27 + 5 / 3 * ETA  # S11
C2 = -sum(i * c for i, c in enumerate(SERIES_X, 1)) * (1 - H0X)  # S12; the coefficients add up to zero
DF_C2 = sum(i * c for i, c in enumerate(SERIES_C))  # S27


@register_architecture("scan", 1)
class SCAN(Semilocal):
    """SCAN exchange and correlation.

    Parameters
    ----------
    part : {"xc", "x", "c"}
        Exchange and correlation, exchange only, or correlation only.

    Attributes
    ----------
    eta : float
        Constant of the indicator alpha = (tau - tau_W) / (tau_unif + eta tau_W) that `enhancement` takes: 0 in SCAN,
        0.001 in r2SCAN; see `reduced`.
    """

    features = ("density", "gradient", "tau")
    eta = 0.0
    grid_fineness: float | None = 4.0  # f is steep: errors would be up to 2 meV per cell at 2.25, 0.3 meV at 3

    def exchange(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the exchange energy per electron, (n,) Hartree."""
        s2 = channel_s2(spins, channel_sigma(features["gradient"]))
        return slater(spins, self.enhancement(s2, channel_alpha(spins, s2, features["tau"], self.eta)))

    def correlation(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the correlation energy per electron, (n,) Hartree."""
        sigma = total_sigma(features["gradient"])
        s2 = total_s2(spins, sigma)
        f = self._correlation_switch(total_alpha(spins, s2, features["tau"], self.eta))
        slow = self._slowly_varying(spins, sigma, s2)
        return slow + f * (_one_orbital(spins, s2) - slow)

    def enhancement(self, s2: Tensor, alpha: Tensor) -> Tensor:
        """Return the exchange enhancement F of the squared reduced gradient and the indicator, of their shape."""
        beta = 1 - alpha
        mixed = B1 * s2 + B2 * beta * torch.exp(-B3 * beta * beta)
        # x = mu s^2 [1 + b4/mu s^2 exp(-b4/mu s^2)] + [b1 s^2 + b2 (1 - alpha) exp(-b3 (1 - alpha)^2)]^2
        x = s2 * (MU + B4 * s2 * torch.exp(-B4 / MU * s2)) + mixed * mixed
        return _enhancement(x, s2, _switch(alpha, *SWITCH_X))

    def _correlation_switch(self, alpha: Tensor) -> Tensor:
        return _switch(alpha, *SWITCH_C)

    def _slowly_varying(self, spins: Spins, sigma: Tensor, s2: Tensor) -> Tensor:
        return _slowly_varying(spins, sigma, pw92(spins))


@register_architecture("r2scan", 1)
class R2SCAN(SCAN):
    """r2SCAN exchange and correlation: SCAN with a smooth f and the same gradient expansions.

    Parameters
    ----------
    part : {"xc", "x", "c"}
        Exchange and correlation, exchange only, or correlation only.
    """

    eta = ETA
    grid_fineness = None

    def enhancement(self, s2: Tensor, alpha: Tensor) -> Tensor:
        """Return the exchange enhancement F of the squared reduced gradient and the indicator, of their shape."""
        # S10: x = [C_eta C_2 exp(-s^4 / d_p2^4) + mu] s^2
        x = s2 * (C_ETA * C2 * torch.exp(-(s2 * s2) / DP2**4) + MU)
        return _enhancement(x, s2, _smooth_switch(alpha, *SWITCH_X, SERIES_X))

    def _correlation_switch(self, alpha: Tensor) -> Tensor:
        return _smooth_switch(alpha, *SWITCH_C, SERIES_C)

    def _slowly_varying(self, spins: Spins, sigma: Tensor, s2: Tensor) -> Tensor:
        uniform, uniform_slope = pw92_and_slope(spins)
        single, single_slope = _one_orbital_gas(spins)
        # S34: gamma phi^3 w_1 Delta y = Delta f_c2 / (27 d_s)
        #        * {20 rs d(eps_LDA0 - eps_LDA)/drs - 45 eta (eps_LDA0 - eps_LDA)} s^2 exp(-s^4 / d_p2^4)
        slope = 20 * (single_slope - uniform_slope) - 45 * ETA * (single - uniform)
        d_s = 2 ** (2 / 3) * spin_sum(spins.part_4_3 * spins.part_cbrt)  # S28
        shift = DF_C2 / 27 / d_s * slope * s2 * torch.exp(-(s2 * s2) / DP2**4)
        return _slowly_varying(spins, sigma, uniform, shift)


def _enhancement(x: Tensor, s2: Tensor, f: Tensor) -> Tensor:
    """F = [h1 + f (h0 - h1)] g, h1 = 1 + k1 - k1 / (1 + x / k1), g = 1 - exp(-a1 / s^(1/2))."""
    h1 = 1 + K1 - K1 * K1 / (K1 + x)
    root = s2.clamp(min=1e-6).rsqrt().sqrt()  # below s = 0.001 the exponential is less than any rounding
    return (h1 + f * (H0X - h1)) * -torch.expm1(-A1 * root)


def _switch(alpha: Tensor, c1: float, c2: float, d: float) -> Tensor:
    """f = exp(-c1 alpha / (1 - alpha)) below alpha = 1, -d exp(c2 / (1 - alpha)) above."""
    below = alpha < 1
    # at alpha = 1 f and all derivatives are zero: within 0.001 of it f is less than any rounding
    reciprocal = torch.where(below, (1 - alpha).clamp(min=1e-3), (1 - alpha).clamp(max=-1e-3)).reciprocal()
    exponential = torch.where(below, c1 - c1 * reciprocal, c2 * reciprocal).exp()
    return torch.where(below, exponential, -d * exponential)


def _smooth_switch(alpha: Tensor, c1: float, c2: float, d: float, series: tuple[float, ...]) -> Tensor:
    """`_switch` with a polynomial for 0 < alpha < 2.5."""
    inside = alpha.clamp(0.0, SERIES_END)
    polynomial = torch.full_like(inside, series[-1])
    for coefficient in series[-2::-1]:
        polynomial = polynomial * inside + coefficient
    outside = torch.where(alpha > SERIES_END, alpha, alpha.clamp(max=0.0))
    return torch.where((alpha > 0) & (alpha < SERIES_END), polynomial, _switch(outside, c1, c2, d))


def _one_orbital_gas(spins: Spins) -> tuple[Tensor, Tensor]:
    """Limit s = 0 of `_one_orbital`, -b1 G(zeta) / (1 + b2 rs^(1/2) + b3 rs), and its rs d/drs; (n,) Hartree."""
    x = WIGNER_SEITZ / spins.root
    series = 1 + (B3C * x + B2C) * x
    energy = -B1C / series * _one_orbital_polarisation(spins)
    return energy, -energy * (B3C * x + 0.5 * B2C) * x / series


def _one_orbital(spins: Spins, s2: Tensor) -> Tensor:
    """Correlation energy eps_0 per electron of a density of one orbital, (n,) Hartree."""
    x = WIGNER_SEITZ / spins.root
    g = (1 + 4 * CHI * s2).sqrt().rsqrt()
    # eps_LDA0 + H_0 with eps_LDA0 = -b1 / (1 + b2 rs^(1/2) + b3 rs) = -b1 ln(1 + w_0), H_0 = b1 ln(1 + w_0 (1 - g))
    inner = torch.expm1(-1 / (1 + (B3C * x + B2C) * x))  # -w_0 / (1 + w_0)
    return B1C * torch.log1p(inner * g) * _one_orbital_polarisation(spins)


def _one_orbital_polarisation(spins: Spins) -> Tensor | float:
    """G(zeta) = {1 - 2.363 (2^(1/3) - 1) f(zeta)} (1 - zeta^12)."""
    if spins.paired:
        return 1.0
    zeta4 = spins.zeta.square().square()
    return (1 - G_ZETA * polarisation(spins)) * (1 - zeta4 * zeta4 * zeta4)


def _slowly_varying(spins: Spins, sigma: Tensor, uniform: Tensor, shift: Tensor | None = None) -> Tensor:
    """Correlation energy eps_1 per electron of a slowly varying density, (n,) Hartree.

    `sigma` is |grad n|^2, `uniform` is eps_c of the uniform gas, `shift` is r2SCAN's gamma phi^3 w_1 Delta y; all (n,).
    """
    scaling = phi(spins)
    scale = GAMMA * scaling * scaling * scaling
    rs = WIGNER_SEITZ**2 / spins.root.square()
    w_y = BETA / GAMMA * (1 + 0.1 * rs) / (1 + 0.1778 * rs) * t2(spins, sigma, scaling)  # w_1 y
    if shift is not None:
        w_y = w_y - shift / scale
    inner = torch.expm1(uniform / scale)  # -w_1 / (1 + w_1)
    g = (1 - 4 * w_y * (1 + inner) / inner).sqrt().rsqrt()  # (1 + 4 y)^(-1/4)
    # eps_c + H_1 with eps_c = -gamma phi^3 ln(1 + w_1), H_1 = gamma phi^3 ln(1 + w_1 (1 - g))
    return scale * torch.log1p(inner * g)
