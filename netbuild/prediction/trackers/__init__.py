"""Trackers by name: they follow objects through the frames of a video. One small file each."""

from typing import TYPE_CHECKING, TypeVar

from netbuild.system.plugins import Registry

if TYPE_CHECKING:
    from netbuild.prediction.trackers.base import Tracker

TRACKERS: "Registry[Tracker]" = Registry("tracker", "netbuild.prediction.trackers.base:Tracker", {})
T = TypeVar("T", bound="type[Tracker]")


def tracker(cls: T) -> T:
    """Class decorator: register a `Tracker` under its ``name``."""
    TRACKERS.register(cls.name, cls)
    return cls


def find(name: str) -> type["Tracker"]:
    """Return the class of a tracker: registered, or offered by an installed package (group ``netbuild.trackers``).

    Raises:
        NetbuildError: if there is none of this name, or the package's does not load.
    """
    return TRACKERS.get(name)
