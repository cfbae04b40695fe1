"""Spin densities and the powers of them that functionals share; the one place where small densities are clipped.

Densities on a Fourier grid are noisy: zero, and slightly negative, in vacuum and in an empty spin channel. `Spins`
reads them so that energy, potential and second derivatives of a functional built on it are finite everywhere.

Spin is the first axis of density and features. Its length nspin is 2 (up, down), or 1 for a closed shell, where the one
channel stands for two equal ones.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

DENSITY_THRESHOLD = 1e-12
"""Total density, bohr^-3, at and below which energy density and potential are zero (that of libxc's correlations)."""

SPIN_THRESHOLD = 1e-10
"""Smallest 1 - |zeta| of which roots are taken: the minority potential of correlation diverges as its -1/3 power."""

ZETA_LIMIT = 1.01
"""Largest |zeta|. Above one by more than the noise of an empty channel, so that its potential is smooth around zero."""


def spin_sum(channels: Tensor) -> Tensor:
    """Return the sum (...) over both spin channels of (nspin, ...); the channel of a closed shell counts twice."""
    return 2 * channels[0] if len(channels) == 1 else channels.sum(0)


@dataclass(frozen=True)
class Spins:
    """A clipped density and the powers of it that functionals share.

    Attributes
    ----------
    density : Tensor
        (n,) total density n, bohr^-3, zero at and below the threshold: what energies per electron are multiplied with.
    root : Tensor
        (n,) n^(1/6) of the density clipped at the threshold.
    zeta : Tensor
        (n,) polarisation (n_up - n_dn) / n.
    part_cbrt : Tensor
        (nspin, n) (n_s / n)^(1/3) of each channel, positive.
    part_4_3 : Tensor
        (nspin, n) (n_s / n)^(4/3).
    """

    density: Tensor
    root: Tensor
    zeta: Tensor
    part_cbrt: Tensor
    part_4_3: Tensor

    @classmethod
    def of(cls, density: Tensor) -> "Spins":
        """Return the clipped density and its powers.

        Parameters
        ----------
        density : Tensor
            (nspin, n) spin densities, bohr^-3, of any sign.
        """
        total = spin_sum(density)
        clipped = total.clamp(min=DENSITY_THRESHOLD)
        filled = density + 0.5 * (clipped - total)  # so that one share is always at least half
        part = (filled / clipped).clamp(0.5 * SPIN_THRESHOLD, 0.5 * (1 + ZETA_LIMIT))
        part_cbrt = (part.log() / 3).exp()  # a logarithm and an exponential cost half of a power, less in backward
        return cls(
            density=torch.nn.functional.threshold(total, DENSITY_THRESHOLD, 0.0),
            root=(clipped.log() / 6).exp(),
            zeta=_polarisation(density, clipped),
            part_cbrt=part_cbrt,
            part_4_3=part * part_cbrt,
        )

    @property
    def paired(self) -> bool:
        """Whether one channel stands for two equal ones."""
        return len(self.part_cbrt) == 1


def _polarisation(density: Tensor, clipped: Tensor) -> Tensor:
    """zeta (n,) of spin densities (nspin, n) and their clipped total (n,)."""
    if len(density) == 1:
        return torch.zeros_like(clipped)
    return ((density[0] - density[1]) / clipped).clamp(-ZETA_LIMIT, ZETA_LIMIT)
