"""Fusion modules that no public copy was measured of, against their formulas."""

import pytest
import torch

from netbuild.layers.pack.asf import Zoom_cat, asf_attention_model
from netbuild.layers.pack.fusion import ADD, BiFPN_Add3, Chuncat, Fusion, Shortcut
from netbuild.layers.pack.gold import InjectionMultiSum_Auto_pool, TopBasicLayer
from netbuild.layers.pack.maps import resize_map


def make_map(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_sums_weigh_their_maps():
    xs = [make_map(4, 5, side) for side in (6, 6, 6)]
    xs = [x * (i + 1) for i, x in enumerate(xs)]
    module = BiFPN_Add3([4, 4, 4], 8)
    with torch.no_grad():
        module.w.copy_(torch.tensor([1.0, 2.0, 3.0]))
        mean = (xs[0] + 2 * xs[1] + 3 * xs[2]) / (6 + 1e-4)
        torch.testing.assert_close(module(xs), module.conv(torch.nn.functional.silu(mean)))
    torch.testing.assert_close(ADD(0.5)(xs[:2]), xs[0] + 0.5 * xs[1])
    torch.testing.assert_close(Shortcut(1)(xs[:2]), xs[0] + xs[1])
    with pytest.raises(ValueError, match="equal channels: 4, 4, 5 arrive"):
        BiFPN_Add3([4, 4, 5], 8)
    with pytest.raises(ValueError, match="3 sources are needed, 2 arrive"):
        BiFPN_Add3([4, 4], 8)


def test_concatenations_keep_their_order():
    a, b = make_map(4, 6, 6), make_map(2, 6, 6)
    assert torch.equal(Chuncat(1)([a, b]), torch.cat((a[:, :2], b[:, :1], a[:, 2:], b[:, 1:]), 1))
    assert torch.equal(Fusion([4, 2], "concat")([a, b]), torch.cat((a, b), 1))
    large, small = make_map(3, 12, 12), make_map(5, 3, 3)
    found = Zoom_cat()([large, a, small])
    blocks = large.unflatten(3, (6, 2)).unflatten(2, (6, 2))
    torch.testing.assert_close(found[:, :3], blocks.amax((3, 5)) + blocks.mean((3, 5)))
    assert torch.equal(found[:, 3:7], a)
    assert torch.equal(found[:, 7:, ::2, ::2], small)


def test_attention_of_asf_is_channel_then_coordinate_attention():
    first, second = make_map(16, 4, 6), make_map(16, 4, 6)
    module = asf_attention_model([16, 16]).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()  # all gates are a half
        torch.testing.assert_close(module([first, second]), (first / 2 + second) / 4)


def test_injection_has_a_hard_gate_for_larger_maps_alone():
    module = InjectionMultiSum_Auto_pool([4, 6], 4, [2, 4], 1).eval()
    part = make_map(6, 4, 4)
    with torch.no_grad():
        embedded, gate = module.global_embedding(part[:, 2:]), module.global_act(part[:, 2:])
        for side, weight in (8, torch.nn.functional.hardsigmoid(gate)), (2, gate):
            local = make_map(4, side, side)
            wanted = module.local_embedding(local) * resize_map(weight, (side, side))
            torch.testing.assert_close(module([local, part]), wanted + resize_map(embedded, (side, side)))
    with pytest.raises(ValueError, match=r"\[2, 5\].*it has 6"):
        InjectionMultiSum_Auto_pool([4, 6], 4, [2, 5], 1)


def test_the_transformer_of_gold_yolo_has_its_parameters():
    d = 24
    attention = 2 * (d * 32 + 64) + d * 64 + 128 + 64 * d + 2 * d
    feed_forward = 2 * d * 4 * d + 8 * d + 4 * d * 10 + 2 * d
    count = sum(p.numel() for p in TopBasicLayer(d, [8, 16]).parameters())
    assert count == 2 * (attention + feed_forward) + 24 * (d + 1)
