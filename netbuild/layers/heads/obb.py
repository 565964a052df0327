"""Oriented boxes: boxes with an angle."""

from math import pi
from typing import Annotated

import torch
from torch import nn

from netbuild.layers.heads.detect import Detect, Raw, dense_branch
from netbuild.roles import In, Setting, Stride


class OBB(Detect):
    """Detect with ne angles, of which the first rotates the box: maps (B, ch[i], H_i, W_i), finest first.

    The raw outputs contain also "angle" (B, ne, A) in radians, from -pi/4 to 3*pi/4. y is (B, 4+nc+ne, A): centre,
    size, class probabilities, angles; or (B, k, 6+ne): centre, size, score, class, angles.
    """

    task = "obb"
    learns = "obb"
    box_form = "centres"
    parts = ("cv2", "cv3", "cv4")

    def __init__(
        self,
        nc: int,
        ne: int = 1,
        *,
        ch: Annotated[list[int], In],
        reg_max: Annotated[int, Setting] = 16,
        end2end: Annotated[bool, Setting] = False,
        legacy: Annotated[bool, Setting] = False,
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, ch, reg_max, end2end, legacy, stride)
        self.ne = ne
        self.cv4 = nn.ModuleList(dense_branch(c, max(ch[0] // 4, ne), ne) for c in ch)
        self.copy_parts(end2end, "cv4")

    @property
    def extra(self) -> tuple[int, ...]:
        """(ne,), the angles."""
        return (self.ne,)

    def raw_extras(self, feats: list[torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        return {"angle": self.decode_angles(self.per_cell("cv4", prefix, feats))}

    def decode_angles(self, x: torch.Tensor) -> torch.Tensor:
        """Convert the outputs of the convolutions to radians."""
        return (x.sigmoid() - 0.25) * pi

    def decode_extras(self, raw: Raw) -> list[torch.Tensor]:
        return [raw["angle"]]

    def layout(self) -> str:
        return super().layout().replace("x1, y1, x2, y2 in pixels", "centre x, centre y, width, height in pixels")

    def describe_extras(self) -> list[str]:
        return ["angle in radians" if self.ne == 1 else f"{self.ne} angles in radians"]

    def boxes(self, raw: Raw, corners: bool) -> torch.Tensor:
        """Decode centres and sizes (B, 4, A) in input pixels; distances to the sides are along the rotated axes."""
        points, scales = self.cells(raw)
        before, after = self.dfl(raw["boxes"]).chunk(2, 1)
        x, y = ((after - before) / 2).chunk(2, 1)
        cos, sin = raw["angle"][:, :1].cos(), raw["angle"][:, :1].sin()
        rotated = torch.cat((x * cos - y * sin, x * sin + y * cos), 1)
        return torch.cat((points + rotated, before + after), 1) * scales


class OBB26(OBB):
    """OBB whose convolutions output radians directly."""

    def decode_angles(self, x: torch.Tensor) -> torch.Tensor:
        return x
