"""Check the core density: the nitrogen atom by CP2K's program for atoms and by plane waves.

    python benchmarks/nitrogen_atom.py [--ecut 2400 3600 4800] [--data /usr/share/cp2k]

A half-filled shell is spherical, as CP2K's radial equations require. The calculation is unrestricted PBE with
gth-nlcc-pbe-q5. cp2k.psmp and its data files are in Debian's packages cp2k and cp2k-data.
"""

import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path

from ase import Atoms
from ase.units import Hartree

from ase_nnxc import NNXCCalculator

INPUT = """\
&GLOBAL
  PROGRAM_NAME ATOM
&END GLOBAL
&ATOM
  ELEMENT N
  RUN_TYPE ENERGY
  ELECTRON_CONFIGURATION (4) CORE 2s2 2p3
  CORE [He]
  MAX_ANGULAR_MOMENTUM 1
  &METHOD
    METHOD_TYPE UKS
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL
    &END XC
  &END METHOD
  &OPTIMIZATION
    EPS_SCF 1.e-10
  &END OPTIMIZATION
  &PP_BASIS
    BASIS_TYPE GEOMETRICAL_GTO
    GEO_START_VALUE 0.015
    GEOMETRICAL_FACTOR 1.6
    NUM_GTO 22 22
    QUADRATURE GC_SIMPLE
    GRID_POINTS 8000
  &END PP_BASIS
  &POTENTIAL
    PSEUDO_TYPE GTH
    POTENTIAL_FILE_NAME {data}/NLCC_POTENTIALS
    POTENTIAL_NAME GTH-NLCC-PBE-q5
  &END POTENTIAL
  &PRINT
    &METHOD_INFO
    &END METHOD_INFO
  &END PRINT
&END ATOM
"""


def cp2k(data: Path) -> float:
    """Return the energy by CP2K, Hartree."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "n.inp").write_text(INPUT.format(data=data))
        command, environment = ["cp2k.psmp", "-i", "n.inp"], {**os.environ, "OMP_NUM_THREADS": "1"}
        log = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    return float(re.findall(r"Total Energy ::\s+(\S+)", log)[-1])


def plane_waves(ecut: float) -> float:
    """Return the energy by ase_nnxc, Hartree, for a cutoff in eV."""
    atom = Atoms("N")
    settings = {"smearing": {"name": "gaussian", "width": 0.005}, "convergence": {"energy": 1e-7}}
    atom.calc = NNXCCalculator(ecut=ecut, pseudos="gth-nlcc-pbe", hund=True, smooth_cutoff=True, **settings)
    return atom.get_potential_energy(force_consistent=True) / Hartree


def main() -> None:
    """Print the energies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ecut", type=float, nargs="+", default=[2400.0, 3600.0, 4800.0], help="eV")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/cp2k"), help="folder of CP2K's data files")
    arguments = parser.parse_args()
    reference = cp2k(arguments.data)
    print(f"CP2K       {reference:14.7f} Ha")
    for ecut in arguments.ecut:
        energy = plane_waves(ecut)
        print(f"{ecut:6.0f} eV  {energy:14.7f} Ha   difference {energy - reference:10.2e} Ha", flush=True)


if __name__ == "__main__":
    main()
