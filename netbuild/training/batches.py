"""A batch as the network takes it: on the device, in the memory format and precision that are fastest."""

import copy
from typing import Any

import torch

from netbuild.feed.loader import Batch
from netbuild.graph.network import Network
from netbuild.tasks.base import Task


def network_inputs(batch: Batch, form: torch.memory_format = torch.contiguous_format) -> list[torch.Tensor]:
    """The network's inputs from a batch: images as floats from 0 to 1, then the batch's further "inputs".

    Args:
        batch: with "images" (B, C, H, W), and perhaps "inputs".
        form: how the images lie in memory.
    """
    images = batch["images"].contiguous(memory_format=form)
    return [images.float() / 255 if images.dtype is torch.uint8 else images, *batch.get("inputs", ())]


def target_arguments(network: Network, task: Task, batch: Batch) -> dict[str, Any]:
    """Return the keyword ``targets`` of a network's forward in training; nothing if no row takes targets."""
    return {"targets": task.targets(batch)} if network.model.target_rows else {}


def fastest_memory_format(network: Network) -> torch.memory_format:
    """Channels last, which trains convolutions a fifth faster on a CPU, unless a module of the network cannot take it.

    A module that reshapes a feature map by ``view`` cannot. It takes a real forward to know: meta tensors report other
    strides.
    """
    form, card = torch.channels_last, network.card
    if card.ch == 1:  # with one channel both formats are the same
        return torch.contiguous_format
    try:
        with torch.random.fork_rng(), torch.no_grad():
            device = next(network.parameters()).device
            image = torch.zeros(2, card.ch, *card.imgsz, device=device).contiguous(memory_format=form)
            copy.deepcopy(network).train()(image)
    except Exception:  # whatever an own module raises: it is trained in the usual format
        return torch.contiguous_format
    return form


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors moved to a device."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def mixed_precision(wanted: str, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision, None where it is off."""
    if wanted == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
