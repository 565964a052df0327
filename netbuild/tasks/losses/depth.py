"""The loss of depth: scale-invariant logarithmic error, and the differences between neighbouring pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild.costs.outputs import tensors_of
from netbuild.errors import NetbuildError
from netbuild.tasks.base import Batch, Losses
from netbuild.tasks.losses.base import HeadLoss
from netbuild.tasks.losses.maps import match_sizes, share_sum

NEAREST = 1e-3  # metres; nearer truths are not known, nearer predictions are clamped
MIN_PIXELS = 10  # a batch with fewer known pixels is not learnt from
SCALES = 4  # at which differences between neighbours are compared, each half as large as the one before
MIN_FILL = 0.7  # least share of known pixels in the cells of a coarser scale that have any
EPSILON = 1e-6


class DepthLoss(HeadLoss):
    """Scale-invariant logarithmic loss and its multi-scale gradients, times the batch size.

    With g the difference of the logarithms of prediction and truth at the known pixels of the batch, the terms are
    "silog" = sqrt(variance of g + (1 - invariance) * mean(g)^2 + 1e-6) (arXiv 1406.2283) and "gradient", half the mean
    absolute difference of g between neighbours, summed over four scales (MiDaS, arXiv 1907.01341).

    A head with calibration buffers learns distances up to a factor (``invariance`` 1); `DepthTask.calibrate` then fits
    the buffers, so that its predictions in eval are metres. For other networks ``invariance`` is 0.5.
    """

    name = "depth"
    gradient_gain = 0.5

    @property
    def invariance(self) -> float:
        """How far a common factor of all predictions is left out of account."""
        return 1.0 if has_calibration(self.head) else 0.5

    def __call__(self, outputs: object, batch: Batch) -> Losses:
        """Return the sum of the terms times the batch size, and the terms.

        Raises:
            NetbuildError: if the output is no map of one channel.
        """
        predicted = next(tensors_of(outputs))
        if predicted.ndim != 4 or predicted.shape[1] != 1:
            message = f"the task 'depth' learns from a map (B, 1, h, w), the network gives {[*predicted.shape]}"
            raise NetbuildError(message, hint="its last row must give one channel: a distance for each position")
        h, w = batch["images"].shape[-2:]
        truth = batch["depth"].to(predicted.device)
        # Half precision is too coarse for sums over millions of pixels.
        with torch.autocast(predicted.device.type, enabled=False):
            predicted, truth = match_sizes(predicted, truth, (h, w), align_corners=True)
            known = (truth > NEAREST) & truth.isfinite()
            ratio = predicted.clamp(min=NEAREST).log() - truth.clamp(min=NEAREST).to(predicted).log()
            ratio = ratio.where(known, 0)
            count = self.normaliser(known.sum().to(ratio), 1.0)
            terms = {"silog": self.silog(ratio, known, count), "gradient": self.gradients(ratio, known)}
            if count < MIN_PIXELS:
                terms = {name: term * 0 for name, term in terms.items()}
            total = torch.stack(list(terms.values())).sum() * len(predicted)
        return total, {name: term.detach() for name, term in terms.items()}

    def silog(self, ratio: Tensor, known: Tensor, count: Tensor) -> Tensor:
        """Return the scale-invariant loss of logarithms of ratios.

        Args:
            ratio: (B, 1, H, W) logarithms, 0 where they are not known.
            known: (B, 1, H, W), where they are.
            count: number of known pixels in the whole batch, mean over the processes.
        """
        mean = self.normaliser(ratio.detach().sum(), float("-inf")) / count
        centred = (ratio - mean).where(known, 0)  # squares of small numbers lose no digits
        squares, offset = (
            share_sum(local, self.normaliser(local.detach(), float("-inf"))) / count
            for local in (centred.square().sum(), centred.sum())
        )
        return (squares - offset**2 + (1 - self.invariance) * (mean + offset) ** 2 + EPSILON).sqrt()

    def gradients(self, ratio: Tensor, known: Tensor) -> Tensor:
        """Return half the mean absolute difference between known neighbours, across and down, summed over the scales.

        Differences with an unknown pixel count as 0. Pictures of which a coarser scale would mix too few known pixels
        stay out of it.
        """
        total = ratio.sum() * 0
        weight = known.to(ratio)
        for scale in range(SCALES):
            if min(ratio.shape[2:]) < (4 if scale else 2):
                break
            for axis in (2, 3):
                length = ratio.shape[axis] - 1
                difference = ratio.narrow(axis, 1, length) - ratio.narrow(axis, 0, length)
                both = weight.narrow(axis, 1, length) * weight.narrow(axis, 0, length)
                count = self.normaliser(total.new_tensor(float(both.numel())), 1.0)
                total = total + (difference.abs() * both).sum() / count
            ratio, weight = halve(ratio, weight)
        return self.gradient_gain * total


def has_calibration(head: nn.Module) -> bool:
    """Whether a head has buffers that turn its logarithms of distances into those of metres."""
    return all(isinstance(getattr(head, name, None), Tensor) for name in ("cal_a", "cal_b"))


def halve(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Halve maps (B, 1, H, W) by the mean of the known pixels in each cell of 2x2; return values and new weights.

    Pictures with a mean share of at most `MIN_FILL` known pixels, in the cells that have any, are left out.

    Args:
        values: the maps, 0 where they are not known.
        weight: 1 where they are known, else 0.
    """
    fill = F.avg_pool2d(weight, 2)
    occupied = (fill > 0).to(values)
    coarse = F.avg_pool2d(values * weight, 2) / fill.clamp(min=0.25)
    share = fill.sum((1, 2, 3)) / occupied.sum((1, 2, 3)).clamp(min=1)
    kept = share > MIN_FILL
    return coarse[kept], occupied[kept]
