"""What prediction passes to a task: the picture with its place in the network's input, and the state of a video."""

from dataclasses import dataclass
from typing import Any, Protocol

from netbuild.data.fitting import Letterbox
from netbuild.drawing.annotated import Image

Record = dict[str, Any]  # one finding in a picture (a box, a class, a value), as JSON data


@dataclass(frozen=True)
class View:
    """A picture in its original size, and its placement in the network's input.

    Args:
        image: (H, W, 3), RGB, upright.
        letterbox: maps coordinates of the network's input back to pixels of the picture.
    """

    image: Image
    letterbox: Letterbox


class FrameState(Protocol):
    """State that prediction carries through the frames of one video, such as a tracker."""

    def update(self, records: list[Record], view: View) -> list[Record]:
        """Return the records of the next frame, changed by what the state knows of the earlier ones.

        Called once per frame, in the order of the video.
        """
