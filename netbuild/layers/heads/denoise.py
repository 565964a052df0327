"""Objects with noise, which a decoder learns to put right: a task without matching. DINO, arXiv 2203.03605."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Noised:
    """D queries made of the objects of a batch, in groups that each hold every object twice.

    In a group of 2 * most places the first half are objects slightly off, to be found, the second half objects far off,
    to be rejected; an image with fewer objects than the fullest leaves places empty.

    Attributes:
        classes: (B, D), some of them wrong on purpose; -1 in empty places.
        boxes: (B, D, 4) logits of centre and size; 0 in empty places.
        mask: (D + Q, D + Q), true where a query of that row must not see one of that column.
        image, place, target: (P,) each, of every query to be found its image, place in D and object in the batch.
        groups: how many.
    """

    classes: torch.Tensor
    boxes: torch.Tensor
    mask: torch.Tensor
    image: torch.Tensor
    place: torch.Tensor
    target: torch.Tensor
    groups: int


@torch.no_grad()
def noised(
    targets: dict[str, torch.Tensor],
    images: int,
    queries: int,
    nc: int,
    limit: int,
    label_noise: float,
    box_noise: float,
) -> Noised | None:
    """Noised objects for a decoder of that many other queries, about ``2 * limit`` of them; None if there are none.

    Args:
        targets: "boxes" (M, 4) centre and size in 0..1, "classes" (M,), "index" (M,) the image of each.
        label_noise: twice the part of the classes that are drawn anew.
        box_noise: how far corners move, in halves of the side: up to once as far for an object to be found, from once
            to twice as far for one to be rejected.
    """
    chosen, offset = places(targets["index"], images, limit)
    if not len(chosen):
        return None
    most = int(offset.max()) + 1
    groups = limit // most
    total = 2 * most * groups
    # Every object in every group, first as one to be found, then as one to be rejected: (groups, 2, objects).
    starts = most * torch.arange(2 * groups, device=chosen.device).view(groups, 2, 1)
    place, image = starts + offset, targets["index"][chosen].long().expand(groups, 2, -1)
    classes = place.new_full((images, total), -1)
    classes[image, place] = other_classes(targets["classes"][chosen].long().expand_as(place), nc, label_noise / 2)
    boxes = targets["boxes"].new_zeros(images, total, 4)
    boxes[image, place] = moved(targets["boxes"][chosen].expand(groups, 2, -1, -1), box_noise)
    found = (image[:, 0].flatten(), place[:, 0].flatten(), chosen.expand(groups, -1).flatten())
    return Noised(classes, boxes, blind(groups, 2 * most, queries, chosen.device), *found, groups)


def places(index: torch.Tensor, images: int, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which objects are used, at most ``limit`` of an image by chance, and each one's number within its image."""
    order = torch.randperm(len(index), device=index.device)
    counts = torch.bincount(index.long(), minlength=images)
    if counts.numel() and counts.max() <= limit:
        order = order.sort().values
    order = order[index[order].sort(stable=True).indices]
    offset = torch.arange(len(order), device=index.device) - (counts.cumsum(0) - counts)[index[order].long()]
    return order[offset < limit], offset[offset < limit]


def other_classes(classes: torch.Tensor, nc: int, part: float) -> torch.Tensor:
    """The classes, a part of them drawn anew from all ``nc``."""
    drawn = torch.rand(classes.shape, device=classes.device) < part
    return torch.where(drawn, torch.randint_like(classes, nc), classes)


def moved(boxes: torch.Tensor, scale: float) -> torch.Tensor:
    """Logits of boxes (groups, 2, M, 4) whose corners have moved, those of the second half farther."""
    centre, size = boxes.split(2, -1)
    corners = torch.cat((centre - size / 2, centre + size / 2), -1)
    far = torch.arange(2, device=boxes.device, dtype=boxes.dtype).view(2, 1, 1)
    sign = torch.randint_like(corners, 2) * 2 - 1
    corners = corners + sign * (torch.rand_like(corners) + far) * (size / 2).repeat(1, 1, 1, 2) * scale
    first, last = corners.clamp(0, 1).split(2, -1)
    return torch.cat(((first + last) / 2, last - first), -1).clamp(0, 1).logit(1e-6)


def blind(groups: int, group: int, queries: int, device: torch.device) -> torch.Tensor:
    """What must not be seen: by a group the other groups, by the matched queries any group: they give objects away."""
    number = torch.arange(groups, device=device).repeat_interleave(group)
    number = torch.cat((number, number.new_full((queries,), -1)))
    return (number[None, :] >= 0) & (number[:, None] != number[None, :])
