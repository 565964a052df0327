"""Fonts for names in any script: Pillow's own where it has the letters, else one of the system's that has them."""

import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from netbuild.errors import MissingExtraError, shorten
from netbuild.system import packages

# Files whose name contains one of these have letters of many scripts; they are looked at first.
_BROAD = ("notosanscjk", "sourcehansans", "droidsansfallback", "arialunicode", "msyh", "wqy", "dejavusans.ttf")
_MISSING = "\U0010fffe"  # no font has a letter for it, so it is drawn as the box of missing letters
_LATIN = "Aa0"
_seen: set[str] = set()  # letters of all texts that were drawn in this process
_SEARCH_SECONDS = 10  # limit for fontconfig, which may have to build its cache first


def find_font(texts: Iterable[str], size: int) -> Any:
    """Return a font for texts: Pillow's own if it has all their letters, else the font of the system with the most.

    If no font has all letters, a note on stderr names those that are missing, once for each.

    Args:
        texts: the texts that are drawn.
        size: font size in pixels.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    letters = list_letters(texts)
    if letters <= set(_LATIN):
        return _load(None, size)
    # All letters so far: later pictures get the font of earlier ones, and the search ends when all classes were drawn.
    _seen.update(letters)
    path, missing = choose_file(frozenset(_seen))
    say_missing(missing & letters)
    return _load(path, size)


def list_letters(texts: Iterable[str]) -> frozenset[str]:
    """Return the letters of texts that are no ASCII, with a few that are: a font has to have these as well."""
    hidden = ("Cc", "Cf", "Mn", "Zs", "Zl", "Zp")  # categories of Unicode that are not drawn, or not on their own
    found = {c for text in texts for c in text if not c.isascii() and unicodedata.category(c) not in hidden}
    return frozenset({*found, *_LATIN})


@cache
def choose_file(letters: frozenset[str]) -> tuple[str | None, frozenset[str]]:
    """Return the file of the font that has the most of some letters, None for Pillow's own, and those it lacks."""
    best, missing = None, _missing_letters(None, letters)
    if missing:
        for path in _candidates(missing):
            lacking = _missing_letters(path, letters)
            if len(lacking) < len(missing):
                best, missing = path, lacking
            if not missing:
                break
    return best, missing


def _missing_letters(path: str | None, letters: Iterable[str]) -> frozenset[str]:
    """Return the letters that a font draws as the box of missing letters, all of them if it cannot be read."""
    try:
        font = _load(path, 24)
        box = _draw(font, _MISSING)
        return frozenset(c for c in letters if _draw(font, c) == box)
    except (OSError, ValueError):
        return frozenset(letters)


def _draw(font: Any, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _load(path: str | None, size: int) -> Any:
    try:
        from PIL import ImageFont
    except ImportError:
        raise MissingExtraError("drawing needs Pillow", hint=packages.install_hint("train")) from None
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


def _candidates(letters: frozenset[str]) -> Iterator[str]:
    """Yield files of fonts: fontconfig's for these letters first, then those that matplotlib knows."""
    found = [path for path in _ask_fontconfig(letters) if not _is_last_resort(path)]
    yield from found
    others = {path for path in _list_files() if not _is_last_resort(path)} - {*found}
    yield from sorted(others, key=lambda path: (_rank(path), path))


def _is_last_resort(path: str) -> bool:
    """Whether a font draws every letter, as a box with the name of its script: those of matplotlib and macOS."""
    return "lastresort" in Path(path).name.lower()


def _rank(path: str) -> int:
    name = Path(path).name.lower().replace("-", "").replace("_", "").replace(" ", "")
    return next((number for number, word in enumerate(_BROAD) if word in name), len(_BROAD))


def _ask_fontconfig(letters: frozenset[str]) -> list[str]:
    """Return the files that fontconfig lists for letters; none where it is not installed."""
    pattern = ":charset=" + " ".join(f"{ord(c):x}" for c in sorted(letters)[:64])
    try:
        command = ["fc-list", pattern, "file"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SEARCH_SECONDS, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    paths = [line.strip().removesuffix(":") for line in done.stdout.splitlines()]
    return sorted((p for p in paths if p.lower().endswith((".ttf", ".otf", ".ttc"))), key=lambda p: (_rank(p), p))


@cache
def _list_files() -> tuple[str, ...]:
    """List the files of fonts that matplotlib finds, its own among them; none without matplotlib."""
    try:
        manager = packages.package("matplotlib.font_manager", "train")
    except MissingExtraError:
        return ()
    own = Path(manager.__file__).parent / "mpl-data/fonts/ttf"
    return (*map(str, sorted(own.glob("*.ttf"))), *manager.findSystemFonts())


_said: set[str] = set()  # letters that a note has named in this process


def say_missing(letters: Iterable[str]) -> None:
    """Print a note on stderr that names letters which no font has, once for each letter in a process."""
    new = sorted(set(letters) - _said)
    _said.update(new)
    if new:
        letters = shorten(" ".join(new), 60)
        text = f"note: no font of this system has {letters} (drawn as boxes); install one, such as Noto Sans CJK"
        encoding = sys.stderr.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True)


def matplotlib_families(texts: Iterable[str]) -> list[str]:
    """Return the families of fonts for matplotlib, which takes each letter from the first family that has it.

    The fonts of the files that are found are made known to matplotlib. Letters that none has are named in a note.
    """
    manager = packages.package("matplotlib.font_manager", "train")
    families = ["DejaVu Sans"]  # matplotlib's own
    own = str(Path(manager.__file__).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf")
    missing = _missing_letters(own, list_letters(texts))
    if missing:
        path, missing = choose_file(missing)
        if path is not None:
            manager.fontManager.addfont(path)
            families.append(manager.FontProperties(fname=path).get_name())
        say_missing(missing)
    return families
