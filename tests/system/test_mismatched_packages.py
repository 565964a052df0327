"""A torchvision that was built for another torch: each command that needs it says so in one line."""

import os
import re
import subprocess
import sys

from helpers.small_networks import TINY, network_of
from PIL import Image

ERROR = "operator torchvision::nms does not exist"
# Runs several commands in one process, because importing torch takes most of a command's time.
RUN = """
import sys
from netbuild.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["netbuild", *line.split()]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    print(f"== {code} {line}", file=sys.stderr)
"""
ROWS = {
    "builder": "TorchVision, [resnet18, null]",
    "dotted": "torchvision.ops.SqueezeExcitation, [3, 1]",
    "timm": "timm.create_model, [resnet18]",
}
COMMANDS = (
    *(f"summary {name}.yaml" for name in ROWS),
    "predict net.safetensors picture.png",
    "val net.safetensors --data digits-detect --imgsz 64 -O workers=0",
    "export net.safetensors --nms -o net.onnx",
)


def test_a_torchvision_of_another_torch_is_said_in_one_line(tmp_path):
    (tmp_path / "broken" / "torchvision").mkdir(parents=True)
    raising = f"raise RuntimeError({ERROR!r})\n"
    (tmp_path / "broken" / "torchvision" / "__init__.py").write_text(raising)
    for name, row in ROWS.items():
        (tmp_path / f"{name}.yaml").write_text(f"nc: 2\nimgsz: 64\nlayers:\n  - [-1, 1, {row}]\n")
    network_of(tmp_path, "net", TINY.replace("nc: 3", "nc: 10"), list("0123456789"))
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input="\n".join(COMMANDS),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "broken"), *sys.path])},
        text=True,
        capture_output=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    *parts, rest = re.split(r"^== .*\n", done.stderr, flags=re.MULTILINE)
    assert (re.findall(r"^== (\d+)", done.stderr, re.MULTILINE), rest) == (["3"] * len(COMMANDS), "")
    for command, part in zip(COMMANDS, parts, strict=True):
        assert part.count(f"does not load: {ERROR}") == 1, command
        assert re.search(r"hint: install the torchvision .* for torch 2\S+: pip install 'torchvision==0\.", part)
