"""Handlers of the pickle opcodes, by name; each changes the machine's stack as ``pickletools`` documents it."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from netbuild.weights.pickles.machine import CONTAINER, ITEM, MAX_BITS, OBJECT, PAIR, Handler, Machine
from netbuild.weights.pickles.stubs import MalformedError


def _push_literal(machine: Machine, value: Any) -> None:
    if type(value) is int and value.bit_length() > MAX_BITS:
        raise MalformedError(f"it has an int of {value.bit_length()} bits")
    machine.budget.spend(sys.getsizeof(value))
    machine.push(value)


def _push_constant(value: Any) -> Handler:
    return lambda machine, _: machine.push(value)


def _push_empty(make: Callable[[], Any], size: int) -> Handler:
    def handler(machine: Machine, _: Any) -> None:
        machine.budget.spend(size)
        machine.push(make())

    return handler


def _mark(machine: Machine, _: Any) -> None:
    machine.budget.spend(CONTAINER)
    machine.outer_stacks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine, _: Any) -> None:
    if machine.stack or not machine.outer_stacks:
        machine.pop()
    else:
        machine.pop_since_mark()


def _pop_mark(machine: Machine, _: Any) -> None:
    machine.pop_since_mark()


def _put(machine: Machine, index: int) -> None:
    if not 0 <= index < 1 << 32:
        raise MalformedError("it stores a value in the memo under an index that is out of range")
    machine.budget.spend(PAIR)
    machine.memo[index] = machine.top()


def _get(machine: Machine, index: int) -> None:
    if index not in machine.memo:
        raise MalformedError("it reads a memo entry that it has not stored")
    machine.push(machine.memo[index])


def _make_tuple(size: int) -> Handler:
    def handler(machine: Machine, _: Any) -> None:
        machine.budget.spend(CONTAINER)
        values = [machine.pop() for _ in range(size)]
        machine.push(tuple(reversed(values)))

    return handler


def _make_tuple_since_mark(machine: Machine, _: Any) -> None:
    machine.budget.spend(CONTAINER)
    machine.push(tuple(machine.pop_since_mark()))


def _make_list_since_mark(machine: Machine, _: Any) -> None:
    machine.budget.spend(CONTAINER)
    machine.push(machine.pop_since_mark())


def _make_dict_since_mark(machine: Machine, _: Any) -> None:
    values: dict[Any, Any] = {}
    machine.budget.spend(CONTAINER)
    machine.update(values, _pair_items(machine.pop_since_mark()))
    machine.push(values)


def _make_frozenset_since_mark(machine: Machine, _: Any) -> None:
    values: set[Any] = set()
    machine.budget.spend(OBJECT)
    machine.add(values, machine.pop_since_mark())
    machine.push(frozenset(values))


def _append(machine: Machine, _: Any) -> None:
    value = machine.pop()
    machine.budget.spend(ITEM)
    machine.extend(machine.top(), (value,))


def _appends(machine: Machine, _: Any) -> None:
    values = machine.pop_since_mark()
    machine.budget.spend(ITEM * len(values))
    machine.extend(machine.top(), values)


def _setitem(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.update(machine.top(), ((key, value),))


def _setitems(machine: Machine, _: Any) -> None:
    values = machine.pop_since_mark()
    machine.update(machine.top(), _pair_items(values))


def _additems(machine: Machine, _: Any) -> None:
    values = machine.pop_since_mark()
    machine.budget.spend(ITEM * len(values))
    machine.add(machine.top(), values)


def _pair_items(values: list[Any]) -> Iterable[tuple[Any, Any]]:
    if len(values) % 2:
        raise MalformedError("it has a key without a value")
    return zip(values[::2], values[1::2], strict=True)


def _global(machine: Machine, names: str) -> None:
    module, _, name = names.partition(" ")
    machine.push(machine.resolve_name(module, name))


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise MalformedError("it names a class by something that is no text")
    machine.push(machine.resolve_name(module, name))


def _reduce(machine: Machine, _: Any) -> None:
    args, target = machine.pop(), machine.pop()
    machine.push(machine.call(target, args))


def _newobj_ex(machine: Machine, _: Any) -> None:
    kwargs, args, target = machine.pop(), machine.pop(), machine.pop()
    machine.push(machine.call(target, args, kwargs))


def _obj(machine: Machine, _: Any) -> None:
    values = machine.pop_since_mark()
    if not values:
        raise MalformedError("it creates an object of something that is no class")
    machine.push(machine.call(values[0], tuple(values[1:])))


def _inst(machine: Machine, names: str) -> None:
    args = tuple(machine.pop_since_mark())
    module, _, name = names.partition(" ")
    machine.push(machine.call(machine.resolve_name(module, name), args))


def _build(machine: Machine, _: Any) -> None:
    state = machine.pop()
    machine.build(machine.top(), state)


def _load_persistent(machine: Machine, _: Any) -> None:
    machine.push(machine.persistent(machine.pop()))


def _refuse(feature: str) -> Handler:
    def handler(machine: Machine, _: Any) -> None:
        raise MalformedError(f"it uses {feature}, which files of torch.save do not")

    return handler


def _stop(machine: Machine, _: Any) -> None:
    machine.result = machine.pop()


def _ignore(machine: Machine, _: Any) -> None:
    pass


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(("PROTO", "FRAME"), _ignore),
    "STOP": _stop,
    **dict.fromkeys("INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT".split(), _push_literal),
    **dict.fromkeys(
        "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split(), _push_literal
    ),
    **dict.fromkeys("UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split(), _push_literal),
    "NONE": _push_constant(None),
    "NEWTRUE": _push_constant(True),
    "NEWFALSE": _push_constant(False),
    "EMPTY_TUPLE": _push_constant(()),
    "EMPTY_LIST": _push_empty(list, CONTAINER),
    "EMPTY_DICT": _push_empty(dict, CONTAINER),
    "EMPTY_SET": _push_empty(set, OBJECT),
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda machine, _: machine.push(machine.top()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "TUPLE1": _make_tuple(1),
    "TUPLE2": _make_tuple(2),
    "TUPLE3": _make_tuple(3),
    "TUPLE": _make_tuple_since_mark,
    "LIST": _make_list_since_mark,
    "DICT": _make_dict_since_mark,
    "FROZENSET": _make_frozenset_since_mark,
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
    "BINPERSID": _load_persistent,
    "PERSID": _refuse("a persistent id in text"),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _refuse("the extension registry")),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _refuse("a buffer outside the file")),
}
