"""Several k-points at once: H, the eigensolver, and the batches of `KPoints`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from kohn_sham import basis_of, crystal_of, rattled_silicon_carbide, repeated_davidson

from ase_nnxc.ks import kpoints
from ase_nnxc.ks.basis import padded
from ase_nnxc.ks.eigensolver import davidson, norms
from ase_nnxc.ks.hamiltonian import Hamiltonian
from ase_nnxc.ks.initial_guess import atomic_fields
from ase_nnxc.ks.kpoints import Block, KPoints
from ase_nnxc.ks.system import System
from ase_nnxc.ks.total_energy import TotalEnergy
from ase_nnxc.registry import get_functional

DTYPES = pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
CPU = torch.device("cpu")


def hamiltonians(xc: str, dtype: torch.dtype) -> list[Hamiltonian]:
    """H of silicon carbide at six k-points, with different numbers of plane waves."""
    crystal = crystal_of(rattled_silicon_carbide())
    system = System(crystal, basis_of(crystal, 6.0, (2, 2, 3)), get_functional(xc))
    energy = TotalEnergy(system)
    (potential,) = energy.potential(atomic_fields(crystal, system.basis, energy.nfields)).values
    found = [energy.hamiltonian(block, potential, dtype) for block in system.kpoints.blocks]
    assert len({h.npw for h in found}) > 1
    return found


def orbitals(hamiltonian: Hamiltonian, dtype: torch.dtype, count: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(hamiltonian.npw)
    psi = torch.randn(count, hamiltonian.npw, dtype=dtype, generator=generator)
    return psi / (1 + hamiltonian.kinetic)


@DTYPES
@pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])
def test_h_of_a_batch_is_that_of_each_k_point_and_padding_stays_zero(xc: str, dtype: torch.dtype) -> None:
    singles = hamiltonians(xc, dtype)
    batch = Hamiltonian.stack(singles)
    psi = [orbitals(h, dtype) for h in singles]
    applied = batch.apply(padded(psi, batch.npw))
    for h, single, row in zip(singles, psi, applied):
        torch.testing.assert_close(
            row[:, : h.npw], h.apply(single), rtol=0, atol=2e-6 if dtype == torch.complex64 else 1e-13
        )
        assert not row[:, h.npw :].any()


def test_threads_make_the_operators_of_their_batches_at_the_same_time() -> None:
    crystal = crystal_of(rattled_silicon_carbide())
    system = System(crystal, basis_of(crystal, 3.0, (3, 3, 2)), get_functional("PBE"))
    spheres, energy = system.kpoints, TotalEnergy(system)
    (nonlocal_potential,) = (term for term in energy.orbital_terms if term.name == "nonlocal")
    batches = [spheres.blocks[i : i + n] for n in (1, 2, 3) for i in range(len(spheres.blocks) - n + 1)] * 4

    def size(blocks: Sequence[Block]) -> tuple[int, ...]:
        return nonlocal_potential.operator_of_batch(blocks, spheres.stacked_sphere(blocks)).projectors.shape[:1]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(size, batches)) == [(len(blocks),) for blocks in batches]


@DTYPES
def test_eigenpairs_of_a_batch_are_those_of_each_k_point(dtype: torch.dtype) -> None:
    singles = hamiltonians("PBE", dtype)
    batch, tolerance = Hamiltonian.stack(singles), 3e-2 if dtype == torch.complex64 else 1e-3
    psi = [orbitals(h, dtype) for h in singles]
    psi[1] = davidson(Hamiltonian.stack([singles[1]]), psi[1][None], 1e-4, 5).vectors[0]  # has less to do
    pairs = davidson(batch, padded(psi, batch.npw), tolerance, 5)
    for k, (h, start) in enumerate(zip(singles, psi)):
        (alone,) = davidson(Hamiltonian.stack([h]), start[None], tolerance, 5).of_blocks([h.npw])
        mine = pairs.of_blocks(batch.numbers)[k]
        assert int(mine.applications) == int(alone.applications)
        exact = {"rtol": 0, "atol": 1e-5 if dtype == torch.complex64 else 1e-12}
        torch.testing.assert_close(mine.values, alone.values, **exact)
        torch.testing.assert_close(mine.residuals[:5], alone.residuals[:5], rtol=1e-3, atol=exact["atol"])
        overlaps = mine.vectors.conj() @ mine.vectors.mT
        torch.testing.assert_close(overlaps, torch.eye(7, dtype=dtype), **exact)
        assert not pairs.vectors[k, :, h.npw :].any()
    assert len(set(pairs.applications.tolist())) > 1


@pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])
def test_residuals_reach_their_tolerance_with_products_of_new_vectors_in_single_precision(xc: str, monkeypatch) -> None:
    singles, tolerance, calls = hamiltonians(xc, torch.complex128), 1e-8, []
    exact = Hamiltonian.stack(singles)
    single = exact.with_single(torch.complex64)
    product = single.apply_in_single
    monkeypatch.setattr(single, "apply_in_single", lambda psi: calls.append(1) or product(psi))
    psi = padded([orbitals(h, torch.complex128) for h in singles], exact.npw)
    for start in (1e-2, 4e-6, tolerance):
        pairs = repeated_davidson(single, psi, start, 5)
        psi = pairs.vectors
    assert calls
    residuals = norms(exact.apply(psi) - pairs.values[..., None] * psi)
    assert float(residuals[:, :5].max()) < 1.1 * tolerance


@pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])
def test_products_in_single_precision_follow_the_potential(xc: str) -> None:
    crystal = crystal_of(rattled_silicon_carbide())
    system = System(crystal, basis_of(crystal, 6.0, (2, 2, 3)), get_functional(xc))
    energy, blocks = TotalEnergy(system), system.kpoints.blocks[:3]
    (potential,) = energy.potential(atomic_fields(crystal, system.basis, energy.nfields)).values
    for factor in (1.0, 1.5):  # the second H is the first one with another potential
        h = energy.hamiltonian_of_batch(blocks, factor * potential, torch.complex128)
        psi = torch.ones(3, 2, h.npw, dtype=torch.complex128)
        error = (h.apply_in_single(psi) - h.apply(psi)).abs().max()
        assert 1e-9 < float(error) < 1e-5 * float(h.apply(psi).abs().max())


def test_dependent_orbitals_of_one_k_point_leave_the_others_alone() -> None:
    dtype = torch.complex128
    singles = hamiltonians("PBE", dtype)
    batch = Hamiltonian.stack(singles)
    psi = padded([orbitals(h, dtype) for h in singles], batch.npw)
    expected = davidson(batch, psi, 1e-3, 5)
    psi[2, 3] = psi[2, 1]
    pairs = davidson(batch, psi, 1e-3, 5)
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(pairs.values[others], expected.values[others], rtol=0, atol=1e-12)
    assert not pairs.vectors[2, :, singles[2].npw :].any()
    assert float((pairs.values[2, :5] - expected.values[2, :5]).abs().max()) < 0.1


def test_of_vectors_that_depend_on_each_other_one_is_kept() -> None:
    """The residuals of orbitals that span all but one plane wave are parallel. One of them completes the basis."""
    single = hamiltonians("PBE", torch.complex128)[0]
    psi = torch.eye(single.npw, dtype=torch.complex128)[None, :-1]
    pairs = davidson(Hamiltonian.stack([single]), psi, 1e-14, psi.shape[1])
    matrix = single.matrix(torch.arange(single.npw))
    torch.testing.assert_close(pairs.values[0], torch.linalg.eigvalsh(matrix)[:-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("memory", "sizes"), [(1, [10]), (30, [3, 3, 4]), (1000, [1] * 10)])
def test_batches_are_of_one_spin_and_of_about_equal_size(
    memory: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kpoints, "CACHE", 120)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    points = KPoints(2, basis_of(crystal_of(rattled_silicon_carbide()), 3.0, (3, 3, 2)).spheres, CPU)
    seen = []

    def work(blocks: Sequence[Block], numbers: Sequence[int]) -> list[int]:
        assert len({block.spin for block in blocks}) == 1
        assert [block.number for block in blocks] == list(numbers)
        seen.append(len(blocks))
        return [2 * number for number in numbers]

    numbers = [block.number for block in points.blocks]
    assert points.map_batches(work, memory, numbers) == [2 * number for number in numbers]
    assert seen == [*sizes, *sizes]


def test_hamiltonians_of_batches_are_kept_until_other_batches_take_their_k_points() -> None:
    crystal = crystal_of(rattled_silicon_carbide())
    energy = TotalEnergy(System(crystal, basis_of(crystal, 3.0, (2, 2, 3)), get_functional("PBE")))
    (potential,) = energy.potential(atomic_fields(crystal, energy.system.basis, energy.nfields)).values
    blocks = energy.system.kpoints.blocks

    def kept(chosen: Sequence[Block], dtype: torch.dtype = torch.complex128) -> set[tuple[int, ...]]:
        energy.hamiltonian_of_batch(chosen, potential, dtype)
        return set(energy._batches.of_kpoints)

    assert kept(blocks[:3]) == {(0, 1, 2)}
    assert kept(blocks[3:6]) == {(0, 1, 2), (3, 4, 5)}
    assert kept(blocks[2:4]) == {(2, 3)}
    assert kept(blocks[:2], torch.complex64) == {(0, 1)}


def test_every_thread_gets_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    points = KPoints(1, basis_of(crystal_of(rattled_silicon_carbide()), 3.0, (3, 3, 2)).spheres, CPU)
    assert len(points._batches(1)) == 4
