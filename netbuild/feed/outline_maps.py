"""Class maps drawn from the outlines of objects, for data sets that have polygons and no masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.data.map_faults import MASK
from netbuild.feed.samples import original_size
from netbuild.feed.targets.masks import draw_instances


@dataclass(frozen=True, eq=False)
class OutlineMap:
    """The class map of a sample with outlines, drawn when it is read, in place of a file among its extras.

    Attributes:
        sample: the sample.
        background: the class of the pixels that no outline covers.
    """

    sample: Sample
    background: int

    def read(self) -> NDArray[np.uint8]:
        """Return the map (H, W); where outlines overlap, the smallest object is on top."""
        height, width = original_size(self.sample)
        outlines = [[polygon * (width, height) for polygon in outline] for outline in self.sample.outlines]
        classes = [] if self.sample.boxes is None else self.sample.boxes[:, 0].tolist()
        table = np.array([self.background, *classes], np.uint8)  # by the number of the object, from 1
        return table[draw_instances(outlines, (height, width))]


def draw_class_maps(samples: Sequence[Sample], background: int) -> list[Sample]:
    """Return the samples with the extra "mask"; those that have none get a map that is drawn from their outlines."""
    return [sample if MASK in sample.extras else _draw_class_map(sample, background) for sample in samples]


def _draw_class_map(sample: Sample, background: int) -> Sample:
    extras: dict[str, Any] = {**sample.extras, MASK: OutlineMap(sample, background)}
    return replace(sample, extras=extras)
