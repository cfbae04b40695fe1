"""Parameters of the calculator that are the same for all volumes of a scan, and the fingerprint of a scan."""

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io.jsonio import encode

from .. import __version__
from ..ranks import Ranks
from .structures import scaled

logger = logging.getLogger(__name__)

# mesh and FFT box are fixed for a volume this much above the largest one of the window, so that one extension fits
HEADROOM = 1.08
# parameters that a calculator's resolve() makes explicit, whatever it has computed before
RESOLVED = ("ecut", "gpts", "kpts", "pseudos")
# parameters that do not change a number; two scans that differ in these only are the same
NEUTRAL = {"txt", "directory", "label", "device", "share_kpoints"}


@contextmanager
def parameters_kept(calc: Calculator) -> Iterator[None]:
    """Restore at the end the parameters that a scan sets."""
    before = {name: calc.parameters[name] for name in ("kpts", "gpts", "smooth_cutoff") if name in calc.parameters}
    try:
        yield
    finally:
        if before:
            calc.set(**before)


@contextmanager
def shared_in(group: Ranks, ranks: Ranks, calc: Calculator) -> Iterator[None]:
    """Let a group of the ranks share the k-points of a calculator; the first one alone writes log and restart file."""
    if group is ranks:
        yield
        return
    before = {name: calc.parameters[name] for name in ("share_kpoints", "txt")}
    prefix = calc.prefix
    calc.set(share_kpoints=group)
    if ranks.number >= group.count:
        calc.set(txt=None)
        calc.prefix = None
    try:
        yield
    finally:
        calc.set(**before)
        calc.prefix = prefix


class CommonSettings:
    """Fixes the k-point mesh and the FFT box of a calculator for all volumes of a scan.

    Parameters
    ----------
    calc : Calculator
        Its mesh and box are fixed if it has a method `resolve`.
    start : Atoms
        Start structure; the mesh is chosen for it.
    ratio : float
        Ratio of neighbouring volumes, for the fingerprint.
    largest : float
        Largest volume of the first window, relative to the start.

    Attributes
    ----------
    parameters : dict
        All parameters of the calculator, with mesh and box.
    fingerprint : str
        Equal for scans whose points have the same energies.
    """

    def __init__(self, calc: Calculator, start: Atoms, ratio: float, largest: float) -> None:
        self._calc, self._start, self._ratio = calc, start, ratio
        self._automatic = {name: calc.parameters[name] for name in ("kpts", "gpts") if name in calc.parameters}
        self.parameters: dict[str, Any] = {}
        self.fingerprint = ""
        self._fix(largest)

    def extend(self, largest: float) -> bool:
        """Fix the box anew if it is too small for a volume relative to the start; return whether it was."""
        if largest <= self._served:
            return False
        self._fix(largest)
        return True

    def _fix(self, largest: float) -> None:
        calc, start, resolved = self._calc, self._start, dict[str, Any]()
        self._served = math.inf  # the largest relative volume that mesh and box serve
        if hasattr(calc, "resolve"):
            self._served = largest * (HEADROOM if self._automatic.get("gpts") is None else 1.0)
            calc.set(**self._automatic)
            resolved = calc.resolve(start)
            resolved["gpts"] = calc.resolve(scaled(start, self._served))["gpts"]
            calc.set(kpts=resolved["kpts"], gpts=resolved["gpts"])
            logger.info("mesh %s and FFT box %s are kept over the scan", resolved["kpts"], resolved["gpts"])
        explicit = {name: resolved[name] for name in RESOLVED if name in resolved}
        self.parameters = dict(sorted((calc.todict() | explicit).items()))
        identity = {
            "numbers": start.numbers.tolist(),
            "cell_A": start.cell.tolist(),
            "scaled_positions": start.get_scaled_positions(wrap=False).tolist(),
            "magmoms": start.get_initial_magnetic_moments().tolist(),
            "charges": start.get_initial_charges().tolist(),
            "ratio": self._ratio,
            "calculator": calc.name,
            "parameters": {name: value for name, value in self.parameters.items() if name not in NEUTRAL},
            "tables": getattr(calc, "pseudopotential_digests", lambda atoms: {})(start),
            "version": __version__,
        }
        self.fingerprint = hashlib.sha256(encode(identity).encode()).hexdigest()[:16]
