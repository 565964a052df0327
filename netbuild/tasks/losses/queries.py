"""The loss of heads that detect by queries: each object is matched with one query, which learns its class and box.

DETR, arXiv 2005.12872; denoising queries: DINO, arXiv 2203.03605; RT-DETR, arXiv 2304.08069.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netbuild.layers.heads.denoise import NoisyQueries
from netbuild.layers.heads.rtdetr import Proposals
from netbuild.system.packages import package
from netbuild.tasks.assign import Assigner, Assignment, Targets, pad_targets
from netbuild.tasks.base import Batch, Losses
from netbuild.tasks.box_math import giou, iou, to_corners
from netbuild.tasks.losses.base import HeadLoss, Objects, read_objects, to_float32

# Weights of classes, of L1 distances between boxes in fractions of the image, and of 1 - GIoU; as in DETR.
CLASS_GAIN, L1_GAIN, GIOU_GAIN = 1.0, 5.0, 2.0
CLASS_COST = 2.0  # weight of the class in the cost of a pair; boxes weigh as much as in the loss
GAMMA = 1.5  # exponent of a wrong query's probability in the weight of its classes
WRONG_WEIGHT = 0.25  # weight of the classes of queries without an object
EMPTY_WEIGHT = 0.75  # the same in a batch without objects: the focal loss with alpha 0.25
MIN_SIDE = 16.0  # pixels; smaller objects are sought among the proposals as if they had this size


class Pairs(NamedTuple):
    """P pairs of query and object: decoder layer, image, query, and the object's index in the batch, (P,) each."""

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


class QueriesLoss(HeadLoss):
    """Loss of a transformer decoder with queries: classes, L1 and GIoU of the boxes, in every layer of the decoder.

    The last layer's terms are "cls", "l1" and "giou"; "aux" is the sum of those of the other layers, which are matched
    on their own. "denoise" is the sum for the denoising queries, whose objects are known. "encoder" is the sum for the
    boxes from which the queries start. In a pure DETR these are matched one to one, too, so that few of the encoder's
    positions ever see an object, and the layers below learn little from a small data set. Here about ten positions
    learn each object, as the cells of other detectors do (task-aligned assignment, TOOD, arXiv 2108.07755); training
    with one object for several predictions beside the matching is known from H-DETR, arXiv 2207.13080, and Co-DETR,
    arXiv 2211.12860. Prediction is not affected: the decoder alone decides on the detections.

    Class targets are the IoU of a query's box with its object (varifocal loss, arXiv 2008.13367).

    Args:
        head, class_weights, normaliser: see `HeadLoss`.
        gains: without effect: this loss has weights of its own.
    """

    summed = False
    # Transformers learn badly by SGD. The rate lies between that of DETR's decoder, 1e-4, which is too slow for the few
    # hundred steps of a small data set, and that of convolutions, 1e-3, at which a decoder may diverge.
    default_settings: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "lr": 0.0005}

    def __call__(self, outputs: Any, batch: Batch) -> Losses:
        """Return the sum of all terms, and the terms by name without gradient.

        Args:
            outputs: what `netbuild.layers.heads.rtdetr.RTDETRDecoder` returns in training.
            batch: "boxes" (M, 4) as centre and size in fractions of the image; "classes" (M,); "index" (M,) number of
                the image.
        """
        # Half precision is too coarse for box coordinates and for sums over all queries.
        with torch.autocast(outputs[0].device.type, enabled=False):
            terms = self.compute_terms(outputs, batch)
            total = torch.stack(list(terms.values())).sum()
        return total, {name: term.detach() for name, term in terms.items()}

    def compute_terms(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the terms by name, times their gains."""
        boxes, scores, first_boxes, first_scores = map(to_float32, outputs[:4])
        noise, proposals = outputs[4:]
        objects = read_objects(batch, boxes)
        layers, noisy = len(boxes), boxes.shape[2] - first_boxes.shape[1]
        matched = boxes[:, :, noisy:], scores[:, :, noisy:]
        if proposals is None:  # the encoder's selection is matched like one more layer
            matched = torch.cat((matched[0], first_boxes[None])), torch.cat((matched[1], first_scores[None]))
        count = self.normaliser(boxes.new_tensor(float(len(objects.boxes))), 1)
        terms = self.learn_pairs(*matched, match(*matched, objects), objects, count)
        found = {name: term[layers - 1] for name, term in terms.items()}
        found["aux"] = sum_terms(terms) - sum_terms(found)
        found["denoise"] = self.learn_noise(boxes[:, :, :noisy], scores[:, :, :noisy], noise, objects)
        if proposals is not None:
            # Measured on blood cells (205 pictures at 96 px, a small decoder, 160 steps of 8 pictures): mAP50 0.19 with
            # these, 0.04 with the matched selection alone.
            found["encoder"] = self.learn_proposals(proposals, objects, batch["images"].shape[-2:])
        return found

    def learn_pairs(
        self,
        boxes: Tensor,
        scores: Tensor,
        pairs: Pairs,
        objects: Objects,
        count: Tensor,
        valid: Tensor | float = 1.0,
    ) -> dict[str, Tensor]:
        """Return the terms "cls", "l1" and "giou" of each layer (L,), divided by ``count``.

        Args:
            boxes: (L, B, Q, 4) as centre and size in fractions of the image.
            scores: (L, B, Q, nc) class logits.
            pairs: the queries that have an object.
            objects: the objects.
            count: what the sums are divided by.
            valid: factor of the classes' loss, which broadcasts with ``scores``.
        """
        predicted, true = boxes[pairs.layer, pairs.image, pairs.query], objects.boxes[pairs.target]
        a, b = to_corners(predicted), to_corners(true)
        zeros = boxes.new_zeros(len(boxes))
        l1 = zeros.index_add(0, pairs.layer, (predicted - true).abs().sum(-1))
        shape = zeros.index_add(0, pairs.layer, 1 - giou(a, b))
        target, wrong = torch.zeros_like(scores), torch.ones_like(scores)
        place = (*pairs[:3], objects.classes[pairs.target])
        target[place] = iou(a, b).detach()
        wrong[place] = 0
        classes = self.weigh_classes(varifocal_loss(scores, target, wrong, len(objects.boxes) == 0) * valid)
        parts = {"cls": CLASS_GAIN * classes.sum((1, 2, 3)), "l1": L1_GAIN * l1, "giou": GIOU_GAIN * shape}
        return {name: part / count for name, part in parts.items()}

    def learn_noise(self, boxes: Tensor, scores: Tensor, noise: NoisyQueries | None, objects: Objects) -> Tensor:
        """Return the sum of the terms of the denoising queries, (L, B, D, 4) and (L, B, D, nc), in all layers."""
        pairs = 0 if noise is None else len(noise.slot)
        count = self.normaliser(boxes.new_tensor(float(pairs)), 1)  # on all ranks, also on those without objects
        if noise is None:
            return boxes.new_zeros(())
        used = (noise.classes >= 0)[None, ..., None]
        return sum_terms(self.learn_pairs(boxes, scores, pair_noise(noise, len(boxes)), objects, count, used))

    def learn_proposals(self, proposals: Proposals, objects: Objects, size: tuple[int, int]) -> Tensor:
        """Return the sum of the terms of the encoder's positions, about ten for each object.

        Args:
            proposals: of the encoder, for all its positions.
            objects: the objects.
            size: height and width of the image in pixels.
        """
        boxes, scores = map(to_float32, proposals[:2])
        assigned = assign_proposals(proposals, objects, size)
        fg, weight = assigned.foreground, assigned.scores.sum(-1)
        predicted, true, weight = boxes[fg], objects.boxes[assigned.rows[fg]], weight[fg]
        l1 = ((predicted - true).abs().sum(-1) * weight).sum()
        shape = ((1 - giou(to_corners(predicted), to_corners(true))) * weight).sum()
        classes = self.weigh_classes(
            F.binary_cross_entropy_with_logits(scores, assigned.scores, reduction="none")
        ).sum()
        total = CLASS_GAIN * classes + L1_GAIN * l1 + GIOU_GAIN * shape
        return total / self.normaliser(assigned.scores.sum(), 1)

    def weigh_classes(self, loss: Tensor) -> Tensor:
        """Return the loss of the classes (..., nc), times the weights of the classes."""
        return loss if self.class_weights is None else loss * self.class_weights.to(loss)

    @torch.no_grad()
    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the loss of the denoising queries, and the entropy of the soft classes of the encoder's positions.

        Denoising queries are random, so that no network gets all of them right. The other terms may reach 0.
        """
        boxes, scores, first_boxes, _, noise, proposals = outputs
        objects, noisy = read_objects(batch, boxes), boxes.shape[2] - first_boxes.shape[1]
        least = self.learn_noise(to_float32(boxes[:, :, :noisy]), to_float32(scores[:, :, :noisy]), noise, objects)
        if proposals is not None:
            target = assign_proposals(proposals, objects, batch["images"].shape[-2:]).scores
            entropy = F.binary_cross_entropy_with_logits(target.logit(1e-7), target, reduction="none")
            least += CLASS_GAIN * self.weigh_classes(entropy).sum() / self.normaliser(target.sum(), 1)
        return float(least)


def sum_terms(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of all terms, over all layers."""
    return torch.stack([term.sum() for term in terms.values()]).sum()


def varifocal_loss(scores: Tensor, target: Tensor, wrong: Tensor, empty: bool = False) -> Tensor:
    """Compute the cross-entropy of class logits with the IoU of matched boxes, (..., nc), element by element.

    A right class weighs as much as its target, a wrong one p^1.5 / 4, p being its probability: queries far from any
    object count little, as they are many. Varifocal loss, arXiv 2008.13367.

    Args:
        scores: (..., nc) logits.
        target: (..., nc) the IoU of a query's box with its object for the object's class, otherwise 0.
        wrong: (..., nc) 0 for the classes of the objects, otherwise 1.
        empty: whether the batch has no objects; p^1.5 then weighs 3/4, as in the focal loss.
    """
    share = EMPTY_WEIGHT if empty else WRONG_WEIGHT
    weight = share * scores.detach().sigmoid().pow(GAMMA) * wrong + target
    return F.binary_cross_entropy_with_logits(scores, target, reduction="none") * weight


# -- which query learns which object ----------------------------------------------------------------------------------


@torch.no_grad()
def match(boxes: Tensor, scores: Tensor, objects: Objects) -> Pairs:
    """Match each object with one query of its image, in every layer, at the least total cost (Hungarian algorithm).

    If an image has more objects than queries, some objects remain without.

    Args:
        boxes: (L, B, Q, 4) as centre and size in fractions of the image.
        scores: (L, B, Q, nc) class logits.
        objects: the objects.

    Raises:
        MissingExtraError: if scipy is not installed.
    """
    solve = package("scipy.optimize", "train").linear_sum_assignment
    targets = pad_targets(objects.boxes, objects.classes, objects.image, boxes.shape[1])
    # The layers one after another, because a cost has as many intermediate values as there are pairs.
    costs = [compute_costs(*layer, targets) for layer in zip(boxes, scores, strict=True)]
    costs_of_all = torch.stack(costs).cpu().numpy()  # one transfer from the device for all layers and images
    rows = targets.rows.cpu().numpy()
    found = []
    for layer, image in np.ndindex(*costs_of_all.shape[:2]):
        row = rows[image][rows[image] >= 0]
        queries, columns = solve(costs_of_all[layer, image, :, : len(row)])
        found.append((np.full(len(queries), layer), np.full(len(queries), image), queries, row[columns]))
    return Pairs(*(torch.from_numpy(np.concatenate(part)).long().to(boxes.device) for part in zip(*found, strict=True)))


def compute_costs(boxes: Tensor, scores: Tensor, targets: Targets) -> Tensor:
    """Compute the costs (B, Q, G) of all pairs of a query and an object of its image, those of one layer.

    A cost is that of the class, by the focal loss, plus those of L1 and GIoU. Where it is not finite it is 0, so that
    a run that diverges ends with the loss and its message, not in the solver.

    Args:
        boxes: (B, Q, 4) as centre and size in fractions of the image.
        scores: (B, Q, nc) class logits.
        targets: the objects by image, with boxes (B, G, 4) of the same form.
    """
    p = scores.float().sigmoid().gather(2, targets.classes[:, None].expand(-1, scores.shape[1], -1))
    right, wrong = 0.25 * (1 - p).square() * -(p + 1e-8).log(), 0.75 * p.square() * -(1 - p + 1e-8).log()
    a, b = boxes[:, :, None].float(), targets.boxes[:, None].float()
    cost = CLASS_COST * (right - wrong) + L1_GAIN * (a - b).abs().sum(-1)
    cost += GIOU_GAIN * (1 - giou(to_corners(a), to_corners(b)))
    return cost.nan_to_num(0.0, 0.0, 0.0)


def pair_noise(noise: NoisyQueries, layers: int) -> Pairs:
    """Return the pairs of the positive denoising queries, which are the same in all layers."""
    layer = torch.arange(layers, device=noise.slot.device).repeat_interleave(len(noise.slot))
    return Pairs(layer, *(part.repeat(layers) for part in (noise.image, noise.slot, noise.target)))


@torch.no_grad()
def assign_proposals(proposals: Proposals, objects: Objects, size: tuple[int, int]) -> Assignment:
    """Assign objects to the encoder's positions on an image of (height, width) pixels."""
    boxes, scores = map(to_float32, proposals[:2])
    sides = boxes.new_tensor([size[1], size[0]] * 2)
    targets = pad_targets(to_corners(objects.boxes) * sides, objects.classes, objects.image, len(boxes))
    points = proposals.points.to(sides) * sides[:2]
    return Assigner(min_side=MIN_SIDE)(scores.sigmoid(), to_corners(boxes) * sides, points, targets)
