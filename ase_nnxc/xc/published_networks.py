"""Published networks in the form in which they were fitted; `ase_nnxc.interop.published_weights` reads their files.

Their tensors are zero until a checkpoint or an import fills them.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from .architecture import register_architecture
from .functional import Functional
from .lda import Semilocal, pw92, slater
from .names import check_names
from .reduced import channel_alpha, channel_s2, channel_sigma, total_alpha, total_s2, total_sigma
from .spins import Spins, spin_sum

_SMALLEST_S2 = 1e-20  # lower limit of s^2 under the root; everything made from s begins as s^3
_ROUNDED = 0.1  # |zeta| below which the kink of |zeta| is rounded


@register_architecture("dpyscf", 1)
class Dpyscf(Semilocal):
    """Enhancement factor of exchange, or of the correlation of the uniform gas, as a network of logarithms.

    S. Dick and M. Fernandez-Serra, Phys. Rev. B 104, L161109 (2021), as in the networks of the repository semodi/dpyscf
    that clone conventional functionals. The network N reads functions of s and alpha of a doubled channel (exchange) or
    of the total density (correlation):

        x0 = ln(n^(1/3) + offset),  x1 = ln(((1 + zeta)^(4/3) + (1 - zeta)^(4/3)) / 2),
        x2 = (1 - exp(-s^2)) ln(1 + s),  x3 = ln((alpha + 1) / 2),

    for exchange only x2 (and x3). With a gate G and the bound a

        F_x = a sigma(G N - ln(a - 1)),  F_c = 2 sigma(-G N),   sigma(y) = 1 / (1 + exp(-y)).

    For correlation s is divided by (1 + |zeta|)^(2/3) + (1 - |zeta|)^2 / 3, as in the fits. The published code has
    zeta in place of |zeta|, so that up and down are not equivalent, and the last term was meant to be (1 - zeta)^(2/3).
    In the fits the majority was up; the divisor with |zeta| has two continuous derivatives at zeta = 0. The small
    numbers that the code adds to denominators were zero in the fits, and are zero here. x2 begins with s^3: F has no
    term s^2.

    Parameters
    ----------
    part : {"x", "c"}
        Exchange or correlation.
    layers : sequence of int
        Numbers of inputs (exchange 1 or 2, correlation 3 or 4; the larger is a meta-GGA), of hidden units, and 1.
    gate : {"linear", "tanh"} or None
        G = x2 or tanh(x2), plus tanh(x3)^2 for a meta-GGA, which is zero in the uniform gas; None is G = 1.
    bound : float or None
        a, larger than one, and 2 for correlation; None is F = 1 + G N.
    softplus : bool
        Whether N is ln(1 + exp(output)), so that F_c <= 1.
    eta : float
        Constant of the indicator alpha, see `reduced`.
    offset : float
        Constant of x0, bohr^-1.
    """

    def __init__(
        self,
        part: Literal["x", "c"],
        layers: Sequence[int],
        gate: Literal["linear", "tanh"] | None,
        bound: float | None,
        softplus: bool = False,
        eta: float = 0.0,
        offset: float = 1e-5,
    ) -> None:
        super().__init__(part)
        if (part, layers[0]) not in (("x", 1), ("x", 2), ("c", 3), ("c", 4)):
            raise ValueError(
                f"part={part!r}, layers={list(layers)}: expected 'x' with 1 or 2 inputs or 'c' with 3 or 4"
            )
        if gate not in ("linear", "tanh", None):
            raise ValueError(f"gate={gate!r}: expected 'linear', 'tanh' or None")
        self.layers, self.gate, self.bound, self.softplus = tuple(layers), gate, bound, softplus
        self.eta, self.offset = eta, offset
        self.features = ("density", "gradient", "tau") if layers[0] in (2, 4) else ("density", "gradient")
        self.net = _network(layers, torch.nn.GELU)

    def exchange(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the exchange energy per electron, (n,) Hartree."""
        s2 = channel_s2(spins, channel_sigma(features["gradient"]))
        inputs = [_x2(s2)]
        if "tau" in self.features:
            inputs.append(_x3(channel_alpha(spins, s2, features["tau"], self.eta)))
        return slater(spins, self._factor(inputs, inputs))

    def correlation(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """Return the correlation energy per electron, (n,) Hartree."""
        s2 = total_s2(spins, total_sigma(features["gradient"]))
        # ((1 + zeta)^(4/3) + (1 - zeta)^(4/3)) / 2 = 2^(1/3) sum_s (n_s / n)^(4/3)
        polarisation = (2 ** (1 / 3) * spin_sum(spins.part_4_3)).log()
        inputs = [(spins.root.square() + self.offset).log(), polarisation, _x2(s2 / _divisor(spins) ** 2)]
        if "tau" in self.features:
            inputs.append(_x3(total_alpha(spins, s2, features["tau"], self.eta)))
        return pw92(spins) * self._factor(inputs, inputs[2:])

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().config(),
            "layers": list(self.layers),
            "gate": self.gate,
            "bound": self.bound,
            "softplus": self.softplus,
            "eta": self.eta,
            "offset": self.offset,
        }

    def _factor(self, inputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """F, of the shape of the inputs; `gradients` are x2 (and x3) among them, from which the gate is made."""
        y = self.net(torch.stack(inputs, dim=-1)).squeeze(-1)
        if self.softplus:
            y = torch.nn.functional.softplus(y)
        if self.gate is not None:
            x2, *x3 = gradients
            y = y * sum((x.tanh().square() for x in x3), start=x2.tanh() if self.gate == "tanh" else x2)
        if self.kind == "c":
            y = -y
        return 1 + y if self.bound is None else self.bound * torch.sigmoid(y - math.log(self.bound - 1))


@register_architecture("nagai", 1)
class Nagai(Functional):
    """Exchange and correlation as a network of logarithms, without constraints.

    R. Nagai, R. Akashi and O. Sugino, npj Comput. Mater. 6, 43 (2020): NN-LSDA, NN-GGA and NN-meta-GGA. With a small
    offset d of the repository ml-electron-project/NNfunctional,

        n' = n + d,  zeta' = (n_up - n_dn) / n',  phi_k = (1 + zeta')^(k/3) + (1 - zeta')^(k/3),
        t = (n'^(1/3), phi_4 / 2, ((|grad n|^2 + 4 d)^(1/2) + d) / n'^(4/3), (tau + d) / (n'^(5/3) phi_5)),
        eps_xc = -n^(1/3) phi_4 / 2 (1 + ELU(N(ln t))).

    They were fitted to molecules and do not reproduce the uniform gas: they are not suitable for metals.

    Parameters
    ----------
    layers : sequence of int
        Numbers of inputs (2 for the density, 3 with its gradient, 4 with tau), of hidden units, and 1.
    offset : float
        d, in atomic units.
    """

    closed_shell = True

    def __init__(self, layers: Sequence[int], offset: float = 1e-7) -> None:
        super().__init__()
        if layers[0] not in (2, 3, 4):
            raise ValueError(f"layers={list(layers)}: expected 2, 3 or 4 inputs")
        self.layers, self.offset = tuple(layers), offset
        self.features = ("density", "gradient", "tau")[: layers[0] - 1]
        self.net = _network(layers, torch.nn.ELU)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; see `Functional`."""
        spins = Spins.of(features["density"])
        n_cbrt = spins.root.square()
        n = n_cbrt * n_cbrt * n_cbrt
        # 1 + zeta' and 1 - zeta' are (2 n_s + d) / (n + d)
        share = (2 * n * spins.part_4_3 / spins.part_cbrt + self.offset) / (n + self.offset)
        cbrt = (n + self.offset) ** (1 / 3)
        polarisation = 0.5 * spin_sum(share ** (4 / 3))
        t = [cbrt, polarisation]
        if "gradient" in self.features:
            sigma = total_sigma(features["gradient"])
            t.append(((sigma + 4 * self.offset).sqrt() + self.offset) / cbrt**4)
        if "tau" in self.features:  # noise of the grid can make it negative
            tau = spin_sum(features["tau"]).clamp(min=0.0)
            t.append((tau + self.offset) / (cbrt**5 * spin_sum(share ** (5 / 3))))
        y = self.net(torch.stack(t, dim=-1).log()).squeeze(-1)
        return -spins.density * n_cbrt * polarisation * (1 + torch.nn.functional.elu(y))

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"layers": list(self.layers), "offset": self.offset}


@register_architecture("deepchem-lda", 1)
class DeepChemLDA(Functional):
    """The network in DeepChem's HybridXC of an LDA: an energy per electron of the density and the polarisation.

    A. Vidhyadhiraja et al., arXiv:2309.15985. With zeta = (n_up - n_dn) / n, and n in bohr^-3,

        E = int n N(n, zeta).

    DeepChem's network reads zeta with its sign, so that up and down are not equivalent. Here the majority at each point
    is treated as up: N reads |zeta|. In DeepChem's calculations up is the spin with more electrons, so that zeta is
    positive nearly everywhere. The kink of |zeta| would make a step in the potential. Below 0.1 the network therefore
    reads 0.1 u^2 (3 - 3 u + u^2), u = |zeta| / 0.1, which has two continuous derivatives. The energies of DeepChem are
    those of closed shells and of points with zeta >= 0.1.

    It is the network only. `HybridXC` adds the conventional functional and the weights of both.

    Parameters
    ----------
    widths : sequence of int
        Widths of the hidden layers. The bias of the output is zero in DeepChem's networks.
    activation : {"softplus", "expm1"}
        Activation of the last hidden layer, ln(1 + exp(x)) or exp(x) - 1. That of all others is softplus.
    """

    closed_shell = True

    def __init__(self, widths: Sequence[int], activation: Literal["softplus", "expm1"] = "softplus") -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths is empty: expected one hidden layer or more")
        check_names("activation", [activation], _LAST)
        self.widths, self.activation = tuple(widths), activation
        self.net = _network([2, *widths, 1], torch.nn.Softplus)
        self.net[-2] = _LAST[activation]()

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; see `Functional`."""
        spins = Spins.of(features["density"])
        zeta = spins.zeta if spins.paired else _rounded_size(spins.zeta)
        energy: Tensor = self.net(torch.stack([spins.density, zeta], dim=-1)).squeeze(-1)
        return spins.density * energy

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"widths": list(self.widths), "activation": self.activation}


class _ExpM1(torch.nn.Module):
    """exp(x) - 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expm1()


_LAST: dict[str, Callable[[], torch.nn.Module]] = {"softplus": torch.nn.Softplus, "expm1": _ExpM1}


def _network(layers: Sequence[int], activation: Callable[[], torch.nn.Module]) -> torch.nn.Sequential:
    """Fully connected layers with zero tensors, and the activation between them."""
    modules: list[torch.nn.Module] = []
    for fan_in, fan_out in pairwise(layers):
        linear = torch.nn.utils.skip_init(torch.nn.Linear, fan_in, fan_out, dtype=torch.float64, device="cpu")
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        modules += [linear, activation()]
    return torch.nn.Sequential(*modules[:-1])


def _x2(s2: Tensor) -> Tensor:
    """x2 = (1 - exp(-s^2)) ln(1 + s), of the shape of `s2`."""
    s2 = s2.clamp(min=_SMALLEST_S2)
    return -torch.expm1(-s2) * torch.log1p(s2.sqrt())


def _x3(alpha: Tensor) -> Tensor:
    """x3 = ln((alpha + 1) / 2), of the shape of `alpha`."""
    return (0.5 * alpha + 0.5).log()


def _rounded_size(zeta: Tensor) -> Tensor:
    """|zeta|, and below d = 0.1 the polynomial d u^2 (3 - 3 u + u^2) of u = |zeta| / d; of the shape of `zeta`."""
    size, u2 = zeta.abs(), zeta.square() / _ROUNDED**2  # u2 has the right second derivative at zero
    rounded = _ROUNDED * u2 * (3 - 3 * size / _ROUNDED + u2)
    return torch.where(size < _ROUNDED, rounded, size)


def _divisor(spins: Spins) -> Tensor | float:
    """(1 + |zeta|)^(2/3) + (1 - |zeta|)^2 / 3, (n,)."""
    if spins.paired:
        return 4 / 3
    minority, majority = spins.part_cbrt.sort(dim=0).values
    # (n_s / n)^(1/3) of the two; 1 + |zeta| and 1 - |zeta| are twice the shares
    return 2 ** (2 / 3) * majority.square() + 4 / 3 * minority**6
