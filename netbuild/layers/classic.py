"""Parts of LeNet-5 as published: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE, 1998."""

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.roles import Plain

# The paper's Table I: which of the 6 input maps each of the 16 output maps sees.
LENET_TABLE = (
    *(tuple((j + i) % 6 for i in range(3)) for j in range(6)),
    *(tuple((j + i) % 6 for i in range(4)) for j in range(6)),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)

# Target codes of the ten digits, 7 wide and 12 high.
DIGITS = """
.#####. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
##...## ..###.. ##...## ##...## ...###. ##..... .##.... .....## ##...## ##...##
##...## .####.. .....## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## ..#.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. .....## .....## .##.##. ##..... ##..... ....##. .##.##. ##...##
##...## ...##.. ....##. ..####. .#..##. ######. ######. ...##.. ..###.. .######
##...## ...##.. ...##.. .....## ##..##. .....## ##...## ...##.. .##.##. .....##
##...## ...##.. ..##... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... ##...## ....##. ##...## ##...## .##.... ##...## ....##.
.#####. .###### ####### .#####. ....##. .#####. .#####. .##.... .#####. .####..
"""


class Subsample(nn.Module):
    """Mean of k x k cells times a trained coefficient plus a trained bias a map: (B, c1, H, W) -> (B, c1, H/k, W/k)."""

    textbook: ClassVar = {"type": "Mean pooling"}

    def __init__(self, c1: int, k: int = 2, act: Act = None):
        super().__init__()
        self.k = k
        self.weight = nn.Parameter(torch.ones(c1))
        self.bias = nn.Parameter(torch.zeros(c1))
        self.act = resolve_activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.view(-1, 1, 1), self.bias.view(-1, 1, 1)
        return self.act(torch.addcmul(bias, F.avg_pool2d(x, self.k), weight))


class TableConv(nn.Module):
    """Unpadded convolution whose output map j sees the input maps table[j]: (B, c1, H, W) -> (B, c2, H-k+1, W-k+1).

    Without a table, c1 = 6 and c2 = 16 mean LeNet-5's; raises ValueError for other sizes or a table that does not
    fit. c2 is not scaled, since the table has a row for each map.
    """

    textbook: ClassVar = {"type": "Convolution"}

    def __init__(
        self, c1: int, c2: Annotated[int, Plain], k: int, table: list[list[int]] | None = None, act: Act = None
    ):
        super().__init__()
        table = checked_table(c1, c2, table)
        # Maps of equal fan-in make one grouped convolution, so that only the table's kernels are computed.
        order = sorted(range(c2), key=lambda j: len(table[j]))
        self.convs = nn.ModuleList()
        for i, (fan_in, maps) in enumerate(groupby(order, key=lambda j: len(table[j]))):
            seen = [source for j in maps for source in table[j]]
            groups = len(seen) // fan_in
            self.convs.append(nn.Conv2d(len(seen), groups, k, groups=groups))
            self._keep(f"seen{i}", seen, c1)
        self._keep("restore", sorted(range(c2), key=order.__getitem__), c2)
        self.act = resolve_activation(act)

    def _keep(self, name: str, index: list[int], channels: int) -> None:
        """A channel order as a buffer, outside the state dict; None if it changes nothing."""
        same = index == list(range(channels))
        self.register_buffer(name, None if same else torch.tensor(index), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = (getattr(self, f"seen{i}") for i in range(len(self.convs)))
        outputs = [conv(pick(x, index)) for conv, index in zip(self.convs, seen, strict=True)]
        x = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
        return self.act(pick(x, self.restore))


def pick(x: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    """Channels of x in the order of index; None: as they are."""
    return x if index is None else x.index_select(1, index)


def checked_table(c1: int, c2: int, table: list[list[int]] | None) -> Sequence[Sequence[int]]:
    """The table, or LeNet-5's; ValueError if it does not fit."""
    if table is None:
        if (c1, c2) != (6, 16):
            raise ValueError(f"a table is needed unless 6 maps arrive and 16 are asked: {c1} arrive, {c2} asked")
        return LENET_TABLE
    if len(table) != c2:
        raise ValueError(f"the table must have a row for each output map: {len(table)} rows, {c2} maps")
    for j, row in enumerate(table):
        if not row or len(set(row)) < len(row) or not all(0 <= i < c1 for i in row):
            raise ValueError(f"row {j} of the table must name some of the input maps 0 to {c1 - 1} once: {row}")
    return table


class RBF(nn.Module):
    """Minus the squared distance to each class's fixed code of +1 and -1: (B, in_features) -> (B, out_features) logits.

    The codes of 84 inputs and 10 classes are bitmaps of the digits, as in LeNet-5; others are random but fixed. The
    distances are divided by ``temperature``: a softmax of them as they are is saturated, and hardly learns.
    """

    textbook: ClassVar = {"type": "Fully connected", "activation": "RBF"}

    def __init__(self, in_features: int, out_features: int = 10, temperature: float = 1.0):
        super().__init__()
        self.temperature = temperature
        digits = (in_features, out_features) == (84, 10)
        codes = torch.tensor(digit_codes()) if digits else random_codes(in_features, out_features)
        self.register_buffer("targets", codes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.unsqueeze(-2) - self.targets).square().sum(-1) / -self.temperature


def digit_codes() -> list[list[float]]:
    """The bitmaps of 0 to 9, row by row: ink is +1."""
    glyphs = zip(*(line.split() for line in DIGITS.split("\n") if line), strict=True)
    return [[1.0 if cell == "#" else -1.0 for line in glyph for cell in line] for glyph in glyphs]


def random_codes(size: int, count: int) -> torch.Tensor:
    """Codes of +1 and -1, (count, size), the same at every call: the top bits of mixed positions (murmur's mixing)."""
    x = torch.arange(1, size * count + 1)
    for factor in (0x85EBCA6B, 0xC2B2AE35, 0x9E3779B1):
        x = (x ^ x // 2**16) * factor % 2**32
    return (x // 2**31 * 2.0 - 1).view(count, size)
