"""Pseudopotential files that are written for other programs, and the command that makes them."""

import json

import numpy as np
import pytest
import torch
from ase.calculators.calculator import InputError

from ase_nnxc.cli import main
from ase_nnxc.pseudopotentials import find_table, generate, read_pseudo
from ase_nnxc.pseudopotentials.writing import write_pseudo
from ase_nnxc.xc import PBE

Q2 = torch.linspace(0, 100, 50, dtype=torch.float64)  # bohr^-2


def operator(channel) -> torch.Tensor:
    """The separable part between plane waves of one direction."""
    p = torch.stack([channel.projector(i, Q2) for i in range(len(channel.h))])
    return p.mT @ torch.tensor(channel.h, dtype=torch.float64) @ p


@pytest.mark.parametrize("suffix", ["upf", "psp8"])
@pytest.mark.parametrize("name", ["gth-pbe", "gth-nlcc-pbe", "oncv"])
def test_file_holds_the_pseudopotential(name, suffix, tmp_path):
    written = generate("Si", PBE()) if name == "oncv" else find_table("Si", name)
    path = tmp_path / f"Si.{suffix}"
    write_pseudo(written, path, "PBE")
    read = read_pseudo(path, radial_cutoff=10.0)
    assert (read.symbol, read.valence, read.functional) == ("Si", 4, "pbe")
    r = np.array([0.5, 1.0, 3.0, 7.0])
    np.testing.assert_allclose(read.local_in_space(r), written.local_in_space(r), rtol=1e-8)
    assert [channel.l for channel in read.channels] == [channel.l for channel in written.channels]
    for ours, theirs in zip(written.channels, read.channels):
        expected = operator(ours)
        largest = float(expected.abs().max())  # generated projectors end between two points of the mesh
        torch.testing.assert_close(operator(theirs), expected, rtol=0, atol=2e-5 * largest)
    assert (read.core is None) == (written.core is None)
    if written.core is not None:
        torch.testing.assert_close(read.core(Q2), written.core(Q2), rtol=0, atol=1e-8)


def test_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a file with the suffix \.upf or \.psp8"):
        write_pseudo(find_table("Si", "gth-pbe"), tmp_path / "Si.psf")


def test_functional_without_a_number_is_refused_in_psp8(tmp_path):
    with pytest.raises(InputError, match="no number for the functional 'pbe-clone'; write a UPF file"):
        write_pseudo(find_table("Si", "gth-pbe"), tmp_path / "Si.psp8", "pbe-clone")


def test_command_writes_files_and_a_picture(tmp_path, capsys):
    assert main(["pseudo", "Al", "--xc", "PBEsol", "-o", str(tmp_path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [path.removeprefix(str(tmp_path)) for path in data["files"]] == [
        "/Al-PBEsol.upf",
        "/Al-PBEsol.psp8",
        "/Al-PBEsol.png",
    ]
    assert data["valence"] == 3
    assert data["largest_eigenvalue_error_eV"] < 1e-3
    assert read_pseudo(tmp_path / "Al-PBEsol.psp8").functional == "pbesol"


def test_command_writes_no_psp8_for_a_network(tmp_path, capsys):
    assert main(["pseudo", "H", "--xc", "pbe-clone", "-o", str(tmp_path)]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".upf", ".png"}
    assert "H: pseudopotential for pbe-clone" in capsys.readouterr().out
