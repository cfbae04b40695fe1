"""Spoil every kind of file that the package reads, and write what happens to benchmarks/spoiled_files.json.

    python benchmarks/spoiled_files.py [KIND ...]

Each file is spoilt in some 40 to 90 ways (spoilers.py) and read by a process of its own. The outcome is one of

- refused: an error of the documented type, whose message has the name of the file or of its folder;
- the same: the file is read, and holds what the good one holds, to the last bit (a change of a comment, for example);
- valid: the file is read, all its numbers are finite, and what it holds differs: no check can tell it from a good one.
  Files that checksums protect must never be valid in this sense, those with a checksum of each line only if lines are
  missing;
- FAULT: anything else, a message of more than 1000 characters, more than one second of processor time, or more than
  1 GiB of memory.

The random numbers follow from the names. Cases that are in the file are not tried again, except faults.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

import torch
from ase.calculators.calculator import CalculatorError
from results import read_results, write_results
from spoiled_kinds import KINDS, Kind, leaves
from spoilers import OF_ALL, OF_PATHS, OF_TEXT

from ase_nnxc.cli.common import UsageError

OUTPUT = Path(__file__).with_suffix(".json")
SECONDS, MEMORY = 1.0, 2**30  # limits, of the processor and in bytes
LONGEST = 1000  # characters of a message
HANG = 10.0  # seconds after which a process is killed
REFUSALS = (CalculatorError, UsageError, OSError)  # InputError, ReadError and CheckpointError are CalculatorErrors


def cases(kind: str) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Return name and spoiler, a function of the path, of all cases of a kind."""

    def of_content(spoil: Any, rng: Random) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(spoil(path.read_bytes(), rng))

    def of_path(spoil: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda path: (path.unlink(), spoil(path))

    for name, (count, spoil) in (OF_ALL | (OF_TEXT if KINDS[kind].text else {})).items():
        for i in range(count):
            case = f"{kind} | {name} | {i}"
            yield case, of_content(spoil, Random(case))
    for name, spoil in OF_PATHS.items():
        yield f"{kind} | {name} | 0", of_path(spoil)


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of a function in a process of its own, with its seconds and its largest memory, MiB."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        start = time.process_time()
        try:
            result = work()
        except BaseException as error:  # whatever it is, it is a result
            message, refused = str(error), isinstance(error, REFUSALS) and len(str(error)) <= LONGEST
            result = {"error": type(error).__name__, "message": message[: 2 * LONGEST], "refused": refused}
        result["seconds"] = round(time.process_time() - start, 3)
        os.write(sink, json.dumps(result).encode())
        os._exit(0)
    os.close(sink)
    if not select.select([source], [], [], HANG)[0]:
        os.kill(child, signal.SIGKILL)
    text = os.read(source, 65536)
    os.close(source)
    _, status, usage = os.wait4(child, 0)
    result = json.loads(text) if text else {"error": f"signal {os.waitstatus_to_exitcode(status)}", "message": ""}
    return {"seconds": HANG, **result, "MiB": usage.ru_maxrss // 2**10}


def compare(good: list[Any], values: list[Any]) -> dict[str, Any]:
    """Return the first difference from what the good file holds, if any, and what makes a difference acceptable.

    These are whether all numbers are finite, and whether there is nothing that the good file does not hold.
    """
    pairs = zip_longest(good, values, fillvalue="nothing")
    change = next((f"{old!r:.60} -> {new!r:.60}" for old, new in pairs if repr(old) != repr(new)), None)
    finite = all(math.isfinite(value) for value in values if isinstance(value, float))
    return {"change": change, "finite": finite, "part": set(map(repr, values)) <= set(map(repr, good))}


def judge(kind: Kind, path: Path, found: dict[str, Any]) -> str:
    """Return the outcome of a case."""
    if found["seconds"] > SECONDS or found["MiB"] * 2**20 > MEMORY:
        return "FAULT"
    if "error" in found:
        named = path.name in found["message"] or str(path.parent) in found["message"]
        return "refused" if found.get("refused") and named else "FAULT"
    if found["change"] is None:
        return "the same"
    allowed = found["part"] if kind.parts else found["finite"] and not kind.sealed
    return "valid" if allowed else "FAULT"


def try_kind(name: str, results: dict[str, Any]) -> None:
    """Try all cases of a kind that are not finished."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as folder:
        original, copy = Path(folder) / "good", Path(folder) / "spoilt"
        original.mkdir()
        file = Path(in_child(lambda: {"path": str(kind.make(original))})["path"]).relative_to(original)
        good = leaves(kind.read(original / file))  # also loads modules, so that their time is not counted below
        for case, spoil in cases(name):
            if results.get(case, {"outcome": "FAULT"})["outcome"] != "FAULT":
                continue
            shutil.copytree(original, copy)
            spoil(copy / file)
            found = in_child(lambda: compare(good, leaves(kind.read(copy / file))))
            results[case] = finished(judge(kind, copy / file, found), found, folder)
            shutil.rmtree(copy)


def finished(outcome: str, found: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return what is kept of a case."""
    kept = {"outcome": outcome, "seconds": found["seconds"], "MiB": found["MiB"]}
    if found.get("change"):
        kept["change"] = found["change"].replace(folder, "")
    if "error" in found:
        kept["message"] = f"{found['error']}: {found['message']}".replace(folder, "")[:160]
    return kept


def table(results: dict[str, Any]) -> str:
    """Return the numbers of outcomes by kind."""
    outcomes = ("refused", "the same", "valid", "FAULT")
    rows = [f"| {'file':28}| tries | " + " | ".join(outcomes) + " | seconds | MiB |"]
    rows.append("| --- " * (len(outcomes) + 4) + "|")
    for kind in [*KINDS, "all"]:
        found = [result for case, result in results.items() if kind in ("all", case.split(" | ")[0])]
        count = Counter(result["outcome"] for result in found)
        largest = [max((result[key] for result in found), default=0) for key in ("seconds", "MiB")]
        numbers = [len(found), *(count[outcome] for outcome in outcomes), *largest]
        rows.append(f"| {kind:28}| " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(rows)


def main() -> None:
    """Try what is missing, and print a table of the outcomes and the faults."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    results = read_results(OUTPUT)
    for kind in sys.argv[1:] or KINDS:
        try_kind(kind, results)
        write_results(OUTPUT, dict(sorted(results.items())))
        print(f"{kind}: done", flush=True)
    for case, result in results.items():
        if result["outcome"] == "FAULT":
            print(case, result)
    print(table(results))


if __name__ == "__main__":
    main()
