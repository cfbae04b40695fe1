"""Generated pseudopotentials in use: found by name, kept in the process and in a folder, in calculations."""

import multiprocessing
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.basis import finest_grid
from ase_nnxc.ks.terms.xc import ExchangeCorrelation, core_field
from ase_nnxc.pseudopotentials import find_pseudos, generate, recommended_cutoff
from ase_nnxc.pseudopotentials.oncv import generate as generate_module
from ase_nnxc.pseudopotentials.oncv import generator, store
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import LDA, PBE, R2SCAN, SCAN, Functional, pbesol


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and nothing kept in the process."""
    monkeypatch.setenv("NNXC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(generate_module, "_tables", {})
    monkeypatch.setattr(store, "_warned", set())
    return tmp_path / "cache"


def forget():
    """Leave only what is in the folder."""
    generate_module._tables.clear()


def refuse_to_build(monkeypatch):
    def build(*args):
        pytest.fail("it is generated again")

    monkeypatch.setattr(generator, "build", build)


class Unregistered(Functional):
    """PBE of a class that no architecture is registered for."""

    features = ("density", "gradient")

    def __init__(self):
        super().__init__()
        self.pbe = PBE()

    def forward(self, features):
        return self.pbe(features)


# ---- what it is -----------------------------------------------------------------------------------------------------


def test_table_of_hydrogen():
    table = generate("H", PBE())
    assert (table.symbol, table.number, table.valence, table.configuration) == ("H", 1, 1, (1, 0, 0, 0))
    assert [(channel.l, len(channel.functions)) for channel in table.channels] == [(0, 2), (1, 1)]
    assert (table.name, table.core) == ("oncv", None)
    assert table.functional.startswith("PBE ")


def test_recommended_cutoff_follows_from_that_of_the_residual_energy():
    assert recommended_cutoff(generate("H", PBE())) == (pytest.approx(1.1 * 28.9 + 4.2, abs=0.2), "generated")


def test_density_holds_the_valence_electrons():
    table = generate("Al", PBE())
    assert table.density(torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(3, abs=1e-5)


def test_local_potential_is_that_of_the_ion_far_away():
    assert generate("Al", PBE()).local_in_space(np.array([4.9, 12.0])) * [4.9, 12.0] == pytest.approx(-3, abs=1e-4)


def test_transform_of_the_local_potential_is_that_of_its_values():
    table = generate("Al", PBE())
    r = np.linspace(1e-6, table.remainder.mesh.radii[-1], 20001)
    q = 3.0
    expected = 4 * np.pi * np.trapezoid(r**2 * table.remainder.in_space(r) * np.sinc(q * r / np.pi), r)
    actual = table.short(torch.tensor([q**2], dtype=torch.float64)).item()
    assert actual == pytest.approx(expected, rel=1e-6)


def test_model_core_carries_its_kinetic_energy_density():
    """Never below von Weizsaecker's: alpha of a meta-GGA is not negative."""
    table, r = generate("Al", PBE()), np.linspace(0.3, 2.5, 12)
    slope = (table.core.in_space(r + 1e-4) - table.core.in_space(r - 1e-4)) / 2e-4
    weizsaecker = slope**2 / (8 * table.core.in_space(r))
    np.testing.assert_allclose(table.core_tau.in_space(r), weizsaecker, rtol=2e-3, atol=1e-6)


def test_functionals_have_their_own_potentials():
    digests = {generate("H", functional).digest for functional in (PBE(), pbesol(), LDA(), PBE(kappa=0.81))}
    assert len(digests) == 4


def test_meta_gga_has_its_own_potential():
    assert generate("Al", R2SCAN()).digest != generate("Al", PBE()).digest


def test_scan_has_the_potential_of_r2scan():
    """Its own would need four times the cutoff."""
    assert generate("Al", SCAN()).digest == generate("Al", R2SCAN()).digest


def test_functional_with_other_features_is_an_error():
    class Laplacian(PBE):
        features = ("density", "gradient", "laplacian")

    with pytest.raises(InputError, match="depends on laplacian: choose pseudos='oncv-PBE'"):
        generate("H", Laplacian())


def test_alpha_is_not_negative_where_a_core_is_added():
    """With tau of the valence electrons alone it is, in the core of aluminium."""
    atoms = bulk("Al")
    atoms.calc = NNXCCalculator("r2SCAN", pseudos="oncv", kpts=(2, 2, 2))
    state = atoms.calc.ground_state(atoms)
    fields = state.total_energy().fields(fourier=state.fields)
    density, gradient, tau = ExchangeCorrelation(state.system).features(("density", "gradient", "tau"), fields)
    weizsaecker = gradient.square().sum(1) / (8 * density)
    assert float((tau - weizsaecker).min()) > -1e-4 * float(tau.max())


def test_calculator_keeps_its_pseudopotentials_until_it_is_told_to_generate_anew():
    functional = PBE(trainable=("kappa",))
    calc, atoms = NNXCCalculator(functional, pseudos="oncv"), bulk("Al")
    before = calc.pseudopotential_digests(atoms)
    with torch.no_grad():
        next(functional.parameters()).add_(0.05)
    assert calc.pseudopotential_digests(atoms + bulk("Si")) == before | calc.pseudopotential_digests(bulk("Si"))
    calc.regenerate()
    assert calc.pseudopotential_digests(atoms) == {"Al": generate("Al", functional).digest} != before


# ---- where it is kept -----------------------------------------------------------------------------------------------


def test_table_is_generated_once_in_a_process(monkeypatch):
    first = generate("H", PBE())
    refuse_to_build(monkeypatch)
    assert generate("H", PBE()) is first


def test_table_is_generated_once_for_a_folder(monkeypatch):
    first = generate("H", PBE())
    forget()
    refuse_to_build(monkeypatch)
    assert generate("H", PBE()) == first


def test_present_parameters_count():
    functional = PBE(trainable=("kappa",))
    first = generate("H", functional)
    with torch.no_grad():
        functional.kappa.add_(0.1)
    assert generate("H", functional) != first


def test_version_of_the_generator_counts(monkeypatch, folder):
    generate("H", PBE())
    monkeypatch.setattr(generate_module, "VERSION", 99)
    generate("H", PBE())
    assert len(list(folder.iterdir())) == 2


def test_class_that_is_not_registered_leaves_no_file(folder):
    generate("H", Unregistered())
    assert not folder.exists()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:1000], lambda data: data[:-200] + bytes(200)])
def test_spoilt_file_is_made_anew(folder, damage):
    first = generate("H", PBE())
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    forget()
    assert generate("H", PBE()) == first
    forget()
    assert generate("H", PBE()) == first


def test_file_with_other_numbers_is_made_anew(folder):
    first = generate("H", PBE())
    (path,) = folder.iterdir()
    with np.load(path) as file:
        numbers = dict(file)
    np.savez(path, **numbers | {"local": 2 * numbers["local"]})
    forget()
    assert generate("H", PBE()) == first


def test_pickle_in_the_folder_is_not_opened(folder):
    first = generate("H", PBE())
    (path,) = folder.iterdir()
    np.savez(path, digest=np.array([print], dtype=object))
    forget()
    assert generate("H", PBE()) == first


def test_folder_that_cannot_be_written_warns_once(folder):
    folder.write_text("a file in its place")
    with pytest.warns(UserWarning, match="not kept in a folder: .*Set NNXC_CACHE_DIR to a folder that can be written"):
        generate("H", PBE())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate("H", pbesol())


def test_full_disk_leaves_no_file(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        generate("H", PBE())
    assert list(folder.iterdir()) == []


def _generate_in_process(folder: str) -> str:
    os.environ["NNXC_CACHE_DIR"] = folder
    return generate("H", PBE()).digest


@pytest.mark.slow
def test_two_processes_at_once(folder):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(_generate_in_process, [str(folder)] * 2)
    assert len(set(digests)) == 1
    (path,) = folder.iterdir()
    assert stat.S_ISREG(path.stat().st_mode)


def test_default_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("NNXC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_folder() == tmp_path / "ase_nnxc"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.cache_folder() == Path("~/.cache/ase_nnxc").expanduser()


def test_home_that_is_unknown_warns(monkeypatch):
    monkeypatch.setenv("NNXC_CACHE_DIR", "~nobody-of-this-name/cache")
    with pytest.warns(UserWarning, match="not kept in a folder: Could not determine home"):
        generate("H", PBE())


def test_table_in_the_folder_is_found_without_scipy():
    generate("H", PBE())
    code = (
        "import sys; from ase_nnxc.pseudopotentials import generate; from ase_nnxc.xc import PBE;"
        "generate('H', PBE()); print('scipy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# ---- use ------------------------------------------------------------------------------------------------------------


def test_tables_are_found_by_name():
    functional = pbesol()
    tables = find_pseudos(["H", "O"], "pbe", {"H": "oncv", "O": "gth-pbe"}, functional=functional)
    assert tables["H"] == generate("H", functional)
    assert tables["O"].name == "gth-pbe-q6"


def test_named_functional_is_that_of_the_name():
    atoms = Atoms("H")
    atoms.calc = NNXCCalculator("PBEsol", pseudos="oncv-PBE")
    tables = find_pseudos(["H"], "pbe", "oncv-PBE", functional_named=get_functional)
    assert tables["H"].digest == generate("H", PBE()).digest != generate("H", pbesol()).digest
    assert atoms.calc.pseudopotential_digests(atoms) == {"H": tables["H"].digest}
    assert atoms.calc.resolve(atoms)["pseudos"] == {"H": "oncv-PBE"}
    with pytest.raises(InputError, match=r"PBEsool.*did you mean"):
        NNXCCalculator(pseudos="oncv-PBEsool").resolve(atoms)


def test_default_is_generated_for_the_functional():
    atoms = Atoms("H")
    assert NNXCCalculator("PBEsol").pseudopotential_digests(atoms) == {"H": generate("H", pbesol()).digest}


@pytest.mark.parametrize("name", ["oncv", "oncv-PBE"])
def test_name_without_a_functional_is_an_error(name):
    with pytest.raises(InputError, match="the functional to generate for is not given"):
        find_pseudos(["H"], "pbe", name)


def test_calculator_generates_for_its_functional():
    calc = NNXCCalculator("PBEsol", pseudos="oncv")
    chosen = calc.resolve(bulk("Al"))
    assert chosen["pseudos"] == {"Al": "oncv"}
    assert calc.pseudopotential_digests(bulk("Al")) == {"Al": generate("Al", pbesol()).digest}


def test_functional_that_is_trained_keeps_the_table_of_its_start():
    functional = PBE(trainable=("kappa",))
    calc = NNXCCalculator(functional, pseudos="oncv")
    before = calc.pseudopotential_digests(bulk("Al"))
    with torch.no_grad():
        functional.kappa.add_(0.05)
    assert calc.pseudopotential_digests(bulk("Al")) == before


def test_stress_is_the_derivative_of_the_energy():
    atoms = bulk("Al", a=3.9)
    atoms.calc = NNXCCalculator("PBE", pseudos="oncv", ecut=250, kpts=(1, 1, 1), gpts=(20, 20, 20), smooth_cutoff=True)
    cell, volume = atoms.cell.copy(), atoms.get_volume()
    pressure, energies = -atoms.get_stress()[:3].mean(), []
    for scale in (1.0005, 0.9995):
        atoms.set_cell(scale * cell, scale_atoms=True)
        energies.append(atoms.get_potential_energy(force_consistent=True))
    assert pressure == pytest.approx((energies[1] - energies[0]) / (0.003 * volume), rel=1e-4)


def test_forces_are_the_derivative_of_the_energy():
    atoms = bulk("Si", a=5.43)
    atoms.rattle(0.05, seed=1)
    atoms.calc = NNXCCalculator("PBE", pseudos="oncv", ecut=250, kpts=(1, 1, 1), convergence={"energy": 1e-8})
    force, energies = atoms.get_forces()[1, 0], []
    for step in (0.002, -0.004):
        atoms.positions[1, 0] += step
        energies.append(atoms.get_potential_energy(force_consistent=True))
    assert force == pytest.approx((energies[1] - energies[0]) / 0.004, abs=2e-4)


@pytest.mark.parametrize(("symbol", "tau_tolerance"), [("F", 0.01), ("Si", 1e-3)])
def test_core_on_the_grid_is_that_of_the_atom(symbol, tau_tolerance):
    """Also a steep one, whose Fourier coefficients reach beyond those of the valence, and a wide one on a fine grid."""
    plan = NNXCCalculator("r2SCAN", ecut=1185, kpts=(1, 1, 1))._plan(Atoms(symbol, cell=[4.5] * 3, pbc=True))
    system = plan.system(get_functional("r2SCAN"), torch.device("cpu"))
    (table,), lattice = system.crystal.potentials, system.crystal.lattice.numpy()
    points = np.stack(np.meshgrid(*(np.arange(n) / n for n in plan.box), indexing="ij"), axis=-1)
    radii = np.linalg.norm((points - points.round()) @ lattice, axis=-1).clip(1e-3)
    for name, function, tolerance in (("density", table.core, 1e-4), ("tau", table.core_tau, tau_tolerance)):
        field = core_field(name, system.crystal, finest_grid(system.crystal, system.basis)).numpy()
        expected = function.in_space(radii.ravel()).reshape(radii.shape)
        assert np.abs(field - expected).max() < tolerance * expected.max()
