"""Heads that compare each cell with texts or other prompts, so that classes are said in words when the network runs."""

from math import log
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.fuse import fold_bn, set_weights
from netbuild.layers.heads.detect import Detect, dense_branch
from netbuild.roles import In, Setting, Stride


def compare(x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Products of every position with every text: maps (B, E, H, W) and features (B, K, E) -> (B, K, H, W).

    Raises:
        ValueError: if the texts are none of such features.
    """
    if text.ndim != 3 or text.shape[2] != x.shape[1]:
        raise ValueError(f"texts (B, K, {x.shape[1]}) are needed, {list(text.shape)} arrive")
    return torch.einsum("bchw,bkc->bkhw", x, text)


class ContrastiveHead(nn.Module):
    """Cosines of positions and texts, scaled and shifted: (B, E, H, W), (B, K, E) -> (B, K, H, W). arXiv 2401.17270."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([-10.0]))
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / 0.07)))

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return compare(F.normalize(x, dim=1), F.normalize(text, dim=-1)) * self.logit_scale.exp() + self.bias


class BNContrastiveHead(nn.Module):
    """As `ContrastiveHead`, positions through a batch norm instead of to length one. arXiv 2401.17270."""

    def __init__(self, embed: int):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([-10.0]))
        self.logit_scale = nn.Parameter(torch.tensor(-1.0))
        self.norm = nn.BatchNorm2d(embed)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return compare(self.norm(x), F.normalize(text, dim=-1)) * self.logit_scale.exp() + self.bias


class WorldDetect(Detect):
    """Detect on maps (B, ch[i], H_i, W_i) and texts (B, K, embed): K classes. YOLO-World, arXiv 2401.17270."""

    def __init__(
        self,
        nc: int,
        embed: int = 512,
        with_bn: bool = False,
        *,
        ch: Annotated[list[int], In],
        reg_max: Annotated[int, Setting] = 16,
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, ch, reg_max, stride=stride)
        inner = max(ch[0], min(nc, 100))
        self.cv3 = nn.ModuleList(dense_branch(c, inner, embed) for c in ch)
        self.cv4 = nn.ModuleList(BNContrastiveHead(embed) if with_bn else ContrastiveHead() for _ in ch)
        self.init_bias()

    @torch.no_grad()
    def init_bias(self) -> None:
        for box in self.cv2:
            box[-1].bias.fill_(1.0)

    def forward(self, feats: list[torch.Tensor], text: torch.Tensor) -> Any:  # type: ignore[override]
        return self.run(feats, text)

    def scores(self, feats: list[torch.Tensor], prefix: str, *guides: torch.Tensor) -> torch.Tensor:
        return guided_scores(self, feats, prefix, guides[0])

    def fuse(self) -> None:
        """Merge the norms before the comparisons into the convolutions before them."""
        fold_comparisons(self.cv3, self.cv4)


def fold_comparisons(branches: nn.ModuleList, comparisons: nn.ModuleList) -> None:
    """Each level's norm, if its comparison has one, into the last convolution of its class branch."""
    for branch, comparison in zip(branches, comparisons, strict=True):
        norm = getattr(comparison, "norm", None)
        if isinstance(norm, nn.BatchNorm2d):
            set_weights(branch[-1], *fold_bn(branch[-1], norm))
            comparison.norm = nn.Identity()


def guided_scores(head: nn.Module, feats: list[torch.Tensor], prefix: str, text: torch.Tensor) -> torch.Tensor:
    """Logits (B, K, A) of a head's class branch, each level compared with the texts."""
    embeddings, comparisons = getattr(head, f"{prefix}cv3"), getattr(head, f"{prefix}cv4")
    levels = zip(embeddings, comparisons, feats, strict=True)
    return torch.cat([compare_with(embed(feat), text).flatten(2) for embed, compare_with, feat in levels], 2)
