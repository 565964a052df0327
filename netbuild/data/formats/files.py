"""Files of a data set: pictures below a folder, texts, and gzip files that cannot grow without bound."""

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
MAX_TEXT = 2 * 2**30  # bytes; annotations of a million pictures take less


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """A file's text in UTF-8, with or without a byte order mark.

    Raises:
        NetbuildError: if it cannot be read, is too large, or is no UTF-8.
    """
    try:
        if (size := path.stat().st_size) > limit:
            raise NetbuildError(f"{path}: {size:,} bytes, the limit is {limit:,}")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise NetbuildError(f"{path}: byte {error.start} is not UTF-8 text", hint="save the file as UTF-8") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """A file's first bytes, at most the limit, unpacked if it is named ``.gz``.

    Raises:
        NetbuildError: if it cannot be read or unpacked.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise NetbuildError(f"{path}: cut off or no gzip file: {shorten(error)}") from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> NetbuildError:
    """The error for a file that the system does not give."""
    return NetbuildError(f"{path}: cannot be read: {error.strerror or error}")


def pictures_below(folder: Path) -> list[Path]:
    """All pictures in a folder and those below it, in the order of their paths; links to folders are followed once."""
    found, seen = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        found += [path for path in (Path(here, name) for name in files) if is_picture(path)]
    return sorted(found)


def left_out(folder: Path) -> list[Problem]:
    """A note for each kind of picture in a folder, or below it, that cannot be read and is passed over."""
    others = Counter(
        path.suffix.lower() for path in folder.rglob("*") if path.suffix.lower() in FOREIGN and path.is_file()
    )
    return [
        Problem("format", NOTE, f"{count} files {suffix} are passed over: not a format that is read", folder)
        for suffix, count in sorted(others.items())
    ]


def subfolders(folder: Path) -> list[Path]:
    """The folders right in a folder, hidden ones left out, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
