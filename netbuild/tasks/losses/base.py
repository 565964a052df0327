"""The base class of losses for a kind of head."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from netbuild.data.dataset import Sample
from netbuild.settings import Settings
from netbuild.tasks.base import Batch, Losses, Normaliser, local_normaliser


@dataclass(frozen=True)
class Gains:
    """Weights of the terms of a detection loss; a loss ignores the terms that it does not have.

    ``dfl`` is also the weight of ``l1``, which replaces that term for a head without bins; ``box`` also that of masks.
    ``pose``, ``kobj`` and ``rle`` weigh the places of keypoints, their visibility and the likelihood of their errors,
    ``distance`` the term by which points are learnt from scratch, ``angle`` the angles of oriented boxes. With the
    published ``pose`` of 12, and ``distance`` to match, the gradient of points would be several times that of boxes,
    which would then be learnt late and less exactly.
    """

    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5
    pose: float = 4.0
    kobj: float = 1.0
    rle: float = 1.0
    distance: float = 8.0
    angle: float = 1.0


class Objects(NamedTuple):
    """The M objects of a batch: boxes (M, 4) as centre and size in fractions of the image, classes and images (M,)."""

    boxes: Tensor
    classes: Tensor
    image: Tensor


def read_objects(batch: Batch, like: Tensor) -> Objects:
    """Return the objects of a batch, on the device and in the precision of ``like``, at least float32."""
    classes, index = (batch[name].to(like.device).view(-1).long() for name in ("classes", "index"))
    return Objects(to_float32(batch["boxes"].to(like)).view(-1, 4), classes, index)


def to_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32, or in its own type if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class HeadLoss(ABC):
    """The loss of the heads that name it by ``learns``.

    Args:
        head: the network's last module.
        gains: weights of the terms.
        class_weights: (nc,) factors of the classes; None for equal ones.
        normaliser: returns what the loss is divided by, computed over the batches of all ranks.
    """

    name: ClassVar[str] = ""  # the name that heads give in ``learns``; set by the decorator
    # Values of settings that suit the heads of this loss, for a run that leaves them at ``auto`` or null.
    default_settings: ClassVar[Mapping[str, Any]] = {}
    fits_anchors = False  # whether `fit_head` fits anchor boxes, by the setting ``anchors``
    summed = True  # whether the loss grows with the batch, rather than being a mean over it

    def __init__(
        self,
        head: nn.Module,
        gains: Gains | None = None,
        class_weights: Tensor | None = None,
        normaliser: Normaliser = local_normaliser,
    ) -> None:
        self.head, self.gains, self.class_weights = head, gains or Gains(), class_weights
        self.normaliser = normaliser

    @abstractmethod
    def __call__(self, outputs: Any, batch: Batch) -> Losses:
        """Return the value to minimise, and its terms by name without gradient.

        Args:
            outputs: the head's outputs in training.
            batch: the task's batch.
        """

    def fit_head(self, samples: Sequence[Sample], size: tuple[int, int], settings: Settings) -> str:
        """Fit values of the head to the training samples and return a note, see `netbuild.tasks.base.Task.fit_head`."""
        return ""

    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the smallest loss that any outputs could reach for these targets; 0 unless the targets are soft."""
        return 0.0

    def epoch_end(self, finished: int, epochs: int) -> None:  # noqa: B027  most losses have no schedule
        """Called after each epoch, and when a run is resumed, with the number of finished epochs and of all."""
