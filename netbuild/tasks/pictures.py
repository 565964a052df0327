"""Images of a batch as pictures."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from netbuild.drawing.annotated import Image
from netbuild.runtime import mirror_indices


def to_picture(image: Tensor) -> Image:
    """Convert an image of a batch (C, H, W), floats from 0 to 1 or bytes, to an RGB picture (H, W, 3) of bytes.

    One channel becomes grey; of more than three channels the first three are used.
    """
    values = image.detach().cpu()
    if values.is_floating_point():
        values = (values.float() * 255).round().clamp(0, 255)
    found = values.byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(found[..., :3] if found.shape[-1] >= 3 else found[..., :1].repeat(3, -1))


def mirror_images(images: Sequence[Tensor], size: tuple[int, int] | None) -> Sequence[Tensor]:
    """Put images (B, C, H, W) into the middle of larger ones, as `netbuild.runtime.mirror_margin` does.

    Args:
        images: the first are images; of the others those of the same height and width.
        size: height and width of the larger ones; None returns all tensors as they are.
    """
    if size is None:
        return images
    shape = images[0].shape[-2:]
    rows, columns = (
        torch.from_numpy(mirror_indices(count, length)).to(images[0].device)
        for count, length in zip(shape, size, strict=True)
    )
    return [x[..., rows[:, None], columns] if x.shape[-2:] == shape else x for x in images]
