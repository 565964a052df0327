"""OC-SORT (Cao et al. 2023, arXiv 2203.14360): observations, rather than the filter's guesses, bridge gaps."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from netbuild.prediction.trackers.box_tracker import Array, Detections, Matching, TrackTable
from netbuild.prediction.trackers.kalman import BoxFilter
from netbuild.prediction.trackers.sort import Sort, SortSettings
from netbuild.settings import setting

LEAST_SUM = 1e-6  # of IoU and direction, where the IoU alone decides which pairs are allowed


@dataclass(frozen=True)
class OcSortSettings(SortSettings):
    """The settings of `OcSort`."""

    confidence: float = setting(0.6, "least confidence of a box that takes part", 0, 1)
    momentum: float = setting(0.2, "weight of the direction of motion beside the IoU", 0, 1)
    interval: int = setting(3, "observations over which the direction of motion is measured", 1, 100)


class ObservedTracks(TrackTable):
    """A table of tracks with their last observations.

    Attributes:
        history: (T, interval + 1, 4) the last boxes that were found, oldest first; the first box repeats as needed.
        saved: the filters as they were when the tracks were found the last time.
    """

    arrays = (*TrackTable.arrays, "history")

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.history = np.zeros((0, interval + 1, 4))
        self.saved = BoxFilter()

    def update(self, rows: Array, found: Detections) -> None:
        """As `TrackTable.update`; tracks that were lost are filtered anew along a straight way from their last box."""
        for row, box in zip(rows[self.lost[rows] > 1], found.boxes[self.lost[rows] > 1], strict=True):
            self.filter.assign(np.array([row]), self._bridge(row, box))
        super().update(rows, found)
        self.history[rows] = np.concatenate((self.history[rows, 1:], found.boxes[:, None]), 1)
        self.saved.assign(rows, self.filter.copy(rows))

    def _bridge(self, row: int, box: Array) -> BoxFilter:
        """Return the filter of a lost track, predicted for this frame as if it had been seen on the way to a box."""
        last, gap = self.history[row, -1], int(self.lost[row])
        bridged = self.saved.copy(np.array([row]))
        for step in range(1, gap):
            bridged.predict()
            bridged.update(np.zeros(1, int), (last + (box - last) * (step / gap))[None])
        bridged.predict()
        return bridged

    def add(self, found: Detections) -> Array:
        """See `TrackTable.add`."""
        rows = super().add(found)
        self.history = np.concatenate((self.history, np.repeat(found.boxes[:, None], self.history.shape[1], 1)))
        self.saved.add(found.boxes)
        return rows

    def keep(self, chosen: Array) -> None:
        """See `TrackTable.keep`."""
        if not chosen.all():
            self.saved.keep(chosen)
        super().keep(chosen)

    def compare_directions(self, found: Detections) -> Array:
        """Return how well the way to each detection fits the direction of each track: (T, N) from -0.5 to 0.5."""
        centres = (self.history[..., :2] + self.history[..., 2:]) / 2
        past = _to_directions(centres[:, -1] - centres[:, 0])[:, None]
        ways = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 - centres[:, 1:2]
        cosine = (past * _to_directions(ways)).sum(-1)
        return 0.5 - np.arccos(np.clip(cosine, -1, 1)) / np.pi


def _to_directions(ways: Array) -> Array:
    """Scale vectors (..., 2) to a length of 1; zero stays zero."""
    length = np.sqrt((ways**2).sum(-1, keepdims=True))
    return ways / np.maximum(length, 1e-6)


class OcSort(Sort):
    """SORT with three corrections: direction of motion in the association, a second round with the last observed
    boxes, and filters that are computed anew when a lost object is found again.
    """

    name = "ocsort"
    settings_class: ClassVar[type] = OcSortSettings
    settings: OcSortSettings
    tracks: ObservedTracks

    def __init__(self, settings: OcSortSettings | None = None) -> None:
        super().__init__(settings or OcSortSettings())
        self.tracks = ObservedTracks(self.settings.interval)

    def associate(self, found: Detections) -> Matching:
        """Match predicted boxes by IoU and direction, then last observed boxes by IoU."""
        s, tracks = self.settings, self.tracks
        matching = Matching(len(tracks), len(found))
        takes_part = found.scores >= s.confidence
        rows, columns = np.arange(len(tracks)), matching.free_detections(takes_part)
        chosen = found.select(columns)
        overlap = tracks.overlap(rows, chosen, s.by_class)
        similarity = overlap + s.momentum * tracks.compare_directions(chosen) * chosen.scores
        similarity = np.where(overlap >= s.iou, np.maximum(similarity, LEAST_SUM), 0)
        matching.add(rows, columns, similarity, LEAST_SUM)
        rows = matching.free_tracks(np.ones(len(tracks), bool))
        columns = matching.free_detections(takes_part)
        last = tracks.compare(tracks.history[rows, -1], rows, found.select(columns), s.by_class)
        matching.add(rows, columns, last, s.iou)
        return matching
