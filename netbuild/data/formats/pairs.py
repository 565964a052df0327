"""Pairs of pictures, matched by name: the input of a network and its target, for denoising or super-resolution.

``train/inputs/a/1.jpg`` belongs to ``train/targets/a/1.png``; so do ``val`` and ``test``, or ``inputs`` and ``targets``
right in the folder. A target is as large as its input, or 2, 3, ... times as large; the first pair decides.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from netbuild.data.dataset import LABEL, PAIRS, Dataset, Extra, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLITS, find_pictures, note_unread_formats
from netbuild.data.images import inspect_image, read_file
from netbuild.errors import NetbuildError

TARGET = "target"  # the name of the extra


class PairsFormat(Format):
    """A folder with ``inputs`` and ``targets``, or with folders of splits that have these."""

    name = "pairs"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir() and bool(_split_folders(path))

    def open(self, path: Path) -> Dataset:
        folders = {split: (folder / "inputs", folder / "targets") for split, folder in _split_folders(path).items()}
        return open_pairs(path, path.resolve(), folders)


Pair = tuple[Path, Path]  # an input and its target; or the folders of both


def open_pairs(path: Path, root: Path, folders: Mapping[str, Pair]) -> Dataset:
    """Return a data set of pairs.

    Args:
        path: what the user named.
        root: the folder that it is in.
        folders: for each split the folder of inputs and that of targets.

    Raises:
        NetbuildError: if the first target is not 1, 2, 3, ... times as large as its input.
    """
    pairs = {split: _match(*both) for split, both in folders.items()}
    scale = next((_scale_of(*both[0]) for both, _ in pairs.values() if both), 1)
    splits = {split: partial(_read_split, folders[split][0], *pairs[split]) for split in folders}
    stated = {TARGET: Extra("picture", scale)}
    return Dataset(str(path), root, PairsFormat.name, PAIRS, (), splits, extras=stated)


def _split_folders(path: Path) -> dict[str, Path]:
    """Return for each split the folder that has ``inputs`` and ``targets``."""
    found = {split: path / split for split in SPLITS if _has_pairs(path / split)}
    return found or ({"train": path} if _has_pairs(path) else {})


def _has_pairs(folder: Path) -> bool:
    return (folder / "inputs").is_dir() and (folder / "targets").is_dir()


def _match(inputs_folder: Path, targets_folder: Path) -> tuple[list[Pair], list[Problem]]:
    """Match inputs and targets of a split by their paths without suffix."""
    problems = [*note_unread_formats(inputs_folder), *note_unread_formats(targets_folder)]
    inputs, targets = (_by_name(folder, problems) for folder in (inputs_folder, targets_folder))
    for name, path in inputs.items():
        if name not in targets:
            message = f"there is no target named {name} in {targets_folder}"
            problems.append(Problem("no target", LABEL, message, path, drops="picture", hint=_NAMES))
    for name, path in targets.items():
        if name not in inputs:
            message = f"there is no input named {name} in {inputs_folder}"
            problems.append(Problem("no input", LABEL, message, path, hint=_NAMES))
    return [(path, targets[name]) for name, path in inputs.items() if name in targets], problems


_NAMES = "an input and its target have the same name, perhaps with another suffix"


def _by_name(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """Return the pictures below a folder by their path in it without suffix."""
    found: dict[str, Path] = {}
    for path in find_pictures(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            message = f"has the same name as {found[name].name}, which is used"
            problems.append(Problem("same name", LABEL, message, path, drops="picture", hint="rename one of them"))
        else:
            found[name] = path
    return found


def _scale_of(picture: Path, target: Path) -> int:
    """Return how many times as wide and high a target is as its input; 1 if one of them cannot be read.

    Raises:
        NetbuildError: if that is not a whole number.
    """
    small, large = (inspect_image(read_file(path), str(path)).size for path in (picture, target))
    if small is None or large is None:  # the scan reports it
        return 1
    (w, h), (width, height) = small, large
    scale = width // w
    if scale < 1 or (width, height) != (scale * w, scale * h):
        message = f"{target}: is {width} x {height}, its input {picture.name} is {w} x {h}"
        hint = "a target must be as large as its input, or 2, 3, ... times as wide and as high"
        raise NetbuildError(message, hint=hint)
    return scale


def _read_split(folder: Path, pairs: Sequence[Pair], problems: Sequence[Problem]) -> Split:
    if not pairs:
        raise NetbuildError(f"{folder.resolve()}: no picture has a target of the same name", hint=_NAMES)
    samples = [Sample(picture, source=target, extras={TARGET: target}) for picture, target in pairs]
    unmatched = sum(problem.kind == "no target" for problem in problems)
    return Split(samples, list(problems), found=len(samples) + unmatched)
