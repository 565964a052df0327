"""Randomly mutated files: each is built or refused with an error at a place in it, and in little time."""

import gc
import json
import re
import signal
from contextlib import contextmanager
from pathlib import Path
from random import Random
from traceback import extract_tb

import pytest
import torch
from helpers.mutants import mutant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netbuild import NetbuildError
from netbuild.costs.observer import OperatorLimitError
from netbuild.costs.outputs import shape_of
from netbuild.costs.shape_rules import ShapeError
from netbuild.grammar.spec import load, read_spec
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules.loading import load_custom_modules
from netbuild.report import text as render
from netbuild.report import textbook
from netbuild.report.summary import summarize_graph

SIZE = (64, 64)
LIMIT = 20  # seconds a file may take
SMALL = 2_000_000  # parameters of a network that is built and run
CHECKED = ("costs", "grammar", "graph", "modules", "report")  # packages that call no constructor, bind.py excepted
BREAKS = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # YAML's


class HangError(BaseException):
    """A file took too long. It is not an Exception, so that no code takes it for a module's error."""


@contextmanager
def time_limit():
    """Stop the code inside after `LIMIT` seconds."""

    def stop(*_):
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def resolve_text(text: str | bytes, path: Path) -> Graph:
    """Resolve a file and print it in every format."""
    if isinstance(text, bytes):
        path.write_bytes(text)
        spec = load(path)
    else:
        spec = read_spec(text, path)
    own = load_custom_modules(spec, (), lambda _: False)
    graph = resolve(spec, Options(imgsz=SIZE, modules=own))
    summary = summarize_graph(graph)
    render.as_text(summary)
    json.loads(render.as_json(summary), parse_constant=_not_json)
    for form in render.FORMATS.values():
        form(summary, render.DEFAULT_COLUMNS)
    render.to_text(textbook.as_textbook(summary))
    return graph


def _not_json(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def check_error(error: NetbuildError, text: str | bytes, path: Path) -> None:
    """Check that each error has a place in the file, and that none is a mistake of netbuild reported at a row."""
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
    if cause is None or isinstance(cause, (ShapeError, OperatorLimitError)) or "overflowed" in str(cause):
        return
    *_, last = extract_tb(cause.__traceback__)
    home = Path(last.filename)
    ours = home.parent.parent.name == "netbuild" and home.parent.name in CHECKED and home.name != "bind.py"
    assert not ours, f"{type(cause).__name__} in {home.name}:{last.lineno}: {cause}"
    assert not isinstance(cause, MemoryError), error.message


def check_built(graph: Graph) -> None:
    """Check that the network with weights gives the shapes that resolving found."""
    network = graph.build().eval()
    with torch.no_grad():
        out = network(*(torch.rand(image.shape) for image in graph.make_inputs()))
    assert shape_of(out) == graph.layers[-1].out_shape


def is_small(graph: Graph) -> bool:
    return graph.peak_bytes < 1e8 and sum(layer.params for layer in graph.layers) < SMALL


def check(text: str | bytes, path: Path, build: bool = False) -> str:
    """Resolve a file; return whether it was "built" or "refused"."""
    try:
        with time_limit():
            graph = resolve_text(text, path)
            if build and is_small(graph):
                check_built(graph)
    except NetbuildError as error:
        check_error(error, text, path)
        return "refused"
    except HangError:
        raise AssertionError(f"not finished within {LIMIT} s") from None
    return "built"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mutants") / "net.yaml"


def check_mutant(seed: int, path: Path) -> None:
    text = mutant(Random(seed))
    try:
        check(text, path, build=seed % 4 == 0)
    except Exception as error:
        raise AssertionError(f"mutant {seed} is {text!r}") from error


@pytest.mark.filterwarnings("ignore")
@given(st.integers(0, 2**32))
@settings(max_examples=20, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_a_mutated_file_is_built_or_refused_at_a_place(path, seed):
    check_mutant(seed, path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_mutated_files_are_built_or_refused_at_a_place(path):
    for seed in range(10_000):
        check_mutant(seed, path)


# -- files that once failed ---------------------------------------------------------------------------------------------


def layers(*rows: str) -> str:
    return "layers:\n" + "".join(f"  - {row}\n" for row in rows)


def use(block: str, row: str = "[-1, 1, Own, []]") -> str:
    return f"blocks:\n  Own: {block}\nlayers:\n  - {row}\n"


def tree(levels: int) -> str:
    """Two blocks a level, each using both of the next: 2 ** levels ways down."""
    below = [[f"a{i + 1}", f"b{i + 1}"] for i in range(levels - 1)] + [["nn.ReLU", "nn.ReLU"]]
    rows = [", ".join(f"[-1, 1, {name}, []]" for name in names) for names in below]
    return "blocks:\n" + "".join(f"  {side}{i}: {{rows: [{row}]}}\n" for i, row in enumerate(rows) for side in "ab")


FUSED = "[[0, 1], 1, CBFuse, [[0]]]"
REFUSED = [
    # Reading: places at the end, behind other line breaks, in characters.
    ("layers: [a", "the '[' opened here is not closed"),
    ("a: 1\nb", "could not find expected ':'"),
    ("a: 1\r\x00", "U+0000 is not allowed"),
    ("\u2028\x07: 1", "U+0007 is not allowed"),
    (b"\xef\xbb\xbflayers: \xff", "byte 0xff"),
    ("ä: ".encode() + b"\xe4", "byte 0xe4"),
    (use("{inputs: 5, rows: [[input, 1, nn.ReLU, []]]}"), "inputs must be a list of names"),
    (use("{inputs: {a: b}, rows: [[input, 1, nn.ReLU, []]]}"), "inputs must be a list of names"),
    (use("{inputs: [a, a], rows: [[a, 1, nn.ReLU, []]]}"), "the name 'a' is taken"),
    (layers(f"['{'1' * 5000}[0]', 1, nn.ReLU, []]"), "no row before it is named"),
    (tree(30) + layers("[-1, 1, a30, []]"), "unknown module 'a30'"),
    (layers("[-1, 1, Conv, ['round(ch, -9007199254740992)']]"), "round takes at most 64 digits"),
    ("task: \"\\e[2J\"\n" + layers("[-1, 1, nn.ReLU, []]"), "without control characters"),
    ("\"\\e[2J\": 1\nlayer: []", "a model file needs"),
    ("extends: " + "x" * 5000, "there is no file"),
    ("extends: lenet5.yaml\nedits: [{remove: [[1]]}]", "no row is named a list"),
    ('imports: ["\\0"]\n' + layers("[-1, 1, nn.ReLU, []]"), "without control characters"),
    (f"imports: [{'x' * 5000}]\n" + layers("[-1, 1, nn.ReLU, []]"), "cannot be read"),
    # Binding: whatever a constructor says, without weights, without endless work.
    ("activation: nn.Linear(100000, 100000)\n" + layers("[-1, 1, Conv, [8]]"), "100000 input features"),
    ("activation: nn.MultiheadAttention(4, 0)\n" + layers("[-1, 1, Conv, [8]]"), "nn.MultiheadAttention(4, 0): "),
    (layers("[-1, 1, Conv, [8, {act: 'nn.MultiheadAttention(4, 0)'}]]"), "nn.MultiheadAttention(4, 0): "),
    (layers("[-1, 1, Conv, [8, {act: 'nn.LSTM(3, 3, 1000000)'}]]"), "more than 20,000 operators"),
    (layers("[-1, 1, nn.TransformerEncoder, [1, 1000000000]]"), "a TransformerEncoderLayer is needed"),
    # Running: what the CPU refuses is refused on meta.
    (layers("[-1, 1, nn.Softmax, [9]]"), "there is no dimension 9"),
    (layers("[-1, 1, nn.Conv2d, [3, 8, 3, [1, 1, 1]]]"), "2 are expected"),
    (layers("[-1, 1, nn.AdaptiveMaxPool2d, [[2, 2, 2]]]"), "2 are expected"),
    (layers("[-1, 1, nn.AdaptiveMaxPool2d, [[2]]]"), "2 are expected"),
    (layers("[-1, 1, nn.Unfold, [[2]]]"), "2 are expected"),
    (layers("[-1, 1, nn.Flatten, [0]]", "[-1, 1, nn.LPPool3d, [2, 2]]"), "it takes maps of 3 spatial dimensions"),
    (layers("[-1, 1, ELAN1, [32, 1, 7]]"), "a convolution without channels"),
    (layers("[-1, 1, nn.ZeroPad2d, [-32]]", "[-1, 1, CBAM, []]"), "its output is empty: [1, 3, 0, 0]"),
    (layers("[-1, 1, nn.MaxPool2d, [2, 2, 0, 1, true]]", "['0[1]', 1, nn.SiLU, []]"), "torch.int64 arrives"),
]  # fmt: skip
BUILT = [
    layers("[-1, 1, nn.Flatten, []]", "[-1, 1, RBF, [2000000000]]"),
    # Receptive fields: long periods, many taps, strides beyond counting.
    layers("[-1, 1, Conv, [8, 100000001]]"),
    layers("[-1, 1, nn.MaxPool2d, [200001, 1, 100000]]"),
    layers("[-1, 1, nn.Upsample, [100000007]]"),
    layers("[-1, 1, nn.AdaptiveAvgPool2d, [100000007]]"),
    layers("[-1, 1, nn.ConvTranspose2d, [3, 8, 100000, 99999]]"),
    layers(*["[-1, 1, Conv, [8, 1, 2147483647]]"] * 40),
    # Showing: nested shapes, infinity, names that modules have already.
    layers("[-1, 1, CBLinear, [[8, 8, 8, 8], 1, [1, 2]]]", "[input, 1, nn.Conv2d, [3, 8, 1, [1, 2]]]", FUSED),
    layers("[-1, 1, nn.Hardtanh, [-.inf, .inf]]"),
    use("{rows: [[input, 1, nn.ReLU, [], training], [training, 1, nn.ReLU, [], _modules]]}"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("text", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused_at_a_place(path, text, message):
    with time_limit(), pytest.raises(NetbuildError) as caught:
        resolve_text(text, path)
    check_error(caught.value, text, path)
    assert message in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", BUILT, ids=range(len(BUILT)))
def test_built(path, text):
    assert check(text, path, build=True) == "built"


def test_a_summary_leaves_no_tensor_behind(path):
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    text = layers("[-1, 1, Conv, [8, 3]]", "[-1, 1, nn.ReLU, []]")
    resolve_text(text, path)
    before = tensors()
    resolve_text(text, path)
    assert tensors() <= before  # what other tests left may go meanwhile


def test_a_file_named_by_its_ending_alone_has_a_scale():
    text = "scales: {n: [1, 1], s: [1, 1]}\n" + layers("[-1, 1, Conv, [8]]")
    assert resolve(read_spec(text, Path(".yaml")), Options(imgsz=SIZE)).name == "-n"
