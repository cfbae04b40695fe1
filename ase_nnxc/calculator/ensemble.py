"""Ensembles of energies: the probable errors of a functional, as its fit has left them.

The p numbers w of the last layer of such a functional are distributed as w ~ N(w_fitted, L L^T), where L is its buffer
`posterior`. The free energy is stationary in the density, so that to first order, without another SCF,

    F[w] = F + sum_j z_j d_j,   d = L^T dF/dw,   z ~ N(0, 1)

d holds the deviations of the energy, one for each direction of the distribution. The deviations of an energy difference
or of a lattice constant are the same linear function of those of its energies, and its standard deviation is their
norm: errors of energies that are correlated cancel. What no weights mend is the scatter of the functional
(`NeuralFactors.scatter`), which adds to it in squares.
"""

from collections.abc import Mapping

import numpy as np
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from torch import Tensor

from ..xc import Functional, NeuralFactors


def has_posterior(functional: Functional) -> bool:
    """Whether the fit of a functional has left its probable errors."""
    return isinstance(functional, NeuralFactors) and bool(functional.posterior.any())


def scatter_of(functional: Functional) -> Mapping[str, float]:
    """Return the standard deviations by objective of errors that no weights mend; empty if none are known."""
    return functional.scatter if isinstance(functional, NeuralFactors) else {}


def energy_deviations(energy: Tensor, functional: Functional) -> np.ndarray:
    """Return the deviations d (p,), eV, of an energy.

    Parameters
    ----------
    energy : Tensor
        () eV, with gradients by the parameters of the functional.
    functional : Functional
        The functional of the calculation.

    Raises
    ------
    PropertyNotImplementedError
        If the functional has no probable errors.
    """
    if not isinstance(functional, NeuralFactors) or not has_posterior(functional):
        raise PropertyNotImplementedError(
            f"{type(functional).__name__} has no probable errors: expected a model that nnxc fit has made"
        )
    slopes = torch.autograd.grad(energy, functional.last_layer)
    deviations = functional.posterior.mT @ torch.cat([slope.flatten() for slope in slopes])
    return np.asarray(deviations.detach().cpu())


def ensemble_energies(energy: float, deviations: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return energies (size,), eV, of random members of the ensemble around an energy, eV.

    Members of the same seed are the same functionals, so that energies of several structures can be subtracted.
    """
    members = np.random.RandomState(seed).standard_normal((size, len(deviations)))
    return energy + members @ deviations
