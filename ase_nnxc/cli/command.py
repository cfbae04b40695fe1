"""The command itself: its subcommands, warnings and exit codes."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from . import calculations, models
from .common import Parser, UsageError, complain


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 for a failed computation, 2 for bad input, 130 when interrupted."""
    try:
        return _run(_parser().parse_args(argv))
    except UsageError as error:
        return complain(error, 2)
    except KeyboardInterrupt:
        return complain("interrupted", 130)


def _parser() -> Parser:
    from ase_nnxc import __version__

    parser = Parser(prog="nnxc", description="Kohn-Sham calculations of crystals with plane waves in PyTorch.")
    parser.add_argument("--version", action="version", version=f"nnxc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    calculations.add_parsers(commands)
    models.add_parsers(commands)
    return parser


def _run(args: argparse.Namespace) -> int:
    """Call the function that the subcommand's parser has set as `run`."""
    from ase.calculators.calculator import CalculationFailed, CalculatorError, PropertyNotImplementedError

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            return int(args.run(args))
        except CalculationFailed as error:
            return complain(error, 1)
        except (CalculatorError, PropertyNotImplementedError, OSError) as error:
            return complain(error, 2)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"nnxc: warning: {' '.join(str(message).split())}", file=sys.stderr)
