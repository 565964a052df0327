"""Losses of networks that restore pictures, by name, with weights: ``l1``, ``0.8*l1 + 0.2*ssim``."""

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from netbuild.errors import NetbuildError, did_you_mean

CHARBONNIER_EPSILON = 1e-3  # of brightness from 0 to 1: smaller errors count squared, larger ones as they are
WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian window, in pixels
_TERM = re.compile(r"(?:([0-9.]+)\s*\*?\s*)?([A-Za-z]\w*)")


def charbonnier_loss(found: Tensor, truth: Tensor) -> Tensor:
    """Return the mean of sqrt(error^2 + epsilon^2), an L1 loss that is smooth at 0 (Charbonnier et al., ICIP 1994)."""
    return ((found - truth).square() + CHARBONNIER_EPSILON**2).sqrt().mean()


def compute_ssim(found: Tensor, truth: Tensor, peak: float = 1.0) -> Tensor:
    """Return the structural similarity (B,) of pictures (B, C, H, W), the mean over channels and all whole windows.

    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
    Similarity", TIP 2004: a Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03. It is NaN for pictures
    that are smaller than the window.

    Args:
        found, truth: the pictures.
        peak: the largest brightness.
    """
    if min(found.shape[-2:]) < WINDOW:
        return found.new_full((len(found),), float("nan"))
    places = torch.arange(WINDOW, dtype=found.dtype, device=found.device) - WINDOW // 2
    line = (-places.square() / (2 * SIGMA**2)).exp()
    line = line / line.sum()

    def average(values: Tensor) -> Tensor:
        b, c, h, w = values.shape
        rows = F.conv2d(values.reshape(b * c, 1, h, w), line.reshape(1, 1, -1, 1))
        return F.conv2d(rows, line.reshape(1, 1, 1, -1))

    a, b = average(found), average(truth)
    variance_a, variance_b = average(found * found) - a * a, average(truth * truth) - b * b
    covariance = average(found * truth) - a * b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    maps = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance_a + variance_b + c2))
    return maps.reshape(len(found), -1).mean(1)


def ssim_loss(found: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - SSIM, the mean over the batch."""
    return 1 - compute_ssim(found, truth).mean()


PICTURE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "charbonnier": charbonnier_loss,
    "ssim": ssim_loss,
}


def parse_loss(text: str) -> dict[str, float]:
    """Return the weights of losses by name, as in ``0.8*l1 + 0.2*ssim``; a name alone has the weight 1.

    Raises:
        NetbuildError: for a text of another form, or an unknown loss.
    """
    found: dict[str, float] = {}
    for part in text.split("+"):
        term = _TERM.fullmatch(part.strip())
        if term is None or term[2] in found:
            hint = "write l1, or several with weights: 0.8*l1 + 0.2*ssim"
            raise NetbuildError(f"restoration_loss: '{text}' is no sum of different losses", hint=hint)
        if term[2] not in PICTURE_LOSSES:
            hint = did_you_mean(term[2], PICTURE_LOSSES) or f"there is {', '.join(PICTURE_LOSSES)}"
            raise NetbuildError(f"restoration_loss: there is no loss '{term[2]}'", hint=hint)
        try:
            found[term[2]] = float(term[1] or 1)
        except ValueError:
            raise NetbuildError(f"restoration_loss: '{term[1]}' is no number") from None
    if not sum(found.values()):
        raise NetbuildError(f"restoration_loss: '{text}' has no weight above 0")
    return found
