"""Roles of constructor parameters: where the value of a parameter comes from when a row is bound.

A signature states a role as ``Annotated[int, Width]``; without it the parameter's name decides (`ROLE_BY_NAME`).
"""

from enum import Enum


class Role(Enum):
    """The origin of a constructor parameter's value."""

    IN = "in"  # channels of the source: an int for one source, a list for several
    WIDTH = "width"  # the row's value, capped, times the width multiple, rounded up
    DEPTH = "depth"  # the row's repeats times the depth multiple; the module repeats its parts itself
    SIZE = "size"  # (height, width) of each source
    STRIDE = "stride"  # image pixels per step of each source
    SETTING = "setting"  # the file's top-level key with the parameter's name, if there is one
    ACTIVATION = "activation"  # the row's value: True, False, a module, or an activation's name
    PLAIN = "plain"  # the row's value, unchanged


In, Width, Depth, Size, Stride = Role.IN, Role.WIDTH, Role.DEPTH, Role.SIZE, Role.STRIDE
Setting, Activation, Plain = Role.SETTING, Role.ACTIVATION, Role.PLAIN

SUPPLIED = frozenset({In, Depth, Size, Stride, Setting})  # filled by netbuild: never a positional value of a row

# Roles of parameters without annotation, by the names that torch, timm and Ultralytics use.
ROLE_BY_NAME = {
    **dict.fromkeys(
        "c1 in_channels num_features in_features num_channels ch inp in_planes dim in_chans in_ch".split(), In
    ),
    **dict.fromkeys("c2 out_channels".split(), Width),
    **dict.fromkeys("n depth".split(), Depth),
}
