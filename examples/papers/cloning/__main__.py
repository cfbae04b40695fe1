"""Functional cloning of arXiv:2605.10331: networks fitted to PBE and r2SCAN on molecular densities only.

    python -m examples.papers.cloning [points] [molecules] [solids]          (default: these three)
    python -m examples.papers.cloning --correlated gmtkn55_W4-11.json

Run it in the root of the repository. Clones are fitted to densities of molecules with all electrons, or with
pseudopotentials, from PySCF. They are compared with their parents, and with networks of random weights that obey the
same constraints: at points of other molecules and of solids, by self-consistent energies of these molecules in PySCF
and in plane waves, and by equations of state of solids.

The script continues from its JSON files and from the clones in runs, and writes the tables in README.md and
docs/results.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, graphene
from ase.calculators.calculator import SCFError
from ase.units import Hartree, kcal, mol

from ase_nnxc import NNXCCalculator, PySCFCalculator, get_functional
from ase_nnxc.registry import resolve
from ase_nnxc.train.certificate import mean_errors
from ase_nnxc.train.samples import Samples, named_molecule, sample_crystals, sample_molecules
from ase_nnxc.xc import Functional
from benchmarks.results import read_results, write_results

from ..command_line import parse
from ..cubic import minimum_of_cubic
from ..points import Point, complete, results_of, settings_of, write_table
from . import correlated
from .clones import DENSITIES, Clones, Network

FOLDER = Path(__file__).parent
NETWORKS = (
    Network("PBE", "constrained", "all-electron"),
    Network("PBE", "constrained", "pseudo"),
    Network("PBE", "mlp", "all-electron"),
    Network("PBE", "mlp", "pseudo"),
    Network("PBE", "constrained", "random"),
    Network("r2SCAN", "constrained", "all-electron"),
    Network("r2SCAN", "constrained", "pseudo"),
    Network("r2SCAN", "mlp", "all-electron"),
    Network("r2SCAN", "mlp", "pseudo"),
    Network("r2SCAN", "constrained", "random"),
)
ATOMS = ("H", "C", "N", "O", "F", "S")
MOLECULES = ("H2", "NH3", "CO", "C2H2", "C2H4", "C2H6", "CH3", "H2CO", "HF", "F2", "SH2")
POINTS = 200  # of each molecule and crystal that is not fitted
REACTION = {"C2H4": 1, "C2H2": -1, "H2": -1}
ENERGIES: dict[str, tuple[Sequence[str], Callable[[Functional], Any]]] = {  # systems and calculators
    kind: ((*ATOMS, *MOLECULES), partial(PySCFCalculator, basis=basis, pseudo=pseudo, grid_level=1))
    for kind, (basis, pseudo) in DENSITIES.items()
} | {"plane-wave": (tuple(REACTION), partial(NNXCCalculator, pseudos="gth-pbe", ecut=300))}
# crystals and a layer by lattice constant, Angstrom; those of PBE; meshes of k-points
SOLIDS: dict[str, tuple[Callable[[float], Atoms], float, tuple[int, int, int]]] = {
    "Al": (lambda a: bulk("Al", a=a), 4.04, (4, 4, 4)),
    "Si": (lambda a: bulk("Si", a=a), 5.47, (3, 3, 3)),
    "NaCl": (lambda a: bulk("NaCl", "rocksalt", a=a), 5.70, (2, 2, 2)),
    "MgO": (lambda a: bulk("MgO", "rocksalt", a=a), 4.26, (2, 2, 2)),
    "graphene": (lambda a: graphene(a=a, vacuum=7.0), 2.467, (4, 4, 1)),
}
STRAINS = (1.03, 1.01, 0.99, 0.97)  # of lattice constants; the largest comes first and fixes the FFT box
KCAL, MILLIHARTREE = kcal / mol, Hartree / 1000
UNCONVERGED = "unconverged"  # in tables, where the SCF of a system did not converge
BEGINNINGS = tuple(
    Network(parent, kind, densities, seed)
    for parent in ("PBE", "r2SCAN")
    for kind in ("constrained", "mlp")
    for densities in ("all-electron", "random")
    for seed in range(3)
)


# ---- calculations ----------------------------------------------------------------------------------------------------


def functionals(networks: Sequence[Network], clones: Clones) -> Iterator[tuple[str, str, Functional]]:
    """Yield parent, name and functional of every parent and network."""
    for parent in dict.fromkeys(network.parent for network in networks):
        yield parent, parent, get_functional(parent)
        for network in networks:
            if network.parent == parent:
                yield parent, network.name, clones.functional(network)


def run_points(networks: Sequence[Network], clones: Clones, folder: Path = FOLDER) -> None:
    """Complete the errors at points of molecules and solids that were not fitted."""
    results = read_results(folder / "points.json")
    crystals = {name: build(a) for name, (build, a, _) in SOLIDS.items() if build(a).pbc.all()}
    samples: dict[str, dict[str, Samples]] = {}
    for parent, name, functional in functionals(networks, clones):
        exact = get_functional(parent)
        keywords = {"kpts": {"size": (3, 3, 3), "gamma": True}, "pseudos": f"oncv-{parent}"}
        settings = settings_of(NNXCCalculator(functional, **keywords), crystals)
        if name == parent or results.get(name, {}).get("settings") == settings:
            continue
        if parent not in samples:
            samples[parent] = points_of_molecules(exact) | {
                "solids": sample_crystals(crystals, exact, POINTS, **keywords)
            }
        errors = {kind: mean_errors(functional, exact, points) for kind, points in samples[parent].items()}
        results[name] = {"settings": settings, "errors": errors}
        write_results(folder / "points.json", results)


def points_of_molecules(parent: Functional) -> dict[str, Samples]:
    """Return points of the densities of the molecules, with their parent."""
    return {
        kind: sample_molecules(MOLECULES, parent, POINTS, basis=basis, pseudo=pseudo)
        for kind, (basis, pseudo) in DENSITIES.items()
    }


def run_molecules(networks: Sequence[Network], clones: Clones, folder: Path = FOLDER) -> None:
    """Complete the self-consistent energies of atoms and molecules."""
    for kind, (names, calculator) in ENERGIES.items():
        structures = {name: named_molecule(name) for name in names}
        for _, name, functional in functionals(networks, clones):
            calc = calculator(functional)
            solve = unless_diverging(results_of(calc, "free_energy"))
            complete(folder / "molecules.json", f"{name}, {kind}", settings_of(calc, structures), structures, solve)


def run_solids(networks: Sequence[Network], clones: Clones, folder: Path = FOLDER, **changes: Any) -> None:
    """Complete the equations of state; a network has the pseudopotentials of its parent."""
    for parent, name, functional in functionals(networks, clones):
        for solid, (build, a, mesh) in SOLIDS.items():
            settings = {"kpts": mesh, "pseudos": f"oncv-{parent}", "smooth_cutoff": True}
            calc = NNXCCalculator(functional, **settings | changes)
            structures = {str(strain): build(strain * a) for strain in STRAINS}
            calc.set(gpts=calc.resolve(structures[str(STRAINS[0])])["gpts"])
            solve = unless_diverging(results_of(calc, "free_energy"))
            complete(folder / "solids.json", f"{name}, {solid}", settings_of(calc, structures), structures, solve)


def unless_diverging(calculate: Callable[[Atoms], Point]) -> Callable[[Atoms], Point]:
    """Return a function that calculates a point, with the energy NaN if the SCF does not converge."""

    def attempt(atoms: Atoms) -> Point:
        try:
            return calculate(atoms)
        except SCFError:
            return {"free_energy": float("nan")}

    return attempt


def run_correlated(path: Path, networks: Sequence[Network], clones: Clones, folder: Path = FOLDER) -> None:
    """Complete the trainings on correlated energies, from the data in a file."""
    results = read_results(folder / "correlated.json")
    beginnings = {network: clones.functional(network) for network in networks}
    texts = {network: resolve(functional).describe() for network, functional in beginnings.items()}  # with digests
    todo = [n for n in networks if results.get(n.name, {}).get("functional") != texts[n]]
    for parent in dict.fromkeys(network.parent for network in todo):
        molecules = (correlated.TRAINING, correlated.TESTS)
        training, tests = (correlated.Energies(path, names, get_functional(parent)) for names in molecules)
        for network in todo:
            if network.parent == parent:
                curves = correlated.train(beginnings[network], training, tests)
                results[network.name] = {"functional": texts[network], "errors_kcal": curves}
                print(f"{network.name}: {curves}", flush=True)
                write_results(folder / "correlated.json", results)


# ---- evaluation ------------------------------------------------------------------------------------------------------


def energies(results: Mapping[str, Any], name: str, kind: str) -> dict[str, float]:
    """Return the energies of a functional by system, eV."""
    return {system: point["free_energy"] for system, point in results[f"{name}, {kind}"]["points"].items()}


def atomization_energy(name: str, energy: Mapping[str, float]) -> float:
    """Return the atomization energy of a molecule, eV."""
    return sum(energy[symbol] for symbol in named_molecule(name).symbols) - energy[name]


def minimum(solid: str, points: Mapping[str, Point]) -> tuple[float, float] | None:
    """Return lattice constant, Angstrom, and bulk modulus, eV/Angstrom^3; of a layer, area modulus, eV/Angstrom^2.

    It is None if there is no minimum within the strains, or if an energy is NaN.
    """
    build, a, _ = SOLIDS[solid]
    # Birch-Murnaghan: E is a polynomial of degree 3 in u = x^-2, where x is the strain
    found = minimum_of_cubic(np.array(STRAINS) ** -2, [points[str(x)]["free_energy"] for x in STRAINS])
    if found is None:
        return None
    u, curvature = found
    atoms = build(a * u**-0.5)
    dimensions = int(atoms.pbc.sum())
    cell = atoms.cell.array[:dimensions, :dimensions]
    # V d^2E/dV^2 = d^2E/d(ln x)^2 / (dimensions^2 V) at the minimum, where d^2E/d(ln x)^2 = 4 u^2 d^2E/du^2
    return a * u**-0.5, 4 * u**2 * curvature / (dimensions**2 * abs(np.linalg.det(cell)))


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(folder: Path = FOLDER) -> str:
    """Return the tables of all parts."""
    parts = (table_of_points, table_of_molecules, table_of_codes, table_of_solids, table_of_trainings)
    return "\n\n".join(part(folder) for part in parts)


def finished(results: Mapping[str, Any], systems: Mapping[str, Sequence[str]]) -> list[Network]:
    """Return the networks that have all these points of all these cases, with the pseudopotentials of their parents."""

    def has(name: str) -> bool:
        cases = {case: results.get(f"{name}, {case}", {"points": {}})["points"] for case in systems}
        return all(set(systems[case]) <= points.keys() for case, points in cases.items())

    def tables(name: str) -> list[Any]:
        return [results[f"{name}, {case}"]["settings"].get("tables") for case in systems]

    return [n for n in NETWORKS if has(n.name) and has(n.parent) and tables(n.name) == tables(n.parent)]


def table_of_points(folder: Path) -> str:
    """Return root mean square errors of F and of its derivative at points of molecules and solids."""
    results, rows = read_results(folder / "points.json"), []
    for network in NETWORKS:
        if network.name in results:
            errors = results[network.name]["errors"].values()
            rows.append([network.name, *(f"{e['rms_dF']:.1e}, {e['rms_slope']:.1e}" for e in errors)])
    return rows_of(["rms of dF, of its slope", "all-electron", "pseudo", "solids"], rows)


def table_of_molecules(folder: Path) -> str:
    """Return mean and largest errors of total energies, mHa, and atomization energies, kcal/mol."""
    results, rows = read_results(folder / "molecules.json"), []
    for network in finished(results, {kind: ENERGIES[kind][0] for kind in DENSITIES}):
        row = [network.name]
        for kind in DENSITIES:
            own, parent = (energies(results, name, kind) for name in (network.name, network.parent))
            row.append(mean_and_largest([(own[name] - parent[name]) / MILLIHARTREE for name in own]))
            pairs = [(atomization_energy(name, own), atomization_energy(name, parent)) for name in MOLECULES]
            row.append(mean_and_largest([(energy - exact) / KCAL for energy, exact in pairs]))
        rows.append(row)
    titles = [f"{what}, {kind}" for kind in DENSITIES for what in ("total, mHa", "atomization, kcal/mol")]
    return rows_of(["mean, largest error", *titles], rows)


def table_of_codes(folder: Path) -> str:
    """Return errors of the same molecules in PySCF and in plane waves: mean of totals, mHa; reaction, kcal/mol."""
    results, rows = read_results(folder / "molecules.json"), []
    for network in finished(results, {kind: tuple(REACTION) for kind in ENERGIES}):
        row = [network.name]
        for kind in ENERGIES:
            own, parent = (energies(results, name, kind) for name in (network.name, network.parent))
            errors = {name: own[name] - parent[name] for name in REACTION}
            mean = np.mean(np.abs(list(errors.values())))
            reaction = sum(number * errors[name] for name, number in REACTION.items())
            row.append(UNCONVERGED if np.isnan(mean) else f"{mean / MILLIHARTREE:.3f}, {reaction / KCAL:+.3f}")
        rows.append(row)
    return rows_of(["total, mHa; reaction, kcal/mol", *ENERGIES], rows)


def table_of_solids(folder: Path) -> str:
    """Return errors of lattice constants and bulk moduli (of graphene, of the area modulus) in per cent."""
    results, rows = read_results(folder / "solids.json"), []
    for network in finished(results, {solid: [str(strain) for strain in STRAINS] for solid in SOLIDS}):
        row = [network.name]
        for solid in SOLIDS:
            own, exact = (
                minimum(solid, results[f"{name}, {solid}"]["points"]) for name in (network.name, network.parent)
            )
            if own is None or exact is None:
                row.append("no minimum")
            else:
                row.append(f"{100 * (own[0] / exact[0] - 1):+.3f}, {100 * (own[1] / exact[1] - 1):+.2f}")
        rows.append(row)
    return rows_of(["a0, B0, %", *SOLIDS], rows)


def table_of_trainings(folder: Path) -> str:
    """Return mean absolute errors of atomization energies in the trainings, kcal/mol."""
    results, rows, rounds = read_results(folder / "correlated.json"), [], (0, 1, 3, correlated.ROUNDS)
    for network in BEGINNINGS:
        if network.name in results:
            pairs = list(zip(*results[network.name]["errors_kcal"].values()))
            rows.append([network.name, *(f"{pairs[i][0]:.2f}, {pairs[i][1]:.2f}" for i in rounds)])
    return rows_of(["training, tests, kcal/mol", *(f"step {correlated.STEPS * i}" for i in rounds)], rows)


def mean_and_largest(errors: Sequence[float]) -> str:
    """Return the mean and the largest absolute error as text, if all energies are known."""
    if np.isnan(errors).any():
        return UNCONVERGED
    return f"{np.mean(np.abs(errors)):.3f}, {np.max(np.abs(errors)):.3f}"


def rows_of(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---", *["--:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    clones = Clones(FOLDER / "runs")
    parts = {"points": run_points, "molecules": run_molecules, "solids": run_solids}
    arguments = parse(__doc__, "PART", list(parts), option="correlated")
    if arguments.correlated is not None:
        run_correlated(arguments.correlated, BEGINNINGS, clones)
    else:
        for name in arguments.names:
            parts[name](NETWORKS, clones)
    write_table("cloning", table())
