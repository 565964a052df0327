"""Arguments that are of another kind than the command expects: what they are is said, in a line."""

import pytest
from PIL import Image

import netbuild


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text("nc: 2\ntask: classify\nlayers:\n  - [-1, 1, nn.Flatten, []]\n")
    Image.new("RGB", (8, 8)).save("a.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "a.png", "net.yaml"], "a.png: is a picture, and no network"),
        (["summary", "a.png"], "a.png: is a picture, and no network"),
        (["predict", "net.yaml", ""], "an argument is empty"),
        (["train", "net.yaml", "--data", ""], "an argument is empty"),
        (["weights", "import", "own.safetensors", "-o", "b.safetensors"], "is a checkpoint of netbuild already"),
    ],
)
def test_what_an_argument_is_instead_is_said(cli, arguments, words):
    netbuild.save(netbuild.build("lenet5.yaml"), "own.safetensors")
    done = cli(*arguments)
    assert (done.code, words in done.err, "Traceback" in done.err) == (2, True, False), done.err


@pytest.mark.parametrize("name", ["gpu", "-1", "1,2", "cuda:99", "mps:7", "meta", "cuda:"])
def test_a_device_that_is_none_is_said_in_plain_words(cli, name):
    done = cli("predict", "net.yaml", "a.png", f"--device={name}")
    assert done.code == 2
    expected = ("must be auto, cpu, cuda, mps, or a GPU such as cuda:1", "has no such device here", "has no values")
    assert f"--device {name}: " in done.err
    assert any(words in done.err for words in expected), done.err
    assert "Traceback" not in done.err
