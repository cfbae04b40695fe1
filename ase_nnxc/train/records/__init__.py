"""Records: structures with targets, on which functionals are trained, and where the targets come from.

A record holds one structure, the structures of an equation of state, or those of a reaction. Units are ASE's (eV,
Angstrom).
"""

from ..targets import PROPERTIES, TARGETS
from .alignment import align_energies
from .calculators import calculators_for, fixed_pseudos
from .files import check_output, read_records, write_records
from .labels import label
from .molecules import all_electron
from .reactions import FREE, atomization_energy, cohesive_energy, ionization_potential
from .record import MEASURED, SHARED, Provenance, Record, digest
from .schema import FORMAT, VERSION
from .solids import experimental_solid, scaled_structures
from .tables import other_table

__all__ = [
    "FORMAT",
    "FREE",
    "MEASURED",
    "PROPERTIES",
    "SHARED",
    "TARGETS",
    "VERSION",
    "Provenance",
    "Record",
    "align_energies",
    "all_electron",
    "atomization_energy",
    "calculators_for",
    "check_output",
    "cohesive_energy",
    "digest",
    "experimental_solid",
    "fixed_pseudos",
    "ionization_potential",
    "label",
    "other_table",
    "read_records",
    "scaled_structures",
    "write_records",
]
