"""The embedded scenes: the same on every machine, and what is said of them is what is drawn."""

import hashlib

import numpy as np
import pytest

from netbuild.data import open_data, scan
from netbuild.data.shapes import files, make_scene

# Of the pixels, class maps, depth and labels of three scenes; a change of what is drawn needs a new `files.LAYOUT`.
DIGEST = "9508de4bf804d529"


def digest_scenes():
    digest = hashlib.sha256()
    for number in range(3):
        frame = make_scene((1, 0, number)).frame()
        rows = [files.label_row(name, found) for name in files.SETS for found in frame.objects]
        digest.update(frame.picture.tobytes() + frame.classes.tobytes() + "\n".join(rows).encode())
        digest.update(np.rint(frame.depth * 1000).astype("<u2").tobytes())
    return digest.hexdigest()[:16]


def test_scenes_are_the_same_on_every_machine():
    assert digest_scenes() == DIGEST


@pytest.mark.parametrize("name", files.SETS)
def test_every_set_opens_without_a_note(name, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path_factory.getbasetemp() / "scenes"))  # made once for all tests
    monkeypatch.setattr(files, "COUNTS", {"train": 12, "val": 4})
    report = scan(open_data(name))
    assert report.problems() == []
    dataset, sample = report.dataset, report.samples("train")[0]
    assert [len(report.samples(split)) for split in ("train", "val")] == [12, 4]
    assert dataset.nc == 6 + (name == "shapes")
    frame = make_scene((1, 0, 0)).frame()
    assert sample.classes.tolist() == [found.label for found in frame.objects]
    assert (sample.image(3) == frame.picture).all()
    assert bool(sample.outlines) == (name != "shapes-pose")
    assert (sample.keypoints is not None) == (name == "shapes-pose")
    if name == "shapes":
        assert (sample.extra("mask", "classes")[..., 0] == frame.classes).all()
        np.testing.assert_allclose(sample.extra("depth", "values")[..., 0], frame.depth, atol=6e-4)
