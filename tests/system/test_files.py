"""Files are written atomically; what fails is a NetbuildError that names the path."""

from pathlib import Path

import pytest

from netbuild.errors import NetbuildError
from netbuild.system.files import make_folder, temporary_folder, write_bytes, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_bytes(path, b"old")

    def refuse(*_):
        raise OSError("no room")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(NetbuildError, match=r"a\.png: cannot be written: no room"):
        write_bytes(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"old"


def test_texts_and_folders(tmp_path):
    write_text(tmp_path / "a.txt", "\u00e9\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"
    with temporary_folder(tmp_path / "b.onnx") as folder:
        assert folder.parent == tmp_path
    assert not folder.exists()
    for write in (lambda p: write_text(p, ""), make_folder, lambda p: temporary_folder(p / "x").__enter__()):
        with pytest.raises(NetbuildError, match=r"a\.txt/x.*: cannot be written: "):
            write(tmp_path / "a.txt" / "x")
