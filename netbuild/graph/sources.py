"""How a row reads its sources: which of their outputs, with which shapes, and how its module's forward is called."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from netbuild.costs.receptive_field import Field, field_of
from netbuild.errors import NetbuildError
from netbuild.grammar.rows import Block, Row
from netbuild.graph.bind import BoundCall, SourceShapes
from netbuild.graph.layers import Layer
from netbuild.roles import Role

FAILED = object()  # stands for the output of a row that could not be resolved


def select_outputs(row: Row, values: Mapping[int, Any], above: Sequence[Layer]) -> tuple[int | str | None, ...]:
    """Find the index or key of the output that a row selects of each source; None for the whole output.

    Args:
        row: its selections may be numbers, keys of a dict, or names of a block's results, which become numbers.
        values: the outputs of the rows before it.
        above: the layers before it.

    Raises:
        NetbuildError: if a source has no such output.
    """
    keys: list[int | str | None] = []
    for source, selection in zip(row.sources, row.selections, strict=True):
        value = values[source]
        if selection is None or value is FAILED:
            keys.append(None)
            continue
        names = next((layer.result_names for layer in above if layer.row.index == source), ())
        key = names.index(selection) if selection in names else selection
        if isinstance(value, dict) and isinstance(key, int) and key < len(value):
            key = list(value)[key]
        in_dict = isinstance(value, dict) and key in value
        in_list = isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value)
        if not in_dict and not in_list:
            message = f"{row.label}: its source has no output '{selection}'"
            raise NetbuildError(message, row.where, _list_outputs(value, names))
        keys.append(key)
    return tuple(keys)


def _list_outputs(value: Any, names: Sequence[str]) -> str:
    if isinstance(value, dict):
        return f"its outputs are named {', '.join(map(str, value))}"
    if isinstance(value, (list, tuple)):
        named = f", named {', '.join(names)}" if names else ""
        return f"it has {len(value)} outputs, 0..{len(value) - 1}{named}"
    return "it has one output: leave the selection out"


def choose_call_style(row: Row, bound: BoundCall, block: Block | None, count: int) -> str:
    """Choose how a row's module is called, see `netbuild.graph.network.Step`.

    Args:
        row: the row.
        bound: its constructor call.
        block: the block of the file that the row uses, if any.
        count: number of its inputs, text features left out.
    """
    if block:
        # `Rows` takes one argument for each input that the block names, otherwise a single value.
        return "spread" if block.inputs or count == 1 else "list"
    text = "+text" if bound.factory.takes_text else ""
    if bound.takes_list:
        return "list" + text
    # A row with text always lists its sources, so the list does not tell that the module wants one.
    if count == 1 and (text or not row.listed or bound.factory.takes(Role.IN)):
        return "one" + text
    return ("spread" if count > 1 and _takes_several_inputs(bound.factory.make) else "list") + text


def _takes_several_inputs(cls: Any) -> bool:
    """Whether a module's forward takes its inputs as separate arguments."""
    forward = getattr(cls, "forward", None)
    if forward is None:
        return False
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def measure_sources(inputs: Sequence[Any], imgsz: tuple[int, int]) -> SourceShapes:
    """Measure channels, sizes and strides of a row's inputs.

    Args:
        inputs: the outputs that it reads.
        imgsz: height and width of the image in pixels.
    """
    maps = [x if isinstance(x, torch.Tensor) and x.ndim >= 2 else None for x in inputs]
    fields = [field_of(x) for x in maps]
    return SourceShapes(
        tuple(None if x is None else x.shape[1] for x in maps),
        tuple(None if x is None or x.ndim < 4 else (x.shape[-2], x.shape[-1]) for x in maps),
        tuple(_stride(x, f, imgsz) for x, f in zip(maps, fields, strict=True)),
    )


def _stride(x: torch.Tensor | None, field: Field | None, imgsz: tuple[int, int]) -> float | None:
    """The stride of a feature map in image pixels.

    Where its receptive field is unknown, the ratio of the image's size to the map's, if it is whole and equal for
    height and width; None otherwise.
    """
    if field and field.known:
        return field.stride[0]
    if x is None or x.ndim < 4 or imgsz[0] % x.shape[-2] or imgsz[0] * x.shape[-1] != imgsz[1] * x.shape[-2]:
        return None
    return imgsz[0] // x.shape[-2]
