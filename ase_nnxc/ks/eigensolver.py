"""The lowest eigenpairs of H at several k-points, by the block Davidson method with a growing basis.

The basis contains the orbitals. Each step adds the preconditioned residuals of the orbitals that have not converged,
and solves the small generalised eigenproblem of the basis in double precision (Rayleigh-Ritz). The method is that of
Davidson, J. Comput. Phys. 17, 87 (1975), in blocks as in Kresse and Furthmueller, Phys. Rev. B 54, 11169 (1996),
section III.

All tensors have a leading axis of k-points. A basis grows by the same number of vectors at each of them; where fewer
orbitals have not converged, some of these vectors are zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .hamiltonian import Hamiltonian

MAX_EXPANSIONS = 4  # the largest number of expansions of the basis in one call

# H is applied to new vectors in single precision if all residuals are below this multiple of the tolerance. A vector
# made of a residual has a coefficient of about the residual divided by the gap to its energy, 0.1 to 1 Ha. Its product
# with H has an error below 1e-5 Ha (potentials of 100 Ha), which is below 0.1 of the tolerance of the residual then.
SINGLE_BELOW = 1e3


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """The result of one diagonalisation at nk k-points, or without the first axis that of one of them.

    Attributes
    ----------
    values : Tensor
        (nk, nbands) eigenvalues in ascending order, float64, Hartree.
    vectors : Tensor
        (nk, nbands, npw) orthonormal orbitals, with the padding of the Hamiltonian.
    residuals : Tensor
        (nk, nbands) norms |H psi - e psi|, Hartree, with `residual_weights`. They are infinite for bands that need not
        converge.
    applications : Tensor
        (nk,) int64 numbers of products of H with an orbital.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    applications: Tensor

    def of_blocks(self, numbers: Sequence[int]) -> "list[Eigenpairs]":
        """Return those of each k-point, with these numbers of plane waves."""
        rows = zip(self.values, self.vectors, self.residuals, self.applications, numbers)
        copies = ((e, psi[:, :npw].clone(memory_format=torch.contiguous_format), r, n) for e, psi, r, n, npw in rows)
        return [Eigenpairs(*copy) for copy in copies]  # views would hold the memory of the whole batch


def memory(nbands: int, npw: int, dtype: torch.dtype) -> int:
    """Return the bytes of the largest basis of a k-point, and of its products with H."""
    return 2 * (MAX_EXPANSIONS + 1) * nbands * npw * dtype.itemsize


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Return <a_i|b_j> in double precision."""
    return in_double(a.conj() @ b.mT)


def in_double(vectors: Tensor) -> Tensor:
    """Return real or complex numbers in double precision."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float64))


def real_parts(vectors: Tensor) -> Tensor:
    """Return real vectors (..., n, npw) as they are, and complex ones as real (..., n, 2 npw)."""
    return torch.view_as_real(vectors).flatten(-2) if vectors.is_complex() else vectors


def norms(vectors: Tensor) -> Tensor:
    """Return norms (..., n) of vectors (..., n, npw); torch's own norm of complex numbers is slow."""
    return torch.linalg.vector_norm(real_parts(vectors), dim=-1)


def _solve_small(overlap: Tensor, matrix: Tensor, nbands: int) -> tuple[Tensor, Tensor]:
    """Solve A c = e S c by S = L L^H; return the lowest `nbands` eigenvalues and eigenvectors."""
    lower = torch.linalg.cholesky_ex(overlap).L  # positive definite: see `davidson`
    half = torch.linalg.solve_triangular(lower, matrix, upper=False)
    reduced = torch.linalg.solve_triangular(lower, half.mH, upper=False)
    values, vectors = torch.linalg.eigh(0.5 * (reduced + reduced.mH))
    return values[:, :nbands], torch.linalg.solve_triangular(lower.mH, vectors[..., :nbands], upper=True)


def precondition(residual: Tensor, psi: Tensor, kinetic: Tensor) -> Tensor:
    """Apply the preconditioner K of Teter, Payne and Allan in the form of Kresse and Furthmueller, eq. (38).

    x = T / (3/2 <T>_n),  K = (27 + 18 x + 12 x^2 + 8 x^3) / (27 + 18 x + 12 x^2 + 8 x^3 + 16 x^4).

    The shapes are (..., n, npw) and, of the kinetic energy T, (..., npw).
    """
    squares = torch.view_as_real(psi).square().sum(-1) if psi.is_complex() else psi.square()
    mean = squares @ kinetic[..., None]
    x = kinetic[..., None, :] / (1.5 * mean)
    a = 27 + x * (18 + x * (12 + 8 * x))
    return residual * (a / (a + 16 * x**4))


def residual_weights(kinetic: Tensor, ecut: float) -> Tensor:
    """Return the weights of residuals of plane waves with these kinetic energies (..., npw), up to a cutoff, Hartree.

    A residual r(G) changes the eigenvalue by |r(G)|^2 / (T(G) - e). Where a smooth cutoff raises T above the cutoff,
    the residual is therefore weighted with the square root of ecut / T. (Without weights the norms can be 40 Ha when
    the energies have converged.)
    """
    return (ecut / kinetic).clamp(max=1).sqrt()


def davidson(hamiltonian: Hamiltonian, psi: Tensor, tolerance: float, nconverge: int) -> Eigenpairs:
    """Improve orbitals until their residuals are below `tolerance`, with at most `MAX_EXPANSIONS` expansions.

    Parameters
    ----------
    hamiltonian : Hamiltonian
        H of nk k-points, from `Hamiltonian.stack`.
    psi : Tensor
        (nk, nbands, npw) initial orbitals, real or complex, not necessarily orthonormal, with zeros as padding.
    tolerance : float
        The largest norm of a residual, Hartree.
    nconverge : int
        Number of the lowest orbitals that must converge.
    """
    nk, nbands, _ = psi.shape
    basis = _independent(psi, hamiltonian.numbers)
    h_basis = hamiltonian.apply(basis)
    overlap, matrix = _overlaps(basis, basis), _overlaps(basis, h_basis)
    values, c = _solve_small(overlap, matrix, nbands)
    residuals = torch.full((nk, nbands), torch.inf, dtype=torch.float64, device=psi.device)
    weights = residual_weights(hamiltonian.kinetic, hamiltonian.ecut)[:, None]
    active = torch.arange(nconverge, device=psi.device).expand(nk, -1)  # bands
    open_ = torch.ones_like(active, dtype=torch.bool)  # which of them have not converged
    applications = torch.full((nk,), nbands, device=psi.device)
    for step in range(MAX_EXPANSIONS + 1):
        ca = _rows(c.mT, active).to(psi.dtype)
        ritz = ca @ basis
        energies = values.gather(1, active)[..., None].to(hamiltonian.kinetic.dtype)
        residual = torch.addcmul(ca @ h_basis, ritz, energies, value=-1)
        sizes = norms(residual * weights).to(torch.float64)
        residuals.scatter_(1, active, torch.where(open_, sizes, residuals.gather(1, active)))
        open_ = open_ & (sizes > tolerance)
        most, largest = torch.stack((open_.sum(1).max(), sizes.max())).tolist()
        count = int(most)
        if count == 0 or step == MAX_EXPANSIONS:
            break
        first = open_.to(torch.int8).argsort(descending=True, stable=True)[:, :count]
        active, open_ = active.gather(1, first), open_.gather(1, first)
        new = precondition(_rows(residual, first), _rows(ritz, first), hamiltonian.kinetic)
        new *= torch.where(open_, 1 / norms(new), 0)[..., None]
        apply = hamiltonian.apply_in_single if largest < SINGLE_BELOW * tolerance else hamiltonian.apply
        h_new = apply(new)
        applications += open_.sum(1)
        grown, h_grown = torch.cat((basis, new), dim=1), torch.cat((h_basis, h_new), dim=1)
        # <new|H|basis> is small, so it comes from the products of the basis: those of `new` may be in single precision
        bordered_s, bordered_h = _border(overlap, _overlaps(new, grown)), _border(matrix, _overlaps(new, h_grown))
        above = values[:, -1:] + 1  # Hartree: zero vectors get this eigenvalue, which is none of the lowest
        bordered_s, bordered_h = _without(~open_, bordered_s, bordered_h, above)
        dependent = torch.linalg.cholesky_ex(bordered_s).info  # the first vector that depends on those before, or 0
        if bool(dependent.any()):
            independent = torch.where(dependent > 0, dependent - 1 - basis.shape[1], count)
            open_ = open_ & (torch.arange(count, device=psi.device) < independent[:, None])
            bordered_s, bordered_h = _without(~open_, bordered_s, bordered_h, above)
        basis, h_basis, overlap, matrix = grown, h_grown, bordered_s, bordered_h
        values, c = _solve_small(overlap, matrix, nbands)
    return Eigenpairs(values, c.mT.to(psi.dtype) @ basis, residuals, applications)


def _rows(matrix: Tensor, index: Tensor) -> Tensor:
    """Return the rows (nk, m, ...) of matrices (nk, n, ...) with the indices (nk, m)."""
    return matrix[torch.arange(len(index), device=index.device)[:, None], index]


def _without(left_out: Tensor, overlap: Tensor, matrix: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Return S and H (nk, n, n) without some of their last vectors (nk, m), which get the eigenvalue `above`."""
    left_out = torch.nn.functional.pad(left_out, (overlap.shape[1] - left_out.shape[1], 0))
    either, alone = left_out[:, None] | left_out[..., None], torch.diag_embed(left_out)
    return (
        overlap.masked_fill(either, 0).masked_fill_(alone, 1),
        torch.where(alone, above[..., None].to(matrix.dtype), matrix.masked_fill(either, 0)),
    )


def _independent(psi: Tensor, numbers: Sequence[int]) -> Tensor:
    """Return the orbitals (nk, nbands, npw); if they are linearly dependent, some are replaced by random vectors.

    Orbitals can become dependent if they are moved to a smaller set of plane waves; `numbers` are those of plane waves.
    """
    weights, vectors = torch.linalg.eigh(_overlaps(psi, psi))
    dependent = weights[:, 0] <= 1e-8 * weights[:, -1]
    if not bool(dependent.any()):
        return psi
    psi = psi.clone()
    for k in dependent.nonzero().squeeze(-1).tolist():
        old, kept = psi[k, :, : numbers[k]], weights[k] > 1e-6 * weights[k, -1]
        generator = torch.Generator(device=psi.device).manual_seed(len(old))
        orthonormal = (vectors[k][:, kept] / weights[k][kept].sqrt()).mT.to(psi.dtype) @ old
        shape = (len(old) - len(orthonormal), numbers[k])
        new = torch.randn(shape, dtype=psi.dtype, device=psi.device, generator=generator) / numbers[k] ** 0.5
        psi[k, :, : numbers[k]] = torch.cat((orthonormal, new))
    return psi


def _border(matrix: Tensor, rows: Tensor) -> Tensor:
    """Return Hermitian matrices (nk, n+m, n+m) from first blocks (nk, n, n) and last rows (nk, m, n+m)."""
    above = torch.cat((matrix, rows[..., : matrix.shape[1]].mH), dim=2)
    return torch.cat((above, rows), dim=1)
