"""Memory that a command keeps for its next arrays."""

import ctypes
import platform
from types import SimpleNamespace

import pytest

from ase_nnxc.cli import command
from ase_nnxc.cli.allocator import keep_freed_memory


@pytest.mark.parametrize(("libc", "calls"), [("glibc", [(-4, 0), (-1, 2**31 - 1)]), ("musl", []), ("", [])])
def test_options_are_those_of_glibc_and_set_there_only(monkeypatch, libc, calls):
    made = []
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *option: made.append(option)))
    keep_freed_memory()
    assert made == calls


def test_only_a_process_of_the_command_keeps_memory(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: calls.append(None))
    monkeypatch.setattr("sys.argv", ["nnxc", "models", "list"])
    command.main(["models", "list"])
    assert not calls
    command.main()
    assert len(calls) == 1
