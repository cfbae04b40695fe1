"""NNXCCalculator: the ASE calculator. Parameters in, results out; units change here (eV, Angstrom outside)."""

import copy
import dataclasses
import difflib
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    CalculatorError,
    InputError,
    Parameters,
    PropertyNotImplementedError,
    ReadError,
    SCFError,
    all_changes,
    equal,
    kpts2sizeandoffsets,
)
from ase.data import ground_state_magnetic_moments
from ase.dft.kpoints import BandPath, monkhorst_pack
from ase.lattice import celldiff
from ase.neighborlist import neighbor_list
from ase.spectrum.band_structure import BandStructure
from ase.stress import full_3x3_to_voigt_6_stress

from . import __version__
from .electrons import LEVELS, ElectronicStructure, FixedDensity
from .pseudopotentials import find_pseudos, recommended_cutoff, spelled, table_digest
from .registry import Resolved, named_family, pseudo_family, resolve
from .report import Log
from .restart import read_restart, write_restart
from .units import BOHR, GPA, HARTREE

if TYPE_CHECKING:
    import torch

    from .differentiable import Differentiable
    from .ks.basis import Basis
    from .ks.crystal import Crystal
    from .ks.ground_state import GroundState
    from .ks.occupations import Smearing
    from .ks.scf import Step
    from .ks.symmetry import Symmetry
    from .pseudopotentials import Pseudopotential
    from .xc.functional import Functional

SMEARINGS = ("fermi-dirac", "gaussian", "marzari-vanderbilt", "methfessel-paxton")
_LOCAL = {"txt", "device"}  # parameters that say nothing of the numbers, and are not written
CLOSEST = 0.4  # Angstrom; atoms nearer than this are a mistake in the input
SIMILAR = 0.25  # a mesh found from a density is kept while lengths and angles of the cell change by less than this
PULAY = 0.5  # GPa; a larger error of the stress from the finite cutoff draws a warning when a cell is relaxed
_NOTHING_YET = "nothing was calculated yet with these parameters: ask the atoms for their energy first"
MAGNETIC = frozenset({"Cr", "Mn", "Fe", "Co", "Ni"})


class NNXCCalculator(Calculator, ElectronicStructure):
    """Kohn-Sham density functional theory in plane waves, in torch, with functionals called by name.

    Parameters
    ----------
    xc : str, PathLike or Functional
        Exchange-correlation functional; default "PBE". A name in any case: conventional ("LDA", "PBE", "PBEsol",
        "RPBE", "revPBE", "SCAN", "r2SCAN", "LDA-PZ", "LDA-VWN"), a model's ("pbe-clone", or "pbe-clone@1" for one
        version; those there are by `nnxc models list`), or libxc's or PySCF's ("BLYP"); several joined by "+", with
        coefficients or as exchange and correlation ("0.25*PBE+0.75*PBEsol", "gga_x_b88+gga_c_lyp"); the path of a
        checkpoint, with a path separator in it; or an object, also one that is being trained.
    ecut : float, optional
        Cutoff of the plane waves, eV. Default: the highest of the cutoffs recommended for the tables, or by the files,
        involved.
    kpts : tuple, array or dict
        Any of ASE's forms: (8, 8, 8) is ASE's Monkhorst-Pack mesh (even sizes miss Gamma),
        {"size": (8, 8, 8), "gamma": True} one with Gamma, {"density": 4.0, "gamma": True} (the default) points per
        Angstrom^-1, an array (nk, 3) of scaled coordinates a whole zone of equal weights. What a density means is found
        at the first geometry and kept while lengths and angles of the cell stay within 25 % of it; beyond, it is found
        anew, and the log says so.
    smearing : dict
        {"name": ..., "width": eV}; fermi-dirac, gaussian, marzari-vanderbilt (the default, 0.2 eV) or
        methfessel-paxton. GPAW's name for this keyword, occupations, is accepted.
    pseudos : str, PathLike or dict, optional
        Family ("gth-pbe"), table ("gth-pbe-q19"), path of a UPF or psp8 file or of a folder of them, or a dict of these
        by element. Default: gth-pade for LDA, what its card
        says for a model, gth-pbe for all others, BLYP and SCAN included; with the shipped valences.
    spinpol : bool, optional
        Default: spin-polarised if the atoms have initial magnetic moments.
    charge : float
        Of the cell, elementary charges (+1: one electron is missing); in a crystal a uniform background neutralises it.
        Initial charges of the atoms are not looked at.
    fixed_magmom : bool or float
        Hold the total magnetic moment, each spin with a Fermi level of its own: at the sum of the initial moments
        (True), or at this number of Bohr magnetons. Default: False.
    hund : bool
        Start a single atom with the moment of its ground state (`ase.data.ground_state_magnetic_moments`) in place of
        its initial moment, and hold it.
    nbands : int, optional
        Bands per k-point; default: enough for the smearing.
    gpts : tuple of int, optional
        FFT box; default: the smallest that holds the density and suits the symmetry. Fix it over
        a scan, as `nnxc eos` does, with that of the largest cell from `resolve`.
    symmetry : bool
        On by default. Use the crystal's symmetry and time reversal; the numbers are the same without.
    smooth_cutoff : bool
        Let the kinetic energy rise to infinity at the cutoff, so that the energy at constant cutoff is a smooth
        function of the cell (see `ase_nnxc.ks.terms.kinetic`). For scans and relaxations of the cell; off by default,
        so that single energies compare with other codes.
    convergence : dict
        {"energy": eV per valence electron}: estimated error of the energy at which the SCF stops; default 1e-8.
    maxiter : int
        Most SCF steps; default 100.
    device : str
        "auto" (the default: cuda if there), "cpu", "cuda", "cuda:1" ...
    txt : None, "-", path or open file
        Log: none, standard output, or a file, to which it is appended.
    restart : str or PathLike, optional
        Restart file of `write`, whose parameters, atoms, results and ground state are taken up. Besides it only `txt`,
        `device`, `label`, `directory`, `atoms` and a functional object that the file was written with can be given.
    label : str, optional
        Of the log, unless `txt` is given: "label.txt". May begin with the directory.
    directory : str or PathLike
        Where a relative `txt` lies.
    atoms : Atoms, optional
        Gets this calculator attached, and positions and cell of the restart file.

    Notes
    -----
    The `pbc` of the atoms are taken as they are: periodic in three directions, in two (a layer), or in none (a
    molecule). Along the others the Coulomb interaction is truncated, so that there are no images, levels count from the
    vacuum, and the cell is the calculator's own: as long as the interaction needs, or as the given one along this
    direction, of a molecule along x, y, z, if that is longer. The stress of a layer has components in its plane alone,
    per volume of the given cell. `dipole`, of molecules only, is about the origin of the coordinates.

    `energy` is extrapolated to zero width of the smearing, `free_energy` is the Mermin free energy of which forces and
    stress are derivatives. The forces hold the net force of the FFT box, which other programs subtract, except along
    directions that are not periodic, where atoms that move together change nothing. The stress is that of a fixed set
    of plane waves. `magmoms` shares the magnetisation among atoms in proportion to their start densities (Hirshfeld's
    scheme).

    Raises
    ------
    InputError
        For anything in parameters or atoms that makes no sense.
    SCFError
        If no self-consistency is reached.
    """

    name = "nnxc"
    accepts_bandpath_keyword = True  # says to ASE's calculate_band_structure that `set` takes a bandpath
    implemented_properties = [  # noqa: RUF012
        *("energy", "free_energy", "forces", "stress", "dipole", "magmom", "magmoms", "fermi_level"),
        *LEVELS,
    ]
    default_parameters: dict[str, Any] = {  # noqa: RUF012
        "xc": "PBE",
        "ecut": None,
        "kpts": {"density": 4.0, "gamma": True},
        "smearing": {"name": "marzari-vanderbilt", "width": 0.2},
        "pseudos": None,
        "spinpol": None,
        "charge": 0.0,
        "fixed_magmom": False,
        "hund": False,
        "nbands": None,
        "gpts": None,
        "symmetry": True,
        "smooth_cutoff": False,
        "convergence": {"energy": 1e-8},
        "maxiter": 100,
        "device": "auto",
        "txt": None,
    }

    def __init__(
        self,
        xc: "str | os.PathLike[str] | Functional | None" = None,
        *,
        ecut: float | None = None,
        kpts: Any = None,
        smearing: Mapping[str, Any] | None = None,
        pseudos: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
        spinpol: bool | None = None,
        charge: float | None = None,
        fixed_magmom: bool | float | None = None,
        hund: bool | None = None,
        nbands: int | None = None,
        gpts: Sequence[int] | None = None,
        symmetry: bool | None = None,
        smooth_cutoff: bool | None = None,
        convergence: Mapping[str, float] | None = None,
        maxiter: int | None = None,
        device: str | None = None,
        txt: "str | os.PathLike[str] | IO[str] | None" = None,
        restart: "str | os.PathLike[str] | None" = None,
        label: str | None = None,
        directory: "str | os.PathLike[str]" = ".",
        atoms: Atoms | None = None,
        **other: Any,
    ):
        self.reset()
        self._found: dict[str, Pseudopotential] = {}  # tables by element
        self._log = Log(None)
        self._xc = resolve(self.default_parameters["xc"] if xc is None else xc)
        super().__init__(label=label, directory=directory)
        if xc is not None:
            self.parameters["xc"] = xc
        if txt is None and self.prefix is not None:
            txt = f"{self.prefix}.txt"
        given = {
            "ecut": ecut,
            "kpts": kpts,
            "smearing": smearing,
            "pseudos": pseudos,
            "spinpol": spinpol,
            "charge": charge,
            "fixed_magmom": fixed_magmom,
            "hund": hund,
            "nbands": nbands,
            "gpts": gpts,
            "symmetry": symmetry,
            "smooth_cutoff": smooth_cutoff,
            "convergence": convergence,
            "maxiter": maxiter,
            "device": device,
            "txt": txt,
        }
        given = {name: value for name, value in given.items() if value is not None} | other
        if restart is not None:
            settled = (given | ({"xc": xc} if isinstance(xc, str | os.PathLike) else {})).keys() - _LOCAL
            if settled:
                raise InputError(f"restart brings its own {', '.join(sorted(settled))}: change it by `set` afterwards")
        self.set(**given)
        if restart is not None:
            self.read(restart)
            if xc is not None and self.parameters["xc"] is not xc:
                raise ReadError(f"{restart} was written with {self._xc.describe()} by its name, not with an object")
        if atoms is not None:
            self._attach_to(atoms)

    def _attach_to(self, atoms: Atoms) -> None:
        """Be the calculator of these atoms, which get positions and cell of the restart file if one was read."""
        if self.atoms is not None:
            if not (np.array_equal(atoms.numbers, self.atoms.numbers) and np.array_equal(atoms.pbc, self.atoms.pbc)):
                raise CalculatorError("the atoms are not those of the restart file: other elements or pbc")
            atoms.positions, atoms.cell = self.atoms.positions, self.atoms.cell
        atoms.calc = self

    def __getstate__(self) -> dict[str, Any]:
        """Without the ground state, which a copy finds anew when it has to, and without an open log."""
        state = self.__dict__ | {"_state": None, "_bands": None}
        if hasattr(self.parameters["txt"], "write"):
            state |= {"parameters": Parameters(self.parameters | {"txt": None}), "_log": Log(None)}
        return state

    def reset(self) -> None:
        """Forget everything but the parameters: results, ground state and mesh."""
        super().reset()
        self._state: GroundState | None = None
        self._bands = None
        self._history: list[Step] = []
        self._solved: tuple[bytes, ...] | None = None  # the geometry and functional whose ground state is held
        self._mesh: _Mesh | None = None
        self._bandpath: Any = None
        self._resolved: dict[str, Any] | None = None  # parameters of the last geometry, all explicit
        self._stressed: Atoms | None = None  # the last geometry whose stress was asked for
        self._watched = False

    @property
    def history(self) -> "list[Step]":
        """The steps of the last SCF, converged or not (`ase_nnxc.ks.scf.Step`, Hartree); empty before the first."""
        return list(self._history)

    # -- parameters ------------------------------------------------------------------------------------------------

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters; results are discarded, the last ground state stays as a start for the next.

        A `bandpath`, where `band_structure` then goes, changes no result. The `versions` of `todict` are no parameter,
        but are compared.

        Raises
        ------
        InputError
            For an unknown name (the closest one is named), a value that makes no sense, or a functional that is not the
            one of `versions`.
        """
        versions = kwargs.pop("versions", {})
        if "bandpath" in kwargs:
            self._bandpath = kwargs.pop("bandpath")
        if "occupations" in kwargs:
            if "smearing" in kwargs:
                raise InputError("occupations is another name for smearing: give one of them")
            kwargs["smearing"] = kwargs.pop("occupations")
        for name in kwargs:
            if name not in self.default_parameters:
                hint = _closest(name, self.default_parameters)
                raise InputError(f"unknown keyword {name!r}{hint} (keywords: {', '.join(self.default_parameters)})")
            kwargs[name] = _plain(spelled(kwargs[name]) if name == "pseudos" else kwargs[name])
            if name in _CHECKS:
                _CHECKS[name](kwargs[name])
        found = self._xc
        if "xc" in kwargs and kwargs["xc"] != self.parameters["xc"]:
            found = resolve(kwargs["xc"])
        _check_versions(versions, found)
        self._xc = found
        changed = super().set(**kwargs)
        if "txt" in changed:
            self._log = Log(_in_directory(changed["txt"], self.directory))
        if changed.keys() - {"txt"}:
            self.atoms, self.results, self._solved, self._resolved = None, {}, None, None
        if changed.keys() & {"xc", "pseudos"}:
            self._found = {}
        if changed.keys() & {"xc", "pseudos", "kpts", "gpts", "ecut"}:
            self._mesh = None
        return changed

    def resolve(self, atoms: Atoms) -> dict[str, Any]:
        """The parameters with everything chosen for this geometry made explicit: ecut, mesh, FFT box, tables.

        A calculator built from them gives the same numbers.
        """
        import torch

        with torch.inference_mode(False):
            return self._explicit(self._plan(atoms))

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """The parameters, made explicit as by `resolve` once a geometry was calculated: plain data for files.

        `NNXCCalculator(**parameters)` is such a calculator again. `versions` hold that of this package and what the
        functional is: its name, version and hash.
        """
        parameters = self._resolved or {k: v for k, v in self.parameters.items() if k not in _LOCAL}
        return parameters | {
            "xc": self._xc.xc if isinstance(self._xc.xc, str) else self._xc.describe(),
            "versions": {"ase_nnxc": __version__, "functional": self._xc.describe()},
        }

    def _explicit(self, plan: "_Plan") -> dict[str, Any]:
        return {k: v for k, v in self.parameters.items() if k not in _LOCAL} | {
            "xc": self._xc.xc,
            "ecut": plan.ecut * HARTREE,
            "kpts": plan.mesh.kpts,
            "gpts": plan.box,
            "pseudos": {symbol: table.name for symbol, table in plan.tables.items()},
        }

    def _plan(self, atoms: Atoms, lattice: "torch.Tensor | None" = None) -> "_Plan":
        """What is to be calculated for a geometry, everything automatic chosen; the calculator stays as it is.

        The lengths of a `lattice` (3, 3), bohr, by default that of the state that is held, are kept along directions
        that are not periodic if they suit.
        """
        from .ks.symmetry import find_symmetry, identity

        _check_atoms(atoms)
        if self.parameters["charge"] and atoms.pbc.sum() == 2:
            raise InputError(f"charge={self.parameters['charge']}: a layer cannot be charged, its energy is infinite")
        tables = self._tables(atoms)
        crystal = self._crystal(atoms, tables, lattice)
        symmetry = identity(len(atoms))
        if self.parameters["symmetry"]:
            kinds = [list(crystal.species).index(p) for p in crystal.potentials]
            symmetry = find_symmetry(crystal.lattice, crystal.positions, kinds, crystal.magmoms, pbc=crystal.pbc)
        ecut, source = self.parameters["ecut"], "given"
        if ecut is None:
            ecut, source = max(recommended_cutoff(table) for table in tables.values())
        else:
            ecut /= HARTREE
        mesh, boxed = self._mesh, atoms.copy()
        boxed.cell = crystal.lattice.numpy() * BOHR
        if mesh is None or not mesh.suits(boxed):
            mesh = _Mesh(*_kpoints(self.parameters["kpts"], boxed), boxed)
        return _Plan(tables, crystal, symmetry, ecut, source, mesh, self._box(crystal, symmetry, ecut))

    def _tables(self, atoms: Atoms) -> "dict[str, Pseudopotential]":
        symbols = dict.fromkeys(atoms.get_chemical_symbols())
        if not symbols.keys() <= self._found.keys():
            functional = self._xc.functional
            self._found = find_pseudos(
                list(symbols),
                pseudo_family(functional),
                self.parameters["pseudos"],
                matching_family=named_family(functional),
                xc=self._xc.describe(),
            )
            cored = [table.name for table in self._found.values() if table.core is not None]
            if cored and "tau" in functional.features:
                warnings.warn(
                    f"{', '.join(cored)}: core corrections add to the density, not to the kinetic energy density that "
                    f"{self._xc.describe()} reads with it; tables without them suit it better",
                    stacklevel=2,
                )
        return {symbol: self._found[symbol] for symbol in symbols}

    def _crystal(
        self, atoms: Atoms, tables: "Mapping[str, Pseudopotential]", before: "torch.Tensor | None" = None
    ) -> "Crystal":
        import torch

        from .ks.atom import pseudo_atom
        from .ks.crystal import Crystal, open_cell

        def tensor(values: Any) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float64, device="cpu")

        potentials = tuple(tables[s] for s in atoms.get_chemical_symbols())
        moments = self._moments(atoms, potentials)
        x, y, z = atoms.pbc.tolist()
        lattice = tensor(atoms.cell.array / BOHR)
        if x and y and z:
            positions = tensor(atoms.get_scaled_positions(wrap=False))
        else:
            radii = tensor([pseudo_atom(table).radius for table in potentials])
            held = self._state.crystal if self._state is not None else None
            if before is None and held is not None and held.potentials == potentials and held.pbc == (x, y, z):
                before = held.lattice
            lengths = None if before is None else before.cpu().norm(dim=1)
            lattice, positions = open_cell(lattice, tensor(atoms.positions / BOHR), radii, (x, y, z), lengths)
        return Crystal(
            lattice,
            positions,
            potentials,
            None if moments is None else tensor(moments),
            charge=self.parameters["charge"],
            fixed_moment=self._fixed_moment(moments, sum(p.valence for p in potentials)),
            pbc=(x, y, z),
        )

    def _moments(self, atoms: Atoms, potentials: "Sequence[Pseudopotential]") -> np.ndarray | None:
        """Initial moments if the calculation is spin-polarised."""
        moments = atoms.get_initial_magnetic_moments()
        if moments.ndim != 1 or not np.isfinite(moments).all():
            raise InputError("initial magnetic moments must be collinear, one finite number for each atom")
        spinpol = self.parameters["spinpol"]
        if self.parameters["hund"]:
            moments = _hund(atoms, self.parameters["charge"])
        if spinpol is False and moments.any():
            raise InputError("spinpol=False, but the atoms have initial magnetic moments")
        for atom, (m, p) in enumerate(zip(moments, potentials)):
            if abs(m) > p.valence:
                raise InputError(f"atom {atom} has {p.valence} valence electrons, its moment cannot be {m}")
        return moments if spinpol or moments.any() else None

    def _fixed_moment(self, moments: np.ndarray | None, valence: int) -> float | None:
        """The total moment to hold, if any, of atoms with these initial moments and valence electrons."""
        fixed, nelectrons = self.parameters["fixed_magmom"], valence - self.parameters["charge"]
        if nelectrons <= 0:
            raise InputError(f"charge={self.parameters['charge']}: there are but {valence} valence electrons")
        if moments is None:
            if fixed is False or fixed == 0:
                return None
            raise InputError(f"fixed_magmom={fixed} needs spin: give initial magnetic moments, or spinpol=True")
        if fixed is False and not self.parameters["hund"]:
            return None
        moment = float(moments.sum()) if isinstance(fixed, bool) else float(fixed)
        if abs(moment) > nelectrons:
            raise InputError(f"{nelectrons:g} valence electrons cannot have a moment of {moment:g}")
        return moment

    def _box(self, crystal: "Crystal", symmetry: "Symmetry", ecut: float) -> tuple[int, int, int]:
        """FFT box: the one asked for, else the smallest for this geometry, whatever was calculated before."""
        from .ks.basis import box_holds_sphere, fft_box

        if self.parameters["gpts"] is not None:
            n1, n2, n3 = self.parameters["gpts"]
            if not box_holds_sphere((n1, n2, n3), crystal.lattice, ecut):
                needed = fft_box(crystal.lattice, ecut)
                raise InputError(f"gpts={(n1, n2, n3)} cannot hold the density: at least {needed} are needed")
            return n1, n2, n3
        return fft_box(crystal.lattice, ecut, symmetry.box_multiples())

    # -- calculation -----------------------------------------------------------------------------------------------

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute: one SCF for each geometry, forces and stress when first asked for."""
        self._update(atoms, properties, system_changes)

    def _update(
        self,
        atoms: Atoms | None,
        properties: Sequence[str],
        system_changes: Sequence[str] = all_changes,
        general: bool = False,
    ) -> "GroundState":
        """Compute, and return the ground state; a `general` one does not use the symmetry of the crystal."""
        import torch

        if atoms is not None and super().check_state(atoms):
            self.results = {}  # before these atoms are the calculator's: nothing may fail in between
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise InputError(_NOTHING_YET)
        if "stress" in properties:
            _check_stress(self.atoms)
        if "dipole" in properties and self.atoms.pbc.any():
            raise PropertyNotImplementedError("a dipole moment has no meaning where a direction is periodic")
        with torch.inference_mode(False), torch.no_grad():
            state = self._ground_state(self.atoms, general)
            # each set of results is whole, or not there
            if not self.results:
                self.results.update(self._energies(self.atoms, state))
            if {"forces", "stress"} & set(properties) and "forces" not in self.results:
                self.results.update(self._derivatives(self.atoms, state))
            if set(LEVELS) & set(properties) and "eigenvalues" not in self.results:
                self.results.update(self._levels(state))
            if "stress" in properties:
                self._watch_pulay_stress(self.atoms, state)
        return state

    def energy_tensor(self, atoms: Atoms | None = None) -> "torch.Tensor":
        """Free energy, eV, as a tensor () whose gradient by the parameters of the functional is exact.

        F is stationary in the density, so that its first derivatives need no response of it; the second derivatives of
        this tensor are not those of F.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        """
        return self.differentiable(atoms).free_energy

    def differentiable(
        self,
        atoms: Atoms | None = None,
        *,
        positions: "torch.Tensor | None" = None,
        strain: "torch.Tensor | None" = None,
    ) -> "Differentiable":
        """The ground state as tensors that carry gradients through the SCF, for losses of any kind.

        Gradients go to the parameters of a functional object, and to positions and strain where these are given and
        require them; for the latter two the ground state is found without symmetry.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        positions : Tensor, optional
            (natoms, 3) float64, Angstrom: take the atoms there.
        strain : Tensor, optional
            (3, 3) float64: then strain cell and positions r -> r (1 + strain). Along directions that are not periodic
            it must be zero, and gets no gradients.

        Raises
        ------
        InputError
            If there are no atoms, a shape does not fit, a strain acts where nothing is periodic, or the functional's
            parameters lie on another device.
        """
        import torch

        from .differentiable import Differentiable
        from .ks.adjoint import differentiable

        atoms = atoms or self.atoms
        if atoms is None:
            raise InputError(_NOTHING_YET)
        displacements, moved, atoms = _moved(atoms, positions, strain)
        with torch.inference_mode(False):
            general = any(t is not None and t.requires_grad for t in (displacements, moved))
            state = self._update(atoms, ["free_energy"], general=general)
            if state.functional is not self._xc.functional and isinstance(self.parameters["xc"], torch.nn.Module):
                raise InputError(f"gradients need the functional on {state.crystal.device}, where is calculated")
            tolerance = 3 * math.sqrt(self.parameters["convergence"]["energy"] / HARTREE)
            displacements, moved = (None if t is None else t.to(state.crystal.device) for t in (displacements, moved))
            volume = atoms.get_volume() if has_stress(atoms) else None
            return Differentiable(differentiable(state, displacements, moved, tolerance), volume)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last calculation: what ASE compares, and the numbers in a functional object.

        Of an object its tensors, `config()` and `repr` are looked at; after a change of anything else call `reset`.
        """
        changes = list(super().check_state(atoms, tol))
        if self._solved is not None and self._solved[-1] != self._xc.fingerprint().encode():
            changes.append("xc")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As ASE's, with a look at the functional also where no atoms are given: those calculated last."""
        return super().get_property(name, self.atoms if atoms is None else atoms, allow_calculation)

    def _ground_state(self, atoms: Atoms, general: bool) -> "GroundState":
        """That of the atoms and the functional as they are now, solved for unless it is the one held."""
        geometry = (*_fingerprint(atoms), self._xc.fingerprint().encode())
        state = self._state
        if state is None or geometry != self._solved or (general and len(state.basis.symmetry) > 1):
            # whatever happens now, the old numbers are not these atoms'
            self._solved, self.results, self._bands = None, {}, None
            state = self._state = self._solve(atoms, general)
            self._solved = geometry
        return state

    def _solve(self, atoms: Atoms, general: bool) -> "GroundState":
        import torch

        from .ks.convergence import ConvergenceError, SCFSettings
        from .ks.occupations import TooFewBands
        from .ks.scf import scf
        from .ks.system import System
        from .ks.warm_start import can_start

        clock = time.perf_counter()
        p, plan, device = self.parameters, self._plan(atoms), torch_device(self.parameters["device"])
        if general:
            plan = plan.general()
        functional = _on_device(self._xc.functional, device)
        crystal, basis, smearing = self._stage(plan, device)
        _check_bands(p["nbands"], crystal.nelectrons, min(s.npw for s in basis.spheres))
        settings = SCFSettings(p["convergence"]["energy"] * crystal.nelectrons / HARTREE, p["maxiter"])
        start = self._state if self._state is not None and can_start(self._state.crystal, crystal) else None
        self._write_header(atoms, plan, basis, device)
        self._mesh, self._resolved = plan.mesh, self._explicit(plan)
        try:
            system = System(crystal, basis, functional)
            state = scf(system, smearing, p["nbands"], settings=settings, start=start, callback=self._log.step)
        except ConvergenceError as error:
            self._history = error.history
            self._log.write(f"  NOT CONVERGED: {error}")
            raise SCFError(
                f"{error} (convergence: {p['convergence']['energy']:g} eV per valence electron). Try more steps "
                "(maxiter), a larger width of the smearing, which `set` then lowers in steps, or other initial "
                "magnetic moments"
            ) from error
        except FloatingPointError as error:
            raise CalculationFailed(str(error)) from error
        except torch.linalg.LinAlgError as error:
            raise CalculationFailed(f"the SCF broke down: {error}") from error
        except TooFewBands as error:
            raise InputError(str(error)) from error
        self._history = state.history
        self._log.ground_state(state, time.perf_counter() - clock)
        return state

    def _stage(self, plan: "_Plan", device: "torch.device") -> "tuple[Crystal, Basis, Smearing]":
        """What a ground state is found in, or was."""
        from .ks.basis import make_basis
        from .ks.occupations import Smearing

        p, crystal = self.parameters, plan.crystal.to(device)
        basis = make_basis(crystal, plan.ecut, plan.mesh.points, plan.symmetry, plan.box, p["smooth_cutoff"])
        return crystal, basis, Smearing(p["smearing"]["name"], p["smearing"]["width"] / HARTREE)

    def _write_header(self, atoms: Atoms, plan: "_Plan", basis: "Basis", device: "torch.device") -> None:
        import torch

        tables = (f"{s} {t.name} (sha256 {table_digest(t)[:12]})" for s, t in plan.tables.items())
        kpts = plan.mesh.kpts if isinstance(plan.mesh.kpts, dict) else "as given"
        kept = len(basis.symmetry)
        dropped = len(plan.symmetry) - kept
        facts = {
            "atoms": atoms.get_chemical_formula(),
            "functional": self._xc.describe(),
            "tables": ", ".join(tables),
            "cutoff": f"{plan.ecut * HARTREE:.2f} eV ({plan.source}){', smooth' if basis.smooth_cutoff else ''}",
            "k-points": f"{kpts}, {len(basis.spheres)} of {len(plan.mesh.points)} irreducible",
            "FFT box": " x ".join(map(str, basis.grid.shape)),
            "symmetry": f"{kept} operations{f' ({dropped} dropped: they do not map mesh or box)' if dropped else ''}",
            "plane waves": f"{min(s.npw for s in basis.spheres)} to {max(s.npw for s in basis.spheres)}",
            "smearing": "{name}, {width} eV".format(**self.parameters["smearing"]),
            "spin": "paired" if plan.crystal.magmoms is None else "polarised",
            "device": f"{device}, {torch.get_num_threads()} threads",
        }
        if not atoms.pbc.all():
            lengths = np.linalg.norm(plan.crystal.lattice.numpy() * BOHR, axis=1)
            facts["not periodic"] = ", ".join(
                f"{name} = {length:.3f} Angstrom"
                for name, length, periodic in zip("abc", lengths, atoms.pbc)
                if not periodic
            )
        self._log.header(f"ase_nnxc {__version__}, torch {torch.__version__}", facts, self._notes(atoms, plan))

    def _notes(self, atoms: Atoms, plan: "_Plan") -> list[str]:
        """What a reader of the log should not miss."""
        notes = []
        if not atoms.get_initial_magnetic_moments().any() and MAGNETIC & set(atoms.get_chemical_symbols()):
            notes.append("Cr, Mn, Fe, Co or Ni without initial magnetic moments: no magnetism is looked for")
        old = self._mesh
        if old is not None and old is not plan.mesh and np.array_equal(old.atoms.numbers, atoms.numbers):
            notes.append("the cell has changed by more than 25 %: the k-points are chosen anew")
        return notes

    def _energies(self, atoms: Atoms, state: "GroundState") -> dict[str, Any]:
        """The results that every calculation has."""
        free, energy = state.free_energy * HARTREE, state.energy * HARTREE
        if not (math.isfinite(free) and math.isfinite(energy)):
            raise CalculationFailed("the energy is not a number")
        magmoms = state.atomic_moments().cpu().numpy()
        results = {
            "energy": energy,
            "free_energy": free,
            "magmom": state.total_moment,
            "magmoms": magmoms,
            "fermi_level": state.fermi_level * HARTREE,
        }
        if not any(state.crystal.pbc):
            centre = atoms.positions.mean(0)  # the origin of the crystal
            results["dipole"] = state.dipole_moment().cpu().numpy() * BOHR + state.crystal.charge * centre
        if state.crystal.nspin == 2:
            self._log.magnetisation(state.total_moment, magmoms)
        return results

    def _derivatives(self, atoms: Atoms, state: "GroundState") -> dict[str, np.ndarray]:
        """Forces and, where there is one, stress."""
        forces, stress = (x.cpu().numpy() for x in state.derivatives())
        forces, energies = forces * (HARTREE / BOHR), full_3x3_to_voigt_6_stress(stress) * HARTREE
        if not (np.isfinite(forces).all() and np.isfinite(energies).all()):
            raise CalculationFailed("forces or stress are not numbers")
        results = {"forces": forces}
        if has_stress(atoms):
            results["stress"] = energies * (float(state.crystal.volume) / atoms.get_volume())
        self._log.derivatives(forces, results.get("stress"))
        return results

    def _watch_pulay_stress(self, atoms: Atoms, state: "GroundState") -> None:
        """Warn, once, when a cell is being relaxed with a cutoff at which the stress is far from converged."""
        from .ks.pulay_stress import pulay_pressure

        before, self._stressed = self._stressed, atoms.copy()
        moved = (
            before is not None and np.array_equal(before.numbers, atoms.numbers) and (before.cell != atoms.cell).any()
        )
        if self._watched or not moved or state.basis.smooth_cutoff:
            return
        self._watched = True
        pressure = pulay_pressure(state) * HARTREE / BOHR**3 / GPA
        if abs(pressure) > PULAY:
            warnings.warn(
                f"the cutoff of {state.basis.ecut * HARTREE:.0f} eV is not converged: the stress is off by a Pulay "
                f"pressure of about {pressure:.1f} GPa, and a relaxed cell with it; use smooth_cutoff=True or a higher "
                "ecut",
                stacklevel=2,
            )

    # -- ground states to keep -------------------------------------------------------------------------------------

    @property
    def held_state(self) -> "GroundState | None":
        """The ground state that the next SCF starts from, of whatever functional and geometry; None before the first.

        It holds the functional object itself: if its numbers have changed since, so has what the state makes of it.
        """
        return self._state

    def ground_state(self, atoms: Atoms | None = None) -> "GroundState":
        """The ground state (`ase_nnxc.ks.ground_state`, Hartree atomic units), solved for unless it is held.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        """
        self.calculate(atoms or self.atoms, ["free_energy"])
        assert self._state is not None
        return self._state

    def get_bz_k_points(self) -> np.ndarray:
        """All k-points of the mesh (nk, 3), scaled: in units of the reciprocal lattice vectors."""
        self.ground_state()
        assert self._mesh is not None
        return self._mesh.points.numpy().copy()

    def fixed_density(self, kpts: Any = None, nbands: int | None = None) -> FixedDensity:
        """Bands at other k-points in the potential of the ground state, which is solved for unless it is held.

        Parameters
        ----------
        kpts : BandPath, str, dict or array, optional
            A path of ASE's (`atoms.cell.bandpath`), its points by name ("GXL"), {"path": "GXL", "npoints": 60}, or
            scaled coordinates (nk, 3). Default: the path that was set as `bandpath`, or ASE's for the lattice.
        nbands : int, optional
            Bands at each k-point; default: as many as the ground state has.

        Raises
        ------
        InputError
            If the path, the number of bands or, for a molecule, the question makes no sense.
        SCFError
            If bands do not converge.
        """
        import torch

        from .ks.bands import bands_at
        from .ks.convergence import ConvergenceError

        state, atoms = self.ground_state(), self.atoms
        assert atoms is not None
        _check_count("nbands", optional=True)(nbands)
        path = _band_path(self._bandpath if kpts is None else kpts, atoms)
        points = torch.as_tensor(path.kpts, dtype=torch.float64, device="cpu")
        try:
            with torch.inference_mode(False), torch.no_grad():
                return FixedDensity(atoms.copy(), bands_at(state, points, nbands), path)
        except ConvergenceError as error:
            raise SCFError(str(error)) from error
        except ValueError as error:
            raise InputError(f"nbands={nbands}: {error}") from error

    def band_structure(self, path: Any = None, nbands: int | None = None) -> BandStructure:
        """Band energies along a path, to plot or to write; arguments of `fixed_density`."""
        return self.fixed_density(path, nbands).band_structure()

    def write(self, path: "str | os.PathLike[str]") -> None:
        """Write a restart file: atoms, results, parameters, density and orbitals of the last calculation.

        `NNXCCalculator(restart=path)` is then the same calculator, and `get_atoms` of it gives the atoms. A functional
        object is not written, only its fingerprint: such a file is read with the object at hand,
        `NNXCCalculator(functional, restart=path)`.

        Parameters
        ----------
        path : str or PathLike
            Of the file, safetensors with JSON in its header; an old one is replaced.

        Raises
        ------
        InputError
            If nothing has been calculated.
        """
        if self.atoms is None:
            raise InputError("there is nothing to write: calculate something first")
        self.ground_state()  # a copy of a calculator holds none
        assert self._mesh is not None
        atoms = self.atoms.copy()
        atoms.info = {}  # may hold anything
        parameters = {k: v for k, v in self.parameters.items() if k not in _LOCAL}
        facts = {
            "parameters": parameters | {"xc": self._xc.xc if isinstance(self._xc.xc, str) else None},
            "functional": self._xc.describe(),
            "choices": self._choices(),
            "mesh": {"kpts": self._mesh.kpts, "cell": self._mesh.atoms.cell.array},
            "atoms": atoms,
            "results": self.results,
        }
        write_restart(path, self.pack_state(), facts)

    def read(self, label: "str | os.PathLike[str]") -> None:
        """Take up a restart file: atoms, results, parameters and ground state.

        Parameters
        ----------
        label : str or PathLike
            Path of what `write` wrote. `txt` and `device` stay as they are.

        Raises
        ------
        ReadError
            If there is none, or if it is damaged, or if functional, pseudopotentials or anything that this version
            chooses for its atoms are not what they were when it was written.
        """
        packed, facts = read_restart(label)
        try:
            self._take_up(packed, facts)
        except Exception as error:  # whatever a damaged file makes
            self.reset()
            kind = "" if isinstance(error, CalculatorError) else f"{type(error).__name__}: "
            raise ReadError(f"{label} cannot be taken up: {kind}{error}") from error

    def _take_up(self, packed: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Become the calculator that wrote this."""
        parameters, atoms = dict(facts["parameters"]), facts["atoms"]
        if parameters["xc"] is None:
            del parameters["xc"]
        self.set(**parameters)
        if self._xc.describe() != facts["functional"]:
            raise ReadError(f"its functional is {facts['functional']}, here is {self._xc.describe()}")
        chosen_for = atoms.copy()
        chosen_for.cell = facts["mesh"]["cell"]
        self._mesh = _Mesh(*_kpoints(facts["mesh"]["kpts"], chosen_for), chosen_for)
        self.unpack_state(atoms, packed)
        if self._solved != (*_fingerprint(atoms), self._xc.fingerprint().encode()):
            raise ReadError("its ground state is not that of its atoms and its functional")
        self.atoms, self.results = atoms, facts["results"]
        for name, now in self._choices().items():
            if not equal(now, facts["choices"].get(name)):
                raise ReadError(f"{name} was {facts['choices'].get(name)} when it was written and would now be {now}")

    def _choices(self) -> dict[str, Any]:
        """What is not among the parameters but follows from them and the atoms by what this version chooses."""
        assert self._resolved is not None
        assert self.atoms is not None
        tables = {symbol: table_digest(table) for symbol, table in self._tables(self.atoms).items()}
        return {name: self._resolved[name] for name in ("ecut", "kpts", "gpts", "pseudos")} | {"tables": tables}

    @classmethod
    def read_atoms(cls, restart: "str | os.PathLike[str]", **kwargs: Any) -> Atoms:
        """The atoms of a restart file, with the calculator attached."""
        return cls(restart=restart, **kwargs).get_atoms()

    def pack_state(self) -> dict[str, Any]:
        """The ground state that is held, as tensors and plain data for torch.save; see `unpack_state`.

        Left out is what follows from the atoms and the parameters.

        Raises
        ------
        InputError
            If none is held.
        """
        state = self._state
        if state is None:
            raise InputError("no ground state is held: calculate something first")
        data = {name: getattr(state, name) for name in _PACKED}
        facts = {
            "lattice": state.crystal.lattice,
            "general": len(state.basis.symmetry) == 1,
            "solved": [part.hex() for part in self._solved or ()],
        }
        return data | facts

    def unpack_state(self, atoms: Atoms, data: Mapping[str, Any]) -> None:
        """Hold the ground state of `pack_state`, of a calculator with these parameters for these atoms.

        If functional and geometry are those that it was solved with, no SCF is needed for them.

        Parameters
        ----------
        atoms : Atoms
            Whose ground state.
        data : mapping
            What `pack_state` gave.

        Raises
        ------
        InputError
            If it is not one of these atoms with these parameters.
        """
        import torch

        from .ks.ground_state import GroundState
        from .ks.system import System

        if data.keys() != {*_PACKED, "lattice", "general", "solved"}:
            names = ", ".join(_PACKED)
            raise InputError(f"a ground state has {names}, lattice, general and solved, not {', '.join(data)}")
        with torch.inference_mode(False):
            plan, device = self._plan(atoms, data["lattice"]), torch_device(self.parameters["device"])
            if data["general"]:
                plan = plan.general()
            functional = _on_device(self._xc.functional, device)
            packed = {name: _to_device(data[name], device) for name in _PACKED}
            crystal, basis, smearing = self._stage(plan, device)
            state = GroundState(System(crystal, basis, functional), smearing, **packed, history=[])
        if not _is_consistent(state):
            raise InputError("the ground state is not one of these atoms with these parameters")
        self.reset()
        self._state, self._mesh, self._resolved = state, plan.mesh, self._explicit(plan)
        self._solved = tuple(bytes.fromhex(part) for part in data["solved"]) or None


@dataclass(frozen=True)
class _Mesh:
    """K-points, chosen for one cell and kept for similar ones."""

    points: "torch.Tensor"  # (nk, 3) the whole mesh, fractional
    kpts: Any  # what to give as kpts to get it again
    atoms: Atoms  # chosen for these, in the cell that is calculated

    def suits(self, atoms: Atoms) -> bool:
        """Whether it is the same crystal with periods and angles of the cell within 25 %."""
        if not (np.array_equal(atoms.numbers, self.atoms.numbers) and np.array_equal(atoms.pbc, self.atoms.pbc)):
            return False
        change = np.abs(atoms.cell.cellpar() / self.atoms.cell.cellpar() - 1)
        change[:3][~atoms.pbc] = 0.0
        return bool((change < SIMILAR).all())


@dataclass(frozen=True)
class _Plan:
    """What is to be calculated for one geometry."""

    tables: "dict[str, Pseudopotential]"
    crystal: "Crystal"
    symmetry: "Symmetry"
    ecut: float  # Hartree
    source: str  # of the cutoff
    mesh: _Mesh
    box: tuple[int, int, int]

    def general(self) -> "_Plan":
        """The same without the symmetry of the crystal."""
        from .ks.symmetry import identity

        symmetry = identity(len(self.crystal.potentials), time_reversal=self.symmetry.time_reversal)
        return dataclasses.replace(self, symmetry=symmetry)


def _kpoints(kpts: Any, atoms: Atoms) -> "tuple[torch.Tensor, Any]":
    """All k-points (nk, 3), fractional, and what to give as kpts to get them again in any cell."""
    import torch

    if _are_counts(kpts):
        kpts = {"size": kpts}
    if isinstance(kpts, dict):
        size, offsets = kpts2sizeandoffsets(atoms=atoms, **kpts)
        points = monkhorst_pack(size) + offsets
        gamma = {} if kpts.get("gamma") is None else {"gamma": kpts["gamma"]}
        kpts = {"size": tuple(int(n) for n in size)} | gamma
    else:
        points = np.array(kpts)
    if points[:, ~atoms.pbc].any():
        raise InputError(
            f"kpts={kpts!r}: along directions that are not periodic (pbc={atoms.pbc.tolist()}) zero is the only k-point"
        )
    return torch.as_tensor(points, dtype=torch.float64, device="cpu"), kpts


def _band_path(path: Any, atoms: Atoms) -> BandPath:
    """A path in the Brillouin zone, of anything that `fixed_density` takes."""
    if not atoms.pbc.any():
        raise InputError("a molecule has no bands: its levels are those at Gamma")
    if isinstance(path, BandPath):
        if celldiff(path.cell, atoms.cell.uncomplete(atoms.pbc)) > 1e-6:  # as ASE's calculate_band_structure
            raise InputError("the path is one of another cell: make it of the cell of these atoms")
        return path
    try:
        if path is None or isinstance(path, str):
            return atoms.cell.bandpath(path, pbc=atoms.pbc)
        if isinstance(path, Mapping):
            return atoms.cell.bandpath(**{"pbc": atoms.pbc, **path})
    except (KeyError, TypeError, ValueError) as error:
        points = ", ".join(atoms.cell.bandpath(pbc=atoms.pbc, npoints=0).special_points)
        raise InputError(f"{path!r} is no path of this lattice: {error}; its points are {points}") from error
    if not _are_points(_plain(path)):
        raise InputError(f"kpts={path!r}: a path or scaled coordinates (nk, 3) are expected")
    return BandPath(atoms.cell, np.asarray(path, dtype=float))


def _fingerprint(atoms: Atoms) -> tuple[bytes, ...]:
    """What the numbers of a geometry depend on."""
    arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_initial_magnetic_moments())
    return tuple(np.ascontiguousarray(a).tobytes() for a in arrays)


def _moved(
    atoms: Atoms, positions: "torch.Tensor | None", strain: "torch.Tensor | None"
) -> "tuple[torch.Tensor | None, torch.Tensor | None, Atoms]":
    """Displacements (natoms, 3), bohr, and strain (3, 3), zero, as functions of the given ones, and the atoms there."""
    import torch

    atoms = atoms.copy()
    for name, tensor, shape in (("positions", positions, (len(atoms), 3)), ("strain", strain, (3, 3))):
        if tensor is not None and (tensor.shape != shape or tensor.dtype != torch.float64):
            raise InputError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, torch.float64 {shape} is expected")
    stretch = torch.eye(3, dtype=torch.float64, device="cpu")
    if strain is not None:
        stretch = stretch + strain.detach().cpu()
        if not _is_along_periods(strain.detach().cpu().numpy(), atoms):
            raise InputError("a strain must be zero along directions that are not periodic")
    if positions is not None:
        atoms.positions = positions.detach().cpu().numpy()
    atoms.set_cell(atoms.cell.array @ stretch.numpy())
    atoms.positions = atoms.positions @ stretch.numpy()
    # (r + dr) (S + dS) = (r S + dr S) (1 + S^-1 dS)
    displacements = moved = None
    if positions is not None:
        displacements = (positions - positions.detach()) @ stretch.to(positions.device) / BOHR
    if strain is not None:
        moved = torch.linalg.inv(stretch).to(strain.device) @ (strain - strain.detach())
    return displacements, moved, atoms


def _is_along_periods(strain: np.ndarray, atoms: Atoms) -> bool:
    """Whether a strain (3, 3) has components along the periods alone."""
    across = np.eye(3) - np.linalg.pinv(atoms.cell.array[atoms.pbc]) @ atoms.cell.array[atoms.pbc]
    return bool(np.abs(strain @ across).max() < 1e-10 and np.abs(across @ strain).max() < 1e-10)


def _on_device(functional: "Functional", device: "torch.device") -> "Functional":
    """The functional, or a copy of it on another device: a module that a user holds is not moved."""
    if all(t.device == device for t in (*functional.parameters(), *functional.buffers())):
        return functional
    return copy.deepcopy(functional).to(device)


def torch_device(name: Any) -> "torch.device":
    """The device of the keyword `device`, with its number: "auto" gives each process of `torchrun` a GPU of its own.

    Raises
    ------
    InputError
        If there is none of this name.
    """
    import torch

    if name == "auto":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % count) if count else torch.device("cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"unknown device {name!r}: auto, cpu, cuda or cuda:1 is expected") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={name!r}: auto, cpu or cuda is expected")
    if device.type == "cpu":
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name!r} was asked for, but torch finds {torch.cuda.device_count()} CUDA devices")
    return device if device.index is not None else torch.device("cuda", torch.cuda.current_device())


_PACKED = ("orbitals", "eigenvalues", "occupations", "fermi_levels", "fields", "terms", "secants")
"""What is written of a ground state."""


def _is_consistent(state: "GroundState") -> bool:
    """Whether the orbitals and fields of a state are of the size that its basis and its functional ask for."""
    waves = [psi.shape[-1] for psi in state.orbitals]
    fields = (state.total_energy().nfields, len(state.basis.grid.index))
    return waves == [block.sphere.npw for block in state.system.kpoints.blocks] and state.fields.shape == fields


def _to_device(value: Any, device: "torch.device") -> Any:
    """Tensors, in lists too, on a device; other things as they are."""
    if isinstance(value, list):
        return [_to_device(item, device) for item in value]
    return value.to(device) if hasattr(value, "to") else value


def _in_directory(txt: Any, directory: str) -> Any:
    return Path(directory) / txt if isinstance(txt, str | os.PathLike) and txt != "-" else txt


def _plain(value: Any) -> Any:
    """Copies of dicts and sequences, lists of arrays, Python numbers of numpy's: nobody changes these later."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return type(value)(_plain(item) for item in value) if type(value) in (list, tuple) else value


def has_stress(atoms: Atoms) -> bool:
    """Whether a stress has a meaning: the cell has a volume, and there are periods to strain."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def _check_stress(atoms: Atoms) -> None:
    if not atoms.pbc.any():
        raise PropertyNotImplementedError("a molecule has no stress: no direction is periodic")
    if not has_stress(atoms):
        raise PropertyNotImplementedError(
            "the stress is energy per volume of the cell: give the cell a third vector, of any length, out of the plane"
        )


# -- checks of the input ----------------------------------------------------------------------------------------------


def _check_atoms(atoms: Atoms) -> None:
    """InputError unless the atoms are a crystal that can be calculated."""
    if len(atoms) == 0:
        raise InputError("there are no atoms")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise InputError("a position or a cell vector is not a finite number")
    periods = atoms.cell.array[atoms.pbc]
    if len(periods) == 1:
        raise InputError(f"pbc={atoms.pbc.tolist()}: one direction alone cannot be periodic; three, two or none can")
    if math.sqrt(max(0.0, np.linalg.det(periods @ periods.T))) < 1e-3:
        what = "volume" if len(periods) == 3 else "area"
        raise InputError(f"the cell has no {what}: {len(periods)} independent cell vectors are needed")
    pairs = neighbor_list("ijd", atoms, CLOSEST)
    if len(pairs[0]):
        i, j, d = pairs[0][0], pairs[1][0], pairs[2][0]
        image = " (an image of itself)" if i == j else ""
        raise InputError(f"atoms {i} and {j}{image} are {d:.3f} Angstrom apart: they sit on top of each other")


def _hund(atoms: Atoms, charge: float) -> np.ndarray:
    """The moment (1,) of a neutral atom's ground state."""
    if len(atoms) != 1 or charge != 0:
        raise InputError("hund=True is for a single neutral atom; use fixed_magmom for others")
    return ground_state_magnetic_moments[atoms.numbers]


def _check_bands(nbands: int | None, nelectrons: float, npw: int) -> None:
    if nbands is not None and not nelectrons < 2 * nbands <= 2 * npw:
        least = int(nelectrons // 2) + 1
        raise InputError(
            f"nbands={nbands}: {nelectrons:g} electrons need {least} at least, {npw} plane waves make {npw} at most"
        )


def _check_versions(versions: Any, found: Resolved) -> None:
    if not isinstance(versions, Mapping):
        raise InputError(f"versions={versions!r}: what `todict` tells is expected")
    if versions.get("functional", found.describe()) != found.describe():
        raise InputError(f"the parameters were written with {versions['functional']}, here is {found.describe()}")


def _check_charge(charge: Any) -> None:
    if not _is_number(charge):
        raise InputError(f"charge={charge!r}: a number of elementary charges is expected, +1 for a cation")


def _check_fixed_magmom(fixed: Any) -> None:
    if not (isinstance(fixed, bool) or _is_number(fixed)):
        raise InputError(f"fixed_magmom={fixed!r}: True, False or a number of Bohr magnetons is expected")


def _check_ecut(ecut: Any) -> None:
    if ecut is not None and not (_is_number(ecut) and ecut >= 80):
        raise InputError(f"ecut={ecut!r}: ecut is in eV and at least 80; 20 Ha is 544")


def _check_smearing(smearing: Any) -> None:
    if not isinstance(smearing, dict) or set(smearing) != {"name", "width"}:
        raise InputError(f"smearing={smearing!r}: a dict with name and width (eV) is expected")
    name, width = smearing["name"], smearing["width"]
    if name not in SMEARINGS:
        raise InputError(f"unknown smearing {name!r}{_closest(name, SMEARINGS)} ({', '.join(SMEARINGS)})")
    if not (_is_number(width) and 1e-4 <= width <= 10):
        raise InputError(f"smearing width {width!r}: it is in eV, from 0.0001 to 10 (300 K is 0.026)")


def _check_kpts(kpts: Any) -> None:
    if not isinstance(kpts, dict):
        if not (_are_counts(kpts) or _are_points(kpts)):
            raise InputError(f"kpts={kpts!r}: three positive integers, a dict, or an array (nk, 3) is expected")
        return
    if set(kpts) - {"size", "density", "gamma", "even"} or ("size" in kpts) == ("density" in kpts):
        raise InputError(f"kpts={kpts!r}: size or density, gamma and even are its keys")
    if "density" in kpts and not (_is_number(kpts["density"]) and kpts["density"] > 0):
        raise InputError(f"kpts={kpts!r}: the density is in points per inverse Angstrom, positive")
    if "size" in kpts and not _are_counts(kpts["size"]):
        raise InputError(f"kpts={kpts!r}: the size is three positive integers")
    for key in ("gamma", "even"):
        _check_flag(f"{key} of kpts", optional=True)(kpts.get(key))


def _check_pseudos(pseudos: Any) -> None:
    find_pseudos((), "", pseudos)


def _check_gpts(gpts: Any) -> None:
    if gpts is not None and not _are_counts(gpts):
        raise InputError(f"gpts={gpts!r}: three positive integers are expected")


def _check_count(name: str, optional: bool) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not (optional and value is None) and not _is_count(value):
            raise InputError(f"{name}={value!r}: a positive integer is expected")

    return check


def _check_flag(name: str, optional: bool = False) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not (isinstance(value, bool) or (optional and value is None)):
            raise InputError(f"{name}={value!r}: True or False is expected")

    return check


def _check_convergence(convergence: Any) -> None:
    if not isinstance(convergence, dict) or set(convergence) != {"energy"}:
        raise InputError(f"convergence={convergence!r}: a dict with the key energy (eV per electron) is expected")
    if not (_is_number(convergence["energy"]) and 0 < convergence["energy"] < 1):
        raise InputError(f"convergence={convergence!r}: the energy is in eV per electron, positive and below 1")


def _check_device(device: Any) -> None:
    torch_device(device)


def _check_txt(txt: Any) -> None:
    if txt is not None and not isinstance(txt, str | os.PathLike) and not hasattr(txt, "write"):
        raise InputError(f"txt={txt!r}: None, '-', a path or an open file is expected")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_counts(value: Any) -> bool:
    """Three positive integers."""
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_count, value))


def _are_points(value: Any) -> bool:
    """One or more triples of numbers."""
    rows = value if isinstance(value, list | tuple) else ()
    return len(rows) > 0 and all(isinstance(r, list | tuple) and len(r) == 3 and all(map(_is_number, r)) for r in rows)


def _closest(name: object, known: Sequence[str] | Mapping[str, Any]) -> str:
    matches = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


_CHECKS: dict[str, Callable[[Any], None]] = {
    "ecut": _check_ecut,
    "kpts": _check_kpts,
    "smearing": _check_smearing,
    "pseudos": _check_pseudos,
    "spinpol": _check_flag("spinpol", optional=True),
    "charge": _check_charge,
    "fixed_magmom": _check_fixed_magmom,
    "hund": _check_flag("hund"),
    "nbands": _check_count("nbands", optional=True),
    "gpts": _check_gpts,
    "symmetry": _check_flag("symmetry"),
    "smooth_cutoff": _check_flag("smooth_cutoff"),
    "convergence": _check_convergence,
    "maxiter": _check_count("maxiter", optional=False),
    "device": _check_device,
    "txt": _check_txt,
}
