"""Heads of YOLOv9 with one to three branches give what their authors' own give with the same weights."""

import pytest
import torch
from helpers.filled_weights import fill, samples

from netbuild.layers import DDetect, DualDDetect, TripleDDetect

MAPS = ((32, 32), (64, 16), (96, 8), (48, 32), (64, 16), (96, 8), (40, 32), (64, 16), (96, 8))  # channels, side
# Parameters, and eight values of the prediction of the main branch (1, 9, 1344).
PUBLISHED = {
    DDetect: (226_111, [6.2155647, 92.641388, 116.05635, 249.08926, 0.29946852, 0.43662214, 0.67949092, 0.29145503]),
    DualDDetect: (
        530_990,
        [3.7996197, 93.016693, 123.34985, 240.51701, 0.45476067, 0.48023319, 0.50294, 0.4940965],
    ),
    TripleDDetect: (
        794_181,
        [3.8727264, 91.426689, 119.14081, 250.03749, 0.67829078, 0.68758434, 0.47869012, 0.62640059],
    ),
}


@pytest.mark.parametrize("cls", PUBLISHED)
def test_the_main_branch_predicts_as_published(cls):
    count, expected = PUBLISHED[cls]
    maps = MAPS[: 3 * cls.branches]
    head = cls(5, [channels for channels, _ in maps], [8.0, 16.0, 32.0] * cls.branches)
    bins = {key: tensor.clone() for key, tensor in head.state_dict().items() if key.startswith("dfl")}
    fill(head).load_state_dict(bins, strict=False)
    feats = [
        torch.rand(1, c, side, side, generator=torch.Generator().manual_seed(i)) for i, (c, side) in enumerate(maps)
    ]
    with torch.no_grad():
        y = head.eval()(feats)[0]
    assert (sum(p.numel() for p in head.parameters()), y.shape) == (count, (1, 9, 1344))
    assert samples(y) == pytest.approx(expected, abs=1e-3)
