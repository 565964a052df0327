"""`TrackSequence`: true and found tracks of a video, compared frame by frame; all measures are made of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from netbuild.prediction.trackers.association import match, pairwise_iou
from netbuild.tracking.mot_files import NO_NUMBER, TrackRows

Array = NDArray[Any]

PEDESTRIAN = 1
# Classes of MOT16 and later whose objects are neither to be found nor wrong to be found: people on vehicles, standing
# people, things that look like people, reflections; in MOT20 also vehicles without an engine.
DISTRACTORS = (2, 7, 8, 12)
LEAST_IOU = 0.5  # of an object and the track that follows it
MARGIN = np.finfo(float).eps


@dataclass(frozen=True)
class Sums(ABC):
    """Base class of sums over frames, which are added over sequences."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @abstractmethod
    def measures(self) -> dict[str, float]:
        """Return the measures that these sums give, by name."""


@dataclass(frozen=True)
class FramePair:
    """The objects and tracks of one frame.

    Attributes:
        objects: (N,) numbers of the true tracks, from 0 without gaps over the sequence.
        tracks: (M,) numbers of the found tracks, likewise.
        overlap: (N, M) IoU of their boxes; 0 for different classes.
    """

    objects: Array
    tracks: Array
    overlap: Array


@dataclass(frozen=True)
class TrackSequence:
    """True tracks and found tracks of a video, without rows that do not count.

    Attributes:
        name: of the video.
        truth: the true tracks.
        found: the found tracks.
    """

    name: str
    truth: TrackRows
    found: TrackRows

    @cached_property
    def frames(self) -> list[FramePair]:
        """All frames that have an object or a track."""
        objects, tracks = (np.unique(rows.ids, return_inverse=True)[1].ravel() for rows in (self.truth, self.found))
        return [
            FramePair(objects[true], tracks[seen], compare(self.truth.select(true), self.found.select(seen)))
            for true, seen in iterate_frames(self.truth, self.found)
        ]

    @cached_property
    def object_frames(self) -> Array:
        """(N,) number of frames of each true track."""
        return np.unique(self.truth.ids, return_counts=True)[1]

    @cached_property
    def track_frames(self) -> Array:
        """(M,) number of frames of each found track."""
        return np.unique(self.found.ids, return_counts=True)[1]


def iterate_frames(truth: TrackRows, found: TrackRows) -> Iterator[tuple[Array, Array]]:
    """Yield the numbers of the rows of each frame that occurs in either, in order."""
    for frame in np.union1d(truth.frames, found.frames):
        (a, b), (c, d) = (np.searchsorted(rows.frames, (frame, frame + 1)) for rows in (truth, found))
        yield np.arange(a, b), np.arange(c, d)


def compare(truth: TrackRows, found: TrackRows) -> Array:
    """Return the IoU (N, M) of the boxes of a frame, 0 where both classes are known and differ."""
    a, b = truth.classes[:, None], found.classes[None]
    same = (a == b) | (a == NO_NUMBER) | (b == NO_NUMBER)
    return pairwise_iou(truth.boxes, found.boxes) * same


def prepare_sequence(name: str, truth: TrackRows, found: TrackRows) -> TrackSequence:
    """Return a sequence to measure: rows of the truth with confidence 0 do not count, as MOTChallenge has it.

    Tracks that lie on a distractor of MOT16 or later (a row with confidence 0 of one of these classes) are left out.
    """
    counted = truth.scores != 0
    distracting = ~counted & np.isin(truth.classes, (*DISTRACTORS, *((6,) if name.startswith("MOT20") else ())))
    if distracting.any():
        found = found.select(~_find_distracted(truth, found, distracting))
    return TrackSequence(name, truth.select(counted), found)


def _find_distracted(truth: TrackRows, found: TrackRows, distracting: Array) -> Array:
    """Return a mask of the found rows that belong to a distractor rather than to any other object."""
    distracted = np.zeros(len(found), bool)
    for true, seen in iterate_frames(truth, found):
        overlap = pairwise_iou(truth.boxes[true], found.boxes[seen])
        rows, columns = match(overlap, LEAST_IOU - MARGIN)
        distracted[seen[columns[distracting[true[rows]]]]] = True
    return distracted
