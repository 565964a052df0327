"""Boxes with masks, read from coefficients and prototypes. YOLACT, arXiv 1904.02689."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from netbuild import runtime
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.tasks.base import ReadTask, Record, View
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.nms import Filter


class SegmentTask(ReadTask, BoxTask):
    """Boxes, classes, and for each box the pixels of the object."""

    name = "segment"
    record_fields = ("box", "mask")
    saves = ("pictures", "json", "crops")

    def decode(self, outputs: Any, **options: Any) -> list[tuple[Tensor, Tensor]]:
        """Of each image detections (n, 6+nm), best first, and prototypes (nm, h, w).

        Args:
            outputs: the head's in eval, with or without the raw ones.
            options: fields of `Filter`.
        """
        y, prototypes = outputs[0] if isinstance(outputs[0], tuple | list) else outputs
        return list(zip(self.chosen(y, Filter(**options)), prototypes.detach().float(), strict=True))

    def records(self, prediction: tuple[Tensor, Tensor], view: View) -> list[Record]:
        """As of detection, and a mask of the picture's pixels in COCO's run lengths."""
        rows, prototypes = prediction
        found = runtime.masks(rows.cpu().numpy(), prototypes.cpu().numpy(), view.place)
        return [{**record, **mask} for record, mask in zip(super().records(rows, view), found, strict=True)]

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Boxes and masks in the colours of their classes."""
        parts = [(runtime.mask_of(record["mask"]), class_colour(record["class"])) for record in records]
        return Drawing(image, *self.labelled(records), areas=parts)
