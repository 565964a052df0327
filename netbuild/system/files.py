"""Write files atomically: readers see the old or the new file, and failures are a NetbuildError with the path."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from netbuild.errors import NetbuildError, shorten


def refuse_special(path: Path, limit: int | None = None) -> str:
    """Return why a path must not be opened, as a clause; "" for a regular file of at most ``limit`` bytes.

    Opening a FIFO waits for ever, and reading a device may never end. Links are followed.

    Raises:
        OSError: if there is no such file, or it cannot be accessed.
        ValueError: for a path with a null byte.
    """
    facts = path.stat()
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket"}
    if not stat.S_ISREG(facts.st_mode):
        return f"{next((kind for test, kind in kinds.items() if test(facts.st_mode)), 'a device')}, not a file"
    if limit is not None and facts.st_size > limit:
        return f"{facts.st_size:,} bytes, the limit is {limit:,}"
    return ""


@contextmanager
def accessing(name: str) -> Iterator[None]:
    """Turn the error for a path that no file can have (too long, a null byte) into a NetbuildError.

    Args:
        name: the file that names the path.

    Raises:
        NetbuildError: "NAME: a path in it cannot be accessed: REASON".
    """
    try:
        yield
    except OSError as error:
        path = shorten(error.filename or "", 80)
        raise NetbuildError(f"{name}: a path in it cannot be accessed: {error.strerror or error}: {path}") from error
    except ValueError as error:
        if "null" not in str(error):
            raise
        raise NetbuildError(f"{name}: a path in it has a null byte") from error


def cannot_write(path: Path, error: BaseException) -> NetbuildError:
    """Make the error for a path that cannot be written, with the system's reason."""
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
    """Yield a temporary path to write to, which is renamed to ``path`` if the block ends without an error.

    If the block fails, the temporary file is deleted and ``path`` is unchanged.

    Raises:
        NetbuildError: if the block or the renaming fails with an OSError.
    """
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with writing(path):
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):  # after a successful rename it is gone
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
    """Create a folder and its parents unless they exist.

    Raises:
        NetbuildError: if it cannot be created.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``, which is deleted when the block ends.

    A file written there can be renamed to ``path`` atomically.

    Raises:
        NetbuildError: if it cannot be created.
    """
    with writing(path):
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_parent(path: Path) -> None:
    """Check that a file can be created at a path, before time is spent on its content.

    Raises:
        NetbuildError: if its folder is missing or read-only.
    """
    if not path.parent.is_dir():
        raise NetbuildError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise NetbuildError(f"{path}: its folder cannot be written to")


def new_folder(name: str, base: Path = Path("runs")) -> Path:
    """Return the first of BASE/NAME, BASE/NAME-2, BASE/NAME-3, ... that does not exist; it is not created."""
    folder, number = base / name, 2
    while folder.exists():
        folder, number = base / f"{name}-{number}", number + 1
    return folder
