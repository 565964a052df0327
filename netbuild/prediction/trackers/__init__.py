"""Registry of trackers, which follow objects through the frames of a video; each is one small file."""

from typing import TYPE_CHECKING

from netbuild.system.plugins import Registry

if TYPE_CHECKING:
    from netbuild.prediction.trackers.base import Tracker

TRACKERS: "Registry[Tracker]" = Registry("tracker", "netbuild.prediction.trackers.base:Tracker", {})

tracker = TRACKERS.decorate  # class decorator


def find(name: str) -> type["Tracker"]:
    """Return the class of a tracker: registered, or offered by an installed package (group ``netbuild.trackers``).

    Raises:
        NetbuildError: if there is none of this name, or the package's does not load.
    """
    return TRACKERS.get(name)
