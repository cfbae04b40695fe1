"""The Kohn-Sham Hamiltonian of one spin channel and k-point, as the sum of the operators of the energy terms."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .operators import Diagonal, Operator


class Hamiltonian:
    """The Hamiltonian H, a sum of operators.

    Parameters
    ----------
    operators : sequence of Operator
        Operators of the terms, all in the same precision. At least one of them must be a `Diagonal`.
    ecut : float
        Cutoff energy of the plane waves, Hartree.

    Attributes
    ----------
    diagonal : Tensor
        (npw,) real, Hartree: sum of the operators that are diagonal in plane waves, such as the kinetic energy.
    kinetic : Tensor
        (npw,) the same where it is positive, else zero: what preconditioners take for the kinetic energy.

    Raises
    ------
    ValueError
        If no operator is diagonal.
    """

    def __init__(self, operators: Sequence[Operator], ecut: float):
        diagonals = [operator.values for operator in operators if isinstance(operator, Diagonal)]
        if not diagonals:
            raise ValueError("a Hamiltonian needs at least one diagonal operator, such as the kinetic energy")
        self.diagonal = sum(diagonals[1:], start=diagonals[0])
        self.kinetic = self.diagonal.clamp(min=0.0)
        self.ecut = ecut
        self._others = [operator for operator in operators if not isinstance(operator, Diagonal)]

    @property
    def npw(self) -> int:
        """Number of plane waves."""
        return len(self.diagonal)

    def apply(self, psi: Tensor) -> Tensor:
        """Return H psi (nbands, npw) for orbitals (nbands, npw)."""
        result = psi * self.diagonal
        for operator in self._others:
            operator.add_to(result, psi)
        return result

    def matrix(self, waves: Tensor) -> Tensor:
        """Return <G|H|G'> (n, n), complex128, for the plane waves with indices `waves` (n,)."""
        matrix = torch.diag(self.diagonal[waves]).to(torch.complex128)
        for operator in self._others:
            matrix += operator.matrix(waves)
        return matrix
