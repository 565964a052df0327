"""Instance segmentation: boxes with masks from coefficients and prototypes. YOLACT, arXiv 1904.02689."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from netbuild import runtime
from netbuild.data.contours import trace_mask
from netbuild.data.dataset import Dataset, Sample
from netbuild.data.shapes.raster import join_loops
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.errors import NetbuildError
from netbuild.feed.targets import BoxTarget, MaskKind, MaskTarget, Target, TargetKind
from netbuild.feed.targets.masks import draw_instances
from netbuild.layers.heads.base import traits
from netbuild.tasks.base import Batch, Metric, Record, View
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.mask_metric import MaskMetric
from netbuild.tasks.nms import Filter


class SegmentTask(BoxTask):
    """Boxes with classes, and a mask of each object's pixels.

    A batch also has "instances" (B, h, w), the objects of each image counted from 1, "has_outline" (M,), and in
    validation "outlines", the polygons of each object in pixels of the input; see `netbuild.feed.targets.MaskTarget`.
    """

    name = "segment"
    embedded = "shapes-segment"
    measures: ClassVar[tuple[str, ...]] = ("mask-mAP50-95", "mask-mAP50", "mAP50-95", "mAP50")
    target_kinds: ClassVar[Mapping[str, type[Target]]] = {"boxes": BoxTarget, "polygons": MaskTarget}
    record_fields = ("box", "mask")
    output_count = 2  # the detections and the prototypes

    # -- training -----------------------------------------------------------------------------------------------------

    @property
    def mask_stride(self) -> int:
        """Pixels of the input per place of the prototypes, which are twice as fine as the head's finest map."""
        strides = traits(self.head).stride
        return max(round(min(strides) / 2), 1) if strides else MaskTarget.stride

    def make_kinds(self, learning: bool) -> Mapping[str, TargetKind]:
        """Return the kinds of targets, with masks as fine as the prototypes."""
        return {**self.target_kinds, "polygons": MaskKind(self.mask_stride, gives_outlines=not learning)}

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> str:
        """Return a note if some objects have only boxes, which train no masks.

        Raises:
            NetbuildError: if none has a polygon.
        """
        super().check_samples(dataset, samples)
        count = sum(len(sample.boxes) for sample in samples if sample.boxes is not None)
        lacking = count - sum(bool(outline) for sample in samples for outline in sample.outlines)
        if count and lacking == count:
            hint = "label polygons, or train a network for boxes, such as yolo11n.yaml"
            message = f"{dataset.name} has only boxes; the task '{self.name}' learns masks from polygons"
            raise NetbuildError(message, hint=hint)
        if not lacking:
            return ""
        return f"note: {dataset.name}: {lacking} of {count} objects have a box and no polygon: they train no mask"

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the picture with the boxes, classes and masks of its objects."""
        drawing = super().draw_truth(batch, i)
        h, w = drawing.image.shape[:2]
        if "outlines" in batch:
            rows = (batch["index"].view(-1) == i).nonzero().view(-1).tolist()
            instances = draw_instances([batch["outlines"][row] for row in rows], (h, w))
        else:
            coarse = batch["instances"][i].cpu().numpy()
            y, x = (np.arange(side) * count // side for side, count in ((h, coarse.shape[0]), (w, coarse.shape[1])))
            instances = coarse[np.ix_(y, x)]
        objects = np.unique(instances[instances > 0])
        return replace(drawing, areas=[(instances == number, drawing.colours[number - 1]) for number in objects])

    def metric(self) -> Metric:
        """Return a metric of mAP by COCO's definition, precision, recall and F1, of boxes and of masks."""
        return MaskMetric(self.class_names)

    # -- prediction ---------------------------------------------------------------------------------------------------

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

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``class x1 y1 x2 y2 ... confidence``: a polygon around the mask, in fractions of the picture.

        Its parts are joined by bridges without width. An object without a pixel has the corners of its box.
        """
        h, w = size
        lines = []
        for record in records:
            parts = trace_mask(runtime.mask_of(record["mask"]))
            x1, y1, x2, y2 = record["box"]
            polygon = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]) if not parts else parts[0]
            for part in parts[1:]:
                polygon = join_loops(polygon, part)
            numbers = [f"{value:.6f}" for value in (polygon / (w, h)).ravel().tolist()]
            lines.append(" ".join([str(record["class"]), *numbers, f"{record['confidence']:.6f}"]))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw boxes and masks in the colours of their classes."""
        parts = [(runtime.mask_of(record["mask"]), class_colour(record["class"])) for record in records]
        return Drawing(image, *self.label_boxes(records), areas=parts)
