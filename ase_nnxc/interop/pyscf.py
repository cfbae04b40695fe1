"""Calculations of molecules with PySCF: functionals of ase_nnxc in PySCF, and its densities as features."""

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import SCFError
from torch import Tensor

from ..units import BOHR
from ..xc.features import fields_needed, require_features
from ..xc.spins import spin_sum

if TYPE_CHECKING:
    from pyscf.dft.rks import KohnShamDFT

    from ..xc import Functional

# features that PySCF has, as rows of its arrays of densities
_ROWS: dict[str, int | slice] = {"density": 0, "gradient": slice(1, 4), "tau": 4}


def solve_molecule(
    atoms: Atoms, functional: "Functional", basis: str, pseudo: str | None = None, grid_level: int = 3
) -> "KohnShamDFT":
    """Return the self-consistent state of a molecule in PySCF with a functional of ase_nnxc.

    Parameters
    ----------
    atoms : Atoms
        The molecule; the sum of its initial magnetic moments is the number of unpaired electrons.
    functional : Functional
        A functional of density, gradient and tau.
    basis : str
        Name of a basis set in PySCF.
    pseudo : str, optional
        Name of pseudopotentials in PySCF. Default: all electrons are calculated.
    grid_level : int
        Size of PySCF's grid, from 0 to 9.

    Returns
    -------
    KohnShamDFT
        PySCF's object, for energies and orbitals; second derivatives of the functional are not available to it.

    Raises
    ------
    SCFError
        If the calculation has not converged.
    ValueError
        If the functional reads a feature that PySCF does not have.
    """
    from pyscf import dft, gto

    require_features(functional.features, _ROWS, type(functional).__name__, "PySCF")
    unpaired = round(abs(atoms.get_initial_magnetic_moments().sum()))
    positions = list(zip(atoms.get_chemical_symbols(), (atoms.positions / BOHR).tolist()))
    mol = gto.M(atom=positions, unit="Bohr", basis=basis, pseudo=pseudo, spin=unpaired, verbose=0)
    mf = dft.UKS(mol) if unpaired else dft.RKS(mol)
    mf.xc = "PBE"  # only states that there is no exact exchange, range separation or VV10
    mf.grids.level = grid_level
    mf._chkfile.close()  # a temporary file, which PySCF leaves open
    mf.chkfile = None
    mf._numint = _numerical_integration(functional)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Function int1e_r2_origi_sph not found")  # PySCF then finds it elsewhere
        mf.kernel()
    if not mf.converged:
        raise SCFError(f"PySCF's SCF of {atoms.get_chemical_formula()} with {basis} has not converged")
    return mf


def grid_features(mf: "KohnShamDFT") -> tuple[dict[str, Tensor], Tensor]:
    """Return density, gradient and tau of a finished calculation on its grid.

    Returns
    -------
    features : dict of str to Tensor
        Density (2, n), gradient (2, 3, n) and tau (2, n); see `Functional`.
    volumes : Tensor
        (n,) integration weights of the points, bohr^3.
    """
    density = mf.make_rdm1()
    channels = density if density.ndim == 3 else (density / 2, density / 2)
    orbitals = mf._numint.eval_ao(mf.mol, mf.grids.coords, deriv=1)
    rho = [mf._numint.eval_rho(mf.mol, orbitals, d, xctype="MGGA", with_lapl=False) for d in channels]
    return _features(torch.from_numpy(np.stack(rho)), _ROWS), torch.from_numpy(mf.grids.weights)


def _numerical_integration(functional: "Functional") -> Any:
    from pyscf.dft.numint import NumInt

    class Integration(NumInt):
        """PySCF's integrals over its grid, with the functional in place of libxc."""

        def _xc_type(self, xc_code: str) -> str:
            return "MGGA" if "tau" in fields_needed(functional.features) else "GGA"

        def eval_xc_eff(self, xc_code: str, rho: np.ndarray, deriv: int = 1, **_: Any) -> tuple[Any, ...]:
            if deriv > 1:
                raise NotImplementedError("second derivatives of functionals of ase_nnxc are not available in PySCF")
            return (*_evaluate(functional, np.asarray(rho)), None, None)

    return Integration()


def _evaluate(functional: "Functional", rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy per electron (n,), Hartree, and derivatives with respect to `rho` (rows, n), with spin (2, rows, n)."""
    leaf = torch.tensor(rho, dtype=torch.float64, device="cpu", requires_grad=True)
    with torch.enable_grad():
        channels = 0.5 * leaf[None] if rho.ndim == 2 else leaf
        energy = functional(_features(channels, functional.features))
        (derivative,) = torch.autograd.grad(energy.sum(), leaf)
    density = spin_sum(channels[:, 0]).clamp(min=torch.finfo(leaf.dtype).tiny)
    return (energy / density).detach().numpy(), derivative.numpy()


def _features(channels: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Features from PySCF's densities (nspin, rows, n): n, the components of its gradient, tau."""
    return {name: channels[:, _ROWS[name]] for name in names}
