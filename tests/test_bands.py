"""Band structures in the potential of a ground state: against Quantum ESPRESSO, the mesh's own levels, ASE's way."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.calculator import InputError, PropertyNotImplementedError
from ase.io.jsonio import read_json
from ase.spectrum.band_structure import BandStructure, calculate_band_structure
from records import in_state_of

from ase_nnxc import NNXCCalculator, cli

CHEAP = {"ecut": 140, "kpts": {"size": (2, 2, 2), "gamma": True}, "convergence": {"energy": 1e-8}}


def attached(atoms: Atoms, **parameters) -> Atoms:
    atoms.calc = NNXCCalculator(**CHEAP | parameters)
    return atoms


def hydrogen() -> Atoms:
    """Stretched simple cubic: magnetic."""
    return attached(Atoms("H", cell=[3.5] * 3, pbc=True, magmoms=[1.0]))


@pytest.fixture(scope="module")
def silicon() -> Atoms:
    atoms = attached(bulk("Si"))
    atoms.get_potential_energy()
    return atoms


def test_bands_of_silicon_are_those_of_quantum_espresso(qe_records: dict[str, dict]) -> None:
    record = qe_records["si-bands"]
    levels, settings = np.array(record["qe"]["eigenvalues_eV"]), record["settings"]
    atoms = in_state_of("si-bands", record, "qe")
    atoms.get_potential_energy()
    fixed = atoms.calc.fixed_density(settings["points"], settings["nbands"])
    assert fixed.get_property("eigenvalues")[0] == pytest.approx(levels, abs=1e-4)


@pytest.mark.parametrize("make", [lambda: attached(bulk("Si")), hydrogen], ids=["paired", "polarised"])
def test_bands_on_the_mesh_are_the_levels_of_the_ground_state(make) -> None:
    atoms = make()
    atoms.get_potential_energy()
    calc = atoms.calc
    fixed = calc.fixed_density(calc.get_ibz_k_points())
    assert fixed.get_property("eigenvalues") == pytest.approx(calc.get_property("eigenvalues"), abs=1e-6)
    assert fixed.get_property("occupations") == pytest.approx(calc.get_property("occupations"), abs=1e-3)
    assert fixed.get_fermi_level() == calc.get_fermi_level()


def test_bands_of_a_magnet_have_two_channels() -> None:
    atoms = hydrogen()
    atoms.get_potential_energy()
    energies = atoms.calc.band_structure("GX").energies
    assert energies.shape[0] == 2
    assert (energies[0, :, 0] < energies[1, :, 0] - 0.1).all()  # spin up is the majority


def test_ase_calculates_the_same_band_structure(silicon: Atoms) -> None:
    path = silicon.cell.bandpath("LGX", npoints=7)
    ours, energy = silicon.calc.band_structure(path), silicon.get_potential_energy()
    theirs = calculate_band_structure(silicon, path)
    assert theirs.energies == pytest.approx(ours.energies, abs=1e-6)
    assert theirs.reference == ours.reference
    assert silicon.get_potential_energy() == pytest.approx(energy, abs=1e-6)


@pytest.mark.parametrize("path", ["LGX", {"path": "LGX", "npoints": 9}, [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0.5]]])
def test_path_is_taken_in_any_form_and_in_its_order(silicon: Atoms, path) -> None:
    bands = silicon.calc.band_structure(path, nbands=4)
    ends = silicon.calc.fixed_density([[0.5, 0.5, 0.5], [0.5, 0, 0.5]], nbands=4).get_property("eigenvalues")
    assert bands.energies[:, [0, -1]] == pytest.approx(ends, abs=1e-6)


def test_bands_of_graphene_touch_at_the_corner_of_its_plane() -> None:
    layer = attached(graphene(a=2.46), ecut=200, kpts=(3, 3, 1))
    layer.get_potential_energy()
    bands = layer.calc.band_structure({"path": "GK", "npoints": 3})
    assert (bands.path.kpts[:, 2] == 0).all()
    gap = bands.energies[0, :, 4] - bands.energies[0, :, 3]
    assert gap[-1] == pytest.approx(0, abs=1e-4)
    assert (gap[:-1] > 1).all()


@pytest.mark.parametrize(
    ("path", "nbands", "message"),
    [
        ("GQ", None, "'GQ' is not a path of this lattice: .*; its points are G, K, L, U, W, X"),
        ({"path": "GX", "points": 3}, None, "not a path of this lattice"),
        ([[0.0, 0.0]], None, "scaled coordinates"),
        (bulk("Si", cubic=True).cell.bandpath("GX", npoints=3), None, "path belongs to another cell"),
        ("GX", 2000, "^nbands=2000: expected at most"),
        ("GX", 0, "nbands=0: expected a positive integer"),
    ],
)
def test_bands_that_make_no_sense_are_refused(silicon: Atoms, path, nbands, message) -> None:
    with pytest.raises(InputError, match=message):
        silicon.calc.band_structure(path, nbands)


def test_bands_need_periods_and_a_calculation() -> None:
    atoms = attached(molecule("H2"), kpts=(1, 1, 1))
    with pytest.raises(InputError, match="nothing has been calculated yet"):
        atoms.calc.band_structure()
    atoms.get_potential_energy()
    with pytest.raises(InputError, match="a molecule has no bands"):
        atoms.calc.band_structure()


def test_fixed_density_has_no_energies_or_forces(silicon: Atoms) -> None:
    with pytest.raises(PropertyNotImplementedError, match="'forces' is not available at a fixed density"):
        silicon.calc.fixed_density("GX").get_property("forces")


def test_command_writes_a_band_structure_and_a_picture(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["bands", "Si", "--path", "GX", "--npoints", "4", "--ecut", "140", "--kpts", "2,2,2"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "bands along GX" in out
    assert "gap on the path" in out
    bands = read_json("nnxc-bands-Si/bands.json")
    assert isinstance(bands, BandStructure)
    assert bands.energies.shape[:2] == (1, 4)
    assert Path("nnxc-bands-Si/bands.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*command, "--json"]) == 0
    assert np.array(json.loads(capsys.readouterr().out)["energies"]["__ndarray__"][2]).size == bands.energies.size


def test_command_refuses_a_path_of_another_lattice(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bands", "Si", "--path", "GQ", "--ecut", "140", "--kpts", "2,2,2"]) == 2
    assert "not a path of this lattice" in capsys.readouterr().err
