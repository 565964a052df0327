"""What running a network costs, observed on its operators: multiply-adds, memory, receptive fields.

Module classes are never asked. The observer is a dispatch mode: it sees every aten operator of a run on the ``meta``
device and produces the outputs itself.
"""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from netbuild.costs import receptive_field as receptive
from netbuild.costs.shape_rules import RULES, NoRule, aten

MAX_OPERATORS = 20_000  # in one row; a row beyond it would eat the machine
MAX_TOTAL = 400_000  # over all rows

CONVENTIONS = {
    "torch": "2 FLOPs per multiply-add of convolutions and matrix products, nothing else, at the asked size",
    "thop": "as torch, plus 8 FLOPs per element of a norm with weights, 2 per element that a pooling averages, 6 per "
    "element of an attention's softmax (THOP's rules), at the asked size",
    "thop-stride": "thop on one image of stride x stride pixels, times the area of the asked size in such images",
}


class TooMuchError(RuntimeError):
    """A row runs more operators than a network's row may."""


# -- multiply-adds ----------------------------------------------------------------------------------------------------

Count = Callable[..., int]


def _convolution(out: Any, x: Any, weight: Any, bias: Any, *how: Any) -> int:
    transposed = how[3]  # after stride, padding and dilation
    # A transposed convolution multiplies once per input position and tap, a convolution per output position and tap.
    positions = math.prod((x if transposed else out).shape[2:])
    return int(x.shape[0] * positions * weight.numel())


def _mm(out: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return int(math.prod(a.shape) * b.shape[-1])


def _addmm(out: Any, _: Any, a: Any, b: Any, **__: Any) -> int:
    return _mm(out, a, b)


def _attention(out: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1]))


def _ops(*names: str) -> list[Any]:
    found = [getattr(aten, name, None) for name in names]
    return [getattr(packet, o) for packet in found if packet is not None for o in packet.overloads() if o != "out"]


PRODUCTS: dict[Any, Count] = {
    **dict.fromkeys(_ops("convolution", "_convolution"), _convolution),
    **dict.fromkeys(_ops("mm", "bmm"), _mm),
    **dict.fromkeys(_ops("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(
        _ops(
            "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
            "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable",
        ),
        _attention,
    ),
}  # fmt: skip


def _norm(out: Any, x: Any, weight: Any, *rest: Any) -> int:
    return 8 * x.numel() if weight is not None else 4 * x.numel()


def _layer_norm(out: Any, x: Any, shape: Any, weight: Any, *rest: Any) -> int:
    return _norm(out, x, weight)


def _average(out: Any, x: Any, *_: Any) -> int:
    return 2 * out.numel()


def _adaptive_average(out: Any, x: Any, *_: Any) -> int:
    # One addition per element of the window and one division, as THOP has it.
    window = math.prod(x.shape[-2:]) // max(1, math.prod(out.shape[-2:]))
    return 2 * (window + 1) * out.numel()


def _mean(out: Any, x: Any, dim: Any = None, *_: Any, **__: Any) -> int:
    # nn.AdaptiveAvgPool2d(1) arrives as a mean over the last two dimensions.
    return 2 * (x.numel() // out.numel() + 1) * out.numel() if x.ndim == 4 and dim == [-1, -2] else 0


def _attention_softmax(out: Any, *_: Any, **__: Any) -> int:
    # THOP's rule for attention modules, whose softmax is this one: an exponential and a division an element, an
    # addition between two.
    return int(2 * (3 * out.numel() - out.numel() // max(1, out.shape[-1])))


THOP_EXTRA: dict[Any, Count] = {
    **dict.fromkeys(_ops("native_batch_norm", "native_group_norm"), _norm),
    **dict.fromkeys(_ops("native_layer_norm"), _layer_norm),
    **dict.fromkeys(_ops("avg_pool2d"), _average),
    **dict.fromkeys(_ops("_adaptive_avg_pool2d"), _adaptive_average),
    **dict.fromkeys(_ops("mean"), _mean),
    **dict.fromkeys(_ops("_safe_softmax"), _attention_softmax),
}

# Operators that move, choose or make data: no arithmetic to count under any convention.
_FREE = set(
    _ops(
        *"""
        empty empty_like empty_strided new_empty new_zeros new_ones new_full zeros_like ones_like full_like full
        scalar_tensor arange linspace index index_select gather scatter topk sort argmax embedding _unsafe_view
        _reshape_alias roll flip repeat _to_copy masked_fill where pixel_unshuffle lift_fresh bitwise_not cumsum
        grid_sampler_2d native_dropout zero_ fill_ copy_ max_pool3d_with_indices channel_shuffle native_channel_shuffle
        eye tril all triu rand randn bernoulli bernoulli_ as_strided_
        """.split()
    )
)


def _is_known(func: Any) -> bool:
    return func in RULES or func in PRODUCTS or func in _FREE or func.is_view or torch.Tag.pointwise in func.tags


# -- memory -----------------------------------------------------------------------------------------------------------


class LiveStorage:
    """Bytes of tensor storage alive at the same time, parameters and buffers left out."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self._exempt: dict[int, Any] = {}

    def exempt(self, module: nn.Module) -> None:
        """Leave a module's parameters and buffers out."""
        for tensor in (*module.parameters(), *module.buffers()):
            storage = tensor.untyped_storage()
            self._exempt[id(storage)] = storage

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage from now until nothing refers to it."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known or key in self._exempt:
            return
        size = storage.nbytes()
        self.now += size

        def gone(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)

    def note(self) -> None:
        """An operator has run: what is alive now may be the peak."""
        self.peak = max(self.peak, self.now)


def saved_for_backward(run: Callable[[], Any], parameters: set[int]) -> tuple[int, int]:
    """Bytes that autograd saves while ``run`` builds a graph: (all, of them parameters and buffers), each storage once.

    ``parameters`` holds the ids of the storages of parameters and buffers.
    """
    storages: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> None:
        # Nothing is handed back: an output that its own graph holds would be a cycle that nobody collects.
        storage = tensor.untyped_storage()
        storages[id(storage)] = storage

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed):
        kept = run()
    sizes = {key: storage.nbytes() for key, storage in storages.items()}
    del kept
    return sum(sizes.values()), sum(size for key, size in sizes.items() if key in parameters)


# -- the observer -----------------------------------------------------------------------------------------------------


@dataclass
class Operator:
    """One operator as the textbook view needs it: the aten operator, its arguments but the first, tensors as None."""

    func: Any
    args: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The aten name without overload, such as ``convolution``."""
        return str(self.func).split(".")[1]


@dataclass
class Tally:
    """What was observed between two marks: one row, or one submodule."""

    macs: int = 0
    thop_extra: int = 0
    operators: list[Operator] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)

    def flops(self, convention: str) -> int:
        """FLOPs by ``torch`` or ``thop``."""
        return 2 * self.macs + (self.thop_extra if convention == "thop" else 0)


class Observer(TorchDispatchMode):
    """Watches a run on ``meta``; `tallies` are the open marks, each operator counts for all of them."""

    def __init__(self, counting: bool = True) -> None:
        super().__init__()
        self.limit = MAX_TOTAL  # of operators; whoever walks rows sets it for each
        self.counting = counting  # off while modules are built, and in passes that only need shapes
        self.tallies: list[Tally] = []
        self.live = LiveStorage()
        self.steps = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Without this torch wraps the handler and imports torch._dynamo, 0.65 s, to do so.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.steps += 1
        if self.steps > self.limit:
            raise TooMuchError(f"it runs more than {MAX_OPERATORS:,} operators")
        out = _run(func, args, kwargs)
        if self.counting:
            self._observe(func, args, kwargs, out)
        return out

    def _observe(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        self._measure(out)
        receptive.propagate(func, args, kwargs, out)
        count, extra = PRODUCTS.get(func), THOP_EXTRA.get(func)
        macs = count(out, *args, **kwargs) if count else 0
        more = extra(out[0] if isinstance(out, tuple) else out, *args, **kwargs) if extra else 0
        # No tensors: a record of them would keep them alive.
        kept = tuple(None if _holds_tensors(arg) else arg for arg in args[1:]) if self.tallies else ()
        for tally in self.tallies:
            tally.macs += macs
            tally.thop_extra += more
            tally.operators.append(Operator(func, kept))
            if not _is_known(func):
                tally.unknown[str(func)] += 1

    def _measure(self, out: Any) -> None:
        for item in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(item, torch.Tensor):
                self.live.add(item)
        self.live.note()


def _holds_tensors(arg: Any) -> bool:
    return isinstance(arg, torch.Tensor) or (isinstance(arg, (list, tuple)) and any(map(_holds_tensors, arg)))


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    known = RULES.get(func)
    if known is not None:
        try:
            return known(*args, **kwargs)
        except NoRule:
            pass
    return func(*args, **kwargs)


@contextmanager
def on_meta(observer: Observer) -> Iterator[None]:
    """Where networks are built and run without weights: on ``meta``, observed, without gradients."""
    with torch.no_grad(), torch.device("meta"), observer:
        yield
