"""Processes of Python that several files of tests start."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.distributed as dist

import ase_nnxc


def in_another_process(arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run Python with one thread of torch and the package under test, wherever it lies."""
    package = Path(ase_nnxc.__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package.parent)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def results_of_ranks(script: str | Path, folder: Path, count: int = 2) -> list[Any]:
    """Run a script that calls `run_ranks` with a folder, and return what the ranks wrote, in their order."""
    if not hasattr(os, "fork"):
        pytest.skip("ranks are forks of one process")
    in_another_process([script, folder])
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def run_ranks(work: Callable[[int, Path], None], count: int = 2) -> NoReturn:
    """Call work(rank, folder) in ranks of torch.distributed; it writes results to "{rank}.json" in the folder."""
    folder, fork = Path(sys.argv[1]), multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_run_rank, args=(work, rank, count, folder)) for rank in range(count)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(any(process.exitcode for process in ranks))


def _run_rank(work: Callable[[int, Path], None], rank: int, count: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    work(rank, folder)
