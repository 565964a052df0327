"""Images of a batch as pictures."""

import numpy as np
from torch import Tensor

from netbuild.drawing.annotated import Image


def to_picture(image: Tensor) -> Image:
    """Convert an image of a batch (C, H, W), floats from 0 to 1 or bytes, to an RGB picture (H, W, 3) of bytes.

    One channel becomes grey; of more than three channels the first three are used.
    """
    values = image.detach().cpu()
    if values.is_floating_point():
        values = (values.float() * 255).round().clamp(0, 255)
    found = values.byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(found[..., :3] if found.shape[-1] >= 3 else found[..., :1].repeat(3, -1))
