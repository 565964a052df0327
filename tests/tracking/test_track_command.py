"""netbuild track: a network on videos and folders of frames, files of detections, counts, what is saved, mistakes."""

import json

import numpy as np
import pytest
import torch
from helpers.crowd import disturb, make_crowd, to_text
from helpers.small_networks import TINY
from PIL import Image

import netbuild
from netbuild.data.shapes import write_video
from netbuild.errors import NetbuildError
from netbuild.tracking.counting import parse_marks
from netbuild.weights.checkpoint import save

# Whatever an untrained network finds in frames that are all alike gets a number at once.
ALL = ("--tracker", "sort", "-O", "confidence=0", "-O", "start=0", "-O", "hits=1", "--conf", "0", "--max-det", "4")
SETTINGS = {"confidence": 0.0, "start": 0.0, "hits": 1}
# MOTA, IDF1, HOTA of the package trackers 2.6.1 with its default settings on crowd 0, measured by TrackEval 1.3.0.
PEER = {"sort": (0.923, 0.895, 0.781), "bytetrack": (0.922, 0.945, 0.819), "ocsort": (0.745, 0.787, 0.638)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def network(here):
    (here / "tiny.yaml").write_text(TINY)
    torch.manual_seed(0)
    save(netbuild.build(here / "tiny.yaml"), here / "tiny.safetensors")
    frame = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    (here / "cam").mkdir()
    for number in range(1, 7):
        Image.fromarray(frame).save(here / "cam" / f"{number}.png")
    return "tiny.safetensors"


def test_a_network_and_frames(cli, network, here):
    done = cli(
        "track", network, "cam", *ALL, "--save", "video,mot,json", "--line", "0,0,9,9", "--zone", "0,0,80,0,80,48,0,48"
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("cam frame 1 48x80: ")
    assert lines[-1].startswith("cam: 6 frames, 4 tracks (")
    assert lines[-1].endswith("line 1: 0 forward, 0 backward; zone 1: 4 inside, 4 in all")
    document = json.loads((here / "runs/track/results.json").read_text())
    assert document["videos"][0] | {"lines": 0} == {
        "path": "cam", "name": "cam", "frames": 6, "tracks": 4, "lines": 0,
        "zones": [{"zone": [0, 0, 80, 0, 80, 48, 0, 48], "inside": 4, "entered": 4}],
    }  # fmt: skip
    assert [{r["id"] for r in frame["records"]} for frame in document["frames"]] == [{1, 2, 3, 4}] * 6
    rows = (here / "runs/track/cam.txt").read_text().splitlines()
    assert len(rows) == 24
    assert rows[0].count(",") == 9
    assert (here / "runs/track/cam.mp4").stat().st_size > 0
    (here / "gt.txt").write_text("".join(f"{row.rsplit(',', 4)[0]},1,-1,-1,-1\n" for row in rows))
    done = cli("track", network, "cam/*.png", *ALL, "--truth", "gt.txt", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["measures"]["overall"]["HOTA"] == pytest.approx(1)
    assert [path.name for path in (here / "runs").iterdir()] == ["track"]


def test_from_python(network, here):
    write_video(here / "clip.mp4", 5, size=(64, 64))
    options = {"tracker": "sort", "settings": SETTINGS, "conf": 0.0, "max_det": 3, "lines": [(0, 0, 9, 9)]}
    found = list(netbuild.track(network, ["clip.mp4", "cam"], **options))
    assert [result.frame for result in found] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6]
    assert found[4].tracks is found[0].tracks is not found[5].tracks
    assert sorted(found[-1].trails) == [1, 2, 3] == sorted(found[-1].boxes.id)
    assert [len(found[i].trails[1]) for i in (5, 6, 10)] == [1, 2, 6]
    assert found[-1].plot().shape[0] > 48  # the counts stand under the picture
    arrays = [np.asarray(found[-1].image)] * 3
    assert [result.frame for result in netbuild.track(network, arrays, **options)] == [1, 2, 3]
    assert next(netbuild.track(network, "cam", tracker="sort")).records == []  # an untrained network is not sure
    with pytest.raises(NetbuildError, match="the task 'classify' has no boxes to track"):
        netbuild.track("lenet5.yaml", "cam")


@pytest.mark.parametrize("name", PEER)
def test_a_crowd_is_followed_about_as_well_as_by_the_peer(name, cli, here):
    truth, found = make_crowd(0)
    (here / "det.txt").write_text(to_text(found))
    (here / "gt.txt").write_text(to_text(truth))
    done = cli(
        "track",
        "--detections",
        "det.txt",
        "--truth",
        "gt.txt",
        "--tracker",
        name,
        "--json",
        "-o",
        "out",
        "--save",
        "mot",
    )
    assert done.code == 0, done.err
    overall = json.loads(done.out)["measures"]["overall"]
    assert [overall[key] for key in ("MOTA", "IDF1", "HOTA")] == pytest.approx(PEER[name], abs=0.15)
    saved = next((here / "out").iterdir())
    again = cli("track", "--tracks", saved, "--truth", "gt.txt", "--json")
    assert json.loads(again.out)["overall"] == pytest.approx(overall, abs=1e-3)


def test_several_sequences(cli, here):
    for name in ("A", "B"):
        truth, found = make_crowd(ord(name), 30, 4)
        (here / name).mkdir()
        for file, rows in (("det", found), ("gt", truth), ("other", disturb(truth))):
            (here / name / f"{file}.txt").write_text(to_text(rows))
        (here / name / "seqinfo.ini").write_text("[Sequence]\nseqLength=40\n")
    done = cli("track", "--detections", "*/det.txt", "--truth", "*/gt.txt", "-o", "out")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("A/det.txt: 40 frames, ")
    assert [line.split()[0] for line in lines[2:]] == ["sequence", "A", "B", "all"]
    assert sorted(path.name for path in (here / "out").iterdir()) == ["A.txt", "B.txt"]
    done = cli("track", "--tracks", "*/other.txt", "--truth", "*/gt.txt")
    assert [line.split()[0] for line in done.out.splitlines()] == ["sequence", "A", "B", "all"]


def test_counts_over_lines_and_in_zones():
    marks = parse_marks(["0,0,0,10"], [(4, 0, 8, 0, 8, 8, 4, 8)])
    ways = [{1: (5.0, 5.0), 2: (-5.0, 5.0), 3: (3.0, 20.0)}, {1: (-5.0, 5.0), 2: (5.0, 6.0), 3: (-3.0, 20.0)}]
    marks = marks.update({}, ways[0]).update(ways[0], ways[1])
    # Seen from the upper end to the lower one, the left of the picture is to the right.
    assert marks.texts() == ["line 1: 1 forward, 1 backward", "zone 1: 1 inside, 2 in all"]
    assert marks.lines[0].update({1: (5.0, 5.0)}, {1: (-5.0, 5.0)}).forward == 2
    assert marks.update(ways[1], ways[0]).to_dict()["lines"][0] == {"line": [0, 0, 0, 10], "forward": 2, "backward": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "track needs a network and a source\nhint: netbuild track best.safetensors clip.mp4"),
        (("tiny.yaml",), "track needs a source"),
        (("tiny.yaml", "a.png"), "a.png: a picture is no video\nhint: name a video, or a folder"),
        (("tiny.yaml", "none.mp4"), "there is no picture, folder or video 'none.mp4'"),
        (("tiny.yaml", "a.png", "--detections", "det.txt"), "--detections needs no network, but there is 'tiny.yaml'"),
        (("--detections", "none.txt"), "--detections none.txt: there is no such file"),
        (("--detections", "*.none"), "'*.none' matches no file"),
        (("--detections", "det.txt", "--tracks", "det.txt"), "exclude each other"),
        (("--detections", "det.txt", "--conf", "0.5"), "--conf has no effect with --detections"),
        (("--detections", "det.txt", "--save", "video"), "a file of detections has no pictures"),
        (("--detections", "det.txt", "--save", "vidoe"), "unknown kind 'vidoe'\nhint: did you mean 'video'?"),
        (("--detections", "det.txt", "--line", "1,2,3"), "--line 1,2,3: 3 numbers\nhint: write --line x1,y1,x2,y2"),
        (("--detections", "det.txt", "--line", "1,2,1,2"), "both ends are the same"),
        (("--detections", "det.txt", "--zone", "1,2,3,x"), "not numbers separated by commas"),
        (("--detections", "det.txt", "--tracker", "bytetrak"), "no tracker 'bytetrak'"),
        (("--tracks", "det.txt"), "--tracks needs the true tracks\nhint: give them as --truth gt.txt"),
        (("--tracks", "det.txt", "--truth", "det.txt", "--tracker", "sort"), "--tracker has no effect with --tracks"),
        (("--tracks", "det.txt", "--truth", "zero.txt"), "zero.txt: has no row that counts"),
    ],
)
def test_mistakes(words, message, cli, here):
    (here / "tiny.yaml").write_text(TINY)
    (here / "det.txt").write_text("1,1,0,0,9,9,0.9\n")
    (here / "zero.txt").write_text("1,1,0,0,9,9,0\n")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(here / "a.png")
    done = cli("track", *words)
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (here / "runs").exists()


def test_settings_are_printed(cli):
    assert "start: 0.7  # least confidence of a box that starts a track" in cli("track", "--print-config").out
    assert cli("track", "--print-config", "--tracker", "sort").out.startswith("tracker: sort\n")


def test_a_broken_video_is_exit_code_1(cli, network, here):
    (here / "cam" / "4.png").write_bytes(b"none")
    done = cli("track", network, "cam", *ALL)
    assert done.code == 1
    assert "4.png" in done.err
    assert "cam: 3 frames, 4 tracks" in done.out
