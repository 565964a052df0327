"""The base class of tasks that predict boxes: loss, decoding, metric, records, label files and drawing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import ceil, floor
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netbuild import runtime
from netbuild.data.dataset import Dataset, Sample
from netbuild.drawing.annotated import Colour, Drawing, Image, class_colour
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.feed.samples import BOX_KINDS
from netbuild.feed.targets import Target
from netbuild.layers.heads.base import traits
from netbuild.settings import LABEL_SETTINGS, NUMBER_SETTINGS, Settings
from netbuild.tasks.base import Batch, Losses, Metric, Record, Task, View, refuse_options
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.class_weights import class_weight_option
from netbuild.tasks.detection_metric import DetectionMetric
from netbuild.tasks.losses import find as find_loss
from netbuild.tasks.losses.base import Gains, HeadLoss
from netbuild.tasks.nms import Filter, filter_rows, join_objectness, suppress
from netbuild.tasks.overlap_evaluation import CONFUSION_CONFIDENCE
from netbuild.tasks.pictures import to_picture


class BoxTask(Task):
    """Boxes with classes, and further values of each box where the head has them (`Task.extra`).

    A batch has "boxes" (M, 4) as centre and size in fractions of the image, "classes" (M,), and "index" (M,), the image
    of each box. The loss is the one that the head names by ``learns``.

    Args:
        head: a head with ``nc`` and ``box_form``, see `netbuild.layers.heads.base.Head`; its ``stride`` must be known
            unless it is None.
        names: names of the classes.
        gains: weights of the loss's terms.
        class_weights: (nc,) factors of the classes' cross-entropy.

    Raises:
        NetbuildError: if the head has no boxes or its strides are unknown.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("detect",)
    target_kinds: ClassVar[Mapping[str, type[Target]]] = BOX_KINDS
    measures: ClassVar[tuple[str, ...]] = ("mAP50-95", "mAP50", "precision", "recall")
    unused_settings: ClassVar[tuple[str, ...]] = ("label_smoothing", *LABEL_SETTINGS, *NUMBER_SETTINGS)
    draw_confidence = CONFUSION_CONFIDENCE
    summed = True
    fitting: str = "letterbox"
    record_fields: ClassVar[tuple[str, ...]] = ("box",)
    saves: ClassVar[tuple[str, ...]] = ("pictures", "txt", "labels", "json", "crops")

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        gains: Gains | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(head, names)
        kind, read = type(head).__name__, traits(head)
        if read.nc is None or not read.box_form:
            hint = "the task needs a head that lists boxes, such as Detect; see netbuild.layers.heads.base.Head"
            raise NetbuildError(f"the task '{self.name}' cannot read the head {kind}", hint=hint)
        if read.stride == ():
            raise NetbuildError(f"the strides of the head {kind}'s sources are not known")
        if read.fitting:
            self.fitting = read.fitting
        self.criterion = self.make_loss(gains, class_weights)
        self.summed = self.criterion.summed if self.criterion else True
        self.fits_anchors = self.criterion.fits_anchors if self.criterion else False

    @property
    def nc(self) -> int:
        """Number of the head's classes."""
        return int(traits(self.head).nc or 0)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, or their numbers if they have no names."""
        return self.names or [str(i) for i in range(self.nc)]

    # -- training -----------------------------------------------------------------------------------------------------

    def make_loss(self, gains: Gains | None, class_weights: Tensor | None) -> HeadLoss | None:
        """Return the loss that the head names by ``learns``; None if it names none."""
        name = traits(self.head).learns
        # A run of several processes replaces `self.normaliser` later, so the loss must look it up at each call.
        return (
            find_loss(name)(self.head, gains, class_weights, lambda total, least: self.normaliser(total, least))
            if name
            else None
        )

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return the weights of the classes if the settings ask for them."""
        return class_weight_option(settings, samples, nc)

    def find_unused_settings(self, settings: Settings) -> dict[str, str]:
        """Return the settings without effect; a head that ranks its detections needs no suppression."""
        ranks = {"iou": "without suppression"} if traits(self.head).ranks else {}
        return super().find_unused_settings(settings) | ranks

    @classmethod
    def default_rate(cls, nc: int) -> float:
        """Return a rate that falls with the number of classes, because the loss of the classes grows with it."""
        return round(0.01 / (4 + nc), 6)

    @classmethod
    def decode_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the settings' thresholds; a box may have several classes, as usual for COCO's evaluation."""
        return {"conf": settings.conf, "iou": settings.iou, "max_det": settings.max_det, "multi_label": True}

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the head's loss and its terms by name.

        Raises:
            NetbuildError: if the head names no loss.
        """
        self.check_loss()
        assert self.criterion is not None
        return self.criterion(outputs, batch)

    def check_loss(self) -> None:
        """Check that the head names a loss.

        Raises:
            NetbuildError: if it does not.
        """
        if self.criterion is None:
            message = f"the task '{self.name}' has no loss for the head {type(self.head).__name__}"
            raise NetbuildError(message, hint="a head names its loss by its attribute learns")

    def fit_head(self, samples: Sequence[Sample], size: tuple[int, int], settings: Settings) -> str:
        """Let the head's loss fit the head to the training samples, see `HeadLoss.fit_head`."""
        return self.criterion.fit_head(samples, size, settings) if self.criterion else ""

    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the smallest loss that any outputs could reach for these targets."""
        return self.criterion.lower_bound(outputs, batch) if self.criterion else 0.0

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the picture with its boxes and their classes."""
        of_image = batch["index"].view(-1) == i
        h, w = batch["images"].shape[-2:]
        boxes = to_corners(batch["boxes"].view(-1, 4)[of_image].detach().cpu().float()) * torch.tensor([w, h, w, h])
        classes = batch["classes"].view(-1)[of_image].int().tolist()
        labels, colours = [self.class_name(c) for c in classes], [class_colour(c) for c in classes]
        return Drawing(to_picture(batch["images"][i]), boxes.numpy(), labels, colours)

    @classmethod
    def has_truth(cls, sample: Sample) -> bool:
        """Whether a picture has a label file of objects, or is known to have none.

        A picture without a label file is background. Where it has a map, the objects were perhaps not labelled.
        """
        return sample.boxes is not None and not (sample.source is None and sample.extras)

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> str | None:
        """Check that there are label files of objects, not only maps.

        Raises:
            NetbuildError: if there are none.
        """
        if samples and all(sample.boxes is None for sample in samples):
            found = f": its labels are {', '.join(dataset.extras)}" if dataset.extras else ""
            hint = f"the task '{self.name}' learns from boxes or polygons; a network for maps is yolo26n-sem.yaml"
            raise NetbuildError(f"{dataset.name} has no labels of objects{found}", hint=hint)
        return None

    def metric(self) -> Metric:
        """Return a metric of mAP by COCO's definition, precision, recall and F1."""
        return DetectionMetric(self.class_names)

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Pass the epoch on to the loss, which may have a schedule."""
        if self.criterion:
            self.criterion.epoch_end(finished, epochs)

    # -- prediction ---------------------------------------------------------------------------------------------------

    def scale_to_pixels(self, outputs: Any, size: Sequence[int]) -> Any:
        """Convert the boxes of a head with ``box_form = "parts"`` (fractions of the image) to corners in pixels."""
        if traits(self.head).box_form != "parts":
            return outputs
        y = outputs[0] if isinstance(outputs, tuple | list) else outputs
        sides = y.new_tensor([size[1], size[0]] * 2)
        return torch.cat((to_corners(y[..., :4]) * sides, y[..., 4:]), -1)

    def decode(self, outputs: Any, **options: Any) -> Any:
        """Return the detections (n, 6+extra) of each image, best first: corners in pixels, score, class, extra values.

        Args:
            outputs: the head's prediction in eval, or a tuple that begins with it.
            options: fields of `Filter`.
        """
        return self.select_rows(outputs[0] if isinstance(outputs, tuple | list) else outputs, Filter(**options))

    def select_rows(self, y: Tensor, options: Filter) -> list[Tensor]:
        """Filter a head's prediction: (B, 4+nc+extra, A), which needs suppression, or detections (B, k, 6+extra).

        That of a head with objectness has rows (B, N, 5+nc) and needs suppression, too.
        """
        head = traits(self.head)
        if head.ranks:
            return filter_rows(y, options)
        return suppress(join_objectness(y) if head.has_objectness else y, options, self.nc)

    @property
    def option_names(self) -> Collection[str]:  # type: ignore[override]
        """The fields of `Filter`, without those of suppression if the head needs none."""
        unused = runtime.NMS_OPTIONS if traits(self.head).ranks else ()
        return [name for name in Filter.__dataclass_fields__ if name not in unused]

    @property
    def stride(self) -> int:
        """The head's largest stride, at least 32."""
        return max([super().stride, *map(int, traits(self.head).stride or ())])

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check the options and return them as fields of `Filter`.

        Args:
            given: fields of `Filter`; ``classes`` as numbers or names, in a list or separated by commas.

        Raises:
            NetbuildError: for any other option, for one of suppression if the head needs none, and for a wrong value.
        """
        if traits(self.head).ranks:
            unused = {name: value for name, value in given.items() if name in runtime.NMS_OPTIONS}
            refuse_options(unused, "without suppression")
        super().options({name: value for name, value in given.items() if name not in Filter.__dataclass_fields__})
        options = {**given}
        if given.get("classes") is not None:
            options["classes"] = self.class_numbers(given["classes"])
        try:
            Filter(**options)
        except runtime.RunError as error:
            raise NetbuildError(f"--{error.message.replace('max_det', 'max-det')}") from None
        return options

    def make_nms_filter(self, given: Mapping[str, Any]) -> Filter:
        """Refuse suppression inside an exported file, which only detection supports.

        Raises:
            NetbuildError: always.
        """
        # A file with suppression inside gives boxes, scores and classes alone: masks, keypoints and angles are lost.
        message = f"--nms has no effect for the task '{self.name}': only files of 'detect' suppress boxes themselves"
        hint = "leave it out: netbuild predict and netbuild.runtime suppress overlapping boxes"
        raise NetbuildError(message, hint=hint)

    def class_numbers(self, wanted: str | Sequence[str | int]) -> tuple[int, ...]:
        """Return the numbers of classes that are given by number or name; digits are a number unless a class's name.

        Raises:
            NetbuildError: for a class that does not exist.
        """
        known = [self.class_name(i) for i in range(self.nc)]
        numbers = []
        for text, number in runtime.find_classes(wanted, known):
            if number is None:
                hint = did_you_mean(text, known) or f"there is 0 to {len(known) - 1}: {', '.join(known[:20])}"
                raise NetbuildError(f"--classes: there is no class '{text}'", hint=hint)
            numbers.append(number)
        return tuple(numbers)

    def records(self, prediction: Any, view: View) -> list[Record]:
        """Return class, name, confidence and box of each detection: [x1, y1, x2, y2] in pixels of the picture."""
        corners = view.letterbox.undo(prediction[:, :4]).tolist()
        return [
            {
                "class": int(row[5]),
                "name": self.class_name(int(row[5])),
                "confidence": round(row[4], 5),
                "box": [round(x, 3) for x in box],
            }
            for box, row in zip(corners, prediction.tolist(), strict=True)
        ]

    @staticmethod
    def add_fields(records: Sequence[Record], fields: Iterable[Record]) -> list[Record]:
        """Return the records with further fields, given for each in order."""
        return [{**record, **more} for record, more in zip(records, fields, strict=True)]

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``class cx cy w h confidence``, the box in fractions of the picture's size."""
        h, w = size
        lines = []
        for record in records:
            x1, y1, x2, y2 = record["box"]
            parts = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h, record["confidence"])
            lines.append(" ".join([str(record["class"]), *(f"{part:.6f}" for part in parts)]))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw boxes with name and score."""
        return Drawing(image, *self.label_boxes(records))

    def label_boxes(self, records: Sequence[Record]) -> tuple[NDArray[Any], list[str], list[Colour]]:
        """Return the boxes (n, 4), and the label (with a tracker's number) and colour of each."""
        boxes = np.array([r["box"] for r in records]).reshape(-1, 4)
        labels = [f"{'#{} '.format(r['id']) if 'id' in r else ''}{r['name']} {r['confidence']:.2f}" for r in records]
        return boxes, labels, [class_colour(r["class"]) for r in records]

    def crops(self, image: Image, records: Sequence[Record]) -> list[tuple[str, Image]]:
        """Cut out each box, with all pixels that it touches."""
        parts = []
        for record in records:
            x1, y1, x2, y2 = record["box"]
            parts.append((record["name"], image[floor(y1) : ceil(y2), floor(x1) : ceil(x2)]))
        return [(name, part) for name, part in parts if part.size]
