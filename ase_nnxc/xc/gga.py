"""Generalised gradient approximations of the PBE form.

J. P. Perdew, K. Burke and M. Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996), equations "PBE" below. Constants are those of
libxc: gga_x_pbe, gga_x_pbe_sol, gga_x_rpbe, gga_x_pbe_r, gga_c_pbe, gga_c_pbe_sol.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from .functional import Functional, Spins
from .lda import SLATER, pw92

BETA = 0.06672455060314922
MU = 0.2195149727645171  # beta pi^2 / 3
KAPPA = 0.804
GAMMA = (1 - math.log(2)) / math.pi**2

# reduced gradient of a channel, s^2 = sigma_ss / ((3 pi^2)^(2/3) (2 n_s)^(8/3)) = _S2 sigma_ss / n_s^(8/3)
_S2 = (3 * math.pi**2) ** (-2 / 3) * 2 ** (-8 / 3)
# phi = ((1 + zeta)^(2/3) + (1 - zeta)^(2/3)) / 2 = _PHI sum_s (n_s / n)^(2/3)
_PHI = 2 ** (-1 / 3)
# t^2 = sigma / (2 phi k_s n)^2 with k_s^2 = 4 k_F / pi, k_F = (3 pi^2 n)^(1/3): _T2 sigma / (phi^2 n^(7/3))
_T2 = math.pi / 16 * (3 * math.pi**2) ** (-1 / 3)


class PBE(Functional):
    """PBE exchange and correlation, and its relatives by other parameters.

    Parameters
    ----------
    kappa, mu : float
        Of the exchange enhancement: its largest value is 1 + kappa, its curvature in the reduced gradient mu.
    beta : float
        Gradient coefficient of correlation.
    form : {"pbe", "rpbe"}
        Enhancement factor: PBE's rational one, or the exponential of RPBE.
    """

    features = ("density", "gradient")

    def __init__(
        self, kappa: float = KAPPA, mu: float = MU, beta: float = BETA, form: Literal["pbe", "rpbe"] = "pbe"
    ) -> None:
        super().__init__()
        self.kappa, self.mu, self.beta, self.form = kappa, mu, beta, form

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume on each point, (n,) Hartree bohr^-3.

        Parameters
        ----------
        features : dict of str to Tensor
            "density" (2, n) bohr^-3 and "gradient" (2, 3, n) bohr^-4.
        """
        spins = Spins.of(features["density"])
        gradient = features["gradient"]
        sigma_ss = gradient.square().sum(1)
        sigma = gradient.sum(0).square().sum(0)
        return spins.density * (self._exchange(spins, sigma_ss) + self._correlation(spins, sigma))

    def extra_repr(self) -> str:
        """The parameters, for `repr`."""
        return f"kappa={self.kappa}, mu={self.mu}, beta={self.beta}, form={self.form!r}"

    def enhancement(self, s2: Tensor) -> Tensor:
        """Exchange enhancement F of the squared reduced gradient, of the shape of `s2`."""
        x = self.mu / self.kappa * s2
        if self.form == "rpbe":  # F = 1 + kappa (1 - exp(-mu s^2 / kappa))
            return 1 - self.kappa * torch.expm1(-x)
        return 1 + self.kappa - self.kappa / (1 + x)  # PBE, Eq. 14

    def _exchange(self, spins: Spins, sigma_ss: Tensor) -> Tensor:
        """Exchange per electron, (n,) Hartree, of the squared gradients (2, n) of the channels."""
        n_cbrt = spins.root.square()
        s2 = _S2 * sigma_ss / (n_cbrt.square().square() * spins.part_4_3).square()
        return SLATER * n_cbrt * (spins.part_4_3 * self.enhancement(s2)).sum(0)

    def _correlation(self, spins: Spins, sigma: Tensor) -> Tensor:
        """Correlation per electron, (n,) Hartree, of the squared gradient (n,) of the total density."""
        uniform = pw92(spins)
        phi = _PHI * spins.part_cbrt.square().sum(0)
        scale = GAMMA * phi * phi * phi
        n_cbrt = spins.root.square()
        t2 = _T2 * sigma / (phi * n_cbrt**3 * spins.root).square()
        # PBE, Eq. 8: A = beta / gamma / (exp(-eps_c / (gamma phi^3)) - 1)
        y = self.beta / GAMMA * t2 / torch.expm1(-uniform / scale)
        # PBE, Eq. 7: H = gamma phi^3 ln(1 + beta / gamma t^2 (1 + y) / (1 + y + y^2)) with y = A t^2
        one_y = 1 + y
        return uniform + scale * torch.log1p(self.beta / GAMMA * t2 * one_y / (one_y + y * y))


def pbesol() -> PBE:
    """PBEsol: J. P. Perdew et al., Phys. Rev. Lett. 100, 136406 (2008), mu = 10/81 and beta = 0.046."""
    return PBE(mu=10 / 81, beta=0.046)


def rpbe() -> PBE:
    """RPBE: B. Hammer, L. B. Hansen and J. K. Norskov, Phys. Rev. B 59, 7413 (1999), exponential enhancement."""
    return PBE(form="rpbe")


def revpbe() -> PBE:
    """revPBE: Y. Zhang and W. Yang, Phys. Rev. Lett. 80, 890 (1998), kappa = 1.245."""
    return PBE(kappa=1.245)
