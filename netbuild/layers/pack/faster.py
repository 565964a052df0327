"""Blocks of FasterNet, their wrappers, and the gated linear unit of TransNeXt."""

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.pack.wrappers import C2fWrapper, C3k2Wrapper, C3Wrapper
from netbuild.layers.vision import StochasticDepth


class Partial_conv3(nn.Module):
    """A 3x3 convolution of the first c1 / n_div channels (PConv); the others pass: (B, c1, H, W) -> same shape.

    Raises ValueError if c1 < n_div. FasterNet, arXiv 2303.03667.
    """

    def __init__(self, c1: int, n_div: int = 4):
        super().__init__()
        self.part = c1 // n_div
        if not self.part:
            raise ValueError(f"a convolution of a part of 1 / {n_div} needs at least {n_div} channels: {c1}")
        self.partial_conv3 = nn.Conv2d(self.part, self.part, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part, rest = x.tensor_split((self.part,), 1)
        return torch.cat((self.partial_conv3(part), rest), 1)


class Faster_Block(nn.Module):
    """Partial convolution, then two 1x1 convolutions of twice the channels between, plus the input.

    (B, c1, H, W) -> (B, c2, H, W). A Conv changes the channels first if c1 is not c2. In training the sum leaves out
    the branch of a sample with probability 0.1 (stochastic depth). Raises ValueError if c2 < 4. FasterNet,
    arXiv 2303.03667.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.mlp = self.make_mlp(c2)
        self.spatial_mixing = Partial_conv3(c2)
        self.adjust_channel = Conv(c1, c2) if c1 != c2 else nn.Identity()
        self.drop_path = StochasticDepth(0.1)

    @staticmethod
    def make_mlp(c: int) -> nn.Module:
        """Create the module that mixes the channels."""
        return nn.Sequential(Conv(c, 2 * c), nn.Conv2d(2 * c, c, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.adjust_channel(x)
        return x + self.drop_path(self.mlp(self.spatial_mixing(x)))


class ConvolutionalGLU(nn.Module):
    """Gated linear unit whose gate sees its neighbours: x + fc2(GELU(dwconv(a)) * v), a and v the halves of fc1(x).

    (B, c1, H, W) -> same shape: keeps channels. Raises ValueError if c1 < 2. TransNeXt, arXiv 2311.17132.
    """

    def __init__(self, c1: int):
        super().__init__()
        hidden = 2 * c1 // 3
        if not hidden:
            raise ValueError(f"at least 2 channels are needed, two thirds of which are hidden: {c1}")
        self.fc1 = nn.Conv2d(c1, 2 * hidden, 1)
        self.dwconv = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.GELU())
        self.fc2 = nn.Conv2d(hidden, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.fc1(x).chunk(2, 1)
        return x + self.fc2(self.dwconv(gate) * value)


class Faster_Block_CGLU(Faster_Block):
    """Faster_Block with a ConvolutionalGLU, which adds its own input once more, in place of the 1x1 convolutions.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2303.03667 and 2311.17132.
    """

    @staticmethod
    def make_mlp(c: int) -> nn.Module:
        return ConvolutionalGLU(c)


class C3_Faster(C3Wrapper):
    """C3 of n Faster_Blocks: (B, c1, H, W) -> (B, c2, H, W). arXiv 2303.03667."""

    block = Faster_Block


class C2f_Faster(C2fWrapper):
    """C2f of n Faster_Blocks: (B, c1, H, W) -> (B, c2, H, W). arXiv 2303.03667."""

    block = Faster_Block


class C3k2_Faster(C3k2Wrapper):
    """C3k2 of n Faster_Blocks: (B, c1, H, W) -> (B, c2, H, W). arXiv 2303.03667."""

    block = Faster_Block


class C3_Faster_CGLU(C3Wrapper):
    """C3 of n Faster_Blocks with gated linear units: (B, c1, H, W) -> (B, c2, H, W). arXiv 2311.17132."""

    block = Faster_Block_CGLU


class C2f_Faster_CGLU(C2fWrapper):
    """C2f of n Faster_Blocks with gated linear units: (B, c1, H, W) -> (B, c2, H, W). arXiv 2311.17132."""

    block = Faster_Block_CGLU


class C3k2_Faster_CGLU(C3k2Wrapper):
    """C3k2 of n Faster_Blocks with gated linear units: (B, c1, H, W) -> (B, c2, H, W). arXiv 2311.17132."""

    block = Faster_Block_CGLU
