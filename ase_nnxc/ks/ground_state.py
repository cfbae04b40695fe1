"""A converged Kohn-Sham ground state and its properties."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..xc.functional import Functional
from .basis import Basis
from .convergence import Step
from .crystal import Crystal
from .derivatives import forces_and_stress
from .initial_guess import atomic_density
from .occupations import Smearing
from .superposition import superposition
from .system import System
from .total_energy import TotalEnergy


@dataclass(frozen=True, eq=False)
class GroundState:
    """The result of an SCF.

    Attributes
    ----------
    system : System
        Crystal, basis, functional and terms of the energy.
    smearing : Smearing
        Smearing of the occupations.
    orbitals : list of Tensor
        (nbands, npw) complex128 of each block of `system.kpoints`.
    eigenvalues, occupations : Tensor
        (nspin, nk, nbands), Hartree and electrons in [0, 1] per spin orbital.
    fermi_levels : Tensor
        (nspin,), Hartree. They differ only if the moment is fixed.
    fields : Tensor
        (nfields, ng) Fourier coefficients of the fields of the orbitals, without core densities: total density and,
        with spin, magnetisation, bohr^-3; if the energy depends on the kinetic energy density tau, the same for tau,
        Hartree bohr^-3.
    residual : Tensor
        (nfields, ng) `fields` less the fields whose potential the orbitals belong to: what is left of the SCF.
    terms : dict of str to float
        Components of the energy by name, Hartree. Their sum is the free energy F.
    history : list of Step
        Steps of the SCF.
    secants : Tensor
        (n, 2, nfields, ng) complex64, for the SCF of a similar system; see `AndersonMixer.secants`.
    """

    system: System
    smearing: Smearing
    orbitals: list[Tensor]
    eigenvalues: Tensor
    occupations: Tensor
    fermi_levels: Tensor
    fields: Tensor
    residual: Tensor
    terms: dict[str, float]
    history: list[Step] = field(repr=False)
    secants: Tensor

    @property
    def crystal(self) -> Crystal:
        """Cell, atoms and electrons."""
        return self.system.crystal

    @property
    def basis(self) -> Basis:
        """Plane waves, k-points and grid."""
        return self.system.basis

    @property
    def functional(self) -> Functional:
        """Exchange-correlation functional."""
        return self.system.functional

    @property
    def density(self) -> Tensor:
        """(nspin, ng) Fourier coefficients of the total density and, with spin, of the magnetisation, bohr^-3."""
        return self.fields[: self.crystal.nspin]

    @property
    def fermi_level(self) -> float:
        """Fermi level, Hartree; the higher one if each spin channel has its own."""
        return float(self.fermi_levels.max())

    @property
    def free_energy(self) -> float:
        """Free energy F = E - T S, Hartree."""
        return sum(self.terms.values())

    @property
    def energy(self) -> float:
        """Free energy extrapolated to zero width of the smearing, Hartree."""
        return self.free_energy + self.smearing.extrapolation * self.terms["entropy"]

    def total_energy(self, system: System | None = None) -> TotalEnergy:
        """Return the terms of the energy, prepared with the orbitals of this state.

        Parameters
        ----------
        system : System, optional
            System of the terms; by default that of this state.
        """
        energy = TotalEnergy(system or self.system)
        energy.prepare(self.system.kpoints, self.orbitals, self.electrons)
        return energy

    def energy_tensor(self) -> Tensor:
        """Return the free energy F, Hartree, as a differentiable function of the parameters of the terms.

        The gradient is exact, because F is stationary in the orbitals. If the parameters have changed since the SCF,
        the value is the free energy of the unchanged orbitals, a variational upper bound.
        """
        energy = self.total_energy()
        fields = energy.fields(fourier=self.fields)
        with torch.enable_grad():
            changes = [
                term.trainable_energy(fields) - self.terms[term.name]
                for term in energy.density_terms
                if len(term.parameters)
            ]
            total = torch.as_tensor(self.free_energy, dtype=torch.float64, device=self.fields.device)
            return torch.stack([total, *changes]).sum()

    @property
    def parameters(self) -> list[Tensor]:
        """Trainable parameters of the terms of the energy."""
        return [p for term in TotalEnergy(self.system).density_terms for p in term.parameters]

    @property
    def total_moment(self) -> float:
        """Total magnetic moment, Bohr magnetons."""
        return 0.0 if self.crystal.nspin == 1 else float(self.density[1, 0].real * self.crystal.volume)

    @property
    def electrons(self) -> Tensor:
        """(nspin, nk, nbands) electrons in each orbital times the weight of its k-point."""
        return self.occupations * (2 / self.crystal.nspin) * self.system.kpoints.weights[:, None]

    def atomic_moments(self) -> Tensor:
        """Return the magnetic moments of the atoms (natoms,), Bohr magnetons, by Hirshfeld partitioning.

        m_a = integral m(r) n_a(r) / sum_b n_b(r), where n_a is the initial density of atom a (F. L. Hirshfeld, Theor.
        Chim. Acta 44, 129 (1977)).
        """
        if self.crystal.nspin == 1:
            natoms = len(self.crystal.potentials)
            return torch.zeros(natoms, dtype=torch.float64, device=self.crystal.device)
        return self._atomic_integrals(self.density[1])

    def atomic_charges(self) -> Tensor:
        """Return the charges of the atoms (natoms,), elementary charges, by Hirshfeld partitioning.

        q_a = Z_a - integral n(r) n_a(r) / sum_b n_b(r), with the valence charges Z_a; see `atomic_moments`. They add up
        to the charge of the system.
        """
        return self.crystal.charges - self._atomic_integrals(self.density[0])

    def _atomic_integrals(self, density: Tensor) -> Tensor:
        """Return the integrals (natoms,) of the atoms' shares of a density (ng,), by Hirshfeld partitioning."""
        natoms = len(self.crystal.potentials)
        one = torch.eye(natoms, dtype=torch.float64, device=self.crystal.device)
        grid = self.basis.grid
        atoms = torch.stack([superposition(self.crystal, grid, atomic_density, scale) for scale in one])
        shares = grid.to_real(atoms).clamp(min=1e-12)  # Fourier sums can be negative far from atoms
        shares = shares / shares.sum(0)
        return (shares * grid.to_real(density)).sum((1, 2, 3)) * (self.crystal.volume / grid.size)

    def dipole_moment(self) -> Tensor:
        """Return the dipole moment sum_a Z_a R_a - int r n(r) (3,), e bohr, of a system without periodic directions.

        The reference point is the origin of the cell.
        """
        grid, lattice = self.basis.grid, self.crystal.lattice
        density = grid.to_real(self.density[0]) * (self.crystal.volume / grid.size)
        electrons = []
        for axis, points in enumerate(grid.shape):
            step = torch.arange(points, dtype=lattice.dtype, device=lattice.device) / points
            others = [i for i in range(3) if i != axis]
            step = step - 0.5 * ((step - 0.5).ceil() + (step + 0.5).floor())  # in (-1/2, 1/2), and 0 at +-1/2
            electrons.append(step @ density.sum(others))
        return (self.crystal.charges @ self.crystal.positions - torch.stack(electrons)) @ lattice

    def derivatives(self) -> tuple[Tensor, Tensor]:
        """Return forces (natoms, 3), Hartree/bohr, and stress (3, 3), Hartree/bohr^3.

        See `derivatives.forces_and_stress`.
        """
        return forces_and_stress(self)

    def kinetic_tensors(self) -> Tensor | None:
        """Return `fields.kinetic_tensors` of the orbitals, or None if the energy does not depend on tau."""
        return self.total_energy().kinetic_tensors(self.orbitals, self.electrons)
