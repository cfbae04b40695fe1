"""Exchange and correlation of a spherical density: any functional of the density, its gradient and tau."""

from typing import NamedTuple

import numpy as np
import torch

from ..xc.functional import Functional
from .elements import Array, Elements

SPHERICAL = frozenset({"density", "gradient", "tau"})
"""Features that a functional of a spherical atom may read."""
TAIL = 1e-5
"""Density n0, bohr^-3, below which tau becomes that of von Weizsaecker.

There alpha is that of one orbital, up to noise that potentials of tau multiply; levels change by 1e-5 Ha at most.
"""


class SphereXC(NamedTuple):
    """Exchange and correlation of a spherical density.

    Attributes
    ----------
    energy : float
        Hartree.
    v : Array
        (N,) potential, Hartree.
    v_tau : Array
        (N,) derivative of the energy with respect to tau; it adds -1/2 div v_tau grad to the Hamiltonian.
    """

    energy: float
    v: Array
    v_tau: Array


def check_spherical(functional: Functional) -> None:
    """Raise ValueError unless a functional is one of the density, its gradient and tau."""
    others = sorted(set(functional.features) - SPHERICAL)
    if others:
        raise ValueError(
            f"{type(functional).__qualname__} depends on {', '.join(others)}; expected a functional of the density, "
            "its gradient and tau"
        )


def xc_of_sphere(functional: Functional, elements: Elements, density: Array, tau: Array, cusp: float = 0.0) -> SphereXC:
    """Compute exchange and correlation of a spherical, unpolarised density.

    With e(n, n', tau) the energy per volume,  E = 4 pi int r^2 e dr,  v = de/dn - g' - 2 g/r,  g = de/dn',  and
    v_tau = de/dtau.

    Parameters
    ----------
    functional : Functional
        A functional of the density, its gradient and tau.
    elements : Elements
        Where the density is represented.
    density : Array
        (N,) bohr^-3.
    tau : Array
        (N,) kinetic energy density, Hartree bohr^-3; not used by a functional that does not read it.
    cusp : float
        Radius around a nucleus, bohr, within which (ln n)' and g are those at the radius. There are hardly any
        electrons, but the density of a point nucleus has a cusp, or is infinite (scalar-relativistic), and derivatives
        on small elements are noise.
    """
    r = elements.radii
    first = int(np.searchsorted(r, cusp))
    slope = elements.derivative(np.log(np.maximum(density, 1e-280)))  # n' = n (ln n)' is accurate in the tail
    slope[:first] = slope[first]
    energies, by_density, by_slope, by_tau = _evaluate(functional, density, density * slope, tau)
    by_slope[:first], by_tau[:first] = by_slope[first], by_tau[first]
    divergence = elements.derivative(by_slope)
    divergence[1:] += 2 * by_slope[1:] / r[1:]
    divergence[0] = 3 * divergence[0] if first == 0 else divergence[1]  # without a cusp g is linear at r = 0
    return SphereXC(float(4 * np.pi * (elements.weights * r**2) @ energies), by_density - divergence, by_tau)


def _evaluate(functional: Functional, density: Array, slope: Array, tau: Array) -> tuple[Array, Array, Array, Array]:
    """The energies e(n, n', tau) on points, and their derivatives with respect to n, n' and tau, by autograd."""
    device = next((tensor.device for tensor in functional.state_dict().values()), torch.device("cpu"))
    with torch.inference_mode(False), torch.enable_grad():
        n, dn, t = (torch.as_tensor(x, device=device).clone().requires_grad_() for x in (density, slope, tau))
        zero = torch.zeros_like(n)
        gradient = torch.stack((zero, zero, 0.5 * dn))
        # tau_W + (tau - tau_W) n^2 / (n^2 + n0^2): in the tail the atom has one orbital, up to noise
        weizsaecker = dn**2 / (8 * n.clamp(min=1e-280))
        shown = weizsaecker + (t - weizsaecker) / (1 + (TAIL / n.clamp(min=1e-120)) ** 2)
        energies = functional({"density": 0.5 * n[None], "gradient": gradient[None], "tau": 0.5 * shown[None]})
        derivatives = torch.autograd.grad(energies.sum(), (n, dn, t), allow_unused=True, materialize_grads=True)
    e, by_density, by_slope, by_tau = (x.detach().cpu().numpy().copy() for x in (energies, *derivatives))
    return e, by_density, by_slope, by_tau
