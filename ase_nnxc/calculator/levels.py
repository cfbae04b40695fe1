"""Band levels, density and orbitals of a ground state, under the names used by ASE and GPAW."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError, PropertyNotImplementedError, SCFError
from torch import Tensor

from .._moved import renamed
from ..ks.bands import converge_bands
from ..ks.convergence import ConvergenceError
from ..ks.fields import by_channels
from ..ks.ground_state import GroundState
from ..ks.terms import Hartree, LocalPotential
from ..ks.transforms import to_box
from ..units import BOHR, HARTREE

LEVELS = ("eigenvalues", "occupations", "ibz_kpoints", "kpoint_weights")
"""Properties, named as in `ase.outputs`, that are computed together."""


@dataclass(frozen=True)
class ConvergedBands:
    """Eigenvalues and orbitals of a ground state, all of them converged.

    Attributes
    ----------
    state : GroundState
        Whose bands these are.
    eigenvalues : Tensor
        (nspin, nk, nbands), Hartree, ascending.
    orbitals : list of Tensor
        (nbands, npw) of each block of `state.system.kpoints`.
    """

    state: GroundState
    eigenvalues: Tensor
    orbitals: list[Tensor]

    @classmethod
    def of(cls, state: GroundState) -> "ConvergedBands":
        """Converge the bands that the SCF did not converge.

        Raises
        ------
        SCFError
            If a band does not converge.
        """
        try:
            with torch.inference_mode(False), torch.no_grad():
                return cls(state, *converge_bands(state))
        except ConvergenceError as error:
            raise SCFError(str(error)) from error

    def levels(self) -> dict[str, np.ndarray]:
        """Return the properties `LEVELS`, in ASE's units."""
        state = self.state
        return {
            "eigenvalues": (self.eigenvalues * HARTREE).cpu().numpy(),
            "occupations": (state.occupations * (2 / state.crystal.nspin)).cpu().numpy(),
            "ibz_kpoints": np.array([sphere.kpoint.tolist() for sphere in state.basis.spheres]),
            "kpoint_weights": state.system.kpoints.weights.cpu().numpy(),
        }

    def orbital(self, band: int, kpt: int, spin: int, periodic: bool) -> np.ndarray:
        """Return an orbital (n1, n2, n3) on the FFT box, Angstrom^(-3/2); see `get_pseudo_wave_function`."""
        basis = self.state.basis
        shape = basis.fine.shape
        sphere = basis.spheres[kpt].in_box(shape)
        with torch.inference_mode(False), torch.no_grad():
            psi = self.state.system.kpoints.entry(self.orbitals, spin, kpt)[[band]]
            values = to_box(psi, sphere, shape)[0].cpu().numpy()  # scratch memory
        values = values / np.sqrt(float(self.state.crystal.volume) * BOHR**3)
        if not periodic:
            x, y, z = (np.exp(2j * np.pi * k * np.arange(n) / n) for k, n in zip(sphere.kpoint.tolist(), shape))
            values *= x[:, None, None] * y[:, None] * z
        return values


class ElectronicStructure(ABC):
    """The electrons of the atoms that were calculated last, which are calculated first if necessary.

    All bands are converged when levels or orbitals are first asked for, because an SCF does not converge the higher
    empty ones. Bands are counted from 0, k-points as in `get_ibz_k_points`.
    """

    atoms: Atoms | None

    @abstractmethod
    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """Return a property by its name, as ASE's calculators do."""

    @abstractmethod
    def ground_state(self, atoms: Any = None) -> GroundState:
        """Return the ground state, which is solved for unless it is held."""

    @abstractmethod
    def _converged_bands(self) -> ConvergedBands:
        """Return the bands of the ground state, all of them converged."""

    @abstractmethod
    def get_bz_k_points(self) -> np.ndarray:
        """Return all k-points (nk, 3), scaled."""

    def get_fermi_level(self) -> float:
        """Return the Fermi level, eV; in a gap much wider than the smearing it lies in the middle."""
        return self.get_property("fermi_level")

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> np.ndarray:
        """Return the levels (nbands,) of a k-point, eV, ascending."""
        return self.get_property("eigenvalues")[spin, kpt]

    def get_occupation_numbers(self, kpt: int = 0, spin: int = 0) -> np.ndarray:
        """Return the electrons (nbands,) in each band of a k-point.

        A full band holds 2, or 1 in a spin-polarised calculation; the weight of the k-point is not included.
        """
        return self.get_property("occupations")[spin, kpt]

    def get_ibz_k_points(self) -> np.ndarray:
        """Return the irreducible k-points (nirr, 3), scaled: in units of the reciprocal lattice vectors."""
        return self.get_property("ibz_kpoints")

    def get_k_point_weights(self) -> np.ndarray:
        """Return the weights (nirr,) of the irreducible k-points; they add up to one."""
        return self.get_property("kpoint_weights")

    def get_bz_to_ibz_map(self) -> np.ndarray:
        """Return for each of `get_bz_k_points` the index (nk,) of its irreducible k-point."""
        symmetry = self.ground_state().basis.symmetry
        points = torch.as_tensor(self.get_bz_k_points(), device="cpu")
        return symmetry.irreducible_kpoints(points)[2].numpy()

    def get_homo_lumo(self, spin: int | None = None) -> np.ndarray:
        """Return the highest level below the Fermi level and the lowest one above it, as GPAW does.

        In an insulator these are the edges of the gap among the k-points that were calculated, in a metal two levels
        next to the Fermi level.

        Parameters
        ----------
        spin : {None, 0, 1}
            Look among all levels, or among those of the electrons with spin up or down.

        Returns
        -------
        ndarray
            (2,), eV.

        Raises
        ------
        InputError
            If there is no level below or above the Fermi level.
        """
        fermi_levels = self.ground_state().fermi_levels.cpu().numpy() * HARTREE
        levels = self.get_property("eigenvalues")
        if spin not in (None, *range(len(levels))):
            raise InputError(f"spin={spin!r}: expected None or {' or '.join(map(str, range(len(levels))))}")
        spins = range(len(levels)) if spin is None else [spin]
        below = [level for s in spins for level in levels[s].flat if level <= fermi_levels[s]]
        above = [level for s in spins for level in levels[s].flat if level > fermi_levels[s]]
        if not below:
            raise InputError("there is no HOMO: no electron has this spin")
        if not above:
            raise InputError(f"there is no LUMO among the {levels.shape[2]} bands: increase nbands")
        return np.array([max(below), min(above)])

    def get_number_of_bands(self) -> int:
        """Return the number of bands at each k-point."""
        return self.get_property("eigenvalues").shape[2]

    def get_number_of_spins(self) -> int:
        """Return 1, or 2 if the calculation is spin-polarised."""
        return self.ground_state().crystal.nspin

    def get_spin_polarized(self) -> bool:
        """Whether there are two spin channels."""
        return self.get_number_of_spins() == 2

    def atoms_in_box(self) -> Atoms:
        """Return the atoms in the cell of the density and the orbitals, to write these with.

        Along periodic directions it is the cell of the atoms. Along other directions it is that of the calculation,
        with the mean of the positions in the middle.
        """
        state = self.ground_state()
        crystal, shape = state.crystal, state.basis.fine.shape
        middle = [0.0 if periodic else n // 2 / n for n, periodic in zip(shape, crystal.pbc)]
        assert self.atoms is not None
        boxed = self.atoms.copy()
        boxed.cell = crystal.lattice.cpu().numpy() * BOHR
        boxed.set_scaled_positions(crystal.positions.cpu().numpy() + middle)
        return boxed

    def get_pseudo_density(self, spin: int | None = None) -> np.ndarray:
        """Return the density of the valence electrons on the FFT box of `atoms_in_box`.

        Parameters
        ----------
        spin : {None, 0, 1}
            Total density, or that of the electrons with spin up or down.

        Returns
        -------
        ndarray
            (n1, n2, n3), electrons/Angstrom^3.
        """
        state = self.ground_state()
        fields = state.basis.fine.to_real(state.density).cpu().numpy() / BOHR**3
        total, *magnetisation = (_centred(field, state) for field in fields)
        if spin is None:
            return total
        if spin not in (0, 1):
            raise InputError(f"spin={spin!r}: expected None, 0 or 1")
        return 0.5 * (total + (-1) ** spin * sum(magnetisation))

    def get_number_of_grid_points(self) -> np.ndarray:
        """Return the points (3,) of the FFT box."""
        return np.array(self.ground_state().basis.fine.shape)

    def get_electrostatic_potential(self) -> np.ndarray:
        """Return the electrostatic potential energy of an electron on the FFT box of `atoms_in_box`.

        It is the Hartree potential plus the local part of the pseudopotentials. The sign is that of GPAW: the potential
        is low at the nuclei, and its value in the vacuum minus the Fermi level is the work function. In a molecule or a
        layer it tends to zero in the vacuum; in a crystal its zero is that of the levels. It is physical outside of the
        cores only and, along directions that are not periodic, in the middle half of the box: the interaction ends at
        half of its length.

        Returns
        -------
        ndarray
            (n1, n2, n3), eV.
        """
        return self._potential(electrostatic_only=True)[0]

    def get_effective_potential(self, spin: int = 0) -> np.ndarray:
        """Return the local Kohn-Sham potential on the FFT box of `atoms_in_box`.

        It is the electrostatic potential plus the derivative of the exchange-correlation energy with respect to the
        density of this spin, for a meta-GGA at constant kinetic energy density. The nonlocal part of the
        pseudopotentials is not included.

        Parameters
        ----------
        spin : int
            0, or 1 in a spin-polarised calculation.

        Returns
        -------
        ndarray
            (n1, n2, n3), eV.
        """
        potentials = self._potential(electrostatic_only=False)
        if spin not in range(len(potentials)):
            raise InputError(f"spin={spin!r}: expected {' or '.join(map(str, range(len(potentials))))}")
        return potentials[spin]

    def _potential(self, electrostatic_only: bool) -> list[np.ndarray]:
        """Return the sum of the potentials of density terms for each spin, (n1, n2, n3), eV."""
        state = self.ground_state()
        with torch.inference_mode(False), torch.no_grad():
            energy = state.total_energy()
            fields = energy.fields(fourier=state.fields)
            potentials = [
                term.potential(fields)[1][: state.crystal.nspin]
                for term in energy.density_terms
                if not electrostatic_only or isinstance(term, Hartree | LocalPotential)
            ]
            by_spin = state.basis.to_fine(by_channels(torch.stack(potentials).sum(0))) * HARTREE
        return [_centred(values, state) for values in by_spin.cpu().numpy()]

    def get_wannier_localization_matrix(
        self,
        nbands: int,
        dirG: Any = None,
        kpoint: int = 0,
        nextkpoint: int = 0,
        G_I: Sequence[int] = (0, 0, 0),
        spin: int = 0,
    ) -> np.ndarray:
        """Return the overlaps of periodic parts of orbitals from which `ase.dft.wannier.Wannier` starts.

        They are Z_nm = <psi_n,k | exp(-i (k' - k - G) r) | psi_m,k'> (K. S. Thygesen et al., Phys. Rev. B 72, 125119
        (2005)). The calculation must be one of a crystal with ``symmetry=False``. `Wannier` must be called with
        ``initialwannier="random"``, "bloch" or "scdm".

        Parameters
        ----------
        nbands : int
            Number of the bands n and m.
        dirG : object
            Not used; an argument of ASE.
        kpoint, nextkpoint : int
            Indices of k and k'.
        G_I : sequence of int
            (3,) reciprocal lattice vector G in units of the reciprocal cell.
        spin : int
            Spin channel.

        Returns
        -------
        ndarray
            (nbands, nbands), complex.

        Raises
        ------
        InputError
            If the atoms are not a crystal, if k-points have been left out by symmetry, or if there are fewer bands.
        """
        bands = self._converged_bands()
        state = bands.state
        if not all(state.crystal.pbc):
            raise InputError("Wannier functions need a crystal: set pbc=True, for a molecule in a large cell")
        if len(self.get_bz_k_points()) != len(state.basis.spheres):
            raise InputError("Wannier functions need all k-points: set symmetry=False")
        if nbands > bands.eigenvalues.shape[2]:
            raise InputError(f"nbands={nbands}: there are only {bands.eigenvalues.shape[2]} bands")
        points, shape = self.get_bz_k_points(), state.basis.fine.shape
        wave = points[nextkpoint] - points[kpoint] - G_I
        x, y, z = (np.exp(-2j * np.pi * q * np.arange(n) / n) for q, n in zip(wave, shape))
        first, second = (
            np.stack([bands.orbital(n, k, spin, periodic=False) for n in range(nbands)]) for k in (kpoint, nextkpoint)
        )
        second *= x[:, None, None] * y[:, None] * z
        element = float(state.crystal.volume) * BOHR**3 / math.prod(shape)  # Angstrom^3
        return first.reshape(nbands, -1).conj() @ second.reshape(nbands, -1).T * element

    def initial_wannier(self, *_: Any) -> Any:
        """Raise PropertyNotImplementedError: projections on atomic orbitals are not available.

        `ase.dft.wannier.Wannier` calls this method for ``initialwannier="orbitals"``, its default.
        """
        raise PropertyNotImplementedError(
            "projections on atomic orbitals are not available: give Wannier initialwannier='random', 'bloch' or 'scdm'"
        )

    def get_pseudo_wave_function(
        self, band: int = 0, kpt: int = 0, spin: int = 0, periodic: bool = False, pad: bool = True
    ) -> np.ndarray:
        """Return an orbital on the FFT box of `atoms_in_box`, normalised in one cell.

        Parameters
        ----------
        band, kpt, spin : int
            Indices of the orbital.
        periodic : bool
            Leave out the factor exp(i k r).
        pad : bool
            Not used; an argument of ASE and GPAW. The box is always complete.

        Returns
        -------
        ndarray
            (n1, n2, n3), complex, Angstrom^(-3/2).
        """
        bands = self._converged_bands()
        return _centred(bands.orbital(band, kpt, spin, periodic), bands.state)


def _centred(values: np.ndarray, state: GroundState) -> np.ndarray:
    """Return values (n1, n2, n3) on the FFT box with the origin in the middle along directions without period."""
    axes = [axis for axis, periodic in enumerate(state.crystal.pbc) if not periodic]
    return np.roll(values, [values.shape[axis] // 2 for axis in axes], axes)


__getattr__ = renamed(__name__, {"FixedDensity": "ase_nnxc.calculator.fixed_density:FixedDensity"})
