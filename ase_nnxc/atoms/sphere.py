"""Exchange and correlation of a spherical density: any functional of the density and its gradient."""

import numpy as np
import torch

from ..xc.functional import Functional
from .elements import Array, Elements

SEMILOCAL = frozenset({"density", "gradient"})
"""Features that a functional of a spherical atom may read."""


def check_semilocal(functional: Functional) -> None:
    """Raise ValueError unless a functional is one of the density and its gradient."""
    others = sorted(set(functional.features) - SEMILOCAL)
    if others:
        raise ValueError(
            f"{type(functional).__qualname__} depends on {', '.join(others)}; expected a functional of the density and "
            "its gradient"
        )


def xc_of_sphere(functional: Functional, elements: Elements, density: Array, cusp: float = 0.0) -> tuple[float, Array]:
    """Compute the exchange-correlation energy and potential of a spherical, unpolarised density.

    With e(n, n') the energy per volume,  E = 4 pi int r^2 e dr  and  v = de/dn - g' - 2 g/r,  g = de/dn'.

    Parameters
    ----------
    functional : Functional
        A functional of the density and its gradient.
    elements : Elements
        Where the density is represented.
    density : Array
        (N,) bohr^-3.
    cusp : float
        Radius around a nucleus, bohr, within which (ln n)' and g are those at the radius. There are hardly any
        electrons, but the density of a point nucleus has a cusp, or is infinite (scalar-relativistic), and derivatives
        on small elements are noise.

    Returns
    -------
    energy : float
        Hartree.
    potential : Array
        (N,) Hartree.
    """
    r = elements.radii
    first = int(np.searchsorted(r, cusp))
    slope = elements.derivative(np.log(np.maximum(density, 1e-280)))  # n' = n (ln n)' is accurate in the tail
    slope[:first] = slope[first]
    energies, by_density, by_slope = _evaluate(functional, density, density * slope)
    by_slope[:first] = by_slope[first]
    divergence = elements.derivative(by_slope)
    divergence[1:] += 2 * by_slope[1:] / r[1:]
    divergence[0] = 3 * divergence[0] if first == 0 else divergence[1]  # without a cusp g is linear at r = 0
    return float(4 * np.pi * (elements.weights * r**2) @ energies), by_density - divergence


def _evaluate(functional: Functional, density: Array, slope: Array) -> tuple[Array, Array, Array]:
    """The energies e(n, n') on points, and their derivatives with respect to n and n', by automatic differentiation."""
    device = next((tensor.device for tensor in functional.state_dict().values()), torch.device("cpu"))
    with torch.inference_mode(False), torch.enable_grad():
        n, dn = (torch.as_tensor(x, device=device).clone().requires_grad_() for x in (density, slope))
        zero = torch.zeros_like(n)
        gradient = torch.stack((zero, zero, 0.5 * dn))
        energies = functional({"density": 0.5 * n[None], "gradient": gradient[None]})
        derivatives = torch.autograd.grad(energies.sum(), (n, dn), allow_unused=True, materialize_grads=True)
    e, by_density, by_slope = (x.detach().cpu().numpy().copy() for x in (energies, *derivatives))
    return e, by_density, by_slope
