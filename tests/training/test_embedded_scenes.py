"""Each task that has embedded scenes, as a user runs it without data: train, resume, validate, export, predict."""

import json

import pytest
from helpers.scenes import scene_tasks, smallest_network, write_few_scenes

from netbuild.data.embedded import SIDES
from netbuild.data.shapes import files
from netbuild.tasks import find

QUICK = ("--batch", 4, "--device", "cpu", "-Oworkers=0", "-Oplots=false")


@pytest.mark.slow
@pytest.mark.parametrize("task", [*scene_tasks(), "several"])
def test_a_task_runs_without_data(cli, tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    write_few_scenes(tmp_path / "cache")
    name = find(task).embedded
    done = cli("train", smallest_network(task, tmp_path), "--epochs", 1, "-o", "run", *QUICK)
    assert done.code == 0, done.err
    assert f"the embedded demonstration set '{name}' at {SIDES[name]} pixels" in done.err
    assert json.loads((tmp_path / "run/run.json").read_text())["data"] == name
    done = cli("train", "--resume", "run", "--epochs", 2)
    assert done.code == 0, done.err
    measured = json.loads(cli("val", "run/last.safetensors", "--data", name, "-Oworkers=0", "--json").out)["measures"]
    assert set(find(task).measures) <= set(measured)
    assert cli("export", "run/last.safetensors", "-o", "net.onnx").code == 0
    exported = json.loads(cli("val", "net.onnx", "--data", name, "-Oworkers=0", "--json").out)["measures"]
    # After two steps scores are all but equal, so the measures of the two may differ; what is exported is proven.
    assert exported.keys() == measured.keys()
    made = files.TABLES_FOLDER if name in files.TABLES else files.ALL
    picture = tmp_path / f"cache/{made}-{files.LAYOUT}/{name}/images/val/0000.png"
    for file in ("run/last.safetensors", "net.onnx"):
        done = cli("predict", file, picture, "-o", f"of-{file[:3]}", "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["task"] == task
    done = cli("data", "stats", name, "-o", "pages")
    assert done.code == 0, done.err
    assert (tmp_path / "pages/samples_val.png").is_file()
