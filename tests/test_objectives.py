"""Objectives, by errors that can be told by hand; penalties; energies of other codes."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed, InputError
from ase.calculators.emt import EMT

from ase_nnxc import NNXCCalculator
from ase_nnxc.eos.birch_murnaghan import fit_birch_murnaghan
from ase_nnxc.registry import get_functional
from ase_nnxc.train.clone import part_of, uniform_exchange
from ase_nnxc.train.objectives import (
    BandGap,
    BulkModulus,
    Density,
    EnergyDifferences,
    EnergyPerAtom,
    Forces,
    LatticeConstant,
    ReactionEnergy,
    Stress,
    TotalEnergy,
)
from ase_nnxc.train.penalties import (
    Bounds,
    FunctionalAnchor,
    KernelSize,
    LocalConditions,
    ParameterAnchor,
    Roughness,
)
from ase_nnxc.train.prediction import Prediction
from ase_nnxc.train.records import (
    Provenance,
    Record,
    align_energies,
    alignment,
    label,
    scaled_structures,
)
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.xc import PBE, Functional, NeuralFactors

TINY = {"ecut": 150, "kpts": (2, 2, 2), "smooth_cutoff": True}


def numbers(values):
    return torch.tensor(values, dtype=torch.float64, device="cpu", requires_grad=True)


def energies(*values):
    return Prediction(numbers(values))


def solved(**fields):
    """The prediction for one structure of which these things are known."""
    return Prediction(numbers([0.0]), [SimpleNamespace(**{name: numbers(value) for name, value in fields.items()})])


def eos_record():
    return label("Al", scaled_structures(bulk("Al", a=4.05)), EMT())


# ---- energies


def test_relative_energy_loss_is_positive_for_bound_systems_as_eq_3_is_not():
    bound = Record("Al", (bulk("Al"),), {"energy": [-50.0]})
    assert TotalEnergy()(energies(-49.0), bound).item() == pytest.approx(1 / 50)


def test_per_atom_and_reaction_errors():
    record = Record("Al", (bulk("Al"), bulk("Al", cubic=True)), {"energy": [-1.0, -4.0]})
    assert EnergyPerAtom().errors(energies(-1.1, -4.2), record).tolist() == pytest.approx([-0.1, -0.05])
    reaction = replace(record, targets={"reaction_energy": 0.5}, coefficients=(-4, 1))
    assert ReactionEnergy(weight=3.0)(energies(-1.0, -3.6), reaction).item() == pytest.approx(3 * 0.1**2)


def test_differences_do_not_see_a_constant():
    record = eos_record()
    shifted = energies(*(record.targets["energy"] + 7.0))
    assert EnergyDifferences()(shifted, record).item() == pytest.approx(0.0, abs=1e-20)
    assert EnergyPerAtom()(shifted, record).item() == pytest.approx(49.0)


def test_equation_of_state_errors_are_those_of_the_fit_and_carry_gradients():
    record = eos_record()
    fit = fit_birch_murnaghan(*(torch.as_tensor(x, device="cpu") for x in (record.volumes, record.targets["energy"])))
    targets = {"volume": 0.97 * fit.volume.item(), "bulk_modulus": 1.1 * fit.bulk_modulus.item()}
    measured, predicted = replace(record, targets=targets), energies(*record.targets["energy"])
    assert LatticeConstant().errors(predicted, measured).item() == pytest.approx(0.97 ** (-1 / 3) - 1)
    assert BulkModulus(norm="l1")(predicted, measured).item() == pytest.approx(1 - 1 / 1.1)
    for objective in (LatticeConstant(), BulkModulus()):
        assert objective(predicted, record).item() == 0.0
        assert torch.autograd.grad(objective(predicted, measured), predicted.energies)[0].abs().min() > 0


# ---- what takes a response


def test_force_errors_are_of_components():
    record = Record("Al", (bulk("Al"),), {"forces": [[[0.0, 0.1, -0.2]]]})
    prediction = solved(forces=[[0.0, 0.4, -0.1]])
    assert Forces().errors(prediction, record).tolist() == pytest.approx([0.0, 0.3, 0.1])
    assert Forces(weight=2.0)(prediction, record).item() == pytest.approx(2 * (0.09 + 0.01) / 3)


def test_stress_and_band_gap_errors():
    record = Record("Al", (bulk("Al"),), {"stress": [[0.1] * 6], "band_gap": [1.1]})
    assert Stress(norm="l1")(solved(stress=[0.3] * 6), record).item() == pytest.approx(0.2)
    assert BandGap().errors(solved(band_gap=0.5), record).item() == pytest.approx(-0.6)


def test_density_loss_by_l1_is_the_integral_of_the_error_per_electron():
    atoms, rng = bulk("Al", a=4.05), np.random.default_rng(0)
    n, n_ref = rng.random((2, 4, 5, 6))
    cell = atoms.get_volume() / n.size
    integral = np.abs(n - n_ref).sum() * cell / (n_ref.sum() * cell)
    record = Record("Al", (atoms,), {"density": [n_ref]})
    assert Density(norm="l1")(solved(density=n.tolist()), record).item() == pytest.approx(integral)


def test_gradient_of_a_force_loss_reaches_the_forces():
    record = Record("Al", (bulk("Al"),), {"forces": [np.zeros((1, 3))]})
    prediction = solved(forces=[[0.0, 0.4, -0.1]])
    Forces()(prediction, record).backward()
    assert prediction.solved[0].forces.grad.flatten().tolist() == pytest.approx([0.0, 0.8 / 3, -0.2 / 3])


def test_at_fixed_densities_only_energies_are_known():
    record = Record("Al", (bulk("Al"),), {"band_gap": [0.0]})
    with pytest.raises(InputError, match="fixed densities"):
        BandGap()(energies(1.0), record)


# ---- which records


def test_objectives_read_the_records_that_have_what_they_compare():
    eos = eos_record()
    measured = replace(eos, targets={"volume": 16.0, "bulk_modulus": 0.5})
    chosen = (TotalEnergy(), EnergyDifferences(), LatticeConstant(), BulkModulus(), Forces(), Density())
    assert [o.applies(measured) for o in chosen] == [False, False, True, True, False, False]
    reaction = label("reaction", [bulk("Cu"), bulk("Au")], EMT(), coefficients=(1, -1))
    assert ReactionEnergy().applies(reaction)
    assert not EnergyDifferences().applies(reaction)


def test_unknown_norm_is_refused():
    with pytest.raises(InputError, match="norm"):
        TotalEnergy(norm="l3")


def density_record(box, tables):
    return Record("Al", (bulk("Al"),), {"density": [np.ones(box)]}, provenance=Provenance("x", "PBE", tables))


def trained(record, objectives, **settings):
    calculator = NNXCCalculator(PBE(trainable=("kappa",)), **TINY)
    return Trainer(calculator, [record], objectives, settings=TrainerSettings(**settings))


def test_density_of_another_box_or_potential_is_refused_before_anything_is_calculated():
    calculator = NNXCCalculator("PBE", **TINY)
    box, tables = calculator.resolve(bulk("Al"))["gpts"], calculator.pseudopotential_digests(bulk("Al"))
    trained(density_record(box, tables), [Density()])
    with pytest.raises(InputError, match=r"FFT box of .* expected"):
        trained(density_record((2, 2, 2), tables), [Density()])
    with pytest.raises(InputError, match="pseudopotential of Al"):
        trained(density_record(box, {}), [Density()])


def test_record_without_energies_is_refused_at_fixed_densities():
    record = Record("Al", (bulk("Al"),), {"band_gap": [0.0]})
    trained(record, [BandGap()])
    with pytest.raises(InputError, match="fixed_density_epochs=0"):
        trained(record, [BandGap()], fixed_density_epochs=1)


def test_epochs_at_fixed_densities_leave_out_objectives_that_need_a_response():
    structures = scaled_structures(bulk("Al"), 2)
    record = Record("Al", structures, {"energy": [0.0, 0.1], "stress": np.zeros((2, 6))})
    history = trained(record, [EnergyDifferences(), Stress()], epochs=1, fixed_density_epochs=1).run()
    assert history[0]["errors"].keys() == {"energy_differences"}


def test_stress_of_a_molecule_is_refused_before_anything_is_calculated():
    record = Record("H2", (molecule("H2"),), {"stress": np.zeros((1, 6))})
    with pytest.raises(InputError, match="record 'H2' has a target stress"):
        trained(record, [Stress()])


def test_band_gap_without_empty_bands_is_a_failure_of_the_calculation():
    class AllFilled:
        @property
        def band_gap(self):
            raise ValueError("more bands are needed")

    with pytest.raises(CalculationFailed, match="more bands are needed"):
        BandGap()(Prediction(numbers([0.0]), [AllFilled()]), Record("Al", (bulk("Al"),), {"band_gap": [0.0]}))


# ---- what objectives and penalties state of themselves


class OnlyOxides(EnergyPerAtom):
    """An objective of a user, with a setting of its own."""

    def __init__(self, cation):
        super().__init__()
        object.__setattr__(self, "cation", cation)


def test_objective_states_its_name_and_all_its_settings():
    assert EnergyPerAtom(2.0, "l1").config() == {"name": "energy_per_atom", "weight": 2.0, "norm": "l1"}
    assert EnergyPerAtom(norm=torch.sum).config()["norm"].endswith("sum")
    assert OnlyOxides("Mg").config() == {"name": "OnlyOxides", "weight": 1.0, "norm": "l2", "cation": "Mg"}


def test_penalty_states_its_name_and_all_its_settings():
    functional = PBE(kappa=0.8, trainable=("kappa",))
    assert Bounds(2.0, points=64).config() == {"name": "bounds", "weight": 2.0, "points": 64}
    assert KernelSize(1.0, points=32).config() == {"name": "kernel_size", "weight": 1.0, "points": 32}
    assert Roughness(1.0, points=32).config() == {"name": "roughness", "weight": 1.0, "points": 32}
    assert LocalConditions(1.0, points=32).config() == {"name": "local_conditions", "weight": 1.0, "points": 32}
    anchors = [ParameterAnchor(PBE(kappa=kappa, trainable=("kappa",)), 1.0).config() for kappa in (0.8, 0.9)]
    assert anchors[0] == ParameterAnchor(functional, 1.0).config()
    assert anchors[0] != anchors[1]
    parents = [FunctionalAnchor(PBE(kappa=kappa), 1.0, points=8).config() for kappa in (0.8, 0.9)]
    assert parents[0] != parents[1]


# ---- energies of other codes


def test_aligned_energies_lose_a_constant_for_each_element_and_nothing_else(monkeypatch):
    structures = bulk("Al"), bulk("Cu"), bulk("CuAu", "cesiumchloride", a=3.1), bulk("Au", cubic=True)
    ours, noise = np.array([-2.0, -3.0, -5.0, -9.0]), np.array([0.0, 0.0, 0.01, -0.02])
    counts = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 4, 0]])
    theirs = ours + counts @ [100.0, -50.0, 7.0]
    provenance = Provenance("other 1.0", "PBE")
    records = [
        Record(str(i), (atoms,), {"energy": [theirs[i]]}, provenance=provenance) for i, atoms in enumerate(structures)
    ]
    monkeypatch.setattr(
        alignment,
        "label",
        lambda name, structures, _, **__: Record(name, structures, {"energy": [ours[int(name)]]}),
    )
    calculator = NNXCCalculator("PBE", **TINY)
    aligned = align_energies(records, calculator)
    assert [r.targets["energy"][0] for r in aligned] == pytest.approx(ours, abs=1e-9)
    assert aligned[2].provenance.settings["offsets"] == pytest.approx({"Au": -50.0, "Cu": 7.0})
    assert EnergyPerAtom().obstacle(records[0], calculator) is not None
    assert EnergyPerAtom().obstacle(aligned[0], calculator) is None
    noisy = [replace(r, targets={"energy": r.targets["energy"] + d}) for r, d in zip(records, noise)]
    residuals = np.array([r.targets["energy"][0] for r in align_energies(noisy, calculator)]) - ours
    assert np.linalg.lstsq(counts / counts.sum(1)[:, None], residuals / counts.sum(1))[0] == pytest.approx(0, abs=1e-9)
    assert np.abs(residuals).max() > 1e-4


def test_energies_of_two_codes_are_not_aligned_together():
    records = [Record(code, (bulk("Al"),), {"energy": [0.0]}, provenance=Provenance(code)) for code in ("a", "b")]
    with pytest.raises(InputError, match="no common zero"):
        align_energies(records, NNXCCalculator("PBE", **TINY))


# ---- penalties


class Scaled(Functional):
    """LDA exchange times a number."""

    kind = "x"

    def __init__(self, factor):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor, dtype=torch.float64, device="cpu"))

    def forward(self, features):
        return self.factor * 2 ** (1 / 3) * sum(uniform_exchange(n[None]) for n in features["density"])


class Gradients(Functional):
    """e = 0.1 |grad n|^2 / n^(4/3)."""

    features = ("density", "gradient")
    kind = "c"

    def forward(self, features):
        return 0.1 * features["gradient"].sum(0).square().sum(0) / features["density"].sum(0) ** (4 / 3)


def test_anchors_are_zero_at_the_parent_and_grow_away_from_it():
    functional = PBE(kappa=0.8, trainable=("kappa",))
    anchors = ParameterAnchor(functional, 2.0), FunctionalAnchor(PBE(kappa=0.8), 1.0, points=64)
    assert [anchor(functional).item() for anchor in anchors] == pytest.approx([0.0, 0.0], abs=1e-25)
    with torch.no_grad():
        functional.kappa += 0.1
    assert anchors[0](functional).item() == pytest.approx(2 * 0.1**2)
    assert anchors[1](functional).item() > 1e-4


@pytest.mark.parametrize("name", ["LDA", "PBE", "r2SCAN", "pbe-clone"])
def test_bounds_are_kept_by_functionals_that_are_made_so(name):
    assert Bounds(1.0)(get_functional(name)).item() == 0.0


@pytest.mark.parametrize(("factor", "beyond"), [(2.0, 0.196), (-0.5, 0.5)])
def test_exchange_beyond_its_bounds_costs_the_square_of_the_excess(factor, beyond):
    penalty = Bounds(3.0, points=128)
    shares = penalty.samples.density / penalty.samples.density.sum(0)
    scaling = 0.5 * (2 * shares).pow(4 / 3).sum(0)
    assert penalty(Scaled(factor)).item() == pytest.approx(3 * beyond**2 * scaling.square().mean().item())


def test_positive_correlation_costs_and_negative_does_not():
    assert Bounds(1.0)(PBE(part="c")).item() == 0.0
    assert Bounds(1.0)(Gradients()).item() > 0.0


def test_functional_that_cannot_be_split_is_bounded_as_a_whole():
    penalty, whole = Bounds(1.0, points=128), Scaled(3.0)
    whole.kind = "xc"
    shares = penalty.samples.density / penalty.samples.density.sum(0)
    beyond = 3 * 0.5 * (2 * shares).pow(4 / 3).sum(0) - 2 ** (1 / 3) * 1.804
    assert penalty(whole).item() == pytest.approx(beyond.square().mean().item())


def test_penalty_on_a_part_reaches_the_parameters_of_the_whole():
    functional = PBE(kappa=1.2, trainable=("kappa",))
    assert part_of(functional, "x").kappa is functional.kappa
    Bounds(1.0)(functional).backward()
    assert functional.kappa.grad > 0


def test_kernel_of_lda_exchange_is_minus_that_of_coulomb():
    penalty = KernelSize(1.0, points=64)
    unpolarised = penalty.samples.density[0] == penalty.samples.density[1]
    assert penalty.ratios(Scaled(1.0))[unpolarised].tolist() == pytest.approx([-1.0] * int(unpolarised.sum()))


def test_kernel_of_a_gradient_correction_has_its_analytic_form():
    penalty = KernelSize(1.0, points=64)
    n = penalty.samples.density.sum(0)
    g2, q2 = penalty.samples.gradient.sum(0).square().sum(0), 4 * (3 * torch.pi**2 * n) ** (2 / 3)
    # e = c g^2 n^(-4/3): d2e/dn2 = 28/9 c g^2 n^(-10/3), d2e/dg_i2 = 2 c n^(-4/3)
    kernel = 0.1 * (28 / 9 * g2 * n ** (-10 / 3) + q2 * 2 * n ** (-4 / 3))
    assert penalty.ratios(Gradients()).tolist() == pytest.approx((kernel * q2 / (4 * torch.pi)).tolist())


def test_kernel_penalty_ranks_functionals_as_their_scf_does():
    values = [KernelSize(1.0, points=256)(get_functional(name)).item() for name in ("LDA", "PBE", "r2SCAN", "SCAN")]
    assert values == sorted(values)


def test_gradient_of_the_kernel_penalty_is_that_of_finite_differences():
    penalty, functional = KernelSize(1.0, points=64), PBE(trainable=("mu",))
    (slope,) = torch.autograd.grad(penalty(functional), functional.mu)
    mu, h = functional.mu.item(), 1e-4
    shifted = [penalty(PBE(mu=mu + step)).item() for step in (h, -h)]
    assert slope.item() == pytest.approx((shifted[0] - shifted[1]) / (2 * h), rel=1e-6)


# ---- with an SCF


@pytest.mark.slow
def test_gradient_of_a_force_loss_is_that_of_finite_differences():
    atoms = bulk("Si")
    atoms.positions[1] += [0.08, -0.05, 0.02]
    record = Record("Si", (atoms,), {"forces": [np.zeros((2, 3))]})
    settings = {"ecut": 200, "kpts": (2, 2, 2), "convergence": {"energy": 1e-12}, "pseudos": "oncv-PBE"}

    def loss(kappa, trainable=()):
        functional = PBE(kappa=kappa, trainable=trainable)
        solution = NNXCCalculator(functional, **settings).differentiable(atoms)
        return functional, Forces()(Prediction(solution.free_energy[None], [solution]), record)

    functional, value = loss(0.8, ("kappa",))
    value.backward()
    h = 1e-3
    slope = (loss(0.8 + h)[1] - loss(0.8 - h)[1]).item() / (2 * h)
    assert functional.kappa.grad.item() == pytest.approx(slope, rel=1e-4)


class Rough(PBE):
    """PBE with a wave of s^2 / (1 + s^2) in the enhancement factor of exchange."""

    def __init__(self, amplitude):
        super().__init__()
        self.amplitude = torch.nn.Parameter(torch.tensor(amplitude, dtype=torch.float64, device="cpu"))

    def enhancement(self, s2, alpha=None):
        return super().enhancement(s2) + self.amplitude * torch.sin(30 * s2 / (1 + s2))


@pytest.mark.slow
def test_kernel_penalty_points_to_fewer_scf_steps():
    steps = []
    for amplitude in (0.0, 0.02, 0.04):
        functional, penalty = Rough(amplitude), KernelSize(1.0)
        (slope,) = torch.autograd.grad(penalty(functional), functional.amplitude)
        assert slope > 0
        calculator = NNXCCalculator(functional, ecut=300, kpts=(3, 3, 3), pseudos="gth-pbe")
        calculator.ground_state(bulk("Al"))
        steps.append(len(calculator.history))
    assert steps[0] < steps[1] < steps[2]


class Curved(Functional):
    """F = 1 + c s^2 at the total density, whose curvature is 2 c everywhere."""

    features = ("density", "gradient")

    def forward(self, features):
        density = features["density"].sum(0)
        s2 = features["gradient"].sum(0).square().sum(0) / (4 * (3 * torch.pi**2) ** (2 / 3) * density ** (8 / 3))
        return uniform_exchange(features["density"]) * (1 + 1.5 * s2)


def test_roughness_is_the_square_of_the_curvature_of_the_enhancement_factor():
    assert Roughness(2.0, points=64)(Curved()).item() == pytest.approx(2 * 3.0**2)
    assert Roughness(1.0, points=64)(get_functional("LDA")).item() == 0.0
    assert Roughness(1.0)(get_functional("SCAN")) > Roughness(1.0)(get_functional("r2SCAN")) > 0


@pytest.mark.parametrize("name", ["LDA", "PBE"])
def test_local_conditions_hold_for_functionals_that_are_made_so(name):
    assert LocalConditions(1.0)(get_functional(name)).item() < 1e-6


def test_local_conditions_find_a_correlation_of_the_wrong_sign_and_too_much_exchange():
    functional = NeuralFactors()
    with torch.no_grad():
        functional.network.biases[-1][:2] = 50.0  # F_x at the Lieb-Oxford bound
    excess = LocalConditions(1.0, points=64).excess(functional)
    assert excess[4].max() > 0.0
    with pytest.raises(InputError, match="no separate correlation"):
        LocalConditions(1.0, points=8)(Curved())


def test_new_penalties_carry_gradients_by_the_parameters():
    functional = NeuralFactors()
    (Roughness(1.0, points=32)(functional) + LocalConditions(1.0, points=32)(functional)).backward()
    assert functional.network.weights[-1].grad.abs().max() > 0
