"""The energy of a system: the sum of its terms, whatever they are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .fields import Fields, fields_of_orbitals, kinetic_tensors
from .hamiltonian import Hamiltonian
from .kpoints import Block, KPoints
from .operators import GridPotential
from .potential import Potential, assemble_potential
from .system import System
from .terms.term import DensityTerm, IonTerm, Kernel, OrbitalTerm


class TotalEnergy:
    """All terms of a system's energy, and what the core makes of them.

    Parameters
    ----------
    system : System
        Crystal, basis, functional, and what makes the terms.

    Attributes
    ----------
    ion_terms, density_terms, orbital_terms : list of Term
        The terms by their kinds.
    """

    def __init__(self, system: System):
        self.system = system
        terms = [make(system) for make in system.terms]
        self.ion_terms = [term for term in terms if isinstance(term, IonTerm)]
        self.density_terms = [term for term in terms if isinstance(term, DensityTerm)]
        self.orbital_terms = [term for term in terms if isinstance(term, OrbitalTerm)]
        if missing := [term for term in terms if not isinstance(term, IonTerm | DensityTerm | OrbitalTerm)]:
            raise TypeError(f"{missing[0]!r} is not an IonTerm, a DensityTerm or an OrbitalTerm")

    @property
    def with_tau(self) -> bool:
        """Whether some term depends on the kinetic energy density."""
        return any("tau" in term.fields for term in self.density_terms)

    @property
    def nfields(self) -> int:
        """Number of fields: the density, with spin the magnetisation, and as many of tau if there is one."""
        return self.system.crystal.nspin * (2 if self.with_tau else 1)

    def fields(self, *, real: Tensor | None = None, fourier: Tensor | None = None) -> Fields:
        """Fields given in real space (nfields, n1, n2, n3) or by Fourier coefficients (nfields, ng)."""
        return Fields(self.system.basis.grid, self.system.crystal.nspin, real=real, fourier=fourier)

    def fields_of(self, orbitals: Sequence[Tensor], electrons: Tensor) -> Tensor:
        """Fields (nfields, ng) of orbitals of the blocks; see `fields_of_orbitals`."""
        system = self.system
        return fields_of_orbitals(
            system.crystal, system.basis, system.kpoints, orbitals, electrons, with_tau=self.with_tau
        )

    def kinetic_tensors(self, orbitals: Sequence[Tensor], electrons: Tensor) -> Tensor | None:
        """`fields.kinetic_tensors` of orbitals of the blocks, if some term depends on tau."""
        system = self.system
        return (
            kinetic_tensors(system.crystal, system.basis, system.kpoints, orbitals, electrons)
            if self.with_tau
            else None
        )

    # -- the Hamiltonian -----------------------------------------------------------------------------------------------

    def prepare(self, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor) -> None:
        """Show all orbitals to the terms that are made of them; see `OrbitalTerm.prepare`."""
        for term in self.orbital_terms:
            term.prepare(kpoints, orbitals, electrons)

    def potential(self, fields: Tensor) -> Potential:
        """The potential that fields (nfields, ng) make."""
        return assemble_potential(self.system, self.density_terms, self.fields(fourier=fields))

    def kernels(self, fields: Tensor) -> list[Kernel]:
        """Derivatives of the potential by fields (nfields, ng), of each term that has one; their sum is the kernel."""
        at = self.fields(fourier=fields)
        return [kernel for term in self.density_terms if (kernel := term.kernel(at)) is not None]

    def hamiltonian(self, block: Block, potential: Tensor, dtype: torch.dtype) -> Hamiltonian:
        """H of a block in the precision `dtype`, with the `potential` (1 or 2, n1, n2, n3) of its spin on the grid."""
        operators = [term.operator(block).to(dtype) for term in self.orbital_terms]
        return Hamiltonian([*operators, self.grid_potential(block, potential).to(dtype)], self.system.basis.ecut)

    def diagonal(self, block: Block) -> Tensor:
        """The part of H (npw,), Hartree, that is diagonal in plane waves."""
        operators = [term.operator(block) for term in self.orbital_terms]
        return Hamiltonian(operators, self.system.basis.ecut).diagonal

    def grid_potential(self, block: Block, potential: Tensor) -> GridPotential:
        """The part of H that the density terms make; arguments as for `hamiltonian`."""
        local, *tau = potential
        half_squares = block.sphere.half_squares(self.system.crystal.reciprocal) if tau else None
        return GridPotential(block.sphere, local, tau[0] if tau else None, half_squares)

    # -- the energy ----------------------------------------------------------------------------------------------------

    def of_density(self, fields: Fields, trainable: bool = False) -> Tensor:
        """Sum of the terms of density and ions, Hartree, differentiable in fields, cell and positions.

        If it is to be `trainable`, it is differentiable in the parameters of the terms, too.
        """
        parts = [term.trainable_energy(fields) if trainable else term.energy(fields) for term in self.density_terms]
        return torch.stack([*parts, *(term.energy() for term in self.ion_terms)]).sum()

    def of_orbitals(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        """Energies of the orbital terms (nterms,), Hartree, of orbitals (nbands, npw) with `electrons` (nbands,)."""
        filled = electrons != 0
        psi, electrons = psi[filled], electrons[filled]
        return torch.stack([term.energy(block, psi, electrons) for term in self.orbital_terms])

    def ions(self) -> float:
        """Sum of the terms of the ions, Hartree."""
        return sum(float(term.energy()) for term in self.ion_terms)

    def components(
        self, orbitals: Sequence[Tensor], electrons: Tensor, fields: Tensor, entropy: float
    ) -> dict[str, float]:
        """All terms by name, Hartree.

        Parameters
        ----------
        orbitals : sequence of Tensor
            (nbands, npw) of each block.
        electrons : Tensor
            (nspin, nk, nbands) occupations including spin degeneracy and the weight of the k-point.
        fields : Tensor
            (nfields, ng) of these orbitals.
        entropy : float
            -T S, which is added as a term of its own.
        """

        def of_block(block: Block, psi: Tensor) -> Tensor:
            return self.of_orbitals(block, psi, electrons[block.spin, block.k])

        with torch.no_grad():
            sums = self.system.kpoints.sum(of_block, orbitals)
            components = {term.name: float(value) for term, value in zip(self.orbital_terms, sums)}
            at = self.fields(fourier=fields)
            components |= {term.name: float(term.energy(at)) for term in self.density_terms}
            components |= {term.name: float(term.energy()) for term in self.ion_terms}
        return components | {"entropy": entropy}
