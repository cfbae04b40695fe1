"""The owner of k-points and the threads behind it."""

import itertools
import multiprocessing
import threading

import pytest
import torch
from ase.build import bulk
from kohn_sham import basis_of, crystal_of

from ase_nnxc.ks import parallel
from ase_nnxc.ks.kpoints import Block, KPoints

CPU = torch.device("cpu")


@pytest.fixture
def kpoints() -> KPoints:
    """Two spins, ten k-points of silicon."""
    crystal = crystal_of(bulk("Si"))
    return KPoints(2, basis_of(crystal, 3.0, (3, 3, 3)).spheres, CPU)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest):
    """Torch's number of threads, which is the number of k-points worked on at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_blocks(kpoints: KPoints, threads: int) -> None:
    numbers = [block.number for block in kpoints.blocks]
    assert numbers == list(range(2 * kpoints.nk))
    assert kpoints.map(lambda block, entry: (block.number, entry), numbers) == [(n, n) for n in numbers]
    gathered = kpoints.gather([torch.tensor([n, -n]) for n in numbers])
    assert gathered.shape == (2, kpoints.nk, 2)
    assert int(gathered[1, 3, 0]) == kpoints.entry(numbers, 1, 3) == numbers[kpoints.nk + 3]
    for block in kpoints.blocks:
        assert kpoints.entry(numbers, block.spin, block.k) == block.number


def test_sums_are_those_of_the_results_in_order(kpoints: KPoints, threads: int) -> None:
    values = torch.randn(len(kpoints.blocks), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = values[0]
    for value in values[1:]:
        total = total + value
    assert torch.equal(kpoints.sum(lambda block: values[block.number].clone()), total)
    first, second = kpoints.sum(lambda block: [values[block.number], 2 * values[block.number]])
    assert torch.equal(first, total)
    assert torch.equal(second, 2 * total)
    by_spin = kpoints.sum_batches_of_spins(lambda blocks: values[[block.number for block in blocks]].sum(0), 1)
    torch.testing.assert_close(by_spin, values.view(2, -1, 5).sum(1))


def test_batches_stay_the_same_when_the_free_memory_changes(kpoints: KPoints, monkeypatch: pytest.MonkeyPatch) -> None:
    free = itertools.cycle([1, 2, 3])
    monkeypatch.setattr("ase_nnxc.ks.kpoints._available", lambda device: next(free))
    counts = [kpoints.sum_batches_of_spins(lambda blocks: torch.tensor([1.0 * len(blocks)]), 1) for _ in range(4)]
    assert all(torch.equal(count, torch.full((2, 1), kpoints.nk).to(count)) for count in counts)
    batches: list[int] = []
    for _ in range(2):
        kpoints.map_batches(lambda blocks: batches.append(len(blocks)) or [None] * len(blocks), 1)
    assert batches[: len(batches) // 2] == batches[len(batches) // 2 :]


def test_lists_must_have_an_entry_for_each_block(kpoints: KPoints) -> None:
    with pytest.raises(ValueError, match="zip"):
        kpoints.map(lambda block, entry: entry, [1, 2])


def test_threads_are_made_once_and_keep_their_scratch_memory(kpoints: KPoints) -> None:
    torch.set_num_threads(2)

    def names() -> set[str]:
        barrier = threading.Barrier(2, timeout=10)

        def name(block: Block) -> str:
            if block.number < 2:
                barrier.wait()  # both threads are at work
            return threading.current_thread().name

        return set(kpoints.map(name))

    assert len(names()) == 2
    assert names() == names()


def test_torch_keeps_its_number_of_threads(kpoints: KPoints) -> None:
    torch.set_num_threads(2)
    inside = kpoints.map(lambda block: torch.get_num_threads())
    assert set(inside) == {1}
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        kpoints.map(lambda block: 1 / (block.number - 5))
    assert torch.get_num_threads() == 2


def test_no_item_is_worked_on_after_an_exception(kpoints: KPoints) -> None:
    torch.set_num_threads(2)
    begun, ended = [], []

    def work(block: Block) -> None:
        begun.append(block.number)
        if block.number == 1:
            raise KeyError("by intention")
        threading.Event().wait(0.01)
        ended.append(block.number)

    with pytest.raises(KeyError, match="by intention"):
        kpoints.map(work)
    assert len(begun) == len(ended) + 1 < len(kpoints.blocks)


def test_maps_within_a_map_do_not_wait_for_each_other(kpoints: KPoints) -> None:
    torch.set_num_threads(2)
    totals = kpoints.map(lambda block: sum(kpoints.map(lambda inner: inner.number)))
    assert set(totals) == {sum(range(len(kpoints.blocks)))}


def test_two_threads_of_the_user_share_the_pool(kpoints: KPoints) -> None:
    torch.set_num_threads(2)
    results: list[list[int]] = []
    users = [
        threading.Thread(target=lambda: results.append(kpoints.map(lambda block: block.number**2))) for _ in range(3)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join(timeout=30)
    assert results == [[n**2 for n in range(len(kpoints.blocks))]] * 3
    assert torch.get_num_threads() == 2


def test_gradients_are_off_in_every_thread(kpoints: KPoints, threads: int) -> None:
    with torch.enable_grad():
        assert not any(kpoints.map(lambda block: torch.is_grad_enabled()))


def _in_child(queue) -> None:
    queue.put(list(parallel.iterate(lambda n: n + 1, list(range(6)), CPU)))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_forked_child_has_a_pool_of_its_own(kpoints: KPoints) -> None:
    torch.set_num_threads(2)
    kpoints.map(lambda block: block.number)  # the parent's pool is there
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == [1, 2, 3, 4, 5, 6]
    child.join(timeout=30)
    assert child.exitcode == 0
