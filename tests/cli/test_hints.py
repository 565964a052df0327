"""Hints for names that do not exist, for packages that are missing, and explanations of a file's own blocks."""

import importlib.metadata
import json
import re
import sys

import pytest

from netbuild import settings
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.grammar.locate import locate
from netbuild.system import packages


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("resnet50d", "'resnet50.yaml'"),  # no scale of a file without scales
        ("resnet50d.yaml", "'resnet50.yaml'"),
        ("vgg16x", "'vgg16.yaml'"),
        ("resnet-50", "'resnet50.yaml'"),
        ("lenet", "'lenet5.yaml'"),
        ("mobilenet_v3_large", "'mobilenet-v3-large.yaml'"),
        ("yolo11-sgm", "'yolo11-seg.yaml'"),
        ("qqqq", "netbuild zoo lists the packaged networks"),
    ],
)
def test_a_missing_network_suggests_the_nearest(name, suggested):
    with pytest.raises(NetbuildError) as caught:
        locate(name)
    assert suggested in caught.value.hint
    assert len(caught.value.hint) < 160
    assert caught.value.message == f"there is no file '{name}' and no packaged network of that name"


def test_scales_are_still_found_by_their_letter(tmp_path, monkeypatch):
    assert locate("yolo11s-seg")[1] == "s"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text("extends: yolo11.yaml\n", encoding="utf-8")
    assert locate("nets")[1] == "s"  # the scales are those of the file that it extends


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".onnx"])
@pytest.mark.parametrize("command", ["summary {}", "val {} --data digits", "export {}", "train {} --data digits"])
def test_a_missing_checkpoint_names_no_networks(cli, tmp_path, monkeypatch, suffix, command):
    monkeypatch.chdir(tmp_path)
    done = cli(*command.format(f"best{suffix}").split())
    assert done.code == 2
    assert len(done.err) < 200
    assert "yolo" not in done.err
    (tmp_path / f"bets{suffix}").touch()
    with pytest.raises(NetbuildError, match=re.escape(f"there is no file 'best{suffix}'")) as caught:
        locate(f"best{suffix}")
    assert caught.value.hint == f"did you mean 'bets{suffix}'?"
    (tmp_path / f"bets{suffix}").unlink()
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / f"runs/a/last{suffix}").touch()
    with pytest.raises(NetbuildError) as caught:
        locate(f"best{suffix}")
    assert caught.value.hint == f"files in runs: runs/a/last{suffix}"


@pytest.mark.parametrize(
    ("option", "message", "hint"),
    [
        ("lr0=0.1", "there is no setting 'lr0'", "did you mean 'lr'?"),
        ("lrf=0.1", "there is no setting 'lrf'", "did you mean 'lr_end'?"),
        ("learning_rate=1", "there is no setting 'learning_rate'", "did you mean 'lr'?"),
        ("warmup_epochs=3", "there is no setting 'warmup_epochs'", "did you mean 'warmup'?"),
        ("fliplr=1", "there is no setting 'fliplr'", "did you mean 'flip_lr'?"),
        ("momentun=1", "there is no setting 'momentun'", "did you mean 'momentum'?"),
        ("project=x", "there is no setting 'project'", "use --out"),
        ("qqqq=1", "there is no setting 'qqqq'", "netbuild train --print-config lists all"),
        ("lr", "the value is missing", "write -O lr=VALUE"),
    ],
)
def test_an_unknown_setting_says_which_exists(cli, option, message, hint):
    done = cli("train", "lenet5.yaml", "-O", option)
    assert (done.code, done.err) == (2, f"error: --option {option}: {message}\nhint: {hint}\n")


def test_names_of_other_trainers_lead_to_settings_or_flags(cli):
    help_text = cli("train", "--help").out
    for name, target in settings.OTHER_NAMES.items():
        assert name not in settings.FIELDS
        assert target in settings.FIELDS or " " in target or target in help_text, name


@pytest.mark.parametrize("is_checkout", [True, False])
def test_a_hint_names_the_packages_of_an_extra(monkeypatch, tmp_path, is_checkout):
    packages.list_packages.cache_clear()
    if not is_checkout:  # a wheel has its metadata only
        monkeypatch.setattr(packages, "__file__", str(tmp_path / "netbuild/system/packages.py"))
        listed = [
            "torch>=2",
            'onnx>=1.17; extra == "export"',
            "pillow>=10.1; extra == 'export'",
            "x; extra == 'exports'",
        ]
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: listed)
    try:
        hint = packages.install_hint("export")
        assert hint.startswith("pip install 'onnx>=1.17' ")
        assert hint.endswith("'pillow>=10.1' (the extra netbuild[export])")
        assert packages.install_hint("no-such", ["a>1"]) == "pip install 'a>1' (the extra netbuild[no-such])"
        monkeypatch.setitem(sys.modules, "cv2", None)
        monkeypatch.setitem(sys.modules, "timm", None)
        for call, extra in ((packages.cv2, "train"), (lambda: packages.package("timm"), "timm")):
            with pytest.raises(MissingExtraError) as caught:
                call()
            assert f"netbuild[{extra}]" in caught.value.hint
    finally:
        packages.list_packages.cache_clear()


FILE = """
nc: 3
scales: {n: [0.5, 0.25, 1024]}
params: {ratio: 4}
blocks:
  Squeeze:
    params: [{r: ratio}]
    rows:
      - [-1, 1, nn.AdaptiveAvgPool2d, [1]]
      - [-1, 1, nn.Conv2d, [c1, c1 // r, 1]]
      - [-1, 1, nn.Conv2d, [c1 // r, c1, 1]]
      - [[input, -1], 1, Multiply, []]
  Wide:
    params: [c2, {k: 3}]
    rows:
      - [-1, 1, Conv, [c2, k]]
      - [-1, 1, Squeeze, [2]]
backbone:
  - [-1, 1, Wide, [64]]
head:
  - [-1, 1, Classify, [nc]]
"""


def test_blocks_of_a_file_are_explained(cli, tmp_path):
    path = tmp_path / "net.yaml"
    path.write_text(FILE, encoding="utf-8")
    squeeze = json.loads(cli("explain", "Squeeze", "--file", path, "--json").out)
    assert squeeze["signature"] == "Squeeze(r=4)"
    assert squeeze["sample"]["params"] == 64 * 16 + 16 + 16 * 64 + 64
    assert squeeze["path"] == f"{path}:6:3"
    wide = cli("explain", "Wide", "--file", path)  # without the file's scales: 64 channels stay 64
    assert wide.code == 0
    assert "Wide(c2, k=3)" in wide.out
    assert f"{64 * 64 * 9 + 128 + 64 * 32 + 32 + 32 * 64 + 64:,} parameters" in wide.out
    assert cli("explain", "Conv", "--file", path).out == cli("explain", "Conv").out
    assert "did you mean 'Squeeze'?" in cli("explain", "Squeez", "--file", path).err
    assert "unknown module 'Squeeze'" in cli("explain", "Squeeze").err
