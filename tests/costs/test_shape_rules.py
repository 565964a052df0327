"""Each shape rule against torch itself, over random arguments: what torch computes on the CPU, the rule must foresee.

An argument list that torch refuses may be refused by the rule or left to torch (`NoRule`), but never be answered.
"""

import json
import random
import subprocess
import sys
import zlib

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from netbuild import layers
from netbuild.costs.observer import Observer
from netbuild.costs.shape_rules import RULES, MismatchError, NoRule, ShapeError, aten

SEEDS = 40
NAMES = {str(op).removeprefix("aten."): op for op in RULES}
GENERATORS = {}

LAYOUTS = ("contiguous", "permuted", "sliced", "expanded")
PLAIN = ("contiguous", "contiguous", "sliced")  # of maps: torch keeps the order of channels-last ones, rules do not
FLOATS = (torch.float32, torch.float32, torch.float64)


def generator(*names):
    """Register what makes random arguments for operators: a function of (rng, name) to (args, kwargs)."""

    def register(function):
        for name in names:
            assert name not in GENERATORS, name
            GENERATORS[name] = function
        return function

    return register


def shape(rng, low=1, high=4, side=4):
    return [rng.choice((1, *range(1, side + 1))) for _ in range(rng.randint(low, high))]


def tensor(rng, sides, dtype=torch.float32, layouts=LAYOUTS, high=1):
    """A tensor of random layout; values in [0, high) or, of integers, below max(high, 3)."""
    sides, layout = list(sides), rng.choice(layouts)

    def make(of):
        return (
            torch.rand(of).mul(high).to(dtype)
            if dtype.is_floating_point
            else torch.randint(0, max(high, 3), of).to(dtype)
        )

    if layout == "permuted":
        order = rng.sample(range(len(sides)), len(sides))
        return make([sides[i] for i in order]).permute([order.index(i) for i in range(len(sides))])
    if layout == "sliced" and sides:
        i = rng.randrange(len(sides))
        return make([n + 2 * (j == i) for j, n in enumerate(sides)]).narrow(i, 1, sides[i])
    if layout == "expanded" and sides:
        i = rng.randrange(len(sides))
        return make([1 if j == i else n for j, n in enumerate(sides)]).expand(sides)
    return make(sides)


def choose_broadcastable(rng, sides):
    """Choose sizes that can usually be broadcast to `sides`."""
    kept = sides[rng.choice((0, 0, 0, rng.randint(0, len(sides)))) :]
    return [rng.choice((n, n, n, 1, 5 if rng.random() < 0.1 else n)) for n in kept]


def to_meta(x):
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") if isinstance(x, torch.Tensor) else x


def describe_layout(x):
    """Return the shape, the dtype, and the strides of dimensions larger than 1."""
    strides = [s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1] if x.numel() else []
    return list(x.shape), x.dtype, strides


def apply_rule(op, args, kwargs):
    """Apply a rule: its output, the `ShapeError` that it raises, or None if it leaves the arguments to torch."""
    try:
        return RULES[op](*args, **kwargs)
    except ShapeError as error:
        return error
    except NoRule:
        return None


def run(op, args, kwargs):
    try:
        return op(*args, **kwargs)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        return error


def compare(op, args, kwargs):
    """Compare a rule with torch for one call; return whether the rule ``answered``, ``refused`` or ``left`` it."""
    on_meta = tree_map(to_meta, args)
    answer = apply_rule(op, on_meta, tree_map(to_meta, kwargs))
    call = f"{op}{tree_map(lambda x: describe_layout(x) if isinstance(x, torch.Tensor) else x, (args, kwargs))}"
    real = run(op, args, kwargs)
    if answer is None:
        return "left"
    if isinstance(answer, ShapeError):
        assert isinstance(real, Exception), f"torch takes {call}, the rule says: {answer}"
        return "refused"
    assert not isinstance(real, Exception), f"torch refuses {call}: {real}"
    assert [describe_layout(x) for x in tree_leaves(answer)] == [describe_layout(x) for x in tree_leaves(real)], call
    assert all(x.device.type == "meta" for x in tree_leaves(answer))
    assert (answer is on_meta[0]) == (real is args[0])
    return "answered"


@pytest.mark.parametrize("name", NAMES)
def test_rule_foresees_what_torch_does(name):
    rng, ends = random.Random(zlib.crc32(name.encode())), []
    torch.manual_seed(0)
    for _ in range(SEEDS):
        args, kwargs = GENERATORS[name](rng, name)
        ends.append(compare(NAMES[name], args, kwargs))
    assert ends.count("answered") >= SEEDS / 4, ends


def test_every_generator_belongs_to_a_rule():
    assert GENERATORS.keys() == NAMES.keys()


# -- pointwise --------------------------------------------------------------------------------------------------------

EXTRAS = {
    "clamp": (0.2, 0.5), "clamp_min": (0.2,), "clamp_max": (0.2,), "threshold": (0.1, 20), "leaky_relu": (0.1,),
    "elu": (0.5,), "hardtanh": (0, 6), "softplus": (2, 20),
}  # fmt: skip
UNARY = (
    "silu sigmoid relu tanh leaky_relu elu gelu hardswish hardsigmoid hardtanh mish softplus exp log log1p sqrt rsqrt "
    "neg abs sin cos tan atan reciprocal clamp clamp_min clamp_max floor ceil round trunc celu sign erf erfinv "
    "softshrink hardshrink threshold"
).split()


@generator(
    *(n for u in UNARY for n in (f"{u}.default", f"{u}_.default") if n in NAMES),
    *("log_sigmoid_forward.default", "zero_.default", "uniform_.default", "normal_.default", "isnan.default"),
    *("logical_not.default", "bernoulli_.float"),
)
def _unary(rng, name):
    dtype = rng.choice((*FLOATS, torch.bfloat16, torch.int64))
    base = name.split(".")[0].rstrip("_")
    return (tensor(rng, shape(rng, 0), dtype), *EXTRAS.get(base, ())), {}


PAIRS = "add sub mul div remainder".split()
COMPARISONS = "eq ne lt le gt ge".split()


def choose_dtype(rng):
    return rng.choice((*FLOATS, torch.float16, torch.int64, torch.int32, torch.bool))


@generator(
    *(n for p in PAIRS for n in (f"{p}.Tensor", f"{p}_.Tensor") if n in NAMES),
    *(f"{c}.Tensor" for c in COMPARISONS),
    *(
        "maximum.default",
        "minimum.default",
        "atan2.default",
        "atan2_.default",
        "pow.Tensor_Tensor",
        "floor_divide.default",
    ),
    *("logical_and.default", "logical_or.default", "copy_.default", "fill_.Tensor"),
)
def _pair(rng, name):
    sides = shape(rng, 0)
    other = [] if name.startswith("fill") else choose_broadcastable(rng, sides)
    dtype = choose_dtype(rng)
    a, b = tensor(rng, sides, dtype), tensor(rng, other, dtype if rng.random() < 0.5 else choose_dtype(rng))
    if name[:5] in ("floor", "remai"):  # integers are not divided by zero
        a, b = a + 1, b + 1
    if "_." not in name and name[0] != "f" and rng.random() < 0.3:
        a, b = b, a
    kwargs = {"alpha": rng.choice((2, 0.5))} if name.startswith(("add", "sub")) and rng.random() < 0.3 else {}
    if name in ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor") and rng.random() < 0.2:
        b = rng.choice((2, 0.5))  # a Python number arrives in the tensor's place
    return (a, b), kwargs


@generator(
    *(n for p in PAIRS for n in (f"{p}.Scalar", f"{p}_.Scalar") if n in NAMES),
    *(f"{c}.Scalar" for c in COMPARISONS),
    *("rsub.Scalar", "pow.Tensor_Scalar", "pow_.Scalar", "floor_divide.Scalar", "floor_divide_.Scalar", "fill_.Scalar"),
)
def _with_number(rng, name):
    return (tensor(rng, shape(rng, 0), choose_dtype(rng)), rng.choice((2, 0.5, 3))), {}


@generator("pow.Scalar")
def _power_of_number(rng, name):
    return (rng.choice((2, 10000.0)), tensor(rng, shape(rng, 0), choose_dtype(rng))), {}


@generator("bitwise_not.default", "bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor")
def _bits(rng, name):
    sides, dtype = shape(rng, 0), rng.choice((torch.bool, torch.int64, torch.int32, torch.float32))
    a, b = tensor(rng, sides, dtype), tensor(rng, choose_broadcastable(rng, sides), dtype)
    return ((a,) if name.startswith("bitwise_not") else (a, b)), {}


@generator("addcmul.default", "addcdiv.default", "addcmul_.default", "addcdiv_.default", "lerp.Tensor")
def _triple(rng, name):
    sides, dtype = shape(rng, 0), rng.choice(FLOATS)
    others = [
        tensor(rng, choose_broadcastable(rng, sides), dtype if rng.random() < 0.9 else torch.float16) for _ in range(2)
    ]
    return (tensor(rng, sides, dtype), *others), {}


@generator("lerp.Scalar")
def _lerp(rng, name):
    sides, dtype = shape(rng, 0), rng.choice(FLOATS)
    return (tensor(rng, sides, dtype), tensor(rng, choose_broadcastable(rng, sides), dtype), 0.3), {}


@generator(*(f"{c}{u}.Tensor" for c in ("clamp", "clamp_min", "clamp_max") for u in ("", "_")))
def _clamp(rng, name):
    sides, dtype = shape(rng, 0), rng.choice(FLOATS)
    limits = [
        tensor(rng, choose_broadcastable(rng, sides), dtype) for _ in range(1 + name.startswith(("clamp.", "clamp_.")))
    ]
    return (tensor(rng, sides, dtype), *limits), {}


@generator("where.self")
def _where(rng, name):
    sides, dtype = shape(rng, 0), choose_dtype(rng)
    a, b = (
        tensor(rng, choose_broadcastable(rng, sides), dtype),
        tensor(rng, choose_broadcastable(rng, sides), choose_dtype(rng)),
    )
    return (tensor(rng, sides, torch.bool), a, b), {}


@generator("masked_fill.Scalar", "masked_fill_.Scalar", "masked_fill.Tensor")
def _masked_fill(rng, name):
    sides = shape(rng, 0)
    x, mask = tensor(rng, sides), tensor(rng, choose_broadcastable(rng, sides), torch.bool)
    return (x, mask, 0.5 if name.endswith("Scalar") else torch.tensor(0.5)), {}


@generator("_prelu_kernel.default")
def _prelu(rng, name):
    x = tensor(rng, shape(rng, 2))
    weight = torch.rand([rng.choice((1, x.shape[1])) if i == 1 else 1 for i in range(x.ndim)])
    return (x, weight), {}


@generator("glu.default")
def _glu(rng, name):
    return (tensor(rng, shape(rng, 1)), rng.choice((-1, 0, 1))), {}


# -- convolution and matrix products ----------------------------------------------------------------------------------


@generator("convolution.default")
def _convolution(rng, name):
    rank, groups = rng.choice((1, 2, 2, 2, 3)), rng.choice((1, 1, 2, 3))
    ins, outs, transposed = groups * rng.randint(1, 3), groups * rng.randint(1, 3), rng.random() < 0.4
    sides = [rng.randint(1, 9) for _ in range(rank)]
    kernel = [rng.randint(1, 4) for _ in range(rank)]
    weight = torch.rand([*((ins, outs // groups) if transposed else (outs, ins // groups)), *kernel])
    arriving = ins + (rng.random() < 0.1)
    x = tensor(rng, [rng.randint(1, 2), arriving, *sides], layouts=PLAIN)
    bias = rng.choice((None, torch.rand(outs + (rng.random() < 0.1))))
    stride, padding, dilation, extra = (
        [rng.choice(choices) for _ in range(rank)] for choices in ((1, 2, 3), (0, 0, 1, 2), (1, 1, 2), (0, 0, 0, 1))
    )
    return (x, weight, bias, stride, padding, dilation, transposed, extra if transposed else [0] * rank, groups), {}


@generator("mm.default", "addmm.default", "bmm.default", "baddbmm.default")
def _product(rng, name):
    m, k, n = (rng.randint(1, 4) for _ in range(3))
    batch = [] if name in ("mm.default", "addmm.default") else [rng.randint(1, 3)]
    dtype, fits = rng.choice(FLOATS), rng.random() < 0.9
    a, b = tensor(rng, [*batch, m, k], dtype), tensor(rng, [*batch, k if fits else k + 1, n], dtype)
    if name.startswith(("mm", "bmm")):
        return (a, b), {}
    bias = tensor(rng, choose_broadcastable(rng, [*batch, m, n])[-rng.randint(1, 3) :], dtype)
    return (bias, a, b), rng.choice(({}, {"beta": 0.5, "alpha": 2}))


# -- normalisation ----------------------------------------------------------------------------------------------------


@generator("native_batch_norm.default")
def _batch_norm(rng, name):
    x = tensor(rng, shape(rng, 2, 5), layouts=PLAIN)
    c, training = x.shape[1], rng.random() < 0.3
    weight, bias = rng.choice(((None, None), (torch.rand(c), torch.rand(c))))
    return (x, weight, bias, torch.rand(c), torch.rand(c) + 1, training, 0.1, 1e-5), {}


@generator("native_layer_norm.default")
def _layer_norm(rng, name):
    x = tensor(rng, shape(rng, 2), rng.choice(FLOATS))
    sides = list(x.shape[-rng.randint(1, 2) :])
    weight, bias = rng.choice(((None, None), (torch.rand(sides).to(x.dtype), torch.rand(sides).to(x.dtype))))
    if rng.random() < 0.1:
        sides, weight, bias = [*sides[:-1], sides[-1] + 1], None, None
    return (x, sides, weight, bias, 1e-5), {}


@generator("native_group_norm.default")
def _group_norm(rng, name):
    groups, n = rng.randint(1, 3), rng.randint(1, 3)
    c, sides = groups * rng.randint(1, 3), shape(rng, 1, 2)
    x = tensor(rng, [n, c, *sides], layouts=("contiguous",))
    weight, bias = rng.choice(((None, None), (torch.rand(c), torch.rand(c))))
    return (x, weight, bias, n, c, torch.Size(sides).numel(), groups, 1e-5), {}


@generator("_softmax.default", "_log_softmax.default", "_safe_softmax.default")
def _softmax(rng, name):
    x = tensor(rng, shape(rng), rng.choice(FLOATS))
    return (x, rng.randint(-x.ndim - 1, x.ndim), *((None,) if name.startswith("_safe") else (False,))), {}


# -- pooling, padding, resizing ---------------------------------------------------------------------------------------


def make_maps(rng, rank, side=9):
    """A batch of maps, or now and then maps without one."""
    batch = [rng.randint(1, 2)] * (rng.random() < 0.8)
    return tensor(rng, [*batch, rng.randint(1, 3), *(rng.randint(1, side) for _ in range(rank))], layouts=PLAIN)


def choose_numbers(rng, rank, low, high):
    """A number for each dimension, or one for all."""
    return [rng.randint(low, high) for _ in range(rng.choice((1, rank)))]


@generator(
    "max_pool2d_with_indices.default", "max_pool3d_with_indices.default", "avg_pool2d.default", "avg_pool3d.default"
)
def _pool(rng, name):
    rank = 3 if "3d" in name else 2
    kernel, padding = choose_numbers(rng, rank, 1, 6 - rank), choose_numbers(rng, rank, 0, 4 - rank)
    stride = rng.choice(([], choose_numbers(rng, rank, 1, 4), choose_numbers(rng, rank, 0, 3)))
    dilation = [choose_numbers(rng, rank, 1, 2)] if name.startswith("max") else []
    return (make_maps(rng, rank), kernel, stride, padding, *dilation, rng.random() < 0.5), {}


@generator(*(f"{kind}{rank}d.default" for kind in ("_adaptive_avg_pool", "adaptive_max_pool") for rank in (2, 3)))
def _adaptive(rng, name):
    rank = 3 if "3d" in name else 2
    return (make_maps(rng, rank), [rng.randint(1, 5) for _ in range(rank)]), {}


@generator(
    "constant_pad_nd.default",
    *(f"{kind}_pad{rank}d.default" for kind in ("reflection", "replication") for rank in (1, 2, 3)),
)
def _pad(rng, name):
    rank = 2 if "nd" in name else int(name.split("pad")[1][0])
    pad = rng.choices((0, 1, 2, -1), (9, 9, 3, 1), k=2 * rank)
    return (make_maps(rng, rank, side=7), pad[: rng.choice((2, 4))] if "nd" in name else pad), {}


@generator(*(n for n in NAMES if "upsample" in n))
def _resize(rng, name):
    rank = int(name.split("d.")[0].removesuffix("_aa").rstrip("d")[-1]) if "_aa" not in name else 2
    flags = () if "nearest" in name else (rng.random() < 0.5,)
    return (make_maps(rng, rank), [rng.randint(1, 9) for _ in range(rank)], *flags), {}


@generator("pixel_shuffle.default", "pixel_unshuffle.default", "channel_shuffle.default")
def _shuffle(rng, name):
    return (
        tensor(rng, [*shape(rng, 0, 1), rng.choice((4, 8, 9)), rng.choice((4, 6)), 6], layouts=PLAIN),
        rng.choice((1, 2, 2, 3)),
    ), {}


@generator("im2col.default")
def _im2col(rng, name):
    kernel, dilation, padding, stride = (
        [rng.randint(low, high) for _ in range(2)] for low, high in ((1, 3), (1, 2), (0, 2), (1, 3))
    )
    return (make_maps(rng, 2), kernel, dilation, padding, stride), {}


@generator("grid_sampler_2d.default")
def _grid_sampler(rng, name):
    x = tensor(rng, [rng.randint(1, 2), *shape(rng, 3, 3)], layouts=PLAIN)
    grid = tensor(rng, [rng.choice((1, x.shape[0])), *shape(rng, 2, 2), rng.choice((2, 2, 2, 3))])
    return (x, grid, 0, 0, False), {}


# -- joining, reducing, copying, making -------------------------------------------------------------------------------


@generator("cat.default")
def _cat(rng, name):
    sides, dtype = shape(rng), rng.choice(FLOATS)
    dim = rng.randint(-len(sides) - 1, len(sides))
    parts = []
    for _ in range(rng.randint(1, 3)):
        own = [rng.randint(1, 4) if i == dim % len(sides) else n + (rng.random() < 0.05) for i, n in enumerate(sides)]
        parts.append(tensor(rng, own, dtype if rng.random() < 0.9 else choose_dtype(rng), layouts=PLAIN))
    return (parts + [torch.rand(0)] * (rng.random() < 0.1), dim), {}


@generator("stack.default")
def _stack(rng, name):
    sides, dtype = shape(rng, 0, 3), rng.choice(FLOATS)
    parts = [tensor(rng, sides, dtype if rng.random() < 0.9 else choose_dtype(rng)) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.1:
        parts.append(torch.rand([*sides, 2]))
    return (parts, rng.randint(-len(sides) - 2, len(sides) + 1)), {}


def choose_dims(rng, x):
    dims = [rng.randint(-x.ndim, x.ndim - 1) for _ in range(rng.randint(0, 2))]
    return [*dims, x.ndim] if rng.random() < 0.1 else dims


@generator("mean.dim", "sum.dim_IntList", "amax.default", "amin.default")
def _reduction(rng, name):
    x = tensor(rng, shape(rng), rng.choice((*FLOATS, torch.float16, torch.int64)))
    return rng.choice(((x, choose_dims(rng, x)), (x, choose_dims(rng, x), True))), {}


@generator("mean.default", "sum.default")
def _reduction_of_all(rng, name):
    return (tensor(rng, shape(rng, 0), rng.choice((*FLOATS, torch.int64))),), {}


@generator("var.correction", "std.correction")
def _variance(rng, name):
    x = tensor(rng, shape(rng), rng.choice(FLOATS))
    dims = rng.choice((None, choose_dims(rng, x)))
    return (x, dims), {"correction": rng.choice((0, 1)), "keepdim": rng.random() < 0.5}


@generator("linalg_vector_norm.default")
def _norm(rng, name):
    x = tensor(rng, shape(rng), rng.choice(FLOATS))
    return (x, rng.choice((1, 2, float("inf"))), rng.choice((None, choose_dims(rng, x))), rng.random() < 0.5), {}


@generator("max.dim", "min.dim", "argmax.default", "argmin.default")
def _extreme(rng, name):
    x = tensor(rng, shape(rng), rng.choice((*FLOATS, torch.int64)))
    dim = rng.randint(-x.ndim - 1, x.ndim)
    if name.startswith("arg") and rng.random() < 0.3:
        dim = None
    return (x, dim, rng.random() < 0.5), {}


@generator("topk.default")
def _topk(rng, name):
    x = tensor(rng, shape(rng))
    return (x, rng.randint(1, 3), rng.randint(-x.ndim - 1, x.ndim)), {}


@generator("gather.default")
def _gather(rng, name):
    x = tensor(rng, shape(rng))
    dim = rng.randint(-x.ndim - 1, x.ndim)
    sides = [rng.randint(1, n + (rng.random() < 0.1)) for n in x.shape]
    return (x, dim, torch.zeros(sides, dtype=torch.int64)), {}


@generator("index_select.default")
def _index_select(rng, name):
    x = tensor(rng, shape(rng))
    index = torch.zeros(shape(rng, 1, rng.choice((1, 1, 2))), dtype=rng.choice((torch.int64, torch.int32)))
    return (x, rng.randint(-x.ndim - 1, x.ndim), index), {}


@generator("embedding.default")
def _embedding(rng, name):
    return (tensor(rng, shape(rng, 2, 2)), torch.zeros(shape(rng, 0, 3), dtype=torch.int64)), {}


@generator("flip.default")
def _flip(rng, name):
    x = tensor(rng, shape(rng))
    return (x, choose_dims(rng, x)), {}


@generator("roll.default")
def _roll(rng, name):
    x = tensor(rng, shape(rng, 2), layouts=PLAIN)
    dims = rng.choice(([], choose_dims(rng, x)))
    return (x, [rng.randint(-2, 2) for _ in range(max(1, len(dims)) + (rng.random() < 0.1))], dims), {}


@generator("repeat.default")
def _repeat(rng, name):
    return (tensor(rng, shape(rng, 0, 3)), [rng.randint(0, 2) for _ in range(rng.randint(1, 4))]), {}


def choose_memory_format(rng):
    return {"memory_format": rng.choice((torch.contiguous_format, torch.preserve_format))} if rng.random() < 0.4 else {}


@generator("clone.default", *(f"{kind}_like.default" for kind in ("empty", "zeros", "ones", "rand", "randn", "full")))
def _copy(rng, name):
    kwargs = choose_memory_format(rng)
    if not name.startswith("clone") and rng.random() < 0.3:
        kwargs["dtype"] = torch.float64
    return (tensor(rng, shape(rng, 0), rng.choice(FLOATS)), *((2,) if name.startswith("full") else ())), kwargs


@generator("zeros.default", "ones.default", "rand.default", "randn.default")
def _made(rng, name):
    return (shape(rng, 0),), rng.choice(({}, {"dtype": torch.float64}))


@generator("full.default")
def _full(rng, name):
    return (shape(rng, 0), rng.choice((2, 0.5, True))), rng.choice(({}, {"dtype": torch.float64}))


@generator("arange.default", "arange.start", "arange.start_step")
def _arange(rng, name):
    numbers = [rng.choice((rng.randint(-3, 9), rng.uniform(-1, 5))) for _ in range(3)]
    count = {"default": 1, "start": 2, "start_step": 3}[name.split(".")[1]]
    return tuple(numbers[:count]), rng.choice(({}, {"dtype": torch.float32}))


# -- what torch refuses -----------------------------------------------------------------------------------------------

R = torch.rand
CONV = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, transposed, output padding, groups
CONVOLUTION, MAX = "convolution.default", "max_pool2d_with_indices.default"
REFUSED = {
    "channels": (CONVOLUTION, (R(1, 3, 8, 8), R(4, 2, 3, 3), None, *CONV), "2 input channels, 3 arrive"),
    "transposed channels": (
        CONVOLUTION, (R(1, 3, 8, 8), R(4, 2, 3, 3), None, *CONV[:3], True, [0, 0], 1), "4 input channels, 3 arrive",
    ),
    "tokens to a convolution": (CONVOLUTION, (R(1, 3, 8), R(4, 3, 3, 3), None, *CONV), "2 spatial dimensions"),
    "kernel": (CONVOLUTION, (R(1, 3, 2, 2), R(4, 3, 3, 3), None, *CONV), "kernel of 3 does not fit a map of 2"),
    "dilated kernel": (
        CONVOLUTION, (R(1, 3, 6, 6), R(4, 3, 3, 3), None, [1, 1], [0, 0], [3, 3], *CONV[3:]), "kernel of 7",
    ),
    "no stride": (CONVOLUTION, (R(1, 3, 8, 8), R(4, 3, 3, 3), None, [0, 0], *CONV[1:]), "stride 0"),
    "dtype": (CONVOLUTION, (R(1, 3, 8, 8).double(), R(4, 3, 3, 3), None, *CONV), "float64 and torch.float32"),
    "bias": (CONVOLUTION, (R(1, 3, 8, 8), R(4, 3, 3, 3), R(5), *CONV), "do not fit 4 output channels"),
    "output padding": (
        CONVOLUTION, (R(1, 4, 8, 8), R(4, 2, 3, 3), None, *CONV[:3], True, [1, 1], 1), "output padding 1",
    ),
    "features": ("mm.default", (R(2, 3), R(4, 5)), "built for 4 input features, 3 arrive"),
    "features with bias": ("addmm.default", (R(5), R(2, 3), R(4, 5)), "built for 4 input features, 3 arrive"),
    "bias of a product": ("addmm.default", (R(6), R(2, 4), R(4, 5)), "6 against 5"),
    "batched product": ("bmm.default", (R(2, 3, 4), R(2, 5, 6)), "is not possible"),
    "batches of a product": ("baddbmm.default", (R(1), R(2, 3, 4), R(3, 4, 6)), "is not possible"),
    "sum": ("add.Tensor", (R(1, 3, 8, 8), R(1, 3, 4, 4)), "8 against 4"),
    "product in place": ("mul_.Tensor", (R(1, 3, 1), R(1, 3, 4)), "does not fit into"),
    "copy": ("copy_.default", (R(3), R(2, 3)), "does not fit into"),
    "gate": ("where.self", (R(3) > 0, R(2), R(1)), "3 against 2"),
    "joined sides": ("cat.default", ([R(1, 3, 8, 8), R(1, 3, 4, 4)], 1), "cannot be joined along dimension 1"),
    "joined ranks": ("cat.default", ([R(1, 3, 8, 8), R(1, 3)], 1), "cannot be joined"),
    "stacked": ("stack.default", ([R(3), R(4)],), "cannot be stacked"),
    "layer norm": ("native_layer_norm.default", (R(2, 8, 6), [8], None, None, 1e-5), "built for [8], [2, 8, 6]"),
    "pool padding": (MAX, (R(1, 3, 8, 8), [3], [2], [2]), "more than half its kernel"),
    "mean padding": ("avg_pool2d.default", (R(1, 3, 8, 8), [3], [2], [2]), "more than half its kernel"),
    "pool kernel": (MAX, (R(1, 3, 4, 4), [5], [1]), "kernel of 5 does not fit a map of 4"),
    "mean kernel": ("avg_pool2d.default", (R(1, 3, 4, 4), [5]), "kernel of 5 does not fit a map of 4"),
    "tokens to a pool": (MAX, (R(1, 8), [2]), "maps of 2 spatial dimensions"),
    "tokens to a mean": ("_adaptive_avg_pool2d.default", (R(1, 8), [2, 2]), "maps of 2 spatial dimensions"),
    "tokens to a maximum": ("adaptive_max_pool2d.default", (R(1, 8), [2, 2]), "maps of 2 spatial dimensions"),
    "empty pad": ("constant_pad_nd.default", (R(1, 3, 4, 4), [-3, -3]), "does not fit"),
    "mirror": ("reflection_pad2d.default", (R(1, 3, 4, 4), [4, 0, 0, 0]), "too small for a reflection padding"),
    "empty resize": ("upsample_nearest2d.default", (R(1, 3, 4, 4), [0, 4]), "resizing to [0, 4]"),
    "resize of no map": ("upsample_bilinear2d.default", (R(3, 4, 4), [8, 8], False), "takes a batch of maps"),
    "shuffle": ("pixel_shuffle.default", (R(1, 6, 4, 4), 2), "multiple of 4 channels"),
    "unshuffle": ("pixel_unshuffle.default", (R(1, 6, 5, 4), 2), "pixel unshuffle by 2"),
    "groups": ("channel_shuffle.default", (R(1, 6, 4, 4), 4), "4 groups do not divide"),
    "patches": ("im2col.default", (R(1, 3, 4, 4), [5, 5], [1, 1], [0, 0], [1, 1]), "kernel of 5"),
    "grid": ("grid_sampler_2d.default", (R(2, 3, 4, 4), R(1, 3, 3, 2), 0, 0, False), "does not sample"),
    "halves": ("glu.default", (R(2, 5), 1), "even number"),
    "best": ("topk.default", (R(2, 5), 6), "6 largest of 5"),
    "picked": ("gather.default", (R(2, 5), 1, torch.zeros(3, 2, dtype=torch.int64)), "too large to gather"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "args", "message"), REFUSED.values(), ids=REFUSED)
def test_rule_refuses_what_torch_refuses(name, args, message):
    assert compare(NAMES[name], args, {}) == "refused"
    assert message in str(apply_rule(NAMES[name], tree_map(to_meta, args), {}))


TAKEN = {
    "output padding below the dilation": (
        CONVOLUTION,
        (R(1, 4, 8, 8), R(4, 2, 3, 3), None, [1, 1], [0, 0], [2, 2], True, [1, 1], 1),
        (1, 2, 13, 13),
    ),
    "padding makes room": (CONVOLUTION, (R(1, 3, 2, 2), R(4, 3, 4, 4), None, [1, 1], [1, 1], *CONV[2:]), (1, 4, 1, 1)),
    "ceil mode makes room": (MAX, (R(1, 3, 2, 2), [3], [2], [0], [1], True), (1, 3, 1, 1)),
    "ceil mode ends in the padding": (MAX, (R(1, 3, 3, 3), [2], [2], [1], [1], True), (1, 3, 2, 2)),
    "half the kernel": (MAX, (R(1, 3, 4, 4), [4], [4], [2]), (1, 3, 2, 2)),
    "an empty vector joins anything": ("cat.default", ([torch.rand(0), R(2, 3)], 1), (2, 3)),
    "an empty batch": ("mm.default", (R(0, 3), R(3, 4)), (0, 4)),
    "cropping": ("constant_pad_nd.default", (R(1, 4), [-1, -2]), (1, 1)),
}


@pytest.mark.parametrize(("name", "args", "shape"), TAKEN.values(), ids=TAKEN)
def test_rule_takes_what_torch_just_takes(name, args, shape):
    assert compare(NAMES[name], args, {}) == "answered"
    assert tree_leaves(apply_rule(NAMES[name], tree_map(to_meta, args), {}))[0].shape == shape


def test_sides_that_differ_are_told_from_other_mistakes():
    """The row's error then lists the rows of the right size."""
    for case in ("sum", "joined sides", "stacked"):
        name, args, _ = REFUSED[case]
        assert isinstance(apply_rule(NAMES[name], tree_map(to_meta, args), {}), MismatchError)


def test_batch_norm_of_other_channels_is_refused():
    known = torch.empty(4, device="meta")
    for norm in ((known, known, None, None, True), (None, None, known, known, False)):
        with pytest.raises(ShapeError, match="built for 4 channels, 3 arrive"):
            RULES[aten.native_batch_norm.default](torch.empty(2, 3, 8, 8, device="meta"), *norm, 0.1, 1e-5)


def test_group_norm_of_other_channels_is_refused():
    x, weight = torch.empty(2, 6, 8, 8, device="meta"), torch.empty(4, device="meta")
    with pytest.raises(ShapeError, match="built for 4 channels, 6 arrive"):
        RULES[aten.native_group_norm.default](x, weight, None, 2, 6, 64, 2, 1e-5)


@pytest.mark.parametrize(
    "view", [torch.Tensor.detach, torch.ops.aten.alias.default, lambda x: x[:1], lambda x: x.view(-1)]
)
def test_views_share_their_storage(view):
    """A rule for a view would make it a new tensor, and memory be counted twice."""
    x = torch.empty(2, 3, device="meta")
    with Observer():
        assert view(x).untyped_storage()._cdata == x.untyped_storage()._cdata


# -- a run on meta without torch's Python kernels ---------------------------------------------------------------------

# Nets on a (1, 8, 16, 16) image, rows separated by semicolons; a row in short form reads the one before it.
ROWS = """
AIFI, [16, 4]
Conv, [8]; [[input, -1], 1, Add, []]; [[input, -1], 1, Multiply, []]
Slice, [2, 5]
C1, [8]
C2, [8]
C2PSA, [8]
C3, [8]
C3TR, [8]
CBAM, []
CIB, [8, true, 0.5, true]
ELAN1, [8, 8, 4]
PSA, [8]
SPP, [8]
SPPELAN, [8, 4]
SPPF, [8]
SPPF, [8, 5, 3, true]
A2C2f, [64, true, 4]
AAttn, [2, 4]
ABlock, [2, 1.2, 4]
AConv, [8]
ADown, [8]
Attention, [2]
Bottleneck, [8]
BottleneckCSP, [8]
[-1, 2, C2f, [8]]
C2fCIB, [8, true, true]
C2fPSA, [8]
C3Ghost, [8]
C3f, [8]
C3k, [8]
C3k2, [8, true]
C3k2, [8, false, 0.5, true]
C3x, [8]
CBLinear, [[4, 8]]; [input, 1, Conv, [8, 3, 2]]; [[0, -1], 1, CBFuse, [[1]]]
nn.MaxPool2d, [5, 1]; [[input, -1], 1, CenterCrop, []]
ChannelAttention, []
Classify, [5]
Conv, [4, 3]; [[input, -1], 1, Concat, [1]]
Conv, [8, 3, 2]
Conv2, [8, 3]
ConvTranspose, [8]
nn.MaxPool2d, [4]; [[-1, input], 1, CrossCorrelation, []]; [[0, input], 1, CrossCorrelation, [true]]
nn.MaxPool2d, [4]; [[-1, input], 1, CrossCorrelation, []]; ScoreScale, []
DWConv, [8, 3]
DWConvTranspose2d, [8, 4, 2, 1]
Conv, [8, 3, 2]; Conv, [8, 3, 2]; [[0, 1], 1, Detect, [3]]
Focus, [8, 3]
GhostBottleneck, [8, 3, 2]
GhostConv, [8]
HGBlock, [4, 8, 3, true, true]
HGStem, [4, 8]
CBLinear, [[4, 8]]; Index, [1]
Learned, [[1, 8, 1, 1], 1, 0.02]; [[input, -1], 1, Add, []]; Learned, [[8, 1, 1]]; [[1, -1], 1, Multiply, []]
LightConv, [8, 3]
PSABlock, [0.5, 2]
Permute, [[0, 2, 3, 1]]; PatchMerging, [8, 16]
nn.Flatten, []; nn.Linear, [2048, 84]; RBF, []
RepBottleneck, [8]
[-1, 2, RepC3, [8]]
RepCSP, [8]
RepConv, [8, 3, 2]
RepNCSPELAN4, [8, 8, 4]
RepVGGDW, []
ResNetBlock, [4]
ResNetLayer, [8, 4, 2, false, 2]
ResNetLayer, [8, 4, 1, true]
SCDown, [8, 3, 2]
Reparameterize, []
[[input, input], 1, Variational, []]
Slice, [0, 1]; nn.AdaptiveAvgPool2d, [1]; OneHot, [3]
ScaleBy, [0.1]; StochasticDepth, [0.2]
nn.Flatten, [2]; SelfAttention, [256, 4]
SpatialAttention, []
Subsample, []
TableConv, [3, 3, [[0, 1], [2, 3], [4]]]
nn.AdaptiveAvgPool2d, [1]; Slice, [0, 1]; TimeEmbedding, [8]
TransformerBlock, [8, 2, 2]
nn.AdaptiveAvgPool2d, [[16, 1]]; nn.Flatten, [2]; nn.Linear, [16, 8]; TransformerEncoderLayer, [16, 2]
nn.AdaptiveAvgPool2d, [[8, 1]]; nn.Flatten, [2]; TransformerLayer, [2]
Conv, [8, 3, 2]; [[-1, -1], 1, v10Detect, [3]]
Permute, [[0, 2, 3, 1]]; WindowAttention, [8, 2, 8]; WindowAttention, [8, 2, 7, 3]
Conv, [8, 3, 2]; [[input, -1], 1, Segment, [3, 4, 8]]; [[input, 0], 1, Segment26, [3, 4, 8]]
Conv, [8, 3, 2]; [[input, -1], 1, Pose, [3, [5, 3]]]; [[input, 0], 1, Pose26, [3, [5, 2]]]
Conv, [8, 3, 2]; [[input, -1], 1, OBB, [3]]; [[input, 0], 1, OBB26, [3]]
Conv, [8, 3, 2]; [[input, -1], 1, Depth, [8]]; [[input, 0], 1, SemanticSegment, [3]]
Conv, [8, 3, 2]; [[input, -1], 1, RTDETRDecoder, [3, {hd: 16, nh: 2, ndl: 2, nq: 10}]]
[[-1, text], 1, MaxSigmoidAttnBlock, [8, 2, 8]]; [[-1, text], 1, C2fAttn, [8, 4, 2]]
Conv, [8, 3, 2]; [[input, -1, text], 1, ImagePoolingAttn, [16]]; [[input, 0, -1], 1, WorldDetect, [3]]
Conv, [8, 3, 2]; [[input, -1, text], 1, WorldDetect, [3, 512, true]]
Conv, [8, 3, 2]; Conv, [8, 3, 2]; [[input, 0, 1, text], 1, YOLOEDetect, [3]]
Conv, [8, 3, 2]; Conv, [8, 3, 2]; [[input, 0, 1, text], 1, YOLOESegment, [3, 4, 8]]
Conv, [8, 3, 2]; Conv, [8, 3, 2]; [[input, 0, 1, text], 1, YOLOESegment26, [3, 4, 8]]
Conv, [8, 3, 2]; [[input, -1], 1, AnchorDetect, [3, [[4, 5, 6, 7], [8, 9, 10, 11]]]]; [[input, 0], 1, IDetect, [3, 2]]
MP, []; SP, []; SPPCSPC, [8]
ReOrg, []; DownC, [8]
Conv, [8, 3, 2]; [[input, -1], 1, v9Detect, [3]]; [[input, 0], 1, v9Segment, [3, 4, 8]]
Conv, [8, 3, 2]; [[input, -1], 1, Panoptic, [3, 2, 4, 8]]; [[input, 0, input], 1, DSegment, [3, 4]]
Conv, [8, 3, 2]; [[input, -1, input, -1, input, input], 1, DualDSegment, [3, 4]]
Conv, [8, 3, 2]; [[input, -1], 1, AnchorSegment, [3, 2, 4, 8]]; [[input, 0], 1, ISegment, [3, 2, 4, 8]]
Conv, [8, 3, 2]; [[input, input, 0, 0], 1, DetectX, [3, 1]]; [[input, 0], 1, Decoupled_Detect, [3, 2]]
Conv, [8, 3, 2]; [[input, 0], 1, YOLOHead, [3, 2]]; [[input, 0], 1, DarknetDetect, [3, 2, 1.05]]
Conv, [8, 3, 2]; Conv, [8, 3, 2]; [[input, 0, 1], 1, ASFF_Detect, [3, 2]]
Conv, [8, 3, 2]; [[input, -1], 1, DDetect, [3]]; [[input, 0, input, 0], 1, DualDDetect, [3]]
Conv, [8, 3, 2]; [[input, 0, input, 0], 1, DualDetect, [3]]
Conv, [8, 3, 2]; [[input, 0, input, 0, input, 0], 1, TripleDetect, [3]]
Conv, [8, 3, 2]; [[input, 0, input, 0, input, 0], 1, TripleDDetect, [3]]
Conv, [8, 3, 2]; [[input, 0, input, 0], 1, IAuxDetect, [3, [[4, 5, 6, 7], [8, 9, 10, 11]]]]
nn.AdaptiveAvgPool2d, [1]; nn.Flatten, []; nn.Linear, [8, 3]; MultiLabel, [3]
nn.AdaptiveAvgPool2d, [1]; nn.Flatten, []; nn.Linear, [8, 3]; Regress, [3]
nn.AdaptiveAvgPool2d, [1]
nn.AdaptiveAvgPool2d, [[3, 5]]
nn.AdaptiveMaxPool2d, [3]
nn.AvgPool2d, [3, 2, 1]
nn.BatchNorm2d, [8]; nn.ReLU, [true]
nn.ChannelShuffle, [2]
nn.CircularPad2d, [1]
nn.ConstantPad2d, [1, 0.5]
nn.Conv2d, [8, 4, 3, 1, 1, 1, 2]
nn.Conv2d, [8, 4, [1, 3], [2, 1], 1, 2]
nn.ConvTranspose2d, [8, 4, 3, 2, 1, 1]
nn.ConvTranspose2d, [8, 4, 3, 2, 1, 1, 2, true, 2]
nn.Dropout, [0.5]; nn.Dropout2d, [0.5]; nn.AlphaDropout, []
nn.Flatten, [2]; nn.Conv1d, [8, 4, 3]; nn.BatchNorm1d, [4]; nn.MaxPool1d, [2]
nn.Flatten, [2]; nn.ConvTranspose1d, [8, 4, 3]; nn.AvgPool1d, [2]; nn.AdaptiveAvgPool1d, [3]
nn.Flatten, [2]; nn.TransformerEncoderLayer, [256, 2, 16]
nn.GELU, []; nn.Hardswish, []; nn.Mish, []; nn.SELU, []; nn.CELU, []
nn.GLU, [1]; nn.LogSigmoid, []; nn.Softplus, []; nn.Hardshrink, []
nn.GroupNorm, [2, 8]; nn.Tanhshrink, []; nn.Softsign, []; nn.Threshold, [0.1, 20]
nn.InstanceNorm2d, [8]; nn.ELU, []; nn.LeakyReLU, [0.1]; nn.ReLU6, []
nn.LPPool2d, [2, 3]
nn.LayerNorm, [[16, 16]]; nn.Softmax, [1]; nn.LogSoftmax, [1]; nn.Softmax2d, []
nn.LocalResponseNorm, [5]
nn.MaxPool2d, {kernel_size: 3, ceil_mode: true}
nn.PReLU, [8]; nn.PReLU, []
nn.PixelShuffle, [2]; nn.PixelUnshuffle, [4]
nn.RMSNorm, [16]
nn.ReflectionPad2d, [1]; nn.ReplicationPad2d, [1]; nn.ZeroPad2d, [1]
nn.Unflatten, [1, [2, 4]]; nn.Conv3d, [2, 4, 3]; nn.BatchNorm3d, [4]; nn.MaxPool3d, [2]
nn.Unflatten, [1, [2, 4]]; nn.ConvTranspose3d, [2, 4, 3]; nn.AvgPool3d, [2]; nn.AdaptiveAvgPool3d, [2]
nn.Unfold, [3]
nn.Upsample, [null, 2, bicubic]
nn.Upsample, [null, 2, bilinear]
nn.Upsample, [null, 2, nearest]
""".strip().split("\n")  # fmt: skip


def make_net(rows, size=16, ch=8):
    """Make the YAML of a line of `ROWS`."""
    rows = [row if row.startswith("[") else f"[-1, 1, {row}]" for row in rows.split("; ")]
    text = "inputs: {image: [ch], text: [3, 512]}\n" if any("text" in row for row in rows) else ""
    return f"ch: {ch}\nimgsz: {size}\n{text}layers:\n" + "".join(f"  - {row}\n" for row in rows)


LIGHT = """
import json, sys
from pathlib import Path
from netbuild.graph.resolver import resolve
from netbuild.grammar.spec import read_spec
heavy = []
for text in json.load(sys.stdin):
    resolve(read_spec(text, Path("net.yaml")))
    if {"sympy", "torch._dynamo"} & set(sys.modules):
        heavy.append(text)
        break
json.dump(heavy, sys.stdout)
"""


@pytest.mark.slow
def test_resolving_needs_none_of_torchs_python_kernels():
    """The first of them would import sympy and torch._dynamo, about a second."""
    texts = json.dumps([make_net(rows) for rows in ROWS])
    done = subprocess.run([sys.executable, "-c", LIGHT], input=texts, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_rows_hold_every_packaged_layer():
    missing = [name for name in layers.__all__ if not any(f" {name}," in f" {rows}" for rows in ROWS)]
    assert missing == []
