"""Scatter plots of points in the plane, coloured by class."""

from collections.abc import Sequence

import numpy as np

from netbuild.drawing.charts import LINES, Figure, Numbers, legible, new_figure, style_axes

MAX_POINTS = 5_000  # more would hide each other


def plot_points(points: Numbers, classes: Numbers, names: Sequence[str], title: str) -> Figure | None:
    """Plot points (N, D) by class; of more than two numbers the two main components. None for no points, or one number.

    Args:
        points: the points.
        classes: (N,) the number of each point's class.
        names: names of the classes; without any all points have one colour.
        title: of the chart.
    """
    if len(points) < 2 or points.shape[1] < 2:
        return None
    chosen = np.unique(np.linspace(0, len(points) - 1, MAX_POINTS).astype(int))
    places, kinds = points[chosen], classes[chosen]
    if places.shape[1] > 2:
        centred = places - places.mean(0)
        places = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    figure = new_figure(7, 6)
    axes = figure.add_subplot()
    for number in np.unique(kinds):
        name = names[number] if number < len(names) else ""
        x, y = places[kinds == number].T
        marker = "o^sD"[number // len(LINES) % 4]
        axes.scatter(x, y, s=9, alpha=0.7, color=LINES[number % len(LINES)], marker=marker, label=legible(name))
    axes.set_title(title, fontsize=9)
    axes.set_aspect("equal", "datalim")
    if names:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    style_axes(axes)
    return figure
