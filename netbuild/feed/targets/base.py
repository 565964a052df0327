"""The base class of targets. Samples, augmentation and batches are written once over its methods, for all kinds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.feed.geometry import make_turn

Floats = NDArray[np.float64]
Size = tuple[int, int]  # height and width in pixels
Tensors = dict[str, Any]  # tensors, or lists with an entry per object, by their names in a batch
ReadExtra = Callable[[str, str], NDArray[Any]]  # name and kind of an extra -> its array (H, W, C), resized


class Target(ABC):
    """Annotations of one kind on one picture, in the picture's pixels.

    A task names the kinds that it needs (`netbuild.tasks.base.Task.target_kinds`). Methods return a new target and
    leave this one unchanged. A kind with one entry per object overrides `select`; a kind for the whole picture, such as
    a map of classes, overrides `clip` and `paste`.
    """

    needs_extra: ClassVar[bool] = False  # whether a sample must have the extra of the target's name
    fixes_colors: ClassVar[bool] = False  # whether changing the picture's colours would make the target wrong
    object_names: ClassVar[tuple[str, ...]] = ()  # names of those of its tensors that have an entry per object

    @classmethod
    @abstractmethod
    def from_sample(cls, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> Self:
        """Build the target of a sample.

        Args:
            name: the target's name in the scene; for a map also the name of the sample's extra.
            sample: the sample, whose coordinates are fractions of its picture.
            size: height and width to which its picture was resized.
            read_extra: takes the name of one of the sample's extras and its kind, and returns the array, cached and
                resized as the picture was.
        """

    @abstractmethod
    def move(self, matrix: Floats, size: Size) -> Self:
        """The target after a map of points, on a canvas of (height, width); see `netbuild.feed.geometry.move_points`.

        The matrix is (2, 3) for an affine map, and (3, 3) with perspective, which only the setting ``perspective`` asks
        for.
        """

    @abstractmethod
    def shift(self, left: int, top: int, size: Size) -> Self:
        """The target moved to the right and down, on a canvas of (height, width)."""

    @abstractmethod
    def mirror(self, axis: int, size: Size) -> Self:
        """The target on the flipped picture of (height, width): vertically for axis 0, horizontally for axis 1."""

    def turn(self, quarters: int, size: Size) -> Self:
        """The target after its picture of (height, width) was turned by 1 to 3 quarters counter-clockwise."""
        return self.move(make_turn(quarters, size), size[::-1] if quarters % 2 else size)

    @abstractmethod
    def join(self, others: Sequence[Self]) -> Self:
        """This target together with those of other pictures that lie on the same canvas."""

    @abstractmethod
    def tensors(self, size: Size) -> Tensors:
        """The target as tensors by their names in a batch, for a picture of (height, width)."""

    def select(self, chosen: NDArray[np.bool_]) -> Self:
        """The target with the chosen objects, (N,); unchanged where there is no entry per object."""
        return self

    def clip(self, rectangle: tuple[int, int, int, int]) -> Self:
        """The target cut at the edges of a rectangle (x1, y1, x2, y2); unchanged unless a kind needs it."""
        return self

    def paste(self, other: Self, mask: NDArray[np.bool_]) -> Self:
        """This target after another picture was pasted where ``mask`` (H, W) is set; unless overridden joined."""
        return self.join([other])

    def blend(self, other: Self, share: float) -> Self:
        """This target after its picture, with weight ``share``, was blended with another; unless overridden joined."""
        return self.join([other])

    @classmethod
    def collate(cls, items: Sequence[Tensors]) -> dict[str, Any]:
        """The tensors of several pictures as entries of a batch: concatenated along their first axis."""
        return {name: torch.cat([item[name] for item in items]) for name in items[0]}


class TargetKind(Protocol):
    """What makes the targets of one kind: a class of targets, or an object that knows how the task wants them."""

    @property
    def needs_extra(self) -> bool:
        """Whether a sample must have the extra of the target's name."""

    def from_sample(self, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> Target:
        """Build the target of a sample, see `Target.from_sample`."""
