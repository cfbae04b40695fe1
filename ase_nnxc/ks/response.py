"""Linear response of a ground state to a change of its Hamiltonian.

The fields F (see `fields`) are a fixed point: F = Phi(v), v = v[F]. chi0 = dPhi/dv is the response of the orbitals at
fixed number of electrons, and K = dv/dF is the kernel. A change dv of v changes the fields by
dF = (1 - chi0 K)^-1 chi0 dv.

chi0 follows E. Cances, M. F. Herbst, G. Kemlin, A. Levitt and B. Stamm, Lett. Math. Phys. 113, 21 (2023). Within the
converged bands it is an explicit sum with divided differences of the occupations. The part outside of these bands is
the solution of Sternheimer's equation. In GMRES this solution has the accuracy that each step requires: M. F. Herbst
and B. Sun, arXiv:2505.02319 (2025).

A change of the potentials is given as derivatives (nfields, n1, n2, n3) of an energy per volume with respect to the
fields. Any other change of H is given by its product with orbitals.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .ground_state import GroundState
from .kpoints import Block
from .nbands import EMPTY
from .occupations import Smearing
from .potential import potential_of_spins
from .response_solvers import ResponseError, gmres, norms, sternheimer

SINGLE_PRECISION = 1e-4  # for relative residuals above it Sternheimer's equation is solved in complex64
LOOSEST = 3e-2  # the largest relative residual of Sternheimer's equation
NEGLIGIBLE = 1e-12  # smaller occupations are neglected
NO_METAL = 1e-8  # if the sum of |df/de| times the width is smaller, the response of the Fermi level is neglected
ILL_DEFINED = 1e-2  # if the sum of -df/de relative to that of |df/de| is smaller, the Fermi level has no response

OrbitalPerturbation = Callable[[Block, Tensor], Tensor]
"""Function of a block and its orbitals (n, npw); returns the product of a change of H with them (n, npw)."""


def divided_differences(smearing: Smearing, eigenvalues: Tensor, fermi_level: float) -> Tensor:
    """Return (f_m - f_n) / (e_m - e_n) of all pairs of levels, and df/de on the diagonal.

    For close levels the result is the mean of df/de between them, by Gauss-Legendre quadrature.

    Parameters
    ----------
    smearing : Smearing
        Smearing of the occupations f.
    eigenvalues : Tensor
        (n,) e, Hartree.
    fermi_level : float
        Hartree.

    Returns
    -------
    Tensor
        (n, n), Hartree^-1.
    """
    f = smearing.occupations(eigenvalues, fermi_level)
    distance = eigenvalues[:, None] - eigenvalues
    nodes, weights = (torch.as_tensor(a, dtype=f.dtype, device=f.device) for a in np.polynomial.legendre.leggauss(6))
    between = eigenvalues[:, None] - 0.5 * distance * (1 + nodes[:, None, None])
    mean = 0.5 * torch.tensordot(weights, smearing.derivatives(between, fermi_level), 1)
    close = distance.abs() < 0.5 * smearing.width
    return torch.where(close, mean, (f[:, None] - f) / torch.where(close, 1.0, distance))


def _whole_differences(eigenvalues: Tensor, fermi_level: float) -> Tensor:
    """Return (f_m - f_n) / (e_m - e_n) (n, n), Hartree^-1, of levels that hold whole electrons, see `Smearing.fill`."""
    f = (eigenvalues < fermi_level).to(eigenvalues.dtype)
    change = f[:, None] - f
    return change / torch.where(change == 0, 1.0, eigenvalues[:, None] - eigenvalues)


def _bands_above(occupation: float, occupations: Tensor) -> Tensor:
    """Return the number of bands (...) up to the last one in `occupations` (..., nbands) with |f| > `occupation`."""
    numbers = torch.arange(1, occupations.shape[-1] + 1, device=occupations.device)
    return ((occupations.abs() > occupation) * numbers).amax(-1)


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """First-order change of orbitals and occupations, from which changes of fields and energies follow.

    A quadratic form q summed over the electrons changes by sum_n Re q(psi_n, eta_n) = 1/4 sum_n (q(psi_n + eta_n)
    - q(psi_n - eta_n)), where eta_n = g_n (2 f_n dpsi_n + df_n psi_n) and g_n is the number of electrons in the full
    orbital, times the weight of the k-point. psi_n + eta_n and psi_n - eta_n are orbitals with occupations of either
    sign. Functions of the orbitals of a ground state accept them.

    Attributes
    ----------
    orbitals : list of Tensor
        (2 nbands, npw) of each block: psi + eta and psi - eta, with eta scaled to a norm of at most about one.
    electrons : Tensor
        (nspin, nk, 2 nbands) occupations of these orbitals, which contain the inverse of the scaling.
    """

    orbitals: list[Tensor]
    electrons: Tensor


@dataclass(frozen=True, eq=False)
class _BlockResponse:
    """The response of the orbitals of one block at fixed Fermi level.

    Attributes
    ----------
    change : Tensor
        eta (n, npw) of the first n orbitals.
    shifts : Tensor
        (nbands,) first-order changes of the eigenvalues, Hartree; zero beyond the first n.
    """

    change: Tensor
    shifts: Tensor


class Response:
    """The linear response of a ground state.

    Parameters
    ----------
    state : GroundState
        Ground state.
    tolerance : float, optional
        Relative error of the response. The default is that of the state's density, from the last step of its SCF.

    Attributes
    ----------
    energy : TotalEnergy
        Energy of the state's system.
    potential : Tensor
        (nspin, 1 or 2, n1, n2, n3) `Potential.values` of the state.
    nbands : int
        Number of bands in the response. The bands above hold no electrons and have not converged.
    filled, touched : Tensor
        (nspin, nk) int64 number of bands up to the last one with an occupation above `EMPTY` and above `NEGLIGIBLE`.
    full_occupations : Tensor
        (nk,) electrons in a full orbital times the weight of its k-point.
    occupation_derivatives : Tensor
        (nspin, nk, nbands) df/de times `full_occupations`, Hartree^-1.
    metallic : list of bool
        Whether the response of the Fermi level matters, for each of the crystal's reservoirs.

    Raises
    ------
    ResponseError
        If the operator of a term depends on the orbitals, or if the Fermi level has no well-defined response.
    """

    def __init__(self, state: GroundState, tolerance: float | None = None):
        self.state = state
        crystal = state.crystal
        self.energy = state.total_energy()
        if nonlinear := [term.name for term in self.energy.orbital_terms if term.made_of_orbitals]:
            raise ResponseError(
                f"the response is not implemented for {', '.join(nonlinear)}, whose operators depend on the orbitals"
            )
        if tolerance is None and not state.history:
            raise ValueError(
                "this ground state was read from a file, without its SCF: give the tolerance of the response"
            )
        self.tolerance = tolerance or max(1e-9, 10 * math.sqrt(state.history[-1].error / crystal.nelectrons))
        self.potential = self.energy.potential(state.fields).values
        self._kernels = self.energy.kernels(state.fields)
        # the SCF has converged the bands that are occupied in some block, and one more
        self.filled = _bands_above(EMPTY, state.occupations)  # (nspin, nk)
        self.nbands = min(int(self.filled.max()) + 1, state.occupations.shape[-1])
        # small occupations can have large derivatives
        self.touched = _bands_above(NEGLIGIBLE, state.occupations[..., : self.nbands])
        self.full_occupations = (2 / crystal.nspin) * state.system.kpoints.weights
        derivatives = state.smearing.derivatives(state.eigenvalues, state.fermi_levels[:, None, None])
        self.whole = [bool(((f == 0.0) | (f == 1.0)).all()) for f in state.occupations]  # see `Smearing.fill`
        derivatives[self.whole] = 0.0
        self.occupation_derivatives = derivatives[..., : self.nbands] * self.full_occupations[:, None]
        self.metallic = [self._is_metallic(self.occupation_derivatives[spins]) for spins, _ in crystal.reservoirs]

    def _is_metallic(self, derivatives: Tensor) -> bool:
        """Whether the response of the Fermi level of states with these df/de (n, nk, nbands) matters."""
        sizes, total = float(derivatives.abs().sum()), -float(derivatives.sum())
        if sizes * self.state.smearing.width < NO_METAL:
            return False
        if total < ILL_DEFINED * sizes:
            raise ResponseError(
                f"the Fermi level has no well-defined response: {self.state.smearing.name} smearing gives a density of "
                f"states of {total:.2g} / Ha at the Fermi level; use more k-points, another width, or fermi-dirac or "
                "gaussian smearing"
            )
        return True

    def kernel(self, change: Tensor) -> Tensor:
        """Return K dF, the change of the potentials (nfields, n1, n2, n3), for a change (nfields, ng) of the fields."""
        total = torch.zeros(len(change), *self.state.basis.grid.shape, dtype=torch.float64, device=change.device)
        for kernel in self._kernels:
            total += kernel(change)
        return total

    def chi0(
        self, perturbation: Tensor, tolerance: float | None = None, added: OrbitalPerturbation | None = None
    ) -> Tensor:
        """Return chi0 dv, the change of the fields (nfields, ng) without interaction.

        The parameters are those of `first_order`.
        """
        first = self.first_order(perturbation, tolerance, added)
        return self.energy.fields_of(first.orbitals, first.electrons)

    def first_order(
        self, perturbation: Tensor, tolerance: float | None = None, added: OrbitalPerturbation | None = None
    ) -> FirstOrder:
        """Return the change of orbitals and occupations without interaction, at fixed numbers of electrons.

        Parameters
        ----------
        perturbation : Tensor
            (nfields, n1, n2, n3) change of the potentials, with the symmetry of the crystal.
        tolerance : float, optional
            Relative error of the orbitals; default: the tolerance of the response.
        added : callable, optional
            Any other change of H, with the symmetry of the crystal.
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
            fermi_part = shifts[block.spin] * self.occupation_derivatives[block.spin, block.k, :count, None]
            eta[:count] = response.change - fermi_part * psi[:count]
            eta /= scale
            return torch.cat((psi + eta, psi - eta))

        return FirstOrder(kpoints.map(changed, state.orbitals, responses), electrons.flatten(2))

    def _respond(
        self, block: Block, orbitals: Tensor, perturbation: Tensor, tolerance: float, added: OrbitalPerturbation | None
    ) -> _BlockResponse:
        """Return the response of a block to potentials (1 or 2, n1, n2, n3) on the grid and to `added`."""
        dtype = torch.complex64 if tolerance > SINGLE_PRECISION else torch.complex128
        state, at = self.state, (block.spin, block.k)
        filled, count = int(self.filled[at]), int(self.touched[at])
        orbitals = orbitals[: self.nbands]
        space = orbitals.to(dtype)
        energies = state.eigenvalues[at][: self.nbands]
        right = torch.zeros_like(space[:count])
        self.energy.grid_potential(block.sphere, perturbation).to(dtype).add_to(right, space[:count])
        if added is not None:
            right += added(block, orbitals[:count]).to(dtype)
        couplings = (space.conj() @ right.mT).to(torch.complex128)  # <m|dH|n>
        # sum_mn psi_m c_mn psi_n*, c_mn = <m|dH|n> (f_m - f_n) / (e_m - e_n); pairs with an empty orbital count twice
        fermi_level = float(state.fermi_levels[block.spin])
        if self.whole[block.spin]:
            differences = _whole_differences(energies, fermi_level)
        else:
            differences = divided_differences(state.smearing, energies, fermi_level)
        mixing = couplings * differences[:, :count]
        mixing[count:] *= 2
        change = mixing.mT @ orbitals
        if filled:
            hamiltonian = self.energy.hamiltonian(block, self.potential[block.spin], dtype)
            levels = energies[:filled].to(dtype.to_real())
            outside = sternheimer(hamiltonian, space[:filled], levels, space, right[:filled], tolerance)
            change[:filled] += 2 * state.occupations[at][:filled, None] * outside
        shifts = energies.new_zeros(self.nbands)
        shifts[:count] = couplings.diagonal().real
        return _BlockResponse(self.full_occupations[block.k] * change, shifts)

    def _fermi_shifts(self, shifts: Tensor) -> Tensor:
        """Return dmu = sum f' de / sum f' (nspin,), Hartree, for changes de (nspin, nk, nbands) of the eigenvalues."""
        sums = (self.occupation_derivatives * shifts).sum((1, 2))
        change = torch.zeros_like(sums)
        for (spins, _), metallic in zip(self.state.crystal.reservoirs, self.metallic):
            if metallic:
                change[spins] = sums[spins].sum() / self.occupation_derivatives[spins].sum()
        return change

    def solve(self, perturbation: Tensor, added: OrbitalPerturbation | None = None) -> Tensor:
        """Return the change of the fields (nfields, ng) with interaction: dF = chi0 (dv + K dF), solved by GMRES.

        The parameters are those of `first_order`.
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
        """Apply a preconditioner: screening by a model of chi0, without exchange and correlation.

        The result is (1 - chi0 v_c)^-1 dF with chi0 = -D for the density and -(D_up - D_down) for the magnetisation,
        where D is the density of states at the Fermi level per volume.
        """
        states = -self.occupation_derivatives.sum((1, 2)) / self.state.crystal.volume  # (nspin,) D / Omega
        screened = change.clone()
        screened[0] = change[0] / (1 + states.sum() * self.state.system.coulomb)
        if len(states) == 2:
            screened[1] -= (states[0] - states[1]) * self.state.system.coulomb * screened[0]
        return screened
