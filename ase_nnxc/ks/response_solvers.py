"""The two linear systems of a response: Sternheimer's equation of each k-point, and Dyson's equation by GMRES."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .eigensolver import precondition
from .hamiltonian import Hamiltonian

STEPS = 100  # largest number of steps of either solver


class ResponseError(RuntimeError):
    """The response of a ground state does not exist or was not found."""


def sternheimer(
    hamiltonian: Hamiltonian, psi: Tensor, energies: Tensor, space: Tensor, right: Tensor, tolerance: float
) -> Tensor:
    """Solve Q (H - e_n) Q x_n = -Q b_n, Q the projector on what is orthogonal to `space`, by conjugate gradients.

    Parameters
    ----------
    hamiltonian : Hamiltonian
        H.
    psi : Tensor
        (n, npw) orbitals that the preconditioner looks at.
    energies : Tensor
        (n,) e_n, Hartree, below all eigenvalues of Q H Q.
    space : Tensor
        (m, npw) orthonormal.
    right : Tensor
        (n, npw) b_n.
    tolerance : float
        Norm of residuals, relative to the largest norm of the right sides b_n.

    Returns
    -------
    Tensor
        (n, npw) x_n, orthogonal to `space`.

    Raises
    ------
    ResponseError
        If it does not converge.
    """

    def outside(vectors: Tensor) -> Tensor:
        return torch.addmm(vectors, vectors @ space.mH, space, alpha=-1)

    solution = torch.zeros_like(right)
    residual = outside(-right)
    target = tolerance * float(norms(right).max())
    active = torch.arange(len(right), device=right.device)
    direction, last = torch.zeros_like(right), torch.full_like(energies, torch.inf)
    for _ in range(STEPS):
        open_ = (norms(residual) > target).nonzero().squeeze(-1)
        if len(open_) == 0:
            return solution
        if len(open_) < len(active):
            active, residual, direction, last = active[open_], residual[open_], direction[open_], last[open_]
        e = energies[active][:, None]
        steepest = outside(precondition(residual, e, psi[active], hamiltonian))
        slope = _dots(residual, steepest)
        direction = torch.addcmul(steepest, direction, (slope / last)[:, None])
        last = slope
        image = outside(torch.addcmul(hamiltonian.apply(direction), direction, e, value=-1))
        curvature = _dots(direction, image)
        if not bool((curvature > 0).all()):
            raise ResponseError("Sternheimer's equation is not positive: a band was missed below an occupied one")
        length = (slope / curvature)[:, None]
        solution[active] += length * direction
        residual = torch.addcmul(residual, image, length, value=-1)
    raise ResponseError(f"Sternheimer's equation has not converged in {STEPS} steps to {tolerance:.0e}")


def norms(vectors: Tensor) -> Tensor:
    """Norms (n,) of complex vectors (n, npw); torch's own norm of complex numbers is slow."""
    return torch.linalg.vector_norm(torch.view_as_real(vectors).flatten(1), dim=1)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Re <a_n|b_n> (n,)."""
    return (torch.view_as_real(a) * torch.view_as_real(b)).sum((1, 2))


def gmres(
    apply: Callable[[Tensor, float], Tensor],
    right: Tensor,
    inner: Callable[[Tensor, Tensor], Tensor],
    tolerance: float,
) -> Tensor:
    """Solve A x = b by GMRES with inexact products (V. Simoncini and D. B. Szyld, SIAM J. Sci. Comput. 25, 454 (2003)).

    Parameters
    ----------
    apply : callable
        A x of a vector and of the relative error that the product may have.
    right : Tensor
        b.
    inner : callable
        Real inner product of two vectors.
    tolerance : float
        Norm of the residual relative to that of b.

    Raises
    ------
    ResponseError
        If it does not converge.
    """
    size = float(inner(right, right).sqrt())
    if size == 0:
        return torch.zeros_like(right)
    vectors, matrix = [right / size], np.zeros((STEPS + 1, STEPS))
    relative = 1.0
    for step in range(STEPS):
        new = apply(vectors[-1], 0.3 * tolerance / relative)
        for row, vector in enumerate(vectors):
            matrix[row, step] = float(inner(vector, new))
            new = new - matrix[row, step] * vector
        matrix[step + 1, step] = norm = float(inner(new, new).sqrt())
        unit = np.eye(step + 2, 1)[:, 0]
        small = matrix[: step + 2, : step + 1]
        y = np.linalg.lstsq(small, unit, rcond=None)[0]
        relative = float(np.linalg.norm(unit - small @ y))
        if not math.isfinite(relative):
            raise ResponseError("the response is not a number")
        if relative <= tolerance:
            return size * torch.stack([c * v for c, v in zip(y.tolist(), vectors)]).sum(0)
        vectors.append(new / norm)
    raise ResponseError(f"the response has not converged in {STEPS} steps: {relative:.1e}, not {tolerance:.1e}")
