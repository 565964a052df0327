"""The base class of metrics that count pairs of a predicted and a true class."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from netbuild.drawing import charts
from netbuild.tasks.average_precision import Ints
from netbuild.tasks.base import Metric


class ConfusionMetric(Metric):
    """A confusion matrix, with its table and its chart; a subclass fills it and derives its measures from it.

    Args:
        names: names of the classes.

    Attributes:
        matrix: (nc, nc) counts by predicted class (row) and true class (column).
    """

    counts: tuple[str, ...] = ("matrix",)

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.matrix = np.zeros((len(self.names),) * 2, np.int64)

    def confusion(self) -> Ints:
        """Return a copy of the counts (nc, nc) by predicted class (row) and true class (column)."""
        return self.matrix.copy()

    def tables(self) -> dict[str, Any]:
        """Return the confusion matrix as JSON data."""
        return {"confusion": {"names": self.names, "counts": self.matrix.tolist()}}

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the chart of the confusion matrix."""
        return {"confusion": partial(charts.plot_confusion, self.confusion(), self.names)}
