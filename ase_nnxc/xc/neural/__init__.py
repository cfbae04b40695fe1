"""Neural functionals: networks of local variables of the density, free or subject to exact constraints."""

from .constrained import USUAL_EXCHANGE, NeuralCorrelation, NeuralExchange
from .factors import NeuralFactors
from .free import NNGGA, NNLDA, NNMGGA
from .network import ACTIVATIONS, DESCRIPTORS, WIDTHS, Network, channel_variables, total_variables

__all__ = [
    "ACTIVATIONS",
    "DESCRIPTORS",
    "NNGGA",
    "NNLDA",
    "NNMGGA",
    "USUAL_EXCHANGE",
    "WIDTHS",
    "Network",
    "NeuralCorrelation",
    "NeuralExchange",
    "NeuralFactors",
    "channel_variables",
    "total_variables",
]
