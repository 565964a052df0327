"""CLEAR MOT measures of tracking (Bernardin and Stiefelhagen 2008): errors frame by frame."""

from dataclasses import dataclass

import numpy as np

from netbuild.prediction.trackers.association import match
from netbuild.tracking.frames import LEAST_IOU, MARGIN, Sums, TrackSequence

MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2  # shares of the frames of an object
KEPT = 1000.0  # preference of a pair that was matched in the previous frame, above any sum of IoUs


@dataclass(frozen=True)
class ClearCounts(Sums):
    """Sums over frames, which are added over sequences.

    Attributes:
        objects: true boxes.
        tp, fp, fn: boxes of tracks on an object, boxes of tracks on none, and objects without a track.
        switches: how often an object is followed by another track than the last time.
        fragments: how often an object is followed again after it was lost.
        overlap: sum of the IoU of all matched boxes.
        mostly_tracked, mostly_lost: objects that are followed in more than 80 %, or less than 20 %, of their frames.
        tracks: number of the true tracks.
    """

    objects: int = 0
    tp: int = 0
    fp: int = 0
    fn: int = 0
    switches: int = 0
    fragments: int = 0
    overlap: float = 0.0
    mostly_tracked: int = 0
    mostly_lost: int = 0
    tracks: int = 0

    def measures(self) -> dict[str, float]:
        """Return MOTA and MOTP from 0 to 1 (MOTA also below 0), and the counts."""
        errors = self.fn + self.fp + self.switches
        return {
            "MOTA": 1 - errors / max(self.objects, 1),
            "MOTP": self.overlap / max(self.tp, 1),
            "switches": self.switches,
            "fragments": self.fragments,
            "FP": self.fp,
            "FN": self.fn,
            "mostly-tracked": self.mostly_tracked,
            "mostly-lost": self.mostly_lost,
            "objects": self.tracks,
        }


def count_clear(sequence: TrackSequence) -> ClearCounts:
    """Match objects and tracks in each frame by an IoU of at least 0.5, keeping earlier pairs, and count the errors."""
    count = len(sequence.object_frames)
    last = np.full(count, -1)  # the track that followed each object the last time
    previous = np.full(count, -1)  # the track in the previous frame in which both objects and tracks are
    followed, pieces = np.zeros(count, int), np.zeros(count, int)
    fp = fn = switches = 0
    overlap = 0.0
    for frame in sequence.frames:
        if not len(frame.objects) or not len(frame.tracks):
            fp, fn = fp + len(frame.tracks), fn + len(frame.objects)
            continue
        score = frame.overlap + KEPT * (previous[frame.objects][:, None] == frame.tracks)
        score[frame.overlap < LEAST_IOU - MARGIN] = 0
        rows, columns = match(score, LEAST_IOU - MARGIN)
        seen, tracks = frame.objects[rows], frame.tracks[columns]
        switches += int(((last[seen] >= 0) & (last[seen] != tracks)).sum())
        pieces[seen[previous[seen] < 0]] += 1
        last[seen] = tracks
        previous[:] = -1
        previous[seen] = tracks
        followed[seen] += 1
        fp, fn = fp + len(frame.tracks) - len(rows), fn + len(frame.objects) - len(rows)
        overlap += float(frame.overlap[rows, columns].sum())
    shares = followed / sequence.object_frames
    return ClearCounts(
        objects=len(sequence.truth),
        tp=int(followed.sum()),
        fp=fp,
        fn=fn,
        switches=switches,
        fragments=int(np.maximum(pieces - 1, 0).sum()),
        overlap=overlap,
        mostly_tracked=int((shares > MOSTLY_TRACKED).sum()),
        mostly_lost=int((shares < MOSTLY_LOST).sum()),
        tracks=count,
    )
