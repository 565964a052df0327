"""Videos of scenes, with the true track of each object in the text format of MOTChallenge (arXiv 1603.00831)."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from netbuild.data.images import pillow
from netbuild.data.shapes.placing import make_scene
from netbuild.data.shapes.scene import Frame
from netbuild.drawing.video import VideoWriter
from netbuild.errors import NetbuildError
from netbuild.system.files import make_folder, temporary_folder, write_text, writing

FPS = 25
SIZE = (320, 240)  # width and height of a video
Progress = Callable[[int, int], None]


def write_video(
    path: str | Path,
    count: int = 100,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    progress: Progress | None = None,
) -> Path:
    """Write a video of moving shapes and the true tracks of its objects; return the file of the tracks.

    Args:
        path: ``NAME.mp4`` for a video file, whose tracks are in ``NAME.gt.txt`` beside it; any other path becomes a
            folder as MOTChallenge has it, with the frames ``img1/000001.png``, ``gt/gt.txt`` and ``seqinfo.ini``.
        count: of frames, at 25 a second.
        seed: of the scene.
        size: width and height in pixels.
        progress: called after each frame with the number done and the total.

    Raises:
        NetbuildError: if there is something at the path, or it cannot be written.
        MissingExtraError: if OpenCV, for a video file, or Pillow, for a folder, is not installed.
    """
    path = Path(path)
    for file in (path, *([tracks_file(path)] if path.suffix.lower() == ".mp4" else [])):
        if file.exists():
            raise NetbuildError(f"{file}: is there already", hint="choose a new name")
    if count < 1 or min(size) < 32:
        raise NetbuildError(f"a video has at least 1 frame of 32 x 32 pixels, not {count} of {size[0]} x {size[1]}")
    frames = _report(make_scene((seed,), size, max(count, 2)).frames(count), count, progress)
    return _write_file(path, frames) if path.suffix.lower() == ".mp4" else _write_folder(path, frames, count, size)


def tracks_file(video: Path) -> Path:
    """Return the file of a video file's tracks, which is beside it."""
    return video.with_name(f"{video.stem}.gt.txt")


def track_rows(frame: Frame, number: int) -> str:
    """Return the rows of a frame: its number, track, x, y, width, height, 1, class and visible share.

    Boxes are in pixels around what is seen, as in the labels of the data sets; frames, tracks and classes count from 1.
    An object of which too little is seen to be labelled has no row.
    """
    rows = []
    for found in sorted(frame.objects, key=lambda found: found.track):
        x1, y1, x2, y2 = found.box
        box = ",".join(f"{value:.2f}" for value in (x1, y1, x2 - x1, y2 - y1))
        rows.append(f"{number},{found.track},{box},1,{found.label + 1},{found.visible:.3f}\n")
    return "".join(rows)


def _report(frames: Iterator[Frame], count: int, progress: Progress | None) -> Iterator[Frame]:
    """Yield the frames on, calling ``progress`` after each."""
    for done, frame in enumerate(frames, 1):
        yield frame
        if progress:
            progress(done, count)


def _write_file(path: Path, frames: Iterable[Frame]) -> Path:
    """Write a video file and the file of its tracks."""
    writer, rows, complete = VideoWriter(path, FPS, "name a folder instead of an .mp4 file"), "", False
    try:
        for number, frame in enumerate(frames, 1):
            writer.add(frame.picture)
            rows += track_rows(frame, number)
        complete = True
    finally:
        writer.close(complete)
    write_text(tracks_file(path), rows)
    return tracks_file(path)


def _write_folder(path: Path, frames: Iterable[Frame], count: int, size: tuple[int, int]) -> Path:
    """Write a sequence as MOTChallenge has it."""
    facts = {"name": path.name, "imDir": "img1", "frameRate": FPS, "seqLength": count}
    facts |= {"imWidth": size[0], "imHeight": size[1], "imExt": ".png"}
    make_folder(path.parent)
    with temporary_folder(path) as made, writing(path):
        for name in ("img1", "gt"):
            (made / name).mkdir()
        rows = ""
        for number, frame in enumerate(frames, 1):
            pillow().fromarray(frame.picture).save(made / "img1" / f"{number:06}.png", compress_level=1)
            rows += track_rows(frame, number)
        write_text(made / "gt" / "gt.txt", rows)
        write_text(made / "seqinfo.ini", "[Sequence]\n" + "".join(f"{key}={value}\n" for key, value in facts.items()))
        os.chmod(made, 0o755)  # temporary folders are readable by their owner alone
        os.replace(made, path)
    return path / "gt" / "gt.txt"
