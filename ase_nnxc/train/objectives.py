"""Objectives: losses on the predictions for the structures of a record.

Free energies are stationary in the density, so the gradient of a loss on them by the parameters of the functional is
exact without the response of the density. This also holds for lattice constants and bulk moduli, which follow from free
energies by a linear fit (`ase_nnxc.eos.birch_murnaghan`). Forces, stress, densities and band gaps need the response.
They are left out in epochs at fixed densities (`TrainerSettings.fixed_density_epochs`), where they are not known.

An objective computes the errors of a `Prediction` for a record. Its loss is `weight` times the mean square ("l2"), the
mean absolute value ("l1"), or any callable of these errors. The trainer also accepts any callable of (prediction,
record) that returns a loss, a tensor (). If a run has a folder, such a callable must be a function at the top level of
a module or have a `config()`, as `Objective` has, so that a resumed run can be compared with the one before.

Absolute energies are compared only between equal pseudopotentials. Energies of another code are first shifted to those
of the calculator by a constant for each element (`ase_nnxc.train.records.align_energies`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from ase.calculators.calculator import InputError
from torch import Tensor

from ..calculator import NNXCCalculator, PySCFCalculator, has_stress
from ..calculator.molecule import checked_molecule
from ..eos.birch_murnaghan import BirchMurnaghan, NoMinimumError, fit_birch_murnaghan
from .identity import plain, registered_name
from .prediction import Prediction
from .records import Record, calculators_for, other_table
from .schema import weight as check_weight
from .targets import ELECTRONS_ON_POINTS

ELECTRONS_OF_MATRIX = 1e-3
"""Largest error of the number of electrons of a density matrix, relative."""

NO_DIFFERENCE = 1e-24
"""Smaller integrals of a squared difference of densities, electrons^2/Angstrom^3, are rounding errors."""

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
        Factor of the loss, finite and not negative.
    norm : {"l2", "l1"} or callable
        Function that takes the errors to a loss ().

    Attributes
    ----------
    absolute : bool
        Whether the compared quantity depends on the pseudopotentials, so that these must be equal.
    response : bool
        Whether quantities other than free energies are read.
    unit : str
        Unit of the errors.
    """

    weight: float = 1.0
    norm: str | Callable[[Tensor], Tensor] = "l2"

    absolute: ClassVar[bool] = False
    response: ClassVar[bool] = False
    unit: ClassVar[str] = "eV"

    def __post_init__(self) -> None:
        check_weight(self.weight, "weight")
        if not callable(self.norm) and self.norm not in NORMS:
            raise InputError(f"norm={self.norm!r}: expected {', '.join(map(repr, NORMS))} or a callable")

    def config(self) -> dict[str, Any]:
        """Return the name and all settings as plain data; a run is resumed only if these are the same."""
        return {"name": registered_name(self, OBJECTIVES)} | {name: plain(value) for name, value in vars(self).items()}

    def applies(self, record: Record) -> bool:
        """Whether the record has the target that is compared."""
        raise NotImplementedError

    def obstacle(self, record: Record, calculator: NNXCCalculator) -> str | None:
        """Return why the record cannot be compared with predictions of the calculator; None if it can."""
        symbol = other_table(record, calculator) if self.absolute else None
        if symbol is None:
            return None
        what = f"absolute energies and densities of record {record.name!r} ({record.provenance.code})"
        if record.is_all_electron:
            return (
                f"{what} cannot be compared with those of all electrons: they belong to a pseudopotential of {symbol}. "
                "Use differences of energies"
            )
        return (
            f"{what} cannot be compared: its pseudopotential of {symbol} is different or unknown. Use differences of "
            "energies, or align_energies (nnxc dataset --align)"
        )

    def check_reference(self, record: Record) -> None:
        """Raise an InputError if the record, which has the target, gives no reference for the comparison."""

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return the errors of the prediction in `unit`; any shape."""
        raise NotImplementedError

    def __call__(self, prediction: Prediction, record: Record) -> Tensor:
        """Return the loss ()."""
        norm = self.norm if callable(self.norm) else NORMS[self.norm]
        return self.weight * norm(self.errors(prediction, record))


class TotalEnergy(Objective):
    """Total energies in the relative form of arXiv:2602.15923, eq. 3: mean of (E - E_ref)^2 / |E_ref|, eV.

    The printed equation has E_ref without the absolute value in the denominator. Energies of bound systems are
    negative, so that loss would decrease without limit as the errors grow. The weight of a structure depends on the
    pseudopotential through E_ref.
    """

    absolute = True
    unit = "eV^(1/2)"

    def applies(self, record: Record) -> bool:
        """Whether the record has energies."""
        return "energy" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return (E - E_ref) / |E_ref|^(1/2), (n,)."""
        reference = _like(record.targets["energy"], prediction.energies)
        return (prediction.energies - reference) / reference.abs().sqrt()


class EnergyPerAtom(Objective):
    """Total energies per atom."""

    absolute = True
    unit = "eV/atom"

    def applies(self, record: Record) -> bool:
        """Whether the record has energies."""
        return "energy" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return (E - E_ref) / N, (n,)."""
        return _per_atom(prediction.energies, record)


class EnergyDifferences(Objective):
    """Energies per atom of structures of the same atoms relative to their mean, such as those of an equation of state.

    A constant in all energies of the record cancels, so the energies may come from another program.
    """

    unit = "eV/atom"

    def applies(self, record: Record) -> bool:
        """Whether the record has energies of several structures of the same atoms."""
        return "energy" in record.targets and _one_composition(record)

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return ((E - <E>) - (E_ref - <E_ref>)) / N, (n,)."""
        errors = _per_atom(prediction.energies, record)
        return errors - errors.mean()


class ReactionEnergy(Objective):
    """Energy of a reaction, the sum over structures of coefficient times energy."""

    def applies(self, record: Record) -> bool:
        """Whether the record has a reaction energy."""
        return "reaction_energy" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return the predicted energy minus the target (), eV."""
        energies = prediction.energies
        return _like(record.coefficients, energies) @ energies - _like(record.targets["reaction_energy"], energies)


class _EquationOfState(Objective):
    """Relative error of a power of a quantity of `BirchMurnaghan`, of second order if there are three volumes only.

    The reference is the target of the record, or that of a fit of the record's energies.
    """

    unit = "relative"
    quantity: ClassVar[str]  # name of the target and of the attribute of the fit
    power: ClassVar[float] = 1.0

    def applies(self, record: Record) -> bool:
        """Whether the record has three volumes or more, and the quantity or energies."""
        return _is_scan(record) and bool({self.quantity, "energy"} & record.targets.keys())

    def check_reference(self, record: Record) -> None:
        """Raise an InputError if the energies of the record have no minimum, and it has no other reference."""
        try:
            self._reference(record, torch.empty(0, dtype=torch.float64, device="cpu"))
        except NoMinimumError as error:
            raise InputError(
                f"record {record.name!r}: {error}, so that they give no {self.quantity}; leave the record out, or add "
                "volumes"
            ) from error

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return (X / X_ref)^power - 1, ()."""
        energies = prediction.energies
        predicted = getattr(_fit(energies, record), self.quantity)
        return (predicted / self._reference(record, energies)) ** self.power - 1

    def _reference(self, record: Record, like: Tensor) -> Tensor:
        """Return X_ref () with the dtype and the device of a tensor."""
        if self.quantity in record.targets:
            return _like(record.targets[self.quantity], like)
        fit = _fit(_like(record.targets["energy"], like), record)
        return _like(getattr(fit, self.quantity), like)


class LatticeConstant(_EquationOfState):
    """Relative error of the equilibrium lattice constant of an equation of state, a / a_ref = (V0 / V0_ref)^(1/3).

    V0_ref is the target volume of the record or, without one, that of a fit of its energies.
    """

    quantity = "volume"
    power = 1 / 3


class BulkModulus(_EquationOfState):
    """Relative error of the bulk modulus of an equation of state.

    The reference is the target bulk modulus of the record or, without one, that of a fit of its energies.
    """

    quantity = "bulk_modulus"


class Forces(Objective):
    """Components of the forces."""

    response = True
    unit = "eV/Angstrom"

    def applies(self, record: Record) -> bool:
        """Whether the record has forces."""
        return "forces" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return F - F_ref of all structures, (3 natoms,)."""
        pairs = zip(prediction.forces, record.targets["forces"], strict=True)
        return torch.cat([(forces - _like(reference, forces)).flatten() for forces, reference in pairs])


class Stress(Objective):
    """Components of the stress, in Voigt order."""

    response = True
    unit = "eV/Angstrom^3"

    def applies(self, record: Record) -> bool:
        """Whether the record has stresses."""
        return "stress" in record.targets

    def obstacle(self, record: Record, calculator: NNXCCalculator) -> str | None:
        """Return why not; structures without a stress, such as molecules, are an obstacle."""
        if not all(has_stress(atoms) for atoms in record.structures):
            return f"record {record.name!r} has a target stress, but a structure without periodic cell has no stress"
        return super().obstacle(record, calculator)

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return sigma - sigma_ref, (n, 6)."""
        return prediction.stress - _like(record.targets["stress"], prediction.stress)


class Density(Objective):
    """Density of the valence electrons, on the points of equal FFT boxes.

    With the norm "l1" the loss is the integral of |n - n_ref| divided by the number of electrons or, for several
    structures with equal boxes, its mean.
    """

    absolute = True
    response = True
    unit = "relative"

    def applies(self, record: Record) -> bool:
        """Whether the record has densities."""
        return "density" in record.targets

    def obstacle(self, record: Record, calculator: NNXCCalculator) -> str | None:
        """Return why not; an FFT box other than that of the calculator is an obstacle, too."""
        calculators = calculators_for(record.structures, calculator, record.settings)
        for atoms, calc, density in zip(record.structures, calculators, record.targets["density"]):
            box = tuple(calc.resolve(atoms)["gpts"])
            if box != density.shape:
                return (
                    f"the density of record {record.name!r} is on an FFT box of {density.shape}, expected {box}: set "
                    "gpts of the calculator"
                )
        return super().obstacle(record, calculator)

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return (n - n_ref) / <n_ref> on the points of all structures, (npoints,); <n_ref> is the mean of n_ref."""
        pairs = zip(prediction.densities, record.targets["density"], strict=True)
        return torch.cat([((n - _like(n_ref, n)) / float(n_ref.mean())).flatten() for n, n_ref in pairs])


class DensityOnPoints(Objective):
    """Density of all electrons on points with integration weights.

    With the norm "l2" the loss is the integral of (n - n_ref)^2, electrons^2/Angstrom^3, or its mean over several
    structures. If the target has the density of each spin, it is the sum of the integrals for both.
    """

    absolute = True
    response = True
    unit = "electrons/Angstrom^(3/2)"

    def applies(self, record: Record) -> bool:
        """Whether the record has densities on points."""
        return "density_on_points" in record.targets

    def obstacle(self, record: Record, calculator: NNXCCalculator) -> str | None:
        """Return why not; a density of another number of electrons is an obstacle, too."""
        for mol, table in _molecules_with(record, "density_on_points"):
            electrons = np.squeeze(table[:, 3] @ table[:, 4:])
            if (wrong := _wrong_electrons(electrons, mol, ELECTRONS_ON_POINTS)) is not None:
                return (
                    f"the density on points of record {record.name!r} has {wrong}: it is of another molecule or "
                    "charge, or points, weights and density have another unit of length"
                )
        return super().obstacle(record, calculator)

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return the root of the integral of (n - n_ref)^2 for each structure, (n,)."""
        integrals = []
        for molecule, table in zip(prediction.molecules, record.targets["density_on_points"], strict=True):
            density = molecule.densities_at(table[:, :3])
            weights, reference = _like(table[:, 3], density), _like(table[:, 4:].T, density)
            difference = (density if len(reference) == 2 else density.sum(0)) - reference
            integrals.append((difference.square() * weights).sum())
            if integrals[-1] < 0:
                raise InputError(f"record {record.name!r}: its weights of points are negative, so is the squared error")
        return torch.stack(integrals).clamp(min=NO_DIFFERENCE).sqrt()  # the root has no derivative at zero


class DensityMatrix(Objective):
    """Elements of the density matrices of all electrons; of each spin if the target has them."""

    absolute = True
    response = True
    unit = "1"

    def applies(self, record: Record) -> bool:
        """Whether the record has density matrices."""
        return "density_matrix" in record.targets

    def obstacle(self, record: Record, calculator: NNXCCalculator) -> str | None:
        """Return why not; a matrix of another basis set, or of another order of its functions, is an obstacle, too."""
        for mol, matrix in _molecules_with(record, "density_matrix"):
            if matrix.shape[-1] != mol.nao:
                return (
                    f"the density matrix of record {record.name!r} is of {matrix.shape[-1]} basis functions, but "
                    f"{mol.basis} has {mol.nao} for {''.join(mol.elements)}"
                )
            electrons = (matrix * mol.intor_symmetric("int1e_ovlp")).sum((-2, -1))
            if (wrong := _wrong_electrons(electrons, mol, ELECTRONS_OF_MATRIX)) is not None:
                return (
                    f"the density matrix of record {record.name!r} has {wrong} in PySCF's {mol.basis}: it is "
                    "of another molecule or basis set, or the basis functions have another order or normalisation"
                )
        return super().obstacle(record, calculator)

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return D - D_ref of all structures, flattened, (m,)."""
        parts = []
        for molecule, matrix in zip(prediction.molecules, record.targets["density_matrix"], strict=True):
            matrices = molecule.density_matrices
            reference = _like(matrix, matrices)
            parts.append(((matrices if reference.ndim == 3 else matrices.sum(0)) - reference).flatten())
        return torch.cat(parts)


def _molecules_with(record: Record, target: str) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield PySCF's molecule of each structure of a record of all electrons, and the array of a target for it."""
    for atoms, settings, value in zip(record.structures, record.settings or (), record.targets[target]):
        yield checked_molecule(atoms, PySCFCalculator(**settings).parameters), value


def _wrong_electrons(electrons: np.ndarray, mol: Any, tolerance: float) -> str | None:
    """Return a text on numbers of electrons, () or (2,) of each spin, that are not those of PySCF's molecule."""
    expected = np.array(mol.nelec if electrons.ndim else mol.nelectron)
    if (np.abs(electrons - expected) <= tolerance * mol.nelectron).all():
        return None
    found, right = (" and ".join(f"{x:.3f}" for x in np.atleast_1d(numbers)) for numbers in (electrons, expected))
    return f"{found} electrons{' of the two spins' if electrons.ndim else ''}, expected {right}"


class BandGap(Objective):
    """Kohn-Sham gaps between the highest occupied and the lowest empty level."""

    response = True

    def applies(self, record: Record) -> bool:
        """Whether the record has band gaps."""
        return "band_gap" in record.targets

    def errors(self, prediction: Prediction, record: Record) -> Tensor:
        """Return E_gap - E_gap,ref, (n,)."""
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
    "density_on_points": DensityOnPoints,
    "density_matrix": DensityMatrix,
    "band_gap": BandGap,
}
"""Objectives by their names in configurations and metrics."""


def _like(values: object, tensor: Tensor) -> Tensor:
    """Return values as a tensor with the dtype and the device of another one."""
    return torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device)


def _per_atom(energies: Tensor, record: Record) -> Tensor:
    """Return (E - E_ref) / N, (n,)."""
    return (energies - _like(record.targets["energy"], energies)) / _like(record.natoms, energies)


def _one_composition(record: Record) -> bool:
    first = sorted(record.structures[0].numbers)
    return len(record.structures) > 1 and all(sorted(atoms.numbers) == first for atoms in record.structures)


def _is_scan(record: Record) -> bool:
    return _one_composition(record) and len(set(record.volumes)) >= 3


def _fit(energies: Tensor, record: Record) -> BirchMurnaghan:
    """Return the equation of state, of second order if there are three volumes only."""
    order = min(3, len(set(record.volumes)) - 1)
    return fit_birch_murnaghan(_like(record.volumes, energies), energies, order)
