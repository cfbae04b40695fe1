"""Shared by the commands: errors in the input, messages, rows of tables."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn


class UsageError(Exception):
    """Invalid input, described in one line."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` with the message of argparse."""
        raise UsageError(message)


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add the option --import; `import_modules` imports its modules before the command runs."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module, installed or in this folder, that registers your own architecture (may be repeated)",
    )


def import_modules(names: Iterable[str]) -> None:
    """Import modules by name from where `python -m` finds them, which includes the working folder."""
    import importlib

    for name in names:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(name)
        except Exception as error:  # a module may raise anything
            raise UsageError(f"--import {name}: {type(error).__name__}: {error}") from error


def folder_of_new_model(args: argparse.Namespace) -> Path:
    """Return the folder that a new model is saved in, from the options --name, --version and --root.

    Raises
    ------
    UsageError
        If the name is not valid, or is taken, by a functional or by a model of this version.
    InputError
        If the version is too large, or the folder cannot be written.
    """
    from ase_nnxc.checkpoints import CheckpointError, is_reserved, model_roots, parse_name
    from ase_nnxc.train.schema import writable_folder

    if is_reserved(args.name, args.root):
        raise UsageError(f"--name {args.name}: the name is already used by a functional of ase_nnxc, libxc or PySCF")
    try:
        _, version = parse_name(args.name)
    except CheckpointError as error:
        raise UsageError(f"--name: {error}") from error
    if version is not None:
        raise UsageError(f"--name {args.name}: the version is given by --version")
    name = f"{args.name}@{args.version}"
    parse_name(name)
    root: Path = args.root or model_roots()[-1].folder
    if (root / name).exists():
        raise UsageError(f"{root / name} exists: versions are never overwritten, use the next one")
    writable_folder(root, "--root")
    return root


def is_one_of_several() -> bool:
    """Whether `torchrun` started several processes for a command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_rank() -> bool:
    """Whether this is the only process of a command, or the first of those that `torchrun` started."""
    return not is_one_of_several() or os.environ.get("RANK") == "0"


def printable(text: str) -> str:
    """Return the text in one line, without control characters that a terminal would execute."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def complain(error: object, code: int) -> int:
    """Print an error in one line to standard error and return the exit code."""
    text = printable(str(error))
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"nnxc: error: {text or type(error).__name__}" if code != 130 else f"nnxc: {text}", file=sys.stderr)
    return code


def closest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion of the closest known name, for the end of a message, or an empty string."""
    from difflib import get_close_matches

    matches = get_close_matches(name, list(known), n=5, cutoff=0.5)
    matches.sort(key=lambda match: not name.lower().startswith(match.lower()))  # the sort is stable
    return f"; did you mean {matches[0]!r}?" if matches else ""


def table_row(title: str, value: object, error: float | None = None, unit: str = "", digits: int | None = None) -> str:
    """Return a row of a printed table: title, value with so many decimals, standard error, unit."""
    text = str(value) if digits is None else f"{value:.{digits}f}"
    margin = "" if error is None else f" +- {error:.{digits}f}"
    return f"  {title:<18}{text}{margin} {unit}".rstrip()
