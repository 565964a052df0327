"""Find the file of a network by name: a path, else a packaged architecture, else either without its scale letter."""

import re
from collections.abc import Mapping
from pathlib import Path

from netbuild.errors import NetbuildError, did_you_mean, print_note_once
from netbuild.grammar.checkpoint_header import is_checkpoint, is_foreign

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".onnx")
SHOWN_FILES = 5  # most files that a hint names
# The checkpoints in the folder of a run, of netbuild and of Ultralytics, from the most wanted on.
RUN_CHECKPOINTS = ("best.safetensors", "weights/best.pt", "last.safetensors", "weights/last.pt")
_LETTER = re.compile(r"[a-z](?=$|[-_])")  # a letter at the end of the stem or before a separator: yolo11n-seg


def packaged_architectures() -> dict[str, Path]:
    """Find the packaged architectures: paths by file name."""
    here = Path(__file__).resolve().parents[1]
    # In a wheel the folder lies inside the package, in a checkout beside it.
    folder = next((p for p in (here / "architectures", here.parent / "architectures") if p.is_dir()), None)
    return {path.name: path for path in sorted(folder.rglob("*.yaml"))} if folder else {}


def is_file(path: Path) -> bool:
    """Whether a path is a file; False also for a path that is invalid or not accessible."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def find_run_checkpoint(folder: Path) -> Path | None:
    """Find the best checkpoint in the folder of a run, else the last; None for any other path."""
    return next((folder / name for name in RUN_CHECKPOINTS if is_file(folder / name)), None)


def find_checkpoint(name: str | Path) -> Path | None:
    """Find the checkpoint that a name means: itself, or that of a run's folder; None for a network file."""
    path = Path(name)
    return path if is_checkpoint(path) or is_foreign(path) else find_run_checkpoint(path)


def resolve_run_folder(path: Path) -> Path:
    """Return the checkpoint in the folder of a run, with a note that says so; any other path as it is.

    Raises:
        NetbuildError: for a folder without a checkpoint.
    """
    found = find_run_checkpoint(path)
    if found is not None:
        print_note_once(f"{path}: the run's {found.relative_to(path).as_posix()} is read")
        return found
    if _is_folder(path):
        reason = "the run in it has no checkpoint yet" if is_file(path / "run.json") else "it is no run of train"
        message = f"{path}: the folder has no {RUN_CHECKPOINTS[0]}: {reason}"
        raise NetbuildError(message, hint="name a network's file, a checkpoint, or the folder of a run")
    return path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def locate(name: str) -> tuple[Path, str | None]:
    """Find the file of a name, and the scale letter that had to be removed from the name to find it, if any.

    ``yolo11s-seg.yaml`` is the file of that name if there is one, else ``yolo11-seg.yaml`` with the letter ``s``. The
    folder of a run stands for its best checkpoint.

    Raises:
        NetbuildError: if there is no such file.
    """
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml"):
        if is_file(path):
            return path, None
        if find_run_checkpoint(path) is not None:
            return resolve_run_folder(path), None
        path = Path(f"{name}.yaml")
    architectures = packaged_architectures() if path.parent == Path() else {}
    for candidate, letter in ((path, None), *_without_letter(path)):
        found = candidate if is_file(candidate) else architectures.get(candidate.name)
        if found and (letter is None or _may_have_scales(found)):
            return found, letter
    resolve_run_folder(Path(name))  # an error, if it is a folder
    raise _make_missing_error(name, path, architectures)


def _may_have_scales(path: Path) -> bool:
    """Whether a file has scales, or another file that it extends may have them: resnet50d is no scale of resnet50."""
    try:
        return re.search(r"^\W*(scales|extends)\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (OSError, ValueError):  # reading the file reports what is wrong with it
        return True


def _make_missing_error(name: str, path: Path, architectures: Mapping[str, Path]) -> NetbuildError:
    """Return the error for a name without a file. A checkpoint's hint names files, a network's hint names networks."""
    suffix = Path(name).suffix.lower()
    if suffix in CHECKPOINT_SUFFIXES:
        beside = sorted(_list_files(Path(name).parent, f"*{suffix}"), key=lambda file: file.name)
        trained = [str(file) for file in sorted(_list_files(Path("runs"), f"*/*{suffix}"))[:SHOWN_FILES]]
        hint = did_you_mean(Path(name).name, [file.name for file in beside])
        hint = hint or (f"files in runs: {', '.join(trained)}" if trained else "")
        return NetbuildError(f"there is no file '{name}'", hint=hint)
    known = [*architectures, *(file.name for file in _list_files(path.parent, "*.y*ml"))]
    # Compared without .yaml, which would make any two names similar.
    is_similar = did_you_mean(path.stem, [Path(file).stem for file in known])
    hint = did_you_mean(path.name, known) if is_similar else ""
    if not architectures:
        return NetbuildError(f"there is no file '{name}'", hint=hint)
    message = f"there is no file '{name}' and no packaged network of that name"
    return NetbuildError(message, hint=hint or "netbuild zoo lists the packaged networks")


def _list_files(folder: Path, pattern: str) -> list[Path]:
    """List the files in a folder that match a pattern; none if the folder cannot be read."""
    try:
        return [path for path in folder.glob(pattern) if is_file(path)]
    except (OSError, ValueError):
        return []


def _without_letter(path: Path) -> list[tuple[Path, str | None]]:
    """List the paths with one letter removed from the name, each with that letter."""
    stem = path.stem
    return [
        (path.with_name(stem[: m.start()] + stem[m.end() :] + path.suffix), m.group())
        for m in _LETTER.finditer(stem)
        if m.start() > 0
    ]


def scaled_name(stem: str, scale: str) -> str:
    """Return the name of a network at a scale: ``yolo11-seg`` at scale n is ``yolo11n-seg``.

    The scale goes behind the first digits of the stem, or to its end where it has none.
    """
    if not scale:
        return stem
    end = next((i for i, c in enumerate(stem) if i and stem[i - 1].isdigit() and not c.isdigit()), len(stem))
    if stem[end:].split("-")[0] == scale:
        return stem  # the file is one of a single scale, with its letter in the name
    separator = "" if len(scale) == 1 and stem[:end][-1:].isdigit() else "-"
    return stem[:end] + separator + scale + stem[end:]


# Kinds of files that are often named in the place of a network.
_OTHERS = {
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"), "a picture"),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".webm"), "a video"),
    **dict.fromkeys((".zip", ".gz", ".tar", ".tgz"), "an archive"),
    ".csv": "a table",
}


def refuse_other_kinds(path: Path) -> None:
    """Refuse a file whose ending says that it is no network's file.

    Raises:
        NetbuildError: for an ONNX file, a picture, a video, an archive or a table.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        hint = "use the checkpoint or the network file that it was exported from; predict, val and inspect take ONNX"
        raise NetbuildError(f"{path}: an ONNX file has no rows to build a network from", hint=hint)
    if suffix in _OTHERS and path.is_file():
        hint = "a network's file or checkpoint comes first, as in netbuild predict best.safetensors one.jpg"
        raise NetbuildError(f"{path}: is {_OTHERS[suffix]}, and no network", hint=hint)
