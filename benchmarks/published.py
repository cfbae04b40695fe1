"""Published all-electron lattice constants and bulk moduli of PBE, with which scripts compare theirs."""

ALL_ELECTRON = {  # Angstrom and GPa; FLEUR and WIEN2k, Bosoni et al., Nat. Rev. Phys. 6, 45 (2024); Ni-ferro: WIEN2k
    "Al-q3": (4.0409, 77.5),
    "Ag-q11": (4.1477, 91.0),
    "Ag-q19": (4.1477, 91.0),
    "Ca-q10": (5.5263, 17.4),
    "Cu-q11": (3.6294, 141.0),
    "Cu-q19": (3.6294, 141.0),
    "MgO-rocksalt": (4.2543, 149.0),
    "MgO-rocksalt-q2": (4.2543, 149.0),
    "Ni-ferro": (3.5183, 200.4),
    "Ni-nonmagnetic": (3.5126, 202.1),
    "Pd-q18": (3.9430, 168.0),
    "Rh-q17": (3.8305, 256.8),
}
