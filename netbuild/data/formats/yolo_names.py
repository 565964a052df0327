"""The keys ``names`` and ``nc`` of a YOLO data file: a list of names, or a mapping from numbers to names."""

from collections.abc import Mapping, Sequence

from netbuild.grammar.nodes import Node

MAX_CLASSES = 65536  # that a class map of 16 bits can have


def read_names(node: Node, allow_gaps: bool = False) -> tuple[tuple[str, ...], frozenset[int]]:
    """Return the names of the classes, and the classes that have none, which are named by their number.

    Args:
        node: the mapping of the data file.
        allow_gaps: whether numbers may be left out, as they are in lists of classes of maps.

    Raises:
        NetbuildError: at the line of an error.
    """
    entry, count = node.value.get("names"), node.value.get("nc")
    if count is not None and (type(count.value) is not int or count.value < 1):
        raise count.error(f"nc must be a whole number above 0, not {count.describe()}")
    if entry is None or entry.value is None:
        if count is None:
            raise node.error("neither names nor nc", "write names: [first, second]")
        return tuple(f"class{index}" for index in range(count.value)), frozenset()
    is_list = isinstance(entry.value, list)
    names = _listed_names(entry) if is_list else _mapped_names(entry, allow_gaps)
    if count is not None and count.value != len(names):
        raise count.error(
            f"nc is {count.value}, but there are {len(names)} names", "leave nc out: the names are counted"
        )
    return names, frozenset() if is_list else frozenset(range(len(names))) - {int(key) for key in entry.value}


def _listed_names(entry: Node) -> tuple[str, ...]:
    """Read names from a list."""
    for item in entry.value:
        _check_text(item)
    return _check_distinct(entry, entry.value)


def _mapped_names(entry: Node, allow_gaps: bool) -> tuple[str, ...]:
    """Read names from a mapping of numbers, which may be in any order."""
    if not isinstance(entry.value, dict):
        raise entry.error(f"names must be a list or a mapping from number to name, not {entry.describe()}")
    keys = list(entry.value)
    numbers = sorted(int(key) for key in keys if key.isascii() and key.isdecimal())
    has_all = numbers == list(range(len(keys)))
    if not has_all and not (allow_gaps and _may_have_gaps(keys, numbers)):
        raise entry.error(
            f"the numbers of names must run from 0 to {len(keys) - 1}, each once; found {', '.join(keys[:20])}"
        )
    for item in entry.value.values():
        _check_text(item)
    ordered = sorted(entry.value.items(), key=lambda item: int(item[0]))
    names = _check_distinct(entry, [item for _, item in ordered])
    return names if has_all else _fill_gaps(dict(zip(numbers, names)))


def _may_have_gaps(keys: Sequence[str], numbers: Sequence[int]) -> bool:
    """Whether the keys of names are different numbers that a class map can have."""
    return len(set(numbers)) == len(keys) > 0 and numbers[-1] < MAX_CLASSES


def _fill_gaps(names: Mapping[int, str]) -> tuple[str, ...]:
    """Name the classes in between by their numbers."""
    return tuple(names.get(number, f"class{number}") for number in range(max(names) + 1))


def _check_text(item: Node) -> None:
    if isinstance(item.value, (list, dict)) or not (item.text or "").strip():
        raise item.error(f"a name must be a text, not {item.describe()}")


def _check_distinct(entry: Node, items: Sequence[Node]) -> tuple[str, ...]:
    # Names are texts as they are written: 007, 1e3 and null are no numbers and no missing values here.
    names = tuple((str(item.value) if item.text is None else item.text).strip() for item in items)
    if not names:
        raise entry.error("there is no name: a data set has at least one class")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise items[index].error(f"the name '{name}' occurs twice, for {names.index(name)} and {index}")
    return names
