"""Cloning: points, PySCF with our functionals, the fit, the certificate, `nnxc clone`."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from pyscf.dft.numint import NumInt

from ase_nnxc.calculator import NNXCCalculator
from ase_nnxc.checkpoints import load_functional
from ase_nnxc.cli import main
from ase_nnxc.interop.pyscf import grid_features, solve_molecule
from ase_nnxc.train.certificate import certificate, compare_crystals, compare_molecules, compare_points
from ase_nnxc.train.clone import (
    CloneError,
    CloneSettings,
    _Residuals,
    clone,
    counterparts,
    energy_along,
    new_network,
    part_of,
    random_directions,
    uniform_exchange,
)
from ase_nnxc.train.samples import (
    Samples,
    crystal_features,
    join,
    mesh_points,
    named_molecule,
    sample_crystals,
    sample_mesh,
    sample_molecules,
)
from ase_nnxc.xc import LDA, NNLDA, NNMGGA, PBE, R2SCAN, HybridXC, NeuralExchange, Sum
from ase_nnxc.xc.reduced import channel_alpha, channel_s2, channel_sigma, total_alpha, total_s2, total_sigma
from ase_nnxc.xc.spins import Spins

HE = Atoms("He")


def small_exchange(**options) -> NeuralExchange:
    return NeuralExchange(widths=(5,), activation="tanh", **options)


# ---- points --------------------------------------------------------------------------------------------------------


def test_mesh_points_have_the_given_variables():
    rs, zeta, s, alpha = torch.tensor(
        [[0.1, 2.0, 5.0], [0.0, 0.7, -0.3], [0.0, 1.5, 0.2], [1.0, 0.0, 3.0]], dtype=torch.float64
    )
    points = mesh_points(rs, zeta, s, alpha)
    spins = Spins.of(points.density)
    total = total_s2(spins, total_sigma(points.gradient))
    channels = channel_s2(spins, channel_sigma(points.gradient))
    torch.testing.assert_close((3 / (4 * math.pi * points.density.sum(0))) ** (1 / 3), rs)
    torch.testing.assert_close(spins.zeta, zeta)
    torch.testing.assert_close(total.sqrt(), s)
    torch.testing.assert_close(total_alpha(spins, total, points.tau), alpha)
    torch.testing.assert_close(channel_alpha(spins, channels, points.tau), alpha.expand(2, -1))


def test_mesh_has_unpolarised_points_and_both_signs_of_zeta():
    points = sample_mesh(256)
    zeta = (points.density[0] - points.density[1]) / points.density.sum(0)
    assert 100 < (zeta.abs() < 1e-12).sum() < 156
    assert zeta.min() < -0.9
    assert zeta.max() > 0.9


def test_digest_is_that_of_numbers_and_names(tmp_path):
    points = sample_mesh(8, seed=3)
    points.save(tmp_path / "points.npz")
    assert Samples.load(tmp_path / "points.npz").digest == points.digest == sample_mesh(8, seed=3).digest
    assert sample_mesh(8, seed=4).digest != points.digest
    assert Samples(**{**vars(points), "systems": ("Al",)}).digest != points.digest


def test_joined_sets_keep_their_shares_and_names():
    one = Samples(**{**vars(sample_mesh(4)), "system": torch.zeros(4, dtype=torch.int64), "systems": ("He",)})
    both = join([one, sample_mesh(8), one], shares=(1, 2, 1))
    assert both.systems == ("He", "He")
    assert both.system.tolist() == [0] * 4 + [-1] * 8 + [1] * 4
    torch.testing.assert_close(both.weights, torch.full((16,), 1 / 16, dtype=torch.float64))
    torch.testing.assert_close(both.select(both.system >= 0).weights.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_drawn_points_give_the_energy_of_the_molecule():
    mf = solve_molecule(molecule("H2O"), PBE(), "sto-3g", grid_level=1)
    features, volumes = grid_features(mf)
    exact = (volumes @ PBE()(features)) / (volumes @ uniform_exchange(features["density"]))
    points = sample_molecules(["H2O"], PBE(), 500, basis="sto-3g")
    drawn = points.weights @ (PBE()(points.features) / uniform_exchange(points.density))
    assert abs(drawn / exact - 1) < 1e-3
    assert points.systems == ("H2O all-electron sto-3g",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("H2S", "ASE has no molecule 'H2S'; its name for these atoms is 'SH2'"),
        ("C3H4", "'C3H4_D2d' or 'C3H4_C3v' or 'C3H4_C2v'"),
        ("NH33", "did you mean 'NH3'?"),
        ("water", "ase.collections.g2.names lists all names"),
    ],
)
def test_unknown_molecules_are_refused_with_the_names_of_ase(name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        named_molecule(name)


def test_features_of_a_crystal_hold_its_electrons_and_kinetic_energy():
    calculator = NNXCCalculator(ecut=150, kpts=(2, 2, 2), pseudos="gth-pbe")
    state = calculator.ground_state(bulk("Si"))
    features, volumes = crystal_features(state)
    assert abs(volumes @ features["density"].sum(0) - 8) < 1e-9
    assert abs(volumes @ features["tau"].sum(0) - state.terms["kinetic"]) < 1e-9
    points = sample_crystals({"Si": bulk("Si")}, PBE(), 50, ecut=150, kpts=(2, 2, 2))
    assert points.gradient.shape == (2, 3, len(points))


# ---- PySCF ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("xc", "functional"), [("PBE", PBE()), ("R2SCAN", R2SCAN()), ("LDA,PW_MOD", LDA())])
@pytest.mark.parametrize("atoms", [HE, molecule("N")], ids=["closed", "open"])
def test_pyscf_finds_the_energy_that_it_finds_with_libxc(xc, functional, atoms):
    mf = solve_molecule(atoms, functional, "sto-3g", grid_level=0)
    reference = mf.copy()
    reference._numint = NumInt()
    reference.xc = xc
    assert abs(reference.kernel() - mf.e_tot) < 1e-8


def test_pyscf_gets_no_third_derivatives():
    mf = solve_molecule(HE, PBE(), "sto-3g", grid_level=0)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        mf._numint.eval_xc_eff("PBE", np.ones((4, 1)), deriv=3)


# ---- fit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("functional", [PBE(), R2SCAN()], ids=["PBE", "r2SCAN"])
def test_derivative_along_directions_is_that_of_the_energy(functional):
    points = sample_mesh(64)
    directions = random_directions(points, torch.Generator().manual_seed(0))
    step = 1e-5
    moved = [
        functional({name: x + sign * step * directions[name] for name, x in points.features.items()})
        for sign in (1, -1)
    ]
    slope = energy_along(functional, points.features, directions)[1]
    uniform = uniform_exchange(points.density)
    torch.testing.assert_close((moved[0] - moved[1]) / (2 * step) / uniform, slope / uniform, rtol=1e-6, atol=1e-6)


def test_normal_equations_are_the_slope_of_the_loss():
    samples = Samples(**{**vars(sample_mesh(40)), "system": torch.arange(40) % 3 - 1, "systems": ("a", "b")})
    residuals = _Residuals(small_exchange(), PBE(part="x"), samples, CloneSettings(), torch.Generator().manual_seed(0))
    theta = residuals.start()
    gradient, hessian = residuals.normal_equations(theta)
    step = 1e-6 * torch.eye(len(theta), dtype=torch.float64)
    numerical = [(residuals.loss(theta + d) - residuals.loss(theta - d)) / 4e-6 for d in step]
    torch.testing.assert_close(gradient, torch.tensor(numerical, dtype=torch.float64), rtol=1e-5, atol=1e-8)
    assert torch.linalg.eigvalsh(hessian).min() > -1e-12


@pytest.mark.parametrize("parent", [PBE(part="x"), R2SCAN(part="x")], ids=["PBE", "r2SCAN"])
def test_a_fit_brings_a_small_network_near_its_parent(parent):
    alpha = ("alpha/(1+alpha)",) if "tau" in parent.features else ()
    network = NeuralExchange(("s2/(1+s2)", *alpha), widths=(8,), activation="tanh", trainable_mu=True)
    before = compare_points(network, parent, 64)["x"]
    record = clone(network, parent, sample_mesh(300), CloneSettings(steps=25))
    after = compare_points(network, parent, 64)["x"]
    assert record["fits"]["x"]["validation_loss"] < 1e-3
    assert after["rms_dF"] < 0.1 * before["rms_dF"]


def test_the_same_seed_gives_the_same_clone():
    clones = [small_exchange(), small_exchange()]
    for network in clones:
        clone(network, PBE(part="x"), sample_mesh(50), CloneSettings(steps=3))
    for one, other in zip(*(network.parameters() for network in clones)):
        assert torch.equal(one, other)


@pytest.mark.parametrize("parent", [PBE(), R2SCAN(), LDA(), Sum([(0.5, PBE()), (0.5, LDA())])])
def test_parts_of_a_parent_add_up_to_it(parent):
    points = sample_mesh(16)
    parts = part_of(parent, "x")(points.features) + part_of(parent, "c")(points.features)
    torch.testing.assert_close(parts, parent(points.features))


def test_a_parent_that_cannot_be_split_is_refused():
    with pytest.raises(CloneError, match="HybridXC of kind 'xc' has no part of kind 'x'"):
        counterparts(small_exchange(), HybridXC(NNLDA(), PBE()))


@pytest.mark.parametrize(("parent", "style"), [(PBE(), "constrained"), (R2SCAN(), "constrained"), (R2SCAN(), "mlp")])
def test_new_networks_hold_nothing_of_the_parent(parent, style):
    network = new_network(parent, style, seed=1)
    config = json.dumps(network.config())
    assert '"pbe"' not in config
    assert '"r2scan"' not in config
    assert set(network.features) == set(parent.features)
    one, other = (torch.cat([p.flatten() for p in new_network(parent, style, seed).parameters()]) for seed in (1, 2))
    assert not torch.equal(one, other)


def test_a_local_parent_has_no_constrained_clone():
    assert isinstance(new_network(LDA(), "mlp", 0), NNLDA)
    assert isinstance(new_network(R2SCAN(), "mlp", 0), NNMGGA)
    with pytest.raises(CloneError, match="mlp"):
        new_network(LDA(), "constrained", 0)


# ---- certificate ---------------------------------------------------------------------------------------------------


def test_a_parent_is_its_own_perfect_clone():
    for errors in compare_points(Sum([(1, PBE(part="x")), (1, PBE(part="c"))]), PBE(), 64).values():
        assert max(errors.values()) < 1e-11
    assert abs(compare_molecules(PBE(), PBE(), ["H"], "sto-3g")["H"]) < 1e-6
    assert abs(compare_crystals(PBE(), PBE(), {"Al": bulk("Al")}, ecut=150, kpts=(2, 2, 2))["Al"]) < 1e-6


def test_certificate_gives_the_difference_of_two_functionals():
    # F_x of PBE is 1 + 0.804 - 0.804 / (1 + mu s^2 / 0.804), here with 0.9 in place of 0.804
    points = certificate(PBE(kappa=0.9), PBE(), self_consistent=False)["points"]
    assert set(points) == {"xc"}
    x = 0.2195149727645171 * 9
    expected = 0.9 - 0.9 / (1 + x / 0.9) - 0.804 + 0.804 / (1 + x / 0.804)
    assert abs(points["xc"]["max_dF"] - expected) < 1e-9
    energies = compare_molecules(LDA(), PBE(), ["H"], "sto-3g")
    assert 10 < energies["H"] < 30  # mHa


# ---- command -------------------------------------------------------------------------------------------------------


def test_command_writes_a_clone_that_loads(tmp_path, capsys):
    arguments = ["clone", "PBE", "--name", "small", "--quick", "--points", "60", "--steps", "2", "--seeds", "2"]
    arguments += ["--samples", str(tmp_path / "points.npz"), "--root", str(tmp_path), "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    functional = load_functional(tmp_path / "small@1")
    assert printed["metrics"]["points"] == functional.card["metrics"]["points"]
    assert set(functional.card["metrics"]["all_seeds"]) == {"0", "1"}
    assert functional.card["parent"] == "PBE"
    assert functional.card["training"]["samples_sha256"] == Samples.load(tmp_path / "points.npz").digest
    assert main(arguments) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_command_fits_to_molecules_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ase_nnxc.train.samples.MOLECULES", ("H",))
    monkeypatch.setattr("ase_nnxc.train.certificate.MOLECULES", ())
    monkeypatch.setattr("ase_nnxc.train.certificate.CRYSTALS", ())
    points, root = tmp_path / "points.npz", ["--root", str(tmp_path), "--name", "small"]
    command = ["clone", "PBE", "--from", "molecules", "--points", "60", "--steps", "2", "--samples", str(points), *root]
    assert main(command) == 0
    systems = ["H all-electron def2-svp", "H gth-pbe gth-dzvp"]
    assert load_functional(tmp_path / "small@1").card["training"]["systems"] == systems
    samples = Samples.load(points)
    assert sorted(set(samples.system.tolist())) == [0, 1]
    mesh = sample_mesh(8)
    for wrong in (mesh, replace(mesh, system=torch.zeros_like(mesh.system), systems=("C",))):  # "C": a crystal
        wrong.save(points)
        assert main([*command, "--version", "2"]) == 2
        assert "has points of a mesh or of crystals, which --from molecules excludes" in capsys.readouterr().err


def test_points_that_do_not_determine_a_clone_are_refused(tmp_path, capsys):
    with pytest.raises(CloneError, match="1 points do not determine the parameters: use more"):
        clone(small_exchange(), PBE(part="x"), sample_mesh(1))
    assert main(["clone", "PBE", "--name", "mine", "--root", str(tmp_path), "--quick", "--points", "7"]) == 2
    assert "--points 7: expected 8 at least" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PBE", "--name", "mine", "--from", "molecules"], "--quick: not allowed with argument --from"),
        (["PBE", "--name", "pbe"], "already used by a functional of ase_nnxc"),
        (["PBE", "--name", "PBE clone"], "is not a name of a model"),
        (["PBX", "--name", "mine"], "did you mean"),
        (["LDA", "--name", "mine"], "clone it with an mlp"),
        (["PBE", "--name", "mine", "--steps", "0"], "expected a positive integer"),
        (["PBE", "--name", "mine", "--version", "0"], "argument --version: expected a positive integer, got '0'"),
        (["PBE", "--name", "mine@2"], "--name mine@2: the version is given by --version"),
        (["PBE", "--name", "mine", "--root", ""], "argument --root: expected a path, got ''; the current folder is ."),
        (["PBE", "--name", "mine", "--root", "/dev/null"], "--root='/dev/null': /dev/null is not a folder"),
        (["PBE", "--name", "mine", "--root", "/proc/x"], "--root='/proc/x' cannot be written"),
        (
            ["PBE", "--name", "mine", "--samples", "/nonexist/s.npz"],
            "--samples='/nonexist/s.npz': expected a file in a",
        ),
        (["PBE", "--name", "mine", "--samples", "/proc/s.npz"], "--samples='/proc' cannot be written"),
    ],
)
def test_wrong_commands_are_refused_before_any_work(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert main(["clone", *arguments, "--quick", "--points", "8"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
