"""Pictures that lack pixels which their header promises are unreadable, in the scan and in prediction."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers.small_networks import TINY
from PIL import Image

from netbuild.data.images import UnreadableImageError, decode, inspect_image

NOISE = np.random.default_rng(0).integers(0, 255, (64, 72, 3), dtype=np.uint8)
SMOOTH = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 3, 72, 1).repeat(3, 2)


def jpeg(pixels=NOISE, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


END = chunk(b"IEND", b"")


def png(rows, end=END):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 72, 64, 8, 2, 0, 0, 0))
    data = b"".join(b"\0" + row.tobytes() for row in NOISE[:rows])
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + end


def cut(data, share):
    return data[: int(len(data) * share)] + b"\xff\xd9"


def taller(data):
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    return data[: place + 5] + struct.pack(">H", 128) + data[place + 7 :]


def zeroed(data, share):
    """A file whose length was reserved, and whose end was never written."""
    return data[: int(len(data) * share)] + bytes(len(data) - int(len(data) * share))


def webp():
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "WEBP")
    return file.getvalue()


def without_last_scan(data):
    return data[: data.rfind(b"\xff\xda")] + b"\xff\xd9"


GOOD = {
    "baseline": jpeg(),
    "grey": jpeg(NOISE[..., 0]),
    "smooth": jpeg(SMOOTH),
    "one colour": jpeg(np.full_like(NOISE, 90)),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_blocks=4),
    "full chroma": jpeg(subsampling=0),
    "odd size": jpeg(NOISE[:57, :49]),
    "thumbnail": jpeg(exif=b"Exif\0\0" + jpeg(NOISE[:8, :8])),
    "PNG": png(64),
    "WebP": webp(),
    "WebP in a larger file": webp() + bytes(5000),
    "JPEG in a larger file": jpeg() + bytes(5000),
}
LYING = {
    **{
        f"cut {kind} {share}": cut(GOOD[kind], share)
        for kind in list(GOOD)[:8]
        for share in (0.7, 0.9)
        if kind not in ("one colour", "smooth")
    },
    "cut smooth": cut(GOOD["smooth"], 0.85),
    "taller": taller(GOOD["baseline"]),
    "taller progressive": taller(GOOD["progressive"]),
    "last scan": without_last_scan(GOOD["progressive"]),
    **{f"zeroed {kind}": zeroed(GOOD[kind], 0.6) for kind in ("baseline", "grey", "progressive", "restarts", "WebP")},
    "10 rows": png(10),
    "63 rows": png(63),
    "no end": png(64, b""),
    "half an end": png(64, END[:-5]),
}


@pytest.mark.parametrize("kind", GOOD)
def test_complete_pictures_are_read(kind):
    assert inspect_image(GOOD[kind], "a").fault == ""
    assert decode(GOOD[kind], "a").ndim == 3


@pytest.mark.parametrize("kind", LYING)
def test_pictures_without_all_their_pixels_are_unreadable(kind):
    assert inspect_image(LYING[kind], "a").fault
    with pytest.raises(UnreadableImageError, match=r"cut off|broken"):
        decode(LYING[kind], "a")


def test_prediction_says_that_a_picture_has_several_frames(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(TINY)
    first, *others = (Image.fromarray(np.roll(NOISE, i, 0)) for i in range(3))
    first.save("a.gif", save_all=True, append_images=others)
    done = cli("predict", "net.yaml", "a.gif", "--save", "none", "--device", "cpu")
    assert (done.code, "a.gif: 3 frames: only the first is used" in done.err) == (0, True), done.err


def test_prediction_names_pictures_without_all_their_pixels(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(TINY)
    (tmp_path / "a.jpg").write_bytes(LYING["taller"])
    (tmp_path / "b.jpg").write_bytes(GOOD["baseline"])
    done = cli("predict", "net.yaml", "a.jpg", "b.jpg", "--save", "none", "--device", "cpu")
    assert (done.code, "a.jpg: cut off or damaged" in done.err, "b.jpg 64x72" in done.out) == (1, True, True), done.err
