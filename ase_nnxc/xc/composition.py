"""Functionals composed of functionals: fixed sums, and the hybrid of a network with a conventional functional."""

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
    """A sum of functionals with fixed coefficients: exchange and correlation parts, mixtures, corrections.

    The kind follows from the terms. The coefficients of exchange and of correlation must add up to one each; terms of
    exchange only, or of correlation only, make a functional of that kind and add up to one. Corrections may have any
    coefficient.

    Parameters
    ----------
    terms : sequence of (float, Functional or dict)
        Coefficients and functionals, or coefficients and descriptions of functionals (see `describe`).

    Raises
    ------
    ValueError
        If the terms do not add up to one; the message gives the totals.
    """

    closed_shell = True

    def __init__(self, terms: Sequence[tuple[float, Functional | Mapping[str, Any]]]) -> None:
        super().__init__()
        self.coefficients = tuple(float(coefficient) for coefficient, _ in terms)
        if not terms or not all(map(math.isfinite, self.coefficients)):
            raise ValueError("a sum of functionals needs at least one term and coefficients that are finite numbers")
        parts = [_functional(part) for _, part in terms]
        self.parts = cast("list[Functional]", torch.nn.ModuleList(parts))
        self.features = _features(parts)
        self.kind = _kind(self.coefficients, parts)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; `features` holds those of all terms."""
        energy = self.coefficients[0] * self.parts[0](features)
        for coefficient, part in zip(self.coefficients[1:], self.parts[1:]):
            energy = energy + coefficient * part(features)
        return energy

    def config(self) -> dict[str, Any]:
        """Return the terms, each functional as its description."""
        return {"terms": [[c, describe(part)] for c, part in zip(self.coefficients, self.parts)]}

    def extra_repr(self) -> str:
        """Return the coefficients, for `repr`."""
        return f"coefficients={self.coefficients}"


@register_architecture("hybrid", 1)
class HybridXC(Functional):
    """A neural and a conventional functional, each with a weight: E = a E_neural + b E_conventional.

    The form of M. F. Kasim and S. M. Vinko, Phys. Rev. Lett. 127, 126403 (2021), and of arXiv:2602.15923, where
    training begins with a = 0 and b = 1 and changes a and b with the network. It mixes two semilocal functionals and
    contains no exact exchange, in spite of its name. It is the only composition whose weights need not add up to one. A
    network of exchange and correlation may stand beside exchange only, whose correlation it then has to learn.

    Parameters
    ----------
    neural, conventional : Functional or dict
        The functionals, or their descriptions (see `describe`).
    a, b : float
        Weights of the two.
    trainable : bool
        Whether the weights are trainable parameters or fixed buffers.

    Raises
    ------
    ValueError
        If the network is neither of exchange and correlation, nor of the same kind as the conventional functional, nor
        a correction.
    """

    closed_shell = True
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
        self.neural, self.conventional, self.trainable = _functional(neural), _functional(conventional), trainable
        for name, value in (("a", a), ("b", b)):
            weight = torch.tensor(value, dtype=torch.float64, device="cpu")
            if trainable:
                self.register_parameter(name, torch.nn.Parameter(weight))
            else:
                self.register_buffer(name, weight)
        self.features = _features(self.parts)
        kind = self.conventional.kind
        if self.neural.kind not in (kind, "xc", "correction"):
            raise ValueError(
                f"neural is of kind {self.neural.kind!r}, conventional of kind {kind!r}: expected the same kind, "
                "or exchange and correlation or a correction as neural"
            )
        self.kind = "xc" if self.neural.kind == "xc" else kind

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; `features` holds those of both parts."""
        return self.a * self.neural(features) + self.b * self.conventional(features)

    @property
    def parts(self) -> tuple[Functional, Functional]:
        """The two functionals."""
        return self.neural, self.conventional

    def config(self) -> dict[str, Any]:
        """Return the descriptions of the functionals; the weights are among the tensors."""
        return {
            "neural": describe(self.neural),
            "conventional": describe(self.conventional),
            "trainable": self.trainable,
        }

    def extra_repr(self) -> str:
        """Return the weights, for `repr`."""
        return f"a={self.a.item()}, b={self.b.item()}, trainable={self.trainable}"


def _functional(part: Functional | Mapping[str, Any]) -> Functional:
    return part if isinstance(part, Functional) else build(dict(part))


def _features(parts: Sequence[Functional]) -> tuple[str, ...]:
    return tuple(sorted({feature for part in parts for feature in part.features}))


def _kind(coefficients: Sequence[float], parts: Sequence[Functional]) -> str:
    """The kind of the sum; raise ValueError if exchange or correlation do not add up to one."""
    kinds = {part.kind for part in parts} - {"correction"}
    if not kinds:
        return "correction"
    kind = kinds.pop() if len(kinds) == 1 else "xc"
    exchange = math.fsum(c for c, part in zip(coefficients, parts) if part.kind in ("x", "xc"))
    correlation = math.fsum(c for c, part in zip(coefficients, parts) if part.kind in ("c", "xc"))
    if max(abs(exchange - ("x" in kind)), abs(correlation - ("c" in kind))) > _TOLERANCE:
        wanted = {"xc": "exchange and correlation to one each", "x": "exchange to one", "c": "correlation to one"}[kind]
        raise ValueError(f"exchange adds up to {exchange:.12g}, correlation to {correlation:.12g}: expected {wanted}")
    return kind
