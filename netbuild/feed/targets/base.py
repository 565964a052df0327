"""The base class of targets: what augmentation asks of a kind, so that mosaic, warp and flips are written once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Size = tuple[int, int]  # height and width in pixels
Tensors = dict[str, torch.Tensor]


class Target(ABC):
    """Annotations of one kind on one picture, in the picture's pixels.

    Methods return a new target and leave this one unchanged. A kind with one entry per object overrides `select`;
    a kind for the whole picture, such as a mask of classes, overrides `clip` and `paste`.
    """

    @abstractmethod
    def move(self, matrix: Floats, size: Size) -> Self:
        """The target after an affine map (2, 3) of points, on a canvas of (height, width)."""

    @abstractmethod
    def shift(self, left: int, top: int, size: Size) -> Self:
        """The target moved to the right and down, on a canvas of (height, width)."""

    @abstractmethod
    def mirror(self, axis: int, size: Size) -> Self:
        """The target on the flipped picture of (height, width): upside down for axis 0, left to right for axis 1."""

    @abstractmethod
    def join(self, others: Sequence[Self]) -> Self:
        """This target together with those of other pictures that were laid on the same canvas."""

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
        """This target where ``mask`` (H, W) of the picture was replaced by another's; as a rule the two are joined."""
        return self.join([other])

    @classmethod
    def collate(cls, items: Sequence[Tensors]) -> dict[str, Any]:
        """The tensors of several pictures as entries of a batch: concatenated along their first axis."""
        return {name: torch.cat([item[name] for item in items]) for name in items[0]}
