"""What a functional is, and the one place where densities too small to mean anything are clipped.

Densities on a Fourier grid are noisy: zero, and slightly negative, in vacuum and in an empty spin channel. `Spins`
reads them so that energy, potential and second derivatives of a functional built on it are finite everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DENSITY_THRESHOLD = 1e-12
"""Total density, bohr^-3, at and below which energy density and potential are zero (that of libxc's correlations)."""

SPIN_THRESHOLD = 1e-10
"""Smallest 1 - |zeta| of which roots are taken: the minority potential of correlation diverges as its -1/3 power."""

ZETA_LIMIT = 1.01
"""Largest |zeta|. Above one by more than the noise of an empty channel, so that its potential is smooth around zero."""


KINDS = ("x", "c", "xc", "correction")
"""What a functional may be the energy of."""

FEATURES = ("density", "gradient", "tau")
"""What a functional may read."""


class Functional(torch.nn.Module):
    """An exchange-correlation energy density of local features.

    Attributes
    ----------
    features : tuple of str
        What `forward` reads, all in Hartree atomic units, spin channel (up, down) first: density (2, n) bohr^-3,
        gradient (2, 3, n) bohr^-4, tau (2, n) Hartree bohr^-3, the kinetic energy density sum |grad psi|^2 / 2. The
        potentials are autograd of the energy.
    kind : {"x", "c", "xc", "correction"}
        What it is the energy of: exchange, correlation, both, or something added to them.
    card : dict, optional
        What its checkpoint tells of it, if it was loaded from one (see `ase_nnxc.checkpoints`).
    """

    features: tuple[str, ...] = ("density",)
    kind: str = "xc"
    card: dict[str, Any] | None = None

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume on each point, (n,) Hartree bohr^-3.

        Parameters
        ----------
        features : dict of str to Tensor
            At least those named in `features`; both channels also of a closed shell, as equal halves.
        """
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Plain data from which the constructor makes a functional of the same form; see `register_architecture`."""
        return {}

    def __call__(self, features: dict[str, Tensor]) -> Tensor:
        """`forward`, typed."""
        return super().__call__(features)


def check_functional(functional: Functional) -> None:
    """Raise ValueError, with what is wrong, unless a functional is what `Functional` says one is.

    Looks at its features, its kind and its tensors, and evaluates it on three points; what the energies are is not
    looked at.
    """
    called, features = type(functional).__qualname__, functional.features
    if not isinstance(features, tuple | list) or not features or not set(features) <= set(FEATURES):
        raise ValueError(f"{called}: features={features!r} is not a tuple of some of {', '.join(FEATURES)}")
    if functional.kind not in KINDS:
        raise ValueError(f"{called}: kind={functional.kind!r} is none of {', '.join(KINDS)}")
    tensors = functional.state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float64:
            raise ValueError(f"{called}: {name} is of {tensor.dtype}, not torch.float64: call double()")
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    inputs = _three_points(features, device)
    try:
        with torch.enable_grad():
            energy = functional(inputs)
    except Exception as error:  # whatever is wrong with it
        raise ValueError(f"{called} cannot be evaluated on three points: {type(error).__name__}: {error}") from error
    if not isinstance(energy, Tensor) or energy.shape != (3,) or energy.dtype != torch.float64:
        shape = f"{energy.dtype} of shape {tuple(energy.shape)}" if isinstance(energy, Tensor) else repr(energy)
        raise ValueError(f"{called} gives {shape} on three points, not one torch.float64 for each: shape (3,)")
    if not energy.requires_grad:
        raise ValueError(f"{called} gives energies that cannot be differentiated by the features: its graph is cut")


def _three_points(features: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Features of three ordinary points, polarised, that ask for gradients."""
    up = torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64, device=device)
    density = torch.stack((up, 0.5 * up))
    made = {"density": density, "gradient": 0.3 * density[:, None].expand(2, 3, 3), "tau": density}
    return {name: made[name].clone().requires_grad_() for name in features}


@dataclass(frozen=True)
class Spins:
    """A clipped density and the powers of it that functionals share.

    A closed shell whose two channels are one memory (a tensor expanded along its first axis, as the core passes it) is
    evaluated once: then m = 1 below, else m = 2.

    Attributes
    ----------
    density : Tensor
        (n,) total density n, bohr^-3, zero at and below the threshold: what energies per electron are multiplied with.
    root : Tensor
        (n,) n^(1/6) of the density clipped at the threshold.
    zeta : Tensor
        (n,) polarisation (n_up - n_dn) / n.
    part_cbrt : Tensor
        (m, n) (n_s / n)^(1/3) of each channel, positive.
    part_4_3 : Tensor
        (m, n) (n_s / n)^(4/3).
    """

    density: Tensor
    root: Tensor
    zeta: Tensor
    part_cbrt: Tensor
    part_4_3: Tensor

    @classmethod
    def of(cls, density: Tensor) -> "Spins":
        """Those of the spin densities (2, n), bohr^-3, of any sign."""
        up, down = density.unbind()
        total = up + down
        clipped = total.clamp(min=DENSITY_THRESHOLD)
        channels = density[:1] if density.stride(0) == 0 else density
        filled = channels + 0.5 * (clipped - total)  # so that one share is always at least half
        part = (filled / clipped).clamp(0.5 * SPIN_THRESHOLD, 0.5 * (1 + ZETA_LIMIT))
        part_cbrt = (part.log() / 3).exp()  # a logarithm and an exponential cost half of a power, less in backward
        return cls(
            density=torch.nn.functional.threshold(total, DENSITY_THRESHOLD, 0.0),
            root=(clipped.log() / 6).exp(),
            zeta=((up - down) / clipped).clamp(-ZETA_LIMIT, ZETA_LIMIT),
            part_cbrt=part_cbrt,
            part_4_3=part * part_cbrt,
        )

    @property
    def paired(self) -> bool:
        """Whether one channel stands for two equal ones."""
        return len(self.part_cbrt) == 1

    def channels(self, feature: Tensor) -> Tensor:
        """The channels (m, ...) of a feature (2, ...) that have to be looked at.

        Raises
        ------
        ValueError
            If the density is one memory for both channels and the feature is not: its second channel would be lost.
        """
        if self.paired and feature.stride(0) != 0:
            raise ValueError("the density is one tensor expanded along its first axis: gradient and tau must be so too")
        return feature[: len(self.part_cbrt)]

    def total(self, terms: Tensor) -> Tensor:
        """Sum (...) over both channels of something made of `channels` (m, ...)."""
        return 2 * terms[0] if self.paired else terms.sum(0)
