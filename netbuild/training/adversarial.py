"""The training of a generator against a discriminator, and the notice of a collapse."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from netbuild.errors import NetbuildError
from netbuild.feed.loader import Batch
from netbuild.tasks.generate import GenerateTask, penalize_gradients
from netbuild.tasks.making import scale_images
from netbuild.training.callbacks import Callback
from netbuild.training.learners import Learner, Trainee
from netbuild.training.loop import Trainer
from netbuild.training.parts import print_note

LEAST_VARIETY, LEAST_LOSS = 0.4, 0.02  # below them a collapse is noticed
PATIENCE = 5  # epochs before a collapse is noticed: at first pictures are alike


class AdversarialLearner(Learner):
    """Trains the discriminator on every batch, and the generator on every so many optimiser steps of it."""

    task: GenerateTask
    batch = 0  # index of the batch in the run
    latest: Tensor | None = None  # the generator's loss in its latest step of the epoch

    @property
    def critic(self) -> Trainee:
        """The discriminator in training."""
        return self.others["discriminator"]

    @property
    def trains_generator(self) -> bool:
        """Whether the generator takes part in this optimiser step."""
        return self.batch // self.main.plan.accumulate % self.task.critic_steps == 0

    def set_rates(self, batch: int, batches: int) -> float:
        """Set the learning rates of both, and remember the batch."""
        self.batch = batch
        return super().set_rates(batch, batches)

    def start_epoch(self) -> None:
        """Set training mode and clear the gradients."""
        super().start_epoch()
        self.latest = None

    def learn(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Run forward and backward of the discriminator, and of the generator if it is its turn."""
        parts = self.judge(batch, share)
        if self.trains_generator or self.latest is None:
            loss = self.deceive(batch)
            if self.trains_generator:
                self.backward(self.main, loss * share, {"generator": loss})
            self.latest = loss.detach()
        return {**parts, "generator": self.latest}

    def judge(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Train the discriminator on real pictures and on the generator's; return the terms of its loss."""
        inputs, real = self.task.inputs(batch), scale_images(batch)
        classes = inputs[1]
        with self.autocast():
            with torch.no_grad():
                made = self.main.network(*inputs)
            loss = self.task.discriminator_loss(self.score(real, classes), self.score(made, classes))
        parts = {"discriminator": loss.detach()}
        if self.task.penalty:
            mix = torch.rand(len(real), 1, 1, 1, device=real.device)
            between = (mix * real + (1 - mix) * made.float()).requires_grad_()
            penalty = penalize_gradients(self.score(between, classes), between)
            loss = loss + self.task.penalty * penalty
            parts["penalty"] = penalty.detach()
        self.backward(self.critic, loss * share, {**parts, "loss": loss})
        return parts

    def deceive(self, batch: Batch) -> Tensor:
        """Return the generator's loss, with gradients only for the generator, and only in its turn."""
        inputs = self.task.inputs(batch)
        with torch.set_grad_enabled(self.trains_generator), self.autocast(), self.critic.fixed():
            # Not the model of DDP: the discriminator's gradients are not to be averaged here.
            made = self.main.model(*inputs) if self.trains_generator else self.main.network(*inputs)
            return self.task.generator_loss(self.critic.network(made, inputs[1]).float())

    def score(self, pictures: Tensor, classes: Tensor) -> Tensor:
        """Return the discriminator's logits (B,) for pictures.

        Raises:
            NetbuildError: if it does not return one for each.
        """
        found: Any = self.critic.model(pictures, classes)
        if found.numel() != len(pictures):
            message = f"the discriminator returns {list(found.shape)} for {len(pictures)} pictures"
            raise NetbuildError(message, hint="it must return one number for each, as dcgan-discriminator.yaml")
        return found.float().view(-1)

    def step(self) -> None:
        """Step the discriminator, and the generator if it is its turn."""
        self.critic.step()
        if self.trains_generator:
            self.main.step()


class CollapseCallback(Callback):
    """Notices once that a generator makes ever the same picture, or that its discriminator is never wrong."""

    def __init__(self) -> None:
        self.is_noted = False

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Print a note at the first sign of a collapse."""
        if self.is_noted or not isinstance(run.task, GenerateTask) or run.progress.epoch < PATIENCE:
            return
        variety, loss = measures["variety"], measures["train/discriminator"]
        never_wrong = run.task.loss_name != "wasserstein" and loss < LEAST_LOSS
        if variety >= LEAST_VARIETY and not never_wrong:
            return
        self.is_noted = True
        sign = f"the pictures vary {variety:.2f} times as much as the data" if variety < LEAST_VARIETY else ""
        sign = sign or f"the discriminator is never wrong (loss {loss:.4f}), so the generator learns nothing from it"
        hint = "try -O adversarial_loss=hinge or wasserstein, a lower --lr, or a smaller discriminator"
        print_note(f"note: the generator collapses: {sign}; {hint}")

    def state_dict(self) -> dict[str, Any]:
        """Return whether the note was printed."""
        return {"is_noted": self.is_noted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore whether the note was printed."""
        self.is_noted = bool(state.get("is_noted"))
