"""One thing followed by a siamese network: the command, from Python, success and precision against the truth."""

import json
from pathlib import Path

import numpy as np
import pytest

import netbuild
from netbuild.data.shapes import write_video
from netbuild.tracking.following import parse_box
from netbuild.tracking.mot_files import TrackRows, read_rows
from netbuild.tracking.success_metric import OVERLAPS, measure_success

NETWORK = """
inputs: {exemplar: [3, 31, 31], search: [3, 63, 63]}
task: track
layers:
  - [exemplar, 1, nn.AvgPool2d, [3, 2]]
  - [search, 1, nn.AvgPool2d, [3, 2]]
  - [[0, 1], 1, CrossCorrelation, []]
  - [-1, 1, ScoreScale, []]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(NETWORK)
    write_video("clip", 6, 1, (160, 120))
    return tmp_path


def first_box():
    """The largest object of the first frame, as left, top, width, height."""
    rows = read_rows(Path("clip/gt/gt.txt"))
    boxes = rows.boxes[rows.frames == 1]
    left, top, right, bottom = boxes[((boxes[:, 2:] - boxes[:, :2]).prod(1)).argmax()].tolist()
    return left, top, right - left, bottom - top


def test_the_command_follows_measures_and_saves(cli, here):
    box = ",".join(f"{value:.2f}" for value in first_box())
    flags = ("--box", box, "--truth", "clip/gt/gt.txt", "-O", "scales=1", "--line", "0,60,160,60")
    done = cli("track", "net.yaml", "clip/img1", *flags, "--save", "mot,json", "-o", "out")
    assert done.code == 0, done.err
    assert "precision-20px" in done.out
    assert {path.name for path in (here / "out").iterdir()} == {
        "clip.txt",
        "results.json",
        "success.png",
        "precision.png",
    }
    rows = read_rows(here / "out/clip.txt")
    assert (rows.frames.tolist(), set(rows.ids.tolist())) == ([1, 2, 3, 4, 5, 6], {1})
    document = json.loads((here / "out/results.json").read_text())
    assert (document["task"], len(document["frames"])) == ("track", 6)
    assert document["box"] == pytest.approx([float(value) for value in box.split(",")])
    assert 0 <= document["measures"]["success"] <= 1
    again = json.loads(cli("track", "net.yaml", "clip/img1", *flags, "--json").out)
    assert again["measures"] == document["measures"]


def test_from_python_each_frame_has_one_box_and_can_be_drawn(here):
    frames = list(netbuild.track("net.yaml", "clip/img1", box=first_box(), settings={"window": 0.3}))
    assert [frame.frame for frame in frames] == [1, 2, 3, 4, 5, 6]
    x, y, w, h = first_box()
    assert frames[0].records[0]["box"] == pytest.approx([x, y, x + w, y + h])
    assert all(len(frame.records) == 1 and frame.plot().shape == (120, 160, 3) for frame in frames)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("clip/img1", "--box", "1,2,3"), "is not x,y,width,height"),
        (("clip/img1", "--box", "1,2,0,9"), "is not x,y,width,height"),
        (("clip/img1", "--box", "500,2,9,9"), "lies outside of the first frame, which has 160 x 120 pixels"),
        (("clip/img1", "--box", "9,9,9,9", "--tracker", "sort"), "--tracker has no effect with --box"),
        (("clip/img1", "--box", "9,9,9,9", "--conf", "0.5"), "--conf has no effect with --box"),
        (("clip/img1", "--box", "9,9,9,9", "-O", "scale=3"), "following has no setting 'scale'"),
        (("clip/img1", "--box", "9,9,9,9", "-O", "damping=3"), "damping"),
        (("clip/img1", "--box", "1,1,3,3", "--truth", "far.txt"), "no true object overlaps the box in frame 1"),
        (("clip/img1", "clip/img1", "--box", "9,9,9,9"), "one video, there are 2"),
        (("clip/img1",), "netbuild track NETWORK VIDEO --box"),
    ],
)
def test_wrong_flags(cli, here, words, message):
    (here / "far.txt").write_text("1,1,100,100,9,9,1,1,1\n2,1,100,100,9,9,1,1,1\n")
    done = cli("track", "net.yaml", *words, "-o", "out")
    assert (done.code, message in done.err) == (2, True), done.err
    assert "Traceback" not in done.err


def test_other_networks_do_not_follow(cli, here):
    done = cli("track", "yolo11n.yaml", "clip/img1", "--box", "9,9,9,9")
    assert (done.code, "a box is followed by a network for 'track', this one's task is 'detect'" in done.err) == (
        2,
        True,
    )
    (here / "net.onnx").write_bytes(b"")
    done = cli("track", "net.onnx", "clip/img1", "--box", "9,9,9,9")
    assert (done.code, "exported files with two inputs cannot be followed with" in done.err) == (2, True), done.err


def make_rows(frames, ids, boxes):
    count = len(frames)
    return TrackRows(np.array(frames), np.array(ids), np.array(boxes, float), np.ones(count), np.ones(count, int))


def test_success_is_of_the_object_that_the_box_meets():
    places = [[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10], [52, 50, 62, 60], [80, 50, 90, 60]]
    truth = make_rows([1, 1, 2, 2, 3], [5, 6, 5, 6, 6], places)
    found = make_rows([1, 2, 3], [1, 1, 1], [[51, 50, 61, 60], [52, 50, 62, 60], [52, 50, 62, 60]])
    report = measure_success(truth, found)
    assert report.overlaps.tolist() == [1, 0]
    assert report.distances.tolist() == [0, 28]
    assert report.success_curve().tolist() == [0.5] * (len(OVERLAPS) - 1) + [0]
    measures = report.measures()
    assert measures == pytest.approx({"success": 0.5 * 20 / 21, "mean-IoU": 0.5, "precision-20px": 0.5})
    assert report.precision_curve()[[0, 27, 28]].tolist() == [0.5, 0.5, 1]
    missing = measure_success(truth, make_rows([1, 3], [1, 1], [[51, 50, 61, 60], [80, 50, 90, 60]]))
    assert missing.overlaps.tolist() == [0, 1]  # frame 2 was not found
    assert np.isinf(missing.distances[0])


def test_a_box_is_four_numbers():
    assert parse_box("1,2.5,30,40") == (1, 2.5, 30, 40)
    for text in ("", "1,2,3,4,5", "a,2,3,4", "1,2,inf,4", "1,2,-3,4"):
        with pytest.raises(netbuild.NetbuildError):
            parse_box(text)
