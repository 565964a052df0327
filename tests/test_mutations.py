"""Files made wrong at random: each is a network or refused at a place in it; nothing else, and in little time."""

import json
import re
import signal
from contextlib import contextmanager
from pathlib import Path
from random import Random
from traceback import extract_tb

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutate import mutant

from netbuild import NetbuildError, render
from netbuild.cost import TooMuchError
from netbuild.graph import Graph, Options, resolve
from netbuild.modules import gather
from netbuild.ops import ShapeError
from netbuild.shapes import shape_of
from netbuild.spec import load, read
from netbuild.summary import summarize_graph

SIZE = (64, 64)
HANG = 20  # seconds
SMALL = 2_000_000  # parameters of a network that is built and run
BREAKS = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # YAML's


class HangError(BaseException):
    """No Exception, so that nothing takes it for a module's."""


@contextmanager
def guarded():
    """Whoever takes longer than `HANG` is stopped."""

    def stop(*_):
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def resolved(text: str | bytes, path: Path) -> Graph:
    """What a file is, after all that a user may ask of it."""
    if isinstance(text, bytes):
        path.write_bytes(text)
        spec = load(path)
    else:
        spec = read(text, path)
    own = gather(spec, (), lambda _: False)
    graph = resolve(spec, Options(imgsz=SIZE, modules=own))
    summary = summarize_graph(graph)
    render.as_text(summary)
    json.loads(render.as_json(summary), parse_constant=_not_json)
    for form in render.FORMATS.values():
        form(summary, render.DEFAULT_COLUMNS)
    render.to_text(render.as_textbook(summary))
    return graph


def _not_json(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def check_error(error: NetbuildError, text: str | bytes, path: Path) -> None:
    """Each error has a place in the file, and none is netbuild's own mistake blamed on a row."""
    str(error)
    own = text.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace") if isinstance(text, bytes) else text
    for single in error.all():
        place = single.where
        assert place is not None, single.message
        # A file that extends another may have its errors there.
        lines = BREAKS.split(own if place.file == str(path) else Path(place.file).read_text(encoding="utf-8"))
        assert 1 <= place.line <= len(lines), place
        line = lines[place.line - 1]
        assert place.text in (line, ""), place
        assert 1 <= place.column <= len(line) + 1, place
        assert single.message.strip(), place
        assert all(c.isprintable() or c == "\n" for c in single.render()), place
        check_cause(single)


def check_cause(error: NetbuildError) -> None:
    cause = error.__cause__
    if cause is None or isinstance(cause, (ShapeError, TooMuchError)):
        return
    *_, last = extract_tb(cause.__traceback__)
    home = Path(last.filename)
    ours = home.parent.name == "netbuild" and home.name != "bind.py"  # there constructors are called
    assert not ours, f"{type(cause).__name__} in {home.name}:{last.lineno}: {cause}"
    assert not isinstance(cause, MemoryError), error.message


def check_built(graph: Graph) -> None:
    """The network with weights gives the shapes that were promised."""
    network = graph.build().eval()
    with torch.no_grad():
        out = network(*(torch.rand(image.shape) for image in graph.images()))
    assert shape_of(out) == graph.layers[-1].out_shape


def is_small(graph: Graph) -> bool:
    return graph.peak_bytes < 1e8 and sum(layer.params for layer in graph.layers) < SMALL


def check(text: str | bytes, path: Path, build: bool = False) -> str:
    """A file's fate: built or refused."""
    try:
        with guarded():
            graph = resolved(text, path)
            if build and is_small(graph):
                check_built(graph)
    except NetbuildError as error:
        check_error(error, text, path)
        return "refused"
    except HangError:
        raise AssertionError(f"no end within {HANG} s") from None
    return "built"


ALL = list(HealthCheck)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mutants") / "net.yaml"


@pytest.mark.filterwarnings("ignore")
@given(st.randoms(use_true_random=False))
@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=ALL, database=None)
def test_a_file_made_wrong_is_a_network_or_refused_at_a_place(path, rng):
    check(mutant(rng), path, build=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_files_made_wrong_are_networks_or_refused_at_a_place(path):
    for seed in range(10_000):
        text = mutant(Random(seed))
        try:
            check(text, path, build=seed % 10 == 0)
        except Exception as error:
            raise AssertionError(f"mutant {seed}:\n{text}") from error
