"""Where an SCF begins: at superposed atoms, or warm, at the ground state of the same atoms, moved or strained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .basis import Basis, shared_waves
from .convergence import FROM_ATOMS, FROM_MOVED, FROM_SAME_POSITIONS
from .crystal import Crystal
from .ground_state import GroundState
from .initial_guess import atomic_fields, rough_orbitals
from .kpoints import Block
from .total_energy import TotalEnergy

COLLAPSED = 0.05  # a magnetisation below this share of the initial moments is started again from them


@dataclass(frozen=True, eq=False)
class Start:
    """What an SCF begins with.

    Attributes
    ----------
    fields : Tensor
        (nfields, ng).
    orbitals : list of Tensor
        (nbands, npw) of each block.
    tolerance : float
        Residual norm of the first diagonalisation, Hartree.
    secants : Tensor or None
        What the mixer of a similar SCF has learned; see `AndersonMixer.secants`.
    """

    fields: Tensor
    orbitals: list[Tensor]
    tolerance: float
    secants: Tensor | None = None


def start_from_atoms(energy: TotalEnergy, nbands: int) -> Start:
    """Begin with superposed atoms and `nbands` bands, or as many as there are plane waves."""
    system = energy.system
    fields = atomic_fields(system.crystal, system.basis, energy.nfields)
    return Start(fields, rough_orbitals(energy, fields, nbands), FROM_ATOMS)


def start_from(state: GroundState, energy: TotalEnergy, nbands: int, exactly: bool) -> Start:
    """Begin with a ground state of the same atoms.

    Parameters
    ----------
    state : GroundState
        Of the same atoms, moved or strained, or with another functional, mesh or basis.
    energy : TotalEnergy
        Of the system to be solved.
    nbands : int
        Number of bands.
    exactly : bool
        Whether it is to be just that number, or more if the state has more.

    Raises
    ------
    ValueError
        If the state is one of other atoms.
    """
    system = energy.system
    crystal, basis = system.crystal, system.basis
    if not can_start(state.crystal, crystal):
        raise ValueError("a start must be a ground state of the same atoms, moments and cell of what is not periodic")
    fields = _moved_fields(state, crystal, basis, atomic_fields(crystal, basis, energy.nfields))
    secants = _secants(state, crystal, fields)
    tolerance = FROM_MOVED if secants is None else FROM_SAME_POSITIONS
    available = state.eigenvalues.shape[-1]
    if not _same_kpoints(state.basis, basis) or available < nbands:
        return Start(fields, rough_orbitals(energy, fields, nbands), tolerance, secants)
    kept = nbands if exactly else min(available, basis.fewest_waves)

    def move(block: Block, psi: Tensor) -> Tensor:
        """Shared plane waves keep their coefficients."""
        source, target = shared_waves(state.basis.spheres[block.k].miller, block.sphere.miller)
        moved = psi.new_zeros(kept, block.sphere.npw)
        moved[:, target] = psi[:kept, source]
        return moved

    return Start(fields, system.kpoints.map(move, state.orbitals), tolerance, secants)


def can_start(old: Crystal, new: Crystal) -> bool:
    """Whether a ground state of `old` is a start for `new`: the same atoms and initial moments, moved or strained.

    Not if the cell is another along directions that are not periodic: its plane waves would be, too.
    """
    if old.potentials != new.potentials or old.nspin != new.nspin or old.device != new.device or old.pbc != new.pbc:
        return False
    open_ = [not periodic for periodic in old.pbc]
    if not torch.allclose(old.lattice[open_], new.lattice[open_], rtol=0, atol=1e-6):
        return False
    return old.magmoms is None or new.magmoms is None or bool((old.magmoms == new.magmoms).all())


def _secants(state: GroundState, crystal: Crystal, fields: Tensor) -> Tensor | None:
    """What a mixer has learned from the SCF of a state, for another functional; no help once atoms have moved."""
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
    """Old fields (nfields, ng) carried to the new cell: the new atoms plus what the old ones had beyond their atoms.

    A moment that has collapsed would never come back: it is then that of the atoms again.
    """
    known = min(len(state.fields), len(atoms))  # the functional may be another
    difference = state.fields[:known] - atomic_fields(state.crystal, state.basis, known)
    old, new = shared_waves(state.basis.grid.miller, basis.grid.miller)
    fields = atoms.clone()
    fields[:known, new] += difference[:, old] * (state.crystal.volume / crystal.volume)
    if crystal.nspin == 2:
        kept, wanted = (float(basis.grid.to_real(f[1]).abs().mean()) for f in (fields, atoms))
        if kept < COLLAPSED * wanted:
            fields[1::2] = atoms[1::2]
    return basis.grid.to_fourier(basis.orbits.symmetrize(basis.grid.to_real(fields)))  # the symmetry may be another
