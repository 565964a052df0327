"""`TrackedResult`: a frame with its tracked objects, their trails, and counts."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.data.fitting import Image
from netbuild.drawing.annotated import Colour, class_colour
from netbuild.prediction.result import Result
from netbuild.tracking.counting import Marks, Point
from netbuild.tracking.video import VideoTracks

MARK: Colour = (255, 255, 255)  # of lines and zones


@dataclass(frozen=True, eq=False)
class TrackedResult(Result):
    """What a tracker makes of a frame. ``records`` and ``boxes.id`` have the objects' numbers.

    Attributes:
        trails: (N, 2) the last centres of each object's box by its id, oldest first, in pixels.
        marks: the lines and zones, with the counts up to this frame.
        tracks: the tracks of the video so far; all frames of a video share it.
    """

    trails: dict[int, NDArray[Any]] = field(repr=False)
    marks: Marks
    tracks: VideoTracks = field(repr=False)

    def plot(self) -> Image:
        """Draw objects in the colours of their numbers, trails, lines and zones on a copy of the frame (H, W, 3).

        The counts stand under the picture, which makes it higher.

        Raises:
            MissingExtraError: if Pillow is not installed.
        """
        drawing = self.task.draw(self.view.image, self.prediction, self.records)
        colours = [class_colour(record["id"]) for record in self.records]
        trails = [(join(places), class_colour(number)) for number, places in self.trails.items() if len(places) > 1]
        marks = [(join(line.ends), MARK) for line in self.marks.lines]
        marks += [(join((*zone.corners, zone.corners[0])), MARK) for zone in self.marks.zones]
        lines = [*drawing.lines, *trails, *marks]
        return replace(drawing, colours=colours, lines=lines, texts=[*drawing.texts, *self.marks.texts()]).render()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data, with the counts up to this frame."""
        return {**super().to_dict(), **self.marks.to_dict()}


def join(places: "NDArray[Any] | tuple[Point, ...]") -> NDArray[Any]:
    """Return the lines (N - 1, 2, 2) between consecutive places (N, 2)."""
    points = np.asarray(places, dtype=float)
    return np.stack((points[:-1], points[1:]), 1)
