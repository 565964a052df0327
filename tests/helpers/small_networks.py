"""Networks small enough for tests that only want one."""

import torch

import netbuild

TINY = """
nc: 3
imgsz: 64
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [[-1], 1, Detect, [nc]]
"""

# The rows of networks with several heads: two of them, on maps of two sizes; a test may add a third one.
TWO_HEADS = """\
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2], fine]
  - [-1, 1, Conv, [16, 3, 2], coarse]
  - [[fine, coarse], 1, Detect, [nc], detect]
  - [[fine, coarse], 1, SemanticSegment, [nc], semantic]
"""


def network_of(folder, name, text, names, spread=("cv3",), times=5.0):
    """A checkpoint whose scores are far apart, as those of a network that has learnt are; so are other parts named."""
    (folder / f"{name}.yaml").write_text(text)
    torch.manual_seed(0)
    network = netbuild.build(folder / f"{name}.yaml")
    with torch.no_grad():
        for key, p in network.named_parameters():
            last = key.split(".")[-2] == "2" and any(part in key for part in spread)  # where such numbers are made
            p.add_(torch.randn_like(p) * (times if last else 0.05) * p.requires_grad)
            if last and key.endswith("bias"):
                p.zero_()
    return netbuild.save(network, folder / f"{name}.safetensors", names=names)
