"""``nnxc models``: the checkpoints that can be called by name."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .common import Parser, UsageError, add_import_option, printable

if TYPE_CHECKING:
    from ase_nnxc.checkpoints import Model


def add_parsers(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `models` and its own commands."""
    models = commands.add_parser("models", help="list, show, verify and import functionals kept as checkpoints")
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = Parser(add_help=False)
    add_import_option(common)
    common.add_argument("--json", action="store_true", help="print JSON in place of a table")

    listing = actions.add_parser("list", parents=[common], help="all models that can be called by name")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", parents=[common], help="the card of a model")
    show.add_argument("name", metavar="NAME", help="name, name@version, or the path of a checkpoint")
    show.set_defaults(run=_show)
    verify = actions.add_parser("verify", parents=[common], help="load models and run their self-tests")
    verify.add_argument("names", nargs="*", metavar="NAME", help="as for show (default: all that are listed)")
    verify.set_defaults(run=_verify)
    importing = actions.add_parser("import", parents=[common], help="make a checkpoint of published weights")
    importing.add_argument("kind", choices=("dpyscf", "nagai"), help="whose weights they are")
    importing.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="your download: files or a folder")
    importing.add_argument("--name", required=True, help="of the new model")
    importing.add_argument("--version", type=int, default=1, metavar="N", help="of the new model (default 1)")
    importing.add_argument("--root", type=Path, metavar="DIR", help="where to (default: the user's data folder)")
    importing.set_defaults(run=_import)
    pin = actions.add_parser("pin", parents=[common], help="write the index.json of a folder of models to be shipped")
    pin.add_argument("root", type=Path, metavar="DIR", help="the folder")
    pin.set_defaults(run=_pin)


def _list(args: argparse.Namespace) -> int:
    from ase_nnxc.checkpoints import list_models

    found = list_models()
    if args.json:
        print(json.dumps([asdict(model) | {"folder": str(model.folder)} for model in found], indent=1))
        return 0
    header = ("model", "kind", "features", "parameters", "licence", "from", "description")
    rows = [header, *([printable(cell) for cell in _row(model)] for model in found)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0


def _row(model: Model) -> tuple[str, ...]:
    called = f"{model.name}@{model.version}"
    if model.error is not None:
        return called, "", "", "", "", model.origin, f"damaged: {model.error}"
    return (
        called,
        model.kind or "",
        ", ".join(model.features or ()),
        str(model.parameters),
        model.licence or "not told",
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
    """Exit code 1 if a model fails."""
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


def _import(args: argparse.Namespace) -> int:
    from ase_nnxc.checkpoints import is_reserved, model_roots, save_functional
    from ase_nnxc.interop.published_weights import import_weights

    if is_reserved(args.name, args.root):
        raise UsageError(f"--name {args.name}: this name is taken by a functional of the package, of libxc or of PySCF")
    try:
        functional, fields = import_weights(args.kind, args.paths)
    except ValueError as error:
        raise UsageError(str(error)) from error
    root = args.root or model_roots()[-1].folder
    folder = save_functional(functional, root, name=args.name, version=args.version, **fields)
    print(json.dumps({"model": folder.name, "folder": str(folder)}) if args.json else f"{folder.name} is in {folder}")
    return 0


def _pin(args: argparse.Namespace) -> int:
    from ase_nnxc.checkpoints import write_index

    index = write_index(args.root)
    print(json.dumps({"index": str(index)}) if args.json else f"written: {index}")
    return 0
