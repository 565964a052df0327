"""The few types of Python and numpy that a pickle may build, each by a function of ours."""

from typing import Any

from netbuild.weights.pickles.machine import ITEM, Builder, Machine
from netbuild.weights.pickles.stubs import MalformedError, Named, Stub


def _mapping(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    """An ordered dict, a dict or a counter: empty, of a dict, or of pairs as Python 2 gives them."""
    if len(args) > 1 or not isinstance(args[0] if args else {}, (dict, list)):
        raise MalformedError("it makes a dict of something else")
    content = args[0] if args else {}
    pairs = content.items() if isinstance(content, dict) else content
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise MalformedError("it makes a dict of something else than pairs")
    values: dict[Any, Any] = {}
    machine.update(values, pairs)
    return values


def _defaulting(machine: Machine, args: tuple[Any, ...]) -> dict[Any, Any]:
    return {}  # its default is a call


def _sequence(args: tuple[Any, ...]) -> Any:
    if len(args) > 1 or not isinstance(args[0] if args else (), (list, tuple, set, frozenset)):
        raise MalformedError("it makes a collection of something else")
    return args[0] if args else ()


def _set(machine: Machine, args: tuple[Any, ...]) -> set[Any]:
    values: set[Any] = set()
    machine.add(values, _sequence(args))
    return values


def _list(machine: Machine, args: tuple[Any, ...]) -> list[Any]:
    values = _sequence(args)
    machine.budget.spend(ITEM * len(values))
    return list(values)


def _bytes(machine: Machine, args: tuple[Any, ...]) -> bytes:
    """Bytes as protocol 2 has them: a text of Latin-1, or nothing."""
    text, *rest = args or ("",)
    plain = isinstance(text, (str, bytes, bytearray)) and all(isinstance(encoding, str) for encoding in rest)
    if not plain or rest not in ([], ["latin1"], ["latin-1"]):
        raise MalformedError("it makes bytes of something else than a text of Latin-1")
    machine.budget.spend(len(text))
    try:
        return text.encode("latin-1") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError:
        raise MalformedError("it makes bytes of a text with wider characters") from None


def _complex(machine: Machine, args: tuple[Any, ...]) -> complex:
    if len(args) != 2 or not all(type(part) is float for part in args):
        raise MalformedError("it makes a complex number of something else than two numbers")
    return complex(*args)


def _reconstructed(machine: Machine, args: tuple[Any, ...]) -> Stub:
    """An object of an early protocol: its class, the builtin base, and that base's value."""
    if len(args) != 3 or not isinstance(args[0], Named):
        raise MalformedError("it makes an object of no class")
    stub = Stub(str(args[0]))
    if isinstance(args[2], dict):
        stub.items = args[2]
    elif isinstance(args[2], list):
        stub.elements = args[2]
    return stub


def _new(machine: Machine, args: tuple[Any, ...]) -> Any:
    if not args or not isinstance(args[0], Named) or args[0].module == "copyreg":  # nor by itself, over and over
        raise MalformedError("it makes an object of no class")
    return machine.call(args[0], args[1:])


BUILDERS: dict[tuple[str, str], Builder] = {
    ("collections", "OrderedDict"): _mapping,
    ("collections", "Counter"): _mapping,
    ("collections", "defaultdict"): _defaulting,
    ("builtins", "dict"): _mapping,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): lambda machine, args: frozenset(_set(machine, args)),
    ("builtins", "list"): _list,
    ("builtins", "tuple"): lambda machine, args: tuple(_list(machine, args)),
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): lambda machine, args: bytearray(_bytes(machine, args)),
    ("builtins", "complex"): _complex,
    ("_codecs", "encode"): _bytes,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("copyreg", "__newobj__"): _new,
}
