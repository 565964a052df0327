"""Checking a data set and computing its statistics: what the commands ``netbuild data check`` and ``stats`` do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.data.dataset import LABELS, NUMBERS, Dataset, Sample, collect_numbers
from netbuild.data.maps import IGNORED
from netbuild.data.opening import open_data
from netbuild.data.oriented import corners_of, has_oriented_boxes
from netbuild.data.scanning import Report, SplitReport, scan
from netbuild.errors import NetbuildError
from netbuild.system.tables import Table

SMALL, MEDIUM = 32**2, 96**2  # area in pixels: COCO's limits of small and medium boxes (arXiv 1405.0312)
_PERCENTILES = (0, 25, 50, 75, 100)


def check(
    path: str | Path,
    nc: int | None = None,
    *,
    splits: Sequence[str] | None = None,
    lenient: bool = False,
    strict: bool = False,
    allow_empty: bool = False,
    cache: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Report, list[NetbuildError]]:
    """Scan a data set; return the report, and the errors that forbid its use (none if it may be used).

    The arguments are those of `netbuild.data.scanning.scan` and of its report's ``faults``.

    Raises:
        NetbuildError: if the data set cannot be opened.
    """
    report = scan(open_data(path), nc, splits=splits, cache=cache, progress=progress)
    return report, report.faults(lenient=lenient, strict=strict, allow_empty=allow_empty)


def stats(path: str | Path, *, splits: Sequence[str] | None = None, cache: bool = True) -> dict[str, Any]:
    """Scan a data set and return its statistics by split: objects per class, sizes of boxes and of pictures, extras.

    ``numbers`` has the quantiles of each number of a data set for regression.

    Where the data have them, also ``polygons`` (of how many objects, with how many points), ``oriented_boxes``,
    ``keypoints`` (how many of each are annotated and visible) and ``crowds``; ``extras`` has the pixels of each class,
    or the range of what is measured.

    ``boxes`` has quantiles (``min``, ``q25``, ``median``, ``q75``, ``max``) of width, height and the root of the area
    in pixels of the picture, of width over height, and the numbers of small, medium and large ones; ``pictures`` has
    quantiles of width, height and width over height, and the most frequent sizes.

    Raises:
        NetbuildError: if the data set cannot be opened.
    """
    return stats_of(scan(open_data(path), splits=splits, cache=cache))


def stats_of(report: Report) -> dict[str, Any]:
    """Return the statistics of a data set that was scanned, see `stats`."""
    return {
        "dataset": report.dataset.name,
        "task": report.dataset.task,
        "names": list(report.dataset.names),
        "splits": {name: _split_stats(report.dataset, split) for name, split in report.splits.items()},
    }


def stats_text(found: dict[str, Any], width: int | None = None) -> str:
    """Return the result of `stats` as text.

    Args:
        found: the statistics.
        width: columns of the terminal that the tables have to fit; None for a file or a pipe.
    """
    kind = {LABELS: "labels", NUMBERS: "numbers"}.get(found["task"], "classes")
    classes = f", {len(found['names'])} {kind}" if found["names"] else ""
    lines = [f"{found['dataset']}: {found['task']}{classes}"]
    for name, split in found["splits"].items():
        counts = [f"{split['pictures']['count']:,} pictures"]
        counts += [f"{split['objects']:,} objects"] if found["names"] and found["task"] != NUMBERS else []
        counts += [f"{split['crowds']:,} crowds"] if "crowds" in split else []
        counts += [f"{split['polygons']['objects']:,} with polygons"] if "polygons" in split else []
        counts += [f"{split['oriented_boxes']['objects']:,} oriented boxes"] if "oriented_boxes" in split else []
        counts += [f"{extra['count']:,} {kind} ({extra['kind']})" for kind, extra in split["extras"].items()]
        lines += ["", f"{name}: {', '.join(counts)}"]
        if split["objects"] or not split["extras"]:
            lines += _table(("class", "objects", "pictures"), [tuple(row.values()) for row in split["classes"]], width)
        for title in ("pictures", "boxes", "polygons", "oriented_boxes"):
            rows = [(key, *value.values()) for key, value in split.get(title, {}).items() if isinstance(value, dict)]
            rows = [row for row in rows if len(row) == 1 + len(_PERCENTILES)]
            lines += _table((title.replace("_", " "), "min", "q25", "median", "q75", "max"), rows, width)
        lines += _table_of_keypoints(split.get("keypoints", []), width)
        quantiles = [tuple(row.values()) for row in split.get("numbers", [])]
        lines += _table(("number", "known", "min", "q25", "median", "q75", "max"), quantiles, width)
        for kind, extra in split["extras"].items():
            lines += _table_of_maps(kind, extra, found["names"], width)
    return "\n".join(lines)


def _table_of_keypoints(rows: Sequence[dict[str, Any]], width: int | None) -> list[str]:
    heads = ("keypoint", "annotated", "visible")
    return _table(heads, [(row["name"], row["annotated"], row["visible"]) for row in rows], width)


def _table_of_maps(kind: str, extra: dict[str, Any], names: Sequence[str], width: int | None) -> list[str]:
    """Return the pixels of each class of class maps, or the range of measured values."""
    if extra.get("measured"):
        heads, unit = (kind, "least", "most", "pixels"), " in metres" if kind == "depth" else ""
        return _table(heads, [(f"values{unit}", extra["least"], extra["most"], extra["measured"])], width)
    pixels = {int(number): count for number, count in extra.get("pixels", {}).items()}
    total = max(sum(count for number, count in pixels.items() if number != IGNORED), 1)
    rows = []
    for number, count in pixels.items():
        name = names[number] if number < len(names) else "ignored" if number == IGNORED else str(number)
        rows.append((name, count, "-" if number == IGNORED else f"{count / total:.2%}"))
    return _table((kind, "pixels", "share"), rows, width)


def _split_stats(dataset: Dataset, split: SplitReport) -> dict[str, Any]:
    samples = split.samples
    classes = [sample.classes for sample in samples]
    flat = np.concatenate(classes) if classes else np.zeros(0, int)
    objects = np.bincount(flat, minlength=dataset.nc)
    single = np.concatenate([np.unique(found) for found in classes]) if classes else flat
    pictures = np.bincount(single, minlength=dataset.nc)
    rows = zip(dataset.names if dataset.task != NUMBERS else (), objects.tolist(), pictures.tolist())
    result: dict[str, Any] = {
        "objects": len(flat),
        "classes": [{"name": name, "objects": count, "pictures": within} for name, count, within in rows],
        "pictures": _picture_stats(samples),
        "extras": {
            name: {
                "kind": extra.kind,
                "scale": extra.scale,
                "count": sum(name in s.extras for s in samples),
                **(split.maps[name].to_dict() if name in split.maps else {}),
            }
            for name, extra in dataset.extras.items()
        },
    }
    if any(sample.boxes is not None for sample in samples):
        result["boxes"] = _box_stats(samples)
    if dataset.task == NUMBERS:
        result["numbers"] = _number_stats(dataset, samples)
    return result | _label_stats(dataset, samples)


def _label_stats(dataset: Dataset, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the statistics of crowds, polygons, oriented boxes and keypoints, of those that there are."""
    result: dict[str, Any] = {}
    if crowds := sum(int(sample.crowd.sum()) for sample in samples if sample.crowd is not None):
        result["crowds"] = crowds
    if has_oriented_boxes(samples):
        result["oriented_boxes"] = _oriented_stats(samples)
    elif outlines := [outline for sample in samples for outline in sample.without_crowds().outlines if outline]:
        several = sum(len(outline) > 1 for outline in outlines)
        points = _quantiles([sum(map(len, outline)) for outline in outlines])
        result["polygons"] = {"objects": len(outlines), "of_several_parts": several, "points": points}
    if dataset.keypoint_shape:
        result["keypoints"] = _keypoint_stats(dataset, samples, dataset.keypoint_shape)
    return result


def _oriented_stats(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return how many oriented boxes there are, the quantiles of their sides in pixels, and of their angle in degrees.

    The angle is that of the longer side against the x axis, from -90 to 90.
    """
    corners = np.concatenate([corners_of(sample) for sample in samples])
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]
    lengths = np.stack((np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)))
    longer = np.where((lengths[0] >= lengths[1])[:, None], first, second)
    angles = (np.degrees(np.arctan2(longer[:, 1], longer[:, 0])) + 90) % 180 - 90
    sides = {"longer_side": _quantiles(lengths.max(0)), "shorter_side": _quantiles(lengths.min(0))}
    return {"objects": len(corners), **sides, "angle": _quantiles(angles)}


def _keypoint_stats(dataset: Dataset, samples: Sequence[Sample], shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Return for each keypoint of how many objects it is annotated, and of how many visible."""
    found = [sample.keypoints for sample in samples if sample.keypoints is not None]
    points = np.concatenate(found) if found else np.zeros((0, *shape))
    seen = points[..., 2] if shape[1] == 3 else np.where((points >= 0).all(-1), 2, 0)
    names = dataset.keypoint_names or [str(index) for index in range(shape[0])]
    return [
        {"name": name, "annotated": int((seen[:, i] > 0).sum()), "visible": int((seen[:, i] > 1).sum())}
        for i, name in enumerate(names)
    ]


def _number_stats(dataset: Dataset, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return for each number in how many pictures it is known, and its quantiles."""
    values = collect_numbers(samples, len(dataset.names))
    known = [column[np.isfinite(column)] for column in values.T]
    return [{"name": name, "known": len(v), **_quantiles(v)} for name, v in zip(dataset.names, known, strict=True)]


def _picture_stats(samples: Sequence[Sample]) -> dict[str, Any]:
    sizes = np.array([sample.size for sample in samples if sample.size], dtype=float).reshape(-1, 2)
    found, counts = np.unique(sizes, axis=0, return_counts=True)
    common = sorted(zip(counts.tolist(), found.astype(int).tolist()), reverse=True)[:5]
    return {
        "count": len(samples),
        "width": _quantiles(sizes[:, 0]),
        "height": _quantiles(sizes[:, 1]),
        "aspect": _quantiles(sizes[:, 0] / sizes[:, 1]),
        "common": [{"width": width, "height": height, "count": count} for count, (width, height) in common],
    }


def _box_stats(samples: Sequence[Sample]) -> dict[str, Any]:
    sides = [s.boxes[:, 3:] * s.size for s in samples if s.boxes is not None and s.size]
    flat = np.concatenate(sides) if sides else np.zeros((0, 2))
    width, height = flat[:, 0], flat[:, 1]
    area = width * height
    return {
        "width": _quantiles(width),
        "height": _quantiles(height),
        "root_area": _quantiles(np.sqrt(area)),
        "aspect": _quantiles(width / height),
        "areas": {
            "small": int((area < SMALL).sum()),
            "medium": int(((area >= SMALL) & (area < MEDIUM)).sum()),
            "large": int((area >= MEDIUM).sum()),
        },
        "most_in_a_picture": max((len(s.boxes) for s in samples if s.boxes is not None), default=0),
    }


def _quantiles(values: Any) -> dict[str, float | None]:
    keys = ("min", "q25", "median", "q75", "max")
    if not len(values):
        return dict.fromkeys(keys)
    return {key: round(float(value), 4) for key, value in zip(keys, np.percentile(values, _PERCENTILES))}


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None) -> list[str]:
    cells = [tuple(heads), *(tuple(_cell(value) for value in row) for row in rows)]
    if len(cells) == 1:
        return []
    return Table(cells, steps=[(0, 8)], indent=2, split=True).lines(width)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
