"""Fixed vocabularies for heads with prompts: prompts merged into convolutions, and a filter of cells.

YOLOE, arXiv 2503.07465.
"""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.fuse import fold_bn


@torch.no_grad()
def merge_texts(conv: nn.Conv2d, comparison: nn.Module, text: torch.Tensor) -> nn.Conv2d:
    """Merge a 1x1 convolution and its comparison with texts (K, embed), a `BNContrastiveHead`, into one convolution."""
    norm = comparison.norm if isinstance(comparison.norm, nn.BatchNorm2d) else None
    weight, bias = fold_bn(conv, norm)
    texts = F.normalize(text, dim=-1) * comparison.logit_scale.exp()
    merged = nn.Conv2d(conv.in_channels, len(text), 1, device=weight.device, dtype=weight.dtype)
    merged.weight.copy_((texts @ weight.flatten(1))[..., None, None])
    merged.bias.copy_(texts @ bias + comparison.bias)
    return merged


class LRPCHead(nn.Module):
    """Class logits of a large vocabulary, computed only for cells that pass a cheap filter.

    Maps of the class branch (B, c, H, W) and of the box branch (B, b, H, W), and the filter's threshold -> boxes
    (B, 4*reg_max, H, W), logits (B, nc, n) of the n selected cells, and which of the H*W cells are selected: (H*W,), or
    None for all. A cell is selected for the whole batch if it passes in any image; in the others its logits are -inf.

    Args:
        vocab: 1x1 convolution to the classes.
        pf: 1x1 convolution to one channel, the filter's logit.
        loc: 1x1 convolution to the boxes.
        enabled: whether the filter is used; on a coarse map it would save nothing.
    """

    def __init__(self, vocab: nn.Conv2d, pf: nn.Conv2d, loc: nn.Conv2d, enabled: bool = True):
        super().__init__()
        self.vocab = to_linear(vocab) if enabled else vocab
        self.pf = pf
        self.loc = loc
        self.enabled = enabled

    def forward(
        self, classes: torch.Tensor, boxes: torch.Tensor, conf: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if not self.enabled:
            logits = self.vocab(classes).flatten(2)
            return self.loc(boxes), logits, logits.new_ones(logits.shape[2], dtype=torch.bool)
        cells = classes.flatten(2).transpose(1, 2)  # (B, H*W, c)
        if conf <= 0:
            return self.loc(boxes), self.vocab(cells).transpose(1, 2), None
        passed = self.pf(classes)[:, 0].flatten(1).sigmoid() > conf
        selected = passed.any(0)
        logits = self.vocab(cells[:, selected]).masked_fill(~passed[:, selected, None], -torch.inf)
        return self.loc(boxes), logits.transpose(1, 2), selected


@torch.no_grad()
def to_linear(conv: nn.Conv2d) -> nn.Linear:
    """Convert a 1x1 convolution to a linear layer, which takes cells as rows."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, device=conv.weight.device, dtype=conv.weight.dtype)
    linear.weight.copy_(conv.weight.flatten(1))
    linear.bias.copy_(conv.bias)
    return linear


def select_cells(x: torch.Tensor, selected: torch.Tensor | None) -> torch.Tensor:
    """Select cells of (B, channels, A) by a mask (A,); None selects all."""
    return x if selected is None else x[:, :, selected]
