"""NNXCCalculator as ASE and its users meet it: contract, memory, input errors, log, relaxations. Tiny cutoffs."""

import copy
import io
import json
import pickle
import re

import ase.db
import numpy as np
import pytest
import torch
from ase import Atom, Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed, InputError, PropertyNotImplementedError, SCFError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.constraints import FixAtoms
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.io.jsonio import decode, encode
from ase.io.trajectory import Trajectory
from ase.optimize import BFGS
from ase.units import GPa, Hartree

from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator import calculation, memory
from ase_nnxc.calculator.parameters import energy_tolerance
from ase_nnxc.checkpoints import find_model
from ase_nnxc.eos import scan_eos
from ase_nnxc.ks.atom import pseudo_atom
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.scf import ConvergenceError
from ase_nnxc.pseudopotentials import generate, recommended_cutoff
from ase_nnxc.xc import LDA, PBE

CHEAP = {"ecut": 140, "kpts": (2, 2, 2)}
TIGHT = CHEAP | {"convergence": {"energy": 1e-11}}


def aluminium(a: float = 4.05, **parameters) -> Atoms:
    return attached(bulk("Al", a=a), **parameters)


def silicon(rattle: float = 0.0, **parameters) -> Atoms:
    atoms = bulk("Si")
    atoms.rattle(rattle, seed=1)
    return attached(atoms, **parameters)


def hydrogen(a: float = 3.5, moment: float | None = 1.0, **parameters) -> Atoms:
    """Simple cubic: magnetic when stretched, not when compressed."""
    magmoms = None if moment is None else [moment]
    return attached(Atoms("H", cell=[a] * 3, pbc=True, magmoms=magmoms), **parameters)


def attached(atoms: Atoms, **parameters) -> Atoms:
    atoms.calc = NNXCCalculator(**CHEAP | parameters)
    return atoms


def strained(atoms: Atoms, factor: float) -> Atoms:
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell * factor, scale_atoms=True)
    return atoms


def free_energy(atoms: Atoms) -> float:
    return atoms.get_potential_energy(force_consistent=True)


@pytest.fixture
def scf_calls(monkeypatch) -> list:
    """One item for each SCF that is begun: the state that it starts from."""
    calls = []
    scf = calculation.scf

    def counted(*args, start, **keywords):
        calls.append(start)
        return scf(*args, start=start, **keywords)

    monkeypatch.setattr(calculation, "scf", counted)
    return calls


@pytest.fixture
def no_scf(monkeypatch) -> None:
    """Every SCF fails at once: for what happens before it."""

    def fail(*args, **keywords):
        raise ConvergenceError("no SCF in this test", [])

    monkeypatch.setattr(calculation, "scf", fail)


# ---- contract


def test_one_scf_serves_all_properties(scf_calls):
    atoms = silicon(rattle=0.05)
    for name in ("energy", "stress", "forces", "free_energy", "magmom", "magmoms"):
        atoms.calc.get_property(name, atoms)
    atoms.get_forces(), atoms.get_stress()
    assert len(scf_calls) == 1
    atoms.positions[0, 0] += 0.01
    atoms.get_forces(), atoms.get_potential_energy()
    assert len(scf_calls) == 2
    assert scf_calls[1] is not None  # a warm start


def test_cell_relaxation_takes_one_scf_a_step(scf_calls):
    atoms = silicon(rattle=0.05, smooth_cutoff=True)
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimizer:
        optimizer.run(fmax=1e-6, steps=2)
    assert len(scf_calls) == 3


def test_energies_alone_cost_no_derivatives(monkeypatch):
    atoms = silicon()
    monkeypatch.setattr(GroundState, "derivatives", None)
    atoms.get_potential_energy(), atoms.get_magnetic_moment(), atoms.calc.get_eigenvalues()
    assert "forces" not in atoms.calc.results


def test_initial_charges_are_not_the_charge_of_the_cell(scf_calls):
    atoms = silicon()
    energy = atoms.get_potential_energy()
    atoms.set_initial_charges([1.0, 0.0])
    assert atoms.get_potential_energy() == energy
    assert len(scf_calls) == 1


def test_results_are_python_floats_and_float64_arrays():
    atoms = silicon(smearing={"name": "fermi-dirac", "width": 0.5})
    atoms.get_stress()
    results = atoms.calc.results
    assert {type(results[name]) for name in ("energy", "free_energy", "magmom")} == {float}
    shapes = {"forces": (2, 3), "stress": (6,), "magmoms": (2,)}
    assert {name: results[name].shape for name in shapes} == shapes
    assert {results[name].dtype for name in shapes} == {np.dtype(float)}
    assert results["energy"] > results["free_energy"]  # half of -T S above


def test_forces_are_slopes_of_the_free_energy():
    atoms = silicon(rattle=0.1, **TIGHT, smearing={"name": "fermi-dirac", "width": 0.5}, gpts=(18, 18, 18))
    slopes = calculate_numerical_forces(atoms, 1e-3, iatoms=[1], force_consistent=True)
    assert atoms.get_forces()[1] == pytest.approx(slopes[0], abs=2e-5)
    assert np.abs(slopes).max() > 0.5


def test_stress_is_the_strain_derivative_in_voigt_order():
    parameters = TIGHT | {"smooth_cutoff": True, "gpts": (20, 20, 20), "kpts": (1, 1, 2)}
    atoms = silicon(rattle=0.1, **parameters)
    strain = np.array([[0.01, 0.02, 0], [0, -0.02, 0.03], [0.01, 0, 0.02]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    slopes = calculate_numerical_stress(atoms, 1e-3)
    assert atoms.get_stress() == pytest.approx(slopes, abs=2e-5)
    assert len(set(np.round(slopes, 3))) == 6


def test_compressed_crystal_has_negative_stress():
    assert (aluminium(3.6).get_stress()[:3] < -0.05).all()
    assert (aluminium(4.6).get_stress()[:3] > 0.01).all()


def test_unconstrained_forces_come_from_the_calculator():
    atoms = silicon(rattle=0.1)
    free = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0]))
    assert atoms.get_forces(apply_constraint=False) == pytest.approx(free)


def test_calculation_leaves_torch_as_it_was():
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state()
    silicon(rattle=0.1).get_stress()
    after = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state()
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_derivatives_do_not_depend_on_the_grad_mode_outside(mode):
    atoms, inside = silicon(rattle=0.1), silicon(rattle=0.1)
    with mode():
        forces = inside.get_forces()
    assert forces == pytest.approx(atoms.get_forces(), abs=1e-9)
    inside.positions[0] += 0.01  # what was kept serves outside as well
    assert np.isfinite(inside.get_forces()).all()


def test_functional_object_with_parameters_is_calculated_and_described():
    class Scaled(PBE):
        def __init__(self, factor):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(factor, dtype=torch.float64))

        def forward(self, features):
            return self.factor * super().forward(features)

    atoms = silicon(xc=Scaled(1.0))
    assert free_energy(atoms) == pytest.approx(free_energy(silicon()), abs=1e-7)
    first = atoms.calc.todict()["xc"]
    assert re.fullmatch(r"test_.*Scaled, 1 parameters \(digest [0-9a-f]{12}\)", first)
    atoms.calc.set(xc=Scaled(1.01))
    assert free_energy(atoms) < free_energy(silicon()) - 0.1
    assert atoms.calc.todict()["xc"] != first
    twin = NNXCCalculator(**atoms.calc.resolve(atoms))
    assert twin.get_potential_energy(atoms) == pytest.approx(atoms.get_potential_energy(), abs=1e-7)


def test_changed_functional_object_discards_the_numbers(scf_calls):
    class Scaled(PBE):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

        def forward(self, features):
            return self.factor * super().forward(features)

    functional = Scaled()
    atoms = aluminium(xc=functional)
    energies = [free_energy(atoms)]
    functional.kappa = 1.2  # no tensor, but in its config
    energies += [free_energy(atoms), free_energy(atoms)]
    with torch.no_grad():
        functional.factor.fill_(1.01)
    energies += [atoms.calc.get_property("free_energy")]  # without atoms: those before
    assert len(scf_calls) == 3
    assert energies[1] == energies[2]
    assert min(abs(energies[1] - energies[0]), abs(energies[3] - energies[2])) > 1e-3


# ---- memory


def test_numbers_do_not_depend_on_earlier_geometries():
    atoms = silicon(rattle=0.05)
    start = atoms.copy()
    for strain in (1.01, 0.995):
        atoms.set_cell(start.cell * strain, scale_atoms=True)
        atoms.rattle(0.05, seed=2)
        atoms.get_forces()
    atoms.cell, atoms.positions = start.cell, start.positions
    fresh = attached(start)
    assert free_energy(atoms) == pytest.approx(free_energy(fresh), abs=1e-6)
    assert atoms.get_forces() == pytest.approx(fresh.get_forces(), abs=1e-3)


def test_numbers_do_not_depend_on_another_crystal_before():
    calc = NNXCCalculator(ecut=140, kpts={"density": 1.5})
    other, atoms = bulk("Ge", "fcc", a=4.2), bulk("Al")
    calc.get_potential_energy(other)
    assert calc.get_potential_energy(atoms) == NNXCCalculator(ecut=140, kpts={"density": 1.5}).get_potential_energy(
        atoms
    )


def test_failure_never_returns_the_numbers_of_another_geometry(monkeypatch):
    atoms = aluminium(4.05)
    first = free_energy(atoms)
    scf = calculation.scf

    def fail(*args, **keywords):
        raise ConvergenceError("by intention", [])

    monkeypatch.setattr(calculation, "scf", fail)
    atoms.set_cell(bulk("Al", a=4.2).cell, scale_atoms=True)
    for _ in range(2):  # also when it is asked again
        with pytest.raises(SCFError, match="by intention"):
            atoms.get_potential_energy()
    assert atoms.calc.results == {}
    monkeypatch.setattr(calculation, "scf", scf)
    assert free_energy(atoms) == pytest.approx(free_energy(aluminium(4.2)), abs=1e-6)
    atoms.set_cell(bulk("Al", a=4.05).cell, scale_atoms=True)
    assert free_energy(atoms) == pytest.approx(first, abs=1e-6)


def test_interrupted_scf_leaves_a_calculator_that_works():
    class Interrupting(io.StringIO):
        def write(self, text):
            if text.startswith("     3 "):  # the third step
                raise KeyboardInterrupt
            return super().write(text)

    atoms = silicon()
    free_energy(atoms)
    atoms.calc.set(txt=Interrupting())
    atoms.positions[1, 0] += 0.1
    with pytest.raises(KeyboardInterrupt):
        atoms.get_potential_energy()
    assert atoms.calc.results == {}
    atoms.calc.set(txt=None)
    assert free_energy(atoms) == pytest.approx(free_energy(attached(atoms.copy())), abs=1e-6)


def test_interruption_leaves_all_results_or_none(monkeypatch):
    atoms = attached(molecule("H2"), kpts=(1, 1, 1))

    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(GroundState, "dipole_moment", interrupt)
        with pytest.raises(KeyboardInterrupt):
            atoms.get_potential_energy()
    assert atoms.calc.results == {}
    assert atoms.get_dipole_moment() == pytest.approx(np.zeros(3), abs=1e-6)


def test_refused_property_of_other_atoms_does_not_leave_them_the_old_numbers():
    crystal, other = silicon(), molecule("H2")
    energy = crystal.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="molecule has no stress"):
        crystal.calc.calculate(other, ["stress"])
    assert crystal.calc.results == {}
    assert crystal.get_potential_energy() == pytest.approx(energy, abs=1e-6)


def test_bad_geometry_after_a_good_one_is_an_error_again_and_again():
    atoms = silicon()
    first = free_energy(atoms)
    good = atoms.positions.copy()
    atoms.positions[1] = np.nan
    for _ in range(2):
        with pytest.raises(InputError, match="not a finite number"):
            atoms.get_potential_energy()
    atoms.positions = good
    assert free_energy(atoms) == pytest.approx(first, abs=1e-6)


def test_broken_arithmetic_is_a_failed_calculation_and_not_a_number():
    class NotANumber(LDA):
        def forward(self, features):
            return super().forward(features) * torch.nan

    with pytest.raises(CalculationFailed, match=r"^the xc energy or its potential is NaN or infinite$"):
        aluminium(xc=NotANumber(), pseudos="gth-pade").get_potential_energy()


def test_full_memory_of_a_gpu_is_a_failed_calculation_that_says_what_to_try(monkeypatch):
    def full(*args, **keywords):
        raise torch.cuda.OutOfMemoryError("tried to allocate 2 GiB")

    atoms = aluminium()
    monkeypatch.setattr(calculation, "scf", full)
    with pytest.raises(CalculationFailed, match=r"memory of cpu is not enough: tried to allocate 2 GiB.*lower cutoff"):
        atoms.get_potential_energy()
    assert atoms.calc.results == {}


def test_unconverged_scf_is_an_error_that_says_what_to_try():
    log = io.StringIO()
    atoms = aluminium(maxiter=2, txt=log)
    with pytest.raises(SCFError, match=r"has not converged in 2 steps.*the tolerance is.*maxiter.*smearing.*moments"):
        atoms.get_potential_energy()
    assert "NOT CONVERGED" in log.getvalue()
    atoms.calc.set(maxiter=50)
    assert free_energy(atoms) == pytest.approx(free_energy(aluminium()), abs=1e-6)


def test_history_is_that_of_the_last_scf_also_if_it_failed():
    atoms = aluminium()
    assert atoms.calc.history == []
    atoms.get_potential_energy()
    assert [step.number for step in atoms.calc.history] == list(range(1, len(atoms.calc.ground_state().history) + 1))
    atoms.calc.set(maxiter=2)
    atoms.set_cell(atoms.cell * 1.1, scale_atoms=True)
    with pytest.raises(SCFError):
        atoms.get_potential_energy()
    assert [step.number for step in atoms.calc.history] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"xc": "LDA"},
        {"ecut": 150},
        {"kpts": (1, 2, 2)},
        {"kpts": np.zeros((1, 3))},
        {"smearing": {"name": "marzari-vanderbilt", "width": 0.5}},
        {"gpts": (24, 24, 24)},
        {"smooth_cutoff": True},
    ],
)
def test_changed_parameter_discards_the_numbers(change):
    tight = {"convergence": {"energy": 1e-8}}
    atoms = silicon(**tight)
    before = free_energy(atoms)
    atoms.calc.set(**change)
    assert atoms.calc.results == {}
    assert free_energy(atoms) != pytest.approx(before, abs=1e-5)
    fresh = attached(atoms.copy(), **tight | change)
    assert free_energy(atoms) == pytest.approx(free_energy(fresh), abs=1e-6)


@pytest.mark.parametrize(
    ("convergence", "tolerance"),
    [
        ({"energy": 1e-4}, 1e-4),
        ({"forces": 1e-3}, 1e-6),
        ({"forces": 1e-4}, 1e-8),
        ({"energy": 1e-7, "forces": 1e-3}, 1e-7),
        ({"energy": 1e-4, "forces": 1e-3}, 1e-6),
    ],
)
def test_tolerance_of_the_energy_follows_from_what_is_asked_for(convergence, tolerance):
    assert energy_tolerance(convergence) == pytest.approx(tolerance, rel=1e-9)


def test_changed_table_discards_the_numbers():
    atoms = attached(bulk("Na"))
    semicore = free_energy(atoms)
    atoms.calc.set(pseudos={"Na": "gth-pbe-q1"})
    assert free_energy(atoms) > semicore + 100


def test_unchanged_parameters_and_the_log_keep_the_numbers(scf_calls):
    atoms = aluminium()
    atoms.get_potential_energy()
    atoms.calc.set(ecut=140, kpts=[2, 2, 2], txt=io.StringIO(), xc="PBE")
    atoms.get_potential_energy()
    assert len(scf_calls) == 1
    atoms.calc.reset()
    atoms.get_potential_energy()
    assert len(scf_calls) == 2
    assert scf_calls[1] is None  # no start was kept


def test_large_lists_of_kpoints_are_compared():
    atoms = aluminium(kpts=np.random.default_rng(1).uniform(-0.5, 0.5, (400, 3)), symmetry=False, maxiter=1)
    points = np.array(atoms.calc.parameters["kpts"])
    points[200, 0] += 0.1
    assert "kpts" in atoms.calc.set(kpts=points)


def test_parameters_do_not_follow_a_dict_changed_later():
    smearing = {"name": "gaussian", "width": 0.1}
    calc = NNXCCalculator(smearing=smearing)
    smearing["width"] = 5.0
    assert calc.parameters["smearing"]["width"] == 0.1
    assert NNXCCalculator.default_parameters["smearing"]["width"] == 0.2


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda calc: pickle.loads(pickle.dumps(calc))])
def test_copies_are_calculators_of_their_own(used, duplicate, tmp_path):
    with (tmp_path / "log").open("w") as log:
        atoms = silicon(rattle=0.05, txt=log)
        if used:
            atoms.get_potential_energy()
        twin = atoms.copy()
        twin.calc = duplicate(atoms.calc)
    assert twin.calc.results.keys() == atoms.calc.results.keys()
    atoms.calc.set(txt=None)
    assert twin.get_forces() == pytest.approx(atoms.get_forces(), abs=1e-9)


# ---- parameters made explicit, files


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"kpts": {"density": 0.9}},
        {"ecut": None, "kpts": {"size": (1, 1, 1), "gamma": True}, "pseudos": "gth-pbe"},
        {"kpts": [[0, 0, 0], [0.25, 0.1, 0.0]], "occupations": {"name": "gaussian", "width": 0.1}, "nbands": 9},
    ],
)
def test_calculator_from_resolved_parameters_gives_the_same_number(parameters):
    atoms = silicon(**parameters)
    expected = free_energy(atoms)
    parameters = decode(encode(atoms.calc.todict()))
    assert {"ecut", "gpts", "kpts", "pseudos", "xc"} <= parameters.keys()
    assert json.loads(json.dumps(atoms.calc.todict()))
    assert "density" not in parameters["kpts"]
    twin = atoms.copy()
    twin.calc = NNXCCalculator(**parameters)
    assert free_energy(twin) == pytest.approx(expected, abs=1e-9)
    assert twin.calc.todict().keys() == atoms.calc.todict().keys()


def test_resolve_does_not_change_the_calculator():
    calc = NNXCCalculator(ecut=140)
    large, small = (calc.resolve(bulk("Al", a=a)) for a in (4.6, 3.5))
    assert small == NNXCCalculator(ecut=140).resolve(bulk("Al", a=3.5))
    assert small["gpts"] < large["gpts"]
    assert calc.todict()["gpts"] is None


def test_files_hold_results_and_parameters(tmp_path):
    atoms = silicon(rattle=0.05, txt=tmp_path / "log", xc=PBE())
    forces, stress, energy = atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energy()
    with Trajectory(tmp_path / "si.traj", "w", atoms) as trajectory:
        trajectory.write()
    write(tmp_path / "si.extxyz", atoms)
    write(tmp_path / "si.json", atoms)
    with ase.db.connect(tmp_path / "si.db") as database:
        database.write(atoms)
    images = [read(tmp_path / f"si.{suffix}") for suffix in ("traj", "extxyz", "json", "db")]
    for image in images:
        assert image.get_potential_energy() == pytest.approx(energy)
        assert image.get_forces() == pytest.approx(forces, abs=1e-7)
        assert image.get_stress() == pytest.approx(stress, abs=1e-7)
    stored = images[0].calc.parameters
    assert list(stored["kpts"]["size"]) == [2, 2, 2]
    assert stored["pseudos"] == {"Si": "oncv"}
    assert stored["xc"].startswith("PBE, 0 parameters (digest ")


def test_files_are_written_before_a_calculation(tmp_path):
    for xc in ("PBE", LDA(), find_model("pbe-clone")):
        atoms = silicon(xc=xc, kpts=np.zeros((1, 3)), ecut=np.float64(140), txt=tmp_path / "log")
        for suffix in ("traj", "extxyz", "json", "db"):
            write(tmp_path / f"si.{suffix}", atoms)


# ---- k-points and FFT box


GAMMA_MESH = [[i / 2, j / 2, k / 2] for i in range(2) for j in range(2) for k in range(2)]


@pytest.mark.parametrize(
    ("kpts", "others"),
    [
        (
            (2, 2, 2),
            [
                np.array([2, 2, 2]),
                {"size": [2, 2, 2]},
                {"size": (2, 2, 2), "gamma": False},
                {"size": (1, 1, 1), "even": True},
            ],
        ),
        (
            {"size": (2, 2, 2), "gamma": True},
            [{"density": 0.7, "gamma": True}, {"density": 0.3, "even": True, "gamma": True}, GAMMA_MESH],
        ),
        ((1, 1, 1), [[[0, 0, 0]], {"size": (1, 1, 1), "gamma": True}, [[0, 0, 0], [1, 0, 0]]]),
    ],
)
def test_forms_of_one_mesh_give_one_energy(kpts, others):
    expected = free_energy(aluminium(kpts=kpts))
    for other in others:
        assert free_energy(aluminium(kpts=other)) == pytest.approx(expected, abs=1e-7), other


def test_even_monkhorst_pack_mesh_misses_gamma():
    gamma = aluminium(kpts={"size": (2, 2, 2), "gamma": True})
    assert abs(free_energy(aluminium()) - free_energy(gamma)) > 0.01


def test_mesh_of_a_density_is_kept_for_similar_cells_and_found_anew_beyond(no_scf):
    log = io.StringIO()
    calc = NNXCCalculator(ecut=140, kpts={"density": 1.5, "gamma": True}, txt=log)

    def mesh(a: float) -> tuple:
        with pytest.raises(SCFError):
            calc.get_potential_energy(bulk("Al", a=a))
        return calc.todict()["kpts"]["size"]

    assert mesh(4.0) == mesh(4.35) == mesh(3.65) == (5, 5, 5)
    assert "anew" not in log.getvalue()
    assert mesh(5.5) == (3, 3, 3)
    assert "note: the k-points are chosen anew, because this is not a small strain" in log.getvalue()
    assert mesh(5.0) == (3, 3, 3)  # similar to the cell of 5.5


STRUCTURES = {
    "fcc": bulk("Al", "fcc", a=4.05),
    "bcc": bulk("Al", "bcc", a=3.25),
    "sc": bulk("Al", "sc", a=2.72),
    "long sc": bulk("Al", "sc", a=3.2),
    "sheared": Atoms("Al", cell=[[2.7, 0, 0], [0.9, 2.7, 0], [0, 0, 2.7]], pbc=True),
    "hcp": bulk("Al", "hcp", a=2.86, c=4.7),
    "diamond": bulk("Al", "diamond", a=6.0),
    "dimer": Atoms("Al2", cell=bulk("Al", "fcc", a=6.0).cell, positions=[[0, 0, 0], [2.4, 0, 0]], pbc=True),
    "layer": Atoms("Al", cell=[2.72, 2.72, 9], pbc=(True, True, False)),
    "cubic": bulk("Al", "fcc", a=4.05, cubic=True),
}


def test_number_does_not_depend_on_what_was_calculated_before(no_scf):
    """Any order of structures through one calculator has the meshes and boxes of fresh calculators."""
    parameters = {"ecut": 140, "kpts": {"density": 2.3, "gamma": True}}
    fresh = {name: NNXCCalculator(**parameters).resolve(atoms) for name, atoms in STRUCTURES.items()}
    assert len({fresh[name]["kpts"]["size"] for name in ("fcc", "bcc", "sc")}) > 1
    rng = np.random.default_rng(0)
    for _ in range(4):
        calc = NNXCCalculator(**parameters)
        for name in rng.permutation(list(STRUCTURES)):
            with pytest.raises(SCFError):
                calc.get_potential_energy(STRUCTURES[name])
            used = calc.todict()
            assert (used["kpts"], used["gpts"]) == (fresh[name]["kpts"], fresh[name]["gpts"]), name


def test_insulator_with_few_levels_converges_with_the_default_smearing():
    """Silicon at Gamma: the Fermi level of cold smearing hopped between the middle of the gap and its lower edge."""
    energies = []
    for smearing in ({"name": "marzari-vanderbilt", "width": 0.2}, {"name": "gaussian", "width": 0.2}):
        atoms = bulk("Si")
        atoms.positions[0, 0] += 0.05
        atoms.calc = NNXCCalculator(ecut=200, kpts=(1, 1, 1), smearing=smearing)
        energies.append(free_energy(atoms))
    assert len(atoms.calc.history) < 12
    assert energies[0] == pytest.approx(energies[1], abs=1e-5)


@pytest.mark.parametrize(
    ("atoms", "ecut"),
    [
        (Atoms("Al", cell=[4, 4, 1e5], pbc=True), 300),
        (bulk("Al"), 1e6),
        (Atoms("H2", positions=[[0, 0, 0], [0, 0, 5e4]]), 300),
        (bulk("Al", cubic=True) * (16, 16, 16), 300),
    ],
    ids=["vacuum", "cutoff", "distance", "atoms"],
)
def test_calculation_that_no_memory_holds_is_refused_at_once(atoms, ecut, monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 16 * memory.GIB)
    atoms.calc = NNXCCalculator(ecut=ecut, kpts=(1, 1, 1))
    with pytest.raises(InputError, match=r"needs at least \S+ GiB of memory .*this machine has 16 GiB; lower ecut"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("atoms", [molecule("H2O"), bulk("Ni")], ids=["molecule", "magnet"])
def test_numpy_that_raises_on_underflow_changes_nothing(atoms):
    pseudo_atom.cache_clear()
    if atoms.pbc.all():
        atoms.set_initial_magnetic_moments([1.0])
    atoms.calc = NNXCCalculator(ecut=250, kpts=(1, 1, 1), pseudos="gth-pbe")
    with np.errstate(all="raise"):
        generate("Si", PBE(kappa=0.7654321))  # which no cache has
        atoms.get_forces()
        atoms.get_magnetic_moments()


def test_energy_without_symmetry_is_that_with_it_on_the_same_box():
    """The box that suits the translations of silicon is larger than the smallest at this cutoff."""
    energies = []
    for symmetry in (True, False):
        atoms = bulk("Si")
        atoms.calc = NNXCCalculator(ecut=200, kpts=(2, 3, 4), symmetry=symmetry)
        energies.append(free_energy(atoms))
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)


@pytest.mark.parametrize(
    ("atoms", "gamma", "message"),
    [
        (bulk("H", "sc", a=0.7), True, r"80 eV is too low for this cell: a k-point has 0 plane waves.*increase ecut"),
        (bulk("Si", a=1.2), None, r"80 eV is too low for this cell.*increase ecut"),
        (bulk("H", "sc", a=0.7), None, r"use more plane waves \(a higher cutoff\)"),
    ],
    ids=["no plane wave", "too few", "full"],
)
def test_cell_that_is_too_small_for_the_cutoff_is_an_input_error(atoms, gamma, message):
    atoms.calc = NNXCCalculator(ecut=80, kpts={"size": (2, 2, 2), "gamma": gamma})
    with pytest.raises(InputError, match=message):
        atoms.get_potential_energy()


def test_box_is_that_of_the_geometry_whatever_came_before(no_scf):
    calc = NNXCCalculator(ecut=140, kpts=(1, 1, 1))

    def box(a: float) -> tuple:
        with pytest.raises(SCFError):
            calc.get_potential_energy(bulk("Al", a=a))
        return calc.todict()["gpts"]

    assert box(3.9) < box(4.5)
    assert box(3.9) == NNXCCalculator(ecut=140, kpts=(1, 1, 1)).resolve(bulk("Al", a=3.9))["gpts"]
    assert len(set(box(3.9))) == 1  # no operation of the cube is lost


@pytest.mark.parametrize(
    ("xc", "limit"), [("PBE", 0.02), ("r2SCAN", 0.1), pytest.param("SCAN", 0.1, marks=pytest.mark.slow)]
)
def test_energy_depends_neither_on_the_position_of_the_grid_nor_on_finer_ones(xc, limit):
    settings = {"ecut": 300, "kpts": {"size": (2, 2, 2), "gamma": True}, "convergence": {"energy": 1e-9}}
    atoms = silicon(xc=xc, pseudos="gth-pbe", **settings)
    box = atoms.calc.resolve(atoms)["gpts"]
    energies = [atoms.get_potential_energy(force_consistent=True)]
    atoms.positions += (0.03, 0.01, 0.02)
    energies.append(atoms.get_potential_energy(force_consistent=True))
    atoms.calc.set(gpts=tuple(3 * n // 2 for n in box))
    energies.append(atoms.get_potential_energy(force_consistent=True))
    assert 1000 * np.ptp(energies) < limit  # meV


def test_orbitals_and_density_are_on_the_grid_that_was_given():
    atoms = silicon(gpts=(24, 24, 24))
    atoms.get_potential_energy()
    density, orbital = atoms.calc.get_pseudo_density(), atoms.calc.get_pseudo_wave_function()
    assert density.shape == orbital.shape == atoms.calc.get_effective_potential().shape == (24, 24, 24)
    assert atoms.calc.differentiable(atoms).density.shape == density.shape
    volume = atoms.get_volume() / density.size
    assert density.sum() * volume == pytest.approx(8, abs=1e-10)
    assert np.square(abs(orbital)).sum() * volume == pytest.approx(1, abs=1e-10)
    assert atoms.calc.ground_state().basis.grid.shape < (24, 24, 24)  # transforms of orbitals do not need it


def test_energy_is_the_same_after_an_excursion_to_a_larger_cell():
    atoms = aluminium(convergence={"energy": 1e-8})
    before = free_energy(atoms)
    cell = atoms.cell.copy()
    atoms.set_cell(1.15 * cell, scale_atoms=True)
    free_energy(atoms)
    atoms.set_cell(cell, scale_atoms=True)
    assert free_energy(atoms) == pytest.approx(before, abs=1e-7)


# ---- magnetism


def test_moments_of_stretched_hydrogen():
    atoms = hydrogen()
    assert atoms.get_magnetic_moment() == pytest.approx(1.0, abs=1e-3)
    assert atoms.get_magnetic_moments() == pytest.approx([1.0], abs=1e-3)
    assert free_energy(atoms) < free_energy(hydrogen(moment=None)) - 0.1


def test_atomic_moments_add_up_to_the_total():
    atoms = attached(Atoms("H2", [[0, 0, 0], [0, 0, 2.2]], cell=[3, 3, 4.2], pbc=True, magmoms=[1, 0.2]))
    moments = atoms.get_magnetic_moments()
    assert moments.sum() == pytest.approx(atoms.get_magnetic_moment(), abs=1e-6)


def test_antiferromagnet_has_opposite_moments():
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 3.2]], cell=[3.2, 3.2, 6.4], pbc=True, magmoms=[1, -1])
    attached(atoms, kpts=(1, 1, 1))
    moments = atoms.get_magnetic_moments()
    assert atoms.get_magnetic_moment() == pytest.approx(0, abs=1e-6)
    assert moments[0] == pytest.approx(-moments[1], abs=1e-6)
    assert moments[0] > 0.5


def test_spinpol_without_moments_equals_paired():
    paired, polarised = silicon(**TIGHT), silicon(**TIGHT, spinpol=True)
    assert free_energy(polarised) == pytest.approx(free_energy(paired), abs=1e-7)
    assert polarised.get_magnetic_moment() == pytest.approx(0, abs=1e-8)


def test_collapsed_moment_is_seeded_again(scf_calls):
    atoms = hydrogen(3.5, kpts={"size": (2, 2, 2), "gamma": True})
    expected = free_energy(atoms)
    atoms.set_cell([1.6] * 3, scale_atoms=True)
    assert abs(atoms.get_magnetic_moment()) < 0.01
    atoms.set_cell([3.5] * 3, scale_atoms=True)
    assert atoms.get_magnetic_moment() == pytest.approx(1.0, abs=1e-3)
    assert free_energy(atoms) == pytest.approx(expected, abs=1e-6)
    assert scf_calls[2] is not None


def test_new_initial_moments_are_a_new_start(scf_calls):
    atoms = hydrogen(3.5)
    up = free_energy(atoms)
    atoms.set_initial_magnetic_moments([-1.0])
    assert free_energy(atoms) == pytest.approx(up, abs=1e-6)
    assert atoms.get_magnetic_moment() == pytest.approx(-1.0, abs=1e-3)
    assert scf_calls == [None, None]


# ---- bad input: an error at once


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"ecutt": 300}, "did you mean 'ecut'"),
        ({"kpoints": (2, 2, 2)}, "did you mean 'kpts'"),
        ({"xc": "PBF"}, "did you mean"),
        ({"xc": 3}, "a name"),
        ({"ecut": -300}, "20 Ha is 544"),
        ({"ecut": 0}, "20 Ha is 544"),
        ({"ecut": 20}, "ecut is in eV"),
        ({"ecut": "300"}, "ecut is in eV"),
        ({"ecut": np.nan}, "ecut is in eV"),
        ({"ecut": True}, "ecut is in eV"),
        ({"smearing": {"name": "marzari-vanderbild", "width": 0.1}}, "did you mean 'marzari-vanderbilt'"),
        ({"smearing": {"name": "gaussian", "width": 0}}, "in eV"),
        ({"smearing": {"name": "gaussian", "width": -0.1}}, "in eV"),
        ({"smearing": {"name": "gaussian", "width": 300}}, "300 K is 0.026"),
        ({"smearing": {"name": "gaussian", "width": "0.1"}}, "in eV"),
        ({"smearing": {"name": "gaussian"}}, "name and width"),
        ({"smearing": "gaussian"}, "name and width"),
        ({"smearing": {"name": "gaussian", "width": 0.1}, "occupations": {}}, "another name for smearing"),
        ({"kpts": (2, 2)}, "three positive integers"),
        ({"kpts": (2, 2, 0)}, "three positive integers"),
        ({"kpts": (2, -2, 2)}, "three positive integers"),
        ({"kpts": (2, 2, 2.5)}, "three positive integers"),
        ({"kpts": (True, True, True)}, "three positive integers"),
        ({"kpts": ("2", "2", "2")}, "three positive integers"),
        ({"kpts": 4}, "three positive integers"),
        ({"kpts": "444"}, "three positive integers"),
        ({"kpts": [[0, 0, 0], [0, 0]]}, "three positive integers"),
        ({"kpts": [[0, 0, [0]]]}, "three positive integers"),
        ({"kpts": [[0, 0, np.inf]]}, "three positive integers"),
        ({"kpts": []}, "three positive integers"),
        ({"kpts": np.zeros((2, 2, 3))}, "three positive integers"),
        ({"kpts": {"size": (2, 2)}}, "three positive integers"),
        ({"kpts": {"size": (2, 2, 2), "gama": True}}, "gamma"),
        ({"kpts": {"size": (2, 2, 2), "gamma": "yes"}}, "True or False"),
        ({"kpts": {"size": (2, 2, 2), "density": 2.0}}, "key size or density"),
        ({"kpts": {"gamma": True}}, "key size or density"),
        ({"kpts": {"density": 0}}, "points per inverse Angstrom"),
        ({"kpts": {"density": (2, 2, 2)}}, "points per inverse Angstrom"),
        ({"pseudos": 3}, "pseudos"),
        ({"pseudos": {"AL": "gth-pbe"}}, "did you mean 'Al'"),
        ({"pseudos": {"Al": 3}}, "name of a table"),
        ({"spinpol": "yes"}, "True or False"),
        ({"nbands": 0}, "positive integer"),
        ({"nbands": 4.5}, "positive integer"),
        ({"nbands": True}, "positive integer"),
        ({"gpts": 24}, "three positive integers"),
        ({"gpts": (24, 24)}, "three positive integers"),
        ({"gpts": (24, 24, -24)}, "three positive integers"),
        ({"symmetry": "off"}, "True or False"),
        ({"smooth_cutoff": 1}, "True or False"),
        ({"convergence": {"energy": -1e-6}}, "positive"),
        ({"convergence": {"density": 1e-6}}, "energy"),
        ({"convergence": {}}, "energy"),
        ({"convergence": {"forces": 0}}, "at least 1e-06"),
        ({"convergence": {"forces": "tight"}}, "numbers"),
        ({"convergence": 1e-6}, "energy"),
        ({"maxiter": 0}, "positive integer"),
        ({"device": "gpu"}, "unknown device 'gpu': expected auto, cpu"),
        ({"device": "meta"}, "auto, cpu or cuda"),
        ({"device": 3.5}, "unknown device"),
        ({"txt": 3}, "txt"),
        ({"ecut": 1e20}, "at most 1000000"),
        ({"kpts": (10**20, 2, 2)}, "a mesh of 400000000000000000000 points, at most 1000000 are allowed"),
        ({"kpts": {"size": (1000, 1000, 1000)}}, "a mesh of 1000000000 points"),
    ],
)
def test_bad_parameter_is_refused_when_it_is_given(parameters, message):
    with pytest.raises(InputError, match=message):
        NNXCCalculator(**parameters)
    calc = NNXCCalculator()
    before = dict(calc.parameters)
    with pytest.raises(InputError, match=message):
        calc.set(**{"maxiter": 7} | parameters)
    assert calc.parameters == before


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_absent_cuda_is_refused_when_it_is_asked_for(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="0 CUDA devices"):
        NNXCCalculator(device=device)


CROWDED = bulk("Al", cubic=True) * (6, 6, 6)  # one image of the last atom is close to another atom
CROWDED.append(Atom("Al", CROWDED.positions[3] + CROWDED.cell[2] + [0, 0, 0.1]))
BAD_ATOMS = {
    "no atoms": Atoms(cell=[4] * 3, pbc=True),
    "apart: they sit on top": Atoms("Al2", [[0, 0, 0], [0, 0, 0.01]], cell=[4] * 3, pbc=True),
    "atoms 0 and 1 are 0.010 Angstrom apart": Atoms("Al2", [[0, 0, 0], [0, 0, 3.99]], cell=[4] * 3, pbc=True),
    "atoms 3 and 864 are 0.100 Angstrom apart": CROWDED,
    "an image of itself": Atoms("Al", cell=[4, 4, 0.3], pbc=True),
    "position or a cell vector is not a finite": Atoms("Al", [[0, 0, np.nan]], cell=[4] * 3, pbc=True),
    "cell vector is not a finite": Atoms("Al", cell=[4, 4, np.inf], pbc=True),
    "the cell has no volume": Atoms("Al", pbc=True),
    "the cell has no area: 2 independent cell vectors": Atoms("Al", cell=[4, 0, 4], pbc=[True, True, False]),
    "cell has no volume": Atoms("Al", cell=[[4, 0, 0], [4, 0, 0], [0, 0, 4]], pbc=True),
    "one direction alone cannot be periodic": Atoms("Al", cell=[4] * 3, pbc=[False, True, False]),
    "unknown element 'X'": Atoms("X", cell=[4] * 3, pbc=True),
    "no pseudopotential can be generated for 'Ra'": Atoms("Ra", cell=[6] * 3, pbc=True),
    "3 valence electrons, its moment cannot be 4": Atoms("Al", cell=[4] * 3, pbc=True, magmoms=[4]),
    "one finite number for each atom": Atoms("Al", cell=[4] * 3, pbc=True, magmoms=[np.nan]),
    "must be collinear": Atoms("Al", cell=[4] * 3, pbc=True, magmoms=[[0, 0, 1]]),
}


@pytest.mark.parametrize("message", BAD_ATOMS)
def test_bad_atoms_are_refused_before_the_scf(message, no_scf):
    calc = NNXCCalculator(**CHEAP)
    for compute in (calc.get_potential_energy, calc.resolve):
        with pytest.raises(InputError, match=message):
            compute(BAD_ATOMS[message])
    assert calc.results == {}


CIF = """data_alloy
_cell_length_a 4.05
_cell_length_b 4.05
_cell_length_c 4.05
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_Int_Tables_number 1
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ("Si1 Si .5 .5 .5 1.0\nAl1 Al 0 0 0 0.6\nMg1 Mg 0 0 0 0.4\n", r"site 1 \(Al 0\.6 / Mg 0\.4; atoms \[1\]\)"),
        ("Si1 Si .5 .5 .5 0.9\nAl1 Al 0 0 0 1.0\n", r"site 0 \(Si 0\.9; atoms \[0\]\);"),
        ("Si1 Si .5 .5 .5 1.0\nAl1 Al 0 0 0 0.9999\n", None),
    ],
    ids=["shared", "partly empty", "whole"],
)
def test_partial_occupancies_of_a_cif_file_are_refused_with_their_sites(tmp_path, no_scf, sites, message):
    (tmp_path / "alloy.cif").write_text(CIF + sites)
    atoms = read(tmp_path / "alloy.cif")
    calc = NNXCCalculator(**CHEAP)
    if message is None:
        calc.resolve(atoms)
        return
    for compute in (calc.get_potential_energy, calc.resolve):
        with pytest.raises(InputError, match=message):
            compute(atoms)
    del atoms.info["occupancy"]
    calc.resolve(atoms)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"nbands": 3}, "8 electrons need 5 at least"),
        ({"nbands": 2000}, "plane waves make .* at most"),
        ({"gpts": (8, 8, 8)}, "cannot hold the density"),
        ({"pseudos": "gth-pbe-q7"}, "valences of gth-pbe: q4"),
        ({"pseudos": "gth-pbf"}, "did you mean 'gth-pbe'"),
        ({"kpts": {"density": 1e9}}, "at most 1000000 are allowed"),
        ({"gpts": (10**20,) * 3}, "GiB of memory"),
    ],
)
def test_parameter_that_does_not_fit_the_atoms_is_refused_before_the_scf(parameters, message, no_scf):
    with pytest.raises(InputError, match=message):
        silicon(**parameters).get_potential_energy()


def test_moments_with_spinpol_false_are_refused():
    with pytest.raises(InputError, match="spinpol=False"):
        hydrogen(spinpol=False).get_potential_energy()


def test_calculator_without_atoms_is_refused():
    with pytest.raises(InputError, match="ask the atoms for their energy first"):
        NNXCCalculator().get_potential_energy()


def test_bands_that_the_smearing_fills_are_refused():
    with pytest.raises(InputError, match="too few bands"):
        silicon(nbands=5, smearing={"name": "fermi-dirac", "width": 2.0}).get_potential_energy()


def test_tables_of_another_functional_warn_once():
    atoms = silicon(pseudos="gth-pade")

    def use() -> None:
        for _ in range(2):
            atoms.rattle(0.01)
            atoms.get_potential_energy()
        atoms.calc.todict()

    with pytest.warns(UserWarning, match="generated for a functional other") as caught:
        use()
    assert [w.category for w in caught].count(UserWarning) == 1


# ---- log


def test_no_log_is_silent(capfd):
    silicon().get_stress()
    assert capfd.readouterr() == ("", "")


def test_log_on_standard_output_follows_its_redirection(capsys):
    atoms = silicon(txt="-")
    atoms.get_potential_energy()
    assert "converged in" in capsys.readouterr().out
    atoms.get_forces()
    assert "forces / eV/Angstrom" in capsys.readouterr().out


def test_log_reports_what_was_done(tmp_path):
    atoms = aluminium(ecut=None, kpts={"size": (2, 2, 2), "gamma": True}, txt="al.log", directory=tmp_path / "new")
    atoms.get_stress()
    text = (tmp_path / "new" / "al.log").read_text()
    cutoff, source = recommended_cutoff(generate("Al", PBE()))
    expected = ["ase_nnxc 0.", "PBE", "Al oncv (sha256 ", f"{cutoff * Hartree:.2f} eV", f"({source})"]
    expected += ["'size': (2, 2, 2)", "3 of 8 irreducible", " x ", "48 operations", "marzari-vanderbilt, 0.2 eV"]
    expected += [f"torch {torch.__version__}", f"{torch.get_num_threads()} threads"]
    expected += ["step     free energy", "   1 ", "kinetic", "ewald", "entropy", "Fermi level", "stress / GPa"]
    assert [e for e in expected if e not in text] == []
    assert f"{free_energy(atoms):.8f}" in text
    assert f"{atoms.calc.results['fermi_level']:.8f}" in text


def test_log_names_estimated_cutoff_smooth_cutoff_and_moments(no_scf):
    log = io.StringIO()
    atoms = attached(bulk("Tl", "fcc", a=4.9), ecut=None, smooth_cutoff=True, pseudos="gth-pbe", txt=log)
    with pytest.raises(SCFError):
        atoms.get_potential_energy()
    assert "eV (estimated), smooth" in log.getvalue()


def test_log_goes_to_an_open_file_or_is_appended_to_a_path(tmp_path):
    stream = io.StringIO()
    atoms = hydrogen(txt=stream)
    atoms.get_potential_energy()
    assert "atom 0:" in stream.getvalue()
    for _ in range(2):
        attached(atoms.copy(), txt=tmp_path / "log").get_potential_energy()
    assert (tmp_path / "log").read_text().count("converged in") == 2


def test_unwritable_log_is_an_error_before_the_scf(tmp_path, scf_calls):
    with pytest.raises(OSError, match="log"):
        aluminium(txt=tmp_path / "absent" / "log").get_potential_energy()
    assert scf_calls == []


@pytest.mark.parametrize("symbol", ["Cr", "Mn", "Fe", "Co", "Ni"])
def test_log_notes_magnetic_elements_without_moments(symbol, no_scf):
    for moment, noted in ((None, True), ([1.0], False)):
        log = io.StringIO()
        atoms = attached(bulk(symbol, "fcc", a=3.5), txt=log)
        atoms.set_initial_magnetic_moments(moment)
        with pytest.raises(SCFError):
            atoms.get_potential_energy()
        assert ("note: Cr, Mn, Fe, Co or Ni without initial magnetic moments" in log.getvalue()) is noted


# ---- ASE's tools


def relax_cell(atoms: Atoms, fmax: float, steps: int) -> bool:
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimizer:
        return optimizer.run(fmax=fmax, steps=steps)


def test_relaxation_of_positions():
    atoms = silicon(rattle=0.1)
    with BFGS(atoms, logfile=None) as optimizer:
        assert optimizer.run(fmax=0.02, steps=20)
    assert atoms.get_distance(0, 1, mic=True) == pytest.approx(5.43 * 3**0.5 / 4, abs=0.01)


def test_cell_relaxation_with_unconverged_cutoff_warns_once():
    atoms = silicon()
    with pytest.warns(UserWarning, match=r"cutoff of 140 eV.*Pulay pressure of about -\d+\.\d GPa") as caught:
        relax_cell(atoms, fmax=1e-4, steps=4)
    assert [w.category for w in caught].count(UserWarning) == 1


def test_smooth_cutoff_and_single_stresses_do_not_warn():
    atoms = silicon(smooth_cutoff=True)
    relax_cell(atoms, fmax=1e-4, steps=2)
    calc = NNXCCalculator(**CHEAP)
    for single in (bulk("Si"), bulk("Al")):
        calc.get_stress(single)


def equation_of_state(atoms: Atoms, widths: np.ndarray) -> float:
    """Volume (A^3) of the least free energy from ASE's fit."""
    volumes, energies = [], []
    for width in widths:
        scaled = attached(strained(atoms, width), **atoms.calc.parameters)
        volumes.append(scaled.get_volume())
        energies.append(free_energy(scaled))
    return EquationOfState(volumes, energies, eos="birchmurnaghan").fit()[0]


def relaxed_and_scanned(atoms: Atoms, strain: float, **parameters) -> tuple[float, float]:
    """Lattice constants (A) of an fcc lattice: of a relaxation begun at a strained cell, and of a scan."""
    scan = scan_eos(atoms, NNXCCalculator(**parameters))
    start = strained(atoms, strain)
    start.calc = NNXCCalculator(**parameters, gpts=scan.parameters["gpts"], smooth_cutoff=True)
    assert relax_cell(start, fmax=1e-3, steps=30)
    return (4 * start.get_volume()) ** (1 / 3), scan.conventional_a


def test_relaxed_cell_of_silicon_is_the_minimum_of_a_scan():
    relaxed, scanned = relaxed_and_scanned(bulk("Si", a=5.5), 1.02, ecut=300, kpts={"size": (3, 3, 3), "gamma": True})
    assert relaxed == pytest.approx(scanned, abs=0.002)


@pytest.mark.slow
def test_relaxed_cell_of_magnesium_oxide_is_the_minimum_of_a_scan():
    pseudos = {"Mg": "gth-pbe-q2", "O": "gth-pbe"}
    parameters = {"ecut": 1500, "kpts": {"size": (3, 3, 3), "gamma": True}, "pseudos": pseudos}
    relaxed, scanned = relaxed_and_scanned(bulk("MgO", "rocksalt", a=4.27), 1.02, **parameters)
    assert relaxed == pytest.approx(scanned, abs=0.002)


def test_stress_vanishes_where_ases_equation_of_state_has_its_minimum():
    atoms = aluminium(kpts={"size": (3, 3, 3), "gamma": True}, smooth_cutoff=True, gpts=(20, 20, 20))
    volume = equation_of_state(atoms, np.linspace(0.97, 1.03, 5))
    atoms.set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    assert np.abs(atoms.get_stress()).max() < 0.3 * GPa


def test_free_energy_as_a_tensor_has_its_value_and_the_gradient_by_the_functional():
    functional = PBE(kappa=0.9, trainable=("kappa", "mu"))
    atoms = bulk("Si", a=5.43)
    atoms.positions[1] += [0.1, 0.05, -0.02]
    atoms.calc = NNXCCalculator(functional, ecut=150, kpts=(2, 1, 1), convergence={"energy": 1e-12})
    energy = atoms.calc.energy_tensor(atoms)
    assert energy.item() == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-10)
    for parameter, slope in zip(functional.parameters(), torch.autograd.grad(energy, list(functional.parameters()))):
        energies = []
        for step in (-1e-3, 2e-3):  # the calculator sees that the numbers in the functional are others
            with torch.no_grad():
                parameter += step
            energies.append(atoms.get_potential_energy(force_consistent=True))
        with torch.no_grad():
            parameter -= 1e-3
        assert slope.item() == pytest.approx((energies[1] - energies[0]) / 2e-3, rel=1e-5)


@pytest.mark.parametrize("wrong", [lambda energy: energy[:, None], lambda energy: energy.sum()], ids=["column", "sum"])
def test_functional_that_gives_energies_of_a_wrong_shape_is_refused(wrong):
    class Wrong(LDA):
        def forward(self, features):
            return wrong(super().forward(features))

    with pytest.raises(InputError, match=r"of shape .* on three points"):
        NNXCCalculator(Wrong())
