"""Read ``degrade``: what is done to pictures, in order, to make those that a network learns to restore.

The same list is a key of a network's file and a setting of a run. An entry is a mapping with one key, such as
``downscale: 3`` or ``noise: {sigma: [0, 55]}``.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean, raise_all
from netbuild.grammar.nodes import Node, parse, read_text
from netbuild.grammar.rows import attempt, evaluate_argument

Degradation = dict[str, dict[str, Any]]  # one entry: its kind, with the values of its fields by name

SPACES = ("y", "rgb", "grey")  # the colours that a network restores, see the key ``space``
METHODS = ("bicubic", "area", "nearest")  # of making a picture smaller
MAX_FACTOR = 16
MAX_SIGMA = 255
MAX_KERNEL = 255  # rows and columns
EXAMPLE = "[{downscale: 3}]"
Reader = Callable[[Node, Any], Any]  # takes the node of a value, and the value after expressions


@dataclass(frozen=True)
class Restoration:
    """The keys ``degrade`` and ``space`` of a network's file; ``space`` is None where the file does not state it."""

    degrade: tuple[Degradation, ...] = ()
    space: str | None = None


def read_restoration(root: Node, names: Mapping[str, Any], folder: Path) -> Restoration:
    """Read the keys ``degrade`` and ``space`` of a network's file; arguments as of `read_degrade`.

    Raises:
        NetbuildError: with the place of every mistake.
    """
    errors: list[NetbuildError] = []
    degrade = attempt(errors, read_degrade, root.value.get("degrade"), names, folder) or []
    space = attempt(errors, _read_space, root.value["space"]) if "space" in root.value else None
    raise_all(errors)
    return Restoration(tuple(degrade), space)


def read_degrade(node: Node | None, names: Mapping[str, Any] | None = None, folder: Path = Path()) -> list[Degradation]:
    """Read the entries in their order; none without the key.

    Args:
        node: the list.
        names: values of names that expressions may use, such as the file's ``params``.
        folder: what paths of kernels are relative to.

    Raises:
        NetbuildError: with the place of every mistake.
    """
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, list):
        hint = f"write [{{{', '.join(node.value)}: ...}}]" if isinstance(node.value, dict) else ""
        raise node.error(f"'degrade' is a list such as {EXAMPLE}, this is {node.describe()}", hint)
    errors: list[NetbuildError] = []
    found = [attempt(errors, _read_entry, item, names or {}, folder) for item in node.value]
    raise_all(errors)
    return [entry for entry in found if entry is not None]


def check_degrade(value: Any) -> list[Degradation]:
    """Check a plain value of ``degrade``, as a flag or a keyword gives it, and return its entries.

    Raises:
        NetbuildError: for every mistake in it.
    """
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        raise NetbuildError(f"degrade is a list such as {EXAMPLE}, not {type(value).__name__}") from None
    return read_degrade(parse(text, "degrade"))


def count_scale(entries: Sequence[Degradation]) -> int:
    """Return by how many times the pictures become smaller: the product of all factors of ``downscale``."""
    return math.prod(entry["downscale"]["factor"] for entry in entries if "downscale" in entry)


def _read_space(node: Node) -> str:
    if node.value not in SPACES:
        hint = did_you_mean(str(node.value), SPACES)
        raise node.error(f"'space' must be {', '.join(SPACES[:-1])} or {SPACES[-1]}, not {node.describe()}", hint)
    return str(node.value)


def _read_entry(node: Node, names: Mapping[str, Any], folder: Path) -> Degradation:
    if not isinstance(node.value, dict) or len(node.value) != 1:
        raise node.error(f"an entry of 'degrade' is a mapping with one key such as downscale: 3, not {_tell(node)}")
    ((kind, value),) = node.value.items()
    if kind not in FIELDS:
        hint = did_you_mean(kind, FIELDS) or f"there is {', '.join(FIELDS)}"
        raise node.keys[kind].error(f"'degrade': there is no '{kind}'", hint)
    fields = FIELDS[kind]
    given = value.value if isinstance(value.value, dict) else {_main_field(kind, value): value}
    errors: list[NetbuildError] = []
    for name in given:
        if name not in fields:
            hint = did_you_mean(name, fields) or f"it has {', '.join(fields)}"
            errors.append(value.keys[name].error(f"'{kind}' has no '{name}'", hint))
    known = {name: item for name, item in given.items() if name in fields}
    found = {name: attempt(errors, _read_field, kind, name, item, names, folder) for name, item in known.items()}
    raise_all(errors)
    if problem := _find_conflict(kind, found):
        raise value.error(f"'{kind}' {problem}")
    return {kind: found}


def _tell(node: Node) -> str:
    return f"{len(node.value)} keys" if isinstance(node.value, dict) else node.describe()


def _main_field(kind: str, node: Node) -> str:
    """Return the field that a value without fields is of: the first one, for a text or a table of blur the kernel."""
    is_table = isinstance(node.value, list) and any(isinstance(item.value, list) for item in node.value)
    if kind == "blur" and (isinstance(node.value, str) or is_table):
        return "kernel"
    return next(iter(FIELDS[kind]))


def _read_field(kind: str, name: str, node: Node, names: Mapping[str, Any], folder: Path) -> Any:
    try:
        if name == "kernel" and isinstance(node.value, str):
            return _read_kernel_file(node, folder / Path(node.value).expanduser())
        return FIELDS[kind][name](node, evaluate_argument(node, names))
    except NetbuildError as error:
        if error.where == node.where:
            error.message = f"'{name}' of '{kind}' {error.message}"
        raise


def _find_conflict(kind: str, values: Mapping[str, Any]) -> str:
    """Return what is wrong with the fields of an entry together; empty if nothing is."""
    needed = {"downscale": ("factor",), "jpeg": ("quality",), "noise": ("sigma", "poisson"), "mask": ("share", "boxes")}
    choice = needed.get(kind, ("sigma", "kernel"))
    if sum(name in values for name in choice) != 1:
        return f"needs {' or '.join(choice)}" + (", and not both" if len(choice) > 1 else "")
    if "size" in values and "sigma" not in values:
        return "has a size of its own: that of the kernel"
    return "has a side, which only boxes have" if "side" in values and "boxes" not in values else ""


# -- values -----------------------------------------------------------------------------------------------------------


def _number_reader(low: float, high: float, whole: bool = False, ranged: bool = True) -> Reader:
    """Make a function that reads a number within bounds, or a range [low, high] of such numbers."""
    kind = "a whole number" if whole else "a number"
    expected = f"must be {kind} from {low} to {high}" + (", or a range [least, most] of these" if ranged else "")

    def check(value: Any) -> bool:
        return type(value) in ((int,) if whole else (int, float)) and low <= value <= high

    def read(node: Node, value: Any) -> Any:
        if ranged and isinstance(value, list) and len(value) == 2 and all(map(check, value)) and value[0] <= value[1]:
            return value
        if not check(value):
            raise node.error(f"{expected}, not {node.describe()}")
        return value

    return read


def _read_method(node: Node, value: Any) -> str:
    if value not in METHODS:
        raise node.error(f"must be one of {', '.join(METHODS)}, not {value}", did_you_mean(str(value), METHODS))
    return str(value)


def _read_size(node: Node, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_KERNEL or value % 2 == 0:
        raise node.error(f"must be an odd number from 1 to {MAX_KERNEL}, not {node.describe()}")
    return value


def _read_kernel(node: Node, value: Any) -> list[list[float]]:
    """Check a kernel: rows of numbers, of odd height and width, whose sum is not 0."""
    rows = value if isinstance(value, list) and all(isinstance(row, list) for row in value) else []
    numbers = [number for row in rows for number in row]
    is_table = bool(numbers) and all(len(row) == len(rows[0]) for row in rows)
    if not is_table or not all(type(number) in (int, float) and abs(number) < math.inf for number in numbers):
        raise node.error("must be a table of numbers, or a text file with a row of numbers a line")
    if len(rows) % 2 == 0 or len(rows[0]) % 2 == 0 or max(len(rows), len(rows[0])) > MAX_KERNEL:
        message = f"must have an odd number of rows and columns, at most {MAX_KERNEL}"
        raise node.error(f"{message}; it has {len(rows)} x {len(rows[0])}")
    if abs(sum(numbers)) < 1e-12:
        raise node.error("has a sum of 0, so it cannot be normalised")
    return [[float(number) for number in row] for row in rows]


def _read_kernel_file(node: Node, path: Path) -> list[list[float]]:
    """Read a kernel from a text file: a row of numbers a line, as ``numpy.savetxt`` writes them."""
    try:
        lines = [line.replace(",", " ").split() for line in read_text(path).splitlines()]
        rows = [[float(number) for number in line] for line in lines if line]
    except NetbuildError as error:
        raise node.error(f"cannot be read: {error.message}") from None
    except ValueError:
        raise node.error(f"must be a text file with a row of numbers a line, which {path.name} is not") from None
    return _read_kernel(node, rows)


# The fields of each kind; the first is the one that a value alone is of.
FIELDS: dict[str, dict[str, Reader]] = {
    "downscale": {"factor": _number_reader(2, MAX_FACTOR, whole=True, ranged=False), "method": _read_method},
    "noise": {"sigma": _number_reader(0, MAX_SIGMA), "poisson": _number_reader(1, 1_000_000)},
    "blur": {"sigma": _number_reader(0.1, 50), "size": _read_size, "kernel": _read_kernel},
    "jpeg": {"quality": _number_reader(1, 100, whole=True)},
    "mask": {
        "share": _number_reader(0, 1),
        "boxes": _number_reader(1, 1000, whole=True),
        "side": _number_reader(1, 32_768, whole=True),
    },
}
