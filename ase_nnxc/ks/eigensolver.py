"""The lowest eigenpairs of H at one k-point: block Davidson with a growing basis.

The basis holds the orbitals and, step by step, the preconditioned residuals of those that have not converged; in it the
small generalised eigenproblem is solved in double precision (Rayleigh-Ritz). Method: Davidson, J. Comput. Phys. 17,
87 (1975), in blocks as in Kresse and Furthmueller, Phys. Rev. B 54, 11169 (1996), section III.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .hamiltonian import Hamiltonian

MAX_EXPANSIONS = 4  # of the basis, in one call


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Result of one diagonalisation.

    Attributes
    ----------
    values : Tensor
        (nbands,) Hartree, ascending, float64.
    vectors : Tensor
        (nbands, npw), orthonormal.
    residuals : Tensor
        (nbands,) norms |H psi - e psi|, Hartree, as `davidson` weighs them; infinite for bands that were not asked for.
    applications : int
        How many times H was applied to an orbital.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    applications: int


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """<a_i|b_j> in double precision."""
    return torch.mm(a.conj(), b.mT).to(torch.complex128)


def _norms(vectors: Tensor) -> Tensor:
    """Norms (n,) of complex vectors (n, npw); torch's own norm of complex numbers is slow."""
    return torch.linalg.vector_norm(torch.view_as_real(vectors).flatten(1), dim=1)


def _solve_small(overlap: Tensor, matrix: Tensor, nbands: int) -> tuple[Tensor, Tensor]:
    """A c = e S c through S = L L^H."""
    lower = torch.linalg.cholesky(overlap)
    half = torch.linalg.solve_triangular(lower, matrix, upper=False)
    reduced = torch.linalg.solve_triangular(lower, half.mH, upper=False)
    values, vectors = torch.linalg.eigh(0.5 * (reduced + reduced.mH))
    return values[:nbands], torch.linalg.solve_triangular(lower.mH, vectors[:, :nbands], upper=True)


def precondition(residual: Tensor, values: Tensor, psi: Tensor, hamiltonian: Hamiltonian) -> Tensor:
    """Teter, Payne and Allan's preconditioner in the form of Kresse and Furthmueller, eq. (38) of their paper.

    x = T / (3/2 <T>_n),  K = (27 + 18 x + 12 x^2 + 8 x^3) / (27 + 18 x + 12 x^2 + 8 x^3 + 16 x^4).
    """
    mean = torch.view_as_real(psi).square().sum(-1) @ hamiltonian.diagonal[:, None]
    x = hamiltonian.diagonal / (1.5 * mean)
    a = 27 + x * (18 + x * (12 + 8 * x))
    return residual * (a / (a + 16 * x**4))


def davidson(hamiltonian: Hamiltonian, psi: Tensor, tolerance: float, nconverge: int) -> Eigenpairs:
    """Improve orbitals until their residuals are below `tolerance` or `MAX_EXPANSIONS` are made.

    A residual r(G) changes the eigenvalue by |r(G)|^2 / (T(G) - e): it weighs less where a smooth cutoff lifts T above
    the cutoff, as the square root of ecut / T. (Unweighted, norms of 40 Ha stand beside converged energies.)

    Parameters
    ----------
    hamiltonian : Hamiltonian
        H.
    psi : Tensor
        (nbands, npw) start, linearly independent.
    tolerance : float
        For the norm of each residual, Hartree.
    nconverge : int
        How many of the lowest orbitals must meet it.
    """
    nbands = len(psi)
    basis = _independent(psi)
    h_basis = hamiltonian.apply(basis)
    overlap, matrix = _overlaps(basis, basis), _overlaps(basis, h_basis)
    values, c = _solve_small(overlap, matrix, nbands)
    residuals = torch.full((nbands,), torch.inf, dtype=torch.float64, device=psi.device)
    active = torch.arange(nconverge, device=psi.device)
    weights = (hamiltonian.ecut / hamiltonian.diagonal).clamp(max=1).sqrt()
    applications = nbands
    for step in range(MAX_EXPANSIONS + 1):
        ca = c[:, active].mT.to(psi.dtype)
        ritz = ca @ basis
        energies = values[active].to(hamiltonian.diagonal.dtype)[:, None]
        residual = torch.addcmul(ca @ h_basis, ritz, energies, value=-1)
        norms = _norms(residual * weights).to(torch.float64)
        residuals[active] = norms
        open_ = (norms > tolerance).nonzero().squeeze(-1)
        if len(open_) == 0 or step == MAX_EXPANSIONS:
            break
        active = active[open_]
        new = precondition(residual[open_], energies[open_], ritz[open_], hamiltonian)
        new /= _norms(new)[:, None]
        h_new = hamiltonian.apply(new)
        applications += len(new)
        grown, h_grown = torch.cat((basis, new)), torch.cat((h_basis, h_new))
        bordered_s = _border(overlap, _overlaps(grown, new))
        bordered_h = _border(matrix, _overlaps(grown, h_new))
        try:
            values, c = _solve_small(bordered_s, bordered_h, nbands)
        except torch.linalg.LinAlgError:  # the new directions add nothing that this precision can tell
            break
        basis, h_basis, overlap, matrix = grown, h_grown, bordered_s, bordered_h
    return Eigenpairs(values, c.mT.to(psi.dtype) @ basis, residuals, applications)


def _independent(psi: Tensor) -> Tensor:
    """Orbitals (nbands, npw); if they depend on each other, as a smaller sphere can make them, some are made anew."""
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
    """Hermitian matrix (n+m, n+m) from its first block (n, n) and its last columns (n+m, m)."""
    n = len(matrix)
    return torch.cat((torch.cat((matrix, columns[:n]), dim=1), torch.cat((columns[:n].mH, columns[n:]), dim=1)))
