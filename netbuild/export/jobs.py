"""Prepare a network for export: example inputs, names, free axes and metadata."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netbuild.costs.outputs import tensors_of
from netbuild.errors import NetbuildError
from netbuild.export.base import Job
from netbuild.export.options import ExportOptions
from netbuild.graph.network import Network
from netbuild.graph.opening import expand_size
from netbuild.layers.heads.base import traits
from netbuild.prediction.contract import (
    check_size,
    describe_layout,
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
        self.has_raw_outputs = traits(network.head).returns_raw
        self.columns = columns and traits(network.head).has_objectness

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(*inputs)
        if self.has_raw_outputs and isinstance(outputs, tuple):
            outputs = outputs[0]
        found = tuple(tensors_of(outputs))
        return (join_objectness(found[0]), *found[1:]) if self.columns else found


def make_job(network: Network, options: ExportOptions) -> Job:
    """Prepare the job of a network in eval mode.

    Raises:
        NetbuildError: for an option that the network does not support.
    """
    free, flags = frozenset(_free_names(options)), options.flags()
    task = task_of(network)
    nms = _suppression(network, task, flags.get("nms"))
    _check_free_size(network, free)
    height, width = expand_size(options.imgsz) or network.card.imgsz
    check_size(network, (height, width))
    examples = _examples(network, (height, width), options.batch or (2 if "batch" in free else 1))
    module = FlatOutputs(network, columns=bool(nms)).eval()
    defaults = SUPPRESSED if nms else [f"output{i}" for i in range(_count_outputs(module, examples))]
    inputs = _names("--input-names", options.input_names, _input_names(network))
    outputs = _names("--output-names", options.output_names, defaults)
    if twice := set(inputs) & set(outputs):
        raise NetbuildError(f"'{min(twice)}' is the name of an input and of an output")
    axes = tuple(_free_axes(example, free) for example in examples)
    metadata = {
        **make_metadata(network, (height, width), task),
        "nms": json.dumps({name: getattr(nms, name) for name in ("conf", "iou", "max_det")}) if nms else "",
        "half": format_flag(flags.get("half")),
        **({"tolerance": str(flags["tolerance"])} if "tolerance" in flags else {}),
        "dynamic": json.dumps(sorted(free)),
        "layout": SUPPRESSED_LAYOUT if nms else describe_layout(network, len(outputs)),
    }
    given = {**{name: value for name, value in flags.items() if name != "dynamic"}, "nms": nms}
    lists = (0,) if returns_detections(network.head) else ()
    return Job(
        module, examples, inputs, outputs, free, axes, metadata, given, multiple=size_multiple(network), lists=lists
    )


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


def _check_free_size(network: Network, free: frozenset[str]) -> None:
    sizes = {shape[1:] for _, shape in input_shapes(network) if len(shape) == 3}
    if "height" in free and len(sizes) != 1:
        inputs = "images of different sizes" if sizes else "no image"
        raise NetbuildError(f"the size cannot stay free: the network takes {inputs}", hint="try --dynamic batch")


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


def _count_outputs(module: nn.Module, examples: Sequence[Tensor]) -> int:
    try:
        with torch.no_grad():
            count = len(module(*examples))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join("x".join(map(str, example.shape)) for example in examples)
        raise NetbuildError(f"the network fails on inputs {shapes}: {' '.join(str(error).split())[:300]}") from error
    if not count:
        raise NetbuildError("the network's last row outputs no tensor: there is nothing to export")
    return count


def _names(flag: str, given: Sequence[str] | None, defaults: Sequence[str]) -> tuple[str, ...]:
    if given is None:
        return tuple(defaults)
    if len(given) != len(defaults) or len(set(given)) != len(given) or not all(name.isidentifier() for name in given):
        message = f"{flag} {','.join(given)}: {len(defaults)} distinct names are needed, made of letters, digits and _"
        raise NetbuildError(message, hint=f"the defaults are {','.join(defaults)}")
    return tuple(given)
