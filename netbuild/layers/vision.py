"""Small modules of vision networks that torch.nn lacks."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Permute(nn.Module):
    """Dimensions in another order, as a view: [0, 2, 3, 1] maps (B, C, H, W) to (B, H, W, C).

    Raises ValueError unless `dims` lists each dimension once.
    """

    def __init__(self, dims: list[int]):
        super().__init__()
        if sorted(dims) != list(range(len(dims))):
            raise ValueError(f"dims must list each of the dimensions 0 to {len(dims) - 1} once: {list(dims)}")
        self.dims = tuple(dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.dims)


class ScaleBy(nn.Module):
    """Multiplication by a fixed number: residual scaling (EDSR, arXiv 1707.02921), or -1 for a difference."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Learned(nn.Module):
    """A trained tensor that does not depend on the input's values: (B, ...) -> (B, *shape[1:]) if shape[0] is 1.

    A leading 1 is repeated for each sample of the batch; any other shape is returned as it is, for Add and Multiply to
    broadcast. It is initialised with mean `value` and standard deviation `std`. For class tokens and position
    embeddings (ViT, arXiv 2010.11929) and layer scale (CaiT, arXiv 2103.17239).
    """

    def __init__(self, shape: list[int], value: float = 0.0, std: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full(shape, float(value)) + std * torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = self.weight.shape
        # A copy, since torch's module hooks, such as those of its FLOP counter, refuse a bare parameter as an output.
        return self.weight.clone().expand(x.shape[0] if first == 1 else first, *rest)


class StochasticDepth(nn.Module):
    """In training, sets the input of each sample to zero with probability p and scales the others by 1 / (1 - p).

    Put at the end of a residual branch, (B, ...) -> same shape. Deep Networks with Stochastic Depth, arXiv 1603.09382.
    Raises ValueError unless 0 <= p < 1.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"the probability p must be at least 0 and below 1, not {p}")
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        survival = 1 - self.p
        per_sample = (x.shape[0], *[1] * (x.ndim - 1))
        mask = torch.floor(torch.rand(per_sample, device=x.device, dtype=x.dtype) + survival)
        return x * (mask / survival)


class OneHot(nn.Module):
    """A class as `nc` numbers, 1 at its place and 0 elsewhere: (B,) -> (B, nc).

    A number that is no class, such as `nc`, gives zeros: a network learns by it what holds for pictures of any class
    (classifier-free guidance, arXiv 2207.12598).
    """

    def __init__(self, nc: int):
        super().__init__()
        self.nc = nc

    def forward(self, label: torch.Tensor) -> torch.Tensor:
        return (label.view(-1, 1) == torch.arange(self.nc, device=label.device)).to(label.dtype)


class Reparameterize(nn.Module):
    """A normal number by mean and log variance, the halves of the channels: (B, 2d, ...) -> (B, d, ...).

    In training mean + deviation * noise, so that gradients reach both; in eval the mean. Auto-Encoding Variational
    Bayes, arXiv 1312.6114. Raises ValueError for an odd number of channels.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, moments: torch.Tensor) -> torch.Tensor:
        if moments.shape[1] % 2:
            raise ValueError(f"means and log variances need an even number of channels, not {moments.shape[1]}")
        mean, log_variance = moments.chunk(2, 1)
        if not self.training:
            return mean
        return mean + torch.exp(log_variance / 2) * torch.randn_like(mean)


class TimeEmbedding(nn.Module):
    """Sines, then cosines, of a time step at `features`/2 frequencies from 1 to 1/10000: (B,) -> (B, features).

    The input may also be (B, 1, 1, 1). Raises ValueError for more than one value per sample, and unless `features` is
    even and at least 4. Attention Is All You Need, arXiv 1706.03762; for time steps: DDPM, arXiv 2006.11239.
    """

    def __init__(self, features: int):
        super().__init__()
        if features % 2 or features < 4:
            raise ValueError(f"features must be even and at least 4: {features}")
        exponent = torch.arange(features // 2, dtype=torch.float32) / (features // 2 - 1)
        self.register_buffer("frequency", torch.exp(-math.log(10_000) * exponent), persistent=False)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        if t.numel() != t.shape[0]:
            raise ValueError(f"one time step per sample is needed, {list(t.shape)} arrives")
        angle = t.reshape(-1, 1) * self.frequency
        return torch.cat((angle.sin(), angle.cos()), 1)


class CrossCorrelation(nn.Module):
    """Cross-correlation of a template with a search map: (B, C, h, w) and (B, C, H, W) -> (B, 1, H-h+1, W-w+1).

    With `depthwise` the channels are correlated separately: -> (B, C, H-h+1, W-w+1).
    SiamFC, arXiv 1606.09549; depthwise: SiamRPN++, arXiv 1812.11703.
    """

    def __init__(self, depthwise: bool = False):
        super().__init__()
        self.depthwise = depthwise

    def forward(self, template: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
        batch, channels, *size = template.shape
        # A grouped convolution, so that each sample (or each of its channels) has its own kernel.
        kernels = template.reshape(-1, 1 if self.depthwise else channels, *size)
        out = F.conv2d(search.reshape(1, -1, *search.shape[2:]), kernels, groups=kernels.shape[0])
        return out.reshape(batch, -1, *out.shape[2:])


class ScoreScale(nn.Conv2d):
    """A learnt scale and offset of a map: (B, 1, H, W) -> (B, 1, H, W).

    A correlation adds up thousands of products, and the logistic function of such numbers has no gradient; training
    begins with the scale `gain`. SiamFC, arXiv 1606.09549.
    """

    def __init__(self, gain: float = 0.001):
        super().__init__(1, 1, 1)
        nn.init.constant_(self.weight, gain)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
