"""What a geometry must be like to be calculated, which properties it has, and how two geometries are compared."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import InputError, PropertyNotImplementedError
from ase.geometry import complete_cell, minkowski_reduce

CLOSEST = 0.4  # Angstrom; a smaller distance of two atoms is a mistake in the input
MANY = 500  # atoms; all distances of more take longer than to import SciPy
OCCUPANCY_TOLERANCE = 1e-3  # rounding of an occupancy of one in a CIF file


def check_atoms(atoms: Atoms) -> None:
    """Raise InputError unless the atoms are a crystal, a layer or a molecule that can be calculated."""
    if len(atoms) == 0:
        raise InputError("there are no atoms")
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise InputError("a position or a cell vector is not a finite number")
    check_occupancies(atoms)
    periods = atoms.cell.array[atoms.pbc]
    if len(periods) == 1:
        raise InputError(f"pbc={atoms.pbc.tolist()}: one direction alone cannot be periodic; three, two or none can")
    if math.sqrt(max(0.0, np.linalg.det(periods @ periods.T))) < 1e-3:
        measure = "volume" if len(periods) == 3 else "area"
        raise InputError(f"the cell has no {measure}: {len(periods)} independent cell vectors are needed")
    check_distances(atoms)


def check_basis(atoms: Atoms) -> None:
    """Raise InputError if the atoms name a Gaussian basis set, as those of `interop.deepchem.read_sys_desc` do."""
    basis = atoms.info.get("gaussian_basis")
    if basis is not None:
        raise InputError(
            f"atoms.info['gaussian_basis'] is {basis!r}, but this calculator uses plane waves: use PySCF "
            "(ase_nnxc.interop.pyscf.prepare_crystal, or PySCFCalculator for molecules), or delete the entry "
            "to calculate in plane waves"
        )


def check_distances(atoms: Atoms) -> None:
    """Raise InputError if two atoms are closer to each other than `CLOSEST`."""
    if len(atoms) > MANY:
        from ase.neighborlist import neighbor_list  # imports SciPy; its time is proportional to the number of atoms

        close = [*zip(*neighbor_list("ijd", atoms, CLOSEST))]
    else:
        close = [closest_atoms(atoms)]
    i, j, distance = min(close, key=lambda pair: pair[2], default=(0, 0, math.inf))
    if distance < CLOSEST:
        image = " (an image of itself)" if i == j else ""
        raise InputError(f"atoms {i} and {j}{image} are {distance:.3f} Angstrom apart: they sit on top of each other")


def closest_atoms(atoms: Atoms) -> tuple[int, int, float]:
    """Return two atoms and their distance, Angstrom, the shortest one; both are the same if it is one to an image."""
    periods, _ = minkowski_reduce(atoms.cell.uncomplete(atoms.pbc), atoms.pbc)
    cell = complete_cell(periods)
    # the nearest image of a vector that is wrapped to the middle of a reduced cell is in this cell or in a next one
    images = np.array(list(product(*((0, -1, 1) if periodic else (0,) for periodic in atoms.pbc)))) @ cell
    shortest = (0, 0, min(np.linalg.norm(images[1:], axis=1).tolist(), default=math.inf))
    scaled = np.linalg.solve(cell.T, atoms.positions.T).T
    for i in range(len(atoms) - 1):
        difference = scaled[i + 1 :] - scaled[i]
        difference[:, atoms.pbc] -= np.round(difference[:, atoms.pbc])
        distances = np.linalg.norm(difference @ cell + images[:, None], axis=2).min(0)
        nearest = int(distances.argmin())
        shortest = min(shortest, (i, i + 1 + nearest, float(distances[nearest])), key=lambda pair: pair[2])
    return shortest


def check_occupancies(atoms: Atoms) -> None:
    """Raise InputError if a site is shared by elements or is partly empty, as ASE reads it from a CIF file.

    ASE gives such a site the element with the largest share. The shares are in `atoms.info["occupancy"]`: number of the
    site, as in the array `spacegroup_kinds`, -> element -> share.
    """
    occupancy = atoms.info.get("occupancy")
    if not isinstance(occupancy, Mapping):  # other readers, such as that of PDB files, use the name for other things
        return
    kinds = atoms.arrays.get("spacegroup_kinds")
    partial = []
    for kind, shares in occupancy.items():
        indices = [] if kinds is None else [i for i, number in enumerate(kinds) if str(number) == str(kind)]
        if (kinds is None or indices) and _is_partial(shares):
            contents = " / ".join(f"{element} {share:g}" for element, share in shares.items())
            partial.append(f"site {kind} ({contents}{f'; atoms {indices}' if indices else ''})")
    if partial:
        raise InputError(
            f"partial occupancies: {', '.join(partial)}; every site must hold one whole atom. Build an ordered "
            "structure, for instance a supercell, and delete info['occupancy'] of its atoms"
        )


def _is_partial(shares: Any) -> bool:
    """Whether the shares of a site, element -> number, are other than that of one whole atom."""
    if not isinstance(shares, Mapping) or not all(isinstance(share, int | float) for share in shares.values()):
        return False  # "?" of a CIF file is not known
    return any(abs(share - 1) > OCCUPANCY_TOLERANCE for share in shares.values())


def has_stress(atoms: Atoms) -> bool:
    """Whether the stress is defined: the cell has a volume, and at least one direction is periodic."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def check_stress(atoms: Atoms) -> None:
    """Raise PropertyNotImplementedError unless the stress is defined."""
    if not atoms.pbc.any():
        raise PropertyNotImplementedError("a molecule has no stress: no direction is periodic")
    if not has_stress(atoms):
        raise PropertyNotImplementedError(
            "the stress is energy per volume of the cell: give the cell a third vector, of any length, out of the plane"
        )


def check_dipole(atoms: Atoms) -> None:
    """Raise PropertyNotImplementedError unless the dipole moment is defined."""
    if atoms.pbc.any():
        raise PropertyNotImplementedError("the dipole moment is defined only if no direction is periodic")


def is_along_periods(strain: np.ndarray, atoms: Atoms) -> bool:
    """Whether a strain (3, 3) has components along the periodic directions only."""
    across = np.eye(3) - np.linalg.pinv(atoms.cell.array[atoms.pbc]) @ atoms.cell.array[atoms.pbc]
    return bool(np.abs(strain @ across).max() < 1e-10 and np.abs(across @ strain).max() < 1e-10)


def fingerprint(atoms: Atoms) -> tuple[bytes, ...]:
    """Return everything about the atoms that results depend on."""
    arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_initial_magnetic_moments())
    return tuple(np.ascontiguousarray(a).tobytes() for a in arrays)
