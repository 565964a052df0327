"""Layers by themselves; whole networks are compared elsewhere."""

import copy
import inspect
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from netbuild import layers as L
from netbuild.layers.activation import (
    ACTIVATIONS,
    activation_by_name,
    default_activation,
    resolve_activation,
    using_activation,
)
from netbuild.layers.classic import LENET_TABLE
from netbuild.layers.fuse import fold_bn, fuse
from netbuild.layers.heads.detect import DFL, anchor_points, top_rows

IMAGE = (2, 8, 16, 16)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def count_parameters(module):
    return sum(p.numel() for p in module.parameters())


def randomise(module):
    """Batch norms as after training, so that folding them is no identity."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_var, 0.5, 2)
            for t in (m.running_mean, m.weight, m.bias):
                nn.init.normal_(t, 0.5)
    return module.eval()


def list_tensors(out):
    if isinstance(out, torch.Tensor):
        return [out]
    return [t for item in (out.values() if isinstance(out, dict) else out) for t in list_tensors(item)]


# One instance of every block that takes a map of 8 channels and keeps or changes it, by name for the test ids.
BLOCKS = {
    "Conv": lambda: L.Conv(8, 6, 3, 2),
    "Conv-rectangular": lambda: L.Conv(8, 6, (1, 3), (2, 1), d=2, g=2),
    "DWConv": lambda: L.DWConv(8, 12, 3),
    "Conv2": lambda: L.Conv2(8, 6, 3, 2),
    "Conv2-grouped": lambda: L.Conv2(8, 6, 5, g=2, act=False),
    "LightConv": lambda: L.LightConv(8, 6, 3),
    "ConvTranspose": lambda: L.ConvTranspose(8, 6, 3, 2, 1),
    "ConvTranspose-bias": lambda: L.ConvTranspose(8, 6, bn=False),
    "DWConvTranspose2d": lambda: L.DWConvTranspose2d(8, 12, 2, 2),
    "Focus": lambda: L.Focus(8, 6, 3),
    "GhostConv": lambda: L.GhostConv(8, 6),
    "RepConv": lambda: L.RepConv(8, 6, s=2),
    "RepConv-identity": lambda: L.RepConv(8, 8, g=2, bn=True),
    "RepVGGDW": lambda: L.RepVGGDW(8),
    "CBAM": lambda: L.CBAM(8),
    "BottleneckCSP": lambda: L.BottleneckCSP(8, 6, 2),
    "GhostBottleneck": lambda: L.GhostBottleneck(8, 12, 3, 2),
    "C1": lambda: L.C1(8, 6, 2),
    "C2": lambda: L.C2(8, 6, 2),
    "C3f": lambda: L.C3f(8, 6, 2),
    "C3x": lambda: L.C3x(8, 6, 2),
    "C3TR": lambda: L.C3TR(8, 16),
    "C2fPSA": lambda: L.C2fPSA(8, 8),
    "PSA": lambda: L.PSA(8, 8),
    "A2C2f": lambda: L.A2C2f(8, 64, area=4),
    "CIB": lambda: L.CIB(8, 8, lk=True),
    "C2fCIB": lambda: L.C2fCIB(8, 8, 2, lk=True),
    "RepC3": lambda: L.RepC3(8, 6, 2, 0.5),
    "RepNCSPELAN4": lambda: L.RepNCSPELAN4(8, 6, 8, 4, 2),
    "SPP": lambda: L.SPP(8, 6),
    "HGBlock": lambda: L.HGBlock(8, 4, 8, 3, 2, True, True),
    "HGStem": lambda: L.HGStem(8, 4, 6),
    "ResNetLayer": lambda: L.ResNetLayer(8, 4, 2, n=2),
    "TransformerBlock": lambda: L.TransformerBlock(8, 12, 4, 2),
    "AIFI": lambda: L.AIFI(8, 16, 2),
    "Subsample": lambda: L.Subsample(8, act="tanh"),
    "TableConv": lambda: L.TableConv(8, 3, 3, [[0, 1, 2], [7], [5, 3, 1]]),
}
blocks = pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)


@blocks
def test_fusing_keeps_the_output(make):
    module = randomise(make()).double()
    x = torch.randn(IMAGE, dtype=torch.float64)
    want, before = module(x), count_parameters(module)
    for _ in range(2):  # the second time changes nothing
        fuse(module)
        torch.testing.assert_close(module(x), want)
    if not isinstance(module, L.BottleneckCSP):  # whose own norm follows a concatenation
        assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    assert count_parameters(module) <= before


@blocks
def test_meta_gives_the_shapes_and_fuses(make):
    with torch.device("meta"):
        module, x = make().eval(), torch.empty(IMAGE)
        shape = module(x).shape
        fuse(module)
        assert module(x).shape == shape
    assert make().eval()(torch.rand(IMAGE)).shape == shape


@blocks
def test_copies_and_pickles_compute_the_same(make):
    module, x = fuse(make().eval()), torch.randn(IMAGE)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin(x), module(x))
        assert list(twin.state_dict()) == list(module.state_dict())


@blocks
def test_every_weight_learns(make):
    module = make().train()
    module(torch.randn(IMAGE)).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("trainable", [True, False])
def test_fused_weights_are_as_trainable_as_before(trainable):
    fused = fuse(L.RepConv(4, 4).requires_grad_(trainable))
    assert all(p.requires_grad is trainable for p in fused.parameters())


@pytest.mark.parametrize("conv", [nn.Conv2d(6, 4, 3, groups=2), nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False)])
def test_fold_bn_of_grouped_convolutions(conv):
    bn, x = randomise(nn.BatchNorm2d(4)), torch.randn(2, 6, 8, 8)
    run = F.conv_transpose2d if conv.transposed else F.conv2d
    torch.testing.assert_close(run(x, *fold_bn(conv, bn), groups=2), bn(conv(x)), atol=1e-5, rtol=1e-5)


# Activations


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_name_keep_the_shape(name):
    assert activation_by_name(name)(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (True, nn.SiLU), (False, nn.Identity), (None, nn.Identity), (nn.ELU(), nn.ELU), ("Leaky ReLU", nn.LeakyReLU),
        ("hard_swish", nn.Hardswish), ("SWISH", nn.SiLU), ("none", nn.Identity),
    ],
)  # fmt: skip
def test_what_an_act_argument_means(act, kind):
    assert type(resolve_activation(act)) is kind


def test_unknown_activation_names_the_known_ones():
    assert activation_by_name("rleu") is None
    with pytest.raises(ValueError, match=r"'rleu'.*gelu.*relu"):
        L.Conv(1, 1, act="rleu")


def test_default_activation_is_shared_and_scoped():
    shared, mine = default_activation(), nn.ReLU()
    with using_activation(mine):
        inside = L.C2f(8, 8, 2)
        kept = [L.RepConv(4, 4).act, L.ConvTranspose(4, 4).act, L.RepVGGDW(4).act, L.BottleneckCSP(4, 4).act]
        assert default_activation() is mine
    assert {m.act for m in inside.modules() if isinstance(m, L.Conv)} == {mine}
    assert all(type(act) is nn.SiLU for act in kept)
    assert L.Conv(1, 1).act is shared is default_activation()


def test_scope_closes_on_an_error_and_stays_in_its_context():
    shared = default_activation()
    with pytest.raises(RuntimeError), using_activation(nn.ReLU()):
        raise RuntimeError
    assert default_activation() is shared
    with using_activation(nn.ReLU()), ThreadPoolExecutor(1) as pool:
        assert pool.submit(default_activation).result() is shared


# LeNet-5


def lenet():
    """LeNet-5 of 1998 for images of 32 x 32."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), L.Subsample(6, act="tanh"), L.TableConv(6, 16, 5, act="tanh"),
        L.Subsample(16, act="tanh"), nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(), nn.Linear(120, 84), nn.Tanh(),
        L.RBF(84),
    )  # fmt: skip


def test_lenet_has_the_papers_parameters():
    net = lenet()
    assert [count_parameters(m) for m in net if count_parameters(m)] == [156, 12, 1516, 32, 48120, 10164]
    assert net(torch.rand(3, 1, 32, 32)).shape == (3, 10)


def test_table_has_sixty_kernels():
    from torch.utils.flop_counter import FlopCounterMode  # half a second, with triton

    assert [len(row) for row in LENET_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert all(sum(i in row for row in LENET_TABLE) == 10 for i in range(6))
    with FlopCounterMode(display=False) as flops:
        L.TableConv(6, 16, 5)(torch.empty(1, 6, 14, 14))
    assert flops.get_total_flops() == 2 * 60 * 25 * 10 * 10


@pytest.mark.parametrize("table", [None, [[5], *LENET_TABLE[:15]], LENET_TABLE[::-1]])
def test_table_conv_equals_a_full_one_with_zeros(table):
    conv, x = L.TableConv(6, 16, 3, table), torch.randn(2, 6, 8, 8)
    table = LENET_TABLE if table is None else table
    kernels = {n: list(zip(m.weight, m.bias, strict=True)) for m in conv.convs for n in [m.weight.shape[1]]}
    weight, bias = torch.zeros(16, 6, 3, 3), torch.zeros(16)
    for j, row in enumerate(table):
        kernel, bias[j] = kernels[len(row)].pop(0)
        weight[j, list(row)] = kernel
    torch.testing.assert_close(conv(x), F.conv2d(x, weight, bias), atol=1e-5, rtol=1e-5)


def test_subsample_scales_the_mean_of_each_map():
    layer, x = L.Subsample(3), torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(layer(x), F.avg_pool2d(x, 2))
    layer.weight.data, layer.bias.data = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(layer(x)[:, 2], 3 * F.avg_pool2d(x, 2)[:, 2] + 2)


@pytest.mark.parametrize(("size", "classes"), [(84, 10), (20, 3), (84, 12)])
def test_rbf_logits_are_minus_squared_distances(size, classes):
    layer = L.RBF(size, classes)
    logits = layer(layer.targets)
    assert not count_parameters(layer)
    assert list(layer.state_dict()) == ["targets"]
    assert layer.targets.abs().eq(1).all()
    assert (logits.diagonal() == 0).all()
    differing = (layer.targets[0] != layer.targets[1]).sum()
    assert logits[0, 1] == -4 * differing < 0
    assert torch.equal(layer.targets, L.RBF(size, classes).targets)


def test_rbf_accepts_more_axes():
    assert L.RBF(84)(torch.rand(2, 3, 84)).shape == (2, 3, 10)


def test_lenet_learns():
    net, x, y = lenet(), torch.rand(10, 1, 32, 32), torch.arange(10)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        losses.append(F.cross_entropy(net(x), y))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] / 2


# Blocks


def test_sppf_form_follows_what_the_row_gives():
    classic, bare, with_input = L.SPPF(8, 8, 5), L.SPPF(8, 8, 5, 3), L.SPPF(8, 8, 5, 3, True)
    assert classic.cv1.act is default_activation()
    assert type(bare.cv1.act) is type(with_input.cv1.act) is nn.Identity
    x = torch.randn(IMAGE)
    with_input.load_state_dict(bare.state_dict())
    torch.testing.assert_close(with_input.eval()(x), bare.eval()(x) + x)
    assert L.SPPF(8, 8, 5, 2).cv2.conv.in_channels == 4 * 3


def test_sppf_equals_spp():
    one, other = L.SPPF(8, 6), L.SPP(8, 6)
    other.load_state_dict(one.state_dict())
    x = torch.randn(IMAGE)
    torch.testing.assert_close(one.eval()(x), other.eval()(x))


def test_focus_orders_the_phases():
    focus, x = L.Focus(3, 4), torch.randn(2, 3, 6, 8)
    phases = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
    torch.testing.assert_close(focus.eval()(x), focus.conv(torch.cat(phases, 1)))


def test_area_attention_keeps_runs_of_positions_apart():
    layer = L.AAttn(8, 2, area=4).eval()
    nn.init.zeros_(layer.pe.conv.weight)
    x = torch.randn(1, 8, 8, 4)
    y = layer(x)
    x[:, :, 2:4] += 1  # the second run: rows 2 and 3
    changed = (layer(x) - y).abs().amax((0, 1, 3)) > 1e-6
    assert changed.tolist() == [False, False, True, True, False, False, False, False]


def test_a2c2f_residual_starts_small():
    layer, x = L.A2C2f(64, 64, residual=True), torch.randn(1, 64, 4, 4)
    assert next(iter(layer.state_dict())) == "gamma"
    assert 0 < (layer(x) - x).abs().mean() < 0.1


def test_cb_linear_and_fuse():
    parts = L.CBLinear(8, [2, 4])(torch.randn(IMAGE))
    assert [p.shape[1] for p in parts] == [2, 4]
    target = torch.randn(2, 4, 32, 32)
    doubled = parts[1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(L.CBFuse([1])([parts, target]), target + doubled)


def test_concat_and_index():
    a, b = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)
    assert L.Concat()([a, b]).shape == (1, 5, 4, 4)
    assert L.Index(1)([a, b]) is b


def test_center_crop_is_the_middle():
    x, other = torch.randn(2, 3, 9, 6), torch.randn(2, 5, 4, 6)
    assert torch.equal(L.CenterCrop()([x, other]), x[:, :, 2:6])  # three rows are cut below
    with pytest.raises(ValueError, match="a map of 4x6 cells cannot be cropped to 9x6"):
        L.CenterCrop()([other, x])


@pytest.mark.parametrize("before", [False, True])
def test_encoder_layer_masks_and_norms(before):
    layer, x = L.TransformerEncoderLayer(8, 16, 2, normalize_before=before).eval(), torch.randn(2, 5, 8)
    mask = torch.ones(5, 5).triu(1).bool()
    y = layer(x, mask=mask)
    x[:, -1] += 1
    torch.testing.assert_close(layer(x, mask=mask)[:, :-1], y[:, :-1])  # later tokens are not seen


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L.PSA(128, 256), "equal: 128 and 256"),
        (lambda: L.C2PSA(128, 256), "equal: 128 and 256"),
        (lambda: L.C2fPSA(128, 256), "equal: 128 and 256"),
        (lambda: L.GhostBottleneck(8, 16), "equal: 8 and 16"),
        (lambda: L.A2C2f(64, 128, residual=True), "equal: 64 and 128"),
        (lambda: L.A2C2f(64, 80), "multiple of 32: 40"),
        (lambda: L.RepConv(4, 4, 5), "3 and 1: 5 and 1"),
        (lambda: L.RepBottleneck(4, 4, k=(1, 3)), "3 and 1: 1 and 1"),
        (lambda: L.SpatialAttention(5), "3 or 7: 5"),
        (lambda: L.GhostConv(4, 5), "even: 5"),
        (lambda: L.Attention(10, 4), "10 channels, 4 heads"),
        (lambda: L.AIFI(6, num_heads=2), "multiple of 4: 6"),
        (lambda: L.AAttn(8, 2, area=3)(torch.empty(1, 8, 4, 4)), "16 positions, area 3"),
        (lambda: L.TableConv(6, 8, 5), "not 6 and 8"),
        (lambda: L.TableConv(6, 2, 5, [[0]]), "1 rows, 2 maps"),
        (lambda: L.TableConv(6, 2, 5, [[0], [6]]), "row 1"),
        (lambda: L.TableConv(6, 2, 5, [[0, 0], [1]]), "row 0"),
        (lambda: L.Detect(3, [8]).eval()([torch.empty(1, 8, 4, 4)]), "stride"),
        (lambda: L.SelfAttention(6, 4), "6 features, 4 heads"),
        (lambda: L.WindowAttention(6, 4), "6 features, 4 heads"),
        (lambda: L.WindowAttention(6, 2, 4, 4), "from 0 to 3, below the window of 4: 4"),
        (lambda: L.Permute([0, 2, 2]), "each of the dimensions 0 to 2 once"),
        (lambda: L.StochasticDepth(1.0), "below 1, not 1.0"),
        (lambda: L.TimeEmbedding(5), "even and at least 4: 5"),
        (lambda: L.TimeEmbedding(4)(torch.rand(2, 1, 2, 2)), "one time step per sample"),
    ],
)
def test_broken_preconditions_say_what_was_found(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", L.__all__)
def test_signatures_are_annotated_and_explicit(name):
    parameters = inspect.signature(getattr(L, name)).parameters.values()
    assert all(p.annotation is not p.empty for p in parameters)
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    assert not any(isinstance(p.annotation, str) for p in parameters)


# Tokens, windows, small parts


def test_self_attention_is_multi_head_attention():
    ours, theirs = L.SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])
    torch.testing.assert_close(ours(x[:, :4].unflatten(1, (2, 2))).flatten(1, 2), ours(x[:, :4]))


def dense_window_attention(layer, x):
    """The same with one softmax over all positions of a map: those of other windows, or across the border, get none."""
    _, height, width, _ = x.shape
    window = layer.window
    places = []
    for side in (height, width):
        place = torch.arange(side)
        shift = layer.shift if side > window else 0
        moved = (place - shift) % side
        places.append((moved // window, place < shift, moved % window))
    pairs = [[v.expand(height, width).flatten() for v in (a[:, None], b[None])] for a, b in zip(*places, strict=True)]
    together = torch.stack([v[:, None] == v for pair in pairs[:2] for v in pair]).all(0)
    down, across = (v[:, None] - v + window - 1 for v in pairs[2])
    bias = layer.bias_table[down * (2 * window - 1) + across].permute(2, 0, 1).masked_fill(~together, -math.inf)
    q, k, v = layer.qkv(x.flatten(1, 2)).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
    return layer.proj((weights @ v).transpose(1, 2).flatten(2)).view(x.shape)


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(8, 12), (4, 8), (4, 4)])
def test_window_attention_is_dense_attention_with_the_other_windows_masked(size, shift):
    layer = L.WindowAttention(6, 2, 4, shift)
    nn.init.normal_(layer.bias_table)
    x = torch.randn(2, *size, 6)
    torch.testing.assert_close(layer(x), dense_window_attention(layer, x))


def test_windows_are_padded_with_zeros():
    layer, x = L.WindowAttention(6, 2, 4, 1), torch.randn(2, 5, 7, 6)
    torch.testing.assert_close(layer(x), layer(F.pad(x, (0, 0, 0, 1, 0, 3)))[:, :5, :7])


def test_patch_merging_orders_the_corners():
    layer, x = L.PatchMerging(2, 3), torch.randn(2, 3, 4, 2)  # the odd side is padded
    corners = [[0, 0], [1, 0], [0, 1], [1, 1]]
    padded = F.pad(x, (0, 0, 0, 0, 0, 1))
    want = torch.stack([torch.cat([padded[:, 2 + i, 2 + j] for i, j in corners], 1)], 1)
    torch.testing.assert_close(layer(x)[:, 1, 1:], layer.reduction(layer.norm(want)))


def test_stochastic_depth_leaves_out_whole_images_and_keeps_the_mean():
    layer, x = L.StochasticDepth(0.25), torch.ones(4000, 2, 3)
    out = layer(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert layer.eval()(x) is x


def test_time_embedding_turns_at_each_frequency():
    out = L.TimeEmbedding(6)(torch.tensor([3.0, 70.0]).view(2, 1, 1, 1))
    angles = [[t * f for f in (1, 0.01, 0.0001)] for t in (3.0, 70.0)]
    want = [[*map(math.sin, row), *map(math.cos, row)] for row in angles]
    torch.testing.assert_close(out, torch.tensor(want))


@pytest.mark.parametrize("depthwise", [False, True])
def test_cross_correlation_gives_each_image_its_own_template(depthwise):
    template, search = torch.randn(3, 4, 2, 3), torch.randn(3, 4, 5, 5)
    parts = [
        [search[..., i : i + 2, j : j + 3].mul(template).sum((2, 3)) for j in range(3)] for i in range(4)
    ]  # fmt: skip
    want = torch.stack([torch.stack(row, -1) for row in parts], -2)
    want = want if depthwise else want.sum(1, keepdim=True)
    torch.testing.assert_close(L.CrossCorrelation(depthwise)(template, search), want)


def test_learned_tensor_is_repeated_for_each_image_or_broadcast():
    token, gamma = L.Learned([1, 2, 4], value=1.5), L.Learned([4, 1, 1], std=0.1)
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(token(x), torch.full((3, 2, 4), 1.5))
    assert torch.equal(gamma(x), gamma.weight)
    assert 0 < gamma.weight.std().item() < 1


# Heads

CH, STRIDES = [16, 32], [8.0, 16.0]
FEATS = [torch.linspace(-2, 2, 1024).sin().view(2, 16, 8, 4), torch.linspace(-3, 2, 512).cos().view(2, 32, 4, 2)]


def head(**options):
    return L.Detect(3, CH, stride=STRIDES, **options)


@pytest.mark.parametrize("reg_max", [1, 16])
@pytest.mark.parametrize("legacy", [False, True])
def test_detect_shapes(reg_max, legacy):
    detect = head(reg_max=reg_max, legacy=legacy)
    raw = detect(FEATS)
    assert (raw["boxes"].shape, raw["scores"].shape) == ((2, 4 * reg_max, 40), (2, 3, 40))
    y, _ = detect.eval()(FEATS)
    assert y.shape == (2, 7, 40)
    assert not any(key.startswith("stride") for key in detect.state_dict())


def test_second_branch_is_chosen_detached_and_kept_by_fusing():
    detect = head(end2end=True)
    feats = [f.clone().requires_grad_() for f in FEATS]
    out = detect(feats)
    out["one2one"]["scores"].sum().backward()
    assert feats[0].grad is None
    detect.eval()
    many = detect(FEATS)[0]
    detect.end2end = True
    rows, raw = detect(FEATS)
    assert (many.shape, rows.shape, set(raw)) == ((2, 7, 40), (2, 40, 6), {"one2many", "one2one"})
    fused = fuse(copy.deepcopy(detect))
    torch.testing.assert_close(fused(FEATS)[0], rows)
    assert {key.split(".")[0] for key in fused.state_dict()} == {"one2one_cv2", "one2one_cv3", "dfl"}
    fused.end2end = False  # no choice is left
    torch.testing.assert_close(fused(FEATS)[0], rows)
    detect.end2end = False
    torch.testing.assert_close(fuse(detect)(FEATS)[0], many)
    assert not any("one2one" in key for key in detect.state_dict())


def test_bias_starts_from_few_objects():
    detect = head(end2end=True)
    for branch in (detect.cv3, detect.one2one_cv3):
        expected = [5 / (3 * (640 / s) ** 2) for s in STRIDES]
        torch.testing.assert_close([m[-1].bias.exp().mean().item() for m in branch], expected)


def test_anchor_points_are_cell_centres():
    points, scales = anchor_points(FEATS, STRIDES)
    assert points.T[:5].tolist() == [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [3.5, 0.5], [0.5, 1.5]]
    assert scales[0].tolist() == [8.0] * 32 + [16.0] * 8


def test_dfl_is_an_expectation():
    bins = torch.full((1, 4, 16, 1), -50.0)
    for side, value in enumerate((0, 3, 7, 15)):
        bins[0, side, value] = 50
    assert DFL()(bins.view(1, 64, 1)).flatten().tolist() == pytest.approx([0, 3, 7, 15])


def test_top_rows_orders_pairs_of_anchor_and_class():
    boxes = torch.arange(4.0).expand(1, 4, 4)
    scores = torch.tensor([[[0.9, 0.1, 0.5, 0.2], [0.8, 0.3, 0.1, 0.7]]])
    extra = 10 * torch.arange(4.0).expand(1, 1, 4)
    rows = top_rows(torch.cat((boxes, scores, extra), 1), 2, 3)[0]
    assert rows[:, 3:].tolist() == [
        pytest.approx(row) for row in ([0, 0.9, 0, 0], [0, 0.8, 1, 0], [3, 0.7, 1, 30])
    ]  # fmt: skip


def test_classify_joins_sources_and_gives_probabilities():
    net = L.Classify([4, 8], 5).eval()
    probabilities, logits = net([torch.randn(2, 4, 7, 7), torch.randn(2, 8, 7, 7)])
    torch.testing.assert_close(probabilities, logits.softmax(1))
    assert L.Classify(4, 5)(torch.randn(2, 4, 7, 7)).shape == (2, 5)
