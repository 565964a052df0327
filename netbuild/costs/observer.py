"""The costs of running a network, counted by operator: multiply-adds, memory, receptive fields.

`Observer` is a dispatch mode: it intercepts every aten operator of a run on the ``meta`` device and computes the
outputs itself. Costs therefore never depend on a module's class, and custom modules need no rules.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from netbuild.costs import receptive_field as receptive
from netbuild.costs.shape_rules import RULES, NoRule, aten

MAX_OPERATORS = 20_000  # in one row; a mistyped repeat count must not exhaust the machine
MAX_TOTAL = 400_000  # in all rows together

CONVENTIONS = {
    "torch": "2 FLOPs per multiply-add of convolutions and matrix products, nothing else, at the requested size",
    "thop": "as torch, plus 8 FLOPs per element of a norm with weights, 2 per element that a pooling averages, 6 per "
    "element of an attention's softmax (THOP's rules), at the requested size",
    "thop-stride": "thop on one image of stride x stride pixels, times the area of the requested size in such images",
}


class OperatorLimitError(RuntimeError):
    """A row runs more operators than MAX_OPERATORS."""


# -- multiply-adds ----------------------------------------------------------------------------------------------------

Count = Callable[..., int]


def _convolution(out: Any, x: Any, weight: Any, bias: Any, *options: Any) -> int:
    transposed = options[3]  # after stride, padding and dilation
    # A convolution multiplies once per output position and tap, a transposed one once per input position and tap.
    positions = math.prod((x if transposed else out).shape[2:])
    return int(x.shape[0] * positions * weight.numel())


def _mm(out: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return int(math.prod(a.shape) * b.shape[-1])


def _addmm(out: Any, _: Any, a: Any, b: Any, **__: Any) -> int:
    return _mm(out, a, b)


def _attention(out: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1]))


def _list_overloads(*names: str) -> list[Any]:
    found = [getattr(aten, name, None) for name in names]
    return [getattr(packet, o) for packet in found if packet is not None for o in packet.overloads() if o != "out"]


PRODUCTS: dict[Any, Count] = {
    **dict.fromkeys(_list_overloads("convolution", "_convolution"), _convolution),
    **dict.fromkeys(_list_overloads("mm", "bmm"), _mm),
    **dict.fromkeys(_list_overloads("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(
        _list_overloads(
            "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
            "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable",
        ),
        _attention,
    ),
}  # fmt: skip


# Operators that return as many tensors as a dimension is long, or has parts.
_UNBIND = set(_list_overloads("unbind", "unbind_copy"))
_SPLIT = set(_list_overloads("split", "unsafe_split", "split_copy"))
_SPLIT_WITH_SIZES = set(_list_overloads("split_with_sizes", "unsafe_split_with_sizes", "split_with_sizes_copy"))


def _norm(out: Any, x: Any, weight: Any, *rest: Any) -> int:
    return 8 * x.numel() if weight is not None else 4 * x.numel()


def _layer_norm(out: Any, x: Any, shape: Any, weight: Any, *rest: Any) -> int:
    return _norm(out, x, weight)


def _average_pool(out: Any, x: Any, *_: Any) -> int:
    return 2 * out.numel()


def _adaptive_average_pool(out: Any, x: Any, *_: Any) -> int:
    # THOP counts 2 FLOPs for each element of the window and 2 for the division.
    window = math.prod(x.shape[-2:]) // max(1, math.prod(out.shape[-2:]))
    return 2 * (window + 1) * out.numel()


def _mean(out: Any, x: Any, dim: Any = None, *_: Any, **__: Any) -> int:
    # aten runs nn.AdaptiveAvgPool2d(1) as a mean over the last two dimensions.
    return 2 * (x.numel() // out.numel() + 1) * out.numel() if x.ndim == 4 and dim == [-1, -2] else 0


def _attention_softmax(out: Any, *_: Any, **__: Any) -> int:
    # THOP's rule for attention modules, which run this softmax: per element an exponential, a division, and an
    # addition except for the last.
    return int(2 * (3 * out.numel() - out.numel() // max(1, out.shape[-1])))


THOP_EXTRA: dict[Any, Count] = {
    **dict.fromkeys(_list_overloads("native_batch_norm", "native_group_norm"), _norm),
    **dict.fromkeys(_list_overloads("native_layer_norm"), _layer_norm),
    **dict.fromkeys(_list_overloads("avg_pool2d"), _average_pool),
    **dict.fromkeys(_list_overloads("_adaptive_avg_pool2d"), _adaptive_average_pool),
    **dict.fromkeys(_list_overloads("mean"), _mean),
    **dict.fromkeys(_list_overloads("_safe_softmax"), _attention_softmax),
}

# Operators that move, select or create data: they count as 0 under every convention.
_FREE = set(
    _list_overloads(
        *"""
        empty empty_like empty_strided new_empty new_zeros new_ones new_full zeros_like ones_like full_like full
        scalar_tensor arange linspace index index_select gather scatter topk sort argmax embedding _unsafe_view
        _reshape_alias roll flip repeat _to_copy masked_fill where pixel_unshuffle lift_fresh bitwise_not cumsum
        grid_sampler_2d native_dropout zero_ fill_ copy_ max_pool3d_with_indices channel_shuffle native_channel_shuffle
        eye tril all triu rand randn bernoulli bernoulli_ as_strided_
        """.split()
    )
)


def _has_known_cost(func: Any) -> bool:
    return func in RULES or func in PRODUCTS or func in _FREE or func.is_view or torch.Tag.pointwise in func.tags


# -- memory -----------------------------------------------------------------------------------------------------------


class LiveStorage:
    """Tracks the bytes of tensor storage alive at the same time, without parameters and buffers.

    Attributes:
        now: bytes alive now.
        peak: the most bytes alive at once so far.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self._exempt: dict[int, Any] = {}

    def exempt(self, module: nn.Module) -> None:
        """Exclude a module's parameters and buffers."""
        for tensor in (*module.parameters(), *module.buffers()):
            storage = tensor.untyped_storage()
            self._exempt[id(storage)] = storage

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known or key in self._exempt:
            return
        size = storage.nbytes()
        self.now += size

        def subtract(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, subtract)

    def update_peak(self) -> None:
        """Update the peak; to be called after each operator."""
        self.peak = max(self.peak, self.now)


def count_saved_bytes(run: Callable[[], Any], parameters: set[int]) -> tuple[int, int]:
    """Count the bytes that autograd saves for the backward pass, each storage once.

    Args:
        run: builds the autograd graph and returns its outputs.
        parameters: ids of the storages of parameters and buffers.

    Returns:
        The bytes of all saved storages, and of those among them that are parameters and buffers.
    """
    storages: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> None:
        # Returns None instead of the tensor: an output saved in its own graph would be a reference cycle through C++,
        # which is never collected.
        storage = tensor.untyped_storage()
        storages[id(storage)] = storage

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed):
        outputs = run()
    sizes = {key: storage.nbytes() for key, storage in storages.items()}
    del outputs
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key in parameters)


# -- the observer -----------------------------------------------------------------------------------------------------


@dataclass
class Operator:
    """An operator that ran, for the textbook view of a row.

    Args:
        func: the aten operator.
        args: its arguments without the first; None for arguments that are or contain tensors.
    """

    func: Any
    args: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The aten name without the overload, such as ``convolution``."""
        return str(self.func).split(".")[1]


@dataclass
class Tally:
    """The counts of one row or one submodule.

    Args:
        macs: multiply-adds of convolutions and matrix products.
        thop_extra: FLOPs that THOP counts in addition.
        operators: the operators that ran.
        unknown: operators without a rule for their cost, which count as 0, to how often they ran.
    """

    macs: int = 0
    thop_extra: int = 0
    operators: list[Operator] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)

    def flops(self, convention: str) -> int:
        """FLOPs by the convention ``torch`` or ``thop``."""
        return 2 * self.macs + (self.thop_extra if convention == "thop" else 0)


class Observer(TorchDispatchMode):
    """Observes a run on ``meta``; each operator is added to all open `tallies` (a row, and the submodules it is in).

    Args:
        counting: False while modules are built and in runs that only need shapes.
    """

    def __init__(self, counting: bool = True) -> None:
        super().__init__()
        self.limit = MAX_TOTAL  # number of operators at which to stop; the resolver sets it before each row
        self.counting = counting
        self.tallies: list[Tally] = []
        self.live = LiveStorage()
        self.steps = 0  # operators so far

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports torch._dynamo to wrap the handler, which takes 0.65 s.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.steps += _count_outputs(func, args, kwargs)
        if self.steps > self.limit:
            raise OperatorLimitError(f"it runs more than {MAX_OPERATORS:,} operators")
        out = _compute_output(func, args, kwargs)
        if self.counting:
            self._record(func, args, kwargs, out)
        return out

    def _record(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        self._track_memory(out)
        receptive.propagate(func, args, kwargs, out)
        count, extra = PRODUCTS.get(func), THOP_EXTRA.get(func)
        macs = count(out, *args, **kwargs) if count else 0
        more = extra(out[0] if isinstance(out, tuple) else out, *args, **kwargs) if extra else 0
        # Without tensors, since the record would keep them alive.
        recorded_args = tuple(None if _contains_tensors(arg) else arg for arg in args[1:]) if self.tallies else ()
        for tally in self.tallies:
            tally.macs += macs
            tally.thop_extra += more
            tally.operators.append(Operator(func, recorded_args))
            if not _has_known_cost(func):
                tally.unknown[str(func)] += 1

    def _track_memory(self, out: Any) -> None:
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, torch.Tensor):
                self.live.add(item)
        self.live.update_peak()


def _count_outputs(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Predict how many tensors an operator returns: making a million of them takes as long as a million operators."""
    if func in _UNBIND:
        return _length(args[0], kwargs.get("dim", args[1] if len(args) > 1 else 0))
    if func in _SPLIT:
        length = _length(args[0], kwargs.get("dim", args[2] if len(args) > 2 else 0))
        return -(-length // max(int(args[1]), 1))
    return len(args[1]) if func in _SPLIT_WITH_SIZES else 1


def _length(x: torch.Tensor, dim: int) -> int:
    return max(x.shape[dim], 1) if x.ndim else 1


def _contains_tensors(arg: Any) -> bool:
    return isinstance(arg, torch.Tensor) or (isinstance(arg, (list, tuple)) and any(map(_contains_tensors, arg)))


def _compute_output(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    shape_rule = RULES.get(func)
    if shape_rule is not None:
        try:
            return shape_rule(*args, **kwargs)
        except NoRule:
            pass
    return func(*args, **kwargs)


@contextmanager
def observe_on_meta(observer: Observer) -> Iterator[None]:
    """Context in which tensors are created on ``meta``, the observer is active and gradients are off."""
    with torch.no_grad(), torch.device("meta"), observer:
        yield
