"""The sources of prediction: find and read files, folders, glob patterns, lists on stdin, videos and cameras."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.data.fitting import Image
from netbuild.data.images import FOREIGN, UnreadableImageError, decode, from_pixels, is_picture, read_image
from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.prediction.cameras import Camera, find_camera, read_camera
from netbuild.system.files import refuse_special
from netbuild.system.packages import cv2

VIDEOS = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm"))
MAX_LIST = 2**26  # bytes of a list of names on stdin
FPS = 25.0  # assumed for a video that does not state its frame rate


@dataclass(frozen=True)
class Shot:
    """A picture, or a frame of a video.

    Args:
        path: the file; a made-up name for a picture that was given as data.
        pixels: (H, W, C) upright, RGB or with alpha.
        frame: number of the frame in its video, from 1.
        fps: frames per second of the video.
        is_live: whether it is from a camera, so that it must not wait for others.
    """

    path: Path
    pixels: Image
    frame: int | None = None
    fps: float | None = None
    is_live: bool = False


@dataclass(frozen=True)
class InMemory:
    """A picture that is given as data, not as a file.

    Args:
        path: a made-up name for messages and results.
        data: the bytes of a picture's file, decoded when its turn comes, or pixels (H, W, C).
    """

    path: Path
    data: bytes | Image


@dataclass(frozen=True)
class FrameList:
    """Pictures that are the frames of one video.

    Args:
        path: the folder, or another name for messages and results.
        frames: the pictures, in order; no videos.
        fps: frames per second.
    """

    path: Path
    frames: Sequence["Source"]
    fps: float = FPS


Source = Path | InMemory | FrameList | Camera


def find(names: str | Path | Iterable[str | Path]) -> list[Path | Camera]:
    """List the pictures, videos and cameras that are named, in order, each once.

    Args:
        names: as for `list_sources`; several of them in an iterable.

    Raises:
        NetbuildError: for a name that matches nothing, or if no name is given.
    """
    listed = [names] if isinstance(names, (str, Path)) else names
    found = [source for name in listed for source in list_sources(name)]
    if not found:
        raise NetbuildError("no pictures to predict on: nothing was named, or an empty list")
    once: dict[Any, Path | Camera] = {}
    for source in found:
        key = source if isinstance(source, Camera) else os.path.join(os.path.realpath(source.parent), source.name)
        once.setdefault(key, source)
    return list(once.values())


def list_sources(name: str | Path) -> list[Path | Camera]:
    """List the camera that a name means (see `find_camera`), or the pictures and videos as `list_files` does.

    Raises:
        NetbuildError: for a name that matches nothing.
    """
    camera = find_camera(str(name))
    return [camera] if camera else [*list_files(name)]


def list_files(name: str | Path) -> list[Path]:
    """List the pictures and videos that one name stands for.

    Args:
        name: a file, a folder (the pictures directly in it, 2.png before 10.png), a glob pattern such as
            ``shots/**/*.jpg``, or ``-`` for a list on stdin: a name per line, or names that end in null bytes, as
            ``find -print0`` writes them.

    Raises:
        NetbuildError: for a name that matches nothing.
    """
    return _read_stdin() if str(name) == "-" else _list_path(str(name))


def is_video(path: Path) -> bool:
    """Return whether a file's ending is that of a video."""
    return path.suffix.lower() in VIDEOS


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Return a sorting key that orders the numbers in names by their value."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", str(path)) if part]


def _read_stdin() -> list[Path]:
    """List the files named on stdin.

    Raises:
        NetbuildError: for a list that is too large, or a name that matches nothing.
    """
    stream: Any = getattr(sys.stdin, "buffer", sys.stdin)
    data = stream.read(MAX_LIST + 1)
    if len(data) > MAX_LIST:
        raise NetbuildError(f"stdin: a list of more than {MAX_LIST // 2**20} MiB of names")
    text = os.fsdecode(data)
    lines = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    return [file for line in lines if line.strip() for file in _list_path(line)]


def _list_path(name: str) -> list[Path]:
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return _list_folder(path)
        if path.exists():
            return [path]
    except (OSError, ValueError) as error:  # too long, a null byte
        raise NetbuildError(
            f"{shorten(name, 200)}: cannot be accessed: {getattr(error, 'strerror', None) or error}"
        ) from None
    if glob.has_magic(name):
        return _list_matches(str(path), name)
    raise _missing_error(path, name)


def _list_folder(folder: Path) -> list[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise NetbuildError(f"{folder}: cannot be read: {error.strerror or error}") from None
    found = sorted((path for path in entries if is_picture(path) and _is_no_folder(path)), key=natural_key)
    if not found:
        hint = f"for pictures in its subfolders: '{folder}/**/*'" if any(path.is_dir() for path in entries) else ""
        foreign = sorted({path.suffix.lower() for path in entries} & FOREIGN)
        hint = f"{', '.join(foreign)} is not read: convert these pictures to JPEG or PNG" if foreign else hint
        raise NetbuildError(f"{folder}: this folder has no pictures", hint=hint)
    return found


def _is_no_folder(path: Path) -> bool:
    """Whether a path is a file, or a FIFO or device, which reading refuses by name."""
    return path.exists() and not path.is_dir()


def _list_matches(pattern: str, name: str) -> list[Path]:
    try:
        paths = sorted(set(_expand(pattern)), key=natural_key)
    except (OSError, ValueError, re.error) as error:
        raise NetbuildError(f"{shorten(name, 200)}: cannot be searched: {shorten(error, 100)}") from None
    found = [path for path in paths if (is_picture(path) or is_video(path)) and _is_no_folder(path)]
    if not found:
        raise NetbuildError(f"'{name}' matches no picture and no video" + (f", only {paths[0]}" if paths else ""))
    return found


def _expand(pattern: str) -> Iterator[Path]:
    """Yield the paths that match a glob pattern; ``**`` enters each folder once, although links lead to it again."""
    before, stars, after = pattern.partition("**")
    if not stars or (before and not before.endswith(("/", os.sep))) or (after and not after.startswith(("/", os.sep))):
        yield from map(Path, glob.glob(pattern))
        return
    rest, seen = after.lstrip("/" + os.sep), set[str]()
    for root in glob.glob(before) if before else [""]:
        for folder, names, files in os.walk(root or ".", followlinks=True):
            if (real := os.path.realpath(folder)) in seen:
                names.clear()
                continue
            seen.add(real)
            names[:] = sorted(name for name in names if not name.startswith("."))
            place = os.path.normpath(folder) if root else os.path.relpath(folder, ".")
            if rest:
                yield from _expand(os.path.join(glob.escape(place), rest) if place != "." else rest)
            else:
                yield from (Path(place, name) for name in files if not name.startswith("."))


def _missing_error(path: Path, name: str) -> NetbuildError:
    if re.match(r"[a-z]+://", name):
        return NetbuildError(f"'{name}': pictures are not downloaded", hint="save it as a file and give its path")
    try:
        siblings = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return NetbuildError(f"there is no '{name}', nor a folder {path.parent}")
    return NetbuildError(f"there is no picture, folder or video '{name}'", hint=did_you_mean(path.name, siblings))


# -- reading ----------------------------------------------------------------------------------------------------------


def read_shots(source: Source, alpha: bool = False) -> Iterator[Shot]:
    """Read a picture, or the frames of a video or camera, as RGB; with ``alpha`` as RGBA.

    Raises:
        UnreadableImageError: if the picture cannot be read, or the video not to its end.
        MissingExtraError: if a package that reads it is not installed.
    """
    if isinstance(source, FrameList):
        for number, frame in enumerate(source.frames, 1):
            for shot in read_shots(frame, alpha):
                yield replace(shot, path=source.path, frame=number, fps=source.fps)
        return
    if isinstance(source, Camera):
        for number, (pixels, rate) in enumerate(read_camera(source), 1):
            yield Shot(source.path, _with_alpha(pixels) if alpha else pixels, number, rate or FPS, is_live=True)
        return
    channels, path = 4 if alpha else 3, source if isinstance(source, Path) else source.path
    if isinstance(source, InMemory):
        data = source.data
        pixels = decode(data, str(path), channels) if isinstance(data, bytes) else from_pixels(data, channels)
        yield Shot(path, pixels)
        return
    if not is_video(path):
        yield Shot(path, read_image(path, channels))
        return
    with _open_video(path) as video:
        rate = video.get(cv2().CAP_PROP_FPS)
        fps = rate if isfinite(rate) and 0 < rate <= 1000 else FPS
        count = 0
        for count, pixels in enumerate(_frames(video), 1):
            yield Shot(path, _with_alpha(pixels) if alpha else pixels, count, fps)
        stated = video.get(cv2().CAP_PROP_FRAME_COUNT)
    # The number of frames that a container states may be slightly wrong.
    if not count or (isfinite(stated) and count + max(2, 0.05 * stated) < stated):
        raise UnreadableImageError(f"{path}: broken or cut off: {count} of {stated:.0f} frames can be read")


@contextmanager
def _open_video(path: Path) -> Iterator[Any]:
    try:
        if reason := refuse_special(path):
            raise UnreadableImageError(f"{path}: {reason}")
        path.open("rb").close()  # raises an error with the reason, which OpenCV does not give
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read: {error.strerror or error}") from None
    video = cv2().VideoCapture(str(path))
    try:
        if not video.isOpened():
            raise UnreadableImageError(f"{path}: OpenCV cannot open this video")
        yield video
    finally:
        video.release()


def _frames(video: Any) -> Iterator[Image]:
    while True:
        is_read, pixels = video.read()
        if not is_read:
            return
        yield cv2().cvtColor(pixels, cv2().COLOR_BGR2RGB)


def _with_alpha(pixels: Image) -> Image:
    return np.concatenate((pixels, np.full_like(pixels[..., :1], 255)), 2)
