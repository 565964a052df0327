"""A task as one file of a user's: the example of docs/tasks.md trains, is resumed, measured and predicted with."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
NETWORK = re.search(r"^```yaml\n(# counter\.yaml\n.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
TASK = re.search(r"^```python\n(# counting\.py\n.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(tmp_path, monkeypatch):
    assert NETWORK
    assert TASK
    (tmp_path / "counter.yaml").write_text(NETWORK[1])
    (tmp_path / "counting.py").write_text(TASK[1])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_own_task_trains_resumes_validates_and_predicts(cli, here):
    quick = ["--device", "cpu", "-O", "workers=0", "-O", "plots=false"]
    done = cli("train", "counter.yaml", "--trust", "--epochs", 1, "-o", "run", *quick)
    assert done.code == 0, done.err
    assert re.search(r"epoch 1/1: count \d+\.\d+, fitness -\d+\.\d+, error \d+\.\d+", done.err)
    (here / "counting.py").unlink()  # the checkpoint carries the task's code
    done = cli("train", "--resume", "run", "--trust", "-O", "epochs=2")
    assert done.code == 0, done.err
    assert "in epoch" in done.out
    done = cli("val", "run/best.safetensors", "--data", "digits-detect", "--trust", "-O", "workers=0", "--json")
    assert done.code == 0, done.err
    assert '"error"' in done.out
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save("grey.png")
    done = cli("predict", "run/best.safetensors", "grey.png", "--trust", "--json")
    assert done.code == 0, done.err
    assert '"value"' in done.out
    done = cli("predict", "run/best.safetensors", "grey.png")
    assert (done.code, "counting.py" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "digits"], "digits is a data set for 'classify', the network's task is 'count'"),
        (["-O", "label_smoothing=0.1"], "label_smoothing has no effect for the task 'count'"),
    ],
)
def test_data_and_settings_that_do_not_fit_are_refused(cli, here, flags, message):
    done = cli("train", "counter.yaml", "--trust", "--epochs", 1, "-o", "run", "-O", "workers=0", *flags)
    assert done.code == 2
    assert message in done.err
