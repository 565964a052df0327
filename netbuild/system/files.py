"""Files written whole: a reader sees the old one or the new one, never a part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A draft beside a file, which becomes it at the end of the stretch; if that fails, nothing is left behind.

    Raises:
        OSError: if it cannot be renamed.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield draft
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()


def new_folder(name: str, base: Path = Path("runs")) -> Path:
    """A folder for a run that is not there yet: runs/NAME, runs/NAME-2, ..."""
    folder, number = base / name, 2
    while folder.exists():
        folder, number = base / f"{name}-{number}", number + 1
    return folder
