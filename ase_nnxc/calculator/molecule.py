"""PySCFCalculator: molecules in Gaussian basis sets, with all electrons, by PySCF behind ASE's contract."""

import math
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, InputError, PropertyNotImplementedError, all_changes
from torch import Tensor

from .. import __version__
from ..interop.pyscf import (
    build_molecule,
    check_all_electron,
    check_features,
    energy_tensor,
    prepare_molecule,
    solve_molecule,
)
from ..interop.pyscf_response import set_density
from ..registry import Resolved, resolve
from ..units import BOHR, HARTREE
from ..xc.functional import Functional
from .ensemble import energy_deviations, ensemble_energies, has_posterior, scatter_of
from .geometry import check_atoms
from .parameters import check_versions, closest, plain

if TYPE_CHECKING:
    from pyscf.dft.rks import KohnShamDFT

DEFAULTS: dict[str, Any] = {
    "xc": "PBE",
    "basis": "def2-svp",
    "pseudo": None,
    "charge": None,
    "grid_level": 3,
    "density_fit": False,
    "convergence": {"energy": 1e-8},
    "maxiter": 50,
}
NOTHING_YET = "nothing has been calculated yet with these parameters: ask the atoms for their energy first"
GRADIENT = 1e-5  # Hartree: norm of the orbital gradient at which an SCF stops


class PySCFCalculator(Calculator):
    """Molecules with any functional of this package in Gaussian basis sets, with all electrons: PySCF's SCF.

    Parameters
    ----------
    xc : str, PathLike or Functional
        Exchange-correlation functional of density, gradient and tau, as for `NNXCCalculator`; default "PBE".
    basis : str
        Name of a basis set in PySCF; default "def2-svp". One for valence electrons, as def2 sets are from Rb on, needs
        `pseudo`.
    pseudo : str, optional
        Name of pseudopotentials in PySCF ("gth-pbe", with a basis set that belongs to it, such as "gth-dzvp"; or those
        of a basis set, "def2-svp"). Default: all electrons are calculated.
    charge : int, optional
        Charge of the molecule, elementary charges; +1 is a cation. Default: the sum of the initial charges of the
        atoms.
    grid_level : int
        Size of PySCF's grid, from 0 to 9; default 3.
    density_fit : bool
        Approximate the Coulomb integrals with PySCF's auxiliary basis sets; faster for large molecules. Default: False.
    convergence : dict
        {"energy": eV}: change of the energy in the last step of the SCF; default 1e-8.
    maxiter : int
        Largest number of steps, and of second-order steps that follow if the SCF has not converged; default 50.
    atoms : Atoms, optional
        Atoms to attach this calculator to.

    Raises
    ------
    InputError
        If a parameter is unknown or not allowed, or if the atoms cannot be calculated.
    PropertyNotImplementedError
        If the atoms are periodic.
    SCFError
        If the SCF does not converge.

    Notes
    -----
    Atoms with initial magnetic moments are spin-polarised, with their sum as the number of unpaired electrons; if they
    have both signs the SCF starts from these moments (see `ase_nnxc.interop.pyscf.solve_molecule`). Forces are the
    derivatives of the energy with the grid, which moves with the atoms: they add up to zero.
    """

    name = "nnxc-pyscf"
    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012
    default_parameters = DEFAULTS
    ignored_changes = {"cell"}  # noqa: RUF012

    def __init__(self, xc: str | os.PathLike[str] | Functional = "PBE", *, atoms: Atoms | None = None, **keywords: Any):
        self._xc = _readable(resolve(xc))
        self._state: KohnShamDFT | None = None
        self._fingerprint = ""
        super().__init__()
        self.set(xc=xc, **keywords)
        if atoms is not None:
            atoms.calc = self

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters and discard the results; `versions`, as `todict` writes them, are compared.

        Returns
        -------
        dict
            The parameters that have changed.

        Raises
        ------
        InputError
            If a name is unknown, if a value is not allowed, or if the functional is not the one of `versions`.
        """
        versions = kwargs.pop("versions", None)
        kwargs = {name: _checked(name, value) for name, value in kwargs.items()}
        if "xc" in kwargs:
            self._xc = _readable(resolve(kwargs["xc"]))
        if versions is not None:
            check_versions(versions, self._xc.describe())
        changed = super().set(**kwargs)
        if changed:
            self.reset()
        return changed

    def reset(self) -> None:
        """Forget everything but the parameters."""
        super().reset()
        self._state, self._fingerprint = None, ""

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without PySCF's object, which a copy finds anew."""
        return self.__dict__ | {"_state": None}

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return the parameters as plain data for files, with the versions of this package and of the functional."""
        xc = self._xc.xc if isinstance(self._xc.xc, str) else self._xc.describe()
        versions = {"ase_nnxc": __version__, "functional": self._xc.describe()}
        return dict(self.parameters) | {"xc": xc, "versions": versions}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation, in the atoms and in a functional object."""
        changes = list(super().check_state(atoms, tol))
        changed = self._fingerprint and self._fingerprint != self._xc.fingerprint()
        return [*changes, "xc"] if changed else changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute properties: one SCF for each geometry, forces when they are first asked for."""
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise InputError(NOTHING_YET)
        if self._state is None or system_changes:
            self._state, self.results = None, {}
            self._state = self._solve(self.atoms)
            energy = float(self._state.e_tot) * HARTREE
            self.results = {"energy": energy, "free_energy": energy}
        if "forces" in properties:
            self.results["forces"] = -_gradients(self._state) * (HARTREE / BOHR)

    def mean_field(self, atoms: Atoms | None = None) -> "KohnShamDFT":
        """Return PySCF's converged object (Hartree atomic units), solved for unless it is held.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        """
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise InputError(NOTHING_YET)
        self.get_property("energy", atoms)
        assert self._state is not None
        return self._state

    def energy_tensor(self, atoms: Atoms | None = None) -> Tensor:
        """Return the energy, eV, as a tensor () with exact first derivatives by the parameters of the functional.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        """
        return energy_tensor(self.mean_field(atoms)) * HARTREE

    @property
    def has_ensemble(self) -> bool:
        """Whether the functional has probable errors, from which ensembles of energies are made."""
        return has_posterior(self._xc.functional)

    @property
    def error_scatter(self) -> Mapping[str, float]:
        """Standard deviations of errors of the functional that ensembles do not have, by objective of its fit.

        Those of lattice constants and bulk moduli are relative, those of reaction energies in eV. Empty if none are
        known.
        """
        return scatter_of(self._xc.functional)

    def get_energy_deviations(self, atoms: Atoms | None = None) -> np.ndarray:
        """Return the deviations of the energy (p,), eV; see `NNXCCalculator.get_energy_deviations`."""
        return energy_deviations(self.energy_tensor(atoms), self._xc.functional)

    def get_ensemble_energies(self, atoms: Atoms | None = None, size: int = 2000, seed: int = 0) -> np.ndarray:
        """Return energies (size,), eV, of an ensemble; see `NNXCCalculator.get_ensemble_energies`."""
        deviations = self.get_energy_deviations(atoms)
        return ensemble_energies(self.results["energy"], deviations, size, seed)

    def _solve(self, atoms: Atoms) -> "KohnShamDFT":
        """Return the converged state of the atoms."""
        self._fingerprint = self._xc.fingerprint()
        return solve(atoms, self._xc.functional, self.parameters)


def solve(
    atoms: Atoms, functional: Functional, parameters: Mapping[str, Any], start: np.ndarray | None = None
) -> "KohnShamDFT":
    """Return PySCF's converged object of a molecule with the parameters of a `PySCFCalculator`.

    Parameters
    ----------
    atoms : Atoms
        The molecule.
    functional : Functional
        A functional of density, gradient and tau.
    parameters : mapping
        Those of a `PySCFCalculator`; its xc is not used.
    start : array, optional
        Density matrices to start from, see `solve_molecule`.

    Raises
    ------
    As `PySCFCalculator`.
    """
    _check_molecule(atoms, parameters)
    solver = {
        "conv_tol": parameters["convergence"]["energy"] / HARTREE,
        "conv_tol_grad": GRADIENT,
        "max_cycle": parameters["maxiter"],
        "second_order": True,
    }
    with torch.inference_mode(False), _named_basis(parameters):
        return solve_molecule(atoms, functional, **_options(parameters), **solver, start=start)


def restore(atoms: Atoms, functional: Functional, parameters: Mapping[str, Any], matrices: np.ndarray) -> "KohnShamDFT":
    """Return an object with the energy, density and orbitals of the one that `solve` returned, without an SCF.

    Parameters
    ----------
    atoms, functional, parameters
        Those of `solve`.
    matrices : array
        (nao, nao) or, with spin, (2, nao, nao): the density matrices of the object.
    """
    with torch.inference_mode(False):
        mf = prepare_molecule(atoms, functional, **_options(parameters))
        set_density(mf, matrices)
    return mf


def _options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that define the equations of a molecule, but not how they are solved."""
    return {name: parameters[name] for name in ("basis", "pseudo", "charge", "grid_level", "density_fit")}


def checked_molecule(atoms: Atoms, parameters: Mapping[str, Any]) -> Any:
    """Return PySCF's molecule of atoms that can be calculated with these parameters of a `PySCFCalculator`.

    Raises
    ------
    InputError
        If the atoms, the basis set, the charge or the number of unpaired electrons are not valid.
    PropertyNotImplementedError
        If the atoms are periodic.
    """
    _check_molecule(atoms, parameters)
    with _named_basis(parameters):
        return build_molecule(atoms, parameters["basis"], parameters["pseudo"], parameters["charge"])


@contextmanager
def _named_basis(parameters: Mapping[str, Any]) -> Iterator[None]:
    """Raise an InputError with the closest names if PySCF does not have a basis set or a pseudopotential."""
    from pyscf.lib.exceptions import BasisNotFoundError

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Basis may be available")  # in another package
            yield
    except BasisNotFoundError as error:
        raise InputError(f"{' '.join(str(error).split())}{_closest_names(parameters)}") from error


def _check_molecule(atoms: Atoms, parameters: Mapping[str, Any]) -> None:
    """Raise an error if atoms are periodic or not valid, or if the basis needs pseudopotentials that are not given."""
    if atoms.pbc.any():
        raise PropertyNotImplementedError(
            f"the atoms have pbc={atoms.pbc.tolist()}, but PySCFCalculator is for molecules: set pbc to False, "
            "or use NNXCCalculator"
        )
    check_atoms(atoms)
    moments = atoms.get_initial_magnetic_moments()
    if moments.shape != (len(atoms),) or not np.isfinite(moments).all():
        raise InputError("initial magnetic moments must be collinear, one finite number for each atom")
    if parameters["pseudo"] is None:
        check_all_electron(parameters["basis"], sorted(set(atoms.get_chemical_symbols())))


def _readable(xc: Resolved) -> Resolved:
    """Return the functional if PySCF has the features that it reads."""
    try:
        check_features(xc.functional)
    except ValueError as error:
        raise InputError(f"xc: {error}") from error
    return xc


def _gradients(mf: "KohnShamDFT") -> np.ndarray:
    """Derivatives of the energy with respect to positions (natoms, 3), with those of the grid."""
    gradients = mf.nuc_grad_method()
    gradients.grid_response = True
    return np.asarray(gradients.kernel())


def _closest_names(parameters: Mapping[str, Any]) -> str:
    """The closest known names of a basis set and of pseudopotentials that PySCF does not have, for a message."""
    from pyscf.gto import basis

    known: dict[str, Collection[str]] = {"basis": {**basis.ALIAS, **basis.GTH_ALIAS}, "pseudo": basis.PP_ALIAS}
    names = {keyword: "".join(c for c in str(parameters[keyword]).lower() if c.isalnum()) for keyword in known}
    wrong = [keyword for keyword, name in names.items() if parameters[keyword] and name not in known[keyword]]
    return "".join(
        f" ({keyword}={parameters[keyword]!r}{closest(names[keyword], known[keyword])})" for keyword in wrong
    )


# ---- checks of parameters --------------------------------------------------------------------------------------------


def _checked(name: str, value: Any) -> Any:
    """Return the value of a parameter if it is allowed."""
    if name not in DEFAULTS:
        raise InputError(f"unknown keyword {name!r}{closest(name, DEFAULTS)} (keywords: {', '.join(DEFAULTS)})")
    value = plain(value)
    if name in _EXPECTED and not _EXPECTED[name][0](value):
        raise InputError(f"{name}={value!r}: expected {_EXPECTED[name][1]}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any, lowest: float, highest: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def _is_tolerance(value: Any) -> bool:
    energy = value.get("energy") if isinstance(value, dict) and set(value) == {"energy"} else None
    return isinstance(energy, int | float) and not isinstance(energy, bool) and 0 < energy < 1


# name -> whether a value is allowed, and which are
_EXPECTED: dict[str, tuple[Any, str]] = {
    "basis": (lambda value: isinstance(value, str) and value != "", "the name of a basis set in PySCF"),
    "pseudo": (lambda value: value is None or isinstance(value, str), "None or a name of pseudopotentials in PySCF"),
    "charge": (lambda value: value is None or _is_number(value), "None or a whole number of elementary charges"),
    "grid_level": (lambda value: _is_integer(value, 0, 9), "an integer from 0 to 9"),
    "density_fit": (lambda value: isinstance(value, bool), "True or False"),
    "convergence": (_is_tolerance, "a dict with the key energy, a positive number below 1, in eV"),
    "maxiter": (lambda value: _is_integer(value, 1, math.inf), "a positive integer"),
}
