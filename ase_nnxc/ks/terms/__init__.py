"""The terms of the energy, one file each; `term` says what a term is."""

from .ewald import Ewald
from .hartree import Hartree
from .kinetic import Kinetic
from .local_potential import LocalPotential
from .nonlocal_potential import NonlocalPotential
from .xc import ExchangeCorrelation

STANDARD_TERMS = (Kinetic, NonlocalPotential, LocalPotential, Hartree, ExchangeCorrelation, Ewald)
"""Kohn-Sham theory with norm-conserving pseudopotentials and a functional of density, gradient and tau."""
