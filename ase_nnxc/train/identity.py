"""Identity of the arguments of a run: objectives, penalties, optimizers and schedulers as plain data.

A run is resumed only with the arguments that it was started with. These are compared as plain data: an object by its
`config()`, a function by its qualified name, an array by its digest.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import InputError
from torch import Tensor

_FUNCTIONS = FunctionType | BuiltinFunctionType | MethodType


def plain(value: Any) -> Any:
    """Return plain data by which a value differs from others.

    This is the digest of an array, the qualified name of a function or a class, the `config()` of an object, or the
    class of an object without one; modules of torch add the digests of their tensors.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray | np.generic):
        return "sha256 " + hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, partial):
        return {"function": plain(value.func), "args": plain(value.args), "keywords": plain(value.keywords)}
    if isinstance(value, _FUNCTIONS | type):
        return f"{value.__module__}.{value.__qualname__}"
    settings = plain(value.config()) if callable(getattr(value, "config", None)) else None
    if isinstance(value, torch.nn.Module):
        return {"class": plain(type(value)), "config": settings, **plain(value.state_dict())}
    return plain(type(value)) if settings is None else settings


def registered_name(value: object, classes: Mapping[str, type]) -> str:
    """Return the name by which a mapping has the class of an object, or else the name of the class."""
    return next((name for name, cls in classes.items() if type(value) is cls), type(value).__name__)


def short_name(function: Any) -> str:
    """Return a name for messages and metrics: that of `config()`, of the function, or of the class."""
    if callable(getattr(function, "config", None)):
        return str(function.config().get("name", type(function).__name__))
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def check_comparable(kind: str, function: Callable[..., Any]) -> None:
    """Raise an InputError if a resumed run could not compare a function with that of the run before.

    Parameters
    ----------
    kind : str
        Kind of function, for the message: "objective", "penalty" ...
    function : callable
        An object with `config()`, or a function at the top level of a module, or a `functools.partial` of one.
    """
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    if callable(getattr(inner, "config", None)):
        settings = inner.config()
        if isinstance(settings, Mapping) and "name" in settings:
            return
        raise InputError(
            f"{kind} {type(inner).__qualname__}: config() must return a dict with a name, got {settings!r}"
        )
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    if isinstance(inner, FunctionType | BuiltinFunctionType) and "<" not in name:
        return
    raise InputError(
        f"{kind} {name} cannot be compared when the run in the folder is resumed. Give it a name and a config(): use a "
        "class with __call__ and config(), which returns a dict of its name and settings, or use a function at the top "
        "level of a module. Without a folder, any callable is allowed"
    )


def describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the class of an optimizer and the settings of its groups."""
    groups = optimizer.state_dict()["param_groups"]
    settings = [{key: plain(value) for key, value in group.items() if key != "params"} for group in groups]
    return {"class": type(optimizer).__name__, "groups": settings}


def describe_scheduler(scheduler: Any) -> dict[str, Any] | None:
    """Return the class and the state of a scheduler, with the functions and schedulers in it."""
    if scheduler is None:
        return None
    state = {k: v for k, v in scheduler.state_dict().items() if k not in ("lr_lambdas", "_schedulers")}
    return {
        "class": type(scheduler).__name__,
        "state": plain(state),
        "functions": plain(scheduler_functions(scheduler, nested=False)),
        "schedulers": [describe_scheduler(one) for one in getattr(scheduler, "_schedulers", [])],
    }


def scheduler_functions(scheduler: Any, nested: bool = True) -> list[Callable[..., Any]]:
    """Return the functions of a LambdaLR or MultiplicativeLR, whose state does not hold them.

    Parameters
    ----------
    scheduler
        Any scheduler of torch, or None.
    nested : bool
        Whether to include those of the schedulers in a SequentialLR or ChainedScheduler.
    """
    functions = list(getattr(scheduler, "lr_lambdas", []))
    if nested:
        functions += [f for one in getattr(scheduler, "_schedulers", []) for f in scheduler_functions(one)]
    return functions


def check_identity(saved: Mapping[str, Any], current: Mapping[str, Any], run: str) -> None:
    """Raise an InputError that names the first difference, unless two runs have the same arguments.

    Parameters
    ----------
    saved, current : mapping
        Plain data by the names of the arguments.
    run : str
        Subject of the message, the run that `saved` belongs to: "the run in FOLDER", "rank 1".
    """
    for argument, value in current.items():
        difference = _first_difference(saved.get(argument), value)
        if difference is not None:
            keys, was, now = difference
            detail = f" ({'.'.join(keys)} is {_shortened(was)}, here {_shortened(now)})" if keys else ""
            raise InputError(f"{run} has different {argument}{detail}")


def _first_difference(saved: Any, current: Any) -> tuple[list[str], Any, Any] | None:
    """Return the keys of the first difference and the two values there; None if `saved` and `current` are equal."""
    if saved == current:
        return None
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        pairs = {str(key): (saved.get(key), current.get(key)) for key in {**saved, **current}}
    elif isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        pairs = {str(i): pair for i, pair in enumerate(zip(saved, current))}
    else:
        return [], saved, current
    for key, pair in pairs.items():
        difference = _first_difference(*pair)
        if difference is not None:
            keys, was, now = difference
            return [key, *keys], was, now
    return [], saved, current


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
