"""The folder of a run: metrics, learning curve, and the state from which the run is resumed.

A state lies in a folder resume-NNNNNNNN, one for each finished step. It is written to a temporary folder, which is
renamed when it is complete; the last complete state is kept. A run that was ended anywhere continues from it. The state
is the file trainer.pt, whose SHA-256 is beside it, and one file for each ground state, whose SHA-256 is in trainer.pt.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError

from ...folder_lock import hold_folder
from ...ranks import Ranks
from ...regular_files import check_replaceable, complete_or_absent, read_regular_file
from ..identity import check_identity
from ..tensor_files import load_tensors, save_tensors
from ..warm import WarmCalculators
from .metrics import Totals, plot_learning_curve

METRICS, STATE, DIGEST = "metrics.jsonl", "trainer.pt", "trainer.sha256"


@dataclass
class Best:
    """The epoch with the lowest validation loss."""

    loss: float = math.inf
    failed: list[str] = field(default_factory=list)  # validation records that failed in it
    epoch: int = 0


@dataclass
class Progress:
    """Position of a run and its results so far."""

    best: Best
    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the running epoch
    total: int = 0  # finished steps of all epochs
    seconds: float = 0.0  # time of the running epoch so far
    totals: Totals = field(default_factory=Totals)  # of the running epoch so far
    history: list[dict[str, Any]] = field(default_factory=list)  # metrics of the finished epochs

    @classmethod
    def fromdict(cls, data: Mapping[str, Any]) -> "Progress":
        """Return the progress of which `dataclasses.asdict` returned the data."""
        return cls(**{**data, "best": Best(**data["best"]), "totals": Totals(**data["totals"])})


class RunFolder:
    """The folder of a run, which all ranks see and rank 0 writes, except for the ground states.

    Parameters
    ----------
    path : Path
        The folder; it is created if necessary, and incomplete states of an interrupted run are removed.
    ranks : Ranks
        The processes of the run.

    Raises
    ------
    InputError
        If another run is using the folder.
    """

    def __init__(self, path: Path, ranks: Ranks) -> None:
        self.path, self._ranks = path, ranks
        ranks.first(lambda: hold_folder(self, path))
        self._latest = ranks.first(lambda: _prepare(path))  # folder of the last complete state

    def read_state(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the last complete state, with the metrics as they were at its time; None if there is no state.

        Raises
        ------
        InputError
            If the run was started with arguments other than those in `identity`, or if a file is damaged.
        """
        if self._latest is None:
            return None
        state = _load_state(self._latest)
        try:
            check_identity(state["identity"], identity, f"the run in {self.path}")
        except InputError as error:
            raise InputError(f"{error}. Use another folder, or the arguments that the run was started with") from error
        self._ranks.first(lambda: _rewrite(self.path / METRICS, state["progress"]["history"]))
        return state

    def load_ground_states(self, warm: WarmCalculators, state: Mapping[str, Any], records: Mapping[str, Any]) -> None:
        """Load the ground states of these records, by name, that were written with a state of `read_state`."""
        assert self._latest is not None
        with _advice(self._latest):
            warm.load(self._latest, state["ground_states"], records)

    def write_state(self, number: int, state: Mapping[str, Any], warm: WarmCalculators) -> None:
        """Write a complete state, each rank its ground states, and remove the one before."""
        final = self.path / f"resume-{number:08d}"
        temporary = final.with_suffix(".tmp")
        self._ranks.first(lambda: _make_empty(temporary))
        parts = self._ranks.gather(lambda: warm.save(temporary, self._latest))
        ground_states = {name: digest for part in parts for name, digest in part.items()}
        self._ranks.first(lambda: self._complete(temporary, final, {**state, "ground_states": ground_states}))
        self._latest = final

    def _complete(self, temporary: Path, final: Path, state: dict[str, Any]) -> None:
        (temporary / DIGEST).write_text(save_tensors(state, temporary / STATE))
        temporary.rename(final)
        for older in _complete_states(self.path)[:-1]:
            shutil.rmtree(older)

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Append the metrics of the last epoch to metrics.jsonl, and plot the learning curve."""
        self._ranks.first(lambda: self._append_metrics(history))

    def _append_metrics(self, history: list[dict[str, Any]]) -> None:
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(history[-1]) + "\n")
        plot_learning_curve(history, self.path / "learning-curve.png")


def _prepare(folder: Path) -> Path | None:
    """Create the folder or remove incomplete states from it; return the last complete state."""
    folder.mkdir(parents=True, exist_ok=True)
    for incomplete in folder.glob("resume-*.tmp"):
        shutil.rmtree(incomplete)
    complete = _complete_states(folder)
    if not complete:
        (folder / METRICS).unlink(missing_ok=True)
    return complete[-1] if complete else None


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _complete_states(folder: Path) -> list[Path]:
    """Return the folders of complete states, the latest last."""
    return sorted(path for path in folder.glob("resume-*") if path.suffix != ".tmp")


def _load_state(folder: Path) -> dict[str, Any]:
    with _advice(folder):
        try:
            digest = read_regular_file(folder / DIGEST, 100).decode(errors="replace").strip()
        except OSError as error:
            raise InputError(f"{folder / DIGEST} cannot be read: {error.strerror}") from error
        state: dict[str, Any] = load_tensors(folder / STATE, digest)
        return state


@contextmanager
def _advice(folder: Path) -> Iterator[None]:
    """Add to the message of a damaged file what to do."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}. Restore the file, or remove {folder} to train from the start") from error


def _rewrite(metrics: Path, history: list[dict[str, Any]]) -> None:
    """Make a file of metrics that of a state, without the lines of an epoch that is repeated."""
    try:
        check_replaceable(metrics)
    except OSError as error:
        raise InputError(f"{metrics} cannot be written: {error.strerror}. Remove it") from error
    with complete_or_absent(metrics) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
