"""``nnxc models``: list, show, verify, certify, import and pin checkpoints of functionals."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import count, path
from .common import Parser, UsageError, add_import_option, folder_of_new_model, printable

if TYPE_CHECKING:
    from ase_nnxc.checkpoints import Model


def add_parsers(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command `models` and its subcommands."""
    models = commands.add_parser("models", help="list, show, verify, certify and import checkpoints of functionals")
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = Parser(add_help=False)
    add_import_option(common)
    common.add_argument("--json", action="store_true", help="print JSON instead of a table")

    listing = actions.add_parser("list", parents=[common], help="list all models that can be used by name")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", parents=[common], help="show the card of a model")
    show.add_argument("name", metavar="NAME", help="name, name@version, or the path of a checkpoint")
    show.set_defaults(run=_show)
    verify = actions.add_parser("verify", parents=[common], help="load models and run their self-tests")
    verify.add_argument("names", nargs="*", metavar="NAME", help="name, name@version, or path (default: all models)")
    verify.set_defaults(run=_verify)
    certify = actions.add_parser("certify", parents=[common], help="check a functional against its parent")
    certify.add_argument("name", metavar="NAME", help="name, name@version, or the path of a checkpoint")
    certify.add_argument("--parent", metavar="XC", help="functional to compare with (default: the parent on the card)")
    certify.add_argument("--checks", nargs="+", default=[], metavar="CHECK", help="names of checks (default: all)")
    certify.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON file that keeps finished checks (default: NAME.acceptance.json)",
    )
    certify.set_defaults(run=_certify)
    importing = actions.add_parser("import", parents=[common], help="make a checkpoint from weights of other programs")
    importing.add_argument("kind", choices=("dpyscf", "nagai", "hybridxc"), help="origin of the weights")
    importing.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="downloaded files or folder")
    importing.add_argument("--xc", metavar="XC", help="hybridxc: the LDA beside the network, such as lda_x,lda_c_pw")
    importing.add_argument(
        "--activation", choices=("softplus", "expm1"), help="hybridxc: activation of the last hidden layer"
    )
    importing.add_argument("--name", required=True, help="name of the new model")
    importing.add_argument("--version", type=count, default=1, metavar="N", help="version of the new model (default 1)")
    importing.add_argument("--root", type=path, metavar="DIR", help="output folder (default: the user's data folder)")
    importing.set_defaults(run=_import)
    pin = actions.add_parser("pin", parents=[common], help="write index.json for a folder of models to be shipped")
    pin.add_argument("root", type=Path, metavar="DIR", help="folder of the models")
    pin.set_defaults(run=_pin)


def _list(args: argparse.Namespace) -> int:
    from ase_nnxc.checkpoints import list_models

    models = list_models()
    if args.json:
        print(json.dumps([asdict(model) | {"folder": str(model.folder)} for model in models], indent=1))
        return 0
    header = ("model", "kind", "features", "parameters", "licence", "from", "description")
    _print_table([header, *(_row(model) for model in models)])
    return 0


def _row(model: Model) -> tuple[str, ...]:
    name = f"{model.name}@{model.version}"
    if model.error is not None:
        return name, "", "", "", "", model.origin, f"damaged: {model.error}"
    return (
        name,
        model.kind or "",
        ", ".join(model.features or ()),
        str(model.parameters),
        model.licence or "not stated",
        model.origin,
        model.description or "",
    )


def _show(args: argparse.Namespace) -> int:
    from ase_nnxc.checkpoints import read_card

    card = read_card(args.name)
    if args.json:
        print(json.dumps(card, indent=1))
        return 0
    facts = {key: value for key, value in card.items() if key not in ("format", "self_test") and value is not None}
    width = max(map(len, facts))
    for key, value in facts.items():
        print(f"{printable(key):<{width}}  {printable(value) if isinstance(value, str) else json.dumps(value)}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Load each model, which runs its self-test, and return exit code 1 if one fails."""
    from ase_nnxc.checkpoints import CheckpointError, list_models, load_functional

    errors: dict[str, str | None] = {}
    for name in args.names or [f"{model.name}@{model.version}" for model in list_models()]:
        try:
            load_functional(name)
            errors[name] = None
        except CheckpointError as error:
            errors[name] = str(error)
    if args.json:
        print(json.dumps([{"model": name, "error": message} for name, message in errors.items()], indent=1))
    else:
        for name, message in errors.items():
            print(f"{printable(name)}  {printable(message or 'ok')}")
    return 1 if any(errors.values()) else 0


def _certify(args: argparse.Namespace) -> int:
    """Print the outcomes of all checks, and return exit code 1 if one fails."""
    from ase_nnxc.checkpoints import load_functional
    from ase_nnxc.registry import get_functional
    from ase_nnxc.train.acceptance import run_checks

    functional = load_functional(args.name)
    parent = args.parent or (functional.card or {}).get("parent")
    if not isinstance(parent, str):
        raise UsageError(f"the card of {args.name} has no parent: choose one with --parent")
    path = args.output or Path(f"{Path(args.name).name}.acceptance.json")
    checks = run_checks(functional, get_functional(parent), args.checks, path)
    outcomes = [(name, outcome) for name, found in checks.items() for outcome in found]
    failed = sum(outcome.passed is False for _, outcome in outcomes)
    if args.json:
        print(json.dumps([{"check": name} | asdict(outcome) for name, outcome in outcomes], indent=1))
        return 1 if failed else 0
    results = {True: "ok", False: "FAILED", None: "not applicable"}
    rows = [
        (name, o.quantity, _number(o.value), _number(o.parent), o.accepted, results[o.passed]) for name, o in outcomes
    ]
    _print_table([("check", "quantity", args.name, parent, "accepted", ""), *rows])
    print(f"{failed} failed; results are kept in {path}")
    return 1 if failed else 0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _import(args: argparse.Namespace) -> int:
    from ase_nnxc.checkpoints import save_functional
    from ase_nnxc.interop.published_weights import import_weights

    root = folder_of_new_model(args)
    try:
        functional, fields = import_weights(args.kind, args.paths, xc=args.xc, activation=args.activation)
    except ValueError as error:
        raise UsageError(str(error)) from error
    folder = save_functional(functional, root, name=args.name, version=args.version, **fields)
    print(json.dumps({"model": folder.name, "folder": str(folder)}) if args.json else f"{folder.name} is in {folder}")
    return 0


def _pin(args: argparse.Namespace) -> int:
    from ase_nnxc.checkpoints import write_index

    index = write_index(args.root)
    print(json.dumps({"index": str(index)}) if args.json else f"{index} has been written")
    return 0
