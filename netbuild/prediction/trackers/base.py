"""The base class of trackers."""

from abc import ABC, abstractmethod
from typing import ClassVar

from netbuild.tasks.view import Record, View


class Tracker(ABC):
    """Gives the objects of a video numbers that stay the same from frame to frame.

    A new tracker is made for each video, so it may keep whatever it needs in its attributes. It meets the interface
    `netbuild.tasks.base.FrameState`.

    Attributes:
        name: the name that it is chosen by.
        settings_class: a dataclass whose fields are made by `netbuild.settings.setting`; an object of it is then the
            only argument of the class. None for a tracker without settings, whose class takes no argument.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type | None] = None

    @abstractmethod
    def update(self, records: list[Record], view: View) -> list[Record]:
        """Take the next frame of the video and return its records, each with its number as ``"id"``.

        Records may be dropped, reordered or added; those that are given must not be changed.

        Args:
            records: what the task found in this frame.
            view: the frame.
        """
