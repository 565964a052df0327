"""Save tracks into a folder: annotated videos, result files of MOTChallenge, and JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from netbuild.drawing.video import VideoWriter
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.prediction.saving import UniqueNames
from netbuild.system.files import make_folder, write_bytes
from netbuild.tracking.mot_files import format_rows
from netbuild.tracking.result import TrackedResult
from netbuild.tracking.video import VideoTracks

KINDS = ("video", "mot", "json")


def parse_kinds(text: str | None, default: str, has_pictures: bool = True) -> tuple[str, ...]:
    """Parse the value of --save: kinds of files separated by commas, or ``none``.

    Args:
        text: the value; None means the default.
        default: the kind that is saved then.
        has_pictures: whether there are pictures to draw on.

    Raises:
        NetbuildError: for an unknown kind, or a video where there are no pictures.
    """
    words = tuple(dict.fromkeys(word.strip() for word in (default if text is None else text).split(",")))
    for word in words:
        if word not in (*KINDS, "none"):
            hint = did_you_mean(word, (*KINDS, "none")) or f"known kinds: {', '.join(KINDS)}, none"
            raise NetbuildError(f"--save: unknown kind '{word}'", hint=hint)
        if word == "video" and not has_pictures:
            raise NetbuildError("--save video: a file of detections has no pictures", hint="it saves mot, json")
    if "none" in words and len(words) > 1:
        raise NetbuildError(f"--save {text}: none excludes all other kinds")
    return () if words == ("none",) else words


class TrackWriter:
    """Context manager that writes tracks into a folder as they come; if an error ends it, an open video is removed.

    Args:
        folder: the folder, which is created with the first file.
        kinds: kinds of files to write, from `parse_kinds`.

    Raises:
        NetbuildError: if a file cannot be written.
    """

    def __init__(self, folder: Path, kinds: Sequence[str]) -> None:
        self.folder, self.kinds = folder, kinds
        self.names = UniqueNames()
        self.tracks: VideoTracks | None = None  # of the video that is being written
        self.stem = ""
        self.video: VideoWriter | None = None

    def __enter__(self) -> "TrackWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end_video(complete=error is None)

    def add(self, tracks: VideoTracks, result: TrackedResult | None = None) -> None:
        """Write the next frame, which the tracks have already; with a result also its picture."""
        if self.tracks is not tracks:
            self._end_video()
            self.tracks, self.stem = tracks, self.names.make(tracks.name)
        if result is not None and "video" in self.kinds:
            if self.video is None:
                self.video = VideoWriter(self.folder / f"{self.stem}.mp4", result.fps or 25.0, "use --save mot")
            self.video.add(result.plot())

    def end(self, data: Mapping[str, Any]) -> None:
        """Write the JSON document of all results, if JSON is among the kinds."""
        if "json" in self.kinds:
            self._write("results.json", json.dumps(data, indent=1))

    def _end_video(self, complete: bool = True) -> None:
        if self.video is not None:
            self.video.close(complete)
        if self.tracks is not None and complete and "mot" in self.kinds:
            self._write(f"{self.stem}.txt", format_rows(self.tracks.to_rows()))
        self.video = self.tracks = None

    def _write(self, name: str, text: str) -> None:
        make_folder(self.folder)
        write_bytes(self.folder / name, text.encode())
