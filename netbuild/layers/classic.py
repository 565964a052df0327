"""The layers of LeNet-5 as published.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings of the IEEE,
1998.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.roles import Plain

# Table I of the paper: the input maps (of 6) that each of the 16 output maps of layer C3 is connected to.
LENET_TABLE = (
    *(tuple((j + i) % 6 for i in range(3)) for j in range(6)),
    *(tuple((j + i) % 6 for i in range(4)) for j in range(6)),
    (0, 1, 3, 4),
    (1, 2, 4, 5),
    (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)

# The output codes of the ten digits: bitmaps of 7 x 12 pixels, 84 in all.
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
    """k x k mean pooling, scaled and shifted by a trained weight and bias of each map, then the activation.

    (B, c1, H, W) -> (B, c1, H/k, W/k).
    """

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
    """Unpadded convolution whose output map j reads the input maps table[j]: (B, c1, H, W) -> (B, c2, H-k+1, W-k+1).

    The default table is LeNet-5's, for c1 = 6 and c2 = 16. Raises ValueError for other channels without a table, and
    for a table that does not fit. c2 is not scaled, since the table has a row for each output map.
    """

    textbook: ClassVar = {"type": "Convolution"}

    def __init__(
        self, c1: int, c2: Annotated[int, Plain], k: int, table: list[list[int]] | None = None, act: Act = None
    ):
        super().__init__()
        table = check_table(c1, c2, table)
        # Output maps with equally many inputs share a grouped convolution: only the table's kernels are computed.
        order = sorted(range(c2), key=lambda j: len(table[j]))
        self.convs = nn.ModuleList()
        for i, (fan_in, maps) in enumerate(groupby(order, key=lambda j: len(table[j]))):
            seen = [source for j in maps for source in table[j]]
            groups = len(seen) // fan_in
            self.convs.append(nn.Conv2d(len(seen), groups, k, groups=groups))
            self._register_order(f"seen{i}", seen, c1)
        self._register_order("restore", sorted(range(c2), key=order.__getitem__), c2)
        self.act = resolve_activation(act)

    def _register_order(self, name: str, index: list[int], channels: int) -> None:
        """Register a channel order as a non-persistent buffer, None if it is the identity."""
        is_identity = index == list(range(channels))
        self.register_buffer(name, None if is_identity else torch.tensor(index), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = (getattr(self, f"seen{i}") for i in range(len(self.convs)))
        outputs = [conv(reorder_channels(x, index)) for conv, index in zip(self.convs, seen, strict=True)]
        x = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
        return self.act(reorder_channels(x, self.restore))


def reorder_channels(x: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    """Select channels in the order of `index`; None returns x itself."""
    return x if index is None else x.index_select(1, index)


def check_table(c1: int, c2: int, table: list[list[int]] | None) -> Sequence[Sequence[int]]:
    """Return the table, LeNet-5's by default, after checking that it fits; raise ValueError otherwise."""
    if table is None:
        if (c1, c2) != (6, 16):
            raise ValueError(f"a table is needed unless there are 6 input and 16 output maps, not {c1} and {c2}")
        return LENET_TABLE
    if len(table) != c2:
        raise ValueError(f"the table must have a row for each output map: {len(table)} rows, {c2} maps")
    for j, row in enumerate(table):
        if not row or len(set(row)) < len(row) or not all(0 <= i < c1 for i in row):
            raise ValueError(
                f"row {j} of the table must list some of the input maps 0 to {c1 - 1}, each at most once: {row}"
            )
    return table


class RBF(nn.Module):
    """Negative squared distance to a fixed code of +1 and -1 of each class: (B, in_features) -> (B, out_features).

    For 84 inputs and 10 classes the codes are bitmaps of the digits, as in LeNet-5; otherwise they are random but
    always the same. Distances are divided by ``temperature``, since without it the softmax saturates and gradients
    vanish.
    """

    textbook: ClassVar = {"type": "Fully connected", "activation": "RBF"}

    def __init__(self, in_features: int, out_features: int = 10, temperature: float = 1.0):
        super().__init__()
        self.temperature = temperature
        is_lenet = (in_features, out_features) == (84, 10)
        codes = torch.tensor(make_digit_codes()) if is_lenet else make_random_codes(in_features, out_features)
        self.register_buffer("targets", codes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.unsqueeze(-2) - self.targets).square().sum(-1) / -self.temperature


def make_digit_codes() -> list[list[float]]:
    """Return the bitmaps of the digits 0 to 9 as 10 lists of 84 values, row by row; ink is +1, paper -1."""
    glyphs = zip(*(line.split() for line in DIGITS.split("\n") if line), strict=True)
    return [[1.0 if cell == "#" else -1.0 for line in glyph for cell in line] for glyph in glyphs]


def make_random_codes(size: int, count: int) -> torch.Tensor:
    """Return codes of +1 and -1, (count, size), the same at every call: the top bit of a hash of each position.

    The hash mixes bits as MurmurHash does. It is used rather than torch's generator, which may change between versions.
    """
    x = torch.arange(1, size * count + 1)
    for factor in (0x85EBCA6B, 0xC2B2AE35, 0x9E3779B1):
        x = (x ^ x // 2**16) * factor % 2**32
    return (x // 2**31 * 2.0 - 1).view(count, size)
