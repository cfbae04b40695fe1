"""Files of records: JSON of this package, and the formats of ASE.

JSON keeps every number to the last bit. Of the formats of ASE, extxyz rounds positions. In these each image is a
structure. Images whose `info` (in a database: `data`) has the same "record" form one record, and the `info` of the
first one holds the targets that are not results of one image. "image" and "images" are the number of an image in its
record, from 0, and the number of images of the record, so that a file that was cut is noticed. An image with
"cohesive_energy", "atomization_energy", or "ionization_potential" and "ion_magmom" in its `info` becomes the record of
that energy.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.db
import ase.io
from ase import Atoms
from ase.calculators.calculator import InputError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import UnknownFileTypeError, filetype, ioformats

from ...regular_files import complete_or_absent
from ..input_files import check_input_file, read_text
from ..schema import check_keys, closest, is_integer, is_list, number, optional, writable_folder
from ..targets import ASE_PROPERTIES, TARGETS
from .reactions import atomization_energy, cohesive_energy, ionization_potential
from .record import MEASURED, Provenance, Record
from .schema import FORMAT, VERSION, check_file, check_units

LARGEST = 2**28
"""Bytes of the largest file of records that is read."""

LONGEST = 300
"""Characters of a reason that a reader of ASE gives, which may quote the file."""

_REACTIONS: dict[str, Callable[..., Record]] = {
    "cohesive_energy": cohesive_energy,
    "atomization_energy": atomization_energy,
    "ionization_potential": ionization_potential,
}
_REACTION_KEYS = (*_REACTIONS, "ion_magmom")
# this package writes units; the others are common in files of other programs
_OPTIONAL = ("coefficients", "settings", "calculator")
_UNIT_KEYS = {"unit", "units", "energy_unit", "energy_units"}
_INFO = ("record", "image", "images", "units", "targets", "provenance", *_OPTIONAL)


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Write records to a file: .json in the format of this package, .db as an ASE database, others by `ase.io.write`.

    An existing file is replaced, except a database.

    Raises
    ------
    InputError
        If two records have the same name.
    FileExistsError
        If the database exists.
    """
    path = Path(path)
    _check_names(records)
    if path.suffix == ".json":
        data = {"format": FORMAT, "version": VERSION, "units": TARGETS, "records": [r.todict() for r in records]}
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        return
    images = [image for record in records for image in _to_images(record)]
    if path.suffix != ".db":
        ase.io.write(path, images)
        return
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another name")
    with ase.db.connect(path) as database:
        for image in images:
            database.write(image, data=image.info)


def read_records(path: str | Path) -> list[Record]:
    """Read the records of a file that `write_records` or ASE wrote.

    An image without "record" is a separate record. It has the name of the file, with a number if there are several.

    Raises
    ------
    InputError
        If the file does not contain valid records.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    check_input_file(path, LARGEST)  # raises if there is no such file; ase.db would create it
    if path.suffix in (".yaml", ".yml"):
        raise InputError(
            f"{path}: files of DeepChem are read by nnxc train, or by ase_nnxc.interop.deepchem.read_deepchem, whose "
            "records write_records writes as JSON"
        )
    data = _read_json(path) if path.suffix == ".json" else None
    if isinstance(data, dict) and not {"format", "records"}.isdisjoint(data):
        return _from_json(path, data)
    images = _read_images(path)
    try:
        records = _from_images(images, path.stem)
        if any("images" in image.info for image in images):
            _check_last_line(path)
        _check_names(records)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not records:
        raise InputError(f"{path} contains no structures")
    return records


def check_output(path: str | Path) -> None:
    """Check that `write_records` can write a file, before the records are calculated.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written, the path is not a regular file, or the suffix is unknown.
    FileExistsError
        If the path is an existing database.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    writable_folder(path.parent, str(path))
    if path.exists() and not path.is_file():
        raise InputError(f"{path} exists and is not a regular file; choose another name")
    if path.suffix == ".db" and path.exists():
        raise FileExistsError(f"{path} exists; choose another name")
    if path.suffix not in (".json", ".db"):
        try:
            is_known = ioformats[filetype(str(path), read=False)].can_write
        except (KeyError, UnknownFileTypeError):
            is_known = False
        if not is_known:
            raise InputError(f"{path}: ASE writes no files {path.name!r}; use the suffix .json, .db, .extxyz or .traj")


# ---- the format of this package -------------------------------------------------------------------------------------


def _read_json(path: Path) -> Any:
    text = read_text(path, LARGEST)
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in names if names.count(name) > 1)!r}")
    return data


def _from_json(path: Path, data: dict[str, Any]) -> list[Record]:
    try:
        check_file(data)
        records = [Record.fromdict(record, f"records[{i}]") for i, record in enumerate(data["records"])]
        _check_names(records)
    except InputError as error:
        raise InputError(f"{path} does not contain valid records: {error}") from error
    return records


# ---- the formats of ASE ---------------------------------------------------------------------------------------------


def _read_images(path: Path) -> list[Atoms]:
    """Return the images of a file; those of a database with `record` and `data` of their rows in their `info`."""
    try:
        if path.suffix not in (".db", ".json"):
            return list(ase.io.iread(path, index=":"))
        images = []
        for row in ase.db.connect(path).select():
            images.append(row.toatoms())
            images[-1].info = {**({"record": row.record} if "record" in row else {}), **row.data}
    except Exception as error:  # ASE's readers raise exceptions of many types on damaged files
        if isinstance(error, OSError) and error.filename is not None:  # not ASE's XYZError, nor a seek in the file
            raise
        raise InputError(f"{path} cannot be read by ASE: {type(error).__name__}: {str(error)[:LONGEST]}") from error
    return images


def _to_images(record: Record) -> list[Atoms]:
    """Return the structures, each with its targets as results, the first with all other data in its `info`."""
    images = []
    for i, atoms in enumerate(record.structures):
        image = atoms.copy()
        results = {key: record.targets[key][i] for key in ASE_PROPERTIES if key in record.targets}
        if "energy" in results:
            results["free_energy"] = results["energy"] = float(results["energy"])
        image.calc = SinglePointCalculator(image, **results)
        image.info |= {"record": record.name, "image": i, "images": len(record.structures)}
        images.append(image)
    data = record.todict()
    targets = {key: value for key, value in data["targets"].items() if key not in ASE_PROPERTIES}
    units = {key: TARGETS[key] for key in data["targets"]}
    images[0].info |= {"units": units, "targets": targets, "provenance": data["provenance"]}
    images[0].info |= {key: data[key] for key in _OPTIONAL if data.get(key) is not None}
    return images


def _from_images(images: Sequence[Atoms], file_name: str) -> list[Record]:
    groups: dict[str, list[Atoms]] = {}
    for i, image in enumerate(images):
        default = file_name if len(images) == 1 else f"{file_name}-{i}"
        name = image.info.get("record", default)
        if is_list(name) or isinstance(name, Mapping) or not str(name):
            raise InputError(f"image {i}: record={name!r} must be the name of a record")
        groups.setdefault(str(name), []).append(image)
    return [_from_group(name, group) for name, group in groups.items()]


def _from_group(name: str, images: Sequence[Atoms]) -> Record:
    """Return the record of the images that belong together."""
    info = images[0].info
    reactions = [key for key in _REACTIONS if key in info]
    _check_info(name, images)
    try:
        if reactions:
            return _from_reaction(name, images, reactions)
        targets = {**info.get("targets", {}), **_results(name, images)}
        provenance = Provenance(**info.get("provenance", {}))
        others = {key: info[key] for key in _OPTIONAL if info.get(key) is not None}
        if "coefficients" in others and not is_list(others["coefficients"]):
            others["coefficients"] = (others["coefficients"],)  # extxyz reads a list of one number as a number
        return Record(name, tuple(images), targets, provenance=provenance, **others)
    except InputError as error:
        raise InputError(f"{error} (info of the first image of record {name!r}, or its results)") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"record {name!r}: the info of the first image is not valid: {error}") from error


def _check_info(name: str, images: Sequence[Atoms]) -> None:
    """Check that all images of a record are there, in their order, and that their `info` can be interpreted."""
    complete = any("images" in image.info for image in images)
    for i, image in enumerate(images):
        for key in _UNIT_KEYS & image.info.keys():
            check_units(image.info[key], f"record {name!r}, info of image {i}: {key}")
        for key in image.info:
            guess = closest(key, _REACTION_KEYS, cutoff=0.85) if key not in _REACTION_KEYS else ""
            if guess:
                raise InputError(f"record {name!r}: unknown key {key} in the info of image {i}{guess}")
        if not complete:
            continue
        check_keys(image.info, _INFO, f"record {name!r}, info of image {i}: ")
        index, count = (image.info.get(key) for key in ("image", "images"))
        if not (is_integer(count) and is_integer(index) and count == len(images) and index == i):
            raise InputError(
                f"record {name!r} is not complete: {len(images)} images were read, and the one at position {i} has "
                f"image={index} and images={count}. The file was cut or changed; write it again"
            )


def _check_last_line(path: Path) -> None:
    """Raise an InputError if the last line of a text file that `write_records` wrote was cut."""
    if path.suffix not in (".xyz", ".extxyz"):
        return
    with path.open("rb") as file:
        file.seek(-1, 2)
        if file.read() != b"\n":
            raise InputError("the last line has no end: the file was cut; write it again")


def _results(name: str, images: Sequence[Atoms]) -> dict[str, list[Any]]:
    """Return the results of the images that are targets, each for all images."""
    results = [image.calc.results if image.calc is not None else {} for image in images]
    for i, result in enumerate(results):
        for key in ("energy", "free_energy"):  # only one of the two becomes a target
            optional(number())(result.get(key), f"image {i} of record {name!r}: {key}")
    targets = {}
    for key in ASE_PROPERTIES:
        values = [r.get("free_energy", r.get("energy")) if key == "energy" else r.get(key) for r in results]
        if all(value is not None for value in values):
            targets[key] = values
        elif any(value is not None for value in values):
            raise InputError(f"record {name!r} has {key} for some of its structures only; expected all or none")
    return targets


def _from_reaction(name: str, images: Sequence[Atoms], keys: Sequence[str]) -> Record:
    """Return the record of an image whose `info` has one of `_REACTIONS`."""
    info = images[0].info
    if len(images) > 1 or len(keys) > 1:
        raise InputError(f"record {name!r}: expected one image and one energy, got {len(images)} and {', '.join(keys)}")
    (key,) = keys
    magmom = {}
    if key == "ionization_potential":
        if "ion_magmom" not in info:
            raise InputError(f"record {name!r}: ionization_potential needs ion_magmom, the total moment of the ion")
        magmom = {"magmom": info["ion_magmom"]}
    provenance = Provenance(**info["provenance"]) if "provenance" in info else MEASURED
    number(above=0)(info[key], key)
    if magmom:
        number()(info["ion_magmom"], "ion_magmom")
    return _REACTIONS[key](name, images[0], info[key], **magmom, provenance=provenance)


def _check_names(records: Iterable[Record]) -> None:
    seen: set[str] = set()
    for record in records:
        if record.name in seen:
            raise InputError(f"two records have the name {record.name!r}")
        seen.add(record.name)
