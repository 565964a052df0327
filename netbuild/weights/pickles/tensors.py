"""Builders of storages, tensors and numpy arrays; every size in the file is checked before memory is allocated."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from netbuild.weights.pickles.machine import Builder, Machine
from netbuild.weights.pickles.stubs import Budget, MalformedError, Named, Pending, UnsupportedError

MAX_DIMENSIONS = 64
MAX_KEY_LENGTH = 100  # characters of a storage's key; torch uses numbers
EXPANDED = 64 << 20  # bytes by which a tensor may exceed its file's size: strides of 0 repeat values (expand)
TENSOR = 1024  # estimated bytes of a tensor object without its values

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
    """A block of memory that tensors view.

    Args:
        raw: the bytes, uint8.
        dtype: their type, None for an untyped storage.
    """

    def __init__(self, raw: torch.Tensor, dtype: torch.dtype | None) -> None:
        self.raw, self.dtype = raw, dtype
        self.values: torch.Tensor | None = None

    def flat(self, dtype: torch.dtype) -> torch.Tensor:
        """Return all values as a tensor of shape (N,), which shares the storage's memory."""
        if self.dtype not in (None, dtype):
            raise MalformedError("a tensor has another type than its storage")
        if self.values is None:
            self.dtype = dtype
            self.values = self.raw[: len(self.raw) // dtype.itemsize * dtype.itemsize].view(dtype)
        return self.values


@dataclass(frozen=True)
class StorageId:
    """The content of a storage's persistent id.

    Args:
        key: the name of its data in the file.
        dtype: the type of its values, None for an untyped storage.
        nbytes: its size.
    """

    key: str
    dtype: torch.dtype | None
    nbytes: int

    @classmethod
    def of(cls, pid: Any) -> "StorageId":
        """Parse ``("storage", class, key, device, number of values[, None])``; the device is ignored.

        Raises:
            MalformedError: if the id has another form.
        """
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not isinstance(pid[0], str) or pid[0] != "storage":
            raise MalformedError("a persistent id is no storage")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, Named) or not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**60:
            raise MalformedError("a storage has no type, no key or no size")
        if kind.module not in _STORAGE_MODULES or kind.name not in STORAGES:
            raise UnsupportedError(f"a storage of type {kind}")
        if view and view[0] is not None:
            raise UnsupportedError("a storage that is a view of another (written by the first versions of torch)")
        dtype = STORAGES[kind.name]
        if len(key) > MAX_KEY_LENGTH:
            raise MalformedError("the key of a storage is too long")
        return cls(key, dtype, count * (dtype.itemsize if dtype else 1))


class Storages:
    """The storages of one file; each is allocated once.

    Args:
        fill: called with a storage's id and memory; reads its values, or notes the memory to be filled later.
        size: the file's size in bytes, which all storages together may not exceed.
        budget: the memory that may still be allocated.
    """

    def __init__(self, fill: Callable[[StorageId, memoryview], None], size: int, budget: Budget) -> None:
        self.fill, self.left, self.budget = fill, size, budget
        self.known: dict[str, tuple[StorageId, Storage]] = {}

    def __call__(self, pid: Any) -> Storage | Named:
        """Return the storage for a persistent id, or the class that the legacy format stores with its source."""
        if isinstance(pid, tuple) and len(pid) == 4 and isinstance(pid[1], Named) and type(pid[0]) is str:
            return pid[1]
        storage_id = StorageId.of(pid)
        if storage_id.key in self.known:
            before, storage = self.known[storage_id.key]
            if before != storage_id:
                raise MalformedError(f"the storage {storage_id.key} has two types or sizes")
            return storage
        self.budget.spend(TENSOR)
        self.left -= storage_id.nbytes
        if self.left < 0:
            raise MalformedError(
                f"the storage {storage_id.key} has {storage_id.nbytes:,} bytes, more than the file holds"
            )
        try:
            raw = torch.empty(storage_id.nbytes, dtype=torch.uint8, device="cpu")
        except (RuntimeError, MemoryError):
            raise MalformedError(f"there is not enough memory for a storage of {storage_id.nbytes:,} bytes") from None
        self.fill(storage_id, raw.numpy().data)
        self.known[storage_id.key] = storage_id, Storage(raw, storage_id.dtype)
        return self.known[storage_id.key][1]

    def finish(self) -> None:
        """Clamp bools to 0 and 1 after all values are read: other bytes are undefined behaviour in torch."""
        for _, storage in self.known.values():
            if storage.dtype == torch.bool:
                storage.raw.clamp_(max=1)


class Tensors:
    """Builders for the functions of torch that rebuild tensors.

    Args:
        size: the file's size in bytes; bounds the size of expanded tensors.
    """

    def __init__(self, size: int) -> None:
        self.limit = size + EXPANDED

    def builders(self) -> dict[tuple[str, str], Builder]:
        """Return ``(module, name)`` of each function to its builder."""
        known = {
            ("torch._utils", "_rebuild_tensor"): self.build_v1,
            ("torch._utils", "_rebuild_tensor_v2"): self.build_v2,
            ("torch._utils", "_rebuild_tensor_v3"): self.build_v3,
            ("torch._utils", "_rebuild_parameter"): self.build_parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self.build_parameter,
            ("torch._tensor", "_rebuild_from_type_v2"): self.build_subclass,
            ("torch", "Size"): _build_size,
        }
        return {**known, **{("torch._utils", name): _refuse(feature) for name, feature in _UNSUPPORTED.items()}}

    def build_v1(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """Build from (storage, offset, size, stride)."""
        if len(args) != 4 or not isinstance(args[0], Storage) or args[0].dtype is None:
            raise MalformedError("a tensor has no storage, or one without a type")
        return self.view_storage(machine, args[0].dtype, *args)

    def build_v2(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """Build from the same with requires_grad, hooks and, since torch 1.12, flags such as conjugation."""
        if not all(_is_blank(more) for more in args[6:]):
            raise UnsupportedError("a conjugate or negative view")
        return self.build_v1(machine, args[:4])

    def build_v3(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """Build from an untyped storage, with the dtype as seventh argument."""
        if len(args) < 7 or not isinstance(args[0], Storage) or not isinstance(args[6], torch.dtype):
            raise MalformedError("a tensor has no storage or no type")
        if not all(_is_blank(more) for more in args[7:]):
            raise UnsupportedError("a conjugate or negative view")
        return self.view_storage(machine, args[6], *args[:4])

    def build_parameter(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """Return the tensor of a parameter, from (data, requires_grad, hooks[, attributes])."""
        if not args or not isinstance(args[0], torch.Tensor):
            raise MalformedError("a parameter has no tensor")
        return args[0]

    def build_subclass(self, machine: Machine, args: tuple[Any, ...]) -> torch.Tensor:
        """Build a tensor subclass, or a tensor with attributes, as a plain tensor.

        The arguments are (function, class, arguments, attributes).
        """
        plain = {"_rebuild_tensor": self.build_v1, "_rebuild_tensor_v2": self.build_v2}
        plain["_rebuild_tensor_v3"] = self.build_v3
        function = args[0] if args else None
        if len(args) != 4 or not isinstance(function, Named) or not isinstance(args[2], tuple):
            raise MalformedError("a tensor of a subclass has no function or no arguments")
        if function.module != "torch._utils" or function.name not in plain:
            raise UnsupportedError(f"a tensor of a subclass that {function} rebuilds")
        return plain[function.name](machine, args[2])

    def view_storage(
        self, machine: Machine, dtype: torch.dtype, storage: Storage, offset: Any, size: Any, stride: Any
    ) -> torch.Tensor:
        """Return a view of a storage, after checking that its geometry lies inside.

        Raises:
            MalformedError: if it does not.
        """
        machine.budget.spend(TENSOR)
        for numbers in (size, stride):
            if not _are_counts(numbers):
                raise MalformedError("the size or stride of a tensor is no short list of whole numbers")
        if type(offset) is not int or offset < 0 or len(size) != len(stride):
            raise MalformedError("a tensor has a wrong offset or number of axes")
        if 0 in size:
            return self.make_empty(size, dtype)
        flat = storage.flat(dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= len(flat):
            raise MalformedError(f"a tensor reads value {last:,} of a storage that has {len(flat):,}")
        if math.prod(size) * dtype.itemsize > self.limit:
            raise MalformedError(f"a tensor of size {list(size)} claims more bytes than the file holds")
        return flat.as_strided(size, stride, offset)

    def make_empty(self, size: Any, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor with a dimension of size 0, whose other dimensions are still bounded."""
        if math.prod(n for n in size if n) > self.limit:
            raise MalformedError(f"a tensor of size {list(size)} claims more bytes than the file holds")
        return torch.empty(size, dtype=dtype, device="cpu")


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


def _are_counts(numbers: Any) -> bool:
    if not isinstance(numbers, (tuple, list)) or len(numbers) > MAX_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < 2**60 for n in numbers)


# Functions of torch._utils that rebuild what is not supported, to its description.
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


def _refuse(feature: str) -> Builder:
    def builder(machine: Machine, args: tuple[Any, ...]) -> Any:
        raise UnsupportedError(feature)

    return builder


def _build_size(machine: Machine, args: tuple[Any, ...]) -> torch.Size:
    numbers: Any = args[0] if len(args) == 1 else None
    if not _are_counts(numbers):
        raise MalformedError("a torch.Size is no short list of whole numbers")
    return torch.Size(numbers)


# -- numpy


class NumpyType(Pending):
    """A numpy dtype by its code, such as ``f8``; its byte order is part of the state."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def build(self, state: Any) -> None:
        """Take the byte order from the state."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise MalformedError("the state of a numpy type is not understood")
        self.order = order

    def read(self, data: bytes | bytearray, shape: tuple[int, ...], fortran: bool = False) -> Any:
        """Return the values as a numpy array.

        Raises:
            MalformedError: if the number of bytes does not fit the shape.
        """
        import numpy as np

        dtype = np.dtype(self.order + self.code)
        if dtype.itemsize * math.prod(shape) != len(data):
            raise MalformedError(f"a numpy array of {math.prod(shape):,} values has {len(data):,} bytes")
        try:
            return np.ndarray(shape, dtype, data, order="F" if fortran else "C")
        except ValueError:  # an empty array with huge other dimensions
            raise MalformedError("a numpy array has an impossible shape") from None


class NumpyArray(Pending):
    """A numpy array: `value` is the array, None until the state is set."""

    def __init__(self) -> None:
        self.value: Any = None

    def build(self, state: Any) -> None:
        """Build the array from the state: (version, shape, dtype, is Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise MalformedError("the state of a numpy array is not understood")
        _, shape, kind, fortran, data = state
        if not isinstance(shape, tuple) or not _are_counts(shape):
            raise MalformedError("a numpy array has no shape")
        if not isinstance(kind, NumpyType) or not isinstance(data, (bytes, bytearray)):
            raise UnsupportedError("a numpy array of objects")
        self.value = kind.read(data, shape, fortran is True)


def _build_numpy_type(machine: Machine, args: tuple[Any, ...]) -> NumpyType:
    # Object arrays would hold arbitrary pickled objects; numbers and fixed-width strings are safe.
    code = args[0] if args else None
    if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,5}", code):
        raise UnsupportedError("a numpy type other than numbers and texts")
    return NumpyType(code)


def _build_numpy_scalar(machine: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) != 2 or not isinstance(args[0], NumpyType) or not isinstance(args[1], bytes):
        raise MalformedError("a numpy scalar is not understood")
    machine.budget.spend(len(args[1]))
    return args[0].read(args[1], ()).item()


NUMPY: dict[tuple[str, str], Builder] = {("numpy", "dtype"): _build_numpy_type}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    NUMPY[_module, "scalar"] = _build_numpy_scalar
    NUMPY[_module, "_reconstruct"] = lambda machine, args: NumpyArray()
