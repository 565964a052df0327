"""The loss of YOLOv9's heads with auxiliary branches, arXiv 2402.13616."""

from collections.abc import Sequence
from typing import ClassVar

import torch

from netbuild.tasks.base import Batch, Losses
from netbuild.tasks.losses.cells import CellsLoss, DetectionLoss, Raw
from netbuild.tasks.losses.segment import SegmentBranch

AUXILIARY_GAIN = 0.25  # weight of each auxiliary branch


class AuxiliaryCellsLoss(CellsLoss):
    """The one-to-many loss of `CellsLoss` for each branch, those of auxiliary branches times a quarter.

    Each branch has its own assignment. The last branch is the main one; its terms are named as those of `CellsLoss`,
    and "aux" is the weighted sum of those of the others.
    """

    def __call__(self, outputs: Sequence[Raw], batch: Batch) -> Losses:  # type: ignore[override]
        """Return the sum of the terms times the batch size, and the terms, which are not multiplied by it.

        Args:
            outputs: the training outputs of each branch, the main one last.
            batch: as for `DetectionLoss`.
        """
        *others, main = outputs
        # Half precision is too coarse for sums over thousands of cells.
        with torch.autocast(main["boxes"].device.type, enabled=False):
            terms = self.one2many(main, batch)
            further = [term for raw in others for term in self.one2many(raw, batch).values()]
            terms["aux"] = AUXILIARY_GAIN * torch.stack(further).sum()
            total = torch.stack(list(terms.values())).sum()
        return total * len(main["boxes"]), {name: term.detach() for name, term in terms.items()}

    def lower_bound(self, outputs: Sequence[Raw], batch: Batch) -> float:  # type: ignore[override]
        """Return the smallest loss of all branches, weighted as in the loss, times the batch size."""
        *others, main = (self.one2many.lower_bound(raw, batch) for raw in outputs)
        return len(outputs[-1]["boxes"]) * (main + AUXILIARY_GAIN * sum(others))


class AuxiliarySegmentLoss(AuxiliaryCellsLoss):
    """The loss of `AuxiliaryCellsLoss` with the masks of each branch."""

    branch_class: ClassVar[type[DetectionLoss]] = SegmentBranch
