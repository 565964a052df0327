"""The embedded scenes: the same on every machine, and what is said of them is what is drawn."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.scenes import write_few_scenes

from netbuild.data import open_data, scan
from netbuild.data.shapes import BACKGROUND, files, make_scene
from netbuild.data.shapes.outlines import DIGITS, SHAPES
from netbuild.data.shapes.raster import join_loops, measure_area, rasterize, trace

# Of the pixels, class maps, depth and labels of three scenes; a change of what is drawn needs a new `files.LAYOUT`.
DIGEST, DIGEST_WITH_DIGITS = "9508de4bf804d529", "8486b69c63d4cb1a"


def digest_scenes(names=files.OBJECT_SETS, **options):
    digest = hashlib.sha256()
    for number in range(3):
        frame = make_scene((1, 0, number), **options).frame()
        rows = [files.label_row(name, found) for name in names for found in frame.objects]
        digest.update(frame.picture.tobytes() + frame.classes.tobytes() + "\n".join(rows).encode())
        digest.update(np.rint(frame.depth * 1000).astype("<u2").tobytes())
    return digest.hexdigest()[:16]


def test_scenes_are_the_same_on_every_machine():
    assert digest_scenes() == DIGEST
    assert digest_scenes(("shapes-digits",), digits=True) == DIGEST_WITH_DIGITS


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    write_few_scenes(cache, 12, 4)
    return cache


@pytest.mark.parametrize("name", files.OBJECT_SETS)
def test_every_set_opens_without_a_note(name, few_scenes, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(few_scenes))
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
    assert dataset.keypoint_names == (("front", "left", "right", "back") if name == "shapes-pose" else ())
    if name == "shapes":
        assert (sample.extra("mask", "classes")[..., 0] == frame.classes).all()
        np.testing.assert_allclose(sample.extra("depth", "values")[..., 0], frame.depth, atol=6e-4)


def test_a_set_has_digits_among_the_shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "COUNTS", {"train": 8, "val": 2})
    report = scan(open_data("shapes-digits"))
    assert report.problems() == []
    assert report.dataset.names[6:] == ("zero", "three", "eight", "background")
    samples = report.samples("train")
    assert {6, 8} <= {int(label) for sample in samples for label in sample.classes}
    for number, sample in enumerate(samples):
        frame = make_scene((1, 0, number), digits=True).frame()
        assert (sample.extra("mask", "classes")[..., 0] == frame.classes).all()
        assert sample.classes.tolist() == [found.label for found in frame.objects]


@pytest.mark.parametrize(("name", "task"), [("shapes-labels", "multilabel"), ("shapes-numbers", "regress")])
def test_the_tables_say_what_is_in_the_pictures(name, task, few_scenes, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(few_scenes))
    report = scan(open_data(name))
    assert (report.problems(), report.dataset.task) == ([], task)
    assert [len(report.samples(split)) for split in ("train", "val")] == [12, 4]
    for number, sample in enumerate(report.samples("train")):
        frame = files.make_table_scene((1, 0, number)).frame()
        assert (len(frame.objects), frame.picture.shape) in [(count, (64, 64, 3)) for count in (1, 2, 3)]
        assert (sample.image(3) == frame.picture).all()
        if task == "multilabel":
            assert sample.classes.tolist() == sorted({found.label for found in frame.objects})
        else:
            np.testing.assert_allclose(sample.numbers, (len(frame.objects), frame.depth.mean()), atol=1e-4)


def fill(polygons, size):
    """A mask (H, W) of polygons in pixels, drawn by OpenCV eight times as large, since it draws their borders, too."""
    mask = np.zeros((size[1] * 8, size[0] * 8), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.rint(polygon * 8 - 0.5).astype(np.int32)], 1)
    return mask[4::8, 4::8]


def differs(mask, other):
    """Whether two masks differ by more than a line of one pixel along their borders."""
    difference = (mask.astype(np.uint8) != other).astype(np.uint8)
    return bool(cv2.erode(difference, np.ones((2, 2), np.uint8), borderValue=0).any())


@pytest.fixture(scope="module")
def stills():
    return [make_scene((5, number), digits=number >= 30).frame() for number in range(45)]


def test_polygons_and_boxes_lie_around_what_is_seen(stills):
    """Of whole, hidden and cut objects; a row of the label file says the same as the object's polygons."""
    several = hidden = 0
    for frame in stills:
        for found in frame.objects:
            mask = frame.tracks == found.track
            assert not differs(mask, fill(found.polygons, (160, 160)))
            numbers = np.array(files.label_row("shapes-segment", found).split(), float)
            assert int(numbers[0]) == found.label
            assert not differs(mask, fill([numbers[1:].reshape(-1, 2) * 160], (160, 160)))
            _, parts, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
            rows, columns = np.nonzero(mask & (facts[parts, cv2.CC_STAT_AREA] > 2))  # specks are not labelled
            around = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(found.box, around, atol=2)  # tips narrower than a pixel
            assert found.visible >= 0.3 * (1 - 1e-9)
            several, hidden = several + (len(found.polygons) > 1), hidden + (found.visible < 1)
    assert several >= 1
    assert hidden > 20


def test_maps_agree_with_the_objects_and_the_order_of_their_distances(stills):
    for number, frame in enumerate(stills):
        background = frame.tracks == 0
        assert (frame.classes[background] == BACKGROUND + 3 * (number >= 30)).all()
        assert frame.depth[background].min() > max(found.distance for found in frame.objects)
        seen = np.zeros_like(background)
        for found in sorted(frame.objects, key=lambda found: found.distance):  # the nearest first
            mask = frame.tracks == found.track
            assert (frame.classes[mask] == found.label).all()
            assert (frame.depth[mask] == found.distance).all()
            # What is inside an object's outline and not its own pixel belongs to a nearer one.
            whole = rasterize(found.outline, (0, 0, 160, 160))
            assert ((whole & ~seen) != mask).sum() <= 1
            seen |= whole
        assert len(np.unique(frame.depth[background])) > 1000  # a plane that leans


def test_oriented_boxes_are_tight_and_turned_as_the_object_is(stills):
    for frame in stills:
        for found in frame.objects:
            front_left, front_right, back_right, back_left = found.corners
            ahead, aside = front_left - back_left, front_right - front_left
            assert abs(ahead @ aside) < 0.2
            np.testing.assert_allclose(back_right - back_left, aside, atol=0.01)
            for axis in (ahead, aside):  # the outline touches all four sides
                unit = axis / np.linalg.norm(axis)
                sides, points = found.corners @ unit, found.outline @ unit
                np.testing.assert_allclose((points.min(), points.max()), (sides.min(), sides.max()), atol=0.05)
            front, _, _, back = found.keypoints[:, :2]
            assert (front - back) @ ahead > 0.9 * np.linalg.norm(front - back) * np.linalg.norm(ahead)
            shown = np.array(files.label_row("shapes-obb", found).split()[1:], float).reshape(4, 2) * 160
            np.testing.assert_allclose(shown, found.corners, atol=1e-3)


def test_keypoints_lie_on_the_landmarks_that_are_drawn(stills):
    """The front and the back are bright, left and right dark; left is left of the way to the front."""
    counts = np.zeros(3, int)
    for frame in stills:
        grey = frame.picture.mean(2)
        for found in frame.objects:
            (front, left, right, back), seen = found.keypoints[:, :2], found.keypoints[:, 2]
            ahead = front - back
            beside = np.array((-ahead[1], ahead[0]))  # to the right of the way ahead, as y points down
            assert (left - back) @ beside < 0 < (right - back) @ beside
            for place, visibility, bright in zip((front, left, right, back), seen, (True, False, False, True)):
                column, row = np.floor(place).astype(int)
                inside = 0 <= column < 160 and 0 <= row < 160
                assert inside == (visibility > 0)
                if inside:
                    around = frame.tracks[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                    if np.ptp(around) == 0:  # visibility is decided at the point, tracks at the centres of pixels
                        assert (around[0, 0] == found.track) == (visibility == 2)
                    if visibility == 2 and found.distance < 3.5:
                        assert (grey[row, column] > 128) == bright
                counts[int(visibility)] += 1
            numbers = np.array(files.label_row("shapes-pose", found).split()[5:], float).reshape(4, 3)
            np.testing.assert_array_equal(numbers[:, 2], seen)
            np.testing.assert_allclose(numbers[seen > 0, :2] * 160, found.keypoints[seen > 0, :2], atol=1e-3)
            assert (numbers[seen == 0] == 0).all()
    assert (counts > (10, 20, 300)).all()


@pytest.mark.parametrize("shape", [*SHAPES, *DIGITS], ids=lambda shape: shape.name)
def test_a_mirrored_shape_is_a_shape_whose_left_is_right(shape):
    """So that flip_idx is right; and all landmarks are on the shape."""
    size = (-40, -40, 40, 40)
    mask, mirrored = rasterize(shape.points * 38, size), rasterize(shape.points * (-38, 38), size)
    assert (mask == mirrored).all()
    assert measure_area(shape.points * 38) == pytest.approx(mask.sum(), rel=0.02)
    assert np.abs(shape.points).max(0) == pytest.approx((shape.half_width, 1))
    np.testing.assert_allclose(shape.landmarks * (-1, 1), shape.landmarks[[0, 2, 1, 3]])
    for u, v in shape.landmarks * 38 + 40:
        assert mask[int(v), int(u)]


def test_a_mask_with_holes_parts_and_corners_that_touch_becomes_polygons_and_back():
    random = np.random.default_rng(0)
    ring = np.zeros((20, 20), bool)
    ring[2:18, 2:18] = True
    ring[5:9, 5:9] = ring[11:15, 10:16] = False
    ring[6:8, 6:8] = True  # a part in a hole
    for mask in (ring, *(random.random((12, 15)) < share for share in (0.3, 0.5, 0.7, 0.9))):
        polygons = trace(mask, 0.0)
        drawn = [rasterize(polygon, (0, 0, mask.shape[1], mask.shape[0])) for polygon in polygons]
        assert (np.sum(drawn, 0) == mask).all()
        joined = polygons[0]
        for polygon in polygons[1:]:
            joined = join_loops(joined, polygon)
        assert (rasterize(joined, (0, 0, mask.shape[1], mask.shape[0])) == mask).all()


def test_objects_of_a_video_enter_move_hide_each_other_and_leave():
    scene = make_scene(3, (160, 96), count=50)
    frames = list(scene.frames(50))
    assert frames[0].picture.shape == (96, 160, 3)
    paths = {}
    for time, frame in enumerate(frames):
        assert len({found.track for found in frame.objects}) == len(frame.objects)
        for found in frame.objects:
            paths.setdefault(found.track, []).append((time, found))
    assert 3 < np.mean([len(frame.objects) for frame in frames]) < 15
    assert any(path[0][0] > 0 for path in paths.values())
    assert any(path[-1][0] < 49 for path in paths.values())
    assert any(found.visible < 0.5 for path in paths.values() for _, found in path)
    for path in paths.values():
        assert len({(found.label, found.distance) for _, found in path}) == 1
        centres = np.array([found.corners.mean(0) for _, found in path])
        steps = np.diff(centres, axis=0) / np.diff([time for time, _ in path])[:, None]
        assert (np.linalg.norm(steps, axis=1) < 5).all()
        assert not len(steps) or np.ptp(steps, axis=0).max() < 0.01


def test_a_path_of_the_same_name_as_an_embedded_set_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "COUNTS", {"train": 1, "val": 1})  # made when they are first opened
    (tmp_path / "shapes").mkdir()
    (note,) = scan(open_data("shapes")).problems()
    assert (note.weight, note.hint) == ("note", "write ./shapes for the path")


def test_videos_have_their_true_tracks_beside_them(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("data", "video", "clip.mp4", "--frames", 5, "--seed", 4)
    assert (done.code, done.out) == (0, "clip.mp4: 5 frames; true tracks: clip.gt.txt\n"), done.err
    assert cli("data", "video", "new/sequence", "--frames", 5, "--seed", 4).code == 0
    truth = (tmp_path / "clip.gt.txt").read_text()
    assert truth == (tmp_path / "new/sequence/gt/gt.txt").read_text()
    rows = np.array([row.split(",") for row in truth.splitlines()], float)
    assert set(rows[:, 0]) == set(range(1, 6))
    frames = list(make_scene(4, (320, 240), count=5).frames(5))
    for number, track, x, y, width, height, one, label, visible in rows:
        (found,) = (found for found in frames[int(number) - 1].objects if found.track == track)
        np.testing.assert_allclose((x, y, x + width, y + height), found.box, atol=0.02)
        assert (one, label) == (1, found.label + 1)
        assert visible == pytest.approx(found.visible, abs=1e-3)
    assert len(rows) == sum(len(frame.objects) for frame in frames)
    assert "seqLength=5\nimWidth=320\n" in (tmp_path / "new/sequence/seqinfo.ini").read_text()
    picture = cv2.imread("new/sequence/img1/000005.png")[..., ::-1]
    assert (picture == frames[4].picture).all()
    video, count = cv2.VideoCapture("clip.mp4"), 0
    while video.read()[0]:
        count += 1
    assert count == 5
    Path("other.gt.txt").write_text("tracks of one's own")
    for path, there in (("clip.mp4", "clip.mp4"), ("new/sequence", "new/sequence"), ("other.mp4", "other.gt.txt")):
        done = cli("data", "video", path)
        assert (done.code, f"{there}: is there already" in done.err) == (2, True), done.err
