"""Sampling: what a task of pictures that a network invents offers to `netbuild sample`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netbuild.drawing.annotated import Image
from netbuild.errors import NetbuildError
from netbuild.graph.network import Network
from netbuild.runtime import Noise

Array = NDArray[Any]


@dataclass(frozen=True)
class SampleOptions:
    """The options of sampling that a user may give; None for the sampler's own.

    Attributes:
        steps: number of steps from noise to picture.
        method: the sampler's way of making them, one of `Sampler.methods`.
        guidance: how strongly the class is enforced; 0 is the network's own distribution.
    """

    steps: int | None = None
    method: str | None = None
    guidance: float | None = None


class Sampler(ABC):
    """Makes pictures of random numbers with a network.

    Args:
        network: the network in eval mode, on its device.

    Attributes:
        takes: names of the options of `SampleOptions` that have an effect, and ``animate`` if there is a way to show.
        methods: the values of the option ``method``, the default first.
        class_count: number of the classes that pictures can be asked for; 0 for a network without.
    """

    takes: tuple[str, ...] = ()
    methods: ClassVar[tuple[str, ...]] = ()
    class_count: int = 0

    def __init__(self, network: Network) -> None:
        self.network = network

    @abstractmethod
    def run(self, noise: Noise, classes: Array | None, options: SampleOptions) -> Iterator[Array]:
        """Yield the pictures (B, C, H, W) of a batch, values from 0 to 1, on their way from noise; the last are made.

        Args:
            noise: the source of random numbers for each picture of the batch.
            classes: (B,) the numbers of their classes; None without classes.
            options: how they are made.
        """

    def check(self, options: SampleOptions) -> None:
        """Refuse options without effect and wrong values.

        Raises:
            NetbuildError: for the first of them.
        """
        for name, value in vars(options).items():
            if value is not None and name not in self.takes:
                kind = type(self).__doc__ or ""
                reason = kind.splitlines()[0].rstrip(".").lower()
                raise NetbuildError(f"--{name} has no effect here: the network is {reason}", hint="leave it out")
        if options.method is not None and options.method not in self.methods:
            message = f"--method {options.method}: there is no such way of sampling"
            raise NetbuildError(message, hint=f"it is {' or '.join(self.methods)}")

    @torch.no_grad()
    def call(self, *inputs: Array) -> Array:
        """Run the network on arrays and return its first output as an array of float32."""
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        tensors = [torch.from_numpy(np.ascontiguousarray(value, np.float32)).to(device) for value in inputs]
        found = self.network(*tensors)
        first: Tensor = found[0] if isinstance(found, tuple | list) else found
        return first.float().cpu().numpy()


def to_pictures(values: Array) -> list[Image]:
    """Convert pictures (B, C, H, W) with values from 0 to 1 to bytes (H, W, 3), grey ones to equal channels."""
    found = np.rint(np.nan_to_num(values).clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return [np.ascontiguousarray(one[..., :3] if one.shape[2] >= 3 else one[..., :1].repeat(3, 2)) for one in found]


def spread_classes(count: int, nc: int, chosen: Sequence[int] = ()) -> Array | None:
    """Return the class of each of ``count`` pictures: those that were chosen, else all, in turn; None without any."""
    classes = list(chosen) or list(range(nc))
    return np.array([classes[i % len(classes)] for i in range(count)]) if classes else None
