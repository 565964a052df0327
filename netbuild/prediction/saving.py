"""Save predictions into a folder: annotated pictures and videos, label files, JSON and crops."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from netbuild.drawing import encoding
from netbuild.drawing.video import VideoWriter
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.prediction.result import Result
from netbuild.system.files import make_folder, write_bytes, writing
from netbuild.tasks.base import Task
from netbuild.tasks.restore import RestoreTask

# labels: as txt, without confidence; beside: the picture before and after restoration
KINDS = ("pictures", "txt", "labels", "json", "crops", "beside")


def parse_kinds(text: str | None, task: Task) -> tuple[str, ...]:
    """Parse the value of --save: kinds of files separated by commas, or ``none``.

    Args:
        text: the value; None means the task's default kind.
        task: the task, whose ``saves`` are the kinds that it has.

    Raises:
        NetbuildError: for an unknown kind, or one that the task does not have.
    """
    if text is None:
        return task.saves[:1]
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if word not in (*KINDS, "none"):
            hint = did_you_mean(word, (*KINDS, "none")) or f"known kinds: {', '.join(KINDS)}, none"
            raise NetbuildError(f"--save: unknown kind '{word}'", hint=hint)
        if word not in (*task.saves, "none"):
            raise NetbuildError(
                f"--save {word}: the task '{task.name}' cannot save it", hint=f"it saves {', '.join(task.saves)}"
            )
    if "none" in words and len(words) > 1:
        raise NetbuildError(f"--save {text}: none excludes all other kinds")
    if {"txt", "labels"} <= {*words}:
        raise NetbuildError(f"--save {text}: txt and labels are the same files, with and without confidence")
    return () if words == ("none",) else words


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not empty: its files would be overwritten, and they may be the pictures themselves.

    Raises:
        NetbuildError: if the folder is not empty, or the path is not a folder.
    """
    with writing(folder):
        if folder.exists() and any(folder.iterdir()):
            raise NetbuildError(f"{folder}: the folder is not empty", hint="name a new folder")


def make_document(
    task: Task, results: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Return all results as one JSON document.

    Args:
        task: the task.
        results: `Result.to_dict` of each picture.
        failed: path and error of each picture that could not be read.
    """
    heads = {name: {"task": part.name, "names": part.names} for name, part in task.parts.items()}
    found = {"task": task.name, "names": task.names, **({"heads": heads} if heads else {})}
    return {**found, "pictures": list(results), "failed": list(failed)}


class Writer:
    """Context manager that writes results into a folder as they come; if an error ends it, an open video is removed.

    Args:
        folder: the folder, which is created with the first file.
        kinds: kinds of files to write for each result, from `parse_kinds`.

    Raises:
        NetbuildError: if a file cannot be written.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder, self.kinds = folder, kinds
        self.names = UniqueNames()
        self.video: VideoWriter | None = None
        self.video_source: Path | None = None  # the video that the frames come from

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close_video(complete=error is None)

    def add(self, result: Result) -> None:
        """Write the files of a result."""
        if self.video and self.video_source != result.path:
            self._close_video()
        name = result.path.stem if result.frame is None else f"{self._open_video(result)}-{result.frame:06}"
        stem = self.names.make(name)
        if "pictures" in self.kinds:
            self._write_picture(result, stem)
        if "beside" in self.kinds and isinstance(result.task, RestoreTask):
            drawing = result.task.draw_beside(result.view.image, result.prediction, result.records)
            encoding.save(drawing.render(), self.folder / "beside" / f"{stem}.png")
        for head, part in (result.heads or {"": result}).items():  # each head has a folder in those of its kinds
            if "txt" in part.task.saves and ("txt" in self.kinds or "labels" in self.kinds):
                self._write_labels(part, self.folder / "labels" / head / f"{stem}.txt")
            if "crops" in part.task.saves and "crops" in self.kinds:
                self._write_crops(part, self.folder / "crops" / head, stem)

    def end(self, data: Mapping[str, Any]) -> None:
        """Write the JSON document of all results, if JSON is among the kinds."""
        if "json" in self.kinds:
            _write(self.folder / "results.json", json.dumps(data, indent=1).encode())

    def _write_labels(self, result: Result, file: Path) -> None:
        make_rows = result.task.label_rows if "labels" in self.kinds else result.task.rows
        rows = make_rows(result.records, result.size)
        _write(file, "".join(f"{row}\n" for row in rows).encode())

    def _write_crops(self, result: Result, folder: Path, stem: str) -> None:
        for number, (name, part) in enumerate(result.task.crops(result.view.image, result.records), 1):
            encoding.save(part, folder / safe_folder_name(name) / f"{stem}-{number}.png")

    def _write_picture(self, result: Result, stem: str) -> None:
        if self.video:
            self.video.add(result.plot())
            return
        # A restored picture is the result itself, which JPEG would spoil.
        is_jpeg = result.path.suffix.lower() in encoding.JPEG and not isinstance(result.task, RestoreTask)
        ending = ".jpg" if is_jpeg else ".png"
        encoding.save(result.plot(), self.folder / f"{stem}{ending}")

    def _open_video(self, result: Result) -> str:
        """Return the file stem of the video that a frame belongs to; it is opened with the first frame."""
        if self.video is None:
            name = self.names.make(result.path.stem)
            hint = "use --save json for its records"
            self.video = VideoWriter(self.folder / f"{name}.mp4", result.fps or 25.0, hint)
            self.video_source = result.path
        return self.video.file.stem

    def _close_video(self, complete: bool = True) -> None:
        if self.video:
            self.video.close(complete)
        self.video = None


class UniqueNames:
    """Makes unique file names, which differ even on file systems that ignore case."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}  # each name with the number to try for the next file of the same name

    def make(self, stem: str) -> str:
        """Return the stem, or stem-2, stem-3, ... if it is taken."""
        name, number = stem, self.taken.get(stem.casefold(), 2)
        while name.casefold() in self.taken:
            name, number = f"{stem}-{number}", number + 1
        self.taken[stem.casefold()] = number
        self.taken.setdefault(name.casefold(), 2)
        return name


def safe_folder_name(name: str) -> str:
    """Return the name of a class as a folder name that is valid on any system."""
    plain = re.sub(r"[^\w.-]+", "_", name)[:80].strip(".")
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain)
    return f"_{plain}" if reserved or not plain else plain


def _write(file: Path, data: bytes) -> None:
    """Write a file atomically, and create its folder.

    Raises:
        NetbuildError: if it cannot be written.
    """
    make_folder(file.parent)
    write_bytes(file, data)
