"""The local density approximation: Slater's exchange and the correlation of the uniform electron gas.

Constants are those of libxc: lda_x; lda_c_pw_mod (the parameters of PW92 with the digits of the original PBE code),
lda_c_pz, lda_c_vwn.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from .architecture import register_architecture
from .functional import Functional
from .spins import Spins, spin_sum

Part = Literal["xc", "x", "c"]

# eps_x = -3/4 (3/pi)^(1/3) n^(1/3) without polarisation; then E_x[n_up, n_dn] = sum_s E_x[2 n_s] / 2 (G. L. Oliver and
# J. P. Perdew, Phys. Rev. A 20, 397 (1979)) makes eps_x = SLATER n^(1/3) sum_s (n_s / n)^(4/3)
SLATER = -0.75 * (6 / math.pi) ** (1 / 3)
# sqrt(rs) = WIGNER_SEITZ / n^(1/6)
WIGNER_SEITZ = (3 / (4 * math.pi)) ** (1 / 6)

# PW92, table I: A, alpha_1, beta_1 .. beta_4 of eps_c(rs, 0), eps_c(rs, 1), -alpha_c(rs)
_PARAMAGNETIC = (0.0310907, 0.21370, (7.5957, 3.5876, 1.6382, 0.49294))
_FERROMAGNETIC = (0.01554535, 0.20548, (14.1189, 6.1977, 3.3662, 0.62517))
_STIFFNESS = (0.0168869, 0.11125, (10.357, 3.6231, 0.88026, 0.49671))
_F_CURVATURE = 1.709920934161365617563962776245  # f''(0)
_F_NORM = 2 ** (4 / 3) - 2

# PZ81, table XII: gamma, beta_1, beta_2, A, B, C, D of eps_c(rs, 0), eps_c(rs, 1)
_PZ = (
    (-0.1423, 1.0529, 0.3334, 0.0311, -0.048, 0.0020, -0.0116),
    (-0.0843, 1.3981, 0.2611, 0.01555, -0.0269, 0.0007, -0.0048),
)
# VWN, fit to Ceperley and Alder: A, x_0, b, c of eps_c(rs, 0), eps_c(rs, 1), alpha_c(rs)
_VWN = (
    (0.0310907, -0.10498, 3.72744, 12.9352),
    (0.01554535, -0.32500, 7.06042, 18.0578),
    (-1 / (6 * math.pi**2), -0.0047584, 1.13107, 13.0045),
)


class Semilocal(Functional):
    """Exchange with an enhancement factor for each spin channel, correlation per electron, or both.

    The base class of functionals of the LDA, PBE and SCAN forms. Networks are anchored to functionals of this form:

        E_x = int n eps_x,  eps_x = SLATER n^(1/3) sum_s (n_s / n)^(4/3) F(s_s, alpha_s)
        E_c = int n eps_c

    Parameters
    ----------
    part : {"xc", "x", "c"}
        Exchange and correlation, exchange only, or correlation only.
    """

    closed_shell = True

    def __init__(self, part: Part = "xc") -> None:
        super().__init__()
        if part not in ("xc", "x", "c"):
            raise ValueError(f"part={part!r}: expected 'xc', 'x' or 'c'")
        self.kind = part

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; see `Functional`."""
        spins = Spins.of(features["density"])
        if self.kind == "x":
            return spins.density * self.exchange(spins, features)
        if self.kind == "c":
            return spins.density * self.correlation(spins, features)
        return spins.density * (self.exchange(spins, features) + self.correlation(spins, features))

    def exchange(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the exchange energy per electron, (n,) Hartree."""
        raise NotImplementedError

    def correlation(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the correlation energy per electron, (n,) Hartree."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"part": self.kind}

    def extra_repr(self) -> str:
        """Return the arguments of the constructor, for `repr`."""
        return ", ".join(f"{key}={value!r}" for key, value in self.config().items())


def slater(spins: Spins, enhancement: Tensor | None = None) -> Tensor:
    """Return Slater's exchange energy per electron (n,), Hartree, times enhancement factors (nspin, n)."""
    terms = spins.part_4_3 if enhancement is None else spins.part_4_3 * enhancement
    return SLATER * spins.root.square() * spin_sum(terms)


def pw92(spins: Spins) -> Tensor:
    """Return the correlation energy per electron of the uniform gas, (n,) Hartree.

    J. P. Perdew and Y. Wang, Phys. Rev. B 45, 13244 (1992), Eqs. 8-10.
    """
    x = WIGNER_SEITZ / spins.root
    para = _g(x, *_PARAMAGNETIC)
    return para if spins.paired else _interpolate(spins, para, _g(x, *_FERROMAGNETIC), -_g(x, *_STIFFNESS))


def pw92_and_slope(spins: Spins) -> tuple[Tensor, Tensor]:
    """Return `pw92` and rs d(eps_c)/d(rs), both (n,) Hartree."""
    x = WIGNER_SEITZ / spins.root
    para = _g_and_slope(x, *_PARAMAGNETIC)
    if spins.paired:
        return para
    ferro, stiffness = _g_and_slope(x, *_FERROMAGNETIC), _g_and_slope(x, *_STIFFNESS)
    return (
        _interpolate(spins, para[0], ferro[0], -stiffness[0]),
        _interpolate(spins, para[1], ferro[1], -stiffness[1]),
    )


def _g(x: Tensor, a: float, alpha: float, beta: tuple[float, float, float, float]) -> Tensor:
    """PW92, Eq. 10: G = -2A (1 + alpha rs) ln(1 + 1 / (2A (b1 rs^1/2 + b2 rs + b3 rs^3/2 + b4 rs^2))), x = rs^1/2."""
    b1, b2, b3, b4 = (2 * a * b for b in beta)
    series = (((b4 * x + b3) * x + b2) * x + b1) * x
    return (-2 * a * alpha * x * x - 2 * a) * series.reciprocal().log1p()


def _g_and_slope(x: Tensor, a: float, alpha: float, beta: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """G and rs dG/drs; PW92, Eqs. 10 and A5."""
    b1, b2, b3, b4 = (2 * a * b for b in beta)
    series = (((b4 * x + b3) * x + b2) * x + b1) * x
    slope = (((2 * b4 * x + 1.5 * b3) * x + b2) * x + 0.5 * b1) * x
    log = series.reciprocal().log1p()
    linear = 2 * a * alpha * x * x
    prefactor = linear + 2 * a
    return -prefactor * log, prefactor * slope / (series * series + series) - linear * log


def pz81(spins: Spins) -> Tensor:
    """Return the correlation energy per electron of the uniform gas, (n,) Hartree.

    J. P. Perdew and A. Zunger, Phys. Rev. B 23, 5048 (1981), appendix C. Its slope has a small step at rs = 1.
    """
    x = WIGNER_SEITZ / spins.root
    para = _pz(x, *_PZ[0])
    return para if spins.paired else para + polarisation(spins) * (_pz(x, *_PZ[1]) - para)


def _pz(x: Tensor, gamma: float, beta1: float, beta2: float, a: float, b: float, c: float, d: float) -> Tensor:
    """PZ81, Eqs. C3 (low density) and C5 (high density), of x = rs^1/2."""
    rs = x * x
    low = gamma / (1 + beta1 * x + beta2 * rs)
    return torch.where(rs >= 1, low, (a + c * rs) * rs.log() + b + d * rs)


def vwn(spins: Spins) -> Tensor:
    """Return the correlation energy per electron of the uniform gas, (n,) Hartree.

    S. H. Vosko, L. Wilk and M. Nusair, Can. J. Phys. 58, 1200 (1980), the fit that is known as VWN5.
    """
    x = WIGNER_SEITZ / spins.root
    para = _vwn(x, *_VWN[0])
    return para if spins.paired else _interpolate(spins, para, _vwn(x, *_VWN[1]), _vwn(x, *_VWN[2]))


def _vwn(x: Tensor, a: float, x0: float, b: float, c: float) -> Tensor:
    """VWN, Eq. 4.4, of x = rs^1/2, with X(x) = x^2 + b x + c and Q = (4c - b^2)^1/2."""
    q = math.sqrt(4 * c - b * b)
    weight = b * x0 / (x0 * x0 + b * x0 + c)
    log_series = ((x + b) * x + c).log()
    angle = torch.atan(q / (2 * x + b))
    # A { ln(x^2/X) + 2b/Q atan(Q/(2x+b)) - b x0/X(x0) [ln((x-x0)^2/X) + 2(b+2x0)/Q atan(Q/(2x+b))] }
    logs = 2 * x.log() - log_series - weight * (2 * (x - x0).log() - log_series)
    return a * (logs + 2 / q * (b - weight * (b + 2 * x0)) * angle)


def polarisation(spins: Spins) -> Tensor:
    """Return f(zeta) = ((1 + zeta)^(4/3) + (1 - zeta)^(4/3) - 2) / (2^(4/3) - 2), (n,)."""
    return 2 ** (4 / 3) / _F_NORM * spin_sum(spins.part_4_3) - 2 / _F_NORM


def _interpolate(spins: Spins, para: Tensor, ferro: Tensor, alpha: Tensor) -> Tensor:
    """eps_c(0) + alpha_c f (1 - zeta^4) / f''(0) + (eps_c(1) - eps_c(0)) f zeta^4: PW92, Eq. 8; linear in all three."""
    f = polarisation(spins)
    f_zeta4 = f * spins.zeta.square().square()
    return para + f_zeta4 * (ferro - para) + (f - f_zeta4) * alpha / _F_CURVATURE


_CORRELATIONS = {"pw92": pw92, "pz81": pz81, "vwn": vwn}


@register_architecture("lda", 1)
class LDA(Semilocal):
    """Slater exchange and the correlation of the uniform electron gas.

    Parameters
    ----------
    correlation : {"pw92", "pz81", "vwn"}
        Parametrisation of Perdew and Wang, Perdew and Zunger, or Vosko, Wilk and Nusair (VWN5).
    part : {"xc", "x", "c"}
        Exchange and correlation, exchange only, or correlation only.
    """

    features = ("density",)

    def __init__(self, correlation: Literal["pw92", "pz81", "vwn"] = "pw92", part: Part = "xc") -> None:
        super().__init__(part)
        if correlation not in _CORRELATIONS:
            raise ValueError(f"correlation={correlation!r}: expected one of {', '.join(map(repr, _CORRELATIONS))}")
        self.gas = correlation

    def exchange(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the exchange energy per electron, (n,) Hartree."""
        return slater(spins)

    def correlation(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the correlation energy per electron, (n,) Hartree."""
        return _CORRELATIONS[self.gas](spins)

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"correlation": self.gas, **super().config()}
