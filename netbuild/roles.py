"""Roles of constructor parameters: what fills a hole of a row's call.

A role is stated in a signature as ``Annotated[int, Width]``, or follows from the parameter's name (`NAMES`).
"""

from enum import Enum


class Role(Enum):
    """What fills a constructor parameter when a row is bound to it."""

    IN = "in"  # channels of the source: one source gives an int, several a list
    WIDTH = "width"  # the row's value times the width multiple, capped, rounded up
    DEPTH = "depth"  # the row's depth-scaled repeat count, instead of copies in sequence
    SIZE = "size"  # (height, width) of each source
    STRIDE = "stride"  # input pixels a step, of each source
    SETTING = "setting"  # the file's top-level key of the parameter's name, if the file has it
    ACTIVATION = "activation"  # True, False, a module, or an activation's name
    PLAIN = "plain"  # the row's value as it stands


In, Width, Depth, Size, Stride = Role.IN, Role.WIDTH, Role.DEPTH, Role.SIZE, Role.STRIDE
Setting, Activation, Plain = Role.SETTING, Role.ACTIVATION, Role.PLAIN

SUPPLIED = frozenset({In, Depth, Size, Stride, Setting})  # roles that a row never writes by position

NAMES = {
    **dict.fromkeys(
        "c1 in_channels num_features in_features num_channels ch inp in_planes dim in_chans in_ch".split(), In
    ),
    **dict.fromkeys("c2 out_channels".split(), Width),
    **dict.fromkeys("n depth".split(), Depth),
}
