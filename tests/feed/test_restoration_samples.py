"""Degraded pictures: bicubic resizing as papers have it, noise, blur, JPEG, masks; and patches of both pictures."""

from math import ceil, floor

import numpy as np
import pytest
from PIL import Image

from netbuild import runtime
from netbuild.data.dataset import Sample
from netbuild.errors import NetbuildError
from netbuild.feed.degrading import Degrader
from netbuild.feed.loader import BatchLoader
from netbuild.feed.restoration import RestorationSamples, choose_patch, collate_pictures
from netbuild.grammar.degrade import check_degrade
from netbuild.settings import Settings


def resize_plainly(values, count):
    """The first axis resized pixel by pixel, as the documentation of MATLAB's imresize describes it."""

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    length, scale = len(values), count / len(values)
    stretch = min(scale, 1.0)
    out = []
    for i in range(1, count + 1):
        centre = i / scale + 0.5 * (1 - 1 / scale)
        first = floor(centre - 2 / stretch)
        places = range(first, first + ceil(4 / stretch) + 2)
        weights = [stretch * kernel(stretch * (centre - place)) for place in places]
        mirrored = [*range(length), *reversed(range(length))]
        sums = sum(w * values[mirrored[(place - 1) % (2 * length)]] for w, place in zip(weights, places, strict=True))
        out.append(sums / sum(weights))
    return np.array(out)


@pytest.mark.parametrize("size", [(4, 5), (6, 4), (3, 10), (24, 30), (36, 45), (12, 15), (1, 1)])
def test_bicubic_resizing_equals_a_plain_one(size):
    values = np.random.default_rng(0).uniform(0, 255, (12, 15))
    expected = resize_plainly(resize_plainly(values, size[0]).T, size[1]).T
    np.testing.assert_allclose(runtime.resize_bicubic(values, *size), expected, atol=1e-9)


def test_bicubic_resizing_gives_recorded_numbers():
    row = np.array([[10.0, 50, 90, 200, 30, 120, 250, 0, 60]])
    small, large = (runtime.resize_bicubic(row, 1, count)[0] for count in (3, 18))
    np.testing.assert_allclose(small, [55.18518519, 128.14814815, 86.66666667], atol=1e-7)
    np.testing.assert_allclose(large[:5], [6.25, 17.1875, 39.0625, 58.359375, 75.078125], atol=1e-9)


def test_luminance_is_that_of_bt_601():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [12, 200, 99]]], np.uint8)
    assert runtime.to_luminance(colours).tolist() == [[16, 235, 81, 145, 41, 130]]
    assert np.abs(runtime.to_rgb(runtime.to_ycbcr(colours)).astype(int) - colours).max() <= 1


def degrade(text, picture, seed=0):
    degrader = Degrader(check_degrade(text))
    return degrader.apply_random(degrader.apply_fixed(picture), np.random.default_rng(seed))


def test_each_degradation_does_what_it_says():
    grey = np.full((60, 90, 1), 100, np.float32)
    picture = np.random.default_rng(1).uniform(0, 255, (60, 90, 3)).astype(np.float32)
    assert degrade([{"downscale": 3}], picture).shape == (20, 30, 3)
    blocks = degrade([{"downscale": {"factor": 3, "method": "area"}}], picture)
    np.testing.assert_allclose(blocks[4, 5], picture[12:15, 15:18].mean((0, 1)), rtol=1e-5)
    near = degrade([{"downscale": {"factor": 3, "method": "nearest"}}], picture)
    np.testing.assert_array_equal(near[4, 5], picture[13, 16])
    assert degrade([{"noise": 25}], grey).std() == pytest.approx(25, rel=0.05)
    assert degrade([{"noise": {"poisson": 255}}], grey).std() == pytest.approx(10, rel=0.05)
    point = np.zeros((11, 11, 1), np.float32)
    point[5, 5] = 1
    kernel = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    np.testing.assert_allclose(degrade([{"blur": kernel}], point)[4:7, 4:7, 0] * 36, kernel, rtol=1e-5)
    round_blur = degrade([{"blur": {"sigma": 1.0, "size": 5}}], point)[..., 0]
    assert (round_blur > 1e-9).sum() == 25
    assert round_blur[5, 6] / round_blur[5, 5] == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert degrade([{"jpeg": 90}], picture).shape == picture.shape
    worse, better = (np.square(degrade([{"jpeg": q}], picture) - picture).mean() for q in (10, 95))
    assert worse > better > 0
    assert (degrade([{"mask": 0.25}], grey) == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert (degrade([{"mask": {"boxes": 1, "side": 10}}], grey) == 0).sum() == 100


def make_samples(count=3, size=(48, 60)):
    random = np.random.default_rng(2)
    pixels = [random.integers(0, 255, (*size, 3), np.uint8) for _ in range(count)]
    return [Sample(path=f"{i}.png", size=size[::-1], pixels=value) for i, value in enumerate(pixels)]


@pytest.mark.parametrize("steps", [[{"downscale": 3}, {"noise": [0, 50]}], [{"noise": 9}, {"downscale": 3}]])
def test_patches_are_the_same_whatever_the_number_of_workers(steps):
    settings = Settings(flip_lr=0.5, flip_ud=0.5, rot90=0.5)
    entries = check_degrade(steps)
    made = [RestorationSamples(make_samples(), entries, "y", 3, settings, patch=24, patches=2) for _ in range(2)]
    assert len(made[0]) == 6
    loaders = [BatchLoader(samples, 4, collate_pictures, 0, True, n) for samples, n in zip(made, (0, 2), strict=True)]
    batches = [list(loader.epoch(1)) for loader in loaders]
    loaders[1].close()  # or torch waits seconds for each of its processes
    for a, b in zip(*batches, strict=True):
        assert a["images"].shape[1:] == (1, 8, 8)
        assert a["target"].shape[1:] == (1, 24, 24)
        assert (a["images"] == b["images"]).all()
        assert (a["target"] == b["target"]).all()
    # Validation has the same noise in each epoch.
    whole = RestorationSamples(make_samples(), entries, "rgb", 3)
    first, again = (whole.get(1, np.random.default_rng(seed), seed) for seed in (0, 1))
    assert first["images"].shape == (3, 16, 20)
    assert (first["images"] == again["images"]).all()


def test_input_and_truth_are_the_same_part_of_a_picture_and_turned_alike():
    samples = RestorationSamples(
        make_samples(), check_degrade([{"downscale": {"factor": 2, "method": "nearest"}}]), "grey", 2,
        Settings(flip_lr=0.5, flip_ud=0.5, rot90=1.0), patch=16,
    )  # fmt: skip
    for seed in range(8):
        item = samples.get(seed % 3, np.random.default_rng(seed), 0)
        image, truth = item["images"][0], item["target"][0]
        # Each pixel of the input is one of the four pixels of the truth at its place.
        corners = [truth[y::2, x::2] for y in (0, 1) for x in (0, 1)]
        assert any((image == corner).all() for corner in corners)


def test_pairs_are_taken_as_they_are(tmp_path):
    low, high = np.arange(48, dtype=np.uint8).reshape(6, 8), np.arange(192, dtype=np.uint8).reshape(12, 16)
    for name, pixels in (("low", low), ("high", high)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    pair = Sample(tmp_path / "low.png", size=(8, 6), extras={"target": tmp_path / "high.png"})
    item = RestorationSamples([pair], (), "grey", 2).get(0, np.random.default_rng(0), 0)
    np.testing.assert_allclose(item["images"][0] * 255, low, atol=1e-4)
    np.testing.assert_allclose(item["target"][0] * 255, high, atol=1e-4)
    samples = RestorationSamples([pair], (), "grey", 2, Settings(flip_lr=0.0), patch=6)
    patch = samples.get(0, np.random.default_rng(1), 0)
    assert patch["images"].shape == (1, 3, 3)
    assert patch["target"].shape == (1, 6, 6)


def test_the_side_of_patches_fits_pictures_and_network():
    samples = make_samples(size=(50, 70))
    assert choose_patch(samples, None, (192, 192), 3, 3) == 48
    assert choose_patch(samples, None, (30, 30), 4, 4) == 28
    with pytest.raises(NetbuildError, match=r"0\.png: is 50 pixels high or wide, a patch 60"):
        choose_patch(samples, 60, (192, 192), 3, 3)
    with pytest.raises(NetbuildError, match="multiples of 3"):
        choose_patch(samples, 32, (192, 192), 3, 3)
