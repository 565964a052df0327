"""Tables as plain text, for terminals and files alike."""

from collections.abc import Container, Sequence


def align(rows: Sequence[Sequence[str]], left: Container[int] = ()) -> list[str]:
    """Return one line for each row, with columns of equal width and two spaces between them.

    Widths are those on a terminal, where a Chinese or Japanese character takes two columns.

    Args:
        rows: the cells of each row, as many in each; a heading is a row like others.
        left: numbers of the columns that are aligned to the left; the others are aligned to the right, as numbers are.
    """
    from rich.cells import cell_len  # here, because rich would slow down commands that print no table

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]

    def pad(index: int, cell: str) -> str:
        blanks = " " * (widths[index] - cell_len(cell))
        return cell + blanks if index in left else blanks + cell

    return ["  ".join(pad(index, cell) for index, cell in enumerate(row)).rstrip() for row in rows]
