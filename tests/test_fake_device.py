"""The SCF on a fake accelerator: it gives the CPU's numbers, uses no tensors of the CPU, and the host seldom waits."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from fake_device import CPU, DEVICE, fake_device, fault
from kohn_sham import basis_of, crystal_of, rattled_silicon_carbide, triplet
from torch import Tensor

from ase_nnxc.calculator.device import on_device
from ase_nnxc.ks import eigensolver
from ase_nnxc.ks.atom import pseudo_atom
from ase_nnxc.ks.basis import fft_box
from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.crystal import open_cell
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.system import System
from ase_nnxc.ks.total_energy import TotalEnergy
from ase_nnxc.registry import get_functional
from ase_nnxc.xc.functional import grid_fineness

SMEARING = Smearing("gaussian", 0.005)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def needs_a_fake_device() -> None:
    if (reason := fault()) is not None:
        pytest.skip(f"this PyTorch has no fake device: {reason}")


# -- the SCF -----------------------------------------------------------------------------------------------------------


def silicon(device: torch.device, xc: str = "PBE") -> System:
    """A crystal with symmetry and with forces: one bond is longer than the others."""
    atoms = bulk("Si")
    atoms.positions[1] += 0.05
    crystal = crystal_of(atoms).to(device)
    return System(crystal, basis_of(crystal, 4.0, (2, 2, 2)), on_device(get_functional(xc), device))


def silicon_of_network(device: torch.device) -> System:
    """The same with a functional that has parameters."""
    return silicon(device, "r2scan-clone")


def carbon(device: torch.device) -> System:
    """A magnetic crystal of a meta-GGA, with density and tau of the cores."""
    atoms = Atoms("C2", cell=[2.0, 2.0, 4.0], positions=[[0, 0, 0], [0.2, 0, 1.8]], pbc=True, magmoms=[1.0, 1.0])
    crystal, functional = crystal_of(atoms, "oncv").to(device), get_functional("r2SCAN")
    box = fft_box(crystal.lattice, 3.0, (2, 2, 2), grid_fineness(functional))
    return System(crystal, basis_of(crystal, 3.0, (3, 1, 1), gpts=box), functional)


def hydrogen(device: torch.device) -> System:
    """A molecule, whose orbitals are real."""
    crystal = crystal_of(Atoms("H2", cell=[1, 1, 1]))
    radii = torch.tensor([pseudo_atom(table).radius for table in crystal.potentials], dtype=torch.float64)
    places = torch.tensor([[0.0, 0.0, 0.0], [1.1, 0.9, 0.2]], dtype=torch.float64)
    lattice, positions = open_cell(torch.zeros_like(crystal.lattice), places, radii, (False, False, False))
    crystal = replace(crystal, lattice=lattice, positions=positions, pbc=(False, False, False)).to(device)
    return System(crystal, basis_of(crystal, 3.0, (1, 1, 1), symmetric=False), get_functional("PBE"))


def test_examples_are_what_they_are_for() -> None:
    crystal, magnet, molecule = silicon(CPU), carbon(CPU), hydrogen(CPU)
    assert len(crystal.basis.symmetry) > 1
    assert crystal.kpoints.nk > 2
    assert len(list(silicon_of_network(CPU).functional.parameters())) > 1
    assert TotalEnergy(magnet).nfields == 4
    assert all(table.core_tau is not None for table in magnet.crystal.potentials)
    assert not TotalEnergy(magnet).is_real
    assert TotalEnergy(molecule).is_real


@pytest.mark.parametrize("example", [silicon, silicon_of_network, carbon, hydrogen])
def test_numbers_are_those_of_the_cpu(example: Callable[[torch.device], System]) -> None:
    settings = SCFSettings(1e-12)
    expected = scf(example(CPU), SMEARING, settings=settings)
    with fake_device():
        state = scf(example(DEVICE), SMEARING, settings=settings)
        derivatives = state.derivatives()
        assert {tensor.device for tensor in (state.fields, *state.orbitals, *derivatives)} == {DEVICE}
        forces, stress = (tensor.cpu() for tensor in derivatives)
    expected_forces, expected_stress = expected.derivatives()
    assert state.free_energy == pytest.approx(expected.free_energy, rel=0, abs=1e-10)
    assert expected_forces.abs().max() > 1e-3
    torch.testing.assert_close(forces, expected_forces, rtol=0, atol=1e-6)
    torch.testing.assert_close(stress, expected_stress, rtol=0, atol=1e-6)


# -- waits -------------------------------------------------------------------------------------------------------------


def waits_of_a_cycle(atoms: Atoms, kpts: tuple[int, int, int]) -> Counter[str]:
    """The waits in the costliest steady cycle of an SCF, the third or later, with one batch for each spin channel."""
    ends: list[int] = []
    with fake_device() as device:
        crystal = crystal_of(atoms).to(DEVICE)
        system = System(crystal, basis_of(crystal, 4.0, kpts), get_functional("PBE"))
        scf(system, SMEARING, settings=SCFSettings(1e-7), callback=lambda step: ends.append(len(device.waits)))
    cycles = [Counter(device.waits[start:end]) for start, end in itertools.pairwise(ends[2:])]
    return max(cycles, key=Counter.total)


@pytest.mark.parametrize(("atoms", "limit"), [(rattled_silicon_carbide(), 34), (triplet(), 43)])
def test_waits_of_a_cycle(monkeypatch: pytest.MonkeyPatch, atoms: Atoms, limit: int) -> None:
    monkeypatch.setattr(eigensolver, "MAX_EXPANSIONS", 1)  # each one costs 3 waits in each spin channel
    few, many = waits_of_a_cycle(atoms, (1, 1, 3)), waits_of_a_cycle(atoms, (2, 2, 3))
    assert few == many
    assert few.total() <= limit


# -- the fake device itself --------------------------------------------------------------------------------------------


def test_tensor_of_the_cpu_in_the_scf_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigensolver, "residual_weights", lambda t, ecut: torch.ones(t.shape, dtype=t.dtype, device=CPU))
    with fake_device(), pytest.raises(RuntimeError, match=r"of the device and of the CPU at ks.eigensolver.py:\d+"):
        scf(silicon(DEVICE), SMEARING)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + torch.ones(2),
        lambda x: x @ torch.tensor([1.0, 2.0]),
        lambda x: torch.stack((x[0], torch.tensor(1.0))),
        lambda x: torch.tensor(1.0).add_(x[0]),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: torch.randn(2, generator=torch.Generator(), device=DEVICE),
        lambda x: torch.randn(2, generator=torch.Generator(DEVICE)),
        lambda x: x.numpy(),
    ],
)
def test_errors(operation: Callable[[Tensor], Any]) -> None:
    with fake_device(), pytest.raises(RuntimeError):
        operation(torch.ones(2, device=DEVICE))


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        (lambda x: (x + torch.tensor(2.0)).square().sum().sqrt(), 0),
        (lambda x: torch.linalg.cholesky_ex(x)[0].argsort().gather(1, torch.zeros(2, 2, dtype=int, device=DEVICE)), 0),
        (lambda x: torch.where(x > 0, x, 0).masked_fill_(x > 0, 1), 0),
        (lambda x: float(x[0, 0]), 1),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu().to(DEVICE), 2),
        (lambda x: torch.tensor([1.0], device=DEVICE), 1),
        (lambda x: x.new_tensor([1.0]), 1),
        (lambda x: x.copy_(torch.ones(2, 2)), 1),
        (lambda x: x[[0, 1]], 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x.masked_select(x > 0), 1),
        (lambda x: x.repeat_interleave(torch.ones(2, dtype=int, device=DEVICE), dim=0), 1),
        (torch.unique, 1),
        (lambda x: torch.equal(x, x), 1),
        (lambda x: torch.allclose(x, x), 1),
        (torch.linalg.eigh, 1),
        (torch.linalg.inv, 1),
        (torch.linalg.cholesky, 1),
        (torch.linalg.svdvals, 1),
    ],
)
def test_what_the_host_waits_for(operation: Callable[[Tensor], Any], count: int) -> None:
    with fake_device() as device:
        x = torch.eye(2, device=DEVICE)
        assert not device.waits
        operation(x)
        assert len(device.waits) == count


def test_nothing_is_left_behind() -> None:
    generator = torch.Generator
    with fake_device():
        assert torch.Generator is not generator
        torch.eye(2, device=DEVICE)
    assert torch.Generator is generator
    torch.testing.assert_close(torch.tensor([1.0]), torch.ones(1))
    with pytest.raises(RuntimeError):
        torch.eye(2, device=DEVICE)
