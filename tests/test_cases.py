"""Real users' failures as small files, each with the right value."""

import json
from pathlib import Path

import pytest
import torch

from netbuild import Options, load, resolve

CASES = Path(__file__).parent / "cases"

# file, flags -> parameters of the rows, total, output shape of the last row (None: not stated)
BUILT = [
    ("a12-ch-from-yaml", "--imgsz 64", [608], 83_634, None),
    ("a13-nc-precedence", "--imgsz 64", [464, 4672, 147_168], 152_304, [1, 84, 256]),
    ("a13-nc-precedence", "--imgsz 64 --nc 4", None, 83_556, [1, 8, 256]),
    ("a14-scale-by-flag", "--imgsz 64 --scale n", [232, 1184, 1888, 4672, 78_387], 86_363, None),
    ("a14-scale-by-flag", "--imgsz 64", [232, 1184, 1888, 4672, 78_387], 86_363, None),
    ("a14-scale-by-flag", "--imgsz 64 --scale s", None, 183_395, None),
    ("a14-scale-by-flag", "--imgsz 64 --scale m", [928, 18_560, 70_272], 408_403, None),
    ("a15-scale-not-listed", "--imgsz 64", None, 79_315, None),
    (
        "a16-four-heads-p2",
        "",
        [464, 4672, 18_560, 55_488, 29_536, 147_712, 0, 0, 3136, 507_300],
        766_868,
        [1, 9, 34_000],
    ),
    ("a16-four-heads-p2", "--fuse", None, 765_556, None),
    ("a17-no-p5", "", None, 456_170, [1, 9, 8000]),
    ("a17-no-p5", "--fuse", None, 455_258, None),
    ("a17-no-p5", "--imgsz 80x48", None, 456_170, [1, 9, 75]),
    ("a20-resnet-bottleneck-widths", "--imgsz 64", [9536, 215_808, 1_219_584, 394_240, 1_370_452], 3_209_620, None),
    ("a22-none-spellings", "--imgsz 64", None, 64_930, None),
    ("a25-ghost-mix", "--imgsz 64 --scale n", [448, 2768, 7360, 10_144, 9656, 704, 305_052], 336_132, None),
    ("b06-utf8-comments", "--imgsz 64", [464, 4672, 78_354], 83_490, None),
    ("c06-mac-convention", "--imgsz 32", [216, 0], 216, [1, 8, 32, 32]),
    ("d01-export-parity", "--scale n --imgsz 96x160", None, 128_034, [1, 7, 1200]),
    ("d04-adaptive-pool-3", "--imgsz 64", None, 17_306, [1, 10]),
    ("f01-lenet5", "--imgsz 32", [156, 0, 0, 2416, 0, 0, 0, 48_120, 0, 10_164, 0, 850], 61_706, [1, 10]),
    ("f02-alexnet", "--imgsz 224", None, 61_100_840, [1, 1000]),
    ("f06-mnist-cnn", "--imgsz 28", None, 1_199_882, [1, 10]),
    ("yolo11n.yaml", "--fuse", None, 2_616_248, None),
    ("yolo11s.yaml", "", None, 9_458_752, None),
    ("yolo11s.yaml", "--fuse", None, 9_443_760, None),
    ("yolov8n.yaml", "--fuse", None, 3_151_904, None),
    ("yolo12n.yaml", "--fuse", None, 2_590_824, None),
]
FLOPS = [
    ("a25-ghost-mix", "--imgsz 64 --scale n", 32_717_824),
    ("c06-mac-convention", "--imgsz 32", 442_368),
    ("f01-lenet5", "--imgsz 32", 833_040),
    ("f02-alexnet", "--imgsz 224", 1_428_376_960),
    ("f06-mnist-cnn", "--imgsz 28", 23_984_896),
    ("a16-four-heads-p2", "", 7_098_854_400),
    ("a16-four-heads-p2", "--imgsz 320x640", 7_098_854_400 // 2),
    ("yolo11n.yaml", "", 6_542_502_400),
    ("yolo11n.yaml", "--imgsz 1024", 16_994_172_928),
    ("yolo11n.yaml", "--imgsz 320", 1_624_105_600),
    ("yolo11n.yaml", "--imgsz 480x640", 4_895_356_800),
]


def summary(cli, name: str, flags: str) -> dict:
    file = name if name.endswith(".yaml") else CASES / f"{name}.yaml"
    done = cli("summary", file, *flags.split(), "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.parametrize(
    ("name", "flags", "rows", "total", "out"), BUILT, ids=lambda v: v if isinstance(v, str) else ""
)
def test_builds_with_the_right_counts(cli, name, flags, rows, total, out):
    data = summary(cli, name, flags)
    assert data["totals"]["params"] == total
    assert [row["params"] for row in data["rows"]][: len(rows or [])] == (rows or [])
    shape = data["rows"][-1]["out_shape"]
    assert out is None or out in (shape, shape[0])


@pytest.mark.parametrize(("name", "flags", "flops"), FLOPS)
def test_flops_at_the_asked_size(cli, name, flags, flops):
    data = summary(cli, name, flags)
    assert data["totals"]["flops"] == flops == sum(row["flops"] for row in data["rows"])


def test_merging_leaves_the_frozen_weights_the_only_untrainable_ones(cli):
    for flags in ("", "--fuse"):
        totals = summary(cli, "yolo11n.yaml", flags)["totals"]
        assert totals["params"] - totals["gradients"] == 16
    out = cli("summary", "yolo11n.yaml", "--fuse").out
    assert "YOLO11n summary (fused)" in out


def test_merging_of_rows_takes_norms_as_they_are(cli, tmp_path):
    rows = ["nn.Conv2d, [3, 8, 3]", "nn.BatchNorm2d, {affine: false}", "nn.Conv2d, [8, 8, 3]"]
    rows.append("nn.BatchNorm2d, {track_running_stats: false}")  # normalises by its batch: it stays
    (tmp_path / "net.yaml").write_text("layers:\n" + "".join(f"  - [-1, 1, {row}]\n" for row in rows))
    data = summary(cli, str(tmp_path / "net.yaml"), "--imgsz 16 --fuse")
    assert [row["params"] for row in data["rows"]] == [8 * 27 + 8, 0, 8 * 72 + 8, 16]
    net = resolve(load(tmp_path / "net.yaml"), Options(imgsz=(16, 16))).build().eval()
    x = torch.rand(2, 3, 16, 16)
    before = net(x)
    torch.testing.assert_close(net.fuse()(x), before)


def test_strides_and_head_inputs_of_four_heads(cli):
    row = summary(cli, "a16-four-heads-p2", "")["rows"][-1]
    assert row["stride"] == [4, 8, 16, 32]
    assert row["in_shapes"] == [[1, 32, 160, 160], [1, 64, 80, 80], [1, 128, 40, 40], [1, 128, 20, 20]]
    assert "strides [4, 8, 16, 32], 34,000 anchor points" in cli("summary", CASES / "a16-four-heads-p2.yaml").out


def test_all_spellings_of_none_mean_the_same_row(cli):
    rows = summary(cli, "a22-none-spellings", "--imgsz 64")["rows"][1:5]
    assert [row["out_shape"] for row in rows] == [[1, 16, 64, 64]] * 4


def test_a_letter_in_an_existing_file_name_is_no_scale(cli, tmp_path):
    text = (CASES / "a14-scale-by-flag.yaml").read_text()
    for name in ("drone2small.yaml", "exp7m.yaml", "nets.yaml"):
        (tmp_path / name).write_text(text)
        data = json.loads(cli("summary", tmp_path / name, "--imgsz", "64", "--json").out)
        assert (data["scale"], data["scale_from"]) == ("n", "default")
    assert "scale n of n s m (the file's first" in cli("summary", tmp_path / "exp7m.yaml", "--imgsz", "64").out


def test_a_letter_finds_the_file_without_it(cli, tmp_path):
    (tmp_path / "drone7-seg.yaml").write_text((CASES / "a14-scale-by-flag.yaml").read_text())
    data = json.loads(cli("summary", tmp_path / "drone7s-seg.yaml", "--imgsz", "64", "--json").out)
    assert (data["scale"], data["scale_from"], data["totals"]["params"]) == ("s", "name", 183_395)


def test_a_channel_flag_that_disagrees_is_said_aloud(cli):
    done = cli("summary", CASES / "a12-ch-from-yaml.yaml", "--imgsz", "64", "--ch", "3")
    assert done.code == 0
    assert "ch: 4" in done.err
    assert "ch 3 (as requested; the file has 4)" in done.out


def test_small_numbers_are_not_rounded_away_and_the_convention_is_stated(cli):
    out = cli("summary", CASES / "c06-mac-convention.yaml", "--imgsz", "32").out
    assert "0.000442 GFLOPs" in out
    assert "1 MAC = 2 FLOPs" in out


@pytest.mark.parametrize("name", sorted(path.stem for path in CASES.glob("b0[124]*.yaml")))
def test_a_hostile_file_runs_nothing(cli, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("summary", CASES / f"{name}.yaml")
    assert (done.code, done.out) == (2, "")
    assert not list(tmp_path.iterdir())
