"""Inputs of the generator: configurations, radii and numbers of each element, from ase_nnxc/data/oncv.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from ase.calculators.calculator import InputError
from ase.data import atomic_numbers

from ...atoms import Shell, parse_shells


@dataclass(frozen=True)
class ChannelInputs:
    """One angular momentum.

    Attributes
    ----------
    l : int
        Angular momentum.
    radius : float
        Radius r_c beyond which the functions are those of the all-electron atom, bohr.
    constraints : int
        Number of derivatives at r_c, the value included, that are continuous.
    waves : int
        Number of spherical Bessel functions of the basis.
    cutoff : float
        Wave number q_c, bohr^-1: the kinetic energy beyond it is minimised.
    projectors : int
        Number of projectors.
    spacing : float
        Distance of the second energy from the first, Hartree, unless both are those of occupied shells.
    energy : float
        Energy of the first projector if no shell of this angular momentum is occupied, Hartree.
    """

    l: int  # noqa: E741
    radius: float
    constraints: int
    waves: int
    cutoff: float
    projectors: int
    spacing: float
    energy: float = 0.05


@dataclass(frozen=True)
class LocalInputs:
    """The local potential.

    Attributes
    ----------
    radius : float
        Radius beyond which it is the all-electron potential, bohr.
    powers : tuple of int
        Powers of r in the polynomial inside; the first is zero.
    v0 : float
        Value of the polynomial at r = 0, Hartree.
    bump : float
        Factor of a further term (1 - (r/radius)^4)^4, Hartree.
    """

    radius: float
    powers: tuple[int, ...]
    v0: float
    bump: float = 0.0


@dataclass(frozen=True)
class ModelCoreInputs:
    """The model of the core density.

    Attributes
    ----------
    height : float
        Density at r = 0, relative to that where core and valence densities are equal.
    scale : float
        Length of the model, relative to the radius where they are equal.
    """

    height: float
    scale: float


@dataclass(frozen=True)
class PartialCoreInputs:
    """The partial core that functionals of tau see instead.

    Attributes
    ----------
    height : float or None
        Density at r = 0, relative to that where core and valence densities are equal; None to continue the core
        smoothly without another condition.
    scale : float
        Radius beyond which the core is that of the atom, relative to the radius where they are equal; see
        `make_partial_core`.
    """

    height: float | None
    scale: float


@dataclass(frozen=True)
class Inputs:
    """What the generator needs to know of an element.

    Attributes
    ----------
    symbol : str
        Chemical symbol.
    core, valence : tuple of Shell
        Shells of the reference atom.
    channels : tuple of ChannelInputs
        The angular momenta with projectors.
    local : LocalInputs
        The local potential.
    model_core : ModelCoreInputs, PartialCoreInputs or None
        The core that exchange and correlation see; None for none.
    """

    symbol: str
    core: tuple[Shell, ...]
    valence: tuple[Shell, ...]
    channels: tuple[ChannelInputs, ...]
    local: LocalInputs
    model_core: ModelCoreInputs | PartialCoreInputs | None

    @property
    def number(self) -> int:
        """Atomic number."""
        return atomic_numbers[self.symbol]

    @property
    def charge(self) -> int:
        """Charge of the ion core: the number of valence electrons."""
        return round(sum(shell.electrons for shell in self.valence))

    @property
    def radii(self) -> tuple[float, ...]:
        """All radii beyond which something is as in the all-electron atom, bohr, in increasing order."""
        return tuple(sorted({self.local.radius, *(channel.radius for channel in self.channels)}))

    def core_shells(self, l: int) -> int:  # noqa: E741
        """Return the number of core shells with an angular momentum."""
        return sum(1 for shell in self.core if shell.l == l)

    def valence_shells(self, l: int) -> list[Shell]:  # noqa: E741
        """Return the valence shells with an angular momentum, by rising n."""
        return sorted(shell for shell in self.valence if shell.l == l)


PARTIAL_CORE = PartialCoreInputs(height=None, scale=1.15)
"""Inputs of partial cores, unless an element has others. With a scale of 1.5 the volume of Si is wrong by 0.8 %."""


@cache
def _elements() -> Mapping[str, Any]:
    return json.loads((files("ase_nnxc") / "data" / "oncv.json").read_text(encoding="utf-8"))["elements"]


def elements_with_inputs() -> tuple[str, ...]:
    """Return the symbols of the elements for which pseudopotentials can be generated."""
    return tuple(_elements())


def load_inputs(symbol: str, with_tau: bool = False) -> Inputs:
    """Return the inputs of an element.

    Parameters
    ----------
    symbol : str
        Chemical symbol.
    with_tau : bool
        Whether the functional depends on tau: cores are then partial ones, and the radii of some elements are smaller.

    Raises
    ------
    InputError
        If there are none.
    """
    if symbol not in _elements():
        raise InputError(
            f"no pseudopotential can be generated for {symbol!r}: expected one of the {len(_elements())} elements from "
            f"H to Rn without Ce to Yb and At; choose a table, pseudos={{{symbol!r}: 'gth-pbe'}}"
        )
    entry = _elements()[symbol]
    local = entry["local"]
    inputs = Inputs(
        symbol,
        parse_shells(entry["core"]),
        parse_shells(entry["valence"]),
        tuple(ChannelInputs(**channel) for channel in entry["channels"]),
        LocalInputs(**local | {"powers": tuple(local["powers"])}),
        _core_inputs(entry, with_tau),
    )
    return _with_radii(inputs, entry.get("radii_with_tau", 1.0)) if with_tau else inputs


def _core_inputs(entry: Mapping[str, Any], with_tau: bool) -> ModelCoreInputs | PartialCoreInputs | None:
    """The inputs of the core that exchange and correlation see."""
    if "model_core" not in entry:
        return None
    if not with_tau:
        return ModelCoreInputs(**entry["model_core"])
    return PartialCoreInputs(**entry["core_with_tau"]) if "core_with_tau" in entry else PARTIAL_CORE


def _with_radii(inputs: Inputs, factor: float) -> Inputs:
    """Inputs with all radii multiplied by a factor, and the cutoffs of residual energies divided by it."""
    channels = tuple(replace(c, radius=factor * c.radius, cutoff=c.cutoff / factor) for c in inputs.channels)
    return replace(inputs, channels=channels, local=replace(inputs.local, radius=factor * inputs.local.radius))
