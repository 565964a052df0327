"""HOTA of tracking (Luiten et al. 2020, arXiv 2009.07736): detection and association, weighed alike."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.prediction.trackers.association import match
from netbuild.tracking.frames import MARGIN, Sums, TrackSequence

Array = NDArray[Any]

THRESHOLDS = np.arange(1, 20) * 0.05  # least IoU of a match


def _zeros() -> Array:
    return np.zeros(len(THRESHOLDS))


@dataclass(frozen=True)
class HotaSums(Sums):
    """Sums (19,) for each of the thresholds, which are added over sequences.

    Attributes:
        tp, fp, fn: matched boxes, other boxes of tracks, other boxes of objects.
        association: for all matches the sum of the share of frames that its object and its track have in common.
        overlap: sum of the IoU of all matches.
    """

    tp: Array = field(default_factory=_zeros)
    fp: Array = field(default_factory=_zeros)
    fn: Array = field(default_factory=_zeros)
    association: Array = field(default_factory=_zeros)
    overlap: Array = field(default_factory=_zeros)

    def measures(self) -> dict[str, float]:
        """Return the means over all thresholds, from 0 to 1."""
        detection = self.tp / np.maximum(self.tp + self.fp + self.fn, 1)
        association = self.association / np.maximum(self.tp, 1)
        return {
            "HOTA": float(np.sqrt(detection * association).mean()),
            "DetA": float(detection.mean()),
            "AssA": float(association.mean()),
            "LocA": float((np.maximum(self.overlap, 1e-10) / np.maximum(self.tp, 1e-10)).mean()),
        }


def sum_hota(sequence: TrackSequence) -> HotaSums:
    """Match objects and tracks in each frame, preferring those that belong together over the video, and sum up."""
    objects, tracks = sequence.object_frames, sequence.track_frames
    alignment = _align(sequence)
    pairs, overlaps = [np.zeros(0, int)], [np.zeros(0)]  # of all matches
    for frame in sequence.frames:
        rows, columns = match(alignment[frame.objects[:, None], frame.tracks] * frame.overlap, MARGIN)
        pairs.append(frame.objects[rows] * len(tracks) + frame.tracks[columns])
        overlaps.append(frame.overlap[rows, columns])
    pair, overlap = np.concatenate(pairs), np.concatenate(overlaps)
    tp, association, total = _zeros(), _zeros(), _zeros()
    for i, threshold in enumerate(THRESHOLDS):
        good = overlap >= threshold - MARGIN
        found, common = np.unique(pair[good], return_counts=True)
        union = objects[found // len(tracks)] + tracks[found % len(tracks)] - common if len(found) else common
        tp[i], total[i], association[i] = good.sum(), overlap[good].sum(), (common * (common / union)).sum()
    return HotaSums(tp, len(sequence.found) - tp, len(sequence.truth) - tp, association, total)


def _align(sequence: TrackSequence) -> Array:
    """Return how well each object and each track (N, M) overlap over the whole video, from 0 to 1."""
    objects, tracks = sequence.object_frames, sequence.track_frames
    shared = np.zeros((len(objects), len(tracks)))
    for frame in sequence.frames:
        union = frame.overlap.sum(0) + frame.overlap.sum(1)[:, None] - frame.overlap
        shared[frame.objects[:, None], frame.tracks] += frame.overlap / np.where(union > MARGIN, union, 1)
    return shared / np.maximum(objects[:, None] + tracks - shared, MARGIN)
