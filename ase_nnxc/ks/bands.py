"""Bands in the potential of a ground state, at its own k-points with all empty bands, or at other k-points."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .basis import make_sphere, padded
from .convergence import ConvergenceError
from .eigensolver import Eigenpairs, davidson
from .ground_state import GroundState
from .initial_guess import approximate_orbitals, more_orbitals
from .kpoints import Block
from .nbands import extra_bands
from .total_energy import TotalEnergy

TOLERANCE = 1e-5  # residual norm of a band, Hartree; the error of an eigenvalue is of second order in it
ROUNDS = 30  # the largest number of diagonalisations of a block


def converge_bands(state: GroundState) -> tuple[Tensor, list[Tensor]]:
    """Return converged eigenpairs of all bands of a ground state, in its potential.

    An SCF does not converge the higher empty bands.

    Returns
    -------
    eigenvalues : Tensor
        (nspin, nk, nbands), Hartree, ascending.
    orbitals : list of Tensor
        (nbands, npw) of each block.

    Raises
    ------
    ConvergenceError
        If some bands do not converge.
    """
    energy = state.total_energy()
    nbands = state.eigenvalues.shape[-1]
    return _converge(energy, state, more_orbitals(energy, state.orbitals, extra_bands(state.system, nbands)), nbands)


def bands_at(state: GroundState, kpoints: Tensor, nbands: int | None = None) -> GroundState:
    """Return the ground state with its bands replaced by bands at other k-points.

    Parameters
    ----------
    state : GroundState
        Ground state; its potential and Fermi level are kept.
    kpoints : Tensor
        (nk, 3), fractional, in any order; all have the same weight.
    nbands : int, optional
        Number of bands at each k-point; default: that of the state.

    Raises
    ------
    ConvergenceError
        If some bands do not converge.
    ValueError
        If `nbands` is larger than the number of plane waves, or if there are fewer k-points than ranks.
    """
    crystal, shape = state.crystal, state.basis.grid.shape
    points = kpoints.to(crystal.device)
    spheres = tuple(make_sphere(crystal, state.basis.ecut, k, 1 / len(points), shape) for k in points)
    system = replace(state.system, basis=replace(state.basis, spheres=spheres))
    energy = state.total_energy(system)
    nbands = nbands or state.eigenvalues.shape[-1]
    if nbands > system.basis.fewest_waves:
        raise ValueError(f"nbands={nbands}: expected at most {system.basis.fewest_waves}, the number of plane waves")
    start = approximate_orbitals(energy, state.fields, nbands + extra_bands(system, nbands))
    eigenvalues, orbitals = _converge(energy, state, start, nbands)
    occupations = state.smearing.occupations(eigenvalues, state.fermi_levels[:, None, None])
    return replace(state, system=system, orbitals=orbitals, eigenvalues=eigenvalues, occupations=occupations)


def _converge(energy: TotalEnergy, state: GroundState, start: list[Tensor], nbands: int) -> tuple[Tensor, list[Tensor]]:
    """Return the lowest `nbands` eigenpairs in the potential of a state.

    `start` should contain a few more orbitals. Without them the highest band would converge slowly, because the next
    bands have similar energies.
    """
    potential, kpoints = energy.potential(state.fields).values, energy.system.kpoints

    def solve(blocks: Sequence[Block], psi: Sequence[Tensor]) -> list[Eigenpairs]:
        hamiltonian = energy.hamiltonian_of_batch(blocks, potential[blocks[0].spin], torch.complex128)
        vectors = padded(psi, hamiltonian.npw)
        for _ in range(ROUNDS):
            pairs = davidson(hamiltonian, vectors, TOLERANCE, nbands)
            vectors, residuals = pairs.vectors, pairs.residuals[:, :nbands].amax(1)
            if bool((residuals <= TOLERANCE).all()):
                return pairs.of_blocks(hamiltonian.numbers)
        raise ConvergenceError(
            f"the bands at k-point {blocks[int(residuals.argmax())].k} have not converged: their residual is "
            f"{float(residuals.max()):.1e} Ha, the tolerance is {TOLERANCE:.1e} Ha",
            state.history,
        )

    needed = energy.memory(len(start[0]))
    pairs = kpoints.map_batches(solve, needed, start)
    return kpoints.gather([p.values[:nbands] for p in pairs]), [p.vectors[:nbands].clone() for p in pairs]
