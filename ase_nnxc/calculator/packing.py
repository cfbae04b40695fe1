"""A ground state as tensors and plain data, for files and other processes, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from ase.calculators.calculator import InputError
from torch import Tensor

from ..ks.ground_state import GroundState
from ..ks.total_energy import TotalEnergy
from ..ranks import Ranks
from ..xc.functional import Functional
from .plan import Plan

_PACKED = ("orbitals", "eigenvalues", "occupations", "fermi_levels", "fields", "residual", "terms", "secants")
"""What is packed of a ground state; the rest follows from the atoms, the parameters, and `_CONTEXT`."""
_CONTEXT = ("lattice", "general", "solved")


def pack(state: GroundState, fingerprint: tuple[bytes, ...] | None) -> dict[str, Any]:
    """Return a ground state as tensors and plain data.

    Parameters
    ----------
    state : GroundState
        What is packed.
    fingerprint : tuple of bytes or None
        Geometry and functional that it is the ground state of, if it is known.

    Returns
    -------
    dict
        The quantities of the state; `lattice`, the cell of the calculation; `general`, whether it was solved for
        without the symmetry of the crystal; `solved`, the fingerprint as hexadecimal text.
    """
    return {name: getattr(state, name) for name in _PACKED} | {
        "orbitals": state.system.kpoints.collect(state.orbitals),
        "lattice": state.crystal.lattice,
        "general": len(state.basis.symmetry) == 1,
        "solved": [part.hex() for part in fingerprint or ()],
    }


def check_packed(data: Mapping[str, Any]) -> None:
    """Raise InputError unless the data have the keys of `pack`."""
    if data.keys() != {*_PACKED, *_CONTEXT}:
        raise InputError(f"a packed ground state must have {', '.join((*_PACKED, *_CONTEXT))}; got {', '.join(data)}")


def unpack(
    data: Mapping[str, Any], plan: Plan, functional: Functional, device: torch.device, ranks: Ranks
) -> GroundState:
    """Return the ground state of `pack`, on a device.

    Parameters
    ----------
    data : mapping
        As `pack` returned it.
    plan : Plan
        That of its atoms and parameters.
    functional : Functional
        On the device.
    device : torch.device
        Where the state is put.
    ranks : Ranks
        Processes that share the k-points.

    Raises
    ------
    InputError
        If the orbitals or fields are of another size than the plan gives them.
    """
    if data["general"]:
        plan = plan.without_symmetry()
    system = plan.system(functional, device, ranks)
    quantities = {name: _to_device(data[name], device) for name in _PACKED}
    quantities["orbitals"] = system.kpoints.select(quantities["orbitals"])
    state = GroundState(system=system, smearing=plan.smearing, **quantities, history=[])
    if not _has_size_of_basis(state):
        raise InputError("the ground state is not one of these atoms with these parameters")
    return state


def packed_fingerprint(data: Mapping[str, Any]) -> tuple[bytes, ...] | None:
    """Return the fingerprint that `pack` was given."""
    return tuple(bytes.fromhex(part) for part in data["solved"]) or None


def _has_size_of_basis(state: GroundState) -> bool:
    """Whether orbitals and fields have the size that the basis and the functional give them."""
    waves = [psi.shape[-1] for psi in state.orbitals]
    fields = (TotalEnergy(state.system).nfields, len(state.basis.grid.index))
    same = state.fields.shape == state.residual.shape == fields
    return same and waves == [block.sphere.npw for block in state.system.kpoints.blocks]


def _to_device(value: Any, device: torch.device) -> Any:
    """Return tensors, also those in lists, on a device; anything else as it is."""
    if isinstance(value, list):
        return [_to_device(item, device) for item in value]
    return value.to(device) if isinstance(value, Tensor) else value
