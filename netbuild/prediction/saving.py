"""Predictions kept in a folder: pictures and videos drawn, text rows, JSON, crops. A file is there whole or not."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from netbuild.data.fitting import Image
from netbuild.drawing import encoding
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.prediction.result import Result
from netbuild.system.files import make_folder, write_bytes, writing
from netbuild.system.packages import cv2
from netbuild.tasks.base import Task

KINDS = ("pictures", "txt", "json", "crops")


def chosen(text: str | None, task: Task) -> tuple[str, ...]:
    """Forms to keep, from a list with commas: the task's usual one unless given, ``none`` for none.

    Raises:
        NetbuildError: for one that there is not, or that the task has not.
    """
    if text is None:
        return task.saves[:1]
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if word not in (*KINDS, "none"):
            hint = did_you_mean(word, (*KINDS, "none")) or f"there is {', '.join(KINDS)}, none"
            raise NetbuildError(f"--save: there is no form '{word}'", hint=hint)
        if word not in (*task.saves, "none"):
            raise NetbuildError(
                f"--save {word}: the task '{task.name}' has none", hint=f"it has {', '.join(task.saves)}"
            )
    if "none" in words and len(words) > 1:
        raise NetbuildError(f"--save {text}: none goes with nothing else")
    return () if words == ("none",) else words


def check_folder(folder: Path) -> None:
    """Refuse a folder in which something is: what is there might be the very pictures.

    Raises:
        NetbuildError: if there is, or it cannot be a folder.
    """
    with writing(folder):
        if folder.exists() and any(folder.iterdir()):
            raise NetbuildError(f"{folder}: the folder is not empty", hint="name a new folder")


def document(task: Task, results: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """All results as one JSON document: each picture's path, width, height and records; and what could not be read."""
    return {"task": task.name, "names": task.names, "pictures": list(results), "failed": list(failed)}


class Writer:
    """Keeps results as they come. Used in a ``with``; a video that an error breaks off leaves no file.

    Args:
        folder: where; it is made when the first file is written.
        kinds: what is kept of each result, as `chosen` gives it.

    Raises:
        NetbuildError: if a file cannot be written.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder, self.kinds = folder, kinds
        self.names = Names()
        self.video: Video | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close_video(whole=error is None)

    def add(self, result: Result) -> None:
        """Keep what is wanted of a result."""
        if self.video and self.video.source != result.path:
            self._close_video()
        own = result.path.stem if result.frame is None else f"{self._video_of(result)}-{result.frame:06}"
        stem = self.names.new(own)
        if "pictures" in self.kinds:
            self._picture(result, stem)
        if "txt" in self.kinds:
            rows = result.task.rows(result.records, result.size)
            put(self.folder / "labels" / f"{stem}.txt", "".join(f"{row}\n" for row in rows).encode())
        if "crops" in self.kinds:
            for number, (name, part) in enumerate(result.task.crops(result.view.image, result.records), 1):
                encoding.save(part, self.folder / "crops" / safe(name) / f"{stem}-{number}.png")

    def end(self, data: Mapping[str, Any]) -> None:
        """Keep the JSON document of all results, if it is wanted."""
        if "json" in self.kinds:
            put(self.folder / "results.json", json.dumps(data, indent=1).encode())

    def _picture(self, result: Result, stem: str) -> None:
        if self.video:
            self.video.add(result.plot())
            return
        ending = ".jpg" if result.path.suffix.lower() in encoding.JPEG else ".png"
        encoding.save(result.plot(), self.folder / f"{stem}{ending}")

    def _video_of(self, result: Result) -> str:
        if self.video is None:
            name = self.names.new(result.path.stem)
            self.video = Video(result.path, self.folder / f"{name}.mp4", result.fps or 25.0)
        return self.video.file.stem

    def _close_video(self, whole: bool = True) -> None:
        if self.video:
            self.video.close(whole)
        self.video = None


class Video:
    """An .mp4 that is written frame by frame; the first frame says its size.

    Args:
        source: the video that the frames are of.
        file: what is written.
        fps: frames a second.
    """

    def __init__(self, source: Path, file: Path, fps: float) -> None:
        self.source, self.file, self.fps = source, file, fps
        self.draft = file.with_name(f".{file.stem}.{os.getpid()}.new.mp4")  # OpenCV tells the form by the ending
        self.writer: Any = None
        self.count = 0

    def add(self, image: Image) -> None:
        """Write a frame (H, W, 3); an odd side is made even, as the form wants it."""
        h, w = image.shape[:2]
        even = cv2().copyMakeBorder(image, 0, h % 2, 0, w % 2, cv2().BORDER_REPLICATE)
        if self.writer is None:
            self.writer = self._started(even)
        self.writer.write(cv2().cvtColor(even, cv2().COLOR_RGB2BGR))
        self.count += 1

    def _started(self, image: Image) -> Any:
        make_folder(self.file.parent)
        code = cv2().VideoWriter.fourcc(*"mp4v")
        writer = cv2().VideoWriter(str(self.draft), code, self.fps, (image.shape[1], image.shape[0]))
        if not writer.isOpened():
            raise NetbuildError(f"{self.file}: OpenCV cannot write this video", hint="--save json keeps its records")
        return writer

    def close(self, whole: bool) -> None:
        """End the file; one that is not whole is removed."""
        if self.writer is None:
            return
        self.writer.release()
        good = whole and self._is_complete()
        with writing(self.file):
            if good:
                self.draft.replace(self.file)
            else:
                self.draft.unlink(missing_ok=True)
        if whole and not good:
            raise NetbuildError(f"{self.file}: cannot be written: not all of it was, as on a disk that is full")

    def _is_complete(self) -> bool:
        """Whether all frames can be found in the file: OpenCV does not say when it fails to write."""
        video = cv2().VideoCapture(str(self.draft))
        try:
            return bool(video.isOpened() and video.get(cv2().CAP_PROP_FRAME_COUNT) >= self.count)
        finally:
            video.release()


class Names:
    """Names of files, no two of them the same even where letters' case does not count."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}  # and the number that its next namesake may have

    def new(self, stem: str) -> str:
        """The stem, or where it is taken stem-2, stem-3, ..."""
        name, number = stem, self.taken.get(stem.casefold(), 2)
        while name.casefold() in self.taken:
            name, number = f"{stem}-{number}", number + 1
        self.taken[stem.casefold()] = number
        self.taken.setdefault(name.casefold(), 2)
        return name


def safe(name: str) -> str:
    """A class's name as the name of a folder on any system."""
    plain = re.sub(r"[^\w.-]+", "_", name)[:80].strip(".")
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain)
    return f"_{plain}" if reserved or not plain else plain


def put(file: Path, data: bytes) -> None:
    """Write a file under another name, and rename it when it is whole.

    Raises:
        NetbuildError: if it cannot be written.
    """
    make_folder(file.parent)
    write_bytes(file, data)
