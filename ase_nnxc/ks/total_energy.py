"""The total energy of a system, as the sum of its terms."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..xc.features import FIELDS
from .basis import Sphere, padded
from .eigensolver import memory
from .fields import Fields, fields_of_orbitals, kinetic_tensors
from .hamiltonian import Hamiltonian
from .kpoints import Block, KPoints
from .operators import GridPotential, Operator
from .potential import Potential, assemble_potential
from .real_orbitals import to_plane_waves, to_real
from .system import System
from .terms.term import DensityTerm, IonTerm, Kernel, OrbitalTerm, Term


@dataclass(frozen=True, eq=False)
class _Batches:
    """Hamiltonians of batches of k-points in one dtype, by their indices, with the operators that they are made of."""

    dtype: torch.dtype | None = None
    of_kpoints: dict[tuple[int, ...], tuple[list[Operator], Hamiltonian]] = field(default_factory=dict)

    def keep(self, ks: tuple[int, ...], operators: list[Operator], hamiltonian: Hamiltonian) -> None:
        """Keep the Hamiltonian of a batch in place of those that share k-points with it."""
        for other in tuple(self.of_kpoints):  # other threads do the same: each change of the dictionary is one step
            if not set(other).isdisjoint(ks):
                self.of_kpoints.pop(other, None)
        self.of_kpoints[ks] = operators, hamiltonian


class TotalEnergy:
    """The terms of a system's energy, and the energies, fields and Hamiltonians that follow from them.

    Parameters
    ----------
    system : System
        Crystal, basis, functional, and the functions that make the terms.

    Attributes
    ----------
    ion_terms, density_terms, orbital_terms : list of Term
        The terms of each kind.

    Raises
    ------
    TypeError
        If an entry of `system.terms` does not return a term.
    NotImplementedError
        If ranks share the k-points and the operator of a term depends on the orbitals.
    """

    def __init__(self, system: System):
        self.system = system
        terms = [make(system) for make in system.terms]
        self.ion_terms = [term for term in terms if isinstance(term, IonTerm)]
        self.density_terms = [term for term in terms if isinstance(term, DensityTerm)]
        self.orbital_terms = [term for term in terms if isinstance(term, OrbitalTerm)]
        self._batches = _Batches()
        _check_terms(terms)
        nonlinear = [term.name for term in self.orbital_terms if term.made_of_orbitals]
        if system.ranks.count > 1 and nonlinear:
            raise NotImplementedError(
                f"ranks cannot share the k-points of {', '.join(nonlinear)}, whose operators depend on the orbitals: "
                "use one process"
            )

    @property
    def with_tau(self) -> bool:
        """Whether some term depends on the kinetic energy density."""
        return any("tau" in term.fields for term in self.density_terms)

    @property
    def nfields(self) -> int:
        """Number of fields: density and, with spin, magnetisation; twice as many if a term depends on tau."""
        return self.system.crystal.nspin * (2 if self.with_tau else 1)

    def fields(self, *, real: Tensor | None = None, fourier: Tensor | None = None) -> Fields:
        """Return `Fields` from values on the grid (nfields, n1, n2, n3) or Fourier coefficients (nfields, ng)."""
        return Fields(self.system.basis.grid, self.system.crystal.nspin, real=real, fourier=fourier)

    def fields_of(self, orbitals: Sequence[Tensor], electrons: Tensor) -> Tensor:
        """Return the fields (nfields, ng) of the orbitals of all blocks; see `fields_of_orbitals`."""
        system = self.system
        return fields_of_orbitals(
            system.crystal, system.basis, system.kpoints, orbitals, electrons, with_tau=self.with_tau
        )

    def kinetic_tensors(self, orbitals: Sequence[Tensor], electrons: Tensor) -> Tensor | None:
        """Return `fields.kinetic_tensors` of the orbitals of all blocks, or None if no term depends on tau."""
        system = self.system
        return (
            kinetic_tensors(system.crystal, system.basis, system.kpoints, orbitals, electrons)
            if self.with_tau
            else None
        )

    # -- real orbitals -------------------------------------------------------------------------------------------------

    @cached_property
    def is_real(self) -> bool:
        """Whether H is real at all k-points, so that an SCF can have real orbitals; see `real_orbitals`."""
        if not all(sphere.is_real for sphere in self.system.basis.spheres):
            return False
        if any(term.made_of_orbitals for term in self.orbital_terms):
            return False  # they receive plane waves
        kpoints = self.system.kpoints

        def of_block(block: Block) -> Tensor:
            is_real = all(term.operator(block).is_real for term in self.orbital_terms)
            return torch.tensor(is_real, dtype=torch.int64, device=block.sphere.index.device)

        return bool(kpoints.gather(kpoints.map(of_block)).all())

    def to_real(self, orbitals: Sequence[Tensor]) -> list[Tensor]:
        """Return the orbitals of all blocks, real if H is real (see `real_orbitals.to_real`), else as they are."""
        if not self.is_real:
            return list(orbitals)
        return self.system.kpoints.map(lambda block, psi: to_real(psi, block.sphere), orbitals)

    def to_plane_waves(self, orbitals: Sequence[Tensor]) -> list[Tensor]:
        """Return the plane-wave coefficients of the orbitals of all blocks, which may be real."""
        if orbitals[0].is_complex():
            return list(orbitals)
        return self.system.kpoints.map(lambda block, psi: to_plane_waves(psi, block.sphere), orbitals)

    # -- the Hamiltonian -----------------------------------------------------------------------------------------------

    def prepare(self, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor) -> None:
        """Pass the orbitals of all blocks to the orbital terms; see `OrbitalTerm.prepare`."""
        for term in self.orbital_terms:
            term.prepare(kpoints, orbitals, electrons)

    def potential(self, fields: Tensor, *, coarse: bool = False) -> Potential:
        """Return the potential of the density terms at the fields (nfields, ng).

        A `coarse` one is that of `DensityTerm.coarse`, which is good enough for the first steps of an SCF.
        """
        terms = self._coarse_terms if coarse else self.density_terms
        return assemble_potential(self.system, terms, self.fields(fourier=fields))

    @property
    def has_coarse(self) -> bool:
        """Whether coarse potentials differ from the others."""
        return any(coarse is not term for coarse, term in zip(self._coarse_terms, self.density_terms))

    @cached_property
    def _coarse_terms(self) -> list[DensityTerm]:
        return [term.coarse() for term in self.density_terms]

    def kernels(self, fields: Tensor) -> list[Kernel]:
        """Return the kernel of each density term that has one, at the fields (nfields, ng).

        Their sum is the derivative of the potential with respect to the fields.
        """
        expansion_point = self.fields(fourier=fields)
        return [kernel for term in self.density_terms if (kernel := term.kernel(expansion_point)) is not None]

    def hamiltonian(self, block: Block, potential: Tensor, dtype: torch.dtype) -> Hamiltonian:
        """Return H of a block.

        Parameters
        ----------
        block : Block
            Spin channel and k-point.
        potential : Tensor
            (1 or 2, n1, n2, n3) entry of `Potential.values` for the spin of the block.
        dtype : torch.dtype
            complex64 or complex128, or, if `is_real`, float32 or float64 for real orbitals.
        """
        operators = [term.operator(block).to(dtype) for term in self.orbital_terms]
        return Hamiltonian([*operators, self.grid_potential(block.sphere, potential).to(dtype)], self.system.basis.ecut)

    def hamiltonian_of_batch(self, blocks: Sequence[Block], potential: Tensor, dtype: torch.dtype) -> Hamiltonian:
        """Return H of several blocks of one spin channel; the other parameters are those of `hamiltonian`.

        Operators are converted once if terms return them again: the Hamiltonians of one dtype are kept.
        """
        sphere, ks = self.system.kpoints.stacked_sphere(blocks), tuple(block.k for block in blocks)
        operators = [term.operator_of_batch(blocks, sphere) for term in self.orbital_terms]
        batches = self._batches
        if batches.dtype != dtype:
            batches = self._batches = _Batches(dtype)
        kept, hamiltonian = batches.of_kpoints.get(ks, ([], None))
        if hamiltonian is None or any(a is not b for a, b in zip(operators, kept)):
            converted = [operator.to(dtype) for operator in (*operators, self.grid_potential(sphere, potential))]
            numbers = [block.sphere.npw for block in blocks]
            hamiltonian = Hamiltonian(converted, self.system.basis.ecut, numbers)
            if dtype.to_real() == torch.float64:
                hamiltonian = hamiltonian.with_single(torch.complex64 if dtype.is_complex else torch.float32)
            batches.keep(ks, operators, hamiltonian)
        local, *tau = potential.to(dtype.to_real())
        return hamiltonian.with_potential(local, tau[0] if tau else None)

    def kinetic(self, block: Block) -> Tensor:
        """Return `Hamiltonian.kinetic` of a block, (npw,), Hartree."""
        operators = [term.operator(block) for term in self.orbital_terms]
        return Hamiltonian(operators, self.system.basis.ecut).kinetic

    def grid_potential(self, sphere: Sphere, potential: Tensor) -> GridPotential:
        """Return the part of H that comes from the density terms, on the plane waves of one or several k-points.

        The `potential` is that of `hamiltonian`.
        """
        local, *tau = potential
        half_squares = sphere.half_squares(self.system.crystal.reciprocal) if tau else None
        return GridPotential(sphere, local, tau[0] if tau else None, half_squares)

    # -- the energy ----------------------------------------------------------------------------------------------------

    def of_density(self, fields: Fields, trainable: bool = False) -> Tensor:
        """Return the sum of the density and ion terms, Hartree, differentiable in fields, cell and positions.

        With `trainable` it is also differentiable in the parameters of the terms.
        """
        parts = [term.trainable_energy(fields) if trainable else term.energy(fields) for term in self.density_terms]
        return torch.stack([*parts, *(term.energy() for term in self.ion_terms)]).sum()

    def of_orbitals(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        """Return the energies of the orbital terms (nterms,), Hartree.

        Parameters
        ----------
        block : Block
            Spin channel and k-point.
        psi : Tensor
            (nbands, npw) orbitals.
        electrons : Tensor
            (nbands,) electrons in each orbital, including the weight of the k-point.
        """
        filled = electrons != 0
        psi, electrons = psi[filled], electrons[filled]
        return torch.stack([term.energy(block, psi, electrons) for term in self.orbital_terms])

    def of_batch(
        self, blocks: Sequence[Block], sphere: Sphere, orbitals: Sequence[Tensor], electrons: Tensor
    ) -> Tensor:
        """Return the energies of the orbital terms (nterms,), Hartree, of several blocks of one spin channel.

        Parameters
        ----------
        blocks : sequence of Block
            The blocks.
        sphere : Sphere
            Their plane waves, from `KPoints.stacked_sphere`.
        orbitals : sequence of Tensor
            (nbands, npw) of each block.
        electrons : Tensor
            (nspin, nk, nbands) electrons in each orbital of all blocks, including the weights of the k-points.
        """
        electrons = electrons[blocks[0].spin, [block.k for block in blocks]]
        bands = (electrons != 0).any(0).nonzero().squeeze(-1)
        psi, electrons = padded(orbitals, sphere.npw)[:, bands], electrons[:, bands]
        return torch.stack([term.energy_of_batch(blocks, sphere, psi, electrons) for term in self.orbital_terms])

    def memory(self, nbands: int) -> int:
        """Return the bytes that calculations with a batch need for each block, in double precision."""
        return memory(nbands, self.system.basis.most_waves, torch.complex128)

    @property
    def double_counting(self) -> float:
        """Sum of `OrbitalTerm.double_counting`, Hartree."""
        return sum(term.double_counting() for term in self.orbital_terms)

    @cached_property
    def of_ions(self) -> float:
        """Return the sum of the ion terms, Hartree."""
        return sum(float(term.energy()) for term in self.ion_terms)

    def components(
        self, orbitals: Sequence[Tensor], electrons: Tensor, fields: Tensor, entropy: float
    ) -> dict[str, float]:
        """Return the value of each term by its name, Hartree.

        Parameters
        ----------
        orbitals : sequence of Tensor
            (nbands, npw) of each block.
        electrons : Tensor
            (nspin, nk, nbands) occupations including spin degeneracy and the weight of the k-point.
        fields : Tensor
            (nfields, ng) fields of these orbitals.
        entropy : float
            -T S, Hartree. The result holds it under the name "entropy".
        """
        kpoints = self.system.kpoints

        def of_batch(blocks: Sequence[Block], waves: Sequence[Tensor]) -> Tensor:
            return self.of_batch(blocks, kpoints.stacked_sphere(blocks), waves, electrons)

        with torch.no_grad():
            sums = kpoints.sum_batches_of_spins(of_batch, self.memory(len(orbitals[0])), orbitals).sum(0)
            components = {term.name: float(value) for term, value in zip(self.orbital_terms, sums)}
            density_fields = self.fields(fourier=fields)
            components |= {term.name: float(term.energy(density_fields)) for term in self.density_terms}
            components |= {term.name: float(term.energy()) for term in self.ion_terms}
        return components | {"entropy": entropy}


def _check_terms(terms: Sequence[Term]) -> None:
    for term in terms:
        if not isinstance(term, IonTerm | DensityTerm | OrbitalTerm):
            raise TypeError(f"{term!r} is not an IonTerm, a DensityTerm or an OrbitalTerm")
        if isinstance(term, DensityTerm) and not set(term.fields) <= set(FIELDS):
            raise ValueError(f"the term {term.name!r} depends on {term.fields}; known fields are {', '.join(FIELDS)}")
        if not isinstance(term, DensityTerm) and hasattr(term, "parameters"):
            raise ValueError(f"the term {term.name!r} has parameters; only those of a DensityTerm can be trained")
    names = [*(term.name for term in terms), "entropy"]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two terms of the energy are called {repeated.pop()!r}; names must differ")
