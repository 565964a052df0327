"""Pictures without labels: folders, splits of folders, a YAML file that names folders, and pairs of folders."""

import numpy as np
import pytest
from PIL import Image

from netbuild.data import open_data, scan
from netbuild.errors import NetbuildError


def write_pictures(folder, count, size=(24, 30), seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng((seed, i)).integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_folders_are_read_as_splits(tmp_path):
    write_pictures(tmp_path / "data/train", 3)
    write_pictures(tmp_path / "data/valid", 2, seed=1)
    dataset = open_data(tmp_path / "data")
    assert (dataset.format, dataset.task, list(dataset.splits)) == ("pictures", "pictures", ["train", "val"])
    report = scan(dataset)
    assert [len(report.samples(split)) for split in ("train", "val")] == [3, 2]
    assert (report.splits["train"].counts["labelled"], report.samples("train")[0].size) == (3, (30, 24))
    assert report.faults() == []
    alone = open_data(tmp_path / "data/train")
    assert (alone.task, alone.held_out(), len(alone.split("test").samples)) == ("pictures", "test", 3)


def test_a_file_names_folders_and_pairs(tmp_path):
    write_pictures(tmp_path / "sets/a", 3)
    write_pictures(tmp_path / "sets/b", 2, seed=1)
    write_pictures(tmp_path / "sets/low", 2, (12, 15), seed=2)
    (tmp_path / "data.yaml").write_text("format: pictures\npath: sets\ntrain: [a, b]\nval: b\n")
    dataset = open_data(tmp_path / "data.yaml")
    assert (dataset.task, len(dataset.split("train").samples), dataset.root) == ("pictures", 5, tmp_path / "sets")
    pairs = "{inputs: low, targets: b}"
    (tmp_path / "pairs.yaml").write_text(f"format: pictures\npath: sets\ntrain: {pairs}\nval: {pairs}\n")
    dataset = open_data(tmp_path / "pairs.yaml")
    assert (dataset.task, dataset.extras["target"].scale) == ("pairs", 2)
    assert scan(dataset, splits=["train"]).faults() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: picture\ntrain: a\n", "format must be pictures, not 'picture'"),
        ("format: pictures\ntrian: a\n", "'trian' has no effect in a file of pictures"),
        ("format: pictures\npath: .\n", "the file names no split"),
        ("format: pictures\ntrain: c\n", "there is no folder"),
        ("format: pictures\ntrain: {inputs: a}\n", "train must be pairs"),
        ("format: pictures\ntrain: {inputs: a, targets: a}\nval: a\n", "val must be pairs as train is"),
    ],
)
def test_mistakes_in_a_file_are_errors_at_their_place(tmp_path, text, message):
    write_pictures(tmp_path / "a", 1)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(NetbuildError) as caught:
        open_data(tmp_path / "data.yaml")
    assert message in caught.value.message
    assert caught.value.where is not None


def test_pairs_without_a_partner_or_of_a_wrong_size_are_faults(tmp_path):
    write_pictures(tmp_path / "low", 3, (12, 15))
    write_pictures(tmp_path / "high", 2, (24, 30), seed=1)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "high/1.png")
    Image.fromarray(np.zeros((24, 30, 3), np.uint8)).save(tmp_path / "high/8.png")
    (tmp_path / "data.yaml").write_text("format: pictures\ntrain: {inputs: low, targets: high}\n")
    found = " ".join(error.message for error in scan(open_data(tmp_path / "data.yaml")).faults())
    assert "there is no target named 2" in found
    assert "there is no input named 8" in found
    assert "1.png" in found
