"""Compare with the Quantum ESPRESSO and ABINIT values in tests/data and write the table of docs/accuracy.md.

    python benchmarks/accuracy.py

This takes some minutes. The text of the page outside the table is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from records import in_state_of, load

PAGE = Path(__file__).parents[1] / "docs/accuracy.md"
BEGIN, END = "<!-- table: python benchmarks/accuracy.py -->", "<!-- end of the table -->"
HEAD = """\
| crystal | against | F, µHa | forces, Ha/bohr | stress, Ha/bohr³ | its trace/3 | moment, µB (ref.) | Fermi level, meV |
| --- | --- | --: | --: | --: | --: | --: | --: |
"""


def row(name: str, record: dict[str, Any], code: str) -> str:
    """Return one line of the table: differences from a record, for forces and stress the largest component."""
    atoms, reference = in_state_of(name, record, code), record[code]
    energy = atoms.get_potential_energy(force_consistent=True) / Hartree - reference["energy"]
    forces = atoms.get_forces() * Bohr / Hartree
    forces = forces - forces.mean(axis=0) - reference["forces"]
    moment = (
        "" if atoms.calc.results["magmom"] == 0 else f"{atoms.get_magnetic_moment():.3f} ({reference['magmom']:.2f})"
    )
    cells = [
        name,
        {"qe": "QE", "abinit": "ABINIT"}[code],
        f"{1e6 * energy:+.2f}",
        f"{np.abs(forces).max():.0e}",
        *stress_cells(atoms, reference),
        moment,
        fermi_cell(atoms, reference),
    ]
    return f"| {' | '.join(cells)} |\n"


def stress_cells(atoms: Atoms, reference: dict[str, Any]) -> tuple[str, str]:
    """Return the largest component of the difference of the stress and a third of its trace; empty if unknown."""
    if "stress" not in reference:
        return "", ""
    stress = atoms.get_stress(voigt=False) * Bohr**3 / Hartree - reference["stress"]
    return f"{np.abs(stress).max():.0e}", f"{abs(np.trace(stress)) / 3:.0e}"


def fermi_cell(atoms: Atoms, reference: dict[str, Any]) -> str:
    """Return the difference of the Fermi levels; empty if unknown, or if each spin has its own."""
    if "fermi_eV" not in reference or atoms.calc.parameters["fixed_magmom"] is not False:
        return ""
    difference = 1000 * (atoms.calc.results["fermi_level"] - reference["fermi_eV"])
    return f"{difference:+.2f}" if abs(difference) < 5 else "in a gap"


def main() -> None:
    """Compute every record and rewrite the table."""
    table = HEAD
    for code in ("qe", "abinit"):
        for name, record in load(code).items():
            table += row(name, record, code)
            print(table.splitlines()[-1], flush=True)
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table}{END}{after}")


if __name__ == "__main__":
    main()
