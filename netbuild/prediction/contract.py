"""The contract between a network and its runtimes: inputs, sizes, strides, the layout of outputs, and metadata."""

import json

import torch
from torch import nn

from netbuild import __version__
from netbuild.errors import NetbuildError
from netbuild.graph.network import Network
from netbuild.layers.heads.base import traits
from netbuild.tasks import class_for
from netbuild.tasks.base import Task
from netbuild.tasks.restore import RestoreTask


def task_of(network: Network) -> Task | None:
    """Return the network's task, None unless netbuild can decode the outputs of its head."""
    if network.card.task is None:
        return None
    try:
        return make_task(network)
    except NetbuildError:
        return None


def make_task(network: Network) -> Task:
    """Make the task of a network from what its card states, for prediction; it must have one.

    Raises:
        NetbuildError: if there is no such task, or it cannot read the head.
    """
    card, cls = network.card, class_for(network.card)
    return cls(network.head, card.names, **cls.card_options(card))


def make_metadata(network: Network, size: tuple[int, int], task: Task | None) -> dict[str, str]:
    """Return the metadata that every exported file carries; ``size`` is the height and width of its input."""
    card, head = network.card, traits(network.head)
    names = card.names or [str(i) for i in range(card.nc or 0)]
    fitting = task.fitting if task else head.fitting or ("letterbox" if head.stride or head.ranks else "middle")
    optional = {"skeleton": json.dumps(card.skeleton)} if card.skeleton else {}
    if task and task.fills_border and card.map_step:
        optional["map_step"] = str(card.map_step)
    if isinstance(task, RestoreTask):
        optional |= {"degrade": json.dumps(card.degrade), "space": task.space}
        optional["output"] = json.dumps(task.output_for(size))
    if card.sampling:
        optional["sampling"] = json.dumps(dict(card.sampling))
    return {
        "netbuild": __version__,
        "torch": str(torch.__version__),
        "task": card.task or "",
        "names": json.dumps(names),
        "stride": str(size_multiple(network)),
        "imgsz": json.dumps(list(size)),
        "channels": str(card.ch),
        "fitting": fitting,
        "resizing": card.resizing,
        "one2one": format_flag(head.ranks),
        "boxes": head.box_form if head.ranks else "",
        "objectness": format_flag(head.has_objectness and not head.ranks),
        "extra": json.dumps(task.extra if task else ()),
        "yaml": card.yaml,
        **optional,
    }


def find_window(network: Network, task: Task | None, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the middle of an image that pictures are fitted into, see `Network.find_window`; None for all of it.

    Raises:
        NetbuildError: if the image is too small for the network.
    """
    return network.find_window(size) if task and task.fills_border else None


def returns_detections(head: nn.Module) -> bool:
    """Return whether a head gives a list of detections, best first, which needs no suppression."""
    return traits(head).ranks


def describe_layout(network: Network, count: int) -> str:
    """Describe the layout of a network's outputs in one sentence; ``count`` is how many there are."""
    if text := traits(network.head).layout:
        return text
    return f"{count} output{'s' if count > 1 else ''}, as the network's last row gives {'them' if count > 1 else 'it'}"


def size_multiple(network: Network) -> int:
    """Return the number of pixels that both sides of an image should be multiples of.

    It is the head's largest stride, or else the largest stride of any row.
    """
    return max(head_strides(network.head), default=network.card.stride)


def head_strides(head: nn.Module) -> list[int]:
    """Return the strides in pixels of a head that predicts for every cell; an empty list for any other module."""
    return [int(s) for s in traits(head).stride or ()]


def check_size(network: Network, size: tuple[int, int]) -> None:
    """Refuse an image size that is no multiple of the largest stride: the head's cells would be displaced.

    Raises:
        NetbuildError: with the next size that fits.
    """
    step = size_multiple(network)
    if not head_strides(network.head) or all(side % step == 0 for side in size):
        return
    fits = "x".join(str(max(1, round(side / step)) * step) for side in size)
    message = f"the image size {size[0]}x{size[1]} is no multiple of the network's largest stride, {step}"
    raise NetbuildError(message, hint=f"try --imgsz {fits}")


def input_shapes(network: Network) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the network's inputs: the name of each, and its shape without the batch."""
    card = network.card
    return card.inputs or (("input", (card.ch, *card.imgsz)),)


def format_flag(value: object) -> str:
    """Return a truth value as metadata text: "true" or "false"."""
    return "true" if value else "false"
