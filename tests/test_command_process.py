"""What a command sets for its whole process: memory that is kept, and the end of the process."""

import ctypes
import platform
from types import SimpleNamespace

import pytest

from ase_nnxc.cli import command
from ase_nnxc.cli.process import keep_freed_memory


@pytest.mark.parametrize(("libc", "calls"), [("glibc", [(-4, 0), (-1, 2**31 - 1)]), ("musl", []), ("", [])])
def test_options_are_those_of_glibc_and_set_there_only(monkeypatch, libc, calls):
    made = []
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *option: made.append(option)))
    keep_freed_memory()
    assert made == calls


def test_only_a_process_of_the_command_is_changed(monkeypatch, capsys):
    calls = []
    for name in ("keep_freed_memory", "skip_last_collections"):
        monkeypatch.setattr(command, name, lambda name=name: calls.append(name))
    monkeypatch.setattr("sys.argv", ["nnxc", "models", "list"])
    command.main(["models", "list"])
    assert not calls
    command.main()
    assert calls == ["keep_freed_memory", "skip_last_collections"]
