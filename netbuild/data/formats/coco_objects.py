"""COCO's annotations as objects: boxes, polygons, run-length masks, crowds and keypoints, in fractions of a picture."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.data.contours import decode_counts, decode_mask, is_crossing, trace_mask
from netbuild.data.dataset import LABEL, NOTE, Floats, Problem
from netbuild.data.formats.keypoints import KeypointFacts, derive_swap
from netbuild.data.formats.labels import (
    CROSSING,
    HINT_MIXED,
    MAX_CHECKED,
    MIXED,
    Objects,
    WrongObjectError,
    check_polygon,
    clip_box,
    read_keypoints,
)
from netbuild.errors import NetbuildError, shorten

MIN_OVERLAP = 0.5  # IoU of an object's bbox with the box around its polygons, below which one of them is doubtful
Size = tuple[int, int]  # width and height of the picture in pixels
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Categories:
    """What a file states about its categories.

    Attributes:
        classes: the class of each category id.
        keypoints: of the objects.
    """

    classes: Mapping[int, int]
    keypoints: KeypointFacts


def read_keypoint_facts(entries: Sequence[Entry], file: Path) -> tuple[KeypointFacts, tuple[Problem, ...]]:
    """Return the keypoints of a file's categories, and a note if mirror images are unknown or derived from the names.

    Raises:
        NetbuildError: if two categories have different keypoints, or their names are no texts.
    """
    found = [entry for entry in entries if entry.get("keypoints")]
    if not found:
        return KeypointFacts(), ()
    names, skeleton = found[0]["keypoints"], found[0].get("skeleton") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise NetbuildError(f"{file}: the keypoints of a category are a list of names, not {shorten(names)}")
    if other := next((entry for entry in found if entry["keypoints"] != names), None):
        message = f"{file}: the categories '{found[0].get('name')}' and '{other.get('name')}' have different keypoints"
        raise NetbuildError(message, hint="make a data set of each: the objects of a data set have the same keypoints")
    swap = derive_swap(names)
    facts = KeypointFacts((len(names), 3), swap, tuple(names), skeleton=_read_skeleton(skeleton, len(names), file))
    return facts, facts.note_swap(file, bool(swap))


def _read_skeleton(pairs: Any, count: int, file: Path) -> tuple[tuple[int, int], ...]:
    """Return the pairs of keypoints that drawings join; in the file they are counted from 1."""
    numbers = range(1, count + 1)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and n in numbers for n in pair)
        for pair in pairs
    ):
        message = f"{file}: the skeleton of a category is a list of pairs of keypoints, not {shorten(pairs)}"
        raise NetbuildError(message, hint=f"keypoints are numbers from 1 to {count}")
    return tuple((first - 1, second - 1) for first, second in pairs)


def read_objects(
    entries: Sequence[Entry], size: Size, categories: Categories, file: Path, problems: list[Problem]
) -> Objects:
    """Return the objects of a picture, and add the problems of its annotations to ``problems``."""
    reader = _Reader(size, categories, file, problems)
    for entry in entries:
        reader.add(entry)
    if bare := reader.objects.find_bare():
        message = f"{reader.places[bare[0]]}: a box among polygons ({len(bare)} in this picture): {MIXED}"
        problems.append(Problem("mixed", NOTE, message, file, hint=HINT_MIXED))
    reader.objects.lines.clear()  # the JSON reader gives no line numbers
    return reader.objects


class _Reader:
    """Reads the annotations of one picture.

    Args:
        size: width and height of the picture.
        categories: of the file.
        file: that the annotations are in.
        problems: to which problems are added.
    """

    def __init__(self, size: Size, categories: Categories, file: Path, problems: list[Problem]) -> None:
        self.size, self.categories, self.file, self.problems = size, categories, file, problems
        self.objects = Objects()
        self.places: list[str] = []  # the words for each object in messages
        self._seen: set[tuple[float, ...]] = set()

    def add(self, entry: Entry) -> None:
        """Add the object of an annotation, unless it is wrong or repeats another one."""
        place = f"annotation {entry.get('id')}"
        try:
            is_crowd = read_crowd(entry)
            row, over = clip_box(read_row(entry, self.size, self.categories.classes))
            if row in self._seen and not is_crowd:
                return self._note("duplicate", f"{place}: repeats another one, which is kept", drops="box")
            outline = self._read_outline(entry.get("segmentation"), place)
            keypoints = read_entry_keypoints(entry, self.size, self.categories.keypoints)
        except WrongObjectError as error:
            message = f"{place}: {error.message}"
            return self.problems.append(Problem(error.kind, LABEL, message, self.file, None, "box", error.hint))
        if over * max(self.size) > 1:  # a pixel
            self._note("clipped", f"{place}: an edge lies outside: the box is clipped to the picture")
        if outline and not is_crowd and (overlap := measure_overlap(row, outline)) < MIN_OVERLAP:
            message = f"{place}: its bbox and its polygons are at different places (IoU {overlap:.2f})"
            self._note("bbox", f"{message}: boxes are learnt from the bbox, masks from the polygons")
        if is_crowd:
            message = f"{place}: marks a crowd: training leaves it out, and metrics ignore what is found in it"
            self._note("crowd", message)
        self._seen.add(row)
        self.places.append(place)
        return self.objects.add(row, 0, outline, keypoints, is_crowd)

    def _note(self, kind: str, message: str, drops: str = "") -> None:
        self.problems.append(Problem(kind, NOTE, message, self.file, drops=drops))

    def _read_outline(self, segmentation: object, place: str) -> tuple[Floats, ...]:
        """Return the polygons of an object; a wrong one beside right ones is dropped with a note.

        Raises:
            WrongObjectError: if none is right, or a mask cannot be decoded.
        """
        if not segmentation:
            return ()
        if isinstance(segmentation, Mapping):
            return tuple(polygon / self.size for polygon in read_mask(segmentation, self.size))
        found, wrong = list[Floats](), list[WrongObjectError]()
        for values in segmentation if isinstance(segmentation, list) else [segmentation]:
            try:
                found.append(read_polygon(values, self.size))
            except WrongObjectError as error:
                wrong.append(error)
        if wrong and not found:
            raise wrong[0]
        for fault in wrong:
            self._note(fault.kind, f"{place}: {fault.message}", drops="outline")
        if any(len(polygon) <= MAX_CHECKED and is_crossing(polygon) for polygon in found):
            self._note("self-crossing", f"{place}: {CROSSING}")
        return tuple(found)


def measure_overlap(row: Sequence[float], outlines: Sequence[Floats]) -> float:
    """Return the IoU of a box, as class, cx, cy, w and h, with the upright box around polygons."""
    centre, half = np.array(row[1:3]), np.array(row[3:5]) / 2
    points = np.concatenate(outlines).clip(0, 1)
    common = np.minimum(centre + half, points.max(0)) - np.maximum(centre - half, points.min(0))
    both = float(common.clip(0).prod())
    return both / float((4 * half.prod()) + np.ptp(points, 0).prod() - both)


def read_crowd(entry: Entry) -> bool:
    """Return whether an annotation marks a crowd.

    Raises:
        WrongObjectError: if its ``iscrowd`` is neither 0 nor 1.
    """
    value = entry.get("iscrowd") or 0
    if value not in (0, 1):
        raise WrongObjectError("columns", f"iscrowd is 0 or 1, not {shorten(repr(value))}")
    return bool(value)


def read_row(entry: Entry, size: Size, classes: Mapping[int, int]) -> tuple[float, ...]:
    """Return class and normalised cx, cy, w, h of an annotation.

    Raises:
        WrongObjectError: if its category does not exist, or its box is not four numbers.
    """
    number, box = entry.get("category_id"), entry.get("bbox")
    if type(number) is not int or number not in classes:
        message = f"there is no category with the id {shorten(number)}"
        raise WrongObjectError("class range", message, hint_text(number))
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
        raise WrongObjectError("columns", f"bbox is [x, y, width, height], not {shorten(box)}")
    (x, y, w, h), (width, height) = box, size
    return float(classes[number]), (x + w / 2) / width, (y + h / 2) / height, w / width, h / height


def read_polygon(values: object, size: Size) -> Floats:
    """Return a polygon, clipped to the picture unless it has four points, which are an oriented box.

    Raises:
        WrongObjectError: if it is no list of pairs of numbers, or covers nothing.
    """
    if not isinstance(values, list) or len(values) % 2 or not all(map(_is_finite, values)):
        message = f"a polygon is [x1, y1, x2, y2, ...] in pixels, not {shorten(values)}"
        raise WrongObjectError("polygon points", message)
    points = np.array(values, dtype=np.float64).reshape(-1, 2) / size
    check_polygon(points)
    return points if len(points) == 4 else points.clip(0, 1)


def read_mask(encoded: Mapping[str, Any], size: Size) -> tuple[Floats, ...]:
    """Return the polygons, in pixels, of a mask in COCO's run lengths, compressed or not.

    Raises:
        WrongObjectError: if they cannot be decoded, the mask has another size than the picture, or no pixel.
    """
    shape, counts = encoded.get("size"), encoded.get("counts")
    if shape != [size[1], size[0]]:
        message = f"the size of the mask is {shorten(shape)}, the picture has height {size[1]} and width {size[0]}"
        raise WrongObjectError("mask size", message)
    try:
        if isinstance(counts, list) and not all(type(count) is int for count in counts):
            raise ValueError("counts must be whole numbers")
        if not isinstance(counts, list | str):
            raise ValueError(f"counts must be a text or a list of whole numbers, not {shorten(counts)}")
        mask = decode_mask(decode_counts(counts) if isinstance(counts, str) else counts, (size[1], size[0]))
    except (ValueError, OverflowError, UnicodeEncodeError) as error:
        raise WrongObjectError("mask", f"its mask cannot be decoded: {error}") from None
    if not mask.any():
        raise WrongObjectError("polygon area", "its mask has no pixel")
    return trace_mask(mask)


def read_entry_keypoints(entry: Entry, size: Size, facts: KeypointFacts) -> Floats | None:
    """Return an annotation's keypoints (K, 3) in fractions of the picture; all missing where it has none.

    Raises:
        WrongObjectError: if they are not as many as the category states, or a visible one lies outside.
    """
    if facts.shape is None:
        return None
    values = entry.get("keypoints") or [0] * (3 * facts.shape[0])
    if not isinstance(values, list) or len(values) != 3 * facts.shape[0] or not all(map(_is_finite, values)):
        count = f"{len(values)} numbers" if isinstance(values, list) else shorten(values)
        message = f"its keypoints are {count}, its category states {facts.shape[0]} (x, y and visibility of each)"
        raise WrongObjectError("keypoints", message)
    points = np.array(values, dtype=np.float64).reshape(-1, 3) / (*size, 1)
    return read_keypoints(points.ravel().tolist(), facts.shape)


def hint_text(number: object) -> str:
    """Return a hint if an id is a text."""
    return "ids are whole numbers: write them without quotes" if isinstance(number, str) else ""


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
