"""Types of command-line arguments: each turns text into a value or raises `argparse.ArgumentTypeError`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any


def positive(text: str) -> float:
    """Return a positive, finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def count(text: str) -> int:
    """Return a positive integer."""
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def path(text: str) -> Path:
    """Return a path, which is not empty: an empty one would stand for the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''; the current folder is .")
    return Path(text)


def three_counts(text: str) -> tuple[int, ...]:
    """Return three positive integers from ``8,8,8`` or ``8x8x8``."""
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(f"expected three positive integers such as 8,8,8, got {text!r}")
    return tuple(int(p) for p in parts)


def kpoints(text: str) -> dict[str, Any]:
    """Return the keyword `kpts`: a density from a single number, a size from three."""
    try:
        density = float(text)
    except ValueError:
        return {"size": three_counts(text), "gamma": True}
    return {"density": positive(text) if density else 0.0, "gamma": True}


def smearing(text: str) -> dict[str, Any]:
    """Return the keyword `smearing` from ``NAME:WIDTH``."""
    name, _, width = text.partition(":")
    try:
        return {"name": name, "width": float(width)}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected NAME:WIDTH with the width in eV, such as marzari-vanderbilt:0.2, got {text!r}"
        ) from None


def pseudopotentials(text: str) -> str | dict[str, str]:
    """Return the keyword `pseudos`: one name for all elements, or a dict from ``Ni=gth-pbe-q18,O=gth-pbe-q6``."""
    if "=" not in text:
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and value for name, _, value in pairs):
        raise argparse.ArgumentTypeError(f"expected a form such as Ni=gth-pbe-q18,O=gth-pbe-q6, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}
