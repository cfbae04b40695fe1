"""The error of the generator."""

from ase.calculators.calculator import InputError


class GenerationError(InputError):
    """A pseudopotential that cannot be generated, or that fails a check."""
