"""What a task does around a network in eval, for validation and prediction: the defaults of `Task`."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from netbuild.data.images import from_pixels
from netbuild.drawing.annotated import Image
from netbuild.tasks.outputs import read_exported


class Inference:
    """Methods of a task that make images of pictures, run the network, and arrange its outputs."""

    def convert_pixels(self, pixels: Image, channels: int) -> Image:
        """Return what the network sees of a picture (H, W, 3 or 4), RGB: (H, W, channels)."""
        return pixels if channels != 1 else from_pixels(pixels, 1)

    def run(self, network: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
        """Run the network in eval on its inputs, for validation and prediction."""
        return network(*inputs)

    def scale_to_pixels(self, outputs: Any, size: Sequence[int]) -> Any:
        """Return the head's outputs in eval with all lengths in pixels of its input, as `decode` takes them.

        Most heads return pixels already. ``size`` is the input's height and width.
        """
        return outputs

    def read_exported(self, outputs: Sequence[Tensor]) -> Any:
        """Arrange the output tensors of an exported file like the head's outputs in eval."""
        return read_exported(outputs)
