"""The runnable network: modules wired by row number; each output is freed once its last reader has run."""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from netbuild.costs.observer import Observer, observe_on_meta
from netbuild.costs.outputs import tensors_of
from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.rows import INPUT
from netbuild.graph.card import NetworkCard
from netbuild.graph.heads import HeadGroup
from netbuild.layers.fuse import fold_bn, set_weights
from netbuild.layers.fuse import fuse as fuse_modules


@dataclass(frozen=True)
class Step:
    """How a row is called."""

    sources: tuple[int, ...]  # rows whose outputs it reads; negative numbers are inputs
    # "one" value, a "list", or "spread" over forward's parameters; "+text": the last one separately; "skip": not at all
    call_style: str
    frees: tuple[int, ...]  # values that no later row reads
    selections: tuple[int | str | None, ...]  # per source: index or key of the output to read, None for all of it


@dataclass(frozen=True)
class Plan:
    """The wiring of rows: one step for each, and the rows whose outputs are returned."""

    steps: tuple[Step, ...]
    result: tuple[int, ...]
    listed: bool = False  # return a list even of a single output


def last_readers(sources: Sequence[Sequence[int]], result: Sequence[int]) -> list[tuple[int, ...]]:
    """Find for each row the values to free after it ran: those it is the last to read, and its own unread output.

    Args:
        sources: for each row the values that it reads.
        result: values to return, which are never freed.
    """
    last = {value: index for index, values in enumerate(sources) for value in values}
    last.update({index: index for index in range(len(sources)) if index not in last})
    frees: list[list[int]] = [[] for _ in sources]
    for value, index in last.items():
        if value not in result:
            frees[index].append(value)
    return [tuple(sorted(values)) for values in frees]


class SharedModule(nn.Module):
    """The module of another row, run again with the same weights; it has no parameters of its own.

    Args:
        target: the other row's module, which is not registered as a child: its weights belong to its row alone.
        row: number of that row.
    """

    def __init__(self, target: nn.Module, row: int) -> None:
        super().__init__()
        self.row = row
        self._target = (target,)  # torch registers attributes that are modules, but not those inside a tuple

    @property
    def target(self) -> nn.Module:
        """The module that runs."""
        return self._target[0]

    def forward(self, *inputs: Any) -> Any:
        """Run the other row's module."""
        return self.target(*inputs)

    def extra_repr(self) -> str:
        return f"row {self.row}"


class Rows(nn.Module):
    """Modules that run in order, each on the outputs that its step names.

    Args:
        modules: the modules by row number, or by row name in a block, in order.
        plan: their wiring.
        title: name of the block, where the rows form a block of the file.
    """

    def __init__(self, modules: Mapping[str, nn.Module], plan: Plan, title: str = "Rows") -> None:
        super().__init__()
        self.title = title
        for name, module in modules.items():
            self.add_module(name, module)
        self.plan = plan
        self.target_rows = frozenset(index for index, module in enumerate(modules.values()) if takes_targets(module))

    def forward(self, *inputs: Any, targets: Any = None) -> Any:
        """Run the rows; inputs come in the order in which the file names them.

        Args:
            inputs: tensors.
            targets: in training, the batch's targets by name, for rows whose ``forward`` has a parameter ``targets``.
        """
        values: dict[int, Any] = {INPUT - i: x for i, x in enumerate(inputs)}
        for index, (step, module) in enumerate(zip(self.plan.steps, self.children(), strict=True)):
            if step.call_style == "skip":
                continue
            row_inputs = select_inputs(values, step.sources, step.selections)
            keywords = {"targets": targets} if targets is not None and index in self.target_rows else {}
            values[index] = call_module(module, row_inputs, step.call_style, **keywords)
            for value in step.frees:  # at once: the peak of memory is as small as the wiring allows
                del values[value]
        result = [values[i] for i in self.plan.result]
        return result if self.plan.listed else result[0]

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int) -> nn.Module:
        """Return the module of a row by number; negative numbers count from the end."""
        return list(self.children())[index]

    def fuse(self) -> None:
        """Fold each batch-norm row into the convolution row that it reads, if no other row reads that convolution.

        A batch norm without running statistics depends on its batch and stays. Rows that only training needs are
        dropped.
        """
        self.drop_training_rows()
        names, modules = zip(*self.named_children(), strict=True)
        shared = {id(module.target) for module in modules if isinstance(module, SharedModule)}
        readers = Counter([s for step in self.plan.steps for s in step.sources] + list(self.plan.result))
        for step, name, module in zip(self.plan.steps, names, modules, strict=True):
            source = step.sources[0] if step.sources else -1
            if type(module) is not nn.BatchNorm2d or source < 0 or readers[source] > 1 or module.running_var is None:
                continue
            conv = modules[source]
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and not shared & {id(conv), id(module)}:
                set_weights(conv, *fold_bn(conv, module))
                setattr(self, name, nn.Identity())  # other rows keep their numbers

    def drop_training_rows(self) -> None:
        """Leave out sources that a row reads only in training, and the rows that then feed nothing.

        Such a row has a method ``main_sources``: from the number of its sources to the positions of those that remain.
        The other rows keep their numbers.
        """
        steps = [select_main_sources(*pair) for pair in zip(self.plan.steps, self.children(), strict=True)]
        if steps == list(self.plan.steps):
            return
        needed = set(self.plan.result)
        for index in reversed(range(len(steps))):
            if index in needed:
                needed.update(steps[index].sources)
        shared = {m.row for i, m in enumerate(self.children()) if i in needed and isinstance(m, SharedModule)}
        for index, name in enumerate(list(self._modules)):
            if index not in needed:
                steps[index] = Step((), "skip", (), ())
            if index not in needed | shared:
                setattr(self, name, nn.Identity())
        frees = last_readers([step.sources for step in steps], self.plan.result)
        steps = [replace(step, frees=freed) for step, freed in zip(steps, frees, strict=True)]
        self.plan = replace(self.plan, steps=tuple(steps))


def select_main_sources(step: Step, module: nn.Module) -> Step:
    """Return a step with the sources that its module needs outside training, see `Rows.drop_training_rows`."""
    find = getattr(module, "main_sources", None)
    if find is None:
        return step
    kept = find(len(step.sources))
    return replace(
        step,
        sources=tuple(step.sources[i] for i in kept),
        selections=tuple(step.selections[i] for i in kept),
    )


def select_inputs(
    values: Mapping[int, Any], sources: Sequence[int], selections: Sequence[int | str | None]
) -> list[Any]:
    """Collect the inputs of a row: the output of each source, or the selected part of it."""
    return [values[s] if key is None else values[s][key] for s, key in zip(sources, selections, strict=True)]


def call_module(module: nn.Module, inputs: list[Any], call_style: str, **keywords: Any) -> Any:
    """Call a module on its inputs in the given style, see `Step`, and with further keywords of its forward."""
    style, _, text = call_style.partition("+")
    values, text_features = (inputs[:-1], inputs[-1:]) if text else (inputs, [])
    arguments = [values] if style == "list" else values
    return module(*arguments, *text_features, **keywords)


def takes_targets(module: nn.Module) -> bool:
    """Whether a module's forward has a parameter ``targets``, which the batch's targets fill in training."""
    return (
        bool(module.target_rows)
        if isinstance(module, Rows)
        else "targets" in inspect.signature(module.forward).parameters
    )


class Network(nn.Module):
    """A built network: an image (B, ch, H, W) to the output of its last row, or to those of several heads.

    State-dict keys are ``model.<row>.<...>``, the layout of existing checkpoints.
    """

    def __init__(self, model: Rows, card: NetworkCard) -> None:
        super().__init__()
        self.model = model
        self.card = card

    @property
    def facts(self) -> dict[str, Any]:
        """A copy of the card as a dict, for plug-ins that were written before there was `card`."""
        return self.card.to_dict()

    @property
    def head(self) -> nn.Module:
        """The module whose outputs the network returns: its last row, or the group of several heads."""
        heads = self.card.heads
        return HeadGroup(heads, [self.model[head.row] for head in heads]) if heads else self.model[-1]

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The modules whose outputs the network returns, in their order."""
        head = self.head
        return head.members if isinstance(head, HeadGroup) else (head,)

    def forward(self, *images: torch.Tensor, targets: Any = None) -> Any:
        """Return the last row's output; of several heads a list with the output of each.

        Args:
            images: the image, or several inputs in the order of the file.
            targets: in training, the batch's targets by name, for rows whose ``forward`` has a parameter ``targets``.
        """
        return self.model(*images, targets=targets) if self.model.target_rows else self.model(*images)

    def find_window(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return height and width of the middle of an image of a size that the network's map covers.

        Pictures are fitted into it, and mirrored in the margin around it. None where the map covers the whole image.

        Raises:
            NetbuildError: if the image is too small for the network.
        """
        if not self.card.map_step:
            return None
        try:
            h, w = self.find_map_size(size)
        except (RuntimeError, ValueError) as error:
            message = f"the network fails on images of {size[0]}x{size[1]} pixels: {shorten(error, 200)}"
            raise NetbuildError(message, hint="try a larger --imgsz") from None
        return h * self.card.map_step, w * self.card.map_step

    def find_map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the map for an image of a size, by a run on meta tensors."""
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        with observe_on_meta(Observer(counting=False)):
            on_meta = {name: torch.empty(x.shape, dtype=x.dtype) for name, x in tensors.items()}
            outputs = torch.func.functional_call(self, on_meta, torch.empty(2, self.card.ch, *size))
        found = next(tensors_of(outputs))
        return found.shape[2], found.shape[3]

    def fuse(self) -> "Network":
        """Merge batch norms and parallel branches for inference, in place, and return the network itself."""
        fuse_modules(self.model)
        return self
