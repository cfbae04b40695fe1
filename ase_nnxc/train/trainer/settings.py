"""Settings of the trainer."""

from dataclasses import dataclass, fields

from ..schema import Check, integer, number, optional


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
        Largest norm of the gradient; longer gradients are scaled to it. Default: no limit.
    patience : int, optional
        Number of epochs without a new minimum of the validation loss after which the run stops.
    tolerated_failures : float
        Share of the training records that may fail in an epoch; if more fail, the run stops.
    memory : float
        GiB of ground states to keep in memory, on each rank.
    seed : int
        Seed of the order of the records, and of the random numbers that objectives and penalties draw from torch; from
        -2^62 to 2^62.

    Raises
    ------
    InputError
        If a value has another type or is out of its range.
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
        for setting in fields(self):
            _CHECKS[setting.name](getattr(self, setting.name), setting.name)


_CHECKS: dict[str, Check] = {
    "epochs": integer(1, 10**9),
    "batch": optional(integer(1)),
    "fixed_density_epochs": integer(0),
    "clip": optional(number(above=0, hint="leave it out for no limit")),
    "patience": optional(integer(1)),
    "tolerated_failures": number(0, 1),
    "memory": number(0, hint="give the memory of the machine to keep all ground states"),
    "seed": integer(-(2**62), 2**62),  # the sum of seed and epoch seeds a generator of torch
}
