"""The self-test of a network and its loss: overfit a single batch."""

from collections.abc import Sequence

import torch
from torch import nn

from netbuild.feed.loader import Batch
from netbuild.graph.network import Network
from netbuild.tasks.base import Task
from netbuild.training.batches import network_inputs, target_arguments


def is_overfit(losses: Sequence[float]) -> bool:
    """Whether a batch was overfitted: the loss fell by 90 % from its highest value and by half from its first.

    The highest counts because a detector's first loss is small: its terms are weighted by how well predictions fit the
    objects, and at first none does.
    """
    last = min(losses[-5:])
    return last <= 0.1 * max(losses) and last <= 0.5 * losses[0]


def overfit(network: Network, task: Task, batch: Batch, steps: int = 100, rate: float = 0.01) -> list[float]:
    """Train a network on one batch and return the loss of every step, minus the least possible loss (`Task.least`).

    Args:
        network: the network, on the device of the batch.
        task: the task that computes the loss.
        batch: the batch.
        steps: number of steps.
        rate: learning rate of the first step; it falls to 0 linearly.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()  # dropout would keep the loss from its least value
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], rate, weight_decay=0)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        outputs = network(*network_inputs(task, batch), **target_arguments(network, task, batch))
        loss, _ = task.loss(outputs, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        losses.append(float(loss.detach()) - task.lower_bound(outputs, batch))
    return losses
