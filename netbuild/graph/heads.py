"""The heads of a network with several: their descriptions, as the network's file and its data state them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from netbuild.errors import NetbuildError, Where, did_you_mean
from netbuild.grammar.spec import Spec
from netbuild.layers.heads.base import Head, traits
from netbuild.modules import registry
from netbuild.modules.factory import Factory

SEVERAL = "several"  # the name of the task of a network with several heads


@dataclass(frozen=True)
class HeadCard:
    """The description of one of several heads.

    Attributes:
        name: its name.
        row: number of its row.
        task: name of its task.
        weight: weight of its loss, and of its fitness.
        data: name of the data set, or of the extra, that it learns from; None for the data set itself.
        nc: number of its classes, None where that is the network's.
        names: names of its classes, None where they are the network's, or unknown.
        where: the place of its data's name, else of its entry, in the network's file.
    """

    name: str
    row: int
    task: str
    weight: float = 1.0
    data: str | None = None
    nc: int | None = None
    names: tuple[str, ...] | None = None
    where: Where | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        known = {name: value for name, value in vars(self).items() if name != "where"}
        return {**known, "names": None if self.names is None else list(self.names)}

    def to_entry(self) -> dict[str, Any]:
        """Return the entry of ``heads`` in a network's file, without what is the default."""
        optional = {"data": self.data, "nc": self.nc}
        entry = {"row": self.row, "task": self.task, "weight": self.weight}
        return entry | {key: value for key, value in optional.items() if value is not None}


def describe_heads(spec: Spec, custom: Mapping[str, Factory], classes: Mapping[str, int]) -> tuple[HeadCard, ...]:
    """Return the descriptions of a file's heads; none for a file with a single one.

    Args:
        spec: the network's file.
        custom: custom modules by the name that rows use.
        classes: the user's numbers of classes, by name of a head.

    Raises:
        NetbuildError: at a head whose row states no task, or for classes of a head that does not exist.
    """
    for name in classes:
        if name not in {entry.name for entry in spec.heads}:
            known = [entry.name for entry in spec.heads]
            hint = did_you_mean(name, known) or f"its heads: {', '.join(known) or 'none'}"
            raise NetbuildError(f"the network has no head '{name}'", hint=hint)
    stored = spec.checkpoint_info.heads if spec.checkpoint_info else {}
    found = []
    for entry in spec.heads:
        task = entry.task or task_of_row(spec.rows[entry.row].module, custom)
        if task is None:
            message = f"the head '{entry.name}': {spec.rows[entry.row].label} states no task"
            raise entry.node.error(message, "write it into the entry, such as task: semantic")
        names = stored.get(entry.name, {}).get("names")
        card = HeadCard(entry.name, entry.row, task, entry.weight, entry.data, classes.get(entry.name, entry.nc))
        where = entry.node.value.get("data", entry.node).where
        found.append(replace(card, names=None if names is None else tuple(names), where=where))
    return tuple(found)


def task_of_row(module: str, custom: Mapping[str, Factory]) -> str | None:
    """Return the task that the module of a row states; None for any other module, and for an unknown one."""
    try:
        return (custom.get(module) or registry.get_factory(module)).task
    except NetbuildError:
        return None  # resolving the row reports the unknown module


class HeadGroup(Head):
    """The heads of a network with several, as one object: what tasks, prediction and export read of a network's head.

    It refers to the modules and does not register them, for they are rows of the network.

    Args:
        cards: the descriptions of the heads.
        modules: the module of each, in the same order.
    """

    task = SEVERAL

    def __init__(self, cards: Sequence[HeadCard], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.cards, self.members = tuple(cards), tuple(modules)
        strides = [traits(module).stride for module in self.members]
        self.stride = sorted({step for steps in strides for step in steps or ()})

    @property
    def file_values(self) -> dict[str, Any]:
        """The values of the heads that the text of the network's file states, see `Head.file_values`."""
        return {name: value for module in self.members for name, value in traits(module).file_values.items()}

    def layout(self) -> str:
        """Describe the outputs of an exported file: those of each head, in the order of the heads."""
        parts = [(card.name, traits(module).layout) for card, module in zip(self.cards, self.members, strict=True)]
        return "; ".join(_name_outputs(name, text) if text else f"{name}: as its row gives it" for name, text in parts)


def _name_outputs(head: str, text: str) -> str:
    """Name the outputs in the layout of a head, which counts its own, as they are named in a file of several heads."""
    name = head.replace("-", "_")
    return re.sub(r"output (\d)", lambda found: name if found[1] == "0" else f"{name}_{found[1]}", text)
