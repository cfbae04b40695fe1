"""Functionals as they are written in training files: names, short forms, and the long form of cards.

A form is a string or a mapping of plain data. `docs/training-files.md` lists all of them; parts of a form are forms.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError

from ..checkpoints import find_model, is_checkpoint_path
from ..conventional import CONVENTIONAL, find_conventional, make_conventional
from ..registry import get_functional, get_part
from ..xc import (
    LDA,
    PBE,
    SCAN,
    Functional,
    HybridXC,
    NeuralCorrelation,
    NeuralExchange,
    NeuralFactors,
    Sum,
    build,
    describe,
)
from ..xc.architecture import architecture_names, find_architecture
from .clone import new_network
from .schema import (
    Check,
    check_keys,
    closest,
    fail,
    finite,
    flag,
    integer,
    is_list,
    is_number,
    mapping,
    number,
    of_type,
    optional,
    path_from,
    sequence,
    text,
)

EXAMPLES = (
    "pbe-clone",
    "{PBE: {trainable: [kappa, mu]}}",
    "{nngga: {seed: 1}}",
    "{hybrid: [nngga, PBE]}",
    "{sum: [NeuralExchange, gga_c_pbe]}",
    "{constrained: {parent: PBE}}",
)
"""One example of each short form."""

LARGEST_WIDTH = 4096
"""Largest width of a layer of a network: more would not fit into memory."""

_ALLOWED = f"expected a form such as {', '.join(EXAMPLES)} (docs/training-files.md)"
# those with arguments that are functionals
_COMPOSED = (HybridXC, Sum, NeuralExchange, NeuralCorrelation, NeuralFactors)
_PART_ARGUMENTS = ("neural", "conventional", "parent")

_SEED = integer(0)
_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("mu", "bound"), optional(number())),
    **dict.fromkeys(("widths", "layers"), sequence(integer(1, LARGEST_WIDTH), least=1)),
    "descriptors": optional(sequence(text, least=1)),
    "gate": optional(text),
    "seed": _SEED,
    **dict.fromkeys((*_PART_ARGUMENTS, "terms"), lambda value, path: None),  # checked when they are made
}
"""Checks of arguments of this package's classes by their names; all others are checked by the type of the default."""

_LISTS = {"trainable": "[kappa, mu]", "widths": "[16, 16]", "layers": "[3, 16, 1]", "constraints": "[uniform_gas]"}

_COMPLETE = {
    "hybrid": "{hybrid: [nngga, PBE]}",
    "sum": "{sum: [NeuralExchange, gga_c_pbe]}",
    "libxc": "{libxc: {name: blyp}}",
    "neural-exchange": "{sum: [{neural-exchange: {widths: [16, 16]}}, gga_c_pbe]}",
    "neural-correlation": "{sum: [gga_x_pbe, {neural-correlation: {widths: [16, 16]}}]}",
    "dpyscf": "{sum: [{dpyscf: {part: x, layers: [1, 16, 1], gate: linear, bound: 1.804}}, gga_c_pbe]}",
}
"""Examples of architectures that one argument does not make a functional of exchange and correlation."""


def functional_from(form: Any, path: str = "functional", base: Path = Path()) -> Functional:
    """Return the functional of exchange and correlation that plain data describe.

    Parameters
    ----------
    form : str or mapping
        A name; the path of a checkpoint; the name of an architecture, in upper or lower case; a mapping of one name to
        the arguments of its constructor, or of "hybrid", "sum" or "constrained" to parts; or a mapping of architecture,
        version and config, as in the card of a checkpoint.
    path : str
        Place of the form in its file, for messages.
    base : Path
        Folder that paths of checkpoints are relative to.

    Raises
    ------
    InputError
        If the form is not valid, with the place of what is wrong, what is allowed, and an example.
    """
    finite(form, path)
    functional = part_from(form, path, base)
    if functional.kind != "xc":
        missing = {"x": "correlation", "c": "exchange"}.get(functional.kind, "exchange and correlation")
        raise InputError(f"{path}: {form!r} has no {missing}: add it, as in {{sum: [NeuralExchange, gga_c_pbe]}}")
    with _errors(path):
        return get_functional(functional)


def part_from(form: Any, path: str, base: Path = Path()) -> Functional:
    """Return the functional of a form, as `functional_from` does; it may be exchange or correlation only."""
    if isinstance(form, str):
        return _named(form, path, base)
    if not isinstance(form, Mapping):
        fail(path, form, _ALLOWED)
    if "architecture" in form:
        return _described(form, path, base)
    if len(form) != 1:
        hint = "" if not form else "; the arguments of a functional belong to its name"
        fail(path, dict(form), f"must have one key{hint}; {_ALLOWED}")
    ((name, arguments),) = form.items()
    if not isinstance(name, str):
        fail(path, dict(form), _ALLOWED)
    return _single(name, arguments, f"{path}.{name}", base)


def _single(name: str, arguments: Any, path: str, base: Path) -> Functional:
    """The functional of a mapping of one name to its arguments or parts."""
    word = name.lower()
    if word == "constrained":
        return _constrained(arguments, path, base)
    if word in ("hybrid", "hybridxc") and is_list(arguments):
        return _hybrid(arguments, path, base)
    if word == "sum" and is_list(arguments):
        with _errors(path):
            return Sum(_terms(arguments, path, base))
    conventional = find_conventional(name)
    if conventional is not None:
        start = make_conventional(conventional)
        return _built(conventional, type(start), arguments, path, base, describe(start)["config"])
    found = _architecture(name)
    if found is not None:
        return _built(found[0], found[2], arguments, path, base)
    if arguments is None or arguments == {}:
        return _named(name, path, base)
    if find_model(name.partition("@")[0]) is not None:
        raise InputError(f"{path}: a model has no arguments; write its name only, as in functional: {name}")
    known = ("hybrid", "sum", "constrained", *CONVENTIONAL, *architecture_names())
    raise InputError(f"{path}: unknown functional {name!r}{closest(name, known)} ({_ALLOWED})")


# ---- single functionals ---------------------------------------------------------------------------------------------


def _named(name: str, path: str, base: Path) -> Functional:
    """The functional of a name or of the path of a checkpoint, or an architecture with its default arguments."""
    text(name, path)
    if is_checkpoint_path(name):
        with _errors(path):
            return get_part(path_from(path, name, base))
    if name.lower() == "constrained":
        return _constrained(None, path, base)
    found = None if find_conventional(name) is not None else _architecture(name)
    if found is not None and find_model(name.lower()) is None:
        return _built(found[0], found[2], {}, path, base)
    try:
        return get_part(name)
    except InputError as error:
        hint = closest(name, [*architecture_names(), "constrained"])
        raise InputError(f"{path}: {error}{hint or f' ({_ALLOWED})'}") from error


def _described(form: Mapping[str, Any], path: str, base: Path) -> Functional:
    """The functional of the long form: architecture, version and config."""
    checks: dict[str, Check] = {"architecture": text, "version": integer(1), "config": of_type(dict)}
    mapping(checks)(form, path)
    name, version = form["architecture"], form.get("version")
    found = _architecture(name, version)
    if found is None:
        with _errors(path):
            build({"architecture": name, "version": version or 1, "config": {}})  # its message says what to import
        raise InputError(f"{path}.architecture={name!r}: unknown")
    return _built(found[0], found[2], form.get("config", {}), f"{path}.config", base)


def _architecture(name: str, version: int | None = None) -> tuple[str, int, type[Functional]] | None:
    if name.lower() == "libxc":
        import_module("ase_nnxc.interop.libxc")  # registers it
    return find_architecture(name, version)


def _built(
    name: str, cls: type[Functional], arguments: Any, path: str, base: Path, start: Mapping[str, Any] | None = None
) -> Functional:
    """The functional of a class and arguments of its constructor, which replace those of `start`."""
    arguments = {} if arguments is None else arguments
    parameters = inspect.signature(cls).parameters.values()
    known = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if not isinstance(arguments, Mapping):
        listed = ", ".join(known) or "none"
        fail(path, arguments, f"expected a mapping of arguments of {name} ({listed}), as in {_example(name, cls)}")
    if "trainable" in arguments and issubclass(cls, LDA | SCAN):
        raise InputError(f"{path}: {name} has no trainable parameters; add a network, as in {_example(name, cls)}")
    if all(p.kind != p.VAR_KEYWORD for p in parameters):
        for key in arguments:
            if key not in known:
                raise InputError(
                    f"{path}: {name} has no argument {key!r}{closest(key, known)} "
                    f"(known arguments: {', '.join(known)}), as in {_example(name, cls)}"
                )
    for key, value in arguments.items():
        if key in _LISTS and not is_list(value) and is_list(getattr(known.get(key), "default", ())):
            fail(f"{path}.{key}", value, f"expected a list, such as {_LISTS[key]}")
        (_check_of(cls, known[key]) if key in known else finite)(value, f"{path}.{key}")
    given = {**(start or {}), **arguments}
    missing = [key for key, p in known.items() if p.default is p.empty and key not in given]
    if missing:
        raise InputError(f"{path}: {name} needs {', '.join(missing)}, as in {_example(name, cls)}")
    with _errors(path):
        return cls(**_with_parts(cls, given, path, base))


def _with_parts(cls: type[Functional], arguments: dict[str, Any], path: str, base: Path) -> dict[str, Any]:
    """The arguments with functionals in place of the forms of parts."""
    if cls not in _COMPOSED:
        return arguments
    made = dict(arguments)
    for key in _PART_ARGUMENTS:
        if made.get(key) is not None:
            part = part_from(made[key], f"{path}.{key}", base)
            made[key] = describe(part) if key == "parent" else part
    if "terms" in made:
        made["terms"] = _terms(made["terms"], f"{path}.terms", base)
    return made


def _check_of(cls: type[Functional], parameter: inspect.Parameter) -> Check:
    """Return the check of an argument: that of its name, or else one by the type of its default."""
    default, is_ours = parameter.default, cls.__module__.startswith("ase_nnxc.")
    if is_ours and parameter.name in _CHECKS:
        return _CHECKS[parameter.name]
    if isinstance(default, bool):
        return flag
    if is_number(default):
        return number()
    if is_list(default):
        return sequence(text if is_ours else finite)
    return text if isinstance(default, str) else finite


def _example(name: str, cls: type[Functional]) -> str:
    """An example of the form of a class, which is complete: it can be the value of `functional`."""
    if name in _COMPLETE:
        return _COMPLETE[name]
    if issubclass(cls, SCAN):
        return f"{{neural-factors: {{parent: {name}}}}}"
    if issubclass(cls, LDA):
        return f"{{hybrid: [nnlda, {name}]}}"
    parameters = inspect.signature(cls).parameters
    chosen = [f"{key}: {value}" for key, value in _LISTS.items() if key in parameters][:1]
    return f"{{{name}: {{{', '.join(chosen)}}}}}" if chosen else name


# ---- compositions ---------------------------------------------------------------------------------------------------


def _hybrid(parts: Any, path: str, base: Path) -> Functional:
    """The hybrid of two parts; the one with trainable parameters is the network, or the first if both have some."""
    if len(parts) != 2:
        fail(path, parts, "expected two parts, as in {hybrid: [nngga, PBE]}")
    neural, conventional = (part_from(part, f"{path}[{i}]", base) for i, part in enumerate(parts))
    if is_trainable(conventional) and not is_trainable(neural):
        neural, conventional = conventional, neural
    with _errors(path):
        return HybridXC(neural, conventional)


def _terms(terms: Any, path: str, base: Path) -> list[tuple[float, Functional]]:
    """Coefficients and functionals of a sum; each term is a form, or a list of coefficient and form."""
    sequence(lambda value, path: None, least=1)(terms, path)
    made = []
    for i, term in enumerate(terms):
        coefficient, form, place = 1.0, term, f"{path}[{i}]"
        if is_list(term):
            if len(term) != 2:
                fail(place, term, "expected a form, or a coefficient and a form, as in {sum: [[0.5, nngga], ...]}")
            number()(term[0], f"{place}[0]")
            coefficient, form, place = term[0], term[1], f"{place}[1]"
        made.append((coefficient, part_from(form, place, base)))
    return made


def _constrained(arguments: Any, path: str, base: Path) -> Functional:
    """The constrained networks of exchange and correlation that begin as a parent, with the layers of `nnxc clone`."""
    example = "as in {constrained: {parent: PBE}}"
    chosen: Any = {"parent": arguments} if isinstance(arguments, str) else arguments
    if not isinstance(chosen, Mapping) or chosen.get("parent") is None:
        if isinstance(chosen, Mapping):
            check_keys(chosen, ("parent", "seed"), path)
        raise InputError(
            f"{path}: a constrained network needs a parent, a functional of the PBE or SCAN form, {example}"
        )
    mapping({"parent": lambda value, path: None, "seed": _SEED})(chosen, path)
    parent = part_from(chosen["parent"], f"{path}.parent", base)
    if not isinstance(parent, PBE | SCAN):
        fail(f"{path}.parent", chosen["parent"], f"expected a functional of the PBE or SCAN form, {example}")
    with _errors(f"{path}.parent"):
        return new_network(parent, "constrained", chosen.get("seed", 0), anchored=True)


def is_form(name: str) -> bool:
    """Whether a name stands for a new functional: an architecture, hybrid, sum or constrained."""
    return name.lower() == "constrained" or _architecture(name) is not None


def is_trainable(functional: Functional) -> bool:
    """Whether a functional has parameters that require a gradient."""
    return any(p.requires_grad for p in functional.parameters())


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """Turn errors of constructors into InputError with a path; RuntimeError: no memory for a network of this size."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(path):
            raise
        raise InputError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"missing or unknown key {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: {reason}") from error
