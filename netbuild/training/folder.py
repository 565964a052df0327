"""The folder of a run: created whole, described by ``run.json``, and checked when the run is resumed."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.data.dataset import Sample
from netbuild.data.scanning import Report
from netbuild.errors import NetbuildError, shorten
from netbuild.system.files import atomic_path, make_folder, writing

DESCRIPTION = "run.json"


@dataclass(frozen=True)
class RunDescription:
    """What a run's folder says of the run.

    Attributes:
        data: where the data set was: an absolute path, or the name of an embedded data set.
        data_hash: `hash_data` of its splits; empty for runs of earlier versions.
    """

    data: str
    data_hash: str = ""

    def to_json(self) -> str:
        """Return the text of ``run.json``."""
        return json.dumps(asdict(self))


def read_description(folder: Path) -> RunDescription:
    """Read the description of the run in a folder.

    Raises:
        NetbuildError: if there is none, or it is damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        hint = "it never began: start it anew" if folder.is_dir() else "name the run's folder"
        raise NetbuildError(f"{folder}: there is no run to resume", hint=hint)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        values = [facts["data"], facts.get("data_hash", "")]
        if not all(isinstance(value, str) for value in values):
            raise ValueError("data and data_hash must be texts")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        hint = "start the run anew, with --weights of its last.safetensors if there is one"
        raise NetbuildError(f"{path}: is damaged: {shorten(error)}", hint=hint) from None
    return RunDescription(*values)


def check_new_folder(folder: Path) -> None:
    """Refuse a folder for a new run that has something in it, or cannot be created, before any work is done.

    Raises:
        NetbuildError: for such a folder, a path that is no folder, or one below a file or a read-only folder.
    """
    with writing(folder):
        if folder.is_symlink() and not folder.exists():
            raise NetbuildError(f"{folder}: is a link to {os.readlink(folder)}, which does not exist")
        above = next(path for path in folder.absolute().parents if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            reason = "cannot be written to" if above.is_dir() else "is no folder"
            raise NetbuildError(f"{folder}: cannot be created: {above} {reason}", hint="name another folder")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "the folder is not empty" if folder.is_dir() else "is no folder"
            raise NetbuildError(f"{folder}: {what}", hint=f"name a new folder, or --resume {folder}")


@contextmanager
def create_folder(folder: Path) -> Iterator[Path]:
    """Yield a draft of a run's folder, which becomes the folder when the block ends without an error.

    Whoever is killed meanwhile leaves no half of a run behind, only a draft, which the next run in that place removes.

    Raises:
        NetbuildError: if the folder cannot be written, or is not empty.
    """
    make_folder(folder.parent)
    remove_drafts(folder)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    with writing(folder):
        draft.mkdir()
    try:
        yield draft
        check_new_folder(folder)
        with writing(folder):
            if folder.is_dir():
                folder.rmdir()  # a rename onto an empty folder is not possible everywhere
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_drafts(folder: Path) -> None:
    """Remove the drafts of a run's folder whose processes have ended."""
    for draft in folder.parent.glob(f".{folder.name}.*.new"):
        number = draft.name.split(".")[-2]
        if number.isdecimal() and not _is_alive(int(number)):
            shutil.rmtree(draft, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's, or the system cannot tell
        return True
    return True


def hash_data(report: Report) -> str:
    """Return a hash of the samples that were scanned: names and sizes of the pictures, and their labels.

    It is the same wherever the data set lies.
    """
    digest = hashlib.blake2b(digest_size=16)
    for split, found in sorted(report.splits.items()):
        digest.update(split.encode())
        for sample in found.samples:
            digest.update(_describe_sample(sample))
    return digest.hexdigest()


def _describe_sample(sample: Sample) -> bytes:
    boxes: Any = b"" if sample.boxes is None else np.ascontiguousarray(sample.boxes, np.float64).tobytes()
    pixels = b"" if sample.pixels is None else hashlib.blake2b(sample.pixels.tobytes()).digest()
    values = [found.tobytes() for found in (sample.labels, sample.numbers) if found is not None]
    found = repr((sample.path.name, sample.size, sample.label)).encode(errors="replace")
    return b"".join((found, boxes, pixels, *values))


def write_results(path: Path, history: list[dict[str, float]]) -> None:
    """Write the numbers of all epochs as a CSV table, atomically.

    Raises:
        NetbuildError: if it cannot be written.
    """
    columns = list(dict.fromkeys(key for row in history for key in row))
    rows = [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in history]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
