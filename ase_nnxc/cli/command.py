"""The command `nnxc`: its subcommands, warnings and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout

from . import calculations, clone, eos, models, pseudo, train
from .common import (
    Parser,
    UsageError,
    add_import_option,
    complain,
    import_modules,
    is_first_rank,
    is_one_of_several,
    printable,
)
from .process import keep_freed_memory, skip_last_collections

OF_SEVERAL = ("energy", "eos", "relax", "bands", "train")  # commands whose work several processes can share


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    The code is 0 on success, 1 for a failed calculation, 2 for invalid input, 130 if the command was interrupted, and
    141 if standard output was closed before everything was written. Of several processes, started by `torchrun`, only
    rank 0 prints.
    """
    if argv is None:  # the process is that of the command
        keep_freed_memory()
        skip_last_collections()
    with ExitStack() as stack:
        if not is_first_rank():
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        try:
            return _run(_parser().parse_args(argv))
        except UsageError as error:
            return complain(error, 2)
        except KeyboardInterrupt:
            return complain("interrupted", 130)


def _parser() -> Parser:
    from ase_nnxc import __version__

    parser = Parser(prog="nnxc", description="Plane-wave Kohn-Sham DFT in PyTorch.")
    parser.add_argument("--version", action="version", version=f"nnxc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    calculations.add_parsers(commands)
    eos.add_parsers(commands)
    models.add_parsers(commands)
    pseudo.add_parsers(commands)
    clone.add_parsers(commands)
    train.add_parsers(commands)
    for command in commands.choices.values():
        if command.get_default("run"):  # `models` has it in its own subcommands
            add_import_option(command)
    return parser


def _run(args: argparse.Namespace) -> int:
    """Call the function that the parser of the subcommand has set as `run`."""
    from ase.calculators.calculator import CalculationFailed, CalculatorError, PropertyNotImplementedError

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
            import_modules(getattr(args, "imports", ()))
            code = _run_together(args)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # as with `| head`; Python must not write again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except CalculationFailed as error:
            return complain(error, 1)
        except (CalculatorError, PropertyNotImplementedError, OSError) as error:
            return complain(error, 2)


def _run_together(args: argparse.Namespace) -> int:
    """Call the function of the subcommand; if it fails on one of several processes, end all with its message."""
    if not is_one_of_several():
        return int(args.run(args))
    if args.command not in OF_SEVERAL:
        raise UsageError(f"{args.command} runs in one process: start it without torchrun ({', '.join(OF_SEVERAL)} can)")
    from ase_nnxc.ranks import RankError, world

    try:
        return int(world().together(lambda: args.run(args)))
    except RankError as error:
        return complain(error, 1)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"nnxc: warning: {printable(str(message))}", file=sys.stderr)
