"""A batch as the network takes it: on the device, in the memory format and precision that are fastest."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from netbuild.feed.loader import Batch
from netbuild.graph.card import NetworkCard
from netbuild.graph.network import Network
from netbuild.tasks.base import Task


def network_inputs(
    task: Task, batch: Batch, memory_format: torch.memory_format = torch.contiguous_format
) -> list[torch.Tensor]:
    """Return the network's inputs for a batch (`Task.inputs`), with its images in a memory format."""
    inputs = task.inputs({**batch, "images": batch["images"].contiguous(memory_format=memory_format)})
    if memory_format is torch.channels_last and inputs[0].ndim == 4:  # it is lost where images are mirrored
        inputs[0] = to_channels_last(inputs[0])
    return inputs


def to_channels_last(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, C, H, W) in the format channels last, by which convolutions choose that of their output.

    Of one channel both formats have the same bytes; convolutions then go by the stride of the channels.
    """
    _, channels, h, w = images.shape
    images = images.contiguous(memory_format=torch.channels_last)
    return images.as_strided(images.shape, (h * w, 1, w, 1)) if channels == 1 else images


def dummy_batch(card: NetworkCard, size: int = 1, device: torch.device | None = None) -> Batch:
    """Return a batch of zeros, with what `Task.inputs` needs and without targets."""
    further = tuple(torch.zeros(size, *shape, device=device) for _, shape in card.inputs[1:])
    return {"images": torch.zeros(size, card.ch, *card.imgsz, device=device), "inputs": further}


def resize_batch(batch: Batch, size: Sequence[int]) -> Batch:
    """Return the batch with its images, and second pictures among its inputs, resized to (height, width)."""
    shape = batch["images"].shape[-2:]

    def resize(image: torch.Tensor) -> torch.Tensor:
        if image.ndim != 4 or image.shape[-2:] != shape:
            return image
        values = image.float() / 255 if image.dtype is torch.uint8 else image
        return nn.functional.interpolate(values, list(size), mode="bilinear")

    return {**batch, "images": resize(batch["images"]), "inputs": tuple(map(resize, batch.get("inputs", ())))}


def target_arguments(network: Network, task: Task, batch: Batch) -> dict[str, Any]:
    """Return the keyword ``targets`` of a network's forward in training; nothing if no row takes targets."""
    return {"targets": task.targets(batch)} if network.model.target_rows else {}


def fastest_memory_format(network: Network, task: Task | None = None, half: bool = False) -> torch.memory_format:
    """Return channels last, which trains convolutions a fifth faster on a CPU, unless a module of the network fails.

    A module that reshapes a feature map by ``view`` does. Only a real forward shows it: meta tensors report other
    strides.

    Args:
        network: on its device.
        task: makes the network's inputs; without one, they are zeros of the shapes in the network's file.
        half: whether it is trained in half precision. Networks of images with one channel gain from it only then.
    """
    form, card = torch.channels_last, network.card
    if card.ch == 1 and not half:  # U-Net takes as long in float32, and a third less in bfloat16
        return torch.contiguous_format
    try:
        with torch.random.fork_rng(), torch.no_grad():
            device = next(network.parameters()).device
            batch = dummy_batch(card, 2, device)
            images = batch["images"].contiguous(memory_format=form)
            inputs = network_inputs(task, batch, form) if task else [images, *batch["inputs"]]
            copy.deepcopy(network).train()(*inputs)
    except Exception:  # whatever a custom module raises: it is trained in the usual format
        return torch.contiguous_format
    return form


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors, and those of its tuples, moved to a device."""

    def move(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(move, value))
        return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value

    return {name: move(value) for name, value in batch.items()}


def mixed_precision(wanted: str, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision, None where it is off."""
    if wanted == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
