"""NNXCCalculator: the calculator of ASE. Parameters and atoms go in, results come out, in eV and Angstrom."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculatorError, InputError, Parameters, ReadError, all_changes
from ase.spectrum.band_structure import BandStructure
from torch import Tensor

from .. import __version__
from ..ks.ground_state import GroundState
from ..pseudopotentials import Pseudopotential
from ..ranks import Ranks
from ..registry import resolve
from ..units import HARTREE
from ..xc.functional import Functional
from .ensemble import energy_deviations, ensemble_energies, has_posterior, scatter_of
from .fixed_density import FixedDensity
from .geometry import check_dipole, check_stress
from .gradients import Differentiable, moved_atoms
from .levels import LEVELS, ConvergedBands, ElectronicStructure
from .log import Log
from .mesh import band_path
from .parameters import DEFAULTS, LOCAL, check_nbands, check_versions, checked, energy_tolerance, for_files
from .plan import check_bands, digests
from .restart import RestartFiles, check_target
from .results import RelaxationWatch, charges, derivatives, energies

SUFFIX = ".nnxc"
"""Suffix of the restart file of a label."""

RESPONSE = 6e-5  # largest tolerance of the response that gradients need, see `ks.adjoint.differentiable`

NOTHING_YET = "nothing has been calculated yet with these parameters: ask the atoms for their energy first"


class NNXCCalculator(RestartFiles, ElectronicStructure):
    """Kohn-Sham density functional theory in plane waves, in PyTorch, with neural and conventional functionals.

    Parameters
    ----------
    xc : str, PathLike or Functional
        Exchange-correlation functional; default "PBE". One of

        - a name in any case: a conventional functional ("LDA", "PBE", "PBEsol", "RPBE", "revPBE", "SCAN", "r2SCAN",
          "LDA-PZ", "LDA-VWN"), a model ("pbe-clone", or "pbe-clone@1" for one version; `nnxc models list` shows them),
          or a functional of libxc or PySCF ("BLYP");
        - several names joined by "+", with coefficients or as exchange and correlation ("0.25*PBE+0.75*PBEsol",
          "gga_x_b88+gga_c_lyp");
        - the path of a checkpoint, which must contain a path separator;
        - a functional object, which may be in training.
    ecut : float, optional
        Cutoff of the plane waves, eV. Default: the highest cutoff that is recommended for the pseudopotentials.
    kpts : tuple, array or dict
        K-points in any of ASE's forms. Default: {"density": 4.0, "gamma": True}.

        - (8, 8, 8) is ASE's Monkhorst-Pack mesh; even sizes leave out Gamma.
        - {"size": (8, 8, 8), "gamma": True} is a mesh that contains Gamma.
        - {"density": 4.0, "gamma": True} gives the points per inverse Angstrom. The mesh is chosen for the first
          geometry and kept while the same atoms are strained by less than 10 % and move by less than 0.5 Angstrom,
          as in a scan of volumes or a relaxation. For any other structure it is chosen anew, and the log reports it.
        - An array (nk, 3) of scaled coordinates is a whole zone of points with equal weights.
    smearing : dict
        {"name": ..., "width": eV}. The name is "fermi-dirac", "gaussian", "marzari-vanderbilt" (the default, with a
        width of 0.2 eV) or "methfessel-paxton". The keyword `occupations`, as in GPAW, means the same.
    pseudos : str, PathLike or dict, optional
        "oncv" (the default): generated for the functional, see `ase_nnxc.pseudopotentials.generate`. They stay those of
        the functional's first use until `regenerate` is called. "oncv-PBE": generated for the functional of that name.
        Otherwise a family ("gth-pbe"), a table ("gth-pbe-q19"), the path of a UPF or psp8 file or of a folder of them.
        A dict of these by element, with "default" for all others.
    radial_cutoff : float, optional
        Radius at which the radial functions of pseudopotential files end, Angstrom. Default: 5.99 bohr, the end of
        PseudoDojo's psp8 files; pw.x uses 10 bohr.
    spinpol : bool, optional
        Whether the calculation is spin-polarised. Default: if the atoms have initial magnetic moments.
    charge : float
        Charge of the cell, elementary charges; +1 means that one electron is missing. In a crystal a uniform background
        neutralises it. Initial charges of the atoms are not used.
    fixed_magmom : bool or float
        Hold the total magnetic moment, with one Fermi level for each spin: at the sum of the initial moments (True), or
        at a number of Bohr magnetons. Default: False.
    hund : bool
        Start a single atom with the magnetic moment of its ground state (`ase.data.ground_state_magnetic_moments`)
        instead of its initial moment, and hold it.
    nbands : int, optional
        Number of bands at each k-point. Default: enough for the smearing.
    gpts : tuple of int, optional
        Points of the FFT box on which the functional is evaluated. Default: the smallest box that holds the density
        and has the symmetry, for meta-GGAs one that is finer by 2.25 along each axis, for SCAN by 4. Fix it in a scan,
        as `nnxc eos` does, at that of the largest cell, which `resolve` returns.
    symmetry : bool
        Use the symmetry of the crystal and time reversal; results are the same without. Default: True.
    smooth_cutoff : bool
        Let the kinetic energy rise to infinity at the cutoff, so that the energy at constant cutoff is a smooth
        function of the cell (see `ase_nnxc.ks.terms.kinetic`). Use it in scans and relaxations of the cell. Default:
        False, so that single energies compare with other codes.
    convergence : dict
        {"energy": eV per valence electron}: estimated error of the energy at which the SCF stops. Default: 1e-6.
        With {"forces": eV/Angstrom} the tolerance of the energy follows from the largest error of forces that is
        allowed; the default corresponds to about 1e-3. With both, the tighter one decides.
    maxiter : int
        Largest number of SCF steps, of all kinds (see `ase_nnxc.ks.scf.scf`); default 200.
    device : str
        "auto" (default), "cpu", "cuda", "cuda:1" ... With "auto" the calculation runs on a GPU if there is one that
        passes a small check of its FFT, eigensolver and double precision; else on the CPU, and the log reports why.
    share_kpoints : bool or Ranks
        Share the k-points among all processes of torch.distributed, as started by `torchrun`, or among a group of them,
        such as `ase_nnxc.ranks.world().split(2)`. All of these must make the same calls; the first of them alone writes
        logs and restart files. Default: False.
    txt : None, "-", path or open file
        Log: none, standard output, or a file, to which it is appended.
    restart : str or PathLike, optional
        Restart file, from which parameters, atoms, results and ground state are taken: its path, or the label of the
        calculation ("dir/name" for dir/name.nnxc) if there is no file of this name. Only `txt`, `device`,
        `share_kpoints`, `label`, `directory`, `atoms` and the functional object that the file was written with can be
        given together with it.
    label : str, optional
        Name of the log, "label.txt", unless `txt` is given, and of a restart file, "label.nnxc". It may begin with the
        directory, which is created. The restart file is written, as by `write`, once for each new ground state, when
        the properties that were asked for are complete: properties that are asked for later are found anew after a
        restart, without an SCF. It replaces an older file at once. Without a label only `write` writes a file.
    directory : str or PathLike
        Folder that a relative `txt` is in.
    atoms : Atoms, optional
        Atoms to attach this calculator to; they get positions and cell of the restart file.

    Raises
    ------
    InputError
        If a parameter is unknown or not allowed, or if the atoms cannot be calculated.
    SCFError
        If the SCF does not converge.

    Notes
    -----
    The `pbc` of the atoms decide: three periodic directions are a crystal, two a layer, none a molecule. Along the
    other directions the Coulomb interaction is truncated, so that there are no periodic images, and levels count from
    the vacuum. The cell along these directions is chosen by the calculator: as long as the interaction needs, or as the
    given cell (for a molecule, along x, y and z) if that is longer. The stress of a layer has components in its plane
    only, per volume of the given cell. `dipole` is available for molecules only; its origin is that of the coordinates.

    `energy` is extrapolated to zero width of the smearing. `free_energy` is the Mermin free energy; forces and stress
    are its derivatives. The forces contain the net force that the FFT box causes, which other programs subtract. They
    contain none along directions that are not periodic, where moving all atoms together changes nothing. The stress is
    that of a fixed set of plane waves. `magmoms` and `charges` share the magnetisation and the electrons among the
    atoms in proportion to their start densities (Hirshfeld's scheme).
    """

    name = "nnxc"
    accepts_bandpath_keyword = True  # ASE's calculate_band_structure asks whether `set` takes a bandpath
    implemented_properties = [  # noqa: RUF012
        *("energy", "free_energy", "forces", "stress", "dipole", "charges", "magmom", "magmoms", "fermi_level"),
        *LEVELS,
    ]
    default_parameters = DEFAULTS

    def __init__(
        self,
        xc: str | os.PathLike[str] | Functional | None = None,
        *,
        ecut: float | None = None,
        kpts: Any = None,
        smearing: Mapping[str, Any] | None = None,
        pseudos: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
        radial_cutoff: float | None = None,
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
        share_kpoints: bool | Ranks | None = None,
        txt: str | os.PathLike[str] | IO[str] | None = None,
        restart: str | os.PathLike[str] | None = None,
        label: str | None = None,
        directory: str | os.PathLike[str] = ".",
        atoms: Atoms | None = None,
        **other: Any,
    ):
        arguments = locals()  # the keywords above, by their names
        given = {name: arguments[name] for name in DEFAULTS if name != "xc" and arguments[name] is not None} | other
        self.reset()
        self._tables: dict[str, Pseudopotential] = {}  # pseudopotentials by element
        self._log = Log(None)
        self._xc = resolve(DEFAULTS["xc"] if xc is None else xc)
        super().__init__(label=label, directory=directory)
        if xc is not None:
            self.parameters["xc"] = xc
        if self.prefix is not None:
            given.setdefault("txt", f"{self.prefix}.txt")
            Path(self.directory).mkdir(parents=True, exist_ok=True)
        if restart is not None:
            fixed = given.keys() | ({"xc"} if isinstance(xc, str | os.PathLike) else set())
            if fixed - LOCAL:
                named = ", ".join(sorted(fixed - LOCAL))
                raise InputError(f"the restart file brings its own {named}: change parameters by `set` afterwards")
        self.set(**given)
        if restart is not None:
            self.read(_restart_file(restart))
            if xc is not None and self.parameters["xc"] is not xc:
                raise ReadError(f"{restart} was written with {self._xc.describe()} by its name, not with an object")
        if atoms is not None:
            self._attach_to(atoms)

    def _attach_to(self, atoms: Atoms) -> None:
        """Become the calculator of these atoms, which get positions and cell of the restart file if one was read."""
        if self.atoms is not None:
            if not (np.array_equal(atoms.numbers, self.atoms.numbers) and np.array_equal(atoms.pbc, self.atoms.pbc)):
                raise CalculatorError("the atoms are not those of the restart file: they have other elements or pbc")
            atoms.positions, atoms.cell = self.atoms.positions, self.atoms.cell
        atoms.calc = self

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without an open log and without the ground state, which a copy finds anew."""
        state = self.__dict__ | {"_calculation": self._calculation.without_state()}
        if hasattr(self.parameters["txt"], "write"):
            state |= {"parameters": Parameters(self.parameters | {"txt": None}), "_log": Log(None)}
        return state

    def reset(self) -> None:
        """Forget everything but the parameters: results, ground state and mesh."""
        super().reset()
        self._bandpath: Any = None
        self._watch = RelaxationWatch()

    # ---- parameters --------------------------------------------------------------------------------------------------

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters and discard the results; the last ground state stays as a start for the next one.

        Besides the parameters, `bandpath` sets the default path of `band_structure`, and `versions`, as `todict` writes
        them, are compared with those present. Neither discards results.

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
        bandpath = kwargs.pop("bandpath", self._bandpath)
        if "occupations" in kwargs:
            if "smearing" in kwargs:
                raise InputError("occupations is another name for smearing: give only one of them")
            kwargs["smearing"] = kwargs.pop("occupations")
        kwargs = {name: checked(name, value) for name, value in kwargs.items()}
        xc = self._xc
        if "xc" in kwargs and kwargs["xc"] != self.parameters["xc"]:
            xc = resolve(kwargs["xc"])
        if versions is not None:
            check_versions(versions, xc.describe())
        self._xc, self._bandpath = xc, bandpath
        changed = super().set(**kwargs)
        if changed.keys() & {"txt", "share_kpoints"}:
            self._log = Log(self.parameters["txt"] if self.ranks.number == 0 else None, self.directory)
        if "share_kpoints" in changed:  # the orbitals of the ground state belong to other ranks
            self._calculation = self._calculation.without_state()
        if changed.keys() & {"xc", "pseudos", "radial_cutoff"}:
            self._tables = {}
        if changed.keys() - {"txt"}:
            self.atoms, self.results = None, {}
            keep_mesh = not changed.keys() & {"xc", "pseudos", "radial_cutoff", "kpts", "gpts", "ecut"}
            self._calculation = self._calculation.with_other_parameters(keep_mesh)
        return changed

    def resolve(self, atoms: Atoms) -> dict[str, Any]:
        """Return the parameters with everything that is chosen for this geometry made explicit.

        These are `ecut`, `kpts`, `gpts` and `pseudos`. A calculator with these parameters gives the same results. This
        calculator does not change.

        Raises
        ------
        InputError
            If the atoms cannot be calculated with the parameters of this calculator.
        """
        with torch.inference_mode(False):
            plan, nbands = self._plan(atoms), self.parameters["nbands"]
            if nbands is not None:
                check_bands(nbands, plan.system(self._xc.functional, torch.device("cpu")))
            return plan.explicit(self.parameters, self._xc)

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return the parameters as plain data for files.

        They are made explicit as by `resolve` if a geometry was calculated. `NNXCCalculator(**parameters)` is such a
        calculator again. `versions` contains the version of this package, and name, version and hash of the functional.
        """
        return (self._calculation.parameters or for_files(self.parameters)) | {
            "xc": self.get_xc_functional(),
            "versions": {"ase_nnxc": __version__, "functional": self._xc.describe()},
        }

    def get_xc_functional(self) -> str:
        """Return the name of the functional, or a description of a functional object."""
        return self._xc.xc if isinstance(self._xc.xc, str) else self._xc.describe()

    def get_charges(self, atoms: Atoms | None = None) -> np.ndarray:
        """Return the charges of the atoms (natoms,), elementary charges, by Hirshfeld partitioning.

        Each atom gets the part of the electron density that its initial density has in the sum of those of all atoms;
        the charge is the valence charge of the atom minus these electrons. The charges add up to that of the cell.
        """
        return self.get_property("charges", atoms)

    def pseudopotential_digests(self, atoms: Atoms) -> dict[str, str]:
        """Return element -> sha256 of the numbers of the pseudopotential that the atoms are calculated with."""
        return digests(self._tables_of(atoms))

    # ---- calculation -------------------------------------------------------------------------------------------------

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute properties: one SCF for each geometry, forces and stress when they are first asked for."""
        self._update(atoms, properties, system_changes)

    def _update(
        self,
        atoms: Atoms | None,
        properties: Sequence[str],
        system_changes: Sequence[str] = all_changes,
        without_symmetry: bool = False,
    ) -> GroundState:
        """Compute properties and return the ground state, on request one without the symmetry of the crystal."""
        if atoms is not None and super().check_state(atoms):
            self.results = {}  # before these atoms become the calculator's, because the checks below may raise
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise InputError(NOTHING_YET)
        if "stress" in properties:
            check_stress(self.atoms)
        if "dipole" in properties:
            check_dipole(self.atoms)
        file = None if self.prefix is None else Path(self.directory) / f"{self.prefix}{SUFFIX}"
        if file is not None:
            check_target(file)
        with torch.inference_mode(False), torch.no_grad():
            state = self._ground_state(self.atoms, without_symmetry)
            is_new = not self.results  # an SCF and a change of parameters discard them
            # each set of results is complete or absent, and the same on all ranks
            if is_new:
                self._add_results(energies, self.atoms, state)
                if state.crystal.nspin == 2:
                    self._log.magnetisation(self.results["magmom"], self.results["magmoms"])
            if {"forces", "stress"} & set(properties) and "forces" not in self.results:
                self._add_results(derivatives, self.atoms, state)
                self._log.derivatives(self.results["forces"], self.results.get("stress"))
            if set(LEVELS) & set(properties) and "eigenvalues" not in self.results:
                self._add_results(self._calculation.bands.levels)
            if "charges" in properties and "charges" not in self.results:
                self._add_results(charges, state)
            if "stress" in properties:
                self._watch.stress_asked(self.atoms, state)
        if file is not None and is_new:
            self.write(file)
        return state

    def _add_results(self, compute: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        """Add the results that a function returns, which all ranks call, on rank 0."""
        self.results.update(self.ranks.gather(lambda: compute(*arguments))[0])

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation, in the atoms and in a functional object.

        Of an object its tensors, `config()` and `repr` are compared; call `reset` after a change of anything else.
        """
        changes = list(super().check_state(atoms, tol))
        last = self._calculation.fingerprint
        if last is not None and last[-1] != self._xc.fingerprint().encode():
            changes.append("xc")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property, as ASE's calculators do; without atoms, of those that were calculated last."""
        return super().get_property(name, self.atoms if atoms is None else atoms, allow_calculation)

    # ---- ground state, bands and gradients ---------------------------------------------------------------------------

    def ground_state(self, atoms: Atoms | None = None) -> GroundState:
        """Return the ground state (`ase_nnxc.ks.ground_state`, Hartree atomic units), solved for unless it is held.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        """
        return self._update(atoms or self.atoms, ["free_energy"])

    def _converged_bands(self) -> ConvergedBands:
        """Return the bands of the ground state, all of them converged."""
        self.ground_state()
        return self._calculation.bands

    def get_bz_k_points(self) -> np.ndarray:
        """Return all k-points of the mesh (nk, 3), scaled: in units of the reciprocal lattice vectors."""
        self.ground_state()
        assert self._calculation.mesh is not None
        return self._calculation.mesh.points.numpy().copy()

    def fixed_density(self, kpts: Any = None, nbands: int | None = None) -> FixedDensity:
        """Return bands at other k-points in the potential of the ground state, which is solved for unless it is held.

        Parameters
        ----------
        kpts : BandPath, str, dict or array, optional
            A path of ASE (`atoms.cell.bandpath`), its points by name ("GXL"), {"path": "GXL", "npoints": 60}, or scaled
            coordinates (nk, 3). Default: the path that was set as `bandpath`, or ASE's path of the lattice.
        nbands : int, optional
            Number of bands at each k-point; default: as many as the ground state has.

        Raises
        ------
        InputError
            If the path or the number of bands is not allowed, or if the atoms are a molecule.
        SCFError
            If bands do not converge.
        """
        state, atoms = self.ground_state(), self.atoms
        assert atoms is not None
        check_nbands(nbands)
        path = band_path(self._bandpath if kpts is None else kpts, atoms)
        return FixedDensity.along(path, nbands, atoms, state)

    def band_structure(self, path: Any = None, nbands: int | None = None) -> BandStructure:
        """Return band energies along a path, to plot or to write; the arguments are those of `fixed_density`."""
        return self.fixed_density(path, nbands).band_structure()

    def energy_tensor(self, atoms: Atoms | None = None) -> Tensor:
        """Return the free energy, eV, as a tensor () with exact gradients by the parameters of the functional.

        F is stationary in the density, so that its first derivatives need no response. The second derivatives of this
        tensor are not those of F.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        """
        return self.differentiable(atoms).free_energy

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
        """Return the deviations of the free energy (p,), eV, along the p directions of the probable errors.

        Deviations of differences of energies are differences of deviations, and the norm of either is its standard
        deviation; see `ase_nnxc.calculator.ensemble`.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.

        Raises
        ------
        PropertyNotImplementedError
            If the functional has no probable errors.
        """
        return energy_deviations(self.energy_tensor(atoms), self.ground_state(atoms).functional)

    def get_ensemble_energies(self, atoms: Atoms | None = None, size: int = 2000, seed: int = 0) -> np.ndarray:
        """Return energies (size,), eV, for random functionals of the distribution that the fit has left.

        The name is that of ASE's `BEEFEnsemble`. The same seed gives the same functionals for all structures: subtract
        the energies of structures before the standard deviation is taken.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        size : int
            Number of functionals.
        seed : int
            Seed of their choice.

        Raises
        ------
        PropertyNotImplementedError
            If the functional has no probable errors.
        """
        deviations = self.get_energy_deviations(atoms)
        return ensemble_energies(self.get_property("energy", atoms), deviations, size, seed)

    def differentiable(
        self, atoms: Atoms | None = None, *, positions: Tensor | None = None, strain: Tensor | None = None
    ) -> Differentiable:
        """Return the ground state as tensors that carry gradients through the SCF, for losses of any kind.

        Gradients go to the parameters of a functional object, and to `positions` and `strain` if these require
        gradients; the ground state is then found without symmetry.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those that were calculated last.
        positions : Tensor, optional
            (natoms, 3) float64, Angstrom: calculate the atoms at these positions.
        strain : Tensor, optional
            (3, 3) float64: then strain cell and positions, r -> r (1 + strain). Components along directions that are
            not periodic must be zero and get no gradients.

        Raises
        ------
        InputError
            If there are no atoms, if a shape or a strain is not allowed, or if the parameters of the functional are on
            another device.
        """
        atoms = atoms or self.atoms
        if atoms is None:
            raise InputError(NOTHING_YET)
        atoms, displacements, further_strain = moved_atoms(atoms, positions, strain)
        with torch.inference_mode(False):
            without_symmetry = any(t is not None and t.requires_grad for t in (displacements, further_strain))
            state = self._update(atoms, ["free_energy"], without_symmetry=without_symmetry)
            if state.functional is not self._xc.functional and isinstance(self.parameters["xc"], torch.nn.Module):
                raise InputError(
                    f"gradients need the functional on {state.crystal.device}, the device of the calculation"
                )
            tolerance = min(RESPONSE, 3 * math.sqrt(energy_tolerance(self.parameters["convergence"]) / HARTREE))
            return Differentiable.of(state, atoms, displacements, further_strain, tolerance)


def _restart_file(restart: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the path of a restart file that is given by its path or by the label of its calculation."""
    labelled = Path(f"{os.fspath(restart)}{SUFFIX}")
    return labelled if labelled.is_file() and not Path(restart).is_file() else restart
