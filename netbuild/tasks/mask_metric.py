"""The metric of instance segmentation: figures of boxes and of masks by COCO's definition."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild import runtime
from netbuild.data.fitting import Letterbox
from netbuild.system.packages import package
from netbuild.tasks.average_precision import Floats, Ints
from netbuild.tasks.base import Batch
from netbuild.tasks.coco_evaluation import BoxEvaluation, CocoEvaluation
from netbuild.tasks.object_metric import ObjectMetric
from netbuild.tasks.overlap_evaluation import OverlapEvaluation

RunLengths = dict[str, Any]  # a mask in COCO's compressed form: "size" (height, width) and "counts" (bytes)
Size = tuple[int, int]  # height and width in pixels


class MaskMetric(ObjectMetric):
    """Figures of boxes as `netbuild.tasks.detection_metric.DetectionMetric` has them, and of masks with ``mask-``.

    Masks are compared in the resolution of the original picture, or of the network's input if a batch has no
    "letterbox". They are kept as run lengths: 300 masks of a picture take some 50 KB.
    """

    lists = (*ObjectMetric.lists, "sizes", "found_masks", "true_masks")

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.sizes: list[Size] = []
        self.found_masks: list[list[RunLengths]] = []  # for each image those of its detections
        self.true_masks: list[list[RunLengths]] = []

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: for each image its detections (n, 6+nm) and prototypes (nm, h, w), as
                `netbuild.tasks.segment.SegmentTask.decode` returns them.
            batch: as `ObjectMetric.update` takes it, with "outlines", the polygons of each object, a list of arrays
                (K, 2) in pixels of the input. The mask of an object without polygons is its box.

        Raises:
            MissingExtraError: without faster-coco-eval.
        """
        super().update([rows for rows, _ in predictions], batch)
        input_size = batch["images"].shape[-2:]
        index = batch["index"].view(-1).tolist()
        for i, (rows, prototypes) in enumerate(predictions):
            letterbox = batch["letterbox"][i] if "letterbox" in batch else Letterbox.fit(input_size, input_size)
            size = letterbox.size
            fields = runtime.mask_fields(rows.cpu().numpy(), prototypes.cpu().numpy(), letterbox)
            outlines = [batch["outlines"][j] for j, image in enumerate(index) if image == i]
            polygons = [[runtime.map_to_picture(polygon, letterbox) for polygon in outline] for outline in outlines]
            true = self.truths[len(self.sizes)]
            self.found_masks.append(compress([field["mask"] for field in fields]))
            self.true_masks.append(
                [draw_outline(outline or [box_outline(row)], size) for outline, row in zip(polygons, true, strict=True)]
            )
            self.sizes.append(size)

    def evaluations(self) -> Sequence[OverlapEvaluation]:
        """Return the evaluation of boxes by their IoU, and that of masks."""
        boxes = self.names, self.detections, self.truths
        return [BoxEvaluation(*boxes), MaskEvaluation(*boxes, self.sizes, self.found_masks, self.true_masks)]


class MaskEvaluation(CocoEvaluation):
    """Masks, compared by their IoU.

    Args:
        names, detections, truths: as `OverlapEvaluation` takes them.
        sizes: height and width of each picture.
        found_masks: for each picture the masks of its detections.
        true_masks: for each picture the masks of its objects.
    """

    prefix = "mask-"
    iou_type = "segm"

    def __init__(
        self,
        names: Sequence[str],
        detections: Sequence[Floats],
        truths: Sequence[Floats],
        sizes: Sequence[Size],
        found_masks: Sequence[Sequence[RunLengths]],
        true_masks: Sequence[Sequence[RunLengths]],
    ) -> None:
        super().__init__(names, detections, truths)
        self.sizes, self.found_masks, self.true_masks = sizes, found_masks, true_masks

    def overlap(self, picture: int, found: Ints, true: Ints) -> Floats:
        """Return the IoU of the masks of detections with those of objects."""
        return self._compare(picture, found, true, is_crowd=False)

    def crowd_share(self, picture: int, found: Ints, crowds: Ints) -> Floats:
        """Return the share of each detection's mask that lies in each crowd's."""
        return self._compare(picture, found, crowds, is_crowd=True)

    def found_areas(self, picture: int) -> Floats:
        """Return the number of pixels of each detection's mask."""
        return _areas(self.found_masks[picture])

    def true_areas(self, picture: int) -> Floats:
        """Return the number of pixels of each object's mask."""
        return _areas(self.true_masks[picture])

    def image_fields(self, picture: int) -> dict[str, Any]:
        """Return the picture's size."""
        height, width = self.sizes[picture]
        return {"height": height, "width": width}

    def found_fields(self, picture: int, number: int) -> dict[str, Any]:
        """Return the mask of a detection."""
        return {"segmentation": self.found_masks[picture][number]}

    def true_fields(self, picture: int, number: int) -> dict[str, Any]:
        """Return the mask of an object."""
        return {"segmentation": self.true_masks[picture][number]}

    def _compare(self, picture: int, found: Ints, true: Ints, is_crowd: bool) -> Floats:
        if not len(found) or not len(true):
            return np.zeros((len(found), len(true)))
        masks = [self.found_masks[picture][i] for i in found], [self.true_masks[picture][i] for i in true]
        return np.asarray(_mask_tools().iou(*masks, [int(is_crowd)] * len(true)))


def compress(masks: Sequence[runtime.Array]) -> list[RunLengths]:
    """Return masks, encoded as `netbuild.runtime.encode_mask` does, in COCO's compressed form.

    Raises:
        MissingExtraError: without faster-coco-eval.
    """
    convert = _mask_tools().frPyObjects
    return [convert(mask, *mask["size"]) for mask in masks]


def draw_outline(polygons: Sequence[NDArray[Any]], size: Size) -> RunLengths:
    """Return the mask of an object with these polygons (K, 2), in pixels, as COCO's tools draw it.

    A pixel belongs to it if the polygons wind around it: a hole is a polygon of the other direction.

    Raises:
        MissingExtraError: without faster-coco-eval.
    """
    tools, (height, width) = _mask_tools(), size
    # COCO's tools know no polygon of fewer than three points.
    points = [polygon.ravel().tolist() for polygon in polygons if len(polygon) > 2]
    parts = tools.frPyObjects(points, height, width) if points else []
    if len(parts) == 1:
        return parts[0]
    winding = np.zeros(size, np.int16)
    for polygon, part in zip((p for p in polygons if len(p) > 2), parts, strict=True):
        following = np.roll(polygon, -1, 0)
        sign = np.sign((polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]).sum())
        winding += tools.decode(part).astype(np.int16) * int(sign)
    return tools.encode(np.asfortranarray(winding != 0, np.uint8))


def box_outline(row: Floats) -> Floats:
    """Return the polygon (4, 2) of a box whose row begins with its corners."""
    return row[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)


def _areas(masks: Sequence[RunLengths]) -> Floats:
    return np.asarray(_mask_tools().area(list(masks)), dtype=float) if masks else np.zeros(0)


def _mask_tools() -> Any:
    return package("faster_coco_eval", "train").mask
