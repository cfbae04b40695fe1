"""The calculators of ASE, and what they return."""

from .calculator import NNXCCalculator
from .device import torch_device
from .fixed_density import FixedDensity
from .geometry import has_stress
from .gradients import Differentiable
from .levels import LEVELS
from .molecule import PySCFCalculator

__all__ = [
    "LEVELS",
    "Differentiable",
    "FixedDensity",
    "NNXCCalculator",
    "PySCFCalculator",
    "has_stress",
    "torch_device",
]
