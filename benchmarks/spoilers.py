"""Ways to spoil a file; for spoiled_files.py. Each is a function of its bytes and of a generator of random numbers."""

from __future__ import annotations

import gzip
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

Spoiler = Callable[[bytes, Random], bytes]

NUMBER = re.compile(rb"(?<![\w.])[-+]?\d+\.?\d*(?:[eEdD][-+]?\d+)?(?![\w.])")
LAUGHS = b"a0: &a0 [ha, ha]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 10)
)


def span(data: bytes, rng: Random) -> tuple[int, int]:
    """Return a place in the file, and one at most 300 bytes behind it."""
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.randrange(1, 300))


def cut(data: bytes, rng: Random) -> bytes:
    """Cut the file off."""
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: Random) -> bytes:
    """Flip one bit."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def remove(data: bytes, rng: Random) -> bytes:
    """Remove a part."""
    start, end = span(data, rng)
    return data[:start] + data[end:]


def repeat(data: bytes, rng: Random) -> bytes:
    """Repeat a part."""
    start, end = span(data, rng)
    return data[:end] + data[start:end] + data[end:]


def overwrite(data: bytes, rng: Random) -> bytes:
    """Put random bytes in the place of a part."""
    start, end = span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def erase(data: bytes, rng: Random) -> bytes:
    """Put zeros in the place of a part, as a disk does that lost a block."""
    start, end = span(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def lines(change: Callable[[list[bytes], int, int], None]) -> Spoiler:
    """Return a change of two lines."""

    def spoil(data: bytes, rng: Random) -> bytes:
        rows = data.splitlines(keepends=True)
        change(rows, rng.randrange(len(rows)), rng.randrange(len(rows)))
        return b"".join(rows)

    return spoil


def swap(rows: list[bytes], i: int, j: int) -> None:
    """Swap two lines."""
    rows[i], rows[j] = rows[j], rows[i]


def number(word: bytes | Callable[[bytes], bytes]) -> Spoiler:
    """Return a change of one number."""

    def spoil(data: bytes, rng: Random) -> bytes:
        match = rng.choice(list(NUMBER.finditer(data)))
        return data[: match.start()] + (word if isinstance(word, bytes) else word(match[0])) + data[match.end() :]

    return spoil


def insert(word: bytes) -> Spoiler:
    """Return an insertion at a random place."""

    def spoil(data: bytes, rng: Random) -> bytes:
        place = rng.randrange(len(data))
        return data[:place] + word + data[place:]

    return spoil


def always(content: bytes) -> Spoiler:
    """Return another content."""
    return lambda data, rng: content


OF_ALL: dict[str, tuple[int, Spoiler]] = {
    "cut off": (6, cut),
    "one bit flipped": (8, flip),
    "a part removed": (3, remove),
    "a part repeated": (3, repeat),
    "random bytes in a part": (3, overwrite),
    "zeros in a part": (3, erase),
    "empty": (1, always(b"")),
    "one byte": (1, always(b"\0")),
    "only zeros": (1, lambda data, rng: bytes(len(data))),
    "only random bytes": (2, lambda data, rng: rng.randbytes(len(data))),
    "random bytes behind it": (1, lambda data, rng: data + rng.randbytes(100)),
    "twice the file": (1, lambda data, rng: data + data),
    "another beginning": (2, lambda data, rng: rng.randbytes(8) + data[8:]),
    "compressed": (1, lambda data, rng: gzip.compress(data)),
    "a pickle": (1, lambda data, rng: pickle.dumps({"data": data})),
    "a program": (1, always(b"\x7fELF\x02\x01\x01" + bytes(500))),
    "deep lists": (1, always(b"[" * 1_000_000)),
    "deep mappings": (1, always(b'{"a":' * 300_000)),
}
OF_TEXT: dict[str, tuple[int, Spoiler]] = {
    "two lines swapped": (3, lines(swap)),
    "a line removed": (3, lines(lambda rows, i, j: rows.pop(i) and None)),
    "a line repeated": (3, lines(lambda rows, i, j: rows.insert(i, rows[i]))),
    "NaN for a number": (4, number(b"NaN")),
    "infinity for a number": (2, number(b"Infinity")),
    "1e999 for a number": (2, number(b"1e999")),
    "1e300 for a number": (2, number(b"1e300")),
    "twenty digits for a number": (2, number(b"9" * 20)),
    "5000 digits for a number": (2, number(b"1" * 5000)),
    "the other sign": (2, number(lambda word: word[1:] if word[:1] == b"-" else b"-" + word)),
    "text for a number": (3, number(b"abc")),
    "true for a number": (2, number(b"true")),
    "an empty list for a number": (2, number(b"[]")),
    "nothing for a number": (2, number(b"")),
    "deep lists for a number": (1, number(b"[" * 200_000)),
    "an alias bomb": (1, always(LAUGHS)),
    "a billion laughs behind it": (1, lambda data, rng: data + LAUGHS),
    "ends of lines of Windows": (1, lambda data, rng: data.replace(b"\n", b"\r\n")),
    "UTF-16": (1, lambda data, rng: data.decode().encode("utf-16")),
    "a byte that is not UTF-8": (2, insert(b"\xff")),
    "a null character": (1, insert(b"\0")),
    "one long line": (1, lambda data, rng: data.replace(b"\n", b" ")),
    "ten million spaces": (1, always(b" " * 10_000_000)),
    "a million empty lines": (1, always(b"\n" * 1_000_000)),
    "a line of ten million characters": (1, lambda data, rng: data + b"a" * 10_000_000),
}


def no_file(path: Path) -> None:
    """Leave no file."""


def sparse(path: Path) -> None:
    """A file of 1 TiB that takes no place on the disk."""
    with path.open("wb") as file:
        file.truncate(2**40)


OF_PATHS: dict[str, Callable[[Path], object]] = {
    "no file": no_file,
    "a folder": Path.mkdir,
    "a FIFO": os.mkfifo,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/tty": lambda path: path.symlink_to("/dev/tty"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "1 TiB": sparse,
}
