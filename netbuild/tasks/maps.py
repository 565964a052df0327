"""Predictions for every pixel: semantic segmentation and depth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from netbuild import runtime
from netbuild.costs.outputs import first_tensor
from netbuild.data.fitting import Letterbox
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.tasks.base import PredictOnlyTask, Record, View


class PixelTask(PredictOnlyTask):
    """A map (k, h, w) for each image, which is letterboxed so that no part is cut off."""

    fitting = "letterbox"
    saves = ("pictures", "json")

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return the maps (B, k, h, w) of the network's input."""
        found = first_tensor(outputs)
        assert found is not None, "the network has no tensor among its outputs"
        return found.detach().float()


class SemanticTask(PixelTask):
    """The class of every pixel."""

    name = "semantic"
    embedded = "shapes"
    record_fields = ("mask",)

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


class DepthTask(PixelTask):
    """The distance of every pixel."""

    name = "depth"
    embedded = "shapes"

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return one record with the nearest, the median and the farthest distance."""
        return [runtime.summarize_depth(runtime.resample_depth(prediction.cpu().numpy(), view.letterbox))]

    def line(self, records: Sequence[Record]) -> str:
        """Summarise the range and the median of the distances."""
        return ", ".join("{nearest} to {farthest}, median {median}".format(**record) for record in records)

    def draw(self, image: Image, prediction: Tensor, records: Sequence[Record]) -> Drawing:
        """Draw the distances in grey; near is bright."""
        values = prediction.cpu().numpy()
        shape = image.shape[0], image.shape[1]
        found = runtime.resample_depth(values, Letterbox.fit(shape, (values.shape[1], values.shape[2])))
        near, far = found.min(), found.max()
        grey = np.rint(255 * (far - found) / max(far - near, 1e-9)).astype(np.uint8)
        return Drawing(np.ascontiguousarray(grey[..., None].repeat(3, 2)))
