"""Scenes of overlapping shapes and digits from a seed, with their truth: boxes, polygons, keypoints, maps, tracks.

from netbuild.data.shapes import make_scene

for frame in make_scene(seed=0, count=100).frames(100):
    frame.picture, frame.objects, frame.classes, frame.depth
"""

from netbuild.data.shapes.outlines import CLASSES, DIGIT_CLASSES, FLIP_INDEX, LANDMARKS
from netbuild.data.shapes.placing import make_scene
from netbuild.data.shapes.scene import BACKGROUND, Frame, Scene, SeenObject
from netbuild.data.shapes.video import write_video

__all__ = [
    "BACKGROUND",
    "CLASSES",
    "DIGIT_CLASSES",
    "FLIP_INDEX",
    "LANDMARKS",
    "Frame",
    "Scene",
    "SeenObject",
    "make_scene",
    "write_video",
]
