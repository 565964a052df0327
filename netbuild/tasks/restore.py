"""Restoration: make pictures larger, sharper, complete, or free of noise and artefacts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netbuild import runtime
from netbuild.data.dataset import DETECT, PAIRS, PICTURES, Dataset, Sample
from netbuild.data.formats.pairs import TARGET
from netbuild.drawing.annotated import Drawing, Image
from netbuild.errors import NetbuildError
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.feed.restoration import feed_pictures, patch_unit
from netbuild.grammar.degrade import count_scale
from netbuild.grammar.nodes import parse
from netbuild.grammar.writing import to_yaml
from netbuild.graph.card import NetworkCard
from netbuild.runtime import TilePlan
from netbuild.settings import (
    BOX_SETTINGS,
    LABEL_SETTINGS,
    NUMBER_SETTINGS,
    RESTORATION_SETTINGS,
    SCENE_SETTINGS,
    Settings,
)
from netbuild.tasks.base import Batch, Losses, Record, Task, View, refuse_options
from netbuild.tasks.losses.restoration import PICTURE_LOSSES, parse_loss
from netbuild.tasks.outputs import require_tensor
from netbuild.tasks.restoration_metric import RestorationMetric

CHANNELS = {"y": 1, "grey": 1, "rgb": 3}  # of a network by the colours that it restores
MIN_TILE = 16  # pixels


class RestoreTask(Task):
    """Restored pictures. What is done to pictures for training is ``degrade``, of the settings or the network's file.

    A batch has "images" (B, C, h, w), the degraded pictures, and "target" (B, C, H, W), the truth, both from 0 to 1. A
    network that does not enlarge pictures which were made smaller gets them enlarged by bicubic interpolation.

    Args:
        head: the network's last module.
        names: of no effect: there are no classes.
        card: the network's card.
        loss: the losses of a run by name with weights, see `netbuild.tasks.losses.restoration.parse_loss`.
    """

    name = "restore"
    embedded = "shapes"
    learns_from: ClassVar[tuple[str, ...]] = (PICTURES, PAIRS, DETECT)
    counts_classes = False
    measures: ClassVar[tuple[str, ...]] = ("PSNR", "SSIM", "baseline-PSNR", "baseline-SSIM")
    unused_settings: ClassVar[tuple[str, ...]] = (
        *("label_smoothing", "class_weights", "multi_scale", "mixup", "cutmix", "rect", "allow_background"),
        *("degrees", "translate", "scale", "shear", "perspective", "hsv_h", "hsv_s", "hsv_v"),
        *(*SCENE_SETTINGS, *BOX_SETTINGS, *LABEL_SETTINGS, *NUMBER_SETTINGS),
    )
    own_settings = RESTORATION_SETTINGS
    needs_labels = False
    whole_pictures = True
    fitting = "whole"
    saves: ClassVar[tuple[str, ...]] = ("pictures", "beside", "json")
    option_names: Collection[str] = ("tiles",)

    def __init__(
        self, head: nn.Module, names: list[str] | None = None, card: NetworkCard | None = None, loss: str = "l1"
    ) -> None:
        super().__init__(head, None)
        self.card = card = card or NetworkCard("")
        self.terms = parse_loss(loss)
        self.space = card.space or _default_space(card)
        factor = count_scale(card.degrade)
        try:
            network_scale, border = runtime.find_scale(card.imgsz, (card.output or (0, *card.imgsz))[1:], factor)
        except ValueError as error:
            hint = "the setting degrade, or the key of the network's file, has downscale with the network's scale"
            raise NetbuildError(str(error), hint=hint) from None
        self.scale = max(factor, network_scale)
        self.plan = TilePlan(network_scale, border, card.stride, card.canvas)

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def adapt_card(cls, card: NetworkCard, dataset: Dataset, settings: Settings) -> NetworkCard:
        """Return the card with the degradations and the colours of the settings, else its own; of pairs their scale.

        Raises:
            NetbuildError: if the network has other channels than the colours, or pairs are to be degraded.
        """
        degrade = card.degrade if settings.degrade is None else tuple(settings.degrade)
        if dataset.task == PAIRS:
            if settings.degrade:
                raise NetbuildError("degrade has no effect on pairs, which have degraded pictures", hint="leave it out")
            scale = dataset.extras[TARGET].scale
            degrade = ({"downscale": {"factor": scale}},) if scale > 1 else ()
        elif not degrade:
            hint = "such as -O degrade='[{noise: 25}]'; or name pairs of pictures by --data"
            raise NetbuildError("nothing says how pictures are degraded, which the network is to restore", hint=hint)
        adapted = replace(card, degrade=degrade)
        space = settings.space or card.space or _default_space(adapted)
        if CHANNELS[space] != card.ch or (card.output and card.output[0] != card.ch):
            made = f"takes {card.ch} channels" + (f" and returns {card.output[0]}" if card.output else "")
            message = f"the network {made}, pictures of the space '{space}' have {CHANNELS[space]}"
            raise NetbuildError(message, hint="the setting space, or the key of the network's file: y, rgb or grey")
        if not card.yaml:  # an exported file's
            return replace(adapted, space=space)
        changes = {"degrade": list(degrade) or None, "space": space}
        return replace(adapted, space=space, yaml=to_yaml(parse(card.yaml, card.file), changes))

    @classmethod
    def card_options(cls, card: NetworkCard) -> dict[str, Any]:
        """Return the card itself."""
        return {"card": card}

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return the loss of the settings."""
        return {"loss": settings.restoration_loss}

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return the settings with AdamW and one step for each batch unless they state others.

        With SGD's usual rate such networks diverge, and they learn from many small steps.
        """
        optimizer = "adamw" if settings.optimizer == "auto" else settings.optimizer
        return replace(settings, optimizer=optimizer, accumulate=settings.accumulate or 1)

    def find_unused_settings(self, settings: Settings) -> dict[str, str]:
        """Return the settings without effect by name, each with the reason as the end of "... has no effect"."""
        unused = super().find_unused_settings(settings)
        # Not "with crop=true": no other setting would give them an effect.
        return unused | dict.fromkeys(self.unused_settings, f"for the task '{self.name}'")

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> None:
        """Check that the network enlarges pictures by as much as they are made smaller.

        Raises:
            NetbuildError: if it does not.
        """
        factor = count_scale(self.card.degrade)
        if factor != self.scale:
            hint = f"-O degrade='[{{downscale: {self.scale}}}]', or in the network's file"
            message = f"the network makes pictures {self.scale} times as large, they are made {factor} times smaller"
            raise NetbuildError(message, hint=hint)

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of pictures, and in training of random patches of them."""
        # Pairs have degraded pictures already: their card has the scale alone.
        degrade = () if TARGET in samples[0].extras else self.card.degrade
        unit = patch_unit(self.scale, self.plan.scale, self.plan.stride)
        size = options.imgsz[0] * self.plan.scale, options.imgsz[1] * self.plan.scale
        return feed_pictures(samples, replace(options, imgsz=size), degrade, self.space, unit, self.scale)

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Return the images from 0 to 1, enlarged if the network does not enlarge them itself."""
        images = super().inputs({"images": batch["images"]})[0]
        return [enlarge(images, self.scale // self.plan.scale)]

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the weighted sum of the losses, and each of them.

        A network without padding is compared with the middle of the truth.
        """
        found = require_tensor(outputs).float()
        truth = cut_middle(batch["target"], found.shape[-2:])
        terms = {name: PICTURE_LOSSES[name](found, truth) for name in self.terms}
        total = torch.stack([weight * terms[name] for name, weight in self.terms.items()]).sum()
        return total, {name: value.detach() for name, value in terms.items()}

    def run(self, network: Callable[..., Any], inputs: Sequence[Tensor]) -> Tensor:
        """Return the restored pictures (B, C, H, W) of whole pictures; large ones are divided into tiles.

        Of a network without padding the input is mirrored at its edges, so that the whole picture is restored.
        """
        images = inputs[0]

        def restore(tile: Tensor) -> Tensor:
            return require_tensor(network(tile)).float()

        plan = self.plan.for_size(int(images.shape[2]), int(images.shape[3]))
        return runtime.restore_in_tiles(restore, images, plan, torch.cat)

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return pictures (B, C, H, W) from 0 to 1."""
        return require_tensor(outputs).detach().float().clamp(0, 1)

    def metric(self) -> RestorationMetric:
        """Return a metric of PSNR and SSIM."""
        return RestorationMetric(self.space, self.scale)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the truth."""
        return Drawing(self.to_rgb(None, to_values(batch["target"][i])))

    # -- prediction ---------------------------------------------------------------------------------------------------

    def convert_pixels(self, pixels: Image, channels: int) -> Image:
        """Return the colours that the network restores of a picture (H, W, 3 or 4)."""
        return runtime.convert_space(pixels[..., :3], self.space)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check the option ``tiles`` and set the side of tiles.

        Raises:
            NetbuildError: for another option, or a wrong side.
        """
        refuse_options({name: value for name, value in given.items() if name != "tiles"}, f"for the task '{self.name}'")
        tile = given.get("tiles")
        if tile is not None:
            if self.plan.canvas:
                refuse_options({"tiles": tile}, "on a file of a fixed size, which is that of its tiles")
            if type(tile) is not int or tile < MIN_TILE:
                raise NetbuildError(f"--tiles {tile}: must be a whole number of at least {MIN_TILE}")
            self.plan = replace(self.plan, tile=tile)
        return {}

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return one record with the size of the restored picture, and by how many times it is larger."""
        return [{"width": prediction.shape[2], "height": prediction.shape[1], "scale": self.scale}]

    def line(self, records: Sequence[Record]) -> str:
        """Return the size of the restored picture."""
        return ", ".join(f"restored, {record['width']}x{record['height']}" for record in records)

    def draw(self, image: Image, prediction: Tensor, records: Sequence[Record]) -> Drawing:
        """Return the restored picture; a network of one channel leaves its colours, which are enlarged."""
        return Drawing(self.to_rgb(image, to_values(prediction)))

    def draw_beside(self, image: Image, prediction: Tensor, records: Sequence[Record]) -> Drawing:
        """Return the picture, enlarged by bicubic interpolation, and the restored one to its right."""
        restored = self.to_rgb(image, to_values(prediction))
        before = runtime.round_to_bytes(runtime.resize_bicubic(image, *restored.shape[:2]))
        return Drawing(np.concatenate((before, restored), 1))

    def output_for(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Return channels, height and width of the network's output for an image of a height and width."""
        height, width = (side * self.plan.scale - 2 * self.plan.border for side in size)
        return self.card.ch, height, width

    def to_rgb(self, image: Image | None, restored: NDArray[np.float32]) -> Image:
        """Return restored values (H, W, C) from 0 to 255 as RGB, with the colours of a picture if there is one."""
        return runtime.join_colours(image, restored, self.space)


def _default_space(card: NetworkCard) -> str:
    """Return the colours of a network that states none: luminance where pictures are enlarged, as in the papers."""
    if card.ch != 1:
        return "rgb"
    return "y" if count_scale(card.degrade) > 1 else "grey"


def cut_middle(picture: Tensor, size: Sequence[int]) -> Tensor:
    """Return the middle of pictures (B, C, H, W) of a height and width."""
    top, left = ((full - part) // 2 for full, part in zip(picture.shape[-2:], size, strict=True))
    return picture[..., top : top + size[0], left : left + size[1]]


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Enlarge images (B, C, H, W) by a whole factor with `netbuild.runtime.resize_bicubic`."""
    for axis in (2, 3) if factor > 1 else ():
        length = images.shape[axis]
        places, weights = runtime.find_bicubic_weights(length, length * factor)
        table = np.zeros((length * factor, length))
        np.add.at(table, (np.arange(len(places))[:, None], places), weights)
        matrix = torch.from_numpy(table).to(images)
        images = torch.tensordot(images, matrix, ([axis], [1])).movedim(-1, axis)
    return images.contiguous()


def to_values(picture: Tensor) -> NDArray[np.float32]:
    """Return a picture (C, H, W) from 0 to 1 as an array (H, W, C) from 0 to 255."""
    return picture.detach().float().cpu().numpy().transpose(1, 2, 0) * np.float32(255)
