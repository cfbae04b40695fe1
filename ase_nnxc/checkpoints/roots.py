"""Where checkpoints are: the folders that are searched, names and versions, and paths.

Names consist of a-z, 0-9, ".", "_" and "-"; versions count from 1. Names are searched for in the models of the package,
then in the folders of $NNXC_MODEL_PATH, then in the user's data folder ($XDG_DATA_HOME or ~/.local/share, there
ase_nnxc/models). A name that the package ships is never searched for elsewhere. Names of conventional functionals and
of functionals of libxc cannot be given to checkpoints.
"""

import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ase.calculators.calculator import InputError

from ..conventional import find_conventional

_NAME = re.compile(r"([a-z0-9_-][a-z0-9._-]*)(?:@([1-9][0-9]{0,8}))?")


class CheckpointError(InputError):
    """A checkpoint that does not exist, that is damaged, or that cannot be written."""


@dataclass(frozen=True)
class Root:
    """A folder of checkpoints.

    Attributes
    ----------
    origin : {"package", "path", "user"}
        Shipped with the package, named in $NNXC_MODEL_PATH, or the user's data folder.
    folder : Path
        The folder; it need not exist.
    """

    origin: str
    folder: Path

    def checkpoints(self) -> list[tuple[str, int, Path]]:
        """Return name, version and folder of each checkpoint, sorted.

        Raises
        ------
        CheckpointError
            If the folder exists and cannot be read.
        """
        try:
            folders = list(self.folder.iterdir()) if self.folder.is_dir() else []
        except OSError as error:
            raise CheckpointError(f"the folder of models {self.folder} cannot be read: {error.strerror}") from error
        matches = [(_NAME.fullmatch(folder.name), folder) for folder in folders]
        return sorted((match[1], int(match[2]), folder) for match, folder in matches if match and match[2])

    def versions(self, name: str) -> dict[int, Path]:
        """Return the folders of the versions of one model."""
        return {version: folder for other, version, folder in self.checkpoints() if other == name}


def model_roots() -> list[Root]:
    """Return the folders in which names are searched for, in this order."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    path = [Path(part).expanduser() for part in os.environ.get("NNXC_MODEL_PATH", "").split(os.pathsep) if part]
    return [
        Root("package", Path(str(files("ase_nnxc"))) / "models"),
        *(Root("path", folder) for folder in path),
        Root("user", Path(data).expanduser() / "ase_nnxc" / "models"),
    ]


def parse_name(text: str) -> tuple[str, int | None]:
    """Return name and version of "name" or "name@version".

    Raises
    ------
    CheckpointError
        If the text is neither.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise CheckpointError(
            f"{text!r} is not a name of a model: expected a-z, 0-9, '.', '_' and '-', not beginning with '.', and "
            "optionally '@' and a version from 1"
        )
    return match[1], None if match[2] is None else int(match[2])


def is_reserved(name: str, root: str | os.PathLike[str] | None = None) -> bool:
    """Whether a name stands for something other than a checkpoint in the folder `root`.

    Reserved are the names of conventional functionals, of the models of the package except in their own folder, and all
    names that libxc or PySCF know, including functionals that are refused and endings such as "-d3" of dispersion
    corrections. The last check loads PySCF, which takes half a second.
    """
    package = model_roots()[0]
    if find_conventional(name):
        return True
    if package.versions(name.lower()):
        return root is None or Path(root).resolve() != package.folder.resolve()
    return is_libxc_name(name)


def is_libxc_name(name: str) -> bool:
    """Whether libxc or PySCF know a name."""
    from ..interop.libxc import Libxc, UnknownFunctional  # loads PySCF

    try:
        Libxc(name)
    except UnknownFunctional:
        return False
    except ValueError:  # known, but it cannot be calculated
        return True
    return True


def is_checkpoint_path(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether a PathLike or string is a path: a string is one if it contains a path separator, otherwise a name."""
    if not isinstance(name_or_path, str):
        return True
    return os.sep in name_or_path or bool(os.altsep and os.altsep in name_or_path)


def find_model(name: str, version: int | None = None) -> Path | None:
    """Return the folder of a model, or None if it does not exist.

    Parameters
    ----------
    name : str
        The name without version.
    version : int, optional
        Default: the highest version in the first root that has the name.
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


def checkpoints_by_name() -> list[tuple[Root, str, int, Path]]:
    """Return root, name, version and folder of all checkpoints that can be named, in the order of the roots."""
    return [
        (root, name, version, folder)
        for root in model_roots()
        for name, version, folder in root.checkpoints()
        if find_model(name, version) == folder
    ]


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the folder of a checkpoint, which exists and is not a link.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint; the message lists those that exist.
    """
    if is_checkpoint_path(name_or_path):
        return _locate_path(name_or_path)
    name, version = parse_name(str(name_or_path).lower())
    conventional = find_conventional(name)
    if conventional is not None:
        raise CheckpointError(f"{conventional} is a conventional functional, not a checkpoint: use `get_functional`")
    folder = find_model(name, version)
    if folder is None:
        known = sorted({f"{name}@{version}" for _, name, version, _ in checkpoints_by_name()})
        raise CheckpointError(f"no model {name_or_path!r}; the models are {', '.join(known) or 'none'}")
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder (links are not followed)")
    return folder


def _locate_path(path: str | os.PathLike[str]) -> Path:
    try:
        folder = Path(path).expanduser().resolve()  # links above the checkpoint are the user's choice
    except (OSError, RuntimeError, ValueError) as error:  # an unknown home, a null character
        raise CheckpointError(f"{path!r} is not a valid path: {error}") from error
    match = _NAME.fullmatch(folder.name)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    if match is None or match[2] is None:
        raise CheckpointError(f"{folder}: the folder of a checkpoint must be called name@version")
    return folder
