"""Lattice constants of many crystals, as jobs of Dask.

    pip install distributed
    python examples/many_crystals.py [SYMBOL ...]

Each job is a scan in a folder of its own, from which it resumes if everything is started again. A job that fails is
reported, and the others go on. `LocalCluster` starts processes on this machine; on a cluster `SLURMCluster` of
dask-jobqueue takes its place and submits them to Slurm.
"""

import os
import sys
from pathlib import Path

from dask.distributed import Client, LocalCluster, as_completed


def lattice_constant(symbol: str) -> float:
    """Return the lattice constant of an element in ASE's structure, Angstrom."""
    from ase.build import bulk

    from ase_nnxc import NNXCCalculator
    from ase_nnxc.eos import scan_eos

    calc = NNXCCalculator("PBE", kpts={"density": 3.0, "gamma": True})
    return scan_eos(bulk(symbol), calc, folder=Path("many-crystals") / symbol).conventional_a


def main() -> None:
    """Run one job for each element, one on each core at a time."""
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers inherit it
    symbols = sys.argv[1:] or ["Al", "Cu", "Si"]
    with LocalCluster(threads_per_worker=1) as cluster, Client(cluster) as client:
        jobs = {client.submit(lattice_constant, symbol): symbol for symbol in symbols}
        for job in as_completed(jobs):
            outcome = f"{job.result():.4f} Angstrom" if job.status == "finished" else f"failed: {job.exception()}"
            print(f"{jobs[job]}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
