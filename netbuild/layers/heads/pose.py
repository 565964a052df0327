"""Pose estimation: boxes with keypoints. YOLO-Pose, arXiv 2204.06806."""

from collections.abc import Sequence
from math import log, pi
from typing import Annotated

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.heads.detect import Detect, Raw, dense_branch
from netbuild.roles import In, Setting, Stride


class Pose(Detect):
    """Detect with K keypoints of D values, kpt_shape = (K, 2 or 3): maps (B, ch[i], H_i, W_i), finest first.

    The raw outputs contain also "kpts" (B, K*D, A). y has K*D more channels: x, y in pixels, and the visibility from 0
    to 1 if D is 3.

    Raises:
        ValueError: for another kpt_shape.
    """

    task = "pose"
    learns = "pose"
    parts: tuple[str, ...] = ("cv2", "cv3", "cv4")

    def __init__(
        self,
        nc: int,
        kpt_shape: Sequence[int] = (17, 3),
        *,
        ch: Annotated[list[int], In],
        reg_max: Annotated[int, Setting] = 16,
        end2end: Annotated[bool, Setting] = False,
        legacy: Annotated[bool, Setting] = False,
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, ch, reg_max, end2end, legacy, stride)
        self.kpt_shape = check_keypoint_shape(kpt_shape)
        nk = self.kpt_shape[0] * self.kpt_shape[1]
        self.cv4 = nn.ModuleList(dense_branch(c, max(ch[0] // 4, nk), nk) for c in ch)
        self.copy_parts(end2end, "cv4")

    @property
    def extra(self) -> tuple[int, ...]:
        """(K, D): the number of keypoints and of values of each."""
        return tuple(self.kpt_shape)

    def raw_extras(self, feats: list[torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        return {"kpts": self.per_cell("cv4", prefix, feats)}

    def decode_extras(self, raw: Raw) -> list[torch.Tensor]:
        points, scales = self.cells(raw)
        kpts = raw["kpts"].unflatten(1, self.kpt_shape)  # (B, K, D, A)
        parts = [self.decode_points(kpts[:, :, :2], points) * scales]
        if self.kpt_shape[1] == 3:
            parts.append(kpts[:, :, 2:].sigmoid())
        return [torch.cat(parts, 2).flatten(1, 2)]

    def describe_extras(self) -> list[str]:
        values = "x, y in pixels" + (" and visibility" if self.kpt_shape[1] == 3 else "")
        return [f"{values} of {self.kpt_shape[0]} keypoints"]

    def decode_points(self, offsets: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Convert raw offsets (B, K, 2, A) from the cells' centres (2, A) to coordinates in cells."""
        return offsets * 2 + (points - 0.5)


def check_keypoint_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return the number of keypoints and of values of each.

    Raises:
        ValueError: unless there is at least one keypoint, of 2 or 3 values.
    """
    if not isinstance(shape, Sequence) or len(shape) != 2 or shape[0] < 1 or shape[1] not in (2, 3):
        raise ValueError(f"kpt_shape is [number of keypoints, 2 or 3], such as [17, 3], not {shape}")
    return shape[0], shape[1]


class RealNVP(nn.Module):
    """A normalising flow on the plane: a density by six affine couplings of two small networks. arXiv 1605.08803."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(2))
        self.register_buffer("cov", torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        self.register_buffer("mask", torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(3, 1))
        self.s = nn.ModuleList(nn.Sequential(*_coupling_layers(), nn.Tanh()) for _ in range(6))
        self.t = nn.ModuleList(nn.Sequential(*_coupling_layers()) for _ in range(6))

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logarithm of the density at points (N, 2): (N,)."""
        z, logdet = x.float(), x.new_zeros(x.shape[0], dtype=torch.float32)
        for mask, scale, shift in reversed(list(zip(self.mask, self.s, self.t, strict=True))):
            fixed = mask * z
            s, t = scale(fixed) * (1 - mask), shift(fixed) * (1 - mask)
            z = (1 - mask) * (z - t) * (-s).exp() + fixed
            logdet = logdet - s.sum(1)
        return logdet - z.square().sum(1) / 2 - log(2 * pi)


def _coupling_layers() -> list[nn.Module]:
    layers = [nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)]
    for layer in layers[::2]:
        nn.init.xavier_uniform_(layer.weight, 0.01)
    return layers


class Pose26(Pose):
    """Pose with a predicted uncertainty: in training also "kpts_sigma" (B, 2*K, A), and a flow for the loss.

    Residual log-likelihood estimation, arXiv 2107.11291.
    """

    learns = "pose-likelihood"
    parts = ("cv2", "cv3", "cv4", "cv4_kpts", "cv4_sigma")

    def __init__(
        self,
        nc: int,
        kpt_shape: Sequence[int] = (17, 3),
        *,
        ch: Annotated[list[int], In],
        reg_max: Annotated[int, Setting] = 16,
        end2end: Annotated[bool, Setting] = False,
        legacy: Annotated[bool, Setting] = False,
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, kpt_shape, ch=ch, reg_max=reg_max, end2end=end2end, legacy=legacy, stride=stride)
        count, dims = self.kpt_shape
        inner = max(ch[0] // 4, count * (dims + 2))
        self.flow_model = RealNVP()
        self.cv4 = nn.ModuleList(nn.Sequential(Conv(c, inner, 3), Conv(inner, inner, 3)) for c in ch)
        self.cv4_kpts = nn.ModuleList(nn.Conv2d(inner, count * dims, 1) for _ in ch)
        self.cv4_sigma = nn.ModuleList(nn.Conv2d(inner, count * 2, 1) for _ in ch)
        self.copy_parts(end2end, "cv4", "cv4_kpts", "cv4_sigma")

    def raw_extras(self, feats: list[torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        inner = [m(f) for m, f in zip(getattr(self, f"{prefix}cv4"), feats, strict=True)]
        outputs = {"kpts": self.per_cell("cv4_kpts", prefix, inner)}
        if self.training:
            outputs["kpts_sigma"] = self.per_cell("cv4_sigma", prefix, inner)
        return outputs

    def decode_points(self, offsets: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        return offsets + points

    def fuse(self) -> None:
        """Drop the second branch, and the flow and the uncertainties, which only training uses."""
        super().fuse()
        self.flow_model = self.cv4_sigma = self.one2one_cv4_sigma = None
