"""YOLOX: the head ``DetectX``, with a map for classes and one for boxes of each level; the rows need no translation."""

from netbuild.grammar.dialects.base import Dialect, list_rows, read_module

DIALECT = Dialect(
    "YOLOX",
    lambda root: any(read_module(row) == "DetectX" for row in list_rows(root)),
    lambda root, notes: root,
)
