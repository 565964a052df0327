"""Following one object: pairs of crops, loss, metric, training from the command line, and a follower."""

import json
import math
import signal

import numpy as np
import pytest
import torch
from helpers.apart import KILLER, run_apart
from safetensors.torch import load_file

import netbuild
from netbuild.data import open_data, scan
from netbuild.data.shapes import files, write_video
from netbuild.feed.search_crops import CropPairSamples, context_side, crop_square
from netbuild.prediction.siamese import FollowOptions, SiameseFollower
from netbuild.settings import Settings
from netbuild.tasks.location_metric import LocationMetric, locate
from netbuild.tasks.track import TrackTask, cell_centres, cell_stride, find_right_places

# As siamfc.yaml, smaller: the search image, a row of zeros and the exemplar go through the same rows together.
NETWORK = """
inputs: {exemplar: [3, 63, 63], search: [3, 127, 127]}
task: track
layers:
  - [exemplar, 1, nn.ZeroPad2d, [[0, 64, 1, 0]]]
  - [[search, -1], 1, Concat, [2]]
  - [-1, 1, nn.Conv2d, {out_channels: 12, kernel_size: 3, stride: 2}]
  - [-1, 1, nn.BatchNorm2d, []]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.Conv2d, {out_channels: 24, kernel_size: 3, stride: 2}]
  - [-1, 1, nn.BatchNorm2d, []]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.Conv2d, {out_channels: 24, kernel_size: 3, stride: 2}, all]
  - [all, 1, nn.ZeroPad2d, [[0, 0, 0, -8]], found]
  - [all, 1, nn.ZeroPad2d, [[0, -8, -16, 0]], wanted]
  - [[wanted, found], 1, CrossCorrelation, []]
  - [-1, 1, ScoreScale, [0.01]]
"""
QUICK = ("--batch", 4, "--device", "cpu", "-Oworkers=0", "-Oplots=false")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos to train on, and one to measure."""
    folder = tmp_path_factory.mktemp("videos")
    for split, seed in (("train", 1), ("train", 2), ("train", 3), ("val", 4)):
        write_video(folder / split / f"v{seed}", 6, seed, (160, 120))
    (folder / "classes.txt").write_text("\n".join(files.CLASSES))
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(NETWORK)
    (tmp_path / "killer.py").write_text(KILLER)
    return tmp_path


@pytest.mark.parametrize("settings", [None, Settings(scale=0.1, translate=0.1, hsv_h=0, hsv_s=0, hsv_v=0)])
def test_the_box_is_where_the_object_is(videos, settings):
    """On black frames, each object's box is painted red; the red in the search image is compared with the box."""
    samples = scan(open_data(videos), splits=["train"]).samples("train")
    source, compared = CropPairSamples(samples, 63, 127, settings=settings), 0
    y, x = torch.meshgrid(torch.arange(127) + 0.5, torch.arange(127) + 0.5, indexing="ij")
    for index in range(0, len(source), 3):
        for chosen, track in enumerate(source.samples[index].tracks.tolist()):
            source.image = lambda i, track=track: paint(source.samples[i], track)
            pair = source.make_pair(index, chosen, np.random.default_rng(index))
            low, high = pair.box[:2] - pair.box[2:] / 2, pair.box[:2] + pair.box[2:] / 2
            if low.min() < 0 or high.max() > 127:
                continue
            red = (pair.search[0] > 127).float()  # outside of the frame is its mean colour
            centre = torch.stack(((red * x).sum(), (red * y).sum())) / red.sum()
            assert (centre - pair.box[:2]).abs().max() < 2.5
            assert float(red.sum()) == pytest.approx(float(pair.box[2:].prod()), rel=0.3)
            assert pair.exemplar[0, 31, 31] == 255
            compared += 1
    assert compared > 10


def paint(sample, track):
    """A black frame with the box of one object in red."""
    w, h = sample.size
    image = np.zeros((h, w, 3), np.uint8)
    for _, cx, cy, bw, bh in sample.boxes[sample.tracks == track]:
        rows, columns = (
            slice(round((c - s / 2) * n), round((c + s / 2) * n)) for c, s, n in ((cy, bh, h), (cx, bw, w))
        )
        image[rows, columns, 0] = 255
    return image


def test_pairs_are_of_two_frames_and_depend_on_the_random_numbers_alone(videos):
    samples = scan(open_data(videos), splits=["train"]).samples("train")
    source = CropPairSamples(samples, 63, 127)
    for index, sample in enumerate(source.samples):
        other, found = source.choose_frame(index, 0, np.random.default_rng(index))
        assert source.samples[other].video == sample.video
        assert source.samples[other].tracks[found] == sample.tracks[0]
    first, again = (source.get(4, np.random.default_rng(7), 0) for _ in range(2))
    assert torch.equal(first.search, again.search)
    assert torch.equal(first.box, again.box)
    single = CropPairSamples([s.only(np.ones(len(s.boxes), bool)) for s in samples], 63, 127)
    for sample in single.samples:
        object.__setattr__(sample, "video", "")
    single = CropPairSamples(single.samples, 63, 127)
    assert single.choose_frame(3, 0, np.random.default_rng(0)) == (3, 0)  # without tracks both are of one picture


def test_crops_have_the_context_of_the_paper_and_the_mean_colour_outside():
    box = np.array([50, 40, 20, 40])
    assert context_side(box) == pytest.approx(math.sqrt((20 + 30) * (40 + 30)))
    image = np.zeros((80, 100, 3), np.uint8)
    image[:, :, 1] = 200
    crop = crop_square(image, np.array([0.0, 0.0]), 40, 20)
    assert (crop[:10, :, 1] == 200).all()  # the mean colour
    whole = crop_square(
        np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8), np.array([30.0, 30.0]), 60, 60
    )
    assert whole.shape == (60, 60, 3)


def test_the_loss_weighs_right_and_wrong_places_alike():
    scores = torch.randn(2, 17, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[127.5, 127.5, 40, 30], [150.0, 110.0, 40, 30]])
    batch = {"images": torch.zeros(2, 3, 255, 255), "box": boxes}
    assert cell_stride(17, 255) == 8
    assert cell_centres(17, 255, 8)[[0, 8, 16]].tolist() == [63.5, 127.5, 191.5]
    wanted = 0.0
    for i, (bx, by, *_) in enumerate(boxes.tolist()):
        right, wrong = [], []
        for row in range(17):
            for column in range(17):
                distance = math.hypot(63.5 + 8 * column - bx, 63.5 + 8 * row - by)
                sign = 1 if distance <= 16 else -1
                (right if sign > 0 else wrong).append(math.log1p(math.exp(-sign * float(scores[i, row, column]))))
        assert len(right) in (12, 13, 14)
        wanted += (sum(right) / len(right) + sum(wrong) / len(wrong)) / 2 / 2
    task = TrackTask(torch.nn.Identity())
    total, terms = task.loss(scores[:, None], batch)
    assert float(total) == pytest.approx(wanted, rel=1e-6)
    assert terms.keys() == {"logistic"}
    assert find_right_places(boxes, scores, (255, 255)).sum((1, 2)).tolist()[0] == 13
    with pytest.raises(netbuild.NetbuildError, match="learns from scores"):
        task.loss(torch.zeros(2, 3, 17, 17), batch)


def test_the_metric_is_of_the_place_of_the_highest_score():
    scores = torch.zeros(3, 17, 17)
    for i, (row, column) in enumerate(((8, 8), (8, 10), (3, 8))):
        scores[i, row, column] = 1
    found = locate(scores, 255)
    assert found.tolist() == [
        pytest.approx(place, abs=0.5) for place in ([127.5, 127.5], [143.5, 127.5], [127.5, 87.5])
    ]
    metric = LocationMetric()
    box = torch.tensor([[127.5, 127.5, 9, 9]] * 3)
    metric.update(scores, {"images": torch.zeros(3, 3, 255, 255), "box": box})
    result = metric.result()
    assert result["precision-20px"] == pytest.approx(2 / 3)
    assert result["center-error"] == pytest.approx((0 + 16 + 40) / 3, abs=0.5)
    assert metric.curve()[15:18] == [pytest.approx(1 / 3), pytest.approx(2 / 3, abs=0.34), pytest.approx(2 / 3)]


def correlate(exemplars, search):
    """A network that compares pixels: minus their mean squared difference, at every eighth place."""
    side, count = exemplars.shape[-1], (search.shape[-1] - exemplars.shape[-1]) // 8 + 1
    patches = search.unfold(2, side, 8).unfold(3, side, 8)[:, :, :count, :count]
    return -100 * (patches - exemplars[:, :, None, None]).square().mean((1, 4, 5))[:, None]


@pytest.mark.parametrize("scales", [1, 3])
def test_a_follower_stays_on_a_moving_object(scales):
    ground = np.random.default_rng(3).integers(0, 60, (180, 240, 3), np.uint8)

    def frame(t):
        image = ground.copy()
        x, y = place(t)
        image[y : y + 30, x : x + 30] = (250, 220, 90)
        return image

    def place(t):
        return 40 + 5 * t, 60 + round(20 * math.sin(t / 4))

    follower = SiameseFollower(correlate, 63, 127, frame(0), (*place(0), 30, 30), FollowOptions(scales=scales))
    for t in range(1, 25):
        box, score = follower.update(frame(t))
        assert 0 <= score <= 1
        assert math.dist((box[0] + box[2] / 2, box[1] + box[3] / 2), (place(t)[0] + 15, place(t)[1] + 15)) < 9
        assert 15 < box[2] < 60


def test_train_val_and_refusals(cli, here, videos):
    done = cli("train", "net.yaml", "--data", videos, "--epochs", 2, "-o", "run", *QUICK[:-1])
    assert done.code == 0, done.err
    assert "pairs of crops are cut from 18 of 18 pictures, 3 videos" in done.err
    assert "left out" not in done.err
    assert "netbuild track run/best.safetensors VIDEO --box x,y,width,height" in done.out + done.err
    assert {path.name for path in (here / "run").glob("*.png")} >= {"precision.png", "train_batch0.png", "losses.png"}
    done = cli("val", "run/best.safetensors", "--data", videos, "--device", "cpu", "-Oworkers=0", "--json")
    assert 0 <= json.loads(done.out)["measures"]["precision-20px"] <= 1
    assert cli("export", "run/best.safetensors", "-o", "net.onnx").code == 0
    for words, message in {
        ("--imgsz", "64"): "the spatial sizes of its sources differ",
        ("-Omosaic=0.5",): "mosaic has no effect",
        ("--data", "digits"): "digits is a data set for 'classify'",
    }.items():
        done = cli("train", "net.yaml", "--data", videos, "--epochs", 1, "-o", "no", *QUICK, *words)
        assert (done.code, message in done.err) == (2, True), done.err
    (here / "one.yaml").write_text("task: track\nlayers:\n  - [-1, 1, nn.Conv2d, [3, 1, 3]]\n")
    done = cli("train", "one.yaml", "--data", videos, "--epochs", 1, "-o", "no", *QUICK)
    assert (done.code, "needs an exemplar and a larger search image" in done.err) == (2, True), done.err
    assert not (here / "no").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_two_processes_are_as_one(cli, here, videos):
    flags = ("--data", videos, "--epochs", 3, *QUICK)
    assert cli("train", "net.yaml", *flags, "-o", "whole").code == 0
    done = run_apart("train", "net.yaml", *flags, "-o", "killed", "--callbacks", "killer.py")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert cli("train", "--resume", "killed").code == 0
    found, expected = (load_file(here / folder / "last.safetensors") for folder in ("killed", "whole"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    done = run_apart("train", "net.yaml", *flags, "-o", "two", "--nproc", 2)
    assert done.returncode == 0, done.stderr
    assert netbuild.build(here / "two/last.safetensors") is not None


@pytest.mark.slow
def test_a_small_network_learns_to_find_objects(cli, here):
    done = cli("train", "net.yaml", "--epochs", 12, "-o", "run", "--device", "cpu", "-Oplots=false")
    assert done.code == 0, done.err
    done = cli("val", "run/best.safetensors", "--device", "cpu", "--data", "shapes-video", "--json")
    assert json.loads(done.out)["measures"]["precision-20px"] > 0.6
