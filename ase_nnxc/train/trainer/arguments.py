"""Arguments of a run: their checks, and the identity by which a run is resumed."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import InputError

from ...calculator import NNXCCalculator, torch_device
from ...pseudopotentials import GENERATED
from ...xc import Functional, describe
from ..identity import check_comparable, describe_optimizer, describe_scheduler, plain, scheduler_functions
from ..optimizers import check_optimizer
from ..records import Record, digest, fixed_pseudos
from .losses import Objectives, Penalty
from .settings import TrainerSettings

CHANGEABLE_SETTINGS = ("epochs", "patience", "memory", "tolerated_failures")
"""Settings that a resumed run may change."""

CHANGEABLE_PARAMETERS = ("xc", "txt", "device", "share_kpoints")
"""Parameters of the calculator that a resumed run may change; the functional is compared separately."""


@dataclass(frozen=True, eq=False)
class Arguments:
    """Arguments of a `Trainer`, with defaults filled in."""

    calculator: NNXCCalculator
    functional: Functional
    training: Sequence[Record]
    validation: Sequence[Record]
    objectives: Objectives
    penalties: Sequence[Penalty]
    optimizer: torch.optim.Optimizer
    scheduler: Any
    settings: TrainerSettings

    def check(self) -> None:
        """Raise an InputError if records, objectives and optimizer do not fit together."""
        for name in ("training", "validation", "objectives"):
            if not len(getattr(self, name)):
                raise InputError(f"{name} must not be empty")
        records: dict[str, Record] = {}
        for record in (*self.training, *self.validation):
            if records.setdefault(record.name, record) is not record:
                raise InputError(f"two records of training and validation have the same name, {record.name!r}")
        for record in records.values():
            self.objectives.check(record, self.calculator, self.settings.fixed_density_epochs > 0)
        self.objectives.check_read(tuple(records.values()))
        optimized = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not any(id(p) in optimized for p in self.functional.parameters() if p.requires_grad):
            raise InputError("the optimizer has no trainable parameter of the calculator's functional")
        check_optimizer(self.optimizer, self.scheduler)
        if self.calculator.parameters["share_kpoints"]:
            raise InputError("share_kpoints: the ranks of a training share its records; leave it out")
        pseudos = fixed_pseudos(self.calculator)
        if GENERATED in (pseudos.values() if isinstance(pseudos, dict) else [pseudos]):
            raise InputError(
                f"pseudos={GENERATED!r}: pseudopotentials of the functional would change with it in the training; "
                f"choose those of a functional by its name, such as {GENERATED}-PBE, which is the default"
            )

    def check_comparable(self) -> None:
        """Raise an InputError if a resumed run could not compare a function with that of the run before."""
        self.objectives.check_comparable()
        for penalty in self.penalties:
            check_comparable("penalty", penalty)
        for function in scheduler_functions(self.scheduler):
            check_comparable("function of the scheduler:", function)

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a run to be resumed, as plain data; called before the run starts."""
        parameters = {k: v for k, v in self.calculator.parameters.items() if k not in CHANGEABLE_PARAMETERS}
        return {
            "records": digest(self.training),
            "validation records": digest(self.validation),
            "functional": plain(describe(self.functional)),
            "objectives": self.objectives.config(),
            "penalties": [plain(penalty) for penalty in self.penalties],
            "optimizer": describe_optimizer(self.optimizer),
            "scheduler": describe_scheduler(self.scheduler),
            "settings": {k: v for k, v in asdict(self.settings).items() if k not in CHANGEABLE_SETTINGS},
            "calculator": json.loads(json.dumps(parameters)),
            "pseudopotentials": self._pseudopotential_digests(),
        }

    def _pseudopotential_digests(self) -> dict[str, str]:
        """Return the digest of the pseudopotential of each element; a record that lacks one fails when it is used."""
        records = [record for record in (*self.training, *self.validation) if not record.is_all_electron]
        symbols = {symbol for record in records for atoms in record.structures for symbol in atoms.symbols}
        parameters = self.calculator.parameters | {"pseudos": fixed_pseudos(self.calculator)}
        calculator = NNXCCalculator(**parameters)
        digests: dict[str, str] = {}
        for symbol in sorted(symbols):
            with suppress(InputError):
                digests |= calculator.pseudopotential_digests(Atoms(symbol))
        return digests


def trainable_functional(calculator: NNXCCalculator) -> Functional:
    """Return the functional object of a calculator.

    Raises
    ------
    InputError
        If it is not an object, has no parameters that require a gradient, or is on another device than the calculator.
    """
    functional = calculator.parameters["xc"]
    if not isinstance(functional, Functional):
        raise InputError(f"xc={functional!r}: the calculator must have a Functional object, which is trained in place")
    parameters = [p for p in functional.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"{type(functional).__name__} has no parameters that require a gradient")
    device = torch_device(calculator.parameters["device"])
    if any(p.device != device for p in parameters):
        raise InputError(f"the functional is on {parameters[0].device}, but the calculator uses {device}")
    return functional
