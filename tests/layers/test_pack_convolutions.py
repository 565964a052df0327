"""Convolutions of the pack: what fuses, equality with other implementations, options, and what they refuse."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.fuse import fuse
from netbuild.layers.pack import (
    context_guided,
    deformable,
    diverse_branch,
    downsampling,
    dynamic_convolution,
    faster,
    gsconv,
    upsampling,
    wavelet,
)
from netbuild.layers.pack import convolution as conv
from netbuild.layers.pack import reparameterised as rep


def make_input(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def randomise_norms(module: nn.Module) -> nn.Module:
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor in (m.weight.data, m.running_var):
                tensor.uniform_(0.5, 2)
            for tensor in (m.bias.data, m.running_mean):
                tensor.normal_()
    return module.eval()


@pytest.mark.parametrize(
    ("module", "convolutions"),
    [
        (rep.RepVGGBlock(16, 16), 1),
        (rep.RepVGGBlockv6(16, 24, 3, 2), 1),
        (rep.QARepVGGBlock(16, 16), 1),
        (rep.QARepVGGBlock(16, 24, 3, 2), 1),
        (rep.RepBlock(16, 24, 3), 3),
        (rep.BottleRep(16, 16, True), 2),
        (rep.BepC3(16, 24, 4), 7),
        (rep.MobileOneBlock_official(16, 16, 3, 1, 16, 3), 1),
        (rep.MobileOneBlock_official(16, 24, 1, 2), 1),
        (rep.MobileOneBlock(16, 16, 3), 2),
        (rep.MobileOneBlock(16, 24, 2, 2), 2),
        (rep.MobileOne(16, 24, 2), 4),
        (diverse_branch.DiverseBranchBlock(16, 24, 5, 2), 1),
        (diverse_branch.DiverseBranchBlock(16, 16, 3, g=2), 1),
        (diverse_branch.DiverseBranchBlock(16, 16, 3, 2, g=16), 1),  # depthwise
        (diverse_branch.C3_DBB(16, 24), 5),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_branches_fuse_to_one_convolution_without_norms(module, convolutions):
    x, wanted = make_input(2, 16, 11, 14), randomise_norms(module)
    for m in wanted.modules():
        if isinstance(m, diverse_branch.IdentityConv):
            nn.init.normal_(m.conv.weight, std=0.3)
    fused = fuse(copy.deepcopy(wanted))
    assert fuse(fused) is fused
    assert [type(m) for m in fused.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)] == [nn.Conv2d] * convolutions
    with torch.no_grad():
        torch.testing.assert_close(fused(x), wanted(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [({}, (11, 14)), ({"k": 3, "s": 2, "g": 2, "deformable_groups": 4}, (6, 7)), ({"k": 3, "d": 2, "p": 1}, (9, 12))],
)
def test_a_deformable_convolution_equals_that_of_torchvision(arguments, size):
    ops = pytest.importorskip("torchvision.ops")
    module = deformable.DCNv2(8, 12, act=False, **arguments).eval()
    nn.init.normal_(module.conv_offset_mask.weight, std=0.2)
    nn.init.normal_(module.conv_offset_mask.bias)
    x = make_input(2, 8, 11, 14)
    offsets, mask = module.conv_offset_mask(x).tensor_split((module.conv_offset_mask.out_channels // 3 * 2,), 1)
    wanted = ops.deform_conv2d(x, offsets, module.weight, module.bias, module.s, module.p, module.d, mask.sigmoid())
    assert wanted.shape[2:] == size
    torch.testing.assert_close(module(x), module.bn(wanted), atol=1e-4, rtol=1e-4)


def test_a_deformable_convolution_that_moves_nothing_is_half_a_convolution():
    module, x = deformable.DCNv2(8, 12, 3, 2, act=False).eval(), make_input(2, 8, 11, 14)
    wanted = F.conv2d(x, module.weight, None, 2, 1) / 2
    torch.testing.assert_close(module(x), module.bn(wanted + module.bias[:, None, None]), atol=1e-5, rtol=1e-4)


def test_wavelets_are_undone_exactly_at_odd_sizes_and_strides_leave_out_positions():
    module, x = wavelet.WTConv2d(8, 8, 3, 2, True, 2), make_input(2, 8, 11, 14)
    for m in module.modules():
        if isinstance(m, wavelet.ChannelScale):
            nn.init.ones_(m.weight)
    nn.init.zeros_(module.base_scale.weight)
    # With kernels that pass their input, the wavelets of the first level are x, and their sums count twice.
    for m in module.wavelet_convs:
        nn.init.dirac_(m.weight, groups=m.groups)
    nn.init.zeros_(module.wavelet_convs[1].weight)
    torch.testing.assert_close(module(x), x[..., ::2, ::2], atol=1e-5, rtol=1e-5)


def test_upsampling_by_predicted_weights_is_a_weighted_sum_of_neighbours():
    x, scores, scale = make_input(2, 3, 4, 5), make_input(2, 9 * 4, 4, 5), 2
    weights = F.pixel_shuffle(scores, scale).softmax(1)  # (B, k k, 2 H, 2 W)
    large = F.interpolate(x, scale_factor=scale)
    neighbours = F.unfold(large, 3, dilation=scale, padding=scale).view(2, 3, 9, 8, 10)
    wanted = (neighbours * weights[:, None]).sum(2)
    torch.testing.assert_close(upsampling.reassemble(x, scores, 3, scale), wanted)


@pytest.mark.parametrize(("style", "scale"), [("lp", 2), ("pl", 2), ("lp", 3)])
def test_points_that_do_not_move_upsample_bilinearly(style, scale):
    module, x = upsampling.DySample(16, scale, style), make_input(2, 16, 5, 6)
    nn.init.zeros_(module.offset.weight)
    wanted = F.interpolate(x, scale_factor=scale, mode="bilinear")
    torch.testing.assert_close(module(x), wanted, atol=1e-5, rtol=1e-5)


def test_samples_keep_their_places_in_half_precision():
    x = torch.arange(160.0).expand(1, 1, 160, 160).contiguous()
    columns = torch.full((1, 1, 1), 150.25)
    exact = deformable.sample_bilinear(x, columns, columns)
    assert deformable.sample_bilinear(x.bfloat16(), columns, columns).item() == pytest.approx(exact.item(), abs=1)


def test_a_dynamic_kernel_belongs_to_its_sample():
    for module in (
        dynamic_convolution.ODConv2d(8, 12, 3, g=2, kernel_num=3),
        dynamic_convolution.DynamicConv(8, 12, 3),
    ):
        x = make_input(3, 8, 6, 7)
        alone = torch.cat([module.eval()(sample[None]) for sample in x])
        torch.testing.assert_close(module(x), alone, atol=1e-5, rtol=1e-4)


def test_coordinates_go_from_minus_one_to_one_and_the_radius_is_added():
    x = torch.zeros(1, 4, 3, 5)
    rows, columns = conv.make_coordinates(x)
    assert rows[0, 0, :, 0].tolist() == [-1, 0, 1]
    assert columns[0, 0, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    module = conv.CoordConv(4, 1, with_r=True).eval()
    nn.init.zeros_(module.conv.conv.weight)
    module.conv.conv.weight.data[0, 6] = 1
    radius = ((rows - 0.5) ** 2 + (columns - 0.5) ** 2).sqrt()
    torch.testing.assert_close(module(x), F.silu(module.conv.bn(radius)))


def test_switchable_dilation_with_equal_weights_is_a_standardised_convolution():
    module, x = conv.SAConv2d(8, 12, 3, act=False).eval(), make_input(2, 8, 7, 9)
    torch.testing.assert_close(module(x), module.bn(F.conv2d(x, module.standardise(), padding=1)), atol=1e-5, rtol=1e-4)
    assert module.standardise().std((1, 2, 3)).sub(1).abs().max() < 0.01


@pytest.mark.parametrize(
    ("make", "shape", "message"),
    [
        (lambda: downsampling.SPDConv(8, 8), (1, 8, 5, 4), "the height of the map must be a multiple of 2: 5"),
        (lambda: wavelet.HWD(8, 8), (1, 8, 4, 5), "the width of the map must be a multiple of 2: 5"),
        (lambda: downsampling.LAWDS(16), (1, 16, 4, 5), "the width of the map must be a multiple of 2: 5"),
        (lambda: downsampling.LAWDS(24), None, "channels must be a multiple of 16: 24"),
        (lambda: downsampling.V7DownSampling(8, 9), None, "output channels must be a multiple of 2: 9"),
        (lambda: gsconv.GSConv(8, 9), None, "output channels must be a multiple of 2: 9"),
        (lambda: faster.Partial_conv3(3), None, "needs at least 4 channels: 3"),
        (lambda: conv.SAConv2d(8, 8), (1, 8, 2, 4), "the map must be 3 x 3 or larger: 2 x 4"),
        (lambda: conv.SCConv(8, 8), (1, 8, 3, 4), "the map must be 4 x 4 or larger: 3 x 4"),
        (lambda: deformable.DCNv3(6), None, "channels must be a multiple of 4: 6"),
        (lambda: upsampling.DySample(16, style="xy"), None, "style must be 'lp' or 'pl': 'xy'"),
        (lambda: upsampling.DySample(12, 3, "pl", 4), None, "channels must be a multiple of 9: 12"),
        (lambda: dynamic_convolution.Involution(24, 24), None, "channels must be a multiple of 16: 24"),
        (lambda: rep.RepVGGBlock(8, 8, 5), None, "the kernel size must be 3: 5"),
        (lambda: diverse_branch.DiverseBranchBlock(8, 8, 4), None, "must be odd, half of it and 1: 4, 2 and 1"),
        (lambda: context_guided.ContextGuidedBlock(8, 8), None, "channels must be at least the reduction of 16: 8"),
    ],
)
def test_what_a_module_cannot_do_is_refused_with_the_numbers(make, shape, message):
    def use_module() -> None:
        make()(make_input(*shape))

    with pytest.raises(ValueError, match=message):
        use_module()
