"""Heads: the last modules of networks, one file for each task or family."""

from netbuild.layers.heads.anchor_variants import (
    AnchorSegment,
    ASFF_Detect,
    DarknetDetect,
    Decoupled_Detect,
    DetectX,
    ISegment,
    YOLOHead,
)
from netbuild.layers.heads.anchors import AnchorDetect, IAuxDetect, IDetect
from netbuild.layers.heads.auxiliary import DDetect, DualDDetect, DualDetect, TripleDDetect, TripleDetect, v9Detect
from netbuild.layers.heads.branched_segment import DSegment, DualDSegment, Panoptic, v9Segment
from netbuild.layers.heads.classify import Classify
from netbuild.layers.heads.detect import DFL, Detect, v10Detect
from netbuild.layers.heads.labels import MultiLabel, Regress
from netbuild.layers.heads.obb import OBB, OBB26
from netbuild.layers.heads.pixels import Depth, SemanticSegment
from netbuild.layers.heads.pose import Pose, Pose26, RealNVP
from netbuild.layers.heads.rtdetr import RTDETRDecoder
from netbuild.layers.heads.segment import Proto, Proto26, Segment, Segment26
from netbuild.layers.heads.variational import Variational
from netbuild.layers.heads.world import WorldDetect
from netbuild.layers.heads.yoloe import YOLOEDetect, YOLOESegment, YOLOESegment26

__all__ = [
    "DFL",
    "OBB",
    "OBB26",
    "ASFF_Detect",
    "AnchorDetect",
    "AnchorSegment",
    "Classify",
    "DDetect",
    "DSegment",
    "DarknetDetect",
    "Decoupled_Detect",
    "Depth",
    "Detect",
    "DetectX",
    "DualDDetect",
    "DualDSegment",
    "DualDetect",
    "IAuxDetect",
    "IDetect",
    "ISegment",
    "MultiLabel",
    "Panoptic",
    "Pose",
    "Pose26",
    "Proto",
    "Proto26",
    "RTDETRDecoder",
    "RealNVP",
    "Regress",
    "Segment",
    "Segment26",
    "SemanticSegment",
    "TripleDDetect",
    "TripleDetect",
    "Variational",
    "WorldDetect",
    "YOLOEDetect",
    "YOLOESegment",
    "YOLOESegment26",
    "YOLOHead",
    "v9Detect",
    "v9Segment",
    "v10Detect",
]
