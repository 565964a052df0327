"""Several data sets as one: a YAML file with the key ``datasets`` names them, for a network with several heads."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from netbuild.data.dataset import DETECT, Dataset, Extra, Split
from netbuild.data.formats.base import Format
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.nodes import Node, parse
from netbuild.grammar.nodes import read_text as read_yaml
from netbuild.grammar.rows import check_name

KEY = "datasets"
START = 65_536  # bytes of a file in which the key is looked for


class SeveralFormat(Format):
    """A YAML file with the key ``datasets``: a mapping from names to data sets, by paths relative to the file."""

    name = "several"

    def recognizes(self, path: Path) -> bool:
        if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
            return False
        with path.open("rb") as file:
            return re.search(rb"^datasets\s*:", file.read(START), re.MULTILINE) is not None

    def open(self, path: Path) -> Dataset:
        node = parse(read_yaml(path), str(path))
        for key in node.value:
            if key != KEY:
                hint = did_you_mean(key, [KEY]) or "each data set has its names and splits in its own file"
                raise node.keys[key].error(f"'{key}' has no effect beside '{KEY}'", hint)
        entry = node.value[KEY]
        if not isinstance(entry.value, dict) or not entry.value:
            raise entry.error(f"'{KEY}' is a mapping such as boxes: cars/data.yaml, not {entry.describe()}")
        parts = {name: _open_part(entry.keys[name], item, path) for name, item in entry.value.items()}
        return join_datasets(path, parts)


def _open_part(key: Node, node: Node, file: Path) -> Dataset:
    # Imported here, because opening a data set tries this format, too.
    from netbuild.data.embedded import NAMES
    from netbuild.data.opening import open_data

    check_name(key, taken=set())
    if not isinstance(node.value, str):
        raise node.error(f"a data set is named by its path, not {node.describe()}")
    try:
        found = open_data(node.value if node.value in NAMES else file.parent / Path(node.value).expanduser())
    except NetbuildError as error:
        if error.where is None:
            raise node.error(error.message, error.hint) from None
        raise
    if found.parts:
        raise node.error("this file names several data sets itself", f"name them here, under {KEY}")
    return found


def join_datasets(path: Path, parts: Mapping[str, Dataset]) -> Dataset:
    """Return data sets as one, whose samples know by `Sample.part` which of them they are from.

    Its names are those of the first one. A part without a split ``val`` gives its split ``test`` to that of the whole.
    """
    first = next(iter(parts.values()))
    names = {split for part in parts.values() for split in part.splits}
    names |= {"val"} if any("test" in part.splits for part in parts.values()) else set()
    ordered = [name for name in ("train", "val", "test") if name in names] + sorted(names - {"train", "val", "test"})
    extras: dict[str, Extra] = {}
    for part in parts.values():
        extras = {**part.extras, **extras}
    return Dataset(
        str(path),
        path.parent.resolve(),
        SeveralFormat.name,
        DETECT,
        first.names,
        {split: partial(_read_parts, parts, split) for split in ordered},
        extras=extras,
        # Changes that would make the labels of one of them wrong are made to none: the pictures are shuffled together.
        augmentation="digits" if any(part.augmentation == "digits" for part in parts.values()) else "pictures",
        channels=first.channels,
        parts=parts,
    )


def _read_parts(parts: Mapping[str, Dataset], name: str) -> Split:
    """Return a split of all data sets together."""
    read = Split([])
    for part, dataset in parts.items():
        chosen = dataset.held_out() if name == "val" else name
        if chosen in dataset.splits:
            split = dataset.split(chosen)
            read.samples.extend(replace(sample, part=part) for sample in split.samples)
            read.problems.extend(split.problems)
    return read
