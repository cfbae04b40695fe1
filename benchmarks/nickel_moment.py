"""Print the moment of fcc nickel for a series of k-point meshes, and write benchmarks/nickel_moment.json.

    python benchmarks/nickel_moment.py [MESH ...]            (default 8 10 12 14 18; the last takes some minutes)

PBE, gth-pbe-q18, a = 3.52 Angstrom, 100 Ha, Gaussian smearing of 0.0025 Ha, meshes that contain Gamma.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ase.build import bulk
from ase.units import Hartree

from ase_nnxc import NNXCCalculator, __version__

OUTPUT = Path(__file__).with_suffix(".json")
ECUT, WIDTH = 100.0, 0.0025  # Hartree
PSEUDOS = "gth-pbe-q18"


def main() -> None:
    """Calculate each mesh from scratch, starting from 0.6 Bohr magnetons."""
    rows = json.loads(OUTPUT.read_text())["meshes"] if OUTPUT.exists() else {}
    for n in map(int, sys.argv[1:] or (8, 10, 12, 14, 18)):
        atoms = bulk("Ni", "fcc", a=3.52)
        atoms.set_initial_magnetic_moments([0.6])
        atoms.calc = NNXCCalculator(
            ecut=ECUT * Hartree,
            kpts={"size": (n, n, n), "gamma": True},
            pseudos=PSEUDOS,
            smearing={"name": "gaussian", "width": WIDTH * Hartree},
            convergence={"energy": 1e-8},
        )
        clock = time.perf_counter()
        energy = atoms.get_potential_energy(force_consistent=True)
        seconds = time.perf_counter() - clock
        rows[str(n)] = {
            "moment_muB": atoms.get_magnetic_moment(),
            "free_energy_eV": energy,
            "seconds": round(seconds, 1),
        }
        print(f"{n:3d}^3   {atoms.get_magnetic_moment():.4f} mu_B   {energy:.6f} eV   {seconds:.1f} s", flush=True)
        settings = {"version": __version__, "pseudos": PSEUDOS, "a_A": 3.52, "ecut_Ha": ECUT}
        settings |= {"width_Ha": WIDTH, "smearing": "gaussian"}
        ordered = dict(sorted(rows.items(), key=lambda row: int(row[0])))
        OUTPUT.write_text(json.dumps({"settings": settings, "meshes": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
