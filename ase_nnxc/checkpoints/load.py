"""Loading a checkpoint: every check of its files, and the functional that they hold."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..xc import Functional, UnknownArchitecture, build, describe
from .card import check_claims, parse_card
from .files import CARD, WEIGHTS, check_index, digest, errors_of, read_files
from .roots import CheckpointError, locate
from .self_test import run_self_test
from .tensors import fill, parse_tensors, refuse_pickle, serialize


def load_functional(name_or_path: str | os.PathLike[str]) -> Functional:
    """Return the functional of a checkpoint, verified.

    Parameters
    ----------
    name_or_path : str or PathLike
        "name" (its highest version) or "name@version", in upper or lower case, or the path of a checkpoint's folder: a
        PathLike or a string with a path separator.

    Returns
    -------
    Functional
        A new object at each call, on the CPU, in float64 and evaluation mode, with its card in the attribute `card`.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint, or if one of its files, the card, the hash, the architecture, the tensors or the
        numbers of the self-test are wrong.
    """
    folder = locate(name_or_path)
    with errors_of(folder), torch.inference_mode(False):
        contents = read_files(folder)
        check_index(folder, contents)
        return verified_functional(contents, folder.name)


def verified_functional(contents: Mapping[str, bytes], folder_name: str) -> Functional:
    """Return the functional in the files of a checkpoint, after all checks.

    Parameters
    ----------
    contents : mapping of str to bytes
        Contents of the card and of the tensors, by the names of their files.
    folder_name : str
        The `name@version` that the card must have.

    Raises
    ------
    CheckpointError
        If one of the checks fails.
    """
    weights = contents[WEIGHTS]
    refuse_pickle(weights)
    card = parse_card(contents[CARD], folder_name)
    if digest(weights) != card["sha256"]:
        raise CheckpointError(f"{WEIGHTS} does not have the SHA-256 in the card: it is damaged, or of another model")
    tensors = parse_tensors(weights)
    elements = sum(tensor.numel() for tensor in tensors.values())
    if elements < card["parameters"]:  # before anything of that size is made
        raise CheckpointError(f"{WEIGHTS} has {elements} numbers, fewer than the {card['parameters']} parameters")
    functional = build_functional(card)
    fill(functional, tensors)
    check_claims(functional, card)
    run_self_test(functional, card["self_test"])
    functional.card = card
    return functional


def build_functional(card: Mapping[str, Any]) -> Functional:
    """Return the functional that a card describes, with the tensors of its constructor.

    Raises
    ------
    CheckpointError
        If its architecture is not registered, or cannot be built from its config.
    """
    try:
        if "libxc" in _architectures(card["architecture"]):
            from ..interop import libxc  # noqa: F401  registers the architecture; loading PySCF takes a second
        return build(card["architecture"]).to("cpu", torch.float64).eval()
    except UnknownArchitecture as error:
        raise CheckpointError(f"{error} (on the command line: nnxc ... --import MODULE)") from error
    except Exception as error:  # whatever a constructor raises for a wrong config
        raise CheckpointError(f"its architecture cannot be built: {type(error).__name__}: {error}") from error


def _architectures(data: object) -> Iterator[str]:
    """Names of architectures anywhere in a description."""
    if isinstance(data, dict):
        yield str(data.get("architecture"))
        data = list(data.values())
    for item in data if isinstance(data, list) else ():
        yield from _architectures(item)


def is_unchanged(functional: Functional) -> bool:
    """Whether a functional has a card, and still has the tensors and constants of that card."""
    card = functional.card
    return (
        card is not None
        and digest(serialize(functional)) == card["sha256"]
        and json.loads(json.dumps(describe(functional))) == card["architecture"]
    )
