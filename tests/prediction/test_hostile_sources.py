"""Lists, links, FIFOs, and files that are no files: each is named quickly, and none is opened for ever."""

import io
import json
import os
from types import SimpleNamespace

import pytest
from PIL import Image

from netbuild.data.formats.files import read_text
from netbuild.data.images import UnreadableImageError, read_image
from netbuild.errors import NetbuildError
from netbuild.grammar.nodes import read_text as read_yaml
from netbuild.modules import trust
from netbuild.prediction import sources


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b c.png", "sub/d\n.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def stdin(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))


@pytest.mark.parametrize("data", [b"a.png\0b c.png\0sub/d\n.png\0", b"a.png\0b c.png\0sub/d\n.png"])
def test_null_separated_lists_are_read(here, monkeypatch, data):
    stdin(monkeypatch, data)
    assert [str(path) for path in sources.find("-")] == ["a.png", "b c.png", "sub/d\n.png"]


def test_lists_by_lines_are_read_and_wrong_ones_are_named(here, monkeypatch):
    stdin(monkeypatch, b"a.png\r\n\nb c.png")
    assert [str(path) for path in sources.find("-")] == ["a.png", "b c.png"]
    for data in (b"x" * 5000, b"\xff\xfe.png", b"a.png\0" + b"y/" * 5000):
        stdin(monkeypatch, data)
        with pytest.raises(NetbuildError) as caught:
            sources.find("-")
        assert len(str(caught.value)) < 12_000
    monkeypatch.setattr(sources, "MAX_LIST", 100)
    stdin(monkeypatch, b"a.png\n" * 100)
    with pytest.raises(NetbuildError, match="stdin: a list of more"):
        sources.find("-")


def test_a_loop_of_links_is_entered_once(here):
    for name in ("loop", "again"):
        (here / "sub" / name).symlink_to(here)
    assert len(sources.find("**/*.png")) == 3
    assert len(sources.find(f"{here}/**/*")) == 3
    assert [str(path) for path in sources.find("**/a.png")] == ["a.png"]
    assert len(sources.find(["a.png", "sub/loop/a.png", str(here / "a.png")])) == 1


def test_special_files_are_named_and_not_opened(here):
    os.mkfifo(here / "pipe.png")
    os.mkfifo(here / "pipe.mp4")
    with (here / "sparse.png").open("wb") as file:
        file.truncate(20 * 2**30)
    assert here / "pipe.png" in [here / path for path in sources.find(str(here))]
    for name, message in (("pipe.png", "a FIFO"), ("pipe.mp4", "a FIFO"), ("sparse.png", "the limit is")):
        with pytest.raises(UnreadableImageError, match=f"{name}.*{message}"):
            list(sources.read_shots(here / name))
    for read in (read_text, read_yaml, read_image):
        with pytest.raises(NetbuildError, match=r"pipe\.png: a FIFO"):
            read(here / "pipe.png")


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1]", '{"a": 1}', "\x00", "\udc80"])
def test_a_damaged_record_of_trusted_files_is_named(here, monkeypatch, text):
    monkeypatch.setattr(trust, "settings_folder", lambda: here)
    monkeypatch.setattr(trust, "old_settings_folder", lambda: here / "old")
    (here / "m.py").write_text("x = 1\n")
    (here / trust.FILE).write_bytes(text.encode(errors="surrogateescape"))
    for call in (trust.is_trusted, trust.add_trusted):
        with pytest.raises(NetbuildError, match=r"trusted\.json: not a record"):
            call(here / "m.py")
    (here / trust.FILE).write_text(json.dumps({}))
    trust.add_trusted(here / "m.py")
    assert trust.is_trusted(here / "m.py")
