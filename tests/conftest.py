"""The command line run inside this process, as a user types it; a browser; a heap that stays small."""

import gc
import os
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from helpers.browser import Browser


class Done(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


# Objects that are made while tests are collected live until the end; searching them for garbage takes three seconds.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def freeze_garbage():
    """Exempt what a module leaves alive from later garbage collections, which would get slower with each module."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def cli(monkeypatch, capsys):
    """``cli("summary", "yolo11n.yaml", "--json")`` gives the exit code, stdout and stderr."""

    def run(*args: object) -> Done:
        from netbuild import cli as module

        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["netbuild", *map(str, args)])
        code = 0
        try:
            module.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
