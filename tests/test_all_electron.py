"""Records of molecules with all electrons: predictions by PySCF in training, beside solids in plane waves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError, SCFError
from ase.units import Bohr

from ase_nnxc import NNXCCalculator, PySCFCalculator
from ase_nnxc.calculator import molecule as calculator_module
from ase_nnxc.train import all_electron as warm_module
from ase_nnxc.train.functionals import functional_from
from ase_nnxc.train.objectives import (
    DensityMatrix,
    DensityOnPoints,
    EnergyDifferences,
    Forces,
    ReactionEnergy,
    TotalEnergy,
)
from ase_nnxc.train.prediction import Prediction
from ase_nnxc.train.records import (
    Provenance,
    Record,
    all_electron,
    atomization_energy,
    ionization_potential,
    read_records,
    write_records,
)
from ase_nnxc.train.tensor_files import load_tensors, save_tensors
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.train.warm import WarmCalculators, _size
from ase_nnxc.xc import PBE

TINY = {"ecut": 100, "convergence": {"energy": 1e-12}}
TIGHT = {"grid_level": 0, "convergence": {"energy": 1e-11}}


def imidogen():
    return all_electron(atomization_energy("NH", molecule("NH"), 3.6), "3-21g", **TIGHT)


def helium():
    return all_electron(ionization_potential("He", Atoms("He"), 24.6, magmom=1), "6-31g", **TIGHT)


@pytest.fixture
def solver_calls(monkeypatch):
    """A list that gets the start of each SCF."""
    starts = []

    def count(atoms, functional, parameters, start=None):
        starts.append(start)
        return calculator_module.solve(atoms, functional, parameters, start)

    monkeypatch.setattr(warm_module, "solve", count)
    return starts


@pytest.mark.parametrize("make", [imidogen, helium])
def test_gradient_is_the_derivative_of_tight_scfs(make):
    record, functional = make(), PBE(kappa=0.7, trainable=("kappa",))
    warm = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0)
    error = ReactionEnergy().errors(warm.predict(record), record)
    (slope,) = torch.autograd.grad(error, functional.kappa)

    def energy(kappa):
        pairs = zip(record.structures, record.settings)
        energies = [PySCFCalculator(PBE(kappa=kappa), **s).get_potential_energy(atoms) for atoms, s in pairs]
        return float(np.dot(record.coefficients, energies))

    h = 2e-3
    assert error.item() == pytest.approx(energy(0.7) - record.targets["reaction_energy"], abs=1e-7)
    assert slope.item() == pytest.approx((energy(0.7 + h) - energy(0.7 - h)) / (2 * h), rel=1e-5)


def test_scf_starts_from_the_density_before_and_is_not_repeated(solver_calls):
    record, functional = helium(), PBE(kappa=0.7, trainable=("kappa",))
    warm = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0)
    first = warm.predict(record).energies.tolist()
    assert warm.predict(record).energies.tolist() == first
    assert solver_calls == [None, None]
    functional.kappa.data += 0.01
    warm.predict(record, fixed_density=True)
    assert len(solver_calls) == 2
    warm.predict(record)
    assert [start.ndim for start in solver_calls[2:]] == [2, 3]


@pytest.fixture
def hydrides():
    """H2, and LiH that has the free atom H in common with it."""
    return [all_electron(atomization_energy(name, molecule(name), 3.0), "sto-3g", **TIGHT) for name in ("H2", "LiH")]


def test_molecule_of_two_records_is_held_once(hydrides, tmp_path):
    calculator = NNXCCalculator(PBE(trainable=("kappa",)), **TINY)
    ample = WarmCalculators(calculator, 1.0)
    ample.predict(hydrides[1])
    warm = WarmCalculators(calculator, 1.01 * sum(_size(one.held_state) for one in ample._held) / 2**30)
    for record in hydrides:
        warm.predict(record)
    assert warm.save(tmp_path, None).keys() == {"LiH/0", "LiH/1", "LiH/2"}


def test_failed_molecule_of_two_records_is_not_saved(hydrides, tmp_path, monkeypatch):
    functional = PBE(trainable=("kappa",))
    warm = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0)
    warm.predict(hydrides[1])

    def fail(atoms, *rest):
        if len(atoms) == 1:
            raise SCFError
        return calculator_module.solve(atoms, *rest)

    monkeypatch.setattr(warm_module, "solve", fail)
    functional.kappa.data += 0.01
    with pytest.raises(SCFError):
        warm.predict(hydrides[0])
    assert warm.save(tmp_path, None).keys() == {"LiH/0", "LiH/1", "H2/0"}


def test_unchanged_density_of_two_records_is_linked_and_loaded(hydrides, tmp_path, solver_calls):
    calculator = NNXCCalculator(PBE(trainable=("kappa",)), **TINY)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    warm, again = WarmCalculators(calculator, 1.0), WarmCalculators(calculator, 1.0)
    warm.predict(hydrides[1])
    warm.save(folders[0], None)
    warm.predict(hydrides[0])
    names = warm.save(folders[1], folders[0])
    assert names.keys() == {"LiH/0", "LiH/1", "H2/0", "H2/1"}
    assert sum(file.stat().st_nlink == 2 for file in folders[1].iterdir()) == 3
    again.load(folders[1], names, {record.name: record for record in hydrides})
    solver_calls.clear()
    for record in hydrides:
        again.predict(record)
    assert solver_calls == []


def test_loaded_density_is_on_the_device_of_the_functional():
    settings = {"basis": "sto-3g", **TIGHT}
    molecule = warm_module.WarmMolecule(PBE(trainable=("kappa",)), settings)
    molecule.solve(Atoms("He"))
    functional = PBE(trainable=("kappa",))
    other = warm_module.WarmMolecule(functional, settings)
    functional.to("meta")
    other.unpack_state(Atoms("He"), molecule.pack_state())
    state = other.held_state
    assert [x.device.type for x in (state.channels, state.weights, state.matrices)] == ["meta", "meta", "cpu"]


def test_density_of_a_gpu_is_loaded_on_any_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    digest = save_tensors({"weights": torch.ones(2)}, tmp_path / "state.pt")
    assert load_tensors(tmp_path / "state.pt", digest)["weights"].device.type == "cpu"


# ---- densities

DENSITIES = {"density_on_points": DensityOnPoints, "density_matrix": DensityMatrix}
LIH = Atoms("LiH", [[0, 0, 0], [0, 0, 1.6]])
IMIDOGEN = molecule("NH")


def density_record(atoms, target, by_spin=False, functional=None):
    """The record of a molecule whose density is that of another functional, PBE with kappa=1.2 by default."""
    settings = {"basis": "3-21g", "grid_level": 0, "convergence": {"energy": 1e-12}}
    mf = PySCFCalculator(functional or PBE(kappa=1.2), **settings).mean_field(atoms)
    value = mf.make_rdm1()
    value = value.sum(0) if value.ndim == 3 and not by_spin else value
    if target == "density_on_points":
        orbitals, weights = mf._numint.eval_ao(mf.mol, mf.grids.coords), mf.grids.weights
        density = np.einsum("pi,...ij,pj->p...", orbitals, value, orbitals)
        value = np.column_stack([mf.grids.coords * Bohr, weights * Bohr**3, density / Bohr**3])
    others = {"settings": (settings,), "calculator": PySCFCalculator.name}
    return Record(str(atoms.symbols), (atoms,), {target: [value]}, **others)


def network(parent):
    """A functional with a network that is not at its start, where it is its parent."""
    functional, generator = (
        functional_from({"constrained": {"parent": parent}}, "functional", Path()),
        torch.Generator(),
    )
    for parameter in functional.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator.manual_seed(3), dtype=torch.float64)
    return functional


@pytest.mark.parametrize(
    ("atoms", "by_spin", "parent", "target"),
    [
        (LIH, False, "PBE", "density_on_points"),
        (LIH, False, "r2SCAN", "density_matrix"),
        (IMIDOGEN, True, "PBE", "density_matrix"),
        (IMIDOGEN, True, "r2SCAN", "density_on_points"),
        (IMIDOGEN, False, "PBE", "density_on_points"),
    ],
)
def test_gradient_of_a_density_is_the_derivative_of_tight_scfs(atoms, by_spin, parent, target, monkeypatch):
    monkeypatch.setattr(calculator_module, "GRADIENT", 1e-9)
    record, functional = density_record(atoms, target, by_spin), network(parent)
    warm = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0)
    parameters = list(functional.parameters())
    gradient = torch.autograd.grad(DENSITIES[target]()(warm.predict(record), record), parameters)
    length = sum(float(one.square().sum()) for one in gradient) ** 0.5

    def loss(shift):
        for parameter, one in zip(parameters, gradient):
            parameter.data += shift * one / length
        value = float(DENSITIES[target]()(warm.predict(record), record).detach())
        for parameter, one in zip(parameters, gradient):
            parameter.data -= shift * one / length
        return value

    h = 1e-3
    assert length == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("target", DENSITIES)
@pytest.mark.parametrize(("atoms", "by_spin"), [(LIH, False), (IMIDOGEN, False), (IMIDOGEN, True)])
def test_density_of_the_same_functional_is_no_loss(atoms, by_spin, target):
    functional = PBE(trainable=("kappa",))
    record = density_record(atoms, target, by_spin, functional)
    prediction = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0).predict(record)
    loss = DENSITIES[target]()(prediction, record)
    assert loss.item() < 1e-14
    assert loss.requires_grad


def test_loss_on_points_is_the_integral_of_the_squared_difference():
    table = np.array([[0, 0, 0, 0.5, 1.0], [0, 0, 1, 2.0, 3.0]])
    settings = {"settings": ({"basis": "sto-3g"},) * 2, "calculator": PySCFCalculator.name}
    record = Record("He", (Atoms("He"),) * 2, {"density_on_points": [table, table[:1]]}, **settings)

    class Flat:
        def densities_at(self, points):
            return torch.full((2, len(points)), 1.0, dtype=torch.float64, device="cpu")

    loss = DensityOnPoints(weight=3.0)(Prediction(torch.zeros(2), molecules=[Flat(), Flat()]), record)
    assert loss.item() == pytest.approx(3 * (0.5 * 1 + 2.0 * 1 + 0.5 * 1) / 2)


def test_density_of_a_spin_without_electrons_has_a_response():
    functional = network("PBE")
    record = density_record(Atoms("H", magmoms=[1]), "density_matrix", by_spin=True)
    prediction = WarmCalculators(NNXCCalculator(functional, **TINY), 1.0).predict(record)
    gradient = torch.autograd.grad(DensityMatrix()(prediction, record), list(functional.parameters()))
    assert all(one.isfinite().all() for one in gradient)


def test_what_only_solids_have_is_not_known_with_all_electrons():
    record = density_record(LIH, "density_matrix")
    prediction = WarmCalculators(NNXCCalculator(PBE(trainable=("kappa",)), **TINY), 1.0).predict(record)
    with pytest.raises(InputError, match="with all electrons only energies and densities"):
        Forces().errors(prediction, replace(record, targets={}))
    with pytest.raises(InputError, match="known only with all electrons, and not at fixed densities"):
        DensityMatrix().errors(Prediction(torch.zeros(1)), record)


@pytest.mark.parametrize("name", ["set.json", "set.extxyz"])
@pytest.mark.parametrize("target", DENSITIES)
def test_density_survives_a_file(tmp_path, name, target):
    record = density_record(IMIDOGEN, target, by_spin=True)
    write_records(tmp_path / name, [record])
    (again,) = read_records(tmp_path / name)
    assert np.array_equal(again.targets[target][0], record.targets[target][0])


@pytest.mark.parametrize(
    ("target", "value", "complaint"),
    [
        ("density_on_points", np.ones((3, 4)), r"expected the shape \(any, 5\) or \(any, 6\), got \(3, 4\)"),
        ("density_on_points", np.full((3, 5), np.nan), "must be finite"),
        ("density_matrix", np.ones((3, 4)), "square, symmetric"),
        ("density_matrix", np.arange(4.0).reshape(2, 2), "square, symmetric"),
        ("density_matrix", np.ones((3, 2, 2)), r"expected the shape \(any, any\) or \(2, any, any\)"),
    ],
)
def test_wrong_density_is_refused(target, value, complaint):
    settings = ({"basis": "sto-3g"},)
    with pytest.raises(InputError, match=complaint):
        Record("He", (Atoms("He"),), {target: [value]}, settings=settings, calculator=PySCFCalculator.name)


@pytest.mark.parametrize("target", DENSITIES)
def test_density_with_the_spins_exchanged_is_refused(target):
    record = density_record(IMIDOGEN, target, by_spin=True)
    (value,) = record.targets[target]
    value = value[::-1] if target == "density_matrix" else value[:, [0, 1, 2, 3, 5, 4]]
    calculator = NNXCCalculator(PBE(trainable=("kappa",)), **TINY)
    assert DENSITIES[target]().obstacle(record, calculator) is None
    complaint = DENSITIES[target]().obstacle(replace(record, targets={target: [value]}), calculator)
    assert "has 3.00" in complaint
    assert "electrons of the two spins, expected 5.000 and 3.000" in complaint


def test_squared_error_of_negative_weights_is_refused():
    record = density_record(LIH, "density_on_points")
    record.targets["density_on_points"][0][:, 3] *= -1
    prediction = WarmCalculators(NNXCCalculator(PBE(trainable=("kappa",)), **TINY), 1.0).predict(record)
    with pytest.raises(InputError, match="record 'LiH': its weights of points are negative"):
        DensityOnPoints()(prediction, record)


def test_density_matrix_in_plane_waves_is_refused():
    with pytest.raises(InputError, match="density_matrix is a target of all electrons: set calculator"):
        Record("He", (Atoms("He"),), {"density_matrix": [np.ones((1, 1))]})


def test_density_matrix_of_another_basis_or_order_is_refused_before_anything_is_calculated():
    record, calculator = density_record(LIH, "density_matrix"), NNXCCalculator(PBE(trainable=("kappa",)), **TINY)
    (matrix,) = record.targets["density_matrix"]
    assert DensityMatrix().obstacle(record, calculator) is None
    other = replace(record, targets={"density_matrix": [matrix[1:, 1:]]})
    assert "is of 10 basis functions, but 3-21g has 11 for LiH" in DensityMatrix().obstacle(other, calculator)
    order = [0, 1, 3, 4, 5, 2, 6, 7, 8, 9, 10]  # of a file whose shells are s, s, p, s, p
    other = replace(record, targets={"density_matrix": [matrix[np.ix_(order, order)]]})
    assert "basis functions have another order or normalisation" in DensityMatrix().obstacle(other, calculator)


# ---- training


def run(folder, epochs):
    """Train kappa on a solid and molecules; return kappa and the losses."""
    functional = PBE(kappa=0.7, trainable=("kappa",))
    solid = Record("Al", (bulk("Al", a=4.0), bulk("Al", a=4.1)), {"energy": [-57.0, -57.01]})
    matrix, others = (
        [[0.7139, 0.6119], [0.6119, 0.5099]],
        {"settings": helium().settings[:1], "calculator": "nnxc-pyscf"},
    )
    helium_matrix = Record("density", (Atoms("He"),), {"density_matrix": [matrix]}, **others)
    trainer = Trainer(
        NNXCCalculator(functional, ecut=80, kpts=(1, 1, 1)),
        [solid, helium(), helium_matrix],
        [EnergyDifferences(), ReactionEnergy(), DensityMatrix(weight=1e3)],
        optimizer=torch.optim.SGD(functional.parameters(), lr=0.01),
        settings=TrainerSettings(epochs=epochs),
        folder=folder,
    )
    losses = [metrics["loss"] for metrics in trainer.run()]
    return functional.kappa.item(), losses


def test_training_with_a_solid_is_resumed_at_the_same_bits(tmp_path):
    kappa, losses = run(tmp_path / "whole", 2)
    assert losses[1] < losses[0]
    run(tmp_path / "parts", 1)
    assert run(tmp_path / "parts", 2) == (kappa, losses)


@pytest.mark.parametrize("name", ["set.json", "set.extxyz"])
def test_record_survives_a_file(tmp_path, name):
    write_records(tmp_path / name, [imidogen()])
    (again,) = read_records(tmp_path / name)
    assert (again.is_all_electron, again.settings) == (True, imidogen().settings)
    assert [atoms.get_initial_magnetic_moments().sum() for atoms in again.structures] == [2, 3, 1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"structures": (bulk("Al"),)}, "a periodic structure cannot be calculated with all electrons"),
        ({"targets": {"forces": [np.zeros((1, 3))]}}, "with all electrons the targets are energy, .*, not forces"),
        ({"settings": None}, "the settings of each structure need a basis"),
        ({"settings": ({"charge": 1},)}, "the settings of each structure need a basis"),
        ({"settings": ({"basis": "sto-3g", "pseudo": "gth-pbe"},)}, "pseudo cannot be a setting of a structure"),
        ({"settings": ({"basis": "sto-3g", "kpts": [1, 1, 1]},)}, "unknown keyword 'kpts'"),
        ({"calculator": "pyscf"}, "calculator='pyscf': must be one of nnxc, nnxc-pyscf"),
    ],
)
def test_what_cannot_be_calculated_with_all_electrons_is_refused(changes, complaint):
    valid = {"structures": (Atoms("He"),), "targets": {"energy": [-78.0]}, "settings": ({"basis": "sto-3g"},)}
    with pytest.raises(InputError, match=complaint):
        Record("He", **{"calculator": "nnxc-pyscf", **valid, **changes})


def test_charge_of_all_structures_at_once_is_refused():
    with pytest.raises(InputError, match="charge: that of each structure"):
        all_electron(atomization_energy("H2", molecule("H2"), 4.5), "sto-3g", charge=1)


@pytest.mark.parametrize(
    ("key", "values"), [("basis", ("sto-3g", "6-31g")), ("grid_level", (3, 1)), ("density_fit", (0, 1))]
)
def test_structures_that_cannot_be_compared_are_refused(key, values):
    settings = tuple({"basis": "sto-3g"} | {key: type(PySCFCalculator.default_parameters[key])(v)} for v in values)
    with pytest.raises(
        InputError, match=rf"record 'He': the structures have {key}=\w.* and \w.*; expected one for all"
    ):
        Record("He", (Atoms("He"), Atoms("He")), {}, settings=settings, calculator="nnxc-pyscf")


def test_default_of_a_keyword_equals_its_value():
    settings = ({"basis": "sto-3g"}, {"basis": "sto-3g", "grid_level": 3})
    Record("He", (Atoms("He"), Atoms("He")), {}, settings=settings, calculator="nnxc-pyscf")


def test_energies_of_pseudopotentials_are_not_compared_with_those_of_all_electrons():
    provenance = Provenance("ase_nnxc", "PBE", {"He": "0123"})
    record = all_electron(Record("He", (Atoms("He"),), {"energy": [-78.0]}, provenance=provenance), "sto-3g")
    calculator = NNXCCalculator(PBE(trainable=("kappa",)), **TINY)
    assert "those of all electrons: they belong to a pseudopotential of He" in TotalEnergy().obstacle(
        record, calculator
    )
    assert EnergyDifferences().obstacle(record, calculator) is None
    assert TotalEnergy().obstacle(replace(record, provenance=Provenance("PySCF", "PBE")), calculator) is None


OXYGEN = molecule("O2")  # with the moments 1 and 1


def of_settings(atoms, **settings):
    return all_electron(Record("one", (atoms,), {}, settings=(settings,)), "sto-3g")


@pytest.mark.parametrize(
    ("atoms", "fixed", "total"),
    [(OXYGEN, True, 2), (OXYGEN, 2.0, 2), (OXYGEN, False, 2), (Atoms("N2"), True, 0), (Atoms("N2"), 2.0, 2)],
)
def test_fixed_moment_is_the_number_of_unpaired_electrons(atoms, fixed, total):
    (structure,) = of_settings(atoms, fixed_magmom=fixed).structures
    assert structure.get_initial_magnetic_moments().sum() == total


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"fixed_magmom": 0}, "fixed_magmom=0 of O2: the initial magnetic moments add up to 2"),
        ({"fixed_magmom": 4.0}, "fixed_magmom=4 of O2: the initial magnetic moments add up to 2"),
        ({"fixed_magmom": 1.5}, r"fixed_magmom=1.5: expected a whole number"),
        ({"charge": 0.5}, r"charge=0.5: expected a whole number"),
    ],
)
def test_charge_and_moment_that_all_electrons_cannot_have_are_refused(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        of_settings(OXYGEN, **settings)
