"""Solvers of a response: conjugate gradients for Sternheimer's equation of each block, GMRES for Dyson's equation."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .eigensolver import norms, precondition
from .hamiltonian import Hamiltonian

STEPS = 100  # the largest number of steps of either solver


class ResponseError(RuntimeError):
    """Raised when the response of a ground state does not exist or has not converged."""


def sternheimer(
    hamiltonian: Hamiltonian, psi: Tensor, energies: Tensor, space: Tensor, right: Tensor, tolerance: float
) -> Tensor:
    """Solve Q (H - e_n) Q x_n = -Q b_n by conjugate gradients; Q projects onto the complement of `space`.

    Parameters
    ----------
    hamiltonian : Hamiltonian
        H of a block.
    psi : Tensor
        (n, npw) orbitals, used by the preconditioner.
    energies : Tensor
        (n,) e_n, Hartree, below all eigenvalues of Q H Q.
    space : Tensor
        (m, npw) orthonormal orbitals.
    right : Tensor
        (n, npw) b_n.
    tolerance : float
        Largest norm of a residual, relative to the largest norm of the right-hand sides b_n.

    Returns
    -------
    Tensor
        (n, npw) x_n, orthogonal to `space`.

    Raises
    ------
    ResponseError
        If the solution does not converge, or Q (H - e_n) Q is not positive definite.
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
        steepest = outside(precondition(residual, psi[active], hamiltonian.kinetic))
        slope = _dots(residual, steepest)
        direction = torch.addcmul(steepest, direction, (slope / last)[:, None])
        last = slope
        image = outside(torch.addcmul(hamiltonian.apply(direction), direction, e, value=-1))
        curvature = _dots(direction, image)
        if not bool((curvature > 0).all()):
            raise ResponseError("Sternheimer's equation is not positive definite: a lower band is missing")
        length = (slope / curvature)[:, None]
        solution[active] += length * direction
        residual = torch.addcmul(residual, image, length, value=-1)
    raise ResponseError(
        f"Sternheimer's equation has not converged in {STEPS} steps to a relative residual of {tolerance:.0e}"
    )


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Return Re <a_n|b_n> (n,)."""
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
        Function of a vector x and of the relative error allowed in the product; returns A x.
    right : Tensor
        b.
    inner : callable
        Function of two vectors; returns their real inner product.
    tolerance : float
        Largest norm of the residual, relative to that of b.

    Raises
    ------
    ResponseError
        If the solution does not converge, or is NaN or infinite.
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
            raise ResponseError("the response is NaN or infinite")
        if relative <= tolerance:
            return size * torch.stack([c * v for c, v in zip(y.tolist(), vectors)]).sum(0)
        vectors.append(new / norm)
    raise ResponseError(
        f"the response has not converged in {STEPS} steps: the relative residual is {relative:.1e}, the tolerance is "
        f"{tolerance:.1e}"
    )
