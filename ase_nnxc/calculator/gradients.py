"""A ground state in ASE's units as torch tensors, with gradients by parameters, positions and strain."""

from functools import cached_property

import torch
from ase import Atoms
from ase.calculators.calculator import InputError
from torch import Tensor

from ..ks import adjoint as core
from ..ks.ground_state import GroundState
from ..units import BOHR, HARTREE
from .geometry import has_stress, is_along_periods

DEGENERATE = 1e-6  # Hartree; levels nearer than this to a band edge are counted with it


class Differentiable:
    """The ground state as tensors: what `NNXCCalculator.differentiable` returns.

    Anything computed from these tensors can be differentiated with `backward`. Losses of `free_energy` alone are as
    cheap as forces. All others solve for the linear response of the ground state, once in each `backward`, at about the
    cost of an SCF; `backward` raises `ase_nnxc.ks.response.ResponseError` if the response does not exist or is not
    found. The values are those of the calculator's results.

    Parameters
    ----------
    ground_state : ase_nnxc.ks.adjoint.Differentiable
        The same in Hartree atomic units.
    volume : float or None
        Volume of the cell of the atoms, Angstrom^3; None if the stress is not defined.

    Attributes
    ----------
    free_energy : Tensor
        () F = E - T S, eV.
    """

    def __init__(self, ground_state: core.Differentiable, volume: float | None):
        self._core, self._volume = ground_state, volume
        self.free_energy: Tensor = ground_state.free_energy * HARTREE

    @classmethod
    def of(
        cls,
        state: GroundState,
        atoms: Atoms,
        displacements: Tensor | None,
        strain: Tensor | None,
        tolerance: float,
    ) -> "Differentiable":
        """Make the tensors of a ground state as functions of displacements and strain; see `moved_atoms`."""
        device = state.crystal.device
        displacements, strain = (None if t is None else t.to(device) for t in (displacements, strain))
        volume = atoms.get_volume() if has_stress(atoms) else None
        return cls(core.differentiable(state, displacements, strain, tolerance), volume)

    @cached_property
    def energy(self) -> Tensor:
        """Free energy extrapolated to zero width of the smearing (), eV."""
        return self._core.energy * HARTREE

    @cached_property
    def forces(self) -> Tensor:
        """Forces (natoms, 3), eV/Angstrom."""
        return self._core.forces * (HARTREE / BOHR)

    @cached_property
    def stress(self) -> Tensor:
        """Stress (6,) in ASE's order xx, yy, zz, yz, xz, xy, eV/Angstrom^3; ValueError where it is not defined."""
        if self._volume is None:
            raise ValueError("the stress needs a periodic direction and a cell with a volume")
        rows, columns = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
        # the cell of a layer is another in the calculation
        per_volume = self._core.state.crystal.volume * HARTREE / self._volume
        return self._core.stress[rows, columns] * per_volume

    @cached_property
    def density(self) -> Tensor:
        """Valence density (n1, n2, n3), electrons/Angstrom^3, on the FFT box; its points move with a strain."""
        return self._core.state.basis.to_fine(self._core.fields[0]) / BOHR**3

    @cached_property
    def magnetisation(self) -> Tensor:
        """Magnetisation (n1, n2, n3), Bohr magnetons/Angstrom^3; zero in a spin-paired state."""
        if self._core.state.crystal.nspin == 1:
            return torch.zeros_like(self.density)
        return self._core.state.basis.to_fine(self._core.fields[1]) / BOHR**3

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Eigenvalues (nspin, nk, nbands) at the irreducible k-points, eV.

        The bands that hold electrons anywhere and the next one are converged. Only symmetric functions of degenerate
        levels have derivatives.
        """
        return self._core.eigenvalues * HARTREE

    @cached_property
    def occupations(self) -> Tensor:
        """Occupations (nspin, nk, nbands), from 0 to 1."""
        return self._core.occupations

    @property
    def weights(self) -> Tensor:
        """Weights (nk,) of the k-points; they add up to one."""
        return self._core.state.system.kpoints.weights

    @cached_property
    def fermi_level(self) -> Tensor:
        """Fermi level (), eV; the higher one if the moment is fixed.

        In a gap it has no derivatives, and `backward` raises ResponseError.
        """
        return self._core.fermi_level * HARTREE

    @cached_property
    def band_gap(self) -> Tensor:
        """Energy () between the highest occupied and the lowest empty level, eV, at any k-points and spins of the mesh.

        Levels that are degenerate with an edge are averaged, because their mean has derivatives.
        """
        levels, filled = self._core.eigenvalues, self._core.state.occupations > 0.5
        if not bool(filled.any()) or bool(filled.all()):
            raise ValueError("a band gap needs occupied and empty bands: give more bands (nbands)")
        top, bottom = levels[filled].detach().max(), levels[~filled].detach().min()
        highest = levels[filled & (levels > top - DEGENERATE)].mean()
        return (levels[~filled & (levels < bottom + DEGENERATE)].mean() - highest) * HARTREE


def moved_atoms(
    atoms: Atoms, positions: Tensor | None, strain: Tensor | None
) -> tuple[Atoms, Tensor | None, Tensor | None]:
    """Move and strain atoms as tensors say, and return how the geometry depends on these tensors.

    Parameters
    ----------
    atoms : Atoms
        Left as they are.
    positions : Tensor or None
        (natoms, 3) float64, Angstrom.
    strain : Tensor or None
        (3, 3) float64; strains cell and positions r -> r (1 + strain).

    Returns
    -------
    atoms : Atoms
        A copy at the positions, strained.
    displacements : Tensor or None
        (natoms, 3), bohr: zero, with the gradient by `positions`.
    further_strain : Tensor or None
        (3, 3), of the moved and strained atoms: zero, with the gradient by `strain`.

    Raises
    ------
    InputError
        If a tensor has another shape or dtype, or if the strain has components where nothing is periodic.
    """
    atoms = atoms.copy()
    for name, tensor, shape in (("positions", positions, (len(atoms), 3)), ("strain", strain, (3, 3))):
        if tensor is not None and (tensor.shape != shape or tensor.dtype != torch.float64):
            raise InputError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, expected torch.float64 {shape}")
    stretch = torch.eye(3, dtype=torch.float64, device="cpu")
    if strain is not None:
        stretch = stretch + strain.detach().cpu()
        if not is_along_periods(strain.detach().cpu().numpy(), atoms):
            raise InputError("the strain must be zero along directions that are not periodic")
    if positions is not None:
        atoms.positions = positions.detach().cpu().numpy()
    atoms.set_cell(atoms.cell.array @ stretch.numpy())
    atoms.positions = atoms.positions @ stretch.numpy()
    # (r + dr) (S + dS) = (r S + dr S) (1 + S^-1 dS)
    displacements = further_strain = None
    if positions is not None:
        displacements = (positions - positions.detach()) @ stretch.to(positions.device) / BOHR
    if strain is not None:
        further_strain = torch.linalg.inv(stretch).to(strain.device) @ (strain - strain.detach())
    return atoms, displacements, further_strain
