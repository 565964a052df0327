"""The protocol of heads: what tasks, prediction and export read of a network's last module."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from netbuild.errors import NetbuildError, Where

# Forms of the boxes in a list of detections: x1, y1, x2, y2 in pixels; centre, width and height in pixels (of boxes
# that are turned afterwards); centre, width and height as fractions of the image.
BOX_FORMS = ("corners", "centres", "parts")

# Methods that a class must have if it states one of these tasks. A plug-in task adds its own by `Task.head_methods`.
REQUIRED_METHODS: dict[str, tuple[str, ...]] = dict.fromkeys(("detect", "segment", "pose", "obb"), ("ranks", "layout"))


class Head(nn.Module):
    """Base class of heads: the members that others read, with defaults.

    A head need not derive from it: any module that states a task and has the members is one. In training its forward
    gives what the loss of its task takes; in eval its prediction, or (prediction, training outputs) if `returns_raw`.

    Attributes:
        task: name of the task, as `netbuild.tasks.find` knows it.
        learns: name of the loss that teaches it, as `netbuild.tasks.losses.find` knows it; empty if there is none.
        box_form: the form of its boxes where it lists detections, one of `BOX_FORMS`; empty for a head whose outputs
            the tasks of boxes cannot decode.
        returns_raw: whether forward in eval gives (prediction, training outputs).
        has_objectness: whether the prediction has rows (B, N, 5+nc) with an objectness, by which the probabilities of
            classes are to be multiplied, rather than columns (B, 4+nc, A).
        branches: number of groups of maps that it reads; all but one are used in training only.
        fitting: how pictures are fitted to the network's input, a key of `netbuild.data.fitting.FITTINGS`; empty for
            the way of the task, which for boxes is "letterbox".
        nc: number of classes; None for a head without classes.
        stride: pixels per cell of each level; empty where they are not known, None for a head that needs none.
    """

    task: str
    learns: str = ""
    box_form: str = ""
    returns_raw: bool = False
    has_objectness: bool = False
    branches: int = 1
    fitting: str = ""
    nc: int | None = None
    stride: Sequence[float] | None = None

    @property
    def extra(self) -> tuple[int, ...]:
        """The shape of the values that follow each box's classes, such as (17, 3) for 17 keypoints; () without any."""
        return ()

    @property
    def file_values(self) -> dict[str, Any]:
        """The values of keys of a network's file that training may change in the head, such as ``anchors``."""
        return {}

    def ranks(self) -> bool:
        """Return whether the prediction is a list of detections, best first, rather than one entry per cell."""
        return False

    def layout(self) -> str:
        """Describe the outputs of an exported file in one sentence; empty if their shapes say it all."""
        return ""


@dataclass(frozen=True)
class HeadTraits:
    """The members of the protocol, read once from a module; see `Head` for their meaning.

    A module that is no head has the defaults of `Head`. `ranks` and `nc` may change when a head is fused, so traits are
    read when they are needed and not kept.
    """

    learns: str
    box_form: str
    returns_raw: bool
    has_objectness: bool
    fitting: str
    nc: int | None
    stride: tuple[float, ...] | None
    extra: tuple[int, ...]
    file_values: dict[str, Any]
    ranks: bool
    layout: str


def is_head(module: nn.Module) -> bool:
    """Return whether a module keeps to the protocol: it is a `Head`, or has the method ``ranks`` or ``layout``."""
    return isinstance(module, Head) or any(callable(getattr(module, name, None)) for name in ("ranks", "layout"))


def traits(module: nn.Module) -> HeadTraits:
    """Read the traits of any module.

    A head that does not derive from `Head` and lists detections gives corners, and (prediction, raw) in eval, unless
    it states something else: these were the rules before there was a protocol.
    """
    if not is_head(module):
        return HeadTraits("", "", False, False, "", None, None, (), {}, False, "")
    derived = isinstance(module, Head)
    stride = getattr(module, "stride", None)
    ranks, layout = getattr(module, "ranks", None), getattr(module, "layout", None)
    return HeadTraits(
        learns=str(getattr(module, "learns", "")),
        box_form=str(getattr(module, "box_form", "" if ranks is None else "corners")),
        returns_raw=bool(getattr(module, "returns_raw", not derived)),
        has_objectness=bool(getattr(module, "has_objectness", False)),
        fitting=str(getattr(module, "fitting", "")),
        nc=getattr(module, "nc", None),
        stride=tuple(map(float, stride)) if isinstance(stride, list | tuple) else None,
        extra=tuple(getattr(module, "extra", ())),
        file_values=dict(getattr(module, "file_values", {})),
        ranks=bool(ranks()) if callable(ranks) else False,
        layout=str(layout()) if callable(layout) else "",
    )


def check_head_class(cls: type[nn.Module], task: str) -> None:
    """Check what a module class that states a task owes it, as far as the class shows it.

    Raises:
        NetbuildError: at the class, if a method is missing or an attribute has an impossible value.
    """
    for name in REQUIRED_METHODS.get(task, ()):
        if not callable(getattr(cls, name, None)):
            raise _fault(cls, f"states the task '{task}' and has no method '{name}'")
    form = getattr(cls, "box_form", "")
    if form and form not in BOX_FORMS:
        raise _fault(cls, f"has box_form {form!r}; it must be one of {', '.join(BOX_FORMS)}")


def _fault(cls: type[nn.Module], text: str) -> NetbuildError:
    hint = "derive the class from netbuild.layers.heads.base.Head, which says what a head owes its task"
    return NetbuildError(f"{cls.__name__} {text}", _place(cls), hint)


def _place(cls: type[Any]) -> Where | None:
    """Return the place of the class statement; None for a class without a file."""
    try:
        lines, number = inspect.getsourcelines(cls)
        file = inspect.getsourcefile(cls)
    except (OSError, TypeError):
        return None
    return Where(str(file), number, 1, lines[0].rstrip("\n"))
