"""``nnxc clone``: a network that reproduces a known functional."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .arguments import count, path
from .common import Parser, UsageError, folder_of_new_model

if TYPE_CHECKING:
    from ase_nnxc.train.samples import Samples
    from ase_nnxc.xc import Functional

TEXT = """This network was fitted, point by point, to {parent}, starting from random weights. It is meant as a test of
networks in self-consistent calculations and as a starting point for training. Use it where you would use {parent}; it
is not more accurate. The section Metrics gives its deviation from {parent} on data outside the fit: errors of the
enhancement factor F = e / (n eps_x^LDA), and of self-consistent total energies."""


FEWEST_POINTS = 8


def add_parsers(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `clone`."""
    clone = commands.add_parser("clone", help="fit a network to a known functional, measure its errors, and save it")
    clone.add_argument("parent", metavar="PARENT", help="functional to clone: PBE, r2SCAN ...")
    clone.add_argument("--name", required=True, help="name of the new model")
    clone.add_argument("--version", type=count, default=1, metavar="N", help="version of the new model (default 1)")
    clone.add_argument(
        "--network", choices=("constrained", "mlp"), default="constrained", help="kind of network (default constrained)"
    )
    clone.add_argument(
        "--seeds", type=count, default=1, metavar="N", help="number of fits, of which the best is kept (default 1)"
    )
    clone.add_argument(
        "--points", type=count, default=12000, metavar="N", help="approximate number of points, from 8 (default 12000)"
    )
    clone.add_argument(
        "--steps", type=count, default=200, metavar="N", help="largest number of steps of a fit (default 200)"
    )
    clone.add_argument(
        "--samples", type=path, metavar="FILE", help="file of the points: read if it exists, otherwise written"
    )
    points = clone.add_mutually_exclusive_group()
    points.add_argument(
        "--from",
        dest="source",
        choices=("all", "molecules"),
        default="all",
        help="points of a mesh, molecules and crystals, or of molecules only (default all)",
    )
    points.add_argument("--quick", action="store_true", help="use no molecules and crystals in fit and certificate")
    clone.add_argument(
        "--root", type=path, metavar="DIR", help="folder for the model (default: the user's data folder)"
    )
    clone.add_argument("--json", action="store_true", help="print JSON instead of a table")
    clone.set_defaults(run=_clone)


def _clone(args: argparse.Namespace) -> int:
    from ase_nnxc.checkpoints import save_functional
    from ase_nnxc.registry import get_functional, pseudo_family
    from ase_nnxc.train.clone import CloneError
    from ase_nnxc.train.schema import writable_file

    root = folder_of_new_model(args)  # before the fit, because the name may be taken
    if args.points < FEWEST_POINTS:
        raise UsageError(f"--points {args.points}: expected {FEWEST_POINTS} at least")
    if args.samples is not None and not args.samples.exists():
        writable_file(args.samples, "--samples")
    parent = get_functional(args.parent)
    samples = _samples(args, parent)
    try:
        fits = [_fit(args, parent, samples, seed) for seed in range(args.seeds)]
    except CloneError as error:
        raise UsageError(f"{args.parent} cannot be cloned: {error}") from error
    functional, training, metrics = min(fits, key=_validation_loss)
    if len(fits) > 1:
        metrics = {
            **metrics,
            "all_seeds": {fit["settings"]["seed"]: {**fit["fits"], **errors} for _, fit, errors in fits},
        }
    folder = save_functional(
        functional,
        root,
        name=args.name,
        version=args.version,
        description=f"{args.parent} cloned with a network ({args.network})",
        text=TEXT.format(parent=args.parent),
        parent=args.parent,
        training={"systems": list(samples.systems), **training},
        metrics=metrics,
        pseudos=f"gth-{pseudo_family(parent)}",
        licence="MIT",
    )
    if args.json:
        print(json.dumps({"model": folder.name, "folder": str(folder), "metrics": metrics}, indent=1))
    else:
        print(f"wrote {folder.name} to {folder}", *_rows(metrics), sep="\n")
    return 0


def _samples(args: argparse.Namespace, parent: Functional) -> Samples:
    from ase_nnxc.train.samples import Samples, sample_defaults, sample_mesh, sample_molecules_of_both_kinds

    if args.samples is not None and args.samples.exists():
        samples = Samples.load(args.samples)
        if args.source == "molecules" and not samples.of_molecules:
            raise UsageError(
                f"{args.samples} has points of a mesh or of crystals, which --from molecules excludes: use another file"
            )
        return samples
    sample = sample_molecules_of_both_kinds if args.source == "molecules" else sample_defaults
    samples = sample_mesh(args.points) if args.quick else sample(parent, args.points)
    if args.samples is not None:
        samples.save(args.samples)
    return samples


def _fit(
    args: argparse.Namespace, parent: Functional, samples: Samples, seed: int
) -> tuple[Functional, dict[str, Any], dict[str, Any]]:
    """Return a clone, plain data of its fit, and its certificate."""
    from ase_nnxc.train.certificate import certificate
    from ase_nnxc.train.clone import CloneSettings, clone, new_network

    functional = new_network(parent, args.network, seed)
    training = clone(functional, parent, samples, CloneSettings(steps=args.steps, seed=seed))
    return functional, training, certificate(functional, parent, self_consistent=not args.quick)


def _validation_loss(fit: tuple[Functional, dict[str, Any], dict[str, Any]]) -> float:
    return sum(part["validation_loss"] for part in fit[1]["fits"].values())


def _rows(metrics: dict[str, Any]) -> list[str]:
    """Return the rows of a table of the certificate."""
    rows = [f"{'':4}{'max dF':>10}{'max dF/ds':>12}{'rms dF':>10}   enhancement factor, s < 3"]
    rows += [
        f"{kind:4}{errors['max_dF']:10.1e}{errors['max_dF_ds']:12.1e}{errors['rms_dF']:10.1e}"
        for kind, errors in metrics["points"].items()
    ]
    tables = {f"mHa, {basis}": values for basis, values in metrics.get("molecules_mHa", {}).items()}
    tables["mHa/atom"] = metrics.get("crystals_mHa_per_atom", {})
    rows += [
        "  ".join(f"{name} {'unconverged' if d is None else f'{d:+.4f}'}" for name, d in values.items()) + f"   {unit}"
        for unit, values in tables.items()
        if values
    ]
    return rows
