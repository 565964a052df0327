"""Semantic segmentation: the class of every pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from netbuild import runtime
from netbuild.data.dataset import DETECT, Dataset, Sample
from netbuild.data.map_faults import MASK
from netbuild.data.maps import IGNORED
from netbuild.drawing import charts
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.errors import NetbuildError
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.feed.outline_maps import draw_class_maps
from netbuild.feed.samples import BOX_KINDS, feed_scenes
from netbuild.feed.targets import ClassMapTarget, Target
from netbuild.settings import BOX_SETTINGS, LABEL_SETTINGS, NUMBER_SETTINGS, Settings
from netbuild.tasks.base import Batch, Record, View
from netbuild.tasks.map_task import MapTask
from netbuild.tasks.pictures import to_picture
from netbuild.tasks.semantic_metric import SemanticMetric

BACKGROUND = "background"  # the name of the class of what no outline covers
COUNTED = 500  # training pictures whose pixels are counted, evenly spread over all


class SemanticTask(MapTask):
    """The class of every pixel; see `netbuild.tasks.losses.semantic.SemanticLoss`.

    A batch has "mask" (B, 1, H, W), the class of each pixel, 255 where it is not known. For training the shorter side
    of a picture is resized to the network's, and the warp crops a square. Data with outlines instead of masks get a
    further class for what no outline covers.
    """

    name = "semantic"
    embedded = "shapes"
    learns_from: ClassVar[tuple[str, ...]] = (DETECT,)
    measures: ClassVar[tuple[str, ...]] = ("mIoU", "pixel-accuracy")
    unused_settings: ClassVar[tuple[str, ...]] = (
        *("label_smoothing", *BOX_SETTINGS, *LABEL_SETTINGS, *NUMBER_SETTINGS),
    )
    target_kinds: ClassVar[Mapping[str, type[Target]]] = {MASK: ClassMapTarget}
    extra_name = MASK
    fitting = "letterbox"
    record_fields = ("mask",)

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def prepare_dataset(cls, dataset: Dataset) -> tuple[Dataset, str]:
        """Return the data set with a class for the background if class maps must be drawn from outlines; and a note."""
        if MASK in dataset.extras or dataset.task != DETECT or BACKGROUND in dataset.names:
            return dataset, ""
        note = (
            f"note: {dataset.name} has no '{MASK}': class maps are drawn from the outlines of its objects; what they "
            f"do not cover is the class {dataset.nc}, '{BACKGROUND}'"
        )
        return replace(dataset, names=(*dataset.names, BACKGROUND)), note

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return the weights of the classes if the settings ask for them: (1 / ln(1.02 + share of pixels))^power.

        They are 1 on average (ENet, arXiv 1606.02147).
        """
        if not settings.class_weights:
            return {}
        counts = count_pixels(draw_class_maps(samples, nc - 1), nc)
        shares = counts / max(counts.sum(), 1)
        weights = torch.tensor([(1 / log(1.02 + share)) ** settings.class_weights for share in shares.tolist()])
        return {"class_weights": weights / weights.mean()}

    @property
    def background(self) -> int:
        """The class of what no outline covers: the one with this name, which `prepare_dataset` adds, else the last."""
        names = self.names or [BACKGROUND]
        return names.index(BACKGROUND) if BACKGROUND in names else len(names) - 1

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> None:
        """Check that each sample has a class map, or outlines of all its objects.

        Raises:
            NetbuildError: if one has neither.
        """
        for sample in samples:
            if not self.has_truth(sample):
                message = f"{sample.path}: has neither a class map '{MASK}' nor outlines of its objects"
                raise NetbuildError(message, hint="name the folder of the class maps in the data file: masks: FOLDER")
        if not any(MASK in sample.extras or len(sample.outlines) for sample in samples):
            raise NetbuildError(
                f"{dataset.name} has neither class maps nor outlines, which the task '{self.name}' learns from",
                hint="name the folder of the class maps in the data file: masks: FOLDER",
            )

    @classmethod
    def has_truth(cls, sample: Sample) -> bool:
        """Whether a picture has a class map, or outlines of all its objects."""
        count = 0 if sample.boxes is None else len(sample.boxes)
        return MASK in sample.extras or (len(sample.outlines) >= count and all(sample.outlines))

    def complete_samples(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples with class maps, which are drawn from outlines where there are none."""
        return draw_class_maps(samples, self.background)

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of samples with class maps; copy-paste needs their boxes and outlines, too."""
        # Objects are listed only where copy-paste needs them: they would keep CutMix from covering them.
        with_objects = options.learning and options.settings.copy_paste
        kinds = {**(BOX_KINDS if with_objects else {}), **self.target_kinds}
        return feed_scenes(
            self.complete_samples(samples), options, kinds, self.stride, short_side=True, originals=(MASK,)
        )

    def metric(self) -> SemanticMetric:
        """Return a metric of the mean IoU and the accuracy of pixels.

        Raises:
            ValueError: if the classes have no names.
        """
        if self.names is None:
            raise ValueError("the metric needs the names of the classes")
        return SemanticMetric(self.names)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Tint the picture by class; pixels that do not count keep their colours."""
        classes = batch[MASK][i, 0].cpu().numpy()
        if len(self.names or ()) == 1:
            classes = np.where(classes == 1, 0, IGNORED)
        image = to_picture(batch["images"][i])
        parts = [(classes == number, class_colour(int(number))) for number in np.unique(classes) if number != IGNORED]
        return Drawing(image, areas=parts if classes.shape == image.shape[:2] else ())

    def draw_labels(self, samples: Sequence[Sample]) -> charts.Figure:
        """Draw the number of pixels of each class."""
        names, drawn = self.names or [], self.complete_samples(samples)
        if len(names) == 1:
            return charts.plot_labels(count_pixels(drawn, 2), [BACKGROUND, *names], unit="pixels")
        return charts.plot_labels(count_pixels(drawn, len(names)), names, unit="pixels")

    # -- prediction ---------------------------------------------------------------------------------------------------

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return each class that occurs, largest area first, with its share of the picture and its mask (COCO RLE)."""
        found = runtime.list_areas(runtime.classify_pixels(prediction.cpu().numpy(), view.letterbox))
        return [{"class": number, "name": self.class_name(number), **area} for number, area in found]

    def line(self, records: Sequence[Record]) -> str:
        """List the classes with their shares."""
        return ", ".join(f"{record['name']} {record['share']:.2f}" for record in records)

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Tint the picture by class, with the shares as bars."""
        parts = [(runtime.mask_of(record["mask"]), class_colour(record["class"])) for record in records]
        shares = [(record["name"], record["share"], class_colour(record["class"])) for record in records]
        return Drawing(image, areas=parts, bars=shares)


def count_pixels(samples: Sequence[Sample], nc: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count the pixels (nc,) of each class in the class maps of at most `COUNTED` samples."""
    counts = np.zeros(256, np.int64)
    step = max(len(samples) / COUNTED, 1)
    for i in range(min(len(samples), COUNTED)):
        values = samples[int(i * step)].extra(MASK, "classes")
        counts += np.bincount(values.astype(np.int64).clip(0, IGNORED).ravel(), minlength=256)
    return counts[:nc]
