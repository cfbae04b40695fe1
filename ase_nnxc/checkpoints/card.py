"""Cards: what is known of a functional, as JSON for programs and as Markdown for people."""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .files import CARD, check_index, errors_of, parse_json, read_file
from .roots import CheckpointError, locate

if TYPE_CHECKING:
    from ..xc import Functional

FORMAT = 1
"""Version of the format of cards that is read and written."""

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "name": str,
    "version": int,
    "description": str,
    "kind": str,
    "features": list,
    "architecture": dict,
    "parameters": int,
    "parent": (str, type(None)),
    "training": dict,
    "metrics": dict,
    "pseudos": (str, type(None)),
    "licence": (str, type(None)),
    "citation": (str, type(None)),
    "sha256": str,
    "self_test": dict,
    "created": dict,
}


def read_card(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the card of a checkpoint, with all its fields.

    Parameters
    ----------
    name_or_path : str or PathLike
        Name or path of the checkpoint, see `load_functional`.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint, or if its card is damaged or belongs to another one.
    """
    folder = locate(name_or_path)
    with errors_of(folder):
        contents = {CARD: read_file(folder / CARD)}
        check_index(folder, contents)
        return parse_card(contents[CARD], folder.name)


def parse_card(data: bytes, folder_name: str) -> dict[str, Any]:
    """Return the card in the content of a file of the folder `name@version`.

    Raises
    ------
    CheckpointError
        If a field is missing or of another type, or if the card is of another format, name or version.
    """
    card = parse_json(data, CARD)
    if card.get("format") != FORMAT:
        raise CheckpointError(f"{CARD} is of format {card.get('format')!r}, this version of ase_nnxc reads {FORMAT}")
    for field, types in _FIELDS.items():
        if field not in card:
            raise CheckpointError(f"{CARD} has no field {field!r}")
        if not isinstance(card[field], types) or isinstance(card[field], bool):
            raise CheckpointError(f"{CARD}: {field} is of type {type(card[field]).__name__}, expected {_names(types)}")
    for field in ("features", "created"):
        items = card[field] if field == "features" else card[field].values()
        if not all(isinstance(item, str) for item in items):
            raise CheckpointError(f"{CARD}: {field} must contain only text")
    if f"{card['name']}@{card['version']}" != folder_name:
        raise CheckpointError(f"{CARD} is that of {card['name']}@{card['version']}")
    return card


def _names(types: type | tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)))


def claims(functional: "Functional") -> dict[str, Any]:
    """Return the fields of a card that follow from the functional."""
    return {
        "kind": functional.kind,
        "features": list(functional.features),
        "parameters": sum(p.numel() for p in functional.parameters()),
    }


def check_claims(functional: "Functional", card: Mapping[str, Any]) -> None:
    """Raise CheckpointError if a card does not describe the functional."""
    for field, value in claims(functional).items():
        if card[field] != value:
            raise CheckpointError(f"{CARD} says {field} {card[field]!r}, but the functional has {value!r}")


def card_json(card: Mapping[str, Any]) -> str:
    """Return a card as JSON.

    Raises
    ------
    CheckpointError
        If a field is not plain data of finite numbers.
    """
    for field, value in card.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"not written: {field} must be plain data of finite numbers: {error}") from error
    return json.dumps(card, indent=1) + "\n"


def card_markdown(card: Mapping[str, Any], text: str) -> str:
    """Return a card as Markdown, with a text for its readers."""
    created = card["created"]
    rows = {
        "kind": card["kind"],
        "features": ", ".join(card["features"]),
        "architecture": f"{card['architecture']['architecture']} {card['architecture']['version']}",
        "parameters": card["parameters"],
        "parent": card["parent"],
        "pseudopotentials": card["pseudos"],
        "licence": card["licence"],
        "citation": card["citation"],
        "written": f"{created['date']}, ase_nnxc {created['ase_nnxc']}, torch {created['torch']}",
    }
    table = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    parts = [f"# {card['name']}@{card['version']}", card["description"]]
    parts += ["\n".join(["| | |", "| --- | --- |", *table]), text.strip()]
    for title, facts in (("Training", card["training"]), ("Metrics", card["metrics"])):
        if facts:
            lines = [f"- {key}: {v if isinstance(v, str) else json.dumps(v)}" for key, v in facts.items()]
            parts.append(f"## {title}\n\n" + "\n".join(lines))
    return "\n\n".join(filter(None, parts)) + "\n"
