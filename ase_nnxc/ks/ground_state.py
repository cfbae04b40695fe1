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
from .terms.xc import nfields, up_and_down, xc_energy, xc_potential


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
    fields : Tensor
        (nfields, ng) Fourier coefficients of what the functional is evaluated with, made of the orbitals: total density
        and magnetisation, bohr^-3, and for a functional of the kinetic energy density tau the same of it, Hartree
        bohr^-3.
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
    fields: Tensor
    terms: dict[str, float]
    history: list = field(repr=False)

    @property
    def density(self) -> Tensor:
        """Total density and, with spin, magnetisation (nspin, ng) of `fields`."""
        return self.fields[: self.crystal.nspin]

    @property
    def free_energy(self) -> float:
        """F = E - T S, Hartree."""
        return sum(self.terms.values())

    @property
    def energy(self) -> float:
        """F extrapolated to zero width of the smearing, Hartree."""
        return self.free_energy + self.smearing.extrapolation * self.terms["entropy"]

    def energy_tensor(self) -> Tensor:
        """Free energy F, Hartree, whose gradient by the parameters of the functional is exact to first order.

        With other parameters than the state was found with, it is that of its orbitals, the variational upper bound.
        """
        with torch.enable_grad():
            real = self.basis.grid.to_real(self.fields)
            xc = xc_energy(self.functional, real, self.basis, self.crystal.reciprocal, self.crystal.volume)
        return self.free_energy + (xc - self.terms["xc"])

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
        tau_potentials = self._tau_potentials()

        def of_orbitals(block: tuple[int, int]) -> tuple[Tensor, Tensor]:
            spin, k = block
            with torch.enable_grad():
                strain, displacements, crystal = _movable(self.crystal)
                sphere, psi = self.basis.spheres[k], self.orbitals[spin][k]
                kinetic, nonlocal_ = orbital_energies(crystal, self.basis, sphere, psi, electrons[spin, k])
                energy = kinetic + nonlocal_
                if tau_potentials is not None:
                    weighted = _weighted_kinetic(tau_potentials[spin], sphere, psi, electrons[spin, k])
                    # int v tau = 1/2 sum_ij M_ij b_i b_j
                    energy = energy + 0.5 * (weighted * (crystal.reciprocal @ crystal.reciprocal.mT)).sum()
                return _gradients(energy, strain, displacements)

        with torch.enable_grad():
            strain, displacements, crystal = _movable(self.crystal)
            charges = self.fields * self.crystal.volume
            parts = density_energies(crystal, self.basis, self.functional, charges)
            d_strain, d_positions = _gradients(torch.stack(list(parts.values())).sum(), strain, displacements)
        for ds, dr in iterate_kpoints(of_orbitals, self.basis.blocks(self.crystal.nspin), self.crystal.device):
            d_strain, d_positions = d_strain + ds, d_positions + dr
        symmetry, lattice = self.basis.symmetry, self.crystal.lattice
        stress = symmetry.symmetrize_stress(0.5 * (d_strain + d_strain.mT) / self.crystal.volume, lattice)
        forces = symmetry.symmetrize_forces(-d_positions, lattice)
        return forces, stress

    def _tau_potentials(self) -> Tensor | None:
        """v = dE_xc/dtau of each spin (nspin, n1, n2, n3), if the energy depends on tau."""
        if len(self.fields) == self.crystal.nspin:
            return None
        real = self.basis.grid.to_real(self.fields)
        arguments = (self.basis, self.crystal.reciprocal, self.crystal.volume)
        slopes = xc_potential(self.functional, real, *arguments)[1]
        return up_and_down(slopes[self.crystal.nspin :])


def _weighted_kinetic(potential: Tensor, sphere: Sphere, psi: Tensor, electrons: Tensor) -> Tensor:
    """M_ij = sum_n f_n int v Re(D_i psi_n* D_j psi_n), (3, 3), with D_i psi = sum_G (k+G)_i c_G exp(i (k+G) r).

    The components of k+G are those along the reciprocal vectors, so that strain leaves M as it is.

    Parameters
    ----------
    potential : Tensor
        (n1, n2, n3) v, the derivative of the energy by tau.
    sphere, psi, electrons
        As for `orbital_energies`.
    """
    shape = (potential.shape[0], potential.shape[1], potential.shape[2])
    components = (sphere.miller + sphere.kpoint).to(psi.dtype)
    total = torch.zeros(3, 3, dtype=potential.dtype, device=potential.device)
    for orbital, number in zip(psi, electrons.tolist()):
        if number != 0:
            waves = to_box(orbital * components.mT, sphere, shape)
            weighted = torch.view_as_real(waves * potential).flatten(1)
            total += number / potential.numel() * (weighted @ torch.view_as_real(waves).flatten(1).mT)
    return total


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
    waves = kinetic_energy(sphere.half_squares(crystal.reciprocal), basis.ecut, basis.smooth_cutoff)
    kinetic = (electrons @ psi.abs().square()) @ waves
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
        (nfields, ng) Fourier coefficients of the fields times the volume: electrons and, of tau, Hartree. Strain leaves
        those of the density alone.
    """
    grid, volume = basis.grid, crystal.volume
    fields = charges / volume
    return {
        "local": volume * grid.inner(fields[0], local_potential(crystal, grid)),
        "hartree": hartree_energy(fields[0], coulomb_kernel(grid, crystal.reciprocal), grid, volume),
        "xc": xc_energy(functional, grid.to_real(fields), basis, crystal.reciprocal, volume),
        "ewald": ewald_energy(crystal.lattice, crystal.positions, crystal.charges),
    }


def fields_of(
    crystal: Crystal, basis: Basis, functional: Functional, orbitals: list[list[Tensor]], electrons: Tensor
) -> Tensor:
    """Symmetrised fields (nfields, ng) that a functional needs of orbitals [spin][k]; see `GroundState.fields`.

    tau = 1/2 sum_n f_n |grad psi_n|^2 = sum_n f_n Re(psi_n* T psi_n) + 1/4 lap n, T = |k+G|^2 / 2.

    Parameters
    ----------
    crystal, basis, functional
        Where, and what for.
    orbitals : list of list of Tensor
        [spin][k] -> (nbands, npw).
    electrons : Tensor
        (nspin, nk, nbands) occupations including spin degeneracy and the weight of the k-point.
    """
    shape, each = basis.grid.shape, nfields(functional, 1)

    def of_orbitals(block: tuple[int, int]) -> Tensor:
        spin, k = block
        sphere = basis.spheres[k]
        filled = electrons[spin, k].abs() > 1e-14
        psi, weights = orbitals[spin][k][filled], electrons[spin, k][filled]
        half_squares = sphere.half_squares(crystal.reciprocal).to(psi.dtype)
        sums = torch.zeros(each, 2 * basis.grid.size, dtype=torch.float64, device=weights.device)  # Re and Im parts
        step = chunk_size(basis.grid.size, weights.device)
        for start in range(0, len(psi), step):
            some, factors = psi[start : start + step], weights[start : start + step].to(psi.dtype.to_real())
            waves = torch.cat((some, half_squares * some)) if each == 2 else some
            parts = torch.view_as_real(to_box(waves, sphere, shape)).flatten(1)
            if each == 2:
                sums[1] += factors @ parts[len(some) :].mul_(parts[: len(some)])
            sums[0] += factors @ parts[: len(some)].square_()
        return sums

    channels = torch.zeros(crystal.nspin, each, 2 * basis.grid.size, dtype=torch.float64, device=crystal.device)
    blocks = basis.blocks(crystal.nspin)
    for (spin, _), sums in zip(blocks, iterate_kpoints(of_orbitals, blocks, crystal.device)):
        channels[spin] += sums
    fields = channels.view(crystal.nspin, each, *shape, 2).sum(-1) / crystal.volume
    if crystal.nspin == 2:
        fields = torch.stack((fields[0] + fields[1], fields[0] - fields[1]))
    waves = basis.grid.to_fourier(basis.orbits.symmetrize(fields))
    if each == 2:
        waves[:, 1] -= 0.25 * basis.grid.wavevectors(crystal.reciprocal).square().sum(-1) * waves[:, 0]
    return waves.transpose(0, 1).flatten(0, 1)


def energy_terms(
    crystal: Crystal,
    basis: Basis,
    functional: Functional,
    orbitals: list[list[Tensor]],
    electrons: Tensor,
    fields: Tensor,
    entropy: float,
) -> dict[str, float]:
    """All energy components, Hartree, of orbitals [spin][k] and their `fields_of`; `entropy` is the term -T S."""

    def of_orbitals(block: tuple[int, int]) -> tuple[float, float]:
        spin, k = block
        parts = orbital_energies(crystal, basis, basis.spheres[k], orbitals[spin][k], electrons[spin, k])
        return float(parts[0]), float(parts[1])

    parts = map_kpoints(of_orbitals, basis.blocks(crystal.nspin), crystal.device)
    with torch.no_grad():
        terms = density_energies(crystal, basis, functional, fields * crystal.volume)
    return {
        "kinetic": sum(p[0] for p in parts),
        "nonlocal": sum(p[1] for p in parts),
        **{name: float(value) for name, value in terms.items()},
        "entropy": entropy,
    }
