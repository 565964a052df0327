"""Trackers: the Kalman filter, what each paper adds to SORT, and settings."""

import re
import sys

import numpy as np
import pytest

from netbuild.data.fitting import Letterbox
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.prediction.trackers import association
from netbuild.prediction.trackers.kalman import POSITION_SHARE, VELOCITY_SHARE, BoxFilter, to_centres
from netbuild.prediction.trackers.options import describe_tracker, prepare_tracker
from netbuild.tasks.view import View

NAMES = ["sort", "bytetrack", "ocsort", "botsort"]
BLANK = np.zeros((100, 200, 3), np.uint8)


def record(x, y=50, side=20, confidence=0.9, label=0, **more):
    box = [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
    return {"class": label, "name": str(label), "confidence": confidence, "box": box, **more}


def follow(tracker, frames, images=None):
    """The ids of each frame's records by the x of their boxes' centres."""
    made = prepare_tracker(tracker)() if isinstance(tracker, str) else tracker
    found = []
    for i, records in enumerate(frames):
        image = BLANK if images is None else images[i]
        view = View(image, Letterbox.fit(image.shape[:2], image.shape[:2]))
        found.append({(r["box"][0] + r["box"][2]) / 2: r["id"] for r in made.update(records, view)})
    return found


def test_the_filter_is_that_of_full_matrices():
    boxes = np.array([[10, 20, 50, 100], [13, 22, 52, 106], [17, 25, 58, 104], [20, 27, 60, 110]], float)
    filtered = BoxFilter()
    filtered.add(boxes[:1])
    scale = np.tile(to_centres(boxes[:1])[0, 2:], 2)
    mean, variance = (
        np.concatenate((to_centres(boxes[:1])[0], np.zeros(4))),
        np.diag(np.concatenate((2 * POSITION_SHARE * scale, 10 * VELOCITY_SHARE * scale)) ** 2),
    )
    step, measure = np.eye(8) + np.eye(8, k=4), np.eye(4, 8)
    for box in boxes[1:]:
        filtered.predict()
        filtered.update(np.array([0]), box[None])
        noise = np.diag(np.concatenate((POSITION_SHARE * mean[[2, 3, 2, 3]], VELOCITY_SHARE * mean[[2, 3, 2, 3]])) ** 2)
        mean, variance = step @ mean, step @ variance @ step.T + noise
        measured = np.diag((POSITION_SHARE * mean[[2, 3, 2, 3]]) ** 2)
        gain = variance @ measure.T @ np.linalg.inv(measure @ variance @ measure.T + measured)
        mean = mean + gain @ (to_centres(box[None])[0] - measure @ mean)
        variance = variance - gain @ measure @ variance
    assert filtered.position[0] == pytest.approx(mean[:4])
    assert filtered.velocity[0] == pytest.approx(mean[4:])
    assert filtered.variances[0, :, 0] == pytest.approx(np.diag(variance)[:4])


@pytest.mark.parametrize("name", NAMES)
def test_ids_stay_through_crossings_and_gaps(name):
    """Two objects pass each other, one is not found for four frames, and a third is seen in one frame only."""
    frames = [[record(20 + 4 * i, 40), record(181 - 4 * i, 62)] for i in range(40)]
    for i in range(10, 14):
        frames[i].pop(0)
    frames[25].append(record(100, 10))
    found = follow(name, frames)
    assert found[0].keys() == {20.0, 181.0}  # the first frames number objects at once
    assert all(ids[20.0 + 4 * i] == found[0][20] for i, ids in enumerate(found) if i not in range(10, 14))
    assert all(ids[181.0 - 4 * i] == found[0][181] for i, ids in enumerate(found))
    assert 100.0 not in found[25]
    assert {number for ids in found for number in ids.values()} == {1, 2}


@pytest.mark.parametrize("name", NAMES)
def test_records_keep_everything_and_classes_are_apart(name):
    mask = {"size": [100, 200], "counts": "x"}
    frames = [[record(50, mask=mask, label=0), record(51, label=1)] for _ in range(3)]
    tracker = prepare_tracker(name)()
    view = View(BLANK, Letterbox.fit((100, 200), (100, 200)))
    for records in frames:
        before = [dict(r) for r in records]
        found = tracker.update(records, view)
        assert [{k: v for k, v in r.items() if k != "id"} for r in found] == before == records
        assert [r["id"] for r in found] == [1, 2]
    assert tracker.update([], view) == []


def test_bytetrack_continues_by_boxes_of_low_confidence():
    frames = [[record(20 + 3 * i, confidence=0.9 if i < 5 or i > 9 else 0.3)] for i in range(15)]
    frames[2].append(record(150, confidence=0.3))  # starts no track
    assert [list(ids.values()) for ids in follow("bytetrack", frames)] == [[1]] * 15
    assert [len(ids) for ids in follow("ocsort", frames)] == [1] * 5 + [0] * 5 + [1] * 5


def test_ocsort_heads_for_the_last_observation():
    """An object stands still while it is hidden, so that the predicted box runs away from it."""
    frames = [[record(20 + 6 * i, side=30)] for i in range(10)] + [[] for _ in range(9)] + [[record(78, side=30)]] * 4
    assert follow("ocsort", frames)[-1] == {78.0: 1}
    assert follow("sort", frames)[-1] != {78.0: 1}


def test_botsort_takes_out_the_motion_of_the_camera():
    cv2 = pytest.importorskip("cv2")
    scene = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (240, 900, 3), dtype=np.uint8), (0, 0), 5)
    shifts = [0, 0, 0, 25, 50, 75, 75]
    images = [np.ascontiguousarray(scene[:, 50 + s : 450 + s]) for s in shifts]
    frames = [[record(300 - s, 120)] for s in shifts]
    assert [list(ids.values()) for ids in follow("botsort", frames, images)] == [[1]] * 7
    assert [list(ids.values()) for ids in follow("bytetrack", frames, images)][3] != [1]
    still = prepare_tracker("botsort", ["camera=off"])()
    assert [list(ids.values()) for ids in follow(still, frames, images)][3] != [1]


def test_settings(tmp_path):
    for name in NAMES:
        (tmp_path / "t.yaml").write_text(describe_tracker(name))
        assert prepare_tracker(tmp_path / "t.yaml")().settings == prepare_tracker(name)().settings
    (tmp_path / "t.yaml").write_text("tracker: bytetrack\nstart: 0.4\npatience: 7\n")
    settings = prepare_tracker(tmp_path / "t.yaml", ["patience=9", "by_class=false"])().settings
    assert (settings.start, settings.patience, settings.by_class, settings.high) == (0.4, 9, False, 0.6)
    assert prepare_tracker("sort", {"hits": 1})().settings.hits == 1


@pytest.mark.parametrize(
    ("tracker", "options", "message"),
    [
        ("bytrack", [], r"no tracker 'bytrack'; there are .*\n.*bytetrack"),
        ("bytetrack", ["strat=0.4"], r"no setting 'strat'\n.*'start'"),
        ("sort", ["start=high"], r"start: 'high' must be a number"),
        ("sort", {"start": 2}, r"start: 2.0 must be from 0 to 1"),
        ("sort", ["start"], r"the value is missing"),
        ("botsort", ["camera=flo"], r"must be one of auto, flow, off\n.*flow"),
        ("tracker: sort\nhits: 0\n", [], r"t.yaml:2:7: hits: 0 must be from 1 to 1000"),
        ("tracker: sort\nhit: 3\n", [], r"t.yaml:2:1: the tracker 'sort' has no setting 'hit'\n(.*\n)*.*'hits'"),
        ("start: 0.5\n", [], r"not the settings of a tracker\n.*tracker: bytetrack"),
    ],
)
def test_mistakes_in_settings(tracker, options, message, tmp_path):
    if "\n" in tracker:
        (tmp_path / "t.yaml").write_text(tracker)
        tracker = tmp_path / "t.yaml"
    with pytest.raises(NetbuildError) as caught:
        prepare_tracker(tracker, options)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_scipy_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingExtraError, match="the package 'scipy' is not installed") as caught:
        association.match(np.ones((1, 1)), 0.5)
    assert "scipy" in caught.value.hint
