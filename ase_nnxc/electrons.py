"""Band levels, density and orbitals of a calculator, by the names that ASE's tools and users of GPAW call them."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import InputError, PropertyNotImplementedError, SCFError
from ase.dft.kpoints import BandPath
from ase.spectrum.band_structure import BandStructure

from .units import BOHR, HARTREE

if TYPE_CHECKING:
    from torch import Tensor

    from .ks.ground_state import GroundState

LEVELS = ("eigenvalues", "occupations", "ibz_kpoints", "kpoint_weights")
"""Properties, named as in `ase.outputs`, that are collected together."""


class ElectronicStructure(ABC):
    """What a calculator tells of the electrons of the atoms that it calculated last; calculated first if need be.

    All bands are converged when levels or orbitals are first asked for; an SCF leaves the higher empty ones rough.
    Bands are counted from 0, k-points as in `get_ibz_k_points`.
    """

    atoms: Atoms | None
    _bands: "tuple[GroundState, Tensor, list[Tensor]] | None" = None  # all converged; of the state that is named

    @abstractmethod
    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """As ASE's."""

    @abstractmethod
    def ground_state(self, atoms: Any = None) -> "GroundState":
        """The ground state, solved for unless it is held."""

    @abstractmethod
    def get_bz_k_points(self) -> np.ndarray:
        """All k-points of the mesh (nk, 3), scaled."""

    def get_fermi_level(self) -> float:
        """Fermi level, eV; in a gap much wider than the smearing it lies in the middle."""
        return self.get_property("fermi_level")

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> np.ndarray:
        """Levels (nbands,) of a k-point, eV, ascending."""
        return self.get_property("eigenvalues")[spin, kpt]

    def get_occupation_numbers(self, kpt: int = 0, spin: int = 0) -> np.ndarray:
        """Electrons (nbands,) in each band of a k-point: 2 in a full band, 1 if spin-polarised; without its weight."""
        return self.get_property("occupations")[spin, kpt]

    def get_ibz_k_points(self) -> np.ndarray:
        """Irreducible k-points (nirr, 3), scaled: in units of the reciprocal lattice vectors."""
        return self.get_property("ibz_kpoints")

    def get_k_point_weights(self) -> np.ndarray:
        """Weights (nirr,) of the irreducible k-points, adding up to one."""
        return self.get_property("kpoint_weights")

    def get_bz_to_ibz_map(self) -> np.ndarray:
        """The irreducible k-point (nk,) of each of `get_bz_k_points`."""
        import torch

        symmetry = self.ground_state().basis.symmetry
        points = torch.as_tensor(self.get_bz_k_points(), device="cpu")
        return symmetry.irreducible_kpoints(points)[2].numpy()

    def get_number_of_bands(self) -> int:
        """Bands at each k-point."""
        return self.get_property("eigenvalues").shape[2]

    def get_number_of_spins(self) -> int:
        """1, or 2 if spin-polarised."""
        return self.ground_state().crystal.nspin

    def get_spin_polarized(self) -> bool:
        """Whether there are two spin channels."""
        return self.get_number_of_spins() == 2

    def atoms_in_box(self) -> Atoms:
        """The atoms in the cell that density and orbitals lie on, to write these with.

        Along periods it is their own. Along other directions it is the calculator's, with the mean of the positions in
        the middle.
        """
        state = self.ground_state()
        crystal, shape = state.crystal, state.basis.grid.shape
        middle = [0.0 if periodic else n // 2 / n for n, periodic in zip(shape, crystal.pbc)]
        assert self.atoms is not None
        boxed = self.atoms.copy()
        boxed.cell = crystal.lattice.cpu().numpy() * BOHR
        boxed.set_scaled_positions(crystal.positions.cpu().numpy() + middle)
        return boxed

    def get_pseudo_density(self, spin: int | None = None) -> np.ndarray:
        """Density of the valence electrons (n1, n2, n3) on the FFT box of `atoms_in_box`, electrons/Angstrom^3.

        Parameters
        ----------
        spin : {None, 0, 1}
            Total, or that of the electrons with spin up or down.
        """
        state = self.ground_state()
        fields = state.basis.grid.to_real(state.density).cpu().numpy() / BOHR**3
        total, *magnetisation = (_centred(field, state) for field in fields)
        if spin is None:
            return total
        if spin not in (0, 1):
            raise InputError(f"spin={spin!r}: None, 0 or 1 is expected")
        return 0.5 * (total + (-1) ** spin * sum(magnetisation))

    def get_pseudo_wave_function(
        self, band: int = 0, kpt: int = 0, spin: int = 0, periodic: bool = False
    ) -> np.ndarray:
        """An orbital (n1, n2, n3) on the FFT box of `atoms_in_box`, complex, Angstrom^(-3/2), normalised in one cell.

        Parameters
        ----------
        band, kpt, spin : int
            Which one.
        periodic : bool
            Leave out the factor exp(i k r).
        """
        import torch

        from .ks.transforms import to_box

        state = self.ground_state()
        _, orbitals = self._all_bands(state)
        sphere, shape = state.basis.spheres[kpt], state.basis.grid.shape
        with torch.inference_mode(False), torch.no_grad():
            waves = (
                to_box(orbitals[state.system.kpoints.number(spin, kpt)][[band]], sphere, shape)[0].cpu().numpy()
            )  # scratch memory
        waves = waves / np.sqrt(float(state.crystal.volume) * BOHR**3)
        if not periodic:
            x, y, z = (np.exp(2j * np.pi * k * np.arange(n) / n) for k, n in zip(sphere.kpoint.tolist(), shape))
            waves *= x[:, None, None] * y[:, None] * z
        return _centred(waves, state)

    def _levels(self, state: "GroundState") -> dict[str, np.ndarray]:
        """The properties `LEVELS` of a ground state."""
        eigenvalues, _ = self._all_bands(state)
        return {
            "eigenvalues": (eigenvalues * HARTREE).cpu().numpy(),
            "occupations": (state.occupations * (2 / state.crystal.nspin)).cpu().numpy(),
            "ibz_kpoints": np.array([sphere.kpoint.tolist() for sphere in state.basis.spheres]),
            "kpoint_weights": state.basis.weights.cpu().numpy(),
        }

    def _all_bands(self, state: "GroundState") -> "tuple[Tensor, list[Tensor]]":
        """Eigenvalues and orbitals of a ground state, all converged, which is done once for each."""
        import torch

        from .ks.bands import converge_bands
        from .ks.convergence import ConvergenceError

        if self._bands is None or self._bands[0] is not state:
            try:
                with torch.inference_mode(False), torch.no_grad():
                    self._bands = (state, *converge_bands(state))
            except ConvergenceError as error:
                raise SCFError(str(error)) from error
        return self._bands[1:]


def _centred(values: np.ndarray, state: "GroundState") -> np.ndarray:
    """Values (n1, n2, n3) on the FFT box, with the origin moved to the middle along directions without period."""
    axes = [axis for axis, periodic in enumerate(state.crystal.pbc) if not periodic]
    return np.roll(values, [values.shape[axis] // 2 for axis in axes], axes)


class FixedDensity(ElectronicStructure):
    """Bands in the potential of a ground state, at k-points of one's own: what `NNXCCalculator.fixed_density` gives.

    Parameters
    ----------
    atoms : Atoms
        What was calculated.
    state : GroundState
        Of `ks.bands.bands_at`.
    path : BandPath
        Its k-points.
    """

    def __init__(self, atoms: Atoms, state: "GroundState", path: BandPath) -> None:
        self.atoms, self.path, self._state = atoms, path, state
        self._bands = (state, state.eigenvalues, state.orbitals)

    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """Levels, occupations, k-points and their weights, and the Fermi level of the ground state.

        Raises
        ------
        PropertyNotImplementedError
            For anything else.
        """
        known = self._levels(self._state) | {"fermi_level": self._state.fermi_level * HARTREE}
        if name not in known:
            raise PropertyNotImplementedError(f"{name!r} is not known at a fixed density; known: {', '.join(known)}")
        return known[name]

    def ground_state(self, atoms: Any = None) -> "GroundState":
        """The bands with the density that they were found for."""
        return self._state

    def get_bz_k_points(self) -> np.ndarray:
        """All k-points (nk, 3), scaled."""
        return self.path.kpts

    def get_bz_to_ibz_map(self) -> np.ndarray:
        """(nk,): each stands for itself."""
        return np.arange(len(self.path.kpts))

    def band_structure(self) -> BandStructure:
        """Energies along the path, eV, with the Fermi level as reference."""
        return BandStructure(self.path, self.get_property("eigenvalues"), reference=self.get_fermi_level())
