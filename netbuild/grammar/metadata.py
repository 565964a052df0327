"""Check JSON data of a foreign hand against a schema: a function for each type, and `record` for an object's keys.

A checkpoint's metadata is read from a file that anybody may have written, so each value is checked once, where it is
read. What uses it may then rely on its type.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from netbuild.errors import shorten

Check = Callable[[Any, str], None]  # takes a value and its key for messages; raises WrongValueError

MAX_DEPTH = 100  # levels of nested values whose types are free
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class WrongValueError(ValueError):
    """A value that is not of the type of its key.

    Args:
        key: the key, such as ``modules[0][1].path``.
        expected: what it must be, with its article.
        value: what it is.
    """

    def __init__(self, key: str, expected: str, value: Any) -> None:
        super().__init__(f"'{key}' must be {expected}, it is {describe_value(value)}")


class MissingKeyError(ValueError):
    """A required key that an object lacks."""

    def __init__(self, key: str) -> None:
        super().__init__(f"'{key}' is missing")


def describe_value(value: Any) -> str:
    """Describe a value in a message: numbers and texts as they are, lists and objects by their kind."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "a mapping"
        return kind if value else f"{kind} without entries"
    return shorten(repr(value), 60)


def text(longest: int = 1 << 22, *, empty: bool = True, line: bool = False) -> Check:
    """Make a check for a text without halves of surrogate pairs, which cannot be written or printed.

    Args:
        longest: the largest number of characters.
        empty: whether the empty text is accepted.
        line: refuse line breaks and control characters, which may send commands to a terminal.
    """

    def check(value: Any, key: str) -> None:
        if not isinstance(value, str) or not (empty or value.strip()):
            raise WrongValueError(key, "a text", value)
        if len(value) > longest:
            raise WrongValueError(key, f"a text of at most {longest:,} characters", f"{shorten(value, 30)}")
        if _SURROGATE.search(value):
            raise WrongValueError(key, "a text of Unicode characters, without half a surrogate pair", value)
        if line and _CONTROL.search(value):
            raise WrongValueError(key, "a text of one line without control characters", value)

    return check


def file_name() -> Check:
    """Make a check for the name of a file without its folder."""
    is_line = text(255, empty=False, line=True)

    def check(value: Any, key: str) -> None:
        is_line(value, key)
        if re.search(r"[/\\]", value) or value.strip() in (".", ".."):
            raise WrongValueError(key, "a name without a folder", value)

    return check


def integer(least: int, most: int) -> Check:
    """Make a check for a whole number from ``least`` to ``most``."""

    def check(value: Any, key: str) -> None:
        if type(value) is not int or not least <= value <= most:
            raise WrongValueError(key, f"a whole number from {least} to {most:,}", value)

    return check


def number(value: Any, key: str) -> None:
    """Check a number, which may be infinite or NaN as a measure may be."""
    if type(value) not in (int, float):
        raise WrongValueError(key, "a number", value)


def optional(inner: Check) -> Check:
    """Make a check for null or a value of ``inner``."""

    def check(value: Any, key: str) -> None:
        if value is not None:
            inner(value, key)

    return check


def list_of(inner: Check, *, length: int | None = None, empty: bool = True) -> Check:
    """Make a check for a list whose items pass ``inner``, with exactly ``length`` of them if that is given."""

    def check(value: Any, key: str) -> None:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise WrongValueError(key, "a list" if length is None else f"a list of {length} values", value)
        if not (value or empty):
            raise WrongValueError(key, "a list with an entry", value)
        for i, item in enumerate(value):
            inner(item, f"{key}[{i}]")

    return check


def mapping_of(inner: Check) -> Check:
    """Make a check for a mapping from texts to values that pass ``inner``."""

    def check(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise WrongValueError(key, "a mapping", value)
        for name, item in value.items():
            text(1000)(name, f"a key of {key}")
            inner(item, f"{key}.{shorten(name, 60)}")

    return check


def record(required: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """Make a check for a mapping with certain keys; keys that are not in the schema are ignored.

    Args:
        required: the checks of keys that must be there.
        others: the checks of keys that may be absent.
    """

    def check(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise WrongValueError(key or "the metadata", "a mapping", value)
        for name, inner in {**required, **(others or {})}.items():
            path = f"{key}.{name}" if key else name
            if name in value:
                inner(value[name], path)
            elif name in required:
                raise MissingKeyError(path)

    return check


def json_value(value: Any, key: str, depth: int = 0) -> None:
    """Check a value of any JSON type: its texts, and that it is nested at most `MAX_DEPTH` levels."""
    if depth > MAX_DEPTH:
        raise WrongValueError(key, f"nested at most {MAX_DEPTH} levels", value)
    if isinstance(value, str):
        text()(value, key)
    elif isinstance(value, list):
        for item in value:
            json_value(item, key, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            text(1000)(name, f"a key of {key}")
            json_value(item, key, depth + 1)
