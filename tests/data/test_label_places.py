"""Where YOLO's label files are looked for, and what is said where they are missing, shared or no files."""

import os

import numpy as np
import pytest
from PIL import Image

from netbuild.data import open_data, scan

ROW = "1 0.5 0.5 0.25 0.5\n"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path_factory.mktemp("cache")))


def make(root, pictures, labels, train="[images]"):
    for number, name in enumerate(pictures):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name)
    for name in labels:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(ROW)
    (root / "data.yaml").write_text(f"train: {train}\nnames: [bolt, nut]\n")
    return root / "data.yaml"


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("images/train/a.png", "images/train/a.txt"),
        ("images/train/a.png", "Labels/train/a.txt"),
        ("images/train/a.png", "label/train/a.txt"),
        ("images/train/a.png", "images/train/labels/a.txt"),
        ("train/a.png", "train/labels/a.txt"),
        ("train/a.png", "labels/train/a.txt"),
        ("Images/a.png", "Labels/a.txt"),
    ],
)
def test_labels_in_other_places_are_read_with_a_note(tmp_path, picture, label):
    usual = ("more/images/b.png", "more/labels/b.txt")  # a second folder, whose labels are where they belong
    folder = picture.rpartition("/")[0]
    file = make(tmp_path, [picture, usual[0]], [label, usual[1]], f"[{folder}, more/images]")
    report = scan(open_data(file)).raise_for_faults()
    assert report.splits["train"].counts["labelled"] == 2
    (note,) = report.problems()
    assert (note.kind, note.weight, note.file) == ("label place", "note", tmp_path / folder)
    assert f"read from {(tmp_path / label).parent}" in note.message


@pytest.mark.parametrize("place", ["elsewhere/b.txt", "labels/B.TXT", "annotations/b.png.txt"])
def test_missing_labels_are_noted_by_folder_with_files_of_their_names(tmp_path, place):
    names = [f"images/{name}.png" for name in "abc"]
    report = scan(open_data(make(tmp_path, names, ["labels/a.txt", place])))
    notes = {problem.kind: problem for problem in report.problems()}
    assert f"2 of 3 pictures have no label file in {tmp_path / 'labels'}" in notes["no labels"].message
    assert f"are in {(tmp_path / place).parent} (1)" in notes["no labels"].message
    assert report.splits["train"].counts["missing"] == 2


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_a_label_path_that_is_no_file_is_an_error(tmp_path, kind):
    file = make(tmp_path, ["images/a.png", "images/b.png"], ["labels/b.txt"])
    path = tmp_path / "labels/a.txt"
    {"folder": os.mkdir, "link": lambda p: os.symlink("nowhere", p), "pipe": os.mkfifo}[kind](path)
    (problem,) = scan(open_data(file)).problems()
    assert (problem.kind, problem.weight, problem.drops, problem.file) == ("label file", "label", "picture", path)
    assert {"folder": "a folder", "link": "a link to nowhere", "pipe": "a pipe"}[kind] in problem.message


def test_two_pictures_with_one_label_file_are_noted(tmp_path):
    report = scan(open_data(make(tmp_path, ["images/a.png", "images/a.jpg"], ["labels/a.txt"])))
    (problem,) = report.problems()
    assert (problem.kind, problem.weight, problem.file.name) == ("shared labels", "note", "a.png")
    assert "the same label file as a.jpg" in problem.message
