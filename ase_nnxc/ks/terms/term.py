"""What a term of the energy is, for those who write one.

There are three kinds: of the ions alone, of the densities, of the orbitals. A term is made for a `System` (crystal,
basis, functional): `MyTerm(system)`, and is handed to the core by adding the class, or any function that makes a term
of a system, to `System.terms`. The rest of the core asks for nothing but what stands here.

Energies must be differentiable by torch in the lattice and the positions of `system.crystal`, which then carry
gradients: forces and stress are made of that. A term therefore computes what it needs from the system when it is made
or first used, and never detaches it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..fields import Fields
from ..kpoints import Block, KPoints
from ..operators import Operator

if TYPE_CHECKING:
    from ..system import System

Kernel = Callable[[Tensor], Tensor]
"""Change of a potential (nfields, n1, n2, n3) that a change of the fields (nfields, ng) makes."""


class Term(ABC):
    """A part of the energy of a system.

    Attributes
    ----------
    name : str
        What the part is called in results and logs.
    system : System
        Crystal, basis and functional that it was made for.
    """

    name: str

    def __init__(self, system: "System"):
        self.system = system


class IonTerm(Term):
    """A term of the ions alone."""

    @abstractmethod
    def energy(self) -> Tensor:
        """Energy, Hartree, a scalar tensor."""


class DensityTerm(Term):
    """A term of the density and, if it says so, of the kinetic energy density.

    Only `energy` must be written. Potential and kernel are its derivatives by autograd; a term that has them in closed
    form overrides them.

    Attributes
    ----------
    fields : tuple of str
        What it depends on: "density" (with the magnetisation), and "tau" if that is among it.
    parameters : sequence of Tensor
        What can be trained in it.
    """

    fields: tuple[str, ...] = ("density",)
    parameters: Sequence[Tensor] = ()

    @abstractmethod
    def energy(self, fields: Fields) -> Tensor:
        """Energy, Hartree, a scalar tensor, differentiable in the fields."""

    def trainable_energy(self, fields: Fields) -> Tensor:
        """`energy`, differentiable in `parameters`, too."""
        return self.energy(fields)

    def potential(self, fields: Fields) -> tuple[float, Tensor]:
        """Energy, Hartree, and its derivatives (nfields, n1, n2, n3) by the fields, per volume of a grid point.

        The derivative by a density is a potential in Hartree; that by tau has no unit.
        """
        with torch.enable_grad():
            leaf = fields.real.detach().requires_grad_()
            energy = self.energy(Fields(fields.grid, fields.nspin, real=leaf))
            derivatives = _derivatives(energy, leaf)
        return float(energy.detach()), self._per_volume(derivatives)

    def kernel(self, fields: Fields) -> Kernel | None:
        """Derivative of the potential by the fields; None if the potential does not depend on them."""
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
        """Derivatives by values on grid points, as a symmetric potential."""
        basis, volume = self.system.basis, self.system.crystal.volume
        return basis.orbits.symmetrize(derivatives * (basis.grid.size / volume))


class OrbitalTerm(Term):
    """A term of the orbitals: sum_n f_n <psi_n|O|psi_n> with an operator O of each spin and k-point.

    Attributes
    ----------
    made_of_orbitals : bool
        Whether O depends on the orbitals that `prepare` is shown. The linear response of such terms is not known, and
        `Response` refuses them.
    """

    made_of_orbitals: bool = False

    def prepare(self, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor) -> None:
        """Take notice of all orbitals, before `operator` is asked for and energies are computed.

        Most terms have nothing to do here; exact exchange, whose operator is made of all orbitals, has.

        Parameters
        ----------
        kpoints : KPoints
            Where the orbitals live.
        orbitals : sequence of Tensor
            (nbands, npw) of each block.
        electrons : Tensor
            (nspin, nk, nbands) occupations including spin degeneracy and the weight of the k-point.
        """

    @abstractmethod
    def operator(self, block: Block) -> Operator:
        """O in complex128. It is asked for at every diagonalisation: a term keeps what does not change."""

    @abstractmethod
    def energy(self, block: Block, psi: Tensor, electrons: Tensor) -> Tensor:
        """Energy, Hartree, of orbitals (nbands, npw) with `electrons` (nbands,), differentiable in the orbitals."""


def _derivatives(energy: Tensor, leaf: Tensor, create_graph: bool = False) -> Tensor:
    if not energy.requires_grad:
        return torch.zeros_like(leaf)
    (derivatives,) = torch.autograd.grad(
        energy, leaf, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return derivatives
