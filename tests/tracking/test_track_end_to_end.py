"""From nothing to tracks: a small detector learns the embedded scenes and follows the objects of an embedded video."""

import json

import pytest

# Shapes are simple, but they hide each other: one map of cells of 8 pixels.
NETWORK = """
task: detect
nc: 7
imgsz: 96
backbone:
  - [-1, 1, Conv, [24, 3, 2]]
  - [-1, 1, Conv, [48, 3, 2]]
  - [-1, 1, C2f, [48, True]]
  - [-1, 1, Conv, [96, 3, 2]]
  - [-1, 2, C2f, [96, True]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, C2f, [128, True]]
  - [-1, 1, SPPF, [128, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C2f, [96]]
  - [[10], 1, Detect, [nc]]
"""
QUICK = ("--device", "cpu", "-O", "workers=0", "-O", "plots=false", "-O", "mosaic=0.0", "-O", "optimizer=adamw")


@pytest.mark.slow  # nine minutes of one core
def test_a_small_detector_follows_an_embedded_video(cli, tmp_path, monkeypatch):
    """Most of the training is done on small pictures, which takes half as long; hidden objects need the large ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(NETWORK)
    steps = (
        ("--imgsz", 96, "--epochs", 40, "-O", "lr=0.003", "-o", "small"),
        ("--imgsz", 160, "--epochs", 9, "-O", "lr=0.002", "-O", "warmup=0.3", "-o", "large",
         "--weights", "small/best.safetensors"),
    )  # fmt: skip
    for step in steps:
        done = cli("train", "small.yaml", "--data", "shapes", *QUICK, *step)
        assert done.code == 0, done.err
    assert cli("data", "video", "clip", "--frames", 50, "--seed", 1).code == 0
    settings = ("--imgsz", "240x320", "--conf", 0.05, "-O", "high=0.3", "-O", "start=0.4", "-O", "low=0.05")
    done = cli("track", "large/best.safetensors", "clip/img1", "--truth", "clip/gt/gt.txt", *settings, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["measures"]["overall"]["HOTA"] > 0.7
