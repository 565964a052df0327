"""Rows that resolve and are probably not meant so, which an error some rows later has as its cause; bounded work."""

import pytest

import netbuild
from netbuild import NetbuildError

FILE = """{scales}nc: 3
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, {row}]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 1, Conv, [256, 3, 2]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [[-1], 1, Detect, [nc]]
"""
SCALES = "scales: {n: [0.5, 0.25, 1024]}\n"
SLIPS = {
    "a convolution": ("", "Conv, [64, 128, 3, 2]", "64 looks like the input channels"),
    "at a scale": (SCALES, "Conv, [64, 128, 3, 2]", "64 looks like the input channels"),
    "a block": ("", "SPPF, [64, 129]", "64 looks like the input channels"),
    "a large kernel": ("", "Conv, [32, 401, 3]", "its kernel 401x401 is larger than the map that arrives, 320x320"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_an_error_comes_with_the_row_that_may_be_its_cause(cli, tmp_path, name):
    scales, row, message = SLIPS[name]
    file = tmp_path / "net.yaml"
    file.write_text(
        FILE.format(scales=scales, row=row)
        + ("  - [-1, 1, Nothing, []]\n" if row.startswith(("SPPF", "Conv, [32")) else "")
    )
    line = 4 + bool(scales)
    with pytest.raises(NetbuildError) as caught:
        netbuild.resolve(netbuild.load(file))
    first, *others = caught.value.all()
    assert (first.where.line, message in first.message, bool(others)) == (line, True, True)
    done = cli("check", file)
    assert (done.code, f"net.yaml:{line}:" in done.err, message in done.err) == (2, True, True)


def test_a_kernel_that_does_not_fit_is_an_error_at_its_row(cli, tmp_path):
    (tmp_path / "net.yaml").write_text(FILE.format(scales="", row="Conv, [64, 128, 3, 2]"))
    done = cli("summary", tmp_path / "net.yaml", "--imgsz", 64)
    assert (done.code, "net.yaml:4:5: row 1 Conv: a kernel of 128 does not fit a map of 32" in done.err) == (2, True)


SPLITTING = """
import torch
from torch import nn

def first_two(parts):
    return torch.stack([parts[0].sum(), parts[1].sum()]).view(1, 2, 1, 1)

class Unbind(nn.Module):
    def forward(self, x): return first_two(x.flatten().unbind(0))

class Split(nn.Module):
    def forward(self, x): return first_two(x.flatten().split(1))

class Sizes(nn.Module):
    def forward(self, x): return first_two(x.flatten().split([1] * x.numel()))

class Chunk(nn.Module):
    def forward(self, x): return first_two(x.flatten().chunk(10**6))

class TensorSplit(nn.Module):
    def forward(self, x): return first_two(x.flatten().tensor_split(10**6))

class Iterate(nn.Module):
    def forward(self, x): return first_two(list(x.flatten()))

class Few(nn.Module):
    def forward(self, x): return first_two(x.flatten().chunk(3))
"""


@pytest.mark.parametrize("name", ["Unbind", "Split", "Sizes", "Chunk", "TensorSplit", "Iterate", "Few"])
def test_operators_with_outputs_by_the_thousand_are_bounded(tmp_path, name):
    (tmp_path / "own.py").write_text(SPLITTING)
    (tmp_path / "net.yaml").write_text(f"imgsz: 1024\nlayers:\n  - [-1, 1, {name}, []]\n")
    spec, options = netbuild.load(tmp_path / "net.yaml"), {"modules": [tmp_path / "own.py"]}
    if name == "Few":
        assert netbuild.build(tmp_path / "net.yaml", **options)
        return
    with pytest.raises(NetbuildError, match=rf"row 0 {name}: it runs more than 20,000 operators"):
        netbuild.build(spec.path, **options)


@pytest.mark.parametrize("module", ["Add", "CenterCrop", "Multiply"])
def test_a_single_tensor_is_not_taken_for_several_inputs(tmp_path, module):
    (tmp_path / "net.yaml").write_text(
        f"imgsz: 4096\nlayers:\n  - [-1, 1, nn.Flatten, [0]]\n  - [-1, 1, {module}, []]\n"
    )
    with pytest.raises(NetbuildError, match="combines several inputs, and a single one arrives") as caught:
        netbuild.build(tmp_path / "net.yaml")
    assert caught.value.where.line == 4
