"""Loggers for other programs, by their real offline stores: what was logged is read back."""

import csv
import json
import os
import socket
import sys

import pytest
import torch

import netbuild
from netbuild.errors import MissingExtraError
from netbuild.training.loggers.wandb import WandbLogger

QUICK = ("--batch", "64", "--device", "cpu", "-O", "workers=0", "-O", "lr=0.003", "-O", "plots=false")


@pytest.fixture
def offline(monkeypatch):
    """A user whose environment says nothing of loggers; connections that leave the machine are refused and noted."""
    refused = []
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            refused.append(address)
            raise OSError("no network in this test")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY"):  # so that they are taken away afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield refused
    assert refused == []


def results(folder):
    with (folder / "results.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def weights(folder):
    return netbuild.build(folder / "last.safetensors").state_dict()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The weights of an epoch without loggers."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    settings = {"batch": 64, "device": "cpu", "workers": 0, "lr": 0.003, "plots": False}
    netbuild.train("lenet5-modern.yaml", out=folder, epochs=1, **settings)
    return weights(folder)


def train_twice(cli, folder, setting, plain):
    """An epoch, then a second one after --resume; the weights are those of a run without the logger."""
    done = cli("train", "lenet5-modern.yaml", *QUICK, "--epochs", "1", "-O", setting, "-o", folder)
    assert done.code == 0, done.err
    assert "left out" not in done.err
    for key, tensor in weights(folder).items():
        assert torch.equal(tensor, plain[key]), key
    done = cli("train", "--resume", folder, "--epochs", "2")
    assert done.code == 0, done.err
    assert "left out" not in done.err


def wandb_records(path):
    """The records of an offline run of W&B: LevelDB's log format, blocks of 32 KB with parts of 7 bytes' head."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, part = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        part += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(part)
            part = b""


@pytest.mark.slow
def test_wandb_logs_offline_and_a_resumed_run_keeps_its_id(cli, tmp_path, offline, plain):
    pytest.importorskip("wandb.sdk")
    folder = tmp_path / "a run"
    train_twice(cli, folder, "wandb=true", plain)
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    first, second = ([*wandb_records(path)] for path in files)
    runs = [record.run for record in (*first, *second) if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert {(run.project, run.display_name) for run in runs} == {("netbuild", "a run")}
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert (config["epochs"], config["network"], config["lr"]) == (1, "lenet5-modern", 0.003)
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in (*first, *second)
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["_step"] for row in rows] == [1, 2]
    for row, expected in zip(rows, results(folder), strict=True):
        assert row["train/cls"] == pytest.approx(expected["train/cls"], rel=1e-4)
        assert row["val/top1"] == pytest.approx(expected["top1"], rel=1e-4)
        assert row["lr"] > 0
    artifacts = [r.request.log_artifact.artifact for r in second if r.request.HasField("log_artifact")]
    artifacts += [record.artifact for record in second if record.WhichOneof("record_type") == "artifact"]
    references = {entry.path: entry.ref for artifact in artifacts for entry in artifact.manifest.contents}
    assert references["best.safetensors"] == (folder / "best.safetensors").as_uri()
    assert not list((folder / "wandb").rglob("*.safetensors"))


@pytest.mark.slow
def test_mlflow_logs_into_the_folder_and_a_resumed_run_keeps_its_id(cli, tmp_path, offline, plain, monkeypatch):
    pytest.importorskip("mlflow.entities")
    pytest.importorskip("alembic")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a run"
    train_twice(cli, folder, "mlflow=true", plain)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("netbuild")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("a run", "FINISHED")
    assert (run.data.params["epochs"], run.data.params["network"]) == ("1", "lenet5-modern")
    assert run.data.tags["resumed.epochs"] == "2"
    assert run.data.tags["checkpoint.best"] == str(folder / "best.safetensors")
    for name, column in (("train/cls", "train/cls"), ("val/top1", "top1")):
        points = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in points] == [1, 2]
        assert [point.value for point in points] == pytest.approx([row[column] for row in results(folder)], rel=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a run"]  # no mlruns/


def test_without_its_package_a_run_that_turns_a_logger_on_does_not_begin(cli, tmp_path, monkeypatch):
    for setting in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, setting, None)
        done = cli("train", "lenet5-modern.yaml", *QUICK, "-O", f"{setting}=true", "-o", tmp_path / "run")
        assert done.code == 3
        assert f"netbuild[{setting}]" in done.err
        assert not (tmp_path / "run").exists()


def test_a_folder_named_wandb_is_not_taken_for_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    for name in [name for name in sys.modules if name.split(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtraError, match="wandb"):
        WandbLogger()
