"""The self-test in a card: features of a few points, with the energies and derivatives of the functional there.

It shows that a functional gives the same numbers on this machine as where it was saved.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..xc import Functional
from ..xc.features import features_at_test_points
from .roots import CheckpointError

TOLERANCE = 1e-10
"""Largest relative error in the self-test, beyond 1e-13 Hartree atomic units of rounding."""

# density bohr^-3, polarisation, reduced gradient s, iso-orbital indicator alpha
_POINTS = (
    (0.03, 0.0, 0.0, 1.0),
    (0.03, 0.0, 0.5, 1.0),
    (0.3, 0.0, 0.0, 0.0),
    (0.1, 0.0, 1.0, 0.3),
    (0.01, 0.0, 2.5, 3.0),
    (0.02, 0.6, 0.0, 1.0),
    (1.0, 0.3, 0.7, 0.9),
    (0.05, -0.9, 1.5, 1.2),
    (0.02, 1.0, 1.0, 0.0),
    (100.0, 0.05, 0.4, 0.8),
    (1e-5, 0.0, 3.0, 5.0),
    (1e-8, 0.2, 10.0, 1.0),
)


def make_self_test(functional: Functional) -> dict[str, Any]:
    """Return the self-test of a functional as plain data: inputs, and outputs of the functional.

    Raises
    ------
    CheckpointError
        If an output is not finite.
    """
    inputs = features_at_test_points(functional.features, _points())
    outputs = _evaluate(functional, inputs)
    for name, values in outputs.items():
        if not values.isfinite().all():
            raise CheckpointError(f"not written: {_quantity(name)} is not finite on all points of the self-test")
    return {group: {k: t.tolist() for k, t in d.items()} for group, d in (("inputs", inputs), ("outputs", outputs))}


def run_self_test(functional: Functional, self_test: Mapping[str, Any]) -> None:
    """Evaluate a functional on the inputs of a self-test and compare with its outputs.

    Raises
    ------
    CheckpointError
        If the self-test cannot be run, tests nothing, or fails.
    """
    try:
        inputs, expected = (
            {name: torch.tensor(v, dtype=torch.float64, device="cpu") for name, v in self_test[group].items()}
            for group in ("inputs", "outputs")
        )
        outputs = _evaluate(functional, inputs)
    except Exception as error:  # whatever a functional raises for inputs of another form
        raise CheckpointError(f"its self-test cannot be run: {type(error).__name__}: {error}") from error
    shapes = [{name: values.shape for name, values in group.items()} for group in (outputs, expected)]
    if shapes[0] != shapes[1] or not outputs["energy"].numel():
        raise CheckpointError("its self-test has no inputs, or not one output for each")
    for name, values in outputs.items():
        off = ((values - expected[name]).abs() / (values.abs() + 1e-13 / TOLERANCE)).amax().item()
        if not off <= TOLERANCE:
            raise CheckpointError(f"failed self-test: {_quantity(name)} has a relative error of {off:.1e}")


def _points() -> dict[str, Tensor]:
    """Density, gradient and tau at `_POINTS`, with gradients of the two channels along different directions."""
    n, zeta, s, alpha = torch.tensor(_POINTS, dtype=torch.float64, device="cpu").T
    channel = 0.5 * n * torch.stack([1 + zeta, 1 - zeta])
    length = 2 * (3 * math.pi**2 * n) ** (1 / 3) * channel * s  # so that |grad n| = 2 k_F n s for parallel gradients
    directions = torch.tensor([[[0.6], [0.0], [0.8]], [[0.0], [0.8], [0.6]]], dtype=torch.float64, device="cpu")
    weizsaecker = length.square() / (8 * channel.clamp(min=1e-30))
    uniform = 0.3 * (6 * math.pi**2) ** (2 / 3) * channel ** (5 / 3)
    return {"density": channel, "gradient": length[:, None] * directions, "tau": weizsaecker + alpha * uniform}


def _evaluate(functional: Functional, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Energy densities, and their derivatives with respect to each feature."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in features.items()}
    with torch.enable_grad():
        energy = functional(leaves)
        derivatives = torch.autograd.grad(energy.sum(), list(leaves.values()), materialize_grads=True)
    return {"energy": energy.detach()} | dict(zip(leaves, derivatives))


def _quantity(output: str) -> str:
    return "the energy density" if output == "energy" else f"the derivative by {output}"
