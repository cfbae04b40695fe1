"""The command itself: its subcommands, warnings and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from . import calculations, clone, models, train
from .common import Parser, UsageError, add_import_option, complain, import_modules, printable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 for a failed computation, 2 for bad input, 130 if interrupted, 141 if unread."""
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
    clone.add_parsers(commands)
    train.add_parsers(commands)
    for command in commands.choices.values():
        if command.get_default("run"):  # not `models`, whose own commands have it
            add_import_option(command)
    return parser


def _run(args: argparse.Namespace) -> int:
    """Call the function that the subcommand's parser has set as `run`."""
    from ase.calculators.calculator import CalculationFailed, CalculatorError, PropertyNotImplementedError

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            import_modules(getattr(args, "imports", ()))
            code = int(args.run(args))
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # as after `| head`; the exit of Python shall not try to write either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except CalculationFailed as error:
            return complain(error, 1)
        except (CalculatorError, PropertyNotImplementedError, OSError) as error:
            return complain(error, 2)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"nnxc: warning: {printable(str(message))}", file=sys.stderr)
