"""Linear response of a ground state to a change of its Hamiltonian.

The fields F (density; see `terms.xc`) are a fixed point: F = Phi(v), v = v[F]. With chi0 = dPhi/dv, the response of the
orbitals at fixed electron number, and K = dv/dF, a change of v by dv makes dF = (1 - chi0 K)^-1 chi0 dv.

chi0 follows E. Cances, M. F. Herbst, G. Kemlin, A. Levitt and B. Stamm, Lett. Math. Phys. 113, 21 (2023): among the
converged bands it is an explicit sum of divided differences of the occupations; what lies outside of them is solved for
by Sternheimer's equation, inside GMRES only as well as each step needs it: M. F. Herbst and B. Sun,
arXiv:2505.02319 (2025).

A change of the potentials is given by derivatives (nfields, n1, n2, n3) of an energy per volume by the fields, all
else by what it adds to H psi.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .coulomb import coulomb_kernel
from .ground_state import GroundState
from .kpoints import Block
from .occupations import Smearing
from .potential import potential_of_spins
from .response_solvers import ResponseError, gmres, norms, sternheimer
from .scf import EMPTY

SINGLE_PRECISION = 1e-4  # looser relative residuals of Sternheimer's equation are reached in complex64
LOOSEST = 3e-2  # relative residual of Sternheimer's equation that is always asked for
NEGLIGIBLE = 1e-12  # a smaller occupation changes nothing
NO_METAL = 1e-8  # df/de times the width that add up to less: the Fermi level does not matter
ILL_DEFINED = 1e-2  # share of the sum of df/de in that of their sizes below which the Fermi level has no response

OrbitalPerturbation = Callable[[Block, Tensor], Tensor]
"""What a change of H, apart from potentials on the grid, makes of orbitals (n, npw) of a block."""


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
    orbitals : list of Tensor
        (2 nbands, npw) of each block: psi + eta and psi - eta.
    electrons : Tensor
        (nspin, nk, 2 nbands) their occupations.
    """

    orbitals: list[Tensor]
    electrons: Tensor


@dataclass(frozen=True)
class _BlockResponse:
    """Response of the orbitals of one block at fixed Fermi level.

    Attributes
    ----------
    change : Tensor
        eta (n, npw) of the first n orbitals.
    shifts : Tensor
        (nbands,) first-order eigenvalues, Hartree; zero beyond the first n.
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

    Attributes
    ----------
    energy : TotalEnergy
        Of the state's system.
    potential : Tensor
        (nspin, 1 or 2, n1, n2, n3) of the state.
    nbands : int
        Number of bands that count; those above hold no electrons and are not converged.
    occupation_derivatives : Tensor
        (nspin, nk, nbands) df/de times the electrons in a full orbital, Hartree^-1.
    metallic : list of bool
        Whether the Fermi level of each of the crystal's reservoirs has a response that counts.
    """

    def __init__(self, state: GroundState, tolerance: float | None = None):
        self.state = state
        crystal = state.crystal
        self.energy = state.total_energy()
        if nonlinear := [term.name for term in self.energy.orbital_terms if term.made_of_orbitals]:
            raise ResponseError(f"the response of {', '.join(nonlinear)}, made of the orbitals, is not known")
        self.tolerance = tolerance or max(1e-9, 10 * math.sqrt(state.history[-1].error / crystal.nelectrons))
        self.potential = self.energy.potential(state.fields).values
        self._kernels = self.energy.kernels(state.fields)
        self._coulomb = coulomb_kernel(state.basis.grid, crystal)
        # the SCF has converged the bands that hold electrons somewhere, and one more
        self.filled = _bands_above(EMPTY, state.occupations)  # (nspin, nk)
        self.nbands = min(int(self.filled.max()) + 1, state.occupations.shape[-1])
        # little electrons have large derivatives
        self.touched = _bands_above(NEGLIGIBLE, state.occupations[..., : self.nbands])
        self.weights = (2 / crystal.nspin) * state.basis.weights  # (nk,) electrons in a full orbital
        derivatives = state.smearing.derivatives(state.eigenvalues, state.fermi_levels[:, None, None])
        self.occupation_derivatives = derivatives[..., : self.nbands] * self.weights[:, None]
        self.metallic = [self._is_metallic(self.occupation_derivatives[spins]) for spins, _ in crystal.reservoirs]

    def _is_metallic(self, derivatives: Tensor) -> bool:
        """Whether the response of the Fermi level that states with these df/de (n, nk, nbands) share counts."""
        sizes, total = float(derivatives.abs().sum()), -float(derivatives.sum())
        if sizes * self.state.smearing.width < NO_METAL:
            return False
        if total < ILL_DEFINED * sizes:
            raise ResponseError(
                f"the Fermi level has no well-defined response: {self.state.smearing.name} smearing gives a density "
                f"of states of {total:.2g} / Ha at it; use more k-points, another width, or fermi-dirac or gaussian"
            )
        return True

    def kernel(self, change: Tensor) -> Tensor:
        """K dF: change of the potentials (nfields, n1, n2, n3) that a change (nfields, ng) of the fields makes."""
        total = torch.zeros(len(change), *self.state.basis.grid.shape, dtype=torch.float64, device=change.device)
        for kernel in self._kernels:
            total += kernel(change)
        return total

    def chi0(
        self, perturbation: Tensor, tolerance: float | None = None, added: OrbitalPerturbation | None = None
    ) -> Tensor:
        """Change of the fields (nfields, ng) at fixed interaction; arguments of `first_order`."""
        first = self.first_order(perturbation, tolerance, added)
        return self.energy.fields_of(first.orbitals, first.electrons)

    def first_order(
        self, perturbation: Tensor, tolerance: float | None = None, added: OrbitalPerturbation | None = None
    ) -> FirstOrder:
        """Change of orbitals and occupations at fixed interaction and numbers of electrons.

        Parameters
        ----------
        perturbation : Tensor
            (nfields, n1, n2, n3) change of the potentials, with the symmetry of the crystal.
        tolerance : float, optional
            Relative error of the orbitals; by default that of the response.
        added : callable, optional
            Any other change of H, with that symmetry.
        """
        state, kpoints = self.state, self.state.system.kpoints
        potential = potential_of_spins(state.system, perturbation)
        accuracy = min(LOOSEST, tolerance or self.tolerance)

        def respond(block: Block, psi: Tensor) -> _BlockResponse:
            return self._respond(block, psi, potential[block.spin], accuracy, added)

        responses = kpoints.map(respond, state.orbitals)
        shifts = self._fermi_shifts(kpoints.gather([r.shifts for r in responses]))
        largest = [norms(r.change).max() if len(r.change) else r.shifts.new_zeros(()) for r in responses]
        scale = max(float(kpoints.gather(largest).max()), 1e-300)
        electrons = torch.zeros(kpoints.nspin, kpoints.nk, 2, self.nbands, dtype=torch.float64, device=shifts.device)
        for signed, factor in zip(electrons.unbind(2), (0.25, -0.25)):
            signed[torch.arange(self.nbands, device=shifts.device) < self.touched[..., None]] = factor * scale

        def changed(block: Block, psi: Tensor, response: _BlockResponse) -> Tensor:
            count, psi = len(response.change), psi[: self.nbands]
            eta = torch.zeros_like(psi)
            of_level = shifts[block.spin] * self.occupation_derivatives[block.spin, block.k, :count, None]
            eta[:count] = response.change - of_level * psi[:count]
            eta /= scale
            return torch.cat((psi + eta, psi - eta))

        return FirstOrder(kpoints.map(changed, state.orbitals, responses), electrons.flatten(2))

    def _respond(
        self, block: Block, orbitals: Tensor, perturbation: Tensor, tolerance: float, added: OrbitalPerturbation | None
    ) -> _BlockResponse:
        """Response of a block to potentials (1 or 2, n1, n2, n3) on the grid and what else is added to H."""
        dtype = torch.complex64 if tolerance > SINGLE_PRECISION else torch.complex128
        state, at = self.state, (block.spin, block.k)
        filled, count = int(self.filled[at]), int(self.touched[at])
        orbitals = orbitals[: self.nbands]
        space = orbitals.to(dtype)
        energies = state.eigenvalues[at][: self.nbands]
        right = torch.zeros_like(space[:count])
        self.energy.grid_potential(block, perturbation).to(dtype).add_to(right, space[:count])
        if added is not None:
            right += added(block, orbitals[:count]).to(dtype)
        couplings = (space.conj() @ right.mT).to(torch.complex128)  # <m|dH|n>
        # sum_mn psi_m c_mn psi_n*, c_mn = <m|dH|n> (f_m - f_n) / (e_m - e_n), counts pairs with an empty one
        # twice
        fermi_level = float(state.fermi_levels[block.spin])
        mixing = couplings * divided_differences(state.smearing, energies, fermi_level)[:, :count]
        mixing[count:] *= 2
        change = mixing.mT @ orbitals
        if filled:
            hamiltonian = self.energy.hamiltonian(block, self.potential[block.spin], dtype)
            levels = energies[:filled].to(dtype.to_real())
            outside = sternheimer(hamiltonian, space[:filled], levels, space, right[:filled], tolerance)
            change[:filled] += 2 * state.occupations[at][:filled, None] * outside
        shifts = energies.new_zeros(self.nbands)
        shifts[:count] = couplings.diagonal().real
        return _BlockResponse(self.weights[block.k] * change, shifts)

    def _fermi_shifts(self, shifts: Tensor) -> Tensor:
        """dmu = sum f' de / sum f' (nspin,), Hartree, of first-order eigenvalues (nspin, nk, nbands)."""
        sums = (self.occupation_derivatives * shifts).sum((1, 2))
        change = torch.zeros_like(sums)
        for (spins, _), metallic in zip(self.state.crystal.reservoirs, self.metallic):
            if metallic:
                change[spins] = sums[spins].sum() / self.occupation_derivatives[spins].sum()
        return change

    def solve(self, perturbation: Tensor, added: OrbitalPerturbation | None = None) -> Tensor:
        """Change of the fields (nfields, ng) with the interaction; arguments of `first_order`.

        dF = chi0 (dv + K dF), by GMRES.
        """
        grid = self.state.basis.grid

        def inner(a: Tensor, b: Tensor) -> Tensor:
            return grid.inner(a, b).sum()

        def apply(vector: Tensor, error: float) -> Tensor:
            change = self._screen(vector)
            return change - self.chi0(self.kernel(change), error)

        bare = self.chi0(perturbation, 0.3 * self.tolerance, added)
        return self._screen(gmres(apply, bare, inner, self.tolerance))

    def _screen(self, change: Tensor) -> Tensor:
        """Fields after screening by a model of chi0, the densities of states at the Fermi level, and no exchange.

        (1 - chi0 v_c)^-1 with chi0 = -D for the density and -(D_up - D_down) for the magnetisation.
        """
        states = -self.occupation_derivatives.sum((1, 2)) / self.state.crystal.volume  # (nspin,) D / Omega
        screened = change.clone()
        screened[0] = change[0] / (1 + states.sum() * self._coulomb)
        if len(states) == 2:
            screened[1] -= (states[0] - states[1]) * self._coulomb * screened[0]
        return screened
