"""The ``nnxc`` command: `command` runs it, and each module with an `add_parsers` defines commands of one kind."""

from .command import main

__all__ = ["main"]
