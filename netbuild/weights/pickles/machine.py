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
        handlers: opcode name to what carries it out.
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
        handlers: Mapping[str, Handler],
    ) -> None:
        self.file, self.stream, self.part = file, stream, part
        self.builders, self.constants, self.persistent = builders, constants, persistent
        self.budget, self.handlers = budget, handlers
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
                self.handlers[opcode.name](self, argument)
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
