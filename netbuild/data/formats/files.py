"""Reading the files of data sets: listing pictures, and texts and gzip files of bounded size."""

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from netbuild.data.dataset import NOTE, Problem
from netbuild.data.images import FOREIGN, is_picture
from netbuild.errors import NetbuildError, shorten
from netbuild.system.files import refuse_special

SPLITS = ("train", "val", "test")
SPLIT_NAMES = dict(zip(SPLITS, SPLITS)) | {
    "training": "train",
    **dict.fromkeys(("valid", "validation", "validate", "dev"), "val"),
    "testing": "test",
}
# Folders that archivers, file servers and operating systems leave beside the data. Hidden ones (.ipynb_checkpoints,
# .AppleDouble, .git) begin with a dot.
_CLUTTER = frozenset(("__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"))
MAX_TEXT = 2 * 2**30  # bytes; the annotations of a million pictures are smaller


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """Return a file's text in UTF-8, with or without a byte order mark.

    Raises:
        NetbuildError: if it cannot be read, has more than ``limit`` bytes, or is not UTF-8.
    """
    try:
        return read_whole(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NetbuildError(f"{path}: byte {error.start} is not UTF-8 text", hint="save the file as UTF-8") from None


def note_repeats(count: int, total: int, file: Path) -> list[Problem]:
    """Return a note if ``count`` of ``total`` listed pictures are repetitions."""
    if not count:
        return []
    message = f"{count} of {total} pictures are listed a second time: each is used once"
    return [Problem("listed twice", NOTE, message, file)]


def read_whole(path: Path, limit: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        NetbuildError: if it cannot be read, is no regular file, or has more than ``limit`` bytes.
    """
    try:
        if reason := refuse_special(path, limit):
            raise NetbuildError(f"{path}: {reason}")
        return path.read_bytes()
    except OSError as error:
        raise unreadable_error(path, error) from None


def read_bytes(path: Path, limit: int) -> bytes:
    """Return a file's first ``limit`` bytes, decompressed if its name ends in ``.gz``.

    Raises:
        NetbuildError: if it cannot be read or decompressed, or is no regular file.
    """
    try:
        if reason := refuse_special(path):
            raise NetbuildError(f"{path}: {reason}")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NetbuildError(f"{path}: cut off, or not a gzip file: {shorten(error)}") from None
    except OSError as error:
        raise unreadable_error(path, error) from None


def unreadable_error(path: Path, error: OSError) -> NetbuildError:
    """Return the error for a file that the operating system refuses to read."""
    return NetbuildError(f"{path}: cannot be read: {error.strerror or error}")


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is no data by its name: hidden, or left there by an archiver or a file server."""
    return path.name.startswith(".") or path.name.lower() in _CLUTTER


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder and its subfolders, without hidden ones; links to folders are followed once."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(Path(name)))
        yield from (path for path in (Path(here, name) for name in files) if not is_hidden(path))


def find_pictures(folder: Path) -> list[Path]:
    """Return all pictures in a folder and its subfolders, sorted by path; hidden folders are left out."""
    return sorted(path for path in walk_files(folder) if is_picture(path))


def find_visible(folder: Path, *patterns: str) -> list[Path]:
    """Return what matches one of the glob patterns in a folder, sorted; nothing hidden is among it."""
    found = (path for pattern in patterns for path in folder.glob(pattern))
    return sorted(path for path in found if not any(is_hidden(part) for part in _parts_below(path, folder)))


def _parts_below(path: Path, folder: Path) -> list[Path]:
    return [Path(name) for name in path.relative_to(folder).parts]


def note_unread_formats(folder: Path) -> list[Problem]:
    """Return a note for each picture format below a folder that cannot be read, so that none is ignored silently."""
    others = Counter(path.suffix.lower() for path in walk_files(folder) if path.suffix.lower() in FOREIGN)
    return [
        Problem("format", NOTE, f"{count} files {suffix} are ignored: this picture format cannot be read", folder)
        for suffix, count in sorted(others.items())
    ]


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, without hidden ones, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


def list_readings(path: Path, readings: dict[str, str]) -> NetbuildError:
    """Return the error for data that can be read in several ways.

    Args:
        path: the file or folder.
        readings: for each way what would be read, and what to do if it is meant.
    """
    lines = "\n".join(f"  - {reading}: {repair}" for reading, repair in readings.items())
    return NetbuildError(f"{path}: it is not clear how these data are meant. Possible readings:\n{lines}")
