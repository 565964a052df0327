"""Small parts of vision networks that rows of ``nn.*`` do not have."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Permute(nn.Module):
    """Dimensions in another order, as a view: [0, 2, 3, 1] makes (B, C, H, W) (B, H, W, C).

    Raises ValueError unless `dims` names each dimension from 0 once.
    """

    def __init__(self, dims: list[int]):
        super().__init__()
        if sorted(dims) != list(range(len(dims))):
            raise ValueError(f"the dimensions 0 to {len(dims) - 1} are to be named once each: {list(dims)}")
        self.dims = tuple(dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.dims)


class ScaleBy(nn.Module):
    """A map times a fixed number, shape kept: residual scaling (EDSR, arXiv 1707.02921), or -1 for a difference."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Learned(nn.Module):
    """A trained tensor of its own, whatever arrives; a leading 1 is the batch and is repeated: (B, ...) -> (B, *rest).

    Other shapes go out as they are, for Add and Multiply to broadcast. It starts normal with mean `value` and standard
    deviation `std`. Class tokens and positions (ViT, arXiv 2010.11929), layer scale (CaiT, arXiv 2103.17239).
    """

    def __init__(self, shape: list[int], value: float = 0.0, std: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full(shape, float(value)) + std * torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = self.weight.shape
        # A copy: torch's module hooks, such as those of its FLOP counter, do not take a bare parameter as an output.
        return self.weight.clone().expand(x.shape[0] if first == 1 else first, *rest)


class StochasticDepth(nn.Module):
    """A branch left out with probability p for each image in training, the kept ones scaled up; shape kept.

    Deep Networks with Stochastic Depth, arXiv 1603.09382. Raises ValueError unless 0 <= p < 1.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"a branch is left out with a probability of at least 0 and below 1, not {p}")
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        one_an_image = (x.shape[0], *[1] * (x.ndim - 1))
        kept = torch.floor(torch.rand(one_an_image, device=x.device, dtype=x.dtype) + keep)
        return x * (kept / keep)


class TimeEmbedding(nn.Module):
    """Sines, then cosines, of a time step at `features`/2 frequencies from 1 to 1/10000: (B,) -> (B, features).

    A map of one value (B, 1, 1, 1) will do too. Raises ValueError for more values an image, or for odd `features`.
    Attention Is All You Need, arXiv 1706.03762; of time steps: DDPM, arXiv 2006.11239.
    """

    def __init__(self, features: int):
        super().__init__()
        if features % 2 or features < 4:
            raise ValueError(f"an even number of features from 4 is needed: {features}")
        exponent = torch.arange(features // 2, dtype=torch.float32) / (features // 2 - 1)
        self.register_buffer("frequency", torch.exp(-math.log(10_000) * exponent), persistent=False)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        if t.numel() != t.shape[0]:
            raise ValueError(f"one time step an image is needed, {list(t.shape)} arrives")
        angle = t.reshape(-1, 1) * self.frequency
        return torch.cat((angle.sin(), angle.cos()), 1)


class CrossCorrelation(nn.Module):
    """A template slid over a map of the same image: (B, C, h, w) and (B, C, H, W) -> (B, 1, H-h+1, W-w+1).

    With `depthwise` each channel by itself: (B, C, H-h+1, W-w+1).
    SiamFC, arXiv 1606.09549; depthwise: SiamRPN++, arXiv 1812.11703.
    """

    def __init__(self, depthwise: bool = False):
        super().__init__()
        self.depthwise = depthwise

    def forward(self, template: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
        batch, channels, *size = template.shape
        # A grouped convolution, so that each image (or channel of one) has a kernel of its own.
        kernels = template.reshape(-1, 1 if self.depthwise else channels, *size)
        out = F.conv2d(search.reshape(1, -1, *search.shape[2:]), kernels, groups=kernels.shape[0])
        return out.reshape(batch, -1, *out.shape[2:])
