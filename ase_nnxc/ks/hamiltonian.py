"""The Kohn-Sham Hamiltonian of one spin channel and k-point, or of several k-points, as a sum of operators."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .operators import Diagonal, GridPotential, Operator


class Hamiltonian:
    """The Hamiltonian H, a sum of operators of one k-point, or of several ones with a leading axis.

    Parameters
    ----------
    operators : sequence of Operator
        Operators of the terms, all in the same precision. At least one of them must be a `Diagonal`.
    ecut : float
        Cutoff energy of the plane waves, Hartree.
    numbers : sequence of int, optional
        Number of plane waves of each k-point, without padding; required for several k-points.
    single : sequence of Operator, optional
        Those operators that are not diagonal, in the same order and in single precision, for `apply_in_single`.

    Attributes
    ----------
    diagonal : Tensor
        (..., npw) real, Hartree: sum of the operators that are diagonal in plane waves, such as the kinetic energy.
    kinetic : Tensor
        (..., npw) the same where it is positive, else zero: what preconditioners take for the kinetic energy.

    Raises
    ------
    ValueError
        If no operator is diagonal.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        ecut: float,
        numbers: Sequence[int] | None = None,
        single: Sequence[Operator] | None = None,
    ):
        diagonals = [operator.values for operator in operators if isinstance(operator, Diagonal)]
        if not diagonals:
            raise ValueError("a Hamiltonian needs at least one diagonal operator, such as the kinetic energy")
        self.diagonal = sum(diagonals[1:], start=diagonals[0])
        self.kinetic = self.diagonal.clamp(min=0.0)
        self.ecut = ecut
        self.numbers = numbers or [self.npw]
        self._operators = operators
        self._others = [operator for operator in operators if not isinstance(operator, Diagonal)]
        self._single = single

    @classmethod
    def stack(cls, hamiltonians: "Sequence[Hamiltonian]") -> "Hamiltonian":
        """Return the Hamiltonians of several k-points of one spin channel as one, padded to a common number of waves.

        Products with zero padding of the orbitals have zero padding.
        """
        numbers = [hamiltonian.npw for hamiltonian in hamiltonians]
        terms = zip(*(hamiltonian._operators for hamiltonian in hamiltonians))
        return cls([type(term[0]).stack(term, max(numbers)) for term in terms], hamiltonians[0].ecut, numbers)

    def with_potential(self, local: Tensor, tau: Tensor | None) -> "Hamiltonian":
        """Return H with other potentials in its last operator, a `GridPotential`."""
        *others, last = self._operators
        assert isinstance(last, GridPotential)
        on_grid, single = replace(last, local=local, tau=tau), self._single
        if single is not None:
            *kept, last = single
            assert isinstance(last, GridPotential)
            single = [*kept, replace(last, local=local.float(), tau=None if tau is None else tau.float())]
        return Hamiltonian([*others, on_grid], self.ecut, self.numbers, single)

    def with_single(self, dtype: torch.dtype) -> "Hamiltonian":
        """Return H, in double precision, whose `apply_in_single` uses operators in `dtype`: complex64 or float32."""
        single = [operator.to(dtype) for operator in self._others]
        return Hamiltonian(self._operators, self.ecut, self.numbers, single)

    @property
    def npw(self) -> int:
        """Number of plane waves, with padding."""
        return self.diagonal.shape[-1]

    def apply(self, psi: Tensor) -> Tensor:
        """Return H psi (..., nbands, npw) for orbitals (..., nbands, npw)."""
        result = psi * self.diagonal[..., None, :]
        for operator in self._others:
            operator.add_to(result, psi)
        return result

    def apply_in_single(self, psi: Tensor) -> Tensor:
        """Return H psi with single precision in all but the diagonal operators, if H has them in single precision."""
        if self._single is None:
            return self.apply(psi)
        single = psi.to(torch.complex64 if psi.is_complex() else torch.float32)
        result = torch.zeros_like(single)
        for operator in self._single:
            operator.add_to(result, single)
        return result.to(psi.dtype).addcmul_(psi, self.diagonal[..., None, :].to(psi.dtype))

    def matrix(self, waves: Tensor) -> Tensor:
        """Return <G|H|G'> (n, n), complex128, for the plane waves of one k-point with indices `waves` (n,)."""
        matrix = torch.diag(self.diagonal[waves]).to(torch.complex128)
        for operator in self._others:
            matrix += operator.matrix(waves)
        return matrix
