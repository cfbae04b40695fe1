"""Files of records: JSON of this package, and the formats of ASE.

JSON keeps every number to the last bit. Of the formats of ASE, extxyz rounds positions. In these each image is a
structure. Images whose `info` (in a database: `data`) has the same "record" form one record, and the `info` of the
first one holds the targets that are not results of one image. An image with "cohesive_energy", "atomization_energy", or
"ionization_potential" and "ion_magmom" in its `info` becomes the record of that energy.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ase.db
import ase.io
from ase import Atoms
from ase.calculators.calculator import InputError
from ase.calculators.singlepoint import SinglePointCalculator

from ..targets import ASE_PROPERTIES, TARGETS
from .reactions import atomization_energy, cohesive_energy, ionization_potential
from .record import MEASURED, Provenance, Record

FORMAT, VERSION = "ase_nnxc-records", 1

_REACTIONS: dict[str, Callable[..., Record]] = {
    "cohesive_energy": cohesive_energy,
    "atomization_energy": atomization_energy,
    "ionization_potential": ionization_potential,
}


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
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
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
    path.open("rb").close()  # raises if there is no such file; ase.db would create it
    data = _read_json(path) if path.suffix == ".json" else None
    if isinstance(data, dict) and data.get("format") == FORMAT:
        records = _from_json(path, data)
    else:
        records = _from_images(_read_images(path), path.stem)
    _check_names(records)
    return records


# ---- the format of this package -------------------------------------------------------------------------------------


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise InputError(f"{path} is not JSON: {error}") from error


def _from_json(path: Path, data: dict[str, Any]) -> list[Record]:
    if data.get("version") != VERSION:
        raise InputError(f"{path} has version {data.get('version')} of the format, expected {VERSION}")
    try:
        return [Record.fromdict(record) for record in data["records"]]
    except KeyError as error:
        raise InputError(f"{path} does not contain valid records: {error} is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not contain valid records: {error}") from error


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
    except OSError:
        raise
    except Exception as error:  # ASE's readers raise exceptions of many types on damaged files
        raise InputError(f"{path} cannot be read by ASE: {type(error).__name__}: {error}") from error
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
        image.info["record"] = record.name
        images.append(image)
    data = record.todict()
    targets = {key: value for key, value in data["targets"].items() if key not in ASE_PROPERTIES}
    images[0].info |= {"targets": targets, "provenance": data["provenance"]}
    if record.coefficients is not None:
        images[0].info["coefficients"] = data["coefficients"]
    if record.settings is not None:
        images[0].info["settings"] = data["settings"]
    return images


def _from_images(images: Sequence[Atoms], file_name: str) -> list[Record]:
    groups: dict[str, list[Atoms]] = {}
    for i, image in enumerate(images):
        name = file_name if len(images) == 1 else f"{file_name}-{i}"
        groups.setdefault(str(image.info.get("record", name)), []).append(image)
    return [_from_group(name, group) for name, group in groups.items()]


def _from_group(name: str, images: Sequence[Atoms]) -> Record:
    """Return the record of the images that belong together."""
    info = images[0].info
    reactions = [key for key in _REACTIONS if key in info]
    try:
        if reactions:
            return _from_reaction(name, images, reactions)
        targets = {**info.get("targets", {}), **_results(name, images)}
        provenance = Provenance(**info.get("provenance", {}))
        return Record(name, tuple(images), targets, info.get("coefficients"), provenance, info.get("settings"))
    except (TypeError, ValueError) as error:
        raise InputError(f"record {name!r}: the info of the first image is not valid: {error}") from error


def _results(name: str, images: Sequence[Atoms]) -> dict[str, list[Any]]:
    """Return the results of the images that are targets, each for all images."""
    results = [image.calc.results if image.calc is not None else {} for image in images]
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
    return _REACTIONS[key](name, images[0], info[key], **magmom, provenance=provenance)


def _check_names(records: Iterable[Record]) -> None:
    seen: set[str] = set()
    for record in records:
        if record.name in seen:
            raise InputError(f"two records have the name {record.name!r}")
        seen.add(record.name)
