"""Several labels a picture, and numbers: losses and measures against plain second versions, and whole runs as users."""

import json

import numpy as np
import pytest
import torch
from helpers.scenes import write_few_scenes
from PIL import Image

import netbuild
from netbuild import runtime
from netbuild.data import open_data
from netbuild.data.shapes import files
from netbuild.drawing.charts import encode_png
from netbuild.errors import NetbuildError
from netbuild.settings import Settings
from netbuild.tasks.multilabel import MultiLabelTask
from netbuild.tasks.multilabel_metric import MultiLabelMetric
from netbuild.tasks.regress import RegressTask
from netbuild.tasks.regression_metric import RegressionMetric

NAN = float("nan")
QUICK = ("--device", "cpu", "-Oworkers=0", "--batch", 4)


def numbers_head(nc):
    return netbuild.layers.Regress(nc).train()


# -- losses -----------------------------------------------------------------------------------------------------------


def test_the_loss_of_labels_is_the_mean_over_those_that_are_known():
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.randint(0, 2, (5, 3)).double()
    labels[1, 2] = labels[4, 0] = NAN
    weights = torch.tensor([1.0, 3.0, 0.5])
    total, parts = MultiLabelTask(torch.nn.Identity(), [*"abc"], 0.1, weights).loss(logits, {"labels": labels})
    expected, count = 0.0, 0
    for i in range(5):
        for j in range(3):
            y = float(labels[i, j])
            if y != y:
                continue
            y, p = y * 0.9 + 0.05, 1 / (1 + np.exp(-float(logits[i, j])))
            expected -= float(weights[j]) * y * np.log(p) + (1 - y) * np.log(1 - p)
            count += 1
    assert float(total) == pytest.approx(expected / count, rel=1e-5) == float(parts["cls"])


def test_several_processes_average_to_the_loss_of_one():
    """Labels that are not known are not the same in each share of a batch."""
    values = torch.randn(6, 2)
    values[0, 1] = values[4, 0] = values[5, 0] = values[5, 1] = NAN
    labels = torch.where(values.isnan(), values, (values > 0).float())
    predicted = torch.randn(6, 2)
    for task, batch in (
        (MultiLabelTask(torch.nn.Identity(), [*"ab"]), {"labels": labels}),
        (RegressTask(numbers_head(2), [*"ab"], "l1"), {"numbers": values}),
    ):
        whole = task.loss(predicted, batch)[0]
        task.normaliser = lambda total, least: torch.tensor(8 / 2)  # known values of all processes, in the mean of two
        parts = [
            task.loss(predicted[rows], {name: found[rows] for name, found in batch.items()})[0]
            for rows in (slice(0, None, 2), slice(1, None, 2))
        ]
        torch.testing.assert_close(sum(parts) / 2, whole)


def test_the_lower_bound_of_soft_labels_is_reached():
    labels = torch.tensor([[0.3, 1.0], [0.0, NAN]])
    task = MultiLabelTask(torch.nn.Identity(), [*"ab"], 0.2, torch.tensor([2.0, 1.0]))
    bound = task.lower_bound(labels, {"labels": labels})
    logits = torch.zeros(2, 2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def step():
        optimizer.zero_grad()
        loss = task.loss(logits, {"labels": labels})[0]
        loss.backward()
        return loss

    optimizer.step(step)
    assert bound == pytest.approx(step().item(), abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("l1", abs), ("l2", lambda x: x * x), ("huber", lambda x: x * x / 2 if abs(x) < 1 else abs(x) - 0.5)],
)
def test_the_loss_of_numbers_is_in_standard_deviations(kind, error):
    values = torch.tensor([[1e9, 2.0], [1e9 + 300, 4.0], [1e9 + 100, NAN]], dtype=torch.float64)
    head = numbers_head(2)
    statistics = torch.tensor([1e9, 3.0]).double(), torch.tensor([100.0, 0.5]).double()
    task = RegressTask(head, ["time", "size"], kind, statistics)
    predicted = torch.tensor([[0.5, 1.0], [-1.0, 2.0], [1.0, 7.0]])
    total, _ = task.loss(predicted, {"numbers": values})
    differences = [0.5 - 0, 1 - (-2), -1 - 3, 2 - 2, 1 - 1]
    assert float(total) == pytest.approx(sum(map(error, differences)) / 5, rel=1e-5)
    torch.testing.assert_close(head.eval()(predicted)[:, 1], torch.tensor([3.5, 4.0, 6.5]))


def test_statistics_are_of_the_training_data():
    samples = [type("Sample", (), {"numbers": np.array(row)})() for row in ([1.0, 5.0], [3.0, 5.0], [NAN, 5.0])]
    options = RegressTask.options_of(Settings(regression_loss="l2"), samples, 2)
    mean, deviation = options["statistics"]
    assert (mean.tolist(), deviation.tolist(), options["loss"]) == ([2, 5], [1, 1], "l2")
    with pytest.raises(NetbuildError, match="known for no training picture"):
        RegressTask.options_of(Settings(), [type("Sample", (), {"numbers": np.array([NAN])})()], 1)
    labels = [type("Sample", (), {"labels": np.array(row)})() for row in ([1, 0], [0, 0], [0, NAN], [0, 1])]
    weights = MultiLabelTask.options_of(Settings(class_weights=0.5), labels, 2)["positive_weights"]
    assert weights.tolist() == pytest.approx([3**0.5, 2**0.5])


# -- measures ---------------------------------------------------------------------------------------------------------


def test_measures_of_labels_equal_those_of_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    p = rng.random((200, 3)).round(2)  # many equal scores
    truth = (rng.random((200, 3)) < (0.2, 0.5, 0.0)).astype(float)
    truth[:20, 1] = NAN
    metric = MultiLabelMetric(["rare", "partly", "never"])
    for start in (0, 150):
        part = slice(start, 150 if start == 0 else 200)
        metric.update(torch.from_numpy(p[part]), {"labels": torch.from_numpy(truth[part])})
    rows, result = metric.classes(), metric.result()
    assert [row["class"] for row in rows] == ["rare", "partly"]
    for j, row in enumerate(rows):
        known = np.isfinite(truth[:, j])
        real, scores = truth[known, j], p[known, j]
        assert row["AP"] == pytest.approx(metrics.average_precision_score(real, scores))
        for name, function in (
            ("F1", metrics.f1_score),
            ("precision", metrics.precision_score),
            ("recall", metrics.recall_score),
        ):
            assert row[name] == pytest.approx(function(real, scores >= 0.5))
        best = max(metrics.f1_score(real, scores >= t) for t in np.unique(scores))
        assert row["F1-best"] == pytest.approx(best)
        assert metrics.f1_score(real, scores >= row["threshold"]) == pytest.approx(best)
    assert result["mAP"] == pytest.approx(np.mean([row["AP"] for row in rows])) == result["fitness"]
    right = [all(np.isnan(t) or (q >= 0.5) == (t == 1) for q, t in zip(a, b, strict=True)) for a, b in zip(p, truth)]
    assert result["exact"] == pytest.approx(np.mean(right))
    json.dumps(metric.tables())
    assert encode_png(metric.plots()["curves"]()).startswith(b"\x89PNG")
    assert MultiLabelMetric(["a"]).result()["mAP"] == 0


def test_measures_of_numbers_equal_those_of_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    truth = rng.normal(5, 3, (60, 3))
    p = truth + rng.normal(0, 1, truth.shape)
    truth[:, 2], truth[:10, 1] = 7, NAN
    metric = RegressionMetric(["a", "partly", "same"])
    metric.update(torch.from_numpy(p), {"numbers": torch.from_numpy(truth)})
    for j, row in enumerate(metric.classes()):
        known = np.isfinite(truth[:, j])
        real, predicted = truth[known, j], p[known, j]
        assert row["images"] == known.sum()
        assert row["R2"] == (pytest.approx(metrics.r2_score(real, predicted)) if j < 2 else 0)
        assert row["MAE"] == pytest.approx(metrics.mean_absolute_error(real, predicted))
        assert row["RMSE"] == pytest.approx(metrics.mean_squared_error(real, predicted) ** 0.5)
    result = metric.result()
    assert result["fitness"] == result["R2"] == pytest.approx(np.mean([row["R2"] for row in metric.classes()]))
    json.dumps(metric.tables(), allow_nan=False)
    assert encode_png(metric.plots()["scatter"]()).startswith(b"\x89PNG")


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multilabel", "regress"])
@pytest.mark.parametrize("file", ["yolo11-cls.yaml", "lenet5.yaml"])
def test_the_task_alone_makes_a_network_of_one_that_classifies(tmp_path, file, task):
    own = tmp_path / "own.yaml"
    own.write_text(f"extends: {file}\ntask: {task}\nnc: 3\n")
    network = netbuild.build(own)
    assert network.card.task == task
    images = torch.rand(2, network.card.ch, *network.card.imgsz)
    assert network.train()(images).shape == network.eval()(images).shape == (2, 3)
    saved = netbuild.save(network, tmp_path / "net.safetensors", names=[*"abc"])
    torch.testing.assert_close(netbuild.build(saved).eval()(images), network(images))
    own.write_text(f"task: {task}\nnc: 3\nlayers:\n  - [-1, 1, nn.Flatten, []]\n  - [-1, 1, nn.Linear, [12288, 4]]\n")
    with pytest.raises(NetbuildError, match=r"row 2 \w+: expected 3 numbers for each picture \(B, 3\), not \[1, 4\]"):
        netbuild.build(own, imgsz=64)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with few embedded scenes, and a network that is small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    write_few_scenes(tmp_path / "cache", 8, 4)
    (tmp_path / "small.yaml").write_text(
        "nc: 10\nimgsz: 32\ntask: classify\nlayers:\n  - [-1, 1, Conv, [8, 3, 2]]\n  - [-1, 1, Classify, [nc]]\n"
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "data", "measure"), [("multilabel", "shapes-labels", "mAP"), ("regress", "shapes-numbers", "R2")]
)
def test_a_network_that_classifies_learns_what_the_data_have(cli, here, task, data, measure):
    """Train, resume, validate, export, and predict by both runtimes alike."""
    done = cli("train", "small.yaml", "--data", data, "--epochs", 1, "-o", "run", *QUICK)
    assert done.code == 0, done.err
    assert f"note: {data} is a data set for '{task}', so this becomes the task of the network" in done.err
    assert cli("train", "--resume", "run", "--epochs", 2).code == 0
    for name in ("labels", "curves" if task == "multilabel" else "scatter", "val_batch0", "train_batch0", "metrics"):
        assert (here / f"run/{name}.png").is_file()
    of_torch = json.loads(cli("val", "run/last.safetensors", "--data", data, "-Oworkers=0", "--json", "-o", "v").out)
    done = cli("export", "run/last.safetensors", "-o", "net.onnx")
    assert (done.code, "proven equal to torch" in done.out) == (0, True)
    of_file = json.loads(cli("val", "net.onnx", "--data", data, "-Oworkers=0", "--json").out)
    assert of_file["measures"][measure] == pytest.approx(of_torch["measures"][measure], abs=1e-3)
    picture = here / f"cache/{files.TABLES_FOLDER}-{files.LAYOUT}/{data}/images/val/0000.png"
    flags = ["--conf", "0.2"] if task == "multilabel" else []
    found = [
        json.loads(cli("predict", file, picture, "--json", *flags).out)["pictures"][0]["records"]
        for file in ("run/last.safetensors", "net.onnx")
    ]
    plain = runtime.load("net.onnx").predict(picture, **({"conf": 0.2} if flags else {}))["records"]
    assert [r["name"] for r in found[0]] == [r["name"] for r in found[1]] == [r["name"] for r in plain]
    key = "confidence" if task == "multilabel" else "value"
    for records in (found[1], plain):
        assert [r[key] for r in records] == pytest.approx([r[key] for r in found[0]], rel=1e-3)
    done = cli("predict", "run/last.safetensors", picture, "--save", "pictures,txt", "-o", "out", *flags)
    assert done.code == 0, done.err
    rows = (here / "out/labels/0000.txt").read_text().splitlines()
    assert [float(row.split()[1]) for row in rows] == pytest.approx([r[key] for r in found[0]], rel=1e-4)
    assert Image.open(here / "out/0000.png").height > Image.open(picture).height
    if task == "regress":
        values = [s.numbers for s in open_data(data).split("train").samples]
        state = netbuild.build("run/last.safetensors").model[-1]
        np.testing.assert_allclose(state.mean, np.mean(values, 0), rtol=1e-5)
        np.testing.assert_allclose(state.deviation, np.std(values, 0), rtol=1e-5)
        assert [r["name"] for r in found[0]] == ["objects", "depth"]


def test_labels_below_the_confidence_are_not_given(here):
    network = netbuild.build("small.yaml", task="multilabel", nc=3)
    image = np.zeros((32, 32, 3), np.uint8)
    result = next(netbuild.predict(network, image, conf=0.0))
    assert [r["confidence"] for r in result.records] == sorted(result.probs, reverse=True) or len(result) == 3
    limit = float(sorted(result.probs)[1])
    assert len(next(netbuild.predict(network, image, conf=limit)).records) == 2
    with pytest.raises(NetbuildError, match="--conf 2: must be from 0 to 1"):
        next(netbuild.predict(network, image, conf=2))
    with pytest.raises(NetbuildError, match="--iou has no effect for the task 'multilabel'"):
        next(netbuild.predict(network, image, iou=0.5))


def test_other_data_become_labels_and_numbers_with_a_note(cli, here):
    (here / "several.yaml").write_text("extends: small.yaml\ntask: multilabel\n")
    (here / "count.yaml").write_text("extends: small.yaml\ntask: regress\nch: 1\n")
    for file, data, note in (
        ("several.yaml", "shapes-segment", "note: shapes-segment: the labels of a picture are its classes of objects"),
        ("count.yaml", "digits", "note: digits: the labels are read as numbers, from 0 to 9"),
    ):
        done = cli("train", file, "--data", data, "--overfit-batch", "--epochs", 2, *QUICK)
        assert note in done.err, done.err
    for file, data, message in (
        ("count.yaml", "shapes-labels", "is a data set for 'multilabel', the network's task is 'regress'"),
        ("yolo11n.yaml", "shapes-numbers", "is a data set for 'regress', the network's task is 'detect'"),
        ("several.yaml", "shapes-numbers", "is a data set for 'regress', the network's task is 'multilabel'"),
    ):
        done = cli("train", file, "--data", data, "--epochs", 1, *QUICK)
        assert (done.code, message in done.err) == (2, True), done.err


@pytest.mark.slow
@pytest.mark.parametrize("data", ["shapes-labels", "shapes-numbers"])
def test_one_batch_is_learnt_by_heart(cli, here, data):
    done = cli("train", "yolo11n-cls.yaml", "--data", data, "--imgsz", 64, "--overfit-batch", "--epochs", 60, *QUICK)
    assert done.code == 0, done.out
