"""The ``nnxc`` command. Each module but `command` and `common` holds commands of one sort."""

from .command import main

__all__ = ["main"]
