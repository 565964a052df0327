"""Tasks by name: what is learnt, how outputs are read, how they are scored. One small file each."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.system.plugins import load

if TYPE_CHECKING:
    from netbuild.tasks.base import Task

GROUP = "netbuild.tasks"  # entry points of installed packages: task name = module:class
_HOMES = {
    "detect": "detect:DetectTask",
    "classify": "classify:ClassifyTask",
    "autoencode": "autoencode:AutoencodeTask",
    "segment": "segment:SegmentTask",
    "pose": "pose:PoseTask",
    "obb": "obb:TurnedTask",
    "semantic": "maps:SemanticTask",
    "depth": "maps:DepthTask",
}
_OWN: dict[str, type["Task"]] = {}
T = TypeVar("T", bound="type[Task]")


def task(cls: T) -> T:
    """Decorator: offer a `Task` class under its ``name``."""
    _OWN[cls.name] = cls
    return cls


def find(name: str) -> type["Task"]:
    """The class of a task: one that a decorator offers, ours, or an installed package's.

    Raises:
        NetbuildError: if there is none of this name, or the package's does not load.
    """
    if name in _OWN:
        return _OWN[name]
    if name in _HOMES:
        module, cls = _HOMES[name].split(":")
        return getattr(import_module(f"{__name__}.{module}"), cls)
    points = {point.name: point for point in _entry_points()}
    if name not in points:
        known = sorted({*_OWN, *_HOMES, *points})
        raise NetbuildError(f"no task '{name}'; there are {', '.join(known)}", hint=did_you_mean(name, known))
    from netbuild.tasks.base import Task

    return load(points[name], "the task", Task, "netbuild.tasks.base.Task")


def _entry_points() -> Any:
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)
