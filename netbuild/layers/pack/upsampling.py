"""Layers that enlarge a map by an integer factor."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.pack.deformable import sample_bilinear
from netbuild.layers.pack.parts import check_multiple, reduce_channels


class CARAFE(nn.Module):
    """Upsampling whose every output is a weighted sum of the k_up x k_up positions around it, by predicted weights.

    (B, c1, H, W) -> (B, c1, H*scale, W*scale): keeps channels. arXiv 1905.02188.

    Args:
        c1: channels.
        k_enc: kernel of the convolution that predicts the weights.
        k_up: size of the neighbourhood.
        c_mid: channels that the weights are predicted from.
        scale: factor of the size.
    """

    def __init__(self, c1: int, k_enc: int = 3, k_up: int = 5, c_mid: int = 64, scale: int = 2):
        super().__init__()
        self.k_up, self.scale = k_up, scale
        self.comp = Conv(c1, c_mid)
        self.enc = Conv(c_mid, (scale * k_up) ** 2, k_enc, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return reassemble(x, self.enc(self.comp(x)), self.k_up, self.scale)


class CARAFE_yoloair(nn.Module):
    """CARAFE without norms, with a 1x1 convolution of the result: (B, c1, H, W) -> (B, c2, H*up_factor, W*up_factor).

    The form of yoloair and kindle; rows of theirs that call it CARAFE have the channels out, 64 or more, as the first
    argument. Raises ValueError if c1 < 4. arXiv 1905.02188.

    Args:
        c1, c2: channels in and out.
        kernel_size: size of the neighbourhood, and kernel of the convolution that predicts its weights.
        up_factor: factor of the size.
    """

    def __init__(self, c1: int, c2: int, kernel_size: int = 3, up_factor: int = 2):
        super().__init__()
        self.k, self.scale = kernel_size, up_factor
        c = reduce_channels(c1, 4)
        self.down = nn.Conv2d(c1, c, 1)
        self.encoder = nn.Conv2d(c, (up_factor * kernel_size) ** 2, kernel_size, padding=kernel_size // 2)
        self.out = nn.Conv2d(c1, c2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(reassemble(x, self.encoder(self.down(x)), self.k, self.scale))


def reassemble(x: torch.Tensor, scores: torch.Tensor, k: int, scale: int) -> torch.Tensor:
    """Sum the k x k neighbours of each position with the softmax of scores, scale * scale sums for each position.

    (B, c, H, W) and (B, k * k * scale * scale, H, W) -> (B, c, H * scale, W * scale). CARAFE, arXiv 1905.02188.
    """
    size = x.shape[2:]
    neighbours = F.unfold(x, k, padding=k // 2).unflatten(1, (-1, k * k))  # (B, c, k k, H W)
    weights = scores.flatten(2).unflatten(1, (k * k, -1)).softmax(1)  # (B, k k, s s, H W)
    # One product of matrices (c, k k) and (k k, s s) for each position.
    sums = neighbours.permute(0, 3, 1, 2) @ weights.permute(0, 3, 1, 2)
    return F.pixel_shuffle(sums.permute(0, 2, 3, 1).unflatten(3, size).flatten(1, 2), scale)


class DySample(nn.Module):
    """Upsampling by bilinear samples at predicted points: (B, c1, H, W) -> (B, c1, H*scale, W*scale).

    Keeps channels. Raises ValueError for an unknown style, and unless c1 is a multiple of the groups and, in style
    "pl", of scale * scale. arXiv 2308.15085.

    Args:
        c1: channels.
        scale: factor of the size.
        style: "lp" predicts the points from the map, "pl" from the map with its channels moved to finer positions.
        groups: groups of channels, each with points of its own.
        dyscope: whether the range of the points is predicted as well, up to twice as wide.
        scope_bias: whether the convolution of the range has a bias, as in some copies.
    """

    def __init__(
        self,
        c1: int,
        scale: int = 2,
        style: str = "lp",
        groups: int = 4,
        dyscope: bool = False,
        scope_bias: bool = False,
    ):
        super().__init__()
        if style not in ("lp", "pl"):
            raise ValueError(f"style must be 'lp' or 'pl': {style!r}")
        check_multiple(c1, groups)
        fine = style == "pl"
        if fine:
            check_multiple(c1, scale * scale)
        self.scale, self.groups, self.fine = scale, groups, fine
        channels, points = (c1 // scale**2, 2 * groups) if fine else (c1, 2 * groups * scale**2)
        self.offset = nn.Conv2d(channels, points, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        nn.init.zeros_(self.offset.bias)
        self.scope = nn.Conv2d(channels, points, 1, bias=scope_bias) if dyscope else None
        if self.scope is not None:
            nn.init.zeros_(self.scope.weight)
        steps = (torch.arange(scale) - (scale - 1) / 2) / scale
        x, y = steps.expand(scale, -1).flatten(), steps[:, None].expand(-1, scale).flatten()
        self.register_buffer("init_pos", torch.cat((x.repeat(groups), y.repeat(groups))).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        columns, rows = (self.predict_offsets(x) + self.init_pos).unflatten(1, (2, -1)).unbind(1)
        # Half precision has too few digits for positions.
        columns = columns + torch.arange(width, device=x.device, dtype=torch.float32)
        rows = rows + torch.arange(height, device=x.device, dtype=torch.float32)[:, None]
        columns, rows = (F.pixel_shuffle(places, self.scale).flatten(2) for places in (columns, rows))
        return sample_bilinear(x, columns, rows, "border").unflatten(2, (height * self.scale, width * self.scale))

    def predict_offsets(self, x: torch.Tensor) -> torch.Tensor:
        """Return the offsets of the points, (B, 2 * groups * scale * scale, H, W), in positions of the map."""
        source = F.pixel_shuffle(x, self.scale) if self.fine else x
        offset = self.offset(source)
        offset = 0.25 * offset if self.scope is None else 0.5 * offset * self.scope(source).sigmoid()
        return F.pixel_unshuffle(offset, self.scale) if self.fine else offset


class EUCB(nn.Module):
    """Upsampling by 2 (nearest), a depthwise Conv, then a 1x1 convolution: (B, c1, H, W) -> (B, c1, 2H/s, 2W/s).

    Keeps channels. EMCAD, arXiv 2405.06880.
    """

    def __init__(self, c1: int, k: int = 3, s: int = 1):
        super().__init__()
        self.up_dwc = nn.Sequential(nn.Upsample(scale_factor=2), Conv(c1, c1, k, s, g=c1))
        self.pwc = nn.Sequential(nn.Conv2d(c1, c1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pwc(self.up_dwc(x))
