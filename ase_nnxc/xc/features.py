"""Features of the density: the inputs of functionals, each with a name and a function that makes it from fields.

A functional names the features that it reads. The core makes them from its fields, the spin channels of the density and
of the kinetic energy density on the FFT grid, and evaluates the functional on the grid points. `register_feature` adds
a feature, for instance one that depends on the density in a neighbourhood:

    def smooth(fields, grid):
        density = fields["density"]                                # (nspin, n1, n2, n3)
        return torch.fft.ifftn(torch.fft.fftn(density, dim=(-3, -2, -1)) * kernel(grid), dim=(-3, -2, -1)).real

    register_feature(Feature("smooth", (), ("density",), smooth, lambda points: 0.9 * points["density"]))

Spin is the first axis of fields and features. Its length nspin is 2 (up, down), or 1 for a closed shell: then the one
channel, half of the total, stands for two equal ones.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .names import check_names

FIELDS = ("density", "tau")
"""Fields that features can be made from: the density, bohr^-3, and the kinetic energy density, Hartree bohr^-3."""


class Grid(Protocol):
    """The properties of the FFT grid of a cell that a feature can use."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of points (n1, n2, n3) along the three lattice vectors."""

    @property
    def reciprocal(self) -> Tensor:
        """Reciprocal lattice vectors as rows (3, 3), bohr^-1; they carry the derivatives with respect to the cell."""


@dataclass(frozen=True)
class FFTGrid:
    """A `Grid` of its two attributes."""

    shape: tuple[int, int, int]
    reciprocal: Tensor


@dataclass(frozen=True)
class Feature:
    """A feature of the density that functionals can read, in Hartree atomic units.

    Attributes
    ----------
    name : str
        The name that functionals and the cards of checkpoints use.
    components : tuple of int
        Shape of the feature of one spin channel on one point: () for a scalar, (3,) for a vector.
    fields : tuple of str
        Fields of `FIELDS` that `make` reads. The density is available in every calculation; "tau" makes the
        calculation one with a kinetic energy density.
    make : callable
        Function of the fields {name: (nspin, n1, n2, n3)} and of the `Grid` that returns the feature
        `(nspin, *components, n1, n2, n3)`. It may use the whole grid, as a convolution does. It must be differentiable
        twice in the fields and in the reciprocal lattice, treat the spin channels alike, and keep the symmetry of the
        crystal: the feature of a rotated density is the rotated feature.
    test_points : callable
        Function of ordinary points {"density": (2, n), "gradient": (2, 3, n), "tau": (2, n)} that returns plausible
        values `(2, *components, n)`, on which functionals are tested when they are saved, loaded and used.
    """

    name: str
    components: tuple[int, ...]
    fields: tuple[str, ...]
    make: Callable[[Mapping[str, Tensor], Grid], Tensor]
    test_points: Callable[[Mapping[str, Tensor]], Tensor]

    def values(self, fields: Mapping[str, Tensor], grid: Grid) -> Tensor:
        """Return what `make` returns, `(nspin, *components, n1, n2, n3)`.

        Raises
        ------
        ValueError
            If it has another shape.
        """
        values = self.make(fields, grid)
        expected = (len(fields["density"]), *self.components, *grid.shape)
        if values.shape != expected:
            raise ValueError(f"feature {self.name!r} has the shape {tuple(values.shape)}, expected {expected}")
        return values


FEATURES: dict[str, Feature] = {}
"""The features that functionals can read, by name; see `register_feature`."""


def register_feature(feature: Feature) -> None:
    """Make a feature known by its name.

    Parameters
    ----------
    feature : Feature
        The feature. The module that defines it may be imported again.

    Raises
    ------
    ValueError
        If another feature has this name, if it reads a field that is unknown, or if the components are not sizes.
    """
    check_names("field", feature.fields, FIELDS)
    if not all(type(size) is int and size > 0 for size in feature.components):
        raise ValueError(f"feature {feature.name!r}: components={feature.components!r} must be positive integers")
    known = FEATURES.get(feature.name)
    if known is not None and _origin(known) != _origin(feature):
        raise ValueError(f"feature {feature.name!r} is already registered by {'.'.join(_origin(known))}")
    FEATURES[feature.name] = feature


def _origin(feature: Feature) -> tuple[str, str]:
    """Module and name of the function that makes a feature."""
    make = feature.make
    return make.__module__, getattr(make, "__qualname__", repr(make))


def feature(name: str) -> Feature:
    """Return the feature of a name.

    Raises
    ------
    ValueError
        If no feature has this name; the message gives the closest match.
    """
    check_names("feature", [name], FEATURES)
    return FEATURES[name]


def fields_needed(names: Iterable[str]) -> tuple[str, ...]:
    """Return the fields of `FIELDS` that features are made from; the density is always one of them.

    Parameters
    ----------
    names : iterable of str
        Names of features, such as the attribute `features` of a functional.
    """
    needed = {"density", *(field for name in names for field in feature(name).fields)}
    return tuple(field for field in FIELDS if field in needed)


def features_at_test_points(names: Iterable[str], points: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return features `(2, *components, n)` of ordinary points.

    Parameters
    ----------
    names : iterable of str
        Names of features.
    points : mapping of str to Tensor
        Density (2, n), bohr^-3, its gradient (2, 3, n), bohr^-4, and tau (2, n), Hartree bohr^-3, of the points.
    """
    return {name: feature(name).test_points(points) for name in names}


def require_features(wanted: Iterable[str], available: Iterable[str], reader: str, source: str) -> None:
    """Raise ValueError, with the names, if features are wanted that a source does not have.

    Parameters
    ----------
    wanted, available : iterable of str
        Names of features.
    reader, source : str
        What reads the features and what they are taken from, for the message: "MyFunctional", "PySCF".
    """
    available = tuple(available)
    missing = [name for name in wanted if name not in available]
    if missing:
        raise ValueError(f"{reader} reads the features {', '.join(missing)}; {source} only has {', '.join(available)}")


def gradient(field: Tensor, grid: Grid) -> Tensor:
    """Return the gradient (nspin, 3, n1, n2, n3) of a real field (nspin, n1, n2, n3) by FFT: i G f_G."""
    shape, reciprocal = grid.shape, grid.reciprocal
    half = torch.fft.rfftn(field, dim=(-3, -2, -1))
    kwargs = {"dtype": reciprocal.dtype, "device": reciprocal.device}
    frequencies = [torch.fft.fftfreq(n, 1 / n, **kwargs) for n in shape[:2]] + [
        torch.fft.rfftfreq(shape[2], 1 / shape[2], **kwargs)
    ]
    for n, f in zip(shape, frequencies):
        if n % 2 == 0:
            f[n // 2] = 0.0  # the highest wave of an even box has no partner: its derivative is not real
    n1, n2, n3 = frequencies
    components = []
    for b in reciprocal.unbind(-1):  # the Cartesian component of the three reciprocal vectors
        g = n1[:, None, None] * b[0] + n2[:, None] * b[1] + n3 * b[2]
        components.append(torch.fft.irfftn(1j * g * half, s=shape, dim=(-3, -2, -1)))
    return torch.stack(components, dim=1)


def _density(fields: Mapping[str, Tensor], grid: Grid) -> Tensor:
    return fields["density"]


def _density_gradient(fields: Mapping[str, Tensor], grid: Grid) -> Tensor:
    return gradient(fields["density"], grid)


def _tau(fields: Mapping[str, Tensor], grid: Grid) -> Tensor:
    return fields["tau"]


register_feature(Feature("density", (), ("density",), _density, lambda points: points["density"]))
register_feature(Feature("gradient", (3,), ("density",), _density_gradient, lambda points: points["gradient"]))
register_feature(Feature("tau", (), ("tau",), _tau, lambda points: points["tau"]))
