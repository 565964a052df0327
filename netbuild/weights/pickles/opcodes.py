"""What each pickle opcode does to the machine's stack."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from netbuild.weights.pickles.machine import CONTAINER, ITEM, MAX_BITS, OBJECT, PAIR, Handler, Machine
from netbuild.weights.pickles.stubs import MalformedError


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
