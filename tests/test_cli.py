"""The nnxc command: names, options, output, exit codes, mostly with ASE's EMT instead of the calculator."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError, SCFError
from ase.calculators.emt import EMT
from ase.io import read, write

import ase_nnxc
from ase_nnxc import cli
from ase_nnxc.checkpoints import load_functional, save_functional
from ase_nnxc.cli import calculations, structures
from ase_nnxc.cli.common import UsageError
from ase_nnxc.ks.convergence import ConvergenceError
from ase_nnxc.xc import PBE

RADII_MGO = 2 * (1.41 + 0.66)  # twice the sum of the covalent radii (Angstrom)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Run in an empty folder with EMT; return the options that the calculator was given."""
    seen = {}

    def make(**options):
        seen.clear()
        seen.update(options)
        return EMT()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calculations, "make_calculator", make)
    return seen


def raising(error):
    class Broken(EMT):
        def calculate(self, *args, **kwargs):
            raise error

    return lambda **_: Broken()


# ---- structures


def test_names_become_reference_crystals():
    atoms, name = structures.read_structure("Al")
    assert (len(atoms), name) == (1, "Al")
    assert atoms.get_volume() == pytest.approx(4.05**3 / 4)
    atoms, name = structures.read_structure("MgO", "rocksalt", 4.21)
    assert atoms.get_volume() == pytest.approx(4.21**3 / 4)
    assert name == "MgO-rocksalt"


@pytest.mark.parametrize(
    ("formula", "prototype", "a", "atol"),
    [
        ("MgO", "rocksalt", 4.21, 0.15),
        ("CaF2", "fluorite", 5.46, 0.15),
        ("GaAs", "zincblende", 5.65, 0.15),
        ("MgO", "cesiumchloride", 2.66, 0.3),
        ("Fe", "fcc", 3.62, 0.1),
        ("C", "diamond", 3.567, 0.1),
        ("Ti", "hcp", 2.95, 0.1),
        ("Hg", "fcc", 4.51, 0.1),  # the volume of rhombohedral Hg; radii give 3.73
        ("In", "fcc", 4.70, 0.1),
    ],
)
def test_estimated_lattice_constants_are_near(formula, prototype, a, atol):
    atoms, _ = structures.read_structure(formula, prototype)
    expected, _ = structures.read_structure(formula, prototype, a)
    ratio = (atoms.get_volume() / expected.get_volume()) ** (1 / 3)
    assert a * ratio == pytest.approx(a, abs=atol)


def test_estimated_lattice_constant_is_reported(capsys):
    structures.read_structure("MgO", "rocksalt")
    assert f"a = {RADII_MGO:.3f} A" in capsys.readouterr().err


@pytest.mark.parametrize("element", ["Ga", "Mn", "Se", "N"])
def test_close_packed_crystal_of_an_element_without_known_volume_asks_for_a(element):
    with pytest.raises(UsageError, match=f"no crystal of {element} whose volume gives an estimate of a: give --a"):
        structures.read_structure(element, "fcc")
    assert structures.read_structure(element, "fcc", 4.2)[0].get_volume() == pytest.approx(4.2**3 / 4)


def test_files_win_over_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("Al", bulk("Cu"), format="extxyz")
    assert structures.read_structure("Al")[0].get_chemical_formula() == "Cu"


@pytest.mark.parametrize(
    ("text", "moments"), [("0.6", [0.6, 0.6]), ("2,-2", [2.0, -2.0]), ("Ni=1.5", [1.5, 0.0]), ("O=0,Ni=1", [1.0, 0.0])]
)
def test_magmoms_for_all_by_atom_and_by_element(text, moments):
    assert structures.parse_magmoms(text, ["Ni", "O"]) == moments


# ---- options


def test_options_reach_the_calculator(given):
    command = "energy Cu --xc PBEsol --ecut 500 --kpts 8,8,8 --smearing gaussian:0.1 --pseudos Cu=gth-pbe-q11"
    command += " --nbands 12 --gpts 24x24x24 --no-symmetry --device cpu --smooth-cutoff --txt my.log"
    assert cli.main(command.split()) == 0
    assert given == {
        "xc": "PBEsol",
        "ecut": 500.0,
        "kpts": {"size": (8, 8, 8), "gamma": True},
        "smearing": {"name": "gaussian", "width": 0.1},
        "pseudos": {"Cu": "gth-pbe-q11"},
        "nbands": 12,
        "gpts": (24, 24, 24),
        "symmetry": False,
        "device": "cpu",
        "smooth_cutoff": True,
        "txt": "my.log",
    }


@pytest.mark.parametrize(
    ("command", "smooth"),
    [
        ("energy Cu", False),
        ("eos Cu", True),
        ("eos Cu --no-smooth-cutoff", False),
        ("relax Cu", False),
        ("relax Cu --cell", True),
    ],
)
def test_smooth_cutoff_is_on_where_the_cell_changes(given, command, smooth):
    assert cli.main([*command.split(), "--kpts", "4.0"]) == 0
    assert given["smooth_cutoff"] is smooth
    assert given["kpts"] == {"density": 4.0, "gamma": True}
    assert "xc" not in given  # the calculator's own default


# ---- commands


def test_eos_prints_a_table_and_writes_a_folder(given, tmp_path, capsys):
    assert cli.main(["eos", "Cu"]) == 0
    out = capsys.readouterr().out
    assert "lattice constant  3.58" in out
    assert "smooth cutoff     on" in out
    folder = tmp_path / "nnxc-eos-Cu"
    assert {"eos.json", "eos.png", "eos.traj", "points.jsonl"} <= {p.name for p in folder.iterdir()}


def test_eos_json_is_the_only_thing_on_stdout(given, capsys):
    assert cli.main(["eos", "Cu", "--json", "--output", "here", "--order", "down"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["a0_A"] == pytest.approx(3.59, abs=0.01)
    assert json.loads(Path("here/eos.json").read_text()) == data


def test_energy_gives_units_in_its_keys(given, capsys):
    assert cli.main(["energy", "Cu", "--json", "--magmom", "0"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["free_energy_eV"] == pytest.approx(bulk_energy("Cu"))
    assert len(data["stress_GPa"]) == 6
    assert read("nnxc-energy-Cu/final.extxyz").get_potential_energy() == pytest.approx(data["energy_eV"])


def bulk_energy(name):
    atoms = bulk(name)
    atoms.calc = EMT()
    return atoms.get_potential_energy()


def test_relax_of_positions_keeps_the_cell(given, capsys):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    write("start.extxyz", atoms)
    assert cli.main(["relax", "start.extxyz", "--fmax", "0.005"]) == 0
    final = read("nnxc-relax-start/final.extxyz")
    assert np.abs(final.get_forces()).max() < 0.005
    assert final.cell[:] == pytest.approx(atoms.cell[:])
    assert "positions relaxed in" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["energy", "relax"])
def test_output_for_a_molecule_has_no_cell(given, capsys, command):
    write("n2.xyz", molecule("N2"))
    assert cli.main([command, "n2.xyz"]) == 0
    out = capsys.readouterr().out
    assert "largest force" in out
    assert "cell" not in out


def test_relax_of_the_cell_meets_the_scan(given, capsys):
    assert cli.main(["eos", "Cu", "--json"]) == 0
    scan = json.loads(capsys.readouterr().out)
    write("start.cif", bulk("Cu", a=3.66))
    assert cli.main(["relax", "start.cif", "--cell", "--json", "--fmax", "0.001"]) == 0
    relaxed = json.loads(capsys.readouterr().out)
    assert relaxed["converged"]
    assert relaxed["cell_lengths_A"][0] * np.sqrt(2) == pytest.approx(scan["a0_A"], abs=5e-4)
    assert read("nnxc-relax-start/final.cif").get_volume() == pytest.approx(scan["V0_A3"], rel=1e-3)


# ---- failures: one line and an exit code


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("eos Alu", "did you mean 'Al'?"),
        ("eos", "required"),
        ("eso Cu", "invalid choice"),
        ("eos Cu --kpts 8,8", "three positive integers"),
        ("eos Cu --kpts -3", "positive"),
        ("eos Cu --gpts 0,8,8", "three positive integers"),
        ("eos Cu --smearing gaussian", "expected NAME:WIDTH"),
        ("eos Cu --smearing gaussian:wide", "expected NAME:WIDTH"),
        ("eos Cu --ecut many", "invalid float"),
        ("relax Cu --fmax little", "expected a positive number, got 'little'"),
        ("eos Cu --pseudos Cu=", "expected a form such as"),
        ("eos Cu --magmom 1,2", "expected one value or one per atom (1), got 2"),
        ("eos Cu --magmom up", "expected numbers or a form such as"),
        ("eos Cu --magmom Fe=2", "contains no Fe"),
        ("eos Cu --points 6", "odd"),
        ("eos Cu --json --txt -", "standard output"),
        ("eos MgO", "give --structure"),
        ("eos MgO --structure rocksal", "did you mean 'rocksalt'?"),
        ("eos MgO --structure fluorite", "cannot build MgO as fluorite"),
        ("eos H", "no simple crystal of H"),
        ("eos missing.cif", "missing.cif: no such file"),
        ("eos text.cif", "ASE cannot read a structure from text.cif"),
        ("eos text", "ASE cannot read a structure from text"),
        ("eos Cu --output text", "text: File exists"),
        ("energy Cu --output text/below", "Not a directory"),
        ("eos slab.xyz", "periodic in three directions"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(given, capsys, command, message):
    for name in ("text", "text.cif"):
        Path(name).write_text("this is not a structure\n")
    write("slab.xyz", bulk("Cu", cubic=True), format="extxyz", plain=True)
    assert cli.main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nnxc: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("command", ["energy", "relax", "eos"])
@pytest.mark.parametrize(
    ("error", "code"), [(SCFError("not converged\nin 100 steps"), 1), (InputError("ecut is in eV"), 2)]
)
def test_calculator_errors_set_the_exit_code(given, monkeypatch, capsys, command, error, code):
    monkeypatch.setattr(calculations, "make_calculator", raising(error))
    assert cli.main([command, "Cu"]) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert " ".join(str(error).split()) in err


def test_unrelaxed_structure_is_written_and_exits_with_1(given, capsys):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    write("start.extxyz", atoms)
    assert cli.main(["relax", "start.extxyz", "--steps", "1"]) == 1
    assert "have not converged to 0.01 eV/A in 1 steps" in capsys.readouterr().err
    assert json.loads(Path("nnxc-relax-start/relax.json").read_text())["converged"] is False


def test_interrupted_scan_exits_with_130_and_keeps_its_points(given, monkeypatch, capsys):
    class Interrupted(EMT):
        count = 0

        def calculate(self, *args, **kwargs):
            self.count += 1
            if self.count == 3:
                raise KeyboardInterrupt
            super().calculate(*args, **kwargs)

    monkeypatch.setattr(calculations, "make_calculator", lambda **_: Interrupted())
    assert cli.main(["eos", "Cu"]) == 130
    assert "finished points are kept in nnxc-eos-Cu" in capsys.readouterr().err
    assert len(Path("nnxc-eos-Cu/points.jsonl").read_text().splitlines()) == 2


def test_another_scan_in_the_folder_needs_force(given, capsys):
    assert cli.main(["eos", "Cu", "-o", "run"]) == 0
    assert cli.main(["eos", "Ag", "-o", "run"]) == 2
    assert "another scan" in capsys.readouterr().err
    assert cli.main(["eos", "Ag", "-o", "run", "--force"]) == 0


def test_warnings_are_one_line(given, monkeypatch, capsys):
    class FirstFails(EMT):
        failed = False

        def calculate(self, *args, **kwargs):
            if not self.failed:
                self.failed = True
                raise SCFError("not converged")
            super().calculate(*args, **kwargs)

    monkeypatch.setattr(calculations, "make_calculator", lambda **_: FirstFails())
    assert cli.main(["eos", "Cu"]) == 0
    err = capsys.readouterr().err
    assert err == "nnxc: warning: 1 of the points failed and were left out: SCFError: not converged\n"


# ---- the calculator itself

TINY = ["--ecut", "140", "--kpts", "2,2,2", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to run in, with a rattled crystal."""
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Si", a=5.5)
    atoms.rattle(0.05, seed=1)
    write("si.extxyz", atoms)
    return tmp_path


def test_energy_of_the_calculator(folder, capsys):
    assert cli.main(["energy", "si.extxyz", "--json", *TINY]) == 0
    data = json.loads(capsys.readouterr().out)
    atoms = read("nnxc-energy-si/final.extxyz")
    assert atoms.get_forces() == pytest.approx(np.array(data["forces_eV_per_A"]), abs=1e-7)
    assert data["parameters"]["pseudos"] == {"Si": "oncv"}
    assert "converged in" in Path("nnxc-energy-si/log.txt").read_text()
    atoms.calc = calculations.make_calculator(**data["parameters"])
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(data["free_energy_eV"], abs=1e-6)


def test_relaxation_by_the_calculator(folder, capsys):
    assert cli.main(["relax", "si.extxyz", "--fmax", "0.03", *TINY]) == 0
    assert "positions relaxed in" in capsys.readouterr().out
    assert cli.main(["relax", "si.extxyz", "--cell", "--fmax", "0.03", "-o", "cell", "--json", *TINY]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data["parameters"]["smooth_cutoff"] is True
    assert abs(data["pressure_GPa"]) < 0.5
    assert err == ""


def test_scan_by_the_calculator_is_resumed(folder, monkeypatch, capsys):
    command = ["eos", "Al", "--a", "4.05", "--points", "5", "--ecut", "200", "--kpts", "3,3,3", "--json"]
    assert cli.main(command) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["a0_A"] == pytest.approx(4.05, abs=0.1)
    assert data["B0_GPa"] == pytest.approx(77, rel=0.3)
    assert data["parameters"]["smooth_cutoff"] is True
    monkeypatch.setattr("ase_nnxc.calculator.calculation.scf", None)
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["a0_A"] == data["a0_A"]


@pytest.mark.parametrize("command", ["energy", "relax", "eos"])
def test_unconverged_scf_is_one_line_and_exit_code_1(folder, monkeypatch, capsys, command):
    def fail(*args, **kwargs):
        raise ConvergenceError("no self-consistency after 100 steps", [])

    monkeypatch.setattr("ase_nnxc.calculator.calculation.scf", fail)
    assert cli.main([command, "si.extxyz", *TINY]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nnxc: error: ")
    assert "no self-consistency after 100 steps" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--ecut 20", "20 Ha is 544"),
        ("--xc PBF", "did you mean 'PBE'"),
        ("--smearing gauss:0.1", "did you mean 'gaussian'"),
        ("--pseudos Si=gth-pbe-q9", "valences of gth-pbe: q4"),
        ("--nbands 2", "8 electrons need 5"),
        ("--gpts 6,6,6", "cannot hold the density"),
        ("--device tpu", "unknown device"),
        ("--txt absent/log.txt", "absent/log.txt: No such file"),
        ("--magmom 5", "4 valence electrons"),
    ],
)
@pytest.mark.parametrize("command", ["energy", "relax", "eos"])
def test_bad_input_of_the_calculator_is_one_line_and_exit_code_2(folder, capsys, command, options, message):
    assert cli.main([command, "si.extxyz", *TINY, *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nnxc: error: ")
    assert message in err
    assert err.count("\n") == 1


# ---- models


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The user's folder of models, which holds one."""
    monkeypatch.setenv("NNXC_MODEL_PATH", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    root = tmp_path / "ase_nnxc" / "models"
    save_functional(PBE(mu=0.2), root, name="weaker", description="PBE of a smaller mu.", licence="MIT")
    return root


def test_models_are_listed(models, capsys):
    assert cli.main(["models", "list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "kind", "features", "parameters", "licence", "from", "description"]
    cells = re.split(r" {2,}", rows[-1])  # how wide the columns are depends on the models that are shipped
    assert cells == ["weaker@1", "xc", "density, gradient", "0", "MIT", "user", "PBE of a smaller mu."]


def test_models_are_listed_for_machines(models, capsys):
    (models / "weaker@1" / "card.json").write_text("{")
    assert cli.main(["models", "list", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)[-1]
    assert (record["name"], record["version"], record["origin"]) == ("weaker", 1, "user")
    assert record["folder"] == str(models / "weaker@1")
    assert "card.json is damaged" in record["error"]


def test_card_of_a_model_is_shown(models, capsys):
    assert cli.main(["models", "show", "weaker"]) == 0
    out = capsys.readouterr().out
    assert "description   PBE of a smaller mu.\n" in out
    assert '"mu": 0.2' in out
    assert cli.main(["models", "show", f"{models}/weaker@1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["config"]["mu"] == 0.2


def test_models_are_verified(models, capsys):
    assert cli.main(["models", "verify"]) == 0
    assert "weaker@1  ok" in capsys.readouterr().out
    (models / "weaker@1" / "functional.safetensors").write_bytes(b"")
    assert cli.main(["models", "verify"]) == 1
    assert "does not have the SHA-256" in capsys.readouterr().out
    assert cli.main(["models", "verify", "weaker", "stronger", "--json"]) == 1
    errors = {record["model"]: record["error"] for record in json.loads(capsys.readouterr().out)}
    assert "does not have the SHA-256" in errors["weaker"]
    assert "no model 'stronger'" in errors["stronger"]


def test_control_characters_of_a_card_do_not_reach_the_terminal(models, capsys):
    save_functional(PBE(), models, name="colourful", description="\x1b[31mred\x07", licence="\x9b2J")
    for command in (["list"], ["show", "colourful"]):
        assert cli.main(["models", *command]) == 0
        out = capsys.readouterr().out
        assert "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}" in out
        assert not {"\x1b", "\x07", "\x9b"} & set(out)


ARCHITECTURE = """
from ase_nnxc import register_architecture
from ase_nnxc.xc import PBE

@register_architecture("test-imported", 1)
class Imported(PBE):
    pass
"""


@pytest.fixture
def imported(models, tmp_path):
    """A model of an architecture that only the module test_imported, in the working folder, knows."""
    (tmp_path / "test_imported.py").write_text(ARCHITECTURE)
    code = "from test_imported import Imported; from ase_nnxc import save_functional\n"
    code += f"save_functional(Imported(), {str(models)!r}, name='imported', description='A test.')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), check=True)
    return "imported@1"


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(ase_nnxc.__file__).parents[1])}


def run_command(*words, cwd):
    script = "import sys; from ase_nnxc.cli import main; sys.path.pop(0); sys.exit(main())"
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)


def test_own_architecture_is_imported_when_asked_for(imported, tmp_path):
    run = run_command("models", "verify", imported, cwd=tmp_path)
    assert run.returncode == 1
    assert "'test-imported' version 1 is not registered" in run.stdout
    assert "nnxc ... --import MODULE" in run.stdout
    run = run_command("models", "verify", imported, "--import", "json", "--import", "test_imported", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "imported@1  ok\n")
    write(tmp_path / "si.extxyz", bulk("Si"))
    run = run_command("energy", "si.extxyz", *TINY, "--xc", imported, "--import", "test_imported", cwd=tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("command", ["models list", "energy Al", "eos Al", "relax Al"])
def test_module_that_cannot_be_imported_is_one_line_and_exit_code_2(models, capsys, command):
    assert cli.main([*command.split(), "--import", "absent_module"]) == 2
    assert capsys.readouterr().err == (
        "nnxc: error: --import absent_module: ModuleNotFoundError: No module named 'absent_module'\n"
    )


def test_closed_pipe_is_silent(models):
    script = "import sys; from ase_nnxc.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "models", "list"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()  # long before it writes
        assert run.stderr.read() == b""
    assert run.returncode == 141


def published(kind, paths, xc, activation):
    assert (kind, xc, activation) in (("nagai", None, None), ("hybridxc", "lda_x", "expm1"))
    if not all(path.is_file() for path in paths):
        raise ValueError("these are not weights")
    return PBE(mu=0.3), {"description": "Of others.", "licence": "BSD-3-Clause", "citation": "They."}


def test_published_weights_become_a_model(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ase_nnxc.interop.published_weights.import_weights", published)
    weights = tmp_path / "weights"
    weights.touch()
    command = ["models", "import", "nagai", str(weights), "--name", "theirs", "--version", "2"]
    assert cli.main(command) == 0
    assert f"theirs@2 is in {models / 'theirs@2'}" in capsys.readouterr().out
    assert load_functional("theirs").card["citation"] == "They."
    assert cli.main([*command, "--root", str(tmp_path / "else")]) == 0
    assert load_functional(tmp_path / "else" / "theirs@2").mu == 0.3


def test_what_a_file_of_deepchem_lacks_is_passed_on(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ase_nnxc.interop.published_weights.import_weights", published)
    weights = tmp_path / "weights"
    weights.touch()
    options = ["--xc", "lda_x", "--activation", "expm1", "--name", "theirs"]
    assert cli.main(["models", "import", "hybridxc", str(weights), *options]) == 0
    assert f"theirs@1 is in {models / 'theirs@1'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("models", "required"),
        ("models lsit", "invalid choice"),
        ("models show stronger", "no model 'stronger'; the models are"),
        ("models show ../x", "x: no such folder"),
        ("models import nagay FILE --name theirs", "invalid choice"),
        ("models import nagai FILE", "--name"),
        ("models import hybridxc FILE --activation relu --name theirs", "invalid choice"),
        ("models import nagai absent --name theirs", "these are not weights"),
        ("models import nagai FILE --name PBE", "already used by a functional of ase_nnxc, libxc or PySCF"),
        ("models import nagai FILE --name blyp", "already used by a functional of ase_nnxc, libxc or PySCF"),
        ("models import nagai FILE --name Theirs", "is not a name of a model"),
        ("models import nagai FILE --name weaker", "weaker@1 exists"),
        ("clone PBE --name PBE", "already used by a functional of ase_nnxc, libxc or PySCF"),
        ("clone PBE --name Theirs", "is not a name of a model"),
        ("clone PBE --name weaker", "weaker@1 exists"),
        ("clone PBE --name theirs --seeds 0", "argument --seeds: expected a positive integer, got '0'"),
    ],
)
def test_bad_input_about_models_is_one_line_and_exit_code_2(models, tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.setattr("ase_nnxc.interop.published_weights.import_weights", published)
    weights = tmp_path / "weights"
    weights.touch()
    assert cli.main([str(weights) if word == "FILE" else word for word in command.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nnxc: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_folder_of_models_is_pinned(models, capsys):
    assert cli.main(["models", "pin", str(models)]) == 0
    assert json.loads((models / "index.json").read_text()).keys() == {"weaker@1"}
    (models / "weaker@1" / "card.json").unlink()
    assert cli.main(["models", "pin", str(models)]) == 2
    assert "card.json is missing" in capsys.readouterr().err


def test_command_runs_as_a_module(tmp_path):
    command = [sys.executable, "-m", "ase_nnxc", "--version"]
    environment = {**os.environ, "PYTHONPATH": str(Path(ase_nnxc.__file__).parents[1])}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("nnxc 0.")


@pytest.mark.parametrize("command", [["--help"], ["eos", "--help"]], ids=" ".join)
def test_help_does_not_load_torch(command):
    code = f"import sys; from ase_nnxc import cli\ntry: cli.main({command})\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'scipy', 'matplotlib', 'ase.io'} & set(sys.modules), 'slow imports'"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "usage: nnxc" in run.stdout


def test_command_that_cannot_be_shared_refuses_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["clone", "PBE", "--name", "mine"]) == 2
    assert "clone runs in one process: start it without torchrun (energy, eos," in capsys.readouterr().err
