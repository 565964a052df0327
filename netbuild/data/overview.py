"""Charts and sheets that show a data set: its labels, the sizes of its pictures, and some samples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.data.contours import fill_polygons
from netbuild.data.dataset import Extra, Floats, Sample, collect_numbers
from netbuild.data.fitting import resize
from netbuild.data.map_faults import DEPTH
from netbuild.data.maps import IGNORED
from netbuild.data.oriented import corners_of, has_oriented_boxes
from netbuild.data.scanning import Report
from netbuild.drawing import charts, encoding, sheets
from netbuild.drawing.annotated import Drawing, Image, class_colour, join_keypoints
from netbuild.drawing.numbers import plot_numbers
from netbuild.system.files import make_folder, writing

Bools = NDArray[np.bool_]
Skeleton = Sequence[tuple[int, int]]  # pairs of keypoints that are joined


def draw_labels(samples: Sequence[Sample], names: Sequence[str]) -> charts.Figure:
    """Draw the number of objects of each class; where there are boxes, also their centres, sizes and shapes.

    Of numbers their histograms are drawn.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    boxes = [s.boxes for s in samples if s.boxes is not None]
    if any(s.numbers is not None for s in samples):
        return plot_numbers(collect_numbers(samples, len(names)), names)
    if not boxes:
        return charts.plot_labels(
            np.bincount(np.concatenate([s.classes for s in samples]), minlength=len(names)), names
        )
    rows = np.concatenate(boxes)
    sides = np.concatenate([np.tile(s.size or (1, 1), (len(s.boxes), 1)) for s in samples if s.boxes is not None])
    width, height = (rows[:, 3:] * sides).T
    counts = np.bincount(rows[:, 0].astype(int), minlength=len(names))
    return charts.plot_labels(counts, names, rows[:, 1:], width / np.maximum(height, 1e-9))


def draw_samples(
    samples: Sequence[Sample],
    names: Sequence[str],
    seed: int = 0,
    extras: Mapping[str, Extra] | None = None,
    skeleton: Skeleton = (),
) -> Image:
    """Draw a sheet (H, W, 3) of randomly chosen samples with their labels, each followed by its extras.

    Raises:
        NetbuildError: if a picture cannot be read, or Pillow is not installed.
    """
    count = max(sheets.MAX_PICTURES // (1 + len(extras or {})), 1)
    chosen = [samples[i] for i in np.random.default_rng(seed).permutation(len(samples))[:count]]
    cells = [
        cell for sample in chosen for cell in (draw_sample(sample, names, skeleton), *draw_extras(sample, extras or {}))
    ]
    width = 1 + len(extras or {})  # cells of a sample, which stay in one row
    return sheets.make_sheet(cells, max(4 // width, 1) * width)


def draw_extras(sample: Sample, extras: Mapping[str, Extra]) -> list[Drawing]:
    """Draw each extra of a sample.

    Class maps have the colours of their classes, and black where they are ignored. Values are grey from black for the
    least to white for the largest; the caption of depth states both.
    """
    drawn = []
    for name, extra in extras.items():
        values, caption = sample.extra(name, extra.kind), name
        if extra.kind == "classes":
            table = np.array([class_colour(number) for number in range(IGNORED)] + [(0, 0, 0)], np.uint8)
            values = table[values[..., 0].clip(0, IGNORED).astype(np.uint8)]
        elif extra.kind == "values":
            measured = values[values > 0] if name == DEPTH and (values > 0).any() else values
            low, span = float(measured.min()), max(float(np.ptp(measured)), 1e-9)
            caption = f"{name} {low:.3g} to {low + span:.3g} m" if name == DEPTH else name
            values = (255 * (values[..., :1] - low) / span).clip(0, 255).astype(np.uint8).repeat(3, 2)
        h, w = values.shape[0] // extra.scale, values.shape[1] // extra.scale
        drawn.append(Drawing(values if extra.scale == 1 else resize(values, h, w), caption=caption))
    return drawn


def draw_sample(sample: Sample, names: Sequence[str], skeleton: Skeleton = ()) -> Drawing:
    """Draw a sample's picture with its boxes, polygons, oriented boxes and keypoints; its classes or numbers below it.

    Keypoints that are not annotated are left out. Crowds are marked by their label.
    """
    image = sample.image(3)
    if sample.boxes is None:
        return Drawing(image, caption=describe_labels(sample, names))
    h, w = image.shape[:2]
    classes = sample.boxes[:, 0].astype(int).tolist()
    centre, half = sample.boxes[:, 1:3], sample.boxes[:, 3:] / 2
    boxes = np.concatenate((centre - half, centre + half), 1) * (w, h, w, h)
    crowd = [False] * len(classes) if sample.crowd is None else sample.crowd.tolist()
    labels = [f"{names[c]} (crowd)" if is_crowd else names[c] for c, is_crowd in zip(classes, crowd)]
    colours = [class_colour(c) for c in classes]
    marks: dict[str, Any] = {}
    if has_oriented_boxes([sample]):
        marks["outlines"] = corners_of(replace(sample, size=(w, h)))
    elif sample.outlines:
        scaled = [[polygon * (w, h) for polygon in outline] for outline in sample.outlines]
        marks["areas"] = [(fill_polygons(outline, (h, w)), tint) for outline, tint in zip(scaled, colours)]
    if sample.keypoints is not None:
        places = sample.keypoints[..., :2] * (w, h)
        seen = _find_annotated(sample.keypoints)
        found = list(zip(places, seen, colours))
        marks["points"] = [(points[chosen], tint) for points, chosen, tint in found]
        marks["lines"] = [(join_keypoints(points, chosen, skeleton), tint) for points, chosen, tint in found]
    return Drawing(image, boxes, labels, colours, **marks)


def describe_labels(sample: Sample, names: Sequence[str]) -> str:
    """Return the class, the labels that hold, or the numbers of a sample as a line of text."""
    if sample.numbers is not None:
        known = zip(names, sample.numbers.tolist(), strict=True)
        return ", ".join(f"{name} {value:.4g}" for name, value in known if value == value)
    return ", ".join(names[number] for number in sample.classes.tolist())


def _find_annotated(keypoints: Floats) -> Bools:
    """Return (N, K) whether each keypoint is annotated."""
    return keypoints[..., 2] > 0 if keypoints.shape[2] == 3 else np.all(keypoints >= 0, -1)


def write_overview(report: Report, folder: Path, seed: int = 0) -> list[Path]:
    """Write for each split ``labels_SPLIT.png``, ``pictures_SPLIT.png`` and ``samples_SPLIT.png``; return the paths.

    Args:
        report: of the scan.
        folder: made if it does not exist.
        seed: of the choice of samples that are shown.

    Raises:
        NetbuildError: if a file cannot be written, or a package is missing.
    """
    names, written = report.dataset.names, list[Path]()
    make_folder(folder)
    with writing(folder):
        for split, found in report.splits.items():
            if not found.samples:
                continue
            sizes = np.array([s.size for s in found.samples if s.size]).reshape(-1, 2)
            figures = {f"labels_{split}": lambda s=found.samples: draw_labels(s, names)} if names else {}
            figures[f"pictures_{split}"] = lambda s=sizes: charts.plot_sizes(s)
            written += charts.save_all(figures, folder)
            written.append(folder / f"samples_{split}.png")
            encoding.save(
                draw_samples(found.samples, names, seed, report.dataset.extras, report.dataset.skeleton), written[-1]
            )
    return written
