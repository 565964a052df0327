"""Following one object by its appearance: a siamese network scores where in a search image an exemplar is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from netbuild.data.dataset import DETECT, Dataset, Sample
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.errors import NetbuildError
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.feed.search_crops import CropPairSamples, collate_pairs, find_objects
from netbuild.settings import BOX_SETTINGS, LABEL_SETTINGS, NUMBER_SETTINGS, SCENE_SETTINGS, Settings
from netbuild.tasks.base import Batch, Losses, Record, Task
from netbuild.tasks.location_metric import LocationMetric
from netbuild.tasks.outputs import require_tensor
from netbuild.tasks.pictures import to_picture
from netbuild.tasks.score_maps import cell_centres, cell_stride

RADIUS = 16.0  # pixels of the search image: places so near the object's centre are right
SCALE = 0.05  # default of the setting: change of size between exemplar and search image
TRANSLATE = 0.125  # default of the setting: shift of the object in the search image


class TrackTask(Task):
    """The logistic loss of a score map, with as much weight on right places as on wrong ones. arXiv 1606.09549.

    The network's first input is the exemplar, the second the search image. A batch has "images", the search images,
    "exemplar" and "box" (B, 4): centre x, centre y, width and height of the object in pixels of the search image.
    """

    name = "track"
    embedded = "shapes-video"
    learns_from = (DETECT,)
    counts_classes = False
    measures = ("precision-20px", "center-error")
    takes_pictures = False
    usage = "netbuild track {weights} VIDEO --box x,y,width,height"
    unused_settings = (
        *("label_smoothing", "class_weights", "multi_scale", "mixup", "cutmix", "rect", "allow_background"),
        *("degrees", "shear", "perspective", "flip_ud", "rot90", "imgsz"),
        *(*SCENE_SETTINGS, *BOX_SETTINGS, *LABEL_SETTINGS, *NUMBER_SETTINGS),
    )

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return the settings with small changes of scale and place where they leave these open."""
        scale, translate = settings.scale, settings.translate
        return replace(
            settings,
            scale=SCALE if scale is None else scale,
            translate=TRANSLATE if translate is None else translate,
        )

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> str | None:
        """Check that there are objects, and say how many pictures have none.

        Raises:
            NetbuildError: if no picture has one.
        """
        used = sum(len(find_objects(sample)) > 0 for sample in samples)
        if not used:
            raise NetbuildError(f"{dataset.name}: no picture has an object that could be followed")
        videos = len({(sample.part, sample.video) for sample in samples if sample.video})
        source = f"{videos} videos" if videos else "single pictures, so both crops of a pair are from the same one"
        return f"note: pairs of crops are cut from {used:,} of {len(samples):,} pictures, {source}"

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of pairs of crops, and the function that batches them.

        Raises:
            NetbuildError: unless the network has two square inputs of images, the second larger.
        """
        shapes = [shape for _, shape in options.inputs]
        if len(shapes) != 2 or any(len(s) != 3 or s[1] != s[2] for s in shapes) or shapes[0][1] >= shapes[1][1]:
            hint = "inputs: {exemplar: [3, 127, 127], search: [3, 255, 255]}"
            raise NetbuildError("the task 'track' needs an exemplar and a larger search image as inputs", hint=hint)
        (channels, exemplar, _), (_, search, _) = shapes
        source = CropPairSamples(samples, exemplar, search, channels, options.augmentation, options.cache())
        return source, collate_pairs

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Return exemplars and search images, from 0 to 1."""
        return [batch[name].float() / 255 for name in ("exemplar", "images")]

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the mean over the pairs of the weighted logistic loss."""
        scores = read_scores(outputs)
        right = find_right_places(batch["box"], scores, batch["images"].shape[-2:])
        loss = F.binary_cross_entropy_with_logits(scores, right, reduction="none")
        weights = sum(part / part.sum((1, 2), keepdim=True).clamp(min=1) / 2 for part in (right, 1 - right))
        total = (loss * weights).sum((1, 2)).mean()
        return total, {"logistic": total.detach()}

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return the score maps (B, h, w)."""
        return read_scores(outputs).detach()

    def metric(self) -> LocationMetric:
        """Return a metric of the distances between true and found centres."""
        return LocationMetric()

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the search image with the object's box, and the exemplar in its corner."""
        image, exemplar = to_picture(batch["images"][i]).copy(), to_picture(batch["exemplar"][i])[::2, ::2]
        image[: exemplar.shape[0], : exemplar.shape[1]] = exemplar
        x, y, w, h = batch["box"][i].tolist()
        box = np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
        return Drawing(image, box, [""], [class_colour(0)])

    # -- prediction ---------------------------------------------------------------------------------------------------

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw the box of the object that is followed, with its score."""
        boxes = np.array([record["box"] for record in records]).reshape(-1, 4)
        labels = [f"{record['confidence']:.2f}" for record in records]
        return Drawing(image, boxes, labels, [class_colour(record["id"]) for record in records])


def read_scores(outputs: Any) -> Tensor:
    """Return the score map (B, h, w) among a network's outputs, in float32.

    Raises:
        NetbuildError: if it has more than one channel.
    """
    scores = require_tensor(outputs).float()
    if scores.ndim != 4 or scores.shape[1] != 1:
        message = f"the task 'track' learns from scores (B, 1, h, w), the network gives {[*scores.shape]}"
        raise NetbuildError(message, hint="its last rows correlate the exemplar with the search image, see siamfc.yaml")
    return scores[:, 0]


def find_right_places(boxes: Tensor, scores: Tensor, size: Sequence[int]) -> Tensor:
    """Return 1 for the cells (B, h, w) within `RADIUS` pixels of the object's centre, else 0.

    Args:
        boxes: (B, 4) centre x, centre y, width, height in pixels.
        scores: (B, h, w) the map.
        size: height and width of the search image.
    """
    axes = [
        cell_centres(count, side, cell_stride(count, side)).to(boxes)
        for count, side in zip(scores.shape[1:], size, strict=True)
    ]
    dy, dx = axes[0] - boxes[:, 1:2], axes[1] - boxes[:, :1]
    return (dy[:, :, None].square() + dx[:, None].square() <= RADIUS**2).to(scores)
