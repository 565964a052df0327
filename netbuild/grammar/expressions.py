"""Safe arithmetic over names, and the words and calls that an argument may be. Nothing is evaluated by Python."""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 200  # characters of an expression
MAX_MAGNITUDE = 2**53  # beyond this a width or a count is a mistake, and a float is no longer exact

WORDS = {"None": None, "null": None, "~": None, "True": True, "False": False, "true": True, "false": False}

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "int": int, "round": round, "abs": abs}
_ARITHMETIC = re.compile(r"[-+*/%()]|\*\*")
_CALL = re.compile(r"[A-Za-z_][\w.]*\(.*\)", re.DOTALL)


class ExpressionError(ValueError):
    """An expression that is not allowed, or does not compute."""


@dataclass(frozen=True)
class Call:
    """A module written in an argument, such as ``nn.LeakyReLU(0.1)``: a name and literal arguments."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        parts = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs]
        return f"{self.name}({', '.join(parts)})"


def evaluate(text: str, names: Mapping[str, Any]) -> int | float:
    """Compute an arithmetic expression over numbers and names.

    Operators + - * / // % ** and the functions min max int round abs; an exact division of integers stays an integer.

    Raises:
        ExpressionError: for anything else, an unknown name, a division by zero or a value beyond 2**53.
    """
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"the expression is longer than {MAX_TEXT} characters")
    try:
        tree = _parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ExpressionError("it is no arithmetic expression") from None
    return _value(tree.body, names)


def _parse(text: str) -> ast.Expression:
    with warnings.catch_warnings():
        # Python warns of texts such as "1if x" where a user cannot act on it: they are no arithmetic.
        warnings.simplefilter("error")
        return ast.parse(text.strip(), mode="eval")


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.Name):
        return _number_named(node.id, names)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand, names))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _binary(node.op, _value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _function(node.func.id, [_value(arg, names) for arg in node.args])
    raise ExpressionError("only numbers, names, + - * / // % ** and min max int round abs are allowed")


def _number_named(name: str, names: Mapping[str, Any]) -> int | float:
    if name not in names:
        raise ExpressionError(f"the name '{name}' is not known here")
    value = names[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExpressionError(f"'{name}' is {value!r}, not a number")
    return value


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Pow) and (abs(right) > 64 or abs(left) > 2**26):
        raise ExpressionError("the power is too large")
    try:
        value = _BINARY[type(op)](left, right)
    except (ZeroDivisionError, OverflowError, TypeError):
        raise ExpressionError(f"{left} and {right} cannot be computed so") from None
    if isinstance(op, ast.Div) and isinstance(left, int) and isinstance(right, int) and left % right == 0:
        value = left // right
    return _bounded(value)


def _function(name: str, values: list[Any]) -> Any:
    if name not in _FUNCTIONS:
        raise ExpressionError(f"the function '{name}' is not allowed; min max int round abs are")
    if name == "round" and any(abs(digits) > 64 for digits in values[1:]):
        raise ExpressionError("round takes at most 64 digits")
    try:
        return _bounded(_FUNCTIONS[name](*values))
    except (TypeError, ValueError, OverflowError):
        raise ExpressionError(f"{name} does not take {len(values)} such value(s)") from None


def _bounded(value: Any) -> Any:
    if isinstance(value, complex) or value != value or abs(value) > MAX_MAGNITUDE:
        raise ExpressionError(f"the value {value} is out of range")
    return value


def looks_arithmetic(text: str, names: Mapping[str, Any]) -> bool:
    """Whether a text computes with names of the file: it has an operator, and at least one name in it is known."""
    return bool(_ARITHMETIC.search(text)) and any(word in names for word in re.findall(r"[A-Za-z_]\w*", text))


def parse_call(text: str) -> Call | None:
    """``nn.ReLU(inplace=True)`` as a `Call`; None when the text is no call of a dotted name with literal arguments."""
    if len(text) > MAX_TEXT or not _CALL.fullmatch(text.strip()):
        return None
    try:
        node = _parse(text).body
        if not isinstance(node, ast.Call) or len({k.arg for k in node.keywords} - {None}) < len(node.keywords):
            return None
        args = tuple(ast.literal_eval(arg) for arg in node.args)
        kwargs = tuple((k.arg or "", ast.literal_eval(k.value)) for k in node.keywords)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    name = ast.unparse(node.func)
    return Call(name, args, kwargs) if re.fullmatch(r"[A-Za-z_][\w.]*", name) else None
