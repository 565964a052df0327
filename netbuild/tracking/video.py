"""`VideoTracks`: everything that is known of one tracked video, built up frame by frame."""

from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.tasks.view import Record
from netbuild.tracking.counting import Marks, Point
from netbuild.tracking.mot_files import NO_NUMBER, TrackRows

TRAIL = 30  # frames whose places a trail shows


class VideoTracks:
    """The tracks of a video so far, with trails and counts.

    Args:
        path: the video's file or folder.
        name: of the sequence, by which its truth is found and its files are called.
        marks: the lines and zones to count at.
        has_classes: whether the classes of the records are known.

    Attributes:
        frame: number of the last frame.
        classes: the class and its name of each track by its id, as in the last frame that it was seen in.
        marks: with the counts so far.
        trails: (N, 2) the last centres of the box of each object that is seen in the last frame, oldest first.
    """

    def __init__(self, path: Path, name: str, marks: Marks = Marks(), has_classes: bool = True) -> None:  # noqa: B008
        self.path, self.name, self.marks, self.has_classes = path, name, marks, has_classes
        self.frame = 0
        self.classes: dict[int, tuple[int, str]] = {}
        self.trails: dict[int, NDArray[Any]] = {}
        self.places: dict[int, deque[tuple[int, Point]]] = {}  # frame and place
        self.rows: list[tuple[float, ...]] = []

    def add(self, frame: int, records: Sequence[Record]) -> None:
        """Add the records of the next frame; those without an id are left out."""
        self.frame = frame
        tracked = [record for record in records if "id" in record]
        now: dict[int, Point] = {}
        for record in tracked:
            x1, y1, x2, y2 = record["box"]
            label = record["class"] + 1 if self.has_classes else NO_NUMBER
            self.rows.append((frame, record["id"], x1, y1, x2, y2, record["confidence"], label))
            self.classes[record["id"]] = record["class"], record["name"]
            now[record["id"]] = (x1 + x2) / 2, (y1 + y2) / 2
        before = {number: self.places[number][-1][1] for number in now if number in self.places}
        self.marks = self.marks.update(before, now)
        self.trails = {number: self._extend_trail(number, place) for number, place in now.items()}

    def _extend_trail(self, number: int, place: Point) -> NDArray[Any]:
        places = self.places.setdefault(number, deque(maxlen=TRAIL))
        places.append((self.frame, place))
        return np.array([place for frame, place in places if frame > self.frame - TRAIL])

    def to_rows(self) -> TrackRows:
        """Return all tracks as the rows of a result file."""
        values = np.array(self.rows, dtype=float).reshape(-1, 8)
        return TrackRows(
            values[:, 0].astype(int), values[:, 1].astype(int), values[:, 2:6], values[:, 6], values[:, 7].astype(int)
        )

    def line(self) -> str:
        """Summarise the video in one line of text."""
        counts = Counter(name for _, name in sorted(self.classes.values())) if self.has_classes else {}
        kinds = ", ".join(f"{count} {name}" for name, count in counts.items())
        parts = [f"{len(self.classes)} tracks" + (f" ({kinds})" if kinds else ""), *self.marks.texts()]
        text = f"{self.path}: {self.frame} frames, {'; '.join(parts)}"
        return "".join(c if c.isprintable() else " " for c in text)

    def to_dict(self) -> dict[str, Any]:
        """Return the number of frames, tracks and counts as JSON data."""
        counts = {"frames": self.frame, "tracks": len(self.classes), **self.marks.to_dict()}
        return {"path": str(self.path), "name": self.name, **counts}
