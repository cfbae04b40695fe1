"""``nnxc pseudo``: a pseudopotential for an element and a functional, as files for other programs and a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .common import Parser, table_row


def add_parsers(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `pseudo`."""
    pseudo = commands.add_parser(
        "pseudo", help="generate a pseudopotential, draw it, and write it as UPF and psp8 for other programs"
    )
    pseudo.add_argument("symbol", metavar="ELEMENT", help="chemical symbol")
    pseudo.add_argument("--xc", default="PBE", help="functional, as for `nnxc energy` (default PBE)")
    pseudo.add_argument(
        "-o", "--output", type=Path, default=Path(), metavar="DIR", help="folder for the files (default: this one)"
    )
    pseudo.add_argument("--json", action="store_true", help="print JSON instead of a table")
    pseudo.set_defaults(run=_pseudo)


def _pseudo(args: argparse.Namespace) -> int:
    from ase_nnxc.pseudopotentials import generate
    from ase_nnxc.pseudopotentials.oncv.generate import parent_of
    from ase_nnxc.pseudopotentials.oncv.generator import build
    from ase_nnxc.pseudopotentials.oncv.inputs import load_inputs
    from ase_nnxc.pseudopotentials.oncv.plot import plot_generated
    from ase_nnxc.pseudopotentials.psp8 import ixc_of
    from ase_nnxc.pseudopotentials.writing import write_pseudo
    from ase_nnxc.registry import get_functional
    from ase_nnxc.units import HARTREE

    functional = get_functional(args.xc)
    parent = parent_of(functional)
    xc = args.xc if parent is functional else "r2SCAN"
    args.output.mkdir(parents=True, exist_ok=True)
    with_tau = "tau" in parent.features
    table, generated = generate(args.symbol, functional), build(load_inputs(args.symbol, with_tau), parent)
    stem = args.output / f"{args.symbol}-{Path(xc).name}"
    suffixes = [".upf"] if ixc_of(xc) is None else [".upf", ".psp8"]
    if with_tau:  # the formats have no place for the kinetic energy density of the core
        suffixes = []
    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in suffixes]
    for file in files:
        write_pseudo(table, file, xc)
    picture = stem.with_name(f"{stem.name}.png")
    plot_generated(generated, f"{args.symbol}, {xc}", picture)
    data = {
        "element": table.symbol,
        "functional": xc,
        "valence": table.valence,
        "ecut_eV": generated.recommended_cutoff * HARTREE,
        "largest_eigenvalue_error_eV": generated.eigenvalue_error * HARTREE,
        "projectors": {"spdf"[channel.l]: len(channel.functions) for channel in table.channels},
        "files": [str(file) for file in (*files, picture)],
    }
    if args.json:
        print(json.dumps(data, indent=1))
        return 0
    print(f"{table.symbol}: pseudopotential for {xc}")
    print(table_row("valence", table.valence, None, "electrons"))
    print(table_row("cutoff", generated.recommended_cutoff * HARTREE, None, "eV", 0))
    print(table_row("eigenvalues", 1000 * generated.eigenvalue_error * HARTREE, None, "meV, largest error", 3))
    for file in (*files, picture):
        print(table_row("wrote", file))
    return 0
