"""The trainer: parameters of a functional from records, through the self-consistent free energies of a calculator.

A step takes the gradient of the loss of some records, mean over these, and gives it to a torch optimizer. After every
step all that is needed to go on lies in the folder of the run, so that a run that was ended anywhere, and is started
again, ends at the same parameters.
"""

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from ase.calculators.calculator import CalculationFailed, InputError
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ..calculator import NNXCCalculator, _device
from ..checkpoints import save_functional
from ..registry import pseudo_family
from ..xc import Functional, describe
from .objectives import OBJECTIVES, Objective
from .records import Record, digest, table_digests
from .warm import WarmCalculators

Loss = Callable[[Tensor, Record], Tensor]
Penalty = Callable[[Functional], Tensor]


class TrainingError(CalculationFailed):
    """Too many structures could not be calculated."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs : int
        Most passes over the training records.
    batch : int, optional
        Records in each step; default: all.
    fixed_density_epochs : int
        So many epochs at first keep the orbitals of the start, in training and validation: cheap, and good enough far
        from the goal.
    clip : float, optional
        Largest norm of the gradient; longer ones are shortened to it.
    patience : int, optional
        Stop when the validation loss has found no new minimum for so many epochs.
    tolerated_failures : float
        Share of the training records that may fail in an epoch; with more, the run stops.
    memory : float
        GiB of ground states to keep warm.
    seed : int
        Of the order of the records.
    """

    epochs: int = 100
    batch: int | None = None
    fixed_density_epochs: int = 0
    clip: float | None = None
    patience: int | None = None
    tolerated_failures: float = 0.3
    memory: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("fixed_density_epochs", 0), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}={value}: at least {least} is expected")
        if not 0 <= self.tolerated_failures <= 1 or self.memory < 0 or (self.clip is not None and not self.clip > 0):
            raise InputError("tolerated_failures is a share from 0 to 1, memory and clip are positive")


class Trainer:
    """Fits the trainable parameters of a calculator's functional, in place.

    Parameters
    ----------
    calculator : NNXCCalculator
        Its xc is the functional, with parameters that require a gradient.
    training : sequence of Record
        To fit.
    objectives : sequence of Objective or callable
        Their losses are added up; see `ase_nnxc.train.objectives`.
    validation : sequence of Record, optional
        Not fitted; the parameters that are kept are the best on these. Default: the training records.
    penalties : sequence of callable
        Of the functional, each a tensor () that is added to the loss of every step.
    optimizer : torch.optim.Optimizer, optional
        Of the functional's parameters. Default: Adam with a learning rate of 0.001.
    scheduler : optional
        One of torch.optim.lr_scheduler, stepped after each epoch.
    settings : Settings, optional
        How to train.
    folder : path, optional
        Gets metrics.jsonl, learning-curve.png and what a run needs to be resumed. A run that is found there, of the
        same records, functional and settings, is resumed.

    Attributes
    ----------
    history : list of dict
        One for each finished epoch, as written to the metrics.
    failures : dict of str to str
        Names of the records that failed, with the last message.

    Raises
    ------
    InputError
        If a parameter, a record or an objective makes no sense here: before anything runs.
    """

    def __init__(
        self,
        calculator: NNXCCalculator,
        training: Sequence[Record],
        objectives: Sequence[Loss],
        *,
        validation: Sequence[Record] | None = None,
        penalties: Sequence[Penalty] = (),
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        settings: Settings | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.calculator, self.settings = calculator, settings or Settings()
        self.functional = _trainable(calculator)
        self.training, self.objectives, self.penalties = list(training), list(objectives), list(penalties)
        self.validation = list(validation) if validation is not None else self.training
        self._check_records()
        parameters = [p for p in self.functional.parameters() if p.requires_grad]
        self.optimizer = optimizer or torch.optim.Adam(parameters, lr=1e-3)
        self.scheduler = scheduler
        self.folder = None if folder is None else Path(folder)
        self.history: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}
        self._warm = WarmCalculators(calculator, self.settings.memory)
        self._parameters = parameters
        self._epoch, self._step, self._total = 0, 0, 0  # steps of the epoch, and of all, that are done
        self._seconds = 0.0
        self._sums = _Sums()
        self._best = self._no_best()
        self._best_tensors = _copied(self.functional)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._resume()

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> list[dict[str, Any]]:
        """Train to the end; the functional then has the parameters that were best in the validation.

        Returns
        -------
        list of dict
            The metrics of each epoch.

        Raises
        ------
        TrainingError
            If too many structures fail.
        """
        steps = self.settings.epochs * len(self._batches())
        with tqdm(total=steps, initial=self._total, desc="training", unit="step", disable=None) as bar:
            while self._epoch < self.settings.epochs and not self._is_patience_over():
                self._run_epoch(bar)
        self.functional.load_state_dict(self._best_tensors)
        return self.history

    def _run_epoch(self, bar: "tqdm[Any]") -> None:
        clock = time.perf_counter()
        for batch in self._batches()[self._step :]:
            self._take_step(batch)
            self._step, self._total = self._step + 1, self._total + 1
            self._seconds, clock = self._seconds + time.perf_counter() - clock, time.perf_counter()
            self._write_resume()
            bar.update()
        metrics = self._end_epoch()
        metrics["seconds"] = round(self._seconds + time.perf_counter() - clock, 3)
        self.history.append(metrics)
        self._write_metrics(metrics)
        self._epoch, self._step, self._seconds, self._sums = self._epoch + 1, 0, 0.0, _Sums()
        self._write_resume()
        bar.set_postfix(loss=f"{metrics['loss']:.2e}", validation=f"{metrics['validation_loss']:.2e}", refresh=False)

    def _batches(self) -> list[list[Record]]:
        """The steps of this epoch: its order follows from the seed and its number, whatever happened before."""
        generator = torch.Generator(device="cpu").manual_seed(self.settings.seed + self._epoch)
        order = torch.randperm(len(self.training), generator=generator, device="cpu").tolist()
        size = self.settings.batch or len(order)
        return [[self.training[i] for i in order[k : k + size]] for k in range(0, len(order), size)]

    def _take_step(self, batch: Sequence[Record]) -> None:
        fixed_density = self._epoch < self.settings.fixed_density_epochs
        sums = _Sums()

        def closure() -> float:
            nonlocal sums
            self.optimizer.zero_grad()
            sums = self._backward(batch, fixed_density)
            return sums.loss / sums.count

        try:
            self.optimizer.step(closure)
        except _NothingToLearn as stop:
            sums = _Sums(failed=stop.failed)  # parameters stay
        self._sums.add(sums)

    def _backward(self, batch: Sequence[Record], fixed_density: bool) -> "_Sums":
        """Put the gradient of the mean loss of the records that succeed, and of the penalties, on the parameters."""
        sums = self._evaluate(batch, fixed_density, backward=True)
        if sums.count == 0:
            raise _NothingToLearn(sums.failed)
        for p in self._parameters:
            if p.grad is not None:
                p.grad /= sums.count
        for penalty in self.penalties:
            value = penalty(self.functional)
            value.backward()
            sums.loss += float(value.detach()) * sums.count
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        if not norm.isfinite():
            self._report(batch, "the gradient is not finite")
            raise _NothingToLearn([record.name for record in batch])
        if self.settings.clip is not None:
            for gradient in gradients:
                gradient *= (self.settings.clip / norm).clamp(max=1)
        return sums

    def _evaluate(self, records: Sequence[Record], fixed_density: bool = False, backward: bool = False) -> "_Sums":
        """Losses and errors of the records; those that fail are told and left out."""
        sums = _Sums()
        for record in records:
            try:
                energies = self._warm.energies(record, fixed_density)
                loss = torch.stack([o(energies, record) for o in self._objectives_of(record)]).sum()
                if not loss.isfinite():
                    raise CalculationFailed("the loss is not finite")
            except (CalculationFailed, InputError, ValueError) as error:  # ValueError: a curve without minimum
                self._report([record], str(error))
                sums.failed.append(record.name)
                continue
            if backward:
                loss.backward()
            sums.add_record(float(loss.detach()), self._squared_errors(energies.detach(), record))
        return sums

    def _objectives_of(self, record: Record) -> list[Loss]:
        return [o for o in self.objectives if not isinstance(o, Objective) or o.applies(record)]

    def _squared_errors(self, energies: Tensor, record: Record) -> dict[str, float]:
        """Mean squared error of each objective that tells errors."""
        own = [o for o in self._objectives_of(record) if isinstance(o, Objective)]
        return {_label(o): float(o.errors(energies, record).square().mean()) for o in own}

    def _report(self, records: Sequence[Record], message: str) -> None:
        """Tell of records that failed: the first time by a warning."""
        for record in records:
            if record.name not in self.failures:
                warnings.warn(f"record {record.name!r} is left out: {message}", stacklevel=4)
            self.failures[record.name] = message

    # -- the end of an epoch ---------------------------------------------------------------------------------------

    def _end_epoch(self) -> dict[str, Any]:
        failed = sorted(set(self._sums.failed))
        if len(failed) > self.settings.tolerated_failures * len(self.training):
            told = "; ".join(f"{name}: {self.failures[name]}" for name in failed)
            raise TrainingError(
                f"{len(failed)} of {len(self.training)} records failed in epoch {self._epoch + 1}: {told}"
            )
        if self._epoch == self.settings.fixed_density_epochs:
            self._best |= self._no_best()  # what was good at fixed densities need not be
        validation = self._evaluate(self.validation, self._epoch < self.settings.fixed_density_epochs)
        loss = validation.loss / validation.count if validation.count else math.inf
        # without a record that was there before, a loss says nothing of an improvement
        if loss < self._best["loss"] and set(validation.failed) <= set(self._best["failed"]):
            self._best = {"loss": loss, "failed": validation.failed, "epoch": self._epoch + 1}
            self._best_tensors = _copied(self.functional)
        rate = self.optimizer.param_groups[0]["lr"]
        self._step_scheduler(loss)
        return {
            "epoch": self._epoch + 1,
            "loss": self._sums.loss / self._sums.count if self._sums.count else math.inf,
            "validation_loss": loss,
            "errors": self._sums.errors(),
            "validation_errors": validation.errors(),
            "failed": sorted({*failed, *validation.failed}),
            "learning_rate": rate,
        }

    def _step_scheduler(self, validation_loss: float) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(validation_loss)
        elif self.scheduler is not None:
            with warnings.catch_warnings():  # of a resumed run it believes that the optimizer has done nothing
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self.scheduler.step()

    def _no_best(self) -> dict[str, Any]:
        return {"loss": math.inf, "failed": [record.name for record in self.validation], "epoch": self._epoch}

    def _is_patience_over(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self._epoch - self._best["epoch"] >= patience

    def _write_metrics(self, metrics: dict[str, Any]) -> None:
        if self.folder is None:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        plot_learning_curve(self.history, self.folder / "learning-curve.png")

    def save(
        self, root: str | os.PathLike[str], *, name: str, version: int = 1, description: str, **fields: Any
    ) -> Path:
        """Write the functional as a checkpoint, with a card of data, settings, metrics and time.

        Parameters
        ----------
        root, name, version, description
            As for `save_functional`.
        **fields
            Others of it, but training and metrics.
        """
        best = next((m for m in self.history if m["epoch"] == self._best["epoch"]), {})
        training = {
            "records": [record.name for record in self.training],
            "data_sha256": digest(self.training),
            "validation_sha256": digest(self.validation),
            "objectives": [_label(o) for o in self.objectives],
            "optimizer": type(self.optimizer).__name__,
            "settings": asdict(self.settings),
            "calculator": self._plain_parameters(),
            "epochs": len(self.history),
            "seconds": round(sum(m["seconds"] for m in self.history), 1),
            "failed": self.failures,
        }
        fields = {"pseudos": f"gth-{pseudo_family(self.functional)}", **fields}
        metrics = {key: value for key, value in best.items() if key != "seconds"}
        return save_functional(
            self.functional,
            root,
            name=name,
            version=version,
            description=description,
            training=training,
            metrics=metrics,
            **fields,
        )

    def _plain_parameters(self) -> dict[str, Any]:
        neutral = ("xc", "txt", "device")
        return json.loads(json.dumps({k: v for k, v in self.calculator.parameters.items() if k not in neutral}))

    # -- checks ----------------------------------------------------------------------------------------------------

    def _check_records(self) -> None:
        """InputError for records that no objective reads, and for absolute energies of other potentials."""
        if not self.training or not self.validation or not self.objectives:
            raise InputError("records and objectives are needed: there are none")
        both = {record.name: record for record in (*self.training, *self.validation)}
        if len(both) < len({id(record) for record in (*self.training, *self.validation)}):
            raise InputError("two records, of training and validation together, have one name")
        for record in both.values():
            applying = self._objectives_of(record)
            if not applying:
                told = ", ".join(record.targets) or "nothing"
                raise InputError(f"no objective reads record {record.name!r}, which tells {told}")
            if any(isinstance(o, Objective) and o.absolute for o in applying):
                self._check_tables(record)

    def _check_tables(self, record: Record) -> None:
        symbol = _other_table(record, self.calculator)
        if symbol is not None:
            raise InputError(
                f"absolute energies of record {record.name!r} ({record.provenance.code}) cannot be compared: "
                f"its pseudopotential of {symbol} is another one, or not told. Use differences of energies"
            )

    # -- resuming --------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed, as plain data."""
        changeable = ("epochs", "patience", "memory", "tolerated_failures")
        return {
            "records": digest(self.training),
            "validation records": digest(self.validation),
            "functional": json.dumps(describe(self.functional)["architecture"]),
            "objectives": str([_label(o) for o in self.objectives]),
            "optimizer": type(self.optimizer).__name__,
            "settings": json.dumps({k: v for k, v in asdict(self.settings).items() if k not in changeable}),
            "calculator": json.dumps(self._plain_parameters()),
        }

    def _write_resume(self) -> None:
        """Write all that is needed to go on to a new folder, and rename it when it is complete."""
        if self.folder is None:
            return
        older = _resume_folders(self.folder)
        final = self.folder / f"resume-{self._total + self._epoch:08d}"
        temporary = final.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        names = self._warm.save(temporary, older[-1] if older else None)
        metrics = self.folder / "metrics.jsonl"
        torch.save(
            {
                "identity": self._identity(),
                "functional": self.functional.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                "place": [self._epoch, self._step, self._total],
                "seconds": self._seconds,
                "sums": asdict(self._sums),
                "history": self.history,
                "failures": self.failures,
                "best": self._best,
                "best_tensors": self._best_tensors,
                "warm": names,
                "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
            },
            temporary / "trainer.pt",
        )
        temporary.rename(final)
        for folder in older:
            shutil.rmtree(folder)

    def _resume(self) -> None:
        """Take up the run that the folder holds, if it holds one."""
        assert self.folder is not None
        for leftover in self.folder.glob("resume-*.tmp"):
            shutil.rmtree(leftover)
        folders = _resume_folders(self.folder)
        metrics = self.folder / "metrics.jsonl"
        if not folders:
            metrics.unlink(missing_ok=True)
            return
        data = torch.load(folders[-1] / "trainer.pt", weights_only=True)
        for what, value in self._identity().items():
            if data["identity"][what] != value:
                raise InputError(f"{self.folder} holds a run with other {what}: take another folder, or remove it")
        self.functional.load_state_dict(data["functional"])
        self.optimizer.load_state_dict(data["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(data["scheduler"])
        self._epoch, self._step, self._total = data["place"]
        self._seconds, self._sums = data["seconds"], _Sums(**data["sums"])
        self.history, self.failures = data["history"], data["failures"]
        self._best, self._best_tensors = data["best"], data["best_tensors"]
        records = {record.name: record for record in (*self.training, *self.validation)}
        self._warm.load(folders[-1], data["warm"], records)
        if metrics.exists():
            os.truncate(metrics, data["metrics_bytes"])  # lines of an epoch that is done again


class _NothingToLearn(Exception):
    """No record of a step gave a finite gradient; `failed` are their names."""

    def __init__(self, failed: list[str]) -> None:
        super().__init__()
        self.failed = failed


@dataclass
class _Sums:
    """Of losses and squared errors over records."""

    loss: float = 0.0
    count: int = 0
    squares: dict[str, float] = field(default_factory=dict)  # by objective
    counts: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def add_record(self, loss: float, squares: Mapping[str, float]) -> None:
        """One more record that succeeded."""
        self.add(_Sums(loss, 1, dict(squares), dict.fromkeys(squares, 1)))

    def add(self, other: "_Sums") -> None:
        """All of another."""
        self.loss, self.count = self.loss + other.loss, self.count + other.count
        for name, square in other.squares.items():
            self.squares[name] = self.squares.get(name, 0.0) + square
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]
        self.failed += other.failed

    def errors(self) -> dict[str, float]:
        """Root mean square error of each objective, in its unit."""
        return {name: math.sqrt(square / self.counts[name]) for name, square in self.squares.items()}


def _resume_folders(folder: Path) -> list[Path]:
    """Complete ones, the latest last."""
    return sorted(path for path in folder.glob("resume-*") if path.suffix != ".tmp")


def _copied(functional: Functional) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in functional.state_dict().items()}


def _label(objective: Loss) -> str:
    """The name of an objective in metrics."""
    for name, cls in OBJECTIVES.items():
        if type(objective) is cls:
            return name
    return getattr(objective, "__name__", type(objective).__name__)


def _trainable(calculator: NNXCCalculator) -> Functional:
    """The functional that a calculator was given as an object, with something to train and on its device."""
    functional = calculator.parameters["xc"]
    if not isinstance(functional, Functional):
        raise InputError(f"xc={functional!r}: give the calculator a Functional object, to be trained in place")
    parameters = [p for p in functional.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"{type(functional).__name__} has no parameters that require a gradient")
    device = _device(calculator.parameters["device"])
    if any(p.device != device for p in parameters):
        raise InputError(f"the functional is on {parameters[0].device}, the calculator computes on {device}")
    return functional


def _other_table(record: Record, calculator: NNXCCalculator) -> str | None:
    """An element whose pseudopotential the record's energies are not known to share, if there is one."""
    for atoms in record.structures:
        for symbol, own in table_digests(atoms, calculator).items():
            if record.provenance.tables.get(symbol) != own:
                return symbol
    return None


def evaluate(calculator: NNXCCalculator, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Errors of a calculator's free energies on records, by every objective that can be told.

    Absolute energies are compared where the record's were made with the same pseudopotentials.

    Parameters
    ----------
    calculator : NNXCCalculator
        With any functional.
    records : sequence of Record
        With targets.

    Returns
    -------
    list of dict
        Of each record its name ("record"), and "errors": the root mean square ("rms") and "unit" of each objective;
        or "error": why it could not be calculated.
    """
    warm, rows = WarmCalculators(calculator, memory=1.0), []
    for record in tqdm(records, desc="records", disable=None):
        row: dict[str, Any] = {"record": record.name}
        try:
            same = _other_table(record, calculator) is None
            energies = warm.energies(record).detach()
            chosen = {n: make() for n, make in OBJECTIVES.items() if same or not make.absolute}
            squares = {n: o.errors(energies, record).square().mean() for n, o in chosen.items() if o.applies(record)}
            row["errors"] = {n: {"rms": math.sqrt(s), "unit": chosen[n].unit} for n, s in squares.items()}
        except (CalculationFailed, InputError, ValueError) as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


def plot_learning_curve(history: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw loss and validation loss against the epoch.

    Parameters
    ----------
    history : sequence of dict
        Metrics of the epochs.
    path : path
        Of the picture.
    """
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for key, name in (("loss", "training"), ("validation_loss", "validation")):
        axes.semilogy([m["epoch"] for m in history], [m[key] for m in history], ".-", label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend()
    figure.savefig(path, dpi=150)
