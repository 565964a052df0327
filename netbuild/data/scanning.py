"""One full look at a data set before anything is trained on it: every label, every picture, each fault with its place.

Whether a picture can be read is kept in the cache folder under the hash of the file's content, so a second scan only
reads the files and a changed file is always looked at again. Labels are read anew each time.
"""

import contextlib
import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netbuild.data.dataset import LABEL, NOTE, PICTURE, Dataset, Problem, Sample
from netbuild.data.formats.labels import COUNTED_FROM_1
from netbuild.data.images import Facts, UnreadableImageError, content, look, pillow
from netbuild.errors import MissingExtraError, NetbuildError, raise_all, shorten
from netbuild.system.files import make_folder, write_bytes
from netbuild.system.folders import cache_folder
from netbuild.system.tables import align

SHOWN = 10  # problems of a kind that the text lists; the dict has all
Look = tuple[str, Facts]  # the hash of a picture's file, and what it is
_SCHEMA = 1  # of the cache's files: a change of what is looked for needs a new number


@dataclass(frozen=True)
class SplitReport:
    """One split after the scan: the samples that can be used, and what was found.

    ``found`` counts the pictures before any was dropped, ``looked`` says where one picture's label was looked for.
    """

    samples: list[Sample]
    problems: list[Problem]
    found: int
    looked: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Pictures that can be used; of them with objects, without a label file, without objects; and so on."""
        objects = [1 if sample.boxes is None else len(sample.boxes) for sample in self.samples]
        bare = [sample for sample, count in zip(self.samples, objects) if not count]
        missing = sum(sample.source is None for sample in bare)
        return {
            "pictures": len(self.samples),
            "labelled": len(self.samples) - len(bare),
            "missing": missing,
            "empty": len(bare) - missing,
            "objects": sum(objects),
            "dropped_pictures": self.found - len(self.samples),
            "dropped_boxes": sum(problem.drops == "box" for problem in self.problems),
        }

    def weighing(self, weight: str) -> list[Problem]:
        """The problems of a weight."""
        return [problem for problem in self.problems if problem.weight == weight]


@dataclass(frozen=True)
class Report:
    """What a scan found, by split; `demand` decides whether it is good enough."""

    dataset: Dataset
    splits: dict[str, SplitReport]

    def samples(self, split: str) -> list[Sample]:
        """The samples of a split that can be used."""
        return self.splits[split].samples

    def problems(self, *weights: str) -> list[Problem]:
        """All problems, or those of the weights given."""
        return [p for split in self.splits.values() for p in split.problems if not weights or p.weight in weights]

    def faults(self, *, lenient: bool = False, strict: bool = False, allow_empty: bool = False) -> list[NetbuildError]:
        """Why the data set must not be used as it is; empty if it may.

        Args:
            lenient: wrong labels are dropped, not errors.
            strict: unreadable pictures are errors, not dropped.
            allow_empty: detection may train on pictures without any object.
        """
        found = []
        if not lenient and (labels := self._listing(LABEL)):
            hint = "repair them; or --lenient of train, val and data check drops what is named"
            found.append(NetbuildError("\n".join(labels), hint=hint))
        if strict and (pictures := self._listing(PICTURE)):
            hint = "repair or remove them, or leave out --strict: they are dropped"
            found.append(NetbuildError("\n".join(pictures), hint=hint))
        for name, split in self.splits.items():
            counts = split.counts
            if not counts["pictures"]:
                found.append(NetbuildError(f"{self.dataset.name}: no picture of '{name}' can be used"))
            elif name == "train" and not counts["objects"] and not allow_empty:
                message = f"{self.dataset.name}: 0 boxes in {counts['pictures']} training pictures\n  {split.looked}"
                hint = "are the labels elsewhere? --allow-background learns from background alone"
                found.append(NetbuildError(message, hint=hint))
        return found

    def demand(self, *, lenient: bool = False, strict: bool = False, allow_empty: bool = False) -> "Report":
        """This report, if the data set may be used; see `faults`.

        Raises:
            NetbuildError: with all that stands against it.
        """
        raise_all(self.faults(lenient=lenient, strict=strict, allow_empty=allow_empty))
        return self

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON, with every problem."""
        data = self.dataset
        return {
            "dataset": data.name,
            "root": str(data.root),
            "format": data.form,
            "task": data.task,
            "nc": data.nc,
            "names": list(data.names),
            "splits": {
                name: {**split.counts, "problems": [problem.to_dict() for problem in split.problems]}
                for name, split in self.splits.items()
            },
        }

    def text(self) -> str:
        """As a table and lists for a terminal, the longest lists cut."""
        data = self.dataset
        plural = "class" if data.nc == 1 else "classes"
        named = shorten(", ".join(data.names))
        lines = [f"{data.name}: {data.task}, {data.nc} {plural} ({named}), format {data.form}", *self._table()]
        for weight in _TITLES:
            lines += self._listing(weight)
        # What a file says must not steer the terminal.
        return "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))

    def _listing(self, weight: str) -> list[str]:
        """The problems of a weight, split by split."""
        each = weight == PICTURE or (weight == LABEL and self.dataset.form in _FILE_EACH)
        lines = []
        for name, split in self.splits.items():
            if problems := split.weighing(weight):
                of = f" of {split.found:,}" if each else ""
                lines += _listing(f"{name}: {_plural(len(problems), _TITLES[weight])}", problems, of)
        return lines

    def _table(self) -> list[str]:
        heads = ("split", *(key.replace("_", " ") for key in next(iter(self.splits.values())).counts))
        rows = [heads, *((name, *map(str, split.counts.values())) for name, split in self.splits.items())]
        return align(rows)


_FILE_EACH = ("yolo", "voc")  # forms in which each picture has a file of labels
_TITLES = {LABEL: "label error", PICTURE: "unreadable picture", NOTE: "note"}


def scan(
    dataset: Dataset,
    nc: int | None = None,
    *,
    splits: Sequence[str] | None = None,
    cache: bool = True,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Look at all labels and decode all pictures.

    Nothing is raised for what is found; `Report.demand` does that. The report's samples are those that are left when
    all that is wrong is dropped.

    Args:
        dataset: from `netbuild.data.opening.open_data`.
        nc: the classes that the network has, if not as many as there are names.
        splits: which to look at; all unless given.
        cache: whether to use and keep what is known of pictures seen before.
        workers: threads that decode; as many as there are processors, at most 16, unless given.
        progress: called after each picture with the split, how many are done, and how many there are.

    Raises:
        NetbuildError: if a split cannot be read at all.
    """
    if nc is not None and nc < 1:
        raise NetbuildError(f"a network has 1 class at least, not {nc}")
    known = _Known(dataset, cache)
    seen: dict[str, tuple[str, Path]] = {}
    reports = {}
    for name in splits if splits is not None else tuple(dataset.splits):
        part = dataset.part(name)
        samples, ranged = _in_range(part.samples, dataset.nc if nc is None else nc, dataset.nc)
        with ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
            looks = _told(pool.map(known.look, samples), name, len(samples), progress)
            samples, pictures = _judged(name, samples, looks, seen)
        problems = [*part.problems, *ranged, *pictures]
        reports[name] = SplitReport(samples, problems, max(part.found, len(part.samples)), part.looked)
    known.save()
    return Report(dataset, _without_false_hints(reports))


def _in_range(samples: list[Sample], nc: int, named: int) -> tuple[list[Sample], list[Problem]]:
    """Without what a network of fewer classes than there are names cannot learn."""
    kept, problems = [], []
    for sample in samples if nc < named else ():
        message = f"outside 0..{nc - 1} (the network has {nc} classes, the data set {named} names)"
        source = sample.source or sample.path
        if sample.boxes is None:
            if (sample.label or 0) < nc:
                kept.append(sample)
            else:
                problems.append(
                    Problem("class range", LABEL, f"class {sample.label} is {message}", source, None, "picture")
                )
            continue
        good = sample.boxes[:, 0] < nc
        for index in (~good).nonzero()[0].tolist():
            line = sample.lines[index] if sample.lines else None
            number = int(sample.boxes[index, 0])
            problems.append(Problem("class range", LABEL, f"class {number} is {message}", source, line, "box"))
        kept.append(sample.only(good))
    return (kept if nc < named else samples), problems


def _told(
    looks: Iterator[Look], split: str, total: int, progress: Callable[[str, int, int], None] | None
) -> Iterator[Look]:
    for done, found in enumerate(looks, 1):
        if progress:
            progress(split, done, total)
        yield found


def _judged(
    split: str, samples: list[Sample], looks: Iterator[Look], seen: dict[str, tuple[str, Path]]
) -> tuple[list[Sample], list[Problem]]:
    """The samples whose pictures can be used, with their sizes."""
    kept: list[Sample] = []
    problems: list[Problem] = []
    for sample, (digest, facts) in zip(samples, looks):
        found = list(_judge(sample, facts))
        problems += found
        if digest and not facts.fault:
            problems += _repeated(split, sample, seen.setdefault(digest, (split, sample.path)))
        if not any(problem.drops == "picture" for problem in found):
            kept.append(replace(sample, size=facts.size))
    return kept, problems


def _judge(sample: Sample, facts: Facts) -> Iterator[Problem]:
    if facts.fault:
        yield Problem("unreadable", PICTURE, facts.fault, sample.path, drops="picture")
    elif sample.size and sample.size != facts.size and facts.size:
        said, has = (f"{width} x {height}" for width, height in (sample.size, facts.size))
        message = f"its size is given as {said}, the picture has {has}: the boxes may not fit"
        hint = "was it turned by its EXIF orientation?" if sample.size == facts.size[::-1] else ""
        yield Problem("picture size", LABEL, message, sample.path, drops="picture", hint=hint)
    elif facts.remark:
        yield Problem("picture", NOTE, facts.remark, sample.path)


def _repeated(split: str, sample: Sample, first: tuple[str, Path]) -> Iterator[Problem]:
    """A note if the same file was met before, above all in another split: then the measured results flatter."""
    if first[1] != sample.path or first[0] != split:
        where = f" of '{first[0]}'" if first[0] != split else ""
        kind = "duplicate picture" if first[0] == split else "shared picture"
        yield Problem(kind, NOTE, f"the same picture as {first[1]}{where}", sample.path)


def _without_false_hints(reports: dict[str, SplitReport]) -> dict[str, SplitReport]:
    """Whether classes were counted from 1 only all files together tell."""
    boxes = (sample.boxes for report in reports.values() for sample in report.samples if sample.boxes is not None)
    if not any((found[:, 0] == 0).any() for found in boxes):
        return reports
    return {
        name: replace(r, problems=[replace(p, hint="") if p.hint == COUNTED_FROM_1 else p for p in r.problems])
        for name, r in reports.items()
    }


def _listing(title: str, problems: Sequence[Problem], of: str) -> list[str]:
    """A line with the count, then the problems, of each kind no more than `SHOWN`."""
    files = len({problem.file for problem in problems})
    kinds = Counter(problem.kind for problem in problems)
    dropped = Counter(problem.drops for problem in problems if problem.drops)
    drops = ", ".join(_plural(count, word) for word, count in dropped.items())
    number = f"{files:,}{of} files" if of else _plural(files, "file")
    lines = [f"{title} in {number}" + (f" (dropped: {drops})" if drops else "")]
    for kind, count in kinds.items():
        same = [problem for problem in problems if problem.kind == kind]
        lines += [f"  {problem}{_consequence(problem)}" for problem in same[:SHOWN]]
        if count > SHOWN:
            lines.append(f"  ... and {count - SHOWN} more of this kind ({kind})")
    return lines


def _consequence(problem: Problem) -> str:
    parts = [f"drops the {problem.drops}"] if problem.drops else []
    parts += [problem.hint] if problem.hint else []
    return f" ({'; '.join(parts)})" if parts else ""


def _plural(count: int, word: str) -> str:
    plural = word + ("es" if word.endswith("x") else "s")
    return f"{count:,} {word if count == 1 else plural}"


class _Known:
    """What is known of pictures by the hash of their files' content."""

    def __init__(self, dataset: Dataset, use: bool) -> None:
        self.use, self.new = use, False
        name = hashlib.blake2b(str(dataset.root).encode(errors="replace"), digest_size=12).hexdigest()
        self.path = cache_folder() / "pictures" / f"{name}-{_SCHEMA}.json.gz"
        self.facts: dict[str, Facts] = self._load() if use else {}

    def look(self, sample: Sample) -> Look:
        """The hash of a sample's file and what it is; arrays are taken as they are."""
        if sample.pixels is not None:
            return "", Facts(sample.size)
        try:
            data = content(sample.path)
        except UnreadableImageError as error:
            return "", Facts(None, error.message.removeprefix(f"{sample.path}: "))
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        if digest not in self.facts:
            self.facts[digest] = look(data, str(sample.path))
            self.new = True
        return digest, self.facts[digest]

    def save(self) -> None:
        """Keep what is new."""
        if not (self.use and self.new):
            return
        facts = {digest: [f.size, f.fault, f.remark] for digest, f in self.facts.items()}
        data = {"pillow": pillow().__version__, "facts": facts}
        with contextlib.suppress(NetbuildError):  # a cache that cannot be written costs time, nothing else
            make_folder(self.path.parent)
            write_bytes(self.path, gzip.compress(json.dumps(data).encode(), 5, mtime=0))

    def _load(self) -> dict[str, Facts]:
        try:
            data = json.loads(gzip.decompress(self.path.read_bytes()))
            if data["pillow"] != pillow().__version__:  # another one may read more, or less
                return {}
            return {
                digest: Facts(tuple(size) if size else None, fault, remark)
                for digest, (size, fault, remark) in data["facts"].items()
            }
        except MissingExtraError:
            raise
        except Exception:  # none yet, or damaged: it is made again
            return {}
