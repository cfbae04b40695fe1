"""First-order change of H with displacements of atoms and strain, at fixed coefficients of the orbitals."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .derivatives import derivative_along, gradients, movable
from .fields import strained_fields
from .kpoints import Block
from .response import Response
from .transforms import from_box, to_box


class Movement:
    """The derivative of H along displacements and a strain.

    Parameters
    ----------
    response : Response
        Response of the ground state.
    along : sequence of Tensor
        Direction of the derivative: displacements (natoms, 3), bohr, and strain (3, 3).
    kinetic : Tensor or None
        `GroundState.kinetic_tensors`; required for a strain if the energy depends on tau.

    Attributes
    ----------
    perturbation : Tensor
        (nfields, n1, n2, n3) change of the functional derivatives of the energy with respect to the fields.
    """

    def __init__(self, response: Response, along: Sequence[Tensor], kinetic: Tensor | None):
        self.state, self.along = response.state, along
        state, basis = self.state, self.state.basis
        with torch.enable_grad():
            movements, crystal = movable(state.crystal)
            energy = state.total_energy(state.system.at(crystal))
            leaf = basis.grid.to_real(state.fields).requires_grad_()
            fields = strained_fields(basis, state.crystal, crystal, leaf, kinetic)
            by_movements = gradients(energy.of_density(energy.fields(real=fields)), movements, create_graph=True)
            total = derivative_along(by_movements, along)
        (derivatives,) = gradients(total, [leaf])
        self.perturbation = basis.orbits.symmetrize(derivatives * (basis.grid.size / state.crystal.volume))
        self._tau: Tensor | None = None  # v = dE/dtau of each spin (nspin, n1, n2, n3)
        if kinetic is not None:
            b, strain = state.crystal.reciprocal, along[1]
            self._tau, self._metric = response.potential[:, 1], -b @ (strain + strain.mT) @ b.mT  # change of b_i b_j

    def apply(self, block: Block, psi: Tensor) -> Tensor:
        """Return the change of H times orbitals (n, npw), without the potentials of `perturbation`: (n, npw)."""
        state, sphere = self.state, block.sphere
        ones = torch.ones(len(psi), dtype=torch.float64, device=psi.device)
        with torch.enable_grad():
            movements, crystal = movable(state.crystal)
            energy = state.total_energy(state.system.at(crystal))
            leaf = psi.detach().requires_grad_()
            energies = energy.of_orbitals(block, leaf, ones).sum()
            by_movements = gradients(energies, movements, create_graph=True)
            total = derivative_along(by_movements, self.along)
        result = 0.5 * gradients(total, [leaf])[0]  # E = sum_n <n|H|n>
        if self._tau is None:
            return result
        # 1/2 sum_ij dG_ij D_i^+ v D_j, where D_j is that of `kinetic_tensors` and G_ij = b_i b_j
        components = (sphere.miller + sphere.kpoint).mT.to(psi.dtype)
        weighted = 0.5 * self._metric.to(psi.dtype) @ components
        for orbital, out in zip(psi, result):
            box = to_box(orbital * weighted, sphere, state.basis.grid.shape)
            out += (from_box(box.mul_(self._tau[block.spin]), sphere) * components).sum(0)
        return result
