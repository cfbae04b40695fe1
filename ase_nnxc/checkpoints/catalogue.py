"""The list of the checkpoints that can be called by name."""

from dataclasses import dataclass
from pathlib import Path

from .card import read_card
from .roots import CheckpointError, checkpoints_by_name


@dataclass(frozen=True)
class Model:
    """An entry of `list_models`.

    Attributes
    ----------
    name : str
        Name without version.
    version : int
        Version, from 1.
    origin : {"package", "path", "user"}
        The root it was found in, see `Root`.
    folder : Path
        The folder of the checkpoint.
    description, kind, features, parameters, licence
        Fields of its card; None if the card cannot be read.
    error : str, optional
        The reason why the card cannot be read.
    """

    name: str
    version: int
    origin: str
    folder: Path
    description: str | None = None
    kind: str | None = None
    features: tuple[str, ...] | None = None
    parameters: int | None = None
    licence: str | None = None
    error: str | None = None


def list_models() -> list[Model]:
    """Return all checkpoints that can be called by name, in the order of the roots.

    Cards are read; tensors are not.
    """
    return [_model(name, version, root.origin, folder) for root, name, version, folder in checkpoints_by_name()]


def _model(name: str, version: int, origin: str, folder: Path) -> Model:
    try:
        card = read_card(f"{name}@{version}")
    except CheckpointError as error:
        return Model(name, version, origin, folder, error=str(error))
    fields = {field: card[field] for field in ("description", "kind", "parameters", "licence")}
    return Model(name, version, origin, folder, features=tuple(card["features"]), **fields)
