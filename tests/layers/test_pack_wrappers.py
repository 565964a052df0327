"""C3, C2f and C3k2 with other blocks, where they differ from plain modules of the pack."""

import pytest

from netbuild import build
from netbuild.grammar.ultralytics import is_legacy
from netbuild.layers.csp import CrossStage
from netbuild.layers.pack.faster import Faster_Block


@pytest.mark.parametrize(("scale", "inner"), [("n", Faster_Block), ("m", CrossStage)])
def test_c3k2_with_another_block_follows_the_scale_as_c3k2_does(tmp_path, scale, inner):
    file = tmp_path / "net.yaml"
    file.write_text(
        "nc: 3\nscales: {n: [0.5, 0.25, 1024], m: [0.5, 1.0, 512]}\nbackbone:\n"
        "  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, C3k2_Faster, [64, False]]\nhead: []\n"
    )
    assert type(build(file, scale=scale).model[1].m[0]) is inner
    assert not is_legacy(["Conv", "C3k2_Faster"])
    assert is_legacy(["Conv", "C2f_Faster"])
