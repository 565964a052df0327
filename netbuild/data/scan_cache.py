"""A cache of what decoding found out about picture files, in the user's cache folder."""

import contextlib
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import Dataset, Sample
from netbuild.data.images import ImageFacts, MapFacts, UnreadableImageError, inspect_image, pillow, read_file
from netbuild.data.maps import ClassMapFile, MapFile, inspect_array, inspect_map
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.system.files import make_folder, write_bytes
from netbuild.system.folders import cache_folder

_SCHEMA = 4  # version of the cache's files: increase it when other facts are looked for


class ScanCache:
    """The facts of picture files by the hash of their content, so that a second scan decodes nothing.

    A changed file has another hash, so facts cannot become stale.

    Args:
        dataset: the data set; each has a file of its own in the cache folder.
        use: whether facts of earlier scans are read and new ones written.
    """

    def __init__(self, dataset: Dataset, use: bool) -> None:
        self.use, self.changed = use, False
        name = hashlib.blake2b(str(dataset.root).encode(errors="replace"), digest_size=12).hexdigest()
        self.path = cache_folder() / "pictures" / f"{name}-{_SCHEMA}.json.gz"
        self.facts: dict[str, ImageFacts] = self._load() if use else {}

    def inspect(self, sample: Sample) -> tuple[str, ImageFacts]:
        """Return the hash of a sample's picture file and its facts; arrays have no hash and are taken as they are."""
        return ("", ImageFacts(sample.size)) if sample.pixels is not None else self._inspect_file(sample.path)

    def inspect_extra(self, extra: Path | MapFile | NDArray[Any], kind: str) -> ImageFacts:
        """Return the facts of one of a sample's extras.

        Args:
            extra: a file or an array.
            kind: one of `netbuild.data.dataset.EXTRA_KINDS`.
        """
        if isinstance(extra, np.ndarray):
            return inspect_array(extra, kind)
        path = extra if isinstance(extra, Path) else extra.path
        return self._inspect_file(path, kind, isinstance(extra, ClassMapFile) and extra.has_colours)[1]

    def _inspect_file(self, path: Path, kind: str = "picture", has_colours: bool = False) -> tuple[str, ImageFacts]:
        try:
            data = read_file(path)
        except UnreadableImageError as error:
            return "", ImageFacts(None, error.message.removeprefix(f"{path}: "))
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        key = digest if kind == "picture" else f"{digest}-{kind}{'-colours' if has_colours else ''}"
        if key not in self.facts:
            is_map = kind != "picture"
            self.facts[key] = (
                inspect_map(data, str(path), kind, has_colours) if is_map else inspect_image(data, str(path), False)
            )
            self.changed = True
        return digest, self.facts[key]

    def save(self) -> None:
        """Write the facts, if there are new ones."""
        if not (self.use and self.changed):
            return
        facts = {digest: _to_list(found) for digest, found in self.facts.items()}
        data = {"pillow": pillow().__version__, "facts": facts}
        with contextlib.suppress(NetbuildError):  # a cache that cannot be written only costs time
            make_folder(self.path.parent)
            write_bytes(self.path, gzip.compress(json.dumps(data).encode(), 5, mtime=0))

    def _load(self) -> dict[str, ImageFacts]:
        try:
            data = json.loads(gzip.decompress(self.path.read_bytes()))
            if data["pillow"] != pillow().__version__:  # another version may read more files, or fewer
                return {}
            return {digest: _from_list(*values) for digest, values in data["facts"].items()}
        except MissingExtraError:
            raise
        except Exception:  # there is no cache yet, or it is damaged: it is written anew
            return {}


def _to_list(facts: ImageFacts) -> list[Any]:
    """Return facts as JSON data; those of a map come last, if there are any."""
    found = [facts.size, facts.fault, facts.remark, facts.channels, facts.pages]
    return [*found, astuple(facts.map)] if facts.map else found


def _from_list(size: Sequence[int] | None, *more: Any) -> ImageFacts:
    """Return the facts that `_to_list` made JSON data of."""
    values, found = more[:4], more[4:]
    return ImageFacts((size[0], size[1]) if size else None, *values, *(MapFacts(*of_map) for of_map in found))
