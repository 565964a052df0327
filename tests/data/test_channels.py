"""Channels of pictures: pages of a TIFF are read as bands, and pictures without the network's channels are refused."""

import numpy as np
import pytest
from helpers.small_networks import TINY
from PIL import Image

from netbuild.data import open_data, scan
from netbuild.data.images import UnreadableImageError, inspect_image, read_image


def bands(path, count, mode="uint8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64)).astype(mode)
    first, *more = [Image.fromarray(page) for page in pixels]
    first.save(path, save_all=True, append_images=more)
    return pixels


@pytest.mark.parametrize("count", [2, 3, 4, 10])
@pytest.mark.parametrize("mode", ["uint8", "uint16"])
def test_pages_are_read_as_bands(tmp_path, count, mode):
    pixels = bands(tmp_path / "a.tif", count, mode)
    expected = pixels if mode == "uint8" else np.rint(pixels / 257)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", count), expected.transpose(1, 2, 0))
    facts = inspect_image((tmp_path / "a.tif").read_bytes(), "a.tif")
    assert (facts.channels, facts.pages) == (1, count)
    with pytest.raises(UnreadableImageError, match="not 7"):
        read_image(tmp_path / "a.tif", 7)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def make(kind, more=""):
        for split in ("train", "val"):
            (tmp_path / f"labels/{split}").mkdir(parents=True)
            (tmp_path / f"labels/{split}/a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
            if isinstance(kind, int):
                bands(tmp_path / f"images/{split}/a.tif", kind)
            else:
                (tmp_path / f"images/{split}").mkdir(parents=True)
                Image.new(kind, (64, 64), 0).save(tmp_path / f"images/{split}/a.png")
        text = f"train: images/train\nval: images/val\nnames: [a, b, c]\n{more}"
        (tmp_path / "data.yaml").write_text(text)
        (tmp_path / "net.yaml").write_text(TINY)
        return tmp_path / "data.yaml"

    return make


@pytest.mark.parametrize(
    ("kind", "ch", "fits"),
    [("RGB", 4, False), ("L", 4, False), (10, 4, False), ("RGB", 10, False), ("L", 3, True), ("RGB", 1, True)]
    + [("RGBA", 4, True), ("RGBA", 3, True), (4, 4, True), (10, 10, True)],
)
def test_pictures_without_the_networks_channels_are_an_error_before_work(data, kind, ch, fits):
    (sample,) = scan(open_data(data(kind))).samples("train")
    assert sample.has_channels(ch) == fits
    if fits:
        assert sample.image(ch).shape == (64, 64, ch)


@pytest.mark.parametrize(("more", "words"), [("", "1 of 1 pictures"), ("channels: 3\n", "states 3 channels")])
def test_training_says_which_channels_are_there(cli, data, more, words):
    (net := data("RGB", more).with_name("net.yaml")).write_text(f"ch: 4\n{TINY}")
    flags = ("--epochs", 1, "--device", "cpu", "-O", "workers=0", "-o", "run")
    done = cli("train", "net.yaml", "--data", net.with_name("data.yaml"), *flags)
    assert (done.code, words in done.err, "epoch 1/1" in done.err) == (2, True, False), done.err
