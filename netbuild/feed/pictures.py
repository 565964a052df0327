"""Augmentation of pictures without targets: colours, crops, policies, erasing, blending."""

from collections.abc import Callable
from math import exp, log, sqrt

import numpy as np
import torch
from numpy.random import Generator

from netbuild.data.fitting import Image, resize
from netbuild.feed.geometry import random_rectangle, random_warp, warp_image
from netbuild.settings import Settings
from netbuild.system.packages import cv2, package


def jitter_colors(image: Image, rng: Generator, s: Settings) -> Image:
    """Randomly shift the hue and scale the saturation and brightness of an RGB picture."""
    gains = rng.uniform(-1, 1, 3) * (s.hsv_h, s.hsv_s, s.hsv_v)
    if not gains.any() or image.shape[2] != 3:
        return image
    cv, steps = cv2(), np.arange(256)
    hue = (steps + 180 * gains[0]) % 180
    others = [np.clip(steps * (1 + gain), 0, 255) for gain in gains[1:]]
    # A table of all 256 values is much faster than arithmetic on every pixel.
    table = np.stack((hue, *others), -1)[None].astype(np.uint8)  # (1, 256, 3): new values by channel
    return cv.cvtColor(cv.LUT(cv.cvtColor(image, cv.COLOR_RGB2HSV), table), cv.COLOR_HSV2RGB)


POLICIES = {
    "randaugment": "RandAugment",
    "autoaugment": "AutoAugment",
    "trivialaugment": "TrivialAugmentWide",
    "augmix": "AugMix",
}


def crop_randomly(image: Image, size: tuple[int, int], rng: Generator, s: Settings) -> Image:
    """Crop at random (arXiv 1409.4842): at least 1 - scale of the area, with an aspect ratio from 3/4 to 4/3."""
    h, w = image.shape[:2]
    area, ratio = h * w * rng.uniform(1 - (s.scale or 0.0), 1), sqrt(exp(rng.uniform(log(3 / 4), log(4 / 3))))
    ch, cw = (max(min(round(side), full), 1) for side, full in ((sqrt(area) / ratio, h), (sqrt(area) * ratio, w)))
    top, left = int(rng.integers(h - ch + 1)), int(rng.integers(w - cw + 1))
    return resize(image[top : top + ch, left : left + cw], *size)


def warp_mildly(image: Image, size: tuple[int, int], rng: Generator, s: Settings) -> Image:
    """Randomly rotate, scale, shear, tilt and shift the whole picture; edge pixels fill what it does not cover."""
    h, w = image.shape[:2]
    matrix, _ = random_warp((h, w), size, max(size[0] / h, size[1] / w), rng, s)
    return warp_image(image, matrix, size, borderMode=cv2().BORDER_REPLICATE)


def load_policy(name: str) -> Callable[[Image, Generator], Image]:
    """Return torchvision's augmentation policy of this name, as a function of a picture and a random generator.

    Raises:
        MissingExtraError: if torchvision is not installed.
    """
    policy = getattr(package("torchvision.transforms.v2", "train"), POLICIES[name])()

    def apply(image: Image, rng: Generator) -> Image:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            torch.manual_seed(int(rng.integers(2**62)))
            out = policy(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
        return out.numpy().transpose(1, 2, 0)

    return apply


def erase_rectangle(image: Image, rng: Generator, probability: float) -> Image:
    """Fill a random rectangle of 2 to 33 % of the area with noise, with this probability (arXiv 1708.04896)."""
    if rng.random() >= probability:
        return image
    h, w = image.shape[:2]
    area, ratio = h * w * rng.uniform(0.02, 0.33), sqrt(exp(rng.uniform(log(0.3), log(3.3))))
    eh, ew = (max(min(round(side), full), 1) for side, full in ((sqrt(area) / ratio, h), (sqrt(area) * ratio, w)))
    top, left = int(rng.integers(h - eh + 1)), int(rng.integers(w - ew + 1))
    image = image.copy()
    image[top : top + eh, left : left + ew] = rng.integers(0, 256, (eh, ew, image.shape[2]), np.uint8)
    return image


def blend(image: Image, other: Image, rng: Generator, cut: bool) -> tuple[Image, float]:
    """Combine two pictures of one size by MixUp or, with ``cut``, by CutMix; return also the share of the first."""
    if not cut:
        share = float(rng.beta(0.2, 0.2))
        return (image * share + other * (1 - share)).astype(np.uint8), share
    h, w = image.shape[:2]
    x1, y1, x2, y2 = random_rectangle((h, w), sqrt(1 - rng.beta(1, 1)), rng)
    image = image.copy()
    image[y1:y2, x1:x2] = other[y1:y2, x1:x2]
    return image, 1 - (x2 - x1) * (y2 - y1) / (h * w)
