"""Charts of losses, metrics, precision and recall, confusion matrices and labels, from arrays to matplotlib figures.

matplotlib is imported when a chart is drawn. Only its `Figure` class is used, never pyplot, which would open windows
and keep global state.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.drawing.annotated import COLOURS
from netbuild.drawing.fonts import matplotlib_families
from netbuild.errors import shorten
from netbuild.system.files import write_bytes
from netbuild.system.packages import package

Figure = Any  # matplotlib.figure.Figure
Axes = Any
Numbers = NDArray[Any]

DPI = 110  # pixels per inch: letters of 6 points are 9 pixels high
MAX_LINES = 10  # classes up to which each has a line style and a legend entry of its own
MAX_NAMES = 120  # classes up to which all names are legible along an axis
MAX_COUNTS = 30  # classes up to which every cell of a confusion matrix shows its count
MIN_SHARE = 0.05  # cells of a larger confusion matrix show their count from this share on
# Without yellow, which is hardly visible on white.
LINES = [tuple(part / 255 for part in c) for i, c in enumerate(COLOURS) if i != 3]
STYLES = ("-", "--", ":", "-.")
MAIN, PALE = "black", "#b0b0b0"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height are in inches.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    return package("matplotlib.figure", "train").Figure((width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically as PNG.

    Raises:
        NetbuildError: if it cannot be written.
    """
    write_bytes(path, encode_png(figure))


def encode_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    data = io.BytesIO()
    set_fonts(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that no font has; a note has named them
        figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
    return data.getvalue()


def set_fonts(figure: Figure) -> None:
    """Give the texts of a figure fonts that have their letters, where matplotlib's own font lacks some."""
    texts = [text for text in figure.findobj(package("matplotlib.text", "train").Text) if not text.get_text().isascii()]
    if texts:
        families = matplotlib_families([text.get_text() for text in texts])
        for text in texts:
            text.set_fontfamily(families)


def legible(name: object, limit: int = 24) -> str:
    """Shorten a name; matplotlib would typeset what stands between two dollar signs as a formula."""
    return shorten(name, limit).replace("$", r"\$")


def style_axes(axes: Axes) -> None:
    """Give axes a pale grid, no frame above and at the right, and small ticks."""
    axes.grid(True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


# -- a run ------------------------------------------------------------------------------------------------------------


def plot_losses(history: Sequence[Mapping[str, float]]) -> Figure | None:
    """Plot each loss component over epochs; None if there is none.

    Args:
        history: one mapping per epoch with the keys "epoch", "train/..." for losses, and metrics by their names.
    """
    return _plot_panels(history, {key: 0 for key in _measure_names(history) if key.startswith("train/")})


def plot_metrics(history: Sequence[Mapping[str, float]], errors: Sequence[str] = ()) -> Figure | None:
    """Plot each metric over epochs and mark its best value; None if there is no metric.

    Args:
        history: as for `plot_losses`. A metric of -1 is undefined, as COCO's are when there are no objects.
        errors: names of the metrics of which the smallest value is the best.
    """
    keys = [key for key in _measure_names(history) if not key.startswith("train/")]
    found = {key: tuple(row.get(key, -1.0) for row in history) for key in keys}
    known = [key for key in keys if any(value != -1 for value in found[key])]
    # The fitness often equals another metric: one panel for both is enough.
    shown = [k for k in known if k != "fitness" or all(found[k] != found[other] for other in known if other != k)]
    return _plot_panels(history, {key: -1 if key in errors else 1 for key in shown})


def _measure_names(history: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(key for row in history for key in row if key != "epoch"))


def _plot_panels(history: Sequence[Mapping[str, float]], signs: Mapping[str, int]) -> Figure | None:
    """Plot each key over epochs; mark the largest value where its sign is 1, the smallest where it is -1."""
    if not signs:
        return None
    columns = min(len(signs), 4)
    rows = ceil(len(signs) / columns)
    figure = new_figure(max(3.2 * columns, 4.5), 2.5 * rows)
    for i, (key, sign) in enumerate(signs.items()):
        _plot_panel(figure.add_subplot(rows, columns, i + 1), history, key, sign)
    return figure


def _plot_panel(axes: Axes, history: Sequence[Mapping[str, float]], key: str, sign: int) -> None:
    epochs = np.array([row["epoch"] for row in history if key in row])
    values = np.array([row[key] for row in history if key in row], dtype=float)
    axes.plot(epochs, values, color=LINES[3], marker="o" if len(epochs) < 30 else "", markersize=3)
    title = legible(key.removeprefix("train/"))
    # A higher confidence is not better; an undefined metric is -1.
    if sign and np.isfinite(values).any() and not key.endswith("confidence"):
        at = int(np.nanargmax(values if sign > 0 else np.where(values == -1, -np.inf, -values)))
        axes.plot(epochs[at], values[at], "o", color=LINES[4], markersize=6)
        title += f", at {'most' if sign > 0 else 'least'} {values[at]:.4g}"
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("epoch", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(epochs.min(initial=1) - 0.5, max(epochs.max(initial=1), 2) + 0.5)
    style_axes(axes)


# -- functions --------------------------------------------------------------------------------------------------------


def plot_function(axes: Axes, title: str, x: Numbers, y: Numbers, slope: Numbers) -> None:
    """Plot a scalar function and, dashed, its derivative into a panel."""
    axes.axhline(0, color=PALE, linewidth=0.8)
    axes.axvline(0, color=PALE, linewidth=0.8)
    axes.plot(x, y, color=LINES[3], label="value")
    axes.plot(x, slope, color=LINES[4], linestyle="--", linewidth=1.2, label="derivative")
    axes.set_title(legible(title, 48), fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    axes.set_xlim(x[0], x[-1])
    style_axes(axes)


# -- precision and recall ---------------------------------------------------------------------------------------------


def plot_curves(confidence: Numbers, precision: Numbers, recall: Numbers, names: Sequence[str], at: int) -> Figure:
    """Plot precision over recall, and F1, precision and recall over confidence, for each class and their mean.

    Args:
        confidence: (S,) thresholds from 0 to 1.
        precision, recall: (C, S), 0 where no prediction passes the threshold.
        names: the names of the C classes.
        at: index of the confidence at which the metrics are reported; the charts mark it.
    """
    # Where both are 0, F1 is 0 by definition; the denominator 1 avoids the division by 0.
    both = precision + recall
    f1 = 2 * precision * recall / np.where(both > 0, both, 1)
    places = np.linspace(0, 1, 201)
    hulls = np.array([_precision_envelope(p, r, places) for p, r in zip(precision, recall)]).reshape(-1, len(places))
    figure = new_figure(13 if len(names) <= MAX_LINES else 11, 8.5)
    grid = [figure.add_subplot(2, 2, i + 1) for i in range(4)]
    _plot_classes(
        grid[0], places, hulls, names, ("recall", "precision"), "Precision by recall", lambda m: f"area {m.mean():.3f}"
    )
    for axes, values, title in zip(grid[1:], (f1, precision, recall), ("F1", "Precision", "Recall")):
        labels = "confidence", title if title == "F1" else title.lower()
        _plot_classes(
            axes,
            confidence,
            values,
            names,
            labels,
            f"{title} by confidence",
            lambda m: f"{m[at]:.3f} at {confidence[at]:.3f}",
        )
        axes.axvline(confidence[at], color=MAIN, linestyle=":", linewidth=1)
    handles, texts = grid[0].get_legend_handles_labels()
    if len(names) <= MAX_LINES:
        figure.legend(handles, texts, loc="outside right upper", fontsize=9, frameon=False)
    else:
        figure.legend(handles[-1:] + handles[:1], ["mean of the classes", "each class"], loc="outside upper right",
                     ncols=2, fontsize=9, frameon=False)  # fmt: skip
    return figure


def _precision_envelope(precision: Numbers, recall: Numbers, at: Numbers) -> Numbers:
    """Return the largest precision at or beyond each recall in ``at``, as average precision uses it; else 0."""
    order = np.argsort(recall, kind="stable")
    best = np.maximum.accumulate(precision[order][::-1])[::-1]
    place = np.searchsorted(recall[order], at, side="left")
    return np.where(place < len(best), best[np.minimum(place, len(best) - 1)], 0.0)


def _plot_classes(
    axes: Axes, x: Numbers, values: Numbers, names: Sequence[str], labels: tuple[str, str], title: str, describe: Any
) -> None:
    """Plot a line per class and their mean, whose description by ``describe`` becomes part of the title."""
    for i, (name, row) in enumerate(zip(names, values)):
        distinct = {
            "color": LINES[i % len(LINES)],
            "linestyle": STYLES[i // len(LINES) % len(STYLES)],
            "linewidth": 1.2,
        }
        style = distinct if len(names) <= MAX_LINES else {"color": PALE, "linewidth": 0.6}
        axes.plot(x, row, label=legible(name), **style)
    if len(values):
        mean = values.mean(0)
        axes.plot(x, mean, color=MAIN, linewidth=2.4, label="mean")
        title += f": mean {describe(mean)}"
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=labels[0], ylabel=labels[1])
    axes.set_title(title, fontsize=10)
    style_axes(axes)


# -- confusion --------------------------------------------------------------------------------------------------------


def plot_confusion(matrix: Numbers, names: Sequence[str]) -> Figure:
    """Plot a confusion matrix: each cell has its count, and a colour for its share of the column.

    Args:
        matrix: (n, n) counts, with predicted classes as rows and true classes as columns.
        names: the names of the n classes, with the background where it counts as a class.
    """
    n = len(names)
    share = matrix / np.maximum(matrix.sum(0, keepdims=True), 1)
    # Cells of 0.6 inches have room for their counts; at 0.24 inches the names along the axes are still legible.
    side = min(max(0.6 * n, 3.0), 8.0) if n <= MAX_COUNTS else min(max(0.24 * n, 8.0), 24.0)
    if MAX_COUNTS >= n > 14:
        side = 0.5 * n
    figure = new_figure(side + 2.6, side + 1.8)
    axes = figure.add_subplot(1, 1, 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    _set_class_ticks(axes, names)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    left_out = f"; counts below {MIN_SHARE:.0%} are not shown" if MAX_COUNTS < n <= MAX_NAMES else ""
    axes.set_title(f"Counts; the colour is the share of the true class (column){left_out}", fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02).ax.tick_params(labelsize=8)
    if n <= MAX_NAMES:
        _write_counts(axes, matrix, share, min_share=0.0 if n <= MAX_COUNTS else MIN_SHARE, points=_font_size(n))
    return figure


def _font_size(n: int) -> float:
    """Return the font size in points for an axis with ``n`` names."""
    return 9 if n <= 14 else 8 if n <= MAX_COUNTS else 7


def _set_class_ticks(axes: Axes, names: Sequence[str]) -> None:
    n = len(names)
    places = np.arange(n) if n <= MAX_NAMES else np.unique(np.linspace(0, n - 1, 40).astype(int))
    texts = [legible(names[i]) for i in places.tolist()]
    # A few names are tilted, which reads best; many have room only when they are upright.
    turn = {"rotation": 90, "ha": "center"} if n > 5 else {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, texts, fontsize=_font_size(n), **turn)
    axes.set_yticks(places, texts, fontsize=_font_size(n))


def _write_counts(axes: Axes, matrix: Numbers, share: Numbers, min_share: float, points: float) -> None:
    for row, column in zip(*np.nonzero(matrix)):
        if share[row, column] >= min_share:
            text, part = _abbreviate(int(matrix[row, column])), share[row, column]
            small = 0 if len(matrix) <= 14 else max(len(text) - 2, 0)
            axes.text(column, row, text, ha="center", va="center", fontsize=points - small,
                      color="white" if part > 0.55 else "black")  # fmt: skip


def _abbreviate(count: int) -> str:
    """Format a count in at most four characters."""
    for limit, unit in ((1_000_000, "M"), (10_000, "k")):
        if count >= limit:
            return f"{count / (1000 if unit == 'k' else limit):.0f}{unit}"
    return str(count)


# -- data -------------------------------------------------------------------------------------------------------------


def plot_labels(
    counts: Numbers,
    names: Sequence[str],
    boxes: Numbers | None = None,
    aspects: Numbers | None = None,
    unit: str = "pictures",
) -> Figure:
    """Plot the number of objects per class and, if there are boxes, their centres, sizes and aspect ratios.

    Args:
        counts: (C,) objects, or pictures if each picture has one class, or whatever ``unit`` says.
        names: the names of the C classes.
        boxes: (N, 4) centre x, centre y, width and height, normalised to the picture's size.
        aspects: (N,) aspect ratios, width over height in pixels.
    """
    wide = len(names) if len(names) <= MAX_NAMES else 60
    figure = new_figure(
        min(max(12.0 if boxes is not None else 5.0, 0.17 * wide + 1.5), 22.0), 8.0 if boxes is not None else 4.2
    )
    if boxes is None:
        _plot_bars(figure.add_subplot(1, 1, 1), counts, names, unit)
        return figure
    grid = figure.add_gridspec(2, 3)
    _plot_bars(figure.add_subplot(grid[0, :]), counts, names, "objects")
    cells = [figure.add_subplot(grid[1, i]) for i in range(3)]
    _plot_density(figure, cells[0], boxes[:, 0], boxes[:, 1], ("centre x", "centre y"), "Centres of boxes")
    cells[0].invert_yaxis()  # y points down in pictures
    _plot_density(figure, cells[1], boxes[:, 2], boxes[:, 3], ("width", "height"), "Sizes relative to the picture")
    _plot_aspects(cells[2], aspects if aspects is not None else boxes[:, 2] / np.maximum(boxes[:, 3], 1e-9), "boxes")
    return figure


def _plot_bars(axes: Axes, counts: Numbers, names: Sequence[str], what: str) -> None:
    n, places = len(names), np.arange(len(names))
    axes.bar(places, counts, color=LINES[3], width=0.8 if n <= MAX_NAMES else 1.0)
    if n <= MAX_NAMES:
        upright = max(map(len, names), default=0) * n > 12 * axes.figure.get_figwidth()
        axes.set_xticks(
            places, [legible(name) for name in names], rotation=90 if upright else 0, fontsize=_font_size(n)
        )
    if n <= 24:
        for place, count in zip(places, counts):
            axes.text(place, count, f"{int(count):,}", ha="center", va="bottom", fontsize=8)
    axes.set_xlim(-0.7, n - 0.3)
    axes.set_title(f"{what.capitalize()} per class: {int(np.sum(counts)):,} in {n} classes", fontsize=10)
    axes.set_ylabel(what)
    style_axes(axes)
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", labelsize=_font_size(n))


def _plot_density(figure: Figure, axes: Axes, x: Numbers, y: Numbers, names: tuple[str, str], title: str) -> None:
    counts, _, _ = np.histogram2d(np.clip(y, 0, 1), np.clip(x, 0, 1), bins=50, range=((0, 1), (0, 1)))
    shown = np.ma.masked_equal(counts, 0)
    image = axes.imshow(shown, extent=(0, 1, 0, 1), origin="lower", cmap="viridis", aspect="equal", vmin=0)
    figure.colorbar(image, ax=axes, fraction=0.045).ax.tick_params(labelsize=7)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_title(title, fontsize=10)
    style_axes(axes)


def _plot_aspects(axes: Axes, values: Numbers, what: str) -> None:
    """Plot a histogram of aspect ratios on a logarithmic axis, on which 1:2 and 2:1 are equally far from 1."""
    good = values[np.isfinite(values) & (values > 0)]
    axes.hist(np.clip(np.log2(good), -4, 4), bins=np.linspace(-4, 4, 41), color=LINES[3])
    ticks = np.arange(-4, 5, 2)
    axes.set_xticks(ticks, [f"1:{2**-t}" if t < 0 else f"{2**t}:1" for t in ticks.tolist()])
    axes.set(xlabel="width : height in pixels", ylabel=what)
    axes.set_title(f"Aspect ratios of {what}", fontsize=10)
    style_axes(axes)


def plot_sizes(width_height: Numbers) -> Figure:
    """Plot the sizes and aspect ratios of pictures, given as (N, 2) widths and heights in pixels."""
    found, counts = np.unique(width_height.reshape(-1, 2), axis=0, return_counts=True)
    figure = new_figure(10, 4.4)
    axes = figure.add_subplot(1, 2, 1)
    # The area of a dot grows with the number of pictures of its size.
    area = 10 + 190 * (counts - 1) / max(counts.max(initial=1) - 1, 1)
    axes.scatter(found[:, 0], found[:, 1], s=area, color=LINES[3], alpha=0.5, linewidths=0)
    limit = 1.08 * float(found.max(initial=1))
    axes.plot((0, limit), (0, limit), color=PALE, linewidth=0.8, zorder=0)
    axes.set(xlabel="width", ylabel="height", xlim=(0, limit), ylim=(0, limit), aspect="equal")
    axes.set_title(f"Sizes of {len(width_height):,} pictures in pixels: {len(found):,} different", fontsize=10)
    style_axes(axes)
    shapes = width_height.reshape(-1, 2)
    _plot_aspects(figure.add_subplot(1, 2, 2), shapes[:, 0] / np.maximum(shapes[:, 1], 1), "pictures")
    return figure


def save_all(figures: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """Draw and save figures one at a time, so that only one is in memory; yield the path of each file.

    Args:
        figures: functions that draw a figure, or return None for none, by the name of the file.
        folder: the folder for the files.
    """
    for name, make in figures.items():
        if (figure := make()) is not None:
            save(figure, folder / f"{name}.png")
            yield folder / f"{name}.png"
