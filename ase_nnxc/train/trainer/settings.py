"""Settings of the trainer."""

from dataclasses import dataclass

from ase.calculators.calculator import InputError


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of a training run.

    Attributes
    ----------
    epochs : int
        Largest number of passes over the training records.
    batch : int, optional
        Number of records in each step; default: all.
    fixed_density_epochs : int
        Number of epochs at the beginning that keep the orbitals of the start, in training and validation. They are
        cheap, and accurate enough far from the minimum. Only energies are known there; objectives that read other
        quantities are left out.
    clip : float, optional
        Largest norm of the gradient; longer gradients are scaled to it.
    patience : int, optional
        Number of epochs without a new minimum of the validation loss after which the run stops.
    tolerated_failures : float
        Share of the training records that may fail in an epoch; if more fail, the run stops.
    memory : float
        GiB of ground states to keep in memory, on each rank.
    seed : int
        Seed of the order of the records, and of the random numbers that objectives and penalties draw from torch.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    epochs: int = 100
    batch: int | None = None
    fixed_density_epochs: int = 0
    clip: float | None = None
    patience: int | None = None
    tolerated_failures: float = 0.3
    memory: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("fixed_density_epochs", 0), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}={value} must be at least {least}")
        if not 0 <= self.tolerated_failures <= 1:
            raise InputError(f"tolerated_failures={self.tolerated_failures} must be between 0 and 1")
        if not self.memory >= 0:
            raise InputError(f"memory={self.memory} must not be negative")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip={self.clip} must be positive")
