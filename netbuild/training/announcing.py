"""What a run says before its first step and after its last one."""

from collections.abc import Mapping
from typing import Any

import torch

from netbuild.prediction.contract import find_window
from netbuild.system import processes
from netbuild.tasks.metric import UNDEFINED
from netbuild.training.callbacks import Callback
from netbuild.training.folder import read_description
from netbuild.training.loop import Trainer


class BestClasses(Callback):
    """Keeps the measures of each class in the best epoch of this process.

    Attributes:
        rows: one row of measures per class; empty where the task has none, or no epoch was the best so far.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Keep the rows of a best epoch."""
        if best:
            self.rows = run.metric.classes()


def describe_start(run: Trainer) -> str:
    """Describe in three lines what a run is going to do: its network, its data, and how it is trained."""
    card, settings, plan = run.network.card, run.settings, run.learner.main.plan
    params = sum(parameter.numel() for parameter in run.network.parameters())
    size = settings.imgsz or "x".join(map(str, card.imgsz))
    side = settings.imgsz or max(card.imgsz)
    window = find_window(run.network, run.task, (side, side))
    middle = f": pictures fill the middle {window[0]}x{window[1]} and are mirrored around it" if window else ""
    classes = f", {card.nc} classes" if card.nc else ""
    batches = len(run.train)
    steps = -(-batches // plan.accumulate) * settings.epochs
    precision = str(run.learner.precision or torch.float32).removeprefix("torch.")
    several = f" and {processes.world_size() - 1} more" if processes.world_size() > 1 else ""
    plan_text = f"{settings.epochs} epochs of {batches} batches of {settings.batch} ({steps:,} steps)"
    return "\n".join(
        [
            f"network: {card.name}, {params:,} parameters, task {run.task.name}{classes}, images of {size} pixels"
            f"{middle}",
            f"data: {read_description(run.folder).data}, {len(run.train.samples):,} samples to train on, "
            f"{len(run.val.samples):,} to validate",
            f"training: {plan_text}, {plan.name}, rate {plan.rate:.4g}, {precision}, on {run.device}{several}",
        ]
    )


def describe_end(run: Trainer) -> str:
    """Describe where a run's files are, its best epoch with its measures by their names, and the next commands."""
    progress, folder = run.progress, run.folder
    if not progress.history:
        return f"{folder}: no epoch was finished"
    best = next(row for row in progress.history if row["epoch"] == progress.best_epoch)
    others = [name for name in run.task.measures if name != run.settings.best]
    names = [name for name in others if best.get(name, UNDEFINED) != UNDEFINED]
    measures = "".join(f", {name} {best[name]:.4f}" for name in names)
    first = f"{folder}: best {run.settings.best} {progress.best:.4f}{measures} in epoch {progress.best_epoch} of "
    return first + str(progress.epoch)


def describe_interruption(run: Trainer) -> str:
    """Say how far an interrupted run came, and how it goes on."""
    done = run.progress.epoch
    finished = f"after {done} of {run.settings.epochs} epochs" if done else "before its first epoch was finished"
    return f"{run.folder}: interrupted {finished}; netbuild train --resume {run.folder} goes on"


def describe_next(run: Trainer) -> str:
    """Name the commands that a user may want after a run."""
    weights = run.folder / "best.safetensors"
    data = read_description(run.folder).data
    use = run.task.usage.format(weights=weights)
    return f"next: netbuild val {weights} --data {data}; {use}; netbuild export {weights}"
