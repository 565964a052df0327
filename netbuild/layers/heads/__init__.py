"""Heads: one small file a task."""

from netbuild.layers.heads.classify import Classify
from netbuild.layers.heads.detect import DFL, Detect, v10Detect

__all__ = ["DFL", "Classify", "Detect", "v10Detect"]
