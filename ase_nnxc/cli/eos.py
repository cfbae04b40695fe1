"""``nnxc eos``: lattice constant and bulk modulus from a scan of the volume."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import count
from .calculations import add_calculation, logging_calculator
from .common import Parser, complain, table_row

if TYPE_CHECKING:
    from ase import Atoms


def add_parsers(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command `eos`."""
    eos = add_calculation(commands, "eos", _eos, help="lattice constant and bulk modulus from a scan of the volume")
    eos.add_argument("--points", type=int, default=7, metavar="N", help="number of points in the fit (odd, default 7)")
    eos.add_argument(
        "--span", type=float, default=0.06, metavar="X", help="relative volume range of the first window (default 0.06)"
    )
    eos.add_argument("--order", choices=("up", "down"), default="up", help="order of the volumes in the first window")
    eos.add_argument(
        "--max-points", type=int, default=25, metavar="N", help="largest number of points in the scan (default 25)"
    )
    eos.add_argument(
        "--groups",
        type=count,
        default=1,
        metavar="N",
        help="number of groups of the processes of torchrun, which calculate different volumes at the same time "
        "(default 1)",
    )
    eos.add_argument("--force", action="store_true", help="discard the points of another scan in the output folder")


def _eos(args: argparse.Namespace, atoms: Atoms, folder: Path, options: dict[str, Any]) -> int:
    from ase_nnxc.eos.scan import ScanError, scan_eos

    folder.mkdir(parents=True, exist_ok=True)
    try:
        result = scan_eos(
            atoms,
            logging_calculator(args, folder, options),
            folder=folder,
            points=args.points,
            span=args.span,
            order=args.order,
            max_points=args.max_points,
            smooth_cutoff=options["smooth_cutoff"],
            force=args.force,
            groups=args.groups,
        )
    except ScanError as error:
        return complain(error, 1)
    except KeyboardInterrupt:
        return complain(
            f"interrupted; finished points are kept in {folder}: run the same command again to continue", 130
        )
    data = result.todict()
    if args.json:
        print(json.dumps(data, indent=1))
        return 0
    spin_polarised = bool(atoms.get_initial_magnetic_moments().any())
    print(f"{data['formula']}: equation of state from {len(result.fitted)} points (free energies, per cell)")
    print("\n".join(_rows(data, spin_polarised)))
    print(table_row("smooth cutoff", "on" if options["smooth_cutoff"] else "off"))
    print(table_row("results", folder))
    return 0


def _rows(data: dict[str, Any], spin_polarised: bool) -> list[str]:
    """Return the fit as the rows of a table."""
    if data["a0_A"] is None:
        rows = [table_row("cell lengths", f"{'  '.join(f'{x:.5f}' for x in data['cell_lengths_A'])} A")]
    else:
        rows = [table_row("lattice constant", data["a0_A"], data["a0_error_A"], "A", 5)]
    quantities = (
        ("volume", "V0_A3", "V0_error_A3", "A^3", 4),
        ("free energy", "F0_eV", "F0_error_eV", "eV", 6),
        ("bulk modulus", "B0_GPa", "B0_error_GPa", "GPa", 2),
        ("dB0/dP", "B0_prime", "B0_prime_error", "", 2),
    )
    rows += [table_row(title, data[key], data[error], unit, digits) for title, key, error, unit, digits in quantities]
    rows += _model_rows(data)
    if data.get("extrapolated_a0_A") is not None:
        rows.append(table_row("a0, zero width", data["extrapolated_a0_A"], None, "A   (extrapolated energies)", 5))
    elif "extrapolated_V0_A3" in data:
        rows.append(table_row("V0, zero width", data["extrapolated_V0_A3"], None, "A^3 (extrapolated energies)", 4))
    if spin_polarised and data["magmom_muB"] is not None:
        rows.append(table_row("magnetic moment", data["magmom_muB"], None, "mu_B", 4))
    return rows


def _model_rows(data: dict[str, Any]) -> list[str]:
    """Return the equilibrium with the probable errors of the functional, if it has them, as rows of a table."""
    quantities = (
        ("a0, functional", "a0_A", "a0_model_error_A", "A", 5),
        ("V0, functional", "V0_A3", "V0_model_error_A3", "A^3", 4),
        ("B0, functional", "B0_GPa", "B0_model_error_GPa", "GPa", 2),
    )
    return [
        table_row(title, data[key], data[error], unit, digits)
        for title, key, error, unit, digits in quantities
        if data.get(error) is not None
    ]
