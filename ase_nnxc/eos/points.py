"""Finished volumes of a scan, and the file that keeps them, from which an interrupted scan resumes."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError

from ..regular_files import complete_or_absent, read_regular_file

_LARGEST = 2**24  # bytes of a file; a point has some 300
_START = b'{"scan": "'  # of every line


@dataclass(frozen=True)
class Point:
    """One finished volume; volume and energies are those of the cell as given.

    Attributes
    ----------
    index : int
        The volume is that of the start structure times (1 + span)^(index / half); see `scan_eos`.
    volume_A3, free_energy_eV, energy_eV : float
        Volume, free energy, and energy extrapolated to zero width of the smearing.
    magmom_muB : float or None
        Total magnetic moment, if the calculator gives one.
    time_s : float
        Wall time.
    deviations_eV : list of float, optional
        Deviations of the free energy along the directions of the probable errors of the functional, if it has them
        (`get_energy_deviations` of the calculator).
    """

    index: int
    volume_A3: float
    free_energy_eV: float
    energy_eV: float
    magmom_muB: float | None
    time_s: float
    deviations_eV: list[float] | None = None


class PointFile:
    """Points and failures of one scan, one JSON line each.

    A line has the fingerprint of the scan, which is fixed, and that of its settings, which change if the window
    outgrows the FFT box. It ends with the SHA-256 of the rest of it.

    Parameters
    ----------
    path : Path or None
        The file; without it everything is kept in memory only.
    scan : str
        Fingerprint of the scan.
    force : bool
        Discard the points of another scan in the file.

    Raises
    ------
    InputError
        If the file is not one of a scan, if a line is damaged, or if it holds points of another scan, unless forced.
    """

    def __init__(self, path: Path | None, scan: str, force: bool) -> None:
        self._path, self._scan = path, scan
        self._records: list[dict[str, Any]] = []
        if path is not None:
            self._load(path, force)

    def _load(self, path: Path, force: bool) -> None:
        try:
            text = read_regular_file(path, _LARGEST)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        end = text.rfind(b"\n") + 1
        whole, half = text[:end], text[end:]  # an interrupted write leaves half a line
        if not half.startswith(_START[: len(half)]):
            raise InputError(f"{path} is not the record of a scan: choose another folder (-o), or remove the file")
        records = [_parsed(line, f"{path}, line {i + 1},") for i, line in enumerate(whole.split(b"\n")[:-1])]
        self._records = [record for record in records if record["scan"] == self._scan]
        if len(self._records) < len(records) and not force:
            raise InputError(
                f"{path.parent} holds points of another scan: choose another folder (-o), or discard them (--force)"
            )
        if len(self._records) < len(records) or whole != text:
            with complete_or_absent(path) as rewritten:
                rewritten.write_text("".join(map(_line, self._records)))

    def finished(self, settings: str) -> dict[int, Point]:
        """Return the points at these settings by index; failed ones are left out, so that they are tried again."""
        fields = [
            {key: value for key, value in record.items() if key not in ("scan", "settings")}
            for record in self._records
            if record["settings"] == settings and "error" not in record
        ]
        return {f["index"]: Point(**f) for f in fields}

    def add(self, settings: str, point: Point) -> None:
        """Add a finished point."""
        self._write(settings, asdict(point))

    def add_failure(self, settings: str, index: int, error: str) -> None:
        """Add a point whose calculation failed."""
        self._write(settings, {"index": index, "error": error})

    def _write(self, settings: str, fields: dict[str, Any]) -> None:
        record = {"scan": self._scan, "settings": settings} | fields
        self._records.append(record)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(_line(record))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record | {"sha256": _digest(record)}) + "\n"


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    """Return the record of a line; raise InputError unless it is as it was written."""
    try:
        record: dict[str, Any] = json.loads(line)
        if record.pop("sha256") == _digest(record):
            return record
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError(
        f"{place} is not the record of a scan, or it is damaged: remove the line, and its point is calculated again"
    )
