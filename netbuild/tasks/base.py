"""The base class of tasks: all that training, validation and prediction know of a task; and that of metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from netbuild.data.dataset import Dataset, Sample
from netbuild.data.overview import draw_labels
from netbuild.drawing.annotated import Drawing
from netbuild.drawing.charts import Figure
from netbuild.feed.labels import feed_labels, find_unused_changes
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.feed.samples import feed_scenes
from netbuild.feed.targets import Target, TargetKind
from netbuild.graph.card import NetworkCard
from netbuild.graph.heads import HeadCard
from netbuild.settings import NUMBER_SETTINGS, OWN_SETTINGS, Settings
from netbuild.tasks.inference import Inference
from netbuild.tasks.metric import Batch as Batch
from netbuild.tasks.metric import Metric as Metric
from netbuild.tasks.normaliser import Normaliser as Normaliser
from netbuild.tasks.normaliser import local_normaliser as local_normaliser
from netbuild.tasks.options import refuse_options as refuse_options
from netbuild.tasks.outputs import require_tensor as require_tensor
from netbuild.tasks.pictures import mirror_images, to_picture
from netbuild.tasks.results import TaskResults
from netbuild.tasks.view import FrameState as FrameState
from netbuild.tasks.view import Record as Record
from netbuild.tasks.view import View as View

Losses = tuple[Tensor, dict[str, Tensor]]  # the value to minimise, and its terms by name without gradient


class Task(Inference, TaskResults, ABC):
    """The loss of a head's outputs, their decoding to predictions, and the metric of these.

    Every attribute but ``name`` has a default that suits most tasks.

    Args:
        head: the network's last module.
        names: names of the classes.

    Attributes:
        name: the name that a network's file gives in ``task:``.
        trainable: whether the task has a loss and a metric.
        embedded: name of the embedded data set that is used if the user names no data.
        learns_from: kinds of data sets (`Dataset.task`) that the task can learn from; empty for all.
        counts_classes: whether the network must have as many classes as the data set.
        conditional: whether a network whose file has ``nc`` is asked for pictures of a class; its checkpoints then name
            the classes.
        takes_pictures: whether networks of the task predict on single pictures.
        usage: the command that uses a trained network, with ``{weights}`` for its file.
        measures: the metric's measures that progress and tables show, the main one first.
        unused_settings: settings without effect for this task; a run in which one differs from its default is refused.
        own_settings: those of `netbuild.settings.OWN_SETTINGS` that have an effect for this task.
        needs_labels: whether training pictures must have labels; otherwise the pictures themselves are the truth.
        whole_pictures: whether validation sees pictures in their own sizes, one at a time in each process.
        head_methods: methods that a module class must have to state this task.
        target_kinds: kinds of targets by their names in a batch; empty if each sample has one class instead.
        fitting: how a picture is fitted to the input size for prediction, a key of `netbuild.data.fitting.FITTINGS`.
        fills_border: whether pictures are fitted into the window of `Network.find_window` and mirrored around it.
        saves: the forms in which predictions can be saved, the default first.
        record_fields: which of "box", "corners", "mask" and "keypoints" each record has.
        gives_probabilities: whether `decode` returns class probabilities (nc,) for each image.
        draw_confidence: pictures drawn during validation show the records above this confidence.
        networks: names of further networks that are trained together with the run's own.
        learner: the `netbuild.training.learners.Learner` that trains on a batch, or its "module:Class"; None for the
            usual one.
        adam_betas: the decays of Adam's and AdamW's moments.
        option_names: names of the prediction options that the task takes.
        output_count: number of tensors that a head of the task gives in eval, as exported files have them.
        partial_labels: whether pictures may lack an extra of the data set: then they teach other heads.
        parts: of a task composed of those of several heads, the task of each by the head's name.
        summed: whether the loss is a sum over the batch, not a mean.
        fits_anchors: whether `fit_head` fits anchor boxes, so that the setting ``anchors`` has an effect.
        normaliser: returns what the loss is divided by; a run of several processes replaces it.
    """

    name: str
    trainable: ClassVar[bool] = True
    embedded: ClassVar[str] = ""
    learns_from: ClassVar[tuple[str, ...]] = ()
    counts_classes: ClassVar[bool] = True
    conditional: ClassVar[bool] = False
    takes_pictures: ClassVar[bool] = True
    usage: ClassVar[str] = "netbuild predict {weights} PICTURES"
    measures: ClassVar[tuple[str, ...]] = ()
    unused_settings: ClassVar[tuple[str, ...]] = (
        *("label_smoothing", "class_weights", "copy_paste", "multi_scale"),
        *NUMBER_SETTINGS,
    )
    own_settings: ClassVar[tuple[str, ...]] = ()
    needs_labels: ClassVar[bool] = True
    whole_pictures: ClassVar[bool] = False
    head_methods: ClassVar[tuple[str, ...]] = ()
    target_kinds: ClassVar[Mapping[str, type[Target]]] = {}
    fitting: str = "middle"
    fills_border: ClassVar[bool] = False
    saves: ClassVar[tuple[str, ...]] = ("json",)
    record_fields: ClassVar[tuple[str, ...]] = ()
    gives_probabilities: ClassVar[bool] = False
    draw_confidence: ClassVar[float] = 0.0
    networks: ClassVar[tuple[str, ...]] = ()
    learner: ClassVar[type[Any] | str | None] = None
    adam_betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    option_names: Collection[str] = ()
    output_count: ClassVar[int] = 1
    partial_labels: ClassVar[bool] = False
    parts: Mapping[str, "Task"] = MappingProxyType({})
    summed = False
    fits_anchors = False
    normaliser: Normaliser = staticmethod(local_normaliser)

    def __init__(self, head: nn.Module, names: list[str] | None = None) -> None:
        self.head, self.names = head, names

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the value to minimise, and its terms by name without gradient.

        Args:
            outputs: the head's outputs in training mode.
            batch: the images with their targets.
        """

    @classmethod
    def for_heads(cls, heads: Sequence[HeadCard]) -> type["Task"]:
        """Return the class of the task for a network with these heads; empty for a network with one."""
        return cls

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def task_for(cls, dataset: Dataset) -> str:
        """Return the name of the task that the same network can learn from a data set; by default this one's."""
        return cls.name

    def picture_shape(self, card: NetworkCard) -> tuple[int, tuple[int, int]]:
        """Return channels, and height and width, of the pictures of the data as the network's task needs them."""
        return card.ch, card.imgsz

    @classmethod
    def prepare_dataset(cls, dataset: Dataset) -> tuple[Dataset, str]:
        """Return the data set with what the task adds to it, such as a class, and a note on that, or ""."""
        return dataset, ""

    @classmethod
    def network_options(cls, dataset: Dataset) -> dict[str, Any]:
        """Return the `NetworkOptions` of the network's file that follow the data set, by default ``nc``."""
        return {"nc": dataset.nc} if cls.counts_classes else {}

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return settings that suit the data set; called before those that are null get their defaults."""
        return settings

    @classmethod
    def data_options(cls, dataset: Dataset) -> dict[str, Any]:
        """Return further keywords of ``__init__`` that are facts of the data set, for training and validation."""
        return {}

    @classmethod
    def card_options(cls, card: NetworkCard) -> dict[str, Any]:
        """Return further keywords of ``__init__`` that a network's card states; `data_options` replace them."""
        return {}

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return further keywords of ``__init__`` for a run with these settings and training samples."""
        return {}

    @classmethod
    def adapt_card(cls, card: NetworkCard, dataset: Dataset, settings: Settings) -> NetworkCard:
        """Return the card with what data set and settings state in its place; called before `card_options`."""
        return card

    def find_unused_settings(self, settings: Settings) -> dict[str, str]:
        """Return the settings without effect by name, each with the reason as the end of "... has no effect"."""
        others = [name for name in OWN_SETTINGS if name not in self.own_settings]
        unused = dict.fromkeys((*self.unused_settings, *others), f"for the task '{self.name}'")
        if not self.fits_anchors:
            unused["anchors"] = f"for the head {type(self.head).__name__}, which has no anchor boxes"
        return unused if self.target_kinds else unused | find_unused_changes(settings)

    @classmethod
    def default_rate(cls, nc: int) -> float | None:
        """Return the learning rate for a short run by AdamW with ``nc`` classes; None for the optimiser's default."""
        return None

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Return the network's inputs for a batch, in the order of its file: the images, then the batch's "inputs".

        Bytes become numbers from 0 to 1. Images are mirrored around themselves to the batch's "image_size", if it has
        one. A task that overrides this supplies all inputs itself.
        """
        values = mirror_images([batch["images"], *batch.get("inputs", ())], batch.get("image_size"))
        return [value.float() / 255 if value.dtype is torch.uint8 else value for value in values]

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of augmented samples of a split, and the function that collates them into a batch."""
        if self.target_kinds:
            return feed_scenes(samples, options, self.make_kinds(options.learning), self.stride)
        return feed_labels(samples, options)

    def make_kinds(self, learning: bool) -> Mapping[str, TargetKind]:
        """Return the kinds of targets by name, for training or for validation; by default ``target_kinds``."""
        return self.target_kinds

    @classmethod
    def has_truth(cls, sample: Sample) -> bool:
        """Whether a picture has what the task learns from; one of several heads does not learn from the others."""
        return True

    def complete_samples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return samples, all of which have a truth, with what the task makes of their labels."""
        return list(samples)

    @classmethod
    def decode_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the options of `decode` for validation."""
        return {}

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> str | None:
        """Check that the samples of a split have what the task needs, beyond the kinds of ``learns_from``.

        Return a note if some of them have less than the task could use.

        Raises:
            NetbuildError: if they do not.
        """

    def check_loss(self) -> None:
        """Check that the head can be trained, not only decoded.

        Raises:
            NetbuildError: if it cannot.
        """

    def fit_head(self, samples: Sequence[Sample], size: tuple[int, int], settings: Settings) -> str:
        """Fit values of the head, such as anchor boxes, to the training samples before the first step.

        Args:
            samples: the training samples.
            size: height and width of the network's input in pixels.
            settings: the settings of the run.

        Returns:
            A note on what was found and changed; "" if there was nothing to fit.

        Raises:
            NetbuildError: if its values cannot be trained and are to be kept.
        """
        return ""

    def complete_card(self, card: NetworkCard) -> NetworkCard:
        """Return the card of the network in training with what the task knows of its data, for its checkpoints."""
        return card

    def targets(self, batch: Batch) -> dict[str, Any]:
        """Return the ``targets`` for rows whose forward has a parameter of this name: the batch without its inputs."""
        return {name: value for name, value in batch.items() if name not in ("images", "inputs", "image_size")}

    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the smallest loss that any outputs could reach for these targets.

        It is 0 unless the targets are soft: then their entropy remains.
        """
        return 0.0

    def postprocess(self, outputs: Any, size: Sequence[int], **options: Any) -> Any:
        """Decode the head's outputs in eval for an input of this height and width: `scale_to_pixels`, then `decode`."""
        return self.decode(self.scale_to_pixels(outputs, size), **options)

    @abstractmethod
    def decode(self, outputs: Any, **options: Any) -> Any:
        """Return a sequence with the prediction of each image, in pixels of the network's input.

        Args:
            outputs: the head's outputs in eval, lengths in pixels.
            options: those of `decode_options` in validation, those of `options` in prediction.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """Return a new, empty metric."""

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the batch's picture ``i`` with its targets; by default the picture alone."""
        return Drawing(to_picture(batch["images"][i]))

    def draw_labels(self, samples: Sequence[Sample]) -> Figure | None:
        """Draw statistics of the labels of training samples; None if the task has no classes."""
        return draw_labels(samples, self.names) if self.names else None

    def label_charts(self, samples: Sequence[Sample]) -> dict[str, Callable[[], Figure | None]]:
        """Return functions that draw statistics of the labels of training samples, by the name of the chart's file."""
        return {"labels": lambda: self.draw_labels(samples)}

    @property
    def calibrates(self) -> bool:
        """Whether `calibrate` has something to fit."""
        return False

    def calibrate(self, head: nn.Module, predictions: Iterable[tuple[Batch, Any]]) -> None:
        """Fit values of the head that the loss does not teach; called before each validation in training.

        Args:
            head: the head of the averaged network, whose buffers may be changed in place.
            predictions: batches of training pictures without augmentation, and what `postprocess` gives for them. In a
                run of several processes each has its share of a batch.
        """

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Called after each epoch, and when a run is resumed, with the number of finished epochs and of all."""
