"""The calculator of ASE, and what it returns."""

from .calculator import NNXCCalculator
from .device import torch_device
from .fixed_density import FixedDensity
from .geometry import has_stress
from .gradients import Differentiable
from .levels import LEVELS

__all__ = ["LEVELS", "Differentiable", "FixedDensity", "NNXCCalculator", "has_stress", "torch_device"]
