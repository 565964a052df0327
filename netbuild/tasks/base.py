"""What a task is to those who train, validate and predict: they know none of its insides."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from netbuild.data.dataset import Sample
from netbuild.data.fitting import Letterbox
from netbuild.drawing.annotated import Drawing, Image
from netbuild.errors import NetbuildError, shorten
from netbuild.feed.labels import feed_labels
from netbuild.feed.loader import Collate, Feeding, SampleSource
from netbuild.feed.samples import feed_scenes
from netbuild.feed.targets import Target
from netbuild.layers.heads.base import traits
from netbuild.settings import Settings

Batch = Mapping[str, Any]  # "images" (B, C, H, W), and what the task's own docstring names
Losses = tuple[Tensor, dict[str, Tensor]]
Record = dict[str, Any]  # one thing that is found in a picture, as JSON data


@dataclass(frozen=True)
class View:
    """A picture as it is, upright, and where it lies in what the network saw of it.

    Args:
        image: (H, W, 3), RGB.
        place: the way from the network's pixels back to the picture's.
    """

    image: Image
    place: Letterbox


class FrameState(Protocol):
    """State that prediction carries through the frames of one video, such as a tracker."""

    def update(self, records: list[Record], view: View) -> list[Record]:
        """Take the records of the next frame, in the order of the video, and return those of the result."""


def class_weights(counts: Tensor, power: float) -> Tensor:
    """Factors count^-power, 1 on average, from the number of objects of each class; an unseen class gets the mean."""
    seen = counts > 0
    weights = counts.clamp(min=1).double().pow(-power)
    weights[~seen] = weights[seen].mean() if seen.any() else 1.0
    return (weights / weights.mean()).float()


def class_counts(samples: Sequence[Sample], nc: int) -> Tensor:
    """(nc,) the number of objects, or of pictures, of each class."""
    found = [sample.boxes[:, 0] if sample.boxes is not None else [sample.label or 0] for sample in samples]
    return torch.bincount(torch.tensor([int(c) for classes in found for c in classes]), minlength=nc)


class Metric(ABC):
    """A score over a data set, fed batch by batch.

    To be merged from several processes it names its attributes: ``lists`` with an entry a picture, in the order of
    `update`, and ``counts``, numbers or arrays to be added up.
    """

    lists: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()

    @abstractmethod
    def update(self, predictions: Any, batch: Batch) -> None:
        """Add what `Task.decode` made of a batch, and the truth."""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Figures by name; "fitness", the larger the better, is the one by which weights are chosen."""

    def classes(self) -> list[dict[str, Any]]:
        """A row of figures for each class, where there are classes."""
        return []

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Charts by the name of their file: what makes each, a figure of `netbuild.drawing.charts`."""
        return {}

    def state(self) -> dict[str, Any]:
        """What was added so far, as data."""
        return {name: getattr(self, name) for name in (*self.lists, *self.counts)}

    def merge(self, states: Sequence[Mapping[str, Any]], places: Sequence[Sequence[int]]) -> None:
        """Have what several have; then all is as if this one had been fed with everything, in order.

        Args:
            states: of each.
            places: of each, the numbers of its pictures.
        """
        order = [place for some in places for place in some]
        for name in self.lists:
            entries = [entry for state in states for entry in state[name]]
            setattr(self, name, [e for _, e in sorted(zip(order, entries, strict=True), key=lambda pair: pair[0])])
        for name in self.counts:
            setattr(self, name, sum(state[name] for state in states))


Normaliser = Callable[[Tensor, float], Tensor]


def local_normaliser(total: Tensor, least: float) -> Tensor:
    """The loss's normaliser in a single process: the batch's total, at least ``least``."""
    return total.clamp(min=least)


class Task(ABC):
    """What is learnt from a head's outputs and how they are read.

    ``fitting`` is how a picture is brought to the network's size when it predicts, a name in
    `netbuild.data.fitting.FITTINGS`; ``saves`` are the forms in which predictions can be kept, the usual one first.

    Args:
        head: the network's last module.
        names: names of the classes.
    """

    name: str
    trainable: ClassVar[bool] = True
    embedded: ClassVar[str] = ""  # the embedded data set that is learnt where no data is named
    learns_from: ClassVar[tuple[str, ...]] = ()  # kinds of data sets (`Dataset.task`) that it learns from; empty: all
    counts_classes: ClassVar[bool] = True  # whether the network must have as many classes as the data set
    measures: ClassVar[tuple[str, ...]] = ()  # what tables and progress show of the metric, the main measure first
    # Settings that have no effect for the task: giving one is an error.
    unused_settings: ClassVar[tuple[str, ...]] = ("label_smoothing", "class_weights", "copy_paste", "multi_scale")
    head_methods: ClassVar[tuple[str, ...]] = ()  # methods that a module class must have to state this task
    # The kinds of targets that it learns from, by their names in a scene; empty: each sample has one class.
    target_kinds: ClassVar[Mapping[str, type[Target]]] = {}
    fitting: ClassVar[str] = "middle"
    saves: ClassVar[tuple[str, ...]] = ("json",)
    record_fields: ClassVar[tuple[str, ...]] = ()  # which of "box", "corners", "mask", "keypoints" each record has
    gives_probabilities: ClassVar[bool] = False  # whether `decode` gives the probabilities (nc,) of an image's classes
    shown: ClassVar[float] = 0.0  # confidence above which pictures of validation show what is found
    networks: ClassVar[tuple[str, ...]] = ()  # further networks that learn beside the run's own, by name
    learner: ClassVar[type[Any] | None] = None  # how a batch is learnt, a `netbuild.training.learners.Learner`
    summed = False  # whether the loss grows with the batch, rather than being a mean over it
    normaliser: Normaliser = staticmethod(local_normaliser)  # replaced in a run of several processes

    def __init__(self, head: nn.Module, names: list[str] | None = None) -> None:
        self.head, self.names = head, names

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """What is to be minimised, and its parts by name, without gradient; the outputs are those of training."""

    # -- training: what a run must know of the task ----------------------------------------------------------------

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """The task's own keywords of ``__init__``, from the settings of a run and its training samples."""
        return {}

    @classmethod
    def default_rate(cls, nc: int) -> float | None:
        """The learning rate of a short run by AdamW, if the task has one of its own for so many classes."""
        return None

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Return the network's inputs for a batch, in the order of its file: the images, then the batch's "inputs".

        Bytes become numbers from 0 to 1. A task that overrides this supplies all inputs itself.
        """
        values = (batch["images"], *batch.get("inputs", ()))
        return [value.float() / 255 if value.dtype is torch.uint8 else value for value in values]

    def feed(self, samples: Sequence[Sample], feeding: Feeding) -> tuple[SampleSource, Collate]:
        """Samples of a split as the network sees them, and the function that makes batches of them."""
        if self.target_kinds:
            return feed_scenes(samples, feeding, self.target_kinds, self.stride)
        return feed_labels(samples, feeding)

    @classmethod
    def decode_options(cls, settings: Settings) -> dict[str, Any]:
        """The options of `decode` in validation."""
        return {}

    def check_loss(self) -> None:  # noqa: B027  most tasks learn all heads that they read
        """Refuse a head that can be read and not learnt.

        Raises:
            NetbuildError: for such a one.
        """

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return what rows get in training whose forward has a parameter ``targets``: all of a batch but its inputs."""
        return {name: value for name, value in batch.items() if name not in ("images", "inputs")}

    def least(self, outputs: Any, batch: Batch) -> float:
        """What no network's loss could be less than, given these targets: soft ones leave their entropy."""
        return 0.0

    def placed(self, outputs: Any, canvas: Sequence[int]) -> Any:
        """Outputs of eval with all lengths in pixels of the images, whose height and width are ``canvas``.

        Heads give them so, as a rule. What this returns is what `decode` takes.
        """
        return outputs

    def read_exported(self, outputs: Sequence[Tensor]) -> Any:
        """Return the output tensors of an exported file in the form of the head's outputs in eval."""
        return read_exported(outputs)

    def predictions(self, outputs: Any, canvas: Sequence[int], **options: Any) -> Any:
        """Predictions in terms of the images, whose height and width are ``canvas``, from a head's outputs of eval."""
        return self.decode(self.placed(outputs, canvas), **options)

    @abstractmethod
    def decode(self, outputs: Any, **options: Any) -> Any:
        """Predictions in terms of the input image; the outputs are those of eval."""

    @abstractmethod
    def metric(self) -> Metric:
        """A new score."""

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """The batch's picture ``i`` with what is true of it; the plain picture unless a task has more to show."""
        return Drawing(picture(batch["images"][i]))

    def epoch_end(self, finished: int, epochs: int) -> None:  # noqa: B027  most tasks have nothing to do
        """Told after each epoch, and when training is resumed: how many are finished, of how many."""

    # -- prediction: of what `decode` gives, [i] is that of the batch's image i ---------------------------------------

    @property
    def extra(self) -> tuple[int, ...]:
        """The shape of the values that follow each box's classes, as the head states it: (17, 3) for 17 keypoints."""
        return traits(self.head).extra

    @property
    def stride(self) -> int:
        """What both sides of a letterboxed picture must be multiples of, in pixels."""
        return 32

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of `decode` for prediction, from those that a user gave by name; none is passed over in silence.

        Raises:
            NetbuildError: for one that this task or head has not, or a value that it cannot have.
        """
        return refuse(given, f"for the task '{self.name}'")

    def suppression(self, given: Mapping[str, Any]) -> Any:
        """The `netbuild.tasks.nms.Filter` that an exported file applies by itself.

        Raises:
            NetbuildError: for a task or head that has none.
        """
        raise NetbuildError(
            f"--nms has no effect for the task '{self.name}': nothing is suppressed", hint="leave it out"
        )

    def records(self, prediction: Any, view: View) -> list[Record]:
        """A picture's prediction as JSON data, in terms of the picture as it is.

        Raises:
            NetbuildError: if the task does not say how.
        """
        if not isinstance(prediction, Tensor):
            raise NetbuildError(f"the task '{self.name}' does not say what its predictions are as data: Task.records")
        return [{"value": prediction.tolist()}]

    def line(self, records: Sequence[Record]) -> str:
        """What is found in a picture, in a few words."""
        ordered = sorted((record for record in records if "name" in record), key=lambda record: record["class"])
        counts = Counter(str(record["name"]) for record in ordered)
        values = [shorten(record["value"]) for record in records if "value" in record]
        return ", ".join([*(f"{count} {name}" for name, count in counts.items()), *values]) or "nothing"

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Lines of a picture's text file; the size is the picture's height and width."""
        return []

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """The picture with what was found in it; ``image`` itself stays as it is."""
        return Drawing(image)

    def crops(self, image: Image, records: Sequence[Record]) -> list[tuple[str, Image]]:
        """Parts of the picture, each with the name of its class."""
        return []

    def frame_state(self) -> FrameState | None:
        """Return new state for the frames of a video, None if every frame is predicted for itself."""
        return None

    def class_name(self, number: int) -> str:
        """The name of a class; its number where it has none."""
        return self.names[number] if self.names and number < len(self.names) else str(number)


class ReadTask(Task):
    """A task whose predictions are read, told and shown, and which netbuild does not learn."""

    trainable = False

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """None.

        Raises:
            NetbuildError: always.
        """
        raise NetbuildError(f"the task '{self.name}' cannot be trained yet: it has no loss")

    def metric(self) -> Metric:
        """None.

        Raises:
            NetbuildError: always.
        """
        raise NetbuildError(f"the task '{self.name}' cannot be scored yet: it has no metric")


def read_exported(outputs: Sequence[Tensor]) -> Any:
    """Return a single tensor for a file with one output, a tuple for one with several."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def refuse(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Nothing, if nothing is given.

    Raises:
        NetbuildError: for the first option that is.
    """
    for name in given:
        raise NetbuildError(f"--{name.replace('_', '-')} has no effect {where}", hint="leave it out")
    return {}


def picture(image: Tensor) -> Image:
    """An image of a batch (C, H, W), numbers from 0 to 1 or bytes, for people: (H, W, 3) in bytes.

    One channel is grey; of more than three the first three are shown.
    """
    values = image.detach().cpu()
    if values.is_floating_point():
        values = (values.float() * 255).round().clamp(0, 255)
    found = values.byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(found[..., :3] if found.shape[-1] >= 3 else found[..., :1].repeat(3, -1))
