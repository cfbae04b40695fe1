"""Functionals made of functionals: fixed sums, and the hybrid of a network with a conventional functional."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .architecture import build, describe, register_architecture
from .functional import Functional

_TOLERANCE = 1e-12


@register_architecture("sum", 1)
class Sum(Functional):
    """Functionals added up with fixed coefficients: exchange and correlation parts, mixtures, corrections.

    Its kind follows from its terms. Exchange and correlation must add up to one each; terms of exchange alone, or of
    correlation alone, make such a part and add up to one of it. Corrections are added freely.

    Parameters
    ----------
    terms : sequence of (float, Functional or dict)
        Coefficients with their functionals, or with what `describe` made of these.

    Raises
    ------
    ValueError
        If the terms add up to anything else than one; the message tells the totals.
    """

    def __init__(self, terms: Sequence[tuple[float, Functional | Mapping[str, Any]]]) -> None:
        super().__init__()
        self.coefficients = tuple(float(coefficient) for coefficient, _ in terms)
        if not terms or not all(map(math.isfinite, self.coefficients)):
            raise ValueError("a sum of functionals needs at least one term, and coefficients that are finite numbers")
        parts = [_made(part) for _, part in terms]
        self.parts = cast("list[Functional]", torch.nn.ModuleList(parts))
        self.features = _features(parts)
        self.kind = _kind(self.coefficients, parts)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume on each point, (n,) Hartree bohr^-3; `features` as the terms need them."""
        energy = self.coefficients[0] * self.parts[0](features)
        for coefficient, part in zip(self.coefficients[1:], self.parts[1:]):
            energy = energy + coefficient * part(features)
        return energy

    def config(self) -> dict[str, Any]:
        """The terms, each functional by its `describe`."""
        return {"terms": [[c, describe(part)] for c, part in zip(self.coefficients, self.parts)]}

    def extra_repr(self) -> str:
        """The coefficients, for `repr`."""
        return f"coefficients={self.coefficients}"


@register_architecture("hybrid", 1)
class HybridXC(Functional):
    """A neural and a conventional functional with weights of their own: E = a E_neural + b E_conventional.

    The form of M. F. Kasim and S. M. Vinko, Phys. Rev. Lett. 127, 126403 (2021), and of arXiv:2602.15923, who begin
    with a = 0 and b = 1 and train a and b with the network. It mixes two semilocal functionals and holds no exact
    exchange, whatever its name suggests. It is the only composition whose weights need not add up to one.

    Parameters
    ----------
    neural, conventional : Functional or dict
        The functionals, or what `describe` made of them.
    a, b : float
        Their weights.
    trainable : bool
        Whether the weights are parameters, or fixed buffers.

    Raises
    ------
    ValueError
        If the network is neither of the kind of the conventional functional nor a correction.
    """

    a: Tensor
    b: Tensor

    def __init__(
        self,
        neural: Functional | Mapping[str, Any],
        conventional: Functional | Mapping[str, Any],
        a: float = 0.0,
        b: float = 1.0,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.neural, self.conventional, self.trainable = _made(neural), _made(conventional), trainable
        for name, value in (("a", a), ("b", b)):
            weight = torch.tensor(value, dtype=torch.float64, device="cpu")
            if trainable:
                self.register_parameter(name, torch.nn.Parameter(weight))
            else:
                self.register_buffer(name, weight)
        self.features = _features(self.parts)
        self.kind = self.conventional.kind
        if self.neural.kind not in (self.kind, "correction"):
            raise ValueError(f"functionals of kinds {self.neural.kind!r} and {self.kind!r} make no hybrid")

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume on each point, (n,) Hartree bohr^-3; `features` as both functionals need them."""
        return self.a * self.neural(features) + self.b * self.conventional(features)

    @property
    def parts(self) -> tuple[Functional, Functional]:
        """The functionals."""
        return self.neural, self.conventional

    def config(self) -> dict[str, Any]:
        """The functionals by their `describe`; the weights stand among the tensors."""
        return {
            "neural": describe(self.neural),
            "conventional": describe(self.conventional),
            "trainable": self.trainable,
        }

    def extra_repr(self) -> str:
        """The weights, for `repr`."""
        return f"a={self.a.item()}, b={self.b.item()}, trainable={self.trainable}"


def _made(part: Functional | Mapping[str, Any]) -> Functional:
    return part if isinstance(part, Functional) else build(dict(part))


def _features(parts: Sequence[Functional]) -> tuple[str, ...]:
    return tuple(sorted({feature for part in parts for feature in part.features}))


def _kind(coefficients: Sequence[float], parts: Sequence[Functional]) -> str:
    """What the terms are the energy of, if they add up to one of it."""
    kinds = {part.kind for part in parts} - {"correction"}
    if not kinds:
        return "correction"
    kind = kinds.pop() if len(kinds) == 1 else "xc"
    exchange = math.fsum(c for c, part in zip(coefficients, parts) if part.kind in ("x", "xc"))
    correlation = math.fsum(c for c, part in zip(coefficients, parts) if part.kind in ("c", "xc"))
    if max(abs(exchange - ("x" in kind)), abs(correlation - ("c" in kind))) > _TOLERANCE:
        wanted = {"xc": "exchange and correlation to one each", "x": "exchange to one", "c": "correlation to one"}[kind]
        raise ValueError(f"exchange adds up to {exchange:.12g}, correlation to {correlation:.12g}; needed is {wanted}")
    return kind
