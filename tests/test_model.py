"""The Python interface: `netbuild.Model`, the verbs beside it, and what a user finds by looking."""

import inspect
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from typing import Unpack, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import netbuild
from netbuild.errors import KeywordError, NetbuildError
from netbuild.export.options import BenchmarkKeywords, BenchmarkOptions, ExportKeywords, ExportOptions
from netbuild.graph.opening import NetworkOptions
from netbuild.prediction.predictor import PredictKeywords
from netbuild.settings import FIELDS, Settings
from netbuild.training.api import TrainKeywords, ValKeywords
from netbuild.training.setting_keywords import SettingKeywords

QUICK = {"epochs": 1, "workers": 0, "plots": False, "device": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    model = netbuild.Model("lenet5-modern.yaml")
    return model, model.train(out=tmp_path_factory.mktemp("runs") / "run", **QUICK)


def test_a_model_is_summarised_and_built():
    model = netbuild.Model("yolo11n.yaml", nc=5)
    assert model.summary().totals["params"] == 2_590_815
    assert sum(p.numel() for p in model.network.parameters()) == 2_590_815
    assert model.network is model.network
    assert repr(model) == "Model('yolo11n.yaml', nc=5)"
    assert "2,590,815 parameters" in model._repr_html_()
    assert model._repr_html_().count("<tr>") == 1 + 24


def test_training_gives_a_result_and_makes_the_model_the_best_checkpoint(trained):
    model, result = trained
    assert (result.epochs, result.best_epoch, result.measure) == (1, 1, "fitness")
    assert result.best.is_file()
    assert result.last.is_file()
    assert model.file == result.best
    assert result.measures["top1"] == result.history[0]["top1"] > 0.2
    assert str(result).startswith(str(result.folder))
    assert result.to_dict()["best"] == str(result.best)


def test_measures_are_those_of_the_run(trained):
    model, result = trained
    found = model.val("digits", workers=0)
    assert found["top1"] == pytest.approx(result.measures["top1"], abs=1e-6)
    assert found.to_dict()["measures"] == found.measures
    assert found._repr_html_().count("<tr>") == 2 + len(found.classes)
    assert str(found).startswith("class all")


def test_a_runs_folder_and_its_onnx_file_are_models_too(trained, tmp_path):
    model, result = trained
    again = netbuild.Model(result.folder)
    assert again.file == result.best
    written = model.export("onnx", tmp_path / "net.onnx")
    exported = netbuild.Model(written.path)
    picture = tmp_path / "0.png"
    Image.fromarray(np.full((32, 32), 200, np.uint8)).save(picture)
    (one,), (other,) = list(again.predict(picture)), list(exported.predict(picture))
    assert one.records[0]["name"] == other.records[0]["name"]
    assert exported.val("digits", workers=0)["top1"] == pytest.approx(result.measures["top1"], abs=2e-3)
    for deed in (exported.train, exported.export, exported.summary, exported.benchmark):
        with pytest.raises(NetbuildError, match="an ONNX file cannot be"):
            deed()


def test_options_of_the_network_hold_for_prediction_too():
    model = netbuild.Model("yolo11.yaml", scale="n", nc=3, imgsz=64)
    (result,) = model.predict(np.zeros((64, 64, 3), np.uint8))
    assert result.task.head is model.network.model[-1]
    assert result.task.head.nc == 3


def test_a_run_goes_on(trained):
    _, result = trained
    more = netbuild.train(resume=result.folder, epochs=2)
    assert (more.epochs, more.folder) == (2, result.folder)
    with pytest.raises(NetbuildError, match="out has no effect with resume"):
        netbuild.train(resume=result.folder, out="elsewhere")


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: netbuild.train("lenet5.yaml", epoch=3), "epochs"),
        (lambda: netbuild.val("best.safetensors", "digits", confidence=0.4), "conf"),
        (lambda: netbuild.Model("lenet5.yaml", classes=3), "keywords are"),
        (lambda: netbuild.Model("yolo11.yaml").summary(scal="n"), "scale"),
        (lambda: netbuild.export("lenet5.yaml", dynamical="batch"), "dynamic"),
        (lambda: netbuild.benchmark("lenet5.yaml", round=3), "rounds"),
    ],
)
def test_a_wrong_keyword_is_refused_with_the_nearest_one(call, hint):
    with pytest.raises(KeywordError, match="no keyword") as caught:
        call()
    assert hint in caught.value.hint


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(NetbuildError, match=r"the folder has no best\.safetensors"):
        netbuild.Model(tmp_path)
    with pytest.raises(NetbuildError, match="needs the network's file"):
        netbuild.train()


def test_keywords_of_settings_are_the_settings():
    assert get_type_hints(SettingKeywords) == get_type_hints(Settings)
    assert [f.name for f in fields(Settings)] == list(SettingKeywords.__annotations__) == list(FIELDS)


def test_keywords_of_export_and_benchmark_are_their_options():
    for kind, keywords in ((ExportOptions, ExportKeywords), (BenchmarkOptions, BenchmarkKeywords)):
        hints = {name: hint for name, hint in get_type_hints(kind).items() if name != "target"}
        own = get_type_hints(keywords).items()
        assert hints == {name: hint for name, hint in own if name in hints}
        assert get_type_hints(keywords).keys() - {"target"} == hints.keys() | NetworkOptions.__annotations__.keys()


# Flags that have no keyword, and what does the same from Python.
NO_KEYWORD = {
    "train": {
        "option": "every setting is a keyword", "print_config": "print(Settings())", "no_amp": "amp='off'",
        "overfit": "netbuild.training.run.overfit_batch", "nproc": "torchrun", "nnodes": "torchrun",
        "node_rank": "torchrun", "rdzv": "torchrun", "trust": "trusted",
    },
    "val": {"option": "every setting is a keyword", "nproc": "torchrun", "json": "to_dict()", "trust": "trusted"},
    "predict": {
        "pictures": "source", "save": "Result.plot()", "out": "Result.plot()", "json": "Result.to_dict()",
        "trust": "trusted",
    },
    "export": {"sizes": "imgsz=(height, width)", "json": "to_dict()", "trust": "trusted"},
    "benchmark": {"json": "to_dict()", "trust": "trusted"},
}  # fmt: skip
KEYWORDS = {
    "train": TrainKeywords, "val": ValKeywords, "predict": PredictKeywords, "export": ExportKeywords,
    "benchmark": BenchmarkKeywords,
}  # fmt: skip


@pytest.mark.parametrize("command", sorted(NO_KEYWORD))
def test_each_flag_has_its_keyword(command):
    home = {"train": "training", "val": "training", "benchmark": "export"}.get(command, command)
    flags = {*inspect.signature(getattr(import_module(f"netbuild.cli.{home}"), command)).parameters}
    assert NO_KEYWORD[command].keys() <= flags
    first = {"file", "model"} if command == "predict" else set()  # the network, by the verb's own name
    keywords = {*inspect.signature(getattr(netbuild, command)).parameters, *get_type_hints(KEYWORDS[command])}
    assert flags - NO_KEYWORD[command].keys() - first <= keywords


@pytest.mark.parametrize("verb", ["train", "val", "predict", "export", "benchmark", "summarize"])
def test_methods_of_a_model_have_the_keywords_of_the_functions(verb):
    function = inspect.signature(getattr(netbuild, verb)).parameters
    method = inspect.signature(getattr(netbuild.Model, {"summarize": "summary"}.get(verb, verb))).parameters
    assert function.keys() - {"file", "model", "resume", "options", "keywords"} <= method.keys()
    (annotation,) = [p.annotation for p in method.values() if p.kind is p.VAR_KEYWORD]
    assert get_origin(annotation) is Unpack  # editors complete a TypedDict


@pytest.mark.slow
def test_calls_from_python_show_progress_on_a_terminal_only(tmp_path, monkeypatch, capfd):
    options = {"data": "digits", "epochs": 1, "device": "cpu", "workers": 0, "imgsz": 32, "plots": False}
    model = netbuild.Model("lenet5.yaml")
    model.train(**options, out=tmp_path / "a")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    model.val("digits", progress=False)
    netbuild.train("lenet5.yaml", **options, out=tmp_path / "b", progress=False)
    assert capfd.readouterr() == ("", "")
    model.train(**options, out=tmp_path / "c")
    assert "epoch 1/1: cls" in capfd.readouterr().err


def test_options_of_export_without_effect_are_refused(tmp_path):
    network = netbuild.build("lenet5.yaml")
    before = torch.get_rng_state()
    one, other = (netbuild.export("lenet5.yaml", tmp_path / f"{i}.pt2", target="torch-export", seed=7) for i in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)  # the caller's generator
    weights = [torch.export.load(done.path).state_dict for done in (one, other)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    for keywords, said in (
        ({"conf": 0.4}, "--conf has no effect without --nms"),
        ({"seed": 3}, "--seed has no effect on a network that is built"),
        ({"nc": 3}, "--nc has no effect on a network that is built"),
    ):
        with pytest.raises(NetbuildError, match=said):
            netbuild.export(network, tmp_path / "x.onnx", **keywords)


def test_what_there_is_can_be_found_by_looking():
    assert {*netbuild.__all__} <= {*dir(netbuild)}
    for name in netbuild.__all__:
        assert getattr(netbuild, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        netbuild.trian  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        "import netbuild; from netbuild.export.base import Target; verb = netbuild.export",
        pytest.param(
            "import netbuild; verb = netbuild.export; from netbuild.export.base import Target", marks=pytest.mark.slow
        ),
        pytest.param(
            "import netbuild.export.base; verb = netbuild.export; from netbuild.export.base import Target",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_export_is_a_verb_and_the_package_of_targets(lines):
    code = f"{lines}; import inspect; assert callable(verb) and callable(netbuild.export); "
    code += "assert 'target' in inspect.signature(netbuild.export).parameters; assert Target.__name__ == 'Target'"
    subprocess.run([sys.executable, "-c", code], check=True)
