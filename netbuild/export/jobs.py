"""Prepare a network for export: example inputs, names, free axes and metadata."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netbuild.costs.outputs import tensors_of
from netbuild.data.fitting import Fitting
from netbuild.errors import NetbuildError
from netbuild.export.base import Job
from netbuild.export.options import ExportOptions
from netbuild.graph.heads import HeadCard
from netbuild.graph.network import Network
from netbuild.graph.opening import expand_size
from netbuild.layers.heads.base import traits
from netbuild.prediction.contract import (
    check_size,
    describe_layout,
    find_window,
    format_flag,
    input_shapes,
    make_metadata,
    returns_detections,
    size_multiple,
    task_of,
)
from netbuild.tasks.base import Task
from netbuild.tasks.nms import join_objectness

FREE = {"batch": ("batch",), "size": ("height", "width"), "both": ("batch", "height", "width")}
SUPPRESSED = ("boxes", "scores", "classes", "index")
SUPPRESSED_LAYOUT = (
    "boxes: x1, y1, x2, y2 in pixels; scores from 0 to 1; classes: their numbers; index: the number of the picture;"
    " one row per detection, picture by picture, best first"
)


class FlatOutputs(nn.Module):
    """A network with a flat tuple of output tensors; of a head's outputs only the prediction is kept.

    Args:
        network: the network.
        columns: whether a prediction (B, N, 5+nc) with objectness becomes (B, 4+nc, N), as suppression takes it.
    """

    def __init__(self, network: Network, columns: bool = False) -> None:
        super().__init__()
        self.model = network.model  # weights keep the names that checkpoints give them
        self.has_raw_outputs = [traits(head).returns_raw for head in network.heads]
        self.is_listed = bool(network.card.heads)
        self.columns = columns and traits(network.head).has_objectness

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor for found in self.run_heads(*inputs) for tensor in found)

    def run_heads(self, *inputs: Tensor) -> list[list[Tensor]]:
        """Return the output tensors of each head."""
        outputs = self.model(*inputs)
        found = []
        for output, is_raw in zip(outputs if self.is_listed else [outputs], self.has_raw_outputs, strict=True):
            found.append(list(tensors_of(output[0] if is_raw and isinstance(output, tuple) else output)))
        if self.columns:
            found[0][0] = join_objectness(found[0][0])
        return found


def make_job(network: Network, options: ExportOptions) -> Job:
    """Prepare the job of a network in eval mode.

    Raises:
        NetbuildError: for an option that the network does not support.
    """
    free, flags = frozenset(_free_names(options)), options.flags()
    task = task_of(network)
    nms = _suppression(network, task, flags.get("nms"))
    _check_free_size(network, free, task)
    height, width = expand_size(options.imgsz) or network.card.imgsz
    check_size(network, (height, width))
    examples = _examples(network, (height, width), options.batch or (2 if "batch" in free else 1))
    module = FlatOutputs(network, columns=bool(nms)).eval()
    counts = _count_outputs(module, examples)
    defaults = SUPPRESSED if nms else _output_names(network, task, counts)
    inputs = _names("--input-names", options.input_names, _input_names(network))
    outputs = _names("--output-names", options.output_names, defaults)
    if twice := set(inputs) & set(outputs):
        raise NetbuildError(f"'{min(twice)}' is the name of an input and of an output")
    axes = tuple(_free_axes(example, free) for example in examples)
    metadata = {
        **make_metadata(network, (height, width), task),
        **({"heads": json.dumps(_describe_heads(network, task, counts))} if network.card.heads else {}),
        "nms": json.dumps({name: getattr(nms, name) for name in ("conf", "iou", "max_det")}) if nms else "",
        "half": format_flag(flags.get("half")),
        **({"tolerance": str(flags["tolerance"])} if "tolerance" in flags else {}),
        "dynamic": json.dumps(sorted(free)),
        "layout": SUPPRESSED_LAYOUT if nms else describe_layout(network, len(outputs)),
    }
    given = {**{name: value for name, value in flags.items() if name != "dynamic"}, "nms": nms}
    lists = tuple(sum(counts[:i]) for i, head in enumerate(network.heads) if returns_detections(head))
    multiple, window = size_multiple(network), find_window(network, task, (height, width))
    # Whole pictures have sizes of their own: for calibration their middle is as good.
    name = "middle" if metadata["fitting"] == "whole" else metadata["fitting"]
    fitting = Fitting(name, (height, width), multiple, False, network.card.resizing, window)
    return Job(
        module, examples, inputs, outputs, free, axes, metadata, given,
        multiple=multiple, lists=lists, fitting=fitting,
    )  # fmt: skip


def _free_names(options: ExportOptions) -> tuple[str, ...]:
    if options.dynamic is None:
        return ()
    if options.dynamic not in FREE:
        raise NetbuildError(f"--dynamic {options.dynamic}: must be batch, size or both")
    free = FREE[options.dynamic]
    if "batch" in free and options.batch is not None:
        message = f"--batch {options.batch} has no effect with --dynamic {options.dynamic}"
        raise NetbuildError(message, hint="leave it out")
    return free


def _check_free_size(network: Network, free: frozenset[str], task: Task | None) -> None:
    sizes = {shape[1:] for _, shape in input_shapes(network) if len(shape) == 3}
    if "height" in free and len(sizes) != 1:
        inputs = "images of different sizes" if sizes else "no image"
        raise NetbuildError(f"the size cannot stay free: the network takes {inputs}", hint="try --dynamic batch")
    if "height" in free and find_window(network, task, network.card.imgsz):
        message = "the size cannot stay free: the network's map leaves out a border of the image, which differs by size"
        raise NetbuildError(message, hint="try --dynamic batch")


def _suppression(network: Network, task: Task | None, thresholds: Mapping[str, Any] | None) -> Any:
    if thresholds is None:
        return None
    if task is None:
        raise NetbuildError(f"--nms has no effect for the head {type(network.head).__name__}", hint="leave it out")
    return task.make_nms_filter(dict(thresholds))


def _input_names(network: Network) -> list[str]:
    names = [name for name, _ in input_shapes(network)]
    return ["images"] if names == ["input"] else names


def _examples(network: Network, size: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    shapes = [shape for _, shape in input_shapes(network)]
    one = sum(len(shape) == 3 for shape in shapes) == 1
    shapes = [(shape[0], *size) if len(shape) == 3 and one else shape for shape in shapes]
    return tuple(torch.rand((batch, *shape), generator=random) for shape in shapes)


def _free_axes(example: Tensor, free: frozenset[str]) -> dict[int, str]:
    named = {0: "batch", **({2: "height", 3: "width"} if example.ndim == 4 else {})}
    return {axis: name for axis, name in named.items() if name in free}


def _output_names(network: Network, task: Task | None, counts: Sequence[int]) -> list[str]:
    """Return the names of the outputs; of several heads the first output of each has its name.

    Raises:
        NetbuildError: if a head has another number of outputs than its task reads.
    """
    if not network.card.heads:
        return [f"output{i}" for i in range(sum(counts))]
    names = []
    for card, count in zip(network.card.heads, counts, strict=True):
        wanted = task.parts[card.name].output_count if task else count
        if count != wanted:
            message = f"the head '{card.name}' gives {count} tensors, its task '{card.task}' reads {wanted}"
            raise NetbuildError(message, card.where)
        name = card.name.replace("-", "_")
        names += [name, *(f"{name}_{i}" for i in range(1, count))]
    return names


def _describe_heads(network: Network, task: Task | None, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return what a runtime must know of each head to decode its outputs: they come in this order."""
    found = []
    for card, head, count in zip(network.card.heads, network.heads, counts, strict=True):
        known = task.parts[card.name] if task else None
        read = traits(head)
        found.append(
            {
                "name": card.name,
                "task": card.task,
                "weight": card.weight,
                "data": card.data,
                "names": _head_names(card, network) if known is None or known.counts_classes else [],
                "one2one": read.ranks,
                "boxes": read.box_form if read.ranks else "",
                "objectness": read.has_objectness and not read.ranks,
                "extra": list(known.extra if known else ()),
                "outputs": count,
            }
        )
    return found


def _head_names(card: HeadCard, network: Network) -> list[str]:
    """Return the names of a head's classes, or their numbers where they are not known."""
    names = card.names if card.names is not None else None if card.nc is not None else network.card.names
    return list(names or map(str, range(card.nc or network.card.nc or 0)))


def _count_outputs(module: FlatOutputs, examples: Sequence[Tensor]) -> list[int]:
    """Return the number of output tensors of each head."""
    try:
        with torch.no_grad():
            counts = list(map(len, module.run_heads(*examples)))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join("x".join(map(str, example.shape)) for example in examples)
        raise NetbuildError(f"the network fails on inputs {shapes}: {' '.join(str(error).split())[:300]}") from error
    if not sum(counts):
        raise NetbuildError("the network's last row outputs no tensor: there is nothing to export")
    return counts


def _names(flag: str, given: Sequence[str] | None, defaults: Sequence[str]) -> tuple[str, ...]:
    if given is None:
        return tuple(defaults)
    if len(given) != len(defaults) or len(set(given)) != len(given) or not all(name.isidentifier() for name in given):
        message = f"{flag} {','.join(given)}: {len(defaults)} distinct names are needed, made of letters, digits and _"
        raise NetbuildError(message, hint=f"the defaults are {','.join(defaults)}")
    return tuple(given)
