"""A converged Kohn-Sham state, and its energy as a differentiable function of cell and positions.

The free energy F = E - T S is stationary in orbitals and occupations, so at fixed orbital coefficients and occupations
its derivatives with respect to positions, strain (and a functional's parameters) are the exact first-order ones.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..xc.functional import Functional
from .basis import Basis, Sphere, make_sphere, shared_waves
from .crystal import Crystal
from .guess import atomic_density
from .hamiltonian import Hamiltonian, chunk_size, to_box
from .occupations import Smearing
from .parallel import iterate_kpoints, map_kpoints
from .terms.ewald import ewald_energy
from .terms.hartree import coulomb_kernel, hartree_energy
from .terms.kinetic import kinetic_energy
from .terms.local import local_potential, superposition
from .terms.nonlocal_ import coupling, projectors
from .terms.xc import xc_energy, xc_potential


@dataclass(frozen=True)
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

        m_a = integral m(r) n_a(r) / sum_b n_b(r), n_a the start density of atom a: Hirshfeld, Theor. Chim. Acta 44, 129 (1977).
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

    def pulay_pressure(self, margin: float = 0.1) -> float:
        """Estimate of the stress's error from the finite cutoff, Hartree/bohr^3, as a pressure.

        A fixed set of plane waves is not a fixed cutoff: the stress misses 2/3 ecut/Omega dE/decut (Francis and Payne,
        J. Phys.: Condens. Matter 2, 4395 (1990), eq. 10). The slope is taken from second-order perturbation theory,

            dE/decut ~ -1/(margin ecut) sum_n f_n sum_G |<k+G|V|psi_n>|^2 / (|k+G|^2/2 - e_n),

        over the plane waves between ecut and (1 + margin) ecut.
        """
        crystal, basis, electrons = self.crystal, self.basis, self.electrons
        grid = basis.grid
        _, v_xc = xc_potential(self.functional, grid.to_real(self.density), basis, crystal.reciprocal, crystal.volume)
        kernel = coulomb_kernel(grid, crystal.reciprocal)
        potential = v_xc + grid.to_real(local_potential(crystal, grid) + kernel * self.density[0])
        wide = [make_sphere(crystal, (1 + margin) * basis.ecut, s.kpoint, s.weight, grid.shape) for s in basis.spheres]

        def of_orbitals(block: tuple[int, int]) -> float:
            spin, k = block
            filled = electrons[spin, k] != 0
            psi = self.orbitals[spin][k][filled]
            old, new = shared_waves(basis.spheres[k].miller, wide[k].miller)
            spread = psi.new_zeros(len(psi), wide[k].npw)
            spread[:, new] = psi[:, old]
            q2 = wide[k].wavevectors(crystal.reciprocal).square().sum(-1)
            h = Hamiltonian(
                wide[k],
                torch.zeros_like(q2),
                projectors(crystal, wide[k]),
                coupling(crystal).to(psi.dtype),
                potential[spin],
            )
            gap = 0.5 * q2 - self.eigenvalues[spin, k][filled][:, None]
            change = h.apply(spread).abs().square() / gap
            change[:, new] = 0.0
            return float(electrons[spin, k][filled] @ change.sum(1))

        blocks = [(s, k) for s in range(crystal.nspin) for k in range(len(basis.spheres))]
        slope = -sum(map_kpoints(of_orbitals, blocks, crystal.device)) / (margin * basis.ecut)
        return 2 / 3 * basis.ecut / float(crystal.volume) * slope

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
        blocks = [(s, k) for s in range(self.crystal.nspin) for k in range(len(self.basis.spheres))]
        for ds, dr in iterate_kpoints(of_orbitals, blocks, self.crystal.device):
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
    valences = torch.tensor([p.valence for p in crystal.potentials], dtype=torch.float64, device=crystal.device)
    return {
        "local": volume * grid.inner(density[0], local_potential(crystal, grid)),
        "hartree": hartree_energy(density[0], coulomb_kernel(grid, crystal.reciprocal), grid, volume),
        "xc": xc_energy(functional, grid.to_real(density), basis, crystal.reciprocal, volume),
        "ewald": ewald_energy(crystal.lattice, crystal.positions, valences),
    }


def density_of(crystal: Crystal, basis: Basis, orbitals: list[list[Tensor]], electrons: Tensor) -> Tensor:
    """Symmetrised density (nspin, ng), bohr^-3, of orbitals [spin][k] with `electrons` (nspin, nk, nbands)."""
    shape = basis.grid.shape

    def of_orbitals(block: tuple[int, int]) -> Tensor:
        spin, k = block
        filled = electrons[spin, k].abs() > 1e-14
        psi, weights = orbitals[spin][k][filled], electrons[spin, k][filled]
        total = torch.zeros(shape, dtype=torch.float64, device=weights.device)
        step = chunk_size(basis.grid.size, weights.device)
        for start in range(0, len(psi), step):
            box = to_box(psi[start : start + step], basis.spheres[k], shape)
            part = torch.view_as_real(box).square_().sum(-1)
            total += torch.tensordot(weights[start : start + step].to(part.dtype), part, dims=1)
        return total

    channels = []
    for spin in range(crystal.nspin):
        blocks = [(spin, k) for k in range(len(basis.spheres))]
        total = torch.zeros(shape, dtype=torch.float64, device=crystal.device)
        for part in iterate_kpoints(of_orbitals, blocks, crystal.device):
            total += part
        channels.append(total / crystal.volume)
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

    blocks = [(s, k) for s in range(crystal.nspin) for k in range(len(basis.spheres))]
    parts = map_kpoints(of_orbitals, blocks, crystal.device)
    with torch.no_grad():
        terms = density_energies(crystal, basis, functional, density * crystal.volume)
    return {
        "kinetic": sum(p[0] for p in parts),
        "nonlocal": sum(p[1] for p in parts),
        **{name: float(value) for name, value in terms.items()},
        "entropy": entropy,
    }
