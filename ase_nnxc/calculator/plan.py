"""The plan of a calculation: everything automatic chosen for one geometry, and ASE's units changed to atomic ones.

A plan is a function of the atoms, the parameters and the pseudopotentials; only the mesh and, along directions that are
not periodic, the lengths of the cell are kept from an earlier plan if they suit.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError
from ase.data import ground_state_magnetic_moments
from torch import Tensor

from ..ks.atom import pseudo_atom
from ..ks.basis import box_holds_sphere, fft_box, make_basis
from ..ks.crystal import Crystal, open_cell
from ..ks.occupations import Smearing
from ..ks.symmetry import Symmetry, find_symmetry, identity
from ..ks.system import System
from ..pseudopotentials import RADIAL_CUTOFF, Pseudopotential, find_pseudos, recommended_cutoff
from ..ranks import Ranks
from ..registry import Resolved, get_functional, named_family, pseudo_family
from ..units import BOHR, HARTREE
from ..xc.functional import Functional, grid_fineness
from .geometry import check_atoms, check_basis
from .memory import check_memory
from .mesh import Mesh, make_mesh
from .parameters import for_files


@dataclass(frozen=True)
class Plan:
    """What is to be calculated for one geometry.

    Attributes
    ----------
    tables : dict
        Element -> pseudopotential.
    crystal : Crystal
        The atoms in atomic units, on the CPU.
    symmetry : Symmetry
        The operations of the crystal, or the identity alone.
    ecut : float
        Cutoff, Hartree.
    ecut_source : str
        How the cutoff is known: "given", or the source of a `RecommendedCutoff`.
    smooth_cutoff : bool
        Whether the kinetic energy rises to infinity at the cutoff.
    mesh : Mesh
        The k-points.
    box : tuple of int
        Points of the FFT box on which the functional is evaluated.
    smearing : Smearing
        Occupation function and its width.
    """

    tables: dict[str, Pseudopotential]
    crystal: Crystal
    symmetry: Symmetry
    ecut: float
    ecut_source: str
    smooth_cutoff: bool
    mesh: Mesh
    box: tuple[int, int, int]
    smearing: Smearing

    def without_symmetry(self) -> "Plan":
        """Return the same plan without the symmetry of the crystal; time reversal stays."""
        symmetry = identity(len(self.crystal.potentials), time_reversal=self.symmetry.time_reversal)
        return replace(self, symmetry=symmetry)

    def system(self, functional: Functional, device: torch.device, ranks: Ranks | None = None) -> System:
        """Return the crystal and its plane waves on a device, with a functional that is there.

        The `ranks` share the k-points.

        Raises
        ------
        InputError
            If the memory of the device is not enough.
        """
        crystal = self.crystal.to(device)
        check_memory(crystal, self.ecut, self.box)
        basis = make_basis(crystal, self.ecut, self.mesh.points, self.symmetry, self.box, self.smooth_cutoff)
        return System(crystal, basis, functional, ranks=ranks or Ranks())

    def explicit(self, parameters: Mapping[str, Any], xc: Resolved) -> dict[str, Any]:
        """Return the parameters for files, with everything that was chosen made explicit."""
        return for_files(parameters) | {
            "xc": xc.xc,
            "ecut": self.ecut * HARTREE,
            "kpts": self.mesh.kpts,
            "gpts": self.box,
            "pseudos": {symbol: table.name for symbol, table in self.tables.items()},
        }


def make_plan(
    atoms: Atoms,
    parameters: Mapping[str, Any],
    tables: dict[str, Pseudopotential],
    functional: Functional,
    mesh: Mesh | None = None,
    lattice: Tensor | None = None,
) -> Plan:
    """Choose everything that is automatic for a geometry.

    Parameters
    ----------
    atoms : Atoms
        What is to be calculated.
    parameters : mapping
        Those of the calculator.
    tables : dict
        Element -> pseudopotential, of the elements of the atoms.
    functional : Functional
        Decides how fine the grid is.
    mesh : Mesh, optional
        An earlier mesh, which is kept if it suits.
    lattice : Tensor, optional
        (3, 3), bohr: an earlier cell, whose lengths along directions that are not periodic are kept if they suit.

    Raises
    ------
    InputError
        If the atoms cannot be calculated with these parameters.
    """
    check_atoms(atoms)
    check_basis(atoms)
    if parameters["charge"] and atoms.pbc.sum() == 2:
        raise InputError(f"charge={parameters['charge']}: a layer cannot be charged, its energy is infinite")
    crystal = _make_crystal(atoms, parameters, tables, lattice)
    ecut, source = _cutoff(parameters["ecut"], tables)
    fineness = grid_fineness(functional)
    check_memory(crystal, ecut, parameters["gpts"] or fft_box(crystal.lattice, ecut, fineness=fineness))
    symmetry, box = _symmetry_and_box(parameters, crystal, ecut, fineness)
    boxed = atoms.copy()
    boxed.cell = crystal.lattice.numpy() * BOHR
    if mesh is None or not mesh.suits(boxed):
        mesh = make_mesh(parameters["kpts"], boxed)
    return Plan(
        tables=tables,
        crystal=crystal,
        symmetry=symmetry,
        ecut=ecut,
        ecut_source=source,
        smooth_cutoff=parameters["smooth_cutoff"],
        mesh=mesh,
        box=box,
        smearing=Smearing(parameters["smearing"]["name"], parameters["smearing"]["width"] / HARTREE),
    )


# ---- pseudopotentials ------------------------------------------------------------------------------------------------


def find_tables(
    symbols: Sequence[str], xc: Resolved, pseudos: Any, radial_cutoff: float | None
) -> dict[str, Pseudopotential]:
    """Return the pseudopotential of each element for a functional; `radial_cutoff` is in Angstrom.

    Warns
    -----
    UserWarning
        If tables were made for another functional, or if a meta-GGA meets core corrections.
    """
    tables = find_pseudos(
        symbols,
        pseudo_family(xc.functional),
        pseudos,
        matching_family=named_family(xc.functional),
        xc=xc.describe(),
        functional=xc.functional,
        functional_named=get_functional,
        radial_cutoff=RADIAL_CUTOFF if radial_cutoff is None else radial_cutoff / BOHR,
    )
    with_core = [table.name for table in tables.values() if table.core is not None and table.core_tau is None]
    if with_core and "tau" in xc.functional.features:
        warnings.warn(
            f"{', '.join(with_core)}: core corrections add to the density, but not to the kinetic energy density, and "
            f"{xc.describe()} depends on both; tables without core correction, or pseudos='oncv', suit it better",
            stacklevel=2,
        )
    return tables


def digests(tables: Mapping[str, Pseudopotential]) -> dict[str, str]:
    """Return element -> sha256 of the numbers of its table."""
    return {symbol: table.digest for symbol, table in tables.items()}


def _cutoff(ecut: float | None, tables: Mapping[str, Pseudopotential]) -> tuple[float, str]:
    """Return the cutoff in Hartree, converted from eV or recommended for the tables, and how it is known."""
    if ecut is not None:
        return ecut / HARTREE, "given"
    return max(recommended_cutoff(table) for table in tables.values())


# ---- crystal ---------------------------------------------------------------------------------------------------------


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


def _make_crystal(
    atoms: Atoms, parameters: Mapping[str, Any], tables: Mapping[str, Pseudopotential], earlier: Tensor | None
) -> Crystal:
    """Return the atoms in atomic units, with moments and charge."""
    potentials = tuple(tables[symbol] for symbol in atoms.get_chemical_symbols())
    moments = _initial_moments(atoms, parameters, potentials)
    x, y, z = atoms.pbc.tolist()
    lattice = _tensor(atoms.cell.array / BOHR)
    if x and y and z:
        positions = _tensor(atoms.get_scaled_positions(wrap=False))
    else:
        radii = _tensor([pseudo_atom(table).radius for table in potentials])
        lengths = None if earlier is None else earlier.cpu().norm(dim=1)
        lattice, positions = open_cell(lattice, _tensor(atoms.positions / BOHR), radii, (x, y, z), lengths)
    return Crystal(
        lattice,
        positions,
        potentials,
        None if moments is None else _tensor(moments),
        charge=parameters["charge"],
        fixed_moment=_fixed_moment(moments, sum(p.valence for p in potentials), parameters),
        pbc=(x, y, z),
    )


def lattice_of_same_atoms(
    crystal: Crystal | None, atoms: Atoms, tables: Mapping[str, Pseudopotential]
) -> Tensor | None:
    """Return the lattice of an earlier crystal if it is one of the same potentials and pbc, else None."""
    potentials = tuple(tables[symbol] for symbol in atoms.get_chemical_symbols())
    if crystal is None or crystal.potentials != potentials or crystal.pbc != tuple(atoms.pbc.tolist()):
        return None
    return crystal.lattice


def _initial_moments(
    atoms: Atoms, parameters: Mapping[str, Any], potentials: Sequence[Pseudopotential]
) -> np.ndarray | None:
    """Return the initial moments (natoms,), or None if the calculation is spin-paired."""
    moments = atoms.get_initial_magnetic_moments()
    if moments.ndim != 1 or not np.isfinite(moments).all():
        raise InputError("initial magnetic moments must be collinear, one finite number for each atom")
    spinpol = parameters["spinpol"]
    if parameters["hund"]:
        if len(atoms) != 1 or parameters["charge"] != 0:
            raise InputError("hund=True is for a single neutral atom; use fixed_magmom for others")
        moments = ground_state_magnetic_moments[atoms.numbers]
    if spinpol is False and moments.any():
        raise InputError("spinpol=False, but the atoms have initial magnetic moments")
    for atom, (moment, potential) in enumerate(zip(moments, potentials)):
        if abs(moment) > potential.valence:
            raise InputError(f"atom {atom} has {potential.valence} valence electrons, its moment cannot be {moment}")
    return moments if spinpol or moments.any() else None


def _fixed_moment(moments: np.ndarray | None, valence: int, parameters: Mapping[str, Any]) -> float | None:
    """Return the total moment to hold, or None, for atoms with these initial moments and valence electrons."""
    fixed, charge = parameters["fixed_magmom"], parameters["charge"]
    nelectrons = valence - charge
    if nelectrons <= 0:
        raise InputError(f"charge={charge}: there are only {valence} valence electrons")
    if moments is None:
        if fixed is False or fixed == 0:
            return None
        raise InputError(f"fixed_magmom={fixed} needs spin: give initial magnetic moments, or spinpol=True")
    if fixed is False and not parameters["hund"]:
        return None
    moment = float(moments.sum()) if isinstance(fixed, bool) else float(fixed)
    if abs(moment) > nelectrons:
        raise InputError(f"{nelectrons:g} valence electrons cannot have a moment of {moment:g}")
    return moment


# ---- discretisation --------------------------------------------------------------------------------------------------


def _symmetry_and_box(
    parameters: Mapping[str, Any], crystal: Crystal, ecut: float, fineness: float
) -> tuple[Symmetry, tuple[int, int, int]]:
    """Return the operations that are used, and the box as given or the smallest of a fineness for this geometry.

    The box suits the symmetry of the crystal, whether that is used or not, so that both give the same energy.
    """
    kinds = [list(crystal.species).index(p) for p in crystal.potentials]
    trivial, gpts = identity(len(kinds)), parameters["gpts"]
    if gpts is not None and not parameters["symmetry"]:
        return trivial, _checked_box(gpts, crystal, ecut)
    symmetry = find_symmetry(crystal.lattice, crystal.positions, kinds, crystal.magmoms, pbc=crystal.pbc)
    if gpts is None:
        box = fft_box(crystal.lattice, ecut, symmetry.box_multiples(), fineness)
    else:
        box = _checked_box(gpts, crystal, ecut)
    return symmetry if parameters["symmetry"] else trivial, box


def _checked_box(gpts: Sequence[int], crystal: Crystal, ecut: float) -> tuple[int, int, int]:
    """Return the given FFT box; raise InputError unless it holds the density."""
    n1, n2, n3 = gpts
    if not box_holds_sphere((n1, n2, n3), crystal.lattice, ecut):
        needed = fft_box(crystal.lattice, ecut)
        raise InputError(f"gpts={(n1, n2, n3)} cannot hold the density: at least {needed} are needed")
    return n1, n2, n3


def check_ranks(system: System) -> None:
    """Raise InputError unless each rank gets k-points."""
    try:
        _ = system.kpoints
    except ValueError as error:
        raise InputError(str(error)) from error


def check_bands(nbands: int | None, system: System) -> None:
    """Raise InputError unless the plane waves hold the electrons, and the bands, if given, do, too."""
    nelectrons, npw = system.crystal.nelectrons, system.basis.fewest_waves
    if nelectrons > 2 * npw:
        raise InputError(
            f"the cutoff of {system.basis.ecut * HARTREE:.0f} eV is too low for this cell: a k-point has {npw} plane "
            f"waves for {nelectrons:g} electrons; increase ecut"
        )
    if nbands is not None and not nelectrons < 2 * nbands <= 2 * npw:
        least = int(nelectrons // 2) + 1
        raise InputError(
            f"nbands={nbands}: {nelectrons:g} electrons need {least} at least, and {npw} plane waves make {npw} at most"
        )
