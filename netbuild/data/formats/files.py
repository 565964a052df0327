"""Reading the files of data sets: listing pictures, and texts and gzip files of bounded size."""

import gzip
import os
import zlib
from collections import Counter
from pathlib import Path

from netbuild.data.dataset import NOTE, Problem
from netbuild.data.images import FOREIGN, is_picture
from netbuild.errors import NetbuildError, shorten

SPLITS = ("train", "val", "test")
SPLIT_NAMES = dict(zip(SPLITS, SPLITS)) | {"training": "train", "valid": "val", "validation": "val"}
MAX_TEXT = 2 * 2**30  # bytes; the annotations of a million pictures are smaller


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """Return a file's text in UTF-8, with or without a byte order mark.

    Raises:
        NetbuildError: if it cannot be read, has more than ``limit`` bytes, or is not UTF-8.
    """
    try:
        if (size := path.stat().st_size) > limit:
            raise NetbuildError(f"{path}: {size:,} bytes, the limit is {limit:,}")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise unreadable_error(path, error) from None
    except UnicodeDecodeError as error:
        raise NetbuildError(f"{path}: byte {error.start} is not UTF-8 text", hint="save the file as UTF-8") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """Return a file's first ``limit`` bytes, decompressed if its name ends in ``.gz``.

    Raises:
        NetbuildError: if it cannot be read or decompressed.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NetbuildError(f"{path}: cut off, or not a gzip file: {shorten(error)}") from None
    except OSError as error:
        raise unreadable_error(path, error) from None


def unreadable_error(path: Path, error: OSError) -> NetbuildError:
    """Return the error for a file that the operating system refuses to read."""
    return NetbuildError(f"{path}: cannot be read: {error.strerror or error}")


def find_pictures(folder: Path) -> list[Path]:
    """Return all pictures in a folder and its subfolders, sorted by path; links to folders are followed once."""
    found, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        found += [path for path in (Path(here, name) for name in files) if is_picture(path)]
    return sorted(found)


def note_unread_formats(folder: Path) -> list[Problem]:
    """Return a note for each picture format below a folder that cannot be read, so that none is ignored silently."""
    others = Counter(
        path.suffix.lower() for path in folder.rglob("*") if path.suffix.lower() in FOREIGN and path.is_file()
    )
    return [
        Problem("format", NOTE, f"{count} files {suffix} are ignored: this picture format cannot be read", folder)
        for suffix, count in sorted(others.items())
    ]


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, without hidden ones, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
