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


def complain(error: object, code: int) -> int:
    """Tell of an error in one line; return the exit code given."""
    text = " ".join(str(error).split())
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
