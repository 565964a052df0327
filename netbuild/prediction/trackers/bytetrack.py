"""ByteTrack (Zhang et al. 2022, arXiv 2110.06864): boxes of low confidence continue tracks, but start none."""

from dataclasses import dataclass
from typing import ClassVar

from netbuild.drawing.annotated import Image
from netbuild.prediction.trackers.box_tracker import UNTRACKED, Array, BoxTracker, Detections, Matching, TrackTable
from netbuild.settings import setting

HITS = 2  # frames in a row in which an object must be found before it gets its number


@dataclass(frozen=True)
class ByteTrackSettings:
    """The settings of `ByteTrack`."""

    high: float = setting(0.6, "least confidence of a box of the first round", 0, 1)
    low: float = setting(0.1, "least confidence of a box of the second round", 0, 1)
    start: float = setting(0.7, "least confidence of a box that starts a track", 0, 1)
    iou: float = setting(0.1, "first round: least IoU, times the confidence, of predicted box and box", 0, 1)
    low_iou: float = setting(0.5, "second round: least IoU of predicted box and box", 0, 1)
    new_iou: float = setting(0.3, "as iou, for tracks that were found in one frame only", 0, 1)
    fuse: bool = setting(True, "whether the IoU is multiplied by the confidence, in the first round")
    patience: int = setting(30, "frames that a track is kept while its object is not found", 0, 100_000)
    by_class: bool = setting(True, "whether a track is continued only by boxes of its class")


class ByteTrack(BoxTracker):
    """Match tracks with boxes of high confidence first, then the remaining tracks with the other boxes."""

    name = "bytetrack"
    settings_class: ClassVar[type] = ByteTrackSettings

    def __init__(self, settings: ByteTrackSettings | None = None) -> None:
        self.settings = settings or self.settings_class()
        self.tracks = TrackTable()
        self.frame = 0

    def step(self, found: Detections, image: Image) -> Array:
        """See `BoxTracker.step`."""
        s, tracks = self.settings, self.tracks
        self.frame += 1
        tracks.predict()
        self.move_tracks(found, image)
        matching = Matching(len(tracks), len(found))
        is_high, is_low = found.scores >= s.high, (found.scores >= s.low) & (found.scores < s.high)
        confirmed = tracks.ids != UNTRACKED
        self._match(found, matching, confirmed, is_high, s.iou, s.fuse)
        self._match(found, matching, confirmed & (tracks.lost == 1), is_low, s.low_iou, False)
        self._match(found, matching, ~confirmed, is_high, s.new_iou, s.fuse)
        # In the first frame no object can have been found twice.
        return tracks.finish(found, matching, is_high & (found.scores >= s.start), min(HITS, self.frame), s.patience)

    def move_tracks(self, found: Detections, image: Image) -> None:
        """Correct the predicted boxes by what is known of the frame; by default not at all."""

    def _match(
        self, found: Detections, matching: Matching, tracks: Array, detections: Array, least: float, fuse: bool
    ) -> None:
        """Run one round for those of the tracks and detections, given by masks, that are not matched yet."""
        rows, columns = matching.free_tracks(tracks), matching.free_detections(detections)
        chosen = found.select(columns)
        overlap = self.tracks.overlap(rows, chosen, self.settings.by_class)
        matching.add(rows, columns, overlap * chosen.scores if fuse else overlap, least)
