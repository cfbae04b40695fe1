"""Kill runs at random moments, resume them, and write what happens to benchmarks/kills.json.

    python benchmarks/kills.py [RUN ...]

The runs are `nnxc eos`, `nnxc train`, `nnxc clone`, and a loop that moves an atom and calls `calc.write`. Each of them
is killed 25 times (SIGKILL), each time in a new folder after a random part of the time that a complete run takes (that
of the last one that was not killed in time), and then started again in the same way until its end. What is compared is

- lost: what was finished before the kill and is not kept to the last bit in the files of the resumed run;
- difference: the largest one between numbers of the resumed and of the undisturbed run. Trainings and clones must end
  at the same bits. The others start some SCFs from other ground states, so that their energies differ by what the
  convergence leaves, by estimate 1e-6 eV per valence electron: three in aluminium, two in the molecule;
- left: temporary files that the killed process leaves; they do not prevent anything.

The random numbers follow from the names. Kills that are in the file are not tried again, except faults.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

# some of these are imported here, so that not each process loads them anew
import ase_nnxc.eos.scan
import ase_nnxc.interop.libxc
import ase_nnxc.train.certificate
import ase_nnxc.train.clone
import ase_nnxc.train.config  # noqa: F401
from ase_nnxc import NNXCCalculator, cli, load_functional
from ase_nnxc.train.records import label, scaled_structures, write_records

OUTPUT = Path(__file__).with_suffix(".json")
KILLS = 25  # of each run
TOLERANCE = 1e-6  # of the SCF by default, eV per valence electron
LATEST = 1.1  # in units of the duration of a run: some runs end first, and their duration is the new one
STEPS, STEP = 25, 0.01  # of the loop with `calc.write`, and Angstrom
TINY = {"ecut": 120, "kpts": (1, 1, 1), "pseudos": "gth-pbe"}

TRAINING = """
name: killed
functional: {architecture: pbe, config: {kappa: 0.7, trainable: [kappa, mu]}}
calculator: {ecut: 120, kpts: [1, 1, 1], pseudos: gth-pbe, smooth_cutoff: true}
records: set.json
objectives: {energy_differences: 1e2}
penalties: {parameter_anchor: 1e-3}
optimizer: {name: Adam, lr: 1e-3}
scheduler: {name: ExponentialLR, gamma: 0.9}
settings: {epochs: 3, batch: 1}
folder: run
models: models
"""


@dataclass(frozen=True)
class Run:
    """A run that is killed and resumed, each time in a folder of its own, which is the working folder.

    Attributes
    ----------
    start : callable
        Runs or resumes.
    kept : callable
        Returns what is finished in the folder, as texts; all of it must be there after the run is resumed, too.
    result : callable
        Returns the numbers of the finished run.
    tolerance : float
        Largest difference of a number, eV; zero if the bits must be the same.
    """

    start: Callable[[], object]
    kept: Callable[[], list[str]]
    result: Callable[[], list[float]]
    tolerance: float


def lines(path: str) -> list[str]:
    """Return the complete lines of a file, which need not exist."""
    text = Path(path).read_text() if Path(path).exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def command(text: str) -> None:
    """Run a command of the package; raise RuntimeError if it fails."""
    code = cli.main(text.split())
    if code:
        raise RuntimeError(f"nnxc {text} ended with code {code}")


# ---- the runs -------------------------------------------------------------------------------------------------------


def eos() -> None:
    """Scan the volume of aluminium."""
    command(
        "eos Al --a 4.05 --points 5 --ecut 120 --kpts 2,2,2 --pseudos gth-pbe --smearing gaussian:0.5 -o run --json"
    )


def eos_result() -> list[float]:
    """Return the free energies of the points in order of volume, eV."""
    return [point["free_energy_eV"] for point in json.loads(Path("run/eos.json").read_text())["points"]]


def train() -> None:
    """Train PBE on two volumes of aluminium and two of silicon, unless the model is written already."""
    if not Path("set.json").exists():
        structures = {"Al": bulk("Al"), "Si": bulk("Si")}
        records = [label(name, scaled_structures(atoms, 2), teacher(name)) for name, atoms in structures.items()]
        write_records("set.json", records)
        Path("run.yaml").write_text(TRAINING)
    if not Path("models/killed@1").exists():
        command("train run.yaml --json")


def teacher(name: str) -> Any:
    """Return a calculator whose energies are fitted."""
    return EMT() if name == "Al" else NNXCCalculator("PBEsol", **TINY)


def train_kept() -> list[str]:
    """Return the metrics of the finished epochs of the last complete state, with the seconds that they took."""
    states = sorted(path for path in Path("run").glob("resume-*") if path.suffix != ".tmp")
    if not states:
        return []
    history = torch.load(states[-1] / "trainer.pt", weights_only=True)["progress"]["history"]
    return [json.dumps(metrics) for metrics in history]


def train_result() -> list[float]:
    """Return the parameters of the model, and the losses of all epochs."""
    metrics = [json.loads(line) for line in lines("run/metrics.jsonl")]
    return parameters("killed") + [m[key] for m in metrics for key in ("loss", "validation_loss")]


def parameters(name: str) -> list[float]:
    """Return the parameters of a model, verified."""
    functional = load_functional(Path("models") / f"{name}@1")
    return [x for p in functional.parameters() for x in p.detach().flatten().tolist()]


def clone() -> None:
    """Clone PBE with few points and steps, unless the model is written already."""
    if not Path("models/killed@1").exists():
        command(
            "clone PBE --name killed --network mlp --points 400 --steps 12 --samples points.npz --quick --root models "
            "--json"
        )


def clone_kept() -> list[str]:
    """Return the file of the points."""
    return [Path("points.npz").read_bytes().hex()] if Path("points.npz").exists() else []


def write() -> None:
    """Move an atom of H2 in steps, from the one in the restart file on, and write a restart file after each."""
    if Path("h2.nnxc").exists():
        atoms = NNXCCalculator.read_atoms("h2.nnxc")
    else:
        atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]], cell=[4, 4, 4], pbc=True)
        atoms.calc = NNXCCalculator(ecut=100, kpts=(1, 1, 1), pseudos="gth-pbe")
    for step in range(step_of(atoms) + 1, STEPS + 1):
        atoms.positions[1, 2] = 0.7 + STEP * step
        atoms.get_potential_energy()
        atoms.calc.write("h2.nnxc")
        with Path("steps").open("a") as file:
            file.write(f"{step}\n")


def step_of(atoms: Atoms) -> int:
    """Return the number of the step."""
    return round((atoms.positions[1, 2] - 0.7) / STEP)


def write_kept() -> list[str]:
    """Return the numbers of the steps in the file, which must be those that were written before."""
    done = [line.strip() for line in lines("steps")]
    if done and step_of(NNXCCalculator.read_atoms("h2.nnxc")) < int(done[-1]):
        raise RuntimeError("the restart file is older than the last call of write that returned")
    return done


def write_result() -> list[float]:
    """Return the energy of the last step, eV."""
    return [NNXCCalculator(restart="h2.nnxc").results["energy"]]


RUNS = {
    "nnxc eos": Run(eos, lambda: lines("run/points.jsonl"), eos_result, 3 * TOLERANCE),
    "nnxc train": Run(train, train_kept, train_result, 0.0),
    "nnxc clone": Run(clone, clone_kept, lambda: parameters("killed"), 0.0),
    "calc.write": Run(write, write_kept, write_result, 2 * TOLERANCE),
}


# ---- kills ----------------------------------------------------------------------------------------------------------


def start(work: Callable[[], Any], folder: Path) -> tuple[int, int]:
    """Start a function in a process and a working folder of its own; return the process and a pipe for its result."""
    source, sink = os.pipe()
    child = os.fork()
    if child:
        os.close(sink)
        return child, source
    try:
        os.chdir(folder)
        with Path("output").open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        result = json.dumps([work()])
    except BaseException:  # whatever it is, it is reported
        result = json.dumps(traceback.format_exc().strip().splitlines()[-1])
    with os.fdopen(sink, "w") as pipe:
        pipe.write(result)
    os._exit(0)


def result_of(work: Callable[[], Any], folder: Path) -> Any:
    """Return the result of a function that runs in a process of its own; raise RuntimeError with its error."""
    child, source = start(work, folder)
    with os.fdopen(source) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    result = json.loads(text)
    if isinstance(result, str):
        raise RuntimeError(result)
    return result[0]


def kill(run: Run, folder: Path, seconds: float) -> bool:
    """Start a run and kill it after some seconds; return whether it was still running."""
    child, source = start(run.start, folder)
    select.select([source], [], [], seconds)  # a run that ends writes into the pipe
    os.kill(child, signal.SIGKILL)
    os.close(source)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def files(folder: Path) -> set[str]:
    """Return the names of temporary files and folders."""
    return {path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"}


def try_kill(run: Run, folder: Path, seconds: float, expected: list[float]) -> dict[str, Any]:
    """Kill a run and resume it; return what is kept of the case."""
    folder.mkdir()
    if not kill(run, folder, seconds):
        return {"outcome": "not killed"}
    case: dict[str, Any] = {"seconds": round(seconds, 3)}
    try:
        before = result_of(run.kept, folder)
        clock = time.perf_counter()
        result_of(run.start, folder)
        case["resumed"] = round(time.perf_counter() - clock, 3)
        after, found = (result_of(work, folder) for work in (run.kept, run.result))
    except RuntimeError as error:
        return case | {"outcome": "FAULT", "message": str(error)[:200]}
    difference = max(map(abs, (a - b for a, b in zip(found, expected, strict=True))))
    lost = len(set(before) - set(after))
    passed = not lost and difference <= run.tolerance
    case |= {"finished": len(before), "lost": lost, "difference": difference, "left": len(files(folder))}
    return case | {"outcome": "equal" if passed else "FAULT"}


def try_run(name: str, results: dict[str, Any]) -> None:
    """Try all kills of a run that are not in the results."""
    run, root = RUNS[name], Path(tempfile.mkdtemp())
    (root / "whole").mkdir()
    clock = time.perf_counter()
    result_of(run.start, root / "whole")
    duration = time.perf_counter() - clock
    expected = result_of(run.result, root / "whole")
    for i in range(KILLS):
        case = f"{name} | {i}"
        rng = random.Random(case)
        while results.get(case, {"outcome": ""})["outcome"] != "equal":
            clock = time.perf_counter()
            results[case] = try_kill(run, root / "killed", rng.uniform(0, LATEST * duration), expected)
            shutil.rmtree(root / "killed")
            if results[case]["outcome"] == "not killed":
                duration = time.perf_counter() - clock
            if results[case]["outcome"] == "FAULT":
                break
        OUTPUT.write_text(json.dumps(results, indent=0, sort_keys=True) + "\n")
    shutil.rmtree(root)


def table(results: dict[str, Any]) -> str:
    """Return the sums by run."""
    rows = ["| run | kills | equal | FAULT | lost | largest difference | tolerance | left |", "| --- " * 8 + "|"]
    for name, run in RUNS.items():
        cases = [result for case, result in results.items() if case.split(" | ")[0] == name]
        outcomes = [case["outcome"] for case in cases]
        lost, left = (sum(case.get(key, 0) for case in cases) for key in ("lost", "left"))
        difference = max((case.get("difference", 0.0) for case in cases), default=0.0)
        tolerance = f"{run.tolerance:g} eV" if run.tolerance else "same bits"
        counts = f"{len(cases)} | {outcomes.count('equal')} | {outcomes.count('FAULT')} | {lost}"
        rows.append(f"| {name} | {counts} | {difference:.1e} | {tolerance} | {left} |")
    return "\n".join(rows)


def main() -> None:
    """Try what is missing, and print a table and the faults."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    for name in sys.argv[1:] or RUNS:
        try_run(name, results)
        print(f"{name}: done", flush=True)
    for case, result in results.items():
        if result["outcome"] == "FAULT":
            print(case, result)
    print(table(results))


if __name__ == "__main__":
    main()
