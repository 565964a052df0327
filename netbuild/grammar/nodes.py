"""Parse YAML text to a tree of nodes with places; tags cannot run code, and size and depth are limited.

The tree is built from the parser's events instead of PyYAML's composer, so that depth, aliases and duplicate keys are
checked while reading and every scalar keeps its line and column. Scalars follow the core schema of YAML 1.2.
"""

import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from netbuild.errors import NetbuildError, Where, shorten

# These limits keep a hostile file from exhausting the memory or the stack.
MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_NODES = 500_000  # each use of an alias counts
MAX_DIGITS = 18  # of an integer: fits 64 bits

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
# In YAML 1.2, unlike 1.1, words such as yes, no, on and off are text.
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), math.inf),
    "-.inf": -math.inf,
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's faster parser, where PyYAML has it
# Tags that name a core type; other tags would have the loader construct objects.
_CORE_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


class Source:
    """The text of a file, and the file's name for error messages."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._lines: list[str] | None = None

    @property
    def lines(self) -> list[str]:
        """The lines of the text, without line breaks."""
        if self._lines is None:
            self._lines = _BREAK.split(self.text)
        return self._lines

    def where(self, line: int, column: int) -> Where:
        """Return the place at a 0-based line and column; the end of the text for a line after its last one."""
        lines = self.lines
        if line >= len(lines):  # the parser's end of a text without a final line break
            line, column = len(lines) - 1, len(lines[-1])
        return Where(self.name, line + 1, column + 1, lines[line])

    def at(self, position: int) -> Where:
        """Return the place of the character at an index of the text."""
        before = _BREAK.split(self.text[:position])
        return self.where(len(before) - 1, len(before[-1]))


class Node:
    """A YAML value with its place.

    Args:
        value: a scalar, a list of nodes, or a dict of nodes by key.
        source: the text that it comes from.
        mark: the place; any object with 0-based ``line`` and ``column``, such as another node.
        quoted: whether a scalar is in quotes or a block scalar.
        text: a scalar as it is written, such as ``007``, whose value is 7; None for what is no scalar of a text.
    """

    __slots__ = ("column", "depth", "keys", "line", "quoted", "size", "source", "text", "value")

    def __init__(self, value: Any, source: Source, mark: Any, quoted: bool = False, text: str | None = None) -> None:
        self.value, self.source, self.quoted, self.text = value, source, quoted, text
        self.line, self.column = mark.line, mark.column
        self.size, self.depth = 1, 0  # number of values in it, levels of nested collections
        self.keys: dict[str, Node] = {}  # of a mapping: its keys as nodes, for their places

    @property
    def where(self) -> Where:
        """The place in the text."""
        return self.source.where(self.line, self.column)

    def plain(self) -> Any:
        """Return the value without places: scalars, lists and dicts."""
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    def with_value(self, value: Any, keys: "dict[str, Node] | None" = None) -> "Node":
        """Return a node with another value at the same place; ``keys`` replaces the nodes of a mapping's keys."""
        node = Node(value, self.source, self, self.quoted)
        node.keys = self.keys if keys is None else keys
        return node

    def describe(self) -> str:
        """Describe the value for an error message: "a list", "a mapping", "nothing", or the scalar itself."""
        if isinstance(self.value, list):
            return "a list"
        if isinstance(self.value, dict):
            return "a mapping"
        return "nothing" if self.value is None else shorten(repr(self.value))

    def error(self, message: str, hint: str = "") -> NetbuildError:
        """Make an error at this place."""
        return NetbuildError(message, self.where, hint)


def read_text(path: Path) -> str:
    """Read a file as UTF-8, with or without a byte order mark.

    Raises:
        NetbuildError: if the file cannot be read, is too large or is not UTF-8.
    """
    try:
        # A shell's <(command) is a FIFO in /dev/fd; any other would be waited for.
        if stat.S_ISFIFO(path.stat().st_mode) and not str(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/")):
            raise NetbuildError(f"{path}: a FIFO, not a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # one byte more, to tell whether the file is too large
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise NetbuildError(f"{path}: larger than {MAX_BYTES // 2**20} MiB, the limit for a YAML file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        data = error.object  # the decoder's data, which lack the byte order mark
        where = Source(str(path), data.decode(errors="replace")).at(len(data[: error.start].decode()))
        message = f"byte 0x{data[error.start]:02x} is not UTF-8 text"
        raise NetbuildError(message, where, "save the file as UTF-8") from None


def parse(text: str, name: str) -> Node:
    """Parse the single YAML document of a text.

    Args:
        text: the text.
        name: the file's name for error messages.

    Raises:
        NetbuildError: for a syntax error, a tag, a duplicate key, a recursive alias, more than one document,
            or a text beyond the limits on depth and size.
    """
    source = Source(name, text)
    try:
        return _build_tree(source, yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(source, error) from None
    except yaml.reader.ReaderError as error:
        raise _character_error(source, f" ({error.reason})") from None
    except UnicodeEncodeError:
        raise _character_error(source) from None


def _character_error(source: Source, reason: str = "") -> NetbuildError:
    # Any character but those that YAML allows.
    bad = re.search("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", source.text)
    where = source.at(bad.start()) if bad else None
    found = f"character U+{ord(bad.group()):04X}" if bad else "a character"
    return NetbuildError(f"{found} is not allowed in YAML{reason}", where, "remove it")


def _syntax_error(source: Source, error: yaml.MarkedYAMLError) -> NetbuildError:
    """Make an error of the parser's: an unclosed bracket is shown where it opens, not where the parser noticed it."""
    problem, context = error.problem_mark, error.context_mark
    text = error.problem or "syntax error"
    if "escape" in text or ("escape" in (error.context or "")) or "hexadecimal" in text:
        return _escape_error(source, problem)
    mark, message, hint = problem or context, text, ""
    place = error.context or ""
    if context and problem and place.startswith(("while parsing a flow sequence", "while parsing a flow mapping")):
        opened = "[" if "sequence" in place else "{"
        closing = "]" if opened == "[" else "}"
        mark, hint = context, f"close it with '{closing}', or put the missing ',' there"
        message = f"the '{opened}' opened here is not closed: noticed at line {problem.line + 1}, "
        message += f"column {problem.column + 1} ({text})"
    elif context and problem and context.line != problem.line:
        message += f" ({error.context} that began at line {context.line + 1}, column {context.column + 1})"
    where = source.where(mark.line, mark.column) if mark else None
    return NetbuildError(f"YAML syntax: {message}", where, hint or _syntax_hint(where))


def _syntax_hint(where: Where | None) -> str:
    if where and "\t" in where.text:
        return "YAML indents with blanks, not with tabs"
    return ""


def _escape_error(source: Source, mark: Any) -> NetbuildError:
    # libyaml and the Python parser report different characters: point at the one after the backslash.
    where = source.where(mark.line, mark.column)
    back = where.text.rfind("\\", 0, mark.column + 1)
    where = source.where(mark.line, back + 1 if back >= 0 else mark.column)
    return NetbuildError(
        "backslash in double quotes: use single quotes or /",
        where,
        "in double quotes YAML reads a backslash as the start of an escape such as \\n",
    )


def _build_tree(source: Source, events: Iterator[Any]) -> Node:
    builder = _Builder(source)
    for event in events:
        builder.handle_event(event)
    if builder.root is None:
        raise NetbuildError("the file is empty", source.where(0, 0))
    return builder.root


class _Builder:
    """Builds nodes from parser events, with a stack instead of recursion."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.root: Node | None = None
        self.stack: list[tuple[Node, str | None]] = []  # open collections with their anchors
        self.keys: list[Node | None] = []  # for each open collection: of a mapping, the key that waits for its value
        self.anchors: dict[str, Node] = {}
        self.nodes = 0  # values so far, those of aliases included

    def handle_event(self, event: Any) -> None:
        """Add the node of an event to the tree, or open or close a collection."""
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._read_scalar(event), self.source, event.start_mark, bool(event.style), event.value)
            self._record_anchor(event.anchor, node)
            self._add(node)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open_collection(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            node, anchor = self.stack.pop()
            self.keys.pop()
            self._record_anchor(anchor, node)
            self._add(node)
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._resolve_alias(event), event.start_mark)
        elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise self._error("a second YAML document begins here; a file holds one", event.start_mark)

    def _open_collection(self, event: Any) -> None:
        self._check_tag(event)
        if len(self.stack) >= MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.stack.append((Node(value, self.source, event.start_mark), event.anchor))
        self.keys.append(None)

    def _record_anchor(self, anchor: str | None, node: Node) -> None:
        if anchor:
            self.anchors[anchor] = node

    def _resolve_alias(self, event: Any) -> Node:
        if event.anchor not in self.anchors:
            raise self._error(f"the alias '*{event.anchor}' refers to itself or to nothing before it", event.start_mark)
        node = self.anchors[event.anchor]
        if len(self.stack) + node.depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH} levels by its aliases", event.start_mark)
        return node

    def _add(self, node: Node, mark: Any = None) -> None:
        """Add a finished node to the open collection; ``mark`` is the place of an alias to it."""
        self.nodes += node.size if mark else 1
        if self.nodes > MAX_NODES:
            raise NetbuildError(f"more than {MAX_NODES} values once its aliases are expanded", node.where)
        if not self.stack:
            self.root = node
            return
        # Sizes and depths are summed while building, so that later uses of an alias cost no walk.
        parent = self.stack[-1][0]
        parent.size += node.size
        parent.depth = max(parent.depth, node.depth + 1)
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif self.keys[-1] is None:
            self.keys[-1] = self._add_key(parent, node)
        else:
            parent.value[self.keys[-1].value] = node
            self.keys[-1] = None

    def _add_key(self, parent: Node, node: Node) -> Node:
        if isinstance(node.value, (list, dict)):
            raise node.error("a key must be a word or a number, not a collection")
        key = "null" if node.value is None else str(node.value)
        if key == "<<":
            raise node.error("merge keys ('<<') are not part of YAML 1.2", "write the keys out")
        if key in parent.keys:
            first = parent.keys[key].line + 1
            raise node.error(f"key '{key}' is given twice: lines {first} and {node.line + 1}", "keep one of them")
        named = Node(key, self.source, node)
        parent.keys[key] = named
        return named

    def _read_scalar(self, event: Any) -> Any:
        self._check_tag(event)
        text = event.value
        # Quoted and block scalars are text, and so is a scalar with the tag `!` or `!!str`.
        if event.style or event.tag == "!" or (event.tag or "").endswith(":str"):
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text) or _BASED.fullmatch(text):
            if len(text.lstrip("+-")) > MAX_DIGITS:
                raise self._error(f"a number of more than {MAX_DIGITS} digits", event.start_mark)
            return int(text, 10 if _INT.fullmatch(text) else 0)
        return float(text) if _FLOAT.fullmatch(text) else text

    def _check_tag(self, event: Any) -> None:
        if event.tag and event.tag not in _CORE_TAGS and event.tag != "!":
            kind = "Python tags" if "python" in event.tag else f"tags such as '{event.tag}'"
            raise self._error(
                f"{kind} are not allowed: a network file is data and runs no code",
                event.start_mark,
                "remove the tag (the word that begins with '!')",
            )

    def _error(self, message: str, mark: Any, hint: str = "") -> NetbuildError:
        return NetbuildError(message, self.source.where(mark.line, mark.column), hint)
