"""The lock of a folder of results, between real processes."""

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ase.calculators.calculator import InputError
from test_package import PACKAGE

from ase_nnxc.folder_lock import folder_lock, hold_folder

HOLD = """
import sys, time
from pathlib import Path
from ase.calculators.calculator import InputError
from ase_nnxc.folder_lock import folder_lock, hold_folder

folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"{name}.ready").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
try:
    with folder_lock(folder / "run"):
        (folder / f"{name}.holds").touch()
        while not (folder / "end").exists():
            time.sleep(0.01)
except InputError as error:
    (folder / f"{name}.refused").write_text(str(error))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen]]:
    """Start processes that lock the folder run as soon as there is a file go, until there is a file end."""
    processes = []

    def start(name: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
        processes.append(subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), name], env=environment))
        wait_for(tmp_path / f"{name}.ready")
        return processes[-1]

    yield start
    (tmp_path / "end").touch()
    for process in processes:
        process.wait(30)


def wait_for(*paths: Path) -> None:
    """Wait until one of the files exists."""
    limit = time.monotonic() + 60
    while not any(path.exists() for path in paths):
        assert time.monotonic() < limit, f"none of {paths} appeared"
        time.sleep(0.01)


def test_folder_that_another_process_uses_is_refused_by_its_name(tmp_path, start):
    process = start("other")
    (tmp_path / "go").touch()
    wait_for(tmp_path / "other.holds")
    message = f"another run .process {process.pid} on {socket.gethostname()}. is using"
    for _ in range(2):  # the first refusal does not wipe out the name
        with pytest.raises(InputError, match=message), folder_lock(tmp_path / "run"):
            pytest.fail("two processes hold the lock")
    (tmp_path / "end").touch()
    process.wait(30)
    with folder_lock(tmp_path / "run"):
        pass


def test_one_of_two_processes_that_start_together_gets_the_folder(tmp_path, start):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text("1 nowhere")  # as a dead run left it, which both may want to take over
    for name in ("a", "b"):
        start(name)
    (tmp_path / "go").touch()
    wait_for(tmp_path / "a.holds", tmp_path / "b.holds")
    wait_for(tmp_path / "a.refused", tmp_path / "b.refused")
    assert len(list(tmp_path.glob("*.holds"))) == len(list(tmp_path.glob("*.refused"))) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no processes to kill here")
def test_lock_of_a_killed_process_is_free(tmp_path, start):
    process = start("killed")
    (tmp_path / "go").touch()
    wait_for(tmp_path / "killed.holds")
    process.kill()
    process.wait(30)
    with folder_lock(tmp_path / "run"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / "run.owner").read_text()


def test_lock_file_of_an_older_version_does_not_keep_a_run_out(tmp_path):
    (tmp_path / "run.lock").write_text(f"{os.getpid()} {socket.gethostname()}")
    with folder_lock(tmp_path):
        pass
    assert not (tmp_path / "run.owner").exists()


def test_folder_is_free_after_an_exception(tmp_path):
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path):
        _ = 1 / 0
    with folder_lock(tmp_path):
        pass


class User:
    """An object that uses a folder."""


def test_held_folder_keeps_out_other_processes_until_its_users_are_deleted(tmp_path, start):
    users = [User(), User()]
    for user in users:
        hold_folder(user, tmp_path / "run")
    del user, users[0]
    start("other")
    (tmp_path / "go").touch()
    wait_for(tmp_path / "other.refused", tmp_path / "other.holds")
    assert f"process {os.getpid()} on" in (tmp_path / "other.refused").read_text()
    users.clear()
    gc.collect()
    start("next")
    wait_for(tmp_path / "next.refused", tmp_path / "next.holds")
    assert (tmp_path / "next.holds").exists()
