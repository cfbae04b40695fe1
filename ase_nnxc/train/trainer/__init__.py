"""Training of a functional on records, and its errors on records."""

from ..._moved import renamed
from .evaluation import evaluate
from .losses import Loss, ObjectiveError, Penalty, TrainingError
from .metrics import plot_learning_curve
from .settings import TrainerSettings
from .trainer import Trainer

__all__ = [
    "Loss",
    "ObjectiveError",
    "Penalty",
    "Trainer",
    "TrainerSettings",
    "TrainingError",
    "evaluate",
    "plot_learning_curve",
]

__getattr__ = renamed(__name__, {"Settings": "ase_nnxc.train.trainer:TrainerSettings"})
