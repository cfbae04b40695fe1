"""Processes that are killed while they write: what was finished before stays, and the next process goes on from it.

benchmarks/kills.py kills all kinds of runs at random moments; test_trainer.py kills trainings at chosen ones.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from test_package import PACKAGE

from ase_nnxc import NNXCCalculator
from ase_nnxc.eos import scan_eos
from ase_nnxc.train.samples import Samples, sample_mesh

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no processes to kill here")

# replaces a function that writes a file by one that writes it, cuts it to half of its length, and kills the process
PREPARE = """
import os, signal
from pathlib import Path

def killing(owner, name, path, count=1):
    original, calls = getattr(owner, name), []
    def wrapper(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            file = path(*args)
            os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, wrapper)
"""

SCAN = """
from ase.build import bulk
from ase.calculators.emt import EMT
from ase_nnxc.eos import scan_eos
from ase_nnxc.eos.points import PointFile

killing(PointFile, "_write", lambda self, *_: self._path, count=4)
scan_eos(bulk("Cu", a=3.59), EMT(), folder=".")
"""

WRITE = """
from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator import restart

atoms = NNXCCalculator.read_atoms("si.nnxc")
atoms.positions[0] += 0.01
atoms.get_potential_energy()
killing(restart, "save_file", lambda tensors, path, metadata: path)
atoms.calc.write("si.nnxc")
"""

SAVE = """
import numpy as np
from ase_nnxc.train.samples import sample_mesh

killing(np, "savez", lambda file, **_: Path(file.name))
sample_mesh(8, seed=2).save("points.npz")
"""


def run_until_killed(code: str, folder: Path) -> None:
    """Run a program, which kills itself, in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PREPARE + code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_scan_that_is_killed_in_the_middle_of_a_point_keeps_the_others_and_its_folder_is_free(tmp_path):
    run_until_killed(SCAN, tmp_path)
    points = tmp_path / "points.jsonl"
    before = points.read_bytes().splitlines(keepends=True)
    whole = [line for line in before if line.endswith(b"\n")]
    assert whole
    resumed = scan_eos(bulk("Cu", a=3.59), EMT(), folder=tmp_path)
    undisturbed = scan_eos(bulk("Cu", a=3.59), EMT())
    assert points.read_bytes().splitlines(keepends=True)[: len(whole)] == whole
    assert [p.free_energy_eV for p in resumed.points] == [p.free_energy_eV for p in undisturbed.points]


def test_restart_file_survives_a_process_that_is_killed_while_it_writes_the_next(tmp_path):
    atoms = bulk("Si")
    atoms.calc = NNXCCalculator(ecut=100, kpts=(1, 1, 1))
    energy = atoms.get_potential_energy()
    atoms.calc.write(tmp_path / "si.nnxc")
    run_until_killed(WRITE, tmp_path)
    again = NNXCCalculator.read_atoms(tmp_path / "si.nnxc")
    assert np.array_equal(again.positions, atoms.positions)
    assert again.get_potential_energy() == energy
    again.calc.write(tmp_path / "si.nnxc")


def test_samples_survive_a_process_that_is_killed_while_it_writes_the_next(tmp_path):
    sample_mesh(8, seed=1).save(tmp_path / "points.npz")
    run_until_killed(SAVE, tmp_path)
    assert Samples.load(tmp_path / "points.npz").digest == sample_mesh(8, seed=1).digest
