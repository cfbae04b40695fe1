"""Command lines of the scripts."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parse(
    description: str, metavar: str, known: Sequence[str], files: Sequence[str] = (), option: str | None = None
) -> argparse.Namespace:
    """Return the arguments of a script: paths and `names`, by default all that are known; exit if one is not known.

    Parameters
    ----------
    description : str
        What --help prints.
    metavar : str
        What a name is a name of.
    known : sequence of str
        Names that are allowed.
    files : sequence of str
        Names of the paths that come first.
    option : str, optional
        Name of something else that the script does with a path.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for file in files:
        parser.add_argument(file.lower(), metavar=file, type=Path)
    if option is not None:
        parser.add_argument(f"--{option}", metavar="FILE", type=Path, help="do this instead, with a file")
    parser.add_argument("names", metavar=metavar, nargs="*", help=f"of {', '.join(known)} (default: all)")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"unknown {metavar} {', '.join(unknown)}; expected some of {', '.join(known)}")
    arguments.names = arguments.names or list(known)
    return arguments
