"""Potential of the Gaussian charge that carries the long-ranged part of every local pseudopotential."""

import math

import torch

from .protocol import Array


def gaussian_charge_potential(valence: int, width: float, radii: Array) -> Array:
    """Compute the potential of an electron in the field of a Gaussian ion charge: -Z/r erf(r / sqrt(2) width).

    Parameters
    ----------
    valence : int
        Total charge Z, electrons.
    width : float
        Standard deviation of the Gaussian, bohr.
    radii : Array
        Distances (nr,), bohr, all positive.

    Returns
    -------
    Array
        (nr,) Hartree.
    """
    erf = torch.special.erf(torch.as_tensor(radii / (math.sqrt(2) * width), dtype=torch.float64, device="cpu"))
    return -valence / radii * erf.numpy()
