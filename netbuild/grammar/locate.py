"""The name a user types to a file: a path, else a packaged architecture, else either without the scale's letter."""

import re
from pathlib import Path

from netbuild.errors import NetbuildError, did_you_mean

_LETTER = re.compile(r"[a-z](?=$|[-_])")  # one letter at the end of the stem or before a separator


def packaged_architectures() -> dict[str, Path]:
    """The packaged architectures: file name to path."""
    here = Path(__file__).resolve().parents[1]
    # In a wheel they lie inside the package, in a checkout beside it.
    folder = next((p for p in (here / "architectures", here.parent / "architectures") if p.is_dir()), None)
    return {path.name: path for path in sorted(folder.rglob("*.yaml"))} if folder else {}


def is_file(path: Path) -> bool:
    """Whether there is such a file; no for a path that the system does not take or let see."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def locate(name: str) -> tuple[Path, str | None]:
    """The file meant by a name and the scale letter that the name carried, if it was needed to find the file.

    ``yolo11s-seg.yaml`` is the file of that name when there is one, else ``yolo11-seg.yaml`` with the letter ``s``.

    Raises:
        NetbuildError: if there is no such file.
    """
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml"):
        if is_file(path):
            return path, None
        path = Path(f"{name}.yaml")
    architectures = packaged_architectures() if path.parent == Path() else {}
    for candidate, letter in ((path, None), *_without_letter(path)):
        if is_file(candidate):
            return candidate, letter
        if candidate.name in architectures:
            return architectures[candidate.name], letter
    known = list(architectures) or [p.name for p in path.parent.glob("*.y*ml")]
    hint = did_you_mean(path.name, known)
    if architectures:
        hint = hint or f"packaged: {', '.join(architectures)}"
    raise NetbuildError(
        f"there is no file '{name}'" + (" and no packaged network of that name" if architectures else ""), hint=hint
    )


def _without_letter(path: Path) -> list[tuple[Path, str | None]]:
    stem = path.stem
    return [
        (path.with_name(stem[: m.start()] + stem[m.end() :] + path.suffix), m.group())
        for m in _LETTER.finditer(stem)
        if m.start() > 0
    ]


def scaled_name(stem: str, scale: str) -> str:
    """``yolo11-seg`` at scale n is ``yolo11n-seg``; a name without digits gets the scale at its end."""
    if not scale:
        return stem
    end = next((i for i, c in enumerate(stem) if i and stem[i - 1].isdigit() and not c.isdigit()), len(stem))
    if stem[end:].split("-")[0] == scale:
        return stem  # a file for one scale already bears its letter
    separator = "" if len(scale) == 1 and stem[:end][-1:].isdigit() else "-"
    return stem[:end] + separator + scale + stem[end:]
