"""Checkpoints: trained functionals as folders, found by name, verified before they are used.

A checkpoint is a folder called `name@version` that holds

    functional.safetensors   every parameter and buffer, float64
    card.json                architecture, provenance, the SHA-256 of the tensors and a self-test
    README.md                the card for people

Names are of a-z, 0-9, ".", "_" and "-"; versions count from 1. Names are looked for in the package's own models, then
in the folders of $NNXC_MODEL_PATH, then in the user's data folder ($XDG_DATA_HOME or ~/.local/share, there
ase_nnxc/models). A name of the package's models is never looked for elsewhere, and what the package ships must also be
what its index.json says. Names of conventional functionals and of libxc's are not given to checkpoints.

Nothing in a checkpoint is executed, no link in it is followed, and one that fails any check is an error.
"""

import copy
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ase.calculators.calculator import InputError

from . import __version__
from .conventional import find_conventional
from .pseudopotentials import check_family

if TYPE_CHECKING:
    from torch import Tensor

    from .xc import Functional

FORMAT = 1
"""Number of the format of cards that this version reads and writes."""

TOLERANCE = 1e-10
"""Largest relative error in the self-test, beyond 1e-13 Hartree atomic units of rounding."""

_CARD, _WEIGHTS, _INDEX = "card.json", "functional.safetensors", "index.json"
_LARGEST = {_CARD: 2**22, _WEIGHTS: 2**28, _INDEX: 2**20}  # bytes
_NAME = re.compile(r"([a-z0-9_-][a-z0-9._-]*)(?:@([1-9][0-9]{0,8}))?")
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


class CheckpointError(InputError):
    """A checkpoint that is not there, that is damaged, or that cannot be written."""


@dataclass(frozen=True)
class Root:
    """A folder of checkpoints.

    Attributes
    ----------
    origin : {"package", "path", "user"}
        Shipped with the package, named in $NNXC_MODEL_PATH, or the user's data folder.
    folder : Path
        Where it is; need not exist.
    """

    origin: str
    folder: Path

    def checkpoints(self) -> list[tuple[str, int, Path]]:
        """Name, version and folder of each, sorted.

        Raises
        ------
        CheckpointError
            If the folder is there and cannot be read.
        """
        try:
            folders = list(self.folder.iterdir()) if self.folder.is_dir() else []
        except OSError as error:
            raise CheckpointError(f"the folder of models {self.folder} cannot be read: {error.strerror}") from error
        matches = [(_NAME.fullmatch(folder.name), folder) for folder in folders]
        return sorted((match[1], int(match[2]), folder) for match, folder in matches if match and match[2])

    def versions(self, name: str) -> dict[int, Path]:
        """Folders of the versions of one model."""
        return {version: folder for known, version, folder in self.checkpoints() if known == name}


@dataclass(frozen=True)
class Model:
    """What `list_models` tells of a checkpoint; from its card, so all None if there is an `error` in reading it."""

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


# ---- finding --------------------------------------------------------------------------------------------------------


def model_roots() -> list[Root]:
    """The folders in which names are looked for, in this order."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    own = [Path(part).expanduser() for part in os.environ.get("NNXC_MODEL_PATH", "").split(os.pathsep) if part]
    return [
        Root("package", Path(str(files("ase_nnxc"))) / "models"),
        *(Root("path", folder) for folder in own),
        Root("user", Path(data).expanduser() / "ase_nnxc" / "models"),
    ]


def parse_name(text: str) -> tuple[str, int | None]:
    """Name and version of "name" or "name@version".

    Raises
    ------
    CheckpointError
        If it is neither.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise CheckpointError(
            f"{text!r} is no name of a model: one is of a-z, 0-9, '.', '_' and '-', does not begin with '.', and may "
            "have @ and a version from 1 behind it"
        )
    return match[1], None if match[2] is None else int(match[2])


def is_reserved(name: str, root: str | os.PathLike[str] | None = None) -> bool:
    """Whether a name means something else than a checkpoint in a folder `root`.

    Reserved are the conventional functionals, the package's models anywhere but in their own folder, and what libxc or
    PySCF know, functionals that are refused and endings such as "-d3" of dispersion corrections included. The last
    takes PySCF, which takes half a second to load.
    """
    package = model_roots()[0]
    if find_conventional(name):
        return True
    if package.versions(name.lower()):
        return root is None or Path(root).resolve() != package.folder.resolve()
    return is_libxc_name(name)


def is_libxc_name(name: str) -> bool:
    """Whether a name means something to libxc or PySCF."""
    from .interop.libxc import Libxc, UnknownFunctional

    try:
        Libxc(name)
    except UnknownFunctional:
        return False
    except ValueError:  # known, but it cannot be calculated
        return True
    return True


def is_path(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether it stands for a path: a PathLike, or a string with a path separator; bare names never are paths."""
    if not isinstance(name_or_path, str):
        return True
    return os.sep in name_or_path or bool(os.altsep and os.altsep in name_or_path)


def find_model(name: str, version: int | None = None) -> Path | None:
    """Folder of a model, None if there is none.

    Parameters
    ----------
    name : str
        Without version.
    version : int, optional
        Default: the highest of the first root that has the name.
    """
    for root in model_roots():
        versions = root.versions(name)
        if versions and version is None:
            return versions[max(versions)]
        if version in versions:
            return versions[version]
        if versions and root.origin == "package":
            return None  # shipped names cannot be extended elsewhere
    return None


def list_models() -> list[Model]:
    """All checkpoints that can be called by name, in the order of the roots; cards are read, tensors are not."""
    return [
        _model(name, version, root.origin, folder)
        for root in model_roots()
        for name, version, folder in root.checkpoints()
        if find_model(name, version) == folder
    ]


def _model(name: str, version: int, origin: str, folder: Path) -> Model:
    try:
        card = read_card(f"{name}@{version}")
    except CheckpointError as error:
        return Model(name, version, origin, folder, error=str(error))
    told = {field: card[field] for field in ("description", "kind", "parameters", "licence")}
    return Model(name, version, origin, folder, features=tuple(card["features"]), **told)


def _locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint, which is there and is no link."""
    if is_path(name_or_path):
        try:
            folder = Path(name_or_path).expanduser().resolve()  # links on the way that the user wrote are the user's
        except (OSError, RuntimeError, ValueError) as error:  # no such home, a null character
            raise CheckpointError(f"{name_or_path!r} is no path: {error}") from error
        match = _NAME.fullmatch(folder.name)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder")
        if match is None or match[2] is None:
            raise CheckpointError(f"{folder}: the folder of a checkpoint is called name@version")
        return folder
    name, version = parse_name(str(name_or_path).lower())
    conventional = find_conventional(name)
    if conventional is not None:
        raise CheckpointError(f"{conventional} is a conventional functional, not a checkpoint: see `get_functional`")
    found = find_model(name, version)
    if found is None:
        known = sorted({f"{m.name}@{m.version}" for m in list_models()})
        raise CheckpointError(f"no model {name_or_path!r}; known are {', '.join(known) or 'none'}")
    if found.is_symlink() or not found.is_dir():
        raise CheckpointError(f"{found}: not a folder (links are not followed)")
    return found


# ---- reading --------------------------------------------------------------------------------------------------------


def load_functional(name_or_path: str | os.PathLike[str]) -> "Functional":
    """The functional of a checkpoint, verified.

    Parameters
    ----------
    name_or_path : str or PathLike
        "name" (its highest version) or "name@version", in any case, or the path of a checkpoint's folder: a PathLike
        or a string with a path separator.

    Returns
    -------
    Functional
        A new one at each call: on the CPU, float64, in evaluation mode, its card in the attribute `card`.

    Raises
    ------
    CheckpointError
        If there is none, or if anything in it is not as it should be: files, card, hash, architecture, tensors,
        or the numbers of the self-test.
    """
    import torch

    folder = _locate(name_or_path)
    with _errors_of(folder), torch.inference_mode(False):
        contents = _read_all(folder)
        _check_pins(folder, contents)
        return _load(contents, folder.name)


def read_card(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a checkpoint, with all its fields there.

    Raises
    ------
    CheckpointError
        If there is none, or if it is damaged or of another checkpoint.
    """
    folder = _locate(name_or_path)
    with _errors_of(folder):
        contents = {_CARD: _read(folder / _CARD)}
        _check_pins(folder, contents)
        return _parse_card(contents[_CARD], folder.name)


@contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    """Puts the folder in front of messages."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {folder}: {error}") from error.__cause__


def _load(contents: Mapping[str, bytes], called: str) -> "Functional":
    """The functional of the files of a checkpoint whose card says that it is called so."""
    weights = contents[_WEIGHTS]
    _refuse_pickle(weights)
    card = _parse_card(contents[_CARD], called)
    if _digest(weights) != card["sha256"]:
        raise CheckpointError(f"{_WEIGHTS} has not the SHA-256 that the card says: damaged, or of another model")
    tensors = _parse_tensors(weights)
    elements = sum(tensor.numel() for tensor in tensors.values())
    if elements < card["parameters"]:  # before anything of that size is made
        raise CheckpointError(f"{_WEIGHTS} holds {elements} numbers, fewer than the {card['parameters']} parameters")
    functional = _build(card)
    _fill(functional, tensors)
    _check_claims(functional, card)
    _run_self_test(functional, card["self_test"])
    functional.card = card
    return functional


def _read_all(folder: Path) -> dict[str, bytes]:
    """The files that make a functional: read once, so that what is checked is what is used."""
    return {name: _read(folder / name) for name in (_CARD, _WEIGHTS)}


def _read(path: Path) -> bytes:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path.name} is not a regular file (links are not followed)")
        if status.st_size > _LARGEST[path.name]:
            raise CheckpointError(f"{path.name} has {status.st_size} bytes, the limit is {_LARGEST[path.name]}")
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error


def _parse_card(data: bytes, called: str) -> dict[str, Any]:
    card = _parse_json(data, _CARD)
    if card.get("format") != FORMAT:
        raise CheckpointError(f"{_CARD} is of format {card.get('format')!r}, this version of ase_nnxc reads {FORMAT}")
    for field, kind in _FIELDS.items():
        if field not in card:
            raise CheckpointError(f"{_CARD} does not tell {field!r}")
        if not isinstance(card[field], kind) or isinstance(card[field], bool):
            raise CheckpointError(f"{_CARD}: {field} is {type(card[field]).__name__}, not what it should be")
    for field in ("features", "created"):
        items = card[field] if field == "features" else card[field].values()
        if not all(isinstance(item, str) for item in items):
            raise CheckpointError(f"{_CARD}: {field} holds something else than text")
    if f"{card['name']}@{card['version']}" != called:
        raise CheckpointError(f"{_CARD} is that of {card['name']}@{card['version']}")
    return card


def _parse_json(data: bytes, name: str) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a finite number")

    try:
        value = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is damaged: no JSON object")
    return value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_pins(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Refuse files of a shipped model that are not those in the package's index."""
    root = model_roots()[0].folder.resolve()
    if folder.resolve().parent != root:
        return
    pinned = _parse_json(_read(root / _INDEX), _INDEX).get(folder.name)
    if pinned is None:
        raise CheckpointError(f"not in the package's {_INDEX}; if it shall be shipped, run `nnxc models pin`")
    if not isinstance(pinned, dict) or any(pinned.get(name) != _digest(data) for name, data in contents.items()):
        raise CheckpointError(f"not as the package's {_INDEX} says: the installation is damaged")


def _refuse_pickle(data: bytes) -> None:
    """What torch.save writes is a zip archive, or a pickle, 0x80 first; in safetensors byte 8 opens a JSON object."""
    if data.startswith(b"PK") or (data.startswith(b"\x80") and data[8:9] != b"{"):
        raise CheckpointError(f"{_WEIGHTS} is a pickle or an archive of torch.save, which could run code: never opened")


def _build(card: dict[str, Any]) -> "Functional":
    """The functional that the card describes, with the tensors that its constructor makes."""
    import torch

    from .xc import UnknownArchitecture, build

    try:
        if "libxc" in _architectures(card["architecture"]):
            from .interop import libxc  # noqa: F401  registers it; imported late, as PySCF takes a second
        return build(card["architecture"]).to("cpu", torch.float64).eval()
    except UnknownArchitecture as error:
        raise CheckpointError(f"{error} (for the command: nnxc ... --import MODULE)") from error
    except Exception as error:  # whatever a constructor makes of a wrong config
        raise CheckpointError(f"its architecture cannot be built: {type(error).__name__}: {error}") from error


def _architectures(data: object) -> Iterator[str]:
    """Names of architectures anywhere in a description."""
    if isinstance(data, dict):
        yield str(data.get("architecture"))
        data = list(data.values())
    for item in data if isinstance(data, list) else ():
        yield from _architectures(item)


def _parse_tensors(weights: bytes) -> "dict[str, Tensor]":
    from safetensors.torch import load

    try:
        return load(weights)
    except Exception as error:  # SafetensorError, and KeyError for types that torch does not have
        raise CheckpointError(f"{_WEIGHTS} is damaged: {error}") from error


def _fill(functional: "Functional", tensors: "dict[str, Tensor]") -> None:
    """Put the tensors of a file into a functional that has exactly these."""
    expected = functional.state_dict()
    for what, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has, beyond its architecture,", tensors.keys() - expected.keys()),
    ):
        if names:
            raise CheckpointError(f"{_WEIGHTS} {what} the tensors {', '.join(sorted(names))}")
    for name, wanted in expected.items():
        found = tensors[name]
        if found.shape != wanted.shape:
            raise CheckpointError(f"tensor {name} is of shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
        if found.dtype != wanted.dtype:
            raise CheckpointError(f"tensor {name} is of {found.dtype}, not {wanted.dtype}")
    functional.load_state_dict(tensors)


def _check_claims(functional: "Functional", card: dict[str, Any]) -> None:
    """That the functional is what its card says."""
    for field, value in _claims(functional).items():
        if card[field] != value:
            raise CheckpointError(f"{_CARD} says {field} {card[field]!r}, the functional has {value!r}")


def _claims(functional: "Functional") -> dict[str, Any]:
    return {
        "kind": functional.kind,
        "features": list(functional.features),
        "parameters": sum(p.numel() for p in functional.parameters()),
    }


# ---- self-test ------------------------------------------------------------------------------------------------------

# density bohr^-3, polarisation, reduced gradient s, iso-orbital indicator alpha
_POINTS = (
    (0.03, 0.0, 0.0, 1.0),
    (0.03, 0.0, 0.5, 1.0),
    (0.3, 0.0, 0.0, 0.0),
    (0.1, 0.0, 1.0, 0.3),
    (0.01, 0.0, 2.5, 3.0),
    (0.02, 0.6, 0.0, 1.0),
    (1.0, 0.3, 0.7, 0.9),
    (0.05, -0.9, 1.5, 1.2),
    (0.02, 1.0, 1.0, 0.0),
    (100.0, 0.05, 0.4, 0.8),
    (1e-5, 0.0, 3.0, 5.0),
    (1e-8, 0.2, 10.0, 1.0),
)


def _self_test_inputs() -> "dict[str, Tensor]":
    """Features at `_POINTS`, the gradients of the two channels along different directions."""
    import torch

    n, zeta, s, alpha = torch.tensor(_POINTS, dtype=torch.float64, device="cpu").T
    channel = 0.5 * n * torch.stack([1 + zeta, 1 - zeta])
    length = 2 * (3 * math.pi**2 * n) ** (1 / 3) * channel * s  # so that |grad n| = 2 k_F n s for parallel gradients
    directions = torch.tensor([[[0.6], [0.0], [0.8]], [[0.0], [0.8], [0.6]]], dtype=torch.float64, device="cpu")
    weizsaecker = length.square() / (8 * channel.clamp(min=1e-30))
    uniform = 0.3 * (6 * math.pi**2) ** (2 / 3) * channel ** (5 / 3)
    return {
        "density": channel,
        "gradient": length[:, None] * directions,
        "tau": weizsaecker + alpha * uniform,
    }


def _evaluate(functional: "Functional", features: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Energy densities, and their derivatives by each feature."""
    import torch

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in features.items()}
    with torch.enable_grad():
        energy = functional(leaves)
        derivatives = torch.autograd.grad(energy.sum(), list(leaves.values()), materialize_grads=True)
    return {"energy": energy.detach()} | dict(zip(leaves, derivatives))


def _make_self_test(functional: "Functional") -> dict[str, Any]:
    """Inputs with what the functional makes of them."""
    inputs = {name: t for name, t in _self_test_inputs().items() if name in functional.features}
    outputs = _evaluate(functional, inputs)
    for name, values in outputs.items():
        if not values.isfinite().all():
            raise CheckpointError(f"not written: {_quantity(name)} is not finite everywhere in the self-test")
    return {group: {k: t.tolist() for k, t in d.items()} for group, d in (("inputs", inputs), ("outputs", outputs))}


def _run_self_test(functional: "Functional", self_test: dict[str, Any]) -> None:
    """Evaluate the functional at the inputs of its card and compare with the outputs there."""
    import torch

    try:
        groups = [
            {name: torch.tensor(v, dtype=torch.float64, device="cpu") for name, v in self_test[group].items()}
            for group in ("inputs", "outputs")
        ]
        found = _evaluate(functional, groups[0])
    except Exception as error:  # whatever a functional makes of inputs that are none
        raise CheckpointError(f"its self-test cannot be run: {type(error).__name__}: {error}") from error
    shapes = [{name: tensor.shape for name, tensor in outputs.items()} for outputs in (found, groups[1])]
    if shapes[0] != shapes[1] or not found["energy"].numel():
        raise CheckpointError("its self-test has no inputs, or not one output for each")
    for name, values in found.items():
        off = ((values - groups[1][name]).abs() / (values.abs() + 1e-13 / TOLERANCE)).amax().item()
        if not off <= TOLERANCE:
            raise CheckpointError(f"failed self-test: {_quantity(name)} is off by a relative {off:.1e}")


def _quantity(output: str) -> str:
    return "the energy density" if output == "energy" else f"the derivative by {output}"


# ---- writing --------------------------------------------------------------------------------------------------------


def save_functional(
    functional: "Functional",
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
    """Write a checkpoint; it is there complete and verified, or not at all.

    Parameters
    ----------
    functional : Functional
        Of a registered architecture. It stays as it is; the file holds its tensors in float64.
    root : path
        Folder of checkpoints, made if need be; gets the folder `name@version`.
    name : str
        As users will call it.
    version : int
        From 1. Written versions are never changed.
    description : str
        One sentence.
    text : str
        Markdown for the README: what it was trained for, how good it is, where it should not be used.
    parent : str, optional
        The functional that it was made from.
    training : mapping, optional
        Plain data on how it was made: data with their digest, settings, seconds.
    metrics : mapping, optional
        Plain data on how good it is.
    pseudos : str, optional
        Family of pseudopotentials it is made for, such as "gth-pbe"; default: that of its features.
    licence, citation : str, optional
        Of the trained parameters.

    Returns
    -------
    Path
        The folder written.

    Raises
    ------
    FileExistsError
        If this version of this name is there.
    CheckpointError
        If the name is none or reserved (see `is_reserved`), if `training` or `metrics` are no plain data of finite
        numbers, or if the functional could not be loaded again.
    InputError
        If there is no such family of pseudopotentials.
    UnknownArchitecture
        If its class is not registered.
    """
    import torch

    from .xc import describe

    called = f"{name}@{version}"
    if type(version) is not int or parse_name(called) != (name, version):
        raise CheckpointError(f"{called!r} is not a name and a version from 1")
    if is_reserved(name, root):
        raise CheckpointError(f"{name!r} is a name of the package, of libxc or of PySCF: take another")
    if pseudos is not None:
        if not pseudos.startswith("gth-"):
            raise CheckpointError(f"pseudos={pseudos!r}: a family such as 'gth-pbe' is expected")
        check_family(pseudos)
    with torch.inference_mode(False):
        functional = copy.deepcopy(functional).to("cpu", torch.float64).eval()
        weights = _serialised(functional)
        card = {
            "format": FORMAT,
            "name": name,
            "version": version,
            "description": description,
            **_claims(functional),
            "architecture": describe(functional),
            "parent": parent,
            "training": dict(training or {}),
            "metrics": dict(metrics or {}),
            "pseudos": pseudos,
            "licence": licence,
            "citation": citation,
            "sha256": _digest(weights),
            "self_test": _make_self_test(functional),
            "created": {
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "ase_nnxc": __version__,
                "torch": torch.__version__,
            },
        }
    contents = {
        _WEIGHTS: weights,
        _CARD: _card_text(card).encode(),
        "README.md": _readme(card, text).encode(),
    }
    return _write(Path(root), called, contents)


def is_unchanged(functional: "Functional") -> bool:
    """Whether a functional has a card, and still the tensors and the constants that it says."""
    from .xc import describe

    card = functional.card
    return (
        card is not None
        and _digest(_serialised(functional)) == card["sha256"]
        and json.loads(json.dumps(describe(functional))) == card["architecture"]
    )


def _serialised(functional: "Functional") -> bytes:
    """The tensors as safetensors."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().clone().contiguous() for name, t in functional.state_dict().items()})


def _card_text(card: Mapping[str, Any]) -> str:
    """The card as JSON."""
    for field, value in card.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"not written: {field} is no plain data of finite numbers: {error}") from error
    return json.dumps(card, indent=1) + "\n"


def _write(root: Path, called: str, contents: Mapping[str, bytes]) -> Path:
    """Write the files of a checkpoint beside their place, verify them, and move them there at once."""
    import torch

    folder = root / called
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} is there: written versions are never changed, take the next one")
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f".{called}.{uuid4().hex}"
    temporary.mkdir()
    try:
        for name, data in contents.items():
            _write_file(temporary / name, data)
        with torch.inference_mode(False):
            _load(_read_all(temporary), called)
        temporary.rename(folder)
    except CheckpointError as error:
        raise CheckpointError(f"not written, as {called} could not be loaded again: {error}") from error.__cause__
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # not there after the renaming
    return folder


def _write_file(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_index(root: str | os.PathLike[str]) -> Path:
    """Pin the checkpoints of a folder in its index.json; for those who ship models.

    Returns
    -------
    Path
        The file written: the SHA-256 of card and tensors of each.

    Raises
    ------
    CheckpointError
        If one of them cannot be loaded.
    """
    folder = Path(root)
    index = {}
    for _, _, path in Root("path", folder).checkpoints():
        with _errors_of(path):
            contents = _read_all(path)
            _load(contents, path.name)
            index[path.name] = {name: _digest(data) for name, data in contents.items()}
    target = folder / _INDEX
    target.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return target


def _readme(card: Mapping[str, Any], text: str) -> str:
    """The card in Markdown."""
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
