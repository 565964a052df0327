"""An answer for every pixel: its class, or its distance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from netbuild import runtime
from netbuild.costs.outputs import first_tensor
from netbuild.data.fitting import Letterbox
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.tasks.base import ReadTask, Record, View


class PixelTask(ReadTask):
    """A map for every picture, which the network sees whole."""

    fitting = "letterbox"
    saves = ("pictures", "json")

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """The maps (B, k, h, w), of what the network sees."""
        found = first_tensor(outputs)
        assert found is not None, "the network gives no tensor"
        return found.detach().float()


class SemanticTask(PixelTask):
    """The class of every pixel."""

    name = "semantic"
    record_fields = ("mask",)

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Each class that occurs, the largest area first: its share of the picture, its mask in COCO's run lengths."""
        found = runtime.areas(runtime.labelled(prediction.cpu().numpy(), view.place))
        return [{"class": number, "name": self.class_name(number), **told} for number, told in found]

    def line(self, records: Sequence[Record]) -> str:
        """The classes with their shares."""
        return ", ".join(f"{record['name']} {record['share']:.2f}" for record in records)

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """The picture tinted by class, the names under it."""
        parts = [(runtime.mask_of(record["mask"]), class_colour(record["class"])) for record in records]
        shares = [(record["name"], record["share"], class_colour(record["class"])) for record in records]
        return Drawing(image, areas=parts, bars=shares)


class DepthTask(PixelTask):
    """The distance of every pixel."""

    name = "depth"

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """The least, the middle and the largest distance."""
        return [runtime.span(runtime.distances(prediction.cpu().numpy(), view.place))]

    def line(self, records: Sequence[Record]) -> str:
        """The distances in few words."""
        return ", ".join("{nearest} to {farthest}, median {median}".format(**record) for record in records)

    def draw(self, image: Image, prediction: Tensor, records: Sequence[Record]) -> Drawing:
        """The distances as a picture: what is near is bright."""
        values = prediction.cpu().numpy()
        shape = image.shape[0], image.shape[1]
        found = runtime.distances(values, Letterbox.fit(shape, (values.shape[1], values.shape[2])))
        near, far = found.min(), found.max()
        grey = np.rint(255 * (far - found) / max(far - near, 1e-9)).astype(np.uint8)
        return Drawing(np.ascontiguousarray(grey[..., None].repeat(3, 2)))
