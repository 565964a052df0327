"""Loggers: callbacks that record a run's numbers for another program, one file each, chosen by a setting."""

from netbuild.settings import Settings
from netbuild.training.loggers.base import Logger
from netbuild.training.loggers.mlflow import MlflowLogger
from netbuild.training.loggers.tensorboard import TensorBoardLogger
from netbuild.training.loggers.wandb import WandbLogger

# The setting that turns each logger on. A class imports its package when it is constructed, not before.
LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger, "mlflow": MlflowLogger}


def make_loggers(settings: Settings) -> list[Logger]:
    """Construct the loggers that the settings turn on.

    Raises:
        MissingExtraError: if a logger's package is not installed.
    """
    return [cls() for name, cls in LOGGERS.items() if getattr(settings, name)]
