"""Read and write the text files of MOTChallenge: true tracks (``gt.txt``), detections (``det.txt``), and results."""

from collections.abc import Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass
from glob import glob, has_magic
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.errors import NetbuildError, Where, shorten
from netbuild.grammar.keys import MAX_SIDE
from netbuild.prediction.sources import VIDEOS
from netbuild.system.files import refuse_special
from netbuild.tasks.view import Record

Array = NDArray[Any]

LEAST_COLUMNS = 6  # frame, id, left, top, width, height
CLASS_COLUMN = 7  # counted from 0
MAX_BYTES = 2**30
NO_NUMBER = -1  # in the place of an id or a class that is not known
INFO_NAMES = ("imHeight", "imWidth", "seqLength", "frameRate")  # in seqinfo.ini
MAX_FPS = 1000
MAX_NUMBER = 2**31  # of frames, ids and classes


@dataclass(frozen=True)
class TrackRows:
    """The rows of one file, ordered by frame.

    Attributes:
        frames: (N,) numbers of frames, from 1.
        ids: (N,) numbers of the tracks; -1 in detections.
        boxes: (N, 4) left, top, right, bottom in pixels.
        scores: (N,) confidences; in a file of true tracks 0 for rows that do not count. 1 where the file has none.
        classes: (N,) numbers of the classes as in the file, usually from 1; -1 where the file has none.
    """

    frames: Array
    ids: Array
    boxes: Array
    scores: Array
    classes: Array

    def __len__(self) -> int:
        return len(self.frames)

    def select(self, chosen: Array) -> "TrackRows":
        """Return the rows that a mask (N,) or numbers of rows choose."""
        return TrackRows(
            self.frames[chosen], self.ids[chosen], self.boxes[chosen], self.scores[chosen], self.classes[chosen]
        )

    def split_frames(self, count: int) -> list[Array]:
        """Return the numbers of the rows of each of the frames 1 to ``count``."""
        return np.split(np.arange(len(self)), np.searchsorted(self.frames, np.arange(2, count + 1)))


def read_rows(path: Path, tracks: bool = True) -> TrackRows:
    """Read a file of MOTChallenge: ``frame, id, left, top, width, height, confidence, class, visibility, ...``.

    Columns are separated by commas or blanks; those from the seventh on may be missing. Files of MOT15 have three
    coordinates in the place of class and visibility: with ten or more columns a class is read only if the last two are
    -1, as in results.

    Args:
        path: the file.
        tracks: whether its rows are tracks, of which a frame has each at most once.

    Raises:
        NetbuildError: at the line that is wrong.
    """
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if line.strip():
            rows.append(_parse_line(line, Where(str(path), number, 1, line)))
    values = np.array(rows, dtype=float).reshape(-1, 8)
    values = values[np.argsort(values[:, 0], kind="stable")]
    frames, ids = values[:, 0].astype(int), values[:, 1].astype(int)
    if tracks:
        _refuse_repetitions(path, frames, ids)
    corners = np.concatenate((values[:, 2:4], values[:, 2:4] + values[:, 4:6]), 1)
    return TrackRows(frames, ids, corners, values[:, 6], values[:, 7].astype(int))


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise NetbuildError(f"{path}: is a folder", hint="name a file, or a pattern in quotes: 'mot/*/gt.txt'")
        if reason := refuse_special(path):
            raise NetbuildError(f"{path}: {reason}")
        if path.stat().st_size > MAX_BYTES:
            raise NetbuildError(f"{path}: larger than {MAX_BYTES // 2**30} GiB")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise NetbuildError(f"{path}: is no text file", hint="files of MOTChallenge are lines of numbers") from None


def _parse_line(line: str, where: Where) -> list[float]:
    """Return frame, id, left, top, width, height, confidence and class of a line."""
    texts = line.replace(",", " ").split()
    if len(texts) < LEAST_COLUMNS:
        message = f"{len(texts)} columns; a row has frame, id, left, top, width, height, and may have more"
        raise NetbuildError(message, where, "columns are separated by commas")
    try:
        values = [float(text) for text in texts]
    except ValueError:
        raise NetbuildError("a column is no number", where, "files of MOTChallenge have no heading") from None
    frame, track, *box = values[:LEAST_COLUMNS]
    if not all(map(isfinite, values)):
        raise NetbuildError("a column is NaN or infinite", where)
    if frame != int(frame) or not 1 <= frame < MAX_NUMBER:
        raise NetbuildError(f"the frame {texts[0]} is no whole number from 1", where)
    if track != int(track) or abs(track) >= MAX_NUMBER:
        raise NetbuildError(f"the id {texts[1]} is no whole number", where)
    if min(box[2:]) < 0:
        raise NetbuildError("the width or the height is negative", where, "boxes are left, top, width, height")
    has_class = len(values) in (8, 9) or (len(values) > 9 and values[8:10] == [-1, -1])
    label = values[CLASS_COLUMN] if has_class else NO_NUMBER
    if label != int(label) or abs(label) >= MAX_NUMBER:
        raise NetbuildError(f"the class {texts[CLASS_COLUMN]} is no whole number", where)
    return [frame, track, *box, values[6] if len(values) > 6 else 1.0, label]


def _refuse_repetitions(path: Path, frames: Array, ids: Array) -> None:
    """Raise an error if a frame has two rows of one track."""
    pairs, counts = np.unique(np.stack((frames, ids)), axis=1, return_counts=True)
    if (counts > 1).any():
        frame, track = pairs[:, counts > 1][:, 0]
        hint = "these are detections, not tracks: use --detections" if track == NO_NUMBER else ""
        raise NetbuildError(f"{path}: the id {track} occurs twice in frame {frame}", hint=hint)


def make_records(rows: TrackRows) -> list[Record]:
    """Return detections of one frame as the records of a task with boxes; classes count from 0, without names."""
    return [
        {"class": max(label - 1, 0), "name": str(max(label - 1, 0)), "confidence": score, "box": box}
        for label, score, box in zip(rows.classes.tolist(), rows.scores.tolist(), rows.boxes.tolist(), strict=True)
    ]


def format_rows(rows: TrackRows) -> str:
    """Return the lines of a result file: ``frame,id,left,top,width,height,confidence,class,-1,-1``."""
    lines = []
    for frame, track, (x1, y1, x2, y2), score, label in zip(
        rows.frames.tolist(), rows.ids.tolist(), rows.boxes.tolist(), rows.scores.tolist(), rows.classes.tolist(),
        strict=True,
    ):  # fmt: skip
        box = ",".join(f"{value:.2f}" for value in (x1, y1, x2 - x1, y2 - y1))
        lines.append(f"{frame},{track},{box},{score:.4f},{label},-1,-1\n")
    return "".join(lines)


# -- several sequences ------------------------------------------------------------------------------------------------


def list_paths(names: Sequence[str], flag: str) -> list[Path]:
    """List the files that names and glob patterns stand for, in order, each once.

    Raises:
        NetbuildError: for a name or a pattern without a file; ``flag`` is named in the message.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if path.exists():
            found.append(path)
        elif has_magic(name):
            matches = sorted(map(Path, glob(str(path), recursive=True)))
            if not matches:
                raise NetbuildError(f"--{flag} '{name}' matches no file")
            found += matches
        else:
            raise NetbuildError(f"--{flag} {name}: there is no such file")
    return list(dict.fromkeys(found))


def name_sequences(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the name of each file's sequence: the part in which the paths differ, such as a folder's name.

    ``train/A/gt/gt.txt`` and ``train/B/gt/gt.txt`` are the sequences A and B, and so are ``A.txt`` and ``B.txt``. A
    single file has the name of its folder if it is called ``gt``, ``det`` or the like, else its own.

    Raises:
        NetbuildError: if the paths differ in several parts, so that names would not be unique.
    """
    parts = [_split_path(path) for path in paths]
    if len(paths) == 1:
        return {name_sequence(paths[0]): paths[0]}
    longest = max(map(len, parts))
    padded = [("",) * (longest - len(part)) + part for part in parts]
    differing = [i for i in range(longest) if len({part[i] for part in padded}) > 1]
    names = {part[differing[-1]]: path for part, path in zip(padded, paths, strict=True)} if differing else {}
    if len(names) != len(paths):
        listed = ", ".join(map(str, paths[:3]))
        raise NetbuildError(f"the sequences of these files have no names of their own: {listed}")
    return names


def _split_path(path: Path) -> tuple[str, ...]:
    is_file = path.suffix.lower() in (*VIDEOS, ".txt")  # names of folders may have dots
    return (*path.absolute().parts[:-1], path.stem.removesuffix(".gt") if is_file else path.name)


def name_sequence(path: Path) -> str:
    """Return the last part of a path that is not the name of a kind of file or folder in MOTChallenge's layout."""
    parts = _split_path(path)
    return next((part for part in reversed(parts) if part not in ("gt", "det", "img1")), parts[-1])


@dataclass(frozen=True)
class SequenceInfo:
    """What ``seqinfo.ini`` tells of a video; None where it does not.

    Attributes:
        size: height and width of its frames in pixels.
        length: number of its frames.
        fps: frames per second.
    """

    size: tuple[int, int] | None = None
    length: int | None = None
    fps: float | None = None


def read_sequence_info(path: Path) -> SequenceInfo:
    """Read the ``seqinfo.ini`` beside a file or folder of MOTChallenge or one level above; all None without it."""
    for folder in (path, *path.absolute().parents[:2]):
        file = folder / "seqinfo.ini"
        if file.is_file():
            parser = ConfigParser(interpolation=None)
            try:
                parser.read_string(_read_text(file), str(file))
                values = {name: float(parser["Sequence"].get(name, "0")) for name in INFO_NAMES}
            except (ConfigError, KeyError, ValueError) as error:
                raise NetbuildError(f"{file}: cannot be read: {shorten(error, 100)}") from None
            height, width, length, fps = (max(value, 0) for value in values.values())
            size = (int(height), int(width)) if 1 <= min(height, width) <= max(height, width) <= MAX_SIDE else None
            return SequenceInfo(size, int(length) or None, fps if 0 < fps <= MAX_FPS else None)
    return SequenceInfo()
