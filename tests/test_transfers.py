"""What a cycle of the SCF costs a GPU: numbers that the host waits for, and operations that grow with the k-points."""

import itertools
from typing import Any

import pytest
import torch
from kohn_sham import basis_of, crystal_of, rattled_silicon_carbide
from torch.utils._python_dispatch import TorchDispatchMode

from ase_nnxc.ks import eigensolver, fields, kpoints, operators
from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.eigensolver import davidson
from ase_nnxc.ks.initial_guess import approximate_orbitals, atomic_fields
from ase_nnxc.ks.occupations import WHOLE, Smearing
from ase_nnxc.ks.output import diagonalise, fill
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.system import System
from ase_nnxc.ks.total_energy import TotalEnergy
from ase_nnxc.registry import get_functional

COPIES = ("cpu", "tolist", "numpy")
SMEARING = Smearing("gaussian", 0.005)


class Counter(TorchDispatchMode):
    """Counts operations on tensors, and `waits`: those after which a GPU's host must wait for their results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.waits = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.operations += 1
        name = function.overloadpacket.__name__  # float(), int(), bool(), item(); masks have a size that is not known
        mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        self.waits += mask or name in ("_local_scalar_dense", "nonzero", "masked_select")
        return function(*arguments, **(keywords or {}))


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """A counter of a device that takes all k-points and bands at once; it pauses where electrons are filled in."""
    monkeypatch.setattr(kpoints, "CACHE", 2**40)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for module in (fields, operators):
        monkeypatch.setattr(module, "chunk_size", lambda npoints, device: 2**20)
    counter = Counter()

    def counted(copy: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            counter.waits += 1
            return copy(*arguments, **keywords)

        return call

    for name in COPIES:
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    original = Smearing.fill

    def on_the_host(*arguments: Any) -> Any:
        before = counter.operations, counter.waits
        states = original(*arguments)
        counter.operations, counter.waits = before[0], before[1] + 2  # eigenvalues and weights go there
        return states

    monkeypatch.setattr(Smearing, "fill", on_the_host)
    return counter


def silicon_carbide(mesh: tuple[int, int, int]) -> System:
    crystal = crystal_of(rattled_silicon_carbide())
    return System(crystal, basis_of(crystal, 4.0, mesh), get_functional("PBE"))


def cost(system: System, counter: Counter) -> tuple[int, int]:
    """Operations and waits of the second diagonalisation, with one expansion of the basis, and of the fields."""
    energy = TotalEnergy(system)
    start = atomic_fields(system.crystal, system.basis, energy.nfields)
    orbitals, potential = approximate_orbitals(energy, start, 6), energy.potential(start).values

    def half_cycle() -> None:
        pairs = diagonalise(energy, potential, orbitals, davidson, 1e-9, 6, torch.float64)
        fill(energy, SMEARING, pairs, system.crystal.reservoirs, WHOLE)

    half_cycle()  # the scratch memory of the transforms grows, which discards those that were made before
    half_cycle()  # makes them again
    with counter:
        before = counter.operations, counter.waits
        half_cycle()
    return counter.operations - before[0], counter.waits - before[1]


def test_k_points_cost_no_waits_and_few_operations(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigensolver, "MAX_EXPANSIONS", 1)
    few, many = silicon_carbide((2, 2, 3)), silicon_carbide((3, 3, 5))
    (operations, waits), (more, as_many) = cost(few, counter), cost(many, counter)
    assert waits == as_many <= 12
    assert more - operations <= 8 * (many.kpoints.nk - few.kpoints.nk)  # orbitals are padded and cut off


def test_waits_of_a_cycle(counter: Counter) -> None:
    waits: list[int] = []
    settings = SCFSettings(1e-6)
    with counter:
        scf(silicon_carbide((2, 2, 3)), SMEARING, settings=settings, callback=lambda step: waits.append(counter.waits))
    cycles = [after - before for before, after in itertools.pairwise(waits)][1:]
    assert len(cycles) > 2
    assert max(cycles) <= 40
