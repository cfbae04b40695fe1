"""Processes of Python that several files of tests start."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import ase_nnxc


def in_another_process(arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run Python with one thread of torch and the package under test, wherever it lies."""
    package = Path(ase_nnxc.__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(package.parent)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done
