"""Scans whose volumes are shared by groups of ranks: the results of one process, and the same end if one of them fails.

As a script (`python test_groups.py FOLDER`) this file is a run of four ranks; each writes its results to FOLDER.
"""

import copy
import json
import os
import pickle
import time
import warnings

import pytest
import torch
import torch.distributed as dist
from ase.build import bulk
from ase.calculators.calculator import InputError, SCFError, all_changes
from ase.units import Hartree
from processes import in_another_process, results_of_ranks, run_ranks

from ase_nnxc import NNXCCalculator
from ase_nnxc.cli import main
from ase_nnxc.eos import scan_eos
from ase_nnxc.ranks import RankError, Ranks, world

KEYWORDS = {"ecut": 120, "pseudos": "gth-pbe", "kpts": (2, 2, 2), "convergence": {"energy": 1e-12}}
TOLERANCE = 1e-10  # Hartree
SMALL = 3.75  # Angstrom, lattice constant at which the first window ends before the minimum

pytestmark = pytest.mark.usefixtures("one_thread")


class Watched(NNXCCalculator):
    """Notes its volumes, and raises an error at some of them."""

    error, volumes = None, ()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.volumes = (*self.volumes, atoms.get_volume())
        if self.error is not None:
            self.error(atoms.get_volume())
        super().calculate(atoms, properties, system_changes)


def scan(folder=None, a=4.05, error=None, share=True, groups=1, **keywords):
    """Return the points of a scan of aluminium by index, what failed, and what the calculator of this rank did."""
    calc = Watched(**KEYWORDS | keywords, share_kpoints=share)
    calc.error = error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few points, some of which fail
        result = scan_eos(bulk("Al", a=a), calc, folder=folder, points=5, span=0.2, groups=groups)
    return {
        "free energies": {str(p.index): p.free_energy_eV / Hartree for p in result.points},
        "volume": result.fit.volume.item(),
        "failed": {str(index): message for index, message in result.failed.items()},
        "fingerprint": result.fingerprint,
        "volumes": calc.volumes,
        "parameters": [calc.parameters["share_kpoints"], calc.parameters["txt"], calc.prefix],
    }


def error_of(*arguments, **keywords):
    """Return the error of a scan."""
    try:
        scan(*arguments, **keywords)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def not_converged(volume):
    """Fail at one volume, which is one of the second of two groups."""
    if 18 < volume < 19:
        raise SCFError("by intention")


def fault_on_rank_3(_):
    if dist.get_rank() == 3:
        raise ValueError("by intention")


def end_of_rank_3(_):
    if dist.get_rank() == 3:
        os._exit(0)


def refusal(group):
    """Return why a group cannot be split."""
    with pytest.raises(ValueError, match="groups=2") as caught:
        group.split(2)
    return str(caught.value)


def exchanges():
    """Return what the methods of the group of this rank return."""
    group = world().split(2)
    rank = torch.tensor(dist.get_rank())
    return {
        "number": [group.number, group.count],
        "sum": group.sum(rank).item(),
        "of_first": group.of_first(rank).item(),
        "gather": group.gather(dist.get_rank),
        "split": refusal(group),
        "copy": copy.deepcopy(NNXCCalculator(share_kpoints=group)).ranks is group,
        "again": world().split(2) is group and world().split(1) is world(),
        "gpu": dist.get_process_group_ranks(group._group_of(torch.empty(0, device="meta"))),
    }


def of_two_crystals():
    """Return the energies of two crystals, of which each group calculates one."""
    group = world().split(2)
    atoms = bulk("Al", a=4.0 if dist.get_rank() < 2 else 4.1)
    atoms.calc = NNXCCalculator(**KEYWORDS, share_kpoints=group)
    return atoms.get_potential_energy() / Hartree


def rank_of_four(rank, folder):
    """Write the results of one rank."""
    dist.new_group([0, 2])  # another one, of the user
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        world().split(2)  # with process groups for GPUs
    label = str(folder / "label" / "al")
    answers = {
        "exchanges": exchanges(),
        "crystals": of_two_crystals(),
        "two groups": scan(folder / "two", groups=2, label=label),
        "four groups": scan(a=SMALL, groups=4),
        "not converged": scan(folder / "not converged", groups=2, error=not_converged),
        "fault": error_of(groups=2, error=fault_on_rank_3),
        "full disk": error_of(folder / "full", groups=2, error=lambda _: _spoil(folder / "full")),
        "other atoms": error_of(groups=2, a=4.05 if rank < 2 else 4.1),
        "too many": error_of(groups=2, kpts=(1, 1, 1)),
        "three groups": error_of(groups=3),
        "eight groups": error_of(groups=8),
        "not shared": error_of(groups=2, share=False),
    }
    (folder / f"{rank}.json").write_text(json.dumps(answers))
    start = time.monotonic()
    ended = error_of(groups=2, error=end_of_rank_3)
    (folder / f"ended-{rank}.json").write_text(json.dumps([ended, time.monotonic() - start]))


def _spoil(folder):
    """Let rank 0 fail as it keeps the first points."""
    if dist.get_rank() == 0:
        (folder / "points.jsonl").mkdir(exist_ok=True)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    return folder, results_of_ranks(__file__, folder, 4)


@pytest.fixture(scope="module")
def one():
    """The results of one process, by the name of the scan of four ranks."""
    return {
        "two groups": scan(share=False),
        "four groups": scan(a=SMALL, share=False),
        "not converged": scan(share=False, error=not_converged),
    }


@pytest.mark.parametrize("name", ["two groups", "four groups", "not converged"])
def test_groups_give_the_points_of_one_process(four, one, name):
    results = [{k: v for k, v in each[name].items() if k != "volumes"} for each in four[1]]
    assert all(result == results[0] for result in results[1:])  # to the last bit
    expected = one[name]
    assert results[0]["free energies"] == pytest.approx(expected["free energies"], abs=TOLERANCE, rel=0)
    assert results[0]["volume"] == pytest.approx(expected["volume"], rel=1e-8)
    assert results[0]["failed"] == expected["failed"]
    assert results[0]["fingerprint"] == expected["fingerprint"]


def test_window_is_extended_and_failures_are_left_out(one):
    assert len(one["four groups"]["free energies"]) > 5
    assert one["not converged"]["failed"] == {"1": "SCFError: by intention"}


def test_groups_calculate_different_volumes_that_follow_each_other(four, one):
    volumes = [each["two groups"]["volumes"] for each in four[1]]
    assert volumes[0] == volumes[1]
    assert volumes[2] == volumes[3]
    assert volumes[0] + volumes[2] == list(one["two groups"]["volumes"])


def test_calculator_has_its_own_parameters_again(four):
    assert [each["two groups"]["parameters"] for each in four[1]] == [[True, "al.txt", "al"]] * 4


def test_first_group_alone_writes_log_and_restart_file(four):
    label = four[0] / "label"
    assert sorted(path.name for path in label.iterdir()) == ["al.nnxc", "al.txt"]
    log = (label / "al.txt").read_text()
    assert log.count("irreducible") == log.count("threads, 2 ranks") == len(four[1][0]["two groups"]["volumes"])
    held = NNXCCalculator(restart=label / "al").get_atoms()
    assert held.get_volume() == pytest.approx(four[1][0]["two groups"]["volumes"][-1])


def test_scan_of_groups_is_resumed_by_one_process(four, one):
    folder = four[0] / "two"
    again = scan(folder, share=False)
    assert again["volumes"] == ()
    assert again["free energies"] == four[1][0]["two groups"]["free energies"]
    assert {"eos.json", "eos.traj", "eos.png"} <= {path.name for path in folder.iterdir()}


def test_methods_of_a_group_work_in_the_group(four):
    exchanges = [each["exchanges"] for each in four[1]]
    assert [each["number"] for each in exchanges] == [[0, 2], [1, 2], [0, 2], [1, 2]]
    assert [each["sum"] for each in exchanges] == [1, 1, 5, 5]
    assert [each["of_first"] for each in exchanges] == [0, 0, 2, 2]
    assert [each["gather"] for each in exchanges] == [each["gpu"] for each in exchanges] == [[0, 1]] * 2 + [[2, 3]] * 2
    assert all("cannot be split again" in each["split"] and each["copy"] and each["again"] for each in exchanges)


def test_groups_calculate_different_crystals(four):
    energies = [each["crystals"] for each in four[1]]
    assert energies[0] == energies[1] != energies[2] == energies[3]
    for a, energy in ((4.0, energies[0]), (4.1, energies[2])):
        atoms = bulk("Al", a=a)
        atoms.calc = NNXCCalculator(**KEYWORDS)
        assert energy == pytest.approx(atoms.get_potential_energy() / Hartree, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fault", "RankError: rank 3 failed: ValueError: by intention"),
        ("other atoms", "InputError: ranks that share a scan must have the same atoms, functionals and parameters"),
        ("too many", "InputError: 2 ranks cannot share 1 irreducible k-points of 1 spin channel: use at most 1 ranks"),
        ("three groups", "InputError: groups=3: expected a divisor of 4, the number of ranks: 1, 2, 4"),
        ("eight groups", "InputError: groups=8: expected a divisor of 4, the number of ranks: 1, 2, 4"),
        (
            "not shared",
            "InputError: groups=2: there is one rank, and so one group; more ranks need torchrun and, in Python, "
            "share_kpoints=True",
        ),
    ],
)
def test_error_is_raised_on_all_ranks(four, name, message):
    assert [each[name] for each in four[1]] == [message] * 4


def test_error_of_rank_0_as_it_writes_a_point_is_raised_on_all_ranks(four):
    assert all(each["full disk"].startswith("RankError: rank 0 failed: IsADirectoryError") for each in four[1])


def test_rank_that_ends_ends_all_groups(four):
    for rank in range(3):
        error, seconds = json.loads((four[0] / f"ended-{rank}.json").read_text())
        assert error.startswith("RankError: another rank has ended")
        assert seconds < 10


# ---- one process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [2, 0, -1, True, 1.0, "1", None])
def test_one_rank_is_one_group(groups):
    ranks = Ranks()
    assert ranks.split(1) is ranks
    with pytest.raises(ValueError, match="expected a divisor of 1, the number of ranks: 1"):
        ranks.split(groups)


def test_error_of_a_rank_can_be_pickled_and_a_group_cannot():
    assert str(pickle.loads(pickle.dumps(RankError("rank 1 failed", Ranks())))) == "rank 1 failed"
    assert pickle.loads(pickle.dumps(Ranks())).count == 1
    with pytest.raises(TypeError, match="share_kpoints=False"):
        pickle.dumps(Ranks(0, 2))


@pytest.mark.parametrize("share", [2, "world", None])
def test_what_cannot_share_k_points_is_refused(share):
    with pytest.raises(InputError, match=r"share_kpoints=.*: expected True, False, or a group of ranks"):
        NNXCCalculator().set(share_kpoints=share)


@pytest.mark.parametrize(("groups", "message"), [("2", "more ranks need torchrun"), ("0", "a positive integer")])
def test_command_in_one_process_has_one_group(tmp_path, capsys, groups, message):
    assert main(["eos", "Al", "--pseudos", "gth-pbe", "--groups", groups, "-o", str(tmp_path / "al")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_command_shares_the_volumes_of_a_scan(tmp_path, capsys):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m", "ase_nnxc"]
    command = ["eos", "Al", "--ecut", "200", "--kpts", "4,4,4", "--pseudos", "gth-pbe", "--points", "5"]
    command += ["--span", "0.2", "-o", str(tmp_path / "al")]
    done = in_another_process([*torchrun, *command, "--groups", "2"])
    assert done.stdout.count("lattice constant") == 1
    points = (tmp_path / "al" / "points.jsonl").read_text()
    assert len(points.splitlines()) == 5
    assert (tmp_path / "al" / "log.txt").read_text().count("irreducible") == 2
    assert main(command) == 0
    assert capsys.readouterr().out == done.stdout
    assert (tmp_path / "al" / "points.jsonl").read_text() == points


if __name__ == "__main__":
    run_ranks(rank_of_four, 4)
