"""Run ABINIT on an ASE structure with the Goedecker-Teter-Hutter pseudopotentials that PySCF ships.

    from abinit import run_abinit
    run_abinit(bulk("Si", a=5.43), ecut=20, kpts=(4, 4, 4))["energy"]      # free energy in Hartree

ABINIT is the reference where pw.x is in error. Units as in `qe.run_qe`.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Bohr
from qe import row, write_psp10

IXC = {"PBE": 11, "LDA": 7, "SCAN": -263267, "r2SCAN": -497498}  # negative numbers are those of libxc
OCCOPT = {"gaussian": 7, "fermi-dirac": 3}
INPUT = """\
ntypat {ntypat} znucl {znucl} natom {natom} typat {typat}
pseudos "{pseudos}"
rprim
{cell}
xred
{positions}
ecut {ecut!r} ixc {ixc} usekden {usekden} occopt {occopt} tsmear {width!r} {box}
kptopt 1 ngkpt {kpts} nshiftk 1 shiftk 0 0 0
nstep 100 tolvrs 1e-13 optforces 1 optstress 1 chkprim 0 chksymtnons 0
prtwf 0 prtden 0 prteig 0 prtgsr 0 prtebands 0
"""


def run_abinit(
    atoms: Atoms,
    *,
    ecut: float,
    kpts: Sequence[int],
    xc: str = "PBE",
    smearing: str = "gaussian",
    width: float = 0.01,
    pseudo: str = "gth-pbe",
    fft: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Run an SCF with forces and stress by ABINIT, without spin polarisation.

    Parameters
    ----------
    atoms
        The crystal.
    ecut
        Plane-wave cutoff in Hartree.
    kpts
        Divisions (n1, n2, n3) of a mesh that contains Gamma.
    xc
        "PBE", "LDA", "SCAN" or "r2SCAN".
    smearing
        "gaussian" or "fermi-dirac".
    width
        Width of the smearing in Hartree.
    pseudo
        Family of the pseudopotentials, such as "gth-pbe".
    fft
        FFT box (n1, n2, n3); None is ABINIT's choice.

    Returns
    -------
    dict
        energy (free energy F, Hartree), forces (natoms, 3) in Hartree bohr^-1, stress (3, 3) in Hartree bohr^-3 (absent
        for meta-GGAs, where that of ABINIT 9.6.2 disagrees with differences of its own energies),
        magmom (0), valence by element, fft ("n1, n2, n3"), nk (number of irreducible k-points), wall_s.

    Raises
    ------
    RuntimeError
        If ABINIT does not converge.
    """
    symbols = atoms.get_chemical_symbols()
    species = list(dict.fromkeys(symbols))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = INPUT.format(
            ntypat=len(species),
            znucl=" ".join(str(atomic_numbers[s]) for s in species),
            natom=len(atoms),
            typat=" ".join(str(1 + species.index(s)) for s in symbols),
            pseudos=", ".join(f"{s}.psp10" for s in species),
            cell="\n".join(map(row, atoms.cell.array / Bohr)),
            positions="\n".join(map(row, atoms.get_scaled_positions(wrap=False))),
            ecut=ecut,
            ixc=IXC[xc],
            usekden=int("SCAN" in xc),
            occopt=OCCOPT[smearing],
            width=width,
            box="ngfft " + " ".join(map(str, fft)) if fft else "",
            kpts=" ".join(map(str, kpts)),
        )
        valence = {s: write_psp10(s, pseudo, folder / f"{s}.psp10") for s in species}
        (folder / "run.abi").write_text(text)
        start = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        log = subprocess.run(["abinit", "run.abi"], cwd=folder, env=environment, capture_output=True, text=True).stdout
        wall = time.perf_counter() - start
        if "=>converged" not in log:
            raise RuntimeError(f"ABINIT did not converge; its log ends with\n{log[-3000:]}")
        out = (folder / "run.abo").read_text()
    result = {**_parse(out, len(atoms)), "valence": valence, "wall_s": wall}
    return {key: value for key, value in result.items() if key != "stress" or "SCAN" not in xc}


def _parse(out: str, natoms: int) -> dict[str, Any]:
    """Return the results in Hartree atomic units from ABINIT's main output."""

    def block(title: str, lines: int) -> list[list[float]]:
        found = out[out.index(title) :].splitlines()[1 : 1 + lines]
        return [[float(x) + 0.0 for x in re.findall(r"[-\d.]+E[-+]\d+", line)] for line in found]  # -0.0 becomes 0.0

    def last(pattern: str) -> str:
        return re.findall(pattern, out)[-1]

    return {
        "energy": float(last(r"total_energy +: +(\S+)")),  # internal energy - kT entropy
        "forces": block("cartesian_forces", natoms),
        "stress": block("cartesian_stress_tensor", 3),
        "magmom": 0.0,
        "fft": ", ".join(last(r"ngfft +(\d+ +\d+ +\d+)").split()),
        "nk": int(last(r"nkpt +(\d+)")),
    }
