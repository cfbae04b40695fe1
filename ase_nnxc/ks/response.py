"""Linear response of a ground state, and by it the gradients of anything that an SCF gives.

The fields F (density; see `terms.xc`) are a fixed point: F = Phi(v), v = v[F; theta]. With chi0 = dPhi/dv, the response
of the orbitals at fixed electron number, and K = dv/dF, a change of v by d_theta v makes dF = (1 - chi0 K)^-1 chi0
d_theta v. Both are symmetric, so that for a loss L(F) one solution serves all parameters,

    (1 - chi0 K) z = chi0 dL/dF,    dL/dtheta = <z, d_theta v_xc>.

chi0 follows E. Cances, M. F. Herbst, G. Kemlin, A. Levitt and B. Stamm, Lett. Math. Phys. 113, 21 (2023): among the
converged bands it is an explicit sum of divided differences of the occupations; what lies outside of them is solved for
by Sternheimer's equation, inside GMRES only as well as each step needs it: M. F. Herbst and B. Sun,
arXiv:2505.02319 (2025).

A change of the potentials is given by slopes (nfields, n1, n2, n3), derivatives of an energy per volume by the fields.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .eigensolver import precondition
from .ground_state import GroundState, fields_of
from .hamiltonian import Hamiltonian
from .occupations import Smearing
from .parallel import map_kpoints
from .scf import EMPTY, Problem
from .terms.xc import _chunks, _features, _sum, up_and_down

SINGLE_PRECISION = 1e-4  # looser relative residuals of Sternheimer's equation are reached in complex64
LOOSEST = 3e-2  # relative residual of Sternheimer's equation that is always asked for
STEPS = 100  # most steps of either solver
NEGLIGIBLE = 1e-12  # a smaller occupation changes nothing
NO_METAL = 1e-8  # slopes of the occupations times their width that add up to less: the Fermi level does not matter
ILL_DEFINED = 1e-2  # share of the slopes' sum in that of their sizes below which the Fermi level has no response


class ResponseError(RuntimeError):
    """The response of a ground state does not exist or was not found."""


def divided_differences(smearing: Smearing, eigenvalues: Tensor, fermi_level: float) -> Tensor:
    """(f_m - f_n) / (e_m - e_n), Hartree^-1, of all pairs of eigenvalues (n,), and df/de where they are equal: (n, n).

    For close levels it is the mean of df/de between them, by Gauss and Legendre's rule.
    """
    f = smearing.occupations(eigenvalues, fermi_level)
    distance = eigenvalues[:, None] - eigenvalues
    nodes, weights = (torch.as_tensor(a, dtype=f.dtype, device=f.device) for a in np.polynomial.legendre.leggauss(6))
    between = eigenvalues[:, None] - 0.5 * distance * (1 + nodes[:, None, None])
    mean = 0.5 * torch.tensordot(weights, smearing.derivatives(between, fermi_level), 1)
    close = distance.abs() < 0.5 * smearing.width
    return torch.where(close, mean, (f[:, None] - f) / torch.where(close, 1.0, distance))


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
    target = tolerance * float(_norms(right).max())
    active = torch.arange(len(right), device=right.device)
    direction, last = torch.zeros_like(right), torch.full_like(energies, torch.inf)
    for _ in range(STEPS):
        open_ = (_norms(residual) > target).nonzero().squeeze(-1)
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


def _norms(vectors: Tensor) -> Tensor:
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


def _bands_above(occupation: float, occupations: Tensor) -> Tensor:
    """Number of bands (...) up to the last whose occupation (..., nbands), of any sign, is larger than that."""
    numbers = torch.arange(1, occupations.shape[-1] + 1, device=occupations.device)
    return ((occupations.abs() > occupation) * numbers).amax(-1)


@dataclass(frozen=True)
class FirstOrder:
    """First-order change of orbitals and occupations, as changed fields and energies are made of it.

    A quadratic form q summed over the electrons changes by sum_n Re q(psi_n, eta_n) = 1/4 sum_n (q(psi_n + eta_n)
    - q(psi_n - eta_n)), eta_n = g_n (2 f_n dpsi_n + df_n psi_n). These are orbitals with occupations of either sign,
    and go where a ground state's go.

    Attributes
    ----------
    orbitals : list of list of Tensor
        [spin][k] -> (2 nbands, npw): psi + eta and psi - eta.
    electrons : Tensor
        (nspin, nk, 2 nbands) their occupations.
    """

    orbitals: list[list[Tensor]]
    electrons: Tensor


@dataclass(frozen=True)
class _Block:
    """Response of the first n orbitals of one spin and k-point at fixed Fermi level.

    `change` is eta (n, npw), `shifts` the first-order eigenvalues (n,), Hartree.
    """

    change: Tensor
    shifts: Tensor


class Response:
    """The linear response of a ground state.

    Parameters
    ----------
    state : GroundState
        Around which to expand.
    tolerance : float, optional
        Relative error of the response; by default that of the state's own density, from the last step of its SCF.
    """

    def __init__(self, state: GroundState, tolerance: float | None = None):
        self.state = state
        crystal, basis = state.crystal, state.basis
        self.problem = Problem(crystal, basis, state.functional)
        self.tolerance = tolerance or max(1e-9, 10 * math.sqrt(state.history[-1].error / crystal.nelectrons))
        self.potentials, _ = self.problem.potentials(state.fields)
        self.real_fields = basis.grid.to_real(state.fields)
        # the SCF has converged the bands that hold electrons somewhere, and one more
        self.filled = _bands_above(EMPTY, state.occupations)  # (nspin, nk)
        self.nbands = min(int(self.filled.max()) + 1, state.occupations.shape[-1])
        # little electrons have large slopes
        self.touched = _bands_above(NEGLIGIBLE, state.occupations[..., : self.nbands])
        slopes = state.smearing.derivatives(state.eigenvalues, state.fermi_level)[..., : self.nbands]
        self.weights = (2 / crystal.nspin) * basis.weights  # (nk,) electrons in a full orbital
        self.slopes = slopes * self.weights[:, None]
        self.metallic = self._is_metallic()

    def _is_metallic(self) -> bool:
        """Whether the response of the Fermi level counts."""
        sizes, total = float(self.slopes.abs().sum()), -float(self.slopes.sum())
        if sizes * self.state.smearing.width < NO_METAL:
            return False
        if total < ILL_DEFINED * sizes:
            raise ResponseError(
                f"the Fermi level has no well-defined response: {self.state.smearing.name} smearing gives a density "
                f"of states of {total:.2g} / Ha at it; use more k-points, another width, or fermi-dirac or gaussian"
            )
        return True

    def kernel(self, change: Tensor) -> Tensor:
        """K dF: slopes (nfields, n1, n2, n3) that a change (nfields, ng) of the fields makes."""
        grid = self.state.basis.grid
        slopes = self._xc(change, ())[0]
        slopes[0] += grid.to_real(self.problem.kernel * change[0])
        return slopes

    def parameter_gradients(self, change: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """d/dtheta <dF, v_xc[F; theta]> of parameters of the functional, for fields dF (nfields, ng)."""
        scale = self.state.crystal.volume / self.state.basis.grid.size
        return tuple(scale * g for g in self._xc(change, parameters)[1])

    def _xc(self, change: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Gradients of sum_r v_xc dF by the fields, averaged by symmetry, and by parameters."""
        state = self.state
        functional, basis, reciprocal = state.functional, state.basis, state.crystal.reciprocal
        with torch.enable_grad():
            leaf = self.real_fields.detach().requires_grad_()
            features = _features(functional, leaf, basis, reciprocal)
            changes = _features(functional, basis.grid.to_real(change), basis, reciprocal)  # they are linear
            by_features: list[tuple[Tensor, ...]] = []
            by_parameters = [torch.zeros_like(p) for p in parameters]
            for (counts, *chunk), (_, *along) in zip(_chunks(basis, features), _chunks(basis, changes)):
                leaves = [f.detach().requires_grad_() for f in chunk]
                slopes = torch.autograd.grad(_sum(functional, counts, *leaves), leaves, create_graph=True)
                derivative = torch.stack([(s * d).sum() for s, d in zip(slopes, along)]).sum()
                gradients = torch.autograd.grad(
                    derivative, (*leaves, *parameters), allow_unused=True, materialize_grads=True
                )
                by_features.append(gradients[: len(leaves)])
                by_parameters = [a + b for a, b in zip(by_parameters, gradients[len(leaves) :])]
            cotangents = [torch.cat(parts, dim=-1) for parts in zip(*by_features)]
            (slope,) = torch.autograd.grad(features, leaf, cotangents)
        return basis.orbits.symmetrize(slope), by_parameters

    def chi0(self, slopes: Tensor, tolerance: float | None = None) -> Tensor:
        """Change of the fields (nfields, ng) by slopes (nfields, n1, n2, n3) at fixed interaction.

        The electron number is kept. `slopes` must have the symmetry of the crystal.
        """
        first = self.first_order(slopes, tolerance)
        state = self.state
        return fields_of(state.crystal, state.basis, state.functional, first.orbitals, first.electrons)

    def first_order(self, slopes: Tensor, tolerance: float | None = None) -> FirstOrder:
        """Change of orbitals and occupations by slopes (nfields, n1, n2, n3); arguments of `chi0`."""
        perturbation = self.on_grid(slopes)
        accuracy = min(LOOSEST, tolerance or self.tolerance)
        state = self.state

        def one(block: tuple[int, int]) -> _Block:
            return self._block(*block, perturbation[block[0]], accuracy)

        blocks = state.basis.blocks(state.crystal.nspin)
        results = map_kpoints(one, blocks, state.crystal.device)
        shift = self._fermi_shift([r.shifts for r in results])
        scale = max(max(float(_norms(r.change).max()) for r in results if len(r.change)), 1e-300)
        electrons = torch.zeros(*self.slopes.shape[:2], 2, self.nbands, dtype=torch.float64, device=self.slopes.device)
        orbitals = []
        for (spin, k), result in zip(blocks, results):
            count = len(result.change)
            psi = state.orbitals[spin][k][: self.nbands]
            eta = torch.zeros_like(psi)
            eta[:count] = result.change - (shift * self.slopes[spin, k, :count, None]) * psi[:count]
            eta /= scale
            electrons[spin, k, 0, :count], electrons[spin, k, 1, :count] = 0.25 * scale, -0.25 * scale
            orbitals.append(torch.cat((psi + eta, psi - eta)))
        return FirstOrder(state.basis.by_spin(orbitals), electrons.flatten(2))

    def on_grid(self, slopes: Tensor) -> Tensor:
        """Potentials (nspin, 1 or 2, n1, n2, n3) of each spin, as those of `Problem.potentials`."""
        grid, nspin = self.state.basis.grid, self.state.crystal.nspin
        local = up_and_down(slopes[:nspin])
        if len(slopes) == nspin:
            return local[:, None]
        tau = up_and_down(slopes[nspin:])
        squares = grid.wavevectors(self.state.crystal.reciprocal).square().sum(-1)
        return torch.stack((local - 0.25 * grid.to_real(squares * grid.to_fourier(tau)), tau), dim=1)

    def _block(self, spin: int, k: int, perturbation: Tensor, tolerance: float) -> _Block:
        """Response of one block to potentials (1 or 2, n1, n2, n3) on the grid."""
        dtype = torch.complex64 if tolerance > SINGLE_PRECISION else torch.complex128
        state, filled, count = self.state, int(self.filled[spin, k]), int(self.touched[spin, k])
        space = state.orbitals[spin][k][: self.nbands].to(dtype)
        energies = state.eigenvalues[spin, k, : self.nbands]
        hamiltonian = self.problem.hamiltonian(k, self.potentials[spin], dtype)
        operator = self.problem.hamiltonian(k, perturbation, dtype)
        operator = replace(operator, kinetic=torch.zeros_like(operator.kinetic), projectors=operator.projectors[:0])
        right = operator.apply(space[:count])
        couplings = (space.conj() @ right.mT).to(torch.complex128)  # <m|dH|n>
        # sum_mn psi_m c_mn psi_n*, c_mn = <m|dH|n> (f_m - f_n) / (e_m - e_n), counts pairs with an empty one
        # twice
        mixing = couplings * divided_differences(state.smearing, energies, state.fermi_level)[:, :count]
        mixing[count:] *= 2
        change = mixing.mT @ state.orbitals[spin][k][: self.nbands]
        if filled:
            levels = energies[:filled].to(dtype.to_real())
            outside = sternheimer(hamiltonian, space[:filled], levels, space, right[:filled], tolerance)
            change[:filled] += 2 * state.occupations[spin, k, :filled, None] * outside
        return _Block(self.weights[k] * change, couplings.diagonal().real)

    def _fermi_shift(self, shifts: list[Tensor]) -> float:
        """dmu = sum f' de / sum f', Hartree, of first-order eigenvalues of each block."""
        if not self.metallic:
            return 0.0
        slopes = self.slopes.flatten(0, 1)
        total = sum(float((s[: len(de)] * de).sum()) for s, de in zip(slopes, shifts))
        return total / float(slopes.sum())

    def solve(self, slopes: Tensor) -> Tensor:
        """Change of the fields (nfields, ng) by slopes (nfields, n1, n2, n3) with the interaction.

        dF = chi0 (slopes + K dF), by GMRES.
        """
        grid = self.state.basis.grid

        def inner(a: Tensor, b: Tensor) -> Tensor:
            return grid.inner(a, b).sum()

        def apply(vector: Tensor, error: float) -> Tensor:
            change = self._screen(vector)
            return change - self.chi0(self.kernel(change), error)

        bare = self.chi0(slopes, 0.3 * self.tolerance)
        return self._screen(gmres(apply, bare, inner, self.tolerance))

    def _screen(self, change: Tensor) -> Tensor:
        """Fields after screening by a model of chi0, the densities of states at the Fermi level, and no exchange.

        (1 - chi0 v_c)^-1 with chi0 = -D for the density and -(D_up - D_down) for the magnetisation.
        """
        states = -self.slopes.sum((1, 2)) / self.state.crystal.volume  # (nspin,) D / Omega
        screened = change.clone()
        screened[0] = change[0] / (1 + states.sum() * self.problem.kernel)
        if len(states) == 2:
            screened[1] -= (states[0] - states[1]) * self.problem.kernel * screened[0]
        return screened


class Differentiable(NamedTuple):
    """What an SCF gives, as tensors that carry gradients by the functional's parameters.

    Attributes
    ----------
    fields : Tensor
        (nfields, n1, n2, n3): `GroundState.fields` on the grid.
    eigenvalues : Tensor
        (nspin, nk, nbands) Hartree. Of degenerate levels only symmetric functions have derivatives.
    fermi_level : Tensor
        Scalar, Hartree.
    """

    fields: Tensor
    eigenvalues: Tensor
    fermi_level: Tensor


def differentiable(state: GroundState, tolerance: float | None = None) -> Differentiable:
    """Fields, eigenvalues and Fermi level as differentiable functions of the functional's parameters.

    Anything made of them can be differentiated by `backward`, which solves one system of linear equations: occupations
    and entropies are functions of eigenvalues and Fermi level.

    Parameters
    ----------
    state : GroundState
        Of a functional with parameters that require gradients.
    tolerance : float, optional
        Relative error of the response; by default that of the state's own density.

    Raises
    ------
    ResponseError
        By `backward`, if there is no response or it was not found.
    """
    parameters = [p for p in state.functional.parameters() if p.requires_grad]
    return Differentiable(*_GroundState.apply(state, tolerance, *parameters))


class _GroundState(torch.autograd.Function):
    """(parameters) -> (fields, eigenvalues, Fermi level) of a state already found."""

    @staticmethod
    def forward(
        ctx: Any, state: GroundState, tolerance: float | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.state, ctx.tolerance = state, tolerance
        ctx.save_for_backward(*parameters)  # torch notices if they have changed in between
        fermi_level = torch.tensor(state.fermi_level, dtype=torch.float64, device=state.crystal.device)
        return state.basis.grid.to_real(state.fields), state.eigenvalues.clone(), fermi_level

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, fields: Tensor, eigenvalues: Tensor, fermi_level: Tensor) -> tuple[Tensor | None, ...]:
        state, parameters = ctx.state, ctx.saved_tensors
        response = Response(state, ctx.tolerance)
        crystal, basis = state.crystal, state.basis
        slopes = basis.orbits.symmetrize(fields) * (basis.grid.size / crystal.volume)
        by_level = eigenvalues.clone()
        if response.metallic:  # dmu = sum f' de / sum f'
            by_level[..., : response.nbands] += fermi_level * response.slopes / response.slopes.sum()
        # de_n = <n|dv|n>: a loss on eigenvalues is one on the potential, which changes by theta and by the fields
        change = torch.zeros_like(state.fields)
        if bool(by_level.any()):
            change = fields_of(crystal, basis, state.functional, state.orbitals, by_level)
            slopes = slopes + response.kernel(change)
        if bool(slopes.any()):
            change = change + response.solve(slopes)
        return None, None, *response.parameter_gradients(change, parameters)
