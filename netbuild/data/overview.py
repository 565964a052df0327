"""What a data set looks like, in pictures: its labels, the sizes of its pictures, and some of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from netbuild.data.dataset import Sample
from netbuild.data.scanning import Report
from netbuild.drawing import charts, encoding, sheets
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.system.files import make_folder, writing


def labels(samples: Sequence[Sample], names: Sequence[str]) -> charts.Figure:
    """Objects of each class, and where there are boxes their centres, sizes and shapes.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    boxes = [s.boxes for s in samples if s.boxes is not None]
    if not boxes:
        return charts.plot_labels(np.bincount([s.label or 0 for s in samples], minlength=len(names)), names)
    rows = np.concatenate(boxes)
    sides = np.concatenate([np.tile(s.size or (1, 1), (len(s.boxes), 1)) for s in samples if s.boxes is not None])
    width, height = (rows[:, 3:] * sides).T
    counts = np.bincount(rows[:, 0].astype(int), minlength=len(names))
    return charts.plot_labels(counts, names, rows[:, 1:], width / np.maximum(height, 1e-9))


def some(samples: Sequence[Sample], names: Sequence[str], seed: int = 0) -> Image:
    """A sheet (H, W, 3) of pictures picked by chance, with their labels.

    Raises:
        NetbuildError: if a picture cannot be read, or Pillow is not installed.
    """
    chosen = np.random.default_rng(seed).permutation(len(samples))[: sheets.MAX_PICTURES]
    return sheets.make_sheet([drawing(samples[i], names) for i in chosen])


def drawing(sample: Sample, names: Sequence[str]) -> Drawing:
    """A picture with its boxes and their classes, or with its class under it."""
    image = sample.image(3)
    if sample.boxes is None:
        return Drawing(image, caption=names[sample.label or 0])
    h, w = image.shape[:2]
    classes = sample.boxes[:, 0].astype(int).tolist()
    centre, half = sample.boxes[:, 1:3], sample.boxes[:, 3:] / 2
    boxes = np.concatenate((centre - half, centre + half), 1) * (w, h, w, h)
    return Drawing(image, boxes, [names[c] for c in classes], [class_colour(c) for c in classes])


def write(report: Report, folder: Path, seed: int = 0) -> list[Path]:
    """For each split ``labels_SPLIT.png``, ``pictures_SPLIT.png`` and ``samples_SPLIT.png``.

    Args:
        report: of a scan.
        folder: made if it is not there.
        seed: of the pictures that are shown.

    Raises:
        NetbuildError: if it cannot be written, or a package is missing.
    """
    names, written = report.dataset.names, list[Path]()
    make_folder(folder)
    with writing(folder):
        for split, found in report.splits.items():
            if not found.samples:
                continue
            sizes = np.array([s.size for s in found.samples if s.size]).reshape(-1, 2)
            figures = {
                f"labels_{split}": lambda s=found.samples: labels(s, names),
                f"pictures_{split}": lambda s=sizes: charts.plot_sizes(s),
            }
            written += charts.save_all(figures, folder)
            written.append(folder / f"samples_{split}.png")
            encoding.save(some(found.samples, names, seed), written[-1])
    return written
