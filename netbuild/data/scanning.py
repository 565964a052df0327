"""The scan of a data set before anything is trained on it: all labels are read, all pictures decoded.

What was found out about a picture is cached by the hash of its file's content (`netbuild.data.scan_cache`); labels are
read anew each time.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from netbuild.data.dataset import LABEL, NOTE, PICTURE, Dataset, Extra, Problem, Sample
from netbuild.data.formats.labels import COUNTED_FROM_1
from netbuild.data.map_faults import MISSING_EXTRA, MapTotals, note_guessed_scale
from netbuild.data.scan_cache import ScanCache
from netbuild.data.usable import Inspection, UsableSamples
from netbuild.errors import NetbuildError, raise_all, shorten
from netbuild.system.tables import Table

_BACKGROUND = "are the labels elsewhere? --allow-background learns from background alone"
SHOWN = 10  # problems of each kind that the text lists; the dict has all


@dataclass(frozen=True)
class SplitReport:
    """One split after the scan.

    Attributes:
        samples: the samples that can be used.
        problems: all problems of labels and pictures.
        found: the number of pictures before any was dropped.
        label_place: where the label of one picture was looked for.
        maps: what the maps of each extra of these samples hold together.
    """

    samples: list[Sample]
    problems: list[Problem]
    found: int
    label_place: str = ""
    maps: Mapping[str, MapTotals] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of the report's table, by name.

        ``pictures`` can be used; of these ``labelled`` have an object, a class or an extra, ``missing`` have no label
        file, ``empty`` a label file without objects.
        """
        objects = [len(sample.classes) for sample in self.samples]
        bare = [s for s, count in zip(self.samples, objects) if not count and s.is_bare]
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

    def of_weight(self, weight: str) -> list[Problem]:
        """Return the problems of a weight."""
        return [problem for problem in self.problems if problem.weight == weight]


@dataclass(frozen=True)
class Report:
    """What a scan found, by split; `faults` decides whether the data set may be used.

    Attributes:
        dataset: the data set that was scanned.
        splits: for each split what was found.
    """

    dataset: Dataset
    splits: dict[str, SplitReport]

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of a split that can be used."""
        return self.splits[split].samples

    def problems(self, *weights: str) -> list[Problem]:
        """Return all problems, or only those of some weights."""
        return [p for split in self.splits.values() for p in split.problems if not weights or p.weight in weights]

    def faults(self, *, lenient: bool = False, strict: bool = False, allow_empty: bool = False) -> list[NetbuildError]:
        """Return the errors that forbid using the data set; empty if it may be used.

        Args:
            lenient: whether wrong labels are dropped, and no errors.
            strict: whether unreadable pictures are errors, and not dropped.
            allow_empty: whether detection may train on pictures without any object.
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
            elif name == "train" and not counts["labelled"] and not allow_empty:
                message = f"{self.dataset.name}: 0 boxes in {counts['pictures']} training pictures"
                found.append(NetbuildError(f"{message}\n  {split.label_place}", hint=_BACKGROUND))
        return found

    def raise_for_faults(self, *, lenient: bool = False, strict: bool = False, allow_empty: bool = False) -> "Report":
        """Return this report if the data set may be used; the arguments are those of `faults`.

        Raises:
            NetbuildError: with all faults, if it may not.
        """
        raise_all(self.faults(lenient=lenient, strict=strict, allow_empty=allow_empty))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the report with every problem as JSON data."""
        data = self.dataset
        return {
            "dataset": data.name,
            "root": str(data.root),
            "format": data.format,
            "task": data.task,
            "nc": data.nc,
            "names": list(data.names),
            "extras": {name: {"kind": extra.kind, "scale": extra.scale} for name, extra in data.extras.items()},
            "splits": {
                name: {**split.counts, "problems": [problem.to_dict() for problem in split.problems]}
                for name, split in self.splits.items()
            },
        }

    def text(self, width: int | None = None) -> str:
        """Return the report: a table, then the problems, at most `SHOWN` of each kind.

        Args:
            width: columns of the terminal that the table has to fit; None for a file or a pipe.
        """
        lines = [f"{describe(self.dataset)}, format {self.dataset.format}", *self._table(width)]
        for weight in _TITLES:
            lines += self._listing(weight)
        # Names and texts of the data set's files may hold escape sequences, which must not reach the terminal.
        return "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))

    def _listing(self, weight: str) -> list[str]:
        """Return lines that list the problems of a weight, split by split."""
        # Where each picture has a file of its own, the number of faulty files is compared with all of them.
        each = weight == PICTURE or (weight == LABEL and self.dataset.format in _FILE_EACH)
        lines = []
        for name, split in self.splits.items():
            if problems := split.of_weight(weight):
                of = f" of {split.found:,}" if each else ""
                lines += _list_problems(f"{name}: {_plural(len(problems), _TITLES[weight])}", problems, of)
        return lines

    def _table(self, width: int | None) -> list[str]:
        heads = ("split", *(key.replace("_", " ") for key in next(iter(self.splits.values())).counts))
        rows = [heads, *((name, *map(str, split.counts.values())) for name, split in self.splits.items())]
        return Table(rows, steps=[(0, 8)], split=True).lines(width)


def describe(dataset: Dataset) -> str:
    """Return a data set's name, task, classes and extras in one line."""
    parts = [f"{dataset.name}: {dataset.task}"]
    if dataset.nc:
        plural = "class" if dataset.nc == 1 else "classes"
        parts.append(f"{dataset.nc} {plural} ({shorten(', '.join(dataset.names))})")
    for name, extra in dataset.extras.items():
        parts.append(f"{name} ({extra.kind}{f', {extra.scale} times the size' if extra.scale > 1 else ''})")
    return ", ".join(parts)


_FILE_EACH = ("yolo", "voc", "dota")  # formats in which each picture has its own label file
_TITLES = {LABEL: "label error", PICTURE: "unreadable picture", NOTE: "note"}


def scan(
    dataset: Dataset,
    nc: int | None = None,
    *,
    splits: Sequence[str] | None = None,
    cache: bool = True,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    partial: bool = False,
) -> Report:
    """Read all labels and decode all pictures and extras.

    Problems raise nothing here; `Report.raise_for_faults` does that. The report's samples are those that are left when
    everything wrong is dropped.

    Args:
        dataset: from `netbuild.data.opening.open_data`.
        nc: number of the network's classes, if it differs from the number of names.
        splits: which to scan; all unless given.
        cache: whether what earlier scans found out about pictures is used, and new facts are written.
        workers: number of threads that decode; the number of processors, at most 16, unless given.
        progress: called after each picture with the split, the number done, and the total.
        partial: whether pictures that lack an extra are used: for a network whose heads learn from what each picture
            has. Otherwise they are label errors.

    Raises:
        NetbuildError: if a split cannot be read at all.
    """
    if nc is not None and nc < 1:
        raise NetbuildError(f"a network has at least 1 class, not {nc}")
    if dataset.parts:
        return _scan_parts(dataset, splits, cache=cache, workers=workers, progress=progress, partial=partial)
    known = ScanCache(dataset, cache)
    seen: dict[str, tuple[str, Path]] = {}
    reports: dict[str, SplitReport] = {}
    for name in splits if splits is not None else tuple(dataset.splits):
        split = dataset.split(name)
        classes = dataset.nc if nc is None else nc
        found_samples = split.all_samples() if partial else split.samples
        samples, out_of_range = _drop_out_of_range(found_samples, classes, dataset.nc)
        with ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
            inspected = pool.map(lambda sample: _inspect(sample, dataset.extras, known), samples)
            counted = _report_progress(inspected, name, len(samples), progress)
            usable = UsableSamples(dataset, name, min(classes, dataset.nc), seen, partial)
            for sample, found in zip(samples, counted):
                usable.add(sample, found)
        whole = () if reports else (*dataset.notes, *_note_no_val(dataset, splits))
        is_guess_noted = any(totals.guessed for report in reports.values() for totals in report.maps.values())
        guessed = () if is_guess_noted else note_guessed_scale(usable.maps)
        of_labels = [p for p in split.problems if not partial or p.kind != MISSING_EXTRA]
        problems = [*whole, *guessed, *of_labels, *out_of_range, *usable.list_problems()]
        count = max(split.found, len(split.samples))
        reports[name] = SplitReport(usable.samples, problems, count, split.label_place, usable.maps)
    known.save()
    return Report(dataset, _drop_false_hints(reports))


def _scan_parts(dataset: Dataset, splits: Sequence[str] | None, **options: Any) -> Report:
    """Scan each of the data sets that a data set consists of, and join what was found by split.

    A part without a split ``val`` is measured on its split ``test``, as it would be alone.
    """
    joined: dict[str, SplitReport] = {}
    for name in splits if splits is not None else tuple(dataset.splits):
        found = []
        for part, inner in dataset.parts.items():
            chosen = inner.held_out() if name == "val" else name
            if chosen in inner.splits:
                report = scan(inner, splits=[chosen], **options).splits[chosen]
                found.append(replace(report, samples=[replace(s, part=part) for s in report.samples]))
        joined[name] = SplitReport(
            [sample for report in found for sample in report.samples],
            [problem for report in found for problem in report.problems],
            sum(report.found for report in found),
            "\n  ".join(report.label_place for report in found if report.label_place),
        )
    return Report(dataset, joined)


def _note_no_val(dataset: Dataset, splits: Sequence[str] | None) -> Iterator[Problem]:
    """Yield a note if training measures on the test split because there is no other."""
    names = dataset.splits if splits is None else splits
    if "val" not in dataset.splits and "train" in names and "test" in names:
        message = "there is no split 'val': training chooses its best checkpoint on 'test', whose measures are too good"
        yield Problem("no val", NOTE, message, Path(dataset.name), hint="name a part of train as val")


def _inspect(sample: Sample, extras: Mapping[str, Extra], known: ScanCache) -> Inspection:
    """Decode a sample's picture and its extras, unless the cache knows them."""
    digest, facts = known.inspect(sample)
    there = {name: extra for name, extra in extras.items() if name in sample.extras}
    found = {name: known.inspect_extra(sample.extras[name], extra.kind) for name, extra in there.items()}
    return Inspection(digest, facts, found)


def _drop_out_of_range(samples: list[Sample], nc: int, named: int) -> tuple[list[Sample], list[Problem]]:
    """Drop boxes and pictures whose class a network of ``nc`` classes, fewer than the names, does not have."""
    usable, problems = [], []
    for sample in samples if nc < named else ():
        message = f"outside 0..{nc - 1} (the network has {nc} classes, the data set {named} names)"
        source = sample.source or sample.path
        if sample.boxes is None:
            if (sample.label or 0) < nc:
                usable.append(sample)
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
        usable.append(sample.only(good))
    return (usable if nc < named else samples), problems


def _report_progress(
    inspected: Iterator[Inspection], split: str, total: int, progress: Callable[[str, int, int], None] | None
) -> Iterator[Inspection]:
    """Yield the inspections on, calling ``progress`` after each."""
    for done, found in enumerate(inspected, 1):
        if progress:
            progress(split, done, total)
        yield found


def _drop_false_hints(reports: dict[str, SplitReport]) -> dict[str, SplitReport]:
    """Remove the hint that classes were counted from 1 if any file has an object of class 0."""
    boxes = (sample.boxes for report in reports.values() for sample in report.samples if sample.boxes is not None)
    if not any((found[:, 0] == 0).any() for found in boxes):
        return reports
    return {
        name: replace(r, problems=[replace(p, hint="") if p.hint == COUNTED_FROM_1 else p for p in r.problems])
        for name, r in reports.items()
    }


def _list_problems(title: str, problems: Sequence[Problem], of: str) -> list[str]:
    """Return a line with the count, then the problems, at most `SHOWN` of each kind."""
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
