"""Samples as scenes: pictures with targets of any kinds, augmented together, brought to one size and batched."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.data.fitting import Image, Letterbox, pad, resize
from netbuild.errors import NetbuildError
from netbuild.feed import pictures, scenes
from netbuild.feed.loader import Batch, Collate, FeedOptions, ImageCache, image_to_tensor
from netbuild.feed.scenes import Scene
from netbuild.feed.targets import BoxTarget, InputPictureTarget, PolygonTarget, Target, TargetKind
from netbuild.feed.targets.base import Tensors
from netbuild.settings import Settings
from netbuild.system.packages import cv2

Kinds = Mapping[str, TargetKind]
BOX_KINDS: Mapping[str, type[Target]] = {"boxes": BoxTarget, "polygons": PolygonTarget}


@dataclass(frozen=True)
class SceneItem:
    """One sample, ready for a batch.

    Args:
        scene: the picture in the network's size, with its targets.
        letterbox: where the sample's picture lies in it; after augmentation the whole of it.
        originals: targets for the picture in its original size, by their names in a batch.
    """

    scene: Scene
    letterbox: Letterbox
    originals: Tensors = field(default_factory=dict)


@dataclass
class SceneSamples:
    """Pictures with targets.

    Args:
        samples: the samples of a split.
        size: side of the network's square image in pixels.
        channels: number of channels of the network's image.
        settings: of augmentation; None for letterboxed pictures without augmentation.
        cache: of decoded pictures and extras.
        kinds: the kind of each target, by its name in the scene.
        picture_channels: number of channels of second pictures, by name; 3 unless given.
        short_side: whether the shorter side of a picture is resized to the network's, rather than the longer one.
        originals: names of targets that are also given for the picture in its original size, if it is not augmented.
        groups: the group of each sample, of which alone the pictures are taken that it is mixed with; empty if all
            samples are one group.
        resizing: how pictures are resized, see `netbuild.data.fitting.resize`.
    """

    samples: Sequence[Sample]
    size: int
    channels: int = 3
    settings: Settings | None = None
    cache: ImageCache = field(default_factory=ImageCache)
    kinds: Kinds = field(default_factory=lambda: BOX_KINDS)
    picture_channels: Mapping[str, int] = field(default_factory=dict)
    short_side: bool = False
    originals: tuple[str, ...] = ()
    groups: Sequence[int] = ()
    resizing: str = "area"

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, index: int, rng: Generator, epoch: int) -> SceneItem:
        """Return a sample, augmented if there are settings; all random numbers come from ``rng``."""
        if self.settings is None:
            return self.letterbox(index)
        scene = self.augment(index, rng, epoch)
        return SceneItem(scene, Letterbox.fit((self.size, self.size), (self.size, self.size)))

    def load(self, index: int) -> Scene:
        """Read a sample as a scene whose picture is resized; decoded arrays come from the cache."""
        image = self.cache.get(index, self.read_image)
        size, sample = (image.shape[0], image.shape[1]), self.samples[index]
        read = partial(self.read_extra, index, size)
        return Scene(image, {name: kind.from_sample(name, sample, size, read) for name, kind in self.kinds.items()})

    def read_image(self, index: int) -> Image:
        """Decode a sample's picture and resize its longer (or shorter) side to the network's."""
        image = self.samples[index].image(self.channels)
        ratio = self.size / (min if self.short_side else max)(image.shape[:2])
        h, w = (max(round(side * ratio), 1) for side in image.shape[:2])
        return image if ratio == 1 else resize(image, h, w, self.resizing)

    def read_extra(self, index: int, size: tuple[int, int], name: str, kind: str) -> NDArray[Any]:
        """Return one of a sample's extras, cached, resized as its picture was to (height, width).

        An extra that is 2, 3, ... times as large as the picture stays so many times as large.
        """

        def read(_: Any) -> NDArray[Any]:
            sample = self.samples[index]
            values = sample.extra(name, kind, self.picture_channels.get(name, 3))
            scale = round(values.shape[0] / original_size(sample)[0])
            h, w = size[0] * scale, size[1] * scale
            if values.shape[:2] == (h, w):
                return values
            if kind == "picture":
                return resize(values, h, w, self.resizing)
            return cv2().resize(values, (w, h), interpolation=cv2().INTER_NEAREST_EXACT).reshape(h, w, -1)

        return self.cache.get((index, name), read)

    def canvas_size(self, index: int) -> tuple[int, int]:
        """Return height and width of the network's image of a sample in validation."""
        return self.size, self.size

    def letterbox(self, index: int) -> SceneItem:
        """Return a sample without augmentation, as validation sees it."""
        scene, (height, width) = self.load(index), self.canvas_size(index)
        h, w = scene.size
        top, left = max((height - h) // 2, 0), max((width - w) // 2, 0)
        image = pad(scene.image, (height, width), (top, left))
        place = Letterbox(original_size(self.samples[index]), (h, w), (top, left))
        shifted = replace(scene.shift(left, top, (height, width)), image=image)
        return SceneItem(shifted, place, self.read_originals(index))

    def read_originals(self, index: int) -> Tensors:
        """Return the targets named by ``originals`` as tensors, for the picture in its original size."""
        sample = self.samples[index]

        def read(name: str, kind: str) -> NDArray[Any]:
            return self.cache.get((index, name, "original"), lambda _: sample.extra(name, kind))

        found: Tensors = {}
        for name in self.originals:
            size = original_size(sample)
            found |= self.kinds[name].from_sample(name, sample, size, read).tensors(size)
        return found

    def augment(self, index: int, rng: Generator, epoch: int) -> Scene:
        """Return a sample with random augmentation, as training sees it."""
        s = self.settings
        assert s is not None
        composing = epoch < s.epochs - s.close_mosaic  # the last epochs see pictures as they are
        scene = self.compose(index, rng, composing)
        for probability, mix in ((s.mixup, scenes.mix_up), (s.cutmix, scenes.cut_mix)):
            if composing and probability and rng.random() < probability:
                (other,) = self.choose_others(index, rng, 1)
                scene = mix(scene, self.compose(other, rng, composing), rng)
        if not any(target.fixes_colors for target in scene.targets.values()):
            scene = replace(scene, image=pictures.jitter_colors(scene.image, rng, s))
        return scenes.flip_randomly(scene, rng, s)

    @cached_property
    def members(self) -> dict[int, NDArray[np.int64]]:
        """The samples of each group."""
        groups = np.asarray(self.groups)
        return {int(group): np.flatnonzero(groups == group) for group in np.unique(groups)}

    def choose_others(self, index: int, rng: Generator, count: int) -> list[int]:
        """Return ``count`` random samples that may be mixed with a sample."""
        if not len(self.groups):
            return rng.integers(len(self), size=count).tolist()
        members = self.members[int(self.groups[index])]
        return members[rng.integers(len(members), size=count)].tolist()

    def compose(self, index: int, rng: Generator, composing: bool) -> Scene:
        """Return one sample or, if ``composing``, perhaps a mosaic of four, randomly warped into the square."""
        s = self.settings
        assert s is not None
        if rng.random() < (1.0 if s.mosaic is None else s.mosaic) and composing:
            loaded = [self.load(i) for i in (index, *self.choose_others(index, rng, 3))]
            scene = scenes.make_mosaic(loaded, self.size, rng)
        else:
            scene = self.load(index)
        if composing and s.copy_paste:
            scene = scenes.copy_paste(scene, s.copy_paste)
        return scenes.warp(scene, self.size, rng, s)


class RectangularSamples(SceneSamples):
    """Samples sorted by their shape; each batch has the narrowest letterbox that its pictures allow.

    Args:
        samples: the samples of a split, whose sizes must be known.
        size: the longer side of the network's image.
        channels: number of channels of the network's image.
        batch: number of samples in a batch.
        stride: both sides of a letterbox are multiples of it.
        options: further fields of `SceneSamples`.
    """

    def __init__(
        self, samples: Sequence[Sample], size: int, channels: int, batch: int, stride: int = 32, **options: Any
    ) -> None:
        ordered = sorted(samples, key=_aspect)
        super().__init__(ordered, size, channels, None, **options)
        self.batch = batch
        groups = [ordered[i : i + batch] for i in range(0, len(ordered), batch)]
        self.canvases = [_narrowest([_aspect(s) for s in group], size, stride) for group in groups]

    def canvas_size(self, index: int) -> tuple[int, int]:
        return self.canvases[index // self.batch]


class FixedSizeSamples(SceneSamples):
    """Samples letterboxed into images of one (height, width), for a network that takes no other size.

    Args:
        samples: the samples of a split.
        shape: height and width of the network's image.
        channels: number of channels of the network's image.
        options: further fields of `SceneSamples`.
    """

    def __init__(self, samples: Sequence[Sample], shape: tuple[int, int], channels: int, **options: Any) -> None:
        super().__init__(samples, max(shape), channels, None, **options)
        self.shape = shape

    def read_image(self, index: int) -> Image:
        image = self.samples[index].image(self.channels)
        h, w = Letterbox.fit((image.shape[0], image.shape[1]), self.shape).inner
        return image if image.shape[:2] == (h, w) else resize(image, h, w, self.resizing)

    def canvas_size(self, index: int) -> tuple[int, int]:
        return self.shape


class StretchedSamples(FixedSizeSamples):
    """Samples stretched to one (height, width), whatever their aspect ratio is; see `FixedSizeSamples`.

    Args:
        samples, shape, channels, options: as for `FixedSizeSamples`.
        settings: of augmentation, for a square image; None for no augmentation.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        shape: tuple[int, int],
        channels: int,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        super().__init__(samples, shape, channels, **options)
        self.settings = settings

    def read_image(self, index: int) -> Image:
        image = self.samples[index].image(self.channels)
        return image if image.shape[:2] == self.shape else resize(image, *self.shape, self.resizing)


def _aspect(sample: Sample) -> float:
    """Return height over width; 1 if the size is not known."""
    return sample.size[1] / sample.size[0] if sample.size else 1.0


def _narrowest(aspects: Sequence[float], size: int, stride: int) -> tuple[int, int]:
    """Return the smallest height and width for pictures of these aspects.

    Half a stride is added as a margin, then both sides are rounded up to a multiple of the stride.
    """
    tall, wide = 1.0, 1.0
    if max(aspects) < 1:
        tall = max(aspects)
    elif min(aspects) > 1:
        wide = 1 / min(aspects)
    return ceil(tall * size / stride + 0.5) * stride, ceil(wide * size / stride + 0.5) * stride


def original_size(sample: Sample) -> tuple[int, int]:
    """Return height and width of a sample's picture before it was resized; decodes it if the size is not known."""
    if sample.size:
        return sample.size[1], sample.size[0]
    h, w = sample.image(1).shape[:2]
    return h, w


def collate_scenes(items: Sequence[SceneItem]) -> Batch:
    """Make a batch of samples: "images" (B, C, H, W), "letterbox", and what each kind of target makes of its own.

    "originals" has for each picture the targets in its original size; it is there if the samples have any.
    """
    batch: Batch = {"images": torch.stack([image_to_tensor(item.scene.image) for item in items])}
    for name, target in items[0].scene.targets.items():
        batch |= type(target).collate([item.scene.targets[name].tensors(item.scene.size) for item in items])
    if items[0].originals:
        batch["originals"] = [item.originals for item in items]
    return {**batch, "letterbox": [item.letterbox for item in items]}


def feed_scenes(
    samples: Sequence[Sample],
    options: FeedOptions,
    kinds: Kinds = BOX_KINDS,
    stride: int = 32,
    short_side: bool = False,
    originals: tuple[str, ...] = (),
    groups: Sequence[int] = (),
) -> tuple[SceneSamples, Collate]:
    """Return samples with targets for a network, and the function that makes batches of them.

    Args:
        samples: the samples of a split.
        options: how batches are made for the network.
        kinds: the kind of each target, by its name in the scene; boxes with their polygons unless given.
        stride: both sides of the images in validation are multiples of it, in pixels.
        short_side: whether pictures for training are resized by their shorter side and then cropped by the warp.
        originals: names of targets that batches for validation also have for the picture in its original size.
        groups: the group of each sample: pictures of different groups are not mixed. All are one group unless given.

    Raises:
        NetbuildError: if a sample lacks an extra that one of the kinds needs.
    """
    kinds = {**kinds, **{name: InputPictureTarget for name in options.pictures if name not in kinds}}
    for name, kind in kinds.items():
        lacking = next((sample for sample in samples if kind.needs_extra and name not in sample.extras), None)
        if lacking is not None:
            hint = f"name it in the data file, such as extras: {{{name}: picture}}; see docs/data.md"
            raise NetbuildError(f"{lacking.path}: the sample has no '{name}', which the network needs", hint=hint)
    if options.learning:  # a crowd is no object that a network could learn
        samples = [sample.without_crowds() for sample in samples]
    side, channels = max(options.imgsz), options.channels
    common: dict[str, Any] = {"cache": options.cache(), "kinds": kinds, "picture_channels": options.pictures}
    common["resizing"] = options.resizing
    common |= {"short_side": short_side, "groups": groups} if options.learning else {"originals": originals}
    if options.fitting == "stretch":
        if options.settings.rect:
            raise NetbuildError("rect has no effect: the network takes stretched pictures", hint="leave it out")
        shape = options.canvas or (side, side)
        return StretchedSamples(samples, shape, channels, options.augmentation, **common), collate_scenes
    if options.canvas:
        return FixedSizeSamples(samples, options.canvas, channels, **common), collate_scenes
    if options.learning or options.settings.rect is False:
        return SceneSamples(samples, side, channels, options.augmentation, **common), collate_scenes
    return RectangularSamples(samples, side, channels, options.batch, stride, **common), collate_scenes
