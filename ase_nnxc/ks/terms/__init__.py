"""The terms of the energy, one in each file. `term` defines the interface of a term."""

from .ewald import Ewald
from .hartree import Hartree
from .kinetic import Kinetic
from .local_potential import LocalPotential
from .nonlocal_potential import NonlocalPotential
from .xc import ExchangeCorrelation

STANDARD_TERMS = (Kinetic, NonlocalPotential, LocalPotential, Hartree, ExchangeCorrelation, Ewald)
"""Terms of Kohn-Sham theory with norm-conserving pseudopotentials and a semilocal functional."""
