"""How well one object is followed: success and precision plots. OTB, arXiv 1304.5850 and TPAMI 2015."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.drawing import charts
from netbuild.drawing.numbers import plot_shares
from netbuild.errors import NetbuildError
from netbuild.prediction.trackers.association import pairwise_iou
from netbuild.system.tables import Table
from netbuild.tasks.location_metric import NEAR, THRESHOLDS
from netbuild.tracking.mot_files import TrackRows, read_rows

Array = NDArray[Any]

OVERLAPS = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class SuccessReport:
    """The overlaps and distances of the followed object, of all frames but the first in which its truth is known.

    Attributes:
        overlaps: (N,) IoU of true and found boxes; 0 where there is no found box.
        distances: (N,) pixels between their centres; infinite where there is none.
    """

    overlaps: Array
    distances: Array

    def measures(self) -> dict[str, float]:
        """Return the area under the success plot, the mean IoU, and the share of the frames within 20 pixels."""
        return {
            "success": float(self.success_curve().mean()),
            "mean-IoU": float(self.overlaps.mean()),
            "precision-20px": float((self.distances < NEAR).mean()),
        }

    def success_curve(self) -> Array:
        """Return the share of the frames with an IoU above each of `OVERLAPS`."""
        return np.array([(self.overlaps > limit).mean() for limit in OVERLAPS])

    def precision_curve(self) -> Array:
        """Return the share of the frames with a distance of at most each of `THRESHOLDS`."""
        return np.array([(self.distances <= limit).mean() for limit in THRESHOLDS])

    def table(self) -> Table:
        """Return a table with one row."""
        found = self.measures()
        return Table([["frames", *found], [str(len(self.overlaps)), *(f"{value:.3f}" for value in found.values())]])

    def to_dict(self) -> dict[str, Any]:
        """Return all measures and both plots as JSON data."""
        success = {"IoU": OVERLAPS.tolist(), "share": self.success_curve().tolist()}
        precision = {"pixels": THRESHOLDS.tolist(), "share": self.precision_curve().tolist()}
        return {**self.measures(), "plots": {"success": success, "precision": precision}}

    def save_plots(self, folder: Path) -> Iterator[Path]:
        """Draw ``success.png`` and ``precision.png`` into a folder; yield their paths."""
        share, found = "share of the frames", self.measures()
        plots = {
            "success": (OVERLAPS, {f"area {found['success']:.3f}": self.success_curve()}, "least IoU", share),
            "precision": (THRESHOLDS, {"": self.precision_curve()}, "error of the centre in pixels", share),
        }
        yield from charts.save_all({name: partial(plot_shares, *values) for name, values in plots.items()}, folder)


def measure_success(truth: TrackRows, found: TrackRows) -> SuccessReport:
    """Compare a followed object with the true track that has the largest IoU with it in the first frame.

    Args:
        truth: true tracks of the video.
        found: the followed object, one row for each frame.

    Raises:
        NetbuildError: if no true object overlaps it in its first frame, or its track ends there.
    """
    first = int(found.frames[0])
    start = truth.select((truth.frames == first) & (truth.scores != 0))
    overlap = pairwise_iou(start.boxes, found.boxes[:1])[:, 0]
    if not len(overlap) or overlap.max() == 0:
        hint = "the box must be that of an object in the file of true tracks"
        raise NetbuildError(f"--truth: no true object overlaps the box in frame {first}", hint=hint)
    true = truth.select((truth.ids == start.ids[overlap.argmax()]) & (truth.frames > first) & (truth.scores != 0))
    if not len(true):
        raise NetbuildError(f"--truth: the object is in frame {first} alone")
    places = {frame: i for i, frame in enumerate(found.frames.tolist())}
    boxes = np.array([found.boxes[places[f]] if f in places else [np.nan] * 4 for f in true.frames.tolist()])
    centres = [(values[:, :2] + values[:, 2:]) / 2 for values in (true.boxes, boxes)]
    overlaps = np.array([pairwise_iou(true.boxes[i : i + 1], boxes[i : i + 1])[0, 0] for i in range(len(true))])
    distances = np.linalg.norm(centres[0] - centres[1], axis=1)
    return SuccessReport(np.nan_to_num(overlaps), np.nan_to_num(distances, nan=np.inf))


def measure_followed(found: Mapping[str, TrackRows], truth: Sequence[Path]) -> SuccessReport:
    """Measure the one object that was followed.

    Args:
        found: its track by the name of its video.
        truth: one file of true tracks.

    Raises:
        NetbuildError: for several files; see also `measure_success`.
    """
    if len(truth) != 1:
        raise NetbuildError(f"--truth: one object is measured by one file of true tracks, there are {len(truth)}")
    return measure_success(read_rows(truth[0]), next(iter(found.values())))
