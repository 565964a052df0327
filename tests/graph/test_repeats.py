"""A repeated row: each copy takes what the one before returns."""

import pytest
import torch

import netbuild
from netbuild import NetbuildError

TINY = """
from torch import nn

class TinyMB(nn.Module):
    def __init__(self, c1, c2, e=4):
        super().__init__()
        self.expand = nn.Conv2d(c1, c1 * e, 1, bias=False)
        self.depthwise = nn.Conv2d(c1 * e, c1 * e, 3, 1, 1, groups=c1 * e, bias=False)
        self.project = nn.Conv2d(c1 * e, c2, 1, bias=False)

    def forward(self, x):
        return self.project(self.depthwise(self.expand(x)))


class Pair(nn.Module):
    def __init__(self, c1):
        super().__init__()

    def forward(self, x):
        return x + 1, x
"""


def tiny(c1, c2, e):
    return c1 * c1 * e + 9 * c1 * e + c1 * e * c2


CASES = {
    "an own module, scaled": ("[-1, 4, TinyMB, [96, 2]]", [tiny(16, 24, 2), tiny(24, 24, 2)], (24, 32, 32)),
    "own, not square": ("[-1, 6, TinyMB, [32, 3]]", [tiny(16, 8, 3), tiny(8, 8, 3), tiny(8, 8, 3)], (8, 32, 32)),
    "a stride": ("[-1, 6, Conv, [16, 3, 2]]", [16 * 8 * 9 + 16, 8 * 8 * 9 + 16, 8 * 8 * 9 + 16], (8, 4, 4)),
    "torch's, by keywords": (
        "[-1, 4, nn.Conv2d, [{out_channels: 8, kernel_size: 3}]]", [16 * 8 * 9 + 8, 8 * 8 * 9 + 8], (8, 28, 28)
    ),
    "one that keeps its channels": ("[-1, 4, Conv, [64, 3]]", [16 * 16 * 9 + 32] * 2, (16, 32, 32)),
}  # fmt: skip


@pytest.fixture
def build(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)

    def run(row):
        text = f"scales: {{n: [0.5, 0.25, 1024]}}\nbackbone:\n  - [-1, 1, Conv, [64, 3, 2]]\n  - {row}\n"
        (tmp_path / "net.yaml").write_text(text)
        return netbuild.build(tmp_path / "net.yaml", modules=[tmp_path / "tiny.py"], imgsz=(64, 64))

    return run


@pytest.mark.parametrize("name", CASES)
def test_each_copy_is_built_for_the_output_of_the_one_before(build, name):
    row, params, shape = CASES[name]
    network = build(row)
    assert [sum(p.numel() for p in copy.parameters()) for copy in network.model[1]] == params
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, *shape)


def test_a_copy_that_fails_is_an_error_at_the_row(build):
    with pytest.raises(NetbuildError) as caught:
        build("[-1, 4, Pair, []]")
    assert caught.value.where.line == 4
