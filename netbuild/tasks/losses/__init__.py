"""Losses of heads by the name that `netbuild.layers.heads.base.Head.learns` gives. One small file each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from netbuild.system.plugins import Registry

if TYPE_CHECKING:
    from netbuild.tasks.losses.base import HeadLoss

LOSSES: "Registry[HeadLoss]" = Registry(
    "loss",
    "netbuild.tasks.losses.base:HeadLoss",
    {
        "cells": "netbuild.tasks.losses.cells:CellsLoss",
        "cells-auxiliary": "netbuild.tasks.losses.auxiliary:AuxiliaryCellsLoss",
        "anchors": "netbuild.tasks.losses.anchors:AnchorLoss",
        "anchors-cost": "netbuild.tasks.losses.anchors:CostAnchorLoss",
        "anchors-auxiliary": "netbuild.tasks.losses.anchors:AuxiliaryAnchorLoss",
        "queries": "netbuild.tasks.losses.queries:QueriesLoss",
        "segment": "netbuild.tasks.losses.segment:SegmentLoss",
        "segment-auxiliary": "netbuild.tasks.losses.auxiliary:AuxiliarySegmentLoss",
        "segment-semantic": "netbuild.tasks.losses.segment:SemanticSegmentLoss",
        "pose": "netbuild.tasks.losses.pose:PoseLoss",
        "pose-likelihood": "netbuild.tasks.losses.pose:LikelihoodPoseLoss",
        "obb": "netbuild.tasks.losses.obb:RotatedLoss",
        "semantic": "netbuild.tasks.losses.semantic:SemanticLoss",
        "depth": "netbuild.tasks.losses.depth:DepthLoss",
    },
)
T = TypeVar("T", bound="type[HeadLoss]")


def loss(name: str) -> Callable[[T], T]:
    """Class decorator: register a `HeadLoss` under the name that heads give in ``learns``.

    Raises:
        NetbuildError: if the class is no `HeadLoss`.
    """

    def register(cls: T) -> T:
        cls.name = name
        return LOSSES.decorate(cls)

    return register


def default_settings(head: Any) -> Mapping[str, Any]:
    """Return values of settings that suit a head, for a run that leaves them at ``auto`` or null.

    Args:
        head: the head, or its class; a module without a loss has none.
    """
    name = getattr(head, "learns", "")
    return find(name).default_settings if name else {}


def find(name: str) -> type["HeadLoss"]:
    """Return the loss of this name: registered, built in, or of an installed package (group ``netbuild.losses``).

    Raises:
        NetbuildError: if there is no loss of this name, or the package's class does not load.
    """
    return LOSSES.get(name)
