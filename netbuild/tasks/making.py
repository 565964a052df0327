"""The base class of tasks whose networks make pictures of random numbers, of a class if they are told one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from netbuild.data.dataset import CLASSIFY, Dataset, Sample
from netbuild.errors import NetbuildError
from netbuild.feed.labels import feed_labels
from netbuild.feed.loader import FeedOptions, SampleSource
from netbuild.graph.card import NetworkCard
from netbuild.graph.network import Network
from netbuild.settings import BOX_SETTINGS, NUMBER_SETTINGS, SCENE_SETTINGS, Settings
from netbuild.tasks.base import Batch, Task

# Changes of pictures would be learnt as if the data had them, so they are off unless they are asked for.
UNCHANGED: Mapping[str, Any] = {
    **dict.fromkeys(("degrees", "translate", "scale", "shear", "flip_lr", "erasing"), 0.0),
    **{"crop": False, "policy": "off"},
}
COLOUR_SETTINGS = ("hsv_h", "hsv_s", "hsv_v")


class MakingTask(Task):
    """What diffusion models and generators share: their pictures are not changed, and classes are optional.

    A network is conditional if it has a further input for the number of a class, and its file states ``nc``.
    """

    embedded = "digits"
    counts_classes = False
    conditional = True
    takes_pictures = False
    usage = "netbuild sample {weights}"
    unused_settings: ClassVar[tuple[str, ...]] = (
        *("label_smoothing", "class_weights", "multi_scale", "mixup", "cutmix", "rect", "allow_background"),
        *(*COLOUR_SETTINGS, *SCENE_SETTINGS, *BOX_SETTINGS, *NUMBER_SETTINGS),
    )

    @classmethod
    def network_options(cls, dataset: Dataset) -> dict[str, Any]:
        """Return the number of classes of data that have some."""
        return {"nc": dataset.nc} if dataset.task == CLASSIFY and dataset.nc else {}

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return the settings without changes of pictures unless they ask for them."""
        return keep_pictures(settings)

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return the number of classes, 0 for a network without."""
        return {"nc": nc}

    @classmethod
    def card_options(cls, card: NetworkCard) -> dict[str, Any]:
        """Return the number of classes, 0 for a network without."""
        return {"nc": card.nc or 0}

    nc = 0

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> str | None:
        """Check that a network with classes learns from pictures with a class each.

        Raises:
            NetbuildError: if they have none.
        """
        if self.nc and dataset.task != CLASSIFY:
            hint = "name a folder of pictures by class, or leave nc: and the input of the class out of the file"
            raise NetbuildError(f"the network takes classes, the pictures of {dataset.name} have none", hint=hint)
        return None

    def feed_pictures(self, samples: Sequence[Sample], options: FeedOptions) -> SampleSource:
        """Return the source of pictures and classes, whose colours are left alone."""
        plain = replace(options.settings, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)
        return feed_labels(samples, replace(options, settings=plain))[0]


def keep_pictures(settings: Settings) -> Settings:
    """Return settings in which those changes of pictures are off that are not stated.

    The optimiser is AdamW in long runs, too: these networks learn badly with SGD.
    """
    changes = {name: value for name, value in UNCHANGED.items() if getattr(settings, name) is None}
    changes |= {"optimizer": "adamw"} if settings.optimizer == "auto" else {}
    return replace(settings, **changes)


def scale_images(batch: Batch) -> Tensor:
    """Return the images of a batch as floats from -1 to 1."""
    images: Tensor = batch["images"]
    return images.float() / 127.5 - 1 if not images.is_floating_point() else images.float() * 2 - 1


def count_classes(network: Network, inputs: int) -> int:
    """Return the number of classes of a network with an input for them after ``inputs`` others; 0 without.

    Raises:
        NetbuildError: if it has the input, and its file does not state the number.
    """
    if len(network.card.inputs) <= inputs:
        return 0
    if network.card.nc is None:
        raise NetbuildError("the network takes a class, and its file has no nc", hint="write nc: 10 into it")
    return network.card.nc
