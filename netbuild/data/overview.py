"""Charts and sheets that show a data set: its labels, the sizes of its pictures, and some samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import Extra, Sample
from netbuild.data.fitting import resize
from netbuild.data.scanning import Report
from netbuild.drawing import charts, encoding, sheets
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.system.files import make_folder, writing


def draw_labels(samples: Sequence[Sample], names: Sequence[str]) -> charts.Figure:
    """Draw the number of objects of each class; where there are boxes, also their centres, sizes and shapes.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    boxes = [s.boxes for s in samples if s.boxes is not None]
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
    samples: Sequence[Sample], names: Sequence[str], seed: int = 0, extras: Mapping[str, Extra] | None = None
) -> Image:
    """Draw a sheet (H, W, 3) of randomly chosen samples with their labels, each followed by its extras.

    Raises:
        NetbuildError: if a picture cannot be read, or Pillow is not installed.
    """
    count = max(sheets.MAX_PICTURES // (1 + len(extras or {})), 1)
    chosen = [samples[i] for i in np.random.default_rng(seed).permutation(len(samples))[:count]]
    cells = [cell for sample in chosen for cell in (draw_sample(sample, names), *draw_extras(sample, extras or {}))]
    width = 1 + len(extras or {})  # cells of a sample, which stay in one row
    return sheets.make_sheet(cells, max(4 // width, 1) * width)


def draw_extras(sample: Sample, extras: Mapping[str, Extra]) -> list[Drawing]:
    """Draw each extra of a sample: class maps in the colours of their classes, values as grey from least to largest."""
    drawn = []
    for name, extra in extras.items():
        values = sample.extra(name, extra.kind)
        if extra.kind == "classes":
            table = np.array([class_colour(number) for number in range(256)], np.uint8)
            values = table[values[..., 0].clip(0, 255).astype(np.uint8)]
        elif extra.kind == "values":
            span = max(float(values.max() - values.min()), 1e-9)
            values = (255 * (values[..., :1] - values.min()) / span).astype(np.uint8).repeat(3, 2)
        h, w = values.shape[0] // extra.scale, values.shape[1] // extra.scale
        drawn.append(Drawing(values if extra.scale == 1 else resize(values, h, w), caption=name))
    return drawn


def draw_sample(sample: Sample, names: Sequence[str]) -> Drawing:
    """Draw a sample's picture with its boxes, oriented where they are, and their classes; or its class as caption."""
    image = sample.image(3)
    if sample.boxes is None:
        return Drawing(image, caption="" if sample.label is None else names[sample.label])
    h, w = image.shape[:2]
    classes = sample.boxes[:, 0].astype(int).tolist()
    centre, half = sample.boxes[:, 1:3], sample.boxes[:, 3:] / 2
    boxes = np.concatenate((centre - half, centre + half), 1) * (w, h, w, h)
    corners = find_corners(sample)
    outlines = None if corners is None else corners * (w, h)
    return Drawing(image, boxes, [names[c] for c in classes], [class_colour(c) for c in classes], outlines=outlines)


def find_corners(sample: Sample) -> NDArray[np.float64] | None:
    """Return the corners (N, 4, 2) of oriented boxes as fractions; None if not every object is labelled by four."""
    if sample.outlines and all(len(outline) == 1 and len(outline[0]) == 4 for outline in sample.outlines):
        return np.array([outline[0] for outline in sample.outlines])
    return None


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
            encoding.save(draw_samples(found.samples, names, seed, report.dataset.extras), written[-1])
    return written
