"""Charts of numbers: their histograms, and predictions against truth."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from netbuild.drawing.charts import LINES, MAIN, Axes, Figure, Numbers, new_figure
from netbuild.errors import shorten

BINS = 40
COLUMNS = 3  # panels in a row
MAX_PANELS = 12  # further columns are left out of the charts


def plot_numbers(values: Numbers, names: Sequence[str]) -> Figure:
    """Plot a histogram of each column of values (N, K), of which NaN are left out.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure, panels = make_panels(names)
    for axes, column in zip(panels, values.T, strict=False):
        axes.hist(column[np.isfinite(column)], bins=BINS, color=LINES[3])
        axes.set_ylabel("pictures")
    return figure


def plot_scatter(truth: Numbers, predicted: Numbers, names: Sequence[str]) -> Figure:
    """Plot predictions (N, K) over the truth (N, K), a panel for each column; on the dashed line both are equal.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure, panels = make_panels(names)
    for axes, x, y in zip(panels, truth.T, predicted.T, strict=False):
        known = np.isfinite(x) & np.isfinite(y)
        axes.scatter(x[known], y[known], s=9, alpha=0.5, color=LINES[3], linewidths=0)
        if known.any():
            ends = min(x[known].min(), y[known].min()), max(x[known].max(), y[known].max())
            axes.plot(ends, ends, color=MAIN, linestyle="--", linewidth=1)
        axes.set(xlabel="true", ylabel="predicted")
    return figure


def plot_shares(x: Numbers, shares: Mapping[str, Numbers], x_label: str, y_label: str) -> Figure:
    """Plot curves of shares from 0 to 1, each with its name in the legend; an empty name is not shown.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = new_figure(5.4, 4)
    axes = figure.add_subplot(1, 1, 1)
    for i, (name, values) in enumerate(shares.items()):
        axes.plot(x, values, color=LINES[(3 + i) % len(LINES)], label=shorten(name, 32) or None)
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(x[0], x[-1]), ylim=(0, 1.02))
    if any(shares):
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def make_panels(names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each name, at most `MAX_PANELS`."""
    shown = names[:MAX_PANELS]
    columns, rows = min(len(shown), COLUMNS), ceil(len(shown) / COLUMNS)
    figure = new_figure(4.2 * columns, 3.6 * rows)
    panels = [figure.add_subplot(rows, columns, i + 1) for i in range(len(shown))]
    for axes, name in zip(panels, shown, strict=True):
        axes.set_title(shorten(name, 48), fontsize=10)
    return figure, panels
