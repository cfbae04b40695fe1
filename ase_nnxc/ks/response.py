"""Linear response of a ground state to a change of its Hamiltonian.

The fields F (density; see `terms.xc`) are a fixed point: F = Phi(v), v = v[F]. With chi0 = dPhi/dv, the response of the
orbitals at fixed electron number, and K = dv/dF, a change of v by dv makes dF = (1 - chi0 K)^-1 chi0 dv.

chi0 follows E. Cances, M. F. Herbst, G. Kemlin, A. Levitt and B. Stamm, Lett. Math. Phys. 113, 21 (2023): among the
converged bands it is an explicit sum of divided differences of the occupations; what lies outside of them is solved for
by Sternheimer's equation, inside GMRES only as well as each step needs it: M. F. Herbst and B. Sun,
arXiv:2505.02319 (2025).

A change of the potentials is given by slopes (nfields, n1, n2, n3), derivatives of an energy per volume by the fields,
all else by what it adds to H psi.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .eigensolver import precondition
from .ground_state import GroundState, fields_of
from .hamiltonian import Hamiltonian
from .occupations import Smearing
from .parallel import map_kpoints
from .scf import EMPTY, Problem
from .terms.xc import xc_energy

SINGLE_PRECISION = 1e-4  # looser relative residuals of Sternheimer's equation are reached in complex64
LOOSEST = 3e-2  # relative residual of Sternheimer's equation that is always asked for
STEPS = 100  # most steps of either solver
NEGLIGIBLE = 1e-12  # a smaller occupation changes nothing
NO_METAL = 1e-8  # slopes of the occupations times their width that add up to less: the Fermi level does not matter
ILL_DEFINED = 1e-2  # share of the slopes' sum in that of their sizes below which the Fermi level has no response

Operator = Callable[[int, int, Tensor], Tensor]
"""What a change of H makes of orbitals (n, npw) of the spin and k-point with these numbers."""


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
        with torch.enable_grad():
            self._fields = basis.grid.to_real(state.fields).requires_grad_()
            xc = xc_energy(state.functional, self._fields, crystal, basis)
            (self._slopes,) = torch.autograd.grad(xc, self._fields, create_graph=True)
        # the SCF has converged the bands that hold electrons somewhere, and one more
        self.filled = _bands_above(EMPTY, state.occupations)  # (nspin, nk)
        self.nbands = min(int(self.filled.max()) + 1, state.occupations.shape[-1])
        # little electrons have large slopes
        self.touched = _bands_above(NEGLIGIBLE, state.occupations[..., : self.nbands])
        slopes = state.smearing.derivatives(state.eigenvalues, state.fermi_levels[:, None, None])[..., : self.nbands]
        self.weights = (2 / crystal.nspin) * basis.weights  # (nk,) electrons in a full orbital
        self.slopes = slopes * self.weights[:, None]
        self.metallic = [self._is_metallic(self.slopes[spins]) for spins, _ in crystal.reservoirs]

    def _is_metallic(self, slopes: Tensor) -> bool:
        """Whether the response of the Fermi level that states with these slopes (n, nk, nbands) share counts."""
        sizes, total = float(slopes.abs().sum()), -float(slopes.sum())
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
        basis, volume = self.state.basis, self.state.crystal.volume
        real = basis.grid.to_real(change)
        (slopes,) = torch.autograd.grad(self._slopes, self._fields, real, retain_graph=True)
        slopes = basis.orbits.symmetrize(slopes * (basis.grid.size / volume))
        slopes[0] += basis.grid.to_real(self.problem.kernel * change[0])
        return slopes

    def chi0(self, slopes: Tensor, tolerance: float | None = None, operator: Operator | None = None) -> Tensor:
        """Change of the fields (nfields, ng) at fixed interaction; arguments of `first_order`."""
        first, state = self.first_order(slopes, tolerance, operator), self.state
        return fields_of(state.crystal, state.basis, state.functional, first.orbitals, first.electrons)

    def first_order(
        self, slopes: Tensor, tolerance: float | None = None, operator: Operator | None = None
    ) -> FirstOrder:
        """Change of orbitals and occupations at fixed interaction and numbers of electrons.

        Parameters
        ----------
        slopes : Tensor
            (nfields, n1, n2, n3) change of the potentials, with the symmetry of the crystal.
        tolerance : float, optional
            Relative error of the orbitals; by default that of the response.
        operator : callable, optional
            Any other change of H, with that symmetry.
        """
        perturbation = self.problem.on_grid(slopes)
        accuracy = min(LOOSEST, tolerance or self.tolerance)
        state = self.state

        def one(block: tuple[int, int]) -> _Block:
            return self._block(*block, perturbation[block[0]], accuracy, operator)

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
            eta[:count] = result.change - (shift[spin] * self.slopes[spin, k, :count, None]) * psi[:count]
            eta /= scale
            electrons[spin, k, 0, :count], electrons[spin, k, 1, :count] = 0.25 * scale, -0.25 * scale
            orbitals.append(torch.cat((psi + eta, psi - eta)))
        return FirstOrder(state.basis.by_spin(orbitals), electrons.flatten(2))

    def _block(self, spin: int, k: int, perturbation: Tensor, tolerance: float, added: Operator | None) -> _Block:
        """Response of one block to potentials (1 or 2, n1, n2, n3) on the grid and what else is added to H."""
        dtype = torch.complex64 if tolerance > SINGLE_PRECISION else torch.complex128
        state, filled, count = self.state, int(self.filled[spin, k]), int(self.touched[spin, k])
        space = state.orbitals[spin][k][: self.nbands].to(dtype)
        energies = state.eigenvalues[spin, k, : self.nbands]
        hamiltonian = self.problem.hamiltonian(k, self.potentials[spin], dtype)
        operator = self.problem.hamiltonian(k, perturbation, dtype)
        operator = replace(operator, kinetic=torch.zeros_like(operator.kinetic), projectors=operator.projectors[:0])
        right = operator.apply(space[:count])
        if added is not None:
            right += added(spin, k, state.orbitals[spin][k][:count]).to(dtype)
        couplings = (space.conj() @ right.mT).to(torch.complex128)  # <m|dH|n>
        # sum_mn psi_m c_mn psi_n*, c_mn = <m|dH|n> (f_m - f_n) / (e_m - e_n), counts pairs with an empty one
        # twice
        mixing = couplings * divided_differences(state.smearing, energies, float(state.fermi_levels[spin]))[:, :count]
        mixing[count:] *= 2
        change = mixing.mT @ state.orbitals[spin][k][: self.nbands]
        if filled:
            levels = energies[:filled].to(dtype.to_real())
            outside = sternheimer(hamiltonian, space[:filled], levels, space, right[:filled], tolerance)
            change[:filled] += 2 * state.occupations[spin, k, :filled, None] * outside
        return _Block(self.weights[k] * change, couplings.diagonal().real)

    def _fermi_shift(self, shifts: list[Tensor]) -> Tensor:
        """dmu = sum f' de / sum f' (nspin,), Hartree, of first-order eigenvalues of each block."""
        sums = torch.stack([(s[: len(de)] * de).sum() for s, de in zip(self.slopes.flatten(0, 1), shifts)])
        sums = sums.view(self.slopes.shape[:2])
        change = self.slopes.new_zeros(len(self.slopes))
        for (spins, _), metallic in zip(self.state.crystal.reservoirs, self.metallic):
            if metallic:
                change[spins] = sums[spins].sum() / self.slopes[spins].sum()
        return change

    def solve(self, slopes: Tensor, operator: Operator | None = None) -> Tensor:
        """Change of the fields (nfields, ng) with the interaction; arguments of `first_order`.

        dF = chi0 (slopes + K dF), by GMRES.
        """
        grid = self.state.basis.grid

        def inner(a: Tensor, b: Tensor) -> Tensor:
            return grid.inner(a, b).sum()

        def apply(vector: Tensor, error: float) -> Tensor:
            change = self._screen(vector)
            return change - self.chi0(self.kernel(change), error)

        bare = self.chi0(slopes, 0.3 * self.tolerance, operator)
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
