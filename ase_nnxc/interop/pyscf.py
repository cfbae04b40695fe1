"""The bridge to PySCF: functionals of ase_nnxc in its calculations, and its densities as features.

`use_functional` makes a Kohn-Sham object of PySCF, of a molecule or of a crystal, calculate with a functional of this
package; `energy_tensor` is its energy with gradients by the parameters of the functional, and `freeze_density` keeps
what this needs without the object. `solve_molecule` does a calculation of ASE's atoms, as `ase_nnxc.PySCFCalculator`
does.
"""

import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, InputError, SCFError
from torch import Tensor

from ..units import BOHR
from ..xc.features import fields_needed, require_features
from ..xc.functional import check_functional
from ..xc.spins import spin_sum

if TYPE_CHECKING:
    from pyscf.dft.rks import KohnShamDFT

    from ..xc import Functional

CHARGE_TOLERANCE = 1e-6  # elementary charges
BROKEN_SYMMETRY_GRADIENT = 3e-4  # Hartree; PySCF's default is 3e-5
HIGHEST_DERIVATIVE = 2  # of functionals, by automatic differentiation

# names that PySCF does not have; the functions of all elements but H are the same
_PYSCF_NAMES = {"def2-sv(p)": "def2-svp"}

# features that PySCF has, as rows of its arrays of densities
_ROWS: dict[str, int | slice] = {"density": 0, "gradient": slice(1, 4), "tau": 4}


def check_features(functional: "Functional") -> None:
    """Raise ValueError, with the names, if a functional reads features that PySCF does not have."""
    require_features(functional.features, _ROWS, type(functional).__name__, "PySCF")


def use_functional(mf: "KohnShamDFT", functional: "Functional") -> "KohnShamDFT":
    """Make a Kohn-Sham object of PySCF calculate with a functional of ase_nnxc; the object changes in place.

    Energies, gradients and second derivatives of the functional follow, and with them nuclear gradients,
    second-order SCF (`mf.newton()`), stability analysis and linear response. PySCF's own functional is not used any
    more, whatever `mf.xc` is set to, nor are its exact exchange, range separation and VV10.

    Parameters
    ----------
    mf : KohnShamDFT
        RKS, UKS or ROKS of a molecule; RKS, UKS, KRKS or KUKS of a crystal. For density fitting of a molecule, give
        `mf.density_fit()`, which looks `mf.xc` up.
    functional : Functional
        A functional of density, gradient and tau. It may be in training: its present parameters are used.

    Returns
    -------
    KohnShamDFT
        The same object.

    Raises
    ------
    TypeError
        If the object does not integrate over points with collinear spin densities.
    ValueError
        If the functional reads a feature that PySCF does not have, or is not as `Functional` describes.
    """
    from pyscf.dft.numint import NumInt
    from pyscf.pbc.dft.numint import KNumInt
    from pyscf.pbc.dft.numint import NumInt as PeriodicNumInt

    check_features(functional)
    with torch.inference_mode(False):
        check_functional(functional)
    present = getattr(mf, "_numint", None)
    if not isinstance(present, NumInt | PeriodicNumInt | KNumInt):
        expected = "expected RKS, UKS, ROKS, KRKS or KUKS, without a multigrid"
        raise TypeError(f"{type(mf).__name__} of PySCF cannot use functionals of ase_nnxc: {expected}")
    integration = present.view(_integration_class(present.__class__))
    integration.functional = functional
    integration.libxc = _NoLibxc()
    mf._numint = integration
    mf.xc = f"ase_nnxc:{type(functional).__name__}"  # not a name of libxc: what would fall back to it raises an error
    mf.nlc = ""
    return mf


def functional_of(mf: "KohnShamDFT") -> "Functional":
    """Return the functional of ase_nnxc that an object of PySCF calculates with; raise TypeError if there is none."""
    integration = mf._numint
    if not isinstance(integration, _Integration):
        raise TypeError("PySCF's object does not use a functional of ase_nnxc: call use_functional before its kernel")
    return integration.functional


@dataclass(frozen=True, eq=False)
class FrozenDensity:
    """A self-consistent density on PySCF's grid, from which the energy follows for other parameters of its functional.

    Attributes
    ----------
    functional : Functional
        The functional of the calculation, with its present parameters.
    matrices : Tensor
        (nao, nao) or, with spin, (2, nao, nao): density matrices.
    channels : Tensor
        (2, rows, npoints) density, gradient and tau of each spin, atomic units.
    weights : Tensor
        (npoints,) integration weights, bohr^3.
    other_energy : float
        Total energy without that of exchange and correlation, Hartree.
    """

    functional: "Functional"
    matrices: Tensor
    channels: Tensor
    weights: Tensor
    other_energy: float

    def energy_tensor(self) -> Tensor:
        """Return the total energy (), Hartree, of this density, with gradients by the parameters of the functional.

        E = E_other[n] + E_xc[n; theta]. The self-consistent energy is stationary in the density, so that its first
        derivatives at the parameters that the density was solved with are those of this energy.
        """
        with torch.inference_mode(False), torch.enable_grad():
            return self.other_energy + xc_integral(self.functional, self.channels, self.weights)


def freeze_density(mf: "KohnShamDFT") -> FrozenDensity:
    """Return the density of a finished calculation, without PySCF's object and its integrals.

    Parameters
    ----------
    mf : KohnShamDFT
        An object that `use_functional` has changed, or that `solve_molecule` returns. The parameters of its functional
        must be those that it was solved with.

    Raises
    ------
    TypeError
        If the object does not use a functional of ase_nnxc.
    SCFError
        If the SCF has not converged.
    """
    functional = functional_of(mf)
    if not mf.converged:
        raise SCFError("PySCF's SCF has not converged: its energy is not stationary")
    matrices = np.asarray(mf.make_rdm1())
    blocks: list[np.ndarray] = []
    mf._numint.recorded = blocks
    try:
        mf.get_veff(dm=matrices)  # evaluates the functional on the whole grid, block by block
    finally:
        mf._numint.recorded = None
    with torch.inference_mode(False), torch.no_grad():
        channels = torch.tensor(np.concatenate(blocks, axis=-1), device=device_of(functional))
        weights = torch.tensor(mf.grids.weights, device=channels.device)
        other = float(mf.e_tot) - float(xc_integral(functional, channels, weights))
        return FrozenDensity(functional, torch.tensor(matrices), channels, weights, other)


def energy_tensor(mf: "KohnShamDFT") -> Tensor:
    """Return the total energy of a finished calculation, Hartree, with exact gradients by parameters.

    The second derivatives of this tensor are not those of the energy; see `FrozenDensity.energy_tensor`. Parameters and
    errors are those of `freeze_density`.

    Returns
    -------
    Tensor
        () the energy of the molecule, or of the cell.
    """
    return freeze_density(mf).energy_tensor()


def xc_integral(functional: "Functional", channels: Tensor, weights: Tensor) -> Tensor:
    """Return the energy () of a functional, Hartree, of spin densities (2, rows, n) on points with weights (n,)."""
    return (functional(_features(channels, functional.features)) * weights).sum()


def solve_molecule(
    atoms: Atoms,
    functional: "Functional",
    basis: str,
    pseudo: str | None = None,
    grid_level: int = 3,
    charge: int | None = None,
    density_fit: bool = False,
    conv_tol: float = 1e-9,
    conv_tol_grad: float | None = None,
    max_cycle: int = 50,
    second_order: bool = False,
    start: np.ndarray | None = None,
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
    density_fit : bool
        Approximate the Coulomb integrals with PySCF's auxiliary basis sets.
    conv_tol, conv_tol_grad : float
        Change of the energy and norm of the orbital gradient, Hartree, at which the SCF stops. Default of the
        gradient: the square root of `conv_tol`, and at least 3e-4 for a broken spin symmetry.
    max_cycle : int
        Largest number of steps.
    second_order : bool
        If the SCF does not converge, continue with second-order steps (PySCF's `newton`), at most as many.
    start : array, optional
        Density matrices to start from, of the same basis and the same kind of spin.

    Returns
    -------
    KohnShamDFT
        PySCF's object, see `use_functional`.

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
    moments = atoms.get_initial_magnetic_moments()
    mf = prepare_molecule(atoms, functional, basis, pseudo, grid_level, charge, density_fit)
    mf.conv_tol, mf.conv_tol_grad, mf.max_cycle = conv_tol, conv_tol_grad, max_cycle
    if moments.any() and (round(moments.sum()) == 0 or moments.min() * moments.max() < 0):
        # where a spin has almost no density its potential is rough; the energy is quadratic in the gradient
        mf.conv_tol_grad = max(BROKEN_SYMMETRY_GRADIENT, conv_tol_grad or 0)
        start = _spin_densities(mf, moments if round(moments.sum()) >= 0 else -moments) if start is None else start
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Function int1e_r2_origi_sph not found")  # PySCF then finds it elsewhere
        mf.kernel(start)
        if second_order and not mf.converged:
            _continue_to_second_order(mf)
    if not mf.converged:
        raise SCFError(f"PySCF's SCF of {atoms.get_chemical_formula()} with {basis} has not converged")
    return mf


def prepare_molecule(
    atoms: Atoms,
    functional: "Functional",
    basis: str,
    pseudo: str | None = None,
    grid_level: int = 3,
    charge: int | None = None,
    density_fit: bool = False,
) -> "KohnShamDFT":
    """Return the object of a molecule that `solve_molecule` solves, before its SCF; parameters and errors are its."""
    from pyscf import dft

    check_features(functional)
    mol = build_molecule(atoms, basis, pseudo, charge)
    mf = dft.UKS(mol) if atoms.get_initial_magnetic_moments().any() else dft.RKS(mol)
    mf = use_functional(mf.density_fit() if density_fit else mf, functional)
    mf.grids.level = grid_level
    return without_file(mf)


def prepare_crystal(
    atoms: Atoms,
    functional: "Functional",
    kpts: tuple[int, int, int],
    basis: str | None = None,
    auxbasis: str | None = None,
    width: float = 0.0,
    grid_level: int = 1,
) -> "KohnShamDFT":
    """Return PySCF's object of a crystal with all electrons in a Gaussian basis set, before its SCF.

    It is a closed shell (KRKS) with fitted Coulomb integrals. Functionals are evaluated on grids around the atoms,
    because a uniform one cannot hold the cores.

    Parameters
    ----------
    atoms : Atoms
        The crystal, without initial magnetic moments.
    functional : Functional
        A functional of density, gradient and tau.
    kpts : tuple of int
        Divisions of the mesh of k-points around Gamma.
    basis, auxbasis : str, optional
        Names of the basis set and of the one that fits the Coulomb integrals, in PySCF. Default: those of `atoms.info`,
        where `ase_nnxc.interop.deepchem.read_sys_desc` puts them; PySCF's choice for the second if it is not there.
    width : float
        Width of the Fermi-Dirac smearing, Hartree.
    grid_level : int
        Size of PySCF's grid, from 0 to 9.

    Raises
    ------
    InputError
        If the atoms are not periodic in three directions or have moments or charges, if a keyword is wrong, if the
        basis set is unknown or for valence electrons, or if an odd number of electrons has no smearing.
    ValueError
        If the functional reads a feature that PySCF does not have.
    """
    from pyscf.lib.exceptions import BasisNotFoundError
    from pyscf.pbc import dft, gto
    from pyscf.pbc.dft.gen_grid import BeckeGrids
    from pyscf.pbc.scf.addons import smearing

    check_features(functional)
    basis = basis or atoms.info.get("gaussian_basis")
    auxbasis = auxbasis or atoms.info.get("gaussian_auxbasis")
    if basis is None:
        raise InputError("basis is missing: expected the name of a basis set in PySCF, such as 'sto-3g'")
    check_all_electron(basis, sorted(set(atoms.symbols)))
    if not isinstance(kpts, Sequence) or len(kpts) != 3 or not all(type(n) is int and n > 0 for n in kpts):
        raise InputError(f"kpts={kpts!r}: expected three positive integers")
    if not atoms.pbc.all() or atoms.get_initial_magnetic_moments().any() or atoms.get_initial_charges().any():
        raise InputError("expected atoms that are periodic in three directions, without initial moments and charges")
    if sum(atoms.numbers) % 2 and not width:
        raise InputError(f"a closed shell of {sum(atoms.numbers)} electrons needs smearing: set width, such as 0.01")
    positions, options = list(zip(atoms.symbols, atoms.positions)), {"spin": None, "verbose": 0}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Electron number")  # that of one cell may be odd, as bands are filled
        warnings.filterwarnings("ignore", "Basis may be available")  # in another package
        try:
            cell = gto.M(a=atoms.cell.array, atom=positions, basis=basis, space_group_symmetry=True, **options)
        except (KeyError, BasisNotFoundError) as error:
            raise InputError(f"basis={basis!r}: PySCF has no basis set of this name for these atoms") from error
        points = cell.make_kpts(kpts, space_group_symmetry=True, time_reversal_symmetry=True)
        mf = dft.KRKS(cell, points).density_fit(auxbasis=_PYSCF_NAMES.get(str(auxbasis).lower(), auxbasis))
    mf.grids = BeckeGrids(cell)
    mf.grids.level = grid_level
    mf = without_file(use_functional(mf, functional))
    return smearing(mf, sigma=width, method="fermi") if width else mf


def without_file(mf: "KohnShamDFT") -> "KohnShamDFT":
    """Return an object of PySCF after its temporary file, which PySCF leaves open, is closed."""
    if mf.chkfile is not None:
        mf._chkfile.close()
        mf.chkfile = None
    return mf


def check_all_electron(name: str, symbols: Sequence[str]) -> None:
    """Raise InputError if a basis set of an element is for valence electrons; its core would be wrong in silence."""
    for symbol in symbols:
        if name.lower().startswith("gth") or _has_core_potential(name, symbol):
            suitable = "gth-pbe" if name.lower().startswith("gth") else name
            raise InputError(f"basis={name!r} of {symbol} is for valence electrons: add pseudo={suitable!r}")


def _has_core_potential(name: str, symbol: str) -> bool:
    """Whether PySCF has effective core potentials of the name of this basis set for an element."""
    from pyscf.gto.basis import load_ecp

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is none
            return bool(load_ecp(name, symbol))
    except (RuntimeError, KeyError):
        return False


def build_molecule(atoms: Atoms, basis: str, pseudo: str | None = None, charge: int | None = None) -> Any:
    """Return PySCF's molecule of the atoms, with the number of unpaired electrons of their moments.

    Parameters and errors are those of `solve_molecule`; an unknown basis set is an error of PySCF.
    """
    from pyscf import gto
    from pyscf.lib.exceptions import BasisNotFoundError

    unpaired = abs(round(atoms.get_initial_magnetic_moments().sum()))
    positions = list(zip(atoms.get_chemical_symbols(), (atoms.positions / BOHR).tolist()))
    options = {"unit": "Bohr", "basis": basis, "pseudo": pseudo, "charge": _whole_charge(atoms, charge), "verbose": 0}
    try:
        mol = gto.M(atom=positions, spin=None, **options)  # with the smallest possible number of unpaired electrons
    except KeyError as error:  # Pople's names
        raise BasisNotFoundError(f"Unknown basis name {basis}") from error
    _check_unpaired(atoms, mol.nelectron, unpaired)
    mol.spin = unpaired
    return mol


def _continue_to_second_order(mf: "KohnShamDFT") -> None:
    """Go on with second-order steps from the orbitals of an SCF, and put the results into its object."""
    solver = mf.newton()
    solver.kernel(mf.mo_coeff, mf.mo_occ)
    for name in ("converged", "e_tot", "mo_coeff", "mo_occ", "mo_energy", "scf_summary"):
        setattr(mf, name, getattr(solver, name))


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


def grid_densities(mf: "KohnShamDFT", matrices: np.ndarray) -> np.ndarray:
    """Return what density matrices, or changes of them, are on the grid of an object.

    Parameters
    ----------
    mf : KohnShamDFT
        An object of a molecule that `use_functional` has changed, with its grid.
    matrices : array
        (2, nao, nao) symmetric, of each spin.

    Returns
    -------
    array
        (2, rows, npoints) density, the three components of its gradient and, for a functional of tau, tau.
    """
    kind = mf._numint._xc_type(mf.xc)
    blocks = mf._numint.block_loop(mf.mol, mf.grids, mf.mol.nao, deriv=1, max_memory=mf.max_memory)
    densities = [
        [mf._numint.eval_rho(mf.mol, orbitals, one, mask, kind, hermi=1, with_lapl=False) for one in matrices]
        for orbitals, mask, *_ in blocks
    ]
    return np.concatenate(densities, axis=-1)


class _NoLibxc:
    """In the place of PySCF's module `libxc`: PySCF asks it what else than the functional it has to calculate."""

    __name__ = "ase_nnxc"
    __version__ = ""
    __reference__ = "the functional is one of ase_nnxc"

    def is_hybrid_xc(self, xc_code: str) -> bool:
        return False

    def is_nlc(self, xc_code: str) -> bool:
        return False

    def hybrid_coeff(self, xc_code: str, spin: int = 0) -> float:
        return 0.0

    def rsh_coeff(self, xc_code: str) -> tuple[float, float, float]:
        return 0.0, 0.0, 0.0

    def nlc_coeff(self, xc_code: str) -> tuple[()]:
        return ()

    def test_deriv_order(self, xc_code: str, deriv: int, raise_error: bool = False) -> bool:
        if raise_error:
            _check_order(deriv)
        return deriv <= HIGHEST_DERIVATIVE


class _Integration:
    """What PySCF's integrals over its grid become, with a functional in place of libxc."""

    functional: "Functional"
    recorded: list[np.ndarray] | None = None
    """Spin densities (2, rows, n) of the blocks of points, while they are collected."""

    def view(self, cls: type) -> Any:
        """Return these integrals as those of another class, with the same functional."""
        from pyscf.lib import view

        return view(self, _integration_class(cls))

    def _xc_type(self, xc_code: str) -> str:
        return "MGGA" if "tau" in fields_needed(self.functional.features) else "GGA"

    def eval_xc_eff(self, xc_code: str, rho: Any, deriv: int = 1, **_: Any) -> tuple[Any, ...]:
        """Return energies per electron and derivatives; see `_evaluate`."""
        _check_order(deriv)
        rho = np.asarray(rho, dtype=float)
        rho = rho[..., [0, 1, 2, 3, 5], :] if rho.shape[-2] == 6 else rho  # without the Laplacian
        if self.recorded is not None:
            self.recorded.append(0.5 * np.stack((rho, rho)) if rho.ndim == 2 else rho)
        values = _evaluate(self.functional, rho, deriv)
        return (*values, *(None,) * (4 - len(values)))


@functools.cache
def _integration_class(integrals: Any) -> Any:
    """Return the subclass of a class of PySCF's integrals that uses a functional of ase_nnxc."""
    return integrals if issubclass(integrals, _Integration) else type("Integration", (_Integration, integrals), {})


def _check_order(deriv: int) -> None:
    """Raise NotImplementedError if a derivative is too high for automatic differentiation."""
    if deriv > HIGHEST_DERIVATIVE:
        raise NotImplementedError("third derivatives of functionals of ase_nnxc are not available in PySCF")


def _evaluate(functional: "Functional", rho: np.ndarray, order: int = 1) -> tuple[np.ndarray, ...]:
    """Energy per electron (n,), Hartree, and its derivatives up to an order.

    Those with respect to `rho` (rows, n) are (rows, n) and (rows, rows, n), with spin (2, rows, n) and
    (2, rows, 2, rows, n).
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.tensor(rho, dtype=torch.float64, device=device_of(functional), requires_grad=True)
        channels = 0.5 * leaf[None] if rho.ndim == 2 else leaf
        energy = functional(_features(channels, functional.features))
        values = [energy / spin_sum(channels[:, 0]).clamp(min=torch.finfo(leaf.dtype).tiny)]
        if order > 0:
            values.append(_gradient(energy, leaf, create_graph=order > 1))
        if order > 1:
            rows = [_gradient(row, leaf) for row in values[1].reshape(-1, rho.shape[-1])]
            values.append(torch.stack(rows).reshape(*rho.shape[:-1], *rho.shape))
    if not all(value.isfinite().all() for value in values):
        raise CalculationFailed(f"{type(functional).__name__} returns values that are not finite")
    return tuple(value.detach().cpu().numpy() for value in values)


def _gradient(values: Tensor, leaf: Tensor, create_graph: bool = False) -> Tensor:
    """Derivatives of values (n,) with respect to (..., n), point by point; zero where they do not depend on it."""
    if not values.requires_grad:
        return torch.zeros_like(leaf)
    (derivative,) = torch.autograd.grad(values.sum(), leaf, create_graph=create_graph, retain_graph=True)
    return derivative


def device_of(functional: "Functional") -> torch.device:
    """Return the device of the tensors of a functional."""
    return next((tensor.device for tensor in functional.state_dict().values()), torch.device("cpu"))


def _features(channels: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Features from PySCF's densities (nspin, rows, n): n, the components of its gradient, tau."""
    return {name: channels[:, _ROWS[name]] for name in names}
