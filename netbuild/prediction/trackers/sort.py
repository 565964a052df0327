"""SORT (Bewley et al. 2016, arXiv 1602.00763): predicted boxes and detections are matched by their overlap."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from netbuild.drawing.annotated import Image
from netbuild.prediction.trackers.box_tracker import Array, BoxTracker, Detections, Matching, TrackTable
from netbuild.settings import setting


@dataclass(frozen=True)
class SortSettings:
    """The settings of `Sort`."""

    confidence: float = setting(0.25, "least confidence of a box that takes part", 0, 1)
    start: float = setting(0.7, "least confidence of a box that starts a track", 0, 1)
    iou: float = setting(0.3, "least IoU of a track's predicted box and the box that continues it", 0, 1)
    hits: int = setting(3, "frames in a row in which an object must be found before it gets its number", 1, 1000)
    patience: int = setting(10, "frames that a track is kept while its object is not found", 0, 100_000)
    by_class: bool = setting(True, "whether a track is continued only by boxes of its class")


class Sort(BoxTracker):
    """Match the boxes that a Kalman filter predicts with those that are found, by IoU.

    The paper gives up a track that is not found in one frame; as in later work it is kept for ``patience`` frames.
    """

    name = "sort"
    settings_class: ClassVar[type] = SortSettings

    def __init__(self, settings: SortSettings | None = None) -> None:
        self.settings = settings or SortSettings()
        self.tracks = TrackTable()
        self.frame = 0

    def step(self, found: Detections, image: Image) -> Array:
        """See `BoxTracker.step`."""
        s = self.settings
        self.frame += 1
        self.tracks.predict()
        # In the first frames no object can have been found several times.
        return self.tracks.finish(
            found, self.associate(found), found.scores >= s.start, min(s.hits, self.frame), s.patience
        )

    def associate(self, found: Detections) -> Matching:
        """Match predicted boxes and detections by IoU."""
        s, tracks = self.settings, self.tracks
        matching = Matching(len(tracks), len(found))
        rows, columns = np.arange(len(tracks)), matching.free_detections(found.scores >= s.confidence)
        matching.add(rows, columns, tracks.overlap(rows, found.select(columns), s.by_class), s.iou)
        return matching
