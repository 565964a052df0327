"""Kinds of targets, a file each: annotations that are augmented together with their picture."""

from netbuild.feed.targets.base import Target, TargetKind
from netbuild.feed.targets.boxes import BoxTarget
from netbuild.feed.targets.keypoints import KeypointTarget
from netbuild.feed.targets.maps import (
    ClassMapTarget,
    DistanceMapTarget,
    InputPictureTarget,
    MapTarget,
    PictureTarget,
    ValueMapTarget,
)
from netbuild.feed.targets.masks import MaskKind, MaskTarget
from netbuild.feed.targets.partial import OptionalMapKind, TruthTarget
from netbuild.feed.targets.polygons import PolygonTarget
from netbuild.feed.targets.rotated import RotatedBoxTarget

__all__ = [
    "BoxTarget",
    "ClassMapTarget",
    "DistanceMapTarget",
    "InputPictureTarget",
    "KeypointTarget",
    "MapTarget",
    "MaskKind",
    "MaskTarget",
    "OptionalMapKind",
    "PictureTarget",
    "PolygonTarget",
    "RotatedBoxTarget",
    "Target",
    "TargetKind",
    "TruthTarget",
    "ValueMapTarget",
]
