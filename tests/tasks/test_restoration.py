"""The task of restoration: measures, losses, sizes, tiles, colours, and networks that do not fit the pictures."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.real_data import DATA, needs_data
from torch import nn

import netbuild
from netbuild import runtime
from netbuild.data import open_data
from netbuild.data.dataset import Dataset, Extra
from netbuild.errors import NetbuildError
from netbuild.feed.restoration import RestorationSamples
from netbuild.grammar.degrade import check_degrade
from netbuild.graph.card import NetworkCard
from netbuild.settings import Settings
from netbuild.tasks.losses.restoration import PICTURE_LOSSES, compute_ssim, parse_loss
from netbuild.tasks.restoration_metric import NAMES, RestorationMetric, compare
from netbuild.tasks.restore import RestoreTask, cut_middle, enlarge

DOWN3 = ({"downscale": {"factor": 3}},)


def draw_scene(h, w):
    """A picture (h, w) from 0 to 255 with edges, made without random numbers."""
    y, x = np.mgrid[:h, :w]
    waves = 100 + 60 * np.sin(x / 3.0) * np.cos(y / 5.0) + 40 * ((x // 9 + y // 7) % 2)
    return np.rint(waves).clip(0, 255)


def test_measures_equal_recorded_ones_of_scikit_image():
    # skimage.metrics: peak_signal_noise_ratio, and structural_similarity with gaussian_weights=True, sigma=1.5,
    # use_sample_covariance=False, data_range=255.
    truth = draw_scene(40, 50)
    found = np.rint(truth + 12 * np.sin(np.arange(50) * 1.7) + 5 * np.cos(np.arange(40) * 2.3)[:, None]).clip(0, 255)
    psnr, ssim = compare(found[None], truth[None])
    assert psnr == pytest.approx(28.845744125277292, abs=1e-9)
    assert ssim == pytest.approx(0.900057571014194, abs=1e-9)
    assert compare(truth[None], truth[None]) == (100.0, pytest.approx(1.0))
    assert math.isnan(compare(truth[None, :8], truth[None, :8])[1])


@needs_data
@pytest.mark.parametrize(("scale", "psnr", "ssim"), [(2, 33.66, 0.9299), (3, 30.39, 0.8682), (4, 28.42, 0.8104)])
def test_bicubic_of_set5_is_as_published(scale, psnr, ssim):
    folder = DATA / "restoration/Set5"
    if not folder.is_dir():
        pytest.skip("the real data sets have no restoration/Set5")
    samples = open_data(folder).split("test").samples
    source = RestorationSamples(samples, [{"downscale": {"factor": scale}}], "y", scale)
    metric = RestorationMetric("y", scale)
    for i in range(len(samples)):
        item = source.get(i, np.random.default_rng(0), 0)
        batch = {name: value[None] for name, value in item.items()}
        metric.update(batch["target"], batch)
    measures = metric.result()
    assert round(measures["baseline-PSNR"], 2) == psnr
    assert measures["baseline-SSIM"] == pytest.approx(ssim, abs=1e-3)
    assert measures["PSNR"] == 100


@pytest.mark.parametrize(("space", "scale"), [("y", 2), ("rgb", 2), ("rgb", 1), ("grey", 1)])
def test_borders_and_luminance_as_papers_have_them(space, scale):
    channels = 3 if space == "rgb" else 1
    truth = torch.from_numpy(np.stack([draw_scene(36, 48) + 3 * c for c in range(channels)]).clip(0, 255) / 255).float()
    found, image = truth.clone(), truth[:, ::scale, ::scale]
    found[:, 0] = 0  # an error at the border alone
    metric = RestorationMetric(space, scale)
    metric.update(found[None], {"images": image[None], "target": truth[None]})
    measures = metric.result()
    assert list(measures) == [*NAMES, "fitness"]
    assert (measures["PSNR"] == 100) == (scale > 1)
    assert (measures["baseline-PSNR"] == 100) == (scale == 1)
    parts = [RestorationMetric(space, scale) for _ in range(2)]
    for part, picture in zip(parts, (found, truth), strict=True):
        part.update(picture[None], {"images": image[None], "target": truth[None]})
    merged = RestorationMetric(space, scale)
    merged.merge([part.state() for part in parts], [[1], [0]])
    assert merged.values == [*parts[1].values, *parts[0].values]


def test_the_noise_of_the_baseline_is_not_clipped():
    truth = torch.zeros(1, 1, 64, 64)
    noisy = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)) * 25 / 255
    metric = RestorationMetric("grey", 1)
    metric.update(truth, {"images": noisy, "target": truth})
    assert metric.result()["baseline-PSNR"] == pytest.approx(20.17, abs=0.1)


def test_losses_by_name_with_weights():
    a, b = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    assert parse_loss("0.8*l1 + 0.2 ssim") == {"l1": 0.8, "ssim": 0.2}
    head = nn.Identity()
    task = RestoreTask(head, card=NetworkCard("", ch=1, imgsz=(16, 16), output=(1, 16, 16)), loss="0.8*l1+2*l2")
    total, terms = task.loss(a, {"target": b})
    assert float(total) == pytest.approx(float(0.8 * (a - b).abs().mean() + 2 * (a - b).square().mean()), rel=1e-5)
    assert list(terms) == ["l1", "l2"]
    for name, loss in PICTURE_LOSSES.items():
        same, different = float(loss(a, a)), float(loss(a, b))
        assert (same == pytest.approx(0, abs=2e-3), different > 0.05) == (True, True), name
    assert compute_ssim(a, a).tolist() == pytest.approx([1, 1])
    for text, message in [
        ("l3", "no loss 'l3'"), ("l1+l1", "no sum of different losses"), ("", "no sum"), ("0*l1", "no weight above 0"),
    ]:  # fmt: skip
        with pytest.raises(NetbuildError, match=message):
            parse_loss(text)


@pytest.mark.parametrize(
    ("output", "factor", "found"),
    [
        ((96, 96), 3, (3, 0)),  # the network enlarges
        ((32, 32), 3, (1, 0)),  # it gets enlarged pictures
        ((20, 20), 3, (1, 6)),  # SRCNN as published, without padding
        ((72, 72), 3, (3, 12)),  # ESPCN without padding
        ((32, 32), 1, (1, 0)),
        ((64, 64), 1, (2, 0)),
        ((64, 64), 3, None),
        ((32, 30), 1, None),
        ((31, 31), 1, None),
    ],
)
def test_the_scale_is_found_from_the_sizes(output, factor, found):
    if found is not None:
        assert runtime.find_scale((32, 32), output, factor) == found
        return
    with pytest.raises(ValueError, match="made"):
        runtime.find_scale((32, 32), output, factor)


class Shrinking(nn.Module):
    """SRCNN as published: without padding it loses a border; or with it. Weights are random."""

    def __init__(self, padded, zoom=1):
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Sequential(
            nn.Conv2d(1, 4, 9, padding=4 * padded), nn.ReLU(), nn.Conv2d(4, zoom**2, 5, padding=2 * padded),
            nn.PixelShuffle(zoom),
        )  # fmt: skip

    def forward(self, x):
        return self.rows(x)


def make_task(padded, zoom=1, **changes):
    size = 32 * zoom - (0 if padded else 12 * zoom)
    degrade = ({"downscale": {"factor": zoom}},) if zoom > 1 else ({"noise": {"sigma": 5}},)
    card = NetworkCard("", ch=1, imgsz=(32, 32), output=(1, size, size), degrade=degrade, space="grey")
    return RestoreTask(nn.Identity(), card=replace(card, **changes))


@pytest.mark.parametrize("zoom", [1, 2])
@pytest.mark.parametrize("canvas", [None, (80, 88)])
def test_tiles_give_what_the_whole_picture_gives(zoom, canvas):
    network, images = Shrinking(True, zoom).requires_grad_(False), torch.rand(2, 1, 150, 131)
    expected = network(images)
    task = make_task(True, zoom, canvas=canvas)
    if canvas is None:
        task.options({"tiles": 16})
    torch.testing.assert_close(task.run(network, [images]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("zoom", [1, 2])
def test_networks_without_padding_restore_whole_pictures_and_learn_from_the_middle(zoom):
    network, images = Shrinking(False, zoom).requires_grad_(False), torch.rand(1, 1, 40, 50)
    task = make_task(False, zoom)
    found = task.run(network, [images])
    assert found.shape == (1, 1, 40 * zoom, 50 * zoom)
    lost = 6 * zoom
    torch.testing.assert_close(found[..., lost:-lost, lost:-lost], network(images), atol=1e-6, rtol=0)
    target = torch.rand(1, 1, 40 * zoom, 50 * zoom)
    outputs = network(images)
    loss, _ = task.loss(outputs.detach(), {"target": target})
    assert float(loss) == pytest.approx(float((outputs - cut_middle(target, outputs.shape[-2:])).abs().mean()))
    torch.testing.assert_close(cut_middle(target, outputs.shape[-2:]), target[..., lost:-lost, lost:-lost])


class Halving(nn.Module):
    """A network that works at half the size inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1))

    def forward(self, x):
        return self.rows(x)


@pytest.mark.parametrize("canvas", [None, (60, 72)])
def test_tiles_begin_at_multiples_of_the_stride(canvas):
    network, images = Halving().requires_grad_(False), torch.rand(1, 1, 151, 133)
    whole = make_task(True, stride=2).run(network, [images])
    task = make_task(True, stride=2, canvas=canvas)
    if canvas is None:
        task.options({"tiles": 17})
    assert all(start % 2 == 0 for start, _, _ in task.plan.divide(151, 0))
    torch.testing.assert_close(task.run(network, [images]), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("padded", "zoom"), [(True, 1), (True, 2), (False, 1), (False, 2)])
def test_the_size_of_the_output_follows_that_of_the_image(padded, zoom):
    found = Shrinking(padded, zoom)(torch.rand(1, 1, 40, 52))
    assert make_task(padded, zoom).output_for((40, 52)) == found.shape[1:]


def test_strides_are_kept_and_inputs_enlarged():
    task = make_task(True, stride=8)
    sizes = []

    def network(x):
        sizes.append(tuple(x.shape[-2:]))
        return x

    images = torch.rand(1, 1, 21, 37)
    torch.testing.assert_close(task.run(network, [images]), images)
    assert sizes == [(24, 40)]
    card = NetworkCard("", ch=1, imgsz=(32, 32), output=(1, 32, 32), degrade=DOWN3, space="y")
    (large,) = RestoreTask(nn.Identity(), card=card).inputs({"images": images})
    assert large.shape == (1, 1, 63, 111)
    expected = runtime.resize_bicubic(images[0, 0].numpy().astype(float), 63, 111)
    np.testing.assert_allclose(large[0, 0], expected, atol=1e-5)
    assert enlarge(images, 1) is images


def test_colours_are_those_of_the_picture_enlarged():
    image = np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)
    for space, channel in (("y", runtime.to_ycbcr(image)[..., :1]), ("grey", runtime.convert_space(image, "grey"))):
        same = runtime.join_colours(image, channel.astype(float), space)
        assert np.abs(same.astype(int) - image).max() <= 2
        large = runtime.join_colours(image, runtime.resize_bicubic(channel.astype(float), 16, 18), space)
        assert large.shape == (16, 18, 3)
    grey = runtime.join_colours(None, np.full((4, 4, 1), 77.0), "grey")
    assert (grey == 77).all()


PAIRS3 = Dataset("pairs", Path(), "pairs", "pairs", (), {}, extras={"target": Extra("picture", 3)})
PLAIN = Dataset("folder", Path(), "pictures", "pictures", (), {})


@pytest.mark.parametrize(
    ("file", "dataset", "settings", "message"),
    [
        ("espcn.yaml", PAIRS3, {"degrade": [{"noise": 3}]}, "degrade has no effect on pairs"),
        (
            "espcn.yaml",
            PLAIN,
            {"space": "rgb"},
            "the network takes 1 channels and returns 1, pictures of the space 'rgb'",
        ),
        ("edsr-baseline.yaml", PLAIN, {"space": "y"}, "have 1"),
        ("conv-autoencoder.yaml", PLAIN, {}, "nothing says how pictures are degraded"),
        ("edsr-baseline.yaml", PAIRS3, {}, "its pictures were made 3 times smaller"),
        ("espcn.yaml", PLAIN, {"degrade": [{"noise": 3}]}, "3 times as large, they are made 1 times smaller"),
        ("espcn.yaml", PLAIN, {"degrade": [{"downscale": 2}]}, "its pictures were made 2 times smaller"),
    ],
)
def test_what_does_not_fit_together_is_an_error(file, dataset, settings, message):
    network = netbuild.build(file)
    if "degrade" in settings:
        settings = {**settings, "degrade": check_degrade(settings["degrade"])}

    def prepare():
        card = RestoreTask.adapt_card(network.card, dataset, Settings(**settings))
        RestoreTask(network.head, card=card).check_samples(dataset, [])

    with pytest.raises(NetbuildError) as caught:
        prepare()
    assert message in caught.value.message
    assert caught.value.hint


def test_the_card_gets_what_settings_and_pairs_state():
    card = netbuild.build("dncnn.yaml").card
    settings = Settings(degrade=check_degrade([{"noise": [0, 55]}, {"jpeg": 30}]))
    adapted = RestoreTask.adapt_card(card, PLAIN, settings)
    assert adapted.degrade == ({"noise": {"sigma": [0, 55]}}, {"jpeg": {"quality": 30}})
    assert "degrade: [{noise: {sigma: [0, 55]}}, {jpeg: {quality: 30}}]" in adapted.yaml
    pairs = RestoreTask.adapt_card(card, PAIRS3, Settings())
    assert (pairs.degrade, RestoreTask(nn.Identity(), card=pairs).scale) == (DOWN3, 3)
