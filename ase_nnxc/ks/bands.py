"""All bands of a ground state, the empty ones included, which an SCF converges no better than it needs them."""

import torch
from torch import Tensor

from .eigensolver import davidson
from .ground_state import GroundState
from .guess import noise
from .parallel import map_kpoints
from .scf import ConvergenceError, Problem

TOLERANCE = 1e-5  # residual norm of a band, Hartree; the error of an eigenvalue is of the order of its square
ROUNDS = 30  # most diagonalisations of a k-point


def converge_bands(state: GroundState) -> tuple[Tensor, list[list[Tensor]]]:
    """Eigenpairs of H at the density of a ground state, as many as it has bands.

    A few more are iterated with them: without that the highest would converge slowly, as it lies next to bands that are
    left out.

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
    crystal, basis, nbands = state.crystal, state.basis, state.eigenvalues.shape[-1]
    problem = Problem(crystal, basis, state.functional)
    potentials, _ = problem.potentials(state.fields)
    more = problem.missing_bands(nbands)

    def solve(block: tuple[int, int]) -> tuple[Tensor, Tensor]:
        spin, k = block
        hamiltonian = problem.hamiltonian(k, potentials[spin], torch.complex128)
        psi = torch.cat((state.orbitals[spin][k], noise(more, problem.kinetic[k], seed=nbands).to(torch.complex128)))
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

    pairs = map_kpoints(solve, basis.blocks(crystal.nspin), crystal.device)
    eigenvalues = torch.stack([values for values, _ in pairs]).view_as(state.eigenvalues)
    return eigenvalues, basis.by_spin([psi for _, psi in pairs])
