"""What commands share: bad input, complaints, tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import NoReturn


class UsageError(Exception):
    """Bad input, in one line."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Raise."""
        raise UsageError(message)


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add --import, which `import_modules` carries out before the command runs."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="Python module that registers an architecture of yours, on the path or in this folder (may be repeated)",
    )


def import_modules(names: Iterable[str]) -> None:
    """Import modules as `python -m` would find them: in the working folder too."""
    import importlib
    import os

    for name in names:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the module does
            raise UsageError(f"--import {name}: {type(error).__name__}: {error}") from error


def printable(text: str) -> str:
    """Text in one line without control characters, which a file may hold and a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def complain(error: object, code: int) -> int:
    """Tell of an error in one line; return the exit code given."""
    text = printable(str(error))
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"nnxc: error: {text or type(error).__name__}" if code != 130 else f"nnxc: {text}", file=sys.stderr)
    return code


def closest(name: str, known: Iterable[str]) -> str:
    """A hint at the name that was meant, for the end of a message."""
    from difflib import get_close_matches

    matches = get_close_matches(name, list(known), n=5, cutoff=0.5)
    matches.sort(key=lambda match: not name.lower().startswith(match.lower()))  # stable: else the closest stays first
    return f"; did you mean {matches[0]!r}?" if matches else ""
