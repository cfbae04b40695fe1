"""The trainer: fits the parameters of a functional to records, through the ground states of a calculator.

Each step takes the gradient of the mean loss of some records and passes it to an optimizer of torch. After every step,
the folder of the run holds all that is needed to continue, so that a run that was ended anywhere and is started again
ends at the same parameters: random numbers follow from the seed and the number of the step.

If `torchrun` starts several processes, each calculates its own records, the same ones in all epochs. Gradients and
losses are summed, and all processes take the same step.
"""

import math
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...calculator import NNXCCalculator
from ...checkpoints import save_functional
from ...pseudopotentials import is_family, is_generated
from ...ranks import world
from ...xc import Functional, NeuralFactors
from ..identity import check_identity, plain
from ..records import Record, digest, fixed_pseudos
from ..schema import writable_folder
from ..shares import shares
from ..warm import WarmCalculators
from .arguments import Arguments, trainable_functional
from .losses import AllRecordsFailed, Loss, LossFunction, Objectives, Penalty, TrainingError
from .metrics import Totals
from .resume import Best, Progress, RunFolder
from .settings import TrainerSettings


class Trainer:
    """Fits the trainable parameters of a calculator's functional, in place.

    Parameters
    ----------
    calculator : NNXCCalculator
        Its xc is the functional, with parameters that require a gradient.
    training : sequence of Record
        Records to fit.
    objectives : sequence of Objective or callable
        Their losses are summed; see `ase_nnxc.train.objectives`. With a folder, callables must be functions at the top
        level of a module or have a `config()`.
    validation : sequence of Record, optional
        Records that are not fitted; the parameters with the lowest loss on these are kept. Default: the training
        records.
    penalties : sequence of callable
        Functions of the functional that return a tensor (), which is added to the loss of every step; with a folder
        under the same condition as objectives.
    optimizer : torch.optim.Optimizer, optional
        Optimizer of the functional's parameters. Default: Adam with a learning rate of 0.001.
    scheduler : optional
        One of torch.optim.lr_scheduler, stepped after each epoch.
    settings : TrainerSettings, optional
        Settings of the run.
    folder : path, optional
        Folder for metrics.jsonl, learning-curve.png and the state of the run. If it holds a run with the same records,
        functional, objectives, penalties, optimizer, scheduler and settings, this run is resumed. All ranks must see
        it.

    Attributes
    ----------
    rank : int
        Number of this process among those that train together; 0 writes files, warnings and progress.

    Raises
    ------
    InputError
        If an argument is not valid, the folder cannot be written, or the run in it has other arguments; before anything
        is calculated.
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
        settings: TrainerSettings | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.calculator, self.settings = calculator, settings or TrainerSettings()
        self.functional = trainable_functional(calculator)
        self._parameters = [p for p in self.functional.parameters() if p.requires_grad]
        self.training, self.objectives, self.penalties = tuple(training), tuple(objectives), tuple(penalties)
        self.validation = tuple(validation) if validation is not None else self.training
        self.optimizer = optimizer or torch.optim.Adam(self._parameters, lr=1e-3)
        self.scheduler = scheduler
        self.folder = None if folder is None else Path(folder)
        arguments = Arguments(
            calculator=calculator,
            functional=self.functional,
            training=self.training,
            validation=self.validation,
            objectives=Objectives(self.objectives),
            penalties=self.penalties,
            optimizer=self.optimizer,
            scheduler=scheduler,
            settings=self.settings,
        )
        arguments.check()
        if self.folder is not None:
            arguments.check_comparable()
            writable_folder(self.folder, "folder")

        _forget_errors(self.functional)
        self._identity = arguments.identity()
        self._ranks = world()
        self.rank = self._ranks.number
        self._synchronise_ranks()
        self._warm = WarmCalculators(calculator, self.settings.memory)
        names = self._names_of_rank()
        self._loss = LossFunction(
            self.functional,
            arguments.objectives,
            self.penalties,
            warm=self._warm,
            ranks=self._ranks,
            names=names,
            seed=self.settings.seed,
        )
        self._progress = Progress(best=self._no_best(epoch=0))
        self._best_tensors = _copy_tensors(self.functional)
        self._run_folder = None if self.folder is None else RunFolder(self.folder, self._ranks)
        self._resume(names)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Metrics of each finished epoch, as written to metrics.jsonl."""
        return self._progress.history

    @property
    def failures(self) -> dict[str, str]:
        """Names of the records that failed, with the last message."""
        return self._loss.failures

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> list[dict[str, Any]]:
        """Train to the end; the functional then has the parameters with the lowest validation loss.

        Returns
        -------
        list of dict
            The metrics of each epoch.

        Raises
        ------
        TrainingError
            If too many records fail, if all of the validation do in all epochs, or if a penalty is not finite.
        ObjectiveError
            If an objective raises an exception that is not a failure of the calculation.
        """
        steps = self.settings.epochs * len(self._batches())
        disable = True if self.rank else None  # None: on terminals only
        with tqdm(total=steps, initial=self._progress.total, desc="training", unit="step", disable=disable) as bar:
            while self._progress.epoch < self.settings.epochs and not self._is_patience_over():
                self._run_epoch(bar)
        if self.history and math.isinf(self._progress.best.loss):
            names = {record.name for record in self.validation}
            failed = "; ".join(f"{name}: {message}" for name, message in self.failures.items() if name in names)
            raise TrainingError(f"no record of the validation could be calculated in any epoch: {failed}")
        self.functional.load_state_dict(self._best_tensors)
        return self.history

    def _run_epoch(self, bar: "tqdm[Any]") -> None:
        progress, clock = self._progress, time.perf_counter()
        for batch in self._batches()[progress.step :]:
            self._take_step(batch)
            progress.step, progress.total = progress.step + 1, progress.total + 1
            progress.seconds, clock = progress.seconds + time.perf_counter() - clock, time.perf_counter()
            self._write_state()
            bar.update()
        metrics = self._end_epoch()
        metrics["seconds"] = round(progress.seconds + time.perf_counter() - clock, 3)
        progress.history.append(metrics)
        if self._run_folder is not None:
            self._run_folder.write_metrics(self.history)
        progress.epoch, progress.step, progress.seconds, progress.totals = progress.epoch + 1, 0, 0.0, Totals()
        self._write_state()
        bar.set_postfix(loss=f"{metrics['loss']:.2e}", validation=f"{metrics['validation_loss']:.2e}", refresh=False)

    def _batches(self) -> list[list[Record]]:
        """Return the records of each step of this epoch; their order follows from the seed and the epoch alone."""
        generator = torch.Generator(device="cpu").manual_seed(self.settings.seed + self._progress.epoch)
        order = torch.randperm(len(self.training), generator=generator, device="cpu").tolist()
        size = self.settings.batch or len(order)
        return [[self.training[i] for i in order[k : k + size]] for k in range(0, len(order), size)]

    def _take_step(self, batch: Sequence[Record]) -> None:
        start = [p.detach().clone() for p in self._parameters]
        totals = Totals()

        def closure() -> float:
            nonlocal totals
            self.optimizer.zero_grad()
            totals = self._backward(batch)
            return totals.mean()

        try:
            self.optimizer.step(closure)
        except AllRecordsFailed as stop:
            totals = Totals(failed=stop.failed)
            with torch.no_grad():  # the optimizer may have tried other parameters
                for p, value in zip(self._parameters, start):
                    p.copy_(value)
        self._progress.totals.add(totals)

    def _backward(self, batch: Sequence[Record]) -> Totals:
        """Set the gradients of the parameters to those of the mean loss, clipped; return losses and errors."""
        totals, gradient = self._loss.mean_gradient(batch, self._progress.total, self._has_fixed_density())
        if self.settings.clip is not None:
            gradient *= (self.settings.clip / gradient.norm()).clamp(max=1)
        for p, part in zip(self._parameters, gradient.split([p.numel() for p in self._parameters])):
            p.grad = part.view_as(p).to(p)
        return totals

    def _has_fixed_density(self) -> bool:
        return self._progress.epoch < self.settings.fixed_density_epochs

    # -- the end of an epoch ---------------------------------------------------------------------------------------

    def _end_epoch(self) -> dict[str, Any]:
        """Validate the parameters, step the scheduler, and return the metrics."""
        progress = self._progress
        failed = sorted(progress.totals.failed)
        if len(failed) > self.settings.tolerated_failures * len(self.training):
            messages = "; ".join(f"{name}: {self.failures[name]}" for name in failed)
            raise TrainingError(
                f"{len(failed)} of {len(self.training)} records failed in epoch {progress.epoch + 1}: {messages}"
            )
        if progress.epoch == self.settings.fixed_density_epochs:
            progress.best = self._no_best(progress.epoch)  # losses at fixed densities are not comparable
        validation = self._loss.totals(self.validation, progress.total, self._has_fixed_density())
        loss = validation.mean()
        # a lower loss is an improvement only if no other record has failed
        if loss < progress.best.loss and validation.failed.keys() <= set(progress.best.failed):
            progress.best = Best(loss, list(validation.failed), progress.epoch + 1)
            self._best_tensors = _copy_tensors(self.functional)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        self._step_scheduler(loss)
        return {
            "epoch": progress.epoch + 1,
            "loss": progress.totals.mean(),
            "validation_loss": loss,
            "errors": progress.totals.errors(),
            "validation_errors": validation.errors(),
            "failed": sorted({*failed, *validation.failed}),
            "learning_rate": learning_rate,
        }

    def _step_scheduler(self, validation_loss: float) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(validation_loss)
        elif self.scheduler is not None:
            with warnings.catch_warnings():  # in a resumed run, it has not seen the optimizer's steps
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self.scheduler.step()

    def _no_best(self, epoch: int) -> Best:
        """Return the best epoch before any validation, in which all records count as failed."""
        return Best(failed=[record.name for record in self.validation], epoch=epoch)

    def _is_patience_over(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self._progress.epoch - self._progress.best.epoch >= patience

    # -- the result ------------------------------------------------------------------------------------------------

    def save(
        self, root: str | os.PathLike[str], *, name: str, version: int = 1, description: str, **fields: Any
    ) -> Path:
        """Write the functional as a checkpoint, with a card of data, objectives, settings, metrics and time.

        If several ranks train, all must call it.

        Parameters
        ----------
        root, name, version, description
            See `save_functional`.
        **fields
            Other keywords of `save_functional`, except training and metrics.

        Returns
        -------
        Path
            The folder of the checkpoint.
        """
        best = next((metrics for metrics in self.history if metrics["epoch"] == self._progress.best.epoch), {})
        training = {
            "records": [record.name for record in self.training],
            "data_sha256": digest(self.training),
            "validation_sha256": digest(self.validation),
            **{key: self._identity[key] for key in ("objectives", "penalties", "optimizer", "scheduler")},
            "settings": asdict(self.settings),
            "calculator": self._identity["calculator"],
            "epochs": len(self.history),
            "seconds": round(sum(metrics["seconds"] for metrics in self.history), 1),
            "failed": self.failures,
        }
        fields = {"pseudos": self._pseudos(), **fields}
        metrics = {key: plain(value) for key, value in best.items() if key != "seconds"}
        fields |= {"name": name, "version": version, "description": description}
        return self._ranks.first(
            lambda: save_functional(self.functional, root, training=training, metrics=metrics, **fields)
        )

    def _pseudos(self) -> str | None:
        """Return the pseudopotentials of the training, if there are some and one family or generation serves all."""
        if all(record.is_all_electron for record in self.training):
            return None
        pseudos = fixed_pseudos(self.calculator)
        return pseudos if isinstance(pseudos, str) and (is_generated(pseudos) or is_family(pseudos)) else None

    # -- the beginning ---------------------------------------------------------------------------------------------

    def _synchronise_ranks(self) -> None:
        """Start from the functional of rank 0 on all ranks, which must have the same arguments."""
        for rank, identity in enumerate(self._ranks.gather(lambda: self._identity)):
            check_identity(identity, self._identity, f"rank {rank}")
        self.functional.load_state_dict(self._ranks.first(lambda: _copy_tensors(self.functional, "cpu")))

    def _names_of_rank(self) -> set[str]:
        """Return the names of the records that this rank calculates."""
        training = {record.name for record in self.training}
        others = [record for record in self.validation if record.name not in training]
        ranks = shares(self.training, self._ranks.count) | shares(others, self._ranks.count)
        return {name for name, rank in ranks.items() if rank == self.rank}

    # -- resuming --------------------------------------------------------------------------------------------------

    def _write_state(self) -> None:
        """Write all that is needed to resume the run."""
        if self._run_folder is None:
            return
        state = {
            "identity": self._identity,
            "functional": self.functional.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "progress": asdict(self._progress),
            "failures": self.failures,
            "best_tensors": self._best_tensors,
        }
        self._run_folder.write_state(self._progress.total + self._progress.epoch, state, self._warm)

    def _resume(self, names: set[str]) -> None:
        """Continue the run that the folder holds, if any, with the ground states of the records of this rank."""
        state = None if self._run_folder is None else self._run_folder.read_state(self._identity)
        if self._run_folder is None or state is None:
            return
        self.functional.load_state_dict(state["functional"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self._progress = Progress.fromdict(state["progress"])
        self._loss.failures = state["failures"]
        self._best_tensors = state["best_tensors"]
        records = {record.name: record for record in (*self.training, *self.validation) if record.name in names}
        self._run_folder.load_ground_states(self._warm, state, records)


def _copy_tensors(functional: Functional, device: str | None = None) -> dict[str, Tensor]:
    return {name: tensor.detach().to(device, copy=True) for name, tensor in functional.state_dict().items()}


def _forget_errors(functional: Functional) -> None:
    """Set the probable errors that a fit has left to none: they are those of the weights before the training."""
    for module in functional.modules():
        if isinstance(module, NeuralFactors):
            module.forget_errors()
