"""The fully connected network, its activations, and the descriptors that it reads.

Descriptors are numbers without dimension that stay bounded or grow as a logarithm, one row each, with points along the
last axis. None of them has a root of the gradient or an odd power of zeta: derivatives exist at zero gradient, and the
two spins are equivalent.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..constraints import fraction
from ..lda import WIGNER_SEITZ
from ..names import check_names
from ..reduced import (
    channel_alpha,
    channel_s2,
    channel_sigma,
    floored,
    phi,
    t2,
    total_alpha,
    total_s2,
    total_sigma,
)
from ..spins import Spins

WIDTHS = (16, 16)
"""Default widths of the hidden layers."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "tanh": torch.tanh,
}
"""Activation functions by name."""


def _identity(x: Tensor) -> Tensor:
    return x


def _fraction_of_alpha(alpha: Tensor) -> Tensor:
    return fraction(floored(alpha))


def _log_of_alpha(alpha: Tensor) -> Tensor:
    return torch.log1p(floored(alpha))


# Logarithms are unbounded, but log(1 + rs) < 9 above the density threshold, and log(1 + s^2) < 14 for s < 1000.
DESCRIPTORS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "rs/(1+rs)": ("rs", fraction),
    "log(1+rs)": ("rs", torch.log1p),
    "zeta2": ("zeta2", _identity),
    "phi": ("phi", _identity),
    "s2/(1+s2)": ("s2", fraction),
    "log(1+s2)": ("s2", torch.log1p),
    "t2/(1+t2)": ("t2", fraction),
    "log(1+t2)": ("t2", torch.log1p),
    "alpha/(1+alpha)": ("alpha", _fraction_of_alpha),
    "log(1+alpha)": ("alpha", _log_of_alpha),
}
"""Inputs of networks by name: the local variable, and the function of it."""


class Network(torch.nn.Module):
    """A fully connected network of descriptors.

    Parameters
    ----------
    descriptors : sequence of str
        Inputs, keys of `DESCRIPTORS`.
    outputs : int
        Number of outputs.
    widths : sequence of int
        Widths of the hidden layers, at least one.
    activation : str
        A key of `ACTIVATIONS`.
    seed : int
        Seed of the random weights, from 0 to 2^63 - 1.
    zero_output : bool
        Whether the last layer begins with zeros.

    Raises
    ------
    ValueError
        If there is no descriptor, if the activation is unknown, or if widths or seed are not integers in their range.
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
            raise ValueError(f"widths={list(widths)}: expected one or more positive integers")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed!r}: expected an integer from 0 to 2^63 - 1")
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
        """Return the outputs (outputs, ...) at local variables (...)."""
        inputs = torch.stack([function(variables[variable]) for variable, function in self.descriptors])
        x = inputs.flatten(1)  # (d, points): the long axis last
        layers, activation = list(zip(self.weights, self.biases)), self.activation
        if activation is torch.tanh:  # torch.sigmoid takes a quarter of its time
            layers, activation = _with_sigmoid(layers), torch.sigmoid
        *hidden, (weight, bias) = layers
        for inner_weight, inner_bias in hidden:
            x = activation(torch.addmm(inner_bias, inner_weight, x))
        return torch.addmm(bias, weight, x).unflatten(1, inputs.shape[1:])


def _with_sigmoid(layers: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return weights and biases of the same network with sigmoid in place of tanh(x) = 2 sigmoid(2 x) - 1."""
    *hidden, last = layers
    first, *others = [(2 * weight, 2 * bias) for weight, bias in hidden] + [last]
    return [first, *((2 * weight, bias - weight.sum(1, keepdim=True)) for weight, bias in others)]


def variables_of(descriptors: Sequence[str]) -> set[str]:
    """Return the names of the local variables that descriptors are functions of."""
    return {DESCRIPTORS[name][0] for name in descriptors}


def total_variables(
    spins: Spins, features: Mapping[str, Tensor], names: Collection[str], eta: float = 0.0
) -> dict[str, Tensor]:
    """Return local variables of the total density, each (n,).

    Parameters
    ----------
    spins : Spins
        Clipped density.
    features : mapping of str to Tensor
        Gradient and tau, as far as the variables need them; see `Functional`.
    names : collection of str
        Those wanted of rs, zeta2, phi, s2, t2, alpha; what they are made from is returned with them.
    eta : float
        Constant of alpha, see `reduced`.
    """
    variables = {}
    if "rs" in names:
        variables["rs"] = WIGNER_SEITZ**2 / spins.root.square()
    if "zeta2" in names:
        variables["zeta2"] = spins.zeta.square()
    if not {"phi", "t2"}.isdisjoint(names):
        variables["phi"] = phi(spins)
    if not {"s2", "t2", "alpha"}.isdisjoint(names):
        sigma = total_sigma(features["gradient"])
    if not {"s2", "alpha"}.isdisjoint(names):
        variables["s2"] = total_s2(spins, sigma)
    if "t2" in names:
        variables["t2"] = t2(spins, sigma, variables["phi"])
    if "alpha" in names:
        variables["alpha"] = total_alpha(spins, variables["s2"], features["tau"], eta)
    return variables


def channel_variables(
    spins: Spins, features: Mapping[str, Tensor], names: Collection[str], eta: float = 0.0
) -> dict[str, Tensor]:
    """Return those named of rs, s2, alpha of the doubled channels, each (nspin, n); see `total_variables`."""
    variables = {}
    if "rs" in names:
        variables["rs"] = 2 ** (-1 / 3) * WIGNER_SEITZ**2 / (spins.root.square() * spins.part_cbrt)
    if not {"s2", "alpha"}.isdisjoint(names):
        variables["s2"] = channel_s2(spins, channel_sigma(features["gradient"]))
        if "alpha" in names:
            variables["alpha"] = channel_alpha(spins, variables["s2"], features["tau"], eta)
    return variables
