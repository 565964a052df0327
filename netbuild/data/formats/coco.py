"""COCO's JSON: ``images``, ``annotations`` (boxes are x, y, width, height in pixels), ``categories`` (arXiv 1405.0312).

Classes are numbered from 0 in the order of the category ids. One file is one split: ``instances_train2017.json`` is
``train``, as is ``keypoints_train.json``. Pictures are looked for beside the file and in the usual places around it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from netbuild.data.dataset import DETECT, LABEL, Dataset, Problem, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.coco_objects import Categories, hint_text, read_keypoint_facts, read_objects
from netbuild.data.formats.files import SPLITS, find_visible, read_text
from netbuild.data.formats.keypoints import KeypointFacts
from netbuild.data.formats.labels import problem_if_none_left
from netbuild.errors import NetbuildError, shorten


class CocoFormat(Format):
    """A JSON file, or a folder with annotation files in one of the usual places."""

    name = "coco"

    def recognizes(self, path: Path) -> bool:
        return path.suffix.lower() == ".json" if path.is_file() else bool(annotation_files(path))

    def open(self, path: Path) -> Dataset:
        return open_coco([path] if path.is_file() else annotation_files(path), str(path))


def open_coco(files: Sequence[Path], name: str) -> Dataset:
    """Return the data set of one or several annotation files, each a split.

    Raises:
        NetbuildError: if a file cannot be read, or two files have different categories.
    """
    splits: dict[str, Any] = {}
    categories, keypoints, notes = dict[int, str](), KeypointFacts(), tuple[Problem, ...]()
    for file in files:
        data = _load_annotations(file)
        found = _read_categories(data, file)
        stated, derived_notes = read_keypoint_facts(data["categories"], file)
        if splits and (found, stated) != (categories, keypoints):
            raise NetbuildError(f"{file}: its categories differ from those of {files[0].name}")
        notes = derived_notes if not splits else notes
        categories, keypoints, split = found, stated, split_of(file)
        if split in splits:
            raise NetbuildError(f"{file}: a second file for the split '{split}'")
        classes = {number: index for index, number in enumerate(categories)}
        splits[split] = partial(_read_split, data, file, Categories(classes, keypoints))
    names, root = tuple(categories.values()), files[0].resolve().parent
    return Dataset(name, root, "coco", DETECT, names, splits, notes=notes, **keypoints.fields())


def split_of(file: Path) -> str:
    """Return the split that the name of a file, or else of its folder, contains; ``train`` if neither does."""
    words = (file.stem.lower(), file.resolve().parent.name.lower())
    return next((split for word in words for split in SPLITS if split in word), "train")


def annotation_files(folder: Path) -> list[Path]:
    """Return the annotation files in a folder's usual places, one per split; captions and results are left out.

    Files of keypoints are taken if there are none of instances.
    """
    found = find_visible(folder, "annotations/*.json", "*.json", "*/_annotations.coco.json")
    instances = [path for path in found if path.stem.startswith(("instances", "_annotations", *SPLITS))]
    keypoints = [path for path in found if path.stem.startswith(("keypoints", "person_keypoints"))]
    return instances or keypoints


def _load_annotations(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise NetbuildError(f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise NetbuildError(f"{file}: too deeply nested for annotations") from None
    except ValueError as error:  # a number of thousands of digits
        raise NetbuildError(f"{file}: cannot be read: {shorten(error)}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise NetbuildError(f"{file}: not in COCO's format: it needs a list '{key}'")
        for bad in (item for item in data[key] if not isinstance(item, dict)):
            raise NetbuildError(f"{file}: an entry of '{key}' is not a mapping: {shorten(bad)}")
    return data


def _read_categories(data: Mapping[str, Any], file: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in data["categories"]:
        number, name = entry.get("id"), entry.get("name")
        if type(name) in (int, float, bool):
            name = _written_name(file, len(found))
        if type(number) is not int or not isinstance(name, str):
            raise NetbuildError(
                f"{file}: a category needs a whole number 'id' and a text 'name': {shorten(entry)}",
                hint=hint_text(number),
            )
        if number in found:
            raise NetbuildError(f"{file}: category id {number} occurs twice: '{found[number]}' and '{name}'")
        found[number] = name
    if not found:
        raise NetbuildError(f"{file}: there are no categories")
    return dict(sorted(found.items()))


def _written_name(file: Path, index: int) -> str:
    """Return the name of a category as it is written, where JSON makes a number of it, such as 1e3."""
    data = json.loads(read_text(file), parse_int=str, parse_float=str)
    name = data["categories"][index]["name"]
    return json.dumps(name) if isinstance(name, bool) else str(name)


def _read_split(data: Mapping[str, Any], file: Path, categories: Categories) -> Split:
    read = Split([])
    images = dict(_read_images(data, file, read.problems))
    if not images:
        first = read.problems[0] if read.problems else None
        message = f"{file}: there are no images in it" + (f" that can be used: {first.message}" if first else "")
        raise NetbuildError(message, hint=first.hint if first else "")
    annotations: dict[int, list[dict[str, Any]]] = {number: [] for number in images}
    for entry in data["annotations"]:
        owner = entry.get("image_id")
        if type(owner) is int and owner in annotations:
            annotations[owner].append(entry)
        else:
            message = f"annotation {entry.get('id')}: there is no image with the id {shorten(owner)}"
            read.problems.append(Problem("no picture", LABEL, message, file, drops="box", hint=hint_text(owner)))
    folder = picture_folder(file, [image["file_name"] for image in images.values()])
    for number, image in images.items():
        size = (image["width"], image["height"])
        problems: list[Problem] = []
        objects = read_objects(annotations[number], size, categories, file, problems)
        if nothing_left := problem_if_none_left(objects, problems, folder / image["file_name"]):
            problems.append(nothing_left)
        else:
            sample = objects.sample(folder / image["file_name"], file, size)
            read.samples.append(replace(sample, keypoint_swap=categories.keypoints.swap))
        read.problems.extend(problems)
    return Split(read.samples, read.problems, f"{folder}: annotations looked for in {file}", len(data["images"]))


def _read_images(data: Mapping[str, Any], file: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    seen: set[int] = set()
    for image in data["images"]:
        number, name = image.get("id"), image.get("file_name")
        sides = (image.get("width"), image.get("height"))
        if type(number) is not int or not isinstance(name, str) or not all(type(s) is int and s > 0 for s in sides):
            message = f"an image needs id, file_name, width and height: {shorten(image)}"
            problem = Problem("image entry", LABEL, message, file, drops="picture", hint=hint_text(number))
            problems.append(problem)
        elif number in seen:
            problems.append(Problem("duplicate", LABEL, f"image id {number} occurs twice", file, drops="picture"))
        else:
            seen.add(number)
            yield number, image


def picture_folder(file: Path, names: Sequence[str]) -> Path:
    """Return the folder of an annotation file's pictures: the first of the usual places that has one of them.

    Raises:
        NetbuildError: if none of the places has any.
    """
    here, above = file.resolve().parent, file.resolve().parent.parent
    stem = file.stem.split("_", 1)[-1]  # train2017 of instances_train2017
    subs = dict.fromkeys(("", "images", f"images/{stem}", stem, f"images/{split_of(file)}", split_of(file)))
    tried = [base / sub for base in (here, above) for sub in subs]
    for folder in tried:
        if any((folder / name).is_file() for name in names[:20]):
            return folder
    places = "\n  ".join(map(str, tried))
    hint = "file_name has backslashes, which are no separators here: write /" if "\\" in "".join(names[:1]) else ""
    raise NetbuildError(
        f"{file}: its pictures (such as {shorten(names[0] if names else '')}) are in none of\n  {places}", hint=hint
    )
