"""The Kohn-Sham potential on the grid, assembled from the density terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .fields import Fields, by_channels

if TYPE_CHECKING:
    from .system import System
    from .terms.term import DensityTerm


@dataclass(frozen=True, eq=False)
class Potential:
    """Potentials of all spin channels, and the double-counting correction to the sum of eigenvalues.

    Attributes
    ----------
    values : Tensor
        (nspin, 1 or 2, n1, n2, n3). The first field of each spin is the local potential, Hartree. If the energy depends
        on tau, the second field is v = dE/dtau, and the first one includes 1/4 lap v (see `operators.GridPotential`).
    by_fields : Tensor
        (nfields, n1, n2, n3) functional derivatives of the energy of the density terms with respect to the fields.
    double_counting : float
        Sum of E - int (V n + v tau) over the density terms, Hartree. Its sum with the sum of the eigenvalues is the
        Harris-Foulkes energy (J. Harris, Phys. Rev. B 31, 1770 (1985)) without the ion terms and the entropy.
    """

    values: Tensor
    by_fields: Tensor
    double_counting: float


def assemble_potential(system: System, terms: Sequence[DensityTerm], fields: Fields) -> Potential:
    """Return the sum of the potentials of the density terms.

    Parameters
    ----------
    system : System
        The system of the terms.
    terms : sequence of DensityTerm
        All density terms of the system.
    fields : Fields
        Fields at which the potential is computed.

    Raises
    ------
    FloatingPointError
        If the energy or the potential of a term is not finite.
    """
    energy, derivatives = 0.0, torch.zeros_like(fields.real)
    for term in terms:
        part, by_fields = term.potential(fields)
        if not (math.isfinite(part) and bool(by_fields.isfinite().all())):
            raise FloatingPointError(f"the {term.name} energy or its potential is NaN or infinite")
        energy += part
        derivatives += by_fields
    contracted = float((derivatives * fields.real).sum() * system.crystal.volume) / fields.grid.size
    return Potential(potential_of_spins(system, derivatives), derivatives, energy - contracted)


def potential_of_spins(system: System, derivatives: Tensor) -> Tensor:
    """Return potentials of the spin channels, as in `Potential.values`.

    Parameters
    ----------
    system : System
        Crystal and grid.
    derivatives : Tensor
        (nfields, n1, n2, n3) derivatives of the energy with respect to the fields, per volume.

    Returns
    -------
    Tensor
        (nspin, 1 or 2, n1, n2, n3).
    """
    grid, nspin = system.basis.grid, system.crystal.nspin
    local = by_channels(derivatives[:nspin])
    if len(derivatives) == nspin:
        return local[:, None]
    tau = by_channels(derivatives[nspin:])
    squares = grid.wavevectors(system.crystal.reciprocal).square().sum(-1)
    laplacian = grid.to_real(-squares * grid.to_fourier(tau))
    return torch.stack((local + 0.25 * laplacian, tau), dim=1)
