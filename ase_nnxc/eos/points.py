"""Finished volumes of a scan, and the file that keeps them, from which an interrupted scan resumes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ase.calculators.calculator import InputError


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
    """

    index: int
    volume_A3: float
    free_energy_eV: float
    energy_eV: float
    magmom_muB: float | None
    time_s: float


class PointFile:
    """Points and failures of one scan, one JSON line each.

    A line has the fingerprint of the scan, which is fixed, and that of its settings, which change if the window
    outgrows the FFT box.

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
        If the file is not one of a scan, or if it holds points of another scan, unless forced.
    """

    def __init__(self, path: Path | None, scan: str, force: bool) -> None:
        self._path, self._scan = path, scan
        self._records: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self._load(path, force)

    def _load(self, path: Path, force: bool) -> None:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]  # an interrupted write leaves half a line
        try:
            records = [json.loads(line) for line in whole.splitlines()]
            self._records = [record for record in records if record["scan"] == self._scan]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not the record of a scan") from error
        if len(self._records) < len(records) and not force:
            raise InputError(
                f"{path.parent} holds points of another scan: choose another folder (-o), or discard them (--force)"
            )
        if len(self._records) < len(records) or whole != text:
            rewritten = path.with_suffix(".part")
            rewritten.write_text("".join(json.dumps(record) + "\n" for record in self._records))
            rewritten.replace(path)

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
                file.write(json.dumps(record) + "\n")
