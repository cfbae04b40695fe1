"""The base class of functionals, and the check of a functional that a user provides."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._moved import renamed
from .features import FEATURES, features_at_test_points, fields_needed
from .names import check_names

KINDS = ("x", "c", "xc", "correction")
"""Kinds of energy: exchange, correlation, both, or a correction that is added to a functional."""

META_GGA_FINENESS = 2.25
"""Default of `grid_fineness` for functionals of tau, which vary faster in space than the density: the energy of r2SCAN
is then within 0.1 meV per cell of its limit wherever the atoms are relative to the grid (benchmarks/grid_errors.py)."""


class Functional(torch.nn.Module):
    """An exchange-correlation energy density of features.

    Attributes
    ----------
    features : tuple of str
        Names of the features that `forward` reads, such as "density" (nspin, n) bohr^-3, "gradient" (nspin, 3, n)
        bohr^-4 and "tau" (nspin, n) Hartree bohr^-3, the kinetic energy density sum |grad psi|^2 / 2; see
        `ase_nnxc.xc.features`. Potentials are derivatives of the energy by automatic differentiation.
    kind : {"x", "c", "xc", "correction"}
        Exchange, correlation, both, or a correction that is added to another functional.
    closed_shell : bool
        Whether `forward` accepts nspin = 1: then the one channel, half of the total, stands for two equal ones, and
        half of the work is saved (`spin_sum` adds up either form). By default nspin is always 2. A subclass that
        defines `forward` must set it again.
    grid_fineness : float, optional
        How much finer along each axis its grid is than the smallest FFT box that holds the density. Default: 2.25 for
        functionals of tau, else 1. A functional made of functionals has the grid of its most demanding part, and needs
        one for tau only if it reads tau itself; see `grid_fineness`.
    card : dict, optional
        The card of the checkpoint that it was loaded from (see `ase_nnxc.checkpoints`).
    """

    features: tuple[str, ...] = ("density",)
    kind: str = "xc"
    closed_shell: bool = False
    grid_fineness: float | None = None
    card: dict[str, Any] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls) and "closed_shell" not in vars(cls):
            cls.closed_shell = False

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energy per volume on each point, (n,) Hartree bohr^-3.

        Parameters
        ----------
        features : dict of str to Tensor
            At least those named in the attribute `features`, `(nspin, *components, n)`, spin channel (up, down) first.
            nspin is 2, or 1 if `closed_shell` is true.
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return plain data from which the constructor makes the same functional; see `register_architecture`."""
        return {}

    def __call__(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energies of `forward`; the one channel of a closed shell is doubled where `forward` needs two.

        Raises
        ------
        ValueError
            If the features have different numbers of spin channels.
        """
        nspins = {name: len(feature) for name, feature in features.items()}
        if len(set(nspins.values())) > 1:
            raise ValueError(f"features have different numbers of spin channels: {nspins}")
        if not self.closed_shell and 1 in nspins.values():
            features = {name: feature.expand(2, *feature.shape[1:]) for name, feature in features.items()}
        return super().__call__(features)


def grid_fineness(functional: Functional) -> float:
    """Return how much finer along each axis the grid of a functional is than the smallest FFT box of the density."""
    parts = (part for part in functional.modules() if isinstance(part, Functional))
    return max(_own_fineness(part) for part in parts)


def _own_fineness(functional: Functional) -> float:
    if functional.grid_fineness is not None:
        return functional.grid_fineness
    parts = (part for part in functional.modules() if isinstance(part, Functional) and part is not functional)
    of_parts = {feature for part in parts for feature in part.features}
    return META_GGA_FINENESS if "tau" in fields_needed(set(functional.features) - of_parts) else 1.0


def check_functional(functional: Functional) -> None:
    """Raise ValueError, with the reason, unless a functional is as `Functional` describes.

    The check covers the attributes, the types of the tensors and an evaluation on three points, for which the energies
    must have the right shape, be differentiable, and be the same for both forms of a closed shell.
    """
    name = type(functional).__qualname__
    _check_attributes(functional, name)
    tensors = functional.state_dict()
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float64:
            raise ValueError(f"{name}: {key} is of {tensor.dtype}, expected torch.float64: call double()")
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    features = _three_points(functional.features, device)
    try:
        with torch.enable_grad():
            energy = functional(features)
    except Exception as error:  # whatever is wrong with it
        raise ValueError(f"{name} cannot be evaluated on three points: {type(error).__name__}: {error}") from error
    if not isinstance(energy, Tensor) or energy.shape != (3,) or energy.dtype != torch.float64:
        shape = f"{energy.dtype} of shape {tuple(energy.shape)}" if isinstance(energy, Tensor) else repr(energy)
        raise ValueError(f"{name} returns {shape} on three points, expected torch.float64 of shape (3,)")
    if not energy.requires_grad:
        raise ValueError(f"{name} returns energies that cannot be differentiated with respect to the features")
    if functional.closed_shell:
        _check_closed_shell(functional, name, {key: feature.detach()[:1] for key, feature in features.items()})


def _check_attributes(functional: Functional, name: str) -> None:
    features = functional.features
    if not isinstance(features, tuple | list) or not features:
        raise ValueError(f"{name}: features={features!r} must be a tuple of names, of {', '.join(FEATURES)}")
    try:
        check_names("feature", features, FEATURES)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if functional.kind not in KINDS:
        raise ValueError(f"{name}: kind={functional.kind!r} must be one of {', '.join(KINDS)}")
    fineness = functional.grid_fineness
    if fineness is not None and not (isinstance(fineness, int | float) and 1 <= fineness <= 10):
        raise ValueError(f"{name}: grid_fineness={fineness!r} must be None or a number from 1 to 10")


def _check_closed_shell(functional: Functional, name: str, one: dict[str, Tensor]) -> None:
    """Raise ValueError unless the energies of one channel (1, ...) are those of two equal ones."""
    two = {key: feature.expand(2, *feature.shape[1:]).clone() for key, feature in one.items()}
    try:
        with torch.no_grad():
            energies = functional(one), functional(two)
    except Exception as error:  # whatever is wrong with it
        raise ValueError(f"{name}: closed_shell is true, but {type(error).__name__}: {error}") from error
    if energies[0].shape != (3,) or not torch.allclose(*energies, rtol=1e-6, atol=1e-12, equal_nan=True):
        raise ValueError(
            f"{name}: closed_shell is true, but one channel and two equal ones have different energies: "
            "add up channels with spin_sum, or set closed_shell to False"
        )


def _three_points(names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Features `(2, *components, 3)` of three ordinary points, polarised, that require gradients."""
    up = torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64, device=device)
    density = torch.stack((up, 0.5 * up))
    points = {"density": density, "gradient": 0.3 * density[:, None].expand(2, 3, 3), "tau": density}
    features = features_at_test_points(names, points)
    return {name: value.detach().clone().requires_grad_() for name, value in features.items()}


_IN_SPINS = ("DENSITY_THRESHOLD", "SPIN_THRESHOLD", "ZETA_LIMIT", "Spins")
__getattr__ = renamed(__name__, {name: f"ase_nnxc.xc.spins:{name}" for name in _IN_SPINS})
