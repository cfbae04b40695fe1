"""Density matrices of molecules in PySCF with gradients by the parameters of the functional, through the SCF.

The orbitals of an SCF are those where the gradient g(kappa; theta) of the energy with respect to rotations kappa of the
occupied into the empty orbitals vanishes. With the Hessian A = dg/dkappa, a loss L of the density matrices has

    dL/dtheta = -z . dg/dtheta,  A z = dL/dkappa.

PySCF gives A, with the exchange-correlation kernel of the functional. g is linear in the potential, so that z . g is
the derivative of the energy along a change Z of the density matrices, of which only that of E_xc depends on theta.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.calculator import InputError, SCFError
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..ks.response_solvers import ResponseError, gmres
from .pyscf import device_of, functional_of, grid_densities, xc_integral

if TYPE_CHECKING:
    from pyscf.dft.rks import KohnShamDFT

TOLERANCE = 1e-9  # of the response, relative
SMALLEST_EXCITATION = 0.05  # Hartree; the preconditioner takes smaller differences of levels as this
SOFTEST = 1e-2  # curvature of the energy along a response, relative to the differences of levels; about one is usual


def density_matrices(mf: "KohnShamDFT") -> Tensor:
    """Return the density matrices of a finished calculation, with exact first derivatives by parameters.

    `backward` solves for the linear response of the orbitals, which takes about the time of an SCF. It raises
    `ase_nnxc.ks.response.ResponseError` if the response is not found or is not defined, as in an atom with an open p
    shell, whose orbitals can be rotated without a change of the energy.

    Parameters
    ----------
    mf : KohnShamDFT
        RKS or UKS of a molecule that `use_functional` has changed, or that `solve_molecule` returns. The parameters of
        its functional must be those that it was solved with.

    Returns
    -------
    Tensor
        (2, nao, nao) of each spin, in PySCF's order of basis functions.

    Raises
    ------
    TypeError
        If the object is not one of these.
    SCFError
        If the SCF has not converged.
    InputError
        If occupations are not whole numbers.
    """
    from pyscf.dft import rks, uks

    functional = functional_of(mf)
    if not isinstance(mf, rks.RKS | uks.UKS):
        raise TypeError(f"the response of {type(mf).__name__} of PySCF is not known: expected RKS or UKS of a molecule")
    if not mf.converged:
        raise SCFError("PySCF's SCF has not converged: its density has no response")
    if not np.isin(mf.mo_occ, (0, 2 if np.ndim(mf.mo_occ) == 1 else 1)).all():
        raise InputError("PySCF's occupations are fractional: expected whole electrons, without smearing")
    parameters = [p for p in functional.parameters() if p.requires_grad]
    matrices: Tensor = _DensityMatrices.apply(mf, *parameters)
    return matrices.to(device_of(functional))


def set_density(mf: "KohnShamDFT", matrices: np.ndarray) -> None:
    """Make an object hold the self-consistent density of an earlier one of the same molecule, without an SCF.

    Parameters
    ----------
    mf : KohnShamDFT
        RKS or UKS of a molecule that uses the functional of the earlier one; it changes in place.
    matrices : array
        (nao, nao) or, with spin, (2, nao, nao) density matrices of the earlier one.
    """
    from scipy.linalg import eigh

    overlap = mf.get_ovlp()
    blocks = matrices.reshape(-1, *overlap.shape)
    occupations, orbitals = zip(*(eigh(overlap @ block @ overlap, overlap) for block in blocks))
    mf.mo_occ = np.rint(occupations).reshape(*matrices.shape[:-2], -1)
    fock = mf.get_fock(dm=matrices)
    mf.mo_energy, mf.mo_coeff = mf.canonicalize(np.array(orbitals).reshape(matrices.shape), mf.mo_occ, fock)
    mf.e_tot = mf.energy_tot(dm=matrices)
    mf.converged = True


class _DensityMatrices(torch.autograd.Function):
    """(a converged RKS or UKS, parameters of its functional) -> its density matrices of each spin."""

    @staticmethod
    def forward(ctx: Any, mf: "KohnShamDFT", *parameters: Tensor) -> Tensor:
        ctx.mf, ctx.orbitals = mf, mf.mo_coeff
        ctx.save_for_backward(*parameters)  # torch raises an error if they change before `backward`
        return torch.from_numpy(_spins(np.asarray(mf.make_rdm1())))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        mf, parameters = ctx.mf, ctx.saved_tensors
        if mf.mo_coeff is not ctx.orbitals:
            raise ResponseError("PySCF's object was changed: the gradient is that of orbitals which it no longer has")
        change = _adjoint_change(mf, slopes.numpy())
        with torch.enable_grad():
            gradients = torch.autograd.grad(-_xc_slope(mf, change), parameters, allow_unused=True)
        return None, *gradients


def _spins(matrices: np.ndarray) -> np.ndarray:
    """Return density matrices (2, nao, nao) of each spin, those of a closed shell if there is one for both."""
    return 0.5 * np.stack((matrices, matrices)) if matrices.ndim == 2 else matrices


def _adjoint_change(mf: "KohnShamDFT", slopes: np.ndarray) -> np.ndarray:
    """Return Z (2, nao, nao) of a loss whose derivatives by the density matrices are `slopes` (2, nao, nao)."""
    from pyscf.soscf.newton_ah import gen_g_hop_rhf, gen_g_hop_uhf

    if np.ndim(mf.mo_occ) == 1:  # one set of orbitals for both spins, each of which has half of the density matrix
        electrons, generate, slopes = 2, gen_g_hop_rhf, slopes.mean(0, keepdims=True)
        levels = [(mf.mo_coeff, mf.mo_occ)]
    else:
        electrons, generate = 1, gen_g_hop_uhf
        levels = list(zip(mf.mo_coeff, mf.mo_occ))
    spaces = [(orbitals[:, occupations == 0], orbitals[:, occupations > 0]) for orbitals, occupations in levels]
    right = [electrons * empty.T @ (slope + slope.T) @ full for slope, (empty, full) in zip(slopes, spaces)]
    _, hessian, diagonal = generate(mf, mf.mo_coeff, mf.mo_occ, with_symmetry=False)
    solution = _solve(hessian, diagonal, np.concatenate([block.ravel() for block in right]))
    rotations = np.split(solution, [right[0].size])
    changes = [
        0.5 * electrons * empty @ rotation.reshape(block.shape) @ full.T
        for rotation, block, (empty, full) in zip(rotations, right, spaces)
    ]
    symmetric = np.array([change + change.T for change in changes])
    return symmetric if electrons == 1 else _spins(symmetric[0])


def _solve(hessian: Callable[[np.ndarray], np.ndarray], diagonal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return A^-1 b (n,) of a Hessian with this diagonal (n,), both scaled to a diagonal near one."""
    scale = 1 / np.sqrt(np.abs(diagonal).clip(min=SMALLEST_EXCITATION))

    def apply(vector: Tensor, error: float) -> Tensor:
        return torch.from_numpy(scale * hessian(scale * vector.numpy()))

    def inner(one: Tensor, other: Tensor) -> Tensor:
        return one @ other

    scaled = torch.from_numpy(scale * right)
    solution = gmres(apply, scaled, inner, TOLERANCE)
    if inner(solution, scaled) < SOFTEST * inner(solution, solution):
        raise ResponseError(
            "the density has no response: its orbitals can be rotated with almost no change of the energy, as in atoms "
            "with an open p or d shell, or the state is not a minimum"
        )
    return scale * solution.numpy()


def _xc_slope(mf: "KohnShamDFT", change: np.ndarray) -> Tensor:
    """Return the derivative () of E_xc along a change (2, nao, nao) of the density matrices, as a function of theta."""
    functional = functional_of(mf)
    device = device_of(functional)
    densities, changes = (
        torch.from_numpy(grid_densities(mf, matrices)).to(device)
        for matrices in (_spins(np.asarray(mf.make_rdm1())), change)
    )
    energy = xc_integral(functional, densities.requires_grad_(), torch.from_numpy(mf.grids.weights).to(device))
    (potentials,) = torch.autograd.grad(energy, densities, create_graph=True)
    return (potentials * changes).sum()
