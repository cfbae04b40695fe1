"""``nnxc energy``, ``relax`` and ``bands``, and what they share with ``nnxc eos``: options, calculator, run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .arguments import count, kpoints, positive, pseudopotentials, smearing, three_counts
from .common import Parser, UsageError, complain, is_first_rank, table_row
from .structures import PROTOTYPES, parse_magmoms, read_structure

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    # (arguments, structure, output folder, keywords of the calculator) -> exit code
    Calculation = Callable[[argparse.Namespace, Atoms, Path, dict[str, Any]], int]

FMAX = 0.01  # eV/A, largest force of a relaxed structure; the SCF allows errors of a tenth


# ---- options -------------------------------------------------------------------------------------------------------


def add_parsers(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the commands `energy`, `relax` and `bands`."""
    add_calculation(commands, "energy", _energy, help="energy, forces and stress of a structure")
    relax = add_calculation(commands, "relax", _relax, help="relax the positions, or positions and cell")
    relax.add_argument("--cell", action="store_true", help="relax the cell too")
    relax.add_argument(
        "--fmax", type=positive, default=FMAX, metavar="F", help=f"largest force at convergence, eV/A (default {FMAX})"
    )
    relax.add_argument("--steps", type=int, default=200, metavar="N", help="maximum number of steps (default 200)")
    bands = add_calculation(commands, "bands", _bands, help="band structure along a path, with a plot")
    bands.add_argument("--path", metavar="GXL", help="special points (default: ASE's path for the lattice)")
    bands.add_argument(
        "--npoints", type=count, default=100, metavar="N", help="number of k-points on the path (default 100)"
    )


def add_calculation(
    commands: argparse._SubParsersAction[Parser], name: str, calculate: Calculation, *, help: str
) -> Parser:
    """Add a command that calculates a structure, with the options that all of these commands share.

    Parameters
    ----------
    commands
        The subparsers of `nnxc`.
    name
        Name of the command.
    calculate
        Function that runs the calculation, writes its results into the output folder and returns an exit code.
    help
        One line for `nnxc --help`.

    Returns
    -------
    Parser
        The parser of the command, for its own options.
    """
    parser = commands.add_parser(name, help=help)
    structure = parser.add_argument_group("structure")
    structure.add_argument(
        "structure_or_name", metavar="STRUCTURE", help="a structure file that ASE reads, an element, or a formula"
    )
    structure.add_argument("--structure", metavar="TYPE", help=f"prototype of a formula: {', '.join(PROTOTYPES)}")
    structure.add_argument(
        "--a", type=positive, metavar="A", help="lattice constant in Angstrom (default: ASE's value, or an estimate)"
    )
    structure.add_argument(
        "--magmom",
        metavar="M",
        help="initial magnetic moments in Bohr magnetons: one for all atoms (2), one per atom (2,-2), or Fe=2.5,O=0",
    )
    settings = parser.add_argument_group("calculation (defaults: those of NNXCCalculator)")
    settings.add_argument(
        "--xc", help="functional: PBE, 0.25*PBE+0.75*PBEsol, name of a model, or path of a checkpoint"
    )
    settings.add_argument("--ecut", type=float, metavar="EV", help="plane-wave cutoff in eV")
    settings.add_argument(
        "--kpts", type=kpoints, metavar="K", help="Gamma-centred mesh (8,8,8), or a density in points per 1/Angstrom"
    )
    settings.add_argument("--smearing", type=smearing, metavar="NAME:EV", help="for example marzari-vanderbilt:0.2")
    settings.add_argument(
        "--pseudos",
        type=pseudopotentials,
        metavar="P",
        help="oncv (made for the functional, the default), GTH family (gth-pbe), file, folder, or Ni=gth-pbe-q18,...",
    )
    settings.add_argument("--nbands", type=int, metavar="N", help="number of bands")
    settings.add_argument("--gpts", type=three_counts, metavar="N,N,N", help="FFT box")
    settings.add_argument("--no-symmetry", dest="symmetry", action="store_false", default=None, help="use no symmetry")
    settings.add_argument(
        "--smooth-cutoff",
        action=argparse.BooleanOptionalAction,
        help="modify the kinetic energy near the cutoff so that E(cell) is smooth "
        "(default: on for eos and relax --cell, otherwise off)",
    )
    settings.add_argument("--device", help="auto, cpu or cuda")
    settings.add_argument("--txt", metavar="FILE", help="log file, - for the terminal (default: DIR/log.txt)")
    output = parser.add_argument_group("results")
    output.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default: nnxc-COMMAND-NAME)")
    output.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run, calculate=calculate)
    return parser


def _calculator_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of the calculator that were given."""
    names = ("xc", "ecut", "kpts", "smearing", "pseudos", "nbands", "gpts", "symmetry", "device")
    options = {name: getattr(args, name) for name in names}
    smooth = args.smooth_cutoff
    options["smooth_cutoff"] = args.command == "eos" or getattr(args, "cell", False) if smooth is None else smooth
    return {name: value for name, value in options.items() if value is not None}


def _run(args: argparse.Namespace) -> int:
    """Read the structure and run the calculation of the command in its output folder."""
    if args.json and args.txt == "-":
        raise UsageError("--json and --txt - both write to standard output")
    options = _calculator_options(args)
    atoms, name = read_structure(args.structure_or_name, args.structure, args.a)
    if args.magmom is not None:
        atoms.set_initial_magnetic_moments(parse_magmoms(args.magmom, atoms.get_chemical_symbols()))
    with _output_folder(args.output or Path(f"nnxc-{args.command}-{name}")) as folder:
        return int(args.calculate(args, atoms, folder, options))


@contextmanager
def _output_folder(folder: Path) -> Iterator[Path]:
    """Yield the output folder on rank 0, and one that is deleted again on the other ranks, which do the same."""
    if is_first_rank():
        yield folder
        return
    with TemporaryDirectory() as unused:
        yield Path(unused)


def make_calculator(**options: Any) -> Calculator:
    """Return the calculator of the commands, whose k-points the processes of `torchrun` share."""
    from ase_nnxc.calculator import NNXCCalculator

    return NNXCCalculator(**options, share_kpoints=True)


def logging_calculator(args: argparse.Namespace, folder: Path, options: dict[str, Any]) -> Calculator:
    """Return a calculator whose log is the file of `--txt`, by default log.txt in the output folder."""
    return make_calculator(**options, txt=args.txt or str(folder / "log.txt"))


# ---- commands ------------------------------------------------------------------------------------------------------


def _energy(args: argparse.Namespace, atoms: Atoms, folder: Path, options: dict[str, Any]) -> int:
    from ase_nnxc.folder_lock import folder_lock

    with folder_lock(folder):
        atoms.calc = logging_calculator(args, folder, options)
        data = _evaluate(atoms)
        per_cell = " per cell" if atoms.pbc.any() else ""
        _report(args, atoms, folder, data, f"{data['formula']}: energies{per_cell}")
    return 0


def _relax(args: argparse.Namespace, atoms: Atoms, folder: Path, options: dict[str, Any]) -> int:
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from ase_nnxc.calculator import has_stress
    from ase_nnxc.calculator.parameters import FINEST_FORCES, FORCES
    from ase_nnxc.folder_lock import folder_lock

    if args.cell and not has_stress(atoms):
        raise UsageError("--cell requires a periodic structure with three cell vectors")
    options = options | {"convergence": {"forces": min(FORCES, max(FINEST_FORCES, 0.1 * args.fmax))}}
    with folder_lock(folder):
        atoms.calc = logging_calculator(args, folder, options)
        target: Any = FrechetCellFilter(atoms) if args.cell else atoms  # the filter stands in for the atoms
        with BFGS(target, trajectory=str(folder / "relax.traj"), logfile=str(folder / "relax.log")) as optimizer:
            converged = bool(optimizer.run(fmax=args.fmax, steps=args.steps))
            steps = optimizer.get_number_of_steps()
        data = _evaluate(atoms) | {"converged": converged, "steps": steps, "cell_relaxed": args.cell}
        relaxed = "positions and cell" if args.cell else "positions"
        outcome = f"{data['formula']}: {relaxed} {'relaxed' if converged else 'not relaxed'} in {steps} steps"
        _report(args, atoms, folder, data, outcome)
    if converged:
        return 0
    return complain(f"the forces have not converged to {args.fmax} eV/A in {steps} steps; results are in {folder}", 1)


def _bands(args: argparse.Namespace, atoms: Atoms, folder: Path, options: dict[str, Any]) -> int:
    from ase.io.jsonio import encode
    from matplotlib.figure import Figure

    from ase_nnxc.folder_lock import folder_lock

    with folder_lock(folder):
        atoms.calc = logging_calculator(args, folder, options)
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
        print(table_row("Fermi level", bands.reference, None, "eV", 4))
        print(table_row("gap on the path", _gap(fixed, atoms.calc.ground_state().crystal.nelectrons), None, "eV", 4))
        print(table_row("results", folder))
    return 0


def _gap(calc: Any, electrons: float) -> float:
    """Return the gap of a calculator with a number of electrons, eV.

    The Fermi level of smeared electrons can lie beyond an edge of a small gap. So levels that hold pairs are counted.
    """
    from ase.dft.bandgap import GapInfo

    pairs = electrons / 2
    if calc.get_spin_polarized() or pairs != round(pairs):
        return float(GapInfo.fromcalc(calc).gap()[0])
    filled, empty = (
        [calc.get_eigenvalues(k)[round(pairs) + i] for k in range(len(calc.get_ibz_k_points()))] for i in (-1, 0)
    )
    return float(max(0.0, min(empty) - max(filled)))


def _evaluate(atoms: Atoms) -> dict[str, Any]:
    """Return energies, forces, stress and the structure; the keys contain the units."""
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


def _report(args: argparse.Namespace, atoms: Atoms, folder: Path, data: dict[str, Any], title: str) -> None:
    """Write the results and the structure into the folder, and print JSON or a table."""
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
        return
    print(title)
    print(table_row("free energy", data["free_energy_eV"], None, "eV", 6))
    print(table_row("energy", data["energy_eV"], None, "eV  (extrapolated to zero smearing width)", 6))
    print(table_row("largest force", data["largest_force_eV_per_A"], None, "eV/A", 5))
    if data["pressure_GPa"] is not None:
        print(table_row("pressure", data["pressure_GPa"], None, "GPa", 4))
    if atoms.get_initial_magnetic_moments().any() and data["magmom_muB"] is not None:
        print(table_row("magnetic moment", data["magmom_muB"], None, "mu_B", 4))
    if args.command == "relax" and atoms.pbc.any():
        print(table_row("cell lengths", f"{'  '.join(f'{x:.5f}' for x in data['cell_lengths_A'])} A"))
    print(table_row("results", folder))
