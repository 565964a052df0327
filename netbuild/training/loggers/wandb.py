"""The logger for Weights & Biases."""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from netbuild.system.packages import package
from netbuild.training.loggers.base import Logger, final_checkpoints
from netbuild.training.loop import Trainer


class WandbLogger(Logger):
    """Writes settings, losses and measures into ``wandb/`` in the run's folder, offline unless WANDB_MODE is set.

    The checkpoints are logged as references to their paths; no file is uploaded. A resumed run keeps its id.

    Raises:
        MissingExtraError: if wandb is not installed.
    """

    def __init__(self) -> None:
        self.is_offline = os.environ.get("WANDB_MODE", "offline") == "offline"
        if self.is_offline:
            # By default wandb reports its own errors over the network; nothing says that offline mode stops this.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self.wandb = package("wandb")
        package("wandb.sdk")  # fails where a folder named wandb, which runs leave behind, is taken for the package
        self.id = ""
        self.run: Any = None

    def open(self, run: Trainer) -> bool:
        """Begin a run of W&B, or go on with it under the same id."""
        is_new = not self.id
        # The id is drawn here and not by wandb, from a generator that training does not use.
        chosen = self.id or secrets.token_hex(4)
        self.run = self.wandb.init(
            id=chosen,
            name=run.folder.name,
            project=os.environ.get("WANDB_PROJECT", "netbuild"),
            dir=str(run.folder),
            config={"network": run.network.card.name, **run.settings.to_dict()},
            mode="offline" if self.is_offline else None,
            resume=None if self.is_offline else "allow",  # offline, wandb warns that it cannot look the run up
            # console: otherwise each redraw of the progress bar is logged as a line.
            settings=self.wandb.Settings(console="off", silent=self.is_offline),
        )
        self.id = chosen  # only now: if wandb.init fails, a resumed run logs all epochs
        return is_new

    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Write the numbers of an epoch."""
        self.run.log(dict(scalars), step=epoch)

    def close(self, run: Trainer, error: BaseException | None) -> None:
        """Log where the checkpoints are, and end the run of W&B."""
        checkpoints = final_checkpoints(run)
        if checkpoints:
            artifact = self.wandb.Artifact(f"{self.id}-checkpoints", "model")
            for name, path in checkpoints.items():
                artifact.add_reference(path.as_uri(), name=f"{name}.safetensors")
            self.run.log_artifact(artifact)
        self.run.finish(exit_code=1 if error else 0)

    def state_dict(self) -> dict[str, Any]:
        """The id of the run at W&B."""
        return {"id": self.id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the id."""
        self.id = state["id"]
