"""The experiments of examples/papers in small settings, and the files that they keep."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule

from ase_nnxc import NNXCCalculator, PySCFCalculator, load_functional
from ase_nnxc.checkpoints import save_functional
from ase_nnxc.eos.birch_murnaghan import fit_birch_murnaghan
from ase_nnxc.interop.pyscf import solve_molecule
from ase_nnxc.train.clone import new_network
from ase_nnxc.train.records import all_electron, atomization_energy, digest, ionization_potential
from ase_nnxc.train.samples import sample_mesh
from ase_nnxc.xc import PBE

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch):
    """Import a module of examples/papers, as `python -m` does in the root of the repository."""

    def load(name: str) -> ModuleType:
        return import_module(f"examples.papers.{name}")

    monkeypatch.syspath_prepend(REPOSITORY)
    return load


def counted_calculations():
    """Return a function that calculates a point, and the list of its calls."""
    calls = []

    def calculate(atoms):
        calls.append(atoms)
        return {"free_energy": float(len(calls))}

    return calculate, calls


def test_points_resume_and_those_of_other_settings_are_discarded(experiment, tmp_path):
    points, (calculate, calls) = experiment("points"), counted_calculations()
    structures = {"4.0": bulk("Al", a=4.0), "4.1": bulk("Al", a=4.1)}
    path = tmp_path / "Al.json"
    first = points.complete(path, "PBE", {"mesh": [2, 2, 2]}, {"4.0": structures["4.0"]}, calculate)
    second = points.complete(path, "PBE", {"mesh": [2, 2, 2]}, structures, calculate)
    assert second["4.0"] == first["4.0"]
    assert len(calls) == 2
    points.complete(path, "PBE", {"mesh": [3, 3, 3]}, structures, calculate)
    assert len(calls) == 4


def test_points_of_another_pseudopotential_are_calculated_again(experiment, tmp_path, monkeypatch):
    points, (calculate, calls) = experiment("points"), counted_calculations()
    calc, structures = NNXCCalculator(pseudos="gth-pbe"), {"Al": bulk("Al"), "Si": bulk("Si")}

    def complete():
        settings = points.settings_of(calc, structures)
        points.complete(tmp_path / "PBE.json", "PBE", settings, structures, calculate)
        return settings["tables"]

    assert complete() == complete() == calc.pseudopotential_digests(structures["Al"] + structures["Si"])
    assert len(calls) == 2
    monkeypatch.setattr(NNXCCalculator, "pseudopotential_digests", lambda *_: {"Al": "another", "Si": "one"})
    complete()
    assert len(calls) == 4


def test_graphene_has_a_minimum_and_stays_flat(experiment, tmp_path, monkeypatch):
    graphene = experiment("graphene.__main__")
    monkeypatch.setattr(graphene, "CONSTANTS", np.array([2.56, 2.50, 2.44, 2.40]))
    monkeypatch.setattr(graphene, "HEIGHTS", (0.0, 0.05, 0.10))
    summary = graphene.run("PBE", tmp_path / "graphene.json", ecut=400, kpts=(3, 3, 1))
    assert summary["a0_A"] == pytest.approx(2.49, abs=0.02)
    assert summary["rise_meV"] > 0
    assert summary["force_eV_per_A"] < 0
    assert summary["error_of_force_eV_per_A"] < 0.02
    graphene.draw(tmp_path / "graphene.json")
    assert (tmp_path / "graphene.png").exists()


def test_graphene_without_a_minimum_is_called_so(experiment, tmp_path):
    graphene = experiment("graphene.__main__")
    forces = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    points = {f"a {a}": {"free_energy": -a, "seconds": 1.0} for a in graphene.CONSTANTS}
    points |= {f"h {h}": {"free_energy": h**2, "forces": forces, "seconds": 1.0} for h in graphene.HEIGHTS}
    summary = graphene.summary(points)
    assert summary["a0_A"] is None
    graphene.write_results(tmp_path / "graphene.json", {"PBE": {"points": points} | summary})
    assert "| PBE | no minimum |" in graphene.table(tmp_path / "graphene.json")


def test_minimum_of_cubic_is_between_the_points(experiment):
    cubic, x = experiment("cubic"), np.linspace(-1, 1, 6)
    assert cubic.minimum_of_cubic(x, 3 * (x - 0.2) ** 2 + (x - 0.2) ** 3) == pytest.approx((0.2, 6.0))
    assert cubic.minimum_of_cubic(x, (x - 2) ** 2) is None
    assert cubic.minimum_of_cubic(x, x**3 + x) is None
    assert cubic.minimum_of_cubic(x, np.where(x > 0.5, np.nan, x**2)) is None


def test_scan_of_a_metal_is_smooth_and_has_one_minimum(experiment, tmp_path):
    scans = experiment("lattice_scans.__main__")
    metal = scans.Metal("Al", 3.70, 4.45, 3, "Al-q3")
    points = scans.run(metal, "PBE", tmp_path / "Al.json", ecut=250, smearing={"name": "gaussian", "width": 0.5})
    assert list(points) == list(metal.structures())
    fit = scans.fit(points)
    assert fit["a0_A"] == pytest.approx(4.05, abs=0.1)
    assert fit["minima"] == 1
    assert fit["scatter_meV"] < 1


@pytest.mark.slow
def test_crystals_of_pyscf_start_from_the_one_before(experiment):
    gaussians = experiment("lattice_scans.gaussians")
    settings = gaussians.settings(1, 0.1) | {"precision": 1e-3}
    calculate = gaussians.calculator(settings)
    calculate(bulk("He", "fcc", a=4.1))
    second, first = (f(bulk("He", "fcc", a=4.0)) for f in (calculate, gaussians.calculator(settings)))
    assert second["free_energy"] == pytest.approx(first["free_energy"], abs=1e-6)


def test_start_in_pyscf_has_the_moment_of_the_atoms(experiment):
    gaussians, atoms = experiment("lattice_scans.gaussians"), bulk("He", "fcc", a=4.0)
    atoms.set_initial_magnetic_moments([0.5])
    mean_field = gaussians.prepare(atoms, gaussians.settings(1, 0.1) | {"precision": 1e-3})
    start = gaussians.first_density(mean_field, 0.5)
    assert gaussians.moment_of(mean_field, start) == pytest.approx(0.5, abs=1e-6)
    assert gaussians.moment_of(mean_field, start * [[[[1]]], [[[-1]]]]) == pytest.approx(2.0, abs=1e-6)  # electrons


def test_kept_scans_have_one_minimum_and_are_within_0_3_percent_of_all_electrons(experiment):
    scans = experiment("lattice_scans.__main__")
    for metal in scans.METALS.values():
        complete = scans.complete_cases(metal)
        for case in {"PBE", "pbe-clone@1"} & complete.keys():
            fit = scans.fit(complete[case])
            assert fit["minima"] == 1
            assert fit["a0_A"] == pytest.approx(scans.ALL_ELECTRON[metal.reference][0], rel=0.003)


def test_model_is_trained_in_passes_kept_and_found_again(experiment, tmp_path):
    hybrid = experiment("hybrid_xc.__main__")
    crystals = {"Si": bulk("Si")}
    settings = {"ecut": 200, "kpts": (2, 2, 2), "epochs": (1, 1)}
    hybrid.run(["hybrid-six"], tmp_path, crystals, **settings)
    results = hybrid.read_results(tmp_path / "hybrid_xc.json")
    errors = {name: result["errors"]["Si"]["energies_meV"] for name, result in results.items()}
    assert errors["hybrid-six"] < 0.5 * errors["PBE"]
    assert (tmp_path / "models" / "hybrid-six@1").is_dir()
    before = (tmp_path / "hybrid_xc.json").read_text()
    hybrid.run(["hybrid-six"], tmp_path, crystals, **settings)
    assert (tmp_path / "hybrid_xc.json").read_text() == before
    del results["hybrid-six"]["errors"], results["hybrid-six"]["settings"]
    hybrid.write_results(tmp_path / "hybrid_xc.json", results)
    hybrid.run(["hybrid-six"], tmp_path, crystals, **settings)  # does not train
    again = hybrid.read_results(tmp_path / "hybrid_xc.json")["hybrid-six"]
    assert again["seconds"] == results["hybrid-six"]["seconds"]
    assert again["errors"]["Si"]["energies_meV"] == pytest.approx(errors["hybrid-six"], rel=1e-3)


def test_model_of_other_records_is_removed(experiment, tmp_path):
    models, (first, second) = (
        experiment("models"),
        (all_electron(atomization_energy(n, molecule(n), 1.0), "sto-3g") for n in ("H2", "N2")),
    )
    training = {"data_sha256": digest([first]), "validation_sha256": digest([second])}
    model = save_functional(PBE(), tmp_path, name="parent", description="PBE", training=training)
    models.remove_unless_trained_on(model, [first], [second])
    assert model.exists()
    models.remove_unless_trained_on(model, [first], [first])
    assert not model.exists()


def test_record_of_another_pseudopotential_is_calculated_again(experiment, tmp_path):
    hybrid = experiment("hybrid_xc.__main__")
    arguments = "Si", bulk("Si"), tmp_path, {"pseudos": "gth-pbe", "ecut": 100, "kpts": (1, 1, 1)}
    tables, path = hybrid.record(*arguments).provenance.tables, tmp_path / "records" / "Si.json"
    path.write_text(path.read_text().replace(tables["Si"], "another"))
    assert hybrid.record(*arguments).provenance.tables == tables
    assert "another" not in path.read_text()


@pytest.fixture
def cloning(experiment, monkeypatch, tmp_path):
    """The experiment of cloning with an atom, a molecule and aluminium, its networks, and its clones of few points."""
    cloning, clones = experiment("cloning.__main__"), experiment("cloning.clones")
    monkeypatch.setattr(clones, "MOLECULES", ("H",))
    monkeypatch.setattr(cloning, "MOLECULES", ("H2",))
    systems = ("H", "H2"), lambda xc: PySCFCalculator(xc, basis="sto-3g", grid_level=0)
    monkeypatch.setattr(cloning, "ENERGIES", {"all-electron": systems})
    monkeypatch.setattr(cloning, "SOLIDS", {"Al": cloning.SOLIDS["Al"]})
    networks = [clones.Network("PBE", "constrained", densities) for densities in ("all-electron", "random")]
    return cloning, networks, clones.Clones(tmp_path / "runs", points=20, steps=5)


def test_clone_is_nearer_to_its_parent_than_random_weights(cloning, tmp_path):
    cloning, networks, clones = cloning
    for part in (cloning.run_points, cloning.run_molecules):
        part(networks, clones, tmp_path)
    points = cloning.read_results(tmp_path / "points.json")
    clone, random = (points[network.name]["errors"]["all-electron"]["rms_dF"] for network in networks)
    assert clone < 0.1 * random
    results = cloning.read_results(tmp_path / "molecules.json")
    exact, clone, random = (
        cloning.atomization_energy("H2", cloning.energies(results, name, "all-electron"))
        for name in ("PBE", *(network.name for network in networks))
    )
    assert abs(clone - exact) < abs(random - exact)


def test_equation_of_state_of_a_network_is_completed_once(cloning, tmp_path):
    cloning, networks, clones = cloning
    settings = {"ecut": 200, "kpts": (2, 2, 2)}
    cloning.run_solids(networks[1:], clones, tmp_path, **settings)
    kept = (tmp_path / "solids.json").read_text()
    points = cloning.read_results(tmp_path / "solids.json")["PBE, Al"]["points"]
    a, bulk_modulus = cloning.minimum("Al", points)
    volumes = torch.tensor([(strain * 4.04) ** 3 / 4 for strain in cloning.STRAINS], dtype=torch.float64)
    values = [points[str(strain)]["free_energy"] for strain in cloning.STRAINS]
    fit = fit_birch_murnaghan(volumes, torch.tensor(values, dtype=torch.float64))
    assert a == pytest.approx(float(4 * fit.volume) ** (1 / 3), rel=1e-6)
    assert bulk_modulus == pytest.approx(float(fit.bulk_modulus), rel=1e-6)
    cloning.run_solids(networks[1:], clones, tmp_path, **settings)
    assert (tmp_path / "solids.json").read_text() == kept


def test_errors_of_another_network_of_the_same_name_are_calculated_again(cloning, tmp_path, monkeypatch):
    cloning, networks, clones = cloning
    monkeypatch.setattr(cloning, "points_of_molecules", lambda _: {"mesh": sample_mesh(100)})
    monkeypatch.setattr(cloning, "sample_crystals", lambda *_, **__: sample_mesh(100))
    name, seeds = networks[1].name, iter((0, 0, 1))
    monkeypatch.setattr(clones, "functional", lambda _: new_network(PBE(), "constrained", next(seeds)))
    first, kept, other = (_points_after_run(cloning, networks[1:], clones, tmp_path)[name] for _ in range(3))
    assert kept == first
    assert other["errors"]["mesh"]["rms_dF"] != first["errors"]["mesh"]["rms_dF"]


def _points_after_run(cloning, networks, clones, folder):
    cloning.run_points(networks, clones, folder)
    return cloning.read_results(folder / "points.json")


def test_tables_say_where_there_is_no_minimum_and_where_an_energy_is_unknown(cloning, tmp_path, monkeypatch):
    cloning, (clone, random), _ = cloning
    mlp, other = (cloning.Network("PBE", "mlp", densities) for densities in ("pseudo", "all-electron"))
    unconverged, valley = float("nan"), (4, 1, 1, 4)
    curves = {"PBE": valley, clone.name: (4, 1, 1, unconverged), random.name: (4, 3, 2, 1), mlp.name: valley}
    solids = {f"{name}, Al": _with_points(cloning.STRAINS, energies) for name, energies in curves.items()}
    solids[f"{other.name}, Al"] = _with_points(cloning.STRAINS, valley) | {"settings": {"tables": {"Al": "another"}}}
    cloning.write_results(tmp_path / "solids.json", solids)
    table = cloning.table_of_solids(tmp_path)
    assert other.name not in table
    assert f"| {clone.name} | no minimum |" in table
    assert f"| {random.name} | no minimum |" in table
    assert f"| {mlp.name} | +0.000, +0.00 |" in table
    monkeypatch.setitem(cloning.ENERGIES, "pseudo", cloning.ENERGIES["all-electron"])
    energies = {"PBE": (-13, -31), clone.name: (-13, unconverged)}
    cloning.write_results(
        tmp_path / "molecules.json",
        {f"{name}, {kind}": _with_points(("H", "H2"), e) for name, e in energies.items() for kind in cloning.DENSITIES},
    )
    assert f"| {clone.name} |{' unconverged |' * 4}" in cloning.table_of_molecules(tmp_path)


def _with_points(labels, energies):
    """Return a case of a file of results."""
    return {"settings": {}, "points": {str(label): {"free_energy": energy} for label, energy in zip(labels, energies)}}


def test_training_on_correlated_energies_lowers_the_error(experiment, tmp_path):
    correlated = experiment("cloning.correlated")
    systems = {
        "h2": {"xyz_A": [["H", 0.0, 0.0, 0.0], ["H", 0.0, 0.0, 0.74]], "charge": 0, "unpaired": 0},
        "h": {"xyz_A": [["H", 0.0, 0.0, 0.0]], "charge": 0, "unpaired": 1},
    }
    reactions = [{"systems": ["h2", "h"], "stoich": [-1, 2], "ref_kcal": 109.493}]
    path = tmp_path / "W4-11.json"
    path.write_text(json.dumps({"reactions": reactions, "systems": systems}))
    energies = correlated.Energies(path, ["h2"], PBE(), "sto-3g")
    mf = [solve_molecule(correlated.atoms_of(systems[name]), PBE(), "sto-3g", grid_level=1) for name in systems]
    exact = (2 * mf[1].e_tot - mf[0].e_tot) * units.Hartree / (units.kcal / units.mol)
    assert float(energies.errors(PBE())) == pytest.approx(exact - 109.493, abs=1e-3)
    curves = correlated.train(new_network(PBE(), "constrained", 0), energies, energies, rounds=1)
    assert curves["training"][1] < 0.1 * curves["training"][0]


def test_functional_of_molecules_is_trained_and_its_energies_are_kept(experiment, tmp_path, monkeypatch):
    molecules = experiment("molecules.__main__")
    monkeypatch.setattr(molecules, "H2_BASIS", "sto-3g")
    monkeypatch.setattr(molecules, "DISTANCES", (1.4, 3.0, 6.0))
    hydrogen = all_electron(atomization_energy("H2", molecule("H2"), 6.0), "sto-3g")
    helium = all_electron(ionization_potential("He+", Atoms("He"), 24.6, magmom=1), "sto-3g")
    deuterium = all_electron(atomization_energy("D2", molecule("H2"), 6.0), "sto-3g")
    sets, exact = ([hydrogen], [deuterium], [helium]), {1.4: -1.17, 3.0: -1.06, 6.0: -1.0}
    arguments = ["hybrid-lda-l2"], sets, exact, {"XCNN": {"He+": 1.0}}, tmp_path, ((20, 0.01), (5, 0.003))
    molecules.run(*arguments)
    results = molecules.read_results(tmp_path / "molecules.json")
    errors = {name: abs(results[name]["errors"]["H2"]) for name in ("LDA", "hybrid-lda-l2")}
    assert errors["hybrid-lda-l2"] < 0.5 * errors["LDA"]
    stretched = [results["LDA"]["H2"][f"H2 6.0 {start}"] for start in molecules.STARTS]
    assert stretched[0] > stretched[1] + 0.05
    before = (tmp_path / "molecules.json").read_text()
    shutil.rmtree(tmp_path / "runs")
    molecules.run(*arguments)  # does not train
    assert (tmp_path / "molecules.json").read_text() == before
    molecules.draw(exact, tmp_path)
    assert (tmp_path / "dissociation.png").exists()
    assert "| XCNN, reported | | | | | - | 1.0 | |" in molecules.table(tmp_path)


def test_sets_of_molecules_have_the_names_of_their_formulas(experiment, tmp_path):
    data = experiment("molecules.data")
    atom = {"moldesc": "H 0 0 0", "basis": "sto-3g", "spin": 1}
    pair = {"moldesc": "H 0 0 0; H 0 0 1.4", "basis": "sto-3g"}
    entries = [
        {"name": "Ionization energy of H", "type": "ie", "true_val": 0.5, "systems": [atom]},
        {"name": "Density profile of H", "type": "dens", "systems": [atom]},
        {
            "name": "Atomization energy of H2 (gas)",
            "type": "ae",
            "true_val": 0.2,
            "systems": [pair, atom | {"number": 2}],
        },
    ]
    assert [record.name for record in data.read_records(entries)] == ["H+", "H2"]
    rows = ["# source", "Atom/Molecule,Group,Ref (kcal/mol),PBE", "H2 (gas),AE 1,1.0,-4.5", "H,IP 18,1.0,0.5"]
    (tmp_path / "errors.csv").write_text("\n".join([*rows, "He,IP 18,1.0,9E+99"]))
    assert data.reported_errors(tmp_path / "errors.csv") == {"PBE": {"H2": -4.5, "H+": 0.5}}


@pytest.mark.slow  # PySCF's integrals of a crystal take seconds
def test_crystal_of_sys_desc_is_calculated_in_its_basis(experiment, tmp_path):
    basis_error = experiment("basis_error.__main__")
    path = tmp_path / "basis_error.json"
    points = basis_error.run(["paper"], path, constants=(4.05,))
    assert points["paper"]["4.05"]["free_energy"] == pytest.approx(-6548.287, abs=0.01)
    before = path.read_text()
    basis_error.run(["paper"], path, constants=(4.05,))
    assert path.read_text() == before


@pytest.mark.parametrize("name", ["basis_error", "cloning", "graphene", "hybrid_xc", "lattice_scans", "molecules"])
@pytest.mark.parametrize("page", ["examples/papers/{}/README.md", "docs/results.md"])
def test_pages_have_the_tables_of_the_results(experiment, name, page):
    text = (REPOSITORY / page.format(name)).read_text(encoding="utf-8")
    assert experiment(f"{name}.__main__").table() in text


@pytest.mark.parametrize("name", ["hybrid_xc", "molecules"])
def test_kept_models_load(name):
    folders = list((REPOSITORY / "examples/papers" / name / "models").iterdir())
    assert [load_functional(folder).card["name"] + "@1" for folder in folders] == [folder.name for folder in folders]
