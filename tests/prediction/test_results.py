"""Results from Python: every kind of source gives one result each, results as arrays and pictures, and trackers."""

import json

import numpy as np
import pytest
import torch
from helpers.small_networks import TINY
from PIL import Image

import netbuild
from netbuild.data.images import read_image
from netbuild.errors import KeywordError, NetbuildError
from netbuild.prediction import trackers
from netbuild.prediction.trackers.base import Tracker

NOISE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
OPTIONS = {"conf": 0.0, "max_det": 4}


@pytest.fixture
def detector(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    torch.manual_seed(0)
    return netbuild.build(tmp_path / "tiny.yaml")


def video(path, frames):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 48))
    for i in range(frames):
        writer.write(np.full((48, 80, 3), i, np.uint8))
    writer.release()
    return path


def test_every_source_has_a_result_in_order(detector, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    tensor = torch.from_numpy(NOISE).permute(2, 0, 1)
    things = [path, str(path), NOISE, Image.fromarray(NOISE), tensor, tensor / 255, path.read_bytes(), NOISE / 255]
    for several in (things, tuple(things), iter(things)):
        results = list(netbuild.predict(detector, several, **OPTIONS))
        assert len(results) == 8
        assert all(r.records == results[0].records and (r.image == NOISE).all() for r in results)
    assert [str(r.path) for r in results[1:4]] == [str(path), "image-3", "image-4"]
    assert len([*netbuild.predict(detector, [path, path])]) == 2
    assert len([*netbuild.predict(detector, tmp_path)]) == 1
    assert len([*netbuild.predict(detector, torch.stack([tensor] * 3))]) == 3
    for one in things[2:]:
        assert next(netbuild.predict(detector, one, **OPTIONS)).records == results[0].records
    grey = next(netbuild.predict(detector, NOISE[..., 0]))
    assert (grey.image == NOISE[..., :1]).all()
    bad = []
    assert not [*netbuild.predict(detector, b"no picture", unreadable=lambda *failed: bad.append(failed))]
    assert str(bad[0][0]) == "image-1"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "a int is no picture"),
        ([], "no pictures to predict on"),
        (NOISE.transpose(2, 0, 1), r"an array of shape \[3, 60, 90\] is no picture"),
        (NOISE.astype(int), "an array of int64 is no picture"),
        (NOISE.astype(float), "floats of a picture must be from 0 to 1"),
        (torch.zeros(60, 90), r"a tensor of shape \[60, 90\] is no picture"),
    ],
)
def test_objects_that_are_no_picture_are_refused(detector, source, message):
    with pytest.raises(NetbuildError, match=message) as caught:
        netbuild.predict(detector, source)
    assert len(str(caught.value)) < 300


def test_wrong_keywords_are_refused_with_the_nearest(detector):
    with pytest.raises(KeywordError, match="'confidence'") as caught:
        netbuild.predict(detector, NOISE, confidence=0.4)
    assert "conf" in str(caught.value.hint)


def test_a_result_has_arrays_json_and_a_picture(detector, tmp_path):
    result = next(netbuild.predict(detector, NOISE, **OPTIONS))
    boxes = result.boxes
    assert (len(result), len(boxes), boxes.xyxy.shape, np.asarray(boxes).shape) == (4, 4, (4, 4), (4, 6))
    assert boxes.conf.tolist() == [record["confidence"] for record in result.records]
    assert boxes.cls.tolist() == [record["class"] for record in result.records]
    assert boxes[0][:4].tolist() == result.records[0]["box"]
    assert result.masks is result.keypoints is result.obb is result.probs is boxes.id is None
    assert json.loads(result.to_json()) == result.to_dict()
    assert repr(result).startswith("Result(image-1 60x90: ")
    assert result._repr_html_().startswith('<img src="data:image/png;base64,')
    assert (read_image(result.save(tmp_path / "new/drawn.png")) == result.plot()).all()
    assert (result.plot() != NOISE).any()
    none = next(netbuild.predict(detector, NOISE, conf=1.0))
    assert (len(none), none.boxes.xyxy.shape) == (0, (0, 4))
    probs = next(netbuild.predict("lenet5-modern.yaml", NOISE, device="cpu"))
    assert probs.probs.shape == (10,)
    assert probs.probs.sum() == pytest.approx(1)
    assert probs.boxes is None


@pytest.mark.parametrize(
    ("file", "field", "shape"),
    [
        ("yolo11n-seg.yaml", "masks", (2, 60, 90)),
        ("yolo11n-pose.yaml", "keypoints", (2, 17, 3)),
        ("yolo11n-obb.yaml", "obb", (2, 4, 2)),
    ],
)
def test_results_of_other_tasks_have_their_arrays(file, field, shape):
    result = next(netbuild.predict(file, NOISE, imgsz=64, conf=0.0, max_det=2, device="cpu"))
    found = getattr(result, field)
    assert (found.corners if field == "obb" else found).shape == shape
    assert len(result.boxes) == 2
    assert result.plot().shape == (60, 90, 3)


def test_a_tracker_is_one_class_and_new_for_each_video(detector, tmp_path):
    @trackers.tracker
    class Counter(Tracker):
        name = "toy-counter"

        def __init__(self):
            self.frames = 0

        def update(self, records, view):
            self.frames += 1
            return [{**record, "id": 100 * self.frames + i} for i, record in enumerate(records)]

    try:
        files = [video(tmp_path / "a.avi", 5), video(tmp_path / "b.avi", 3), NOISE, tmp_path / "a.avi"]
        results = list(netbuild.predict(detector, files, batch=4, tracker="toy-counter", **OPTIONS))
    finally:
        trackers.TRACKERS.registered.pop("toy-counter")
    assert [r.frame for r in results] == [1, 2, 3, 4, 5, 1, 2, 3, None, 1, 2, 3, 4, 5]
    assert [None if r.boxes.id is None else int(r.boxes.id[0]) // 100 for r in results] == [r.frame for r in results]
    with pytest.raises(NetbuildError, match="no tracker 'toy-counter'"):
        netbuild.predict(detector, files, tracker="toy-counter")


def test_a_network_of_several_inputs_gets_the_others_by_keyword(tmp_path):
    (tmp_path / "two.yaml").write_text(
        "task: classify\nnc: 3\nimgsz: 8\ninputs:\n  image: [3, 8, 8]\n  scale: [3, 8, 8]\n"
        "layers:\n  - [[image, scale], 1, Concat, [1]]\n  - [-1, 1, Classify, [nc]]\n"
    )
    network = netbuild.build(tmp_path / "two.yaml")
    a, b = (next(netbuild.predict(network, NOISE, inputs=[torch.full((3, 8, 8), v)])).probs for v in (0.0, 9.0))
    assert a.shape == (3,)
    assert (a != b).any()
    with pytest.raises(NetbuildError, match=r"scale \[3, 8, 8\]; 0 were passed"):
        netbuild.predict(network, NOISE)
