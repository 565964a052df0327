"""Open-vocabulary detection: each cell is compared with text features, which are an input of the network."""

from math import log
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.fuse import fold_bn, set_weights
from netbuild.layers.heads.detect import Detect, dense_branch
from netbuild.roles import In, Setting, Stride


def compare(x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Multiply every position with every text: maps (B, E, H, W) and features (B, K, E) -> (B, K, H, W).

    Raises:
        ValueError: if the texts have another shape.
    """
    if text.ndim != 3 or text.shape[2] != x.shape[1]:
        raise ValueError(f"text features must have the shape (B, K, {x.shape[1]}), not {list(text.shape)}")
    return torch.einsum("bchw,bkc->bkhw", x, text)


class ContrastiveHead(nn.Module):
    """Scaled and shifted cosine similarity of positions and texts: (B, E, H, W), (B, K, E) -> (B, K, H, W).

    arXiv 2401.17270.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([-10.0]))
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / 0.07)))

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return compare(F.normalize(x, dim=1), F.normalize(text, dim=-1)) * self.logit_scale.exp() + self.bias


class BNContrastiveHead(nn.Module):
    """`ContrastiveHead` with a batch norm of the positions in place of their normalisation. arXiv 2401.17270."""

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
        return score_texts(self, feats, prefix, guides[0])

    def fuse(self) -> None:
        """Merge the batch norms of the comparisons into the convolutions before them."""
        fold_comparisons(self.cv3, self.cv4)


def fold_comparisons(branches: nn.ModuleList, comparisons: nn.ModuleList) -> None:
    """Merge the batch norm of each level's comparison, if any, into the last convolution of the class branch."""
    for branch, comparison in zip(branches, comparisons, strict=True):
        norm = getattr(comparison, "norm", None)
        if isinstance(norm, nn.BatchNorm2d):
            set_weights(branch[-1], *fold_bn(branch[-1], norm))
            comparison.norm = nn.Identity()


def score_texts(head: nn.Module, feats: list[torch.Tensor], prefix: str, text: torch.Tensor) -> torch.Tensor:
    """Compute logits (B, K, A) by comparing the class branch of each level with the texts."""
    embeddings, comparisons = getattr(head, f"{prefix}cv3"), getattr(head, f"{prefix}cv4")
    levels = zip(embeddings, comparisons, feats, strict=True)
    return torch.cat([comparison(embed(feat), text).flatten(2) for embed, comparison, feat in levels], 2)
