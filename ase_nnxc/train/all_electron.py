"""Molecules with all electrons in a training: PySCF's density of each is kept between the steps."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ..calculator import PySCFCalculator
from ..calculator.molecule import restore, solve
from ..interop.pyscf import FrozenDensity, device_of, freeze_density
from ..interop.pyscf_response import density_matrices
from ..registry import resolve
from ..units import BOHR, HARTREE
from ..xc import Functional


class DifferentiableMolecule:
    """The density of a solved molecule as tensors, with gradients by the parameters of the functional.

    Parameters
    ----------
    atoms : Atoms
        The molecule.
    state : FrozenDensity
        Its self-consistent density, of the present parameters of the functional.
    parameters : mapping
        Parameters of its `PySCFCalculator`.

    Attributes
    ----------
    free_energy : Tensor
        () total energy, eV.
    """

    def __init__(self, atoms: Atoms, state: FrozenDensity, parameters: Mapping[str, Any]) -> None:
        self._atoms, self._state, self._parameters = atoms, state, parameters
        self.free_energy: Tensor = state.energy_tensor() * HARTREE

    @cached_property
    def density_matrices(self) -> Tensor:
        """Density matrices (2, nao, nao) of each spin, in PySCF's order of basis functions."""
        return density_matrices(self._mean_field)

    def densities_at(self, points: np.ndarray) -> Tensor:
        """Return the density (2, n) of each spin, electrons/Angstrom^3, on points (n, 3), Angstrom."""
        matrices = self.density_matrices
        orbitals = self._mean_field._numint.eval_ao(self._mean_field.mol, points / BOHR)
        values = torch.as_tensor(orbitals, dtype=matrices.dtype, device=matrices.device)
        return (values @ matrices * values).sum(-1) / BOHR**3

    @cached_property
    def _mean_field(self) -> Any:
        """PySCF's object, made anew from the density so that a resumed run has the same one."""
        return restore(self._atoms, self._state.functional, self._parameters, self._state.matrices.numpy())


class WarmMolecule:
    """A molecule whose SCF starts from the density before, and is not repeated for the same functional.

    Parameters
    ----------
    functional : Functional
        The functional that is trained.
    settings : mapping
        Keywords of `PySCFCalculator` except xc.

    Attributes
    ----------
    held_state : FrozenDensity or None
        The last self-consistent density.
    """

    def __init__(self, functional: Functional, settings: Mapping[str, Any]) -> None:
        self._xc = resolve(functional)
        self._parameters = PySCFCalculator(functional, **settings).parameters
        self.reset()

    def reset(self) -> None:
        """Forget the density."""
        self.held_state: FrozenDensity | None = None
        self._fingerprint = ""

    def solve(self, atoms: Atoms) -> FrozenDensity:
        """Return the self-consistent density of the present functional.

        Raises
        ------
        InputError, SCFError
            If the atoms cannot be calculated, or the SCF does not converge.
        """
        fingerprint = self._xc.fingerprint()
        if self.held_state is None or self._fingerprint != fingerprint:
            start = None if self.held_state is None else self.held_state.matrices.numpy()
            self.held_state = freeze_density(solve(atoms, self._xc.functional, self._parameters, start))
            self._fingerprint = fingerprint
        return self.held_state

    def differentiable(self, atoms: Atoms) -> DifferentiableMolecule:
        """Return the self-consistent density of the present functional as tensors; errors are those of `solve`."""
        return DifferentiableMolecule(atoms, self.solve(atoms), self._parameters)

    def pack_state(self) -> dict[str, Any]:
        """Return the density and the fingerprint of its functional as tensors and plain data."""
        assert self.held_state is not None
        data = {key: value for key, value in vars(self.held_state).items() if key != "functional"}
        return data | {"fingerprint": self._fingerprint}

    def unpack_state(self, atoms: Atoms, data: Mapping[str, Any]) -> None:
        """Hold the density that `pack_state` returned for the same atoms, on the device of the functional."""
        functional, device = self._xc.functional, device_of(self._xc.functional)
        channels, weights = data["channels"].to(device), data["weights"].to(device)
        self.held_state = FrozenDensity(functional, data["matrices"], channels, weights, data["other_energy"])
        self._fingerprint = data["fingerprint"]
