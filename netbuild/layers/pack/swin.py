"""Attention in windows as blocks of convolutional networks: Swin Transformer layers."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.csp import CrossStage
from netbuild.layers.pack.parts import check_multiple, to_channels_first, to_channels_last
from netbuild.layers.window import attend_heads, compare_regions, make_relative_index, merge_windows, split_windows
from netbuild.roles import Plain


class BiasedWindowAttention(nn.Module):
    """Self-attention inside windows, with a trained bias for each head and relative position: (B, H, W, c) -> same.

    `shift` rolls the map along both axes; positions that were not side by side before are masked from each other.
    Swin Transformer, arXiv 2103.14030.
    """

    def __init__(self, channels: int, num_heads: int, window: int, shift: int):
        super().__init__()
        self.num_heads, self.window, self.shift = num_heads, window, shift
        table = torch.empty((2 * window - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("relative_position_index", make_relative_index(window).view(window**2, window**2))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, height, width, _ = x.shape
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            differ = compare_regions((height, width), (self.shift, self.shift), self.window, x.device)
            bias = bias - 100.0 * differ[:, None].to(bias.dtype)
        windows = attend_heads(self.qkv(split_windows(x, self.window)), self.num_heads, bias)
        x = merge_windows(self.proj(windows), self.window, width)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x


class SwinMlp(nn.Module):
    """Two linear layers with an activation between: (..., c) -> same shape. Swin Transformer, arXiv 2103.14030."""

    def __init__(self, channels: int, act: Act = None):
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU() if act is None else resolve_activation(act)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class SwinTransformerLayer(nn.Module):
    """Attention in windows and two linear layers, both normalised before and added to their input.

    (B, c1, H, W) -> same shape: keeps channels. The map is padded with zeros, right and below, to multiples of the
    window; the padding takes part in the attention. Raises ValueError unless c1 is a multiple of `num_heads` and
    0 <= shift_size < window_size. Swin Transformer, arXiv 2103.14030.

    Args:
        c1: channels.
        num_heads: attention heads.
        window_size: height and width of the windows.
        shift_size: positions that the windows are moved along both axes.
        act: activation between the linear layers; None is GELU.
    """

    def __init__(self, c1: int, num_heads: int, window_size: int = 8, shift_size: int = 0, act: Act = None):
        super().__init__()
        if not 0 <= shift_size < window_size:
            raise ValueError(f"the shift must be at least 0 and below the window size, {window_size}: {shift_size}")
        check_multiple(c1, max(num_heads, 1), "channels, split into heads,")
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(c1)
        self.attn = BiasedWindowAttention(c1, num_heads, window_size, shift_size)
        self.norm2 = nn.LayerNorm(c1)
        self.mlp = SwinMlp(c1, act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, height, width = x.shape
        y = to_channels_last(F.pad(x, (0, -width % self.window_size, 0, -height % self.window_size)))
        y = y + self.attn(self.norm1(y))
        y = y + self.mlp(self.norm2(y))
        return to_channels_first(y)[:, :, :height, :width]


class SwinLayers(nn.Module):
    """n SwinTransformerLayers of windows of 8, every second one shifted by 4: (B, c, H, W) -> same shape.

    A head has 32 channels. Raises ValueError for fewer than 32 channels. Swin Transformer, arXiv 2103.14030.
    """

    def __init__(self, channels: int, n: int, act: Act):
        super().__init__()
        heads = channels // 32
        if not heads:
            raise ValueError(f"hidden channels must be at least 32, which are one attention head: {channels}")
        self.blocks = nn.Sequential(*(SwinTransformerLayer(channels, heads, 8, 4 * (i % 2), act) for i in range(n)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


class C3STR(CrossStage):
    """C3 of n Swin Transformer layers in windows of 8: (B, c1, H, W) -> (B, c2, H, W).

    `shortcut` and `g` have no effect; `act` is the activation of the layers; None is GELU. Raises ValueError
    unless the hidden channels, int(c2 * e), are at least 32 and a multiple of their number of heads, int(c2 * e) // 32.
    Swin Transformer, arXiv 2103.14030.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5, act: Act = None
    ):
        c_ = int(c2 * e)
        super().__init__(c1, c2, c_, SwinLayers(c_, n, act))


class SwinTransformer(C3STR):
    """C3STR whose number of layers is written in the row: (B, c1, H, W) -> (B, c2, H, W).

    So it stands in files of an Ultralytics fork, where the row's repeats make copies of the whole block and `n` is
    often True, one layer; the activation of the layers is SiLU there. Raises ValueError as C3STR.
    Swin Transformer, arXiv 2103.14030.
    """

    def __init__(self, c1: int, c2: int, n: Annotated[int, Plain] = 1, e: float = 0.5, act: Act = None):
        super().__init__(c1, c2, int(n), e=e, act=nn.SiLU() if act is None else act)
