"""Depth: the distance of every pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netbuild import runtime
from netbuild.data.dataset import DETECT, Dataset, Sample
from netbuild.data.fitting import Letterbox
from netbuild.data.map_faults import DEPTH
from netbuild.drawing.annotated import Drawing, Image
from netbuild.drawing.charts import Figure
from netbuild.drawing.histogram import plot_values
from netbuild.feed.targets import DistanceMapTarget, Target
from netbuild.settings import BOX_SETTINGS, LABEL_SETTINGS, NUMBER_SETTINGS, SCENE_SETTINGS, Settings
from netbuild.tasks.base import Batch, Record, View
from netbuild.tasks.depth_metric import DepthMetric
from netbuild.tasks.losses.depth import NEAREST
from netbuild.tasks.map_task import MapTask

COUNTED = 200  # training pictures whose distances are drawn, evenly spread over all


class DepthTask(MapTask):
    """The distance of every pixel in metres; see `netbuild.tasks.losses.depth.DepthLoss`.

    A batch has "depth" (B, 1, H, W), 0 where the distance is not known. Pictures are stretched to the network's image,
    in training, validation and prediction. They are never mixed: what is nearer would no longer show in the picture.
    """

    name = "depth"
    embedded = "shapes"
    learns_from: ClassVar[tuple[str, ...]] = (DETECT,)
    counts_classes = False
    measures: ClassVar[tuple[str, ...]] = ("delta1", "abs-rel", "rmse")
    unused_settings: ClassVar[tuple[str, ...]] = (
        *("label_smoothing", "class_weights", "mixup", "cutmix", "rect", "allow_background"),
        *(*SCENE_SETTINGS, *BOX_SETTINGS, *LABEL_SETTINGS, *NUMBER_SETTINGS),
    )
    target_kinds: ClassVar[Mapping[str, type[Target]]] = {DEPTH: DistanceMapTarget}
    extra_name = DEPTH
    fitting = "stretch"

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return the settings without mosaic unless they ask for one, which is refused later."""
        return settings if settings.mosaic is not None else replace(settings, mosaic=0.0)

    def metric(self) -> DepthMetric:
        """Return a metric of the ratios of predicted and true distances."""
        return DepthMetric()

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the true distances in grey; near is bright, and black is not known."""
        return draw_depth(batch[DEPTH][i, 0].cpu().numpy())

    def draw_labels(self, samples: Sequence[Sample]) -> Figure:
        """Draw a histogram of the distances."""
        chosen = samples[:: max(len(samples) // COUNTED, 1)]
        values = [sample.extra(DEPTH, "values")[::4, ::4].ravel() for sample in chosen]
        return plot_values(np.concatenate([v[v > NEAREST] for v in values]), "distance in metres")

    # -- prediction ---------------------------------------------------------------------------------------------------

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return one record with the nearest, the median and the farthest distance."""
        return [runtime.summarize_depth(runtime.resample_depth(prediction.cpu().numpy(), view.letterbox))]

    def line(self, records: Sequence[Record]) -> str:
        """Summarise the range and the median of the distances."""
        return ", ".join("{nearest} to {farthest}, median {median}".format(**record) for record in records)

    def draw(self, image: Image, prediction: Tensor, records: Sequence[Record]) -> Drawing:
        """Draw the distances in grey; near is bright."""
        values = prediction.cpu().numpy()
        shape, size = (image.shape[0], image.shape[1]), (values.shape[1], values.shape[2])
        place = Letterbox(shape, size, (0, 0)) if self.fitting == "stretch" else Letterbox.fit(shape, size)
        return draw_depth(runtime.resample_depth(values, place))


def draw_depth(values: NDArray[Any]) -> Drawing:
    """Draw distances (H, W) in grey; near is bright, and black is not known."""
    known = values > 0
    near, far = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    grey = np.where(known, np.rint(255 * (far - values) / max(far - near, 1e-9)), 0).astype(np.uint8)
    return Drawing(np.ascontiguousarray(grey[..., None].repeat(3, 2)))
