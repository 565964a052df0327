"""What each of several heads learns from: its data set, the samples that have its truth, and its share of a batch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from netbuild.data.dataset import Dataset, Sample
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.feed.targets import PolygonTarget, TargetKind
from netbuild.feed.targets.partial import TRUTHS
from netbuild.graph.heads import HeadCard
from netbuild.tasks.base import Batch, Task


@dataclass(frozen=True)
class Source:
    """Where the truth of a head comes from.

    Attributes:
        part: name of the data set among several; empty for a data set that is a single one.
        extra: name of the extra that the head learns from in place of its task's own; empty for that.
        scale: how many times as large as their pictures the maps are that it learns from.
        has_maps: whether the data set states such maps: then only pictures with one have the head's truth.
    """

    part: str = ""
    extra: str = ""
    scale: int = 1
    has_maps: bool = False

    def key(self, name: str) -> str:
        """Return the name in a scene, and in a batch, of the map that the head's task calls ``name``."""
        return f"{self.part}.{name}" if self.part else self.extra or name

    def view(self, sample: Sample, name: str) -> Sample:
        """Return a sample as the head's task sees it, whose extra is ``name``; empty for a task without one."""
        if not self.extra or self.extra not in sample.extras:
            return sample
        return replace(sample, extras={name: sample.extras[self.extra]})

    def has(self, sample: Sample) -> bool:
        """Whether a sample is of the head's data set."""
        return sample.part == self.part and (not self.extra or self.extra in sample.extras)


def extra_of(task: type[Task]) -> str:
    """Return the name of the extra that a task learns from; empty for a task without one."""
    return next((name for name, kind in task.target_kinds.items() if kind.needs_extra), "")


def find_source(card: HeadCard, task: type[Task], parts: Collection[str], extras: Collection[str]) -> Source:
    """Return the source of a head: by the name of its ``data``, else the part of its own name, else the first part.

    Args:
        card: the head.
        task: the class of its task.
        parts: names of the data sets that the data set consists of; empty for a single one.
        extras: names of the extras of its samples.

    Raises:
        NetbuildError: at the head in the network's file, if there is no data of this name, or it cannot learn from it.
    """
    if parts:
        name = card.data or (card.name if card.name in parts else next(iter(parts)))
        if name in parts:
            return Source(part=name)
    elif card.data is None:
        return Source()
    elif card.data in extras:
        if extra_of(task):
            return Source(extra=card.data)
        message = f"the head '{card.name}' has the task '{card.task}', which learns from objects, not from an extra"
        raise NetbuildError(f"{message} of the pictures such as '{card.data}'", card.where, "leave data out")
    known = [*parts, *(() if parts else extras)]
    hint = did_you_mean(str(card.data), known) or (
        f"write into the data file an extra of this name (extras: {{{card.data}: classes}}), or datasets: "
        f"{{{card.data}: PATH}}; see docs/tasks.md"
    )
    there = f"there is {', '.join(known)}" if known else "it has neither several data sets nor extras"
    raise NetbuildError(f"the head '{card.name}': the data has no '{card.data}', {there}", card.where, hint)


def view_dataset(dataset: Dataset, source: Source, task: type[Task]) -> Dataset:
    """Return a data set as a head's task sees it: its part, or with the extra under the name that the task expects."""
    if source.part:
        dataset = dataset.parts[source.part]
    if source.extra:
        stated = dataset.extras[source.extra]
        named = replace(stated, names=())
        dataset = replace(dataset, extras={extra_of(task): named}, names=stated.names or dataset.names)
    return task.prepare_dataset(dataset)[0]


def merge_kind(kinds: dict[str, TargetKind], name: str, kind: TargetKind, head: str) -> None:
    """Add a kind of targets to those of other heads, in place; polygons that make no tensors give way to any others.

    Raises:
        NetbuildError: if another head needs other targets of this name.
    """
    known = kinds.get(name)
    if known is None or known is PolygonTarget:
        kinds[name] = kind
    elif kind is not PolygonTarget and kind != known:
        message = f"the head '{head}' needs other targets '{name}' than a head before it"
        raise NetbuildError(message, hint="let it learn from a data set of its own: data: NAME")


def select_batch(
    batch: Batch, pictures: Sequence[int] | None, keys: Mapping[str, str], objects: Collection[str], empty: bool = False
) -> dict[str, Any]:
    """Return the share of a batch that a head learns from, under the names that its task expects.

    Args:
        batch: of all heads.
        pictures: the pictures that it learns from; None for all.
        keys: for each map of the task its name in the batch.
        objects: names of the tensors with an entry per object.
        empty: whether the objects are left out.
    """
    found = {name: value for name, value in batch.items() if name != TRUTHS}
    maps = {name: found[key] for name, key in keys.items() if key in found}
    found |= maps
    if "originals" in found:
        found["originals"] = [
            {name: values[key] for name, key in keys.items() if key in values} for values in found["originals"]
        ]
    if pictures is None:
        return found
    rows = select_objects(found.get("index"), pictures, empty)
    return {name: _select(name, value, pictures, rows, objects, len(batch["images"])) for name, value in found.items()}


def select_objects(index: Tensor | None, pictures: Sequence[int], empty: bool) -> tuple[Tensor, Tensor] | None:
    """Return the places of the objects of some pictures, and the new number of the picture of each."""
    if index is None:
        return None
    numbers = {picture: number for number, picture in enumerate(() if empty else pictures)}
    of_picture = index.view(-1).tolist()
    places = [i for i, picture in enumerate(of_picture) if int(picture) in numbers]
    new = [numbers[int(of_picture[i])] for i in places]
    return torch.tensor(places, dtype=torch.long), torch.tensor(new, dtype=index.dtype)


def _select(
    name: str,
    value: Any,
    pictures: Sequence[int],
    rows: tuple[Tensor, Tensor] | None,
    objects: Collection[str],
    count: int,
) -> Any:
    """Return the entries of some pictures, or of their objects, of a value of a batch of ``count`` pictures."""
    if rows is not None and name == "index":
        return rows[1].to(value.device)
    places = rows[0].tolist() if rows is not None and name in objects else list(pictures)
    if isinstance(value, Tensor):
        return value[torch.tensor(places, dtype=torch.long, device=value.device)]
    if isinstance(value, tuple):  # further inputs
        return tuple(_select("", item, pictures, None, objects, count) for item in value)
    return [value[i] for i in places]


def select_outputs(outputs: Any, pictures: Sequence[int], count: int) -> Any:
    """Return the outputs of a head for some pictures of a batch.

    Args:
        outputs: tensors, in mappings and lists; those whose first axis is the pictures are reduced.
        pictures: their numbers.
        count: number of pictures of the batch.
    """
    if isinstance(outputs, Tensor):
        if outputs.ndim == 0 or len(outputs) != count:
            return outputs
        return outputs[torch.tensor(pictures, dtype=torch.long, device=outputs.device)]
    if isinstance(outputs, Mapping):
        return {name: select_outputs(value, pictures, count) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(select_outputs(value, pictures, count) for value in outputs)
    return outputs
