"""Registry of trackers, which follow objects through the frames of a video; each is one small file."""

from typing import TYPE_CHECKING

from netbuild.system.plugins import Registry

if TYPE_CHECKING:
    from netbuild.prediction.trackers.base import Tracker

TRACKERS: "Registry[Tracker]" = Registry(
    "tracker",
    "netbuild.prediction.trackers.base:Tracker",
    {
        "sort": "netbuild.prediction.trackers.sort:Sort",
        "bytetrack": "netbuild.prediction.trackers.bytetrack:ByteTrack",
        "ocsort": "netbuild.prediction.trackers.ocsort:OcSort",
        "botsort": "netbuild.prediction.trackers.botsort:BotSort",
    },
)

tracker = TRACKERS.decorate  # class decorator


def find(name: str) -> type["Tracker"]:
    """Return the class of a tracker: built in, registered, or of an installed package (group ``netbuild.trackers``).

    Raises:
        NetbuildError: if there is none of this name, or the package's does not load.
    """
    return TRACKERS.get(name)
