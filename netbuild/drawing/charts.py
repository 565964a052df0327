"""Charts of numbers: losses, measures, precision and recall, confusion, labels. Plain data in, a figure out.

matplotlib is loaded when a chart is drawn and only its figures are used: no window, no state of the process.
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
from netbuild.errors import shorten
from netbuild.system.files import write_bytes
from netbuild.system.packages import package

Figure = Any  # matplotlib.figure.Figure
Axes = Any
Numbers = NDArray[Any]

DPI = 110  # pixels an inch: letters of 6 points are 9 pixels high
FEW = 10  # classes that have a line and a name of their own
NAMED = 120  # classes whose names are still legible along an axis
COUNTED = 30  # classes up to which a confusion matrix has all its counts
LITTLE = 0.05  # share below which the cells of a larger matrix have none
# Yellow is lost on white.
LINES = [tuple(part / 255 for part in c) for i, c in enumerate(COLOURS) if i != 3]
STYLES = ("-", "--", ":", "-.")
MAIN, PALE = "black", "#b0b0b0"


def figure(width: float, height: float) -> Figure:
    """An empty figure, its size in inches.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    return package("matplotlib.figure", "train").Figure((width, height), layout="constrained")


def save(drawn: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        NetbuildError: if it cannot be written.
    """
    write_bytes(path, encoded(drawn))


def encoded(drawn: Figure) -> bytes:
    """A figure as a PNG file's bytes."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks becomes a box
        drawn.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
    return data.getvalue()


def _named(name: object, limit: int = 24) -> str:
    # matplotlib would read what stands between two dollars as a formula.
    return shorten(name, limit).replace("$", r"\$")


def _light(axes: Axes) -> None:
    axes.grid(True, color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


# -- a run ------------------------------------------------------------------------------------------------------------


def losses(history: Sequence[Mapping[str, float]]) -> Figure | None:
    """The parts of the loss by epoch; None without any.

    Args:
        history: a row an epoch: "epoch", "train/..." and measures.
    """
    return _panels(history, [key for key in _keys(history) if key.startswith("train/")])


def metrics(history: Sequence[Mapping[str, float]]) -> Figure | None:
    """The measures by epoch, the best one of each marked; None without any.

    Args:
        history: a row an epoch: "epoch", "train/..." and measures; -1 is none, as COCO's are without objects.
    """
    keys = [key for key in _keys(history) if not key.startswith("train/")]
    found = {key: tuple(row.get(key, -1.0) for row in history) for key in keys}
    known = [key for key in keys if any(value != -1 for value in found[key])]
    # The fitness is often one of the others.
    shown = [k for k in known if k != "fitness" or all(found[k] != found[other] for other in known if other != k)]
    return _panels(history, shown, best=True)


def _keys(history: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(key for row in history for key in row if key != "epoch"))


def _panels(history: Sequence[Mapping[str, float]], keys: Sequence[str], best: bool = False) -> Figure | None:
    if not keys:
        return None
    columns = min(len(keys), 4)
    rows = ceil(len(keys) / columns)
    drawn = figure(max(3.2 * columns, 4.5), 2.5 * rows)
    for i, key in enumerate(keys):
        _panel(drawn.add_subplot(rows, columns, i + 1), history, key, best)
    return drawn


def _panel(axes: Axes, history: Sequence[Mapping[str, float]], key: str, best: bool) -> None:
    epochs = np.array([row["epoch"] for row in history if key in row])
    values = np.array([row[key] for row in history if key in row], dtype=float)
    axes.plot(epochs, values, color=LINES[3], marker="o" if len(epochs) < 30 else "", markersize=3)
    title = _named(key.removeprefix("train/"))
    if best and np.isfinite(values).any() and key != "confidence":  # which has no better or worse
        at = int(np.nanargmax(values))
        axes.plot(epochs[at], values[at], "o", color=LINES[4], markersize=6)
        title += f", at most {values[at]:.4g}"
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("epoch", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(epochs.min(initial=1) - 0.5, max(epochs.max(initial=1), 2) + 0.5)
    _light(axes)


# -- functions --------------------------------------------------------------------------------------------------------


def curve(axes: Axes, title: str, x: Numbers, y: Numbers, slope: Numbers) -> None:
    """A function of one number into a panel, its derivative dashed."""
    axes.axhline(0, color=PALE, linewidth=0.8)
    axes.axvline(0, color=PALE, linewidth=0.8)
    axes.plot(x, y, color=LINES[3], label="value")
    axes.plot(x, slope, color=LINES[4], linestyle="--", linewidth=1.2, label="derivative")
    axes.set_title(_named(title, 48), fontsize=9)
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    axes.set_xlim(x[0], x[-1])
    _light(axes)


# -- precision and recall ---------------------------------------------------------------------------------------------


def curves(confidence: Numbers, precision: Numbers, recall: Numbers, names: Sequence[str], at: int) -> Figure:
    """Precision by recall, and F1, precision and recall by confidence: each class and the mean.

    Args:
        confidence: (S,) from 0 to 1.
        precision, recall: (C, S), 0 where nothing is kept.
        names: of the C classes.
        at: place of the confidence at which the measures are told; it is marked.
    """
    both = precision + recall
    f1 = 2 * precision * recall / np.where(both > 0, both, 1)
    places = np.linspace(0, 1, 201)
    hulls = np.array([_hull(p, r, places) for p, r in zip(precision, recall)]).reshape(-1, len(places))
    drawn = figure(13 if len(names) <= FEW else 11, 8.5)
    grid = [drawn.add_subplot(2, 2, i + 1) for i in range(4)]
    _lines(
        grid[0], places, hulls, names, ("recall", "precision"), "Precision by recall", lambda m: f"area {m.mean():.3f}"
    )
    for axes, values, title in zip(grid[1:], (f1, precision, recall), ("F1", "Precision", "Recall")):
        labels = "confidence", title if title == "F1" else title.lower()
        _lines(
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
    if len(names) <= FEW:
        drawn.legend(handles, texts, loc="outside right upper", fontsize=9, frameon=False)
    else:
        drawn.legend(handles[-1:] + handles[:1], ["mean of the classes", "each class"], loc="outside upper right",
                     ncols=2, fontsize=9, frameon=False)  # fmt: skip
    return drawn


def _hull(precision: Numbers, recall: Numbers, at: Numbers) -> Numbers:
    """The best precision at a recall or a greater one, as average precision takes it; 0 beyond the greatest."""
    order = np.argsort(recall, kind="stable")
    best = np.maximum.accumulate(precision[order][::-1])[::-1]
    place = np.searchsorted(recall[order], at, side="left")
    return np.where(place < len(best), best[np.minimum(place, len(best) - 1)], 0.0)


def _lines(
    axes: Axes, x: Numbers, values: Numbers, names: Sequence[str], labels: tuple[str, str], title: str, said: Any
) -> None:
    for i, (name, row) in enumerate(zip(names, values)):
        own = {"color": LINES[i % len(LINES)], "linestyle": STYLES[i // len(LINES) % len(STYLES)], "linewidth": 1.2}
        look = own if len(names) <= FEW else {"color": PALE, "linewidth": 0.6}
        axes.plot(x, row, label=_named(name), **look)
    if len(values):
        mean = values.mean(0)
        axes.plot(x, mean, color=MAIN, linewidth=2.4, label="mean")
        title += f": mean {said(mean)}"
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=labels[0], ylabel=labels[1])
    axes.set_title(title, fontsize=10)
    _light(axes)


# -- confusion --------------------------------------------------------------------------------------------------------


def confusion(matrix: Numbers, names: Sequence[str]) -> Figure:
    """Counts, coloured by their share of the column.

    Args:
        matrix: (n, n) counts, row: predicted class, column: true class.
        names: of the n classes, the background among them where there is one.
    """
    n = len(names)
    share = matrix / np.maximum(matrix.sum(0, keepdims=True), 1)
    # Room of 0.6 inches for a cell with few of them, 0.24 with many, whose names are then still legible.
    side = min(max(0.6 * n, 3.0), 8.0) if n <= COUNTED else min(max(0.24 * n, 8.0), 24.0)
    if COUNTED >= n > 14:
        side = 0.5 * n
    drawn = figure(side + 2.6, side + 1.8)
    axes = drawn.add_subplot(1, 1, 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    _ticks(axes, names)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    left_out = f"; those below {LITTLE:.0%} are not written" if COUNTED < n <= NAMED else ""
    axes.set_title(f"Counts; the colour is the share of a true class (of a column){left_out}", fontsize=10)
    drawn.colorbar(image, ax=axes, fraction=0.04, pad=0.02).ax.tick_params(labelsize=8)
    if n <= NAMED:
        _counts(axes, matrix, share, least=0.0 if n <= COUNTED else LITTLE, points=_points(n))
    return drawn


def _points(n: int) -> float:
    """The size of letters along an axis of so many names."""
    return 9 if n <= 14 else 8 if n <= COUNTED else 7


def _ticks(axes: Axes, names: Sequence[str]) -> None:
    n = len(names)
    places = np.arange(n) if n <= NAMED else np.unique(np.linspace(0, n - 1, 40).astype(int))
    texts = [_named(names[i]) for i in places.tolist()]
    axes.set_xticks(places, texts, rotation=90 if n > 5 else 30, fontsize=_points(n), ha="center" if n > 5 else "right",
                    rotation_mode="anchor" if n <= 5 else "default")  # fmt: skip
    axes.set_yticks(places, texts, fontsize=_points(n))


def _counts(axes: Axes, matrix: Numbers, share: Numbers, least: float, points: float) -> None:
    for row, column in zip(*np.nonzero(matrix)):
        if share[row, column] >= least:
            text, part = _short(int(matrix[row, column])), share[row, column]
            small = 0 if len(matrix) <= 14 else max(len(text) - 2, 0)
            axes.text(column, row, text, ha="center", va="center", fontsize=points - small,
                      color="white" if part > 0.55 else "black")  # fmt: skip


def _short(count: int) -> str:
    """A count in four letters at most."""
    for limit, unit in ((1_000_000, "M"), (10_000, "k")):
        if count >= limit:
            return f"{count / (1000 if unit == 'k' else limit):.0f}{unit}"
    return str(count)


# -- data -------------------------------------------------------------------------------------------------------------


def labels(
    counts: Numbers, names: Sequence[str], boxes: Numbers | None = None, aspects: Numbers | None = None
) -> Figure:
    """Objects of each class; where there are boxes their centres, sizes and shapes.

    Args:
        counts: (C,) objects, or pictures where a picture has one class.
        names: of the C classes.
        boxes: (N, 4) centre x, centre y, width, height as parts of the picture.
        aspects: (N,) width over height in pixels.
    """
    wide = len(names) if len(names) <= NAMED else 60
    drawn = figure(
        min(max(12.0 if boxes is not None else 5.0, 0.17 * wide + 1.5), 22.0), 8.0 if boxes is not None else 4.2
    )
    if boxes is None:
        _bars(drawn.add_subplot(1, 1, 1), counts, names, "pictures")
        return drawn
    grid = drawn.add_gridspec(2, 3)
    _bars(drawn.add_subplot(grid[0, :]), counts, names, "objects")
    cells = [drawn.add_subplot(grid[1, i]) for i in range(3)]
    _density(drawn, cells[0], boxes[:, 0], boxes[:, 1], ("centre x", "centre y"), "Centres of boxes")
    cells[0].invert_yaxis()  # as a picture lies
    _density(drawn, cells[1], boxes[:, 2], boxes[:, 3], ("width", "height"), "Sizes, as parts of the picture")
    _aspects(cells[2], aspects if aspects is not None else boxes[:, 2] / np.maximum(boxes[:, 3], 1e-9), "boxes")
    return drawn


def _bars(axes: Axes, counts: Numbers, names: Sequence[str], what: str) -> None:
    n, places = len(names), np.arange(len(names))
    axes.bar(places, counts, color=LINES[3], width=0.8 if n <= NAMED else 1.0)
    if n <= NAMED:
        upright = max(map(len, names), default=0) * n > 12 * axes.figure.get_figwidth()
        axes.set_xticks(places, [_named(name) for name in names], rotation=90 if upright else 0, fontsize=_points(n))
    if n <= 24:
        for place, count in zip(places, counts):
            axes.text(place, count, f"{int(count):,}", ha="center", va="bottom", fontsize=8)
    axes.set_xlim(-0.7, n - 0.3)
    axes.set_title(f"{what.capitalize()} of each class: {int(np.sum(counts)):,} in {n} classes", fontsize=10)
    axes.set_ylabel(what)
    _light(axes)
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", labelsize=_points(n))


def _density(drawn: Figure, axes: Axes, x: Numbers, y: Numbers, names: tuple[str, str], title: str) -> None:
    counts, _, _ = np.histogram2d(np.clip(y, 0, 1), np.clip(x, 0, 1), bins=50, range=((0, 1), (0, 1)))
    shown = np.ma.masked_equal(counts, 0)
    image = axes.imshow(shown, extent=(0, 1, 0, 1), origin="lower", cmap="viridis", aspect="equal", vmin=0)
    drawn.colorbar(image, ax=axes, fraction=0.045).ax.tick_params(labelsize=7)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_title(title, fontsize=10)
    _light(axes)


def _aspects(axes: Axes, values: Numbers, what: str) -> None:
    """Width over height, wide and tall alike far from 1."""
    good = values[np.isfinite(values) & (values > 0)]
    axes.hist(np.clip(np.log2(good), -4, 4), bins=np.linspace(-4, 4, 41), color=LINES[3])
    ticks = np.arange(-4, 5, 2)
    axes.set_xticks(ticks, [f"1:{2**-t}" if t < 0 else f"{2**t}:1" for t in ticks.tolist()])
    axes.set(xlabel="width : height in pixels", ylabel=what)
    axes.set_title(f"Shapes of {what}", fontsize=10)
    _light(axes)


def sizes(width_height: Numbers) -> Figure:
    """Sizes and shapes of pictures: (N, 2) of width and height in pixels."""
    found, counts = np.unique(width_height.reshape(-1, 2), axis=0, return_counts=True)
    drawn = figure(10, 4.4)
    axes = drawn.add_subplot(1, 2, 1)
    area = 10 + 190 * (counts - 1) / max(counts.max(initial=1) - 1, 1)
    axes.scatter(found[:, 0], found[:, 1], s=area, color=LINES[3], alpha=0.5, linewidths=0)
    most = 1.08 * float(found.max(initial=1))
    axes.plot((0, most), (0, most), color=PALE, linewidth=0.8, zorder=0)
    axes.set(xlabel="width", ylabel="height", xlim=(0, most), ylim=(0, most), aspect="equal")
    axes.set_title(f"Sizes of {len(width_height):,} pictures in pixels: {len(found):,} different", fontsize=10)
    _light(axes)
    shapes = width_height.reshape(-1, 2)
    _aspects(drawn.add_subplot(1, 2, 2), shapes[:, 0] / np.maximum(shapes[:, 1], 1), "pictures")
    return drawn


def draw(figures: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """Write figures under their names, one after the other; what draws one is called when its turn comes."""
    for name, make in figures.items():
        if (drawn := make()) is not None:
            save(drawn, folder / f"{name}.png")
            yield folder / f"{name}.png"
