"""Exchange-correlation functionals: energy densities of features of the density, in Hartree atomic units."""

from .architecture import UnknownArchitecture, build, describe, register_architecture
from .composition import HybridXC, Sum
from .features import Feature, register_feature
from .functional import Functional
from .gga import PBE, pbesol, revpbe, rpbe
from .lda import LDA
from .mgga import R2SCAN, SCAN
from .neural import NNGGA, NNLDA, NNMGGA, NeuralCorrelation, NeuralExchange, NeuralFactors
from .published_networks import DeepChemLDA, Dpyscf, Nagai
from .spins import spin_sum

__all__ = [
    "LDA",
    "NNGGA",
    "NNLDA",
    "NNMGGA",
    "PBE",
    "R2SCAN",
    "SCAN",
    "DeepChemLDA",
    "Dpyscf",
    "Feature",
    "Functional",
    "HybridXC",
    "Nagai",
    "NeuralCorrelation",
    "NeuralExchange",
    "NeuralFactors",
    "Sum",
    "UnknownArchitecture",
    "build",
    "describe",
    "pbesol",
    "register_architecture",
    "register_feature",
    "revpbe",
    "rpbe",
    "spin_sum",
]
