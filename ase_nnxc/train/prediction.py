"""Predictions of a functional for the structures of a record, as tensors with gradients by its parameters."""

from collections.abc import Sequence

import torch
from ase.calculators.calculator import CalculationFailed, InputError
from torch import Tensor

from ..calculator import Differentiable
from .all_electron import DifferentiableMolecule


class Prediction:
    """Predictions for the n structures of a record, in ASE's units.

    Gradients of losses on the free energies need no response of the density. Gradients of all other losses need one
    response for each structure (see `NNXCCalculator.differentiable`).

    Parameters
    ----------
    energies : Tensor
        (n,) free energies, eV.
    solved : sequence of Differentiable, optional
        One for each structure, in plane waves. Default: only the energies are known, as at fixed densities.
    molecules : sequence of DifferentiableMolecule, optional
        One for each structure, with all electrons. Default: only the energies are known.

    Attributes
    ----------
    energies : Tensor
        (n,) free energies, eV.

    Raises
    ------
    InputError
        If another quantity is read that is not known.
    CalculationFailed
        If a structure does not have the quantity that is read.
    """

    def __init__(
        self,
        energies: Tensor,
        solved: Sequence[Differentiable] | None = None,
        molecules: Sequence[DifferentiableMolecule] | None = None,
    ) -> None:
        self.energies, self._solved, self._molecules = energies, solved, molecules

    @property
    def solved(self) -> tuple[Differentiable, ...]:
        """The structures as returned by `NNXCCalculator.differentiable`, with all other quantities."""
        if self._solved is None:
            raise InputError(
                "only energies are known at fixed densities (fixed_density_epochs), and with all electrons only "
                "energies and densities"
            )
        return tuple(self._solved)

    @property
    def molecules(self) -> tuple[DifferentiableMolecule, ...]:
        """The molecules with all electrons: their density matrices, and densities on any points."""
        if self._molecules is None:
            raise InputError("density matrices are known only with all electrons, and not at fixed densities")
        return tuple(self._molecules)

    def _quantity(self, name: str) -> tuple[Tensor, ...]:
        """Return an attribute of all structures."""
        try:
            return tuple(getattr(solution, name) for solution in self.solved)
        except ValueError as error:  # a stress without a volume, a band gap without empty bands
            raise CalculationFailed(str(error)) from error

    @property
    def forces(self) -> tuple[Tensor, ...]:
        """Forces of each structure (natoms, 3), eV/Angstrom."""
        return self._quantity("forces")

    @property
    def stress(self) -> Tensor:
        """Stresses (n, 6) in Voigt order, eV/Angstrom^3."""
        return torch.stack(self._quantity("stress"))

    @property
    def densities(self) -> tuple[Tensor, ...]:
        """Densities of each structure (n1, n2, n3) on the FFT box, electrons/Angstrom^3."""
        return self._quantity("density")

    @property
    def band_gaps(self) -> Tensor:
        """Band gaps (n,), eV."""
        return torch.stack(self._quantity("band_gap"))
