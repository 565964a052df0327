"""IDF1 of tracking (Ristani et al. 2016): one track for each object over the whole video."""

from dataclasses import dataclass

import numpy as np

from netbuild.prediction.trackers.association import match
from netbuild.tracking.frames import LEAST_IOU, MARGIN, Sums, TrackSequence


@dataclass(frozen=True)
class IdentityCounts(Sums):
    """Sums over frames, which are added over sequences.

    Attributes:
        tp: boxes of the track that belongs to their object.
        fp: other boxes of tracks.
        fn: other boxes of objects.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def measures(self) -> dict[str, float]:
        """Return IDF1, and the precision and recall that it is the harmonic mean of, from 0 to 1."""
        return {
            "IDF1": self.tp / max(self.tp + 0.5 * (self.fp + self.fn), 1),
            "IDP": self.tp / max(self.tp + self.fp, 1),
            "IDR": self.tp / max(self.tp + self.fn, 1),
        }


def count_identities(sequence: TrackSequence) -> IdentityCounts:
    """Assign each object at most one track, so that they share most frames with an IoU of at least 0.5."""
    common = np.zeros((len(sequence.object_frames), len(sequence.track_frames)))
    for frame in sequence.frames:
        rows, columns = np.nonzero(frame.overlap >= LEAST_IOU - MARGIN)
        common[frame.objects[rows], frame.tracks[columns]] += 1
    tp = int(common[match(common, 1)].sum())
    return IdentityCounts(tp, len(sequence.found) - tp, len(sequence.truth) - tp)
