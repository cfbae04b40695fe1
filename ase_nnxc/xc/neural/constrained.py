"""Constrained networks: enhancement factors of exchange and correlation that satisfy exact conditions by their form.

The constraints and their formulas are in `ase_nnxc.xc.constraints`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..architecture import build, describe, register_architecture
from ..constraints import (
    CORRELATION_CONSTRAINTS,
    EXCHANGE_CONSTRAINTS,
    GRADIENT_EXPANSION,
    LIEB_OXFORD,
    ONE_ORBITAL,
    bounded,
    fraction,
    gated,
    lower_bound,
    upper_bound,
)
from ..functional import Functional
from ..gga import PBE
from ..lda import pw92, slater
from ..mgga import SCAN
from ..names import check_names
from ..reduced import floored
from ..spins import Spins
from .network import DESCRIPTORS, WIDTHS, Network, channel_variables, total_variables, variables_of

USUAL_EXCHANGE = tuple(name for name in EXCHANGE_CONSTRAINTS if name != "one_orbital")
"""Default constraints of exchange."""


class _Constrained(Functional):
    """An enhancement factor subject to constraints: the common part of exchange and correlation."""

    gradient: str  # the variable that is zero in the uniform gas

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
        self.parent = None if parent is None else build_parent(parent)
        self.eta = getattr(self.parent, "eta", 0.0)
        gated_by = {self.gradient} if "uniform_gas" in constraints else set()
        self.variables = variables_of(descriptors) | gated_by
        self.meta = "alpha" in self.variables
        tau = self.meta or isinstance(self.parent, SCAN)
        self.features = ("density", "gradient", "tau") if tau else ("density", "gradient")
        outputs = 2 if gated_by and self.meta else 1
        self.network = Network(descriptors, outputs, widths, activation, seed, zero_output=parent is not None)

    def enhancement(self, variables: Mapping[str, Tensor], base: Tensor | float = 1.0) -> Tensor:
        """Return the enhancement factor F, of the shape of the variables.

        Parameters
        ----------
        variables : dict of str to Tensor
            Those named in the attribute `variables`, all of one shape.
        base : Tensor or float
            F0: 1, or the factor of the parent.
        """
        alpha = floored(variables["alpha"]) if self.meta else None
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
        """Return the arguments of the constructor."""
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
        """Return the arguments of the constructor without the parent, for `repr`."""
        return ", ".join(f"{key}={value!r}" for key, value in self.config().items() if key != "parent")


@register_architecture("neural-exchange", 1)
class NeuralExchange(_Constrained):
    """Exchange as a network: a GGA or, with a descriptor of alpha, a meta-GGA.

        E_x = sum_s int n_s eps_x^unif(2 n_s) F_x(s_s, alpha_s)

    Parameters
    ----------
    descriptors : sequence of str, optional
        Inputs, keys of `DESCRIPTORS` except those of t. Default: functions of s, and of the density and zeta unless
        the constraints exclude them.
    constraints : sequence of str
        Names from `EXCHANGE_CONSTRAINTS`. "spin_scaling" (G. L. Oliver and J. P. Perdew, Phys. Rev. A 20, 397 (1979))
        is the form above; without it the network reads the total density and its zeta, and multiplies the exchange of
        the polarised uniform gas. "uniform_scaling", E_x[lambda^3 n(lambda r)] = lambda E_x[n] (M. Levy and
        J. P. Perdew, Phys. Rev. A 32, 2010 (1985)), excludes descriptors of the density. The others are explained in
        `gated`, `upper_bound` and `lower_bound` of `ase_nnxc.xc.constraints`.
    mu : float, optional
        Coefficient of "gradient_expansion". Default: 10/81, or that of the parent. For a meta-GGA it is dF/ds^2 at
        alpha = 1, which leaves dF/dalpha, and with it the coefficient of a slowly varying density, to the network.
    trainable_mu : bool
        Whether mu is a trainable parameter.
    lieb_oxford, one_orbital : float
        Bounds of the constraints of these names.
    widths : sequence of int
        Widths of the hidden layers.
    activation : str
        A key of `ACTIVATIONS`.
    parent : dict, optional
        A functional of the PBE or SCAN form as `describe` returns it: its factor is F0, and the last layer begins with
        zeros. Without a parent F0 = 1, and all weights begin random.
    form : {"additive", "multiplicative"}
        How y of the network enters: F = F0 + B(y) or F = F0 + B(F0 y). Where the parent is close to a bound, the first
        has a kink at y = 0, because F may move away from the bound but not cross it; the second has none at F = 0.
    seed : int
        Seed of the random weights.

    Raises
    ------
    ValueError
        If a name is unknown, if a number is not finite, or if a constraint contradicts another one, a descriptor or the
        parent.
    TypeError
        If mu or a bound is not a number.
    """

    kind = "x"
    closed_shell = True
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
                raise TypeError(f"{argument}={value!r}: expected a number")
            if not math.isfinite(value):
                raise ValueError(f"{argument}={value!r}: expected a finite number")
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
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; see `Functional`."""
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
        """F_x (nspin, n) of the channels."""
        if self.parent is None:
            return self.enhancement(channel_variables(spins, features, self.variables))
        names = self.variables | ({"s2", "alpha"} if "tau" in self.parent.features else {"s2"})
        variables = channel_variables(spins, features, names, self.eta)
        return self.enhancement(variables, parent_enhancement(self.parent, variables))

    def _gated(self, outputs: Tensor, u: Tensor, alpha: Tensor | None) -> Tensor:
        y = super()._gated(outputs, u, alpha)
        return y if self.mu is None else y + self.mu * u

    def _upper(self, alpha: Tensor | None) -> Tensor | float | None:
        return upper_bound(self.constraints, self.lieb_oxford, self.one_orbital, alpha)

    def _initial_mu(self, mu: float | None) -> float | None:
        """The initial mu; None if its constraint is not chosen or if it is that of a parent."""
        chosen = "gradient_expansion" in self.constraints
        if chosen and "uniform_gas" not in self.constraints:
            raise ValueError("the constraint 'gradient_expansion' requires the constraint 'uniform_gas'")
        if chosen and self.parent is None:
            return GRADIENT_EXPANSION if mu is None else mu
        if mu is not None or self.trainable_mu:
            why = "the parent has its own mu" if chosen else "'gradient_expansion' is not among the constraints"
            raise ValueError(f"mu={mu}, trainable_mu={self.trainable_mu}: {why}")
        return None

    def _check_bounds(self) -> None:
        """Raise ValueError if F0 exceeds a bound."""
        chosen = [name for name in ("one_orbital", "lieb_oxford") if name in self.constraints]
        if len(chosen) == 2 and self.one_orbital >= self.lieb_oxford:
            raise ValueError(f"one_orbital={self.one_orbital} must be below lieb_oxford={self.lieb_oxford}")
        mesh = torch.linspace(0, 1, 101, dtype=torch.float64, device="cpu")
        s2, alpha = torch.meshgrid(1e4 * mesh**4, 10 * mesh, indexing="ij")
        upper = self._upper(alpha if self.meta else None)
        base = 1.0 if self.parent is None else parent_enhancement(self.parent, {"s2": s2, "alpha": alpha})
        excess = 0.0 if upper is None else torch.as_tensor(base - upper, device="cpu").max().item()
        if excess > 1e-9:
            base_name = "1" if self.parent is None else "that of the parent"
            raise ValueError(f"F0, {base_name}, exceeds the bound of {' and '.join(chosen)} by up to {excess:.3g}")

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        constants = {
            "mu": self.initial_mu,
            "trainable_mu": self.trainable_mu,
            "lieb_oxford": self.lieb_oxford,
            "one_orbital": self.one_orbital,
        }
        return {**super().config(), **constants}


@register_architecture("neural-correlation", 1)
class NeuralCorrelation(_Constrained):
    """Correlation as a network: a GGA or, with a descriptor of alpha, a meta-GGA.

        E_c = int n eps_c^unif(rs, zeta) F_c(rs, zeta^2, t, alpha),  eps_c^unif of PW92

    Parameters
    ----------
    descriptors : sequence of str
        Inputs, keys of `DESCRIPTORS`.
    constraints : sequence of str
        Names from `CORRELATION_CONSTRAINTS`, explained in `gated` and `lower_bound` of `ase_nnxc.xc.constraints`. The
        two spins are always equivalent.
    widths : sequence of int
        Widths of the hidden layers.
    activation : str
        A key of `ACTIVATIONS`.
    parent, form, seed
        As in `NeuralExchange`; F0 is eps_c of the parent divided by that of PW92.

    Raises
    ------
    ValueError
        If a name is unknown.
    """

    kind = "c"
    closed_shell = True
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
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; see `Functional`."""
        spins = Spins.of(features["density"])
        uniform = pw92(spins)
        base = 1.0 if self.parent is None else self.parent.correlation(spins, features) / uniform
        variables = total_variables(spins, features, self.variables, self.eta)
        return spins.density * uniform * self.enhancement(variables, base)


def _exchange_descriptors(descriptors: Sequence[str] | None, constraints: tuple[str, ...]) -> tuple[str, ...]:
    """The descriptors given, or by default functions of all variables of a GGA that the constraints allow."""
    forbidden = {"zeta2": "spin_scaling", "phi": "spin_scaling", "rs": "uniform_scaling"}
    forbidden = {variable: name for variable, name in forbidden.items() if name in constraints}
    if descriptors is None:
        defaults = ("log(1+rs)", "zeta2", "log(1+s2)")
        return tuple(name for name in defaults if DESCRIPTORS[name][0] not in forbidden)
    known = [name for name, (variable, _) in DESCRIPTORS.items() if variable != "t2"]
    for name in check_names("descriptor", descriptors, known):
        if DESCRIPTORS[name][0] in forbidden:
            raise ValueError(f"descriptor {name!r} contradicts the constraint {forbidden[DESCRIPTORS[name][0]]!r}")
    return tuple(descriptors)


def build_parent(description: Mapping[str, Any]) -> PBE | SCAN:
    """Return the functional of a description; raise ValueError if it is not of the PBE or SCAN form."""
    parent = build(dict(description))
    if not isinstance(parent, PBE | SCAN):
        raise ValueError(f"parent {description['architecture']!r}: expected an architecture 'pbe', 'scan' or 'r2scan'")
    return parent


def parent_enhancement(parent: PBE | SCAN, variables: Mapping[str, Tensor]) -> Tensor:
    """Return F0, the exchange enhancement of a parent, of the shape of the variables s2 and alpha."""
    if isinstance(parent, SCAN):
        return parent.enhancement(variables["s2"], variables["alpha"])
    return parent.enhancement(variables["s2"])
