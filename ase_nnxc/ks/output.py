"""Half a step of the SCF: from a potential to its orbitals, filled with electrons, and the fields that they make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .basis import padded
from .eigensolver import Eigenpairs
from .hamiltonian import Hamiltonian
from .kpoints import Block
from .nbands import EMPTY
from .occupations import FilledStates, Smearing
from .total_energy import TotalEnergy

Eigensolver = Callable[[Hamiltonian, Tensor, float, int], Eigenpairs]
"""Function of H at several k-points, orbitals (nk, nbands, npw), which may be real, a tolerance of the residuals, and
the number of bands to converge; see `eigensolver.davidson`."""


@dataclass(frozen=True, eq=False)
class Output:
    """Orbitals in the potential of the input fields, filled with electrons, and the fields that they make.

    Attributes
    ----------
    orbitals : list of Tensor
        (nbands, npw) of each block; real or complex, see `real_orbitals`.
    states : FilledStates
        Eigenvalues and occupations.
    fields : Tensor
        (nfields, ng).
    energy : float
        Sum of the eigenvalues with the terms of ions, orbitals and entropy, Hartree; the double counting of the
        potential makes it the Harris-Foulkes functional.
    residual : float
        Largest residual norm of an orbital that holds electrons, Hartree.
    applications : int
        Applications of H to an orbital, over all blocks.
    """

    orbitals: list[Tensor]
    states: FilledStates
    fields: Tensor
    energy: float
    residual: float
    applications: int

    @property
    def highest_occupation(self) -> float:
        """Largest occupation of the highest band."""
        return float(self.states.occupations[..., -1].abs().max())


def diagonalise(
    energy: TotalEnergy,
    potential: Tensor,
    orbitals: Sequence[Tensor],
    eigensolver: Eigensolver,
    tolerance: float,
    in_use: int,
    precision: torch.dtype,
) -> list[Eigenpairs]:
    """Return the eigenpairs of each block in a precision (float32 or float64), `in_use` of them converged.

    They are real if the orbitals are.
    """
    dtype = precision.to_complex() if orbitals[0].is_complex() else precision

    def solve(blocks: Sequence[Block], psi: Sequence[Tensor]) -> list[Eigenpairs]:
        hamiltonian = energy.hamiltonian_of_batch(blocks, potential[blocks[0].spin], dtype)
        start = padded(psi, hamiltonian.npw).to(dtype)
        return eigensolver(hamiltonian, start, tolerance, in_use).of_blocks(hamiltonian.numbers)

    needed = energy.memory(len(orbitals[0]))  # the same in both precisions, so that batches stay the same
    return energy.system.kpoints.map_batches(solve, needed, orbitals)


def fill(
    energy: TotalEnergy,
    smearing: Smearing,
    pairs: Sequence[Eigenpairs],
    reservoirs: Sequence[tuple[slice, float]],
    whole: float,
) -> Output:
    """Fill the eigenstates of all blocks with electrons; `reservoirs` and `whole` are those of `Smearing.fill`."""
    kpoints = energy.system.kpoints
    orbitals = [p.vectors for p in pairs]
    eigenvalues, residuals = kpoints.gather([p.values for p in pairs]), kpoints.gather([p.residuals for p in pairs])
    states = smearing.fill(eigenvalues, kpoints.weights, reservoirs, whole)
    energy.prepare(kpoints, orbitals, states.electrons)
    band_energy = float((states.eigenvalues * states.electrons).sum())
    return Output(
        orbitals=orbitals,
        states=states,
        fields=energy.fields_of(orbitals, states.electrons),
        energy=band_energy + energy.double_counting + energy.of_ions + states.entropy,
        residual=float(residuals[states.occupations.abs() > EMPTY].max()),
        applications=int(kpoints.gather([p.applications for p in pairs]).sum()),
    )
