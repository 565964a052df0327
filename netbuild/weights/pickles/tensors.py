"""Storages and tensors of a foreign file, built by our own code after every size in the file has been checked."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from netbuild.weights.pickles.machine import Builder, Machine
from netbuild.weights.pickles.stubs import Budget, MalformedError, Named, Pending, UnsupportedError

MAX_DIMENSIONS = 64
MAX_KEY = 100  # characters; torch numbers its storages
EXPANDED = 64 << 20  # bytes that a tensor may claim to have beyond its file's size, by strides of 0
TENSOR = 1024  # bytes of a tensor without its values

_DTYPE_NAMES = """bfloat16 bool complex128 complex32 complex64 float16 float32 float64 float8_e4m3fn float8_e4m3fnuz
float8_e5m2 float8_e5m2fnuz float8_e8m0fnu int16 int32 int64 int8 uint16 uint32 uint64 uint8"""
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in _DTYPE_NAMES.split() if isinstance(getattr(torch, name, None), torch.dtype)
}
CONSTANTS: dict[tuple[str, str], torch.dtype] = {("torch", name): dtype for name, dtype in DTYPES.items()}

STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": None,
}
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")


class Storage:
    """A block of values that tensors view: raw bytes, with the type that the file gives them, None for bytes alone."""

    def __init__(self, raw: torch.Tensor, dtype: torch.dtype | None) -> None:
        self.raw, self.dtype = raw, dtype
        self.values: torch.Tensor | None = None

    def flat(self, dtype: torch.dtype) -> torch.Tensor:
        """All values as one axis; every tensor made of it shares the memory."""
        if self.dtype not in (None, dtype):
            raise MalformedError("a tensor has another type than its storage")
        if self.values is None:
            self.dtype = dtype
            self.values = self.raw[: len(self.raw) // dtype.itemsize * dtype.itemsize].view(dtype)
        return self.values


@dataclass(frozen=True)
class StorageId:
    """What a persistent id says of a storage: the name of its data, how many values of what type."""

    key: str
    dtype: torch.dtype | None
    nbytes: int

    @classmethod
    def of(cls, pid: Any) -> "StorageId":
        """Read ``("storage", class, key, device, number of values[, None])``."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not isinstance(pid[0], str) or pid[0] != "storage":
            raise MalformedError("a persistent id is no storage")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, Named) or not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**60:
            raise MalformedError("a storage has no type, no key or no size")
        if kind.module not in _STORAGE_MODULES or kind.name not in STORAGES:
            raise UnsupportedError(f"a storage of type {kind}")
        if view and view[0] is not None:
            raise UnsupportedError("a storage that views another, as the first versions of torch wrote them")
        dtype = STORAGES[kind.name]
        if len(key) > MAX_KEY:
            raise MalformedError("the key of a storage is too long")
        return cls(key, dtype, count * (dtype.itemsize if dtype else 1))


class Storages:
    """The storages of one file, each read once.

    Args:
        fill: reads the values of a storage into its memory, or makes sure that it will be done.
        size: of the file, which all storages together may not exceed.
    """

    def __init__(self, fill: Callable[[StorageId, memoryview], None], size: int, budget: Budget) -> None:
        self.fill, self.left, self.budget = fill, size, budget
        self.known: dict[str, tuple[StorageId, Storage]] = {}

    def __call__(self, pid: Any) -> Storage | Named:
        """What a persistent id stands for: a storage, or in the early format also a class, beside its source text."""
        if isinstance(pid, tuple) and len(pid) == 4 and isinstance(pid[1], Named) and type(pid[0]) is str:
            return pid[1]
        asked = StorageId.of(pid)
        if asked.key in self.known:
            before, storage = self.known[asked.key]
            if before != asked:
                raise MalformedError(f"the storage {asked.key} has two types or sizes")
            return storage
        self.budget.spend(TENSOR)
        self.left -= asked.nbytes
        if self.left < 0:
            raise MalformedError(f"the storage {asked.key} has {asked.nbytes:,} bytes, more than the file holds")
        try:
            raw = torch.empty(asked.nbytes, dtype=torch.uint8, device="cpu")
        except (RuntimeError, MemoryError):
            raise MalformedError(f"the memory does not hold a storage of {asked.nbytes:,} bytes") from None
        self.fill(asked, raw.numpy().data)
        self.known[asked.key] = asked, Storage(raw, asked.dtype)
        return self.known[asked.key][1]

    def finish(self) -> None:
        """To be called when all values are there: a byte that is neither true nor false becomes true."""
        for _, storage in self.known.values():
            if storage.dtype == torch.bool:
                storage.raw.clamp_(max=1)


class Tensors:
    """Builders of tensors for the functions by which torch writes them.

    Args:
        size: of the file, which bounds what a tensor may claim by strides of 0.
    """

    def __init__(self, size: int) -> None:
        self.limit = size + EXPANDED

    def builders(self) -> dict[tuple[str, str], Builder]:
        """Name of the function to the builder."""
        known = {
            ("torch._utils", "_rebuild_tensor"): self.version1,
            ("torch._utils", "_rebuild_tensor_v2"): self.version2,
            ("torch._utils", "_rebuild_tensor_v3"): self.version3,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self.parameter,
            ("torch._tensor", "_rebuild_from_type_v2"): self.subclass,
            ("torch", "Size"): _size,
        }
        return {**known, **{("torch._utils", name): _unsupported(what) for name, what in _UNSUPPORTED.items()}}

    def version1(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """Storage, offset, size, stride."""
        if len(args) != 4 or not isinstance(args[0], Storage) or args[0].dtype is None:
            raise MalformedError("a tensor has no storage, or one without type")
        return self.tensor(machine, args[0].dtype, *args)

    def version2(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """The same with requires_grad, hooks, and since torch 1.12 bits such as conjugation."""
        if not all(_is_blank(more) for more in args[6:]):
            raise UnsupportedError("a conjugate or negative view")
        return self.version1(machine, args[:4])

    def version3(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """A storage of bytes, and the type as an argument."""
        if len(args) < 7 or not isinstance(args[0], Storage) or not isinstance(args[6], torch.dtype):
            raise MalformedError("a tensor has no storage or no type")
        if not all(_is_blank(more) for more in args[7:]):
            raise UnsupportedError("a conjugate or negative view")
        return self.tensor(machine, args[6], *args[:4])

    def parameter(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """A parameter is its tensor: data, requires_grad, hooks[, attributes]."""
        if not args or not isinstance(args[0], torch.Tensor):
            raise MalformedError("a parameter has no tensor")
        return args[0]

    def subclass(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """A tensor with attributes or of a subclass is its tensor: function, class, arguments, attributes."""
        plain = {"_rebuild_tensor": self.version1, "_rebuild_tensor_v2": self.version2}
        plain["_rebuild_tensor_v3"] = self.version3
        function = args[0] if args else None
        if len(args) != 4 or not isinstance(function, Named) or not isinstance(args[2], tuple):
            raise MalformedError("a tensor of a subclass has no function or no arguments")
        if function.module != "torch._utils" or function.name not in plain:
            raise UnsupportedError(f"a tensor of a subclass that {function} makes")
        return plain[function.name](machine, args[2])

    def tensor(
        self, machine: Machine, dtype: torch.dtype, storage: Storage, offset: Any, size: Any, stride: Any
    ) -> torch.Tensor:
        """A view of a storage, after its geometry was found to lie inside."""
        machine.budget.spend(TENSOR)
        for numbers in (size, stride):
            if not _are_counts(numbers):
                raise MalformedError("the size or stride of a tensor is no short list of whole numbers")
        if type(offset) is not int or offset < 0 or len(size) != len(stride):
            raise MalformedError("a tensor has a wrong offset or number of axes")
        if 0 in size:
            return self.empty(size, dtype)
        flat = storage.flat(dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= len(flat):
            raise MalformedError(f"a tensor reads value {last:,} of a storage that has {len(flat):,}")
        if math.prod(size) * dtype.itemsize > self.limit:
            raise MalformedError(f"a tensor of size {list(size)} claims more bytes than the file holds")
        return flat.as_strided(size, stride, offset)

    def empty(self, size: Any, dtype: torch.dtype) -> torch.Tensor:
        """A tensor without values; its size may be no less sensible for that."""
        if math.prod(n for n in size if n) > self.limit:
            raise MalformedError(f"a tensor of size {list(size)} claims more bytes than the file holds")
        return torch.empty(size, dtype=dtype, device="cpu")


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


def _are_counts(numbers: Any) -> bool:
    if not isinstance(numbers, (tuple, list)) or len(numbers) > MAX_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < 2**60 for n in numbers)


_UNSUPPORTED = {
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device",
    "_rebuild_meta_tensor_no_storage": "a tensor without values, on the meta device",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_wrapper_subclass": "a tensor that wraps others",
}


def _unsupported(what: str) -> Builder:
    def builder(machine: Machine, args: tuple[Any, ...]) -> Any:
        raise UnsupportedError(what)

    return builder


def _size(machine: Machine, args: tuple[Any, ...]) -> torch.Size:
    numbers: Any = args[0] if len(args) == 1 else None
    if not _are_counts(numbers):
        raise MalformedError("a torch.Size is no short list of whole numbers")
    return torch.Size(numbers)


# -- numpy


class NumpyType(Pending):
    """A type of numpy by its code, such as ``f8``; the byte order comes with the state."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def build(self, state: Any) -> None:
        """Take the byte order from the state."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise MalformedError("the state of a numpy type is not understood")
        self.order = order

    def read(self, data: bytes | bytearray, shape: tuple[int, ...], fortran: bool = False) -> Any:
        """The values as a numpy array."""
        import numpy as np

        dtype = np.dtype(self.order + self.code)
        if dtype.itemsize * math.prod(shape) != len(data):
            raise MalformedError(f"a numpy array of {math.prod(shape):,} values has {len(data):,} bytes")
        try:
            return np.ndarray(shape, dtype, data, order="F" if fortran else "C")
        except ValueError:  # an empty array whose other axes are huge
            raise MalformedError("a numpy array has no sensible shape") from None


class NumpyArray(Pending):
    """An array of numpy: its `value` is the array, None before the state is there."""

    def __init__(self) -> None:
        self.value: Any = None

    def build(self, state: Any) -> None:
        """Take version, shape, type, order and values."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise MalformedError("the state of a numpy array is not understood")
        _, shape, kind, fortran, data = state
        if not isinstance(shape, tuple) or not _are_counts(shape):
            raise MalformedError("a numpy array has no shape")
        if not isinstance(kind, NumpyType) or not isinstance(data, (bytes, bytearray)):
            raise UnsupportedError("a numpy array of objects")
        self.value = kind.read(data, shape, fortran is True)


def _numpy_type(machine: Machine, args: tuple[Any, ...]) -> NumpyType:
    # No objects, no records: what is left is numbers and texts.
    code = args[0] if args else None
    if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,5}", code):
        raise UnsupportedError("a numpy type other than of numbers and texts")
    return NumpyType(code)


def _numpy_scalar(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 2 or not isinstance(args[0], NumpyType) or not isinstance(args[1], bytes):
        raise MalformedError("a number of numpy is not understood")
    machine.budget.spend(len(args[1]))
    return args[0].read(args[1], ()).item()


NUMPY: dict[tuple[str, str], Builder] = {("numpy", "dtype"): _numpy_type}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    NUMPY[_module, "scalar"] = _numpy_scalar
    NUMPY[_module, "_reconstruct"] = lambda machine, args: NumpyArray()
