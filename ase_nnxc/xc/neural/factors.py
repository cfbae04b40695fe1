"""Exchange and correlation of a parent, each multiplied by a factor of one small network.

    E_x = sum_s int n_s eps_x^unif(2 n_s) F_x,   F_x = F0_x + B(F0_x y_x)
    E_c = int n eps_c^parent {1 + B(y_c)}

B keeps F_x between 0 and the Lieb-Oxford bound and the correlation energy from being positive; B(0) = 0, B'(0) = 1 and
B''(0) = 0 (`bounded` of `ase_nnxc.xc.constraints`). A product keeps zeros and limits of the parent: the correlation
energy of one electron, F_x ~ s^(-1/2) of r2SCAN for large s, and a finite eps_c for rs -> 0, because all inputs of the
network are bounded. With u = s^2 / (1 + s^2), v = t^2 / (1 + t^2), a = (alpha - 1) / (alpha + 1) and
r = 2 alpha / (1 + alpha), the outputs N_i of the network enter as

    y_x = r {u^2 N_1 + a N_2 + u (10/27 + 5 eta / 6) N_2(s = 0, alpha = 1)},   y_c = v^2 N_3 + a^2 N_4

for a meta-GGA, and as y_x = u^2 N_1, y_c = v^2 N_2 for a GGA. For all weights:

- The uniform gas and the gradient expansion of second order are those of the parent. In a slowly varying density
  alpha - 1 counts, after partial integration, as -(20/27 + 5 eta / 3) s^2 in exchange, and to first order a is half of
  alpha - 1. So a N_2 adds -(10/27 + 5 eta / 6) s^2 N_2(s = 0, alpha = 1), which the third term takes away again. In
  correlation, where partial integration brings the derivative of eps_c N_4 by rs, the gate a^2 is of fourth order.
- r is one in the uniform gas and zero for one orbital, where exchange remains that of the parent: F_x <= 1.174 and the
  energy of the hydrogen atom, if the parent has them.
- Where the room to a bound is wide, as it is for r2SCAN (F0_x <= 1.174 and the bound is 1.804), B is linear up to terms
  of third order in y, and y is linear in the weights of the last layer. Posteriors and ensembles of these weights are
  therefore made with the first derivatives of the energy. A functional that is exactly linear in the weights would need
  penalties for bounds that hold here by themselves.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..architecture import describe, register_architecture
from ..constraints import LIEB_OXFORD, bounded, fraction
from ..gga import PBE
from ..lda import Part, Semilocal, slater
from ..mgga import R2SCAN
from ..reduced import channel_alpha, channel_s2, channel_sigma, floored
from ..spins import Spins
from .constrained import build_parent, parent_enhancement
from .network import WIDTHS, Network, total_variables

_GGA = ("rs/(1+rs)", "zeta2", "s2/(1+s2)")
_META_GGA = (*_GGA, "alpha/(1+alpha)")


def _checked_scatter(scatter: Mapping[str, float]) -> dict[str, float]:
    """Return a copy of a mapping to standard deviations."""
    for name, value in scatter.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"scatter.{name}={value!r}: expected a standard deviation, a finite number from zero")
    return dict(scatter)


@register_architecture("neural-factors", 1)
class NeuralFactors(Semilocal):
    """A parent whose exchange and correlation are multiplied by factors of one network; equal to the parent at first.

    Exchange reads the network at rs = 0 and zeta = 0, so that spin scaling and uniform scaling hold.

    Parameters
    ----------
    parent : dict, optional
        A functional of the PBE or SCAN form as `describe` returns it; its rung is that of the new functional. Default:
        r2SCAN.
    widths : sequence of int
        Widths of the hidden layers.
    activation : str
        A key of `ACTIVATIONS`. With "tanh", the default, what the last layer multiplies is bounded.
    seed : int
        Seed of the weights of the hidden layers; those of the last layer begin as zeros.
    part : {"xc", "x", "c"}
        Exchange and correlation, exchange only, or correlation only.
    scatter : mapping of str to float, optional
        Standard deviations of errors that no weights of the last layer mend, by objective: of lattice constants and
        bulk moduli relative ones, of reaction energies in eV. A fit sets them; default: none are known.

    Attributes
    ----------
    posterior : Tensor
        (p, p) matrix L of the probable errors of the p numbers w of the last layer, w ~ N(w_fitted, L L^T); zero unless
        a fit has set it. See `ase_nnxc.calculator.ensemble`.

    Raises
    ------
    ValueError
        If the parent has another form, if the exchange of a GGA exceeds the Lieb-Oxford bound, or if the scatter is not
        made of finite numbers that are not negative; as `Network`.
    """

    posterior: Tensor

    def __init__(
        self,
        parent: Mapping[str, Any] | None = None,
        widths: Sequence[int] = WIDTHS,
        activation: str = "tanh",
        seed: int = 0,
        part: Part = "xc",
        scatter: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(part)
        self.scatter = _checked_scatter(scatter or {})
        self.parent = build_parent(describe(R2SCAN()) if parent is None else parent)
        self.features = self.parent.features
        self.meta = "tau" in self.features
        self.eta = getattr(self.parent, "eta", 0.0)
        self.widths, self.activation, self.seed = tuple(widths), activation, seed
        descriptors = _META_GGA if self.meta else _GGA
        self.network = Network(descriptors, 4 if self.meta else 2, widths, activation, seed, zero_output=True)
        size = sum(parameter.numel() for parameter in self.last_layer)
        self.register_buffer("posterior", torch.zeros(size, size, dtype=torch.float64, device="cpu"))
        self._check_bound()

    def forget_errors(self) -> None:
        """Set posterior and scatter to none, as those of other weights do not hold."""
        self.posterior.zero_()
        self.scatter = {}

    @property
    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Weights and biases of the last layer, whose flattened numbers `posterior` describes in this order."""
        return self.network.weights[-1], self.network.biases[-1]

    def enhancement(self, s2: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Return the exchange enhancement F_x of s^2 and, for a meta-GGA, of alpha, of the shape of `s2`."""
        zero, u = torch.zeros_like(s2), fraction(s2)
        variables = {"rs": zero, "zeta2": zero, "s2": s2}
        if alpha is not None:
            variables["alpha"] = alpha
        outputs = self.network(variables)
        y = u * u * outputs[0]
        if alpha is not None:
            r = 2 * fraction(floored(alpha))  # a = r - 1
            y = r * (y + (r - 1) * outputs[1] + u * (10 / 27 + 5 / 6 * self.eta) * self._uniform_gas_output())
        base = parent_enhancement(self.parent, variables)
        return base + bounded(base * y, base, 0.0, LIEB_OXFORD)

    def exchange(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the exchange energy per electron, (n,) Hartree."""
        s2 = channel_s2(spins, channel_sigma(features["gradient"]))
        alpha = channel_alpha(spins, s2, features["tau"], self.eta) if self.meta else None
        return slater(spins, self.enhancement(s2, alpha))

    def correlation(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the correlation energy per electron, (n,) Hartree."""
        names = {"rs", "zeta2", "s2", "t2"} | ({"alpha"} if self.meta else set())
        variables = total_variables(spins, features, names, self.eta)
        outputs, v = self.network(variables), fraction(variables["t2"])
        if self.meta:
            a = 2 * fraction(floored(variables["alpha"])) - 1
            y = v * v * outputs[2] + a * a * outputs[3]
        else:
            y = v * v * outputs[1]
        return self.parent.correlation(spins, features) * (1 + bounded(y, 1.0, 0.0, None))

    def _uniform_gas_output(self) -> Tensor:
        """Return N_2 of a meta-GGA at s = 0, alpha = 1, (1,)."""
        zero = self.network.weights[0].new_zeros(1)
        return self.network({"rs": zero, "zeta2": zero, "s2": zero, "alpha": zero + 1})[1]

    def _check_bound(self) -> None:
        """Raise ValueError if F0 of the PBE form, at most 1 + kappa, exceeds the bound; that of SCAN is below 1.174."""
        largest = 1 + float(self.parent.kappa) if isinstance(self.parent, PBE) else 0.0
        if largest > LIEB_OXFORD + 1e-9:
            raise ValueError(f"the exchange factor of the parent, up to {largest:g}, exceeds the bound {LIEB_OXFORD}")

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "parent": describe(self.parent),
            "widths": list(self.widths),
            "activation": self.activation,
            "seed": self.seed,
            **super().config(),
            **({"scatter": dict(self.scatter)} if self.scatter else {}),
        }
