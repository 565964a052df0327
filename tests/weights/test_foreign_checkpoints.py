"""A .pt or .pth, and the folder of a run, where a network is wanted: opened like a checkpoint, and said in a line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.filled_weights import fill
from helpers.foreign_models import save_model
from PIL import Image

import netbuild
from netbuild import NetbuildError

ROWS = {
    "nc": 10, "task": "classify",
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C2f", [16, True]]],
    "head": [[-1, 1, "Classify", ["nc"]]],
}  # fmt: skip
SAID = "read as an Ultralytics checkpoint; netbuild weights import keeps it"
DATA = ["--data", "digits", "--imgsz", "8"]
COMMANDS = {
    "summary": ["FILE"], "graph": ["FILE"], "diff": ["FILE", "own.safetensors"], "check": ["FILE"], "show": ["FILE"],
    "show resolved": ["FILE", "--resolved"], "check quick": ["FILE", "--no-shapes"],
    "build": ["FILE", "-o", "o.safetensors"],
    "build weights": ["own.yaml", "--weights", "FILE", "-o", "o.safetensors"],
    "val": ["FILE", *DATA], "predict": ["FILE", "x.png", "-o", "seen"], "export": ["FILE", "--target", "torchscript"],
    "eject": ["FILE"], "view": ["FILE", "--row", "0", "--what", "kernels", "-o", "views"],
    "train": ["FILE", *DATA, "--epochs", "1", "--batch", "512", "-o", "run", "-O", "plots=false", "-O", "workers=0"],
    "weights import": ["FILE", "-o", "o.safetensors"],
    "view weights": ["own.yaml", "--weights", "FILE", "--row", "0", "--what", "kernels", "-o", "views"],
}  # fmt: skip


def commands_slow_but(*quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in COMMANDS]


AS_WEIGHTS = ("build weights", "view weights", "weights import")


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Return a network, written as own.safetensors and own.yaml, and as the pickled model foreign.pt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(json.dumps({**ROWS, "imgsz": 64}))
    found = fill(netbuild.build("own.yaml")).eval()
    netbuild.save(found, "own.safetensors", names=[f"class {i}" for i in range(10)])
    save_model(found, ROWS, "foreign.pt")
    Image.effect_noise((64, 64), 90).convert("RGB").save("x.png")
    return found


def call(cli, name, file):
    words = name.split() if name == "weights import" else name.split()[:1]
    return cli(*words, *(file if item == "FILE" else item for item in COMMANDS[name]))


def make_run(folder, *files):
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    for origin, name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(origin, folder / name)
    return folder


@pytest.mark.parametrize("name", commands_slow_but(*(set(COMMANDS) - {"eject", "export", "train", "val"})))
def test_every_command_opens_it(cli, network, name):
    done = call(cli, name, "foreign.pt")
    assert done.code == 0, done.err
    assert done.err.count(SAID) == (name not in AS_WEIGHTS), done.err
    assert "random" not in done.err


@pytest.mark.parametrize("name", commands_slow_but("summary", "predict", "check"))
def test_the_folder_of_a_run_means_its_best_checkpoint(cli, network, tmp_path, name):
    make_run(tmp_path / "old", ("own.safetensors", "best.safetensors"))
    if name == "weights import":
        shutil.copy("foreign.pt", tmp_path / "old" / "best.pt")
        (tmp_path / "old" / "weights").mkdir()
        (tmp_path / "old" / "best.safetensors").unlink()
        (tmp_path / "old" / "best.pt").rename(tmp_path / "old" / "weights" / "best.pt")
    done = call(cli, name, "old")
    assert done.code == 0, done.err
    said = (
        "note: old: the run's " + ("weights/best.pt" if name == "weights import" else "best.safetensors") + " is read"
    )
    assert done.err.count(said) == 1, done.err
    assert "random" not in done.err


@pytest.mark.parametrize("file", ["foreign.pt", "foreign.pth", "FOREIGN.PT", "foreign.ckpt", "foreign", "old"])
def test_it_is_the_network_of_its_weights(network, tmp_path, file):
    make_run(tmp_path / "old", ("foreign.pt", "weights/best.pt"))
    if file != "old":
        shutil.copy("foreign.pt", f"copy-{file}")
        file = f"copy-{file}"
    x = torch.rand(1, 3, 64, 64)
    found = netbuild.build(file).eval()
    torch.testing.assert_close(found(x)[0], network(x)[0])
    assert found.card.names == [f"class {i}" for i in range(10)]
    assert netbuild.Model(file).network.card.imgsz == (64, 64)
    assert netbuild.load(file).checkpoint is not None


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ([("own.safetensors", "last.safetensors")], "last.safetensors"),
        ([("foreign.pt", "weights/last.pt")], "weights/last.pt"),
        ([("own.safetensors", "best.safetensors"), ("own.safetensors", "last.safetensors")], "best.safetensors"),
        ([("foreign.pt", "weights/last.pt"), ("foreign.pt", "weights/best.pt")], "weights/best.pt"),
    ],
)
def test_what_is_read_of_a_folder(cli, network, tmp_path, files, chosen):
    # A run may have the name of a packaged network: what is there comes first.
    make_run(tmp_path / "lenet5", *files)
    done = cli("summary", "lenet5")
    assert (done.code, f"note: lenet5: the run's {chosen} is read" in done.err) == (0, True), done.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_without_a_checkpoint_is_an_error(cli, network, tmp_path, name):
    make_run(tmp_path / "old")
    done = call(cli, name, "old")
    assert (done.code, "old: the folder has no best.safetensors: the run in it has no" in done.err) == (2, True), (
        done.err
    )
    (tmp_path / "old" / "run.json").unlink()
    done = call(cli, name, "old")
    assert (done.code, "old: the folder has no best.safetensors: it is no run" in done.err) == (2, True), done.err


def test_the_differences_of_its_modules_are_written_into_its_rows_and_said(cli, network):
    def change(model):
        model.model[1].act = torch.nn.ReLU()

    save_model(network, ROWS, "changed.pt", change)
    done = cli("show", "changed.pt")
    assert "act: 'nn.ReLU()'" in done.out, done.out
    assert "the new file says row 1 Conv: act=nn.ReLU()" in done.err


UNKNOWN = {**ROWS, "backbone": [*ROWS["backbone"][:2], [-1, 1, "Nowhere", [8]]]}


OTHERS = ["check", "show", "build", "predict", "export", "diff", "eject"]  # they open files like summary and train


@pytest.mark.parametrize("name", ["summary", "train", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda network: torch.save(network.state_dict(), "bad.pt"), "does not contain its network's rows"),
        (lambda network: Path("bad.pt").touch(), "is empty"),
        (lambda network: Path("bad.pt").write_text("layers: []"), "is neither a file of torch.save"),
        (lambda network: torch.jit.script(torch.nn.ReLU()).save("bad.pt"), "is a TorchScript program"),
        (lambda network: save_model(network, {**ROWS, "nc": 7}, "bad.pt"), "weights do not fit the network"),
        (lambda network: save_model(network, UNKNOWN, "bad.pt"), "'Nowhere'"),
        (lambda network: None, "there is no file 'bad.pt'"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_what_cannot_be_opened_is_an_error(cli, network, name, write, said):
    write(network)
    done = call(cli, name, "bad.pt")
    assert (done.code, said in done.err + done.out) == (2, True), done
    assert len(done.err) < 2000


def test_a_base_is_a_yaml_file(cli, network, tmp_path):
    (tmp_path / "net.yaml").write_text("extends: foreign.pt\n")
    done = cli("summary", "net.yaml")
    assert (done.code, "net.yaml:1:10: extends names a YAML file, this is a checkpoint" in done.err) == (2, True)


@pytest.mark.slow
def test_training_goes_on_with_other_classes(cli, network, tmp_path):
    rows = {**ROWS, "nc": 3}
    (tmp_path / "three.yaml").write_text(json.dumps({**rows, "imgsz": 64}))
    save_model(fill(netbuild.build("three.yaml")), rows, "three.pt")
    netbuild.save(netbuild.build("three.yaml"), "three.safetensors")
    for file in ("three.pt", "three.safetensors"):
        done = cli("train", file, *DATA, "--epochs", "1", "--batch", "512", "-o", f"{file}-run", "-O", "workers=0")
        assert (done.code, f"{file}: loaded " in done.err, "in part: row 3 Classify" in done.err) == (0, True, True), (
            done.err
        )


def test_a_name_that_is_almost_one(cli, network):
    done = cli("summary", "forein.pt")
    assert (done.code, done.err) == (2, "error: there is no file 'forein.pt'\nhint: did you mean 'foreign.pt'?\n")
    with pytest.raises(NetbuildError, match=r"there is no file 'a/b\.pt'"):
        netbuild.build("a/b.pt")
