"""Evaluate arithmetic over names, and parse the words and calls that an argument may be.

Only listed syntax is evaluated, on Python's syntax tree; `eval` is never called.
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 200  # characters of an expression
MAX_MAGNITUDE = 2**53  # a larger width or count must be a mistake, and floats beyond it are not exact integers

WORDS = {"None": None, "null": None, "~": None, "True": True, "False": False, "true": True, "false": False}

_BINARY: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", operator.pow),
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "int": int, "round": round, "abs": abs}
_ARITHMETIC = re.compile(r"[-+*/%()]|\*\*")
_CALL = re.compile(r"[A-Za-z_][\w.]*\(.*\)", re.DOTALL)


class ExpressionError(ValueError):
    """An expression is not allowed or has no value."""


@dataclass(frozen=True)
class ExpressionOnly:
    """The value of a name that is known in arithmetic only: alone, such as ``depth``, the word is a text."""

    value: Any


@dataclass(frozen=True)
class Call:
    """A module call in an argument, such as ``nn.LeakyReLU(0.1)``: a name and literal arguments."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        parts = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs]
        return f"{self.name}({', '.join(parts)})"


def evaluate(text: str, names: Mapping[str, Any]) -> int | float:
    """Compute an arithmetic expression over numbers and names.

    Allowed are the operators + - * / // % ** and the functions min max int round abs. The quotient of two integers is
    an integer where the division is exact.

    Raises:
        ExpressionError: for other syntax, an unknown name, a division by zero or a value beyond 2**53.
    """
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"the expression is longer than {MAX_TEXT} characters")
    try:
        tree = _parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ExpressionError("it is not an arithmetic expression") from None
    return _evaluate(tree.body, names)


def _parse(text: str) -> ast.Expression:
    with warnings.catch_warnings():
        # Python warns of texts such as "1if x"; raised as errors, they are refused like other non-arithmetic text.
        warnings.simplefilter("error")
        return ast.parse(text.strip(), mode="eval")


def _evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _check_range(node.value)
    if isinstance(node, ast.Name):
        return _look_up(node.id, names)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_evaluate(node.operand, names))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _apply_operator(node.op, _evaluate(node.left, names), _evaluate(node.right, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _apply_function(node.func.id, [_evaluate(arg, names) for arg in node.args])
    raise ExpressionError("only numbers, names, + - * / // % ** and min max int round abs are allowed")


def _look_up(name: str, names: Mapping[str, Any]) -> int | float:
    if name not in names:
        raise ExpressionError(f"the name '{name}' is not known here")
    value = names[name]
    value = value.value if isinstance(value, ExpressionOnly) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExpressionError(f"'{name}' is {value!r}, not a number")
    return value


def _apply_operator(op: ast.operator, left: Any, right: Any) -> Any:
    # Python would compute any power, however long it takes.
    if isinstance(op, ast.Pow) and (abs(right) > 64 or abs(left) > 2**26):
        raise ExpressionError("the power is too large")
    symbol, compute = _BINARY[type(op)]
    try:
        value = compute(left, right)
    except (ZeroDivisionError, OverflowError, TypeError):
        raise ExpressionError(f"{left} {symbol} {right} cannot be computed") from None
    if isinstance(op, ast.Div) and isinstance(left, int) and isinstance(right, int) and left % right == 0:
        value = left // right
    return _check_range(value)


def _apply_function(name: str, values: list[Any]) -> Any:
    if name not in _FUNCTIONS:
        raise ExpressionError(f"the function '{name}' is not allowed, only min max int round abs are")
    # As with powers: 10 ** digits would be computed, however large.
    if name == "round" and any(abs(digits) > 64 for digits in values[1:]):
        raise ExpressionError("round takes at most 64 digits")
    try:
        return _check_range(_FUNCTIONS[name](*values))
    except (TypeError, ValueError, OverflowError):
        raise ExpressionError(f"{name} does not take {len(values)} value(s) of this kind") from None


def _check_range(value: Any) -> Any:
    # value != value is true of nan only.
    if isinstance(value, complex) or value != value or abs(value) > MAX_MAGNITUDE:
        raise ExpressionError(f"the value {value} is out of range")
    return value


def looks_arithmetic(text: str, names: Mapping[str, Any]) -> bool:
    """Whether a text is meant as an expression: it has an operator and contains at least one of the names."""
    return bool(_ARITHMETIC.search(text)) and any(word in names for word in re.findall(r"[A-Za-z_]\w*", text))


def parse_call(text: str) -> Call | None:
    """Parse a text such as ``nn.ReLU(inplace=True)``; None if it is not a call of a name with literal arguments."""
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
