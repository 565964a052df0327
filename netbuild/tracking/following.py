"""Follow one object through a video by a siamese network, from its box in the first frame."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from netbuild.data.fitting import Image, Letterbox
from netbuild.data.images import UnreadableImageError
from netbuild.errors import NetbuildError
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.onnx_network import is_exported
from netbuild.prediction.predictor import Unreadable
from netbuild.prediction.siamese import FollowOptions, SiameseFollower
from netbuild.prediction.sources import Shot, Source, read_shots
from netbuild.prediction.trackers.options import list_settings, parse_texts, unknown_error
from netbuild.settings import check_setting
from netbuild.system.devices import pick_device
from netbuild.tasks.track import TrackTask
from netbuild.tasks.view import Record, View
from netbuild.tracking.counting import Marks
from netbuild.tracking.mot_files import name_sequence
from netbuild.tracking.result import TrackedResult
from netbuild.tracking.video import VideoTracks
from netbuild.weights.building import build_graph

Box = tuple[float, float, float, float]  # left, top, width, height


def parse_box(text: str) -> Box:
    """Parse x,y,width,height in pixels.

    Raises:
        NetbuildError: for anything else, or a box without area.
    """
    with suppress(ValueError):
        return check_box([float(word) for word in text.split(",")])
    raise NetbuildError(f"--box {text}: is not x,y,width,height", hint="four numbers in pixels of the first frame")


def check_box(values: Sequence[float]) -> Box:
    """Return a box of four finite numbers with an area.

    Raises:
        NetbuildError: for another one.
    """
    if len(values) != 4 or not all(map(isfinite, values)) or min(values[2:]) < 2:
        shown = ",".join(f"{value:g}" for value in values)
        hint = "four numbers in pixels of the first frame, width and height at least 2"
        raise NetbuildError(f"the box {shown} is not x,y,width,height", hint=hint)
    return tuple(values)  # type: ignore[return-value]


@dataclass(frozen=True)
class ObjectFollower:
    """A network of the task ``track`` with all options settled, ready to follow an object; see `prepare_following`.

    Args:
        network: the network in eval mode, on its device.
        box: the object in the first frame.
        options: the settings of the search.
        marks: the lines and zones to count at.
    """

    network: Network
    box: Box
    options: FollowOptions
    marks: Marks

    @property
    def task(self) -> TrackTask:
        """The task of the network."""
        return TrackTask(self.network.head, ["object"])

    def run(self, videos: Sequence[Source], unreadable: Unreadable | None = None) -> Iterator[TrackedResult]:
        """Yield the result of each frame of the video; see `netbuild.tracking.api.track`."""
        try:
            yield from self._follow(read_shots(videos[0]))
        except UnreadableImageError as error:
            if unreadable is None:
                raise
            unreadable(videos[0] if isinstance(videos[0], Path) else videos[0].path, error)

    def _follow(self, shots: Iterator[Shot]) -> Iterator[TrackedResult]:
        follower, task = None, self.task
        tracks = VideoTracks(Path(), "", self.marks)
        for frame, shot in enumerate(shots, 1):
            if follower is None:
                tracks = VideoTracks(shot.path, name_sequence(shot.path), self.marks, has_classes=False)
                follower, box, score = self._start(shot.pixels), self.box, 1.0
            else:
                box, score = follower.update(shot.pixels)
            records = [make_record(box, score)]
            tracks.add(frame, records)
            size = shot.pixels.shape[:2]
            view = View(shot.pixels, Letterbox.fit(size, size))
            fields = (shot.path, size, records, frame, shot.fps, None, view, task)
            yield TrackedResult(*fields, trails=tracks.trails, marks=tracks.marks, tracks=tracks)

    def _start(self, frame: Image) -> SiameseFollower:
        """Return a follower that has seen the first frame.

        Raises:
            NetbuildError: if the box does not lie in it.
        """
        left, top, width, height = self.box
        h, w = frame.shape[:2]
        if left + width <= 0 or top + height <= 0 or left >= w or top >= h:
            shown = ",".join(f"{value:g}" for value in self.box)
            raise NetbuildError(f"the box {shown} lies outside of the first frame, which has {w} x {h} pixels")
        (_, (_, exemplar, _)), (_, (_, search, _)) = self.network.card.inputs
        device = next(self.network.parameters()).device
        return SiameseFollower(self.network, exemplar, search, frame, self.box, self.options, device)


def make_record(box: Box, score: float) -> Record:
    """Return the record of the followed object in a frame."""
    left, top, width, height = box
    corners = [left, top, left + width, top + height]
    return {"class": 0, "name": "object", "confidence": score, "box": corners, "id": 1}


def make_options(settings: Sequence[str] | Mapping[str, Any]) -> FollowOptions:
    """Return the settings of the search, given by name or as texts NAME=VALUE.

    Raises:
        NetbuildError: for an unknown or wrong one.
    """
    owner, known = "following", list_settings(FollowOptions)
    values = dict(settings) if isinstance(settings, Mapping) else parse_texts(settings, owner, known)
    for name, value in values.items():
        if name not in known:
            raise unknown_error(name, owner, known)
        values[name] = check_setting(FollowOptions, name, value, None)
    return FollowOptions(**values)


def prepare_following(
    model: str | Path | Network,
    videos: Sequence[Source],
    box: Sequence[float],
    settings: Sequence[str] | Mapping[str, Any],
    marks: Marks,
    *,
    device: str | None = None,
    modules: Sequence[str | Path] = (),
    trusted: Any = False,
) -> ObjectFollower:
    """Open a network and settle all options of following.

    Args:
        model: a checkpoint, a built network, or a network's file, of the task ``track``.
        videos: one video.
        box: left, top, width and height of the object in its first frame, in pixels.
        settings: of the search by name, see `FollowOptions`; or texts NAME=VALUE.
        marks: the lines and zones to count at.
        device, modules, trusted: as for `netbuild.predict`.

    Raises:
        NetbuildError: for an error in them, an exported file, or a network of another task.
    """
    if len(videos) != 1:
        raise NetbuildError(f"a box is in the first frame of one video, there are {len(videos)}")
    options = make_options(settings)
    if not isinstance(model, Network):
        if is_exported(model):
            hint = "follow with the checkpoint that it was exported from"
            raise NetbuildError(f"{model}: exported files with two inputs cannot be followed with", hint=hint)
        network = build_graph(open_graph(model, modules=modules, trusted=trusted)).eval().fuse()
        model = network.to(pick_device(device or "auto"))
    if model.card.task != TrackTask.name or len(model.card.inputs) != 2:
        message = f"a box is followed by a network for 'track', this one's task is '{model.card.task}'"
        raise NetbuildError(message, hint="leave the box out, or use one such as siamfc.yaml")
    return ObjectFollower(model, check_box(box), options, marks)
