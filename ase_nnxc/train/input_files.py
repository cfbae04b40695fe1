"""Input files: regular files only, of limited size, and a YAML reader that cannot hang.

This module does not load torch.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ase.calculators.calculator import InputError

from ..regular_files import check_regular_file, read_regular_file
from .schema import LARGEST_DEPTH

LARGEST_YAML = 2**18
"""Bytes of the largest YAML file that is read."""

LARGEST_EXPANSION = 20_000
"""Largest number of values in a YAML file after its aliases are replaced by what they stand for."""


def check_input_file(path: Path, largest: int) -> None:
    """Raise an error unless a path is a regular file, or a link to one, of at most `largest` bytes.

    Raises
    ------
    InputError
        If it is a folder, a FIFO, a socket or a device, or if it is larger.
    OSError
        If it does not exist.
    """
    with _input_errors(path):
        check_regular_file(path, largest)


def read_text(path: Path, largest: int) -> str:
    """Return the text of a regular file of at most `largest` bytes.

    Raises
    ------
    InputError
        If the path is not such a file, or its text is not UTF-8.
    OSError
        If the file cannot be read.
    """
    with _input_errors(path):
        content = read_regular_file(path, largest)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: {error}") from error


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Turn the errors of files of a wrong kind or size into InputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EFBIG, errno.EIO):
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        raise


def read_yaml(path: str | Path, example: str = "") -> dict[str, Any]:
    """Read a YAML file that contains a mapping, with a safe loader that executes nothing.

    Duplicate keys are errors. Size, depth and the number of values that aliases stand for are limited, and an alias
    cannot stand for a value that contains it. The message on a file without a mapping ends with the example.

    Raises
    ------
    InputError
        If the file is not a regular file, is not YAML, exceeds a limit, or does not contain a mapping.
    OSError
        If the file cannot be read.
    """
    data = _load_yaml(Path(path))
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{path} must contain a mapping of names to values{example and '; for example '}{example}")
    return data


def read_yaml_list(path: str | Path) -> list[Any]:
    """Read a YAML file that contains a list, with the loader and the limits of `read_yaml`.

    Raises
    ------
    InputError
        If the file is not a regular file, is not YAML, exceeds a limit, or does not contain a list.
    OSError
        If the file cannot be read.
    """
    data = _load_yaml(Path(path))
    if not isinstance(data, list) or not data:
        raise InputError(f"{path} must contain a list of entries")
    return data


def _load_yaml(path: Path) -> Any:
    text = read_text(path, LARGEST_YAML)
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        # those that are not YAMLError: PyYAML's constructors, of a wrong date or a text with the tag of a number
        raise InputError(f"{path} is not YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """Limits depth and aliases, refuses duplicate keys, and reads 1e-3 as a number, as in YAML 1.2."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[yaml.Node, int] = {}  # number of values in each finished node, aliases replaced
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, within the limits of depth and expansion."""
        mark = self.peek_event().start_mark
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth, self._count = self._depth + 1, self._count + 1
        if self._depth > LARGEST_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"more than {LARGEST_DEPTH} nested values", mark)
        if self._count > LARGEST_EXPANSION:
            raise yaml.composer.ComposerError(None, None, f"more than {LARGEST_EXPANSION} values", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and node not in self._sizes:
            raise yaml.composer.ComposerError(None, None, "an alias stands for a value that contains it", mark)
        if node is not None and not is_alias:
            self._sizes[node] = self._size(node)
            if self._sizes[node] > LARGEST_EXPANSION:
                raise yaml.composer.ComposerError(None, None, f"more than {LARGEST_EXPANSION} values", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping without duplicate keys."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def _size(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.MappingNode):
            return 1 + sum(self._sizes[key] + self._sizes[value] for key, value in node.value)
        if isinstance(node, yaml.SequenceNode):
            return 1 + sum(self._sizes[item] for item in node.value)
        return 1


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), "-+0123456789")
