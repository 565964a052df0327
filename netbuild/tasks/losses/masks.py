"""Predicted masks, sums of prototypes weighted by coefficients, and true ones. YOLACT, arXiv 1904.02689."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from netbuild.tasks.assign import EPS, rows_by_group
from netbuild.tasks.base import Batch
from netbuild.tasks.losses.base import to_float32
from netbuild.tasks.losses.cells import Cells

MAX_VALUES = 2**24  # numbers in the tensors of a chunk of objects; more objects are computed chunk by chunk


@dataclass(frozen=True)
class Masks:
    """The predicted masks of a branch and the true ones of the batch, on one grid of (h, w).

    Args:
        coefficients: (B, A, nm).
        prototypes: (B, nm, h, w); a mask is where the sum of prototypes weighted by a cell's coefficients is above 0.
        instances: (B, h, w) the object of each place of the grid, counted from 1 within its image; 0 for none.
        image_size: the image's width and height in pixels.
    """

    coefficients: Tensor
    prototypes: Tensor
    instances: Tensor
    image_size: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the grid."""
        return self.instances.shape[1], self.instances.shape[2]

    def to_grid(self, corners: Tensor) -> Tensor:
        """Convert corners (N, 4) in pixels to places of the grid."""
        (h, w), (width, height) = self.size, self.image_size
        return corners * corners.new_tensor([w / width, h / height, w / width, h / height])

    def places(self) -> Tensor:
        """Return the prototypes by places of the grids, (B * h * w, nm), so that those of a place lie together."""
        return self.prototypes.permute(0, 2, 3, 1).flatten(0, 2)


def read_masks(cells: Cells, batch: Batch) -> Masks:
    """Read the masks of a branch and of its batch; prototypes of another size are resized to the grid of the batch.

    Args:
        cells: its ``raw`` has "mask_coefficient" (B, nm, A), and "proto" (B, nm, h, w), or a tuple that begins with it.
        batch: "instances" (B, h, w).
    """
    proto = cells.raw["proto"]
    prototypes = to_float32(proto[0] if isinstance(proto, tuple) else proto)
    instances = batch["instances"].to(prototypes.device)
    if prototypes.shape[2:] != instances.shape[1:]:
        prototypes = F.interpolate(prototypes, instances.shape[1:], mode="bilinear")
    return Masks(to_float32(cells.raw["mask_coefficient"]).transpose(1, 2), prototypes, instances, cells.size)


@dataclass(frozen=True)
class Window:
    """A part of the grid for each of G groups of cells, (h, w) large; `Window.valid` says what belongs to it.

    Args:
        groups: (G,) which groups these are.
        x, y: (G, w) and (G, h), columns and rows of the grid.
        valid: (G, h, w) whether a place belongs to the group's window, which may be smaller than others.
        index: (G, h, w) places in the flattened grids of all images.
    """

    groups: Tensor
    x: Tensor
    y: Tensor
    valid: Tensor
    index: Tensor

    def matches(self, instances: Tensor, number: Tensor) -> Tensor:
        """Return (G, h * w) which places are those of each group's object: maps (B, H, W), numbers (G,)."""
        return (instances.flatten()[self.index] == number[:, None, None]).flatten(1)


def iterate_windows(image: Tensor, edges: Tensor, size: tuple[int, int], values: int) -> Iterator[Window]:
    """Yield the windows of groups of cells in chunks of similar size.

    Objects differ much in size. On the whole grid the masks of all cells would need a hundred times the memory and time
    for small objects; one window at a time would be slow for many objects.

    Args:
        image: (G,) the image of each group.
        edges: (G, 4) integers, the window's columns from x1 to below x2, and rows from y1 to below y2.
        size: height and width of the grid.
        values: how many numbers are computed for each place of a window.
    """
    height, width = size
    sides = edges[:, 2:] - edges[:, :2]
    scale = sides.amax(1).clamp(min=1).to(torch.float32).log2().ceil().long()
    scale = scale.where(sides.amin(1) > 0, -1)
    for number in scale.unique().tolist():
        groups = (scale == number).nonzero()[:, 0]
        if number < 0:
            continue  # a window without a place
        w, h = sides[groups].amax(0).tolist()
        for chunk in groups.split(max(MAX_VALUES // (w * h * values), 1)):
            x, y = (
                edges[chunk, axis, None] + torch.arange(side, device=edges.device) for axis, side in ((0, w), (1, h))
            )
            valid = (y < edges[chunk, 3, None])[:, :, None] & (x < edges[chunk, 2, None])[:, None]
            x, y = x.clamp(max=width - 1), y.clamp(max=height - 1)
            index = (image[chunk, None, None] * height + y[:, :, None]) * width + x[:, None]
            yield Window(chunk, x, y, valid, index)


def centres_inside(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the edges of `iterate_windows` for boxes (N, 4) in cells: the cells whose centre is in a box."""
    h, w = size
    edges = (corners - 0.5).ceil()
    return torch.stack([edges[:, i].clamp(0, (w, h)[i % 2]) for i in range(4)], 1).long()


def window_logits(places: Tensor, coefficients: Tensor, window: Window) -> Tensor:
    """Return the mask logits (G, K, h * w) of K cells of each group in a window.

    Args:
        places: (P, nm) prototypes by places, see `Masks.places`.
        coefficients: (G, K, nm).
        window: the window of G groups.
    """
    # The gradient of index_select is far faster than that of indexing.
    rows = places.index_select(0, window.index.flatten()).view(len(window.groups), -1, places.shape[1])
    return coefficients @ rows.transpose(1, 2)


def group_rows(values: Tensor) -> Tensor:
    """Return (G, K) the places of each distinct value in (N,), padded with -1."""
    found, inverse = values.unique(return_inverse=True)
    return rows_by_group(inverse, len(found))


def pad_rows(values: Tensor, slots: Tensor) -> Tensor:
    """Return values (N, C) at places (G, K), zeros for -1: (G, K, C)."""
    return values[slots.clamp(min=0)] * (slots >= 0)[..., None]


def mask_iou(masks: Masks, boxes: Tensor, pairs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Compute the IoU (N,) of the predicted mask of a cell, cut off at its predicted box, and the mask of an object.

    Args:
        masks: the masks.
        boxes: (B, A, 4) predicted corners in pixels.
        pairs: the numbers of the image, of the object within its image, and of the cell, (N,) each.
    """
    b, g, a = pairs
    found = boxes.new_zeros(len(b))
    if not len(b):
        return found
    edges = centres_inside(masks.to_grid(boxes[b, a]), masks.size)
    count = max(int(masks.instances.max()), int(g.max()) + 1) + 1  # of objects in an image, and the background
    image = torch.arange(len(boxes), device=boxes.device)
    areas = (masks.instances.long() + count * image[:, None, None]).flatten().bincount(minlength=count * len(boxes))
    slots = group_rows(b * count + g)
    first, filled = slots[:, 0], (slots >= 0)[..., None]
    own, coefficients = edges[slots.clamp(min=0)], pad_rows(masks.coefficients[b, a], slots)
    low, high = own[..., :2].where(filled, own[..., :2].amax()).amin(1), own[..., 2:].where(filled, 0).amax(1)
    overlap, places = found.new_zeros(slots.shape), masks.places()
    values = places.shape[1] + 4 * slots.shape[1]
    for window in iterate_windows(b[first], torch.cat((low, high), 1), masks.size, values):
        k = window.groups
        x1, y1, x2, y2 = own[k][..., None].unbind(2)
        columns = (window.x[:, None] >= x1) & (window.x[:, None] < x2)
        rows = (window.y[:, None] >= y1) & (window.y[:, None] < y2)
        inside = (rows[..., None] & columns[:, :, None] & window.valid[:, None]).flatten(2)
        predicted = ((window_logits(places, coefficients[k], window) > 0) & inside).to(found)
        both = (predicted @ window.matches(masks.instances, g[first[k]] + 1)[..., None].to(found))[..., 0]
        area = areas[b[first[k]] * count + g[first[k]] + 1][:, None]
        overlap[k] = both / (predicted.sum(-1) + area - both + EPS)
    found[slots[slots >= 0]] = overlap[slots >= 0]
    return found
