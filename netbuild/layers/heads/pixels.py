"""Predictions for every pixel: depth, and semantic segmentation."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.heads.base import Head
from netbuild.roles import In


class Depth(Head):
    """Depth from maps (B, ch[i], H_i, W_i), finest first, each half the size of the one before.

    Training: {"depth": (B, 1, 2*H_0, 2*W_0)}. Eval: the tensor alone, exp(cal_a * log(depth) + cal_b) with the
    calibration buffers `cal_a` and `cal_b`.
    """

    task = "depth"
    learns = "depth"

    def __init__(self, c_mid: int = 256, *, ch: Annotated[list[int], In]):
        super().__init__()
        self.register_buffer("cal_a", torch.ones(1))
        self.register_buffer("cal_b", torch.zeros(1))
        self.proj = nn.ModuleList(Conv(c, c_mid) for c in ch)
        self.refine = nn.ModuleList(nn.Sequential(Conv(c_mid, c_mid, 3), Conv(c_mid, c_mid, 3)) for _ in ch[1:])
        half = c_mid // 2
        self.head = nn.Sequential(
            Conv(c_mid, half, 3),
            nn.ConvTranspose2d(half, half, 2, 2),
            Conv(half, c_mid // 4, 3),
            nn.Conv2d(c_mid // 4, 1, 1),
        )
        with torch.no_grad():
            self.head[-1].bias.fill_(0.182)  # training starts from exp(0.182) = 1.2 metres

    def layout(self) -> str:
        """Describe the map in one sentence."""
        return "output 0: a map of depths at twice the resolution of the finest feature map"

    def forward(self, feats: list[torch.Tensor]) -> Any:
        *finer, x = [proj(feat) for proj, feat in zip(self.proj, feats, strict=True)]
        for refine, feat in reversed(list(zip(self.refine, finer, strict=True))):
            x = refine(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True) + feat)
        logarithm = self.head(x).clamp(-4, 5)
        if self.training:
            return {"depth": logarithm.exp()}
        return (self.cal_a * logarithm + self.cal_b).exp()


class SemanticSegment(Head):
    """Class logits of every pixel from the finest of the maps (B, ch[i], H_i, W_i): (B, nc, H_0, W_0).

    In training with a second map: (logits, auxiliary logits of the second map (B, nc, H_1, W_1)).
    """

    task = "semantic"
    learns = "semantic"

    def __init__(self, nc: int, ch: Annotated[list[int], In]):
        super().__init__()
        self.classifier = nn.Sequential(Conv(ch[0], ch[0], 3), nn.Conv2d(ch[0], nc, 1))
        self.aux_head = nn.Sequential(Conv(ch[1], ch[0], 3), nn.Conv2d(ch[0], nc, 1)) if len(ch) > 1 else None

    def layout(self) -> str:
        """Describe the logits in one sentence."""
        return f"output 0: logits of {self.classifier[-1].out_channels} classes for each position of the finest map"

    def forward(self, feats: list[torch.Tensor]) -> Any:
        logits = self.classifier(feats[0])
        return (logits, self.aux_head(feats[1])) if self.training and self.aux_head is not None else logits

    def fuse(self) -> None:
        """Drop the auxiliary classifier, which only training uses."""
        self.aux_head = None
