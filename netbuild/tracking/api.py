"""`track`: follow the objects of videos with a network, or those of files of detections without one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.data.fitting import Letterbox
from netbuild.errors import NetbuildError
from netbuild.graph.network import Network
from netbuild.prediction.in_memory import collect_videos
from netbuild.prediction.onnx_network import OnnxNetwork
from netbuild.prediction.predictor import Predictor, Unreadable, prepare
from netbuild.prediction.sources import Source
from netbuild.prediction.trackers.options import prepare_tracker
from netbuild.tasks.base import Task
from netbuild.tasks.view import FrameState, Record, View
from netbuild.tracking.counting import Marks, Shape, parse_marks
from netbuild.tracking.following import prepare_following
from netbuild.tracking.mot_files import NO_NUMBER, TrackRows, make_records, name_sequence, read_rows, read_sequence_info
from netbuild.tracking.result import TrackedResult
from netbuild.tracking.video import VideoTracks

TRACKER = "bytetrack"
CONFIDENCE = 0.1  # least confidence of boxes that a tracker gets; it decides which of them to use

# Options of `prepare` that it does not pass on to the task.
NOT_OF_TASK = ("imgsz", "batch", "rect", "device", "inputs", "modules", "trusted")

TrackerName = str | Path | Callable[[], FrameState]


def track(
    model: str | Path | Network,
    source: Any,
    *,
    tracker: TrackerName = TRACKER,
    settings: Mapping[str, Any] | None = None,
    lines: Sequence[Shape] = (),
    zones: Sequence[Shape] = (),
    unreadable: Unreadable | None = None,
    **options: Any,
) -> Iterator[TrackedResult]:
    """Follow the objects of videos and yield a `TrackedResult` for each frame, in order.

    Args:
        model: a checkpoint, an exported ONNX file, a built network, or a network's file; its task must give boxes.
        source: a video, a folder or pattern of pictures, which are the frames of one video, or a list of these; also a
            list of pictures in memory.
        tracker: the name of a tracker, a YAML file of its settings, or a class.
        settings: settings of the tracker by name, which override the file's.
        lines: lines (x1, y1, x2, y2) in pixels; objects that cross them are counted.
        zones: polygons (x1, y1, x2, y2, x3, y3, ...) in pixels; objects in them are counted.
        unreadable: called with the path and the error of each video that cannot be read (to its end); without it, the
            error is raised.
        options: those of `netbuild.predict`; ``conf`` is 0.1 by default. Or ``box``: left, top, width and height in
            pixels of one object in the first frame, which a network of the task ``track`` follows alone; ``settings``
            are then those of `netbuild.prediction.siamese.FollowOptions`.

    Raises:
        KeywordError, NetbuildError: at once, for an error in network, source, tracker or options.
    """
    marks = parse_marks(lines, zones)
    videos = find_videos(source)
    if (box := options.pop("box", None)) is not None:
        if tracker != TRACKER:
            raise NetbuildError("a tracker has no effect with a box", hint="leave one of them out")
        return prepare_following(model, videos, box, settings or {}, marks, **options).run(videos, unreadable)
    return prepare_tracking(model, tracker, settings or {}, marks, **options).run(videos, unreadable)


def find_videos(source: Any) -> list[Source]:
    """Return the videos that a source of `track` names.

    Raises:
        NetbuildError: for a path that matches nothing, or a single picture.
    """
    return collect_videos(source, lambda folder: read_sequence_info(folder).fps)


@dataclass(frozen=True)
class TrackingPredictor:
    """A network and a tracker with all options settled, ready to track; see `prepare_tracking`."""

    predictor: Predictor
    marks: Marks

    @property
    def task(self) -> Task:
        """The task of the network."""
        return self.predictor.task

    def run(self, videos: Sequence[Source], unreadable: Unreadable | None = None) -> Iterator[TrackedResult]:
        """Yield the result of each frame; see `track`."""
        tracks = VideoTracks(Path(), "")
        for result in self.predictor.run(videos, unreadable):
            if result.frame == 1:
                tracks = VideoTracks(result.path, name_sequence(result.path), self.marks)
            tracks.add(result.frame or 1, result.records)
            fields = {name: getattr(result, name) for name in type(result).__dataclass_fields__}
            yield TrackedResult(**fields, trails=tracks.trails, marks=tracks.marks, tracks=tracks)


def prepare_tracking(
    model: str | Path | Network,
    tracker: TrackerName,
    settings: Sequence[str] | Mapping[str, Any],
    marks: Marks,
    **options: Any,
) -> TrackingPredictor:
    """Open a network and settle all options of tracking.

    Args:
        model, tracker, options: as for `track`.
        settings: as the options of `prepare_tracker`.
        marks: the lines and zones.

    Raises:
        KeywordError, NetbuildError: for an error in them, or a task without boxes.
    """
    state = prepare_tracker(tracker, settings)
    predictor = prepare(model, tracker=state, **options)
    if "box" not in predictor.task.record_fields:
        hint = "track with a network for detect, segment, pose or obb"
        if predictor.task.parts:
            hint = "netbuild.predict(..., tracker=...) numbers the boxes of each head"
        raise NetbuildError(f"the task '{predictor.task.name}' has no boxes to track", hint=hint)
    return TrackingPredictor(_lower_confidence(predictor, options), marks)


def _lower_confidence(predictor: Predictor, options: Mapping[str, Any]) -> Predictor:
    """Return the predictor with a least confidence of `CONFIDENCE`, unless it is given or fixed in an exported file."""
    network = predictor.network
    if options.get("conf") is not None or (isinstance(network, OnnxNetwork) and network.file.info.nms is not None):
        return predictor
    given = {name: value for name, value in options.items() if name not in NOT_OF_TASK and value is not None}
    return replace(predictor, options=predictor.task.options({**given, "conf": CONFIDENCE}))


@dataclass(frozen=True)
class DetectionFile:
    """A file of detections of one video.

    Attributes:
        path: the file.
        name: of the sequence.
        rows: its rows.
        size: height and width of the video's frames in pixels.
        length: number of the video's frames.
    """

    path: Path
    name: str
    rows: TrackRows
    size: tuple[int, int]
    length: int


def read_detections(path: Path, name: str | None = None) -> DetectionFile:
    """Read a file of detections; size and length of the video are those of ``seqinfo.ini``, else as the boxes need.

    Args:
        path: the file.
        name: of the sequence; that of the file or folder by default.

    Raises:
        NetbuildError: if it cannot be read, or has no detections.
    """
    rows = read_rows(path, tracks=False)
    if not len(rows):
        raise NetbuildError(f"{path}: has no detections")
    info = read_sequence_info(path)
    right, bottom = np.clip(np.ceil(rows.boxes[:, 2:].max(0)), 1, None)
    size = info.size or (int(bottom), int(right))
    return DetectionFile(path, name or name_sequence(path), rows, size, max(info.length or 0, int(rows.frames[-1])))


def track_detections(
    file: DetectionFile, tracker: Callable[[], FrameState], marks: Marks | None = None
) -> Iterator[tuple[VideoTracks, list[Record]]]:
    """Follow the objects of a file of detections, and yield the tracks so far and the records of each frame.

    Args:
        file: the detections.
        tracker: makes the tracker, see `prepare_tracker`; it sees a black picture.
        marks: lines and zones to count at.
    """
    marks, state = marks or Marks(), tracker()
    tracks = VideoTracks(file.path, file.name, marks, bool((file.rows.classes != NO_NUMBER).any()))
    black = np.broadcast_to(np.zeros(1, np.uint8), (*file.size, 3))
    view = View(black, Letterbox.fit(file.size, file.size))
    for frame, rows in enumerate(file.rows.split_frames(file.length), 1):
        records = state.update(make_records(file.rows.select(rows)), view)
        tracks.add(frame, records)
        yield tracks, records
