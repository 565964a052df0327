"""Following one object through a video by a siamese network. SiamFC, arXiv 1606.09549, section 3.

The first frame gives the exemplar. In each further frame, search images of several scales are cut out around the last
place; the place and the scale of the highest score are taken, large jumps and changes of scale being held against them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.dataset import Floats
from netbuild.data.fitting import Image
from netbuild.feed.loader import image_to_tensor
from netbuild.feed.search_crops import context_side, crop_square
from netbuild.settings import setting
from netbuild.tasks.score_maps import find_offsets, interpolate_scores
from netbuild.tasks.track import read_scores

LEAST_SIDE, LARGEST_SHARE = 2.0, 5.0  # a box keeps from 2 pixels to five times its first side


@dataclass(frozen=True)
class FollowOptions:
    """The settings of following; the defaults are those of the paper."""

    scales: int = setting(3, "number of scales that are searched", 1, 15)
    step: float = setting(1.0375, "ratio of neighbouring scales", 1, 2)
    penalty: float = setting(0.9745, "factor of the scores of scales other than the last one", 0, 1)
    damping: float = setting(0.59, "share of a new scale in the size of the box", 0, 1)
    window: float = setting(0.176, "share of a cosine window in the scores, which holds large jumps against them", 0, 1)


@dataclass
class SiameseFollower:
    """Follows one object, frame by frame.

    Args:
        network: a network of the task ``track``, in eval mode: exemplars and search images to scores (B, 1, h, w).
        exemplar_side, search_side: pixels of its two square inputs.
        frame: the first frame (H, W, C).
        box: left, top, width and height of the object in it, in pixels.
        options: the settings.
        device: of the network.
    """

    network: Callable[..., Any]
    exemplar_side: int
    search_side: int
    frame: Image
    box: tuple[float, float, float, float]
    options: FollowOptions = field(default_factory=FollowOptions)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        left, top, width, height = self.box
        self.centre: Floats = np.array([left + width / 2, top + height / 2])
        self.first_size: Floats = np.array([width, height], float)
        self.size = self.first_size.copy()
        side = context_side(np.array([*self.centre, *self.size]))
        crop = crop_square(self.frame, self.centre, side, self.exemplar_side)
        self.exemplar = self.make_input([crop])

    @torch.no_grad()
    def update(self, frame: Image) -> tuple[tuple[float, float, float, float], float]:
        """Return the object's box (left, top, width, height) in the next frame, and its score from 0 to 1."""
        options = self.options
        scales = options.step ** (np.arange(options.scales) - options.scales // 2)
        context = context_side(np.array([*self.centre, *self.size])) * self.search_side / self.exemplar_side
        crops = [crop_square(frame, self.centre, context * scale, self.search_side) for scale in scales]
        scores = self.network(self.exemplar.expand(len(crops), -1, -1, -1), self.make_input(crops))
        best, offset, score = choose_place(read_scores(scores), self.search_side, options)
        self.centre = np.clip(self.centre + offset * context * scales[best] / self.search_side, 0, frame.shape[1::-1])
        factor = 1 - options.damping + options.damping * scales[best]
        self.size = np.clip(self.size * factor, LEAST_SIDE, self.first_size * LARGEST_SHARE)
        left, top = self.centre - self.size / 2
        return (float(left), float(top), float(self.size[0]), float(self.size[1])), score

    def make_input(self, crops: Sequence[Image]) -> torch.Tensor:
        """Return crops as an input of the network, (N, C, H, W) from 0 to 1."""
        return torch.stack([image_to_tensor(crop) for crop in crops]).to(self.device).float() / 255


def choose_place(scores: torch.Tensor, side: int, options: FollowOptions) -> tuple[int, Floats, float]:
    """Return the best scale, the offset of the best place from the middle in pixels, and its probability.

    Args:
        scores: (scales, h, w) logits.
        side: of the search image in pixels.
        options: the settings.
    """
    fine: NDArray[np.float64] = interpolate_scores(scores).double().numpy()
    values = fine - fine.min()
    others = np.arange(len(values)) != len(values) // 2
    values[others] *= options.penalty
    best = int(values.reshape(len(values), -1).max(1).argmax())
    chosen = values[best] / max(values[best].sum(), 1e-12)
    cosine = np.hanning(chosen.shape[0])
    window = np.outer(cosine, cosine)
    blended = (1 - options.window) * chosen + options.window * window / window.sum()
    place = int(blended.argmax())
    offset: Floats = find_offsets(torch.tensor(place), (scores.shape[1], scores.shape[2]), side).numpy()
    return best, offset, float(1 / (1 + np.exp(-fine[best].flat[place])))
