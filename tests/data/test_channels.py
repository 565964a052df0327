"""Channels of pictures: pages of a TIFF are read as bands, and pictures without the network's channels are refused."""

import struct
import zlib

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


def write_bands(path, pixels, planar=False, order="<", tile=0, pack=False, predictor=False):
    """Write pixels (H, W, C) as a TIFF of one page."""
    (h, w, c), kind = pixels.shape, np.dtype(pixels.dtype).newbyteorder(order)
    step = tile or h
    parts = []
    for plane in [pixels[..., i : i + 1] for i in range(c)] if planar else [pixels]:
        for y in range(0, h, step):
            for x in range(0, w, tile or w):
                part = plane[y : y + step, x : x + (tile or w)]
                if tile:
                    part = np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)))
                if predictor:
                    part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
                block = part.astype(kind).tobytes()
                parts.append(zlib.compress(block) if pack else block)
    places, lengths = (324, 325) if tile else (273, 279)
    fields = {
        256: [w], 257: [h], 258: [8 * kind.itemsize] * c, 259: [8 if pack else 1], 262: [1], 277: [c], 278: [h],
        284: [1 + planar], 317: [1 + predictor], places: [0] * len(parts), lengths: [len(part) for part in parts],
    } | ({322: [tile], 323: [tile]} if tile else {})  # fmt: skip
    start = 10 + 12 * len(fields) + 4
    blob = start + sum(4 * len(values) for values in fields.values() if len(values) > 1)
    fields[places] = [blob + sum(map(len, parts[:i])) for i in range(len(parts))]
    entries, more = b"", b""
    for tag, values in sorted(fields.items()):
        raw = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            raw, more = struct.pack(f"{order}I", start + len(more)), more + raw
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + raw
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields))
    path.write_bytes(head + entries + bytes(4) + more + b"".join(parts))


@pytest.mark.parametrize(
    "form",
    [{}, {"planar": True}, {"order": ">"}, {"tile": 16}, {"tile": 32, "planar": True, "pack": True, "predictor": True}],
    ids=str,
)
@pytest.mark.parametrize(("count", "kind"), [(5, "uint8"), (6, "uint16")])
def test_more_than_four_bands_of_one_page_are_read(tmp_path, form, count, kind):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (30, 41, count), dtype=kind)
    write_bands(tmp_path / "a.tif", pixels, **form)
    expected = pixels if kind == "uint8" else np.rint(pixels / 257)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", count), expected)
    data = (tmp_path / "a.tif").read_bytes()
    facts = inspect_image(data, "a.tif")
    assert (facts.size, facts.channels, facts.fault) == ((41, 30), count, "")
    assert "cut off" in inspect_image(data[:-1], "a.tif").fault or form.get("pack")
    with pytest.raises(UnreadableImageError, match=f"has {count} bands, not 3"):
        read_image(tmp_path / "a.tif", 3)
    rng = np.random.default_rng(1)
    for _ in range(100):  # a damaged file is an error, or another picture
        wrong = bytearray(data)
        wrong[int(rng.integers(4, 200))] = int(rng.integers(256))
        inspect_image(bytes(wrong), "a.tif")


def test_a_compression_of_bands_that_is_not_read_is_named(tmp_path):
    write_bands(tmp_path / "a.tif", np.zeros((4, 4, 5), np.uint8))
    data = (
        (tmp_path / "a.tif")
        .read_bytes()
        .replace(struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 259, 4, 1, 5))
    )
    assert "compressed by LZW: save it uncompressed" in inspect_image(data, "a.tif").fault


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
