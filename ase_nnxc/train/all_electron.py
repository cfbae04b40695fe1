"""Molecules with all electrons in a training: PySCF's density of each is kept between the steps."""

from collections.abc import Mapping
from typing import Any

from ase import Atoms

from ..calculator import PySCFCalculator
from ..calculator.molecule import solve
from ..interop.pyscf import FrozenDensity, device_of, freeze_density
from ..registry import resolve
from ..xc import Functional


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
