"""The network itself: rows of modules, wired by number, each output kept until its last reader has run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from netbuild.grammar.rows import INPUT
from netbuild.graph.card import NetworkCard
from netbuild.layers.fuse import fold_bn, set_weights
from netbuild.layers.fuse import fuse as fuse_modules


@dataclass(frozen=True)
class Step:
    """How one row is called: the values it reads, how they are passed, and those nobody reads after it."""

    sources: tuple[int, ...]
    passing: str  # "one" tensor, a "list", or "spread" over the arguments of forward; "+text": the last apart
    frees: tuple[int, ...]
    picks: tuple[int | str | None, ...]  # of each source the output that is meant, None where it is the whole


@dataclass(frozen=True)
class Plan:
    """The wiring of rows: a step each, and the values that are returned."""

    steps: tuple[Step, ...]
    result: tuple[int, ...]
    listed: bool = False


def last_readers(sources: Sequence[Sequence[int]], result: Sequence[int]) -> list[tuple[int, ...]]:
    """For each row the values that it is the last to read; the result is never freed, nor is an unread output kept."""
    last = {value: index for index, values in enumerate(sources) for value in values}
    last.update({index: index for index in range(len(sources)) if index not in last})
    frees: list[list[int]] = [[] for _ in sources]
    for value, index in last.items():
        if value not in result:
            frees[index].append(value)
    return [tuple(sorted(values)) for values in frees]


class Rows(nn.Module):
    """Modules run in order, each on the outputs that its step names. Children are called by number, or by row name.

    Args:
        modules: name to module, in order.
        plan: the wiring.
        title: the block's name, where the rows are a block of the file.
    """

    def __init__(self, modules: Mapping[str, nn.Module], plan: Plan, title: str = "Rows") -> None:
        super().__init__()
        self.title = title
        for name, module in modules.items():
            self.add_module(name, module)
        self.plan = plan

    def forward(self, *inputs: Any) -> Any:
        """Run the rows on one input, or on several that their sources name in order."""
        values: dict[int, Any] = {INPUT - i: x for i, x in enumerate(inputs)}
        for index, (step, module) in enumerate(zip(self.plan.steps, self.children(), strict=True)):
            values[index] = call(module, gather(values, step.sources, step.picks), step.passing)
            for value in step.frees:
                del values[value]
        result = [values[i] for i in self.plan.result]
        return result if self.plan.listed else result[0]

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int) -> nn.Module:
        """The module of a row, by number; negative ones count from the end."""
        return list(self.children())[index]

    def fuse(self) -> None:
        """Fold each batch norm row into the convolution row that only it reads.

        One that keeps no running statistics normalises by its batch, and stays.
        """
        names, modules = zip(*self.named_children(), strict=True)
        readers = Counter([s for step in self.plan.steps for s in step.sources] + list(self.plan.result))
        for step, name, module in zip(self.plan.steps, names, modules, strict=True):
            source = step.sources[0]
            if type(module) is not nn.BatchNorm2d or source < 0 or readers[source] > 1 or module.running_var is None:
                continue
            conv = modules[source]
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
                set_weights(conv, *fold_bn(conv, module))
                setattr(self, name, nn.Identity())


def gather(values: Mapping[int, Any], sources: Sequence[int], picks: Sequence[int | str | None]) -> list[Any]:
    """What a row reads: each source whole, or the one of its outputs that is meant."""
    return [values[s] if key is None else values[s][key] for s, key in zip(sources, picks, strict=True)]


def call(module: nn.Module, inputs: list[Any], passing: str) -> Any:
    """Call a module on its inputs as its step says."""
    how, _, text = passing.partition("+")
    values, last = (inputs[:-1], inputs[-1:]) if text else (inputs, [])
    return module(values, *last) if how == "list" else module(*values, *last)


class Network(nn.Module):
    """A built network: image (B, ch, H, W) to the last row's output. State-dict keys are ``model.<row>.<...>``."""

    def __init__(self, model: Rows, card: NetworkCard) -> None:
        super().__init__()
        self.model = model
        self.card = card

    @property
    def facts(self) -> dict[str, Any]:
        """The card as a dict, for plug-ins written before there was `card`; a change to it has no effect."""
        return self.card.to_dict()

    def forward(self, *images: torch.Tensor) -> Any:
        """The last row's output for one image, or for the inputs that the file names, in its order."""
        return self.model(*images)

    def fuse(self) -> "Network":
        """Merge batch norms and parallel branches for inference, in place; returns itself."""
        fuse_modules(self.model)
        return self
