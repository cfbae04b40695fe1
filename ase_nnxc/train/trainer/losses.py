"""The loss of a run: objectives on the predictions for records, penalties on the functional, and its gradient."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ase.calculators.calculator import CalculationFailed, InputError
from torch import Tensor

from ...calculator import NNXCCalculator
from ...eos.birch_murnaghan import NoMinimumError
from ...ks.response import ResponseError
from ...ranks import Ranks
from ...xc import Functional
from ..identity import check_comparable, plain, short_name
from ..objectives import Objective
from ..prediction import Prediction
from ..records import Record
from ..warm import WarmCalculators
from .metrics import Totals

Loss = Callable[[Prediction, Record], Tensor]
Penalty = Callable[[Functional], Tensor]

FAILURES = (CalculationFailed, NoMinimumError, ResponseError)
"""Failures of the calculation of a record, which is then left out; all other exceptions end the run."""


class ObjectiveError(RuntimeError):
    """An objective raised an exception that is not a failure of the calculation, or returned no valid loss."""


class TrainingError(CalculationFailed):
    """Too many records failed, or a penalty is not finite."""


class AllRecordsFailed(Exception):
    """All records of a step failed, for the reasons given by name."""

    def __init__(self, failed: dict[str, str]) -> None:
        super().__init__()
        self.failed = failed


class Objectives:
    """The objectives of a run by their labels in the metrics; the second of one name gets "-2".

    Parameters
    ----------
    objectives : sequence of Objective or callable
        Their losses are summed.
    """

    def __init__(self, objectives: Sequence[Loss]) -> None:
        seen: Counter[str] = Counter()
        self._by_label: dict[str, Loss] = {}
        for objective in objectives:
            name = short_name(objective)
            seen[name] += 1
            self._by_label[name if seen[name] == 1 else f"{name}-{seen[name]}"] = objective

    def __len__(self) -> int:
        return len(self._by_label)

    def config(self) -> dict[str, Any]:
        """Return plain data of each objective by its label."""
        return {label: plain(objective) for label, objective in self._by_label.items()}

    def check_comparable(self) -> None:
        """Raise an InputError if a resumed run could not compare an objective with that of the run before."""
        for label, objective in self._by_label.items():
            check_comparable("objective", objective)
            if isinstance(objective, Objective) and callable(objective.norm):
                check_comparable(f"norm of objective {label!r}:", objective.norm)

    def check(self, record: Record, calculator: NNXCCalculator, fixed_density_epochs: bool) -> None:
        """Raise an InputError if no objective reads a record, or if one cannot compare it with the predictions."""
        reading = self._reading(record)
        if not reading:
            targets = ", ".join(record.targets) or "no targets"
            raise InputError(f"no objective reads record {record.name!r}, which has {targets}")
        for objective in reading.values():
            if not isinstance(objective, Objective):
                continue
            obstacle = objective.obstacle(record, calculator)
            if obstacle is not None:
                raise InputError(obstacle)
            objective.check_reference(record)
        if fixed_density_epochs and not self._reading(record, fixed_density=True):
            raise InputError(
                f"no objective reads record {record.name!r} at fixed densities, where only energies are known: set "
                "fixed_density_epochs=0"
            )

    def check_read(self, records: Sequence[Record]) -> None:
        """Raise an InputError if an objective reads none of the records, so that it would be ignored."""
        for label, objective in self._by_label.items():
            if isinstance(objective, Objective) and not any(map(objective.applies, records)):
                raise InputError(f"objectives.{label}: no record has its target; leave the objective out")

    def loss(self, prediction: Prediction, record: Record, fixed_density: bool = False) -> Tensor:
        """Return the sum of the losses ().

        Raises
        ------
        ObjectiveError
            If an objective raises an exception that is not one of `FAILURES`, or does not return a tensor ().
        """
        losses = []
        for label, objective in self._reading(record, fixed_density).items():
            with _named_errors(label, record):
                loss = objective(prediction, record)
                if not isinstance(loss, Tensor) or loss.shape != ():
                    got = tuple(loss.shape) if isinstance(loss, Tensor) else repr(loss)
                    raise TypeError(f"the loss must be a tensor of shape (), got {got}")
            losses.append(loss)
        return torch.stack(losses).sum()

    def squared_errors(self, prediction: Prediction, record: Record, fixed_density: bool = False) -> dict[str, float]:
        """Return the mean squared error of each `Objective` that reads the record, by its label."""
        squares = {}
        for label, objective in self._reading(record, fixed_density).items():
            if isinstance(objective, Objective):
                with torch.no_grad(), _named_errors(label, record):
                    squares[label] = float(objective.errors(prediction, record).square().mean())
        return squares

    def _reading(self, record: Record, fixed_density: bool = False) -> dict[str, Loss]:
        """Return the objectives that read the record, at fixed densities those that read only energies."""

        def reads(objective: Loss) -> bool:
            if not isinstance(objective, Objective):
                return True
            return objective.applies(record) and not (fixed_density and objective.response)

        return {label: objective for label, objective in self._by_label.items() if reads(objective)}


@contextmanager
def _named_errors(label: str, record: Record) -> Iterator[None]:
    """Raise an ObjectiveError with objective and record for an exception that is not a failure of the calculation."""
    try:
        yield
    except FAILURES:
        raise
    except Exception as error:
        raise ObjectiveError(
            f"objective {label!r} raised {type(error).__name__} on record {record.name!r}: {error}"
        ) from error


class LossFunction:
    """The loss of a run as a function of the parameters of the functional, summed over the records of all ranks.

    Parameters
    ----------
    functional : Functional
        The functional that is trained.
    objectives : Objectives
        Losses of the predictions for records.
    penalties : sequence of callable
        Losses of the functional.
    warm : WarmCalculators
        Predictions for records.
    ranks : Ranks
        The processes of the run.
    names : set of str
        Names of the records that this rank calculates.
    seed : int
        Seed of the random numbers that objectives and penalties draw from torch.

    Attributes
    ----------
    failures : dict of str to str
        Names of the records that failed, with the last message.
    """

    def __init__(
        self,
        functional: Functional,
        objectives: Objectives,
        penalties: Sequence[Penalty],
        *,
        warm: WarmCalculators,
        ranks: Ranks,
        names: set[str],
        seed: int,
    ) -> None:
        self._functional, self._objectives, self._penalties = functional, objectives, penalties
        self._warm, self._ranks, self._names, self._seed = warm, ranks, names, seed
        self._parameters = [p for p in functional.parameters() if p.requires_grad]
        self.failures: dict[str, str] = {}

    def totals(self, records: Sequence[Record], step: int, fixed_density: bool) -> Totals:
        """Return losses and errors, summed over the records that do not fail.

        Parameters
        ----------
        records : sequence of Record
            Records of all ranks.
        step : int
            Number of finished steps; random numbers follow from it.
        fixed_density : bool
            Whether to keep the orbitals where there are any.
        """
        return self._sum(records, step, fixed_density, with_gradient=False)[0]

    def mean_gradient(self, records: Sequence[Record], step: int, fixed_density: bool) -> tuple[Totals, Tensor]:
        """Return the totals with penalties, and the gradient (nparameters,) of the mean loss.

        Parameters are those of `totals`.

        Raises
        ------
        AllRecordsFailed
            If no record is left.
        TrainingError
            If a penalty or its gradient is not finite.
        """
        totals, gradient = self._sum(records, step, fixed_density, with_gradient=True)
        if totals.count == 0:
            raise AllRecordsFailed(totals.failed)
        gradient /= totals.count
        if self._penalties:
            value, penalty_gradient = self._ranks.first(lambda: self._penalty(step))
            totals.loss += value * totals.count
            gradient += penalty_gradient
        return totals, gradient

    def _sum(
        self, records: Sequence[Record], step: int, fixed_density: bool, with_gradient: bool
    ) -> tuple[Totals, Tensor]:
        """Return totals and gradient, summed over the records of all ranks; warn of records that fail."""
        local = [record for record in records if record.name in self._names]
        totals, gradient = Totals(), self._no_gradient()
        parts = self._ranks.gather(lambda: self._sum_local(local, step, fixed_density, with_gradient))
        for local_totals, local_gradient in parts:
            totals.add(local_totals)
            gradient += local_gradient
        self._report(totals.failed)
        return totals, gradient

    def _sum_local(
        self, records: Sequence[Record], step: int, fixed_density: bool, with_gradient: bool
    ) -> tuple[Totals, Tensor]:
        """Return totals and gradient, summed over the records of this rank."""
        totals, gradient = Totals(), self._no_gradient()
        for record in records:
            try:
                with self._random_numbers(step, record.name):
                    prediction = self._warm.predict(record, fixed_density)
                    loss = self._objectives.loss(prediction, record, fixed_density)
                    if with_gradient and not loss.requires_grad:
                        raise ObjectiveError(
                            f"the loss of record {record.name!r} has no gradient: objectives must compute it from the "
                            "tensors of the prediction, without detach() or item()"
                        )
                    record_gradient = self._gradient(loss) if with_gradient else self._no_gradient()
                    if not (loss.isfinite() and record_gradient.isfinite().all()):
                        raise CalculationFailed("the loss or its gradient is not finite")
                squares = self._objectives.squared_errors(prediction, record, fixed_density)
            except FAILURES as error:
                totals.failed[record.name] = str(error)
                continue
            totals.add(Totals(float(loss.detach()), 1, squares, dict.fromkeys(squares, 1)))
            gradient += record_gradient
        return totals, gradient

    def _penalty(self, step: int) -> tuple[float, Tensor]:
        """Return the sum of the penalties and its gradient (nparameters,)."""
        with self._random_numbers(step, "penalties"):
            value = torch.stack([penalty(self._functional) for penalty in self._penalties]).sum()
            gradient = self._gradient(value)
        if not (value.isfinite() and gradient.isfinite().all()):
            raise TrainingError("a penalty or its gradient is not finite")
        return float(value.detach()), gradient

    def _gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient by all parameters (nparameters,), float64 on the CPU."""
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients]).to("cpu", torch.float64)

    def _no_gradient(self) -> Tensor:
        return torch.zeros(sum(p.numel() for p in self._parameters), dtype=torch.float64, device="cpu")

    @contextmanager
    def _random_numbers(self, step: int, purpose: str) -> Iterator[None]:
        """Seed the generators of torch from the seed, the step and the purpose; restore them afterwards."""
        seed = hashlib.sha256(f"{self._seed} {step} {purpose}".encode()).digest()
        device = self._parameters[0].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(int.from_bytes(seed[:7], "big"))
            if device.type == "cuda":
                torch.cuda.default_generators[device.index].manual_seed(int.from_bytes(seed[:7], "big"))
            yield

    def _report(self, failed: Mapping[str, str]) -> None:
        """Keep the messages of records that failed; warn of those that had not failed before."""
        new = {name: message for name, message in failed.items() if name not in self.failures}
        if new:
            self._ranks.first(lambda: _warn(new))
        self.failures |= failed


def _warn(failed: Mapping[str, str]) -> None:
    for name, message in failed.items():
        warnings.warn(f"record {name!r} is left out: {message}", stacklevel=2)
