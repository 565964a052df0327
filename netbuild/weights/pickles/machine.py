"""A pickle read as data: each opcode is carried out here, and none calls or imports anything that the file names.

What a class or function would have made stays an inert `Stub`. The opcodes are those of Python's own documentation,
the module ``pickletools``, which also cuts the stream into them; Python's ``pickle`` itself is not used, since it calls
what it finds, and allocates what a file declares.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pickletools import genops
from typing import Any

from netbuild.errors import NetbuildError
from netbuild.weights.pickles.names import RENAMED, may_be_called, may_be_named
from netbuild.weights.pickles.stubs import Budget, MalformedError, Named, Pending, Stub, UnsupportedError

MAX_BITS = 4096  # of a whole number; printing a longer one is an error in Python
MAX_NAME = 1000  # characters of a module and class
MAX_KEY = 64  # items of a tuple that is a key, those inside it included
MAX_TUPLE_KEYS = 10_000  # unlike texts, their hashes can be made to collide
MODULUS = sys.hash_info.modulus

# About the bytes of memory that things take.
STEP, CONTAINER, PAIR, ITEM, OBJECT = 32, 80, 104, 16, 320


Builder = Callable[["Machine", tuple[Any, ...]], Any]
Handler = Callable[["Machine", Any], None]


class Machine:
    """Runs pickles of one file, one after another where they follow each other in the stream.

    Args:
        file: the file's name, for errors.
        stream: the bytes.
        part: what the bytes are of, for errors: an entry of the archive.
        builders: ``(module, name)`` to what makes a value of the arguments, for the names that are understood.
        constants: ``(module, name)`` to a value.
        persistent: from a persistent id to the value it stands for.
        budget: shared with the builders.
    """

    def __init__(
        self,
        file: str,
        stream: BytesIO,
        part: str,
        builders: Mapping[tuple[str, str], Builder],
        constants: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any],
        budget: Budget,
    ) -> None:
        self.file, self.stream, self.part = file, stream, part
        self.builders, self.constants, self.persistent = {**BUILDERS, **builders}, constants, persistent
        self.budget = budget
        self.tuple_keys = 0

    def run(self) -> Any:
        """The value of the next pickle in the stream.

        Raises:
            NetbuildError: where the stream is damaged, or asks for what no checkpoint needs.
        """
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self.result: Any = None
        position: int | None = self.stream.tell()
        try:
            for opcode, argument, position in genops(self.stream):  # noqa: B007 (read where it fails)
                self.budget.spend(STEP)
                HANDLERS[opcode.name](self, argument)
        except MalformedError as error:
            raise self.error(position, error) from error
        except (ValueError, OverflowError, EOFError, Warning) as error:  # from genops, not worth a user's reading
            raise self.error(self.stream.tell(), MalformedError("it is cut short or no pickle")) from error
        return self.result

    def error(self, position: int | None, what: MalformedError) -> NetbuildError:
        """An error at a byte of the pickle."""
        place = f"{self.part}, byte {position}"
        if isinstance(what, UnsupportedError):
            return NetbuildError(
                f"{self.file}: {what} is not supported ({place})", hint="save the plain state dict of the model"
            )
        return NetbuildError(f"{self.file}: damaged or hostile: {what} ({place})")

    def refuse(self, what: object, deed: str = "run") -> NetbuildError:
        """An error for a file that wants more than to be read."""
        return NetbuildError(
            f"{self.file}: the file tries to {deed} {what}: refused",
            hint="a file of weights has no need of it; it may do harm where it is loaded without such a check",
        )

    # -- the stack

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """The topmost value, taken off the stack."""
        if not self.stack:
            raise MalformedError("it takes a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        """The topmost value, left there."""
        if not self.stack:
            raise MalformedError("it reads a value of an empty stack")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        """The values above the last mark, taken off with it."""
        if not self.below:
            raise MalformedError("it ends a list that it has not begun")
        values, self.stack = self.stack, self.below.pop()
        return values

    # -- objects

    def named(self, module: str, name: str) -> Any:
        """A name as the file's mention of it."""
        if len(module) + len(name) > MAX_NAME:
            raise MalformedError("it names a class by more than a name")
        module = RENAMED.get(module, module)
        if (module, name) in self.constants:
            return self.constants[module, name]
        if not may_be_named(module, name):
            raise self.refuse(f"{module}.{name}")
        self.budget.spend(OBJECT)
        return Named(module, name)

    def call(self, target: Any, args: Any, kwargs: Any = None) -> Any:
        """What a call stands for: a value that is understood, else a stub of it."""
        if not isinstance(args, tuple) or not isinstance(kwargs, (dict, type(None))):
            raise MalformedError("it calls something whose arguments are no tuple")
        self.budget.spend(OBJECT)
        if isinstance(target, Stub):  # what an unknown object gives is unknown
            return Stub(f"{target.kind.removesuffix('()')}()", args, kwargs or {})
        if not isinstance(target, Named):
            raise MalformedError(f"it calls a value of type {type(target).__name__}")
        builder = self.builders.get((target.module, target.name))
        if builder and not kwargs:
            return builder(self, args)
        if not may_be_called(target.module, target.name):
            raise self.refuse(target)
        return Stub(str(target), args, kwargs or {})

    def build(self, target: Any, state: Any) -> None:
        """Give an object its state. A dict takes none: attributes of an ordered dict are dropped."""
        if isinstance(target, Stub):
            target.state = state
        elif isinstance(target, Pending):
            target.build(state)
        elif isinstance(target, Named):
            raise self.refuse(target, "change")
        elif not isinstance(target, dict):
            raise MalformedError(f"it gives attributes to a value of type {type(target).__name__}")

    def extend(self, target: Any, values: Iterable[Any]) -> None:
        """Append to a list."""
        elements = target.elements if isinstance(target, Stub) else target
        if type(elements) is not list:
            raise MalformedError(f"it appends to a value of type {type(target).__name__}")
        elements.extend(values)

    def update(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Set items of a dict."""
        items = target.items if isinstance(target, Stub) else target
        if type(items) is not dict:
            raise MalformedError(f"it sets items of a value of type {type(target).__name__}")
        for key, value in pairs:
            self.budget.spend(PAIR)
            items[self.key(key)] = value

    def add(self, target: Any, values: Iterable[Any]) -> None:
        """Add to a set."""
        if isinstance(target, Stub):
            target.elements.extend(values)
            return
        if type(target) is not set:
            raise MalformedError(f"it adds to a value of type {type(target).__name__}")
        for value in values:
            self.budget.spend(PAIR)
            target.add(self.key(value))

    def key(self, value: Any) -> Any:
        """A value that may be hashed: quickly, without deep recursion, and to few equal hashes."""
        if isinstance(value, tuple):
            self.tuple_keys += 1
            if self.tuple_keys > MAX_TUPLE_KEYS:
                raise MalformedError("it has too many tuples as keys")
        rest, seen = [value], 0
        while rest:
            item, seen = rest.pop(), seen + 1
            if isinstance(item, tuple) and len(item) <= MAX_KEY and seen <= MAX_KEY:
                rest.extend(item)
            elif not _hashable(item):
                raise MalformedError(f"a key may not be a value of type {type(item).__name__}")
        return value


def _hashable(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < MODULUS
    by_identity: Any = type(value).__hash__  # as of stubs and of torch's types
    return value is None or isinstance(value, (str, bytes, float, bool)) or by_identity is object.__hash__


# -- opcodes


def _literal(machine: Machine, value: Any) -> None:
    if type(value) is int and value.bit_length() > MAX_BITS:
        raise MalformedError(f"it has a whole number of {value.bit_length()} bits")
    machine.budget.spend(sys.getsizeof(value))
    machine.push(value)


def _constant(value: Any) -> Handler:
    return lambda machine, _: machine.push(value)


def _container(make: Callable[[], Any], size: int) -> Handler:
    def handler(machine: Machine, _: Any) -> None:
        machine.budget.spend(size)
        machine.push(make())

    return handler


def _mark(machine: Machine, _: Any) -> None:
    machine.budget.spend(CONTAINER)
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine, _: Any) -> None:
    if machine.stack or not machine.below:
        machine.pop()
    else:
        machine.since_mark()


def _pop_mark(machine: Machine, _: Any) -> None:
    machine.since_mark()


def _put(machine: Machine, index: int) -> None:
    if not 0 <= index < 1 << 32:
        raise MalformedError("it remembers a value under a number that is none")
    machine.budget.spend(PAIR)
    machine.memo[index] = machine.top()


def _get(machine: Machine, index: int) -> None:
    if index not in machine.memo:
        raise MalformedError("it recalls a value that it has not stored")
    machine.push(machine.memo[index])


def _tuple(size: int) -> Handler:
    def handler(machine: Machine, _: Any) -> None:
        machine.budget.spend(CONTAINER)
        values = [machine.pop() for _ in range(size)]
        machine.push(tuple(reversed(values)))

    return handler


def _tuple_since_mark(machine: Machine, _: Any) -> None:
    machine.budget.spend(CONTAINER)
    machine.push(tuple(machine.since_mark()))


def _list_since_mark(machine: Machine, _: Any) -> None:
    machine.budget.spend(CONTAINER)
    machine.push(machine.since_mark())


def _dict_since_mark(machine: Machine, _: Any) -> None:
    values: dict[Any, Any] = {}
    machine.budget.spend(CONTAINER)
    machine.update(values, _pairs(machine.since_mark()))
    machine.push(values)


def _frozenset_since_mark(machine: Machine, _: Any) -> None:
    values: set[Any] = set()
    machine.budget.spend(OBJECT)
    machine.add(values, machine.since_mark())
    machine.push(frozenset(values))


def _append(machine: Machine, _: Any) -> None:
    value = machine.pop()
    machine.budget.spend(ITEM)
    machine.extend(machine.top(), (value,))


def _appends(machine: Machine, _: Any) -> None:
    values = machine.since_mark()
    machine.budget.spend(ITEM * len(values))
    machine.extend(machine.top(), values)


def _setitem(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.update(machine.top(), ((key, value),))


def _setitems(machine: Machine, _: Any) -> None:
    values = machine.since_mark()
    machine.update(machine.top(), _pairs(values))


def _additems(machine: Machine, _: Any) -> None:
    values = machine.since_mark()
    machine.budget.spend(ITEM * len(values))
    machine.add(machine.top(), values)


def _pairs(values: list[Any]) -> Iterable[tuple[Any, Any]]:
    if len(values) % 2:
        raise MalformedError("it has a key without a value")
    return zip(values[::2], values[1::2], strict=True)


def _global(machine: Machine, names: str) -> None:
    module, _, name = names.partition(" ")
    machine.push(machine.named(module, name))


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise MalformedError("it names a class by something that is no text")
    machine.push(machine.named(module, name))


def _reduce(machine: Machine, _: Any) -> None:
    args, target = machine.pop(), machine.pop()
    machine.push(machine.call(target, args))


def _newobj_ex(machine: Machine, _: Any) -> None:
    kwargs, args, target = machine.pop(), machine.pop(), machine.pop()
    machine.push(machine.call(target, args, kwargs))


def _obj(machine: Machine, _: Any) -> None:
    values = machine.since_mark()
    if not values:
        raise MalformedError("it makes an object of no class")
    machine.push(machine.call(values[0], tuple(values[1:])))


def _inst(machine: Machine, names: str) -> None:
    args = tuple(machine.since_mark())
    module, _, name = names.partition(" ")
    machine.push(machine.call(machine.named(module, name), args))


def _build(machine: Machine, _: Any) -> None:
    state = machine.pop()
    machine.build(machine.top(), state)


def _persistent(machine: Machine, _: Any) -> None:
    machine.push(machine.persistent(machine.pop()))


def _refused(what: str) -> Handler:
    def handler(machine: Machine, _: Any) -> None:
        raise MalformedError(f"it uses {what}, which no file of torch.save does")

    return handler


def _stop(machine: Machine, _: Any) -> None:
    machine.result = machine.pop()


def _nothing(machine: Machine, _: Any) -> None:
    pass


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    "STOP": _stop,
    **dict.fromkeys("INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT".split(), _literal),
    **dict.fromkeys("STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split(), _literal),
    **dict.fromkeys("UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split(), _literal),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": _container(list, CONTAINER),
    "EMPTY_DICT": _container(dict, CONTAINER),
    "EMPTY_SET": _container(set, OBJECT),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.push(machine.top()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": _tuple_since_mark,
    "LIST": _list_since_mark,
    "DICT": _dict_since_mark,
    "FROZENSET": _frozenset_since_mark,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _setitem,
    "SETITEMS": _setitems,
    "ADDITEMS": _additems,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _reduce),
    "NEWOBJ_EX": _newobj_ex,
    "OBJ": _obj,
    "INST": _inst,
    "BUILD": _build,
    "BINPERSID": _persistent,
    "PERSID": _refused("a persistent id in text"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _refused("the extension registry")),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _refused("a buffer outside the file")),
}


# -- what the standard library's names make


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
