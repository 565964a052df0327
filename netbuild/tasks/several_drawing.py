"""One drawing of what several heads found, or of what is true for them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from netbuild.data.fitting import resize
from netbuild.drawing.annotated import Drawing, Image


def merge_drawings(image: Image, drawings: Mapping[str, Drawing]) -> Drawing:
    """Merge the drawings of several heads of one picture.

    Marks are drawn together on the picture. A drawing of another picture, such as a map of depth, is set beside it.

    Args:
        image: the picture (H, W, 3).
        drawings: of each head, by its name.
    """
    marks = {name: d for name, d in drawings.items() if d.image.shape == image.shape and (d.image == image).all()}
    beside = [_fit(drawing.render(), image.shape[0]) for name, drawing in drawings.items() if name not in marks]
    width = image.shape[1] + sum(other.shape[1] for other in beside)
    has_outlines = any(drawing.outlines is not None for drawing in marks.values())
    outlines = [_outlines(drawing) for drawing in marks.values()] if has_outlines else []
    captions = [f"{name}: {drawing.caption}" for name, drawing in drawings.items() if drawing.caption]
    return Drawing(
        np.concatenate((image, *beside), 1) if beside else image,
        np.concatenate([np.zeros((0, 4)), *(np.asarray(d.boxes).reshape(-1, 4) for d in marks.values())]),
        [label for drawing in marks.values() for label in drawing.labels],
        [colour for drawing in marks.values() for colour in drawing.colours],
        ", ".join(captions),
        [(f"{name}: {text}", share, tint) for name, d in marks.items() for text, share, tint in d.bars],
        [(_widen(mask, width), tint) for drawing in marks.values() for mask, tint in drawing.areas],
        np.concatenate(outlines) if outlines else None,
        [group for drawing in marks.values() for group in drawing.points],
        [f"{name}: {text}" for name, drawing in marks.items() for text in drawing.texts],
        [group for drawing in marks.values() for group in drawing.lines],
    )


def _fit(image: Image, height: int) -> Image:
    """Return a picture with this height."""
    if image.shape[0] == height:
        return image
    return resize(image, height, max(round(image.shape[1] * height / image.shape[0]), 1))


def _widen(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return a mask (H, W) for a picture that is wider at its right."""
    return np.pad(mask, ((0, 0), (0, width - mask.shape[1])))


def _outlines(drawing: Drawing) -> NDArray[np.float64]:
    """Return the corners (N, 4, 2) of a drawing's boxes, which may be oriented."""
    if drawing.outlines is not None:
        return np.asarray(drawing.outlines, np.float64)
    return np.asarray(drawing.boxes, np.float64).reshape(-1, 4)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
