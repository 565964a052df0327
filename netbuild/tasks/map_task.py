"""The base class of tasks that predict a map: a value for every pixel of the picture."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from netbuild.data.dataset import Dataset, Sample
from netbuild.data.fitting import Letterbox
from netbuild.errors import NetbuildError
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.feed.samples import feed_scenes
from netbuild.layers.heads.base import traits
from netbuild.tasks.base import Batch, Losses, Task
from netbuild.tasks.losses import find as find_loss
from netbuild.tasks.losses.base import HeadLoss
from netbuild.tasks.outputs import require_tensor


class MapTask(Task):
    """A map (k, h, w) for each image.

    The loss is the one that the head names by ``learns``, else the one with the task's name: the last row of a plain
    network, such as U-Net, is a convolution. Validation measures maps in the original size of the pictures, resized as
    `netbuild predict` resizes them.

    Args:
        head: the network's last module.
        names: names of the classes.
        class_weights: (nc,) factors of the classes.
    """

    fills_border = True
    saves = ("pictures", "json")
    summed = True
    extra_name: ClassVar[str]  # of the samples' extra that the task learns from

    def __init__(self, head: nn.Module, names: list[str] | None = None, class_weights: Tensor | None = None) -> None:
        super().__init__(head, names)
        loss = find_loss(traits(head).learns or self.name)
        # A run of several processes replaces `self.normaliser` later, so the loss must look it up at each call.
        self.criterion: HeadLoss = loss(head, None, class_weights, lambda total, least: self.normaliser(total, least))

    # -- training -----------------------------------------------------------------------------------------------------

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the head's loss and its terms by name."""
        return self.criterion(outputs, batch)

    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the smallest loss that any outputs could reach for these targets."""
        return self.criterion.lower_bound(outputs, batch)

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> None:
        """Check that all samples have the map that the task learns from.

        Raises:
            NetbuildError: if one has not.
        """
        kind = self.target_kinds[self.extra_name].kind  # type: ignore[attr-defined]
        if not all(map(self.has_truth, samples)):
            message = f"{dataset.name} has no '{self.extra_name}', which the task '{self.name}' learns from"
            hint = f"name its folder in the data file: extras: {{{self.extra_name}: {kind}}}; see docs/data.md"
            raise NetbuildError(message, hint=hint)

    @classmethod
    def has_truth(cls, sample: Sample) -> bool:
        """Whether a picture has the map that the task learns from."""
        return cls.extra_name in sample.extras

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of samples with their maps; for validation also in the pictures' original size."""
        return feed_scenes(samples, options, self.target_kinds, self.stride, originals=(self.extra_name,))

    # -- prediction ---------------------------------------------------------------------------------------------------

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return the maps (B, k, h, w) of the network's input."""
        return require_tensor(outputs).detach().float()


def original_truth(batch: Batch, i: int, name: str) -> tuple[NDArray[Any], Letterbox]:
    """Return the true map (H, W) of picture ``i`` of a batch, and the placement of the picture in the network's image.

    The map has the size of the original picture if the batch has it, else that of the network's image.
    """
    h, w = batch["images"].shape[-2:]
    if "originals" not in batch:
        return batch[name][i, 0].cpu().numpy(), Letterbox.fit((h, w), (h, w))
    found, place = batch["originals"][i][name][0].cpu().numpy(), batch["letterbox"][i]
    if found.shape != place.size:  # it may be finer than the picture
        rows, columns = (
            ((np.arange(count) + 0.5) * length / count).astype(int)
            for count, length in zip(place.size, found.shape, strict=True)
        )
        found = found[rows][:, columns]
    return found, place
