"""Saving a functional as a checkpoint, and pinning the checkpoints that are shipped."""

import copy
import json
import os
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from .. import __version__
from ..pseudopotentials import check_family, is_generated
from ..xc import Functional, describe
from .card import FORMAT, card_json, card_markdown, claims
from .files import CARD, INDEX, LARGEST, WEIGHTS, digest, errors_of, read_files
from .load import verified_functional
from .roots import CheckpointError, Root, is_reserved, parse_name
from .self_test import make_self_test
from .tensors import serialize


def check_storable(functional: Functional) -> None:
    """Check that a functional, with its present parameters, can be written as a checkpoint.

    Raises
    ------
    CheckpointError
        If its tensors exceed the largest file, or if its energies and their derivatives are not finite.
    """
    size, limit = len(serialize(functional)), LARGEST[WEIGHTS]
    if size > limit:
        raise CheckpointError(f"not written: its tensors have {size} bytes, more than the limit {limit}")
    make_self_test(functional)


def save_functional(
    functional: Functional,
    root: str | os.PathLike[str],
    *,
    name: str,
    version: int = 1,
    description: str,
    text: str = "",
    parent: str | None = None,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    pseudos: str | None = None,
    licence: str | None = None,
    citation: str | None = None,
) -> Path:
    """Write a checkpoint. It is written completely and verified, or not at all.

    Parameters
    ----------
    functional : Functional
        A functional of a registered architecture. It is not changed; the file has its tensors in float64.
    root : path
        Folder of checkpoints, which is created if necessary; the checkpoint is its folder `name@version`.
    name : str
        Name for users.
    version : int
        Version, from 1. Versions are never overwritten.
    description : str
        One sentence.
    text : str
        Markdown for the README: what it was trained for, how accurate it is, where it should not be used.
    parent : str, optional
        The functional that it was derived from.
    training : mapping, optional
        Plain data on the training: data with their digest, settings, seconds.
    metrics : mapping, optional
        Plain data on its accuracy.
    pseudos : str, optional
        Pseudopotentials that suit it: a family of tables ("gth-pbe"; others draw a warning), or generated ones
        ("oncv-PBE"), which the card reports. Default: unknown.
    licence, citation : str, optional
        Licence and citation of the trained parameters.

    Returns
    -------
    Path
        The folder of the checkpoint.

    Raises
    ------
    FileExistsError
        If this version of this name exists.
    CheckpointError
        If the name is invalid or reserved (see `is_reserved`), if `training` or `metrics` are not plain data of finite
        numbers, or if the functional could not be loaded again.
    InputError
        If there is no such family of pseudopotentials.
    UnknownArchitecture
        If the class of the functional is not registered.
    """
    folder_name = f"{name}@{version}"
    if type(version) is not int or parse_name(folder_name) != (name, version):
        raise CheckpointError(f"{folder_name!r} is not a name and a version from 1")
    if is_reserved(name, root):
        raise CheckpointError(f"{name!r} is a name of the package, of libxc or of PySCF: choose another one")
    if pseudos is not None and not is_generated(pseudos):
        check_family(pseudos)
    with torch.inference_mode(False):
        functional = copy.deepcopy(functional).to("cpu", torch.float64).eval()
        weights = serialize(functional)
        card = {
            "format": FORMAT,
            "name": name,
            "version": version,
            "description": description,
            **claims(functional),
            "architecture": describe(functional),
            "parent": parent,
            "training": dict(training or {}),
            "metrics": dict(metrics or {}),
            "pseudos": pseudos,
            "licence": licence,
            "citation": citation,
            "sha256": digest(weights),
            "self_test": make_self_test(functional),
            "created": {
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "ase_nnxc": __version__,
                "torch": torch.__version__,
            },
        }
    contents = {
        WEIGHTS: weights,
        CARD: card_json(card).encode(),
        "README.md": card_markdown(card, text).encode(),
    }
    return _write(Path(root), folder_name, contents)


def _write(root: Path, folder_name: str, contents: Mapping[str, bytes]) -> Path:
    """Write the files of a checkpoint into a temporary folder, verify them, and rename the folder."""
    folder = root / folder_name
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} exists: versions are never overwritten, use the next one")
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".{folder_name}.{uuid4().hex}"
    temporary.mkdir()
    try:
        for name, data in contents.items():
            write_file(temporary / name, data)
        with torch.inference_mode(False):
            verified_functional(read_files(temporary), folder_name)
        temporary.rename(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"not written, because {folder_name} could not be loaded again: {error}"
        ) from error.__cause__
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # it does not exist after the renaming
    return folder


def write_file(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_index(root: str | os.PathLike[str]) -> Path:
    """Pin the checkpoints of a folder in its index.json, for shipping them with the package.

    Parameters
    ----------
    root : path
        Folder of checkpoints.

    Returns
    -------
    Path
        The file index.json, with the SHA-256 of card and tensors of each checkpoint.

    Raises
    ------
    CheckpointError
        If one of them cannot be loaded.
    """
    folder = Path(root)
    index = {}
    for _, _, path in Root("path", folder).checkpoints():
        with errors_of(path):
            contents = read_files(path)
            verified_functional(contents, path.name)
            index[path.name] = {name: digest(data) for name, data in contents.items()}
    target = folder / INDEX
    target.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return target
