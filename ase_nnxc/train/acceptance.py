"""Acceptance of a functional: whether it is as smooth and as stable as its parent, which it would replace.

Each check compares both on small calculations, with a condition that the functional must fulfil. The card of the model
says how accurate it is. `certificate` measures something else: how well a clone imitates its parent.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.calculator import CalculationFailed, Calculator, InputError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.dft.bandgap import bandgap
from ase.units import GPa, kcal, mol
from tqdm import tqdm

from ..atoms import AtomError
from ..calculator import NNXCCalculator, PySCFCalculator
from ..eos.structures import scaled
from ..pseudopotentials.oncv.errors import GenerationError
from ..regular_files import complete_or_absent
from ..xc import Functional
from ..xc.identity import functional_digest
from .penalties import Bounds, LocalConditions

MOST_STEPS, MOST_SCATTER, LARGEST_MOMENT = 1.2, 1.5, 1.02  # largest ratios to the parent's
NEGLIGIBLE_SCATTER = 0.2  # meV, always accepted
MOST_EXCESS = 0.01  # of enhancement factors over bounds
GAP_CHANGE, BOND_CHANGE = 0.2, 0.01  # eV and Angstrom, largest differences from the parent's
BETWEEN_CODES = 0.7  # kcal/mol per atom
FORCE_ERROR, STRESS_ERROR = 1e-3, 0.02  # eV/Angstrom and GPa, largest errors against differences of energies
NORMALISED = (0.7, 1.4)
COMPRESSION, EXPANSION, VOLUMES = 0.7, 1.5, 9
METAL_DIVISIONS, DIVISIONS = 8, 4  # k-points along each axis
WIDTH = 0.2  # eV, of the smearing
VERSION = 1  # of the checks: raised when their results change


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes
    ----------
    quantity : str
        What was measured, with its unit.
    value, parent : float or None
        Of the functional and of its parent, if they were measured.
    accepted : str
        The condition in words.
    passed : bool or None
        Whether it holds; None if it does not apply.
    """

    quantity: str
    value: float | None
    parent: float | None
    accepted: str
    passed: bool | None


def _at_most(quantity: str, values: tuple[float, float], limit: float) -> Outcome:
    return Outcome(quantity, *values, accepted=f"at most {limit:.3g}", passed=values[0] <= limit)


def _close(quantity: str, values: tuple[float, float], tolerance: float) -> Outcome:
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
        quantity = f"{title}, root mean square"
        try:
            values = _both(lambda xc: float(penalty(xc).detach()) ** 0.5, functional, parent)
        except InputError as error:  # one of them cannot be split into exchange and correlation
            yield Outcome(quantity, None, None, str(error), None)
        else:
            yield _at_most(quantity, values, MOST_EXCESS)


def steps(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check the number of SCF steps from scratch."""
    for name in ("Al", "Si", "MgO", "Fe"):

        def count(xc: Functional) -> float:
            return len(_calculator(xc, name).ground_state(CRYSTALS[name]()).history)

        values = _both(count, functional, parent)
        yield _at_most(f"SCF steps of {name}", values, MOST_STEPS * values[1])


def grid(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check how much the energy scatters as the atoms move relative to the FFT grid."""
    for name in ("Si", "MgO"):

        def scatter(xc: Functional) -> float:
            calc, atoms, energies = _calculator(xc, name, convergence={"energy": 1e-7}), CRYSTALS[name](), []
            for shift in (0.0, 0.11, 0.23):  # Angstrom
                moved = atoms.copy()
                moved.positions += shift * np.array([1.0, 0.6, 0.3])
                energies.append(calc.get_property("energy", moved))
            return 1000 * float(np.ptp(energies))

        values = _both(scatter, functional, parent)
        yield _at_most(
            f"scatter of the energy of {name}, meV", values, max(MOST_SCATTER * values[1], NEGLIGIBLE_SCATTER)
        )


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

    yield _at_most("error of a force, eV/A", _both(of_force, functional, parent), FORCE_ERROR)
    yield _at_most("error of the stress, GPa", _both(of_stress, functional, parent), STRESS_ERROR)


def gaps(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check band gaps on a mesh."""
    for name in ("C", "Si", "MgO", "GaAs"):

        def gap(xc: Functional) -> float:
            calc = NNXCCalculator(xc, kpts={"size": (6, 6, 6), "gamma": True})
            calc.get_property("energy", CRYSTALS[name]())
            return float(bandgap(calc)[0])

        yield _close(f"gap of {name}, eV", _both(gap, functional, parent), GAP_CHANGE)


def moments(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check the moments of ferromagnets."""
    for name in ("Fe", "Ni"):
        values = _both(
            lambda xc: float(_calculator(xc, name).get_property("magmom", CRYSTALS[name]())), functional, parent
        )
        yield _at_most(f"moment of {name}, Bohr magnetons", values, LARGEST_MOMENT * values[1])


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
    yield _close("distance of O and H in water, A", _both(_bond_of_water, functional, parent), BOND_CHANGE)


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
    yield _at_most("atomization energy of N2, two codes, kcal/mol per atom", values, BETWEEN_CODES)


def calibration(functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """Check the root mean square of errors divided by standard deviations, of the test on the card."""
    metrics = (functional.card or {}).get("metrics") or {}
    low, high = NORMALISED
    for name, value in metrics.get("normalised_errors", {}).items():
        yield Outcome(f"normalised error, {name}", value, None, f"{low} to {high}", low <= value <= high)
    if not metrics.get("normalised_errors"):
        yield Outcome("normalised error", None, None, "the card has none", None)


CHECKS: dict[str, Callable[[Functional, Functional], Iterator[Outcome]]] = {
    "conditions": conditions,
    "calibration": calibration,
    "steps": steps,
    "grid": grid,
    "derivatives": derivatives,
    "gaps": gaps,
    "moments": moments,
    "molecules": molecules,
    "curves": curves,
    "codes": codes,
}
"""Checks by name, in the order of their run."""


def run_checks(
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
        The outcomes by check. A check fails whose calculations fail, or for which no pseudopotential can be generated.

    Raises
    ------
    InputError
        If a name is unknown, or if the file holds checks of other functionals or something else.
    OSError
        If the file cannot be written.
    """
    if unknown := sorted(set(names) - set(CHECKS)):
        raise InputError(f"unknown checks {', '.join(unknown)}: expected some of {', '.join(CHECKS)}")
    identity = {
        "version": VERSION,
        "functional": functional_digest(functional),
        "parent": functional_digest(parent),
    }
    finished = {} if path is None or not path.exists() else _read(path, identity)
    _write(path, identity, finished)  # before hours of calculations
    for name in tqdm([name for name in names or CHECKS if name not in finished], desc="checks", disable=None):
        finished[name] = list(_outcomes(name, functional, parent))
        _write(path, identity, finished)
    return {name: finished[name] for name in names or CHECKS}


def _outcomes(name: str, functional: Functional, parent: Functional) -> Iterator[Outcome]:
    """The outcomes of a check; the last one is a failure if a calculation fails."""
    try:
        yield from CHECKS[name](functional, parent)
    except (CalculationFailed, GenerationError, AtomError) as error:
        yield Outcome(" ".join(str(error).split()), None, None, "can be calculated", False)


def _write(path: Path | None, identity: dict[str, Any], finished: dict[str, list[Outcome]]) -> None:
    if path is not None:
        checks = {name: [asdict(outcome) for outcome in outcomes] for name, outcomes in finished.items()}
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(identity | {"checks": checks}, indent=1) + "\n", encoding="utf-8")


def _read(path: Path, identity: dict[str, Any]) -> dict[str, list[Outcome]]:
    """The checks of these functionals that a file holds."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        same = {key: data.get(key) for key in identity} == identity
        checks = {name: [Outcome(**outcome) for outcome in outcomes] for name, outcomes in data["checks"].items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a file of finished checks: choose another, or delete it") from error
    if not same:
        raise InputError(f"{path} has checks of other functionals: choose another file, or delete it")
    return checks
