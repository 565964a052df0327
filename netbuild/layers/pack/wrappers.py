"""C3, C2f and C3k2 with other blocks: the bases of the modules named C3_X, C2f_X and C3k2_X after their block X.

A wrapper is a class of three lines that names its block, so that rows, pickles and ejected files find it by its name:

    class C3_Faster(C3Wrapper):
        \"\"\"...\"\"\"

        block = Faster_Block
"""

import inspect

from torch import nn

from netbuild.layers.conv import Size2
from netbuild.layers.csp import Bottleneck, CrossStage, DenseStage, make_chain


class Wrapper:
    """Base of the three wrappers: makes the blocks of the class that `block` names."""

    block: type[nn.Module]  # a Bottleneck, or a module that takes (c1) or (c1, c2)

    @classmethod
    def make_block(cls, c: int, shortcut: bool, g: int, k: tuple[Size2, Size2] = (3, 3), e: float = 1.0) -> nn.Module:
        """Create a block of c channels; only bottlenecks have a shortcut, groups, kernels and an expansion."""
        if issubclass(cls.block, Bottleneck):
            return cls.block(c, c, shortcut, g, k, e)
        takes_width = "c2" in inspect.signature(cls.block).parameters
        return cls.block(c, c) if takes_width else cls.block(c)


class C3Wrapper(Wrapper, CrossStage):
    """C3 with another block: (B, c1, H, W) -> (B, c2, H, W). CSPNet, arXiv 1911.11929.

    Args:
        c1, c2: channels in and out.
        n: number of blocks.
        shortcut, g: of bottlenecks, whether they add their input, and the groups of their second convolution.
        e: the blocks have int(c2 * e) channels.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        c = int(c2 * e)
        super().__init__(c1, c2, c, make_chain(n, lambda: self.make_block(c, shortcut, g, (1, 3))))


class C2fWrapper(Wrapper, DenseStage):
    """C2f with another block: (B, c1, H, W) -> (B, c2, H, W).

    Args:
        c1, c2: channels in and out.
        n: number of blocks.
        shortcut, g: of bottlenecks, whether they add their input, and the groups of their second convolution.
        e: the blocks have int(c2 * e) channels.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, g: int = 1, e: float = 0.5):
        c = int(c2 * e)
        super().__init__(c1, c2, c, (self.make_block(c, shortcut, g) for _ in range(n)))


class C3k2Wrapper(Wrapper, DenseStage):
    """C3k2 with another block: (B, c1, H, W) -> (B, c2, H, W). YOLO11.

    Args:
        c1, c2: channels in and out.
        n: number of blocks.
        c3k: whether each block is a C3 of two blocks with half the channels.
        e: the blocks have int(c2 * e) channels.
        g, shortcut: of bottlenecks, the groups of their second convolution, and whether they add their input.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        c3k: bool = False,
        e: float = 0.5,
        g: int = 1,
        shortcut: bool = True,
    ):
        c = int(c2 * e)

        def make() -> nn.Module:
            if not c3k:
                return self.make_block(c, shortcut, g, e=0.5)
            return CrossStage(c, c, c // 2, make_chain(2, lambda: self.make_block(c // 2, shortcut, g)))

        super().__init__(c1, c2, c, (make() for _ in range(n)))
