"""Energies, relaxations and equations of state of crystals, from a file or a name."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Parser, UsageError, closest, complain

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

# prototypes and their lattice constant a for a nearest-neighbour distance of one
PROTOTYPES = {
    "sc": 1.0,
    "fcc": math.sqrt(2),
    "bcc": 2 / math.sqrt(3),
    "hcp": 1.0,
    "diamond": 4 / math.sqrt(3),
    "zincblende": 4 / math.sqrt(3),
    "wurtzite": math.sqrt(8 / 3),
    "rocksalt": 2.0,
    "cesiumchloride": 2 / math.sqrt(3),
    "fluorite": 4 / math.sqrt(3),
}
CLOSE_PACKED = ("sc", "fcc", "bcc", "hcp")  # for these an element's atomic volume is the better guess
WELL_DEFINED = ("sc", "fcc", "bcc", "hcp", "bct", "diamond", "rhombohedral")  # reference states that ASE builds rightly


# ---- options -------------------------------------------------------------------------------------------------------


def add_parsers(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `energy`, `relax`, `bands` and `eos`."""
    common = Parser(add_help=False)
    what = common.add_argument_group("structure")
    what.add_argument("structure_or_name", metavar="STRUCTURE", help="a file that ASE reads, an element, or a formula")
    what.add_argument("--structure", metavar="TYPE", help=f"prototype of a formula: {', '.join(PROTOTYPES)}")
    what.add_argument("--a", type=_positive, metavar="A", help="lattice constant in Angstrom (else known or guessed)")
    what.add_argument(
        "--magmom", metavar="M", help="initial moments in Bohr magnetons: one, one per atom (2,-2), or Fe=2.5,O=0"
    )
    how = common.add_argument_group("calculation (where not given, the defaults of NNXCCalculator)")
    how.add_argument("--xc", help="functional, as PBE, 0.25*PBE+0.75*PBEsol, a model's name, a checkpoint's path")
    how.add_argument("--ecut", type=float, metavar="EV", help="plane-wave cutoff in eV")
    how.add_argument(
        "--kpts", type=_kpts, metavar="K", help="Gamma-centred mesh, as 8,8,8, or a density in points per 1/Angstrom"
    )
    how.add_argument("--smearing", type=_smearing, metavar="NAME:EV", help="such as marzari-vanderbilt:0.2")
    how.add_argument(
        "--pseudos",
        type=_pseudos,
        metavar="P",
        help="GTH family (gth-pbe), UPF file or folder, or Ni=gth-pbe-q18,O=...",
    )
    how.add_argument("--nbands", type=int, metavar="N", help="number of bands")
    how.add_argument("--gpts", type=_three, metavar="N,N,N", help="FFT box")
    how.add_argument("--no-symmetry", dest="symmetry", action="store_false", default=None, help="use no symmetry")
    how.add_argument(
        "--smooth-cutoff",
        action=argparse.BooleanOptionalAction,
        help="kinetic-energy blow-up that makes E(cell) smooth; on for eos and relax --cell, else off",
    )
    how.add_argument("--device", help="auto, cpu or cuda")
    how.add_argument("--txt", metavar="FILE", help="log file, - for the terminal (default: DIR/log.txt)")
    out = common.add_argument_group("results")
    out.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default: nnxc-COMMAND-NAME)")
    out.add_argument("--json", action="store_true", help="print JSON in place of a table")

    common.set_defaults(run=_run)
    energy = commands.add_parser("energy", parents=[common], help="energy, forces and stress of a structure")
    energy.set_defaults(calculate=_energy)
    relax = commands.add_parser("relax", parents=[common], help="relax the positions, or positions and cell")
    relax.set_defaults(calculate=_relax)
    relax.add_argument("--cell", action="store_true", help="relax the cell too")
    relax.add_argument("--fmax", type=_positive, default=0.01, metavar="F", help="in eV/Angstrom (default 0.01)")
    relax.add_argument("--steps", type=int, default=200, metavar="N", help="at most so many steps (default 200)")
    bands = commands.add_parser("bands", parents=[common], help="band structure along a path, with a picture")
    bands.set_defaults(calculate=_bands)
    bands.add_argument("--path", metavar="GXL", help="special points (default: ASE's path of the lattice)")
    bands.add_argument("--npoints", type=_count, default=100, metavar="N", help="k-points of the path (default 100)")
    eos = commands.add_parser("eos", parents=[common], help="lattice constant and bulk modulus by a scan of the volume")
    eos.set_defaults(calculate=_eos)
    eos.add_argument("--points", type=int, default=7, metavar="N", help="points of the fit (odd, default 7)")
    eos.add_argument(
        "--span", type=float, default=0.06, metavar="X", help="first window in relative volume (default 0.06)"
    )
    eos.add_argument("--order", choices=("up", "down"), default="up", help="of the volumes in the first window")
    eos.add_argument("--max-points", type=int, default=25, metavar="N", help="give up beyond (default 25)")
    eos.add_argument("--force", action="store_true", help="discard another scan's points in the output folder")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _count(text: str) -> int:
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _three(text: str) -> tuple[int, ...]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not three positive whole numbers such as 8,8,8")
    return tuple(int(p) for p in parts)


def _kpts(text: str) -> dict[str, Any]:
    try:
        density = float(text)
    except ValueError:
        return {"size": _three(text), "gamma": True}
    return {"density": _positive(text) if density else 0.0, "gamma": True}


def _smearing(text: str) -> dict[str, Any]:
    name, colon, width = text.partition(":")
    try:
        return {"name": name, "width": float(width)}
    except ValueError:
        hint = f"the width {width!r} is not a number" if colon else "a width in eV is missing"
        raise argparse.ArgumentTypeError(f"{hint}; write for example marzari-vanderbilt:0.2") from None


def _pseudos(text: str) -> str | dict[str, str]:
    if "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and value for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form Ni=gth-pbe-q18,O=gth-pbe-q6")
    return {name.strip(): value.strip() for name, _, value in pairs}


def parse_magmoms(text: str, symbols: Sequence[str]) -> list[float]:
    """Initial moments of the atoms from ``0.6``, ``2,-2`` or ``Fe=2.5,O=0`` (elements not named get none)."""
    try:
        if "=" not in text:
            moments = [float(x) for x in text.split(",")]
            if len(moments) == 1:
                moments *= len(symbols)
            if len(moments) != len(symbols):
                raise UsageError(f"--magmom has {len(moments)} values for {len(symbols)} atoms")
            return moments
        by_element = {name.strip(): float(value) for name, _, value in (p.partition("=") for p in text.split(","))}
    except ValueError:
        raise UsageError(f"--magmom {text!r} is neither numbers nor of the form Fe=2.5,O=0") from None
    absent = [name for name in by_element if name not in symbols]
    if absent:
        raise UsageError(f"--magmom names {absent[0]}, which the structure does not hold")
    return [by_element.get(s, 0.0) for s in symbols]


def _calculator_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of the calculator that were given."""
    names = ("xc", "ecut", "kpts", "smearing", "pseudos", "nbands", "gpts", "symmetry", "device")
    options = {name: getattr(args, name) for name in names}
    smooth = args.smooth_cutoff
    options["smooth_cutoff"] = args.command == "eos" or getattr(args, "cell", False) if smooth is None else smooth
    return {name: value for name, value in options.items() if value is not None}


def make_calculator(**options: Any) -> Calculator:
    """The calculator of the commands."""
    from ase_nnxc.calculator import NNXCCalculator

    return NNXCCalculator(**options)


# ---- structures ----------------------------------------------------------------------------------------------------


def read_structure(text: str, prototype: str | None = None, a: float | None = None) -> tuple[Atoms, str]:
    """The structure that a file or a name stands for, and what to call it."""
    path = Path(text)
    if path.is_file() and prototype is None:
        if a is not None:
            raise UsageError("--a goes with a name, not with a file")
        return _read_file(path), path.stem
    if prototype is None and ("/" in text or path.suffix):
        raise UsageError(f"{text}: no such file")
    atoms = _build(text, prototype, a)
    return atoms, text if prototype is None else f"{text}-{prototype}"


def _read_file(path: Path) -> Atoms:
    from ase import Atoms
    from ase.io import read

    try:
        atoms = read(path)
    except Exception as error:  # ASE's readers raise whatever their parsing stumbles on
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path} is not a structure that ASE can read ({reason})") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise UsageError(f"{path} holds no atoms")
    atoms.calc = None
    return atoms


def _build(formula: str, prototype: str | None, a: float | None) -> Atoms:
    """A bulk crystal from ASE's reference states and prototypes."""
    from ase.build import bulk
    from ase.data import atomic_numbers, chemical_symbols, reference_states
    from ase.symbols import string2symbols

    if prototype is not None and prototype not in PROTOTYPES:
        raise UsageError(f"unknown structure {prototype!r}{closest(prototype, PROTOTYPES)}")
    try:
        symbols = string2symbols(formula)
    except (KeyError, ValueError):
        symbols = []
    if not symbols or not all(s in atomic_numbers and s != "X" for s in symbols):
        raise UsageError(
            f"{formula!r} is neither a file nor an element nor a formula{closest(formula, chemical_symbols[1:])}"
        )
    reference = reference_states[atomic_numbers[symbols[0]]] if len(symbols) == 1 else None
    known = reference["symmetry"] if reference else None
    if prototype is None and known not in WELL_DEFINED:
        if reference is None and len(symbols) > 1:
            raise UsageError(f"which crystal of {formula}? Give --structure ({', '.join(PROTOTYPES)}) or a file")
        raise UsageError(f"no simple crystal of {formula} is known; give --structure and --a, or a file")
    guessed = prototype is not None and prototype != known and a is None
    if prototype is not None and guessed:
        a = _guess_lattice_constant(symbols, prototype)
    try:
        atoms = bulk(formula, prototype, a=a)
    except (ValueError, RuntimeError, KeyError) as error:
        raise UsageError(f"cannot build {formula}{f' as {prototype}' if prototype else ''}: {error}") from error
    if guessed:
        print(f"nnxc: no lattice constant given, starting from a guess: a = {a:.3f} A", file=sys.stderr)
    return atoms


def _guess_lattice_constant(symbols: list[str], prototype: str) -> float:
    """Lattice constant (Angstrom) from the element's atomic volume, or else from the sum of two covalent radii."""
    from ase.build import bulk
    from ase.data import atomic_numbers, covalent_radii, reference_states

    number = atomic_numbers[symbols[0]]
    reference = reference_states[number]
    if len(symbols) == 1 and prototype in CLOSE_PACKED and reference and reference["symmetry"] in CLOSE_PACKED:
        known = bulk(symbols[0])
        unit = bulk(symbols[0], prototype, a=1.0)
        return float((known.get_volume() / len(known) / (unit.get_volume() / len(unit))) ** (1 / 3))
    return float(PROTOTYPES[prototype] * (covalent_radii[number] + covalent_radii[atomic_numbers[symbols[-1]]]))


# ---- commands ------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    """Calculate what the command says of a structure, into a folder."""
    if args.json and args.txt == "-":
        raise UsageError("--json and --txt - both write to the standard output")
    options = _calculator_options(args)
    atoms, name = read_structure(args.structure_or_name, args.structure, args.a)
    if args.magmom is not None:
        atoms.set_initial_magnetic_moments(parse_magmoms(args.magmom, atoms.get_chemical_symbols()))
    folder = args.output or Path(f"nnxc-{args.command}-{name}")
    return int(args.calculate(args, atoms, folder, options))


def _calculator(args: argparse.Namespace, folder: Path, options: dict[str, Any]) -> Calculator:
    return make_calculator(**options, txt=args.txt or str(folder / "log.txt"))


def _eos(args: argparse.Namespace, atoms: Atoms, folder: Path, options: dict[str, Any]) -> int:
    from ase_nnxc.eos import ScanError, scan_eos

    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = scan_eos(
            atoms,
            _calculator(args, folder, options),
            folder=folder,
            points=args.points,
            span=args.span,
            order=args.order,
            max_points=args.max_points,
            smooth_cutoff=options["smooth_cutoff"],
            force=args.force,
        )
    except ScanError as error:
        return complain(error, 1)
    except KeyboardInterrupt:
        return complain(f"interrupted; finished points are kept in {folder}, the same command goes on from them", 130)
    data = result.todict()
    if args.json:
        print(json.dumps(data, indent=1))
        return 0
    rows = (
        ("volume", "V0_A3", "V0_error_A3", "A^3", 4),
        ("free energy", "F0_eV", "F0_error_eV", "eV", 6),
        ("bulk modulus", "B0_GPa", "B0_error_GPa", "GPa", 2),
        ("its derivative", "B0_prime", "B0_prime_error", "", 2),
    )
    print(f"{data['formula']}: equation of state from {len(result.fitted)} points, free energies, per cell")
    if data["a0_A"] is None:
        print(f"  {'cell lengths':<18}{'  '.join(f'{x:.5f}' for x in data['cell_lengths_A'])} A")
    else:
        print(_row("lattice constant", data["a0_A"], data["a0_error_A"], "A", 5))
    for title, key, error_key, unit, digits in rows:
        print(_row(title, data[key], data[error_key], unit, digits))
    if data.get("extrapolated_a0_A") is not None:
        print(_row("a0, zero width", data["extrapolated_a0_A"], None, "A   (extrapolated energies)", 5))
    elif "extrapolated_V0_A3" in data:
        print(_row("V0, zero width", data["extrapolated_V0_A3"], None, "A^3 (extrapolated energies)", 4))
    if atoms.get_initial_magnetic_moments().any() and data["magmom_muB"] is not None:
        print(_row("magnetic moment", data["magmom_muB"], None, "mu_B", 4))
    print(f"  {'smooth cutoff':<18}{'on' if options['smooth_cutoff'] else 'off'}")
    print(f"  {'results':<18}{folder}")
    return 0


def _row(title: str, value: float, error: float | None, unit: str, digits: int) -> str:
    margin = "" if error is None else f" +- {error:.{digits}f}"
    return f"  {title:<18}{value:.{digits}f}{margin} {unit}".rstrip()


def _energy(args: argparse.Namespace, atoms: Atoms, folder: Path, options: dict[str, Any]) -> int:
    from ase_nnxc.folder_lock import folder_lock

    with folder_lock(folder):
        atoms.calc = _calculator(args, folder, options)
        data = _evaluate(atoms)
        per_cell = " per cell" if atoms.pbc.any() else ""
        return _finish(args, atoms, folder, data, f"{data['formula']}: energies{per_cell}")


def _relax(args: argparse.Namespace, atoms: Atoms, folder: Path, options: dict[str, Any]) -> int:
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from ase_nnxc.calculator import has_stress
    from ase_nnxc.folder_lock import folder_lock

    if args.cell and not has_stress(atoms):
        raise UsageError("--cell needs periodic directions, and a layer three cell vectors")
    with folder_lock(folder):
        atoms.calc = _calculator(args, folder, options)
        target: Any = FrechetCellFilter(atoms) if args.cell else atoms  # the filter stands in for the atoms
        with BFGS(target, trajectory=str(folder / "relax.traj"), logfile=str(folder / "relax.log")) as optimizer:
            converged = bool(optimizer.run(fmax=args.fmax, steps=args.steps))
            steps = optimizer.get_number_of_steps()
        data = _evaluate(atoms) | {"converged": converged, "steps": steps, "cell_relaxed": args.cell}
        what = "positions and cell" if args.cell else "positions"
        outcome = f"{data['formula']}: {what} {'relaxed' if converged else 'not relaxed'} in {steps} steps"
        _finish(args, atoms, folder, data, outcome)
    return 0 if converged else complain(f"not relaxed to {args.fmax} eV/A in {steps} steps; see {folder}", 1)


def _bands(args: argparse.Namespace, atoms: Atoms, folder: Path, options: dict[str, Any]) -> int:
    from ase.dft.bandgap import GapInfo
    from ase.io.jsonio import encode
    from matplotlib.figure import Figure

    from ase_nnxc.folder_lock import folder_lock

    with folder_lock(folder):
        atoms.calc = _calculator(args, folder, options)
        atoms.get_potential_energy()
        fixed = atoms.calc.fixed_density({"path": args.path, "npoints": args.npoints})
        bands = fixed.band_structure()
        bands.write(folder / "bands.json")
        figure = Figure()
        axes = figure.subplots()
        bands.subtract_reference().plot(ax=axes, emin=-15, emax=10)
        axes.set_ylabel("energies - Fermi level [eV]")
        figure.savefig(folder / "bands.png", dpi=150)
        if args.json:
            print(encode(bands))
            return 0
        print(f"{atoms.get_chemical_formula()}: {bands.energies.shape[-1]} bands along {bands.path.path}")
        print(_row("Fermi level", bands.reference, None, "eV", 4))
        print(_row("gap on the path", GapInfo.fromcalc(fixed).gap()[0], None, "eV", 4))
        print(f"  {'results':<18}{folder}")
    return 0


def _evaluate(atoms: Atoms) -> dict[str, Any]:
    """Energies, forces, stress and the structure, with the unit in each key."""
    import numpy as np
    from ase import units

    calc = atoms.calc
    periodic = bool(atoms.pbc.any()) and atoms.cell.rank == 3
    stress = atoms.get_stress() if periodic and "stress" in calc.implemented_properties else None
    forces = atoms.get_forces(apply_constraint=False)
    magmom = calc.results.get("magmom")
    return {
        "formula": atoms.get_chemical_formula(),
        "free_energy_eV": float(atoms.get_potential_energy(force_consistent=True)),
        "energy_eV": float(atoms.get_potential_energy()),
        "forces_eV_per_A": forces.tolist(),
        "largest_force_eV_per_A": float(np.linalg.norm(forces, axis=1).max()),
        "stress_GPa": None if stress is None else (stress / units.GPa).tolist(),
        "pressure_GPa": None if stress is None or not atoms.pbc.all() else float(-stress[:3].mean() / units.GPa),
        "magmom_muB": None if magmom is None else float(magmom),
        "cell_A": atoms.cell.tolist(),
        "cell_lengths_A": atoms.cell.lengths().tolist(),
        "positions_A": atoms.positions.tolist(),
        "numbers": atoms.numbers.tolist(),
    }


def _finish(args: argparse.Namespace, atoms: Atoms, folder: Path, data: dict[str, Any], title: str) -> int:
    """Write JSON and structures, print JSON or a table."""
    from ase.io import write
    from ase.io.jsonio import encode

    data["parameters"] = json.loads(encode(atoms.calc.todict()))
    text = json.dumps(data, indent=1)
    (folder / f"{args.command}.json").write_text(text + "\n")
    write(folder / "final.extxyz", atoms)
    if args.command == "relax" and atoms.pbc.all():
        write(folder / "final.cif", atoms)
    if args.json:
        print(text)
        return 0
    print(title)
    print(_row("free energy", data["free_energy_eV"], None, "eV", 6))
    print(_row("energy", data["energy_eV"], None, "eV  (zero width)", 6))
    print(_row("largest force", data["largest_force_eV_per_A"], None, "eV/A", 5))
    if data["pressure_GPa"] is not None:
        print(_row("pressure", data["pressure_GPa"], None, "GPa", 4))
    if atoms.get_initial_magnetic_moments().any() and data["magmom_muB"] is not None:
        print(_row("magnetic moment", data["magmom_muB"], None, "mu_B", 4))
    if args.command == "relax" and atoms.pbc.any():
        print(f"  {'cell lengths':<18}{'  '.join(f'{x:.5f}' for x in data['cell_lengths_A'])} A")
    print(f"  {'results':<18}{folder}")
    return 0
