"""Builders for the few builtin Python types that a pickle may construct; each checks its arguments."""

from typing import Any

from netbuild.weights.pickles.machine import ITEM, Builder, Machine
from netbuild.weights.pickles.stubs import MalformedError, Named, Stub


def _make_dict(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    """Build a dict, OrderedDict or Counter as a plain dict: empty, from a dict, or from pairs (Python 2)."""
    if len(args) > 1 or not isinstance(args[0] if args else {}, (dict, list)):
        raise MalformedError("it builds a dict from something that is no dict or list")
    content = args[0] if args else {}
    pairs = content.items() if isinstance(content, dict) else content
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise MalformedError("it builds a dict from a list of something other than pairs")
    values: dict[Any, Any] = {}
    machine.update(values, pairs)
    return values


def _make_default_dict(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    return {}  # the default factory is dropped: it is a callable


def _check_sequence(args: tuple[Any, ...]) -> Any:
    if len(args) > 1 or not isinstance(args[0] if args else (), (list, tuple, set, frozenset)):
        raise MalformedError("it builds a list, tuple or set from something that is no collection")
    return args[0] if args else ()


def _make_set(machine: Machine, args: tuple[Any, ...]) -> set[Any]:
    values: set[Any] = set()
    machine.add(values, _check_sequence(args))
    return values


def _make_list(machine: Machine, args: tuple[Any, ...]) -> list[Any]:
    values = _check_sequence(args)
    machine.budget.spend(ITEM * len(values))
    return list(values)


def _make_bytes(machine: Machine, args: tuple[Any, ...]) -> bytes:
    """Build bytes from nothing, or from a Latin-1 text, which is how pickle protocol 2 stores them."""
    text, *rest = args or ("",)
    plain = isinstance(text, (str, bytes, bytearray)) and all(isinstance(encoding, str) for encoding in rest)
    if not plain or rest not in ([], ["latin1"], ["latin-1"]):
        raise MalformedError("it builds bytes from something other than a Latin-1 text")
    machine.budget.spend(len(text))
    try:
        return text.encode("latin-1") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError:
        raise MalformedError("it builds bytes from a text with characters outside Latin-1") from None


def _make_complex(machine: Machine, args: tuple[Any, ...]) -> complex:
    if len(args) != 2 or not all(type(part) is float for part in args):
        raise MalformedError("it builds a complex number from something other than two floats")
    return complex(*args)


def _make_legacy_object(machine: Machine, args: tuple[Any, ...]) -> Stub:
    """Build an object as protocols 0 and 1 do, from its class, its builtin base class and the base's value."""
    if len(args) != 3 or not isinstance(args[0], Named):
        raise MalformedError("it creates an object of something that is no class")
    stub = Stub(str(args[0]))
    if isinstance(args[2], dict):
        stub.items = args[2]
    elif isinstance(args[2], list):
        stub.elements = args[2]
    return stub


def _make_object(machine: Machine, args: tuple[Any, ...]) -> Any:
    if not args or not isinstance(args[0], Named) or args[0].module == "copyreg":  # calling itself would recurse
        raise MalformedError("it creates an object of something that is no class")
    return machine.call(args[0], args[1:])


BUILDERS: dict[tuple[str, str], Builder] = {
    ("collections", "OrderedDict"): _make_dict,
    ("collections", "Counter"): _make_dict,
    ("collections", "defaultdict"): _make_default_dict,
    ("builtins", "dict"): _make_dict,
    ("builtins", "set"): _make_set,
    ("builtins", "frozenset"): lambda machine, args: frozenset(_make_set(machine, args)),
    ("builtins", "list"): _make_list,
    ("builtins", "tuple"): lambda machine, args: tuple(_make_list(machine, args)),
    ("builtins", "bytes"): _make_bytes,
    ("builtins", "bytearray"): lambda machine, args: bytearray(_make_bytes(machine, args)),
    ("builtins", "complex"): _make_complex,
    ("_codecs", "encode"): _make_bytes,
    ("copyreg", "_reconstructor"): _make_legacy_object,
    ("copyreg", "__newobj__"): _make_object,
}
