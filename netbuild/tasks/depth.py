"""Depth: the distance of every pixel."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
from netbuild.tasks.losses.depth import MIN_PIXELS, NEAREST, has_calibration
from netbuild.tasks.losses.maps import match_sizes
from netbuild.tasks.map_task import MapTask

LEAST_SLOPE = 0.2  # of a calibration; 1 / LEAST_SLOPE is the largest. A network that has learnt little may fit anything
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

    @property
    def calibrates(self) -> bool:
        """Whether the head has calibration buffers and is trained."""
        return has_calibration(self.head) and any(p.requires_grad for p in self.head.parameters())

    def calibrate(self, head: nn.Module, predictions: Iterable[tuple[Batch, Any]]) -> None:
        """Fit ln(metres) = cal_a * ln(prediction) + cal_b at the known pixels of training pictures by least squares.

        The loss leaves a common factor out of account, and augmentation makes predictions less extreme than the truth.
        """
        sums = torch.zeros(5, dtype=torch.float64)
        for batch, maps in predictions:
            found, truth = match_sizes(maps, batch[DEPTH], batch["images"].shape[-2:], align_corners=True)
            known = (truth > NEAREST) & truth.isfinite()
            x, y = (values[known].double().clamp(min=NEAREST).log().cpu() for values in (found, truth.to(found)))
            sums += torch.stack((torch.ones_like(x), x, y, x * x, x * y)).sum(1)
        # The mean over the processes: a factor of all sums does not change the fit.
        device = head.cal_b.device  # type: ignore[union-attr]
        slope, offset = fit_line(self.normaliser(sums.to(device) if device.type == "cuda" else sums, float("-inf")))
        head.cal_b.mul_(slope).add_(offset)  # type: ignore[operator, union-attr]
        head.cal_a.mul_(slope)  # type: ignore[operator, union-attr]

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


def fit_line(sums: Tensor) -> tuple[float, float]:
    """Return slope and offset of the least squares fit y = slope * x + offset.

    Where y does not grow with x the slope is 1; it is 1 and the offset 0 for fewer than `MIN_PIXELS` points.

    Args:
        sums: (5,) the number of points, and the sums of x, y, x^2 and x*y.
    """
    count = float(sums[0])
    if count < MIN_PIXELS:
        return 1.0, 0.0
    x, y, xx, xy = (sums[1:] / count).tolist()
    variance, covariance = xx - x * x, xy - x * y
    slope = min(max(covariance / variance, LEAST_SLOPE), 1 / LEAST_SLOPE) if variance > 1e-9 and covariance > 0 else 1.0
    return slope, y - slope * x


def draw_depth(values: NDArray[Any]) -> Drawing:
    """Draw distances (H, W) in grey; near is bright, and black is not known."""
    known = values > 0
    near, far = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    grey = np.where(known, np.rint(255 * (far - values) / max(far - near, 1e-9)), 0).astype(np.uint8)
    return Drawing(np.ascontiguousarray(grey[..., None].repeat(3, 2)))
