"""The pictures and logs of a run's folder: they exist, depend on the data, are legible, and do not affect training."""

import csv
import io
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import netbuild
from netbuild.data import open_data, overview, scan
from netbuild.data.dataset import Sample
from netbuild.drawing import charts, sheets
from netbuild.drawing.annotated import COLOURS, Drawing, class_colour, draw_boxes
from netbuild.system.packages import install_hint
from netbuild.tasks.classification_metric import ClassificationMetric
from netbuild.tasks.detect import DetectTask
from netbuild.tasks.detection_metric import DetectionMetric
from netbuild.tasks.pictures import to_picture
from netbuild.training import plotting
from netbuild.training.loggers.tensorboard import open_writer
from netbuild.training.parts import make_task
from netbuild.training.progress import epoch_line, memory_in_use

QUICK = ("--batch", "64", "--device", "cpu", "-O", "workers=0", "-O", "lr=0.003")
CHARTS = {"confusion.png", "labels.png", "losses.png", "metrics.png"}
BATCHES = {f"{kind}_batch{i}.png" for kind in ("train", "val") for i in range(3)}
NAMES = ["cat", "a class with a name that is rather long", "cost in $ and $x_i$", *(f"class {i}" for i in range(3, 80))]


def image(path):
    from PIL import Image

    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB")).copy()


def drawn(figure):
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=charts.DPI)
    return image(data)


def pngs(folder):
    return {path.name for path in Path(folder).glob("*.png")}


def matrix(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, (n, n)) + np.diag(rng.integers(20, 3000, n))


def history(epochs):
    return [
        {"epoch": e, "train/box": 3 / e, "train/cls": 2 / e, "mAP50": 1 - 1 / e, "AR-small": -1.0, "fitness": 1 - 1 / e}
        for e in range(1, epochs + 1)
    ]


# -- runs -------------------------------------------------------------------------------------------------------------


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.slow
def test_a_run_writes_its_pictures_and_logs_and_a_resumed_run_updates_them(cli, tmp_path):
    folder = tmp_path / "run"
    done = cli("train", "lenet5-modern.yaml", *QUICK, "--epochs", "2", "-O", "tensorboard=true", "-o", folder)
    assert done.code == 0, done.err
    assert "left out" not in done.err
    assert pngs(folder) == CHARTS | BATCHES
    before = {name: image(folder / name) for name in pngs(folder)}
    assert all(min(found.shape[:2]) > 150 and found.std() > 10 for found in before.values())
    # A run that was killed after it logged epoch 3 and before it saved its state.
    with open_writer(folder / "tensorboard", 2) as writer:
        writer.add_scalar("val/top1", 7.0, 3)
    more = cli("train", "--resume", folder, "--epochs", "3")
    assert more.code == 0, more.err
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    logged = events(folder / "tensorboard")
    assert logged["lr"][0][0] == 1
    for tag, column in (("train/cls", "train/cls"), ("val/top1", "top1")):
        assert [step for step, _ in logged[tag]] == [1, 2, 3]
        assert [value for _, value in logged[tag]] == pytest.approx([float(row[column]) for row in rows], rel=1e-4)
    for name in ("losses.png", "metrics.png"):
        after = image(folder / name)
        assert after.shape != before[name].shape or (after != before[name]).any()
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []
    # The best epoch was trained by another process: its metrics are measured again and give the same chart.
    confusion = image(folder / "confusion.png")
    (folder / "confusion.png").unlink()
    assert cli("train", "--resume", folder).code == 0
    assert (image(folder / "confusion.png") == confusion).all()


@pytest.mark.slow
def test_the_weights_are_the_same_with_plots_and_without(cli, tmp_path):
    for name, flags in (("with", ("-O", "tensorboard=true")), ("without", ("-O", "plots=false"))):
        done = cli("train", "lenet5-modern.yaml", *QUICK, "--epochs", "2", *flags, "-o", tmp_path / name)
        assert done.code == 0, done.err
    assert pngs(tmp_path / "without") == set()
    assert not (tmp_path / "without" / "tensorboard").exists()
    for file in ("best.safetensors", "last.safetensors"):
        a, b = (netbuild.build(tmp_path / name / file).state_dict() for name in ("with", "without"))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert (tmp_path / "with" / "results.csv").read_text() == (tmp_path / "without" / "results.csv").read_text()


def test_drawing_changes_neither_random_generators_nor_its_input(tmp_path):
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    batch = {"images": torch.randint(0, 256, (3, 3, 64, 48), dtype=torch.uint8), "classes": torch.tensor([0, 1, 2])}
    kept, states = batch["images"].clone(), (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    task = make_task(netbuild.build("lenet5.yaml"), NAMES[:10])
    torch.set_rng_state(states[0])  # of building the network
    plotting.save_comparison(task, batch, torch.eye(10)[:3], tmp_path / "a.png")
    metric = ClassificationMetric(NAMES[:10])
    metric.update(torch.eye(10)[:3], batch)
    assert len(list(charts.save_all(metric.plots(), tmp_path))) == 1
    drawn(charts.plot_losses(history(4)))
    overview.draw_samples([Sample("x", (48, 64), label=1, pixels=kept[0].permute(1, 2, 0).numpy())], NAMES)
    assert torch.equal(batch["images"], kept)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_a_run_continues_with_a_single_note(cli, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    done = cli("train", "lenet5-modern.yaml", *QUICK, "--epochs", "1", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert [line for line in done.err.splitlines() if "plots" in line] == [
        f"note: plots are left out: the package 'matplotlib' is not installed; {install_hint('train')}"
    ]
    assert pngs(tmp_path / "run") == BATCHES  # these need no matplotlib
    for command in (("val", tmp_path / "run" / "best.safetensors", "--data", "digits"), ("data", "stats", "digits")):
        refused = cli(*command, "-o", tmp_path / "drawn")
        assert refused.code == 3
        assert "netbuild[train]" in refused.err


def test_a_run_with_tensorboard_is_refused_if_it_is_not_installed(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = cli("train", "lenet5-modern.yaml", *QUICK, "-O", "tensorboard=true", "-o", tmp_path / "run")
    assert done.code == 3
    assert "netbuild[tensorboard]" in done.err
    assert not (tmp_path / "run").exists()


def test_errors_of_drawing_do_not_end_a_run(cli, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a fault of the drawing")

    monkeypatch.setattr(sheets, "make_sheet", broken)
    monkeypatch.setattr(charts, "plot_losses", broken)
    done = cli("train", "lenet5-modern.yaml", *QUICK, "--epochs", "1", "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert done.err.count("a fault of the drawing") == 1
    assert pngs(tmp_path / "run") == CHARTS - {"losses.png"}


def test_val_draws_into_the_given_folder(cli, tmp_path):
    netbuild.save(netbuild.build("lenet5.yaml"), tmp_path / "net.safetensors")
    flags = ("--data", "digits", "--device", "cpu", "-O", "workers=0", "--json")
    plain = cli("val", tmp_path / "net.safetensors", *flags)
    assert pngs(tmp_path) == set()
    done = cli("val", tmp_path / "net.safetensors", *flags, "-o", tmp_path / "a" / "b")
    assert (done.code, done.out) == (0, plain.out), done.err
    assert pngs(tmp_path / "a" / "b") == {"confusion.png", *(f"val_batch{i}.png" for i in range(3))}
    written = json.loads((tmp_path / "a" / "b" / "measures.json").read_text())
    assert json.loads(plain.out) == {name: value for name, value in written.items() if name != "confusion"}
    assert np.sum(written["confusion"]["counts"]) == sum(row["images"] for row in written["classes"])
    refused = cli("val", tmp_path / "net.safetensors", *flags, "-o", tmp_path / "net.safetensors" / "x")
    assert (refused.code, "cannot be written" in refused.err) == (2, True)


# -- charts -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 10, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 80, 200))])
def test_charts_have_room_for_their_classes(n):
    names = [*NAMES, *map(str, range(200))][:n]
    confusion = drawn(charts.plot_confusion(matrix(n + 1), [*names, "background"]))
    if n <= charts.MAX_NAMES:
        assert min(confusion.shape[:2]) > 24 * (n + 1)  # a name of 7 points is 11 pixels high
    assert max(confusion.shape[:2]) < 3200
    bars = drawn(charts.plot_labels(np.arange(n), names, np.random.default_rng(0).random((50, 4))))
    assert bars.shape[1] > (13 * n if n <= charts.MAX_NAMES else 800)
    assert drawn(charts.plot_labels(np.arange(n), names)).shape[0] < bars.shape[0]
    lines = charts.plot_curves(np.linspace(0, 1, 50), np.full((n, 50), 0.7), np.full((n, 50), 0.5), names, 20)
    assert [len(axes.lines) for axes in lines.axes] == [n + 1, *[n + 2] * 3]  # each class, the mean, a mark


def test_charts_show_their_data():
    names, steps, counts, boxes = (
        NAMES[:4],
        np.linspace(0, 1, 50),
        np.arange(4),
        np.random.default_rng(0).random((9, 4)),
    )
    for make, data, other in (
        (charts.plot_confusion, (matrix(4), names), (matrix(4, seed=1), names)),
        (charts.plot_labels, (counts, names, boxes), (counts, names, boxes / 2)),
        (charts.plot_labels, (counts, names), (counts[::-1], names)),
        (
            charts.plot_curves,
            (steps, *np.full((2, 4, 50), 0.7), names, 9),
            (steps, *np.full((2, 4, 50), 0.3), names, 9),
        ),
        (charts.plot_losses, (history(5),), (history(5)[:-1],)),
        (charts.plot_sizes, (boxes[:, :2] * 99,), (boxes[:, 2:] * 99,)),
    ):
        first, again, second = (drawn(make(*given)) for given in (data, data, other))
        assert (first == again).all(), make
        assert first.shape != second.shape or (first != second).any(), make


def test_charts_of_little_or_nothing():
    assert charts.plot_losses([]) is None
    assert charts.plot_metrics([{"epoch": 1, "train/box": 1.0, "AR-small": -1.0}]) is None
    assert drawn(charts.plot_losses(history(1))).shape[0] > 200
    nan = [{"epoch": 1, "train/box": float("nan"), "top1": float("nan")}, {"epoch": 3, "top1": 0.5}]
    assert drawn(charts.plot_metrics(nan)).shape[0] > 200
    # A fitness that equals another metric, and metrics of COCO that are undefined, get no panel.
    assert len(charts.plot_metrics(history(3)).axes) == 1
    errors = [{"epoch": 1, "rmse": 2.0}, {"epoch": 2, "rmse": 0.5}, {"epoch": 3, "rmse": -1.0}]
    titles = [charts.plot_metrics(errors, names).axes[0].get_title() for names in (["rmse"], [])]
    assert titles == ["rmse, at least 0.5", "rmse, at most 2"]
    empty = DetectionMetric(["a", "b"])
    for make in empty.plots().values():
        assert drawn(make()).shape[0] > 200
    assert drawn(charts.plot_labels(np.zeros(2, int), ["a", "b"], np.zeros((0, 4)))).shape[0] > 200
    assert drawn(charts.plot_sizes(np.zeros((0, 2)))).shape[0] > 200


def test_the_precision_envelope_is_that_of_average_precision():
    recall, precision = np.array([0.8, 0.6, 0.6, 0.2, 0.0]), np.array([0.4, 0.5, 0.3, 0.9, 0.0])
    found = charts._precision_envelope(precision, recall, np.array([0.0, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9]))
    assert found.tolist() == [0.9, 0.9, 0.5, 0.5, 0.4, 0.4, 0.0]


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_boxes_are_drawn_in_their_colours_and_labels_do_not_overlap():
    grey = np.full((200, 300, 3), 120, np.uint8)
    boxes = np.array([[20.3, 30, 280, 190], [60, 80, 120, 150.6]])
    found = draw_boxes(grey, boxes, ["large", "small"], [class_colour(0), class_colour(4)])
    assert (grey == 120).all()
    assert tuple(found[30, 200]) == COLOURS[0]
    assert tuple(found[120, 60]) == COLOURS[4]

    def labelled(count):
        crowd = draw_boxes(
            grey, np.tile([100.0, 100, 140, 130], (count, 1)), ["name"] * count, [class_colour(1)] * count
        )
        return int((crowd == COLOURS[1]).all(-1).sum())

    # Boxes in one place: a few labels find room around it, the others are left out.
    assert labelled(1) < labelled(3) <= labelled(50) < 8 * labelled(1)
    outside = draw_boxes(
        grey, np.array([[-50.0, -50, 900, 900], [280, 190, 260, 180]]), ["a", ""], [class_colour(2)] * 2
    )
    assert tuple(outside[3, 1]) == COLOURS[2]  # the label is pushed into the picture


def test_sheets_have_a_cell_for_each_picture():
    small = [Drawing(np.full((8, 6, 3), 10 * i, np.uint8), caption="a name " * i) for i in range(1, 7)]
    found = sheets.make_sheet(small, 4)
    assert found.shape == (2 * (96 + 18 + 6) + 6, 4 * 102 + 6, 3)
    assert tuple(found[6 + 48, 6 + 48]) == (10, 10, 10)
    large = Drawing(np.zeros((640, 320, 3), np.uint8), np.array([[10, 10, 200, 300]]), ["x"], [class_colour(0)])
    assert sheets.render_cell(large, 320).shape == (320, 160, 3)
    assert to_picture(torch.full((1, 4, 5), 0.5)).tolist() == np.full((4, 5, 3), 128).tolist()
    assert to_picture(torch.full((5, 4, 5), 9, dtype=torch.uint8)).shape == (4, 5, 3)


@pytest.mark.parametrize("kind", ["boxes", "areas", "outlines", "points", "bars"])
def test_sheets_show_every_kind_of_annotation_where_it_is(kind):
    """Each kind is drawn on the right half of a picture twice as large as its cell, and is found on the cell's half."""
    plain, red = np.full((640, 640, 3), 120, np.uint8), (255, 0, 0)
    box, mask = np.array([[420.0, 200, 600, 440]]), np.zeros((640, 640), bool)
    mask[200:440, 420:600] = True
    turned = np.array([[[510.0, 200], [600, 320], [510, 440], [420, 320]]])
    drawing = {
        "boxes": Drawing(plain, box, [""], [red]),
        "areas": Drawing(plain, areas=[(mask, red)]),
        "outlines": Drawing(plain, box, [""], [red], outlines=turned),
        "points": Drawing(plain, points=[(np.array([[510.0, 320]]), red)]),
        "bars": Drawing(plain, bars=[("name", 0.5, red)]),
    }[kind]
    cell = sheets.make_sheet([drawing])[6:326, 6:326].astype(int)
    rows, columns = np.nonzero(cell[..., 0] - cell[..., 1] > 60)
    if kind == "bars":  # a cell has no room for them
        assert not len(rows)
        return
    assert len(rows) >= 9  # a dot of a keypoint has 3 x 3 pixels within its rim
    assert 205 < columns.min() <= columns.max() < 305
    assert 95 < rows.min() <= rows.max() < 225
    assert {"boxes": (100, 210), "areas": (160, 255), "outlines": (160, 210), "points": (160, 255)}[kind] in set(
        zip(rows.tolist(), columns.tolist(), strict=True)
    )
    assert drawing.scale(0.5).scale(2).render().shape[:2] == (drawing.render().shape[0], 640)


def test_a_detectors_batches_show_truth_and_predictions(tmp_path):
    task = make_task(netbuild.build("yolo11n.yaml", nc=3), ["cat", "dog", "hen"])
    batch = {
        "images": torch.full((2, 3, 96, 128), 100, dtype=torch.uint8),
        "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.2, 0.2]]),
        "classes": torch.tensor([1, 2]),
        "index": torch.tensor([0, 1]),
    }
    found = [torch.tensor([[30.0, 20, 90, 70, 0.9, 1], [0, 0, 50, 50, 0.01, 2]]), torch.zeros(0, 6)]
    truth = task.draw_truth(batch, 0)
    seen, none = (plotting.draw_prediction(task, to_picture(batch["images"][i]), found[i]) for i in (0, 1))
    assert (truth.boxes.tolist(), truth.labels) == ([[32, 24, 96, 72]], ["dog"])
    assert (seen.boxes.tolist(), seen.labels) == ([[30, 20, 90, 70]], ["dog 0.90"])
    assert len(none.boxes) == 0
    plotting.save_comparison(task, batch, found, tmp_path / "val.png")
    assert image(tmp_path / "val.png").shape[1] == 4 * (256 + 6) + 6
    metric = task.metric()
    metric.update(found, batch)
    assert sorted(p.name for p in charts.save_all(metric.plots(), tmp_path)) == ["confusion.png", "curves.png"]


def test_data_stats_draws_a_data_set(cli, tmp_path, monkeypatch):
    plain = cli("data", "stats", "digits", "--json")
    done = cli("data", "stats", "digits", "--json", "-o", tmp_path / "a")
    assert (done.code, done.out) == (0, plain.out), done.err
    kinds = [f"{kind}_{split}.png" for kind in ("labels", "pictures", "samples") for split in ("train", "test")]
    assert pngs(tmp_path / "a") == set(kinds)
    report = scan(open_data("digits"))
    first, again, other = (
        overview.draw_samples(report.samples("train"), report.dataset.names, seed) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()
    boxes = np.array([[0, 0.5, 0.5, 0.5, 0.5], [2, 0.25, 0.5, 0.5, 1.0]])
    sample = Sample("x", (40, 20), boxes, pixels=np.full((20, 40, 3), 90, np.uint8))
    shown = overview.draw_sample(sample, ["a", "b", "c"])
    assert (shown.boxes.tolist(), list(shown.labels)) == ([[10, 5, 30, 15], [0, 0, 20, 20]], ["a", "c"])
    assert len(overview.draw_labels([sample], ["a", "b", "c"]).axes[0].patches) == 3


def test_progress_shows_memory_and_map(tmp_path):
    class Run:
        progress = type("", (), {"seconds": 3.0})
        task = DetectTask

    line = epoch_line(Run, 1, 2, {"train/box": 1.5, "mAP50": 0.5, "mAP50-95": 0.25, "AR1": 0.1}, True)
    assert line == "epoch 1/2: box 1.5000, mAP50-95 0.2500, mAP50 0.5000, 3.0 s an epoch, best so far"
    assert 10_000_000 < memory_in_use(torch.device("cpu")) < 100_000_000_000
