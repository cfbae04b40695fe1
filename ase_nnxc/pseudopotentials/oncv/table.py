"""A generated pseudopotential as arrays of numbers, and as the object that the core uses.

The radial functions keep the nodes and weights of the spectral elements that they were computed on.
"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ion_charge import gaussian_charge_potential
from ..protocol import Array, RecommendedCutoff
from ..radial import RadialMesh, TabulatedFunction
from ..tabulated import WIDTH, Tabulated, TabulatedChannel
from .inputs import Inputs

if TYPE_CHECKING:
    from ...atoms import Elements
    from .generator import Generated

COULOMB_TOLERANCE = 1e-6  # electrons: the local potential is -Z/r from where r V differs less from -Z
DENSITY_TOLERANCE = 1e-6  # electrons beyond the end of the density
SHORTEST = 5.0  # bohr, of the local potential: there erfc(r) is 1e-12

Numbers = Mapping[str, np.ndarray[Any, Any]]
"""Arrays by name; they are what is kept in files."""


def numbers_of(generated: "Generated") -> Numbers:
    """Return the numbers of a generated pseudopotential: cutoff, and meshes, functions and couplings by name."""
    smooth, r, ion, core = generated.smooth, generated.smooth.radii, generated.ion, generated.core
    numbers: dict[str, Array] = {"cutoff": np.array(generated.recommended_cutoff)}

    def add(name: str, elements: "Elements", end: float, values: Array) -> None:
        size = elements.edge(end) * elements.order + 1
        numbers[f"{name}_radii"] = elements.radii[:size]
        numbers[f"{name}_weights"] = elements.weights_up_to(end)[:size]
        numbers[name] = values[..., :size]

    charge = generated.inputs.charge
    remainder = r * (ion - gaussian_charge_potential(charge, WIDTH, np.maximum(r, 1e-12)))
    add("local", smooth, _end_of(generated, np.abs(r * ion + charge) > COULOMB_TOLERANCE, SHORTEST), remainder)
    for channel in generated.channels:
        add(f"projectors_{channel.l}", smooth, channel.radius, r * channel.projectors)
        numbers[f"couplings_{channel.l}"] = channel.coefficients
    electrons = np.cumsum(4 * np.pi * smooth.weights * r**2 * generated.density)
    end = _end_of(generated, electrons < electrons[-1] - DENSITY_TOLERANCE, SHORTEST)
    add("density", smooth, end, r * generated.density)
    if core is not None:
        elements = core.elements
        radii = elements.radii
        add("core", elements, elements.edges[-1], radii * core.density(radii))
        numbers["core_tau"] = radii * core.kinetic_energy_density(radii)
    return numbers


def _end_of(generated: "Generated", needed: np.ndarray[Any, Any], shortest: float) -> float:
    """The first edge beyond all nodes where a function is needed."""
    smooth = generated.smooth
    last = max(shortest, smooth.radii[needed].max(initial=0.0))
    return float(smooth.edges[min(int(np.searchsorted(smooth.edges, last)), len(smooth.edges) - 1)])


def digest_of(inputs: Inputs, numbers: Numbers) -> str:
    """Return the sha256 of the numbers of an element, hexadecimal."""
    digest = hashlib.sha256(f"{inputs.symbol} {inputs.charge}".encode())
    for name in sorted(numbers):
        digest.update(name.encode() + np.ascontiguousarray(numbers[name], dtype="<f8").tobytes())
    return digest.hexdigest()


def table_of(inputs: Inputs, numbers: Numbers, functional: str, digest: str, name: str) -> Tabulated:
    """Return the pseudopotential of an element.

    Parameters
    ----------
    inputs : Inputs
        The element and its valence shells.
    numbers : mapping
        What `numbers_of` returns.
    functional : str
        What the functional is called.
    digest : str
        What stands for the numbers: they are equal to rounding on all machines if the digests are equal.
    name : str
        Name of the pseudopotential.

    Raises
    ------
    KeyError
        If numbers are missing.
    """

    def mesh(name: str) -> RadialMesh:
        return RadialMesh(numbers[f"{name}_radii"], numbers[f"{name}_weights"])

    def channel(l: int) -> TabulatedChannel:  # noqa: E741
        points = mesh(f"projectors_{l}")
        functions = tuple(TabulatedFunction(l, points, values) for values in numbers[f"projectors_{l}"])
        return TabulatedChannel(l, functions, tuple(map(tuple, np.diag(numbers[f"couplings_{l}"]).tolist())))

    core = mesh("core") if "core" in numbers else None
    shells = [sum(shell.electrons for shell in inputs.valence_shells(l)) for l in range(4)]  # noqa: E741
    return Tabulated(
        symbol=inputs.symbol,
        number=inputs.number,
        valence=inputs.charge,
        configuration=tuple(round(electrons) for electrons in shells),
        channels=tuple(channel(one.l) for one in inputs.channels),
        remainder=TabulatedFunction(0, mesh("local"), numbers["local"]),
        core=None if core is None else TabulatedFunction(0, core, numbers["core"]),
        core_tau=None if core is None else TabulatedFunction(0, core, numbers["core_tau"]),
        density=TabulatedFunction(0, mesh("density"), numbers["density"]),
        functional=functional,
        recommended_cutoff=RecommendedCutoff(float(numbers["cutoff"]), "generated"),
        digest=digest,
        name=name,
    )
