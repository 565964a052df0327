"""Writing files atomically: a reader sees the old file or the new one; a failure is a NetbuildError naming the path."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from netbuild.errors import NetbuildError, shorten


def cannot_write(path: Path, error: BaseException) -> NetbuildError:
    """The error for a path that cannot be written, with the system's reason."""
    return NetbuildError(f"{path}: cannot be written: {shorten(getattr(error, 'strerror', None) or error, 200)}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError raised in the block into a NetbuildError that names the path.

    Raises:
        NetbuildError: "PATH: cannot be written: REASON".
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it is renamed to ``path`` when the block ends without an error.

    Nothing is left behind otherwise.

    Raises:
        NetbuildError: if the block or the renaming fails with an OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with writing(path):
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically.

    Raises:
        NetbuildError: if it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8 with ``\\n`` at the line ends on every system.

    Raises:
        NetbuildError: if it cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        NetbuildError: if it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path``, so that a finished file can be renamed to ``path``; removed when the block ends.

    Raises:
        NetbuildError: if it cannot be made.
    """
    with writing(path):
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_parent(path: Path) -> None:
    """Refuse a path whose folder is missing or read-only, before work is done for it.

    Raises:
        NetbuildError: if it is.
    """
    if not path.parent.is_dir():
        raise NetbuildError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise NetbuildError(f"{path}: its folder cannot be written to")


def new_folder(name: str, base: Path = Path("runs")) -> Path:
    """The first of runs/NAME, runs/NAME-2, ... that does not exist yet."""
    folder, number = base / name, 2
    while folder.exists():
        folder, number = base / f"{name}-{number}", number + 1
    return folder
