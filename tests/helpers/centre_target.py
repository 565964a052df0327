"""A kind of target that netbuild does not have, in one file: the centre of each object."""

from dataclasses import dataclass

import numpy as np
import torch

from netbuild.feed.targets import Target


@dataclass(frozen=True)
class CentreTarget(Target):
    """Centres (N, 2) in pixels; in a batch "centre" as fractions."""

    points: np.ndarray

    @classmethod
    def from_sample(cls, name, sample, size, read_extra):
        return cls(sample.boxes[:, 1:3] * (size[1], size[0]))

    def move(self, matrix, size):
        return CentreTarget(self.points @ matrix[:, :2].T + matrix[:, 2])

    def shift(self, left, top, size):
        return CentreTarget(self.points + (left, top))

    def mirror(self, axis, size):
        points = self.points.copy()
        points[:, 1 - axis] = size[axis] - points[:, 1 - axis]
        return CentreTarget(points)

    def select(self, chosen):
        return CentreTarget(self.points[chosen])

    def join(self, others):
        return CentreTarget(np.concatenate([target.points for target in (self, *others)]))

    def tensors(self, size):
        return {"centre": torch.from_numpy(self.points / (size[1], size[0]))}
