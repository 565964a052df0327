"""Matching of objects with anchor boxes: by shape (YOLOv5), and by the least cost among these (SimOTA, YOLOv7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_RATIO = 4.0  # between the sides of an object and of an anchor: decoding reaches four times the anchor's sides


@dataclass(frozen=True)
class Matches:
    """P pairs of an anchor in a cell and an object that it learns, (P,) each; ordered by level.

    Args:
        level: the number of the map.
        image: the number of the image in the batch.
        anchor: the number of the anchor box among those of its level.
        row, column: the cell.
        target: the index of the object in the batch.
    """

    level: Tensor
    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor

    def select(self, chosen: Tensor) -> "Matches":
        """Return the pairs that a mask (P,) selects."""
        return Matches(*(values[chosen] for values in vars(self).values()))

    def of_level(self, level: int) -> "Matches":
        """Return the pairs of one level."""
        return self.select(self.level == level)

    @property
    def places(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The indices of the predictions in the maps (B, anchors, H, W, ...) of their level."""
        return self.image, self.anchor, self.row, self.column


def shape_ratio(sizes: Tensor, anchors: Tensor) -> Tensor:
    """Compute the larger of the ratios between the sides of objects and of anchors, at least 1: infinite for no side.

    Args:
        sizes: (..., 2) width and height.
        anchors: (..., 2) width and height in the same unit; the shapes broadcast.
    """
    return torch.maximum(sizes / anchors, anchors / sizes).amax(-1).nan_to_num(torch.inf)


@torch.no_grad()
def match_by_shape(
    centres: Tensor, sizes: Tensor, image: Tensor, anchors: Tensor, grids: Sequence[tuple[int, int]], reach: float = 0.5
) -> Matches:
    """Match each object with the anchors of about its shape, in the cell of its centre and in neighbouring cells.

    An anchor fits if neither side differs by a factor of `MAX_RATIO` or more. A neighbour to the left, right, above or
    below is taken if the centre is nearer to it than ``reach`` cells; 1 takes all four. As in YOLOv5.

    Args:
        centres: (M, 2) x and y of the objects, in fractions of the image.
        sizes: (M, 2) width and height, in pixels.
        image: (M,) the number of each object's image.
        anchors: (L, A, 2) width and height of the anchors of each level, in pixels.
        grids: height and width of each level's map, in cells.
        reach: distance from the cell's border, in cells.
    """
    levels = []
    for level, (h, w) in enumerate(grids):
        target, anchor = (shape_ratio(sizes[:, None], anchors[level]) < MAX_RATIO).nonzero(as_tuple=True)
        sides = centres.new_tensor([w, h])
        place = centres[target] * sides
        cell = place.floor().clamp(min=0).minimum(sides - 1)
        steps, pairs = find_neighbours(place - cell, reach)
        found = cell[pairs] + steps
        inside = ((found >= 0) & (found < sides)).all(1)
        pairs, (column, row) = pairs[inside], found[inside].long().unbind(1)
        target, anchor = target[pairs], anchor[pairs]
        levels.append((torch.full_like(target, level), image[target], anchor, row, column, target))
    return Matches(*(torch.cat(values) for values in zip(*levels, strict=True)))


def find_neighbours(offsets: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Find the steps to the cells near points.

    Args:
        offsets: (N, 2) x and y of the points in their cells, from 0 to 1.
        reach: distance from the cell's border, in cells.

    Returns:
        The steps (K, 2) in x and y, and the number of the point (K,) of each; the step (0, 0) is there for each point.
    """
    steps = offsets.new_tensor([[0, 0], [-1, 0], [0, -1], [1, 0], [0, 1]])
    near = torch.cat((torch.ones_like(offsets[:, :1]), offsets < reach, offsets > 1 - reach), 1).bool()
    step, point = near.T.nonzero(as_tuple=True)
    return steps[step], point


@torch.no_grad()
def select_by_cost(matches: Matches, overlap: Tensor, cost: Tensor, most: int = 10) -> Matches:
    """Keep the cheapest pairs of each object: as many as the sum of its largest overlaps, at least one.

    A prediction that several objects keep learns the one with the least cost. SimOTA: YOLOX, arXiv 2107.08430.

    Args:
        matches: the candidates.
        overlap: (P,) IoU of each candidate's box with its object.
        cost: (P,) what is minimised.
        most: number of the largest overlaps that are summed.
    """
    if not len(cost):
        return matches
    counts = torch.zeros(int(matches.target.max()) + 1, device=cost.device, dtype=overlap.dtype)
    counts.index_add_(0, matches.target, overlap * (rank_in_group(-overlap, matches.target) < most))
    counts = counts.int().clamp(min=1)
    is_kept = rank_in_group(cost, matches.target) < counts[matches.target]
    kept = matches.select(is_kept)
    is_cheapest = rank_in_group(cost[is_kept], number_places(kept)) == 0
    return kept.select(is_cheapest)


def number_places(matches: Matches) -> Tensor:
    """Return a number for the prediction of each pair (P,); equal ones are the same prediction."""
    places = torch.stack((matches.level, *matches.places), 1)
    return places.unique(dim=0, return_inverse=True)[1]


def rank_in_group(values: Tensor, groups: Tensor) -> Tensor:
    """Return the rank of each value (P,) among those of its group, 0 for the smallest; the earlier of equal ones first.

    Args:
        values: (P,).
        groups: (P,) numbers from 0.
    """
    order = values.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    sizes = groups.bincount()
    starts = (sizes.cumsum(0) - sizes)[groups[order]]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - starts
    return ranks
