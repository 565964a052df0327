"""A histogram of values that differ by orders of magnitude, such as distances."""

import numpy as np

from netbuild.drawing.charts import LINES, Figure, Numbers, new_figure

BINS = 60


def plot_values(values: Numbers, label: str) -> Figure:
    """Plot a histogram of positive values (N,) on a logarithmic axis.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot(1, 1, 1)
    if len(values):
        low, high = float(values.min()), float(values.max())
        axes.hist(values, bins=np.geomspace(low, max(high, low * 1.01), BINS), color=LINES[3])
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("pixels")
    return figure
