"""Objectives: what a functional is asked to get right, as losses on the free energies of a record.

Free energies are stationary in the density, so each loss here has its exact gradient by the functional's parameters
from the free energies' own, without the response of the density. That holds for lattice constants and bulk moduli, too,
which come from free energies by a linear fit (`ase_nnxc.fit`).

An objective makes errors of predicted energies (n,) of the n structures of a record, in eV; its loss is `weight` times
the mean square ("l2"), the mean absolute value ("l1"), or any callable of these errors. In place of an objective the
trainer also takes any callable of (energies, record) that returns a loss, a tensor ().
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from ase.calculators.calculator import InputError
from torch import Tensor

from ..fit import BirchMurnaghan, fit_birch_murnaghan
from ..xc import Functional
from .clone import uniform_exchange
from .records import Record
from .samples import sample_mesh

NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda errors: errors.square().mean(),
    "l1": lambda errors: errors.abs().mean(),
}


@dataclass(frozen=True)
class Objective:
    """A loss on the free energies of a record.

    Parameters
    ----------
    weight : float
        Factor of the loss.
    norm : {"l2", "l1"} or callable
        What makes a loss () of errors.

    Attributes
    ----------
    absolute : bool
        Whether absolute energies are compared, which asks for equal pseudopotentials.
    unit : str
        Of the errors.
    """

    weight: float = 1.0
    norm: str | Callable[[Tensor], Tensor] = "l2"

    absolute: ClassVar[bool] = False
    unit: ClassVar[str] = "eV"

    def __post_init__(self) -> None:
        if not callable(self.norm) and self.norm not in NORMS:
            raise InputError(f"norm={self.norm!r}: {', '.join(map(repr, NORMS))} or a callable is expected")

    def applies(self, record: Record) -> bool:
        """Whether the record has what is compared."""
        raise NotImplementedError

    def errors(self, energies: Tensor, record: Record) -> Tensor:
        """Of the energies (n,), eV, of the structures; any shape."""
        raise NotImplementedError

    def __call__(self, energies: Tensor, record: Record) -> Tensor:
        """The loss ()."""
        norm = self.norm if callable(self.norm) else NORMS[self.norm]
        return self.weight * norm(self.errors(energies, record))


class TotalEnergy(Objective):
    """Total energies in the relative form of arXiv:2602.15923, eq. 3: mean of (E - E_ref)^2 / |E_ref|, eV.

    As printed there, the denominator is E_ref without the absolute value. Energies of bound systems are negative, so
    that loss falls without limit as errors grow. The weight of a structure depends on the pseudopotential through
    E_ref.
    """

    absolute = True
    unit = "eV^(1/2)"

    def applies(self, record: Record) -> bool:
        """With energies."""
        return "energy" in record.targets

    def errors(self, energies: Tensor, record: Record) -> Tensor:
        """(E - E_ref) / |E_ref|^(1/2), (n,)."""
        reference = _like(record.targets["energy"], energies)
        return (energies - reference) / reference.abs().sqrt()


class EnergyPerAtom(Objective):
    """Total energies per atom."""

    absolute = True
    unit = "eV/atom"

    def applies(self, record: Record) -> bool:
        """With energies."""
        return "energy" in record.targets

    def errors(self, energies: Tensor, record: Record) -> Tensor:
        """(E - E_ref) / N, (n,)."""
        return (energies - _like(record.targets["energy"], energies)) / _like(record.natoms, energies)


class EnergyDifferences(Objective):
    """Energies per atom of structures of the same atoms relative to their mean, such as those of an equation of state.

    A constant in all energies of the record drops out, so these may be another program's.
    """

    unit = "eV/atom"

    def applies(self, record: Record) -> bool:
        """With energies of several structures of the same atoms."""
        return "energy" in record.targets and _one_composition(record)

    def errors(self, energies: Tensor, record: Record) -> Tensor:
        """((E - <E>) - (E_ref - <E_ref>)) / N, (n,)."""
        errors = (energies - _like(record.targets["energy"], energies)) / _like(record.natoms, energies)
        return errors - errors.mean()


class ReactionEnergy(Objective):
    """Energy of a reaction, the sum over structures of coefficient times energy."""

    def applies(self, record: Record) -> bool:
        """With a reaction energy."""
        return "reaction_energy" in record.targets

    def errors(self, energies: Tensor, record: Record) -> Tensor:
        """Predicted minus target (), eV."""
        return _like(record.coefficients, energies) @ energies - _like(record.targets["reaction_energy"], energies)


class LatticeConstant(Objective):
    """Relative error of the equilibrium lattice constant of an equation of state, a / a_ref = (V0 / V0_ref)^(1/3).

    V0_ref is the record's volume, or, without one, that of a fit of its energies.
    """

    unit = "1"

    def applies(self, record: Record) -> bool:
        """With four volumes or more, and a volume or energies."""
        return _is_scan(record) and bool({"volume", "energy"} & record.targets.keys())

    def errors(self, energies: Tensor, record: Record) -> Tensor:
        """a / a_ref - 1, ()."""
        if "volume" in record.targets:
            reference = _like(record.targets["volume"], energies)
        else:
            reference = _fit(_like(record.targets["energy"], energies), record).volume
        return (_fit(energies, record).volume / reference) ** (1 / 3) - 1


class BulkModulus(Objective):
    """Relative error of the bulk modulus of an equation of state.

    The reference is the record's bulk modulus, or, without one, that of a fit of its energies.
    """

    unit = "1"

    def applies(self, record: Record) -> bool:
        """With four volumes or more, and a bulk modulus or energies."""
        return _is_scan(record) and bool({"bulk_modulus", "energy"} & record.targets.keys())

    def errors(self, energies: Tensor, record: Record) -> Tensor:
        """B0 / B0_ref - 1, ()."""
        if "bulk_modulus" in record.targets:
            reference = _like(record.targets["bulk_modulus"], energies)
        else:
            reference = _fit(_like(record.targets["energy"], energies), record).bulk_modulus
        return _fit(energies, record).bulk_modulus / reference - 1


OBJECTIVES: dict[str, type[Objective]] = {
    "total_energy": TotalEnergy,
    "energy_per_atom": EnergyPerAtom,
    "energy_differences": EnergyDifferences,
    "reaction_energy": ReactionEnergy,
    "lattice_constant": LatticeConstant,
    "bulk_modulus": BulkModulus,
}
"""By the names that configurations and metrics use."""


def _like(values: object, energies: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=energies.dtype, device=energies.device)


def _one_composition(record: Record) -> bool:
    first = sorted(record.structures[0].numbers)
    return len(record.structures) > 1 and all(sorted(atoms.numbers) == first for atoms in record.structures)


def _is_scan(record: Record) -> bool:
    return _one_composition(record) and len(set(record.volumes)) >= 4


def _fit(energies: Tensor, record: Record) -> BirchMurnaghan:
    return fit_birch_murnaghan(_like(record.volumes, energies), energies)


# ---- penalties on the functional itself -----------------------------------------------------------------------------


class ParameterAnchor:
    """Penalty on trainable parameters that leave their values of now: weight times the mean of (theta - theta_0)^2.

    Parameters
    ----------
    functional : Functional
        Whose parameters.
    weight : float
        Factor of the penalty.
    """

    def __init__(self, functional: Functional, weight: float) -> None:
        self.weight = weight
        self.start = {n: p.detach().clone() for n, p in functional.named_parameters() if p.requires_grad}

    def __call__(self, functional: Functional) -> Tensor:
        """The penalty ()."""
        moved = [(p - self.start[n]).flatten() for n, p in functional.named_parameters() if n in self.start]
        return self.weight * torch.cat(moved).square().mean()


class FunctionalAnchor:
    """Penalty on a functional that leaves another, point by point: weight times the mean of (F - F_parent)^2.

    F = e / (n eps_x^LDA(n)) with the total density n, on points that cover density, polarisation, reduced gradient and
    iso-orbital indicator (`sample_mesh`).

    Parameters
    ----------
    parent : Functional
        Of the same kind; its parameters as they are now.
    weight : float
        Factor of the penalty.
    points : int
        Number of points.
    """

    def __init__(self, parent: Functional, weight: float, points: int = 1024) -> None:
        samples = sample_mesh(points)
        self.weight, self.features, self.uniform = weight, samples.features, uniform_exchange(samples.density)
        with torch.no_grad():
            self.parent = parent(self.features) / self.uniform

    def __call__(self, functional: Functional) -> Tensor:
        """The penalty ()."""
        return self.weight * (functional(self.features) / self.uniform - self.parent).square().mean()
