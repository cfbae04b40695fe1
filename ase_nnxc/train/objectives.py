"""Objectives: what a functional is asked to get right, as losses on predictions for the structures of a record.

Free energies are stationary in the density, so losses on these have their exact gradient by the functional's parameters
without the response of the density. That holds for lattice constants and bulk moduli, too, which come from free
energies by a linear fit (`ase_nnxc.fit`). Forces, stress, densities and band gaps take the response; in epochs at fixed
densities (`Settings.fixed_density_epochs`) they are left out, as nothing is known of them there.

An objective makes errors of a `Prediction` and its record; its loss is `weight` times the mean square ("l2"), the mean
absolute value ("l1"), or any callable of these errors. In place of an objective the trainer also takes any callable of
(prediction, record) that returns a loss, a tensor ().

Absolute energies are compared between equal pseudopotentials. Those of another code are first shifted to ours by a
constant for each element (`ase_nnxc.train.records.align_energies`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from ase.calculators.calculator import InputError
from torch import Tensor

from ..calculator import NNXCCalculator
from ..eos.birch_murnaghan import BirchMurnaghan, fit_birch_murnaghan
from .prediction import Prediction
from .records import Record, calculators_for, other_table

NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda errors: errors.square().mean(),
    "l1": lambda errors: errors.abs().mean(),
}


@dataclass(frozen=True)
class Objective:
    """A loss on the predictions for a record.

    Parameters
    ----------
    weight : float
        Factor of the loss.
    norm : {"l2", "l1"} or callable
        What makes a loss () of errors.

    Attributes
    ----------
    absolute : bool
        Whether what is compared depends on the pseudopotentials, so that these must be equal.
    response : bool
        Whether more than free energies is read.
    unit : str
        Of the errors.
    """

    weight: float = 1.0
    norm: str | Callable[[Tensor], Tensor] = "l2"

    absolute: ClassVar[bool] = False
    response: ClassVar[bool] = False
    unit: ClassVar[str] = "eV"

    def __post_init__(self) -> None:
        if not callable(self.norm) and self.norm not in NORMS:
            raise InputError(f"norm={self.norm!r}: {', '.join(map(repr, NORMS))} or a callable is expected")

    def applies(self, record: Record) -> bool:
        """Whether the record has what is compared."""
        raise NotImplementedError

    def obstacle(self, record: Record, calculator: NNXCCalculator) -> str | None:
        """Why the record cannot be compared with what the calculator predicts; None if it can."""
        symbol = other_table(record, calculator) if self.absolute else None
        if symbol is None:
            return None
        return (
            f"absolute energies and densities of record {record.name!r} ({record.provenance.code}) cannot be compared: "
            f"its pseudopotential of {symbol} is another one, or not told. Use differences of energies, or "
            "align_energies (nnxc dataset --align)"
        )

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Of the prediction, in `unit`; any shape."""
        raise NotImplementedError

    def __call__(self, prediction: Prediction, record: Record) -> Tensor:
        """The loss ()."""
        norm = self.norm if callable(self.norm) else NORMS[self.norm]
        return self.weight * norm(self.errors(prediction, record))


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

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """(E - E_ref) / |E_ref|^(1/2), (n,)."""
        reference = _like(record.targets["energy"], prediction.energies)
        return (prediction.energies - reference) / reference.abs().sqrt()


class EnergyPerAtom(Objective):
    """Total energies per atom."""

    absolute = True
    unit = "eV/atom"

    def applies(self, record: Record) -> bool:
        """With energies."""
        return "energy" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """(E - E_ref) / N, (n,)."""
        return _per_atom(prediction.energies, record)


class EnergyDifferences(Objective):
    """Energies per atom of structures of the same atoms relative to their mean, such as those of an equation of state.

    A constant in all energies of the record drops out, so these may be another program's.
    """

    unit = "eV/atom"

    def applies(self, record: Record) -> bool:
        """With energies of several structures of the same atoms."""
        return "energy" in record.targets and _one_composition(record)

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """((E - <E>) - (E_ref - <E_ref>)) / N, (n,)."""
        errors = _per_atom(prediction.energies, record)
        return errors - errors.mean()


class ReactionEnergy(Objective):
    """Energy of a reaction, the sum over structures of coefficient times energy."""

    def applies(self, record: Record) -> bool:
        """With a reaction energy."""
        return "reaction_energy" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Predicted minus target (), eV."""
        energies = prediction.energies
        return _like(record.coefficients, energies) @ energies - _like(record.targets["reaction_energy"], energies)


class _OfEquationOfState(Objective):
    """Relative error of a power of what `fit_birch_murnaghan` finds, by the record or a fit of its energies."""

    unit = "relative"
    quantity: ClassVar[str]  # of targets and fits
    power: ClassVar[float] = 1.0

    def applies(self, record: Record) -> bool:
        """With four volumes or more, and the quantity or energies."""
        return _is_scan(record) and bool({self.quantity, "energy"} & record.targets.keys())

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """(X / X_ref)^power - 1, ()."""
        energies = prediction.energies
        if self.quantity in record.targets:
            reference = _like(record.targets[self.quantity], energies)
        else:
            reference = getattr(_fit(_like(record.targets["energy"], energies), record), self.quantity)
        return (getattr(_fit(energies, record), self.quantity) / reference) ** self.power - 1


class LatticeConstant(_OfEquationOfState):
    """Relative error of the equilibrium lattice constant of an equation of state, a / a_ref = (V0 / V0_ref)^(1/3).

    V0_ref is the record's volume, or, without one, that of a fit of its energies.
    """

    quantity = "volume"
    power = 1 / 3


class BulkModulus(_OfEquationOfState):
    """Relative error of the bulk modulus of an equation of state.

    The reference is the record's bulk modulus, or, without one, that of a fit of its energies.
    """

    quantity = "bulk_modulus"


class Forces(Objective):
    """Components of the forces."""

    response = True
    unit = "eV/Angstrom"

    def applies(self, record: Record) -> bool:
        """With forces."""
        return "forces" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """F - F_ref of all structures, (3 natoms,)."""
        pairs = zip(prediction.forces, record.targets["forces"], strict=True)
        return torch.cat([(forces - _like(reference, forces)).flatten() for forces, reference in pairs])


class Stress(Objective):
    """Components of the stress, in Voigt's order."""

    response = True
    unit = "eV/Angstrom^3"

    def applies(self, record: Record) -> bool:
        """With stresses."""
        return "stress" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """sigma - sigma_ref, (n, 6)."""
        return prediction.stress - _like(record.targets["stress"], prediction.stress)


class Density(Objective):
    """Density of the valence electrons, on the points of equal FFT boxes.

    With the norm "l1" the loss is the integral of |n - n_ref| divided by the number of electrons, or, of several
    structures with equal boxes, the mean of it.
    """

    absolute = True
    response = True
    unit = "relative"

    def applies(self, record: Record) -> bool:
        """With densities."""
        return "density" in record.targets

    def obstacle(self, record: Record, calculator: NNXCCalculator) -> str | None:
        """Also a box that the calculator does not take."""
        calculators = calculators_for(record.structures, calculator, record.settings)
        for atoms, calc, density in zip(record.structures, calculators, record.targets["density"]):
            box = tuple(calc.resolve(atoms)["gpts"])
            if box != density.shape:
                return f"the density of record {record.name!r} is on a box of {density.shape}, not of {box}: set gpts"
        return super().obstacle(record, calculator)

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """(n - n_ref) / <n_ref> on the points of all structures, (npoints,); <n_ref> the electrons per volume."""
        pairs = zip(prediction.densities, record.targets["density"], strict=True)
        return torch.cat([((n - _like(n_ref, n)) / float(n_ref.mean())).flatten() for n, n_ref in pairs])


class BandGap(Objective):
    """Kohn-Sham gaps between the highest occupied and the lowest empty level."""

    response = True

    def applies(self, record: Record) -> bool:
        """With band gaps."""
        return "band_gap" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """E_gap - E_gap,ref, (n,)."""
        return prediction.band_gaps - _like(record.targets["band_gap"], prediction.band_gaps)


OBJECTIVES: dict[str, type[Objective]] = {
    "total_energy": TotalEnergy,
    "energy_per_atom": EnergyPerAtom,
    "energy_differences": EnergyDifferences,
    "reaction_energy": ReactionEnergy,
    "lattice_constant": LatticeConstant,
    "bulk_modulus": BulkModulus,
    "forces": Forces,
    "stress": Stress,
    "density": Density,
    "band_gap": BandGap,
}
"""By the names that configurations and metrics use."""


def _like(values: object, energies: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=energies.dtype, device=energies.device)


def _per_atom(energies: Tensor, record: Record) -> Tensor:
    """(E - E_ref) / N, (n,)."""
    return (energies - _like(record.targets["energy"], energies)) / _like(record.natoms, energies)


def _one_composition(record: Record) -> bool:
    first = sorted(record.structures[0].numbers)
    return len(record.structures) > 1 and all(sorted(atoms.numbers) == first for atoms in record.structures)


def _is_scan(record: Record) -> bool:
    return _one_composition(record) and len(set(record.volumes)) >= 4


def _fit(energies: Tensor, record: Record) -> BirchMurnaghan:
    return fit_birch_murnaghan(_like(record.volumes, energies), energies)
