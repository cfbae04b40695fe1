"""What a functional predicts of the structures of a record, as tensors that carry gradients by its parameters."""

from collections.abc import Sequence

import torch
from ase.calculators.calculator import InputError
from torch import Tensor

from ..calculator import Differentiable


class Prediction:
    """Predictions for the n structures of a record, in ASE's units.

    Gradients of losses on the free energies need no response of the density, those of all other losses one for each
    structure (see `NNXCCalculator.differentiable`).

    Parameters
    ----------
    energies : Tensor
        (n,) free energies, eV.
    solved : sequence of Differentiable, optional
        One for each structure. Default: nothing is known but the energies, as at fixed densities.

    Attributes
    ----------
    energies : Tensor
        (n,) free energies, eV.

    Raises
    ------
    InputError
        When something else is read, and there are but energies.
    """

    def __init__(self, energies: Tensor, solved: Sequence[Differentiable] | None = None) -> None:
        self.energies, self._solved = energies, solved

    @property
    def solved(self) -> tuple[Differentiable, ...]:
        """The structures as `NNXCCalculator.differentiable` gives them, with all that is not told here."""
        if self._solved is None:
            raise InputError("only energies are known at fixed densities (fixed_density_epochs)")
        return tuple(self._solved)

    @property
    def forces(self) -> tuple[Tensor, ...]:
        """Of each structure (natoms, 3), eV/Angstrom."""
        return tuple(one.forces for one in self.solved)

    @property
    def stress(self) -> Tensor:
        """(n, 6) in Voigt's order, eV/Angstrom^3."""
        return torch.stack([one.stress for one in self.solved])

    @property
    def densities(self) -> tuple[Tensor, ...]:
        """Of each structure (n1, n2, n3) on the FFT box, electrons/Angstrom^3."""
        return tuple(one.density for one in self.solved)

    @property
    def band_gaps(self) -> Tensor:
        """(n,) eV."""
        return torch.stack([one.band_gap for one in self.solved])
