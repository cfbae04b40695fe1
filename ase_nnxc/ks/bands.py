"""Bands in the potential of a ground state: its own, the empty ones included, or those at any other k-points."""

from dataclasses import replace

import torch
from torch import Tensor

from .basis import make_sphere
from .eigensolver import davidson
from .ground_state import GroundState
from .guess import noise
from .parallel import map_kpoints
from .scf import ConvergenceError, Problem, rough_orbitals

TOLERANCE = 1e-5  # residual norm of a band, Hartree; the error of an eigenvalue is of the order of its square
ROUNDS = 30  # most diagonalisations of a k-point


def converge_bands(state: GroundState) -> tuple[Tensor, list[list[Tensor]]]:
    """Eigenpairs of H at the density of a ground state, as many as it has bands.

    An SCF converges the higher empty ones no better than it needs them.

    Returns
    -------
    eigenvalues : Tensor
        (nspin, nk, nbands), Hartree, ascending.
    orbitals : list of list of Tensor
        [spin][k] -> (nbands, npw).

    Raises
    ------
    ConvergenceError
        If some do not converge.
    """
    problem = Problem(state.crystal, state.basis, state.functional)
    nbands = state.eigenvalues.shape[-1]
    more = problem.missing_bands(nbands)
    start = [
        [torch.cat((psi, noise(more, t, seed=nbands).to(psi.dtype))) for psi, t in zip(row, problem.kinetic)]
        for row in state.orbitals
    ]
    return _converge(problem, state, start, nbands)


def bands_at(state: GroundState, kpoints: Tensor, nbands: int | None = None) -> GroundState:
    """A ground state with the bands at other k-points in place of those that made its density.

    Parameters
    ----------
    state : GroundState
        Whose potential and Fermi level are kept.
    kpoints : Tensor
        (nk, 3) fractional, in any order; all have the same weight.
    nbands : int, optional
        At each k-point; default: as many as the state has.

    Raises
    ------
    ConvergenceError
        If some do not converge.
    ValueError
        If there are not so many plane waves.
    """
    crystal, shape = state.crystal, state.basis.grid.shape
    points = kpoints.to(crystal.device)
    spheres = tuple(make_sphere(crystal, state.basis.ecut, k, 1 / len(points), shape) for k in points)
    basis = replace(state.basis, spheres=spheres)
    problem = Problem(crystal, basis, state.functional)
    nbands = nbands or state.eigenvalues.shape[-1]
    if nbands > min(sphere.npw for sphere in spheres):
        raise ValueError(f"{nbands} bands of {min(sphere.npw for sphere in spheres)} plane waves")
    start = rough_orbitals(problem, state.fields, nbands + problem.missing_bands(nbands))
    eigenvalues, orbitals = _converge(problem, state, start, nbands)
    occupations = state.smearing.occupations(eigenvalues, state.fermi_levels[:, None, None])
    return replace(state, basis=basis, orbitals=orbitals, eigenvalues=eigenvalues, occupations=occupations)


def _converge(
    problem: Problem, state: GroundState, start: list[list[Tensor]], nbands: int
) -> tuple[Tensor, list[list[Tensor]]]:
    """The lowest `nbands` eigenpairs in the potential of a state.

    `start` has a few more orbitals: without these the highest would converge slowly, as it lies next to bands that are
    left out.
    """
    potentials, _ = problem.potentials(state.fields)

    def solve(block: tuple[int, int]) -> tuple[Tensor, Tensor]:
        spin, k = block
        hamiltonian = problem.hamiltonian(k, potentials[spin], torch.complex128)
        psi = start[spin][k]
        for _ in range(ROUNDS):
            pairs = davidson(hamiltonian, psi, TOLERANCE, nbands)
            psi = pairs.vectors
            if bool((pairs.residuals[:nbands] <= TOLERANCE).all()):
                return pairs.values[:nbands], psi[:nbands]
        raise ConvergenceError(
            f"the bands at k-point {k} do not converge: their residual is {float(pairs.residuals[:nbands].max()):.1e} "
            f"Ha, {TOLERANCE:.1e} Ha are asked for",
            state.history,
        )

    basis, nspin = problem.basis, state.crystal.nspin
    pairs = map_kpoints(solve, basis.blocks(nspin), state.crystal.device)
    eigenvalues = torch.stack([values for values, _ in pairs]).view(nspin, len(basis.spheres), nbands)
    return eigenvalues, basis.by_spin([psi for _, psi in pairs])
