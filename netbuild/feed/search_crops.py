"""Pairs of crops around one object: an exemplar, and a larger search image in which it is to be found.

Fully convolutional siamese networks learn from them (SiamFC, arXiv 1606.09549). The two crops are from two frames of a
video, or from the same picture where there are no tracks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.data.dataset import Floats, Sample
from netbuild.data.fitting import Image, resize
from netbuild.feed import pictures
from netbuild.feed.loader import Batch, ImageCache, image_to_tensor
from netbuild.settings import Settings

MAX_GAP = 100  # frames between the two crops of a pair at most
LEAST_SIDE = 4.0  # pixels; objects with a shorter side show nothing that could be found again
SHIFT = 0.125  # of the search image's side: largest shift of the object in pictures that are measured


@dataclass(frozen=True)
class CropPair:
    """A pair of crops.

    Attributes:
        exemplar: (C, h, w) bytes, with the object in the middle.
        search: (C, H, W) bytes, with the object near the middle.
        box: (4,) centre x, centre y, width and height of the object in pixels of the search image.
    """

    exemplar: torch.Tensor
    search: torch.Tensor
    box: torch.Tensor


@dataclass
class CropPairSamples:
    """A pair of crops for each picture that has an object, which is chosen at random.

    Args:
        samples: the samples of a split; those without a large enough object are left out.
        exemplar_side: pixels of the square exemplar.
        search_side: pixels of the square search image.
        channels: number of channels of both.
        settings: of augmentation; None for pairs that are measured.
        cache: of decoded pictures.
    """

    samples: Sequence[Sample]
    exemplar_side: int
    search_side: int
    channels: int = 3
    settings: Settings | None = None
    cache: ImageCache = field(default_factory=ImageCache)

    def __post_init__(self) -> None:
        found = [(sample, objects) for sample in self.samples if len(objects := find_objects(sample))]
        self.samples, self.objects = [sample for sample, _ in found], [objects for _, objects in found]
        self.frames: dict[tuple[str, str], list[int]] = {}  # of each video, in their order
        for index, sample in enumerate(self.samples):
            if sample.video:
                self.frames.setdefault((sample.part, sample.video), []).append(index)
        self.places = {index: place for indices in self.frames.values() for place, index in enumerate(indices)}

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, index: int, rng: Generator, epoch: int) -> CropPair:
        """Return a pair of crops for a random object of picture ``index``."""
        return self.make_pair(index, int(rng.choice(self.objects[index])), rng)

    def make_pair(self, index: int, chosen: int, rng: Generator) -> CropPair:
        """Return the exemplar of an object of picture ``index``, and a search image for it."""
        other, found = self.choose_frame(index, chosen, rng)
        first, second = self.read_box(index, chosen), self.read_box(other, found)
        s = self.settings
        zoom = 1.0 if s is None else float(np.exp(rng.uniform(-1, 1) * np.log1p(s.scale or 0.0)))
        shift = SHIFT if s is None else s.translate or 0.0
        offset = rng.uniform(-shift, shift, 2) * self.search_side
        exemplar = crop_square(self.image(index), first[:2], context_side(first), self.exemplar_side)
        side = context_side(second) * self.search_side / self.exemplar_side * zoom
        ratio = self.search_side / side
        search = crop_square(self.image(other), second[:2] - offset / ratio, side, self.search_side)
        box = np.concatenate((self.search_side / 2 + offset, second[2:] * ratio))
        if s is not None:
            exemplar, search = (pictures.jitter_colors(image, rng, s) for image in (exemplar, search))
            exemplar, search, box = mirror_pair(exemplar, search, box, rng.random() < (s.flip_lr or 0.0))
        return CropPair(image_to_tensor(exemplar), image_to_tensor(search), torch.from_numpy(box.astype(np.float32)))

    def choose_frame(self, index: int, chosen: int, rng: Generator) -> tuple[int, int]:
        """Return another frame with the same object, at most `MAX_GAP` frames away, and the object's number in it.

        It is the same picture where there is none.
        """
        sample = self.samples[index]
        if sample.tracks is None or not sample.video:
            return index, chosen
        frames, place = self.frames[sample.part, sample.video], self.places[index]
        for other in rng.permutation(frames[max(place - MAX_GAP, 0) : place + MAX_GAP + 1]).tolist():
            tracks = self.samples[other].tracks
            same = [
                i for i in self.objects[other].tolist() if tracks is not None and tracks[i] == sample.tracks[chosen]
            ]
            if other != index and same:
                return other, same[0]
        return index, chosen

    def image(self, index: int) -> Image:
        """Return a decoded picture (H, W, C)."""
        return self.cache.get(index, lambda i: self.samples[i].image(self.channels))  # type: ignore[no-any-return]

    def read_box(self, index: int, chosen: int) -> Floats:
        """Return centre x, centre y, width and height of an object in pixels of its picture."""
        boxes = self.samples[index].boxes
        assert boxes is not None
        h, w = self.image(index).shape[:2]
        return boxes[chosen, 1:] * (w, h, w, h)  # type: ignore[no-any-return]


def find_objects(sample: Sample) -> NDArray[np.int64]:
    """Return the numbers of a sample's objects with sides of at least `LEAST_SIDE` pixels; crowds are no objects."""
    if sample.boxes is None or not len(sample.boxes) or sample.size is None:
        return np.zeros(0, np.int64)
    large = (sample.boxes[:, 3:] * sample.size >= LEAST_SIDE).all(1)
    return np.flatnonzero(large if sample.crowd is None else large & ~sample.crowd)


def context_side(box: Floats) -> float:
    """Return the side of the square that is cut out for a box: with p = (w + h) / 4, sqrt((w + 2p)(h + 2p))."""
    w, h = float(box[2]), float(box[3])
    margin = (w + h) / 2
    return float(np.sqrt((w + margin) * (h + margin)))


def crop_square(image: Image, centre: Floats, side: float, size: int) -> Image:
    """Cut out a square and resize it; what lies outside of the picture has the picture's mean colour.

    Args:
        image: (H, W, C).
        centre: x and y in pixels.
        side: of the square in pixels of the picture.
        size: of the result in pixels.
    """
    h, w = image.shape[:2]
    count = max(round(side), 1)
    left, top = (round(float(c) - count / 2) for c in centre)
    square = np.empty((count, count, image.shape[2]), np.uint8)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + count, w), min(top + count, h)
    if (x2 - x1, y2 - y1) != (count, count):
        square[:] = image.mean((0, 1)).round()
    if x2 > x1 and y2 > y1:
        square[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    return resize(square, size, size)


def mirror_pair(exemplar: Image, search: Image, box: Floats, is_mirrored: bool) -> tuple[Image, Image, Floats]:
    """Mirror both crops and the box, if so decided."""
    if not is_mirrored:
        return exemplar, search, box
    box = box.copy()
    box[0] = search.shape[1] - box[0]
    return exemplar[:, ::-1], search[:, ::-1], box


def collate_pairs(items: Sequence[CropPair]) -> Batch:
    """Make a batch: "images" (B, C, H, W) the search images, "exemplar" (B, C, h, w), "box" (B, 4)."""
    return {
        "images": torch.stack([item.search for item in items]),
        "exemplar": torch.stack([item.exemplar for item in items]),
        "box": torch.stack([item.box for item in items]),
    }
