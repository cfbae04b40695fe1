"""K-points shared by several processes: the results of one process, and the same end if one of them fails.

As a script (`python test_ranks.py FOLDER`) this file is a run of two ranks; each writes its results to FOLDER.
"""

import json
import os
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError
from ase.units import Bohr, Hartree
from kohn_sham import basis_of, crystal_of
from processes import in_another_process, results_of_ranks, run_ranks

from ase_nnxc import NNXCCalculator
from ase_nnxc.cli import main
from ase_nnxc.ks.kpoints import KPoints
from ase_nnxc.ks.system import System
from ase_nnxc.ks.terms import STANDARD_TERMS, NonlocalPotential
from ase_nnxc.ks.total_energy import TotalEnergy
from ase_nnxc.ranks import Ranks, world
from ase_nnxc.xc import PBE

KEYWORDS = {"ecut": 120, "pseudos": "gth-pbe", "convergence": {"energy": 1e-18}}
TOLERANCE = 1e-10  # Hartree and bohr

pytestmark = pytest.mark.usefixtures("one_thread")


def metal():
    """A strained crystal with symmetry and an odd number of k-points, and two different forces."""
    atoms = Atoms("Al2", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.46)], cell=[3.0, 3.0, 4.2], pbc=True)
    return atoms, {"kpts": {"size": (3, 3, 2), "gamma": True}}


def magnet():
    """Two hydrogen atoms with spin: with two ranks each has one of the spin channels."""
    atoms = Atoms("H2", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.46)], cell=[3.0, 3.0, 3.2], pbc=True)
    atoms.set_initial_magnetic_moments([1, 1])
    return atoms, {"kpts": {"size": (2, 2, 1), "gamma": True}, "convergence": {"energy": 1e-14}}


def results(system, share=True, **keywords):
    """Return the results of a system in atomic units."""
    atoms, own = system()
    atoms.calc = NNXCCalculator(**{**KEYWORDS, **own, **keywords}, share_kpoints=share)
    return {
        "energy": atoms.get_potential_energy() / Hartree,
        "forces": (atoms.get_forces() * Bohr / Hartree).tolist(),
        "stress": (atoms.get_stress() * Bohr**3 / Hartree).tolist(),
        "magmom": atoms.get_magnetic_moment(),
        "levels": (atoms.calc.get_property("eigenvalues") / Hartree).tolist(),
        "steps": len(atoms.calc.history),
    }


def gradient(share=True):
    """Return the gradient of a loss of energy and levels, which needs the linear response."""
    functional = PBE(kappa=0.7, trainable=("kappa", "mu"))
    calc = NNXCCalculator(
        functional, **KEYWORDS | {"convergence": {"energy": 1e-8}}, kpts=(2, 2, 2), share_kpoints=share
    )
    tensors = calc.differentiable(bulk("Al"))
    (tensors.free_energy + tensors.fermi_level).backward()
    return [p.grad.item() for p in functional.parameters()]


def error_of(work, *arguments, **keywords):
    """Return the error that a function raises."""
    try:
        work(*arguments, **keywords)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def with_a_fault_on_rank_1():
    """Fail on rank 1 in the first eigenproblem."""

    def fails(*_, **__):
        raise torch.linalg.LinAlgError("by intention")

    if dist.get_rank() == 1:
        eigh, torch.linalg.eigh = torch.linalg.eigh, fails
    try:
        results(metal)
    finally:
        if dist.get_rank() == 1:
            torch.linalg.eigh = eigh


def with_other_atoms_on_rank_1():
    results(metal if dist.get_rank() == 0 else magnet)


def too_many():
    atoms = bulk("Al")
    atoms.calc = NNXCCalculator(**KEYWORDS, kpts=(1, 1, 1), share_kpoints=True)
    atoms.get_potential_energy()


def when_rank_1_ends():
    if dist.get_rank() == 1:
        os._exit(0)
    results(metal)


def rank_of_two(rank, folder):
    """Write the results of one rank."""
    answers = {
        "metal": results(metal, txt=folder / "log.txt", label=str(folder / "metal")),
        "magnet": results(magnet),
        "gradient": gradient(),
        "fault": error_of(with_a_fault_on_rank_1),
        "other atoms": error_of(with_other_atoms_on_rank_1),
        "too many": error_of(too_many),
    }
    (folder / f"{rank}.json").write_text(json.dumps(answers))
    start = time.monotonic()
    ended = error_of(when_rank_1_ends)
    (folder / "ended.json").write_text(json.dumps([ended, time.monotonic() - start]))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, results_of_ranks(__file__, folder)


@pytest.mark.parametrize("system", [metal, magnet])
def test_two_ranks_give_the_results_of_one(two, system):
    one = results(system, share=False)
    assert np.abs(one["forces"]).max() > 1e-4
    first, second = (each[system.__name__] for each in two[1])
    assert first == second  # to the last bit
    for name in ("energy", "forces", "stress", "magmom", "levels"):
        np.testing.assert_allclose(first[name], one[name], rtol=0, atol=1e-7 if name == "levels" else TOLERANCE)
    assert first["steps"] == one["steps"]


def test_magnet_has_a_moment(two):
    assert two[1][0]["magnet"]["magmom"] > 1


def test_gradients_through_the_scf_are_those_of_one_process(two):
    expected = gradient(share=False)
    for each in two[1]:
        assert each["gradient"] == pytest.approx(expected, rel=1e-6)


def test_rank_0_alone_writes_the_log(two):
    log = (two[0] / "log.txt").read_text()
    assert log.count("irreducible") == log.count("forces / eV") == 1
    assert "1 threads, 2 ranks" in log


def test_restart_file_of_two_ranks_is_read_by_one(two):
    folder, (first, _) = two
    calc = NNXCCalculator(restart=folder / "metal")
    assert len(calc.held_state.orbitals) == calc.held_state.system.kpoints.nk
    assert calc.get_potential_energy(calc.get_atoms()) / Hartree == first["metal"]["energy"]
    np.testing.assert_allclose(calc.get_forces() * Bohr / Hartree, first["metal"]["forces"], atol=TOLERANCE)


def test_error_on_one_rank_is_raised_on_all(two):
    message = "RankError: rank 1 failed: _LinAlgError: by intention"
    assert [each["fault"] for each in two[1]] == [message] * 2


def test_ranks_with_different_atoms_are_an_error(two):
    assert all(
        each["other atoms"].startswith("InputError: ranks that share k-points must calculate") for each in two[1]
    )


def test_more_ranks_than_blocks_are_an_error(two):
    message = "InputError: 2 ranks cannot share 1 irreducible k-points of 1 spin channel: use at most 1 ranks"
    assert [each["too many"] for each in two[1]] == [message] * 2


def test_rank_that_ends_ends_the_others(two):
    error, seconds = json.loads((two[0] / "ended.json").read_text())
    assert error.startswith("RankError: another rank has ended")
    assert seconds < 10


# ---- one process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4])
def test_blocks_are_shared_evenly_in_their_order(count):
    spheres = basis_of(crystal_of(bulk("Si")), 3.0, (3, 3, 3)).spheres
    parts = [KPoints(2, spheres, torch.device("cpu"), Ranks(number, count)).blocks for number in range(count)]
    assert [block.number for part in parts for block in part] == list(range(2 * len(spheres)))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_ranks_cannot_share_terms_made_of_orbitals():
    class Dependent(NonlocalPotential):
        name = "dependent"

        def prepare(self, kpoints, orbitals, electrons):
            pass

    crystal = crystal_of(bulk("Si"))
    basis = basis_of(crystal, 3.0, (2, 2, 2))
    system = System(crystal, basis, PBE(), terms=(*STANDARD_TERMS, Dependent), ranks=Ranks(0, 2))
    with pytest.raises(NotImplementedError, match="ranks cannot share the k-points of dependent"):
        TotalEnergy(system)


def test_world_of_one_process_is_this_process():
    ranks = world()
    assert (ranks.number, ranks.count) == (0, 1)
    assert ranks.gather(lambda: 3) == [3]
    with pytest.raises(InputError, match="wrong"):
        ranks.together(_fails)


def _fails():
    raise InputError("wrong")


def test_processes_of_torchrun_end_without_an_error(tmp_path):
    """A process that ends with the threads of gloo is aborted in most cases."""
    script = tmp_path / "script.py"
    script.write_text("from ase_nnxc.ranks import world\nassert world().gather(lambda: world().number) == [0, 1]\n")
    for _ in range(3):
        in_another_process(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script])


@pytest.mark.slow
def test_scan_of_torchrun_prints_once_and_is_resumed_by_one_process(tmp_path, capsys):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ase_nnxc"]
    command = ["eos", "Al", "--ecut", "200", "--kpts", "4,4,4", "--pseudos", "gth-pbe", "--points", "5"]
    command += ["--span", "0.2", "-o", str(tmp_path / "al")]
    done = in_another_process([*torchrun, *command])
    assert done.stdout.count("lattice constant") == 1
    points = (tmp_path / "al" / "points.jsonl").read_text()
    assert (tmp_path / "al" / "log.txt").read_text().count("2 ranks") == len(points.splitlines())
    assert main(command) == 0
    assert capsys.readouterr().out == done.stdout
    assert (tmp_path / "al" / "points.jsonl").read_text() == points


if __name__ == "__main__":
    run_ranks(rank_of_two)
