"""A converged Kohn-Sham state, and its energy as a differentiable function of cell and positions.

The free energy F = E - T S is stationary in orbitals and occupations, so at fixed orbital coefficients and occupations
its derivatives with respect to positions, strain (and a functional's parameters) are the exact first-order ones.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..xc.functional import Functional
from .basis import Basis, Sphere
from .crystal import Crystal
from .guess import atomic_density
from .hamiltonian import chunk_size, to_box
from .occupations import Smearing
from .parallel import iterate_kpoints, map_kpoints
from .terms.ewald import ewald_energy
from .terms.hartree import coulomb_kernel, hartree_energy
from .terms.kinetic import kinetic_energy
from .terms.local import local_potential, superposition
from .terms.nonlocal_ import coupling, projectors
from .terms.xc import xc_energy


@dataclass(frozen=True, eq=False)
class GroundState:
    """The result of an SCF.

    Attributes
    ----------
    crystal, basis, functional, smearing
        What was solved.
    orbitals : list of list of Tensor
        [spin][k] -> (nbands, npw) complex128.
    eigenvalues, occupations : Tensor
        (nspin, nk, nbands), Hartree and electrons in [0, 1] per spin orbital.
    fermi_level : float
        Hartree.
    density : Tensor
        (nspin, ng) Fourier coefficients of total density and magnetisation made of the orbitals, bohr^-3.
    terms : dict of str to float
        Energy components, Hartree; their sum is the free energy F.
    history : list
        One record for each SCF step.
    """

    crystal: Crystal
    basis: Basis
    functional: Functional
    smearing: Smearing
    orbitals: list[list[Tensor]]
    eigenvalues: Tensor
    occupations: Tensor
    fermi_level: float
    density: Tensor
    terms: dict[str, float]
    history: list = field(repr=False)

    @property
    def free_energy(self) -> float:
        """F = E - T S, Hartree."""
        return sum(self.terms.values())

    @property
    def energy(self) -> float:
        """F extrapolated to zero width of the smearing, Hartree."""
        return self.free_energy + self.smearing.extrapolation * self.terms["entropy"]

    @property
    def total_moment(self) -> float:
        """Total magnetic moment, Bohr magnetons."""
        return 0.0 if self.crystal.nspin == 1 else float(self.density[1, 0].real * self.crystal.volume)

    @property
    def electrons(self) -> Tensor:
        """Electrons in each orbital times the weight of its k-point, (nspin, nk, nbands)."""
        return self.occupations * (2 / self.crystal.nspin) * self.basis.weights[:, None]

    def atomic_moments(self) -> Tensor:
        """Moments of the atoms (natoms,), Bohr magnetons: the magnetisation shared in proportion to start densities.

        m_a = integral m(r) n_a(r) / sum_b n_b(r), n_a the start density of atom a (F. L. Hirshfeld, Theor. Chim. Acta
        44, 129 (1977)).
        """
        natoms = len(self.crystal.potentials)
        if self.crystal.nspin == 1:
            return torch.zeros(natoms, dtype=torch.float64, device=self.crystal.device)
        one = torch.eye(natoms, dtype=torch.float64, device=self.crystal.device)
        grid = self.basis.grid
        atoms = torch.stack([superposition(self.crystal, grid, atomic_density, scale) for scale in one])
        shares = grid.to_real(atoms).clamp(min=1e-12)  # Fourier sums may dip below zero far from atoms
        shares = shares / shares.sum(0)
        return (shares * grid.to_real(self.density[1])).sum((1, 2, 3)) * (self.crystal.volume / grid.size)

    def derivatives(self) -> tuple[Tensor, Tensor]:
        """Forces -dF/dR (natoms, 3), Hartree/bohr, and stress (1/Omega) dF/dstrain (3, 3), Hartree/bohr^3.

        Both at fixed orbital coefficients, which makes the stress the one of a fixed set of plane waves.
        """
        electrons = self.electrons

        def of_orbitals(block: tuple[int, int]) -> tuple[Tensor, Tensor]:
            spin, k = block
            with torch.enable_grad():
                strain, displacements, crystal = _movable(self.crystal)
                sphere, psi = self.basis.spheres[k], self.orbitals[spin][k]
                parts = orbital_energies(crystal, self.basis, sphere, psi, electrons[spin, k])
                return _gradients(parts[0] + parts[1], strain, displacements)

        with torch.enable_grad():
            strain, displacements, crystal = _movable(self.crystal)
            charges = self.density * self.crystal.volume
            parts = density_energies(crystal, self.basis, self.functional, charges)
            d_strain, d_positions = _gradients(torch.stack(list(parts.values())).sum(), strain, displacements)
        for ds, dr in iterate_kpoints(of_orbitals, self.basis.blocks(self.crystal.nspin), self.crystal.device):
            d_strain, d_positions = d_strain + ds, d_positions + dr
        symmetry, lattice = self.basis.symmetry, self.crystal.lattice
        stress = symmetry.symmetrize_stress(0.5 * (d_strain + d_strain.mT) / self.crystal.volume, lattice)
        forces = symmetry.symmetrize_forces(-d_positions, lattice)
        return forces, stress


def _movable(crystal: Crystal) -> tuple[Tensor, Tensor, Crystal]:
    """Zero strain and displacements that record gradients, and the crystal under them."""
    strain = torch.zeros_like(crystal.lattice, requires_grad=True)
    displacements = torch.zeros_like(crystal.positions, requires_grad=True)
    return strain, displacements, crystal.deformed(strain, displacements)


def _gradients(energy: Tensor, strain: Tensor, displacements: Tensor) -> tuple[Tensor, Tensor]:
    ds, dr = torch.autograd.grad(energy, (strain, displacements), allow_unused=True)
    return ds, torch.zeros_like(displacements) if dr is None else dr


def orbital_energies(
    crystal: Crystal, basis: Basis, sphere: Sphere, psi: Tensor, electrons: Tensor
) -> tuple[Tensor, Tensor]:
    """Kinetic and nonlocal energy, Hartree, of the orbitals of one k-point.

    Parameters
    ----------
    crystal, basis, sphere
        Cell, basis and the k-point's plane waves.
    psi : Tensor
        (nbands, npw).
    electrons : Tensor
        (nbands,) occupations including spin degeneracy and the weight of the k-point.
    """
    filled = electrons != 0
    psi, electrons = psi[filled], electrons[filled]
    q2 = sphere.wavevectors(crystal.reciprocal).square().sum(-1)
    kinetic = (electrons @ psi.abs().square()) @ kinetic_energy(q2, basis.ecut, basis.smooth_cutoff)
    b = projectors(crystal, sphere).conj() @ psi.mT  # (nproj, nbands)
    nonlocal_ = ((b.conj() * (coupling(crystal).to(b.dtype) @ b)).real.sum(0) * electrons).sum()
    return kinetic, nonlocal_


def density_energies(crystal: Crystal, basis: Basis, functional: Functional, charges: Tensor) -> dict[str, Tensor]:
    """The terms of the energy, Hartree, that depend on the density alone, and the ions' own.

    Parameters
    ----------
    crystal, basis, functional
        What to evaluate.
    charges : Tensor
        (nspin, ng) Fourier coefficients of the density times the volume, which strain leaves alone: electrons.
    """
    grid, volume = basis.grid, crystal.volume
    density = charges / volume
    return {
        "local": volume * grid.inner(density[0], local_potential(crystal, grid)),
        "hartree": hartree_energy(density[0], coulomb_kernel(grid, crystal.reciprocal), grid, volume),
        "xc": xc_energy(functional, grid.to_real(density), basis, crystal.reciprocal, volume),
        "ewald": ewald_energy(crystal.lattice, crystal.positions, crystal.charges),
    }


def density_of(crystal: Crystal, basis: Basis, orbitals: list[list[Tensor]], electrons: Tensor) -> Tensor:
    """Symmetrised density (nspin, ng), bohr^-3, of orbitals [spin][k] with `electrons` (nspin, nk, nbands)."""
    shape = basis.grid.shape

    def of_orbitals(block: tuple[int, int]) -> Tensor:
        spin, k = block
        filled = electrons[spin, k].abs() > 1e-14
        psi, weights = orbitals[spin][k][filled], electrons[spin, k][filled]
        squares = torch.zeros(2 * basis.grid.size, dtype=torch.float64, device=weights.device)  # real, imaginary parts
        step = chunk_size(basis.grid.size, weights.device)
        for start in range(0, len(psi), step):
            box = to_box(psi[start : start + step], basis.spheres[k], shape)
            parts = torch.view_as_real(box).flatten(1).square_()
            squares += weights[start : start + step].to(parts.dtype) @ parts
        return squares

    channels = []
    for spin in range(crystal.nspin):
        blocks = [(spin, k) for k in range(len(basis.spheres))]
        total = torch.zeros(2 * basis.grid.size, dtype=torch.float64, device=crystal.device)
        for squares in iterate_kpoints(of_orbitals, blocks, crystal.device):
            total += squares
        channels.append(total.view(*shape, 2).sum(-1) / crystal.volume)
    field_ = torch.stack(channels)
    if crystal.nspin == 2:
        field_ = torch.stack((field_[0] + field_[1], field_[0] - field_[1]))
    return basis.grid.to_fourier(basis.orbits.symmetrize(field_))


def energy_terms(
    crystal: Crystal,
    basis: Basis,
    functional: Functional,
    orbitals: list[list[Tensor]],
    electrons: Tensor,
    density: Tensor,
    entropy: float,
) -> dict[str, float]:
    """All energy components, Hartree, of orbitals [spin][k]; `entropy` is the term -T S."""

    def of_orbitals(block: tuple[int, int]) -> tuple[float, float]:
        spin, k = block
        parts = orbital_energies(crystal, basis, basis.spheres[k], orbitals[spin][k], electrons[spin, k])
        return float(parts[0]), float(parts[1])

    parts = map_kpoints(of_orbitals, basis.blocks(crystal.nspin), crystal.device)
    with torch.no_grad():
        terms = density_energies(crystal, basis, functional, density * crystal.volume)
    return {
        "kinetic": sum(p[0] for p in parts),
        "nonlocal": sum(p[1] for p in parts),
        **{name: float(value) for name, value in terms.items()},
        "entropy": entropy,
    }
