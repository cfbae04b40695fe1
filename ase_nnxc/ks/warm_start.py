"""The start of an SCF, from superposed atoms or from a ground state of the same atoms (a warm start)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .basis import Basis, shared_waves
from .convergence import FROM_ATOMS, FROM_MOVED, FROM_SAME_POSITIONS
from .crystal import Crystal
from .ground_state import GroundState
from .initial_guess import approximate_orbitals, atomic_fields
from .kpoints import Block
from .nbands import bands_at_start, bands_in_use
from .total_energy import TotalEnergy

COLLAPSED = 0.05  # a magnetisation below this fraction of that of the initial moments is replaced by it


@dataclass(frozen=True, eq=False)
class Start:
    """The initial fields, orbitals and settings of an SCF.

    Attributes
    ----------
    fields : Tensor
        (nfields, ng) input fields of the first step.
    orbitals : list of Tensor
        (nbands, npw) of each block, where the first diagonalisation starts.
    in_use : int
        Number of bands that the first diagonalisation must converge.
    tolerance : float
        Residual norm of the first diagonalisation, Hartree.
    secants : Tensor or None
        Secants of the mixer of a similar SCF; see `AndersonMixer.secants`.
    """

    fields: Tensor
    orbitals: list[Tensor]
    in_use: int
    tolerance: float
    secants: Tensor | None = None


def start_from_atoms(energy: TotalEnergy, nbands: int) -> Start:
    """Return a start from superposed atoms, with `nbands` bands."""
    system = energy.system
    fields = atomic_fields(system.crystal, system.basis, energy.nfields)
    return Start(
        fields, approximate_orbitals(energy, fields, nbands), bands_at_start(system.crystal, nbands), FROM_ATOMS
    )


def start_from(state: GroundState, energy: TotalEnergy, nbands: int, exactly: bool) -> Start:
    """Return a start from a ground state of the same atoms.

    Parameters
    ----------
    state : GroundState
        Ground state of the same atoms. They may have moved, and strain, functional, k-points or basis may differ.
    energy : TotalEnergy
        Energy of the system to be solved.
    nbands : int
        Number of bands.
    exactly : bool
        Whether to use exactly `nbands` bands. Otherwise all bands of the state are used if it has more.

    Raises
    ------
    ValueError
        If `can_start` is false for the crystals of the state and of the system.
    """
    system = energy.system
    crystal, basis = system.crystal, system.basis
    if not can_start(state.crystal, crystal):
        raise ValueError(
            "`start` must be a ground state of the same atoms, with the same initial moments and the same cell along "
            "directions that are not periodic"
        )
    energy.prepare(state.system.kpoints, state.orbitals, state.electrons)
    fields = _moved_fields(state, crystal, basis, atomic_fields(crystal, basis, energy.nfields))
    secants = _secants(state, crystal, fields)
    tolerance = FROM_MOVED if secants is None else FROM_SAME_POSITIONS
    available = state.eigenvalues.shape[-1]
    if not _same_kpoints(state.basis, basis) or available < nbands:
        in_use = bands_at_start(crystal, nbands)
        return Start(fields, approximate_orbitals(energy, fields, nbands), in_use, tolerance, secants)
    kept = nbands if exactly else min(available, basis.fewest_waves)

    def move(block: Block, psi: Tensor) -> Tensor:
        """Copy the coefficients of the shared plane waves."""
        source, target = shared_waves(state.basis.spheres[block.k].miller, block.sphere.miller)
        moved = psi.new_zeros(kept, block.sphere.npw)
        moved[:, target] = psi[:kept, source]
        return moved

    in_use = min(kept, bands_in_use(state.occupations))
    return Start(fields, system.kpoints.map(move, state.orbitals), in_use, tolerance, secants)


def can_start(old: Crystal, new: Crystal) -> bool:
    """Whether an SCF of `new` can start from a ground state of `old`.

    Atoms, initial moments, device and periodicity must be the same; positions and strain may differ. The cell must be
    the same along directions that are not periodic, because its plane waves depend on it.
    """
    if old.potentials != new.potentials or old.nspin != new.nspin or old.device != new.device or old.pbc != new.pbc:
        return False
    open_ = [not periodic for periodic in old.pbc]
    if not torch.allclose(old.lattice[open_], new.lattice[open_], rtol=0, atol=1e-6):
        return False
    return old.magmoms is None or new.magmoms is None or bool((old.magmoms == new.magmoms).all())


def _secants(state: GroundState, crystal: Crystal, fields: Tensor) -> Tensor | None:
    """Return the mixer's secants of the state, or None if atoms or cell have moved, which makes them useless."""
    if state.fields.shape != fields.shape:
        return None
    same = torch.equal(state.crystal.lattice, crystal.lattice) and torch.equal(
        state.crystal.positions, crystal.positions
    )
    return state.secants if same and len(state.secants) else None


def _same_kpoints(old: Basis, new: Basis) -> bool:
    return len(old.spheres) == len(new.spheres) and all(
        torch.equal(a.kpoint, b.kpoint) for a, b in zip(old.spheres, new.spheres)
    )


def _moved_fields(state: GroundState, crystal: Crystal, basis: Basis, atoms: Tensor) -> Tensor:
    """Return fields for the new crystal (nfields, ng): superposed atoms plus the old fields' difference from them.

    An SCF would never restore a magnetisation that has collapsed; it is replaced by that of the superposed atoms.
    """
    known = min(len(state.fields), len(atoms))  # one of the functionals may depend on tau
    difference = state.fields[:known] - atomic_fields(state.crystal, state.basis, known)
    old, new = shared_waves(state.basis.grid.miller, basis.grid.miller)
    fields = atoms.clone()
    fields[:known, new] += difference[:, old] * (state.crystal.volume / crystal.volume)
    if crystal.nspin == 2:
        kept, wanted = (float(basis.grid.to_real(f[1]).abs().mean()) for f in (fields, atoms))
        if kept < COLLAPSED * wanted:
            fields[1::2] = atoms[1::2]
    return basis.grid.to_fourier(basis.orbits.symmetrize(basis.grid.to_real(fields)))  # the symmetry may differ
