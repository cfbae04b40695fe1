"""PySCF: our functionals in its calculations of molecules, and its densities as our features."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import SCFError
from torch import Tensor

from ..units import BOHR

if TYPE_CHECKING:
    from pyscf.dft.rks import KohnShamDFT

    from ..xc import Functional

_ROWS: dict[str, int | slice] = {"density": 0, "gradient": slice(1, 4), "tau": 4}  # of PySCF's densities


def solve_molecule(
    atoms: Atoms, functional: "Functional", basis: str, pseudo: str | None = None, grid_level: int = 3
) -> "KohnShamDFT":
    """The self-consistent state of a molecule in PySCF with a functional of ours.

    Parameters
    ----------
    atoms : Atoms
        With their initial magnetic moments, which add up to the number of unpaired electrons.
    functional : Functional
        Of any rung.
    basis : str
        PySCF's name of a basis.
    pseudo : str, optional
        PySCF's name of pseudopotentials; by default all electrons are calculated.
    grid_level : int
        Size of PySCF's grid, 0 to 9.

    Returns
    -------
    KohnShamDFT
        PySCF's object, for energies and orbitals: it gets no second derivatives of the functional.

    Raises
    ------
    SCFError
        If no self-consistency is reached.
    """
    from pyscf import dft, gto

    unpaired = round(abs(atoms.get_initial_magnetic_moments().sum()))
    positions = list(zip(atoms.get_chemical_symbols(), (atoms.positions / BOHR).tolist()))
    mol = gto.M(atom=positions, unit="Bohr", basis=basis, pseudo=pseudo, spin=unpaired, verbose=0)
    mf = dft.UKS(mol) if unpaired else dft.RKS(mol)
    mf.xc = "PBE"  # for PySCF: no exact exchange, no range separation, no VV10; what is evaluated is the functional
    mf.grids.level = grid_level
    mf._chkfile.close()  # a temporary file that PySCF would leave to the garbage collector
    mf.chkfile = None
    mf._numint = _numerical_integration(functional)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Function int1e_r2_origi_sph not found")  # PySCF finds it nevertheless
        mf.kernel()
    if not mf.converged:
        raise SCFError(f"PySCF's SCF of {atoms.get_chemical_formula()} with {basis} has not converged")
    return mf


def grid_features(mf: "KohnShamDFT") -> tuple[dict[str, Tensor], Tensor]:
    """Density, gradient and tau of a calculation that was run, on its grid.

    Returns
    -------
    features : dict of str to Tensor
        All that a functional may read, see `Functional`.
    volumes : Tensor
        (n,) weights of the points, bohr^3.
    """
    density = mf.make_rdm1()
    channels = density if density.ndim == 3 else (density / 2, density / 2)
    orbitals = mf._numint.eval_ao(mf.mol, mf.grids.coords, deriv=1)
    rho = [mf._numint.eval_rho(mf.mol, orbitals, d, xctype="MGGA", with_lapl=False) for d in channels]
    return _features(torch.from_numpy(np.stack(rho)), tuple(_ROWS)), torch.from_numpy(mf.grids.weights)


def _numerical_integration(functional: "Functional") -> Any:
    from pyscf.dft.numint import NumInt

    class Integration(NumInt):
        """PySCF's integrals over its grid, with the functional in libxc's place."""

        def _xc_type(self, xc_code: str) -> str:
            return "MGGA" if "tau" in functional.features else "GGA"

        def eval_xc_eff(self, xc_code: str, rho: np.ndarray, deriv: int = 1, **_: Any) -> tuple[Any, ...]:
            if deriv > 1:
                raise NotImplementedError("PySCF gets no second derivatives of functionals of ase_nnxc")
            return (*_evaluate(functional, np.asarray(rho)), None, None)

    return Integration()


def _evaluate(functional: "Functional", rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy per electron (n,), Hartree, and derivatives by the entries of `rho` (rows, n), with spin (2, rows, n)."""
    leaf = torch.tensor(rho, dtype=torch.float64, device="cpu", requires_grad=True)
    with torch.enable_grad():
        channels = (0.5 * leaf).expand(2, *leaf.shape) if rho.ndim == 2 else leaf
        energy = functional(_features(channels, functional.features))
        (slope,) = torch.autograd.grad(energy.sum(), leaf)
    density = channels[:, 0].sum(0).clamp(min=torch.finfo(leaf.dtype).tiny)
    return (energy / density).detach().numpy(), slope.numpy()


def _features(channels: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Ours, of densities (2, rows, n) as PySCF has them: n, the components of its gradient, tau."""
    return {name: channels[:, _ROWS[name]] for name in names}
