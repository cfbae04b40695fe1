"""Calculations of molecules with PySCF: functionals of ase_nnxc in PySCF, and its densities as features."""

import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError, SCFError
from torch import Tensor

from ..units import BOHR
from ..xc.features import fields_needed, require_features
from ..xc.spins import spin_sum

if TYPE_CHECKING:
    from pyscf.dft.rks import KohnShamDFT

    from ..xc import Functional

CHARGE_TOLERANCE = 1e-6  # elementary charges
BROKEN_SYMMETRY_GRADIENT = 3e-4  # Hartree; PySCF's default is 3e-5

# features that PySCF has, as rows of its arrays of densities
_ROWS: dict[str, int | slice] = {"density": 0, "gradient": slice(1, 4), "tau": 4}


def solve_molecule(
    atoms: Atoms,
    functional: "Functional",
    basis: str,
    pseudo: str | None = None,
    grid_level: int = 3,
    charge: int | None = None,
) -> "KohnShamDFT":
    """Return the self-consistent state of a molecule in PySCF with a functional of ase_nnxc.

    A molecule with initial magnetic moments is spin-polarised (UKS), any other is a closed shell (RKS). If the moments
    have both signs or add up to zero, the SCF starts from a density with these moments, so that it can find a state of
    broken spin symmetry, such as that of a stretched bond. Otherwise it starts from PySCF's initial guess.

    Parameters
    ----------
    atoms : Atoms
        The molecule; the sum of its initial magnetic moments, rounded, is the number of unpaired electrons.
    functional : Functional
        A functional of density, gradient and tau.
    basis : str
        Name of a basis set in PySCF.
    pseudo : str, optional
        Name of pseudopotentials in PySCF. Default: all electrons are calculated.
    grid_level : int
        Size of PySCF's grid, from 0 to 9.
    charge : int, optional
        Charge of the molecule, elementary charges; +1 is a cation. Default: the sum of the initial charges of the
        atoms. How these are distributed is not used.

    Returns
    -------
    KohnShamDFT
        PySCF's object, for energies and orbitals; second derivatives of the functional are not available to it.

    Raises
    ------
    InputError
        If the charge is not a whole number, if it differs from the sum of the initial charges, or if the electrons
        cannot have this number of unpaired ones.
    SCFError
        If the calculation has not converged.
    ValueError
        If the functional reads a feature that PySCF does not have.
    """
    from pyscf import dft, gto

    require_features(functional.features, _ROWS, type(functional).__name__, "PySCF")
    moments = atoms.get_initial_magnetic_moments()
    total_moment = round(moments.sum())
    positions = list(zip(atoms.get_chemical_symbols(), (atoms.positions / BOHR).tolist()))
    options = {"unit": "Bohr", "basis": basis, "pseudo": pseudo, "charge": _whole_charge(atoms, charge), "verbose": 0}
    mol = gto.M(atom=positions, spin=None, **options)  # with the smallest possible number of unpaired electrons
    _check_unpaired(atoms, mol.nelectron, abs(total_moment))
    mol.spin = abs(total_moment)
    mf = dft.UKS(mol) if moments.any() else dft.RKS(mol)
    mf.xc = "PBE"  # only states that there is no exact exchange, range separation or VV10
    mf.grids.level = grid_level
    mf._chkfile.close()  # a temporary file, which PySCF leaves open
    mf.chkfile = None
    mf._numint = _numerical_integration(functional)
    broken = moments.any() and (total_moment == 0 or moments.min() * moments.max() < 0)
    if broken:
        # where a spin has almost no density its potential is rough; the energy is quadratic in the gradient
        mf.conv_tol_grad = BROKEN_SYMMETRY_GRADIENT
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Function int1e_r2_origi_sph not found")  # PySCF then finds it elsewhere
        mf.kernel(_spin_densities(mf, moments if total_moment >= 0 else -moments) if broken else None)
    if not mf.converged:
        raise SCFError(f"PySCF's SCF of {atoms.get_chemical_formula()} with {basis} has not converged")
    return mf


def _whole_charge(atoms: Atoms, charge: int | None) -> int:
    """Return the charge of the molecule, which initial charges of the atoms must not contradict."""
    initial = atoms.get_initial_charges()
    total = float(initial.sum()) if charge is None else charge
    if isinstance(total, bool) or not math.isfinite(total) or abs(total - round(total)) > CHARGE_TOLERANCE:
        source = "the sum of the initial charges" if charge is None else "charge"
        raise InputError(f"{source} is {total!r}: expected a whole number of elementary charges")
    if initial.any() and abs(float(initial.sum()) - total) > CHARGE_TOLERANCE:
        raise InputError(f"charge={charge}, but the initial charges of the atoms add up to {initial.sum():g}")
    return round(total)


def _check_unpaired(atoms: Atoms, nelectrons: int, unpaired: int) -> None:
    """Raise InputError unless so many of the electrons can be unpaired."""
    if nelectrons < 1 or unpaired > nelectrons or (nelectrons - unpaired) % 2:
        raise InputError(
            f"{atoms.get_chemical_formula()} with {nelectrons} electrons cannot have {unpaired} unpaired ones, the sum "
            "of the initial magnetic moments: change the moments or the charge"
        )


def _spin_densities(mf: "KohnShamDFT", moments: np.ndarray) -> np.ndarray:
    """Return density matrices (2, nao, nao) of superposed atoms with these moments, for the start of an SCF.

    The density D of the atoms, without the blocks between atoms, is shared between the spins as (1 +- m / n) D / 2,
    where n is the number of electrons of the atom.
    """
    density = np.asarray(mf.get_init_guess(key="atom"))
    density = density.sum(0) if density.ndim == 3 else density
    overlap = mf.get_ovlp()
    shared = np.zeros((2, *density.shape))
    for moment, (*_, first, last) in zip(moments, mf.mol.aoslice_by_atom()):
        block = slice(first, last)
        electrons = np.sum(density[block, block] * overlap[block, block])
        polarisation = np.clip(moment / electrons, -1, 1)
        for spin, sign in enumerate((1, -1)):
            shared[spin, block, block] = 0.5 * (1 + sign * polarisation) * density[block, block]
    return shared


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
