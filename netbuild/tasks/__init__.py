"""Tasks by name: loss, decoding and metric of a kind of network. One small file each."""

from typing import TYPE_CHECKING, Protocol, TypeVar

from netbuild.layers.heads.base import REQUIRED_METHODS
from netbuild.system.plugins import Registry

if TYPE_CHECKING:
    from netbuild.graph.heads import HeadCard
    from netbuild.tasks.base import Task

TASKS: "Registry[Task]" = Registry(
    "task",
    "netbuild.tasks.base:Task",
    {
        "detect": "netbuild.tasks.detect:DetectTask",
        "classify": "netbuild.tasks.classify:ClassifyTask",
        "multilabel": "netbuild.tasks.multilabel:MultiLabelTask",
        "regress": "netbuild.tasks.regress:RegressTask",
        "autoencode": "netbuild.tasks.autoencode:AutoencodeTask",
        "vae": "netbuild.tasks.variational:VariationalTask",
        "diffuse": "netbuild.tasks.diffuse:DiffuseTask",
        "generate": "netbuild.tasks.generate:GenerateTask",
        "segment": "netbuild.tasks.segment:SegmentTask",
        "pose": "netbuild.tasks.pose:PoseTask",
        "obb": "netbuild.tasks.obb:OrientedBoxTask",
        "semantic": "netbuild.tasks.semantic:SemanticTask",
        "depth": "netbuild.tasks.depth:DepthTask",
        "track": "netbuild.tasks.track:TrackTask",
        "restore": "netbuild.tasks.restore:RestoreTask",
        "several": "netbuild.tasks.several:SeveralTask",
    },
)
T = TypeVar("T", bound="type[Task]")


def task(cls: T) -> T:
    """Class decorator: register a `Task` under its ``name``."""
    TASKS.decorate(cls)
    REQUIRED_METHODS[cls.name] = cls.head_methods
    return cls


def find(name: str) -> type["Task"]:
    """Return the class of a task: registered, built in, or of an installed package (group ``netbuild.tasks``).

    Raises:
        NetbuildError: if there is no task of this name, or the package's class does not load.
    """
    return TASKS.get(name)


class TaskDescription(Protocol):
    """What the class of a network's task follows from: a network's card, or its graph."""

    @property
    def task(self) -> str | None:
        """The name of the task, None for a network without one."""

    @property
    def heads(self) -> "tuple[HeadCard, ...]":
        """The descriptions of several heads; empty for a network with one."""


def class_for(network: TaskDescription) -> type["Task"]:
    """Return the class of a network's task; the network must have one.

    That of a network with several heads is a subclass of `netbuild.tasks.several.SeveralTask` for these heads.

    Raises:
        NetbuildError: if there is no task of its name, or the package's class does not load.
    """
    assert network.task is not None
    found = find(network.task)
    return found.for_heads(network.heads)
