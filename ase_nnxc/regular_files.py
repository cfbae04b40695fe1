"""Files whose names users give: only regular files are read and replaced, up to a size that fits their kind.

Opening a FIFO waits for a writer, and a device such as /dev/zero has no end.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device file",
    stat.S_IFBLK: "a device file",
}


def check_regular_file(path: str | os.PathLike[str], limit: int, *, follow_links: bool = True) -> os.stat_result:
    """Raise OSError unless a path is a regular file of an allowed size.

    Parameters
    ----------
    path : str or PathLike
        The file.
    limit : int
        Largest size, bytes.
    follow_links : bool
        Whether a symbolic link stands for its target; otherwise it is an error.

    Returns
    -------
    stat_result
        Status of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it is of another kind, or larger. The attribute `strerror` is the reason without the path.
    """
    status = os.stat(path, follow_symlinks=follow_links)
    _check_status(status, limit, path)
    return status


def read_regular_file(path: str | os.PathLike[str], limit: int, *, follow_links: bool = True) -> bytes:
    """Return the content of a regular file of an allowed size; arguments and errors are those of `check_regular_file`.

    The open file is checked again, so that a FIFO that takes the place of the file is not read.
    """
    check_regular_file(path, limit, follow_links=follow_links)  # opening a device may already act on it
    never_wait = getattr(os, "O_NONBLOCK", 0) | (0 if follow_links else getattr(os, "O_NOFOLLOW", 0))
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | never_wait)) as file:
        size = _check_status(os.fstat(file.fileno()), limit, path)
        data = file.read(size + 1)
    if len(data) != size:
        raise OSError(errno.EIO, f"its size is {size} bytes, but {len(data)} or more were read", os.fspath(path))
    return data


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Raise OSError if a path exists and is not a regular file: a link or a device that a new file would replace."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        target = f" to {os.readlink(path)}" if stat.S_ISLNK(status.st_mode) else ""
        raise OSError(errno.EEXIST, f"it is {_kind(status)}{target}, which is not replaced", os.fspath(path))


@contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside `path`, which takes its place at the end, unless there is an exception.

    A process that is killed leaves the temporary file, and `path` as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_status(status: os.stat_result, limit: int, path: str | os.PathLike[str]) -> int:
    """Return the size of a file; raise OSError unless it is regular and not too large."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"it is {_kind(status)}, expected a regular file", os.fspath(path))
    if status.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, more than the limit {limit}", os.fspath(path))
    return status.st_size


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
