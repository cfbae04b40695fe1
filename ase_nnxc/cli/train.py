"""``nnxc dataset``, ``nnxc train``, ``nnxc fit`` and ``nnxc evaluate``: training of functionals on records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_nnxc.train.targets import PROPERTIES

from .common import Parser, UsageError
from .structures import read_structure

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from ase_nnxc.train.records import Record


def add_parsers(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `dataset`, `train`, `fit` and `evaluate`."""
    common = Parser(add_help=False)
    common.add_argument("--calculator", type=Path, metavar="YAML", help="file of keywords of the calculator")
    common.add_argument("--json", action="store_true", help="print JSON instead of a table")

    dataset = commands.add_parser(
        "dataset", parents=[common], help="write records of structures with calculated properties"
    )
    dataset.add_argument("output", type=Path, metavar="OUTPUT", help="file of records: .json, .db, .extxyz")
    dataset.add_argument(
        "structures",
        nargs="+",
        metavar="STRUCTURE",
        help="elements, formulas, files of records, or files that ASE reads, with all their images",
    )
    dataset.add_argument("--structure", metavar="TYPE", help="prototype of the formulas, as for `nnxc eos`")
    dataset.add_argument("--xc", help="functional (default PBE)")
    dataset.add_argument("--ase", metavar="NAME", help="another ASE calculator, such as emt or gpaw")
    dataset.add_argument(
        "--points", type=int, default=1, metavar="N", help="number of volumes of an equation of state (default 1)"
    )
    dataset.add_argument("--span", type=float, default=0.06, metavar="X", help="range of the volumes (default 0.06)")
    dataset.add_argument(
        "--properties", default="energy", metavar="P", help=f"any of {','.join(PROPERTIES)} (default energy)"
    )
    dataset.add_argument(
        "--align",
        action="store_true",
        help="keep the energies of another code in files of records, shifted by a constant for each element to those "
        "of our calculator",
    )
    dataset.set_defaults(run=_dataset)

    train = commands.add_parser("train", help="train a functional as described in a YAML file, or resume the training")
    train.add_argument("config", type=Path, metavar="CONFIG", help="the YAML file")
    train.add_argument("--json", action="store_true", help="print JSON instead of text")
    train.set_defaults(run=_train)

    fit = commands.add_parser(
        "fit", help="fit a functional at the frozen densities of its parent, see docs/training.md"
    )
    fit.add_argument("config", type=Path, metavar="CONFIG", help="the YAML file")
    fit.add_argument("--json", action="store_true", help="print JSON instead of a table")
    fit.set_defaults(run=_fit)

    evaluate = commands.add_parser("evaluate", parents=[common], help="print the errors of a functional on records")
    evaluate.add_argument("model", metavar="MODEL", help="name of a functional, or path of a checkpoint")
    evaluate.add_argument("dataset", type=Path, metavar="DATASET", help="file of records")
    evaluate.set_defaults(run=_evaluate)


def _dataset(args: argparse.Namespace) -> int:
    from ase_nnxc.train.records import check_output, write_records

    check_output(args.output)  # before the calculations
    records = _aligned(args) if args.align else _labelled(args)
    write_records(args.output, records)
    if args.json:
        print(json.dumps({"records": [record.name for record in records], "file": str(args.output)}))
    else:
        print(f"wrote {len(records)} records to {args.output}")
    return 0


def _labelled(args: argparse.Namespace) -> list[Record]:
    from ase_nnxc.train.records import label, scaled_structures

    properties = args.properties.split(",")
    if not set(properties) <= set(PROPERTIES):
        raise UsageError(f"--properties {args.properties}: expected any of {', '.join(PROPERTIES)}")
    if args.points < 1:
        raise UsageError(f"--points {args.points} must be at least 1")
    if not 0 < args.span < 1:
        raise UsageError(f"--span {args.span} must be between 0 and 1")
    calculator = _labeller(args)
    records = []
    for text in args.structures:
        if Path(text).is_file():
            unlabelled = [(r.name, r.structures, r.coefficients, r.settings) for r in _read_without_all_electrons(text)]
        else:
            atoms, name = read_structure(text, args.structure)
            unlabelled = [(name, (atoms,), None, None)]
        for name, structures, coefficients, settings in unlabelled:
            if args.points > 1:
                if len(structures) > 1:
                    raise UsageError(
                        f"--points: record {name} of {text} must have one structure, not {len(structures)}"
                    )
                structures = scaled_structures(structures[0], args.points, args.span)
            records.append(label(name, structures, calculator, properties, coefficients, settings))
    return records


def _aligned(args: argparse.Namespace) -> list[Record]:
    from ase_nnxc.train.records import align_energies

    if args.ase is not None or args.points != 1 or args.structure is not None or args.properties != "energy":
        raise UsageError("--align can be combined only with --xc and --calculator: it calculates only our energies")
    records = [record for path in args.structures for record in _read_without_all_electrons(path)]
    return align_energies(records, _calculator(args, args.xc or "PBE"))


def _read_without_all_electrons(path: str) -> list[Record]:
    """Return the records of a file; raise UsageError if one is of all electrons."""
    from ase_nnxc.train.records import read_records

    records = read_records(path)
    for record in records:
        if record.is_all_electron:
            raise UsageError(
                f"{path}: record {record.name!r} is of molecules with all electrons in a Gaussian basis set, which "
                "nnxc dataset does not calculate; nnxc train and nnxc evaluate run such records through PySCF"
            )
    return records


def _labeller(args: argparse.Namespace) -> Calculator:
    if args.ase is None:
        return _calculator(args, args.xc or "PBE")
    from ase.calculators.calculator import get_calculator_class

    if args.xc is not None:
        raise UsageError("--xc is only for our calculator; keywords of another one belong in the file of --calculator")
    try:
        calculator: Calculator = get_calculator_class(args.ase)(**_keywords(args))
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"--ase {args.ase}: {error}") from error
    return calculator


def _calculator(args: argparse.Namespace, xc: Any) -> Any:
    from ase.calculators.calculator import InputError

    from ase_nnxc.calculator import NNXCCalculator
    from ase_nnxc.registry import get_functional

    keywords = _keywords(args)
    if "xc" in keywords:
        raise UsageError(f"{args.calculator}: xc must be given in the command, not in this file")
    get_functional(xc)  # an error of its name is not one of the file
    try:
        return NNXCCalculator(xc, **keywords)
    except InputError as error:
        raise InputError(f"{args.calculator}: {error}" if args.calculator else str(error)) from error


def _keywords(args: argparse.Namespace) -> dict[str, Any]:
    from ase_nnxc.train.input_files import read_yaml

    return {} if args.calculator is None else read_yaml(args.calculator)


def _train(args: argparse.Namespace) -> int:
    from ase_nnxc.train.config import read_config

    run = read_config(args.config)
    history = run.trainer.run()
    folder = run.save()
    last = history[-1]
    if args.json:
        print(json.dumps({"model": folder.name, "folder": str(folder), "epochs": len(history), "last": last}))
    else:
        print(f"wrote {folder.name} to {folder}: {len(history)} epochs, validation loss {last['validation_loss']:.3e}")
    return 0


def _fit(args: argparse.Namespace) -> int:
    from ase_nnxc.train.fit_config import read_fit

    folder, report = read_fit(args.config).run()
    if args.json:
        print(json.dumps({"model": folder.name, "folder": str(folder), **report}, indent=1))
    else:
        print(f"wrote {folder.name} to {folder}: ridge {report['ridge']:g}", *_fit_rows(report), sep="\n")
    return 0


def _fit_rows(report: dict[str, Any]) -> list[str]:
    """Return mean absolute errors, normalised errors, and coverage of intervals in a report of `fit_frozen`."""
    rows = []
    for part in ("fit", "test"):
        for objective, records in report.get(part, {}).items():
            columns: dict[str, list[float]] = {}
            for errors in records.values():
                for name, value in errors.items():
                    columns.setdefault(name, []).append(abs(value))
            means = "  ".join(f"{name} {sum(v) / len(v):.5f}" for name, v in columns.items())
            rows.append(f"{part:5}{objective:18}{len(records):4} records   {means}")
    for objective, value in report.get("normalised_errors", {}).items():
        inside = ", ".join(
            f"{100 * report[f'coverage_{percent}'][objective]:.0f} % in {percent} %" for percent in (68, 95)
        )
        rows.append(f"     {objective:18} error / standard deviation {value:.2f}, of the test {inside} intervals")
    return rows


def _evaluate(args: argparse.Namespace) -> int:
    from ase_nnxc.train.records import read_records
    from ase_nnxc.train.trainer import evaluate

    rows = evaluate(_calculator(args, args.model), read_records(args.dataset))
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            errors = row.get("error") or "  ".join(_error_text(name, error) for name, error in row["errors"].items())
            print(f"{row['record']}  {errors}")
    return 1 if any("error" in part for row in rows for part in (row, *row.get("errors", {}).values())) else 0


def _error_text(name: str, error: dict[str, Any]) -> str:
    return f"{name}: {error['error']}" if "error" in error else f"{name} {error['rms']:.3e} {error['unit']}"
