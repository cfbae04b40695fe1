"""The lowest eigenpairs of H at one k-point, by the block Davidson method with a growing basis.

The basis contains the orbitals. Each step adds the preconditioned residuals of the orbitals that have not converged,
and solves the small generalised eigenproblem of the basis in double precision (Rayleigh-Ritz). The method is that of
Davidson, J. Comput. Phys. 17, 87 (1975), in blocks as in Kresse and Furthmueller, Phys. Rev. B 54, 11169 (1996),
section III.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .hamiltonian import Hamiltonian

MAX_EXPANSIONS = 4  # the largest number of expansions of the basis in one call


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """The result of one diagonalisation.

    Attributes
    ----------
    values : Tensor
        (nbands,) eigenvalues in ascending order, float64, Hartree.
    vectors : Tensor
        (nbands, npw) orthonormal orbitals.
    residuals : Tensor
        (nbands,) norms |H psi - e psi|, Hartree, with `residual_weights`. They are infinite for bands that need
        not converge.
    applications : int
        Number of products of H with an orbital.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    applications: int


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Return <a_i|b_j> in double precision."""
    return torch.mm(a.conj(), b.mT).to(torch.complex128)


def norms(vectors: Tensor) -> Tensor:
    """Return norms (n,) of complex vectors (n, npw); torch's own norm of complex numbers is slow."""
    return torch.linalg.vector_norm(torch.view_as_real(vectors).flatten(1), dim=1)


def _solve_small(overlap: Tensor, matrix: Tensor, nbands: int) -> tuple[Tensor, Tensor]:
    """Solve A c = e S c by S = L L^H; return the lowest `nbands` eigenvalues and eigenvectors."""
    lower = torch.linalg.cholesky(overlap)
    half = torch.linalg.solve_triangular(lower, matrix, upper=False)
    reduced = torch.linalg.solve_triangular(lower, half.mH, upper=False)
    values, vectors = torch.linalg.eigh(0.5 * (reduced + reduced.mH))
    return values[:nbands], torch.linalg.solve_triangular(lower.mH, vectors[:, :nbands], upper=True)


def precondition(residual: Tensor, psi: Tensor, kinetic: Tensor) -> Tensor:
    """Apply the preconditioner K of Teter, Payne and Allan in the form of Kresse and Furthmueller, eq. (38).

    x = T / (3/2 <T>_n),  K = (27 + 18 x + 12 x^2 + 8 x^3) / (27 + 18 x + 12 x^2 + 8 x^3 + 16 x^4).
    """
    mean = torch.view_as_real(psi).square().sum(-1) @ kinetic[:, None]
    x = kinetic / (1.5 * mean)
    a = 27 + x * (18 + x * (12 + 8 * x))
    return residual * (a / (a + 16 * x**4))


def residual_weights(kinetic: Tensor, ecut: float) -> Tensor:
    """Return the weights (npw,) of residuals of plane waves with these kinetic energies, up to a cutoff, Hartree.

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
        H of a block.
    psi : Tensor
        (nbands, npw) initial orbitals, not necessarily orthonormal.
    tolerance : float
        The largest norm of a residual, Hartree.
    nconverge : int
        Number of the lowest orbitals that must converge.
    """
    nbands = len(psi)
    basis = _independent(psi)
    h_basis = hamiltonian.apply(basis)
    overlap, matrix = _overlaps(basis, basis), _overlaps(basis, h_basis)
    values, c = _solve_small(overlap, matrix, nbands)
    residuals = torch.full((nbands,), torch.inf, dtype=torch.float64, device=psi.device)
    active = torch.arange(nconverge, device=psi.device)
    weights = residual_weights(hamiltonian.kinetic, hamiltonian.ecut)
    applications = nbands
    for step in range(MAX_EXPANSIONS + 1):
        ca = c[:, active].mT.to(psi.dtype)
        ritz = ca @ basis
        energies = values[active].to(hamiltonian.kinetic.dtype)[:, None]
        residual = torch.addcmul(ca @ h_basis, ritz, energies, value=-1)
        sizes = norms(residual * weights).to(torch.float64)
        residuals[active] = sizes
        open_ = (sizes > tolerance).nonzero().squeeze(-1)
        if len(open_) == 0 or step == MAX_EXPANSIONS:
            break
        active = active[open_]
        new = precondition(residual[open_], ritz[open_], hamiltonian.kinetic)
        new /= norms(new)[:, None]
        h_new = hamiltonian.apply(new)
        applications += len(new)
        grown, h_grown = torch.cat((basis, new)), torch.cat((h_basis, h_new))
        bordered_s = _border(overlap, _overlaps(grown, new))
        bordered_h = _border(matrix, _overlaps(grown, h_new))
        try:
            values, c = _solve_small(bordered_s, bordered_h, nbands)
        except torch.linalg.LinAlgError:  # in this precision the new vectors depend on the basis
            break
        basis, h_basis, overlap, matrix = grown, h_grown, bordered_s, bordered_h
    return Eigenpairs(values, c.mT.to(psi.dtype) @ basis, residuals, applications)


def _independent(psi: Tensor) -> Tensor:
    """Return the orbitals (nbands, npw); if they are linearly dependent, some are replaced by random vectors.

    Orbitals can become dependent if they are moved to a smaller set of plane waves.
    """
    weights, vectors = torch.linalg.eigh(_overlaps(psi, psi))
    if weights[0] > 1e-8 * weights[-1]:
        return psi
    kept = weights > 1e-6 * weights[-1]
    generator = torch.Generator(device=psi.device).manual_seed(len(psi))
    shape = (int((~kept).sum()), psi.shape[1], 2)
    random = torch.randn(shape, dtype=torch.float64, device=psi.device, generator=generator)
    orthonormal = (vectors[:, kept] / weights[kept].sqrt()).mT.to(psi.dtype) @ psi
    return torch.cat((orthonormal, torch.view_as_complex(random).to(psi.dtype) / psi.shape[1] ** 0.5))


def _border(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return a Hermitian matrix (n+m, n+m) from its first block (n, n) and its last columns (n+m, m)."""
    n = len(matrix)
    return torch.cat((torch.cat((matrix, columns[:n]), dim=1), torch.cat((columns[:n].mH, columns[n:]), dim=1)))
