"""The Kohn-Sham Hamiltonian of one spin and k-point: the sum of the operators that the terms of the energy make."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .operators import Diagonal, Operator


class Hamiltonian:
    """H, as the sum of operators in one precision.

    Parameters
    ----------
    operators : sequence of Operator
        Those of the terms, in one precision; at least one of them is diagonal.
    ecut : float
        Cutoff of the plane waves, Hartree.

    Attributes
    ----------
    diagonal : Tensor
        (npw,) real, Hartree: the sum of the operators that are diagonal in plane waves, of which the kinetic energy is
        one. Preconditioners are made of it.
    """

    def __init__(self, operators: Sequence[Operator], ecut: float):
        diagonals = [operator.values for operator in operators if isinstance(operator, Diagonal)]
        if not diagonals:
            raise ValueError("a Hamiltonian needs a kinetic energy, or another operator that is diagonal")
        self.diagonal = sum(diagonals[1:], start=diagonals[0])
        self.ecut = ecut
        self._others = [operator for operator in operators if not isinstance(operator, Diagonal)]

    @property
    def npw(self) -> int:
        """Number of plane waves."""
        return len(self.diagonal)

    def apply(self, psi: Tensor) -> Tensor:
        """H psi for orbitals (nbands, npw)."""
        result = psi * self.diagonal
        for operator in self._others:
            operator.add_to(result, psi)
        return result

    def matrix(self, waves: Tensor) -> Tensor:
        """<G|H|G'> (n, n), complex128, between the plane waves with indices `waves` (n,)."""
        matrix = torch.diag(self.diagonal[waves]).to(torch.complex128)
        for operator in self._others:
            matrix += operator.matrix(waves)
        return matrix
