"""Instance segmentation: boxes with masks from coefficients and prototypes. YOLACT, arXiv 1904.02689."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from netbuild import runtime
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.tasks.base import PredictOnlyTask, Record, View
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.nms import Filter


class SegmentTask(PredictOnlyTask, BoxTask):
    """Boxes with classes, and a mask of each object's pixels."""

    name = "segment"
    embedded = "shapes-segment"
    record_fields = ("box", "mask")
    saves = ("pictures", "json", "crops")

    def decode(self, outputs: Any, **options: Any) -> list[tuple[Tensor, Tensor]]:
        """Return for each image its detections (n, 6+nm), best first, and prototypes (nm, h, w).

        Args:
            outputs: (prediction, prototypes) of the head in eval, or a tuple that begins with this pair.
            options: fields of `Filter`.
        """
        y, prototypes = outputs[0] if isinstance(outputs[0], tuple | list) else outputs
        return list(zip(self.select_rows(y, Filter(**options)), prototypes.detach().float(), strict=True))

    def records(self, prediction: tuple[Tensor, Tensor], view: View) -> list[Record]:
        """Return the records of detection with "mask": the picture's pixels as COCO's run lengths."""
        rows, prototypes = prediction
        fields = runtime.mask_fields(rows.cpu().numpy(), prototypes.cpu().numpy(), view.letterbox)
        return self.add_fields(super().records(rows, view), fields)

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw boxes and masks in the colours of their classes."""
        parts = [(runtime.mask_of(record["mask"]), class_colour(record["class"])) for record in records]
        return Drawing(image, *self.label_boxes(records), areas=parts)
