"""Optimizers and schedulers of torch: made from a configuration, and tried on copies before anything is calculated.

Most constructors of torch accept what fails only in a later step: a learning rate that is not a number, a period of 0,
a scheduler that ends before the training, an optimizer for sparse gradients. The arguments are therefore checked here,
an optimizer takes some steps on copies of the parameters, and a scheduler all of its steps.
"""

import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from ase.calculators.calculator import InputError
from torch.optim import lr_scheduler

from ..xc import Functional
from .schema import (
    Check,
    anything,
    closest,
    flag,
    integer,
    is_list,
    is_number,
    number,
    one_of,
    optional,
    sequence,
    string,
)

LARGEST_LEARNING_RATE = 1000.0

_TRIED_STEPS = 10  # of an optimizer: RAdam divides for the first time in the sixth
_TRIED_EPOCHS = 10_000  # the trial of a scheduler ends here, so that it takes less than a second

_SCHEDULER_TYPES = (lr_scheduler.LRScheduler, lr_scheduler.ReduceLROnPlateau)
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type)
    and issubclass(cls, torch.optim.Optimizer)
    and cls not in (torch.optim.Optimizer, torch.optim.SparseAdam)
}
"""Optimizers that a configuration may name; SparseAdam needs sparse gradients, which no functional has."""

SCHEDULERS: dict[str, type] = {
    name: cls
    for name, cls in vars(lr_scheduler).items()
    if isinstance(cls, type)
    and issubclass(cls, _SCHEDULER_TYPES)
    and not name.startswith("_")
    and name not in ("LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler")
}
"""Schedulers that a configuration may name: those whose arguments are plain data."""

_RATE = number(0, LARGEST_LEARNING_RATE)


def _one_or_list(check: Check) -> Check:
    return lambda value, path: (sequence(check, 1) if is_list(value) else check)(value, path)


_EXCLUDED = ("maximize", "differentiable", "capturable", "last_epoch", "verbose", "scale_fn")
_CHECKS: dict[str, Check] = {
    "lr": _RATE,
    "base_lr": _one_or_list(_RATE),
    "max_lr": _one_or_list(_RATE),
    "min_lr": _one_or_list(_RATE),
    "eta_min": _RATE,
    "momentum": number(least=0, below=1),
    "beta2_decay": number(),
    "gamma": number(above=0),
    "foreach": optional(flag),
    "fused": optional(flag),
    "line_search_fn": optional(one_of(["strong_wolfe"])),
    "adjust_lr_fn": optional(string),
    "base_momentum": _one_or_list(number(least=0, below=1)),
    "max_momentum": _one_or_list(number(least=0, below=1)),
    "milestones": sequence(integer(1), least=1),
    "patience": integer(0),
    "cooldown": integer(0),
    **dict.fromkeys(("max_iter", "history_size", "ns_steps", "step_size", "total_iters", "T_max"), integer(1)),
    **dict.fromkeys(("T_0", "T_mult", "step_size_up"), integer(1)),
    **dict.fromkeys(("max_eval", "step_size_down", "total_steps", "epochs", "steps_per_epoch"), optional(integer(1))),
}
"""Checks of arguments by their names; all others are checked by the type of their default."""

_EXAMPLES = {"optimizer": "Adam, lr: 1e-3", "scheduler": "ExponentialLR, gamma: 0.95"}
_VALUES = {
    "gamma": "0.95",
    "step_size": "10",
    "milestones": "[20, 40]",
    "T_max": "100",
    "T_0": "10",
    "base_lr": "1e-4",
    "max_lr": "1e-2",
    "total_steps": "100",
}
"""An example of each argument that a scheduler needs, for the 100 epochs of the default."""

_SHOWN = {"OneCycleLR": ("max_lr", "total_steps")}
"""Arguments in an example where those without a default are not all."""


def optimizer_from(chosen: Mapping[str, Any], functional: Functional) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters of a functional that a configuration describes.

    Parameters
    ----------
    chosen : mapping
        "name", one of `OPTIMIZERS`, and arguments of this class.
    functional : Functional
        The functional.

    Raises
    ------
    InputError
        If name or arguments are not valid, or if steps of the optimizer fail or make parameters that are not finite.
    """
    cls, arguments = _class_and_arguments("optimizer", chosen, OPTIMIZERS)
    parameters = [p for p in functional.parameters() if p.requires_grad]
    try:
        for gradient in (0.0, 1.0):
            copies = _copies(parameters, gradient)
            trial = cls(copies, **arguments)
            for _ in range(_TRIED_STEPS):
                _step(trial)
            if not all(copy.isfinite().all() for copy in copies):
                given = ", ".join(f"{keyword}: {value}" for keyword, value in arguments.items())
                raise ValueError(f"{cls.__name__} with {given} makes parameters that are not finite")
        return cls(parameters, **arguments)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # of torch
        raise InputError(f"optimizer: {error}") from error


def scheduler_from(chosen: Mapping[str, Any], optimizer: torch.optim.Optimizer, epochs: int) -> Any:
    """Return the scheduler that a configuration describes.

    Parameters
    ----------
    chosen : mapping
        "name", one of `SCHEDULERS`, and arguments of this class.
    optimizer : torch.optim.Optimizer
        The optimizer whose learning rate is changed.
    epochs : int
        Number of epochs, after each of which the scheduler takes a step.

    Raises
    ------
    InputError
        If name or arguments are not valid, or if a step fails or gives a learning rate that is not allowed.
    """
    cls, arguments = _class_and_arguments("scheduler", chosen, SCHEDULERS)
    (group,) = optimizer.param_groups
    known = inspect.signature(type(optimizer)).parameters.keys() - {"params"}
    settings = {key: value for key, value in group.items() if key in known}
    trial = type(optimizer)(_copies(group["params"]), **settings)
    epoch = 0
    try:
        scheduler = cls(trial, **arguments)
        _check_rates(trial, "scheduler: lr")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch: the optimizer takes one step only
            _step(trial)
            for epoch in range(1, min(epochs, _TRIED_EPOCHS) + 1):
                scheduler.step(*([0.0] if cls is lr_scheduler.ReduceLROnPlateau else []))
                _check_rates(trial, f"scheduler: after epoch {epoch}: lr")
        return cls(optimizer, **arguments)
    except InputError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # of torch
        raise InputError(f"scheduler: {f'after epoch {epoch}: ' if epoch else ''}{error}") from error


def check_optimizer(optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    """Check an optimizer that is passed to the trainer, and that a scheduler belongs to it.

    Raises
    ------
    InputError
        If a learning rate is not a number from 0 to `LARGEST_LEARNING_RATE`, if the optimizer needs sparse gradients,
        or if the scheduler changes the learning rate of another optimizer.
    """
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise InputError("optimizer: SparseAdam needs sparse gradients; use Adam")
    _check_rates(optimizer, "optimizer: lr")
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InputError("scheduler: its optimizer is not the optimizer of the trainer")


def _class_and_arguments(
    key: str, chosen: Mapping[str, Any], classes: Mapping[str, type]
) -> tuple[Any, dict[str, Any]]:
    arguments = dict(chosen)
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in classes:
        if name is None:
            example = f"{key}: {{name: {_EXAMPLES[key]}}}"
            raise InputError(f"{key}.name is missing, as in {example} (known: {', '.join(sorted(classes))})")
        raise InputError(f"{key}.name: unknown {name!r}{closest(name, classes)} (known: {', '.join(sorted(classes))})")
    parameters = list(inspect.signature(classes[name]).parameters.values())[1:]  # the first are parameters or optimizer
    known = {parameter.name: parameter for parameter in parameters if parameter.name not in _EXCLUDED}
    for keyword, value in arguments.items():
        if keyword not in known:
            allowed = ", ".join(sorted(known))
            raise InputError(
                f"{key}: {name} has no argument {keyword!r}{closest(keyword, known)} (known arguments: {allowed})"
            )
        _check_of(known[keyword])(value, f"{key}.{keyword}")
    missing = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    missing = [keyword for keyword in missing if keyword not in arguments]
    if missing:
        shown = [f"{keyword}: {_VALUES.get(keyword, '...')}" for keyword in _SHOWN.get(name, missing)]
        raise InputError(f"{key}: {name} needs {', '.join(missing)}, as in {key}: {{name: {name}, {', '.join(shown)}}}")
    return classes[name], arguments


def _check_of(parameter: inspect.Parameter) -> Check:
    """Return the check of an argument: that of its name, or else one by the type of its default."""
    default = parameter.default
    if parameter.name in _CHECKS:
        return _CHECKS[parameter.name]
    if isinstance(default, bool):
        return flag
    if is_number(default):
        return number(least=0)
    if isinstance(default, tuple):
        return sequence(optional(number()) if None in default else number(), len(default))
    return string if isinstance(default, str) else anything


def _check_rates(optimizer: torch.optim.Optimizer, path: str) -> None:
    for group in optimizer.param_groups:
        rate = group["lr"]
        _RATE(rate.item() if isinstance(rate, torch.Tensor) else rate, path)


def _copies(parameters: Iterable[torch.Tensor], gradient: float = 0.0) -> list[torch.Tensor]:
    """Return copies of parameters, each element with this gradient."""
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    for copy in copies:
        copy.grad = torch.full_like(copy, gradient)
    return copies


def _step(optimizer: torch.optim.Optimizer) -> None:
    """Take a step with the gradients that the parameters have."""
    optimizer.step(lambda: 0.0)
