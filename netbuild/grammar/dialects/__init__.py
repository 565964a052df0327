"""Dialects: network files written for other programs, translated to netbuild's own grammar before their rows are read.

A dialect is one file of this folder with a `Dialect`. A file may be written in several, such as YOLOv5's anchors with a
key of yoloair: each that recognises it translates it in turn. Places stay, so that errors are shown where they are.
"""

from netbuild.grammar.dialects import (
    anchors,
    kindle,
    multimedia_tech_lab,
    named_values,
    timm_backbone,
    yoloair,
    yolov7,
    yolov9,
    yolox,
)
from netbuild.grammar.dialects.base import Dialect
from netbuild.grammar.dialects.darknet import translate_darknet
from netbuild.grammar.dialects.darknet_sections import is_darknet
from netbuild.grammar.nodes import Node, parse

# Those that change the whole layout of a file come first.
DIALECTS: tuple[Dialect, ...] = (
    multimedia_tech_lab.DIALECT,
    kindle.DIALECT,
    timm_backbone.DIALECT,
    named_values.DIALECT,
    yoloair.DIALECT,
    yolov9.DIALECT,
    yolox.DIALECT,
    yolov7.DIALECT,
    anchors.DIALECT,
)


def parse_tree(text: str, name: str) -> tuple[Node, tuple[str, ...]]:
    """Parse the text of a file, YAML or Darknet's.

    Args:
        text: the text.
        name: the file's name for error messages.

    Returns:
        The file's tree, and ("Darknet",) for a file of Darknet, whose tree is translated already.

    Raises:
        NetbuildError: at a mistake in the text.
    """
    if is_darknet(text):
        return translate_darknet(text, name).root, ("Darknet",)
    return parse(text, name), ()


def translate(root: Node) -> tuple[Node, tuple[str, ...], tuple[str, ...]]:
    """Translate a file to netbuild's own grammar.

    Returns:
        The file's tree, the names of the dialects that it is written in, and notes on what has no effect.

    Raises:
        NetbuildError: at what a dialect has and netbuild has not.
    """
    names: list[str] = []
    notes: list[str] = []
    for dialect in DIALECTS:
        if isinstance(root.value, dict) and dialect.recognise(root):
            root = dialect.translate(root, notes)
            names.append(dialect.name)
    return root, tuple(names), tuple(notes)
