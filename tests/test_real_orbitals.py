"""Real orbitals at k-points that are their own inverses, against complex ones."""

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from kohn_sham import basis_of, crystal_of, rattled_silicon_carbide, triplet
from torch import Tensor

from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.eigensolver import davidson
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.hamiltonian import Hamiltonian
from ase_nnxc.ks.initial_guess import atomic_fields
from ase_nnxc.ks.kpoints import Block
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.operators import Diagonal, Operator
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.system import System
from ase_nnxc.ks.terms import STANDARD_TERMS
from ase_nnxc.ks.terms.term import OrbitalTerm
from ase_nnxc.ks.total_energy import TotalEnergy
from ase_nnxc.registry import get_functional

XC = pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])


def carbide(xc: str = "PBE", kpts: tuple[int, int, int] = (2, 2, 1)) -> System:
    """Silicon carbide without symmetry: with 2x2x1 points all k are their own inverses."""
    crystal = crystal_of(rattled_silicon_carbide())
    return System(crystal, basis_of(crystal, 5.0, kpts), get_functional(xc))


def random(system: System, count: int = 5) -> list[Tensor]:
    """Orthonormal real orbitals of each block."""
    generator = torch.Generator().manual_seed(1)
    spheres = [block.sphere for block in system.kpoints.blocks]
    rows = (torch.randn(sphere.npw, count, dtype=torch.float64, generator=generator) for sphere in spheres)
    return [torch.linalg.qr(psi)[0].mT.contiguous() for psi in rows]


def water() -> Atoms:
    atoms = molecule("H2O", cell=[4.2, 4.4, 4.0])
    atoms.rattle(0.02, seed=1)
    return atoms


@pytest.fixture
def complex_orbitals(monkeypatch: pytest.MonkeyPatch):
    """Let every SCF have complex orbitals."""
    return lambda: monkeypatch.setattr(TotalEnergy, "is_real", False)


def test_opposite_waves() -> None:
    system = carbide()
    for sphere in system.basis.spheres:
        waves = sphere.miller + sphere.kpoint
        assert sphere.is_real
        assert torch.equal(waves[sphere.opposite], -waves)
    assert sum(sphere.is_real for sphere in basis_of(system.crystal, 5.0, (3, 1, 1)).spheres) == 1  # Gamma


def test_real_orbitals_are_real_functions_and_stay_orthonormal() -> None:
    energy = TotalEnergy(carbide())
    real = random(energy.system)
    for x, c, block in zip(real, energy.to_plane_waves(real), energy.system.kpoints.blocks):
        torch.testing.assert_close(c[:, block.sphere.opposite], c.conj())
        torch.testing.assert_close(c.conj() @ c.mT, torch.eye(len(c), dtype=c.dtype))
        torch.testing.assert_close(c.real - c.imag, x)


def test_orbitals_of_any_phase_become_real_ones_of_the_same_space() -> None:
    energy = TotalEnergy(carbide())
    waves = energy.to_plane_waves(random(energy.system))
    generator = torch.Generator().manual_seed(2)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.complex128, generator=generator))
    back = energy.to_plane_waves(energy.to_real([rotation @ c for c in waves]))
    for c, d in zip(waves, back):
        torch.testing.assert_close((c.conj() @ d.mT).abs().square().sum(), torch.tensor(5.0, dtype=torch.float64))


@XC
@pytest.mark.parametrize("count", [1, 5, 6])
def test_h_of_real_orbitals_in_a_batch(xc: str, count: int) -> None:
    energy = TotalEnergy(carbide(xc))
    blocks = energy.system.kpoints.blocks
    (potential,) = energy.potential(atomic_fields(energy.system.crystal, energy.system.basis, energy.nfields)).values
    real = random(energy.system, count)
    batch = energy.hamiltonian_of_batch(blocks, potential, torch.float64)
    padded = torch.stack([torch.nn.functional.pad(x, (0, batch.npw - x.shape[1])) for x in real])
    assert len({x.shape[1] for x in real}) > 1
    applied = batch.apply(padded)
    expected = [
        energy.hamiltonian(block, potential, torch.complex128).apply(c)
        for block, c in zip(blocks, energy.to_plane_waves(real))
    ]
    for y, c in zip(applied, expected):
        torch.testing.assert_close(y[:, : c.shape[1]], c.real - c.imag, rtol=0, atol=1e-12)
        assert not y[:, c.shape[1] :].any()


@XC
def test_fields_of_real_orbitals(xc: str) -> None:
    energy = TotalEnergy(carbide(xc))
    real = random(energy.system)
    generator = torch.Generator().manual_seed(3)
    electrons = torch.rand(1, energy.system.kpoints.nk, 5, dtype=torch.float64, generator=generator) - 0.1
    expected = energy.fields_of(energy.to_plane_waves(real), electrons)
    torch.testing.assert_close(energy.fields_of(real, electrons), expected, rtol=0, atol=1e-13)


def solve(atoms: Atoms, xc: str, kpts: tuple[int, int, int], start: GroundState | None = None) -> GroundState:
    crystal = crystal_of(atoms)
    system = System(crystal, basis_of(crystal, 6.0, kpts), get_functional(xc))
    return scf(system, Smearing("gaussian", 0.005), settings=SCFSettings(energy=1e-17), start=start)


@pytest.mark.parametrize(
    ("atoms", "xc", "kpts"),
    [
        (water(), "PBE", (1, 1, 1)),
        (triplet(), "r2SCAN", (1, 1, 1)),
        (bulk("Si", cubic=True), "PBE", (1, 1, 1)),
        (rattled_silicon_carbide(), "r2SCAN", (1, 1, 1)),
        (bulk("Al"), "PBE", (2, 2, 2)),
    ],
    ids=["H2O", "H2-r2SCAN", "Si8", "SiC-r2SCAN", "Al"],
)
def test_ground_state_is_that_of_complex_orbitals(atoms, xc, kpts, complex_orbitals) -> None:
    state = solve(atoms, xc, kpts)
    assert state.total_energy().is_real
    assert all(psi.dtype == torch.complex128 for psi in state.orbitals)
    complex_orbitals()
    expected = solve(atoms, xc, kpts)
    assert state.free_energy == pytest.approx(expected.free_energy, abs=1e-11)
    for mine, other in zip(state.derivatives(), expected.derivatives()):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-8)


def test_warm_start_from_complex_orbitals(complex_orbitals, monkeypatch) -> None:
    atoms = rattled_silicon_carbide()
    with monkeypatch.context() as patch:
        patch.setattr(TotalEnergy, "is_real", False)
        start = solve(atoms, "PBE", (1, 1, 1))
    state = solve(atoms, "PBE", (1, 1, 1), start)
    assert state.history[0].error < 1e-12
    assert state.free_energy == pytest.approx(start.free_energy, abs=1e-11)


class Drift(OrbitalTerm):
    """A small energy k+G along x, different for opposite waves."""

    name = "drift"

    def operator(self, block: Block) -> Operator:
        return Diagonal(0.01 * block.sphere.wavevectors(self.system.crystal.reciprocal)[:, 0])

    def energy(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        return electrons @ (psi.abs().square() @ self.operator(block).values)


class Opaque(Drift):
    """The same as an operator that does not say whether it is real."""

    def operator(self, block: Block) -> Operator:
        class Unknown(Diagonal):
            is_real = Operator.is_real

        return Unknown(super().operator(block).values)


@pytest.mark.parametrize("term", [Drift, Opaque])
def test_orbitals_are_complex_if_an_operator_is_not_real(term: type[OrbitalTerm]) -> None:
    system = replace(carbide(kpts=(1, 1, 1)), terms=(*STANDARD_TERMS, term))
    assert not TotalEnergy(system).is_real
    state = scf(system, Smearing("gaussian", 0.005), settings=SCFSettings(energy=1e-12))
    assert state.history[-1].free_energy == pytest.approx(state.free_energy, abs=1e-9)


def test_orbitals_are_complex_if_a_k_point_is_not_its_own_inverse() -> None:
    assert not TotalEnergy(carbide(kpts=(3, 1, 1))).is_real


def test_dependent_real_orbitals_are_replaced() -> None:
    energy = TotalEnergy(carbide(kpts=(1, 1, 1)))
    (potential,) = energy.potential(atomic_fields(energy.system.crystal, energy.system.basis, 1)).values
    hamiltonian = Hamiltonian.stack([energy.hamiltonian(energy.system.kpoints.blocks[0], potential, torch.float64)])
    psi = random(energy.system)[0][None]
    psi[0, 3] = psi[0, 1]
    vectors = davidson(hamiltonian, psi, 1e-2, 4).vectors[0]
    torch.testing.assert_close(vectors @ vectors.mT, torch.eye(5, dtype=torch.float64))
