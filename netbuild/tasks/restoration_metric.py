"""The measures of restored pictures: PSNR and SSIM, and beside them those of the pictures before restoration."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netbuild.runtime import resize_bicubic, round_to_bytes, to_luminance
from netbuild.tasks.losses.restoration import compute_ssim
from netbuild.tasks.metric import Batch, Metric

MAX_PSNR = 100.0  # of a picture without any error
NAMES = ("PSNR", "SSIM", "baseline-PSNR", "baseline-SSIM")


class RestorationMetric(Metric):
    """PSNR in decibels and SSIM (Wang et al. 2004), means over pictures.

    Enlarged pictures are measured on luminance, without a border as wide as the scale, as papers do; others as they
    are. The baseline is the bicubically enlarged input, or the degraded picture itself.

    Args:
        space: the colours of the pictures: ``y``, ``rgb`` or ``grey``.
        scale: by how many times the input is smaller than the truth.
    """

    lists = ("values",)

    def __init__(self, space: str, scale: int) -> None:
        self.space, self.scale = space, scale
        self.values: list[tuple[float, ...]] = []  # of each picture, in the order of NAMES

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add the pictures of a batch: "images" and "target" from 0 to 1."""
        for found, image, truth in zip(predictions, batch["images"], batch["target"], strict=True):
            target = self.read(truth)
            measured = compare(self.read(found), target)
            self.values.append((*measured, *compare(self.read_input(image, truth), target)))

    def read(self, picture: Tensor) -> NDArray[np.float64]:
        """Return what is measured of a picture (C, H, W): (c, h, w) from 0 to 255, rounded as its file would be."""
        return self.select(round_to_bytes(_to_array(picture)).astype(np.float64))

    def read_input(self, picture: Tensor, truth: Tensor) -> NDArray[np.float64]:
        """Return what is measured of an input; of the same size as the truth, it is neither rounded nor clipped."""
        values = _to_array(picture)
        if picture.shape == truth.shape:  # the noise of noisy pictures would be less than what was added
            return self.select(values)
        return self.select(round_to_bytes(resize_bicubic(values, *truth.shape[-2:])).astype(np.float64))

    def select(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the channels of a picture (H, W, C) that are measured, without the border: (c, h, w)."""
        if self.scale > 1:
            if self.space == "rgb":
                values = to_luminance(values)[..., None].astype(np.float64)
            h, w = values.shape[:2]
            values = values[self.scale : h - self.scale, self.scale : w - self.scale]
        return values.transpose(2, 0, 1)

    def result(self) -> dict[str, float]:
        """Return the means over pictures; fitness is the PSNR."""
        if not self.values:
            return dict.fromkeys((*NAMES, "fitness"), 0.0)
        table = np.array(self.values, np.float64)
        with np.errstate(invalid="ignore"):
            known = ~np.isnan(table)
            means = np.where(known, table, 0.0).sum(0) / np.maximum(known.sum(0), 1)
        found = dict(zip(NAMES, means.tolist(), strict=True))
        return {**found, "fitness": found["PSNR"]}


def compare(found: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[float, float]:
    """Return PSNR and SSIM of a picture (c, h, w) from 0 to 255; SSIM is NaN if it is smaller than 11 pixels."""
    error = float(np.square(found - truth).mean())
    psnr = MAX_PSNR if error == 0 else min(10 * float(np.log10(255**2 / error)), MAX_PSNR)
    a, b = (torch.from_numpy(np.ascontiguousarray(values))[None] for values in (found, truth))
    return psnr, float(compute_ssim(a, b, 255.0))


def _to_array(picture: Tensor) -> NDArray[np.float64]:
    """Return a picture (C, H, W) from 0 to 1 as (H, W, C) from 0 to 255."""
    return picture.detach().double().cpu().numpy().transpose(1, 2, 0) * 255.0
