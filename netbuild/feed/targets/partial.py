"""Targets of pictures that have the truth of some of several heads only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.feed.targets.base import Floats, ReadExtra, Size, Target, Tensors
from netbuild.feed.targets.maps import MapTarget

TRUTHS = "truths"  # the name of the flags among the extras of a sample, and in a batch


@dataclass(frozen=True)
class TruthTarget(Target):
    """Which heads have their truth in a picture.

    Args:
        known: (heads,) whether the picture has the truth of each.
    """

    known: NDArray[np.bool_]
    needs_extra: ClassVar[bool] = True

    @classmethod
    def from_sample(cls, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> Self:
        return cls(np.asarray(sample.extras[name], np.bool_))

    def move(self, matrix: Floats, size: Size) -> Self:
        return self

    def shift(self, left: int, top: int, size: Size) -> Self:
        return self

    def mirror(self, axis: int, size: Size) -> Self:
        return self

    def turn(self, quarters: int, size: Size) -> Self:
        return self

    def join(self, others: Sequence[Self]) -> Self:
        """Return what all the pictures on a canvas have."""
        return replace(self, known=np.logical_and.reduce([self.known, *(other.known for other in others)]))

    def tensors(self, size: Size) -> Tensors:
        return {TRUTHS: torch.from_numpy(self.known.copy())}

    @classmethod
    def collate(cls, items: Sequence[Tensors]) -> dict[str, Any]:
        """Stack the flags to (B, heads)."""
        return {TRUTHS: torch.stack([item[TRUTHS] for item in items])}


@dataclass(frozen=True)
class OptionalMapKind:
    """Makes the maps of a kind, and for a picture without one a map in which nothing is known.

    Args:
        kind: the kind of the maps.
        scale: how many times as wide and high as their pictures the maps are.
    """

    kind: type[MapTarget]
    scale: int = 1
    needs_extra: ClassVar[bool] = False

    def from_sample(self, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> MapTarget:
        """Build the target of a sample, see `netbuild.feed.targets.Target.from_sample`."""
        if name in sample.extras:
            return self.kind.from_sample(name, sample, size, read_extra)
        return self.kind.make_unknown(name, size, self.scale)
