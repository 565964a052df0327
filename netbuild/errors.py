"""Errors for users: the place, the source line with a caret, what was found and expected, and a hint for the repair."""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_LINE = 160  # characters of a source line that an error shows


@dataclass(frozen=True)
class Where:
    """A place in a text file: its name, 1-based line and column, and the text of that line."""

    file: str
    line: int
    column: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def excerpt(self) -> str:
        """Return the source line with a caret under the column, cut to `MAX_LINE` characters around it."""
        start = max(0, self.column - 1 - MAX_LINE // 2) if len(self.text) > MAX_LINE else 0
        # Tabs count as one column, and control characters could send commands to the terminal: show blanks instead.
        line = "".join(c if c.isprintable() else " " for c in self.text[start : start + MAX_LINE])
        number = str(self.line)
        return f"  {number} | {line}\n  {' ' * len(number)} | {' ' * (self.column - 1 - start)}^"


class NetbuildError(Exception):
    """A mistake of the user in a file, a flag or data; shown without a traceback.

    Args:
        message: what was found and what was expected.
        where: the place in a file, if there is one.
        hint: how to repair it.
        also: further errors that were found with this one.
    """

    exit_code = 2

    def __init__(
        self, message: str, where: Where | None = None, hint: str = "", also: Sequence["NetbuildError"] = ()
    ) -> None:
        super().__init__(message)
        self.message, self.where, self.hint, self.also = message, where, hint, tuple(also)

    def all(self) -> list["NetbuildError"]:
        """Return this error and those found with it, in the order of the file."""
        return [self, *self.also]

    def render(self, level: str = "error") -> str:
        """Format the error as plain text for a terminal; ``level`` is the first word, such as ``warning``."""
        lines = [f"{level}: {self.where}: {self.message}" if self.where else f"{level}: {self.message}"]
        if self.where and self.where.text.strip():
            lines.append(self.where.excerpt())
        if self.hint:
            lines.append(f"hint: {self.hint}")
        # Text from a file must not send control sequences to the terminal.
        return "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))

    def __str__(self) -> str:
        return "\n".join(error.render() for error in self.all())


class MissingExtraError(NetbuildError):
    """A feature needs a package that is not part of the core installation."""

    exit_code = 3


def raise_all(errors: Sequence[NetbuildError]) -> None:
    """Raise the first error with the others attached; do nothing if there is none."""
    if errors:
        first, *rest = [single for error in errors for single in error.all()]
        first.also = tuple(rest)
        raise first


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Suggest the known names most similar to a misspelt one.

    Args:
        word: the misspelt name.
        known: the valid names.
        cutoff: least similarity of a suggestion, from 0 to 1 (`difflib.get_close_matches`).

    Returns:
        A question with at most three names, empty if none is similar enough.
    """
    import difflib  # not at the top: only mistakes need it

    names = list(known)
    lowered = {name.lower(): name for name in names}
    if word.lower() in lowered:
        return f"did you mean '{lowered[word.lower()]}'?"
    near = difflib.get_close_matches(word, names, n=3, cutoff=cutoff)
    if not near:  # an abbreviation written out: "confidence" for "conf"
        near = [name for name in names if len(name) > 2 and word.lower().startswith(name.lower())][:3]
    return f"did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def shorten(value: object, limit: int = 80) -> str:
    """Format a value for a message: on one line, at most ``limit`` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


class KeywordError(NetbuildError, TypeError):
    """A call has a keyword that the function does not take."""


def check_keywords(keywords: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keywords that a function does not take.

    Args:
        keywords: the keywords of the call.
        known: the keywords that the function takes.

    Raises:
        KeywordError: for the first unknown keyword, with the most similar known one as a hint.
    """
    names = sorted(known)
    for name in keywords:
        if name not in names:
            hint = did_you_mean(name, names) or f"the keywords are {', '.join(names)}"
            raise KeywordError(f"there is no keyword '{name}'", hint=hint)


_printed_notes: set[str] = set()


def print_note_once(text: str) -> None:
    """Print a note on stderr, unless it was printed before, as for a file that a command opens twice.

    Of several processes that torchrun or SLURM started only the first prints.
    """
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    if text in _printed_notes or rank != "0":
        return
    _printed_notes.add(text)
    printable = "".join(c if c.isprintable() else " " for c in text)
    print(f"note: {printable}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)


def forget_notes() -> None:
    """Forget which notes were printed: the next command prints its own."""
    _printed_notes.clear()
