"""Predictions saved as labels are read back as what was predicted; skeletons go from the data into drawings."""

import json

import numpy as np
import pytest
import torch
from helpers.scenes import write_few_scenes
from PIL import Image

import netbuild
from netbuild import runtime
from netbuild.data import open_data, scan
from netbuild.data.contours import fill_polygons
from netbuild.data.oriented import corners_of
from netbuild.data.shapes import files
from netbuild.drawing.annotated import join_keypoints
from netbuild.prediction.result import Result
from netbuild.prediction.saving import Writer, parse_kinds
from netbuild.tasks import find

SIZE = (48, 64)  # height, width


@pytest.fixture
def read_back(tmp_path):
    """Writes a picture's records as labels, and reads them as a data set that is trained on."""

    def run(task, records, **facts):
        picture = tmp_path / "train/images/one.png"
        picture.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(picture)
        result = Result(picture, SIZE, records, None, None, None, None, task)
        for kind in ("labels", "txt"):
            assert parse_kinds(kind, task) == (kind,)
            with Writer(tmp_path / kind, (kind,)) as writer:
                writer.add(result)
        rows = [(tmp_path / f"{kind}/labels/one.txt").read_text().splitlines() for kind in ("labels", "txt")]
        assert [len(row.split()) for row in rows[1]] == [len(row.split()) + 1 for row in rows[0]]
        assert [float(row.split()[-1]) for row in rows[1]] == [record["confidence"] for record in records]
        (tmp_path / "train/labels").symlink_to(tmp_path / "labels/labels")
        data = {"path": str(tmp_path), "train": "train/images", "names": ["a", "b"], **facts}
        (tmp_path / "data.yaml").write_text(json.dumps(data))
        report = scan(open_data(tmp_path / "data.yaml"), splits=["train"], cache=False)
        assert report.faults() == []
        (sample,) = report.samples("train")
        assert sample.boxes[:, 0].tolist() == [record["class"] for record in records]
        return sample

    return run


def make_task(name, **members):
    head = torch.nn.Identity()
    head.nc, head.box_form, head.stride, head.ranks, head.extra = 2, "corners", [8.0], lambda: False, ()
    for key, value in members.items():
        setattr(head, key, value)
    return find(name)(head, ["a", "b"])


def record(number, box, **more):
    return {"class": number, "name": "ab"[number], "confidence": 0.75 - number / 4, "box": box, **more}


def test_masks_are_read_back_pixel_by_pixel(read_back):
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 5:20, 3:30], masks[0, 9:14, 8:20] = True, False  # with a hole
    masks[0, 30:40, 40:50] = masks[0, 33, 20:24] = True  # and further parts
    masks[1, 10:40, 10:60] = np.tri(30, 50, 5) > 0
    coded = [runtime.encode_mask(mask, 0, 0, SIZE) for mask in masks]
    boxes = [[3, 5, 50, 40], [10, 10, 60, 40]]
    records = [record(i, boxes[i], mask=coded[i]) for i in range(2)]
    sample = read_back(make_task("segment"), [*records, record(1, [2, 2, 12, 8], mask=empty_mask())])
    for mask, outline in zip(masks, sample.outlines[:2], strict=True):
        assert (fill_polygons([polygon * SIZE[::-1] for polygon in outline], SIZE) == mask).all()
    np.testing.assert_allclose(sample.outlines[2][0] * SIZE[::-1], [[2, 2], [12, 2], [12, 8], [2, 8]], atol=1e-4)


def empty_mask():
    return {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}


@pytest.mark.parametrize("values", [2, 3])
def test_keypoints_are_read_back(read_back, values):
    points = np.array([[[10.0, 12.0, 0.9], [70.0, 12.0, 0.8], [20.0, 30.0, 0.6], [30.0, 30.0, 0.1]]])[..., :values]
    records = [record(0, [5, 5, 40, 40], keypoints=points[0].tolist())]
    task = make_task("pose", extra=(4, values))
    sample = read_back(task, records, kpt_shape=[4, values])
    found = sample.keypoints[0]
    shown = [0, 2] if values == 3 else [0, 2, 3]  # the second is outside, the fourth is hidden
    np.testing.assert_allclose(found[shown, :2] * SIZE[::-1], points[0, shown, :2], atol=1e-4)
    if values == 3:
        assert found[:, 2].tolist() == [2, 0, 2, 0]
    else:
        assert (found[1] < 0).all()


def test_corners_of_oriented_boxes_are_read_back(read_back):
    corners = [
        [[10.0, 12.0], [40.0, 20.0], [36.0, 35.0], [6.0, 27.0]],
        [[50.0, 30.0], [70.0, 30.0], [70, 44], [50, 44]],
    ]
    records = [record(0, [6, 12, 40, 35], corners=corners[0]), record(1, [50, 30, 64, 44], corners=corners[1])]
    sample = read_back(make_task("obb"), records)
    np.testing.assert_allclose(corners_of(sample), corners, atol=1e-3)


def test_lines_join_the_keypoints_that_are_seen():
    places, seen = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([True, True, False])
    assert join_keypoints(places, seen, ((0, 1), (1, 2), (0, 7))).tolist() == [[[1, 2], [3, 4]]]
    assert join_keypoints(places, seen, ()).shape == (0, 2, 2)


def test_the_skeleton_of_the_data_is_drawn_from_the_checkpoint(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    write_few_scenes(tmp_path / "cache", 4, 2)
    (tmp_path / "pose.yaml").write_text(
        "nc: 6\nkpt_shape: [4, 3]\nimgsz: 64\nlayers:\n"
        + "".join(f"  - [-1, 1, Conv, [{width}, 3, 2]]\n" for width in (8, 8, 16))
        + "  - [[-1], 1, Pose, [nc, kpt_shape]]\n"
    )
    quick = ("--device", "cpu", "-Oworkers=0", "-Oplots=false")
    done = cli("train", "pose.yaml", "--data", "shapes-pose", "--epochs", 1, "--imgsz", 64, "-o", "run", *quick)
    assert done.code == 0, done.err
    skeleton = ((0, 1), (0, 2), (3, 1), (3, 2))
    network = netbuild.build("run/last.safetensors")
    assert network.card.skeleton == skeleton
    assert cli("export", "run/last.safetensors", "-o", "net.onnx").code == 0
    assert runtime.load("net.onnx").info.skeleton == skeleton
    picture = np.asarray(Image.open(tmp_path / f"cache/shapes-{files.LAYOUT}/shapes-pose/images/val/0000.png"))
    for model in ("run/last.safetensors", "net.onnx"):
        result = next(netbuild.predict(model, picture, conf=0.0, max_det=3))
        for entry in result.records:
            entry["keypoints"] = [[20, 20, 1.0], [60, 20, 1.0], [20, 60, 1.0], [60, 60, 0.1]]
        lines = result.task.draw(picture, None, result.records).lines
        assert [group.tolist() for group, _ in lines] == [[[[20, 20], [60, 20]], [[20, 20], [20, 60]]]] * 3
        marked, plain = result.plot(), result.task.skeleton
        result.task.skeleton = ()
        assert (result.plot() != marked).any()
        result.task.skeleton = plain
