"""Generalised gradient approximations of the PBE form.

J. P. Perdew, K. Burke and M. Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996), equations "PBE" below. Constants are those of
libxc: gga_x_pbe, gga_x_pbe_sol, gga_x_rpbe, gga_x_pbe_r, gga_c_pbe, gga_c_pbe_sol.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .architecture import register_architecture
from .lda import Part, Semilocal, pw92, slater
from .reduced import channel_s2, channel_sigma, phi, t2, total_sigma
from .spins import Spins

BETA = 0.06672455060314922
MU = 0.2195149727645171  # beta pi^2 / 3
KAPPA = 0.804
GAMMA = (1 - math.log(2)) / math.pi**2


@register_architecture("pbe", 1)
class PBE(Semilocal):
    """PBE exchange and correlation, and its relatives with other parameters.

    Parameters
    ----------
    kappa, mu : float
        Parameters of the exchange enhancement, which begins as 1 + mu s^2 and is at most 1 + kappa.
    beta : float
        Gradient coefficient of correlation.
    form : {"pbe", "rpbe"}
        Form of the enhancement factor: the rational function of PBE, or the exponential of RPBE.
    part : {"xc", "x", "c"}
        Exchange and correlation, exchange only, or correlation only.
    trainable : sequence of str
        Those of kappa, mu and beta that are trainable parameters of the module.
    """

    features = ("density", "gradient")
    kappa: float | Tensor
    mu: float | Tensor
    beta: float | Tensor

    def __init__(
        self,
        kappa: float = KAPPA,
        mu: float = MU,
        beta: float = BETA,
        form: Literal["pbe", "rpbe"] = "pbe",
        part: Part = "xc",
        trainable: Sequence[str] = (),
    ) -> None:
        super().__init__(part)
        if form not in ("pbe", "rpbe"):
            raise ValueError(f"form={form!r}: expected 'pbe' or 'rpbe'")
        numbers = {"kappa": kappa, "mu": mu, "beta": beta}
        if not numbers.keys() >= set(trainable):
            raise ValueError(f"trainable={trainable!r}: expected some of {', '.join(numbers)}")
        if not (math.isfinite(mu) and math.isfinite(beta) and 0 < kappa < math.inf):
            raise ValueError(f"kappa={kappa!r}, mu={mu!r}, beta={beta!r}: expected finite numbers, kappa above zero")
        for name, value in numbers.items():
            number = torch.tensor(value, dtype=torch.float64, device="cpu")
            setattr(self, name, torch.nn.Parameter(number) if name in trainable else value)
        self.form, self.trainable = form, tuple(trainable)

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        numbers = {name: getattr(self, name) for name in ("kappa", "mu", "beta")}
        numbers |= {name: numbers[name].item() for name in self.trainable}
        return {**numbers, "form": self.form, "trainable": list(self.trainable), **super().config()}

    def enhancement(self, s2: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Return the exchange enhancement F, of the shape of the squared reduced gradient `s2`; `alpha` is ignored."""
        x = self.mu / self.kappa * s2
        if self.form == "rpbe":  # F = 1 + kappa (1 - exp(-mu s^2 / kappa))
            return 1 - self.kappa * torch.expm1(-x)
        return 1 + self.kappa - self.kappa / (1 + x)  # PBE, Eq. 14

    def exchange(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the exchange energy per electron, (n,) Hartree."""
        s2 = channel_s2(spins, channel_sigma(features["gradient"]))
        return slater(spins, self.enhancement(s2))

    def correlation(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the correlation energy per electron, (n,) Hartree."""
        uniform = pw92(spins)
        scaling = phi(spins)
        scale = GAMMA * scaling * scaling * scaling
        # PBE, Eq. 8: A = beta / gamma / (exp(-eps_c / (gamma phi^3)) - 1)
        t_squared = t2(spins, total_sigma(features["gradient"]), scaling)
        y = self.beta / GAMMA * t_squared / torch.expm1(-uniform / scale)
        # PBE, Eq. 7: H = gamma phi^3 ln(1 + beta / gamma t^2 (1 + y) / (1 + y + y^2)) with y = A t^2
        one_y = 1 + y
        return uniform + scale * torch.log1p(self.beta / GAMMA * t_squared * one_y / (one_y + y * y))


def pbesol(part: Part = "xc") -> PBE:
    """PBEsol: J. P. Perdew et al., Phys. Rev. Lett. 100, 136406 (2008), mu = 10/81 and beta = 0.046."""
    return PBE(mu=10 / 81, beta=0.046, part=part)


def rpbe(part: Part = "xc") -> PBE:
    """RPBE: B. Hammer, L. B. Hansen and J. K. Norskov, Phys. Rev. B 59, 7413 (1999), exponential enhancement."""
    return PBE(form="rpbe", part=part)


def revpbe(part: Part = "xc") -> PBE:
    """revPBE: Y. Zhang and W. Yang, Phys. Rev. Lett. 80, 890 (1998), kappa = 1.245."""
    return PBE(kappa=1.245, part=part)
