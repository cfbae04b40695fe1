"""NNXCCalculator: the ASE calculator. Parameters in, results out; units change here (eV, Angstrom outside)."""

import difflib
import math
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
    InputError,
    SCFError,
    all_changes,
    kpts2sizeandoffsets,
)
from ase.dft.kpoints import monkhorst_pack
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress

from . import __version__
from .pseudos import find_pseudos, recommended_cutoff, table_digest
from .registry import get_functional, pseudo_family
from .report import Log
from .units import BOHR, GPA, HARTREE

if TYPE_CHECKING:
    import torch

    from .ks.basis import Basis
    from .ks.crystal import Crystal
    from .ks.ground_state import GroundState
    from .ks.pseudo import GTH
    from .ks.symmetry import Symmetry
    from .xc.functional import Functional

SMEARINGS = ("fermi-dirac", "gaussian", "marzari-vanderbilt", "methfessel-paxton")
CLOSEST = 0.4  # Angstrom; atoms nearer than this are a mistake in the input
SIMILAR = 0.25  # a mesh found from a density is kept while lengths and angles of the cell change by less than this
PULAY = 0.5  # GPa; a larger error of the stress from the finite cutoff draws a warning when a cell is relaxed
MAGNETIC = frozenset({"Cr", "Mn", "Fe", "Co", "Ni"})


class NNXCCalculator(Calculator):
    """Kohn-Sham density functional theory in plane waves, in torch, with functionals called by name.

    Parameters
    ----------
    xc : str or Functional
        Exchange-correlation functional: "LDA", "PBE", "PBEsol", "RPBE", "revPBE", or an object.
    ecut : float, optional
        Cutoff of the plane waves, eV. Default: the highest of the cutoffs recommended for the tables involved.
    kpts : tuple, array or dict
        Any of ASE's forms: (8, 8, 8) is ASE's Monkhorst-Pack mesh (even sizes miss Gamma),
        {"size": (8, 8, 8), "gamma": True} one with Gamma, {"density": 4.0, "gamma": True} points per Angstrom^-1,
        resolved at the first geometry and kept while lengths and angles of the cell stay within 25 % of it;
        an array (nk, 3) of scaled coordinates is a whole zone of equal weights.
    smearing : dict
        {"name": ..., "width": eV}; fermi-dirac, gaussian, marzari-vanderbilt or methfessel-paxton. GPAW's name for this
        keyword, occupations, is accepted.
    pseudos : str or dict, optional
        Family ("gth-pbe"), table ("gth-pbe-q19") or a dict of them by element. Default: the family of the functional
        with the shipped valences.
    spinpol : bool, optional
        Default: spin-polarised if the atoms have initial magnetic moments.
    nbands : int, optional
        Bands per k-point; default: enough for the smearing.
    gpts : tuple of int, optional
        FFT box; default: the smallest that holds the density and suits the symmetry.
    symmetry : bool
        Use the crystal's symmetry and time reversal; the numbers are the same without.
    smooth_cutoff : bool
        Let the kinetic energy rise to infinity at the cutoff, so that the energy at constant cutoff is a smooth
        function of the cell (see `ase_nnxc.ks.terms.kinetic`). For scans and relaxations of the cell; off by default,
        so that single energies compare with other codes.
    convergence : dict
        {"energy": eV per valence electron}: estimated error of the energy at which the SCF stops.
    maxiter : int
        Most SCF steps.
    device : str
        "auto" (cuda if there), "cpu", "cuda", "cuda:1" ...
    txt : None, "-", path or open file
        Log: none, standard output, or a file.
    directory : str
        Where a relative `txt` lies.
    atoms : Atoms, optional
        Gets this calculator attached.

    Notes
    -----
    `energy` is extrapolated to zero width of the smearing, `free_energy` is the Mermin free energy of which forces and
    stress are derivatives. The stress is that of a fixed set of plane waves. `magmoms` shares the magnetisation
    among atoms in proportion to their start densities (Hirshfeld's scheme).

    Raises
    ------
    InputError
        For anything in parameters or atoms that makes no sense.
    SCFError
        If no self-consistency is reached.
    """

    name = "nnxc"
    nolabel = True
    implemented_properties = ["energy", "free_energy", "forces", "stress", "magmom", "magmoms"]  # noqa: RUF012
    discard_results_on_any_change = True
    default_parameters: dict[str, Any] = {  # noqa: RUF012
        "xc": "PBE",
        "ecut": None,
        "kpts": {"density": 4.0, "gamma": True},
        "smearing": {"name": "marzari-vanderbilt", "width": 0.2},
        "pseudos": None,
        "spinpol": None,
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
        xc: "str | Functional" = "PBE",
        *,
        ecut: float | None = None,
        kpts: Any = None,
        smearing: Mapping[str, Any] | None = None,
        pseudos: str | Mapping[str, str] | None = None,
        spinpol: bool | None = None,
        nbands: int | None = None,
        gpts: tuple[int, int, int] | None = None,
        symmetry: bool = True,
        smooth_cutoff: bool = False,
        convergence: Mapping[str, float] | None = None,
        maxiter: int = 100,
        device: str = "auto",
        txt: str | Path | IO[str] | None = None,
        directory: str = ".",
        atoms: Atoms | None = None,
        **other: Any,
    ):
        self._state: GroundState | None = None
        self._fingerprint: tuple | None = None
        self._mesh: _Mesh | None = None
        self._box: tuple[int, int, int] | None = None
        self._last: Atoms | None = None
        self._stress_cell: np.ndarray | None = None
        self._warned = False
        self._log = Log(None)
        given = {
            "kpts": kpts,
            "smearing": smearing,
            "convergence": convergence,
        }
        super().__init__(
            atoms=atoms,
            directory=directory,
            xc=xc,
            ecut=ecut,
            pseudos=pseudos,
            spinpol=spinpol,
            nbands=nbands,
            gpts=gpts,
            symmetry=symmetry,
            smooth_cutoff=smooth_cutoff,
            maxiter=maxiter,
            device=device,
            txt=txt,
            **{name: value for name, value in given.items() if value is not None},
            **other,
        )

    # -- parameters ------------------------------------------------------------------------------------------------

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters; results are discarded, the last ground state stays as a start for the next.

        Raises
        ------
        InputError
            For an unknown name (the closest one is named) or a value that makes no sense.
        """
        if "occupations" in kwargs:
            if "smearing" in kwargs:
                raise InputError("occupations is another name for smearing: give one of them")
            kwargs["smearing"] = kwargs.pop("occupations")
        for name, value in kwargs.items():
            if name not in self.default_parameters:
                closest = difflib.get_close_matches(name, self.default_parameters, n=1)
                hint = f"; did you mean {closest[0]!r}?" if closest else ""
                raise InputError(
                    f"unknown keyword {name!r}{hint} (keywords: {', '.join(sorted(self.default_parameters))})"
                )
            check = _CHECKS.get(name)
            if check is not None:
                check(value)
        if {"kpts", "gpts", "ecut"} & kwargs.keys():
            self._mesh = self._box = None
        if "txt" in kwargs:
            self._log = Log(_in_directory(kwargs["txt"], self.directory))
        return super().set(**kwargs)

    def resolve(self, atoms: Atoms) -> dict[str, Any]:
        """The parameters with everything chosen for this geometry made explicit: ecut, mesh, FFT box, tables.

        A calculator built from them gives the same numbers.
        """
        _check_atoms(atoms)
        tables = self._tables(atoms)
        symmetry = self._crystal_and_symmetry(atoms, tables)[1]
        resolved = {k: v for k, v in self.parameters.items() if k not in ("txt", "device")}
        resolved["xc"] = (
            self.parameters["xc"] if isinstance(self.parameters["xc"], str) else repr(self.parameters["xc"])
        )
        resolved["ecut"] = self._ecut(tables)[0] * HARTREE
        resolved["kpts"] = self._resolved_mesh(atoms).described
        resolved["gpts"] = self._resolved_box(atoms, resolved["ecut"] / HARTREE, symmetry.box_multiples())
        resolved["pseudos"] = {symbol: table.name for symbol, table in tables.items()}
        return resolved

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """The parameters, resolved for the last geometry if there is one: plain data for files and databases."""
        if self._last is not None:
            return self.resolve(self._last)
        return {k: v for k, v in self.parameters.items() if k not in ("txt", "device")}

    def _tables(self, atoms: Atoms) -> "dict[str, GTH]":
        family = pseudo_family(get_functional(self.parameters["xc"]))
        return find_pseudos(atoms.get_chemical_symbols(), family, self.parameters["pseudos"])

    def _ecut(self, tables: "Mapping[str, GTH]") -> tuple[float, str]:
        """Cutoff, Hartree, and where it comes from."""
        if self.parameters["ecut"] is not None:
            return self.parameters["ecut"] / HARTREE, "given"
        return max(recommended_cutoff(table) for table in tables.values())

    def _resolved_mesh(self, atoms: Atoms) -> "_Mesh":
        if self._mesh is None or not self._mesh.suits(atoms, self.parameters["kpts"]):
            self._mesh = _Mesh.of(self.parameters["kpts"], atoms)
        return self._mesh

    def _resolved_box(self, atoms: Atoms, ecut: float, multiples: tuple[int, int, int]) -> tuple[int, int, int]:
        """FFT box: the one asked for, else one kept from a similar cell if it is large enough, else the smallest."""
        from .ks.basis import box_holds_sphere, fft_box

        lattice = _lattice(atoms)
        if self.parameters["gpts"] is not None:
            n1, n2, n3 = (int(n) for n in self.parameters["gpts"])
            if not box_holds_sphere((n1, n2, n3), lattice, ecut):
                raise InputError(f"gpts {(n1, n2, n3)} cannot hold the density; at least {fft_box(lattice, ecut)}")
            return n1, n2, n3
        box = fft_box(lattice, ecut, multiples)
        if self._box is not None and self._mesh is not None and _similar(atoms, self._mesh.cellpar):
            kept = self._box
            return kept if box_holds_sphere(kept, lattice, ecut) else (
                max(kept[0], box[0]), max(kept[1], box[1]), max(kept[2], box[2])
            )  # fmt: skip
        return box

    # -- calculation -----------------------------------------------------------------------------------------------

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute: one SCF for each geometry, forces and stress when first asked for."""
        super().calculate(atoms, properties, system_changes)
        atoms = self._present()
        fingerprint = self._make_fingerprint(atoms)
        if self._state is None or fingerprint != self._fingerprint:
            self._fingerprint = None
            self.results = {}
            self._state = self._solve(atoms)
            self._fingerprint = fingerprint
        if not self.results:
            self._collect_energies(self._state)
        if {"forces", "stress"} & set(properties) and "forces" not in self.results:
            self._collect_derivatives(self._state, "stress" in properties)

    def _present(self) -> Atoms:
        if self.atoms is None:
            raise InputError("no atoms to calculate: attach the calculator to an Atoms object or pass one")
        return self.atoms

    def _make_fingerprint(self, atoms: Atoms) -> tuple:
        arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_initial_magnetic_moments())
        parameters = {k: repr(v) for k, v in self.parameters.items() if k != "txt"}
        return (*(np.ascontiguousarray(a).tobytes() for a in arrays), tuple(sorted(parameters.items())))

    def _crystal_and_symmetry(self, atoms: Atoms, tables: "Mapping[str, GTH]") -> "tuple[Crystal, Symmetry]":
        import torch

        from .ks.crystal import Crystal
        from .ks.symmetry import find_symmetry, identity

        lattice = _lattice(atoms)
        positions = torch.as_tensor(atoms.get_scaled_positions(wrap=False), dtype=torch.float64, device="cpu")
        potentials = tuple(tables[s] for s in atoms.get_chemical_symbols())
        moments = self._moments(atoms, potentials)
        crystal = Crystal(lattice, positions, potentials, moments)
        if not self.parameters["symmetry"]:
            return crystal, identity(len(atoms))
        kinds = [list(crystal.species).index(p) for p in potentials]
        return crystal, find_symmetry(lattice, positions, kinds, moments)

    def _moments(self, atoms: Atoms, potentials: "Sequence[GTH]") -> "torch.Tensor | None":
        """Initial moments if the calculation is spin-polarised."""
        import torch

        moments = atoms.get_initial_magnetic_moments()
        if moments.ndim != 1:
            raise InputError("initial magnetic moments must be collinear, one number for each atom")
        spinpol = self.parameters["spinpol"]
        if spinpol is False and moments.any():
            raise InputError("spinpol=False, but the atoms have initial magnetic moments")
        if spinpol or (spinpol is None and moments.any()):
            for atom, (m, p) in enumerate(zip(moments, potentials)):
                if abs(m) > p.valence:
                    raise InputError(f"atom {atom} has {p.valence} valence electrons, its moment cannot be {m}")
            return torch.as_tensor(moments, dtype=torch.float64, device="cpu")
        return None

    def _solve(self, atoms: Atoms) -> "GroundState":
        from .ks.basis import make_basis
        from .ks.occupations import Smearing
        from .ks.scf import ConvergenceError, SCFSettings, scf

        _check_atoms(atoms)
        clock = time.perf_counter()
        tables = self._tables(atoms)
        functional = get_functional(self.parameters["xc"])
        crystal, symmetry = self._crystal_and_symmetry(atoms, tables)
        ecut, source = self._ecut(tables)
        mesh = self._resolved_mesh(atoms)
        self._box = self._resolved_box(atoms, ecut, symmetry.box_multiples())
        device = _device(self.parameters["device"])
        crystal, functional = crystal.to(device), functional.to(device)
        smearing = Smearing(self.parameters["smearing"]["name"], self.parameters["smearing"]["width"] / HARTREE)
        basis = make_basis(crystal, ecut, mesh.points, symmetry, self._box, self.parameters["smooth_cutoff"])
        self._last = atoms.copy()
        self._write_header(atoms, crystal, basis, source, len(symmetry), device)
        start = self._state if self._state is not None and _can_start(self._state.crystal, crystal) else None
        settings = SCFSettings(
            self.parameters["convergence"]["energy"] * crystal.nelectrons / HARTREE, self.parameters["maxiter"]
        )
        try:
            state = scf(
                crystal, basis, functional, smearing, self.parameters["nbands"], settings, start, self._log.step
            )
        except ConvergenceError as error:
            self._log.write(f"  NOT CONVERGED: {error}")
            raise SCFError(
                f"{error}. Try more steps (maxiter), a larger width of the smearing, or other initial magnetic moments"
            ) from error
        except ValueError as error:  # nbands cannot hold the electrons
            raise InputError(str(error)) from error
        self._log.ground_state(state, time.perf_counter() - clock)
        return state

    def _write_header(
        self, atoms: Atoms, crystal: "Crystal", basis: "Basis", source: str, nsym: int, device: "torch.device"
    ) -> None:
        tables = {p.name: f"{p.symbol} {p.name} (sha256 {table_digest(p)[:12]})" for p in crystal.species}
        kept = len(basis.symmetry)
        facts = {
            "atoms": atoms.get_chemical_formula(),
            "functional": self.parameters["xc"],
            "tables": ", ".join(tables.values()),
            "cutoff": f"{basis.ecut * HARTREE:.2f} eV ({source}){', smooth' if basis.smooth_cutoff else ''}",
            "k-points": f"{self._mesh.described if self._mesh else ''}, {len(basis.spheres)} irreducible",
            "FFT box": " x ".join(map(str, basis.grid.shape)),
            "symmetry": f"{kept} operations"
            + (f" ({nsym - kept} dropped: they do not map mesh or box)" if kept < nsym else ""),
            "plane waves": f"{min(s.npw for s in basis.spheres)} to {max(s.npw for s in basis.spheres)}",
            "smearing": "{name}, {width} eV".format(**self.parameters["smearing"]),
            "spin": "polarised" if crystal.nspin == 2 else "paired",
            "device": device,
        }
        self._log.header(f"ase_nnxc {__version__}", facts)
        if crystal.nspin == 1 and MAGNETIC & set(atoms.get_chemical_symbols()):
            self._log.write("  note: Cr, Mn, Fe, Co or Ni without initial magnetic moments: no magnetism is looked for")

    def _collect_energies(self, state: "GroundState") -> None:
        free, energy = state.free_energy * HARTREE, state.energy * HARTREE
        if not (math.isfinite(free) and math.isfinite(energy)):
            raise CalculationFailed("the energy is not a number")
        magmoms = state.atomic_moments().cpu().numpy()
        self.results.update(energy=energy, free_energy=free, magmom=state.total_moment, magmoms=magmoms)
        self.results["fermi_level"] = state.fermi_level * HARTREE
        if state.crystal.nspin == 2:
            self._log.magnetisation(state.total_moment, magmoms)

    def _collect_derivatives(self, state: "GroundState", stress_asked: bool) -> None:
        forces, stress = (x.cpu().numpy() for x in state.derivatives())
        forces, stress = forces * (HARTREE / BOHR), full_3x3_to_voigt_6_stress(stress) * (HARTREE / BOHR**3)
        if not (np.isfinite(forces).all() and np.isfinite(stress).all()):
            raise CalculationFailed("forces or stress are not numbers")
        self.results.update(forces=forces, stress=stress)
        self._log.derivatives(forces, stress)
        if stress_asked:
            self._watch_pulay_stress(state)

    def _watch_pulay_stress(self, state: "GroundState") -> None:
        """Warn, once, when a cell is being relaxed with a cutoff at which the stress is far from converged."""
        cell = self._present().cell.array
        moved = self._stress_cell is not None and not np.array_equal(cell, self._stress_cell)
        self._stress_cell = cell.copy()
        if self._warned or not moved or state.basis.smooth_cutoff:
            return
        from .ks.pulay import pulay_pressure

        pressure = pulay_pressure(state) * HARTREE / BOHR**3 / GPA
        if abs(pressure) > PULAY:
            self._warned = True
            warnings.warn(
                f"the cutoff of {state.basis.ecut * HARTREE:.0f} eV is not converged: the stress is off by a Pulay pressure "
                f"of about {pressure:.1f} GPa, and a relaxed cell with it; use smooth_cutoff=True or a higher ecut",
                stacklevel=2,
            )


@dataclass(frozen=True)
class _Mesh:
    """A mesh of k-points, found for one cell and kept for similar ones."""

    points: "torch.Tensor"  # (nk, 3) the whole mesh, fractional
    described: Any  # what to give as kpts to get it again
    fixed: bool  # asked for by its size, not by a density
    cellpar: np.ndarray

    @classmethod
    def of(cls, kpts: Any, atoms: Atoms) -> "_Mesh":
        import torch

        fixed = True
        described: Any
        try:
            if isinstance(kpts, Mapping):
                fixed = "density" not in kpts
                size, offsets = kpts2sizeandoffsets(atoms=atoms, **kpts)
                points = monkhorst_pack(size) + offsets
                described = {"size": tuple(int(n) for n in size)}
                if kpts.get("gamma") is not None:
                    described["gamma"] = bool(kpts["gamma"])
            else:
                array = np.asarray(kpts)
                points = monkhorst_pack(kpts) if array.shape == (3,) else array.astype(float)
                described = array.tolist() if array.ndim == 2 else {"size": tuple(int(n) for n in kpts)}
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"kpts={kpts!r} makes no mesh: {error}") from error
        return cls(torch.as_tensor(points, dtype=torch.float64, device="cpu"), described, fixed, atoms.cell.cellpar())

    def suits(self, atoms: Atoms, kpts: Any) -> bool:
        return self.fixed or _similar(atoms, self.cellpar)


def _similar(atoms: Atoms, cellpar: np.ndarray) -> bool:
    """Whether lengths and angles of the cell are within 25 % of `cellpar`."""
    return bool((np.abs(atoms.cell.cellpar() / cellpar - 1) < SIMILAR).all())


def _lattice(atoms: Atoms) -> "torch.Tensor":
    """Lattice vectors, bohr."""
    import torch

    return torch.as_tensor(atoms.cell.array / BOHR, dtype=torch.float64, device="cpu")


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but torch finds no CUDA device")
    return device


def _can_start(old: "Crystal", new: "Crystal") -> bool:
    """Whether a ground state of `old` is a start for `new`: the same atoms and initial moments."""
    if old.potentials != new.potentials or old.nspin != new.nspin or old.device != new.device:
        return False
    return old.magmoms is None or new.magmoms is None or bool((old.magmoms == new.magmoms).all())


def _in_directory(txt: Any, directory: str) -> Any:
    return Path(directory) / txt if isinstance(txt, str | Path) and txt != "-" else txt


# -- checks of the input ----------------------------------------------------------------------------------------------


def _check_atoms(atoms: Atoms) -> None:
    """InputError unless the atoms are a crystal that can be calculated."""
    if len(atoms) == 0:
        raise InputError("there are no atoms")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise InputError("a position or a cell vector is not a finite number")
    if atoms.cell.rank < 3 or atoms.get_volume() < 1e-3:
        raise InputError("the cell has no volume: three independent cell vectors are needed")
    if not atoms.pbc.all():
        raise InputError("only crystals periodic in three directions can be calculated yet: set atoms.pbc = True")
    pairs = neighbor_list("ijd", atoms, CLOSEST)
    if len(pairs[0]):
        i, j, d = pairs[0][0], pairs[1][0], pairs[2][0]
        image = " (an image of itself)" if i == j else ""
        raise InputError(f"atoms {i} and {j}{image} are {d:.3f} Angstrom apart: they sit on top of each other")


def _check_xc(xc: Any) -> None:
    get_functional(xc)


def _check_ecut(ecut: Any) -> None:
    if ecut is not None and not (_is_number(ecut) and ecut >= 80):
        raise InputError(f"ecut={ecut!r}: ecut is in eV and at least 80; 20 Ha is 544")


def _check_smearing(smearing: Any) -> None:
    if not isinstance(smearing, Mapping) or set(smearing) != {"name", "width"}:
        raise InputError(f"smearing={smearing!r}: a dict with name and width (eV) is expected")
    if smearing["name"] not in SMEARINGS:
        closest = difflib.get_close_matches(str(smearing["name"]), SMEARINGS, n=1)
        hint = f"; did you mean {closest[0]!r}?" if closest else ""
        raise InputError(f"unknown smearing {smearing['name']!r}{hint} ({', '.join(SMEARINGS)})")
    if not (_is_number(smearing["width"]) and 1e-4 <= smearing["width"] <= 10):
        raise InputError(f"smearing width {smearing['width']!r}: it is in eV, positive and at most 10 (300 K is 0.026)")


def _check_kpts(kpts: Any) -> None:
    if isinstance(kpts, Mapping):
        unknown = set(kpts) - {"size", "density", "gamma", "even"}
        if unknown or ("size" in kpts) == ("density" in kpts):
            raise InputError(f"kpts={kpts!r}: size or density, gamma and even are its keys")
        if "density" in kpts and not (_is_number(kpts["density"]) and kpts["density"] > 0):
            raise InputError(f"kpts={kpts!r}: the density is in points per inverse Angstrom, positive")
        if "density" in kpts:
            return
        kpts = kpts["size"]
    try:
        array = np.asarray(kpts, dtype=float)
    except (TypeError, ValueError):
        array = np.zeros(0)
    mesh = array.shape == (3,) and (array >= 1).all() and (array == array.round()).all()
    points = array.ndim == 2 and array.shape[1:] == (3,) and len(array) > 0 and bool(np.isfinite(array).all())
    if not (mesh or points):
        raise InputError(f"kpts={kpts!r}: three positive integers, a dict, or an array (nk, 3) is expected")


def _check_gpts(gpts: Any) -> None:
    if gpts is not None and not (len(gpts) == 3 and all(isinstance(n, int | np.integer) and n > 0 for n in gpts)):
        raise InputError(f"gpts={gpts!r}: three positive integers are expected")


def _check_count(name: str, optional: bool) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not (optional and value is None) and not (isinstance(value, int | np.integer) and value > 0):
            raise InputError(f"{name}={value!r}: a positive integer is expected")

    return check


def _check_flag(name: str, optional: bool = False) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not (isinstance(value, bool | np.bool_) or (optional and value is None)):
            raise InputError(f"{name}={value!r}: True or False is expected")

    return check


def _check_convergence(convergence: Any) -> None:
    if not isinstance(convergence, Mapping) or set(convergence) != {"energy"}:
        raise InputError(f"convergence={convergence!r}: a dict with the key energy (eV per electron) is expected")
    if not (_is_number(convergence["energy"]) and 0 < convergence["energy"] < 1):
        raise InputError(f"convergence={convergence!r}: the energy is in eV per electron, positive and below 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


_CHECKS: dict[str, Callable[[Any], None]] = {
    "xc": _check_xc,
    "ecut": _check_ecut,
    "smearing": _check_smearing,
    "kpts": _check_kpts,
    "gpts": _check_gpts,
    "nbands": _check_count("nbands", optional=True),
    "maxiter": _check_count("maxiter", optional=False),
    "spinpol": _check_flag("spinpol", optional=True),
    "symmetry": _check_flag("symmetry"),
    "smooth_cutoff": _check_flag("smooth_cutoff"),
    "convergence": _check_convergence,
}
