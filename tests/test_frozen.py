"""Fits at frozen densities: points of ground states, robust ridge regression, and the command `nnxc fit`."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed, InputError
from test_train import eos_record

from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator import PySCFCalculator
from ase_nnxc.checkpoints import load_functional
from ase_nnxc.cli import main
from ase_nnxc.eos.birch_murnaghan import NoMinimumError
from ase_nnxc.train.fit_config import _CHECKS, read_fit
from ase_nnxc.train.frozen import FrozenDensities, FrozenPoints, FrozenSet
from ase_nnxc.train.frozen_fit import FitSettings, FrozenErrors, RobustLoss, Term
from ase_nnxc.train.records import Record, all_electron, atomization_energy, scaled_structures, write_records
from ase_nnxc.train.robust_ridge import (
    DEGREES,
    CrossValidation,
    LinearModel,
    Posterior,
    cross_validation,
    left_out_errors,
    nested_residuals,
    scatter,
)
from ase_nnxc.train.samples import sample_mesh
from ase_nnxc.xc import PBE, NeuralFactors, describe

REPOSITORY = Path(__file__).resolve().parents[1]


def random_factors(scale, parent=None, seed=0):
    """A small network of factors with random weights in its last layer."""
    functional = NeuralFactors(None if parent is None else describe(parent), widths=(3, 3))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in functional.last_layer:
            parameter += scale * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
    return functional


def molecule_record(name, formula, distance, energy):
    atoms = Atoms(formula, [(0, 0, 0), (0, 0, distance)])
    return all_electron(atomization_energy(name, atoms, energy), "sto-3g", grid_level=0)


@pytest.fixture(scope="module")
def records():
    distances = {"H2": 0.74, "short": 0.6, "long": 0.9, "longer": 1.0, "test": 0.8}
    return [molecule_record(name, "H2", d, 4.5 - (d - 0.74) ** 2) for name, d in distances.items()]


@pytest.fixture(scope="module")
def densities(records, tmp_path_factory):
    frozen = FrozenDensities(tmp_path_factory.mktemp("densities"), NNXCCalculator("r2SCAN"))
    assert frozen.collect(records) == records
    return frozen


# ---- points


def test_energy_at_a_frozen_density_is_the_self_consistent_one_to_first_order(tmp_path):
    helium = Atoms("He")
    record = Record("He", (helium,), {"energy": [0.0]}, settings=({"basis": "6-31g"},), calculator="nnxc-pyscf")
    frozen = FrozenDensities(tmp_path, NNXCCalculator("r2SCAN"))
    frozen.collect([record])
    (points,) = frozen.load([record]).points
    errors = []
    for scale in (0.2, 0.4):
        functional = random_factors(scale)
        calc = PySCFCalculator(functional, basis="6-31g")
        exact = calc.get_potential_energy(helium)
        change = points.energy_of(functional) - points.energy_of(NeuralFactors())
        errors.append(points.energy + change.item() - exact)
        assert abs(change.item()) > 20 * abs(errors[-1])
    assert errors[1] / errors[0] == pytest.approx(4, rel=0.3)  # of second order in the change
    assert min(errors) > 0  # the self-consistent energy is the lower one


def test_points_of_a_solid_have_the_gradient_of_its_free_energy(tmp_path):
    functional = NeuralFactors(describe(PBE()), widths=(2,))
    calc = NNXCCalculator(functional, ecut=100, kpts=(2, 2, 2), pseudos="gth-pbe")
    record = Record("Al", (bulk("Al"),), {"energy": [0.0]})
    expected = torch.autograd.grad(calc.energy_tensor(bulk("Al")), functional.last_layer)
    frozen = FrozenDensities(tmp_path, NNXCCalculator("PBE", ecut=100, kpts=(2, 2, 2), pseudos="gth-pbe"))
    frozen.collect([record])
    (points,) = frozen.load([record]).points
    assert points.energy == pytest.approx(calc.results["free_energy"], abs=1e-5)
    for slope, reference in zip(torch.autograd.grad(points.energy_of(functional), functional.last_layer), expected):
        torch.testing.assert_close(slope, reference, rtol=1e-4, atol=1e-5)


def test_a_collection_goes_on_where_it_was(records, densities, monkeypatch):
    def solve(*arguments):
        raise AssertionError("calculated again")

    monkeypatch.setattr(PySCFCalculator, "mean_field", solve)
    assert densities.collect(records) == records
    data = densities.load(records)
    assert len(data.points) == len(records) + 1  # one hydrogen atom in all records
    assert data.points[0].features["density"].shape[0] == 1  # a closed shell
    assert data.points[1].features["density"].shape[0] == 2


def test_a_record_that_fails_is_left_out_with_a_warning(tmp_path, records):
    wrong = molecule_record("wrong", "HeH", 0.8, 1.0)  # one electron more than a closed shell
    with pytest.warns(UserWarning, match="record 'wrong' is left out"):
        assert FrozenDensities(tmp_path, NNXCCalculator("r2SCAN")).collect([wrong]) == []


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "H.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"is damaged.*delete it"):
        FrozenPoints.load(path)


# ---- regression


def model(m=30, p=4, noise=0.3, seed=0):
    """Rows with a linear dependence on p numbers and noise."""
    rng = np.random.default_rng(seed)
    slopes = torch.from_numpy(rng.normal(size=(m, p)))
    truth = torch.from_numpy(rng.normal(size=p))
    residuals = -slopes @ truth + noise * torch.from_numpy(rng.normal(size=m))
    return LinearModel(residuals, slopes, torch.ones_like(residuals), torch.zeros_like(truth)), truth


def test_fit_is_the_minimum_of_the_robust_loss():
    linear, _ = model()
    change = linear.fit(0.5).requires_grad_()
    loss = (DEGREES * torch.log1p(linear.at(change) ** 2 / DEGREES)).sum() + 0.5 * change.square().sum()
    (gradient,) = torch.autograd.grad(loss, change)
    assert gradient.abs().max() < 1e-8


def test_an_outlier_does_not_decide():
    linear, truth = model(noise=0.05)
    linear.residuals[0] += 100.0
    assert (linear.fit(1e-6) - truth).abs().max() < 0.1
    squares = -torch.linalg.lstsq(linear.slopes, linear.residuals).solution
    assert (squares - truth).abs().max() > 1.0


def test_a_large_ridge_keeps_the_parameters_at_their_anchor():
    linear, truth = model()
    anchored = replace(linear, anchor=torch.ones_like(truth))
    torch.testing.assert_close(anchored.fit(1e9), torch.ones_like(truth), rtol=0, atol=1e-6)


def test_a_group_that_is_hard_with_all_ridges_does_not_widen_the_choice():
    scores = torch.tensor([[1.0, 5.0], [1.5, 5.5]], dtype=torch.float64)
    assert CrossValidation((1.0, 10.0), scores).best == 1.0


def test_cross_validation_prefers_no_fit_of_noise_and_a_fit_of_a_dependence():
    groups, ridges = torch.arange(30) % 5, (1e-3, 1.0, 1e3, 1e6)
    linear, _ = model()
    assert cross_validation(linear, groups, ridges).best < 10
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=30))
    assert cross_validation(replace(linear, residuals=noise), groups, ridges).best == 1e6


def test_nested_cross_validation_leaves_out_each_group():
    linear, _ = model(m=40)
    groups = torch.arange(40) % 5 - 1
    residuals = nested_residuals(linear, groups, (1e-2, 1.0))
    assert residuals.isnan().equal(groups == -1)
    rest = groups != 0
    ridge = cross_validation(linear.select(rest), groups[rest], (1e-2, 1.0)).best
    expected = linear.select(~rest).at(linear.select(rest).fit(ridge))
    torch.testing.assert_close(residuals[~rest], expected)


def test_variances_of_the_posterior_add_up_to_the_squared_residuals():
    linear, _ = model(m=60, noise=0.1)
    change = linear.fit(1e-3)
    posterior = Posterior.of(linear, change, 1e-3)
    weights = 1 / (1 + linear.at(change) ** 2 / DEGREES)
    variances = (linear.slopes @ posterior.root).square().sum(1)
    assert (weights * variances).sum().item() == pytest.approx((weights * linear.at(change) ** 2).sum().item())
    assert posterior.effective_parameters == pytest.approx(4, rel=1e-3)


# ---- fits


def test_derivatives_of_the_robust_loss_are_those_of_finite_differences(records, densities):
    functional = NeuralFactors(widths=(2,))
    parameters = list(functional.parameters())
    data = densities.load(records)
    errors = FrozenErrors(functional, parameters, NeuralFactors(), data, FitSettings({"reaction_energy": Term(0.2)}))
    loss = RobustLoss(errors, 0.1)
    generator = torch.Generator().manual_seed(1)
    theta = errors.theta + 0.1 * torch.randn(len(errors.theta), dtype=torch.float64, generator=generator)
    gradient, hessian = loss.normal_equations(theta)
    for i in (0, 5, len(theta) - 1):
        step = torch.zeros_like(theta)
        step[i] = 1e-4
        slope = (loss.loss(theta + step) - loss.loss(theta - step)) / 2e-4
        assert 2 * gradient[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)
    assert (torch.linalg.eigvalsh(hessian) > 0).all()


def test_known_errors_replace_those_at_the_frozen_densities_as_the_fit_begins(records, densities):
    functional, data = random_factors(0.2), densities.load(records[:2])
    terms, known = {"reaction_energy": Term(0.2)}, {"reaction_energy": {"H2": 0.3}}
    plain, anchored = (
        FrozenErrors(functional, functional.last_layer, NeuralFactors(), data, FitSettings(terms, known_errors=errors))
        for errors in ({}, known)
    )
    start, theta = plain.theta, torch.zeros_like(plain.theta)
    assert 0.2 * anchored.residuals(start)[0].item() == pytest.approx(0.3, abs=1e-10)
    change = anchored.residuals(theta) - anchored.residuals(start)
    torch.testing.assert_close(change, plain.residuals(theta) - plain.residuals(start))
    assert anchored.residuals(theta)[1] == plain.residuals(theta)[1]


def test_scatter_is_what_the_variances_do_not_explain():
    generator = torch.Generator().manual_seed(0)
    variances = torch.rand(4000, generator=generator, dtype=torch.float64)
    residuals = torch.randn(4000, generator=generator, dtype=torch.float64) * (0.5**2 + variances).sqrt()
    assert scatter(residuals, variances) == pytest.approx(0.5, abs=0.03)
    assert scatter(0.5 * residuals, variances) == 0


def test_errors_of_a_group_are_those_of_a_fit_without_it():
    generator = torch.Generator().manual_seed(1)
    residuals, slopes = (torch.randn(6, *n, generator=generator, dtype=torch.float64) for n in ((), (2,)))
    ones = torch.ones(6, dtype=torch.float64)
    model = LinearModel(residuals, slopes, ones, torch.zeros(2, dtype=torch.float64))
    found, variances = left_out_errors(model, torch.tensor([0, 0, 1, 1, -1, -2]), 0.1)
    for rows in ([0, 1], [2, 3], [4], [5]):
        rest = model.select(torch.tensor([i for i in range(6) if i not in rows]))
        root = Posterior.of(rest, rest.fit(0.1), 0.1).root
        torch.testing.assert_close(found[rows], model.select(torch.tensor(rows)).at(rest.fit(0.1)))
        torch.testing.assert_close(variances[rows], (slopes[rows] @ root @ root.mT @ slopes[rows].mT).diagonal())


CONFIG = """
parent: r2SCAN
functional: {neural-factors: {parent: r2SCAN, widths: [4]}}
records: [records.json]
test: [test]
classes: {a: [H2], b: [short], c: [long, longer]}
objectives: {reaction_energy: {scale: 0.2}}
densities: DENSITIES
models: models
"""


@pytest.fixture
def config(tmp_path, records, densities):
    write_records(tmp_path / "records.json", records)
    path = tmp_path / "h2.yaml"
    path.write_text(CONFIG.replace("DENSITIES", str(densities.folder)))
    return path


@pytest.mark.parametrize("steps", [0, 2])
def test_command_fits_and_saves_a_model_with_a_posterior(config, capsys, steps):
    config.write_text(config.read_text() + f"steps: {steps}\n")
    assert main(["fit", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["fit"]["reaction_energy"]
    assert rows.keys() == {"H2", "short", "long", "longer"}
    assert sum(abs(row["fitted"]) for row in rows.values()) < 0.7 * sum(abs(row["start"]) for row in rows.values())
    test = report["test"]["reaction_energy"]["test"]
    normalised = abs(test["fitted"] / test["standard_deviation"])
    assert report["normalised_errors"]["reaction_energy"] == pytest.approx(normalised)
    assert report["coverage_68"]["reaction_energy"] == float(normalised <= 0.994)
    assert test["standard_deviation"] > report["scatter"]["reaction_energy"] > 0
    functional = load_functional(config.parent / "models" / "h2@1")
    assert functional.posterior.abs().max() > 0
    assert functional.scatter == report["scatter"]
    assert functional.card["metrics"]["ridge"] == report["ridge"]
    assert functional.card["training"]["test"] == ["test"]


@pytest.mark.parametrize("steps", [0, 1])
def test_known_errors_are_those_as_the_fit_begins(config, capsys, steps):
    known = {"H2": 0.2, "short": -0.1, "long": 0.3, "longer": 0.1}
    config.with_name("known.yaml").write_text(json.dumps({"reaction_energy": known}))
    config.write_text(config.read_text() + f"known_errors: known.yaml\nridges: [1.0e8]\nsteps: {steps}\n")
    assert main(["fit", str(config), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["fit"]["reaction_energy"]
    for column in ("start", "fitted"):  # the ridge allows no change
        assert {name: row[column] for name, row in rows.items()} == pytest.approx(known, abs=1e-5)


def test_a_file_extends_another(config):
    other = config.with_name("other.yaml")
    other.write_text("extends: h2.yaml\ndescription: another\nridges: [2]\n")
    fit, base = read_fit(other), read_fit(config)
    assert (fit.name, fit.description, fit.settings.ridges) == ("other", "another", (2,))
    assert [record.name for record in fit.test] == [record.name for record in base.test]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("extends: ../h2.yaml", "extends='../h2.yaml': expected the name of a file in the same folder"),
        ("extends: 3", "extends=3: expected a string"),
        ("extends: none.yaml", "other.yaml: extends='none.yaml': .*none.yaml does not exist"),
        ("- h2.yaml", "must contain a mapping of names to values; for example parent: r2SCAN"),
        ("extends: twice.yaml", "extends='twice.yaml': this file extends another one itself"),
    ],
)
def test_bad_extensions_are_refused(config, line, message):
    config.with_name("twice.yaml").write_text("extends: h2.yaml\n")
    other = config.with_name("other.yaml")
    other.write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_fit(other)


def test_a_self_consistent_pass_begins_with_the_errors_of_the_model_and_stays_at_its_minimum(config, capsys):
    config.write_text(config.read_text() + "ridges: [0.1]\n")
    assert main(["fit", str(config), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["fit"]["reaction_energy"]
    text = config.read_text().replace("parent: r2SCAN\n", "parent: models/h2@1\nversion: 2\n")
    text = text.replace("{neural-factors: {parent: r2SCAN, widths: [4]}}", "models/h2@1")
    config.write_text(text)
    assert main(["fit", str(config), "--json"]) == 0
    second = json.loads(capsys.readouterr().out)["fit"]["reaction_energy"]
    for name, row in second.items():
        assert row["start"] == pytest.approx(first[name]["fitted"], abs=0.02)  # frozen and self-consistent errors
        assert row["fitted"] == pytest.approx(row["start"], abs=0.02)


def test_page_has_every_key_and_a_file_that_is_read(config):
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    section = page.partition("## Fits at frozen densities")[2]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.M)) == sorted([*_CHECKS, "extends"])
    (block,) = re.findall(r"^```yaml\n(# solids.yaml\n.*?)^```", section, re.M | re.S)
    for text in (block, (REPOSITORY / "examples" / "fit_solids" / "solids.yaml").read_text(encoding="utf-8")):
        data = yaml.safe_load(text)
        names = {name for group in (data["test"], *data["classes"].values()) for name in group}
        write_records(config.with_name("solids.json"), [eos_record(name) for name in sorted(names)])
        write_records(config.with_name("molecules.json"), [molecule_record("own", "H2", 0.8, 4.5)])
        config.with_name("r2scan_errors.yaml").write_text("lattice_constant: {Li: 0.01}")
        config.write_text(text)
        assert len(read_fit(config).records) == len(names - set(data["test"])) + 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("parent: r2SCAN\nfunc", "func", "missing: parent; for example parent: r2SCAN"),
        ("parent: r2SCAN\nfunc", "parent: r2SCN\nfunc", "parent: unknown functional xc='r2SCN'"),
        ("parent: r2SCAN\nfunc", "parent: ~nosuchuser/x\nfunc", "parent='~nosuchuser/x': there is no such home folder"),
        ("models: models", "calculator: {ecut: true}", "calculator: ecut=True"),
        (
            "models: models",
            "calculator: {txt: /nonexist/a}",
            "calculator.txt='/nonexist/a': expected '-'",
        ),
        ("[records.json]", "none.json", "records='none.json': .*none.json does not exist; paths are relative"),
        ("[records.json]", "[records.json, records.json]", "'records.json' has a record 'H2', too"),
        ("test: [test]", "test: [H2, short, long, longer, test]", "test: all records are in it"),
        ("test: [test]", "test: [tset]", "test: there is no record 'tset'; did you mean 'test'"),
        ("[long, longer]", "[]", r"classes.c: expected at least 1 items"),
        ("[long, longer]", "[long, short]", "classes.c: record 'short' is in the class 'b' already"),
        ("[long, longer]", "[long, long]", "classes.c: record 'long' is in the class 'c' already"),
        ("{a: [H2], b: [short], c: [long, longer]}", "{}", "classes: .* needs three or more .*, got 0"),
        ("{reaction_energy: {scale: 0.2}}", "{}", "objectives: none has a weight above 0; for example objectives: {"),
        ("{scale: 0.2}", "{scale: 0.2, weight: 0}", "objectives: none has a weight above 0"),
        (
            "{reaction_energy: {scale: 0.2}}",
            "{reaction_energy: {scale: 0.2, weight: 0}, lattice_constant: {scale: 0.005}}",
            "objectives.lattice_constant: no record that is fitted has its target",
        ),
        (
            "reaction_energy:",
            "lattice_constant:",
            "objectives.lattice_constant: no record that is fitted has its target",
        ),
        ("models: models", "known_errors: none.yaml", "known_errors='none.yaml': .* does not exist"),
        (
            "models: models",
            "known_errors: known.yaml",
            "known_errors.reaction_energy: there is no .* 'H3'",
        ),
        (
            "models: models",
            "known_errors: others.yaml",
            "key of known_errors='stress': must be one of rea",
        ),
        ("models: models", "models: ~nosuchuser/models", "models='~nosuchuser/models': there is no such home folder"),
        ("densities: ", "densities: models/h2@1 # ", "densities='models/h2@1' is the folder that the model gets"),
        ("scale: 0.2", "scale: 0", r"objectives.reaction_energy.scale=0: must be a number, above 0"),
        ("{scale: 0.2}", "{weight: 1}", "objectives.reaction_energy.scale is missing"),
        (
            "reaction_energy:",
            "energy_differences:",
            "key of objectives='energy_differences': must be one of reaction_en",
        ),
        ("reaction_energy:", "forces:", "key of objectives='forces': must be one of"),
        ("{neural-factors: {parent: r2SCAN, widths: [4]}}", "PBE", "functional: expected neural-factors"),
        ("models: models", "modles: models", "unknown key modles; did you mean 'models'"),
    ],
)
def test_a_wrong_file_is_refused(config, old, new, message):
    config.with_name("known.yaml").write_text("reaction_energy: {H3: 0.1}")
    config.with_name("others.yaml").write_text("stress: {H2: 0.1}")
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    before = sorted(config.parent.iterdir())
    with pytest.raises(InputError, match=message) as raised:
        read_fit(config)
    assert str(config) in str(raised.value)
    assert sorted(config.parent.iterdir()) == before


def test_one_name_of_a_file_and_keys_without_a_value_are_accepted(config):
    config.write_text(config.read_text().replace("[records.json]", "records.json") + "name:\nsteps:\nextends:\n")
    fit = read_fit(config)
    assert (fit.name, fit.settings.steps, len(fit.records)) == ("h2", 0, 4)


def test_records_that_cannot_be_calculated_are_refused_before_and_after(config, densities, monkeypatch):
    assert "records: [records.json]" in config.read_text()
    write_records(config.with_name("records.json"), [eos_record(name) for name in ("H2", "short", "long", "longer")])
    text = config.read_text().replace("test: [test]\n", "").replace("reaction_energy", "lattice_constant")
    config.write_text(text + "calculator: {pseudos: nope}\n")
    with pytest.raises(InputError, match="no record can be calculated; record 'H2': unknown pseudopotential"):
        read_fit(config)
    config.write_text(text + "calculator: {pseudos: gth-pbe, ecut: 100, kpts: [1, 1, 1]}\n")
    monkeypatch.setattr(FrozenDensities, "collect", lambda self, records: [])
    with pytest.raises(CalculationFailed, match="all records that are fitted are left out"):
        read_fit(config).run()


SCAN = scaled_structures(bulk("Al"), 3)


@pytest.mark.parametrize("test", ["", "test: [longer]\n"])
def test_records_without_a_minimum_are_named(config, test):
    records = [eos_record(name) for name in ("H2", "short", "long")] + [Record("longer", SCAN, {"energy": [0, 1, 0]})]
    write_records(config.with_name("records.json"), records)
    config.write_text(config.read_text().replace("test: [test]\n", test).replace("reaction_energy", "lattice_constant"))
    with pytest.raises(InputError, match=r"record 'longer': .* no minimum .* give no volume; leave the record out"):
        read_fit(config)


def test_a_curve_without_a_minimum_at_the_frozen_densities_is_named():
    functional, features = NeuralFactors(widths=(2,)), sample_mesh(1).features
    points = tuple(FrozenPoints(features, torch.ones(1, dtype=torch.float64), energy) for energy in (0.0, 1.0, 0.0))
    data = FrozenSet((Record("Al", SCAN, {"volume": 16.0}),), points, ((0, 1, 2),))
    settings = FitSettings({"lattice_constant": Term(1)})
    errors = FrozenErrors(functional, functional.last_layer, functional, data, settings)
    with pytest.raises(NoMinimumError, match=r"record 'Al', lattice_constant at the frozen densities: .* no minimum"):
        errors.residuals(errors.theta)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", c: [long, longer]", "", "classes: .* needs three or more .*, got 2: a, b"),
        ("{reaction_energy: {scale: 0.2}}", "{lattice_constant: {scale: 0.2}}", "no record that is fitted has its t"),
    ],
)
def test_data_that_do_not_suffice_are_refused(config, old, new, message):
    config.write_text(config.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        read_fit(config).run()
