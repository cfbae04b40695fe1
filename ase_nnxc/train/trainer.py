"""The trainer: parameters of a functional from records, through the self-consistent free energies of a calculator.

A step takes the gradient of the loss of some records, mean over these, and gives it to a torch optimizer. After every
step all that is needed to go on lies in the folder of the run, so that a run that was ended anywhere, and is started
again, ends at the same parameters: random numbers follow from the seed and the number of the step.

Started by `torchrun`, each process calculates records of its own, the same ones in all epochs, gradients and losses are
added up, and all take the same step.
"""

import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import CalculationFailed, InputError
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ..calculator import NNXCCalculator, torch_device
from ..checkpoints import save_functional
from ..ks.response import ResponseError
from ..registry import pseudo_family
from ..xc import Functional, describe
from .objectives import OBJECTIVES, Objective
from .prediction import Prediction
from .ranks import Ranks, shares
from .records import Record, digest
from .warm import WarmCalculators

Loss = Callable[[Prediction, Record], Tensor]
Penalty = Callable[[Functional], Tensor]

_FAILURES = (CalculationFailed, InputError, ResponseError, ValueError)  # of a record; ValueError: no minimum of a curve


class TrainingError(CalculationFailed):
    """Too many structures could not be calculated, or a penalty could not."""


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
        from the goal. Only energies are known of these; objectives that read more are left out there.
    clip : float, optional
        Largest norm of the gradient; longer ones are shortened to it.
    patience : int, optional
        Stop when the validation loss has found no new minimum for so many epochs.
    tolerated_failures : float
        Share of the training records that may fail in an epoch; with more, the run stops.
    memory : float
        GiB of ground states to keep warm, on each rank.
    seed : int
        Of the order of the records, and of the random numbers that objectives and penalties draw from torch.
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
        same records, functional, objectives, penalties, optimizer, scheduler and settings, is resumed. All ranks must
        see it.

    Attributes
    ----------
    history : list of dict
        One for each finished epoch, as written to the metrics.
    failures : dict of str to str
        Names of the records that failed, with the last message.
    rank : int
        Number of this process among those that train together; 0 writes files, warnings and progress.

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
        self._labels = _labels(self.objectives)
        self._check_records()
        self._parameters = [p for p in self.functional.parameters() if p.requires_grad]
        self.optimizer = optimizer or torch.optim.Adam(self._parameters, lr=1e-3)
        self._check_optimizer()
        self.scheduler = scheduler
        self.folder = None if folder is None else Path(folder)
        self.history: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}
        self._warm = WarmCalculators(calculator, self.settings.memory)
        self._epoch, self._step, self._total = 0, 0, 0  # steps of the epoch, and of all, that are done
        self._seconds = 0.0
        self._sums = _Sums()
        self._best = self._no_best()
        self._identity = self._make_identity()
        self._ranks = Ranks()
        self.rank = self._ranks.number
        self._own = self._join()
        self._best_tensors = _copied(self.functional)
        self._latest: Path | None = None  # the last complete resume folder
        if self.folder is not None:
            self._resume(self.folder)

    def _join(self) -> set[str]:
        """Begin as rank 0 does; the names of the records that are this rank's."""
        for identity in self._ranks.gather(lambda: self._identity):
            _compare(identity, self._identity, "other ranks have other {}")
        self.functional.load_state_dict(self._ranks.first(lambda: _copied(self.functional, "cpu")))
        trained = {record.name for record in self.training}
        others = [record for record in self.validation if record.name not in trained]
        ranks = shares(self.training, self._ranks.count) | shares(others, self._ranks.count)
        return {name for name, rank in ranks.items() if rank == self.rank}

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
        quiet = True if self.rank else None  # None: on terminals only
        with tqdm(total=steps, initial=self._total, desc="training", unit="step", disable=quiet) as bar:
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
        self._ranks.first(lambda: self._write_metrics(metrics))
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
        start = [p.detach().clone() for p in self._parameters]
        sums = _Sums()

        def closure() -> float:
            nonlocal sums
            self.optimizer.zero_grad()
            sums = self._backward(batch, fixed_density)
            return sums.mean()

        try:
            self.optimizer.step(closure)
        except _NothingToLearn as stop:
            sums = _Sums(failed=stop.failed)
            with torch.no_grad():  # the optimizer may have tried others
                for p, old in zip(self._parameters, start):
                    p.copy_(old)
        self._sums.add(sums)

    def _backward(self, batch: Sequence[Record], fixed_density: bool) -> "_Sums":
        """Put the gradient of the mean loss of the records that succeed, and of the penalties, on the parameters."""
        sums, gradient = self._evaluate(batch, fixed_density, with_gradient=True)
        if sums.count == 0:
            raise _NothingToLearn(sums.failed)
        gradient /= sums.count
        if self.penalties:
            value, slope = self._ranks.first(self._penalise)
            sums.loss += value * sums.count
            gradient += slope
        if self.settings.clip is not None:
            gradient *= (self.settings.clip / gradient.norm()).clamp(max=1)
        for p, part in zip(self._parameters, gradient.split([p.numel() for p in self._parameters])):
            p.grad = part.view_as(p).to(p)
        return sums

    def _evaluate(
        self, records: Sequence[Record], fixed_density: bool = False, with_gradient: bool = False
    ) -> "tuple[_Sums, Tensor]":
        """Losses and errors, and the gradient (nparameters,), summed over the records that do not fail, of all ranks.

        Records that fail are told and left out.
        """
        own = [record for record in records if record.name in self._own]
        sums, gradient = _Sums(), _no_gradient(self._parameters)
        for part, slope in self._ranks.gather(lambda: self._evaluate_own(own, fixed_density, with_gradient)):
            sums.add(part)
            gradient += slope
        self._report(sums.failed)
        return sums, gradient

    def _evaluate_own(
        self, records: Sequence[Record], fixed_density: bool, with_gradient: bool
    ) -> "tuple[_Sums, Tensor]":
        """Those sums over records of this rank."""
        sums, gradient = _Sums(), _no_gradient(self._parameters)
        for record in records:
            try:
                with self._random_numbers(record.name):
                    prediction = self._warm.predict(record, fixed_density)
                    reading = self._reading(record, fixed_density)
                    loss = torch.stack([o(prediction, record) for _, o in reading]).sum()
                    slope = (_gradient if with_gradient else _no_gradient)(self._parameters, loss)
                    if not (loss.isfinite() and slope.isfinite().all()):
                        raise CalculationFailed("the loss or its gradient is not finite")
                squares = _squared_errors(prediction, record, reading)
                sums.add(_Sums(float(loss.detach()), 1, squares, dict.fromkeys(squares, 1)))
                gradient += slope  # now that nothing has failed
            except _FAILURES as error:
                sums.failed[record.name] = str(error)
        return sums, gradient

    def _penalise(self) -> tuple[float, Tensor]:
        """The sum of the penalties and its gradient (nparameters,)."""
        with self._random_numbers("penalties"):
            value = torch.stack([penalty(self.functional) for penalty in self.penalties]).sum()
            slope = _gradient(self._parameters, value)
        if not (value.isfinite() and slope.isfinite().all()):
            raise TrainingError("a penalty or its gradient is not finite")
        return float(value.detach()), slope

    @contextmanager
    def _random_numbers(self, what: str) -> Iterator[None]:
        """Let what is drawn from torch's generators follow from the seed and the step; they end as they were."""
        seed = hashlib.sha256(f"{self.settings.seed} {self._total} {what}".encode()).digest()
        device = self._parameters[0].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(int.from_bytes(seed[:7], "big"))
            if device.type == "cuda":
                torch.cuda.default_generators[device.index].manual_seed(int.from_bytes(seed[:7], "big"))
            yield

    def _reading(self, record: Record, fixed_density: bool = False) -> list[tuple[str, Loss]]:
        """Labels and objectives of those that read the record, and can where orbitals are kept."""

        def reads(objective: Loss) -> bool:
            if not isinstance(objective, Objective):
                return True
            return objective.applies(record) and not (fixed_density and objective.response)

        return [(label, o) for label, o in zip(self._labels, self.objectives) if reads(o)]

    def _report(self, failed: Mapping[str, str]) -> None:
        """Tell of records that failed: the first time by a warning."""
        new = {name: message for name, message in failed.items() if name not in self.failures}
        if new:
            self._ranks.first(lambda: _warn(new))
        self.failures |= failed

    # -- the end of an epoch ---------------------------------------------------------------------------------------

    def _end_epoch(self) -> dict[str, Any]:
        failed = sorted(self._sums.failed)
        if len(failed) > self.settings.tolerated_failures * len(self.training):
            told = "; ".join(f"{name}: {self.failures[name]}" for name in failed)
            raise TrainingError(
                f"{len(failed)} of {len(self.training)} records failed in epoch {self._epoch + 1}: {told}"
            )
        if self._epoch == self.settings.fixed_density_epochs:
            self._best |= self._no_best()  # what was good at fixed densities need not be
        validation, _ = self._evaluate(self.validation, self._epoch < self.settings.fixed_density_epochs)
        loss = validation.mean()
        # without a record that was there before, a loss says nothing of an improvement
        if loss < self._best["loss"] and validation.failed.keys() <= set(self._best["failed"]):
            self._best = {"loss": loss, "failed": list(validation.failed), "epoch": self._epoch + 1}
            self._best_tensors = _copied(self.functional)
        rate = self.optimizer.param_groups[0]["lr"]
        self._step_scheduler(loss)
        return {
            "epoch": self._epoch + 1,
            "loss": self._sums.mean(),
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
        """Write the functional as a checkpoint, with a card of data, objectives, settings, metrics and time.

        Where several ranks train, all must call it.

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
            **{name: self._identity[name] for name in ("objectives", "penalties", "optimizer", "scheduler")},
            "settings": asdict(self.settings),
            "calculator": self._plain_parameters(),
            "epochs": len(self.history),
            "seconds": round(sum(m["seconds"] for m in self.history), 1),
            "failed": self.failures,
        }
        fields = {"pseudos": f"gth-{pseudo_family(self.functional)}", **fields}
        metrics = {key: _facts(value) for key, value in best.items() if key != "seconds"}
        fields |= {"name": name, "version": version, "description": description}
        return self._ranks.first(
            lambda: save_functional(self.functional, root, training=training, metrics=metrics, **fields)
        )

    def _plain_parameters(self) -> dict[str, Any]:
        neutral = ("xc", "txt", "device")
        return json.loads(json.dumps({k: v for k, v in self.calculator.parameters.items() if k not in neutral}))

    # -- checks ----------------------------------------------------------------------------------------------------

    def _check_records(self) -> None:
        """InputError for records that no objective reads, and for those that cannot be compared."""
        if not self.training or not self.validation or not self.objectives:
            raise InputError("records and objectives are needed: there are none")
        both = {record.name: record for record in (*self.training, *self.validation)}
        if len(both) < len({id(record) for record in (*self.training, *self.validation)}):
            raise InputError("two records, of training and validation together, have one name")
        for record in both.values():
            reading = [objective for _, objective in self._reading(record)]
            if not reading:
                told = ", ".join(record.targets) or "nothing"
                raise InputError(f"no objective reads record {record.name!r}, which tells {told}")
            for obstacle in (o.obstacle(record, self.calculator) for o in reading if isinstance(o, Objective)):
                if obstacle is not None:
                    raise InputError(obstacle)
            if self.settings.fixed_density_epochs and not self._reading(record, fixed_density=True):
                raise InputError(
                    f"record {record.name!r} tells no energies, so that no objective reads it at fixed densities: set "
                    "fixed_density_epochs=0"
                )

    def _check_optimizer(self) -> None:
        """InputError for an optimizer that moves nothing of the functional."""
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not any(id(p) in held for p in self._parameters):
            raise InputError("the optimizer holds no parameter of the calculator's functional: make it of these")

    # -- resuming --------------------------------------------------------------------------------------------------

    def _make_identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed, as plain data; of a run that has not begun."""
        changeable = ("epochs", "patience", "memory", "tolerated_failures")
        groups = self.optimizer.state_dict()["param_groups"]
        optimizer = [{key: _facts(value) for key, value in group.items() if key != "params"} for group in groups]
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {
            "records": digest(self.training),
            "validation records": digest(self.validation),
            "functional": _facts(describe(self.functional)),
            "objectives": {label: _facts(objective) for label, objective in zip(self._labels, self.objectives)},
            "penalties": [_facts(penalty) for penalty in self.penalties],
            "optimizer": {"class": type(self.optimizer).__name__, "groups": optimizer},
            "scheduler": scheduler and {"class": type(self.scheduler).__name__, "state": _facts(scheduler)},
            "settings": {key: value for key, value in asdict(self.settings).items() if key not in changeable},
            "calculator": self._plain_parameters(),
        }

    def _write_resume(self) -> None:
        """Write all that is needed to go on to a new folder, each rank its ground states, and rename it at the end."""
        if self.folder is None:
            return
        final = self.folder / f"resume-{self._total + self._epoch:08d}"
        temporary = final.with_suffix(".tmp")
        self._ranks.first(lambda: _make_anew(temporary))
        shares = self._ranks.gather(lambda: self._warm.save(temporary, self._latest))
        ground_states = [name for share in shares for name in share]
        self._ranks.first(lambda: self._complete_resume(temporary, final, ground_states))
        self._latest = final

    def _complete_resume(self, temporary: Path, final: Path, ground_states: list[str]) -> None:
        metrics = final.parent / "metrics.jsonl"
        data = {
            "identity": self._identity,
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
            "warm": ground_states,
            "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
        }
        torch.save(data, temporary / "trainer.pt")
        temporary.rename(final)
        for older in _resume_folders(final.parent)[:-1]:
            shutil.rmtree(older)

    def _resume(self, folder: Path) -> None:
        """Take up the run that the folder holds, if it holds one."""
        self._latest = self._ranks.first(lambda: _clean(folder))
        if self._latest is None:
            return
        data = torch.load(self._latest / "trainer.pt", weights_only=True)
        _compare(data["identity"], self._identity, f"{folder} holds a run with other {{}}: take another folder")
        self.functional.load_state_dict(data["functional"])
        self.optimizer.load_state_dict(data["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(data["scheduler"])
        self._epoch, self._step, self._total = data["place"]
        self._seconds, self._sums = data["seconds"], _Sums(**data["sums"])
        self.history, self.failures = data["history"], data["failures"]
        self._best, self._best_tensors = data["best"], data["best_tensors"]
        own = {record.name: record for record in (*self.training, *self.validation) if record.name in self._own}
        self._warm.load(self._latest, data["warm"], own)
        self._ranks.first(lambda: _truncate(folder / "metrics.jsonl", data["metrics_bytes"]))


class _NothingToLearn(Exception):
    """All records of a step failed, for the reasons given by name."""

    def __init__(self, failed: dict[str, str]) -> None:
        super().__init__()
        self.failed = failed


@dataclass
class _Sums:
    """Of losses and squared errors over records."""

    loss: float = 0.0
    count: int = 0
    squares: dict[str, float] = field(default_factory=dict)  # by label of the objective
    counts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # why, by name of the record

    def add(self, other: "_Sums") -> None:
        """All of another."""
        self.loss, self.count = self.loss + other.loss, self.count + other.count
        for name, square in other.squares.items():
            self.squares[name] = self.squares.get(name, 0.0) + square
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]
        self.failed |= other.failed

    def mean(self) -> float:
        """Loss of a record; infinite if all have failed."""
        return self.loss / self.count if self.count else math.inf

    def errors(self) -> dict[str, float]:
        """Root mean square error of each objective, in its unit."""
        return {name: math.sqrt(square / self.counts[name]) for name, square in self.squares.items()}


def _gradient(parameters: Sequence[Tensor], loss: Tensor) -> Tensor:
    """(nparameters,) float64 on the CPU."""
    slopes = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([slope.flatten() for slope in slopes]).to("cpu", torch.float64)


def _no_gradient(parameters: Sequence[Tensor], _: Tensor | None = None) -> Tensor:
    return torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64, device="cpu")


def _warn(failed: Mapping[str, str]) -> None:
    for name, message in failed.items():
        warnings.warn(f"record {name!r} is left out: {message}", stacklevel=2)


def _clean(folder: Path) -> Path | None:
    """Make a run's folder, or remove what an interrupted run left half done; the newest complete resume folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("resume-*.tmp"):
        shutil.rmtree(leftover)
    complete = _resume_folders(folder)
    if not complete:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    return complete[-1] if complete else None


def _make_anew(folder: Path) -> None:
    """An empty folder, whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _resume_folders(folder: Path) -> list[Path]:
    """Complete ones, the latest last."""
    return sorted(path for path in folder.glob("resume-*") if path.suffix != ".tmp")


def _truncate(metrics: Path, size: int) -> None:
    """Remove lines of an epoch that is done again."""
    if metrics.exists():
        os.truncate(metrics, size)


def _compare(found: Mapping[str, Any], expected: Mapping[str, Any], complaint: str) -> None:
    """InputError, naming the first difference, unless two runs have the same identity."""
    for what, value in expected.items():
        if found.get(what) != value:
            raise InputError(complaint.format(what))


def _facts(thing: Any, inside: bool = False) -> Any:
    """Plain data by which a thing differs from others: of arrays the digest, of functions the name.

    Of an object the attributes; of objects in these the class, if they are no functionals.
    """
    if thing is None or isinstance(thing, bool | int | str):
        return thing
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else str(thing)
    if isinstance(thing, Tensor):
        return _facts(thing.detach().cpu().numpy())
    if isinstance(thing, np.ndarray | np.generic):
        return "sha256 " + hashlib.sha256(thing.tobytes()).hexdigest()
    if isinstance(thing, Mapping):
        return {str(key): _facts(value, inside) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_facts(value, inside) for value in thing]
    if isinstance(thing, partial):
        return _facts([thing.func, thing.args, thing.keywords])
    kind = thing if isinstance(thing, type | FunctionType | BuiltinFunctionType | MethodType) else type(thing)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(thing, torch.nn.Module):
        return {"class": name, **_facts(thing.state_dict())}
    if inside or kind is thing:
        return name
    return {"class": name, **_facts(getattr(thing, "__dict__", {}), inside=True)}


def _copied(functional: Functional, device: str | None = None) -> dict[str, Tensor]:
    return {name: tensor.detach().to(device, copy=True) for name, tensor in functional.state_dict().items()}


def _labels(objectives: Sequence[Loss]) -> list[str]:
    """Names of the objectives in metrics, the second of a name with "-2"."""
    seen: Counter[str] = Counter()
    labels = []
    for objective in objectives:
        name = _name(objective)
        seen[name] += 1
        labels.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return labels


def _name(objective: Loss) -> str:
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
    device = torch_device(calculator.parameters["device"])
    if any(p.device != device for p in parameters):
        raise InputError(f"the functional is on {parameters[0].device}, the calculator computes on {device}")
    return functional


def _squared_errors(prediction: Prediction, record: Record, reading: Sequence[tuple[str, Loss]]) -> dict[str, float]:
    """Mean squared error of each objective that tells errors, by its label."""
    own = [(label, o) for label, o in reading if isinstance(o, Objective)]
    with torch.no_grad():
        return {label: float(o.errors(prediction, record).square().mean()) for label, o in own}


def evaluate(calculator: NNXCCalculator, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Errors of a calculator's predictions on records, by every objective that can be told.

    Absolute energies and densities are compared where the record's were made with the same pseudopotentials.

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
            made: dict[str, Objective] = {name: cls() for name, cls in OBJECTIVES.items()}
            reading = [(n, o) for n, o in made.items() if o.applies(record) and not o.obstacle(record, calculator)]
            squares = _squared_errors(warm.predict(record), record, reading)
            row["errors"] = {n: {"rms": math.sqrt(s), "unit": made[n].unit} for n, s in squares.items()}
        except _FAILURES as error:
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
