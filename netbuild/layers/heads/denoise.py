"""Denoising queries: noisy copies of the true objects, which a decoder learns to correct. DINO, arXiv 2203.03605.

Their targets are known, so that they need no matching.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NoisyQueries:
    """D denoising queries, in groups that each contain every object of an image twice.

    The first half of a group are positive queries, whose boxes are slightly off and whose object is to be found. The
    second half are negative queries, whose boxes are far off and which are to be rejected. Both halves have as many
    slots as the image with most objects needs; in other images some remain empty.

    Attributes:
        classes: (B, D), some of them wrong on purpose; -1 in empty slots.
        boxes: (B, D, 4) logits of centre and size; 0 in empty slots.
        mask: (D + Q, D + Q) attention mask: true where the row's query must not see the column's.
        image, slot, target: (P,) each: image, index in D, and object in the batch of every positive query.
        groups: number of groups.
    """

    classes: torch.Tensor
    boxes: torch.Tensor
    mask: torch.Tensor
    image: torch.Tensor
    slot: torch.Tensor
    target: torch.Tensor
    groups: int


@torch.no_grad()
def add_noise(
    targets: dict[str, torch.Tensor],
    images: int,
    queries: int,
    nc: int,
    limit: int,
    label_noise: float,
    box_noise: float,
) -> NoisyQueries | None:
    """Make about ``2 * limit`` denoising queries; None for a batch without objects.

    Args:
        targets: "boxes" (M, 4) centre and size in 0..1, "classes" (M,), "index" (M,) the image of each.
        images: number of images in the batch.
        queries: Q, number of the decoder's other queries.
        nc: number of classes.
        limit: largest number of objects of an image that are used, and about the number of positive queries.
        label_noise: twice the share of classes that are replaced by random ones.
        box_noise: how far corners move, in halves of the side: 0 to 1 times this for positive queries, 1 to 2 times for
            negative ones.
    """
    chosen, offset = choose_objects(targets["index"], images, limit)
    if not len(chosen):
        return None
    most = int(offset.max()) + 1
    groups = limit // most
    total = 2 * most * groups
    # Every object is in every group, first as positive and then as negative query: (groups, 2, objects).
    starts = most * torch.arange(2 * groups, device=chosen.device).view(groups, 2, 1)
    slot, image = starts + offset, targets["index"][chosen].long().expand(groups, 2, -1)
    classes = slot.new_full((images, total), -1)
    classes[image, slot] = replace_classes(targets["classes"][chosen].long().expand_as(slot), nc, label_noise / 2)
    boxes = targets["boxes"].new_zeros(images, total, 4)
    boxes[image, slot] = jitter_boxes(targets["boxes"][chosen].expand(groups, 2, -1, -1), box_noise)
    positive = (image[:, 0].flatten(), slot[:, 0].flatten(), chosen.expand(groups, -1).flatten())
    return NoisyQueries(classes, boxes, make_mask(groups, 2 * most, queries, chosen.device), *positive, groups)


def choose_objects(index: torch.Tensor, images: int, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose at most ``limit`` objects of each image at random; return them and each one's number in its image."""
    order = torch.randperm(len(index), device=index.device)
    counts = torch.bincount(index.long(), minlength=images)
    if counts.numel() and counts.max() <= limit:
        order = order.sort().values
    order = order[index[order].sort(stable=True).indices]
    offset = torch.arange(len(order), device=index.device) - (counts.cumsum(0) - counts)[index[order].long()]
    return order[offset < limit], offset[offset < limit]


def replace_classes(classes: torch.Tensor, nc: int, share: float) -> torch.Tensor:
    """Replace a share of the classes by random ones out of all ``nc``."""
    replaced = torch.rand(classes.shape, device=classes.device) < share
    return torch.where(replaced, torch.randint_like(classes, nc), classes)


def jitter_boxes(boxes: torch.Tensor, scale: float) -> torch.Tensor:
    """Move the corners of boxes (groups, 2, M, 4) at random, those of negative queries farther; return logits."""
    centre, size = boxes.split(2, -1)
    corners = torch.cat((centre - size / 2, centre + size / 2), -1)
    far = torch.arange(2, device=boxes.device, dtype=boxes.dtype).view(2, 1, 1)
    sign = torch.randint_like(corners, 2) * 2 - 1
    corners = corners + sign * (torch.rand_like(corners) + far) * (size / 2).repeat(1, 1, 1, 2) * scale
    first, last = corners.clamp(0, 1).split(2, -1)
    return torch.cat(((first + last) / 2, last - first), -1).clamp(0, 1).logit(1e-6)


def make_mask(groups: int, size: int, queries: int, device: torch.device) -> torch.Tensor:
    """Make the attention mask for groups of ``size`` denoising queries, followed by the decoder's other queries.

    A group must not see other groups, and the other queries no group, because these contain the true objects.
    """
    number = torch.arange(groups, device=device).repeat_interleave(size)
    number = torch.cat((number, number.new_full((queries,), -1)))
    return (number[None, :] >= 0) & (number[:, None] != number[None, :])
