"""Read Darknet's ``.cfg`` files: sections of ``key=value`` lines, checked and kept with their places."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from netbuild.errors import did_you_mean
from netbuild.grammar.nodes import Node, Source
from netbuild.grammar.rows import MAX_CHANNELS, MAX_ROWS

MAX_KERNEL = 1024  # size, stride and padding of a window
_LONGEST_LIST = 1000  # numbers of one value
_FIRST = re.compile(r"(?:[ \t]*(?:[#;][^\n]*)?\r?\n)*[ \t]*\[[A-Za-z_]+\][ \t]*(?:[#;][^\n]*)?(?:\r?\n|$)")
_OPTION = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*")
# Short names of sections that Darknet takes too.
_SHORT = {
    "conv": "convolutional", "conn": "connected", "max": "maxpool", "avg": "avgpool", "soft": "softmax",
    "network": "net",
}  # fmt: skip
_OFF = ("", "0", "0.0", "none")  # values of an option that is not used


class _Mark(NamedTuple):
    """A place by 0-based line and column."""

    line: int
    column: int


@dataclass(frozen=True)
class Section:
    """A section: its kind, such as ``convolutional``, its number without ``[net]``, and its options as texts."""

    kind: str
    number: int
    node: Node  # its header
    options: dict[str, Node] = field(default_factory=dict)

    def read_integer(self, key: str, default: int, low: int = 0, high: int = MAX_KERNEL) -> int:
        """Return a whole number from ``low`` to ``high``.

        Raises:
            NetbuildError: at any other value.
        """
        if key not in self.options:
            return default
        values = self.read_integers(key)
        if len(values) != 1 or not low <= values[0] <= high:
            found = self.options[key]
            raise found.error(f"[{self.kind}] {key} must be a whole number from {low} to {high}, not '{found.value}'")
        return values[0]

    def read_integers(self, key: str) -> list[int]:
        """Return the whole numbers of a list that commas separate; none if the option is missing.

        Raises:
            NetbuildError: at any other value.
        """
        values = self.read_numbers(key)
        if any(value != int(value) for value in values):
            found = self.options[key]
            raise found.error(f"[{self.kind}] {key} must be whole numbers, not '{found.value}'", "such as -1, 61")
        return [int(value) for value in values]

    def read_numbers(self, key: str) -> list[float]:
        """Return the numbers of a list that commas separate; none if the option is missing.

        Raises:
            NetbuildError: at any other value, and at one that is too large.
        """
        node = self.options.get(key)
        texts = [text.strip() for text in node.value.split(",")] if node else []
        if texts and not texts[-1]:
            texts.pop()  # a comma may end a list
        for text in texts[: _LONGEST_LIST + 1]:
            if not re.fullmatch(r"[-+]?(\d{1,9}(\.\d{0,9})?|\.\d{1,9})", text):
                assert node is not None
                raise node.error(f"[{self.kind}] {key}: '{text}' is no number", "write numbers between commas")
        if node and not 0 < len(texts) <= _LONGEST_LIST:
            raise node.error(f"[{self.kind}] {key} must have 1 to {_LONGEST_LIST} numbers, not {len(texts)}")
        return [float(text) for text in texts]

    def read_text(self, key: str, default: str) -> str:
        """Return a text."""
        return str(self.options[key].value) if key in self.options else default

    def find(self, key: str) -> Node:
        """Return the place of an option, else that of the section."""
        return self.options.get(key, self.node)

    def refuse_options(self, keys: tuple[str, ...]) -> None:
        """Refuse options that change what the section computes and that netbuild has not.

        Raises:
            NetbuildError: at the first that is used.
        """
        for key in keys:
            if self.read_text(key, "").lower() not in _OFF:
                hint = "remove it if the network can do without it; its weights may not fit then"
                raise self.options[key].error(f"[{self.kind}] {key} is not supported", hint)


def is_darknet(text: str) -> bool:
    """Whether a text is a Darknet file: it begins with a section such as ``[net]``, which is no network in YAML."""
    return _FIRST.match(text) is not None


def parse_sections(text: str, name: str) -> tuple[Section, list[Section]]:
    """Parse a Darknet file: its section ``[net]``, and the sections of its layers.

    Of an option that is written twice the first counts, as in Darknet. Comments begin with ``#`` or ``;``.

    Args:
        text: the text.
        name: the file's name for error messages.

    Raises:
        NetbuildError: at a line that is neither a section nor an option, and for too many sections or none.
    """
    source, sections = Source(name, text), list[Section]()
    for number, line in enumerate(source.lines):
        content = re.split(r"[#;\0]", line, maxsplit=1)[0]
        place = _Mark(number, len(content) - len(content.lstrip()))
        content = content.strip()
        if content.startswith("["):
            if not re.fullmatch(r"\[[A-Za-z0-9_]{1,40}\]", content):
                raise Node(content, source, place).error("a section is a name in brackets, such as [convolutional]")
            kind = _SHORT.get(content[1:-1], content[1:-1])
            sections.append(Section(kind, len(sections) - 1, Node(content, source, place)))
        elif content:
            _add_option(sections[-1], Node(content, source, place))
        if len(sections) > MAX_ROWS:
            raise sections[-1].node.error(f"more than {MAX_ROWS} sections")
    net, *layers = sections
    if net.kind != "net":
        raise net.node.error("the first section of a Darknet file is [net]", "add it: its options may be left out")
    if not layers:
        raise net.node.error("the file has no layers", "is it complete? Sections such as [convolutional] follow [net]")
    return net, layers


def _add_option(section: Section, line: Node) -> None:
    match = _OPTION.fullmatch(line.value)
    if not match:
        raise line.error(f"'{line.value[:40]}' is no option of [{section.kind}]", "write key=value")
    key, value = match.groups()
    section.options.setdefault(key, line.with_value(value))


def read_image(net: Section) -> dict[str, int | list[int]]:
    """Return the settings ``ch`` and ``imgsz`` that the section ``[net]`` states."""
    settings: dict[str, int | list[int]] = {}
    if "channels" in net.options:
        settings["ch"] = net.read_integer("channels", 3, 1, MAX_CHANNELS)
    if "height" in net.options and "width" in net.options:
        sides = [net.read_integer(key, 1, 1, 32_768) for key in ("height", "width")]
        settings["imgsz"] = sides[0] if sides[0] == sides[1] else sides
    return settings


def refuse_unknown(section: Section, known: tuple[str, ...]) -> None:
    """Raise the error of a section that netbuild has not.

    Raises:
        NetbuildError: always.
    """
    hint = did_you_mean(section.kind, known) or f"supported: {', '.join(known)}"
    raise section.node.error(f"[{section.kind}] is not supported", hint)
