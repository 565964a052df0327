"""Several heads of one network, each with the loss, decoding and metric of its own task."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from netbuild.data.dataset import Sample
from netbuild.drawing.annotated import Drawing, Image
from netbuild.drawing.charts import Figure
from netbuild.errors import NetbuildError
from netbuild.feed.targets import TargetKind
from netbuild.feed.targets.partial import TRUTHS
from netbuild.graph.heads import HeadCard
from netbuild.tasks.base import Batch, FrameState, Losses, Record, Task, View, refuse_options
from netbuild.tasks.head_data import select_batch, select_outputs
from netbuild.tasks.head_tasks import HeadTasks
from netbuild.tasks.pictures import to_picture
from netbuild.tasks.several_drawing import merge_drawings
from netbuild.tasks.several_metric import SeveralMetric


class SeveralTask(HeadTasks):
    """The tasks of several heads: their losses are added up by the weights of the heads.

    A batch has the targets of all heads, and "truths" (B, heads), whether a picture has the truth of each. A head's
    loss and metric see only the pictures that have its truth. Terms, measures and records have the name of their head.
    """

    # -- loss and metric ----------------------------------------------------------------------------------------------

    def pictures_of(self, name: str, batch: Batch) -> list[int]:
        """Return the pictures of a batch that have the truth of a head."""
        if TRUTHS not in batch:
            return list(range(len(batch["images"])))
        return batch[TRUTHS][:, list(self.parts).index(name)].nonzero().view(-1).tolist()  # type: ignore[no-any-return]

    def view_batch(self, name: str, batch: Batch, pictures: Sequence[int] | None = None, empty: bool = False) -> Batch:
        """Return the share of a batch that a head learns from; see `select_batch`."""
        task = self.parts[name]
        keys = {
            target: self.sources[name].key(target) for target, kind in task.target_kinds.items() if kind.needs_extra
        }
        return select_batch(batch, pictures, keys, self.object_names, empty)

    @cached_property
    def object_names(self) -> set[str]:
        """The names of the tensors of a batch that have an entry per object."""
        return {
            name for part in self.parts.values() for kind in part.make_kinds(True).values() for name in _names(kind)
        }

    def shares(self, outputs: Sequence[Any], batch: Batch) -> Iterator[tuple[HeadCard, Task, Any, Batch, Any]]:
        """Yield for each head its card, task, outputs and share of the batch, and the factor of its loss.

        A head without a picture gets one without its truth, and the factor 0: its parameters must have gradients, and
        all processes must compute the same sums.
        """
        count = len(batch["images"])
        for card, (name, task), found in zip(self.cards, self.parts.items(), outputs, strict=True):
            chosen = self.pictures_of(name, batch)
            if len(chosen) < count:
                shown = chosen or [0]
                share = self.view_batch(name, batch, shown, empty=not chosen)
                found = select_outputs(found, shown, count)
            else:
                share = self.view_batch(name, batch)
            pictures = self.normaliser(batch["images"].new_tensor(float(len(chosen)), dtype=torch.float32), 0.0)
            factor = pictures / (len(chosen) if task.summed else 1) if chosen else pictures * 0
            yield card, task, found, share, factor

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the sum of the heads' losses by their weights, and their terms by name, such as ``boxes/cls``.

        A loss that is a mean is multiplied by the number of pictures that it is of.
        """
        totals, terms = [], dict[str, Tensor]()
        for card, task, found, share, factor in self.shares(outputs, batch):
            value, inner = task.loss(found, share)
            totals.append(value * factor * card.weight)
            is_seen = float(factor) > 0
            terms |= {f"{card.name}/{name}": term * (card.weight * is_seen) for name, term in inner.items()}
        return torch.stack(totals).sum(), terms

    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the sum of the heads' smallest losses by their weights."""
        found = self.shares(outputs, batch)
        return sum(card.weight * float(f) * task.lower_bound(out, share) for card, task, out, share, f in found if f)

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return the ``targets`` for rows whose forward has a parameter of this name: those of all heads."""
        return {name: value for name, value in super().targets(batch).items() if name != TRUTHS}

    def metric(self) -> SeveralMetric:
        """Return the metric of all heads."""
        metrics = {name: task.metric() for name, task in self.parts.items()}
        weights = {card.name: card.weight for card in self.cards}
        return SeveralMetric(metrics, weights, self.view_truth)

    def view_truth(self, name: str, batch: Batch) -> tuple[list[int], Batch]:
        """Return the pictures of a batch that have the truth of a head, and the head's share of the batch."""
        chosen = self.pictures_of(name, batch)
        return chosen, self.view_batch(name, batch, None if len(chosen) == len(batch["images"]) else chosen)

    @property
    def calibrates(self) -> bool:
        """Whether a head has something to calibrate."""
        return any(task.calibrates for task in self.parts.values())

    def calibrate(self, head: nn.Module, predictions: Iterable[tuple[Batch, Any]]) -> None:
        """Calibrate each head that can be, with the pictures that have its truth."""
        batches = list(predictions)
        for member, (name, task) in zip(head.members, self.parts.items(), strict=True):  # type: ignore[arg-type]
            if task.calibrates:
                task.calibrate(member, self.select_predictions(name, batches))

    def select_predictions(self, name: str, batches: Iterable[tuple[Batch, Any]]) -> Iterator[tuple[Batch, Any]]:
        """Yield the share of each batch that has the truth of a head, with the head's predictions."""
        for batch, predictions in batches:
            chosen, share = self.view_truth(name, batch)
            if chosen:
                found = [predictions[i][name] for i in chosen]
                yield share, torch.stack(found) if isinstance(found[0], Tensor) else found

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Pass the epoch on to the tasks of the heads."""
        for task in self.parts.values():
            task.epoch_end(finished, epochs)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the truth of every head that the picture has."""
        known = {name: task for name, task in self.parts.items() if i in self.pictures_of(name, batch)}
        drawings = {name: task.draw_truth(self.view_batch(name, batch), i) for name, task in known.items()}
        return merge_drawings(to_picture(batch["images"][i]), drawings)

    def label_charts(self, samples: Sequence[Sample]) -> dict[str, Callable[[], Figure | None]]:
        """Return the functions that draw the labels of each head, by names such as ``labels-boxes``."""
        return {
            f"labels-{name}": partial(task.draw_labels, self.samples_of(name, samples))
            for name, task in self.parts.items()
        }

    # -- prediction ---------------------------------------------------------------------------------------------------

    @property
    def stride(self) -> int:
        """The largest stride of the heads."""
        return max(task.stride for task in self.parts.values())

    @property
    def option_names(self) -> Collection[str]:  # type: ignore[override]
        """The names of the options that a head takes."""
        return list(dict.fromkeys(name for task in self.parts.values() for name in task.option_names))

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check the options and return those of each head, which gets the ones that it takes.

        Raises:
            NetbuildError: for an option that no head takes, or a value out of range.
        """
        known = self.option_names
        refuse_options({name: value for name, value in given.items() if name not in known}, "for any of the heads")
        return {
            "heads": {
                name: task.options({key: value for key, value in given.items() if key in task.option_names})
                for name, task in self.parts.items()
            }
        }

    def make_nms_filter(self, given: Mapping[str, Any]) -> Any:
        """Refuse suppression inside an exported file, whose outputs would be those of one head alone.

        Raises:
            NetbuildError: always.
        """
        message = "--nms has no effect for several heads: a file that suppresses boxes itself has no other outputs"
        raise NetbuildError(message, hint="leave it out: netbuild predict and netbuild.runtime suppress boxes")

    def read_exported(self, outputs: Sequence[Tensor]) -> list[Any]:
        """Arrange the output tensors of an exported file like the heads' outputs in eval."""
        rest, found = list(outputs), []
        for task in self.parts.values():
            found.append(task.read_exported(rest[: task.output_count]))
            rest = rest[task.output_count :]
        return found

    def postprocess(self, outputs: Any, size: Sequence[int], **options: Any) -> list[dict[str, Any]]:
        """Decode the heads' outputs in eval for an input of this height and width: a dict by head for each image."""
        return self._decode(outputs, lambda task, found, chosen: task.postprocess(found, size, **chosen), options)

    def decode(self, outputs: Any, **options: Any) -> list[dict[str, Any]]:
        """Return for each image the prediction of each head, by its name.

        Args:
            outputs: of each head, in their order, lengths in pixels.
            options: "heads", those of each head by name.
        """
        return self._decode(outputs, lambda task, found, chosen: task.decode(found, **chosen), options)

    def _decode(
        self, outputs: Any, read: Callable[[Task, Any, Mapping[str, Any]], Any], options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        chosen = options.get("heads", {})
        pairs = zip(self.parts.items(), outputs, strict=True)
        found = {name: read(task, output, chosen.get(name, {})) for (name, task), output in pairs}
        count = len(next(iter(found.values())))
        return [{name: predictions[i] for name, predictions in found.items()} for i in range(count)]

    def records(self, prediction: Any, view: View) -> Any:
        """Return the records of each head, by its name."""
        return {name: task.records(prediction[name], view) for name, task in self.parts.items()}

    def line(self, records: Any) -> str:
        """Summarise the records of each head."""
        return "; ".join(f"{name}: {task.line(records[name])}" for name, task in self.parts.items())

    def select_confident(self, records: Any, confidence: float) -> Any:
        """Return the records of each head that its own task would draw."""
        return {n: task.select_confident(records[n], task.draw_confidence) for n, task in self.parts.items()}

    def draw(self, image: Image, prediction: Any, records: Any) -> Drawing:
        """Draw the marks of all heads on the picture, and pictures that heads make, such as depth, beside it."""
        drawings = {name: task.draw(image, prediction[name], records[name]) for name, task in self.parts.items()}
        return merge_drawings(image, drawings)

    def start_video(self, tracker: Callable[[], FrameState] | None) -> FrameState | None:
        """Return new state for the frames of one video: each head with boxes has a tracker of its own."""
        states = {
            name: task.start_video(tracker if "box" in task.record_fields else None)
            for name, task in self.parts.items()
        }
        return _SeveralStates({name: state for name, state in states.items() if state is not None})


class _SeveralStates:
    """The state of each head that has some, through the frames of one video."""

    def __init__(self, states: Mapping[str, FrameState]) -> None:
        self.states = states

    def update(self, records: Any, view: View) -> Any:
        """Return the records of the next frame, changed by the states of their heads."""
        changed: dict[str, list[Record]] = {name: s.update(records[name], view) for name, s in self.states.items()}
        return {**records, **changed}


def _names(kind: TargetKind) -> tuple[str, ...]:
    """Return the names of a kind's tensors with an entry per object; an object that makes targets may state none."""
    return getattr(kind, "object_names", ())
