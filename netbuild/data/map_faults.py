"""What a scan finds out about the maps and second pictures beside the pictures: their faults, and totals by split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from netbuild.data.dataset import LABEL, NOTE, PICTURE, Extra, Problem, Sample
from netbuild.data.images import ImageFacts, MapFacts
from netbuild.data.maps import DEPTH_SCALE, IGNORED, ClassMapFile, DepthFile, MapFile

MISSING_EXTRA = "extra"  # the kind of problem of a picture that lacks an extra
MASK, DEPTH = "mask", "depth"  # the extras whose values are classes of the data set, and metres
SHOWN = 8  # values of a map that a message lists


@dataclass
class MapTotals:
    """What all maps of an extra in a split hold together.

    Attributes:
        kind: as `Extra.kind`.
        count: the number of maps.
        pixels: of class maps, the number of pixels of each class.
        measured: of other maps, the number of pixels that are measured.
        least: the smallest measured value, in metres for depth.
        most: the largest one.
        guessed: the first file of depth whose whole numbers are read by a scale that the data set does not state.
        is_binary: whether all class maps have 0 and 255 alone.
    """

    kind: str
    count: int = 0
    pixels: dict[int, int] = field(default_factory=dict)
    measured: int = 0
    least: float = 0.0
    most: float = 0.0
    guessed: Path | None = None
    is_binary: bool = True

    def add(self, extra: Path | MapFile | NDArray[Any], facts: MapFacts | None) -> None:
        """Add a map."""
        self.count += 1
        if facts is None:
            return
        for value, count in _list_values(facts):
            number = _class_of(value, extra)
            self.is_binary &= value in (0, IGNORED) and number == value
            number = IGNORED if number is None else number
            self.pixels[number] = self.pixels.get(number, 0) + count
        if facts.measured:
            scale = self._find_scale(extra, facts)
            least, most = facts.least / scale, facts.most / scale
            self.least = min(self.least, least) if self.measured else least
            self.most, self.measured = max(self.most, most), self.measured + facts.measured

    def _find_scale(self, extra: Path | MapFile | NDArray[Any], facts: MapFacts) -> float:
        if not isinstance(extra, DepthFile) or (extra.scale is None and not facts.is_whole):
            return 1.0
        if extra.scale is None:
            self.guessed = self.guessed or extra.path
        return extra.scale or DEPTH_SCALE

    def to_dict(self) -> dict[str, Any]:
        """Return the totals as JSON data."""
        if self.kind == "classes":
            return {"pixels": {str(number): self.pixels[number] for number in sorted(self.pixels)}}
        span = {"least": round(self.least, 4), "most": round(self.most, 4)} if self.measured else {}
        return {} if self.kind == "picture" else {"measured": self.measured, **span}


def find_faults_of_extras(
    sample: Sample, size: tuple[int, int] | None, found: Mapping[str, ImageFacts], extras: Mapping[str, Extra], nc: int
) -> Iterator[Problem]:
    """Yield the problems of a sample's extras: missing, unreadable, of the wrong size, or with wrong values.

    Args:
        sample: the sample.
        size: width and height of its picture; None if it cannot be read.
        found: what decoding found out about each extra.
        extras: what the data set states about them.
        nc: the number of classes; 0 where the data set names none.
    """
    for name, extra in extras.items():
        there = sample.extras.get(name)
        if there is None:
            yield Problem(MISSING_EXTRA, LABEL, f"there is no '{name}' for this picture", sample.path, drops="picture")
            continue
        file, facts = _file_of(there, sample), found[name]
        if facts.fault:
            yield Problem("unreadable", PICTURE, f"{name}: {facts.fault}", file, drops="picture")
        elif size and facts.size != tuple(extra.scale * side for side in size):
            (width, height), (w, h) = facts.size or (0, 0), size
            wanted = f"{extra.scale} times as large" if extra.scale > 1 else "of the same size"
            message = f"{name} is {width} x {height}, its picture is {w} x {h}: it must be {wanted}"
            yield Problem("extra size", LABEL, message, file, drops="picture")
        elif facts.map and extra.kind == "classes":
            yield from _find_faults_of_classes(name, there, facts, file, extra, len(extra.names) or nc)
        elif facts.map and name == DEPTH and extra.kind == "values":
            yield from _find_faults_of_depth(facts.map, file)


def note_totals(totals: Mapping[str, MapTotals], nc: int, split: str, root: Path) -> Iterator[Problem]:
    """Yield a note about all maps of a split together, if 255 may have been meant as a class."""
    found = totals.get(MASK)
    if found and found.is_binary and nc and set(found.pixels) == {0, IGNORED}:
        message = f"the masks of '{split}' have no value but 0 and {IGNORED}, and {IGNORED} means ignored"
        hint = "is it a class? Write label_mapping: {0: 0, 255: 1}"
        yield Problem("mask ignored", NOTE, message, root, hint=hint)


def note_guessed_scale(totals: Mapping[str, MapTotals]) -> Iterator[Problem]:
    """Yield a note if whole numbers of depth are read by a scale that the data set does not state."""
    for found in totals.values():
        if found.guessed:
            message = f"whole numbers are read as millimetres: the data file states no depth_scale ({DEPTH_SCALE:g})"
            yield Problem("depth scale", NOTE, message, found.guessed, hint="write depth_scale: the numbers in a metre")


def _file_of(extra: Path | MapFile | NDArray[Any], sample: Sample) -> Path:
    if isinstance(extra, ClassMapFile | DepthFile):
        return extra.path
    return extra if isinstance(extra, Path) else sample.path


def _list_values(facts: MapFacts) -> Iterator[tuple[int | float, int]]:
    """Yield each value of a class map, a whole number where it is one, and the number of its pixels."""
    for text, count in facts.counts.items():
        value = float(text)
        yield (int(value) if value.is_integer() else value), count


def _class_of(value: int | float, extra: Path | MapFile | NDArray[Any]) -> int | None:
    """Return the class that a value in a map stands for; None if it can be none."""
    if isinstance(extra, ClassMapFile):
        return extra.class_of(int(value)) if float(value).is_integer() else None
    return int(value) if value >= 0 and float(value).is_integer() else None


def _find_faults_of_classes(
    name: str, there: Path | MapFile | NDArray[Any], facts: ImageFacts, file: Path, stated: Extra, nc: int
) -> Iterator[Problem]:
    """Yield a problem if a class map has colours in place of numbers, values that no name has, or no class at all."""
    assert facts.map is not None
    is_mapped, unnamed = isinstance(there, ClassMapFile), stated.unnamed
    if facts.map.has_colours and not (isinstance(there, ClassMapFile) and there.has_colours):
        colours = ", ".join(f"'#{int(value):06x}'" for value in [*facts.map.counts][:SHOWN])
        message = f"{name}: has {facts.channels} channels, a map of numbers has one; its colours are {colours}"
        hint = "label_mapping in the data file takes colours to classes: label_mapping: {'#804080': 0}"
        yield Problem("mask colours", LABEL, message, file, drops="picture", hint=hint)
        return
    wrong, classes = [], set[int | None]()
    for value, count in _list_values(facts.map):
        number = _class_of(value, there)
        classes.add(number)
        # With a single name 1 is its class, and 0 what is not of it.
        has_name = number == IGNORED or (
            number is not None and number < (2 if nc == 1 else nc) and number not in unnamed
        )
        if not has_name and (is_mapped or ((name == MASK or stated.names) and nc)):
            shown = f"'#{int(value):06x}'" if facts.map.has_colours else f"{value:g}"
            wrong.append(f"{shown} ({count:,} pixel{'s' * (count != 1)})")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        known = "label_mapping does not name" if is_mapped else f"no name has (there are {nc - len(unnamed)} names)"
        message = f"{name} has values that {known}: {', '.join(wrong[:SHOWN])}{more}"
        hint = "name them, or take them to a class with label_mapping, in which 255 means ignored"
        yield Problem("mask class", LABEL, message, file, drops="picture", hint=hint)
    elif classes == {IGNORED}:
        yield Problem("mask empty", NOTE, f"{name}: every pixel is {IGNORED}, which means ignored", file)


def _find_faults_of_depth(facts: MapFacts, file: Path) -> Iterator[Problem]:
    """Yield a note if values of depth are no distances, or none is."""
    counts = ((facts.negative, "negative"), (facts.not_finite, "NaN or infinite"))
    if wrong := [f"{count:,} are {what}" for count, what in counts if count]:
        message = f"of the values of depth {' and '.join(wrong)}: they are read as 0, which means not measured"
        yield Problem("depth values", NOTE, message, file)
    if not facts.measured:
        message = "no pixel has a depth: nothing is learnt or measured there"
        yield Problem("depth empty", NOTE, message, file)
