"""The local density approximation: Slater's exchange and Perdew and Wang's correlation of the uniform electron gas.

Constants are those of libxc's lda_x and lda_c_pw_mod: the parameters of PW92 with the digits of the original PBE code.
"""

import math

from torch import Tensor

from .functional import Functional, Spins

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


def _g(sqrt_rs: Tensor, rs: Tensor, a: float, alpha: float, beta: tuple[float, float, float, float]) -> Tensor:
    """PW92, Eq. 10: G = -2A (1 + alpha rs) ln(1 + 1 / (2A (b1 rs^1/2 + b2 rs + b3 rs^3/2 + b4 rs^2)))."""
    b1, b2, b3, b4 = (2 * a * b for b in beta)
    series = (((b4 * sqrt_rs + b3) * sqrt_rs + b2) * sqrt_rs + b1) * sqrt_rs
    return (-2 * a * alpha * rs - 2 * a) * series.reciprocal().log1p()


def pw92(spins: Spins) -> Tensor:
    """Correlation energy per electron of the uniform gas, (n,) Hartree.

    J. P. Perdew and Y. Wang, Phys. Rev. B 45, 13244 (1992), Eqs. 8-10.
    """
    sqrt_rs = WIGNER_SEITZ / spins.root
    rs = sqrt_rs * sqrt_rs
    # f(zeta) = ((1 + zeta)^(4/3) + (1 - zeta)^(4/3) - 2) / (2^(4/3) - 2)
    f = 2 ** (4 / 3) / _F_NORM * spins.part_4_3.sum(0) - 2 / _F_NORM
    f_zeta4 = f * spins.zeta.square().square()
    para = _g(sqrt_rs, rs, *_PARAMAGNETIC)
    ferro = _g(sqrt_rs, rs, *_FERROMAGNETIC)
    minus_alpha = _g(sqrt_rs, rs, *_STIFFNESS)
    # eps_c = eps_c(0) + alpha_c f (1 - zeta^4) / f''(0) + (eps_c(1) - eps_c(0)) f zeta^4
    return para + f_zeta4 * (ferro - para) + (f_zeta4 - f) * minus_alpha / _F_CURVATURE


class LDA(Functional):
    """Slater exchange with PW92 correlation, libxc's lda_x + lda_c_pw_mod."""

    features = ("density",)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume on each point, (n,) Hartree bohr^-3, of the density (2, n) bohr^-3."""
        spins = Spins.of(features["density"])
        exchange = SLATER * spins.root.square() * spins.part_4_3.sum(0)
        return spins.density * (exchange + pw92(spins))
