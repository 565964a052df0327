"""The losses of pose heads: boxes and classes, and the places and visibility of keypoints. arXiv 2204.06806."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from netbuild.tasks.assign import Assigner, Assignment, Targets
from netbuild.tasks.base import Batch
from netbuild.tasks.keypoint_math import AREA_SHARE, EPS, choose_sigmas, oks, oks_exponent
from netbuild.tasks.losses.base import Gains
from netbuild.tasks.losses.cells import Cells, CellsLoss, DetectionLoss, LossPart

# Distance from the true point, in square roots of the box's area, below which the distance term is about quadratic.
NEAR = 0.01
# Sigmas that are smaller are widened to this at first, and ever less until this share of the epochs is finished.
FIRST_SIGMA, WIDENED_SHARE = 0.15, 0.5
MAX_ERROR = 100.0  # of a point, in predicted uncertainties; larger ones count as this
# Factors of RLE for COCO's 17 keypoints: elbows and knees, wrists and ankles.
COCO_WEIGHTS = (*(1.0,) * 7, 1.2, 1.2, 1.5, 1.5, 1.0, 1.0, 1.2, 1.2, 1.5, 1.5)


@dataclass(frozen=True)
class Keypoints:
    """The predicted and the true keypoints of the N foreground cells, in cells.

    Args:
        points: (N, K, 2) predicted x and y.
        true: (N, K, 2) true x and y.
        visible: (N, K) 1 for points that are annotated, else 0.
        logits: (N, K) of the predicted visibility; None for a head that predicts none.
        size: (N, 2) width and height of the true boxes.
        sigmas: (N, K, 2) logits of the predicted uncertainty; None for a head that predicts none.
    """

    points: Tensor
    true: Tensor
    visible: Tensor
    logits: Tensor | None
    size: Tensor
    sigmas: Tensor | None

    @property
    def area(self) -> Tensor:
        """(N,) areas of the true boxes."""
        return self.size.prod(-1)

    @property
    def squared(self) -> Tensor:
        """(N, K) squared distances between predicted and true points."""
        return (self.points - self.true).square().sum(-1)

    def mean_visible(self, values: Tensor) -> Tensor:
        """Return (N,) the mean of values (N, K) over the visible points of each cell, 0 without any."""
        return (values * self.visible).sum(-1) / self.visible.sum(-1).clamp(min=1)


def true_keypoints(batch: Batch, like: Tensor, count: int, size: tuple[float, float]) -> Tensor:
    """Return the batch's keypoints (M, K, 3) in pixels, in the type and on the device of ``like``.

    A batch without objects does not know how many keypoints an object has.
    """
    found: Tensor = batch["keypoints"].to(like)
    if not found.shape[1]:
        return like.new_zeros(len(found), count, 3)
    return found * like.new_tensor([*size, 1])


def read_keypoints(head: Any, cells: Cells, assigned: Assignment, batch: Batch) -> Keypoints:
    """Collect the keypoints of the foreground cells.

    Args:
        head: module with ``kpt_shape`` and ``decode_points``.
        cells: with "kpts" (B, K*D, A), and perhaps "kpts_sigma" (B, 2*K, A), among the raw outputs.
        assigned: the targets of the cells.
        batch: with "keypoints" (M, K, 3): x and y in fractions of the image, and visibility.
    """
    (count, dims), fg, like = head.kpt_shape, assigned.foreground, cells.scores

    def select(name: str, values: int) -> Tensor:
        return cells.raw[name].transpose(1, 2)[fg].to(like.dtype).unflatten(-1, (count, values))

    image, cell = fg.nonzero(as_tuple=True)
    raw, strides = select("kpts", dims), cells.strides[cell]
    points = head.decode_points(raw[..., :2].permute(1, 2, 0), cells.points[cell].T).permute(2, 0, 1)
    true = true_keypoints(batch, like, count, cells.size)[assigned.rows[image, cell]]
    low, high = (assigned.boxes[fg][:, :4] / strides).chunk(2, -1)
    return Keypoints(
        points,
        true[..., :2] / strides[..., None],
        (true[..., 2] > 0).to(like),
        raw[..., 2] if dims == 3 else None,
        high - low,
        select("kpts_sigma", 2) if "kpts_sigma" in cells.raw else None,
    )


@dataclass(frozen=True)
class KeypointPart(LossPart):
    """Places of the foreground's keypoints, and their visibility.

    The term "pose" is that of YOLO-Pose: 1 - exp(-e) of OKS. Alone it teaches little from scratch: where a point is off
    by more than a few sigmas, exp(-e) is 0, and so is its gradient. (For 32 points, with sigmas of 1/32, that is a
    fifth of the object.) The term "distance" has the same gradient at any distance, and almost none near the true
    point, where OKS is left to decide: sqrt(d^2 + `NEAR`^2) - `NEAR`, with d in square roots of the box's area.
    The term "kobj" is the binary cross-entropy of the visibility.

    Args:
        head: the head.
        sigmas: (K,) of the keypoints.
        gains: weights of the terms; ``distance=0`` leaves that term out, as the loss of YOLO-Pose does, whose ``pose``
            is 12.
    """

    head: Any
    sigmas: Sequence[float]
    gains: Gains = field(default_factory=Gains)

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the terms "pose", "distance", and "kobj" for a head that predicts visibility."""
        found, gains = read_keypoints(self.head, cells, assigned, batch), self.gains
        exponent = oks_exponent(found.squared, found.area, found.area.new_tensor(self.sigmas))
        terms = {"pose": gains.pose * found.mean_visible(1 - torch.exp(-exponent)).sum()}
        if gains.distance:
            far = (found.squared / (found.area[..., None] + EPS) + NEAR**2).sqrt() - NEAR
            terms["distance"] = gains.distance * found.mean_visible(far).sum()
        if found.logits is not None:
            loss = F.binary_cross_entropy_with_logits(found.logits, found.visible, reduction="none")
            terms["kobj"] = gains.kobj * loss.mean(-1).sum()
        return terms

    def count(self, cells: Cells, assigned: Assignment, batch: Batch) -> Tensor:
        """Return the number of foreground cells."""
        return assigned.foreground.sum().to(cells.scores)


@dataclass(frozen=True)
class LikelihoodPart(LossPart):
    """Residual log-likelihood estimation: errors of points under a density that is learnt too. RLE, arXiv 2107.11291.

    Args:
        head: a head with ``flow_model``, the density of errors that are divided by the predicted uncertainty.
        gain: weight of the term.
    """

    head: Any
    gain: float = 1.0

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the term "rle"; nothing if the head gives no uncertainties, as in eval."""
        found = read_keypoints(self.head, cells, assigned, batch)
        if found.sigmas is None:
            return {}
        visible = found.visible > 0
        sigmas = found.sigmas[visible].sigmoid()
        errors = ((found.points - found.true)[visible] / (sigmas + EPS)).clamp(-MAX_ERROR, MAX_ERROR)
        weights = errors.new_tensor(point_weights(found.visible.shape[1])).expand_as(found.visible)[visible]
        log_p = self.head.flow_model.log_prob(errors)[:, None].to(errors)
        values = weights[:, None] * (sigmas.log() - log_p + (2 * sigmas).log() + errors.abs())
        finite = values.isfinite().all(-1)
        return {"rle": self.gain * values[finite].sum().clamp(min=0)}

    def count(self, cells: Cells, assigned: Assignment, batch: Batch) -> Tensor:
        """Return the number of visible points of the foreground cells."""
        true = true_keypoints(batch, cells.scores, self.head.kpt_shape[0], cells.size)
        return (true[assigned.rows[assigned.foreground]][..., 2] > 0).sum().to(cells.scores)


def point_weights(count: int) -> tuple[float, ...]:
    """Return factors of ``count`` keypoints: more for the limbs of COCO's 17, which are harder to find, else 1."""
    return COCO_WEIGHTS if count == len(COCO_WEIGHTS) else (1.0,) * count


@dataclass(frozen=True)
class PoseBranch(DetectionLoss):
    """Loss of one branch of a pose head.

    Args:
        sigmas: (K,) of the keypoints; the defaults of `choose_sigmas` unless given.
        least_sigma: smaller sigmas are widened to this: with narrow ones only the points that happen to be near have a
            gradient of OKS, a large one, and far points would be learnt later.
    """

    sigmas: tuple[float, ...] = ()
    least_sigma: float = FIRST_SIGMA

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", self.sigmas or choose_sigmas(self.head.kpt_shape[0]))

    @property
    def widened_sigmas(self) -> tuple[float, ...]:
        """(K,) the sigmas that are learnt with; those of the keypoints if ``gains.distance`` is 0."""
        return tuple(max(sigma, self.least_sigma if self.gains.distance else 0.0) for sigma in self.sigmas)

    def all_parts(self) -> Sequence[LossPart]:
        """Return the given parts, or the default parts and that of keypoints."""
        return [*super().all_parts(), *([] if self.parts is not None else self.keypoint_parts())]

    def keypoint_parts(self) -> list[LossPart]:
        """Return the parts of keypoints."""
        return [KeypointPart(self.head, self.widened_sigmas, self.gains)]


class PoseLoss(CellsLoss):
    """Loss of pose heads: that of `CellsLoss` with the places and the visibility of keypoints.

    Points are learnt from coarse to fine: narrow sigmas are widened at first, see `PoseBranch`, and a term of the
    distance is added, see `KeypointPart`. With ``Gains(pose=12, distance=0)`` it is the published loss.

    Args:
        head, gains, class_weights, normaliser, parts: see `CellsLoss`; the head has ``kpt_shape``, (K, 2 or 3).
    """

    branch_class: ClassVar[type[DetectionLoss]] = PoseBranch

    def set_sigmas(self, sigmas: Sequence[float]) -> None:
        """Set the sigmas (K,) of the keypoints, which are facts of the data set."""
        self._change(sigmas=tuple(sigmas))

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Narrow the widened sigmas, and pass the epoch on to the schedule of the branches."""
        super().epoch_end(finished, epochs)
        self._change(least_sigma=FIRST_SIGMA * max(1 - finished / (WIDENED_SHARE * epochs), 0.0))

    def _change(self, **fields: Any) -> None:
        self.one2many, self.one2one = replace(self.one2many, **fields), replace(self.one2one, **fields)


@dataclass(frozen=True)
class KeypointAssigner(Assigner):
    """Task-aligned assignment whose overlap is the similarity of keypoints (OKS), to cells of a suitable level.

    As long as no keypoint is near its place, OKS is 0 for all cells, so that boxes and classes would learn nothing. The
    overlap of the boxes therefore has a share in it.

    Args:
        points: (B, A, K, 2) predicted keypoints in pixels.
        true: (M, K, 3) keypoints of the batch's objects in pixels, and visibility.
        sigmas: (K,) of the keypoints.
        strides: (A,) pixels per cell.
        box_share: weight of the boxes' overlap, from 0 (only OKS, as published) to 1.
    """

    points: Tensor = field(default_factory=lambda: torch.zeros(0))
    true: Tensor = field(default_factory=lambda: torch.zeros(0))
    sigmas: Tensor = field(default_factory=lambda: torch.zeros(0))
    strides: Tensor = field(default_factory=lambda: torch.zeros(0))
    box_share: float = 0.5

    def find_candidates(self, points: Tensor, targets: Targets) -> Tensor:
        """Return which cells are inside each object and of a level for its size, (B, G, A).

        A level suits objects whose size, the square root of their area, is 2 to 12 cells; the finest has no lower limit
        and the coarsest no upper one. An object that would be left without cells may have those of any level.
        """
        inside = super().find_candidates(points, targets)
        low, high = targets.boxes.chunk(2, -1)
        size, strides = (high - low).prod(-1).sqrt()[..., None], self.strides
        is_large_enough = (size >= 2 * strides) | (strides == strides.min())
        is_small_enough = (size <= 12 * strides) | (strides == strides.max())
        suitable = inside & is_large_enough & is_small_enough
        return torch.where(suitable.any(-1, keepdim=True), suitable, inside)

    def compute_overlap(
        self, boxes: Tensor, scores: Tensor, targets: Targets, pairs: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Compute the mean of OKS and the boxes' overlap; for an object without visible keypoints only the latter."""
        b, g, a = pairs
        true, found = self.true[targets.rows[b, g]], targets.boxes[b, g]
        area = (found[:, 2:] - found[:, :2]).prod(-1) * AREA_SHARE
        similarity = oks(self.points[b, a], true, area, self.sigmas)
        share = torch.where((true[..., 2] > 0).any(-1), self.box_share, 1.0).to(similarity)
        return torch.lerp(similarity, super().compute_overlap(boxes, scores, targets, pairs), share)


@dataclass(frozen=True)
class LikelihoodPoseBranch(PoseBranch):
    """Loss of one branch of `Pose26`."""

    def keypoint_parts(self) -> list[LossPart]:
        """Return the parts of keypoints, with that of RLE."""
        return [*super().keypoint_parts(), LikelihoodPart(self.head, self.gains.rle)]

    def make_assigner(self, cells: Cells, batch: Batch) -> Assigner:
        """Return an assigner that compares keypoints."""
        count, dims = self.head.kpt_shape
        raw = cells.raw["kpts"].detach().to(cells.scores.dtype).unflatten(1, (count, dims))[:, :, :2]
        points = (self.head.decode_points(raw, cells.points.T) * cells.strides.T).permute(0, 3, 1, 2)
        return KeypointAssigner(
            self.topk,
            self.topk2,
            self.min_side,
            points=points,
            true=true_keypoints(batch, cells.scores, count, cells.size),
            sigmas=cells.scores.new_tensor(self.widened_sigmas),
            strides=cells.strides[:, 0],
            box_share=KeypointAssigner.box_share if self.gains.distance else 0.0,
        )


class LikelihoodPoseLoss(PoseLoss):
    """Loss of `Pose26`: objects are assigned to cells by their keypoints and boxes, and RLE is added.

    With ``Gains(pose=12, distance=0)`` it is the published loss, which assigns by keypoints alone.
    """

    branch_class = LikelihoodPoseBranch
