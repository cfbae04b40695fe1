"""The initial guess: superposed atomic densities, and orbitals from a small dense diagonalisation."""

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

NOISE = 1e-3  # amplitude of random numbers in every plane wave, which break symmetries of the initial orbitals
SMEARED = (0.0, 0.1, 0.2)  # bohr^2 along x, y, z: variances that make the initial density of an open shell anisotropic


def atomic_density(table: Pseudopotential, q2: Tensor) -> Tensor:
    """Return the Fourier transform of the pseudo-atom's density, electrons, with the shape of `q2` (bohr^-2)."""
    return pseudo_atom(table).density(q2)


def atomic_tau(table: Pseudopotential, q2: Tensor) -> Tensor:
    """Return the Fourier transform of the pseudo-atom's tau, Hartree, with the shape of `q2` (bohr^-2)."""
    return pseudo_atom(table).tau(q2)


def start_density(crystal: Crystal, basis: Basis) -> Tensor:
    """Return the superposed densities of the atoms and, with spin, their magnetisation, (nspin, ng), bohr^-3.

    The magnetisation is the sum of the same atomic densities, scaled to the initial moments. In a molecule with moments
    both are smeared by different widths along x, y and z. This separates the levels of an open shell, so that they hold
    whole electrons. A spherical start would give fractional occupations, a state of higher energy.
    """
    density = superposition(crystal, basis.grid, atomic_density)
    density = density * (crystal.nelectrons / (density[0].real * crystal.volume))
    density = _with_moments(crystal, basis, density, atomic_density)
    if crystal.magmoms is None or any(crystal.pbc):
        return density
    g = basis.grid.wavevectors(crystal.reciprocal)
    return density * torch.exp(-0.5 * g.square() @ g.new_tensor(SMEARED))


def start_tau(crystal: Crystal, basis: Basis) -> Tensor:
    """Return the superposed tau of the atoms (nspin, ng), Hartree bohr^-3, with the moments of `start_density`."""
    return _with_moments(crystal, basis, superposition(crystal, basis.grid, atomic_tau), atomic_tau)


def _with_moments(
    crystal: Crystal, basis: Basis, total: Tensor, form_factor: Callable[[Pseudopotential, Tensor], Tensor]
) -> Tensor:
    """Return (nspin, ng): `total` (ng,) and, with spin, the atomic fields scaled to the moments."""
    if crystal.magmoms is None:
        return total[None]
    return torch.stack((total, superposition(crystal, basis.grid, form_factor, crystal.magmoms / crystal.charges)))


def atomic_orbitals(crystal: Crystal, sphere: Sphere) -> Tensor:
    """Return orbitals of the pseudo-atoms in plane waves (norbitals, npw), complex128, not orthonormal."""
    q = sphere.wavevectors(crystal.reciprocal)
    q2 = q.square().sum(-1)
    phases = sphere.phases(crystal.positions) / crystal.volume.sqrt()
    rows = []
    for table, atoms in crystal.species.items():
        for shell in pseudo_atom(table).shells:
            form = pseudo_atom(table).orbital(shell, q2) * solid_harmonics(shell.l, q)
            rows += [phases[atom] * form for atom in atoms]
    return torch.cat(rows)


def start_orbitals(hamiltonian: Hamiltonian, atoms: Tensor, nbands: int, seed: int) -> Tensor:
    """Return the lowest eigenvectors of H in the space of the longest plane waves and the atomic orbitals.

    Parameters
    ----------
    hamiltonian : Hamiltonian
        H of one block.
    atoms : Tensor
        (norbitals, npw) from `atomic_orbitals`.
    nbands : int
        Number of orbitals.
    seed : int
        Seed of the noise that is added.

    Returns
    -------
    Tensor
        (nbands, npw) complex128, not orthonormal.
    """
    kinetic = hamiltonian.kinetic
    few = torch.argsort(kinetic)[: max(80, 2 * nbands)]
    rest = atoms.clone()
    rest[:, few] = 0.0  # orthogonal to these plane waves
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
    psi = NOISE * noise(nbands, kinetic, atoms.dtype, seed)
    psi[: len(vectors), few] += vectors[:, : len(few)]
    psi[: len(vectors)] += vectors[:, len(few) :] @ rest
    return psi


def noise(norbitals: int, kinetic: Tensor, dtype: torch.dtype, seed: int) -> Tensor:
    """Return random orbitals (norbitals, npw) of a dtype, which decrease with the kinetic energy (npw,), Hartree."""
    generator = torch.Generator(device=kinetic.device).manual_seed(seed)
    shape = (norbitals, len(kinetic), 2 if dtype.is_complex else 1)
    random = torch.randn(shape, dtype=torch.float64, device=kinetic.device, generator=generator)
    parts = torch.view_as_complex(random) if dtype.is_complex else random.squeeze(-1)
    return (parts / (1 + kinetic)).to(dtype)


def atomic_fields(crystal: Crystal, basis: Basis, count: int) -> Tensor:
    """Return the fields (count, ng) of superposed atoms, without tau if `count` is the number of spin channels."""
    density = start_density(crystal, basis)
    return density if count == len(density) else torch.cat((density, start_tau(crystal, basis)))


def approximate_orbitals(energy: TotalEnergy, fields: Tensor, nbands: int) -> list[Tensor]:
    """Return approximate orbitals (nbands, npw) of each block in the potential of fields (nfields, ng)."""
    potential, kpoints = energy.potential(fields, coarse=True).values, energy.system.kpoints

    def of_block(block: Block) -> Tensor:
        hamiltonian = energy.hamiltonian(block, potential[block.spin], torch.complex128)
        atoms = atomic_orbitals(energy.system.crystal, block.sphere)
        return start_orbitals(hamiltonian, atoms, nbands, seed=block.k)

    def of_batch(blocks: Sequence[Block]) -> list[Tensor]:
        for term in energy.orbital_terms:  # their operators of one block are then parts of these
            term.operator_of_batch(blocks, kpoints.stacked_sphere(blocks))
        return list(map(of_block, blocks))

    return kpoints.map_batches(of_batch, energy.memory(nbands))


def more_orbitals(energy: TotalEnergy, orbitals: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the orbitals (nbands, npw) of each block with `count` random orbitals appended."""

    def extend(block: Block, psi: Tensor) -> Tensor:
        return torch.cat((psi, noise(count, energy.kinetic(block), psi.dtype, seed=len(psi))))

    return energy.system.kpoints.map(extend, orbitals) if count else list(orbitals)
