"""What a network tells those who run it: inputs, sizes, strides, the form of its outputs."""

import json

import torch
from torch import nn

from netbuild import __version__
from netbuild.errors import NetbuildError
from netbuild.graph.network import Network
from netbuild.tasks import find as find_task
from netbuild.tasks.base import Task


def task_of(network: Network) -> Task | None:
    """The network's task, if it is one that netbuild can decode with this head."""
    name = network.card.task
    if name is None:
        return None
    try:
        return find_task(name)(network.model[-1], network.card.names)
    except NetbuildError:
        return None


def facts(network: Network, size: tuple[int, int], task: Task | None) -> dict[str, str]:
    """What a file says of any network, whatever was asked for."""
    card, head = network.card, network.model[-1]
    names = card.names or [str(i) for i in range(card.nc or 0)]
    fitting = task.fitting if task else "letterbox" if strides(head) or ranks(head) else "middle"
    return {
        "netbuild": __version__,
        "torch": str(torch.__version__),
        "task": card.task or "",
        "names": json.dumps(names),
        "stride": str(multiple_of(network)),
        "imgsz": json.dumps(list(size)),
        "channels": str(card.ch),
        "fitting": fitting,
        "one2one": _flag(ranks(head)),
        "boxes": boxes(head),
        "extra": json.dumps(task.extra if task else ()),
        "yaml": card.yaml,
    }


def boxes(head: nn.Module) -> str:
    """What the first four numbers of a row are, of a head that gives a list of detections."""
    return str(getattr(head, "box_form", "corners")) if ranks(head) else ""


def ranks(head: nn.Module) -> bool:
    """Whether a head gives a list of detections, best first."""
    found = getattr(head, "ranks", None)
    return bool(found()) if callable(found) else False


def layout(network: Network, count: int) -> str:
    """What the outputs are, in a sentence."""
    said = getattr(network.model[-1], "layout", None)
    if callable(said):
        return str(said())
    return f"{count} output{'s' if count > 1 else ''}, as the network's last row gives {'them' if count > 1 else 'it'}"


def multiple_of(network: Network) -> int:
    """Pixels that both sides of an image should be multiples of: the head's largest stride, else that of any row."""
    return max(strides(network.model[-1]), default=network.card.stride)


def strides(head: nn.Module) -> list[int]:
    """The strides of a head that gives something for every cell; none of any other module."""
    known = getattr(head, "stride", None) if hasattr(head, "layout") else None
    return [int(s) for s in known] if isinstance(known, (list, tuple)) else []


def check_size(network: Network, size: tuple[int, int]) -> None:
    """Refuse a size on which a head's cells would not lie where their strides say.

    Raises:
        NetbuildError: with the next size that fits.
    """
    step = multiple_of(network)
    if not strides(network.model[-1]) or all(side % step == 0 for side in size):
        return
    fits = "x".join(str(max(1, round(side / step)) * step) for side in size)
    said = f"the image size {size[0]}x{size[1]} is no multiple of the network's largest stride, {step}"
    raise NetbuildError(said, hint=f"try --imgsz {fits}")


def input_shapes(network: Network) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The network's inputs: name and shape beside the batch."""
    card = network.card
    return card.inputs or (("input", (card.ch, *card.imgsz)),)


def _flag(value: object) -> str:
    return "true" if value else "false"
