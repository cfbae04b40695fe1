"""Write tests/data/qe_gth.json and abinit_gth.json: reference values for small crystals with PySCF's GTH tables.

    python benchmarks/make_references.py [--code {qe,abinit}] [NAME ...]

runs the named cases on one core (without names, all cases of the program) and merges them into its file. The cutoffs
are not converged: the values are for comparing programs at equal settings.

The stress of meta-GGAs by ABINIT 9.6.2 is left out: for si-rattled-r2scan a third of its trace is 1.0e-3 Ha/bohr^3, but
differences of ABINIT's energies at fixed plane waves give -5.7e-5, which agrees with this program.

Two errors of pw.x 6.7 for GTH pseudopotentials determine which cases use ABINIT:

- The f projector (Modules/gth.f90, mk_ffnl_gth) is divided by 105 where its norm asks for the square root of 105. With
  the coefficient h of the f channel multiplied by 105 in its table, pw.x's energy of lan-rattled equals ABINIT's.
- The stress lacks the change of the projectors' angles under strain: PW/src/gen_us_dy.f90 interpolates a table
  of radial functions that PW/src/init_us_1.f90 leaves at zero for GTH. The trace is correct; the rest is wrong unless
  symmetry makes it vanish or all projectors are s projectors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abinit import run_abinit
from ase import Atoms
from ase.build import bulk, graphene
from ase.data import atomic_numbers, ground_state_magnetic_moments
from qe import run_qe

DATA = Path(__file__).parent.parent / "tests/data"
SOURCE = (
    "Computed with {program} and the GTH tables of PySCF's GTH_POTENTIALS file, written as psp10, by "
    "`python benchmarks/make_references.py --code {code}`. Hartree atomic units unless the key says otherwise: energy "
    "is the free energy F, stress (1/V) dE/d(strain), ecut and width in Hartree; magmom and absolute_magmom in Bohr "
    "magnetons. Meshes contain Gamma; valence names the table. {threshold}"
)
PROGRAM = {
    "qe": {
        "program": "Quantum ESPRESSO 6.7 (pw.x, Debian quantum-espresso 6.7-2)",
        "threshold": "conv_thr 1e-11 Ry. For crystals that are not cubic only the trace of the stress is reliable.",
    },
    "abinit": {"program": "ABINIT 9.6.2 (Debian abinit 9.6.2-1)", "threshold": "tolvrs 1e-13."},
}
CUBIC_SCALES = {f"al-eos-{x:.2f}": x ** (1 / 3) for x in (0.94, 0.96, 0.98, 1.00, 1.02, 1.04, 1.06)}

Case = tuple[Atoms, dict[str, Any]]


def settings(ecut: float, kpts: Sequence[int], smearing: str = "gaussian", width: float = 0.01, **other: Any) -> dict:
    """Return the arguments of `run_qe` and `run_abinit` that a record keeps, including defaults."""
    common = {"xc": "PBE", "pseudo": "gth-pbe", "q": None, "nbands": None, **other}
    return {**common, "ecut": ecut, "kpts": list(kpts), "smearing": smearing, "width": width}


def with_moments(atoms: Atoms, moments: Sequence[float]) -> Atoms:
    """Return the same atoms with initial magnetic moments in Bohr magnetons."""
    atoms.set_initial_magnetic_moments(moments)
    return atoms


def periodic_graphene() -> Atoms:
    """Return graphene, periodic in all directions."""
    atoms = graphene(a=2.46, vacuum=5.0)
    atoms.pbc = True
    return atoms


def silicon_rattled() -> Atoms:
    """Return silicon without any symmetry."""
    cell = [
        [0.04729396150517672, 2.685471034972395, 2.7112920137653505],
        [2.714755946257574, 0.03972798297410694, 2.7188579922964204],
        [2.7651056721324982, 2.7433867393783893, -0.010621742900817585],
    ]
    positions = [
        [-0.05669290641083179, 0.030421573040976785, 0.004577197586313392],
        [1.361356700953703, 1.4017578837426312, 1.3312654453052357],
    ]
    return Atoms("Si2", cell=cell, positions=positions, pbc=True)


def magnesia_rattled() -> Atoms:
    """Return magnesium oxide without any symmetry."""
    cell = [
        [-0.02557432283062462, 2.1043225354758066, 2.076946491967187],
        [2.0850172805715457, -0.03476979050887911, 2.086141959645442],
        [2.059263880005415, 2.08776460258793, -0.009016389942748069],
    ]
    positions = [
        [0.018891961785071104, 0.00747187953365136, -0.041992528403359666],
        [2.076843436600367, -0.005348185869435355, -0.009176300339831127],
    ]
    return Atoms("MgO", cell=cell, positions=positions, pbc=True)


def lanthanum_nitride() -> Atoms:
    """Return rocksalt LaN, displaced and sheared: forces and a full stress from f projectors."""
    atoms = bulk("LaN", "rocksalt", a=5.3)
    atoms.positions[1] += (0.10, 0.05, -0.07)
    atoms.set_cell(atoms.cell.array @ [[1.01, 0.02, 0.0], [0.02, 1.0, 0.01], [0.0, 0.01, 0.99]], scale_atoms=True)
    return atoms


def chromium_antiferromagnet() -> Atoms:
    """Return antiferromagnetic bcc chromium with a lattice constant large enough for a stable magnetic order."""
    return with_moments(bulk("Cr", "bcc", a=2.95, cubic=True), [2.5, -2.5])


def oxygen_in_box() -> Atoms:
    """Return a triplet oxygen molecule in an orthorhombic box, not aligned with an axis."""
    axis = 1.23 / 14**0.5
    atoms = Atoms("O2", positions=[(0, 0, 0), (3 * axis, 2 * axis, axis)], cell=(4.5, 4.75, 5.0), pbc=True)
    atoms.center()
    return with_moments(atoms, [1.0, 1.0])


def atom_in_box(symbol: str) -> Atoms:
    """Return an atom in an orthorhombic box, with the moment of its ground state."""
    moment = ground_state_magnetic_moments[atomic_numbers[symbol]]
    return with_moments(Atoms(symbol, cell=(5.4, 5.2, 5.0), pbc=True), [moment])


def qe_cases() -> dict[str, Case]:
    """Return structure and settings of the pw.x cases by name."""
    aluminium = settings(20, (8, 8, 8))
    silicon = bulk("Si", a=5.43)
    path = silicon.cell.bandpath("GXWL", npoints=13).kpts.round(12).tolist()
    return {
        **{name: (bulk("Al", a=4.05 * scale), aluminium) for name, scale in CUBIC_SCALES.items()},
        "al-cold": (bulk("Al", a=4.05), settings(20, (6, 6, 6), "cold")),
        "al-fermi-dirac": (bulk("Al", a=4.05), settings(20, (6, 6, 6), "fermi-dirac")),
        "al-methfessel-paxton": (bulk("Al", a=4.05), settings(20, (6, 6, 6), "methfessel-paxton")),
        "si-rattled": (silicon_rattled(), settings(20, (4, 4, 4), width=0.005)),
        "si-lda": (bulk("Si", a=5.43), settings(20, (4, 4, 4), width=0.005, xc="LDA", pseudo="gth-pade")),
        "si-bands": (silicon, settings(20, (4, 4, 4), width=0.005, nbands=8, points=path)),
        "cu": (bulk("Cu", a=3.615), settings(80, (6, 6, 6))),
        "ni-ferro": (with_moments(bulk("Ni", a=3.52), [0.8]), settings(80, (5, 5, 5), "cold")),
        "mgo-rocksalt-rattled": (magnesia_rattled(), settings(50, (3, 3, 3), width=0.005)),
        "graphene-periodic": (periodic_graphene(), settings(30, (9, 9, 1), width=0.005)),
        "caf2-pbesol": (bulk("CaF2", "fluorite", a=5.46), settings(50, (3, 3, 3), width=0.005, xc="PBEsol")),
        "fe-bcc": (with_moments(bulk("Fe", "bcc", a=2.83), [2.5]), settings(80, (6, 6, 6), "cold")),
        "cr-antiferro": (chromium_antiferromagnet(), settings(60, (4, 4, 4), "cold")),
        "mg-hcp": (bulk("Mg", "hcp", a=3.2, c=5.3), settings(20, (6, 6, 4), "cold", q={"Mg": 2})),
        "aln-wurtzite": (bulk("AlN", "wurtzite", a=3.11, c=5.1, u=0.37), settings(50, (4, 4, 2), width=0.005)),
        "o2-box": (oxygen_in_box(), settings(50, (1, 1, 1), "fermi-dirac", 0.005)),
        "o-atom": (atom_in_box("O"), settings(30, (1, 1, 1), width=0.001)),
        "n-atom": (atom_in_box("N"), settings(30, (1, 1, 1), width=0.001)),
        "fe-atom-smeared": (atom_in_box("Fe"), settings(30, (1, 1, 1), width=0.02, moment=4.0)),
        "fe-atom": (atom_in_box("Fe"), settings(30, (1, 1, 1), width=0.001, moment=4.0, nbands=14, beta=0.3)),
    }


def abinit_cases() -> dict[str, Case]:
    """Return structure and settings of the ABINIT cases by name: where pw.x is in error, and meta-GGAs."""
    known = qe_cases()
    nitride, arguments = known["aln-wurtzite"]
    rattled = {name: known[name] for name in ("si-rattled", "mgo-rocksalt-rattled")}
    return {
        **rattled,
        **{f"{name}-r2scan": (atoms, {**given, "xc": "r2SCAN"}) for name, (atoms, given) in rattled.items()},
        "aln-wurtzite": (nitride, {**arguments, "fft": [45, 45, 64]}),  # ABINIT's own choice breaks the symmetry
        "lan-rattled": (lanthanum_nitride(), settings(50, (3, 3, 3), width=0.005)),
    }


def record(code: str, atoms: Atoms, arguments: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a case and its result."""
    moments = atoms.get_initial_magnetic_moments()
    return {
        "symbols": atoms.get_chemical_symbols(),
        "cell_A": atoms.cell.array.tolist(),
        "positions_A": atoms.positions.tolist(),
        "settings": {**arguments, "magmoms": moments.tolist() if moments.any() else None},
        code: {key: value for key, value in result.items() if key not in ("wall_s", "cpu_s", "memory_MB")},
    }


def main() -> None:
    """Run the cases named on the command line and save each as soon as it is finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", choices=("qe", "abinit"), default="qe", help="program to run (default: %(default)s)")
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases to run (default: all)")
    arguments = parser.parse_args()
    code, path = arguments.code, DATA / f"{arguments.code}_gth.json"
    known, run = (qe_cases(), run_qe) if code == "qe" else (abinit_cases(), run_abinit)
    source = SOURCE.format(code=code, **PROGRAM[code])
    for name in arguments.names or known:
        records = json.loads(path.read_text())["records"] if path.exists() else {}
        atoms, given = known[name]
        result = run(atoms, **{key: value for key, value in given.items() if value is not None})
        records[name] = record(code, atoms, given, result)
        ordered = {key: records[key] for key in known if key in records}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in ordered.items())
        path.write_text(f'{{\n"source": {json.dumps(source)},\n"records": {{\n{lines}\n}}\n}}\n')
        print(f"{name:24s}{result['energy']:18.9f} Ha{result['wall_s']:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
