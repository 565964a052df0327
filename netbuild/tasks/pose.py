"""Pose estimation: boxes with keypoints. YOLO-Pose, arXiv 2204.06806."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from netbuild import runtime
from netbuild.data.dataset import Dataset, Sample
from netbuild.drawing.annotated import Colour, Drawing, Image, join_keypoints
from netbuild.errors import NetbuildError
from netbuild.feed.samples import BOX_KINDS
from netbuild.feed.targets import KeypointTarget, Target
from netbuild.graph.card import NetworkCard
from netbuild.layers.heads.base import traits
from netbuild.settings import Settings
from netbuild.tasks.base import Batch, Metric, Record, View
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.keypoint_math import choose_sigmas
from netbuild.tasks.keypoint_metric import KeypointMetric
from netbuild.tasks.losses.base import Gains, HeadLoss
from netbuild.tasks.losses.pose import PoseLoss

MIN_VISIBILITY = 0.5  # keypoints below it are not drawn


class PoseTask(BoxTask):
    """Boxes with classes and keypoints, see `BoxTask`.

    A batch also has "keypoints" (M, K, 3): x and y in fractions of the image, and the visibility, which is 0 where a
    point is not annotated.

    Args:
        head, names, gains, class_weights: see `BoxTask`.
        sigmas: (K,) standard deviations of the keypoints, as fractions of the square root of an object's area; COCO's
            for 17 keypoints, else 1 / K for each, unless given.
        skeleton: pairs of keypoints, by number, that drawings join with a line.

    Raises:
        NetbuildError: if the sigmas are of another number than the head's keypoints; see also `BoxTask`.
    """

    name = "pose"
    embedded = "shapes-pose"
    target_kinds: ClassVar[Mapping[str, type[Target]]] = {**BOX_KINDS, "keypoints": KeypointTarget}
    measures = ("pose-mAP50-95", "PCK", "point-error", "mAP50-95", "mAP50")
    record_fields = ("box", "keypoints")
    skeleton: tuple[tuple[int, int], ...] = ()

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        gains: Gains | None = None,
        class_weights: Tensor | None = None,
        sigmas: Sequence[float] | None = None,
        skeleton: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.skeleton = tuple(skeleton)
        shape = traits(head).extra
        self.sigmas = choose_sigmas(shape[0], sigmas) if len(shape) == 2 else ()
        super().__init__(head, names, gains, class_weights)

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def network_options(cls, dataset: Dataset) -> dict[str, Any]:
        """Return the number of classes, and the shape of the keypoints if the data set has some."""
        shape = dataset.keypoint_shape
        return {**super().network_options(dataset), **({"kpt_shape": shape} if shape else {})}

    @classmethod
    def data_options(cls, dataset: Dataset) -> dict[str, Any]:
        """Return the sigmas and the skeleton that the data set states."""
        return {"sigmas": dataset.keypoint_sigmas, "skeleton": dataset.skeleton}

    @classmethod
    def card_options(cls, card: NetworkCard) -> dict[str, Any]:
        """Return the skeleton of the data that the network was trained on."""
        return {"skeleton": card.skeleton}

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Turn flips off for data that do not state which keypoint becomes which in a mirror; the scan notes it.

        Raises:
            NetbuildError: if the settings ask for flips of such data, or for copy-paste, which pastes mirrored objects.
        """
        if dataset.keypoint_swap:
            return settings
        for name in ("flip_lr", "flip_ud", "copy_paste"):
            if getattr(settings, name):
                message = f"{name} needs to know which keypoint becomes which in a mirror"
                raise NetbuildError(message, hint="write flip_idx into the data file, or leave it out")
        return replace(settings, flip_lr=0.0)

    def complete_card(self, card: NetworkCard) -> NetworkCard:
        """Return the card with the data set's skeleton, so that drawings of predictions join keypoints by it."""
        return replace(super().complete_card(card), skeleton=self.skeleton)

    def make_loss(self, gains: Gains | None, class_weights: Tensor | None) -> HeadLoss | None:
        """Return the loss that the head names, with the sigmas of the keypoints."""
        loss = super().make_loss(gains, class_weights)
        if isinstance(loss, PoseLoss):
            loss.set_sigmas(self.sigmas)
        return loss

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> str | None:
        """Check that the data set has as many keypoints as the head.

        Raises:
            NetbuildError: if it has none, or another number.
        """
        shape, extra = dataset.keypoint_shape, self.extra
        if shape is None:
            hint = "write kpt_shape: [number of keypoints, 2 or 3] into the data file, keypoints into the labels"
            raise NetbuildError(f"{dataset.name} has no keypoints, which the task '{self.name}' needs", hint=hint)
        if shape[0] != extra[0]:
            message = f"{dataset.name} has {shape[0]} keypoints, the head of the network {extra[0]}"
            hint = f"write kpt_shape: {list(shape)} into the network's file, and kpt_shape into the row of its head"
            raise NetbuildError(message, hint=hint)
        return None

    def metric(self) -> Metric:
        """Return a metric of boxes and of keypoints."""
        return KeypointMetric(self.class_names, self.extra, self.sigmas)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the picture with its boxes and the keypoints that are annotated."""
        drawing, chosen = super().draw_truth(batch, i), batch["index"].view(-1) == i
        h, w = batch["images"].shape[-2:]
        points = batch["keypoints"][chosen].detach().cpu().float().numpy()
        found = [(p[:, :2] * (w, h), p[:, 2] > 0) for p in points]
        return replace(drawing, **self.draw_keypoints(found, drawing.colours))

    def draw_keypoints(self, found: Sequence[tuple[Any, Any]], colours: Sequence[Colour]) -> dict[str, Any]:
        """Return the fields of a drawing for keypoints: dots, and the lines of the skeleton.

        Args:
            found: for each object its keypoints (K, 2) in pixels, and which of them are drawn, (K,).
            colours: of the objects.
        """
        dots, lines = [], []
        for (places, seen), tint in zip(found, colours, strict=True):
            dots.append((places[seen], tint))
            lines.append((join_keypoints(places, seen, self.skeleton), tint))
        return {"points": dots, "lines": lines}

    # -- prediction ---------------------------------------------------------------------------------------------------

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return the records of detection and "keypoints": x, y in pixels, perhaps outside the picture, visibility."""
        fields = runtime.keypoint_fields(prediction.cpu().numpy(), self.extra, view.letterbox)
        return self.add_fields(super().records(prediction, view), fields)

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``class cx cy w h x y visibility ... confidence``, lengths as fractions of the picture."""
        h, w = size
        lines = []
        for record, line in zip(records, super().rows(records, size), strict=True):
            box, confidence = line.rsplit(" ", 1)
            points = (f"{v:.6f}" for x, y, *more in record["keypoints"] for v in (x / w, y / h, *more))
            lines.append(" ".join((box, *points, confidence)))
        return lines

    def label_rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``class cx cy w h x y visibility ...`` to train on, visibility 2 or 0.

        It is 0, as are x and y, where a keypoint is likely hidden, or outside the picture. Of keypoints of two values
        these have negative places, as data sets mark them.
        """
        (h, w), values, lines = size, self.extra[1], []
        for record, line in zip(records, super().rows(records, size), strict=True):
            words = [line.rsplit(" ", 1)[0]]
            for (x, y), seen in zip(*read_keypoints(record), strict=True):
                is_inside = bool(seen) and 0 <= x <= w and 0 <= y <= h
                place = (x / w, y / h) if is_inside else (0.0, 0.0) if values == 3 else (-1.0, -1.0)
                words += [f"{value:.6f}" for value in place] + ([str(2 * is_inside)] if values == 3 else [])
            lines.append(" ".join(words))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw boxes, the keypoints that are likely visible, and the lines of the skeleton between them."""
        boxes, labels, colours = self.label_boxes(records)
        found = [read_keypoints(record) for record in records]
        return Drawing(image, boxes, labels, colours, **self.draw_keypoints(found, colours))


def read_keypoints(record: Record) -> tuple[Any, Any]:
    """Return the keypoints (K, 2) of a record, and which of them are likely visible, (K,)."""
    points = np.array(record["keypoints"])
    seen = points[:, 2] >= MIN_VISIBILITY if points.shape[1] == 3 else np.ones(len(points), bool)
    return points[:, :2], seen
