"""Polygons, masks, crowds, keypoints and oriented boxes of all formats: the right values, and faults by their kind."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.real_data import DATA, needs_data
from PIL import Image

from netbuild import NetbuildError
from netbuild.data import open_data, scan
from netbuild.data.contours import decode_counts, decode_mask, is_crossing, trace_mask
from netbuild.data.dataset import Sample
from netbuild.data.formats.keypoints import derive_swap
from netbuild.data.formats.labels import LabelFile, Rules
from netbuild.data.oriented import measure_deviations
from netbuild.data.overview import draw_sample
from netbuild.feed.loader import FeedOptions
from netbuild.feed.samples import feed_scenes
from netbuild.settings import Settings

SIZE = (40, 20)  # width and height of the pictures


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))


def picture(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def yolo(root, text, more="", names="[bolt, nut]"):
    """A data set with one training picture, which has this label file, and a data file with more keys."""
    picture(root / "images/train/a.png")
    (root / "labels/train").mkdir(parents=True, exist_ok=True)
    (root / "labels/train/a.txt").write_text(text)
    (root / "data.yaml").write_text(f"train: images/train\nnames: {names}\n{more}")
    return root / "data.yaml"


def coco(root, *annotations, categories=({"id": 1, "name": "bolt"},), name="instances_train.json"):
    """A data set with one picture that has these annotations, each with a box unless it states one."""
    picture(root / "images/train/1.png")
    common = {"image_id": 7, "category_id": categories[0]["id"], "bbox": [4, 2, 20, 10]}
    image = {"id": 7, "file_name": "1.png", "width": SIZE[0], "height": SIZE[1]}
    found = [{"id": i, **common, **entry} for i, entry in enumerate(annotations)]
    (root / "annotations").mkdir(exist_ok=True)
    data = {"images": [image], "categories": list(categories), "annotations": found}
    (root / "annotations" / name).write_text(json.dumps(data))
    return root


def compress(counts):
    """COCO's compressed text of run lengths, written after its description."""
    text = ""
    for i, value in enumerate(counts):
        x, more = value - (counts[i - 2] if i > 2 else 0), True
        while more:
            group, x = x & 31, x >> 5
            more = x != (-1 if group & 16 else 0)
            text += chr((group | 32 if more else group) + 48)
    return text


def fill(polygons, size):
    """The pixels (H, W) whose centres lie in one of the polygons, by the even-odd rule, edge by edge."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, bool)
    for points in polygons:
        count = np.zeros(size, int)
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0)):
            if y1 != y2:
                count += ((y1 > y) != (y2 > y)) & (x1 + (y - y1) / (y2 - y1) * (x2 - x1) > x)
        inside |= count % 2 == 1
    return inside


# Masks and polygons


def test_masks_become_polygons_that_cover_the_same_pixels():
    random = np.random.default_rng(0)
    for _ in range(60):
        mask = random.random(random.integers(1, 12, 2)) < random.choice([0.3, 0.5, 0.8])
        np.testing.assert_array_equal(fill(trace_mask(mask), mask.shape), mask)
        counts = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=~mask[-1, -1])), prepend=0)
        np.testing.assert_array_equal(decode_mask(decode_counts(compress(counts.tolist())), mask.shape), mask)
    ring = np.pad(np.zeros((1, 1), bool), 1, constant_values=True)
    (polygon,) = trace_mask(ring)  # a hole is part of its polygon
    assert not is_crossing(polygon / 3)
    for text in ("ab\n", "P"):
        with pytest.raises(ValueError, match="compressed run lengths"):
            decode_counts(text)
    with pytest.raises(ValueError, match="add up to 5 pixels, not 2 x 3"):
        decode_mask([2, 3], (2, 3))


MASK = np.zeros((20, 40), bool)
MASK[2:12, 4:24] = True
MASK[5:8, 10:20] = False
MASK[14, 30] = True


def lengths_of(mask):
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff([0, *changes, len(flat)]).tolist()


@pytest.mark.parametrize("form", ["compressed", "uncompressed"])
def test_run_length_masks_of_coco_are_outlines(tmp_path, form):
    counts = lengths_of(MASK)
    segmentation = {"size": [20, 40], "counts": compress(counts) if form == "compressed" else counts}
    report = scan(open_data(coco(tmp_path, {"segmentation": segmentation})))
    assert report.problems() == []
    (sample,) = report.samples("train")
    assert len(sample.outlines[0]) == 2
    np.testing.assert_array_equal(fill([p * SIZE for p in sample.outlines[0]], MASK.shape), MASK)


SQUARE, LINE = [4, 2, 14, 2, 24, 2, 24, 12, 4, 12], [4, 2, 24, 12, 14, 7]
FAULTS_OF_OUTLINES = [
    ({"segmentation": [[4, 2, 24, 12]]}, "polygon points", "label", "box"),
    ({"segmentation": [[4, 2, 24, 12, 4]]}, "polygon points", "label", "box"),
    ({"segmentation": [[4, 2, 24, 2, "x", 12]]}, "polygon points", "label", "box"),
    ({"segmentation": "polygon"}, "polygon points", "label", "box"),
    ({"segmentation": [LINE]}, "polygon area", "label", "box"),
    ({"segmentation": [SQUARE, [4, 2, 24, 12]]}, "polygon points", "note", "outline"),
    ({"segmentation": [[4, 2, 24, 12, 24, 2, 4, 12]]}, "self-crossing", "note", ""),
    ({"segmentation": {"size": [20, 41], "counts": [820]}}, "mask size", "label", "box"),
    ({"segmentation": {"size": [20, 40], "counts": [10, 20]}}, "mask", "label", "box"),
    ({"segmentation": {"size": [20, 40], "counts": "\n"}}, "mask", "label", "box"),
    ({"segmentation": {"size": [20, 40], "counts": [1.5]}}, "mask", "label", "box"),
    ({"segmentation": {"size": [20, 40], "counts": [800]}}, "polygon area", "label", "box"),
    ({"segmentation": [[10**400, 1, 2, 3, 4, 5]]}, "polygon points", "label", "box"),
    ({"segmentation": [SQUARE], "bbox": [30, 12, 9, 8]}, "bbox", "note", ""),
    ({"segmentation": [SQUARE], "bbox": [True, 2, 20, 10]}, "columns", "label", "box"),
    ({"segmentation": [SQUARE], "bbox": [10**400, 2, 20, 10]}, "columns", "label", "box"),
    ({"segmentation": [SQUARE], "iscrowd": "0"}, "columns", "label", "box"),
    ({"segmentation": [SQUARE], "category_id": True}, "class range", "label", "box"),
]


@pytest.mark.parametrize(("annotation", "kind", "weight", "drops"), FAULTS_OF_OUTLINES)
def test_faults_of_outlines_in_coco(tmp_path, annotation, kind, weight, drops):
    report = scan(open_data(coco(tmp_path, annotation, {"bbox": [4, 2, 19, 10], "segmentation": [SQUARE]})))
    (problem,) = report.problems("label", "note")
    assert (problem.kind, problem.weight, problem.drops) == (kind, weight, drops), problem
    assert "annotation 0" in problem.message
    (sample,) = report.samples("train")
    assert len(sample.boxes) == len(sample.outlines) == (1 if drops == "box" else 2)


FAULTS_OF_ROWS = [  # text, kind, words, weight, what is dropped
    ("0 .1 .1 .5 .5 .1 .1", "polygon points", "a polygon of 2 points covers nothing", "label", "box"),
    ("0 .1 .1 .5 .5 .3 .3", "polygon area", "area is 0", "label", "box"),
    ("0 .1 .1 .9 .9 .9 .1 .1 .9", "self-crossing", "cross each other", "note", ""),
    ("0 .1 .1 .9 .1 .5 .9\n1 .5 .5 .2 .2", "mixed", "1 boxes, 2 polygons", "note", ""),
]


@pytest.mark.parametrize(("text", "kind", "words", "weight", "drops"), FAULTS_OF_ROWS)
def test_faults_of_polygons_in_label_files(text, kind, words, weight, drops):
    file = LabelFile(Path("1.txt"), Rules(["bolt", "nut"])).read("1 .2 .2 .4 .2 .4 .4\n" + text)
    (problem,) = file.problems
    assert (problem.kind, problem.weight, problem.drops) == (kind, weight, drops)
    assert words in problem.message
    assert problem.line == 1 + text.count("\n") + 1


def test_a_box_among_polygons_is_its_own_polygon_and_joined_parts_are_no_crossing():
    bridge = "1 .1 .1 .3 .1 .3 .3 .6 .6 .8 .6 .8 .8 .6 .8 .6 .6 .3 .3 .1 .3\n"  # two squares and a way between them
    over = np.array([[0, 0], [1, 0], [1, 1], [0.5, 0.5], [3, 0.6], [3, 1], [4, 1], [3, 0.6], [0.5, 0.5], [0, 1]]) / 5
    assert not is_crossing(over)  # the bridge leaves a part across one of its edges
    file = LabelFile(Path("1.txt"), Rules(["bolt", "nut"])).read(bridge + "0 .5 .5 .2 .4\n")
    assert [p.kind for p in file.problems] == ["mixed"]
    sample = file.objects.sample(Path("1.png"), None)
    np.testing.assert_allclose(sample.outlines[1][0], [[0.4, 0.3], [0.6, 0.3], [0.6, 0.7], [0.4, 0.7]])
    np.testing.assert_allclose(sample.boxes[0], [1, 0.45, 0.45, 0.7, 0.7])


def test_crowds_reach_metrics_and_not_the_loss(cli, tmp_path):
    crowd = {"bbox": [0, 0, 40, 20], "iscrowd": 1, "segmentation": {"size": [20, 40], "counts": lengths_of(MASK)}}
    root = coco(tmp_path, {"segmentation": [SQUARE]}, crowd, {"bbox": [1, 1, 4, 4], "segmentation": []})
    report = scan(open_data(root))
    assert sorted(p.kind for p in report.problems()) == ["crowd", "mixed"]
    assert report.splits["train"].counts["objects"] == 2
    (sample,) = report.samples("train")
    assert sample.crowd.tolist() == [False, True, False]
    assert [len(outline) for outline in sample.outlines] == [1, 2, 1]
    for learning, expected in ((True, [False, False]), (False, [False, True, False])):
        options = FeedOptions((64, 64), 3, 1, None, Settings(), learning, 1)
        found, collate = feed_scenes([sample], options)
        batch = collate([found.letterbox(0)])
        assert batch["crowd"].tolist() == expected
        assert len(batch["boxes"]) == len(expected)
    assert json.loads(cli("data", "stats", root, "--json").out)["splits"]["train"]["objects"] == 2


# Keypoints

PERSON = {"id": 3, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}


def test_keypoints_of_coco_are_those_of_yolo(tmp_path):
    points = [8, 4, 2, 20, 10, 1, 0, 0, 0]
    people = {"keypoints": points}, {"bbox": [0, 0, 9, 9]}
    first = coco(tmp_path / "coco", *people, categories=[PERSON], name="person_keypoints_train.json")
    rows = "0 .35 .35 .5 .5 .2 .2 2 .5 .5 1 0 0 0\n0 .1125 .225 .225 .45" + 9 * " 0"
    more = "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\nkpt_oks_sigmas: [0.026, .025, 1]\nskeleton: [[0, 1], [0, 2]]\n"
    second = yolo(tmp_path / "yolo", rows, more + "kpt_names: {0: [nose, left_eye, right_eye]}\n", "[person]")
    datasets = [open_data(first), open_data(second)]
    for dataset in datasets:
        assert dataset.keypoint_shape == (3, 3)
        assert dataset.keypoint_swap == (0, 2, 1)
        assert dataset.keypoint_names == ("nose", "left_eye", "right_eye")
        assert dataset.skeleton == ((0, 1), (0, 2))
    assert (datasets[0].keypoint_sigmas, datasets[1].keypoint_sigmas) == ((), (0.026, 0.025, 1.0))
    reports = [scan(dataset) for dataset in datasets]
    assert [p.message for p in reports[0].problems()] == [
        "which keypoints a mirror exchanges is derived from their names: flip_idx is [0, 2, 1]"
    ]
    assert reports[1].problems() == []
    samples = [report.samples("train")[0] for report in reports]
    np.testing.assert_allclose(samples[0].boxes, samples[1].boxes)
    np.testing.assert_allclose(samples[0].keypoints, samples[1].keypoints)
    assert samples[0].keypoint_swap == samples[1].keypoint_swap == (0, 2, 1)


@pytest.mark.parametrize(
    ("names", "swap"),
    [
        (["nose", "LeftEye", "RightEye"], (0, 2, 1)),
        (["r-hip", "l-hip", "tail"], (1, 0, 2)),
        (["wingL", "wingR", "legR1", "legL1"], (1, 0, 3, 2)),
        (["head", "tail"], ()),
        (["left_eye", "tail"], ()),
    ],
)
def test_mirror_images_are_derived_from_names(names, swap):
    assert derive_swap(names) == swap


POSE = "kpt_shape: [2, {}]\nflip_idx: [1, 0]\n"
FAULTS_OF_KEYPOINTS = [  # number of values, text, more keys, (kind, words)
    (3, "0 .5 .5 .4 .4 .4 .4 2 1.2 .5 1", "", ("keypoint", "outside the picture: number 1 at 1.2, 0.5")),
    (3, "0 .5 .5 .4 .4 .4 .4 2 1.2 .5 0", "", None),
    (2, "0 .5 .5 .4 .4 .4 .4 .5 1.2", "", ("keypoint", "number 1 at 0.5, 1.2")),
    (2, "0 .5 .5 .4 .4 .4 .4 -1 -1", "", None),
    (3, "0 .5 .5 .4 .4 .4 .4 2 .2 .5 1 .2 .2 0", "", ("columns", "14 columns, needs 11")),
]


@pytest.mark.parametrize(("values", "text", "more", "fault"), FAULTS_OF_KEYPOINTS)
def test_faults_of_keypoints_in_label_files(tmp_path, values, text, more, fault):
    report = scan(open_data(yolo(tmp_path, text, POSE.format(values) + more)))
    assert [p.kind for p in report.problems("label")] == ([fault[0]] if fault else [])
    for problem in report.problems("label"):
        assert fault[1] in problem.message
        assert problem.line == 1
        assert fault[0] != "columns" or "kpt_shape: [3, 3]" in problem.hint
    if not fault:
        visible = report.samples("train")[0].keypoints
        assert len(visible) == 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]\n", "flip_idx takes keypoint 0 to 1, and 1 to 2"),
        ("kpt_shape: [3, 3]\nflip_idx: [0, 0, 1]\n", "each number from 0 to 2 once"),
        ("kpt_shape: [3, 3]\nkpt_names: [a, b]\n", "a list of 3 names"),
        ("kpt_shape: [3, 3]\nkpt_oks_sigmas: [1, 1, 0]\n", "3 numbers above 0"),
        ("kpt_shape: [3, 3]\nskeleton: [[0, 3]]\n", "numbers from 0 to 2"),
        ("# no keypoints\nkpt_oks_sigmas: [1]\n", "kpt_oks_sigmas has no effect without kpt_shape"),
    ],
)
def test_faults_of_the_keys_of_keypoints(tmp_path, keys, words):
    with pytest.raises(NetbuildError, match=words) as caught:
        open_data(yolo(tmp_path, "", keys))
    assert caught.value.where.line == 4


def test_missing_flip_idx_is_a_note_at_kpt_shape(tmp_path):
    (problem,) = scan(open_data(yolo(tmp_path, "0 .5 .5 .4 .4 .4 .4 2", "kpt_shape: [1, 3]\n"))).problems()
    assert (problem.kind, problem.weight, problem.line) == ("flip_idx", "note", 3)
    assert "not mirrored" in problem.message


def test_faults_of_keypoints_in_coco(tmp_path):
    few, outside = {"keypoints": [1, 1, 2]}, {"keypoints": [0, 0, 0, 44, 2, 1, 3, 3, 2], "bbox": [0, 0, 9, 9]}
    report = scan(open_data(coco(tmp_path, few, outside, categories=[PERSON], name="keypoints_train.json")))
    assert [p.kind for p in report.problems("label")] == ["keypoints", "keypoint"]
    other = {**PERSON, "id": 4, "name": "dog", "keypoints": ["tail"]}
    with pytest.raises(NetbuildError, match="'person' and 'dog' have different keypoints"):
        open_data(coco(tmp_path, categories=[PERSON, other], name="keypoints_train.json"))


# Oriented boxes

RECTANGLES = "0 .1 .2 .3 .2 .3 .6 .1 .6\n0 .5 .2 .7 .4 .6 .8 .4 .6\n"  # upright, and turned in pixels of 40 x 20


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        (RECTANGLES, "", ""),
        (
            "0 .1 .1 .5 .1 .5 .9 .3 .9\n" + RECTANGLES,
            "1 of 3 polygons of four corners of 'train' are no rectangles",
            "",
        ),
        (RECTANGLES + "0 .1 .1 .5 .1 .1 .9 .5 .9\n", "of half the diagonal", "in order around the box"),
        (RECTANGLES + "0 .1 .1 .5 .1 .5 .9 .3 .9 .1 .5\n", "", ""),  # not all have four corners
    ],
)
def test_oriented_boxes_that_are_no_rectangles(tmp_path, text, words, hint):
    report = scan(open_data(yolo(tmp_path, text)))
    problems = [p for p in report.problems() if p.kind == "oriented box"]
    assert len(problems) == bool(words)
    for problem in problems:
        assert words in problem.message
        assert hint in problem.hint
        assert problem.weight == "note"
        assert (problem.file.name, problem.line) == ("a.txt", 1 if "1 of 3" in words else 3)


DOTA = """imagesource:GoogleEarth
gsd:0.14
20 4 28 8 24 16 16 12 small-vehicle 0
4.0 4.0 12.0 4.0 12.0 12.0 4.0 12.0 plane 1
"""


def dota(root, text, layout="{split}/images {split}/labelTxt-v1.0"):
    for split in ("train", "val"):
        images, labels = (root / place.format(split=split) for place in layout.split())
        picture(images / "P1.png", seed=hash(split) % 100)
        labels.mkdir(parents=True, exist_ok=True)
        (labels / "P1.txt").write_text(text if split == "train" else DOTA)
    return root


@pytest.mark.parametrize("layout", ["{split}/images {split}/labelTxt-v1.0", "images/{split} labelTxt/{split}"])
def test_label_files_of_dota(tmp_path, layout):
    report = scan(open_data(dota(tmp_path, DOTA, layout)))
    assert (report.dataset.format, report.dataset.names) == ("dota", ("plane", "small-vehicle"))
    assert {p.kind for p in report.problems()} <= {"difficult", "shared picture"}
    assert list(report.splits) == ["train", "val"]
    (sample,) = report.samples("train")
    np.testing.assert_allclose(sample.outlines[0][0] * SIZE, [[20, 4], [28, 8], [24, 16], [16, 12]])
    np.testing.assert_allclose(sample.boxes, [[1, 0.55, 0.5, 0.3, 0.6], [0, 0.2, 0.4, 0.2, 0.4]])
    assert sample.lines == (3, 4)


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ("4 4 12 4 12 12 4 12", "columns", "8 columns, needs 10"),
        ("4 4 12 4 12 12 4 12 small vehicle 0", "columns", "11 columns"),
        ("4 4 12 4 12 12 4 x plane 0", "no number", "'x' is not a number"),
        ("4 4 12 4 12 12 4 nan plane 0", "nan", "finite"),
        ("4 4 12 12 4 4 12 12 plane 0", "polygon points", "a polygon of 2 points"),
        ("400 4 420 4 420 12 400 12 plane 0", "outside", "its centre 410, 8 is outside"),
        ("20 4 28 8 24 16 16 12 small-vehicle 0", "duplicate", "repeats another object"),
        ("-8 4 12 4 12 12 -8 12 plane 0", None, ""),  # a corner outside is no fault of an oriented box
    ],
)
def test_faults_of_label_files_of_dota(tmp_path, row, kind, words):
    report = scan(open_data(dota(tmp_path, DOTA + row + "\n")), splits=["train"])
    problems = [p for p in report.problems() if p.kind != "difficult"]
    assert [(p.kind, p.line, p.drops) for p in problems] == ([(kind, 5, "box")] if kind else [])
    assert all(words in p.message for p in problems)


def test_deviation_of_a_quadrilateral_from_a_rectangle():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    rectangle = np.array([[0, 0], [8, 0], [8, 6], [0, 6.0]]) @ turn.T
    moved = rectangle.copy()
    moved[0] += (-2, 0)  # along one diagonal, which is longer by 2 at one end
    shares, distances = measure_deviations(np.stack((rectangle, moved)))
    assert shares[0] == pytest.approx(0, abs=1e-12)
    assert 0.5 < distances[1] < 2
    assert shares[1] == pytest.approx(distances[1] / 5, rel=0.3)


# Statistics and pictures


def test_statistics_and_pictures_of_all_kinds_of_labels(cli, tmp_path):
    crowd = {"bbox": [0, 0, 40, 20], "iscrowd": 1, "segmentation": {"size": [20, 40], "counts": lengths_of(MASK)}}
    points = {"keypoints": [8, 4, 2, 20, 10, 1, 0, 0, 0], "segmentation": [SQUARE, [1, 1, 3, 1, 3, 3]]}
    first = coco(tmp_path / "coco", points, crowd, categories=[PERSON], name="keypoints_train.json")
    done = cli("data", "stats", first, "-o", tmp_path / "pages")
    for words in (
        "1 objects, 1 crowds, 1 with polygons",
        "left_eye          1        0",
        "right_eye          0        0",
    ):
        assert words in done.out, done.out
    found = json.loads(cli("data", "stats", first, "--json").out)["splits"]["train"]
    assert found["keypoints"][0] == {"name": "nose", "annotated": 1, "visible": 1}
    assert (found["polygons"]["objects"], found["polygons"]["of_several_parts"]) == (1, 1)
    second = yolo(tmp_path / "turned", RECTANGLES)
    found = json.loads(cli("data", "stats", second, "--json").out)["splits"]["train"]["oriented_boxes"]
    assert (found["objects"], found["longer_side"]["min"], found["shorter_side"]["min"]) == (2, 8, 8)
    with Image.open(tmp_path / "pages/samples_train.png") as sheet:
        assert sheet.width > 40


@pytest.mark.parametrize("kind", ["polygon", "oriented", "keypoints", "crowd"])
def test_labels_are_drawn_where_they_are(kind):
    box, image = np.array([[0, 0.5, 0.5, 0.5, 0.5]]), np.zeros((20, 40, 3), np.uint8)
    corners = np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])
    triangle = ((corners[:3],),)
    labels = {
        "polygon": {"outlines": triangle},
        "oriented": {"outlines": ((corners,),)},
        "keypoints": {"keypoints": np.array([[[0.5, 0.5, 2], [0.1, 0.1, 0]]])},
        "crowd": {"crowd": np.array([True])},
    }
    drawing = draw_sample(Sample(Path("1.png"), (40, 20), box, pixels=image, **labels[kind]), ["bolt"])
    if kind == "polygon":
        (mask, _), *_ = drawing.areas
        np.testing.assert_array_equal(mask, fill([corners[:3] * (40, 20)], (20, 40)))
    elif kind == "oriented":
        np.testing.assert_allclose(drawing.outlines, [corners * (40, 20)])
    elif kind == "keypoints":
        np.testing.assert_allclose(drawing.points[0][0], [[20, 10]])
    assert drawing.labels == ["bolt (crowd)" if kind == "crowd" else "bolt"]


# Real data: the same set in two formats


@needs_data
@pytest.mark.parametrize(("name", "tolerance"), [("nuclei", 1.01), ("lsp", 0.06), ("fly-pose", 0.06)])
def test_coco_and_yolo_give_the_same_samples(name, tolerance):
    first, second = (open_data(DATA / name / place) for place in ("", "annotations"))
    assert (first.names, first.keypoint_shape) == (second.names, second.keypoint_shape)
    assert (first.keypoint_swap, first.keypoint_names) == (second.keypoint_swap, second.keypoint_names)
    samples = [{s.path.name: s for s in dataset.split("val").samples} for dataset in (first, second)]
    assert samples[0].keys() == samples[1].keys()
    for key, other in samples[1].items():
        sample, size = samples[0][key], np.array(other.size * 2)
        np.testing.assert_allclose(sample.boxes[:, 1:] * size, other.boxes[:, 1:] * size, atol=tolerance)
        assert (sample.boxes[:, 0] == other.boxes[:, 0]).all()
        assert [len(outline) for outline in sample.outlines] == [len(outline) for outline in other.outlines]
        for (polygon,), (same,) in zip(sample.outlines, other.outlines):
            np.testing.assert_allclose(polygon * other.size, same * other.size, atol=0.01)
        if sample.keypoints is not None:
            scale = (*other.size, 1)
            np.testing.assert_allclose(sample.keypoints * scale, other.keypoints * scale, atol=tolerance)
