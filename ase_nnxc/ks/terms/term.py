"""The interface of a term of the energy.

A term depends on the ions only (`IonTerm`), on the density fields (`DensityTerm`) or on the orbitals (`OrbitalTerm`).
It is created for a `System`, as `MyTerm(system)`. To add a term to a calculation, add its class, or a function that
returns a term for a system, to `System.terms`. Each term needs a unique `name`. The rest of the core uses only the
methods and attributes in this module.

Forces and stress follow from the energies by automatic differentiation: an energy must be differentiable in the lattice
and the positions of `system.crystal`, which then require gradients. A term must therefore compute all quantities from
the system, when it is created or first used, and must not detach them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..basis import Sphere
from ..fields import Fields
from ..kpoints import Block, KPoints
from ..operators import Operator

if TYPE_CHECKING:
    from ..system import System

Kernel = Callable[[Tensor], Tensor]
"""Function of a change of the fields (nfields, ng); returns the change of the potential (nfields, n1, n2, n3)."""


class Term(ABC):
    """A part of the energy of a system.

    Attributes
    ----------
    name : str
        Name of the term in results and logs, unique among the terms of a system.
    system : System
        Crystal, basis and functional of the term.
    """

    name: str

    def __init__(self, system: "System"):
        self.system = system


class IonTerm(Term):
    """A term that depends on the ions only."""

    @abstractmethod
    def energy(self) -> Tensor:
        """Return the energy, a scalar tensor, Hartree."""


class DensityTerm(Term):
    """A term that depends on the density and, if `fields` contains "tau", on the kinetic energy density.

    Only `energy` must be implemented. The potential and the kernel are its derivatives by autograd; a term that has
    them in closed form can override them.

    Attributes
    ----------
    fields : tuple of str
        Fields that the term depends on: "density" (with the magnetisation) and, optionally, "tau".
    parameters : sequence of Tensor
        Trainable parameters.
    """

    fields: tuple[str, ...] = ("density",)
    parameters: Sequence[Tensor] = ()

    @abstractmethod
    def energy(self, fields: Fields) -> Tensor:
        """Return the energy, a scalar tensor, Hartree, twice differentiable in the fields."""

    def trainable_energy(self, fields: Fields) -> Tensor:
        """Return the same as `energy`, differentiable in `parameters`, too."""
        return self.energy(fields)

    def potential(self, fields: Fields) -> tuple[float, Tensor]:
        """Return the energy, Hartree, and its functional derivatives (nfields, n1, n2, n3) with respect to the fields.

        The derivative with respect to the density or the magnetisation is a potential, Hartree. The derivative with
        respect to tau is dimensionless.
        """
        with torch.enable_grad():
            leaf = fields.real.detach().requires_grad_()
            energy = self.energy(Fields(fields.grid, fields.nspin, real=leaf))
            derivatives = _derivatives(energy, leaf)
        return float(energy.detach()), self._per_volume(derivatives)

    def coarse(self) -> "DensityTerm":
        """Return a cheaper approximation of this term for the first steps of an SCF; by default the term itself."""
        return self

    def kernel(self, fields: Fields) -> Kernel | None:
        """Return the derivative of the potential at the fields, or None if the potential does not depend on them."""
        with torch.enable_grad():
            leaf = fields.real.detach().requires_grad_()
            energy = self.energy(Fields(fields.grid, fields.nspin, real=leaf))
            derivatives = _derivatives(energy, leaf, create_graph=True)
        if not derivatives.requires_grad:
            return None

        def kernel(change: Tensor) -> Tensor:
            real = fields.grid.to_real(change)
            (image,) = torch.autograd.grad(
                derivatives, leaf, real, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            return self._per_volume(image)

        return kernel

    def _per_volume(self, derivatives: Tensor) -> Tensor:
        """Return functional derivatives, symmetrised, from derivatives with respect to the values on grid points."""
        basis, volume = self.system.basis, self.system.crystal.volume
        return basis.orbits.symmetrize(derivatives * (basis.grid.size / volume))


class OrbitalTerm(Term):
    """A term that depends on the orbitals through an operator O for each spin and k-point.

    If O is the same for all orbitals, the energy is sum_n f_n <psi_n|O|psi_n>, and `energy` and `operator` are all that
    is needed. If O depends on the orbitals, the term overrides `prepare` and `double_counting`, too. The linear
    response of such a term is not implemented: `Response` raises an error. Parameters of orbital terms cannot be
    trained.
    """

    def __init__(self, system: "System"):
        super().__init__(system)
        self._stacks: dict[tuple[int, ...], tuple[list[Operator], Operator]] = {}  # by the numbers of the blocks

    @property
    def made_of_orbitals(self) -> bool:
        """Whether O depends on the orbitals, and the term therefore overrides `prepare`."""
        return type(self).prepare is not OrbitalTerm.prepare

    def double_counting(self) -> float:
        """Return E - sum_n f_n <psi_n|O|psi_n>, Hartree, for the orbitals of the last `prepare`."""
        return 0.0

    def prepare(self, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor) -> None:
        """Receive the orbitals of all blocks; by default nothing is done.

        An SCF calls this method at a warm start and after every diagonalisation, a ground state before it computes
        energies, forces, stress or bands. An SCF that starts from atoms calls `operator` once before.

        Parameters
        ----------
        kpoints : KPoints
            Blocks of the orbitals.
        orbitals : sequence of Tensor
            (nbands, npw) of each block, in the first steps of an SCF complex64.
        electrons : Tensor
            (nspin, nk, nbands) occupations including spin degeneracy and the weight of the k-point.
        """

    @abstractmethod
    def operator(self, block: Block) -> Operator:
        """Return O of a block in complex128.

        Every diagonalisation calls this method or `operator_of_batch`. A term should keep an operator that does not
        change and return the same object, and otherwise return a new one: what an SCF makes of an operator is kept with
        it. Where all k-points are their own inverses, an SCF has real orbitals if `Operator.is_real` holds for all
        operators.
        """

    def operator_of_batch(self, blocks: Sequence[Block], sphere: Sphere) -> Operator:
        """Return O of several blocks of one spin channel as one operator; override it if that is faster.

        The parameters are those of `energy_of_batch`. The object is the same as long as those of `operator` are.
        """
        numbers, operators = tuple(block.number for block in blocks), [self.operator(block) for block in blocks]
        known, stack = self._stacks.get(numbers, ([], None))
        if stack is None or any(a is not b for a, b in zip(operators, known)):
            stack = type(operators[0]).stack(operators, sphere.npw)
            self._stacks[numbers] = operators, stack
        return stack

    @abstractmethod
    def energy(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        """Return the energy of the orbitals of one block, Hartree, differentiable in the orbitals.

        Parameters
        ----------
        block : Block
            Spin channel and k-point.
        psi : Tensor
            (nbands, npw) orbitals.
        electrons : Tensor
            (nbands,) electrons in each orbital, including the weight of the k-point. They may be negative.

        Returns
        -------
        Tensor
            Scalar.
        """

    def energy_of_batch(self, blocks: Sequence[Block], sphere: Sphere, psi: Tensor, electrons: Tensor) -> Tensor:
        """Return the sum of the energies of several blocks of one spin channel, Hartree; override it if that is faster.

        Parameters
        ----------
        blocks : sequence of Block
            The blocks.
        sphere : Sphere
            Their plane waves, padded to a common number; see `KPoints.stacked_sphere`.
        psi : Tensor
            (nk, nbands, npw) orbitals, with zeros as padding.
        electrons : Tensor
            (nk, nbands) as for `energy`.
        """
        energies = [self.energy(b, waves[:, : b.sphere.npw], n) for b, waves, n in zip(blocks, psi, electrons)]
        return torch.stack(energies).sum()


def _derivatives(energy: Tensor, leaf: Tensor, create_graph: bool = False) -> Tensor:
    if not energy.requires_grad:
        return torch.zeros_like(leaf)
    (derivatives,) = torch.autograd.grad(
        energy, leaf, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return derivatives
