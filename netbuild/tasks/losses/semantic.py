"""The loss of semantic segmentation: cross-entropy and Dice of every pixel."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from netbuild.costs.outputs import tensors_of
from netbuild.data.maps import IGNORED
from netbuild.errors import NetbuildError
from netbuild.system.processes import world_size
from netbuild.tasks.base import Batch, Losses
from netbuild.tasks.losses.base import HeadLoss
from netbuild.tasks.losses.maps import match_sizes, share_sum


class SemanticLoss(HeadLoss):
    """Cross-entropy and Dice loss of class logits, times the batch size.

    The head's first map (B, nc, h, w) is resized to the class map "mask" (B, 1, H, W) of the batch. Pixels of class 255
    do not count. Further maps of the head are auxiliary: they learn by cross-entropy alone, with the weight 0.4. With a
    single class the map has 1 where the class is and 0 elsewhere, and both losses are those of the sigmoid. Dice pools
    the pixels of the whole batch, so that classes absent from a picture do not dominate (V-Net, arXiv 1606.04797).
    """

    name = "semantic"
    auxiliary_gain = 0.4

    def __call__(self, outputs: object, batch: Batch) -> Losses:
        """Return the sum of the terms times the batch size, and the terms "ce", "dice" and, if there is one, "aux".

        Raises:
            NetbuildError: if the outputs are no maps, or a pixel has a class that the network does not have.
        """
        logits, *auxiliary = tensors_of(outputs)
        h, w = batch["images"].shape[-2:]
        truth = batch["mask"].to(logits.device)
        if logits.ndim != 4:
            message = f"the task 'semantic' learns from logits (B, classes, h, w), the network gives {[*logits.shape]}"
            raise NetbuildError(message, hint="its last row must give a map with a channel for each class")
        check_classes(truth, logits.shape[1])
        # Half precision is too coarse for sums over millions of pixels.
        with torch.autocast(logits.device.type, enabled=False):
            terms = self.compare(*match_sizes(logits, truth, (h, w)), dice=True)
            if auxiliary:
                others = [self.compare(*match_sizes(x, truth, (h, w)), dice=False)["ce"] for x in auxiliary]
                terms["aux"] = self.auxiliary_gain * torch.stack(others).sum()
            total = torch.stack(list(terms.values())).sum() * len(logits)
        return total, {name: term.detach() for name, term in terms.items()}

    def compare(self, logits: Tensor, truth: Tensor, dice: bool) -> dict[str, Tensor]:
        """Return the terms "ce" and, if asked for, "dice" of logits (B, nc, H, W) and classes (B, 1, H, W)."""
        classes, valid = truth[:, 0].long(), truth[:, 0] != IGNORED
        score = binary_scores if logits.shape[1] == 1 else class_scores
        true = classes.where(valid, 0)
        cost, overlap, area = score(logits, true, valid)
        weights = valid.to(logits)
        if self.class_weights is not None and logits.shape[1] > 1:
            weights = weights * self.class_weights.to(logits)[true]
        terms = {"ce": (cost * weights).sum() / self.normaliser(weights.sum(), 1e-6)}
        if dice:
            terms["dice"] = self.dice(*(value() for value in (overlap, area)))
        return terms

    def dice(self, overlap: Tensor, area: Tensor) -> Tensor:
        """Return 1 - (2 * overlap + 1) / (area + 1), mean over the classes.

        Args:
            overlap: (nc,) sum of the probabilities of the true class, by class.
            area: (nc,) sum of the probabilities and of the pixels of each class.
        """
        overlap, area = (share_sum(x, self.normaliser(x.detach(), 0.0)) for x in (overlap, area))
        one = 1 / world_size()
        return (1 - (2 * overlap + one) / (area + one)).mean()


Sums = Callable[[], Tensor]


def class_scores(logits: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Sums, Sums]:
    """Compare the softmax of logits with classes.

    Args:
        logits: (B, nc, H, W).
        true: (B, H, W) classes.
        valid: (B, H, W), whether a pixel counts.

    Returns:
        The cross-entropy of each pixel (B, H, W), and functions that compute overlap and area (nc,), see `dice`.
    """
    logarithms = logits.log_softmax(1)
    of_true = logarithms.gather(1, true[:, None])[:, 0]

    def overlap() -> Tensor:
        return logits.new_zeros(logits.shape[1]).scatter_add(0, true[valid], of_true[valid].exp())

    def area() -> Tensor:
        counts = torch.bincount(true[valid], minlength=logits.shape[1])
        return (logarithms.exp() * valid[:, None]).sum((0, 2, 3)) + counts

    return -of_true, overlap, area


def binary_scores(logits: Tensor, true: Tensor, valid: Tensor) -> tuple[Tensor, Sums, Sums]:
    """Compare the sigmoid of logits (B, 1, H, W) with 0 or 1; arguments and result are those of `class_scores`."""
    target, probabilities = true.to(logits), logits[:, 0].sigmoid()
    cost = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    return (
        cost,
        lambda: (probabilities * target * valid).sum()[None],
        lambda: ((probabilities + target) * valid).sum()[None],
    )


def check_classes(truth: Tensor, nc: int) -> None:
    """Check that a class map has no class that the network does not have.

    Raises:
        NetbuildError: with the first such class.
    """
    wrong = truth[(truth != IGNORED) & ((truth >= max(nc, 2)) | (truth < 0))]
    if len(wrong):
        message = f"a class map has the class {int(wrong[0])}, the network has the classes 0 to {nc - 1}"
        if nc == 1:
            message = f"a class map has the value {int(wrong[0])}; with one class it has 1 for it, 0 elsewhere"
        raise NetbuildError(message, hint="255 marks pixels that do not count; name every class in the data file")
