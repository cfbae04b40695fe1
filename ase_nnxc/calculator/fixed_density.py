"""Bands at chosen k-points in the potential of a ground state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import InputError, PropertyNotImplementedError, SCFError
from ase.spectrum.band_structure import BandStructure

from ..ks.bands import bands_at
from ..ks.convergence import ConvergenceError
from ..ks.ground_state import GroundState
from ..units import HARTREE
from .levels import ConvergedBands, ElectronicStructure

if TYPE_CHECKING:
    from ase.dft.kpoints import BandPath


class FixedDensity(ElectronicStructure):
    """Bands at chosen k-points in the potential of a ground state: what `NNXCCalculator.fixed_density` returns.

    Parameters
    ----------
    atoms : Atoms
        The atoms that were calculated.
    state : GroundState
        As `ase_nnxc.ks.bands.bands_at` returns it.
    path : BandPath
        Its k-points.
    """

    def __init__(self, atoms: Atoms, state: GroundState, path: BandPath) -> None:
        self.atoms, self.path = atoms, path
        self._bands = ConvergedBands(state, state.eigenvalues, state.orbitals)

    @classmethod
    def along(cls, path: BandPath, nbands: int | None, atoms: Atoms, state: GroundState) -> FixedDensity:
        """Solve for the bands along a path in the potential of a ground state.

        Raises
        ------
        InputError
            If there are fewer plane waves than bands.
        SCFError
            If bands do not converge.
        """
        points = torch.as_tensor(path.kpts, dtype=torch.float64, device="cpu")
        try:
            with torch.inference_mode(False), torch.no_grad():
                return cls(atoms.copy(), bands_at(state, points, nbands), path)
        except ConvergenceError as error:
            raise SCFError(str(error)) from error
        except ValueError as error:
            raise InputError(str(error)) from error

    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """Return levels, occupations, k-points, their weights, or the Fermi level of the ground state.

        Raises
        ------
        PropertyNotImplementedError
            For any other property.
        """
        known = self._bands.levels() | {"fermi_level": self._bands.state.fermi_level * HARTREE}
        if name not in known:
            raise PropertyNotImplementedError(
                f"{name!r} is not available at a fixed density; available are {', '.join(known)}"
            )
        return known[name]

    def ground_state(self, atoms: Any = None) -> GroundState:
        """Return the bands together with the density that they were computed for."""
        return self._bands.state

    def _converged_bands(self) -> ConvergedBands:
        """Return the bands, which are all converged."""
        return self._bands

    def get_bz_k_points(self) -> np.ndarray:
        """Return all k-points (nk, 3), scaled."""
        return self.path.kpts

    def get_bz_to_ibz_map(self) -> np.ndarray:
        """Return the indices (nk,) of the k-points: each stands for itself."""
        return np.arange(len(self.path.kpts))

    def band_structure(self) -> BandStructure:
        """Return the energies along the path, eV, with the Fermi level as reference."""
        return BandStructure(self.path, self.get_property("eigenvalues"), reference=self.get_fermi_level())
