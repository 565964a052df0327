"""Tables of text with aligned columns, which fit the width of a terminal and are whole everywhere else."""

import io
import os
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GAP = 2  # blanks between two columns
TEXT_WIDTH = 1_000_000  # width in characters of a file or a pipe
ELLIPSIS = "…"  # stands for the text that was cut off

# A step by which a table becomes narrower: a column, and the least width to which its cells may be cut; 0 leaves the
# column out. Numbers are never cut, because the rest would be another number.
Step = tuple[int, int]


def align(rows: Sequence[Sequence[str]], left: Container[int] = ()) -> list[str]:
    """Return one line for each row, with columns of equal width and two spaces between them.

    Widths are those on a terminal, where a Chinese or Japanese character takes two columns.

    Args:
        rows: the cells of each row, as many in each; a heading is a row like others.
        left: numbers of the columns that are aligned to the left; the others are aligned to the right, as numbers are.
    """
    return [_pad(row, _measure(rows), left) for row in rows]


def _measure(rows: Sequence[Sequence[str]]) -> dict[int, int]:
    """Return the width of each column, by its number."""
    from rich.cells import cell_len  # here, because rich would slow down commands that print no table

    return {index: max(map(cell_len, column)) for index, column in enumerate(zip(*rows, strict=True))}


def _pad(row: Sequence[str], widths: Mapping[int, int], left: Container[int]) -> str:
    """Return the line of a row: the columns of ``widths``, each cut or filled up to its width."""
    from rich.cells import cell_len

    cells = []
    for index, width in widths.items():
        cell = cut(row[index], width)
        blanks = " " * (width - cell_len(cell))
        cells.append(cell + blanks if index in left else blanks + cell)
    return (" " * GAP).join(cells).rstrip()


def cut(text: str, width: int) -> str:
    """Cut a text to at most ``width`` columns of a terminal, with an ellipsis at its end if something is left out."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return (set_cell_size(text, width - 1).rstrip() + ELLIPSIS) if width > 0 else ""


def fit(widths: Mapping[int, int], width: int, steps: Sequence[Step]) -> dict[int, int]:
    """Make a table's columns narrow enough for a terminal.

    The steps are taken in turn until the columns fit. A column that is left out makes room, which goes back to the
    columns that were cut before it. If the steps do not suffice, columns are left out from the right, never the first.

    Args:
        widths: the width of each column by its number, as `align` would have them.
        width: the columns of the terminal.
        steps: how the table becomes narrower.

    Returns:
        The widths of the columns that are shown.
    """
    fitted, cuts = dict(widths), []
    last_resort = [(index, 0) for index in reversed([*widths][1:])]
    for index, least in [*steps, *last_resort]:
        excess = _total(fitted) - width
        if excess <= 0:
            break
        if not least:
            if len(fitted) > 1:
                fitted.pop(index, None)
        elif fitted.get(index, 0) > least:
            fitted[index] = max(least, fitted[index] - excess)
            cuts.append(index)
    if _total(fitted) > width:  # a single column is left
        fitted = {index: min(width, size) for index, size in fitted.items()}
    for index in reversed(cuts):
        if index in fitted:
            fitted[index] = min(widths[index], fitted[index] + max(width - _total(fitted), 0))
    return fitted


def _total(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def terminal_width(stream: Any) -> int | None:
    """Return the number of columns of the terminal that a stream writes to; None if it is a file or a pipe."""
    if not stream.isatty():
        return None
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # a stream without a descriptor, such as a notebook's
        return 80


@dataclass(frozen=True)
class Table:
    """A table that prints itself on a rich console: no line is wrapped, and what is cut or left out is named below.

    `str` gives the whole table.

    Args:
        rows: the cells of each row, the headings first.
        left: numbers of the columns that are aligned to the left.
        steps: how the table becomes narrower on a terminal, see `fit`.
        styles: rich's style of each row without the headings; empty for none.
        indent: blanks before each line.
        split: on a narrow terminal repeat the first column and continue with the columns that did not fit below,
            instead of leaving them out.
    """

    rows: Sequence[Sequence[str]]
    left: Container[int] = ()
    steps: Sequence[Step] = ()
    styles: Sequence[str] = ()
    indent: int = 0
    split: bool = False

    def __post_init__(self) -> None:
        # Names in a file must not send control sequences to the terminal.
        rows = [["".join(c if c.isprintable() else " " for c in cell) for cell in row] for row in self.rows]
        object.__setattr__(self, "rows", rows)

    def __str__(self) -> str:
        return "\n".join(" " * self.indent + line for line in align(self.rows, self.left))

    def lines(self, width: int | None) -> list[str]:
        """Return the lines without colours, for a terminal of ``width`` columns with `notes`; None: whole."""
        if width is None:
            return str(self).splitlines()
        note = textwrap.wrap(" ".join(self.notes(width)), max(width - self.indent, 20))
        return [*(line for _, line in self._styled(width)), *(" " * self.indent + line for line in note)]

    def notes(self, width: int) -> list[str]:
        """Return a line that names the columns which are cut or left out at this width; no line if there are none."""
        if not self.rows or self.split:
            return []
        widths = _measure(self.rows)
        shown = fit(widths, width - self.indent, self.steps)
        names = {index: name or f"column {index + 1}" for index, name in enumerate(self.rows[0])}
        cut_ones = [names[index] for index in shown if shown[index] < widths[index]]
        hidden = [names[index] for index in widths if index not in shown]
        parts = [f"cut: {', '.join(cut_ones)}"] if cut_ones else []
        parts += [f"left out: {', '.join(hidden)}"] if hidden else []
        return [f"({'; '.join(parts)}. A wider terminal or a pipe shows all)"] if parts else []

    def _styled(self, width: int) -> Iterator[tuple[str, str]]:
        """Yield the style and the text of each line."""
        if not self.rows:
            return
        styles = ["bold", *(self.styles or [""] * (len(self.rows) - 1))]
        for number, widths in enumerate(self._blocks(width - self.indent)):
            if number:
                yield "", ""
            for style, row in zip(styles, self.rows, strict=True):
                yield style, " " * self.indent + _pad(row, widths, self.left)

    def _blocks(self, width: int) -> list[dict[int, int]]:
        """Return the widths of the columns of each block; there is a single one unless the table is split."""
        widths = _measure(self.rows)
        if not self.split or _total(widths) <= width:
            return [fit(widths, width, self.steps)]
        first, *others = widths
        head = {first: min(widths[first], max(width // 3, 1))}
        blocks = [dict(head)]
        for index in others:
            column = {index: min(widths[index], max(width - _total(head) - GAP, 1))}
            if len(blocks[-1]) > 1 and _total(blocks[-1] | column) > width:
                blocks.append(dict(head))
            blocks[-1] |= column
        return blocks

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        for style, line in self._styled(options.max_width):
            yield Text(line, style=style, no_wrap=True, overflow="crop")
        for note in self.notes(options.max_width):
            yield Text(note, style="dim")


@dataclass(frozen=True)
class Line:
    """A line of text on a rich console: a narrow one continues it at a word, indented by four blanks.

    Args:
        text: the line.
        style: rich's style.
    """

    text: str
    style: str = ""

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.text import Text

        width = max(options.max_width, 20)
        whole = Text(self.text, style=self.style)
        if whole.cell_len <= width:
            yield whole
            return
        # All lines are broken at the width of those that are indented, so that each fits.
        for number, part in enumerate(whole.wrap(console, width - 4)):
            yield Text.assemble("    " if number else "", part)


def to_text(renderable: Any) -> str:
    """Render a rich renderable as plain text for a file or a pipe, where nothing is cut or wrapped."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=TEXT_WIDTH, color_system=None, legacy_windows=False).print(renderable)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
