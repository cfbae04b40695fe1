"""Neural functionals: networks of local variables of the density, free or held to exact conditions.

A network sees numbers without dimension that stay bounded or grow as a logarithm, one row each, and points along the
last axis. None of them has a root of the gradient or an odd power of zeta: so derivatives exist at zero gradient, and
the two spins are equal. Constraints and their formulae are in constraints.py.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from .architecture import build, describe, register_architecture
from .constraints import (
    CORRELATION_CONSTRAINTS,
    EXCHANGE_CONSTRAINTS,
    GRADIENT_EXPANSION,
    LIEB_OXFORD,
    ONE_ORBITAL,
    bounded,
    check_names,
    fraction,
    gated,
    lower_bound,
    upper_bound,
)
from .functional import Functional, Spins
from .gga import PBE
from .lda import SLATER, WIGNER_SEITZ, pw92, slater
from .mgga import SCAN
from .reduced import channel_alpha, channel_s2, channel_sigma, phi, t2, total_alpha, total_s2, total_sigma

WIDTHS = (16, 16)
USUAL_EXCHANGE = tuple(name for name in EXCHANGE_CONSTRAINTS if name != "one_orbital")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "tanh": torch.tanh,
}


def _itself(x: Tensor) -> Tensor:
    return x


# name: (variable, function of it). Logarithms have no bound, but log(1 + rs) < 9 above the density threshold, and
# log(1 + s^2) < 14 for s < 1000.
DESCRIPTORS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "rs/(1+rs)": ("rs", fraction),
    "log(1+rs)": ("rs", torch.log1p),
    "zeta2": ("zeta2", _itself),
    "phi": ("phi", _itself),
    "s2/(1+s2)": ("s2", fraction),
    "log(1+s2)": ("s2", torch.log1p),
    "t2/(1+t2)": ("t2", fraction),
    "log(1+t2)": ("t2", torch.log1p),
    "alpha/(1+alpha)": ("alpha", fraction),
    "log(1+alpha)": ("alpha", torch.log1p),
}


class Network(torch.nn.Module):
    """A fully connected network of descriptors.

    Parameters
    ----------
    descriptors : sequence of str
        Keys of `DESCRIPTORS`: its inputs.
    outputs : int
        How many.
    widths : sequence of int
        Of the hidden layers, at least one.
    activation : str
        A key of `ACTIVATIONS`.
    seed : int
        Of the random weights, from 0 to 2^63 - 1.
    zero_output : bool
        Whether the last layer begins with zeros.

    Raises
    ------
    ValueError
        If there is no descriptor, the activation is unknown, or widths or seed are not integers as they should be.
    """

    def __init__(
        self,
        descriptors: Sequence[str],
        outputs: int,
        widths: Sequence[int],
        activation: str,
        seed: int,
        zero_output: bool = False,
    ) -> None:
        super().__init__()
        check_names("activation", [activation], ACTIVATIONS)
        if not descriptors:
            raise ValueError("a network needs at least one descriptor")
        if not widths or any(type(width) is not int or width < 1 for width in widths):
            raise ValueError(f"widths={list(widths)}: one or more positive integers are expected")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed!r}: an integer from 0 to 2^63 - 1 is expected")
        self.descriptors = [DESCRIPTORS[name] for name in descriptors]
        self.activation = ACTIVATIONS[activation]
        generator = torch.Generator(device="cpu").manual_seed(seed)
        sizes = [len(descriptors), *widths, outputs]
        self.weights, self.biases = torch.nn.ParameterList(), torch.nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            weight, bias = torch.randn(
                2, fan_out, fan_in, dtype=torch.float64, device="cpu", generator=generator
            ) / math.sqrt(fan_in)
            self.weights.append(weight)
            self.biases.append(bias[:, :1].clone())
        if zero_output:
            torch.nn.init.zeros_(self.weights[-1])
            torch.nn.init.zeros_(self.biases[-1])

    def forward(self, variables: Mapping[str, Tensor]) -> Tensor:
        """Outputs (outputs, ...) of the local variables (...)."""
        inputs = torch.stack([function(variables[variable]) for variable, function in self.descriptors])
        x = inputs.flatten(1)  # (d, points): the long axis last
        *hidden, last = zip(self.weights, self.biases)
        for weight, bias in hidden:
            x = self.activation(torch.addmm(bias, weight, x))
        weight, bias = last
        return torch.addmm(bias, weight, x).unflatten(1, inputs.shape[1:])


def total_variables(
    spins: Spins, features: Mapping[str, Tensor], names: Collection[str], eta: float = 0.0
) -> dict[str, Tensor]:
    """Those named of rs, zeta2, phi, s2, t2, alpha of the total density, each (n,); `eta` of alpha, see `reduced`."""
    made = {}
    if "rs" in names:
        made["rs"] = WIGNER_SEITZ**2 / spins.root.square()
    if "zeta2" in names:
        made["zeta2"] = spins.zeta.square()
    if not {"phi", "t2"}.isdisjoint(names):
        made["phi"] = phi(spins)
    if not {"s2", "t2", "alpha"}.isdisjoint(names):
        sigma = total_sigma(features["gradient"])
    if not {"s2", "alpha"}.isdisjoint(names):
        made["s2"] = total_s2(spins, sigma)
    if "t2" in names:
        made["t2"] = t2(spins, sigma, made["phi"])
    if "alpha" in names:
        made["alpha"] = total_alpha(spins, made["s2"], features["tau"], eta)
    return made


def channel_variables(
    spins: Spins, features: Mapping[str, Tensor], names: Collection[str], eta: float = 0.0
) -> dict[str, Tensor]:
    """Those named of rs, s2, alpha of the doubled channels, each (m, n); `eta` of alpha, see `reduced`."""
    made = {}
    if "rs" in names:
        made["rs"] = 2 ** (-1 / 3) * WIGNER_SEITZ**2 / (spins.root.square() * spins.part_cbrt)
    if not {"s2", "alpha"}.isdisjoint(names):
        made["s2"] = channel_s2(spins, channel_sigma(spins, features["gradient"]))
        if "alpha" in names:
            made["alpha"] = channel_alpha(spins, made["s2"], features["tau"], eta)
    return made


@register_architecture("nnlda", 1)
class NNLDA(Functional):
    """Exchange and correlation by a network of density and polarisation, without constraints.

    The form of M. F. Kasim and S. M. Vinko, Phys. Rev. Lett. 127, 126403 (2021), and of arXiv:2602.15923. The output
    multiplies the exchange energy per electron of the unpolarised uniform gas: that goes as n^(1/3), to zero in vacuum
    and without bound where the density is large, as a network of bounded inputs cannot do by itself; what remains to
    be learnt is of order one.

    Parameters
    ----------
    descriptors : sequence of str, optional
        Inputs, keys of `DESCRIPTORS`; by default one bounded function of each variable.
    widths : sequence of int
        Of the hidden layers.
    activation : str
        A key of `ACTIVATIONS`.
    seed : int
        Of the random weights.

    Raises
    ------
    ValueError
        If a name is unknown, or a descriptor of a variable that this class has not.
    """

    features: tuple[str, ...] = ("density",)
    defaults: tuple[str, ...] = ("rs/(1+rs)", "zeta2")

    def __init__(
        self,
        descriptors: Sequence[str] | None = None,
        widths: Sequence[int] = WIDTHS,
        activation: str = "silu",
        seed: int = 0,
    ) -> None:
        super().__init__()
        variables = {DESCRIPTORS[name][0] for name in self.defaults}
        known = [name for name, (variable, _) in DESCRIPTORS.items() if variable in variables]
        self.descriptors = check_names("descriptor", self.defaults if descriptors is None else descriptors, known)
        self.widths, self.activation, self.seed = tuple(widths), activation, seed
        self.network = Network(self.descriptors, 1, widths, activation, seed)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume on each point, (n,) Hartree bohr^-3, of the `features` it names; see `Functional`."""
        spins = Spins.of(features["density"])
        variables = total_variables(spins, features, _variables(self.descriptors))
        uniform = 2 ** (-1 / 3) * SLATER * spins.root.square()
        return spins.density * uniform * self.network(variables)[0]

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "descriptors": list(self.descriptors),
            "widths": list(self.widths),
            "activation": self.activation,
            "seed": self.seed,
        }


@register_architecture("nngga", 1)
class NNGGA(NNLDA):
    """Exchange and correlation by a network of density, polarisation and reduced gradient; else as `NNLDA`."""

    features: tuple[str, ...] = ("density", "gradient")
    defaults: tuple[str, ...] = (*NNLDA.defaults, "s2/(1+s2)")


@register_architecture("nnmgga", 1)
class NNMGGA(NNGGA):
    """Exchange and correlation by a network of the variables of `NNGGA` and the indicator alpha; else as `NNLDA`."""

    features = ("density", "gradient", "tau")
    defaults = (*NNGGA.defaults, "alpha/(1+alpha)")


class _Constrained(Functional):
    """An enhancement factor held to constraints: what exchange and correlation share."""

    gradient: str  # whose zero is the uniform gas

    def __init__(
        self,
        descriptors: tuple[str, ...],
        constraints: tuple[str, ...],
        widths: Sequence[int],
        activation: str,
        parent: Mapping[str, Any] | None,
        form: str,
        seed: int,
    ) -> None:
        super().__init__()
        check_names("form", [form], ("additive", "multiplicative"))
        self.descriptors, self.constraints = descriptors, constraints
        self.widths, self.activation, self.form, self.seed = tuple(widths), activation, form, seed
        self.parent = None if parent is None else _parent(parent)
        self.eta = getattr(self.parent, "eta", 0.0)
        gated_by = {self.gradient} if "uniform_gas" in constraints else set()
        self.variables = _variables(descriptors) | gated_by
        self.meta = "alpha" in self.variables
        tau = self.meta or isinstance(self.parent, SCAN)
        self.features = ("density", "gradient", "tau") if tau else ("density", "gradient")
        outputs = 2 if gated_by and self.meta else 1
        self.network = Network(descriptors, outputs, widths, activation, seed, zero_output=parent is not None)

    def enhancement(self, variables: Mapping[str, Tensor], base: Tensor | float = 1.0) -> Tensor:
        """Enhancement factor F, of the shape of the variables.

        Parameters
        ----------
        variables : dict of str to Tensor
            Those that the attribute `variables` names, of one shape.
        base : Tensor or float
            F0: 1, or the parent's factor.
        """
        alpha = variables["alpha"] if self.meta else None
        outputs = self.network(variables)
        if "uniform_gas" in self.constraints:
            y = self._gated(outputs, fraction(variables[self.gradient]), alpha)
        else:
            y = outputs[0]
        if self.form == "multiplicative":
            y = base * y
        return base + bounded(y, base, lower_bound(self.constraints), self._upper(alpha))

    def _gated(self, outputs: Tensor, u: Tensor, alpha: Tensor | None) -> Tensor:
        return gated(self.constraints, outputs, u, alpha)

    def _upper(self, alpha: Tensor | None) -> Tensor | float | None:
        return None

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            "descriptors": list(self.descriptors),
            "constraints": list(self.constraints),
            "widths": list(self.widths),
            "activation": self.activation,
            "parent": None if self.parent is None else describe(self.parent),
            "form": self.form,
            "seed": self.seed,
        }

    def extra_repr(self) -> str:
        """The same but the parent, for `repr`."""
        return ", ".join(f"{key}={value!r}" for key, value in self.config().items() if key != "parent")


@register_architecture("neural-exchange", 1)
class NeuralExchange(_Constrained):
    """Exchange by a network, a GGA or, with a descriptor of alpha, a meta-GGA.

        E_x = sum_s int n_s eps_x^unif(2 n_s) F_x(s_s, alpha_s)

    Parameters
    ----------
    descriptors : sequence of str, optional
        Inputs, keys of `DESCRIPTORS` but those of t. By default those of s, and of the density and zeta where the
        constraints leave them.
    constraints : sequence of str
        Of `EXCHANGE_CONSTRAINTS`. "spin_scaling" (G. L. Oliver and J. P. Perdew, Phys. Rev. A 20, 397 (1979)) is the
        form above; without it the network sees the total density and its zeta, and multiplies the exchange of the
        polarised uniform gas. "uniform_scaling", E_x[lambda^3 n(lambda r)] = lambda E_x[n] (M. Levy and J. P. Perdew,
        Phys. Rev. A 32, 2010 (1985)), forbids descriptors of the density. The others are told by `gated`,
        `upper_bound` and `lower_bound` in constraints.py.
    mu : float, optional
        Of "gradient_expansion", by default 10/81. A parent brings its own. For a meta-GGA it is dF/ds^2 at alpha = 1,
        which leaves dF/dalpha, and with it the coefficient of a slowly varying density, to the network.
    trainable_mu : bool
        Whether mu is a parameter.
    lieb_oxford, one_orbital : float
        The bounds of these constraints.
    widths : sequence of int
        Of the hidden layers.
    activation : str
        A key of `ACTIVATIONS`.
    parent : dict, optional
        What `describe` says of a functional of the PBE or SCAN form: its factor is F0, and the last layer begins with
        zeros. Without parent F0 = 1, and all weights begin random.
    form : {"additive", "multiplicative"}
        How the network's y meets the parent: F = F0 + B(y) or F = F0 + B(F0 y). Where the parent nears a bound, the
        first has a bend at y = 0, as F may leave the bound and not cross it; the second has none at F = 0.
    seed : int
        Of the random weights.

    Raises
    ------
    ValueError
        If a name is unknown, a number is not finite, or constraints contradict each other, a descriptor or the parent.
    TypeError
        If mu or a bound is no number.
    """

    kind = "x"
    gradient = "s2"

    def __init__(
        self,
        descriptors: Sequence[str] | None = None,
        constraints: Sequence[str] = USUAL_EXCHANGE,
        mu: float | None = None,
        trainable_mu: bool = False,
        lieb_oxford: float = LIEB_OXFORD,
        one_orbital: float = ONE_ORBITAL,
        widths: Sequence[int] = WIDTHS,
        activation: str = "silu",
        parent: Mapping[str, Any] | None = None,
        form: Literal["additive", "multiplicative"] = "additive",
        seed: int = 0,
    ) -> None:
        given = {} if mu is None else {"mu": mu}
        for argument, value in {**given, "lieb_oxford": lieb_oxford, "one_orbital": one_orbital}.items():
            if isinstance(value, bool) or not isinstance(value, float | int):
                raise TypeError(f"{argument}={value!r}: a number is expected")
            if not math.isfinite(value):
                raise ValueError(f"{argument}={value!r}: a finite number is expected")
        constraints = check_names("constraint", constraints, EXCHANGE_CONSTRAINTS)
        descriptors = _exchange_descriptors(descriptors, constraints)
        super().__init__(descriptors, constraints, widths, activation, parent, form, seed)
        self.lieb_oxford, self.one_orbital, self.trainable_mu = lieb_oxford, one_orbital, trainable_mu
        self.initial_mu = self._initial_mu(mu)
        self.mu: Tensor | float | None = self.initial_mu
        if trainable_mu:
            self.mu = torch.nn.Parameter(torch.tensor(self.initial_mu, dtype=torch.float64, device="cpu"))
        self._check_bounds()

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume on each point, (n,) Hartree bohr^-3, of the `features` it names; see `Functional`."""
        spins = Spins.of(features["density"])
        if "spin_scaling" in self.constraints:
            energy = slater(spins, self._channel_enhancement(spins, features))
        else:
            uniform = slater(spins)
            base = 1.0 if self.parent is None else self.parent.exchange(spins, features) / uniform
            variables = total_variables(spins, features, self.variables, self.eta)
            energy = uniform * self.enhancement(variables, base)
        return spins.density * energy

    def _channel_enhancement(self, spins: Spins, features: dict[str, Tensor]) -> Tensor:
        """F_x (m, n) of the channels."""
        if self.parent is None:
            return self.enhancement(channel_variables(spins, features, self.variables))
        names = self.variables | ({"s2", "alpha"} if "tau" in self.parent.features else {"s2"})
        variables = channel_variables(spins, features, names, self.eta)
        return self.enhancement(variables, _parent_enhancement(self.parent, variables))

    def _gated(self, outputs: Tensor, u: Tensor, alpha: Tensor | None) -> Tensor:
        y = super()._gated(outputs, u, alpha)
        return y if self.mu is None else y + self.mu * u

    def _upper(self, alpha: Tensor | None) -> Tensor | float | None:
        return upper_bound(self.constraints, self.lieb_oxford, self.one_orbital, alpha)

    def _initial_mu(self, mu: float | None) -> float | None:
        """The mu to begin with; None where its constraint is not chosen or a parent brings it."""
        chosen = "gradient_expansion" in self.constraints
        if chosen and "uniform_gas" not in self.constraints:
            raise ValueError("'gradient_expansion' begins with the uniform gas: it needs the constraint 'uniform_gas'")
        if chosen and self.parent is None:
            return GRADIENT_EXPANSION if mu is None else mu
        if mu is not None or self.trainable_mu:
            why = "the parent brings its own" if chosen else "'gradient_expansion' is not among the constraints"
            raise ValueError(f"mu={mu}, trainable_mu={self.trainable_mu}: {why}")
        return None

    def _check_bounds(self) -> None:
        """The parent, or 1, must keep the bounds."""
        chosen = [name for name in ("one_orbital", "lieb_oxford") if name in self.constraints]
        if len(chosen) == 2 and self.one_orbital >= self.lieb_oxford:
            raise ValueError(f"one_orbital={self.one_orbital} is not below lieb_oxford={self.lieb_oxford}")
        mesh = torch.linspace(0, 1, 101, dtype=torch.float64, device="cpu")
        s2, alpha = torch.meshgrid(1e4 * mesh**4, 10 * mesh, indexing="ij")
        upper = self._upper(alpha if self.meta else None)
        base = 1.0 if self.parent is None else _parent_enhancement(self.parent, {"s2": s2, "alpha": alpha})
        excess = 0.0 if upper is None else torch.as_tensor(base - upper, device="cpu").max().item()
        if excess > 1e-9:
            base_name = "1" if self.parent is None else "that of the parent"
            raise ValueError(f"F0, {base_name}, exceeds the bound of {' and '.join(chosen)} by up to {excess:.3g}")

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        own = {
            "mu": self.initial_mu,
            "trainable_mu": self.trainable_mu,
            "lieb_oxford": self.lieb_oxford,
            "one_orbital": self.one_orbital,
        }
        return {**super().config(), **own}


@register_architecture("neural-correlation", 1)
class NeuralCorrelation(_Constrained):
    """Correlation by a network, a GGA or, with a descriptor of alpha, a meta-GGA.

        E_c = int n eps_c^unif(rs, zeta) F_c(rs, zeta^2, t, alpha),  eps_c^unif of PW92

    Parameters
    ----------
    descriptors : sequence of str
        Inputs, keys of `DESCRIPTORS`.
    constraints : sequence of str
        Of `CORRELATION_CONSTRAINTS`, told by `gated` and `lower_bound` in constraints.py. That the spins are equal is
        no choice.
    widths : sequence of int
        Of the hidden layers.
    activation : str
        A key of `ACTIVATIONS`.
    parent, form, seed
        As in `NeuralExchange`; F0 is the parent's eps_c over that of PW92.

    Raises
    ------
    ValueError
        If a name is unknown.
    """

    kind = "c"
    gradient = "t2"

    def __init__(
        self,
        descriptors: Sequence[str] = ("log(1+rs)", "zeta2", "log(1+t2)"),
        constraints: Sequence[str] = CORRELATION_CONSTRAINTS,
        widths: Sequence[int] = WIDTHS,
        activation: str = "silu",
        parent: Mapping[str, Any] | None = None,
        form: Literal["additive", "multiplicative"] = "additive",
        seed: int = 0,
    ) -> None:
        descriptors = check_names("descriptor", descriptors, DESCRIPTORS)
        constraints = check_names("constraint", constraints, CORRELATION_CONSTRAINTS)
        super().__init__(descriptors, constraints, widths, activation, parent, form, seed)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume on each point, (n,) Hartree bohr^-3, of the `features` it names; see `Functional`."""
        spins = Spins.of(features["density"])
        uniform = pw92(spins)
        base = 1.0 if self.parent is None else self.parent.correlation(spins, features) / uniform
        variables = total_variables(spins, features, self.variables, self.eta)
        return spins.density * uniform * self.enhancement(variables, base)


def _variables(descriptors: Sequence[str]) -> set[str]:
    return {DESCRIPTORS[name][0] for name in descriptors}


def _exchange_descriptors(descriptors: Sequence[str] | None, constraints: tuple[str, ...]) -> tuple[str, ...]:
    """Those asked for, or by default all variables of a GGA, as far as the constraints allow."""
    forbidden = {"zeta2": "spin_scaling", "phi": "spin_scaling", "rs": "uniform_scaling"}
    forbidden = {variable: name for variable, name in forbidden.items() if name in constraints}
    if descriptors is None:
        every = ("log(1+rs)", "zeta2", "log(1+s2)")
        return tuple(name for name in every if DESCRIPTORS[name][0] not in forbidden)
    known = [name for name, (variable, _) in DESCRIPTORS.items() if variable != "t2"]
    for name in check_names("descriptor", descriptors, known):
        if DESCRIPTORS[name][0] in forbidden:
            raise ValueError(f"descriptor {name!r} contradicts the constraint {forbidden[DESCRIPTORS[name][0]]!r}")
    return tuple(descriptors)


def _parent(description: Mapping[str, Any]) -> PBE | SCAN:
    parent = build(dict(description))
    if not isinstance(parent, PBE | SCAN):
        raise ValueError(
            f"parent {description['architecture']!r}: one of the form of 'pbe', 'scan' or 'r2scan' is expected"
        )
    return parent


def _parent_enhancement(parent: PBE | SCAN, variables: Mapping[str, Tensor]) -> Tensor:
    if isinstance(parent, SCAN):
        return parent.enhancement(variables["s2"], variables["alpha"])
    return parent.enhancement(variables["s2"])
