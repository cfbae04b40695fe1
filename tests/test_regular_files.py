"""Files that are not regular ones, or too large, are neither read nor waited for nor replaced."""

import os
import socket
from pathlib import Path

import pytest

from ase_nnxc.regular_files import check_regular_file, check_replaceable, read_regular_file


def irregular(kind: str, folder: Path) -> Path:
    """A path of a kind that is not a regular file."""
    path = folder / "irregular"
    if kind == "a device file":
        return Path("/dev/zero")
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # the absolute one may be too long
    return path


@pytest.mark.parametrize("kind", ["a FIFO", "a device file", "a folder", "a socket"])
def test_what_is_not_a_regular_file_is_refused_by_its_kind(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = irregular(kind, tmp_path)
    for read in (read_regular_file, check_regular_file):
        with pytest.raises(OSError, match=f"it is {kind}, expected a regular file") as error:
            read(path, 100)
        assert error.value.filename == str(path)
    with pytest.raises(OSError, match=f"it is {kind}, which is not replaced"):
        check_replaceable(path)


def test_regular_file_is_read_up_to_the_limit(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\x00\r\n" * 4)
    assert read_regular_file(path, 12) == b"\x00\r\n" * 4
    assert check_regular_file(path, 12).st_size == 12
    with pytest.raises(OSError, match="it has 12 bytes, more than the limit 11"):
        read_regular_file(path, 11)


def test_file_of_the_system_that_has_more_than_its_size_is_refused():
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here")
    with pytest.raises(OSError, match="its size is 0 bytes, but 1 or more were read"):
        read_regular_file("/proc/self/maps", 100)


def test_link_is_followed_only_if_allowed_and_never_replaced(tmp_path):
    link, file = tmp_path / "link", tmp_path / "file"
    file.write_bytes(b"content")
    link.symlink_to(file)
    assert read_regular_file(link, 100) == b"content"
    with pytest.raises(OSError, match="it is a symbolic link, expected a regular file"):
        read_regular_file(link, 100, follow_links=False)
    with pytest.raises(OSError, match=f"it is a symbolic link to {file}, which is not replaced"):
        check_replaceable(link)


def test_missing_file_is_a_file_not_found_error_and_may_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_regular_file(tmp_path / "none", 100)
    check_replaceable(tmp_path / "none")
    (tmp_path / "file").touch()
    check_replaceable(tmp_path / "file")
