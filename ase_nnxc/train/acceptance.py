"""Acceptance of a functional: whether it is as smooth and as stable as the functional that it would replace.

Each check compares a functional with its parent on small calculations, with a condition that it must fulfil. How
accurate the functional is, the card of the model says.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.calculator import Calculator, InputError, SCFError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.dft.bandgap import bandgap
from ase.units import GPa, kcal, mol
from tqdm import tqdm

from ..calculator import NNXCCalculator, PySCFCalculator
from ..eos.structures import scaled
from ..xc import Functional
from ..xc.identity import functional_digest
from .penalties import Bounds, LocalConditions

STEPS_FACTOR, SCATTER_FACTOR, MOMENT_FACTOR = 1.2, 1.5, 1.02  # of the parent's
SCATTER = 0.2  # meV, always accepted
EXCESS = 0.01  # of enhancement factors over bounds, always accepted
GAP, DISTANCE = 0.2, 0.01  # eV and Angstrom, differences from the parent
BETWEEN_CODES = 0.7  # kcal/mol per atom
FORCE, STRESS = 1e-3, 0.02  # eV/Angstrom and GPa, against differences of energies
NORMALISED = (0.7, 1.4)
COMPRESSION, EXPANSION, VOLUMES = 0.7, 1.5, 9
METAL_DIVISIONS, DIVISIONS = 8, 4  # of meshes, with a smearing of WIDTH
WIDTH = 0.2  # eV


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes
    ----------
    quantity : str
        What was measured, with its unit.
    value, parent : float
        Of the functional and of its parent.
    accepted : str
        The condition in words.
    passed : bool
        Whether it holds.
    """

    quantity: str
    value: float
    parent: float
    accepted: str
    passed: bool


def _at_most(quantity: str, values: tuple[float, float], factor: float = 1.0, always: float = 0.0) -> Outcome:
    """The outcome of a value that must not be larger than `factor` times the parent's, or than `always`."""
    limit = max(factor * values[1], always)
    return Outcome(quantity, *values, accepted=f"at most {limit:.3g}", passed=values[0] <= limit)


def _close(quantity: str, values: tuple[float, float], tolerance: float) -> Outcome:
    """The outcome of a value that must be that of the parent within a tolerance."""
    return Outcome(quantity, *values, accepted=f"within {tolerance:g}", passed=abs(values[0] - values[1]) <= tolerance)


def _magnetic(atoms: Atoms, moment: float) -> Atoms:
    atoms.set_initial_magnetic_moments([moment])
    return atoms


CRYSTALS: dict[str, Callable[[], Atoms]] = {
    "Al": lambda: bulk("Al", "fcc", a=4.04),
    "Cu": lambda: bulk("Cu", "fcc", a=3.60),
    "Ca": lambda: bulk("Ca", "fcc", a=5.55),
    "Fe": lambda: _magnetic(bulk("Fe", "bcc", a=2.83), 2.2),
    "Ni": lambda: _magnetic(bulk("Ni", "fcc", a=3.52), 0.7),
    "C": lambda: bulk("C", "diamond", a=3.56),
    "Si": lambda: bulk("Si", "diamond", a=5.44),
    "GaAs": lambda: bulk("GaAs", "zincblende", a=5.66),
    "MgO": lambda: bulk("MgO", "rocksalt", a=4.20),
    "NaCl": lambda: bulk("NaCl", "rocksalt", a=5.60),
}
METALS = ("Al", "Cu", "Ca", "Fe", "Ni")
CURVES = tuple(name for name in CRYSTALS if name != "Fe")  # whose moment vanishes in this range of volumes


def _calculator(xc: Functional, name: str, **parameters: Any) -> NNXCCalculator:
    """A calculator with a coarse mesh of k-points for a crystal, the same for all volumes."""
    mesh = {"size": (METAL_DIVISIONS if name in METALS else DIVISIONS,) * 3, "gamma": True}
    return NNXCCalculator(xc, kpts=mesh, smearing={"name": "marzari-vanderbilt", "width": WIDTH}, **parameters)


def _both(measure: Callable[[Functional], float], functional: Functional, parent: Functional) -> tuple[float, float]:
    return float(measure(functional)), float(measure(parent))


def conditions(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check bounds of the enhancement factors and exact conditions on correlation, on points."""
    penalties: dict[str, Bounds | LocalConditions] = {
        "excess over bounds": Bounds(1.0),
        "violation of local conditions": LocalConditions(1.0),
    }
    for title, penalty in penalties.items():
        try:
            values = _both(lambda xc: float(penalty(xc).detach()) ** 0.5, functional, parent)
        except InputError:  # exchange and correlation are not separate
            continue
        yield _at_most(f"{title}, root mean square", values, always=EXCESS)


def steps(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check the number of SCF steps from scratch."""
    for name in ("Al", "Si", "MgO", "Fe"):

        def count(xc: Functional) -> float:
            return len(_calculator(xc, name).ground_state(CRYSTALS[name]()).history)

        yield _at_most(f"SCF steps of {name}", _both(count, functional, parent), STEPS_FACTOR)


def grid(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check how much the energy scatters as the atoms move relative to the FFT grid."""
    for name in ("Si", "MgO"):

        def scatter(xc: Functional) -> float:
            calc, atoms, energies = _calculator(xc, name, convergence={"energy": 1e-7}), CRYSTALS[name](), []
            for shift in (0.0, 0.11, 0.12):  # Angstrom
                atoms.positions += shift * np.array([1.0, 0.6, 0.3])
                energies.append(calc.get_property("energy", atoms))
            return 1000 * float(np.ptp(energies))

        values = _both(scatter, functional, parent)
        yield _at_most(f"scatter of the energy of {name}, meV", values, SCATTER_FACTOR, SCATTER)


def derivatives(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check forces and stress against differences of energies."""
    atoms = CRYSTALS["Si"]()
    atoms.positions[1] += (0.05, -0.03, 0.02)
    mesh = {"size": (DIVISIONS,) * 3, "gamma": True}

    def with_calculator(xc: Functional) -> Atoms:
        moved = atoms.copy()
        moved.calc = NNXCCalculator(xc, kpts=mesh, smooth_cutoff=True, convergence={"energy": 1e-9})
        return moved

    def of_force(xc: Functional) -> float:
        moved = with_calculator(xc)
        numerical = calculate_numerical_forces(moved, eps=0.002, iatoms=[1], icarts=[0])
        return abs(float(moved.get_forces()[1, 0] - numerical[0, 0]))

    def of_stress(xc: Functional) -> float:
        moved = with_calculator(xc)
        return float(np.abs(moved.get_stress() - calculate_numerical_stress(moved, 0.002)).max()) / GPa

    yield _at_most("error of a force, eV/A", _both(of_force, functional, parent), always=FORCE)
    yield _at_most("error of the stress, GPa", _both(of_stress, functional, parent), always=STRESS)


def gaps(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check band gaps on a mesh."""
    for name in ("C", "Si", "MgO", "GaAs"):

        def gap(xc: Functional) -> float:
            calc = NNXCCalculator(xc, kpts={"size": (6, 6, 6), "gamma": True})
            calc.get_property("energy", CRYSTALS[name]())
            return float(bandgap(calc)[0])

        yield _close(f"gap of {name}, eV", _both(gap, functional, parent), GAP)


def moments(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check the moments of ferromagnets."""
    for name in ("Fe", "Ni"):
        values = _both(
            lambda xc: float(_calculator(xc, name).get_property("magmom", CRYSTALS[name]())), functional, parent
        )
        yield _at_most(f"moment of {name}, Bohr magnetons", values, MOMENT_FACTOR)


def curves(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check that E(V) of crystals has one minimum over a wide range, and E(a) of graphene."""
    for name in CURVES:
        cells = [scaled(CRYSTALS[name](), factor) for factor in np.linspace(COMPRESSION, EXPANSION, VOLUMES)]
        values = _both(lambda xc: _minima(_calculator(xc, name), cells), functional, parent)
        yield Outcome(f"minima of E(V) of {name}", *values, accepted="1", passed=values[0] == 1)
    sheets = [graphene(a=2.46 * factor**0.5, vacuum=4.0) for factor in np.linspace(0.8, 1.25, VOLUMES)]
    values = _both(lambda xc: _minima(NNXCCalculator(xc, kpts=(6, 6, 1)), sheets), functional, parent)
    yield Outcome("minima of E(a) of graphene", *values, accepted="1", passed=values[0] == 1)


def _minima(calc: Calculator, structures: Sequence[Atoms]) -> int:
    """The number of local minima of the free energy between the ends of a curve."""
    slopes = np.diff([calc.get_property("free_energy", atoms) for atoms in structures])
    return int(((slopes[:-1] < 0) & (slopes[1:] > 0)).sum())


def molecules(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check the curve of H2 and the geometry of water, with all electrons in PySCF."""
    pairs = [Atoms("H2", [(0, 0, 0), (0, 0, distance)]) for distance in np.linspace(0.5, 2.0, 11)]
    values = _both(lambda xc: _minima(PySCFCalculator(xc, basis="def2-tzvp"), pairs), functional, parent)
    yield Outcome("minima of E(d) of H2", *values, accepted="1", passed=values[0] == 1)
    yield _close("distance of O and H in water, A", _both(_bond_of_water, functional, parent), DISTANCE)


def _bond_of_water(xc: Functional) -> float:
    """The distance of O and H with the lowest energy at a fixed angle, Angstrom, from a parabola."""
    water, calc, factors = molecule("H2O"), PySCFCalculator(xc, basis="def2-tzvp"), np.array([0.98, 1.0, 1.02])
    energies = []
    for factor in factors:
        stretched = water.copy()
        stretched.positions *= factor
        energies.append(calc.get_property("energy", stretched))
    a, b, _ = np.polyfit(factors, energies, 2)
    return float(-b / (2 * a) * water.get_distance(0, 1))


def codes(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check the atomization energy of N2 with generated pseudopotentials against that with all electrons in PySCF."""
    atom, pair = molecule("N"), molecule("N2")

    def difference(xc: Functional) -> float:
        of_atom = NNXCCalculator(xc, fixed_magmom=3).get_property("free_energy", atom)
        plane_waves = 2 * of_atom - NNXCCalculator(xc).get_property("free_energy", pair)
        gaussians = PySCFCalculator(xc, basis="def2-qzvp")
        all_electrons = 2 * gaussians.get_property("energy", atom) - gaussians.get_property("energy", pair)
        return abs(plane_waves - all_electrons) / (kcal / mol) / len(pair)

    values = _both(difference, functional, parent)
    yield _at_most("atomization energy of N2, two codes, kcal/mol per atom", values, always=BETWEEN_CODES)


def calibration(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check the root mean square of errors divided by standard deviations, of the test on the card."""
    metrics = (functional.card or {}).get("metrics") or {}
    low, high = NORMALISED
    for name, value in metrics.get("normalised_errors", {}).items():
        yield Outcome(f"normalised error, {name}", value, 1.0, f"{low} to {high}", low <= value <= high)


CHECKS: dict[str, Callable[[Functional, Functional], Iterator[Outcome]]] = {
    check.__name__: check
    for check in (conditions, calibration, steps, grid, derivatives, gaps, moments, molecules, curves, codes)
}
"""Checks by name, in the order of their run."""


def accept(
    functional: Functional, parent: Functional, names: Sequence[str] = (), path: Path | None = None
) -> dict[str, list[Outcome]]:
    """Run checks of a functional against its parent; a progress bar on stderr shows them.

    Parameters
    ----------
    functional, parent : Functional
        The functional, and the one that it would replace.
    names : sequence of str
        Names of `CHECKS`; default: all.
    path : Path, optional
        A JSON file, in which each check is saved as soon as it is finished. Checks of the same functionals that are in
        it are not run again.

    Returns
    -------
    dict
        The outcomes by check. A check whose SCF does not converge fails.

    Raises
    ------
    InputError
        If a name is unknown, or if the file holds checks of other functionals.
    """
    if unknown := sorted(set(names) - set(CHECKS)):
        raise InputError(f"unknown checks {', '.join(unknown)}: expected some of {', '.join(CHECKS)}")
    identity = {"functional": functional_digest(functional), "parent": functional_digest(parent)}
    finished = _finished(path, identity)
    for name in tqdm([name for name in names or CHECKS if name not in finished], desc="checks", disable=None):
        try:
            finished[name] = list(CHECKS[name](functional, parent))
        except SCFError as error:
            finished[name] = [Outcome(str(error), float("nan"), float("nan"), "converges", False)]
        if path is not None:
            checks = {key: [asdict(outcome) for outcome in outcomes] for key, outcomes in finished.items()}
            path.write_text(json.dumps(identity | {"checks": checks}, indent=1) + "\n", encoding="utf-8")
    return {name: finished[name] for name in names or CHECKS}


def _finished(path: Path | None, identity: dict[str, str]) -> dict[str, list[Outcome]]:
    """The checks of these functionals that a file holds."""
    if path is None or not path.exists():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    if {key: data.get(key) for key in identity} != identity:
        raise InputError(f"{path} has checks of other functionals: choose another file, or delete it")
    return {name: [Outcome(**outcome) for outcome in outcomes] for name, outcomes in data["checks"].items()}
