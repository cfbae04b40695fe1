"""A converged Kohn-Sham state, and its energy as a differentiable function of cell and positions.

The free energy F = E - T S is stationary in orbitals and occupations, so at fixed orbital coefficients and occupations
its derivatives with respect to positions, strain (and a functional's parameters) are the exact first-order ones.
"""

from collections.abc import Sequence
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
from .terms.coulomb import coulomb_kernel
from .terms.ewald import ewald_energy
from .terms.hartree import hartree_energy
from .terms.kinetic import kinetic_energy
from .terms.local import local_potential, superposition
from .terms.nonlocal_ import coupling, projectors
from .terms.xc import nfields, xc_energy


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
    fermi_levels : Tensor
        (nspin,) Hartree; they differ only where the moment is fixed.
    fields : Tensor
        (nfields, ng) Fourier coefficients of what the functional is evaluated with, made of the orbitals: total density
        and magnetisation, bohr^-3, and for a functional of the kinetic energy density tau the same of it, Hartree
        bohr^-3.
    terms : dict of str to float
        Energy components, Hartree; their sum is the free energy F.
    history : list
        One record for each SCF step.
    secants : Tensor
        (n, 2, nfields, ng) complex64, for the next SCF; see `AndersonMixer.secants`.
    """

    crystal: Crystal
    basis: Basis
    functional: Functional
    smearing: Smearing
    orbitals: list[list[Tensor]]
    eigenvalues: Tensor
    occupations: Tensor
    fermi_levels: Tensor
    fields: Tensor
    terms: dict[str, float]
    history: list = field(repr=False)
    secants: Tensor

    @property
    def density(self) -> Tensor:
        """Total density and, with spin, magnetisation (nspin, ng) of `fields`."""
        return self.fields[: self.crystal.nspin]

    @property
    def fermi_level(self) -> float:
        """Hartree; the higher one where the spins have their own."""
        return float(self.fermi_levels.max())

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
            xc = xc_energy(self.functional, real, self.crystal, self.basis, self.parameters)
            return self.free_energy + (xc - self.terms["xc"])

    @property
    def parameters(self) -> list[Tensor]:
        """Those of the functional that require gradients."""
        return [p for p in self.functional.parameters() if p.requires_grad]

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

    def dipole_moment(self) -> Tensor:
        """sum_a Z_a R_a - int r n(r) (3,), e bohr, of a system without periods, about the origin of its cell."""
        grid, lattice = self.basis.grid, self.crystal.lattice
        density = grid.to_real(self.density[0]) * (self.crystal.volume / grid.size)
        electrons = []
        for axis, points in enumerate(grid.shape):
            step = torch.arange(points, dtype=lattice.dtype, device=lattice.device) / points
            others = [i for i in range(3) if i != axis]
            step = step - 0.5 * ((step - 0.5).ceil() + (step + 0.5).floor())  # from -1/2 to 1/2, where it is 0
            electrons.append(step @ density.sum(others))
        return (self.crystal.charges @ self.crystal.positions - torch.stack(electrons)) @ lattice

    def derivatives(self) -> tuple[Tensor, Tensor]:
        """Forces -dF/dR (natoms, 3), Hartree/bohr, and stress (1/Omega) dF/dstrain (3, 3), Hartree/bohr^3.

        Both at fixed orbital coefficients, which makes the stress the one of a fixed set of plane waves. Along
        directions that are not periodic the forces add up to zero, and there is no stress.
        """
        electrons, kinetic = self.electrons, self.kinetic_tensors()

        def of_orbitals(block: tuple[int, int]) -> list[Tensor]:
            spin, k = block
            with torch.enable_grad():
                movements, crystal = movable(self.crystal)
                sphere, psi = self.basis.spheres[k], self.orbitals[spin][k]
                energy = torch.stack(orbital_energies(crystal, self.basis, sphere, psi, electrons[spin, k])).sum()
                return gradients(energy, movements)

        with torch.enable_grad():
            movements, crystal = movable(self.crystal)
            fields = strained_fields(self.basis, self.crystal, crystal, self.basis.grid.to_real(self.fields), kinetic)
            parts = density_energies(crystal, self.basis, self.functional, fields)
            total = gradients(torch.stack(list(parts.values())).sum(), movements)
        for part in iterate_kpoints(of_orbitals, self.basis.blocks(self.crystal.nspin), self.crystal.device):
            total = [a + b for a, b in zip(total, part)]
        d_positions, d_strain = total
        symmetry, lattice = self.basis.symmetry, self.crystal.lattice
        stress = symmetry.symmetrize_stress(0.5 * (d_strain + d_strain.mT) / self.crystal.volume, lattice)
        forces = symmetry.symmetrize_forces(-d_positions, lattice)
        return forces, stress

    def kinetic_tensors(self) -> Tensor | None:
        """`kinetic_tensors` of the orbitals, if the energy depends on tau."""
        if len(self.fields) == self.crystal.nspin:
            return None
        return kinetic_tensors(self.crystal, self.basis, self.orbitals, self.electrons)


def movable(crystal: Crystal) -> tuple[list[Tensor], Crystal]:
    """Displacements (natoms, 3) and strain (3, 3), zero, that record gradients, and the crystal under them."""
    displacements = torch.zeros_like(crystal.positions, requires_grad=True)
    strain = torch.zeros_like(crystal.lattice, requires_grad=True)
    return [displacements, strain], crystal.deformed(strain, displacements)


def gradients(energy: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Derivatives of an energy by inputs, zero by those that it does not depend on."""
    if not energy.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return list(
        torch.autograd.grad(energy, inputs, create_graph=create_graph, allow_unused=True, materialize_grads=True)
    )


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


def density_energies(
    crystal: Crystal, basis: Basis, functional: Functional, fields: Tensor, parameters: Sequence[Tensor] = ()
) -> dict[str, Tensor]:
    """The terms of the energy, Hartree, that depend on the density alone, and the ions' own.

    Parameters
    ----------
    crystal, basis, functional
        What to evaluate.
    fields : Tensor
        (nfields, n1, n2, n3) on the grid.
    parameters : sequence of Tensor
        Of the functional, that the energy is to be differentiable in.
    """
    grid, volume = basis.grid, crystal.volume
    density, kernel = grid.to_fourier(fields[0]), coulomb_kernel(grid, crystal)
    return {
        "local": volume * grid.inner(density, local_potential(crystal, grid, kernel)),
        "hartree": hartree_energy(density, kernel, grid, volume),
        "xc": xc_energy(functional, fields, crystal, basis, parameters),
        "ewald": ewald_energy(crystal.lattice, crystal.positions, crystal.charges, pbc=crystal.pbc),
    }


def strained_fields(
    basis: Basis, crystal: Crystal, strained: Crystal, fields: Tensor, kinetic: Tensor | None
) -> Tensor:
    """Fields (nfields, n1, n2, n3) that orbitals of the same coefficients make in a strained crystal.

    n Omega stays as it is, and tau Omega = 1/2 sum_ij t_ij b_i b_j changes with the reciprocal vectors b.

    Parameters
    ----------
    basis : Basis
        Of the crystal.
    crystal, strained : Crystal
        Before and after.
    fields : Tensor
        (nfields, n1, n2, n3) before.
    kinetic : Tensor or None
        `kinetic_tensors` (nspin, 3, 3, n1, n2, n3), if there are fields of tau.
    """
    fields = fields * (crystal.volume / strained.volume)
    if kinetic is None:
        return fields
    change = strained.reciprocal @ strained.reciprocal.mT - crystal.reciprocal @ crystal.reciprocal.mT
    tau = 0.5 * torch.einsum("sijxyz,ij->sxyz", kinetic, change) / strained.volume
    return torch.cat((fields[: len(tau)], fields[len(tau) :] + basis.orbits.symmetrize(tau)))


def kinetic_tensors(crystal: Crystal, basis: Basis, orbitals: list[list[Tensor]], electrons: Tensor) -> Tensor:
    """t_ij = sum_n f_n Re(D_i psi_n* D_j psi_n) Omega, total and of the magnetisation: (nspin, 3, 3, n1, n2, n3).

    D_i psi = sum_G (k+G)_i c_G exp(i (k+G) r) Omega^(-1/2) with the components of k+G along the reciprocal vectors, so
    that strain leaves t as it is. tau Omega = 1/2 sum_ij t_ij b_i b_j.

    Parameters
    ----------
    crystal, basis, orbitals, electrons
        As for `fields_of`.
    """

    def of_orbitals(block: tuple[int, int]) -> Tensor:
        spin, k = block
        sphere = basis.spheres[k]
        components = (sphere.miller + sphere.kpoint).mT
        total = torch.zeros(3, 3, basis.grid.size, dtype=torch.float64, device=crystal.device)
        for psi, number in zip(orbitals[spin][k], electrons[spin, k].tolist()):
            if number != 0:
                waves = to_box(psi * components, sphere, basis.grid.shape)
                parts = torch.view_as_real(waves).view(3, -1, 2)
                for i in range(3):
                    total[i, i:] += number * (parts[i] * parts[i:]).sum(-1)
        return total

    channels = torch.zeros(crystal.nspin, 3, 3, basis.grid.size, dtype=torch.float64, device=crystal.device)
    blocks = basis.blocks(crystal.nspin)
    for (spin, _), part in zip(blocks, iterate_kpoints(of_orbitals, blocks, crystal.device)):
        channels[spin] += part
    for i, j in ((1, 0), (2, 0), (2, 1)):
        channels[:, i, j] = channels[:, j, i]
    if crystal.nspin == 2:
        channels = torch.stack((channels[0] + channels[1], channels[0] - channels[1]))
    return channels.view(crystal.nspin, 3, 3, *basis.grid.shape)


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
        terms = density_energies(crystal, basis, functional, basis.grid.to_real(fields))
    return {
        "kinetic": sum(p[0] for p in parts),
        "nonlocal": sum(p[1] for p in parts),
        **{name: float(value) for name, value in terms.items()},
        "entropy": entropy,
    }
