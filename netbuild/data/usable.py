"""The samples of a split that can be used, with what decoding found out about them, and the problems of all."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from netbuild.data.dataset import LABEL, NOTE, PICTURE, Dataset, Problem, Sample
from netbuild.data.images import ImageFacts
from netbuild.data.map_faults import MapTotals, find_faults_of_extras, note_totals
from netbuild.data.oriented import note_no_rectangles


@dataclass(frozen=True)
class Inspection:
    """What decoding found out about a sample's picture and its extras.

    Attributes:
        digest: hash of the picture's file; empty where it is no file or cannot be read.
        facts: of the picture.
        extras: of each extra, by name.
    """

    digest: str
    facts: ImageFacts
    extras: dict[str, ImageFacts]


class UsableSamples:
    """The samples of a split that can be used, with their sizes, and the problems of all.

    Args:
        dataset: the data set.
        split: the split's name.
        nc: the number of classes.
        seen: by hash, the split and path where a picture was first met; it is filled here.
        partial: whether pictures that lack an extra can be used; a note counts them.
    """

    def __init__(
        self, dataset: Dataset, split: str, nc: int, seen: dict[str, tuple[str, Path]], partial: bool = False
    ) -> None:
        self.dataset, self.split, self.nc, self.seen, self.partial = dataset, split, nc, seen, partial
        self.samples: list[Sample] = []
        self.problems: list[Problem] = []
        self.maps = {name: MapTotals(extra.kind) for name, extra in dataset.extras.items()}

    def add(self, sample: Sample, found: Inspection) -> None:
        """Add a sample, unless one of its problems drops it; ``found`` is what decoding found out about it."""
        faults = list(_find_faults(sample, found.facts))
        stated = self.dataset.extras
        if self.partial:
            stated = {name: extra for name, extra in stated.items() if name in sample.extras}
        faults += find_faults_of_extras(sample, found.facts.size, found.extras, stated, self.nc)
        self.problems += faults
        if found.digest and not found.facts.fault:
            first = self.seen.setdefault(found.digest, (self.split, sample.path))
            self.problems += _note_repeated(self.split, sample, first)
        if any(problem.drops == "picture" for problem in faults):
            return
        self.samples.append(replace(sample, size=found.facts.size, bands=(found.facts.channels, found.facts.pages)))
        for name, extra in sample.extras.items():
            self.maps[name].add(extra, found.extras[name].map)

    def list_problems(self) -> list[Problem]:
        """Return the problems of the samples, then those of all of them together."""
        of_maps = note_totals(self.maps, self.nc, self.split, self.dataset.root)
        partial = self._note_partial_labels() if self.partial else ()
        return [*self.problems, *partial, *of_maps, *note_no_rectangles(self.split, self.samples)]

    def _note_partial_labels(self) -> Iterator[Problem]:
        """Yield a note for each extra that some pictures lack, and if some with an extra have no label file."""
        count, root = len(self.samples), self.dataset.root
        without = {f"no '{name}'": [s for s in self.samples if name not in s.extras] for name in self.dataset.extras}
        if any(sample.source for sample in self.samples):
            bare = [s for s in self.samples if s.boxes is not None and s.source is None and s.extras]
            without["no label file, though they have a map"] = bare
        for lacking, samples in without.items():
            if 0 < len(samples) < count:
                message = f"{len(samples):,} of {count:,} pictures of '{self.split}' have {lacking}, such as "
                hint = "heads that learn from it leave them out"
                yield Problem("partial labels", NOTE, f"{message}{samples[0].path}", root, hint=hint)


def _find_faults(sample: Sample, facts: ImageFacts) -> Iterator[Problem]:
    """Yield a problem if the sample's picture cannot be read, has another size than stated, or is unusual."""
    if facts.fault:
        yield Problem("unreadable", PICTURE, facts.fault, sample.path, drops="picture")
    elif sample.size and sample.size != facts.size and facts.size:
        stated, real = (f"{width} x {height}" for width, height in (sample.size, facts.size))
        message = f"its size is stated as {stated}, the picture is {real}: the boxes may not fit"
        hint = "was it turned by its EXIF orientation?" if sample.size == facts.size[::-1] else ""
        yield Problem("picture size", LABEL, message, sample.path, drops="picture", hint=hint)
    elif facts.remark:
        yield Problem("picture", NOTE, facts.remark, sample.path)


def _note_repeated(split: str, sample: Sample, first: tuple[str, Path]) -> Iterator[Problem]:
    """Yield a note if the same picture was met before: in two splits it makes the measured results too good."""
    if first[1] != sample.path or first[0] != split:
        where = f" of '{first[0]}'" if first[0] != split else ""
        kind = "duplicate picture" if first[0] == split else "shared picture"
        yield Problem(kind, NOTE, f"the same picture as {first[1]}{where}", sample.path)
