"""Run Quantum ESPRESSO (pw.x) on an ASE structure with PySCF's Goedecker-Teter-Hutter tables or with UPF files.

    from qe import run_qe
    run_qe(bulk("Al", a=4.05), ecut=20, kpts=(8, 8, 8))["energy"]      # free energy in Hartree

Energies are in Hartree, lengths in bohr, the stress is (1/V) dE/d(strain) in Hartree bohr^-3.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.units import Bohr, Hartree

INPUT_DFT = {"PBE": "pbe", "PBEsol": "pbesol", "LDA": "sla+pw+nogx+nogc"}
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
# Time and memory of a command, from a small process: the peak memory of a child begins at that of its parent.
MEASURE = """\
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.call(sys.argv[1:])
seconds, usage = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
used = {"wall_s": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "memory_MB": usage.ru_maxrss / 1024}
json.dump(used, open("usage.json", "w"))
"""
INPUT = """\
&control
  calculation='{calculation}', disk_io='{disk_io}', tprnfor=.true., tstress=.true., pseudo_dir='.', outdir='.'
/
&system
  ibrav=0, nat={nat}, ntyp={ntyp}, ecutwfc={ecutwfc!r}, input_dft='{dft}'
  occupations='smearing', smearing='{smearing}', degauss={degauss!r}
{options}
/
&electrons
  conv_thr={conv_thr:.1e}, diago_thr_init={threshold}, electron_maxstep=200, mixing_beta={beta!r}
/
{moves}
ATOMIC_SPECIES
{species}
CELL_PARAMETERS bohr
{cell}
ATOMIC_POSITIONS crystal
{positions}
K_POINTS {kpts}
"""


def read_gth(symbol: str, name: str) -> list[str]:
    """Return the words of a table in PySCF's GTH_POTENTIALS file.

    Parameters
    ----------
    symbol
        Chemical symbol.
    name
        A name that the file knows for this element, such as "gth-pbe" or "gth-pbe-q18".

    Returns
    -------
    list of str
        The line of shell occupations as one entry, then each number of the file as an entry.

    Raises
    ------
    LookupError
        If PySCF is not installed or has no such table.
    """
    pyscf = importlib.util.find_spec("pyscf")
    if pyscf is None or pyscf.origin is None:
        raise LookupError("the GTH tables are part of PySCF, which is not installed")
    path = Path(pyscf.origin).parent / "pbc/gto/pseudo/GTH_POTENTIALS"
    blocks = re.split(r"\n(?=[A-Z][a-z]? )", re.sub(r"#.*", "", path.read_text()))
    for block in blocks:
        title, _, body = block.partition("\n")
        if title.split()[:1] == [symbol] and name.lower() in title.lower().split()[1:]:
            shells, _, numbers = body.partition("\n")
            return [shells, *numbers.split()]
    raise LookupError(f"PySCF's GTH_POTENTIALS has no {name} for {symbol}")


def write_psp10(symbol: str, name: str, path: Path) -> int:
    """Write a GTH table as the psp10 file (ABINIT's pspcod 10) that pw.x reads under the suffix .gth.

    Parameters
    ----------
    symbol, name
        As for `read_gth`.
    path
        File to write.

    Returns
    -------
    int
        Number of valence electrons.
    """
    shells, *numbers = read_gth(symbol, name)
    valence = sum(map(int, shells.split()))
    words = iter(numbers)
    radius, nlocal = next(words), int(next(words))
    local = [next(words) for _ in range(nlocal)]
    channels = int(next(words))
    lines = [
        f"{symbol} {name}",
        f"{atomic_numbers[symbol]} {valence} 0   zatom, zion, pspdat",
        f"10 11 {max(channels - 1, 0)} 0 2001 0   pspcod, pspxc, lmax, lloc, mmax, r2well",
        " ".join([radius, str(nlocal), *local]),
        str(max(channels, 1)),
    ]
    for channel in range(channels):
        channel_radius, n = next(words), int(next(words))
        rows = [" ".join(next(words) for _ in range(n - i)) for i in range(n)]  # upper triangle of h
        lines += [" ".join([channel_radius, str(n), *rows[:1]]), *rows[1:]]
        if channel > 0:  # the coefficients of spin-orbit coupling are zero
            lines += [" ".join(["0.0"] * (n - i)) for i in range(n)] or ["0.0"]
    if channels == 0:  # pw.x rejects a table without projectors: add one of strength zero
        lines.append("0.3 1 0.0")
    path.write_text("\n".join(lines) + "\n")
    return valence


def copy_upf(source: Path, path: Path) -> int:
    """Copy a UPF file and return its number of valence electrons."""
    text = source.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    return round(float(re.findall(r"z_valence\s*=\s*\"([^\"]*)\"", text)[0]))


def run_qe(
    atoms: Atoms,
    *,
    ecut: float,
    kpts: Sequence[int],
    xc: str = "PBE",
    smearing: str = "gaussian",
    width: float = 0.01,
    pseudo: str = "gth-pbe",
    q: Mapping[str, int] | None = None,
    files: Mapping[str, Path] | None = None,
    nbands: int | None = None,
    fft: Sequence[int] | None = None,
    conv_thr: float = 1e-11,
    beta: float = 0.7,
    moment: float | None = None,
    points: Sequence[Sequence[float]] | None = None,
    ranks: int = 1,
    relax: bool = False,
) -> dict[str, Any]:
    """Run an SCF with forces and stress by pw.x, and eigenvalues at the converged density.

    Parameters
    ----------
    atoms
        The crystal. Spin-polarised if its initial magnetic moments are not all zero; atoms of one element with
        different moments become different species of the same table.
    ecut
        Plane-wave cutoff in Hartree.
    kpts
        Divisions (n1, n2, n3) of a mesh that contains Gamma.
    xc
        "PBE", "PBEsol" or "LDA".
    smearing
        "gaussian", "cold" (Marzari-Vanderbilt), "fermi-dirac" or "methfessel-paxton".
    width
        Width of the smearing in Hartree.
    pseudo
        Family of the tables, such as "gth-pbe".
    q
        Valence charge by element where it differs from the default of the family.
    files
        UPF file by element, instead of GTH tables.
    nbands
        Number of bands; None is pw.x's choice.
    fft
        FFT box (n1, n2, n3); None is pw.x's choice.
    conv_thr
        Estimated energy error in Rydberg at which the SCF has converged.
    beta
        Fraction of the density residual that is mixed in.
    moment
        Fixed total moment (Bohr magnetons), or None.
    points
        K-points (nk, 3), scaled, for eigenvalues; without spin only.
    ranks
        Number of MPI processes, between which the k-points are divided, or with fewer k-points the plane waves.
    relax
        Whether to relax cell and positions, with pw.x's criteria; the results are then those of the last geometry.

    Returns
    -------
    dict
        energy (free energy F, Hartree), forces (natoms, 3) in Hartree bohr^-1, stress (3, 3) in Hartree bohr^-3,
        fermi_eV (of the first spin if the moment is fixed), magmom and absolute_magmom in Bohr magnetons, valence by
        element, volume (bohr^3), geometries (number of SCFs), fft ("n1, n2, n3"), nk (number of irreducible k-points),
        scf_steps, wall_s and cpu_s (whole run, seconds), memory_MB (peak of the largest process), and eigenvalues_eV
        (nk, nbands) if there are points.

    Raises
    ------
    RuntimeError
        If pw.x does not converge.
    """
    labels, species = _species(atoms)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        symbols, suffix = {s for s, _ in species.values()}, "gth" if files is None else "upf"
        if files is None:
            tables = {s: f"{pseudo}-q{q[s]}" if q and s in q else pseudo for s in symbols}
            valence = {s: write_psp10(s, table, folder / f"{s}.gth") for s, table in tables.items()}
        else:
            valence = {s: copy_upf(files[s], folder / f"{s}.upf") for s in symbols}
        options = [f"nr{i + 1}={n}, nr{i + 1}s={n}" for i, n in enumerate(fft or ())]
        options += [f"nbnd={nbands}"] if nbands else []
        options += [f"tot_magnetization={moment!r}"] if moment is not None else []
        if any(moment for _, moment in species.values()):
            options.append("nspin=2")
            options += [
                f"starting_magnetization({i})={moment / valence[s]:.8f}"
                for i, (s, moment) in enumerate(species.values(), start=1)
            ]
        common = {
            "nat": len(atoms),
            "ntyp": len(species),
            "ecutwfc": 2.0 * ecut,  # Rydberg
            "dft": INPUT_DFT[xc],
            "smearing": smearing,
            "degauss": 2.0 * width,
            "options": "\n".join(f"  {option}" for option in options),
            "conv_thr": conv_thr,
            "beta": beta,
            "moves": "&ions\n/\n&cell\n/" if relax else "",
            "species": "\n".join(f"{label} 1.0 {s}.{suffix}" for label, (s, _) in species.items()),
            "cell": "\n".join(map(row, atoms.cell.array / Bohr)),
            "positions": "\n".join(
                f"{label} {row(position)}"
                for label, position in zip(labels, atoms.get_scaled_positions(wrap=False), strict=True)
            ),
        }
        mesh, kept = f"automatic\n{' '.join(map(str, kpts))} 0 0 0", "none" if points is None else "low"
        scf = INPUT.format(
            calculation="vc-relax" if relax else "scf", disk_io=kept, threshold="1d-4", kpts=mesh, **common
        )
        pools = ranks if math.prod(kpts) >= ranks else 1
        out, usage = _run_pwx(folder, scf, ranks, pools)
        if "convergence has been achieved" not in out:
            raise RuntimeError(f"pw.x did not converge; its output ends with\n{out[-3000:]}")
        result = {**_parse(out, len(atoms)), "valence": valence, **usage}
        if points is not None:
            listed = "\n".join([f"crystal\n{len(points)}", *(f"{row(point)} 1.0" for point in points)])
            bands = INPUT.format(calculation="bands", disk_io="low", threshold="1d-12", kpts=listed, **common)
            out, _ = _run_pwx(folder, bands, ranks, pools)
            if "JOB DONE" not in out:
                raise RuntimeError(f"the bands of pw.x failed; its output ends with\n{out[-3000:]}")
            result["eigenvalues_eV"] = _eigenvalues(folder / "pwscf.xml")
        return result


def row(vector: Sequence[float]) -> str:
    """Return a vector with the 12 decimals of an input file."""
    return " ".join(f"{x:.12f}" for x in vector)


def _species(atoms: Atoms) -> tuple[list[str], dict[str, tuple[str, float]]]:
    """Return the label of each atom, and the element and initial moment (Bohr magnetons) of each label."""
    kinds = list(zip(atoms.get_chemical_symbols(), atoms.get_initial_magnetic_moments().tolist(), strict=True))
    distinct = list(dict.fromkeys(kinds))
    moments_of = {s: [m for other, m in distinct if other == s] for s, _ in distinct}
    label_of = {(s, m): f"{s}{moments_of[s].index(m) + 1}" if len(moments_of[s]) > 1 else s for s, m in distinct}
    return [label_of[kind] for kind in kinds], {label: kind for kind, label in label_of.items()}


def _eigenvalues(path: Path) -> list[list[float]]:
    """Return the eigenvalues (nk, nbands), eV, from the XML file (in Hartree) of a run of pw.x without spin."""
    found = ElementTree.parse(path).iter("eigenvalues")
    return [[float(f"{float(word) * Hartree:.5f}") for word in (levels.text or "").split()] for levels in found]


def _run_pwx(folder: Path, text: str, ranks: int, pools: int) -> tuple[str, dict[str, float]]:
    """Run pw.x on an input in a folder, with k-points in pools of ranks; return its output, time and peak memory."""
    (folder / "in").write_text(text)
    command = ["pw.x", "-i", "in"]
    if ranks > 1:
        command = ["mpirun", "-np", str(ranks), *command, "-nk", str(pools)]
    with (folder / "out").open("w") as out:
        subprocess.run(
            [sys.executable, "-S", "-c", MEASURE, *command],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
            check=False,  # the output says what went wrong
        )
    return (folder / "out").read_text(), json.loads((folder / "usage.json").read_text())


def _parse(out: str, natoms: int) -> dict[str, Any]:
    """Return the results in Hartree atomic units from the output of pw.x, which is in Rydberg atomic units."""

    def last(pattern: str, default: float) -> float:
        return float((re.findall(pattern, out) or [default])[-1]) + 0.0  # -0.0 becomes 0.0

    forces = re.findall(r"atom +\d+ type +\d+ +force = +(\S+) +(\S+) +(\S+)", out)[-natoms:]
    stress = [line.split()[:3] for line in out[out.rindex("total   stress") :].splitlines()[1:4]]
    return {
        "energy": last(r"\n!.*=\s+(\S+) Ry", np.nan) / 2,
        "forces": (np.array(forces, dtype=float) / 2 + 0.0).tolist(),
        "stress": (-np.array(stress, dtype=float) / 2 + 0.0).tolist(),  # pw.x prints -(1/V) dE/d(strain)
        "fermi_eV": last(r"Fermi energ(?:y is|ies are)\s+(\S+)", np.nan),
        "magmom": last(r"total magnetization\s+=\s+(\S+)", 0.0),
        "absolute_magmom": last(r"absolute magnetization\s+=\s+(\S+)", 0.0),
        "fft": ", ".join(re.findall(r"FFT dim.*\((.*)\)", out)[0].replace(" ", "").split(",")),
        "nk": int(last(r"number of k points=\s+(\d+)", np.nan)),
        "geometries": len(re.findall(r"\n!.*= ", out)),
        "volume": last(r"unit-cell volume\s+=\s+(\S+)", np.nan),
        "scf_steps": int(last(r"convergence has been achieved in\s+(\d+)", np.nan)),
    }
