"""Estimate a plane-wave cutoff for every GTH table from its pseudo-atom; writes ase_nnxc/data/cutoffs.json.

    python benchmarks/estimate_cutoffs.py        (about two minutes; "measured" cutoffs of the file are kept)

Formula. The neutral, spherical pseudo-atom in its tabulated configuration is solved self-consistently (exchange of the
uniform electron gas) in the free waves j_l(q r) of a sphere of RADIUS. In its potential, kept fixed, the sum of the
occupied eigenvalues E(Ecut) is then computed with only the waves of q^2/2 <= Ecut. The estimate is the smallest Ecut,
and at least MINIMUM, with

    E(Ecut) - E(infinity) <= THRESHOLD                                                                   per atom.

The truncation error of an atom agrees with that of its crystal (QE at 0.95 of the volume, coarse mesh; a0: shift of
the lattice constant due to the error of dE/dV, from 0.95 and 1.05 of the volume):

                          Ecut, Ha           crystal, mHa per atom   atom, mHa               a0, %
    fcc Pd, q18           30, 40, 50, 60     104, 26, 6.6, 1.6       96, 26, 6.3, 1.8        -0.49, 0.00, 0.07, 0.01
    fcc Ni, q18           80, 100, 120, 140  277, 63, 13, 2.6        255, 53, 14, 2.7        -1.08, -0.15, -0.01, -0.02
    diamond, q4           25, 34, 43, 52     31, 11, 3.4, 1.2        25, 10, 2.9, 1.2        0.21, 0.33, 0.02, 0.04
    MgO, q2 and q6        45, 60, 75, 90     121, 45, 17, 6.8 (sum)  117, 45, 18, 7.2 (O)    0.38, -0.12, 0.04, 0.00

Most of the error does not depend on the volume. The lattice constant therefore converges long before the total energy:
0.1 % is reached at 3 (C) to 26 mHa (Pd). The estimates are 0.83 to 1.38 times the thirteen cutoffs measured by
benchmarks/measure_cutoffs.py. MINIMUM is for soft tables, whose solids need more than their atoms because the set of
plane waves changes in steps with the volume. Simpler estimates are poor: c / r^2 with the smallest radius r of a table
scatters around these cutoffs by a factor of 1.4 to 1.6 (up to 7).
"""

import json
import math
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from ase.calculators.calculator import InputError
from ase.data import atomic_numbers
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import spherical_jn
from tqdm import tqdm

from ase_nnxc.pseudopotentials import GTH, Entry, library
from ase_nnxc.pseudopotentials.families import FILES

Array = NDArray[np.float64]
Cutoffs = dict[str, dict[str, int]]  # Hartree by element and table

THRESHOLD = 3e-3  # Hartree per atom
MINIMUM = 20.0  # Hartree
CONVERGED = 700.0  # Hartree, in place of infinity
RADIUS = 8.0  # bohr
GRID = (np.arange(1600) + 0.5) * RADIUS / 1600  # bohr, (n,)
STEP = RADIUS / len(GRID)
WHAT = (
    "Plane-wave cutoffs in Hartree that converge a lattice constant to 0.1 %, by element and table. measured: from "
    "lattice constants. estimated: by benchmarks/estimate_cutoffs.py, which states how."
)
OUTPUT = Path(__file__).parents[1] / "ase_nnxc" / "data" / "cutoffs.json"


@cache
def free_waves(angular: int) -> tuple[Array, Array]:
    """Return wave numbers q (m,), bohr^-1, of the j_l(q r) that vanish at RADIUS, and r * wave, normalised, (m, n)."""
    x = np.pi * np.arange(1, math.sqrt(2 * CONVERGED) * RADIUS / np.pi + 8)
    for order in range(1, angular + 1):  # the zeros of j_l lie between those of j_(l-1)
        x = np.array([brentq(partial(spherical_jn, order), a, b) for a, b in pairwise(x)])
    q = x[x < math.sqrt(2 * CONVERGED) * RADIUS] / RADIUS
    waves = GRID * spherical_jn(angular, q[:, None] * GRID)
    return q, waves / np.sqrt((waves**2).sum(axis=1, keepdims=True) * STEP)


def fixed_parts(table: GTH) -> list[Array]:
    """Compute the kinetic and separable energy (m, m) of each occupied l."""
    matrices = []
    for angular in range(len(np.trim_zeros(table.configuration, "b"))):
        q, waves = free_waves(angular)
        matrix = np.diag(0.5 * q**2)
        for channel in (c for c in table.channels if c.l == angular):
            projectors = np.array([waves @ (GRID * channel.in_space(i, GRID)) * STEP for i in range(len(channel.h))])
            matrix = matrix + projectors.T @ np.array(channel.h) @ projectors
        matrices.append(matrix)
    return matrices


def occupied(electrons: int, angular: int) -> list[int]:
    """Return the electrons in each level of one l, lowest first."""
    full = 2 * (2 * angular + 1)
    return [min(full, electrons - start) for start in range(0, electrons, full)]


def screening(density: Array, core: Array | float) -> Array:
    """Compute the Hartree potential (n,) of a spherical density (n,), bohr^-3, plus exchange of it and the core's."""
    shells = 4 * np.pi * GRID**2 * density * STEP  # electrons
    inside = np.cumsum(shells) - 0.5 * shells
    outside = np.cumsum((shells / GRID)[::-1])[::-1] - 0.5 * shells / GRID
    return inside / GRID + outside - np.cbrt(3 * (density + core) / np.pi)


def pseudo_atom(entry: Entry) -> list[Array]:
    """Compute the Hamiltonian (m, m) of each occupied l in the self-consistent potential of the neutral atom."""
    table = entry.read()
    local, fixed = table.local_in_space(GRID), fixed_parts(table)
    core = 0.0 if table.core is None else table.core.in_space(GRID)
    potential = 0.8 * sum(entry.configuration) / np.maximum(GRID, 1.0)
    for _ in range(200):
        density = np.zeros_like(GRID)
        hamiltonians = []
        for angular, matrix in enumerate(fixed):
            waves = free_waves(angular)[1]
            hamiltonians.append(matrix + (waves * (local + potential)) @ waves.T * STEP)
            orbitals = np.linalg.eigh(hamiltonians[-1])[1].T @ waves
            for f, u in zip(occupied(entry.configuration[angular], angular), orbitals):
                density += f * u**2 / (4 * np.pi * GRID**2)
        residual = screening(density, core) - potential
        if (np.abs(residual) * density * GRID**2).sum() * 4 * np.pi * STEP < 1e-3:
            return hamiltonians
        potential = potential + 0.3 * residual
    raise RuntimeError(f"{entry.symbol} {entry.name}: the pseudo-atom has not converged")


def level_sum(entry: Entry, hamiltonians: list[Array], cutoff: float) -> float:
    """Compute the sum of the occupied eigenvalues, Hartree, with the waves up to a cutoff, Hartree."""
    total = 0.0
    for angular, hamiltonian in enumerate(hamiltonians):
        n = int((0.5 * free_waves(angular)[0] ** 2 <= cutoff).sum())
        f = occupied(entry.configuration[angular], angular)
        total += float(np.linalg.eigvalsh(hamiltonian[:n, :n])[: len(f)] @ f)
    return total


def estimate(entry: Entry) -> int:
    """Compute the recommended cutoff of one table, Hartree, rounded up."""
    hamiltonians = pseudo_atom(entry)
    limit = level_sum(entry, hamiltonians, CONVERGED) + THRESHOLD
    low, high = 0.0, CONVERGED
    while high - low > 0.5:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if level_sum(entry, hamiltonians, middle) <= limit else (middle, high)
    return math.ceil(max(high, MINIMUM))


def entries() -> list[Entry]:
    """List every table of both files once, by element."""
    tables = {
        (entry.symbol, entry.name): entry
        for prefix in FILES
        for family in library(prefix).values()
        for element in family.values()
        for entry in element.values()
    }
    return sorted(tables.values(), key=lambda entry: (atomic_numbers[entry.symbol], entry.name))


def main() -> None:
    """Estimate all tables and rewrite the data file, one line for each element."""
    estimated: Cutoffs = {}
    for entry in tqdm(entries(), disable=None):
        try:
            estimated.setdefault(entry.symbol, {})[entry.name] = estimate(entry)
        except InputError as error:
            print("skipped:", error)
    measured = json.loads(OUTPUT.read_text())["measured"] if OUTPUT.exists() else {}
    write(measured, estimated)


def write(measured: Cutoffs, estimated: Cutoffs) -> None:
    """Write the data file."""
    parts = {"measured": measured, "estimated": estimated}
    text = [f'  "{how}": {{{_lines(elements)}}}' for how, elements in parts.items()]
    OUTPUT.write_text("{\n" + f'  "what": "{WHAT}",\n' + ",\n".join(text) + "\n}\n")


def _lines(elements: Cutoffs) -> str:
    lines = [f'    "{symbol}": {json.dumps(tables)}' for symbol, tables in elements.items()]
    return "\n" + ",\n".join(lines) + "\n  " if lines else ""


if __name__ == "__main__":
    main()
