"""Names of functionals and what the calculator makes of them."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import InputError

import ase_nnxc
from ase_nnxc import NNXCCalculator, checkpoints
from ase_nnxc.checkpoints import CheckpointError, is_reserved, load_functional, model_roots, save_functional
from ase_nnxc.interop.libxc import Libxc
from ase_nnxc.registry import Resolved, get_functional, named_family, pseudo_family, resolve
from ase_nnxc.xc import LDA, PBE, R2SCAN, SCAN, Functional, HybridXC, Sum, pbesol, register_architecture
from ase_nnxc.xc.functional import check_functional

POINTS = {
    "density": torch.tensor([[0.03, 0.2, 1.0], [0.01, 0.2, 0.5]], dtype=torch.float64),
    "gradient": torch.tensor([[[0.01, 0.1, 0.5]] * 3, [[0.02, 0.0, 0.3]] * 3], dtype=torch.float64),
    "tau": torch.tensor([[0.1, 0.3, 2.0], [0.05, 0.3, 1.0]], dtype=torch.float64),
}


@register_architecture("test-scaled", 1)
class Scaled(Functional):
    """PBE times a trained factor."""

    features = ("density", "gradient")

    def __init__(self, part="xc"):
        super().__init__()
        self.parent, self.kind = PBE(part=part), part
        self.factor = torch.nn.Parameter(torch.tensor(1.25, dtype=torch.float64))

    def forward(self, features):
        return self.factor * self.parent(features)

    def config(self):
        return {"part": self.kind}


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """The user's folder of models, three in it."""
    monkeypatch.setenv("NNXC_MODEL_PATH", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    root = tmp_path / "ase_nnxc" / "models"
    save_functional(Scaled(), root, name="scaled", version=2, description="Scaled PBE.", pseudos="gth-pbe")
    save_functional(Scaled("x"), root, name="scaled-x", description="Scaled PBE exchange.")
    save_functional(LDA(), root, name="density-only", description="LDA for PBE's tables.", pseudos="gth-pbe")
    return root


def same(xc, functional):
    return torch.allclose(get_functional(xc)(POINTS), functional(POINTS), rtol=1e-14, atol=0)


# ---- names


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("pbe", "PBE"),
        ("PBESOL", "PBEsol"),
        ("R2SCAN", "r2SCAN"),
        ("lda-pz", "LDA-PZ"),
        (" PBE ", "PBE"),
        ("scaled", "scaled@2"),
        ("Scaled@2", "scaled@2"),
        ("GGA_X_PBE+gga_c_pbe", "gga_x_pbe+gga_c_pbe"),
        ("BLYP", "blyp"),
        ("0.25*pbe + .75*scaled", "0.25*PBE+.75*scaled@2"),
        ("scaled-x+gga_c_pbe", "scaled-x@1+gga_c_pbe"),
        ("2*PBE+-1*LDA", "2*PBE+-1*LDA"),
        ("1e-1*PBE+0.9*PBE", "1e-1*PBE+0.9*PBE"),
        ("1e+0*PBE", "1e+0*PBE"),
        ("2e+0*PBE+-1E+0*LDA", "2e+0*PBE+-1E+0*LDA"),
    ],
)
def test_name_resolves_to_what_gives_exactly_it_again(name, exact):
    assert resolve(name).xc == exact
    assert resolve(exact).xc == exact
    assert torch.equal(get_functional(name)(POINTS), get_functional(exact)(POINTS))


def test_composition_is_the_sum_of_its_terms():
    assert same("0.25*PBE+0.75*PBEsol", Sum([(0.25, PBE()), (0.75, pbesol())]))
    assert torch.allclose(get_functional("0.5*scaled + 0.5*PBE")(POINTS), 1.125 * PBE()(POINTS), rtol=1e-14, atol=0)


def test_exchange_and_correlation_of_libxc_are_put_together():
    assert torch.allclose(get_functional("gga_x_pbe+gga_c_pbe")(POINTS), PBE()(POINTS), rtol=1e-9, atol=0)


def test_path_resolves_to_itself(models, monkeypatch):
    monkeypatch.chdir(models)
    for path in (models / "scaled@2", str(models / "scaled@2"), "./scaled@2"):
        assert resolve(path).xc == str(models / "scaled@2")
        assert same(path, get_functional("scaled"))


def smuggle(models, monkeypatch, name):
    """Put a model under a name that `save_functional` refuses."""
    with monkeypatch.context() as patch:
        patch.setattr("ase_nnxc.checkpoints.save.is_reserved", lambda *_: False)
        save_functional(pbesol(), models, name=name, description="Not what its name says.")


def test_conventional_names_are_not_shadowed(models, monkeypatch):
    smuggle(models, monkeypatch, "pbe")
    assert same("PBE", PBE())
    with pytest.raises(InputError, match="PBE is a conventional functional, which has no versions"):
        get_functional("pbe@1")
    with pytest.raises(CheckpointError, match="PBE is a conventional functional, not a checkpoint"):
        load_functional("pbe")
    assert same(models / "pbe@1", pbesol())


def test_model_of_a_name_of_libxc_is_ambiguous_unless_its_version_is_told(models, monkeypatch):
    smuggle(models, monkeypatch, "blyp")
    for xc in ("BLYP", "0.5*blyp+0.5*PBE"):
        with pytest.raises(InputError, match=r"is ambiguous.*write 'blyp@1'"):
            get_functional(xc)
    assert same("BLYP@1", pbesol())


def test_shipped_names_are_not_shadowed(models, tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    save_functional(pbesol(), shipped, name="scaled", description="Shipped.")
    checkpoints.write_index(shipped)
    roots = [checkpoints.Root("package", shipped), *model_roots()[1:]]
    monkeypatch.setattr("ase_nnxc.checkpoints.roots.model_roots", lambda: roots)
    assert same("scaled", pbesol())
    assert [is_reserved(name) for name in ("scaled", "pbe", "r2SCAN", "density-only")] == [True, True, True, False]
    assert [is_reserved(name, shipped) for name in ("scaled", "pbe")] == [False, True]


@pytest.mark.parametrize("name", ["pbe", "lda-pz", "blyp", "b3lyp", "gga_x_b88", "lyp", "pbe-mol", "pbe-d3"])
def test_checkpoint_does_not_get_a_name_that_means_something_else(models, name):
    with pytest.raises(CheckpointError, match=f"'{name}' is a name of the package, of libxc or"):
        save_functional(PBE(), models, name=name, description="A test.")


def test_folder_in_the_working_folder_is_no_name(models, monkeypatch):
    monkeypatch.chdir(models)
    monkeypatch.setenv("XDG_DATA_HOME", str(models / "absent"))
    with pytest.raises(InputError, match="no model 'scaled@2'"):
        get_functional("scaled@2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PBF", "unknown functional xc='PBF': expected one of LDA, PBE, .*; did you mean 'PBE'"),
        ("scalet", "did you mean 'scaled'"),
        ("gga_x_pbf+gga_c_pbe", "unknown functional xc='gga_x_pbf'.*did you mean 'gga_x_pb"),
        ("scaled@3", "no model 'scaled@3'; the models are .*scaled@2"),
        ("scaled@x", "is not a name of a model"),
        ("PBE0", "xc: 'PBE0' has exact exchange"),
        ("0.5*HSE06+0.5*PBE", "xc: 'HSE06' has exact exchange"),
        ("", "cannot be parsed: expected terms joined by '\\+'"),
        ("PBE+", "cannot be parsed"),
        ("PBE - LDA", "cannot be parsed"),
        ("0.5*0.5*PBE", "cannot be parsed"),
        ("x*PBE", "cannot be parsed"),
        ("__import__('os')*PBE", "cannot be parsed"),
        ("nan*PBE", "cannot be parsed"),
        ("PBE+PBE", "xc='PBE\\+PBE': exchange adds up to 2, correlation to 2"),
        ("0.5*PBE", "exchange adds up to 0.5"),
        ("PBE+gga_c_lyp", "exchange adds up to 1, correlation to 2"),
        ("gga_x_b88", "xc=gga_x_b88 is exchange only: add a correlation with '\\+', as"),
        ("gga_c_lyp", "xc=gga_c_lyp is correlation only: add an exchange"),
        ("scaled-x", "xc=scaled-x is exchange only"),
        ("0.5*lda_x+0.5*scaled-x", "is exchange only"),
        ("./absent@1", "absent@1: no such folder"),
        (3, "xc=3: expected a name"),
        (None, "xc=None: expected a name"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(name, message):
    with pytest.raises(InputError, match=message):
        get_functional(name)


def test_object_that_is_only_a_part_is_refused():
    with pytest.raises(InputError, match="is exchange only"):
        get_functional(PBE(part="x"))


def test_damaged_model_is_an_error_and_no_other_functional(models):
    (models / "scaled@2" / "functional.safetensors").unlink()
    save_functional(Scaled(), models, name="scaled", description="Older.")
    with pytest.raises(CheckpointError, match=r"functional\.safetensors is missing"):
        get_functional("scaled")


def test_pyscf_is_loaded_for_its_functionals_only(models):
    half = Sum([(1, Libxc("gga_x_b88")), (1, PBE(part="c"))])
    save_functional(half, models, name="half-libxc", description="Exchange of libxc.")
    code = """
import sys
from ase_nnxc.registry import get_functional
for name in ("r2SCAN", "0.5*PBE+0.5*LDA", "density-only@1"):
    get_functional(name)
assert "pyscf" not in sys.modules
get_functional("half-libxc@1")
assert "pyscf" in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ase_nnxc.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


# ---- objects


def broken(**attributes):
    """PBE with attributes changed."""
    functional = PBE()
    for name, value in attributes.items():
        setattr(functional, name, value)
    return functional


@pytest.mark.parametrize(
    ("functional", "message"),
    [
        (
            broken(features=("density", "laplacian")),
            "unknown feature 'laplacian': expected one of density, gradient",
        ),
        (broken(features="density"), "features='density' must be a tuple"),
        (broken(features=()), r"features=\(\) must be a tuple"),
        (broken(kind="exchange"), "kind='exchange' must be one of x, c, xc, correction"),
        (broken(features=("density",)), "cannot be evaluated on three points: KeyError: 'gradient'"),
        (broken(forward=lambda f: f["density"]), r"torch.float64 of shape \(2, 3\) on three points"),
        (broken(forward=lambda f: f["density"].sum()), r"torch.float64 of shape \(\) on three points"),
        (broken(forward=lambda f: f["density"].sum(0).float()), r"torch.float32 of shape \(3,\) on three points"),
        (broken(forward=lambda f: 0.0), "returns 0.0 on three points"),
        (
            broken(forward=lambda f: f["density"].sum(0).detach()),
            "cannot be differentiated with respect to",
        ),
        (Scaled().float(), r"factor is of torch.float32, expected torch.float64: call double\(\)"),
    ],
)
@pytest.mark.parametrize("use", [get_functional, NNXCCalculator])
def test_mistake_in_an_own_functional_is_named_when_it_is_given(use, functional, message):
    with pytest.raises(InputError, match=f"xc: .*{message}"):
        use(functional)


@pytest.mark.parametrize("functional", [LDA(), PBE(part="x"), R2SCAN(), Scaled(), Libxc("TPSS")])
def test_good_functional_passes_the_check(functional):
    check_functional(functional)


def test_architecture_of_libxc_tells_what_to_import():
    code = """
from ase_nnxc.xc import build
build({"architecture": "libxc", "version": 1, "config": {"name": "blyp"}})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ase_nnxc.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "is not registered: import ase_nnxc.interop.libxc, which defines it" in run.stderr


# ---- tables of pseudopotentials


@pytest.mark.parametrize(
    ("xc", "family"),
    [
        ("LDA-PZ", "pade"),
        ("r2SCAN", "pbe"),
        ("0.5*LDA+0.5*LDA-VWN", "pade"),
        ("0.5*LDA+0.5*PBE", "pbe"),
        ("density-only", "pbe"),
        ("0.5*density-only+0.5*density-only", "pbe"),
        ("0.5*density-only+0.5*LDA", "pade"),
    ],
)
def test_tables_that_suit_are_those_of_the_card_the_parts_or_the_features(xc, family):
    assert pseudo_family(get_functional(xc)) == family


def test_tables_that_suit_a_hybrid_are_those_both_agree_on():
    density_only = get_functional("density-only")
    assert pseudo_family(HybridXC(density_only, PBE())) == "pbe"
    assert pseudo_family(HybridXC(density_only, density_only)) == "pbe"


@pytest.mark.parametrize(
    ("xc", "family"),
    [
        ("BLYP", "blyp"),
        ("gga_x_b88+gga_c_lyp", "blyp"),
        ("BP86", "bp"),
        ("OLYP", "olyp"),
        ("gga_xc_hcth_120", "hcth120"),
        ("SCAN", "scan"),
        ("r2SCAN", "scan"),
        ("mgga_x_scan+mgga_c_scan", "scan"),
    ],
)
def test_functional_has_tables_of_its_own_name(xc, family):
    assert named_family(get_functional(xc)) == family
    assert pseudo_family(get_functional(xc)) == "pbe"  # these suit it, too


# ---- the calculator


def aluminium(**parameters):
    atoms = bulk("Al", a=4.05)
    atoms.calc = NNXCCalculator(ecut=140, kpts=(2, 2, 2), device="cpu", **parameters)
    return atoms


def test_log_and_todict_tell_the_exact_model(tmp_path):
    atoms = aluminium(xc="0.5*scaled+0.5*PBE", txt=tmp_path / "log")
    energy = atoms.get_potential_energy()
    digest = checkpoints.read_card("scaled")["sha256"][:12]
    assert f"functional   0.5*scaled@2 (sha256 {digest}) + 0.5*PBE\n" in (tmp_path / "log").read_text()
    assert atoms.calc.todict()["xc"] == atoms.calc.resolve(atoms)["xc"] == "0.5*scaled@2+0.5*PBE"
    parameters = atoms.calc.todict()
    assert parameters["versions"]["functional"] == f"0.5*scaled@2 (sha256 {digest}) + 0.5*PBE"
    twin = NNXCCalculator(**parameters)
    assert twin.get_potential_energy(atoms) == pytest.approx(energy, abs=1e-9)


def test_parameters_written_with_another_model_of_the_same_name_are_refused(models):
    written = NNXCCalculator("scaled@2").todict()
    shutil.rmtree(models / "scaled@2")
    save_functional(LDA(), models, name="scaled", version=2, description="Another.")
    with pytest.raises(InputError, match=r"written with scaled@2 \(sha256 .*, but here it is scaled@2 \(sha256 "):
        NNXCCalculator(**written)
    with pytest.raises(InputError, match="as `todict` returns it"):
        NNXCCalculator(versions="0.1.0")


def test_loaded_object_is_called_by_its_name_until_it_is_changed(tmp_path):
    functional = load_functional("scaled")
    digest = functional.card["sha256"][:12]
    assert resolve(functional).describe() == f"scaled@2 (sha256 {digest})"
    with torch.no_grad():
        functional.factor.add_(0.1)
    assert re.fullmatch(r"Scaled, 1 parameters \(digest [0-9a-f]{12}\)", resolve(functional).describe())
    constants = load_functional("density-only")
    constants.kind = "x"  # stands in its config
    assert "digest" in Resolved(constants, constants).describe()


@pytest.mark.parametrize(
    ("xc", "pseudos"),
    [("BLYP", "gth-blyp"), ("SCAN", "uzh-scan"), (SCAN(), "uzh-scan"), ("r2SCAN", "uzh-mgga"), ("BLYP", "gth-pbe")],
)
def test_tables_of_the_functional_draw_no_warning(xc, pseudos):
    NNXCCalculator(xc=xc, ecut=140, kpts=(1, 1, 1), pseudos=pseudos).resolve(bulk("Si"))


@pytest.mark.parametrize(("xc", "called"), [("BLYP", "blyp"), ("0.5*PBE+0.5*LDA", r"0.5\*PBE"), (PBE(), "PBE, 0 par")])
def test_tables_of_another_functional_draw_a_warning_that_names_the_one_given(xc, called):
    with pytest.warns(UserWarning, match=f"gth-bp-q4 were generated for a functional other than {called}"):
        NNXCCalculator(xc=xc, ecut=140, kpts=(1, 1, 1), pseudos="gth-bp").resolve(bulk("Si"))


def test_calculator_keeps_the_model_it_was_given(models):
    atoms = aluminium(xc="scaled")
    energy = atoms.get_potential_energy()
    save_functional(LDA(), models, name="scaled", version=3, description="Newer.")
    atoms.calc.set(maxiter=99)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-7)
    assert atoms.calc.todict()["xc"] == "scaled@2"
    assert NNXCCalculator(xc="scaled").todict()["xc"] == "scaled@3"


def test_model_is_loaded_once(monkeypatch):
    loads = []
    load = checkpoints.load.verified_functional
    monkeypatch.setattr(checkpoints.load, "verified_functional", lambda *args: loads.append(args) or load(*args))
    atoms = aluminium(xc="scaled")
    atoms.get_potential_energy()
    atoms.rattle(0.01, seed=1)
    atoms.get_forces()
    atoms.calc.set(xc="scaled", maxiter=99)
    atoms.get_potential_energy()
    assert len(loads) == 1
    atoms.calc.set(xc="scaled@2")
    assert len(loads) == 2


def test_refused_name_leaves_the_calculator_as_it_was():
    calc = NNXCCalculator(xc="scaled")
    with pytest.raises(InputError):
        calc.set(xc="absent@1", maxiter=7)
    assert (calc.todict()["xc"], calc.parameters["maxiter"]) == ("scaled@2", 200)


def test_path_of_a_checkpoint_stays_exact_elsewhere(models, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    calc = NNXCCalculator(xc="./scaled@2")
    monkeypatch.chdir(tmp_path)
    assert NNXCCalculator(**calc.todict()).todict()["xc"] == str(models / "scaled@2")


def test_example_of_an_own_network_runs(capsys):
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "examples" / "own_network.py"))
    assert "my-network@1: -63.0" in capsys.readouterr().out
