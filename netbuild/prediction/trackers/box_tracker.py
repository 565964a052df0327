"""What trackers that associate boxes share: detections as arrays, and a table of tracks with their filters."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.drawing.annotated import Image
from netbuild.prediction.trackers.association import match, pairwise_iou
from netbuild.prediction.trackers.base import Tracker
from netbuild.prediction.trackers.kalman import BoxFilter
from netbuild.tasks.view import Record, View

Array = NDArray[Any]

UNTRACKED = 0  # in the place of an id; ids count from 1


@dataclass(frozen=True)
class Detections:
    """The boxes that were found in a frame.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels.
        scores: (N,) confidences.
        classes: (N,) numbers of the classes.
    """

    boxes: Array
    scores: Array
    classes: Array

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, chosen: Array) -> "Detections":
        """Return the detections that a mask (N,) or numbers choose."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


class BoxTracker(Tracker):
    """A tracker that needs only boxes, confidences and classes, and for camera motion the picture.

    An oriented box takes part as the upright box around it. The records keep the boxes that the network found; those
    that belong to no confirmed track are dropped.
    """

    def update(self, records: list[Record], view: View) -> list[Record]:
        """Return the records of confirmed tracks, each with its ``id``."""
        found = Detections(
            np.array([record["box"] for record in records], dtype=float).reshape(-1, 4),
            np.array([record["confidence"] for record in records], dtype=float),
            np.array([record["class"] for record in records], dtype=int),
        )
        ids = self.step(found, view.image).tolist()
        return [{**record, "id": number} for record, number in zip(records, ids, strict=True) if number != UNTRACKED]

    @abstractmethod
    def step(self, found: Detections, image: Image) -> Array:
        """Take the next frame and return the id of each detection (N,), from 1; `UNTRACKED` if it has none."""


class Matching:
    """Which tracks and detections of a frame are matched, built up in several rounds.

    Args:
        tracks, detections: how many there are.

    Attributes:
        track_of: (N,) number in the table of the track of each detection, -1 without one.
        is_matched: (T,) whether each track has a detection.
    """

    def __init__(self, tracks: int, detections: int) -> None:
        self.track_of = np.full(detections, -1)
        self.is_matched = np.zeros(tracks, bool)

    def free_tracks(self, chosen: Array) -> Array:
        """Return the numbers of the tracks that a mask (T,) chooses and that have no detection."""
        return np.flatnonzero(chosen & ~self.is_matched)

    def free_detections(self, chosen: Array) -> Array:
        """Return the numbers of the detections that a mask (N,) chooses and that have no track."""
        return np.flatnonzero(chosen & (self.track_of < 0))

    def add(self, tracks: Array, detections: Array, similarity: Array, least: float) -> None:
        """Match tracks and detections, given by their numbers, by a similarity of at least ``least``."""
        rows, columns = match(similarity, least)
        self.track_of[detections[columns]] = tracks[rows]
        self.is_matched[tracks[rows]] = True


class TrackTable:
    """All living tracks, one entry of each array for each.

    Attributes:
        filter: the boxes and how they move.
        ids: number of each track, from 1 in the order of confirmation; `UNTRACKED` until it is confirmed.
        classes: class of each track.
        hits: frames in a row in which it was found.
        lost: frames since it was found the last time.
    """

    arrays: tuple[str, ...] = ("ids", "classes", "hits", "lost")

    def __init__(self) -> None:
        self.filter = BoxFilter()
        self.ids, self.classes = np.zeros(0, int), np.zeros(0, int)
        self.hits, self.lost = np.zeros(0, int), np.zeros(0, int)
        self.count = 0  # ids that were given

    def __len__(self) -> int:
        return len(self.ids)

    def predict(self) -> None:
        """Move all tracks by one frame; until `update` they are lost."""
        # The size of an object that is not seen would grow or shrink without bound.
        self.filter.velocity[self.lost > 0, 2:] = 0
        self.filter.predict()
        self.lost += 1

    def update(self, rows: Array, found: Detections) -> None:
        """Correct tracks (N,) by the detections (N,) that were matched with them."""
        self.filter.update(rows, found.boxes)
        self.hits[rows] = np.where(self.lost[rows] > 1, 1, self.hits[rows] + 1)
        self.lost[rows] = 0

    def add(self, found: Detections) -> Array:
        """Append tracks for detections and return their numbers in the table."""
        start, count = len(self), len(found)
        self.filter.add(found.boxes)
        self.ids = np.concatenate((self.ids, np.full(count, UNTRACKED)))
        self.classes = np.concatenate((self.classes, found.classes))
        self.hits = np.concatenate((self.hits, np.ones(count, int)))
        self.lost = np.concatenate((self.lost, np.zeros(count, int)))
        return np.arange(start, start + count)

    def confirm(self, chosen: Array) -> None:
        """Give an id to those of the tracks that a mask (T,) chooses which have none yet."""
        rows = np.flatnonzero(chosen & (self.ids == UNTRACKED))
        self.ids[rows] = self.count + np.arange(1, len(rows) + 1)
        self.count += len(rows)

    def keep(self, chosen: Array) -> None:
        """Remove the tracks that a mask (T,) does not choose."""
        if chosen.all():
            return
        self.filter.keep(chosen)
        for name in self.arrays:
            setattr(self, name, getattr(self, name)[chosen])

    def finish(self, found: Detections, matching: Matching, starts: Array, hits: int, patience: int) -> Array:
        """End a frame: update the matched tracks, start new ones, give up old ones; return the ids of detections (N,).

        Args:
            found: all detections.
            matching: which of them continue a track.
            starts: (N,) mask of the detections that start one if they continue none.
            hits: frames in a row in which a new track must be found before it gets an id; before that it is given up
                as soon as it is lost.
            patience: frames after which a track that is lost is given up.
        """
        track_of = matching.track_of
        continued, new = np.flatnonzero(track_of >= 0), matching.free_detections(starts)
        self.update(track_of[continued], found.select(continued))
        track_of[new] = self.add(found.select(new))
        self.confirm((self.lost == 0) & (self.hits >= hits))
        ids = np.full(len(found), UNTRACKED)
        ids[track_of >= 0] = self.ids[track_of[track_of >= 0]]
        self.keep(self.lost <= np.where(self.ids != UNTRACKED, patience, 0))
        return ids

    def overlap(self, rows: Array, found: Detections, by_class: bool) -> Array:
        """Return the IoU (N, M) of tracks (N,) and detections (M,); 0 for different classes with ``by_class``."""
        return self.compare(self.filter.boxes()[rows], rows, found, by_class)

    def compare(self, boxes: Array, rows: Array, found: Detections, by_class: bool) -> Array:
        """As `overlap`, with other boxes (N, 4) of the tracks."""
        overlap = pairwise_iou(boxes, found.boxes)
        return overlap * (self.classes[rows, None] == found.classes) if by_class else overlap
