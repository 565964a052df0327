"""A pickle machine that decodes a pickle as data: it never imports or calls anything that the file names.

Whatever a class or function would have returned becomes an inert `Stub`. The opcodes are those documented in Python's
``pickletools``, which also splits the stream into them. Python's ``pickle`` is not used, because it calls the functions
that a file names and allocates whatever sizes a file declares.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pickletools import genops
from typing import Any

from netbuild.errors import NetbuildError
from netbuild.weights.pickles.names import RENAMED, may_be_called, may_be_named
from netbuild.weights.pickles.stubs import Budget, MalformedError, Named, Pending, Stub, UnsupportedError

MAX_BITS = 4096  # of an int; Python refuses to print much longer ones
MAX_NAME = 1000  # characters of a module and class
MAX_KEY_ITEMS = 64  # items of a tuple used as a dict key, nested ones included: hashing recurses through them
MAX_TUPLE_KEYS = 10_000  # hashes of tuples, unlike those of str, are not salted: a file can make them collide
# Ints at least this large hash like small ones, so that they too could be made to collide.
MODULUS = sys.hash_info.modulus

# Estimated bytes of memory: of carrying out an opcode, of an empty container, a dict item, a list item, an object.
STEP, CONTAINER, PAIR, ITEM, OBJECT = 32, 80, 104, 16, 320


Builder = Callable[["Machine", tuple[Any, ...]], Any]
Handler = Callable[["Machine", Any], None]


class Machine:
    """Decodes the pickles of one file; several may follow each other in the stream.

    Args:
        file: the file's name, for errors.
        stream: the bytes.
        part: which part of the file the bytes are, such as an entry of the archive; for errors.
        builders: ``(module, name)`` of an allowed callable to our function that builds its result from the arguments.
        constants: ``(module, name)`` to the value of a name that is no callable.
        persistent: returns the value for a persistent id.
        budget: the memory that may still be allocated; shared with the builders.
        handlers: opcode name to the function that carries it out.
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
        """Decode the next pickle in the stream and return its value.

        Raises:
            NetbuildError: if the stream is damaged, too large, or calls something that no checkpoint needs.
        """
        self.stack: list[Any] = []
        self.outer_stacks: list[list[Any]] = []  # the stacks that were set aside at each open mark
        self.memo: dict[int, Any] = {}
        self.result: Any = None
        position: int | None = self.stream.tell()
        try:
            for opcode, argument, position in genops(self.stream):  # noqa: B007 (used in the except clauses)
                self.budget.spend(STEP)
                self.handlers[opcode.name](self, argument)
        except MalformedError as error:
            raise self.error(position, error) from error
        except (ValueError, OverflowError, EOFError, Warning) as error:
            # Raised by genops, with messages that do not help a user.
            raise self.error(self.stream.tell(), MalformedError("it is cut short or no pickle")) from error
        return self.result

    def error(self, position: int | None, cause: MalformedError) -> NetbuildError:
        """Make the error for a user, with the byte of the pickle at which it occurred."""
        place = f"{self.part}, byte {position}"
        if isinstance(cause, UnsupportedError):
            return NetbuildError(
                f"{self.file}: {cause} is not supported ({place})", hint="save the plain state dict of the model"
            )
        return NetbuildError(f"{self.file}: damaged or hostile: {cause} ({place})")

    def refuse(self, name: object, action: str = "run") -> NetbuildError:
        """Make the error for a file that tries to run or change something."""
        return NetbuildError(
            f"{self.file}: the file tries to {action} {name}: refused",
            hint="a file of weights does not need this; loading it without such a check could do harm",
        )

    # -- the stack

    def push(self, value: Any) -> None:
        """Push a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the topmost value off the stack and return it."""
        if not self.stack:
            raise MalformedError("it pops a value from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the topmost value and leave it on the stack."""
        if not self.stack:
            raise MalformedError("it reads a value from an empty stack")
        return self.stack[-1]

    def pop_since_mark(self) -> list[Any]:
        """Take the last mark and the values above it off the stack and return the values."""
        if not self.outer_stacks:
            raise MalformedError("it ends a sequence that it has not begun")
        values, self.stack = self.stack, self.outer_stacks.pop()
        return values

    # -- objects

    def resolve_name(self, module: str, name: str) -> Any:
        """Return what a name in the file stands for: a known constant, or an inert `Named`.

        Raises:
            NetbuildError: if the name may not be mentioned.
        """
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
        """Return the result of a call: built by our own builder if there is one, otherwise an inert `Stub`.

        Raises:
            NetbuildError: if the name may not be called.
        """
        if not isinstance(args, tuple) or not isinstance(kwargs, (dict, type(None))):
            raise MalformedError("it calls something with arguments that are no tuple")
        self.budget.spend(OBJECT)
        if isinstance(target, Stub):  # the result of calling an unknown object is unknown
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
        """Set an object's state, as ``__setstate__`` does; for a dict it is dropped (attributes of an OrderedDict)."""
        if isinstance(target, Stub):
            target.state = state
        elif isinstance(target, Pending):
            target.build(state)
        elif isinstance(target, Named):
            raise self.refuse(target, "change")
        elif not isinstance(target, dict):
            raise MalformedError(f"it sets attributes of a value of type {type(target).__name__}")

    def extend(self, target: Any, values: Iterable[Any]) -> None:
        """Append values to a list or to a stub of a list subclass."""
        elements = target.elements if isinstance(target, Stub) else target
        if type(elements) is not list:
            raise MalformedError(f"it appends to a value of type {type(target).__name__}")
        elements.extend(values)

    def update(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Set items of a dict or of a stub of a dict subclass."""
        items = target.items if isinstance(target, Stub) else target
        if type(items) is not dict:
            raise MalformedError(f"it sets items of a value of type {type(target).__name__}")
        for key, value in pairs:
            self.budget.spend(PAIR)
            items[self.check_key(key)] = value

    def add(self, target: Any, values: Iterable[Any]) -> None:
        """Add values to a set or to a stub of a set subclass."""
        if isinstance(target, Stub):
            target.elements.extend(values)
            return
        if type(target) is not set:
            raise MalformedError(f"it adds to a value of type {type(target).__name__}")
        for value in values:
            self.budget.spend(PAIR)
            target.add(self.check_key(value))

    def check_key(self, value: Any) -> Any:
        """Return a value that is to be a dict key or set item, after checking that hashing it is cheap.

        Deep tuples would recurse, and many keys of equal hash would make a dict slow.

        Raises:
            MalformedError: if it is not.
        """
        if isinstance(value, tuple):
            self.tuple_keys += 1
            if self.tuple_keys > MAX_TUPLE_KEYS:
                raise MalformedError("it has too many tuples as keys")
        rest, seen = [value], 0
        while rest:
            item, seen = rest.pop(), seen + 1
            if isinstance(item, tuple) and len(item) <= MAX_KEY_ITEMS and seen <= MAX_KEY_ITEMS:
                rest.extend(item)
            elif not _hashable(item):
                raise MalformedError(f"a key may not be a value of type {type(item).__name__}")
        return value


def _hashable(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < MODULUS
    by_identity: Any = type(value).__hash__  # of stubs and torch's dtypes, for example
    return value is None or isinstance(value, (str, bytes, float, bool)) or by_identity is object.__hash__
