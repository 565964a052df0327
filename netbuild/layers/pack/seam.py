"""Channel attention behind residual depthwise convolutions, for objects that hide each other (YOLO-FaceV2)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.attention import check_equal_channels
from netbuild.layers.pack.parts import make_depthwise, make_linear_gate
from netbuild.roles import Plain


class Residual(nn.Module):
    """A map plus what a branch makes of it: (B, c, H, W) -> same shape."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fn(x)


def make_separable_block(c: int, k: int, act: nn.Module) -> nn.Sequential:
    """Create a residual depthwise convolution and a 1x1, each with activation and norm: (B, c, H, W) -> same shape."""
    depthwise = nn.Sequential(make_depthwise(c, k), act, nn.BatchNorm2d(c))
    return nn.Sequential(Residual(depthwise), nn.Conv2d(c, c, 1), act, nn.BatchNorm2d(c))


class SEAM(nn.Module):
    """Separated and enhancement attention: weights channels by the means of n residual depthwise blocks.

    x * exp(fc(mean(blocks(x)))), fc as in SEAttention: factors from 1 to e. `act` None is GELU.
    Keeps channels: (B, c1, H, W) -> same shape. Raises ValueError unless c1 = c2, and if c1 < reduction.
    YOLO-FaceV2, arXiv 2208.02019.
    """

    def __init__(self, c1: int, c2: int, n: Annotated[int, Plain] = 1, reduction: int = 16, act: Act = None):
        super().__init__()
        check_equal_channels(c1, c2)
        activation = nn.GELU() if act is None else resolve_activation(act)
        self.DCovN = nn.Sequential(*(make_separable_block(c1, 3, activation) for _ in range(n)))
        self.fc = make_linear_gate(c1, reduction)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.exp(self.fc(self.DCovN(x).mean((2, 3))))[:, :, None, None]


class MultiSEAM(nn.Module):
    """SEAM on patches of several sizes, whose means are averaged with the map's.

    x * exp(fc(mean(x, blocks_p(patches_p(x)) for each patch size p))). Keeps channels: (B, c1, H, W) -> same shape.
    One public copy has act = SiLU. Raises ValueError unless c1 = c2, if c1 < reduction, and for maps that are smaller
    than the largest patch. YOLO-FaceV2, arXiv 2208.02019.

    Args:
        c1, c2: channels in and out, which are equal.
        depth: depthwise blocks of each patch size.
        kernel_size: kernel of the depthwise convolutions.
        patch_size: sides of the patches, and strides.
        reduction: channels divided by those between the linear layers.
        act: activation; None is GELU.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        depth: Annotated[int, Plain] = 1,
        kernel_size: int = 3,
        patch_size: Sequence[int] = (3, 5, 7),
        reduction: int = 16,
        act: Act = None,
    ):
        super().__init__()
        check_equal_channels(c1, c2)
        self.patches = tuple(patch_size)
        activation = nn.GELU() if act is None else resolve_activation(act)
        for i, size in enumerate(patch_size):
            blocks = (make_separable_block(c1, kernel_size, activation) for _ in range(depth))
            patches = nn.Conv2d(c1, c1, size, size), activation, nn.BatchNorm2d(c1)
            self.add_module(f"DCovN{i}", nn.Sequential(*patches, *blocks))
        self.fc = make_linear_gate(c1, reduction)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if min(x.shape[2:]) < max(self.patches):
            raise ValueError(
                f"height and width must be at least the patch of {max(self.patches)}: {tuple(x.shape[2:])}"
            )
        scales = (getattr(self, f"DCovN{i}")(x) for i in range(len(self.patches)))
        means = sum((scale.mean((2, 3)) for scale in scales), x.mean((2, 3))) / (len(self.patches) + 1)
        return x * torch.exp(self.fc(means))[:, :, None, None]
