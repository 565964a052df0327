"""What a network costs, against torch's own counter, real runs on the CPU, and receptive fields measured by gradients.

Attention runs as its separate products here, as it does on ``meta``; fused kernels of one device are another matter.
"""

import random
from pathlib import Path

import pytest
import torch
from test_shape_rules import ROWS, make_net
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from netbuild.costs.observer import MAX_OPERATORS, LiveStorage
from netbuild.costs.receptive_field import Axis
from netbuild.errors import NetbuildError
from netbuild.grammar.spec import read_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import registry
from netbuild.report.trace import fuse_graph, measure_saved, trace

NETS = {
    "stack": """
ch: 3
imgsz: 32
layers:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 2, Conv, [16, 3]]
  - [-1, 1, nn.MaxPool2d, [2]]
  - [-1, 1, nn.Conv2d, {out_channels: 8, kernel_size: 3}]
  - [-1, 1, nn.ReLU, [true]]
  - [-1, 1, nn.AdaptiveAvgPool2d, [1]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, [8, 10]]
""",
    "yolo": """
nc: 5
imgsz: 64
scales: {n: [0.5, 0.25, 1024]}
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 2, C3k2, [256, false, 0.25]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 2, C3k2, [256, true]]
  - [-1, 1, SPPF, [256, 5]]
  - [-1, 2, C2PSA, [256]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 2, C3k2, [128, false]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 2, C3k2, [256, true]]
  - [[9, 12], 1, Detect, [nc]]
""",
    "blocks": """
ch: 4
imgsz: 32
blocks:
  Residual:
    params: [c2, {k: 3}]
    rows:
      - [input, 1, Conv, [c2, k], wide]
      - [-1, 1, Conv, [c2, k]]
      - [[-1, wide], 1, Add, []]
  Two:
    params: [c2]
    inputs: [a, b]
    rows:
      - [a, 2, Residual, [c2]]
      - [b, 1, Residual, [c2, 1]]
      - [[0, 1], 1, Concat, [1]]
layers:
  - [-1, 1, Conv, [8, 3, 2], stem]
  - [-1, 3, Residual, [8]]
  - [[stem, -1], 1, Two, [12]]
  - [-1, 1, nn.Conv2d, {out_channels: 2, kernel_size: 1}]
""",
    "lenet": """
ch: 1
imgsz: 32
layers:
  - [-1, 1, nn.Conv2d, [1, 6, 5]]
  - [-1, 1, nn.Tanh, []]
  - [-1, 1, Subsample, [2, tanh]]
  - [-1, 1, TableConv, [16, 5, null, tanh]]
  - [-1, 1, Subsample, [2, tanh]]
  - [-1, 1, nn.Conv2d, [16, 120, 5]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, [120, 84]]
  - [-1, 1, RBF, []]
""",
    "skips": """
ch: 3
imgsz: [32, 48]
layers:
  - [input, 1, Conv, [8, 3], one]
  - [-1, 1, Conv, [8, 3, 2], two]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, nn.Upsample, [null, 2, bilinear]]
  - [[-1, two], 1, Concat, [1], wide]
  - [two, 1, ConvTranspose, [8]]
  - [[-1, one], 1, Concat, []]
  - [wide, 1, nn.Upsample, [null, 2]]
  - [[-1, 6, input], 1, Concat, [1]]
""",
}
CASES = {**{rows: make_net(rows) for rows in ROWS}, **NETS}
every_net = pytest.mark.parametrize("text", CASES.values(), ids=CASES)


def resolve_text(text, **options):
    return resolve(read_spec(text, Path("net.yaml")), Options(**options))


@pytest.fixture(autouse=True)
def _attention_by_its_products():
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.mha.set_fastpath_enabled(fast)


def make_inputs(graph, batch=1):
    return [torch.rand(batch, *shape) for _, shape in graph.inputs]


# -- FLOPs ------------------------------------------------------------------------------------------------------------


@every_net
def test_torch_flops_are_those_of_torchs_counter(text):
    from torch.utils.flop_counter import FlopCounterMode  # half a second, with triton

    graph = resolve_text(text)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        graph.build().eval()(*make_inputs(graph))
    assert sum(layer.tally.flops("torch") for layer in graph.layers) == counter.get_total_flops()


def test_thop_counts_norms_and_means_besides():
    graph = resolve_text(make_net("Conv, [4]; nn.AvgPool2d, [2]; nn.AdaptiveAvgPool2d, [1]"))
    conv, mean, pool = (layer.tally for layer in graph.layers)
    assert conv.flops("thop") - conv.flops("torch") == 8 * 4 * 16 * 16
    assert mean.flops("thop") == 2 * 4 * 8 * 8
    assert pool.flops("thop") == 2 * (64 + 1) * 4


def test_operators_without_a_rule_are_reported(monkeypatch):
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.rfft2(x).abs() + torch.cosh(x.mean())

    known = registry.get_factory
    own = registry.from_class("Spectrum", Spectrum, foreign=False)
    monkeypatch.setattr(registry, "get_factory", lambda name: own if name == "Spectrum" else known(name))
    conv, spectrum = resolve_text(make_net("Conv, [4]; Spectrum, []")).layers
    assert not conv.tally.unknown
    assert dict(spectrum.tally.unknown) == {"aten._fft_r2c.default": 1}  # abs, cosh and the mean are known to be free


@pytest.mark.slow
def test_a_row_of_endless_operators_is_an_error_at_the_row():
    with pytest.raises(NetbuildError, match=rf"row 1 SPPF: .*{MAX_OPERATORS:,} operators") as caught:
        resolve_text(make_net("Conv, [8]; SPPF, [8, 5, 1000000000]"))
    assert (caught.value.where.line, caught.value.where.column) == (5, 5)


# -- memory -----------------------------------------------------------------------------------------------------------


class RealMemory(TorchDispatchMode):
    """Bytes of storages alive after each operator of a run on the CPU, by weak references that are asked each time."""

    def __init__(self, network, inputs):
        super().__init__()
        self.exempt = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
        self.alive, self.peak = {}, 0
        for tensor in inputs:
            self.see(tensor)

    def see(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in self.exempt:
            reference = StorageWeakRef(storage)
            self.alive.setdefault(reference.cdata, (reference, storage.nbytes()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        self.alive = {key: known for key, known in self.alive.items() if not known[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def measure_peak(network, inputs):
    with torch.no_grad(), RealMemory(network, inputs) as memory:
        network.eval()(*inputs)
    return memory.peak


@every_net
def test_peak_is_that_of_a_real_run(text):
    graph = resolve_text(text)
    assert graph.peak_bytes == measure_peak(graph.build(), make_inputs(graph))


@pytest.mark.parametrize("text", NETS.values(), ids=NETS)
def test_peak_of_rows_is_that_of_a_real_run_also_fused(text):
    graph = resolve_text(text)
    assert trace(graph, graph.skeleton(), graph.imgsz)[1] == graph.peak_bytes
    assert trace(graph, fuse_graph(graph), graph.imgsz)[1] == measure_peak(graph.build().fuse(), make_inputs(graph))


def test_peak_at_another_size_is_that_of_a_real_run():
    graph = resolve_text(NETS["yolo"])
    peak = trace(graph, graph.skeleton(), (96, 160))[1]
    assert peak == resolve_text(NETS["yolo"], imgsz=(96, 160)).peak_bytes
    assert peak == measure_peak(graph.build(), [torch.rand(1, 3, 96, 160)])


def test_the_record_of_operators_keeps_no_tensor_alive():
    for layer in resolve_text(NETS["yolo"]).layers:
        assert layer.tally.operators
        assert not any(isinstance(x, torch.Tensor) for op in layer.tally.operators for x in tree_leaves(op.args))


def test_storages_count_once_and_while_they_live():
    live, a = LiveStorage(), torch.empty(4)
    for tensor in (a, a[1:], a.view(2, 2)):
        live.add(tensor)
    live.update_peak()
    assert (live.now, live.peak) == (16, 16)
    del a, tensor
    assert (live.now, live.peak) == (0, 16)


def count_bytes_saved(network, inputs):
    """Bytes of the storages that autograd saves, each once: (all, of them parameters and buffers)."""
    own = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = network(*inputs)
    assert out is not None
    return sum(s.nbytes() for s in kept.values()), sum(s.nbytes() for key, s in kept.items() if key in own)


def run_or_message(run, *args):
    try:
        return run(*args)
    except ValueError as error:
        return str(error)


@every_net
@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_saved_for_backward_is_what_a_real_training_step_saves(text, batch):
    graph = resolve_text(text)
    expected = run_or_message(count_bytes_saved, graph.build().train(), make_inputs(graph, batch))
    found = run_or_message(measure_saved, graph, batch)
    if "RTDETRDecoder" in text:  # torch foresees larger indices for embedding_bag than the CPU keeps, see numbers.md
        assert found == pytest.approx(expected, rel=0.03)
    else:
        assert found == expected
    assert not any(module.training for layer in graph.layers for module in layer.module.modules())


def test_one_value_per_channel_is_said_to_be_too_few():
    graph = resolve_text(make_net("nn.AdaptiveAvgPool2d, [1]; nn.BatchNorm2d, [8]"))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        measure_saved(graph, 1)
    assert measure_saved(graph, 2)[0] > 0


# -- receptive fields -------------------------------------------------------------------------------------------------

VGG = "; ".join("; ".join(["Conv, [8, 3]"] * n + ["nn.MaxPool2d, [2]"]) for n in (2, 2, 3, 3, 3))
CONV3 = "nn.Conv2d, [8, 8, 3]"

# rows, size of the image -> (height, width) that a position sees, None if everything; step in pixels
FIELDS = [
    ("nn.Identity, []", 16, (1, 1), 1),
    (CONV3, 16, (3, 3), 1),
    (f"{CONV3}; {CONV3}", 16, (5, 5), 1),
    (f"nn.Conv2d, [8, 8, 3, 2]; {CONV3}", 16, (7, 7), 2),
    ("nn.Conv2d, [8, 8, [1, 3]]", 16, (1, 3), 1),
    ("nn.Conv2d, [8, 8, 3, 1, 1, 2]", 16, (5, 5), 1),
    ("nn.Conv2d, [8, 8, 3, 2, 1, 2]; nn.Conv2d, [8, 8, 3, 1, 3, 3]", 16, (17, 17), 2),
    ("nn.MaxPool2d, [2]", 16, (2, 2), 2),
    ("nn.MaxPool2d, {kernel_size: 3, stride: 2, dilation: 2}", 16, (5, 5), 2),
    ("nn.AvgPool2d, [3, 2, 1]; nn.AvgPool2d, [3, 2, 1]", 16, (7, 7), 4),
    (VGG.removesuffix("; nn.MaxPool2d, [2]"), 224, (196, 196), 16),
    (VGG, 224, (212, 212), 32),
    ("SPPF, [8]", 16, (13, 13), 1),
    ("SPP, [8]", 32, (13, 13), 1),
    ("Bottleneck, [8]", 16, (5, 5), 1),
    ("DWConv, [8, 7]; nn.GroupNorm, [2, 8]; nn.LayerNorm, [16]; nn.Dropout, []", 16, (7, 7), 1),  # statistics aside
    ("nn.ZeroPad2d, [2]; " + CONV3, 16, (3, 3), 1),
    ("nn.Conv2d, [8, 8, 6]; [[input, -1], 1, CenterCrop, []]; [[-1, 0], 1, Concat, [1]]", 16, (6, 6), 1),
    (f"{CONV3}; [input, 1, nn.Conv2d, [8, 8, 5, 1, 1]]; [[0, 1], 1, Concat, [1]]", 16, (5, 5), 1),
    ("ConvTranspose, [8]", 16, (1, 1), 0.5),
    ("nn.ConvTranspose2d, [8, 8, 4, 2, 1]", 16, (2, 2), 0.5),
    (f"{CONV3}; nn.ConvTranspose2d, [8, 8, 3, 2]", 16, (4, 4), 0.5),
    ("nn.Upsample, [null, 2]", 16, (1, 1), 0.5),
    (f"nn.Upsample, [null, 2]; {CONV3}", 16, (2, 2), 0.5),
    (f"nn.MaxPool2d, [2]; nn.Upsample, [null, 2]; {CONV3}", 16, (4, 4), 1),
    ("nn.Upsample, [null, 2, bilinear]", 16, (2, 2), 0.5),
    ("nn.Upsample, [null, 2, bicubic]", 16, (4, 4), 0.5),
    ("nn.Upsample, [null, 3, bilinear]", 16, (2, 2), 1 / 3),
    ("nn.PixelShuffle, [2]", 16, (1, 1), 0.5),
    ("nn.PixelUnshuffle, [2]", 16, (2, 2), 2),
    ("Focus, [8]", 16, (2, 2), 2),
    ("Focus, [8, 3]", 16, (6, 6), 2),
    ("Conv, [8, 3, 2]; Focus, [8, 3]; Conv, [8, 3]", 16, (21, 21), 4),
    ("nn.Unfold, [3, 1, 0, 2]", 17, (3, 3), 2),
    ("nn.AdaptiveAvgPool2d, [16]", 16, (1, 1), 1),
    ("nn.AdaptiveAvgPool2d, [8]", 16, (2, 2), 2),
    ("nn.AdaptiveMaxPool2d, [3]", 16, (6, 6), 16 / 3),
    ("nn.AdaptiveAvgPool2d, [1]", 16, None, 1),
    (f"{CONV3}; ChannelAttention, []", 16, None, 1),
    ("SpatialAttention, []", 16, (7, 7), 1),
    ("AIFI, [16, 4]", 16, None, 1),
    ("C2PSA, [8]", 16, None, 1),
    ("TransformerBlock, [8, 2, 1]", 16, None, 1),
    ("nn.Flatten, []; nn.Linear, [2048, 4]", 16, None, 1),
    ("nn.Conv2d, [8, 8, 16]; nn.Flatten, []; nn.Linear, [8, 4]; nn.Softmax, [1]", 16, (16, 16), 1),
    ("nn.Conv2d, [8, 8, 16]; nn.AdaptiveAvgPool2d, [1]; ChannelAttention, []", 16, (16, 16), 1),
]


@pytest.mark.parametrize(("rows", "side", "size", "step"), FIELDS)
def test_receptive_field_by_the_formula(rows, side, size, step):
    field = resolve_text(make_net(rows, side)).layers[-1].field
    assert field.known
    assert field.size == size
    assert size is None or field.stride == (pytest.approx(step), pytest.approx(step))


def test_area_attention_sees_its_own_rows_only():
    field = resolve_text(make_net("AAttn, [2, 4]")).layers[-1].field
    # A run is 4 of the 16 rows; a depthwise 7x7 of the values adds 3 rows on both sides of a position.
    assert [field.h.interval(i) for i in range(4, 9)] == [(1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]
    assert field.w.size == float("inf")


def test_windows_leave_the_field_unknown():
    fields = [
        layer.field for layer in resolve_text(make_net("Permute, [[0, 2, 3, 1]]; WindowAttention, [8, 2, 7]")).layers
    ]
    assert [field.known for field in fields] == [True, False]


def test_bilinear_positions_on_an_input_see_it_alone():
    field = resolve_text(make_net("nn.Upsample, [null, 3, bilinear]")).layers[-1].field
    assert [field.h.interval(i) for i in range(3, 7)] == [(0, 1), (1, 1), (1, 2), (1, 2)]


def test_lenet_sees_what_the_paper_says():
    sizes = [layer.field.size for layer in resolve_text(NETS["lenet"]).layers]
    assert sizes == [(5, 5), (5, 5), (6, 6), (14, 14), (16, 16), (32, 32), (32, 32), (32, 32), (32, 32)]


def test_an_operator_that_moves_positions_leaves_the_field_unknown(monkeypatch):
    class Mirror(nn.Module):
        def forward(self, x):
            return x.flip(3)

    known = registry.get_factory
    own = registry.from_class("Mirror", Mirror, foreign=False)
    monkeypatch.setattr(registry, "get_factory", lambda name: own if name == "Mirror" else known(name))
    fields = [layer.field for layer in resolve_text(make_net("Conv, [8, 3]; Mirror, []; Conv, [8, 3]")).layers]
    assert [field.known for field in fields] == [True, False, False]


def choose_rows(rng):
    """Convolutions, poolings and resizings that can follow each other."""
    rows = []
    for _ in range(rng.randint(1, 4)):
        k, s, d = rng.randint(1, 4), rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))
        p = rng.randint(0, k // 2)
        choices = (
            f"nn.Conv2d, [2, 2, {k}, {s}, {p}, {d}]", f"nn.AvgPool2d, [{k}, {s}, {p}]", "nn.ZeroPad2d, [1]",
            f"nn.Conv2d, [2, 2, [{k}, 1], [1, {s}], [{p}, 0]]", f"nn.ConvTranspose2d, [2, 2, {k}, {min(s, k)}, {p}]",
            "nn.Upsample, [null, 2]", f"nn.Upsample, [null, {rng.choice((2, 3))}, bilinear]",
        )  # fmt: skip
        rows.append(rng.choices(choices, (4, 3, 1, 2, 1, 1, 1))[0])
    return "; ".join(rows)


def find_seen_region(network, image, row, column):
    """The (first, last) row and column of the image on which an output depends."""
    (gradient,) = torch.autograd.grad(network(image)[0, :, row, column].sum(), image)
    places = gradient[0].sum(0).nonzero()
    return tuple((int(places[:, i].min()), int(places[:, i].max())) for i in (0, 1))


@pytest.mark.parametrize("seed", range(40))
def test_receptive_field_is_where_gradients_are(seed):
    rng, side = random.Random(seed), 64
    torch.manual_seed(seed)
    graph = resolve_text(make_net(choose_rows(rng), side, ch=2))
    field, (height, width) = graph.layers[-1].field, graph.layers[-1].out_shape[-2:]
    network, image = graph.build().eval(), torch.rand(1, 2, side, side, requires_grad=True)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1)  # positive, so that nothing cancels
    checked = 0
    for i in range(min(len(field.h.low) * len(field.w.low), 6)):
        row, column = height // 3 + i, width // 3 + i
        expected = field.h.interval(row), field.w.interval(column)
        if all(low >= 0 and high < side - field.h.jump for low, high in expected):
            assert find_seen_region(network, image, row, column) == expected, graph.layers
            checked += 1
    assert checked


def test_an_axis_repeats_after_its_period():
    axis = Axis((0, 0, 1), (1, 2, 2), 2)
    assert [axis.interval(i) for i in range(-1, 5)] == [(-1, 0), (0, 1), (0, 2), (1, 2), (2, 3), (2, 4)]
    assert axis.size == 3
    assert axis.jump == pytest.approx(2 / 3)
