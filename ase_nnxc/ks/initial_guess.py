"""The initial guess: superposed atoms for the density, a small dense diagonalisation for the orbitals."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..pseudopotentials.protocol import Pseudopotential
from .atom import pseudo_atom
from .basis import Basis, Sphere
from .crystal import Crystal
from .hamiltonian import Hamiltonian
from .harmonics import solid_harmonics
from .kpoints import Block
from .superposition import superposition
from .total_energy import TotalEnergy

NOISE = 1e-3  # on every plane wave, so that no symmetry is missed
SMEARED = (0.0, 0.1, 0.2)  # bohr^2 along x, y, z: variance by which an open shell is out of round at the start


def atomic_density(table: Pseudopotential, q2: Tensor) -> Tensor:
    """Fourier transform of the pseudo-atom's density, electrons, shaped as `q2` (bohr^-2)."""
    return pseudo_atom(table).density(q2)


def atomic_tau(table: Pseudopotential, q2: Tensor) -> Tensor:
    """Fourier transform of the pseudo-atom's kinetic energy density, Hartree, shaped as `q2` (bohr^-2)."""
    return pseudo_atom(table).tau(q2)


def start_density(crystal: Crystal, basis: Basis) -> Tensor:
    """Superposed atoms (nspin, ng), bohr^-3; the magnetisation is the same densities, scaled to the moments.

    Those of a molecule with moments are smeared out, differently along x, y and z. This sets levels of an open shell
    apart, which whole electrons then fill; a round start would leave it with equal fractions, a state of higher energy.
    """
    density = superposition(crystal, basis.grid, atomic_density)
    density = density * (crystal.nelectrons / (density[0].real * crystal.volume))
    density = _with_moments(crystal, basis, density, atomic_density)
    if crystal.magmoms is None or any(crystal.pbc):
        return density
    g = basis.grid.wavevectors(crystal.reciprocal)
    return density * torch.exp(-0.5 * g.square() @ g.new_tensor(SMEARED))


def start_tau(crystal: Crystal, basis: Basis) -> Tensor:
    """Superposed kinetic energy densities of the atoms (nspin, ng), Hartree bohr^-3, polarised as `start_density`."""
    return _with_moments(crystal, basis, superposition(crystal, basis.grid, atomic_tau), atomic_tau)


def _with_moments(
    crystal: Crystal, basis: Basis, total: Tensor, form_factor: Callable[[Pseudopotential, Tensor], Tensor]
) -> Tensor:
    """A superposition (ng,) of atomic fields and, with spin, the same fields scaled to the moments: (nspin, ng)."""
    if crystal.magmoms is None:
        return total[None]
    return torch.stack((total, superposition(crystal, basis.grid, form_factor, crystal.magmoms / crystal.charges)))


def atomic_orbitals(crystal: Crystal, sphere: Sphere) -> Tensor:
    """Orbitals of the pseudo-atoms in plane waves (norbitals, npw), complex128, not orthonormal."""
    q = sphere.wavevectors(crystal.reciprocal)
    q2 = q.square().sum(-1)
    phases = sphere.phases(crystal.positions) / crystal.volume.sqrt()
    rows = [
        phases[atom] * (pseudo_atom(table).orbital(shell, q2) * solid_harmonics(shell.l, q))
        for table, atoms in crystal.species.items()
        for shell in pseudo_atom(table).shells
        for atom in atoms
    ]
    return torch.cat(rows)


def start_orbitals(hamiltonian: Hamiltonian, atoms: Tensor, nbands: int, seed: int) -> Tensor:
    """Lowest eigenvectors of H in the space of the longest plane waves and the orbitals of the atoms.

    Parameters
    ----------
    hamiltonian : Hamiltonian
        H at one k-point.
    atoms : Tensor
        (norbitals, npw) from `atomic_orbitals`.
    nbands : int
        Number of orbitals wanted.
    seed : int
        Of the noise that is added.

    Returns
    -------
    Tensor
        (nbands, npw) complex128.
    """
    kinetic = hamiltonian.diagonal
    few = torch.argsort(kinetic)[: max(80, 2 * nbands)]
    rest = atoms.clone()
    rest[:, few] = 0.0  # orthogonal to the plane waves taken
    rest /= torch.linalg.vector_norm(atoms, dim=1, keepdim=True)
    weights, mixing = torch.linalg.eigh(rest.conj() @ rest.mT)
    kept = weights > 1e-4
    rest = (mixing[:, kept] / weights[kept].sqrt()).mT @ rest
    h_rest = hamiltonian.apply(rest)
    coupling = h_rest[:, few]
    matrix = torch.cat(
        (
            torch.cat((hamiltonian.matrix(few), coupling.mT), dim=1),
            torch.cat((coupling.conj(), rest.conj() @ h_rest.mT), dim=1),
        )
    )
    vectors = torch.linalg.eigh(matrix)[1][:, :nbands].mT
    psi = NOISE * noise(nbands, kinetic, seed)
    psi[: len(vectors), few] += vectors[:, : len(few)]
    psi[: len(vectors)] += vectors[:, len(few) :] @ rest
    return psi


def noise(norbitals: int, kinetic: Tensor, seed: int) -> Tensor:
    """Random orbitals (norbitals, npw) complex128, smaller for plane waves of larger kinetic energy (npw,)."""
    generator = torch.Generator(device=kinetic.device).manual_seed(seed)
    shape = (norbitals, len(kinetic), 2)
    random = torch.randn(shape, dtype=torch.float64, device=kinetic.device, generator=generator)
    return torch.view_as_complex(random) / (1 + kinetic)


def atomic_fields(crystal: Crystal, basis: Basis, count: int) -> Tensor:
    """The first `count` fields (count, ng) of superposed atoms."""
    density = start_density(crystal, basis)
    return density if count == len(density) else torch.cat((density, start_tau(crystal, basis)))


def rough_orbitals(energy: TotalEnergy, fields: Tensor, nbands: int) -> list[Tensor]:
    """Orbitals (nbands, npw) of each block in the potential of fields (nfields, ng): where a diagonalisation begins."""
    potential = energy.potential(fields).values

    def diagonalise(block: Block) -> Tensor:
        hamiltonian = energy.hamiltonian(block, potential[block.spin], torch.complex128)
        atoms = atomic_orbitals(energy.system.crystal, block.sphere)
        return start_orbitals(hamiltonian, atoms, nbands, seed=block.k)

    return energy.system.kpoints.map(diagonalise)


def more_orbitals(energy: TotalEnergy, orbitals: Sequence[Tensor], count: int) -> list[Tensor]:
    """The orbitals (nbands, npw) of each block, and `count` more of them, made of noise."""

    def extend(block: Block, psi: Tensor) -> Tensor:
        return torch.cat((psi, noise(count, energy.diagonal(block), seed=len(psi)).to(psi.dtype)))

    return energy.system.kpoints.map(extend, orbitals) if count else list(orbitals)
