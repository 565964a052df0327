"""Foreign checkpoints: the right tensors, or an error of ours; never code of the file, nor memory that it claims."""

import argparse
import collections
import datetime
import importlib
import io
import math
import pathlib
import pickle
import pickletools
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from netbuild.errors import NetbuildError
from netbuild.weights.pickles import contents, machine, tensors, unpickle
from netbuild.weights.pickles.contents import extract_metadata, extract_state_dict, locate_weights
from netbuild.weights.pickles.stubs import Stub
from netbuild.weights.pickles.unpickle import read

LEGACY_TYPES = {dtype for dtype in tensors.STORAGES.values() if dtype}  # others torch saves only in an archive
FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}

# -- an audit hook: none of these events may occur while a file is read

DEEDS = ("compile", "exec", "os.", "pickle.", "subprocess.", "shutil.", "socket.", "ctypes.", "import", "marshal.")
seen, watching = [], []


def _watch(event, args):
    if watching and event.startswith(DEEDS):
        seen.append(f"{event} {str(args[0])[:80] if args else ''}")


sys.addaudithook(_watch)
str(b"x", "raw-unicode-escape")  # of the opcode UNICODE: Python imports the codec at its first use


def run_watched(call, *args):
    """Call a function, fail if an audit event shows that it ran or imported something, and return its result."""
    seen.clear()
    watching.append(True)
    try:
        return call(*args)
    finally:
        watching.clear()
        assert seen == []


def test_the_watch_sees(tmp_path):
    with pytest.raises(AssertionError, match=r"pickle\.find_class pathlib"):
        run_watched(pickle.loads, pickle.dumps(pathlib.Path("a")))


# -- files


@pytest.fixture
def write_file(tmp_path):
    """``write_file(content)`` is the path of a file that holds these bytes, or this object saved."""

    def write(content, **options):
        path = tmp_path / "weights.pt"
        path.write_bytes(content if isinstance(content, bytes) else save_to_bytes(content, **options))
        return path

    return write


def save_to_bytes(content, **options):
    target = io.BytesIO()
    torch.save(content, target, **options)
    return target.getvalue()


def make_archive(program, storages=(), **more):
    """A zip archive as torch.save writes it, with the given pickle."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as z:
        z.writestr("x/data.pkl", program)
        for name, content in {"byteorder": sys.byteorder.encode(), **more}.items():
            z.writestr(f"x/{name}", content)
        for i, content in enumerate(storages):
            z.writestr(f"x/data/{i}", content)
    return target.getvalue()


def make_legacy(program):
    facts_of_system = {"protocol_version": 1001, "little_endian": sys.byteorder == "little", "type_sizes": {}}
    head = [pickle.dumps(x, 2) for x in (unpickle.LEGACY_MAGIC, unpickle.LEGACY_VERSION, facts_of_system)]
    return b"".join((*head, program, pickle.dumps([], 2)))


WRITERS = {"zip": make_archive, "legacy": make_legacy}


def same(a, b):
    """Equal, tensors in values, type and shape, and containers item by item."""
    if isinstance(b, torch.Tensor):
        raw = [t.detach().contiguous().flatten().view(torch.uint8).tolist() if t.numel() else [] for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and raw[0] == raw[1]
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    if isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(2, 3))


def trained():
    """A network with an optimizer that has a state."""
    network = small_network()
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


SHARED = torch.arange(12.0)
TENSORS = {
    "views": [SHARED[2:8].view(2, 3).t(), SHARED[::3], SHARED.view(3, 4)[1:, 1:], torch.ones(1, 4).expand(5, 4)],
    "odd sizes": [torch.tensor(3.5), torch.zeros(0), torch.zeros(2, 0, 3), torch.ones(1, 1, 1)],
    "types": [
        torch.arange(4).to(d) for name, d in tensors.DTYPES.items() if "float8" not in name and name != "complex32"
    ],
    "bytes": [torch.arange(4).byte().view(d) for name, d in tensors.DTYPES.items() if name.startswith("float8")],
    "special values": [torch.tensor([math.nan, math.inf, -0.0, 1e-45]), torch.tensor([True, False])],
    "parameters": [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).half(), requires_grad=False)],
    "sizes": {"shape": torch.Size([1, 2]), "type": torch.float16, "nested": ((), ((1, "ä"), [None, {}]))},
    "numbers": [0, -1, 255, 65536, -(2**31), 2**64, -(2**70), 1.5, -math.inf, True, "x" * 300, "\ud800"],
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("content", [*TENSORS.values(), trained], ids=[*TENSORS, "training"])
def test_what_was_saved_is_read(write_file, form, content):
    content = content() if callable(content) else content  # an optimizer imports a second's worth of torch
    if form == "legacy" and isinstance(content, list) and isinstance(content[0], torch.Tensor):
        content = [tensor for tensor in content if tensor.dtype in LEGACY_TYPES]
    path = write_file(content, **FORMATS[form])
    foreign = run_watched(read, path)
    assert foreign.format == form
    assert same(foreign.root, content)
    assert same(foreign.root, torch.load(path, weights_only=True))


@pytest.mark.parametrize("form", FORMATS)
def test_shared_values_stay_shared(write_file, form):
    base = torch.arange(6.0)
    a, b, whole = read(write_file([base[:4], base[2:], base], **FORMATS[form])).root
    whole[3] = 40.0
    assert (a[3].item(), b[1].item()) == (40.0, 40.0)


def test_data_beside_tensors_is_data(write_file):
    tagged = torch.ones(2)
    tagged.note = "kept in the file, not here"
    buffers = nn.Module()
    buffers.b = nn.Buffer(torch.arange(2.0)) if hasattr(nn, "Buffer") else torch.arange(2.0)
    content = {
        "numpy": [np.float64(2.5), np.int32(-3), np.bool_(True), np.str_("text")],
        "arrays": [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(2)), np.array([], dtype="f2")],
        "sets": [{1, "a"}, frozenset({None, (1, 2)}), collections.Counter("aab"), collections.OrderedDict(b=1, a=2)],
        "bytes": [b"\x00\xff", bytearray(b"ab"), 1 + 2j],
        "default": collections.defaultdict(list, x=[1]),
        "objects": [pathlib.PurePosixPath("runs/a"), argparse.Namespace(lr=0.1), datetime.date(2020, 1, 2)],
        "queue": collections.deque([1, 2], maxlen=5),
        "tagged": tagged,
        "buffer": buffers.b,
    }
    root = run_watched(read, write_file(content)).root
    assert root["numpy"] == [2.5, -3, True, "text"]
    assert all(np.array_equal(a.value, b) for a, b in zip(root["arrays"], content["arrays"], strict=True))
    assert root["sets"] == content["sets"]
    assert root["bytes"] == content["bytes"]
    assert root["default"] == {"x": [1]}
    path, namespace, date = root["objects"]
    assert (path.kind, path.args) == ("pathlib.PurePosixPath", ("runs", "a"))
    assert (namespace.kind, namespace.get("lr"), namespace.get("no", 5)) == ("argparse.Namespace", 0.1, 5)
    assert date.kind == "datetime.date"
    assert root["queue"].elements == [1, 2]
    assert same([root["tagged"], root["buffer"]], [torch.ones(2), torch.arange(2.0)])


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_torch_save(write_file, protocol):
    content = {"a": torch.arange(3.0), "s": {1, 2}, "b": b"x" * 300, "text": "y" * 70_000, "set": frozenset("z")}
    assert same(run_watched(read, write_file(content, pickle_protocol=protocol)).root, content)


def test_safetensors(tmp_path):
    path, content = tmp_path / "a.safetensors", {"a.weight": torch.arange(3.0), "b": torch.ones(2, 1).half()}
    safetensors.torch.save_file(content, path, metadata={"epoch": "3"})
    foreign = read(path)
    assert (foreign.format, locate_weights(foreign)) == ("safetensors", "")
    assert same({key: extract_state_dict(foreign)[key] for key in content}, content)
    assert extract_metadata(foreign) == {"metadata": {"epoch": "3"}}
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:9], whole.replace(b"F32", b"Q32"), b"\xff" * 7 + b"\x7f" + whole[8:]):
        path.write_bytes(broken)
        with pytest.raises(NetbuildError, match="damaged safetensors file"):
            read(path)


# -- whole modules of packages that are not there

PACKAGE = """
import torch
from torch import nn

class Inner(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(c, c, 1), nn.BatchNorm2d(c), nn.SiLU(inplace=True)
        self.register_buffer("grid", torch.arange(4.0), persistent=False)
        self.register_buffer("anchors", torch.arange(3.0))
        self.register_parameter("none", None)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1))
        self.model = nn.Sequential(Inner(2), nn.ModuleDict({"x": Inner(3)}))
        self.model.append(self.model[0])
        self.yaml = {"nc": 2, "backbone": [[-1, 1, "Conv", [64, 3, 2]], [[-1, 0], 1, "Concat", ["None"]]]}
        self.names, self.stride, self.nothing = {0: "a", 1: "b"}, torch.tensor([8.0, 16.0]), None
        self.args, self.function = Settings(), helper

class Settings:
    def __init__(self):
        self.imgsz, self.task = 320, "detect"

class Average:
    def __init__(self, net):
        self.ema, self.updates = net, 7

def helper(): pass
"""


@pytest.fixture
def save_without_package(tmp_path, monkeypatch):
    """``save_without_package(make)`` saves ``make(package)`` and deletes the package, then returns path and object."""

    def write(make, **options):
        (tmp_path / "gone_package.py").write_text(PACKAGE)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        try:
            package = importlib.import_module("gone_package")
            content = make(package)
            path = tmp_path / "model.pt"
            torch.save(content, path, **options)
        finally:
            sys.modules.pop("gone_package", None)
            (tmp_path / "gone_package.py").unlink()
        return path, content

    return write


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: p.Net(),
        lambda p: {"model": p.Net().half(), "epoch": 1},
        lambda p: {"ema": None, "model": nn.DataParallel(p.Net())},
        lambda p: {"model": {"weights": p.Net().train()}},
        lambda p: nn.MultiheadAttention(4, 2, add_bias_kv=True),
    ],
)
def test_a_module_of_no_known_class_has_its_state_dict(save_without_package, form, make):
    path, content = save_without_package(make, **FORMATS[form])
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("gone_package")
    module = content
    while isinstance(module, dict):
        module = next(value for key, value in module.items() if key in ("model", "weights"))
    weights = extract_state_dict(run_watched(read, path))
    # A wrapper for several processes is looked through: its keys would have the prefix module.
    inner = module.module if isinstance(module, nn.DataParallel) else module
    assert same(weights, {**inner.state_dict()})


@pytest.mark.parametrize(("prefer", "place", "value"), [("ema", "ema.ema", 1.0), ("model", "model", 2.0)])
def test_averaged_weights_are_preferred_unless_asked_otherwise(save_without_package, prefer, place, value):
    def make(package):
        average, last = nn.Linear(1, 1), nn.Linear(1, 1)
        nn.init.constant_(average.weight, 1.0)
        nn.init.constant_(last.weight, 2.0)
        return {"epoch": 1, "model": last, "ema": package.Average(average)}

    foreign = read(save_without_package(make)[0])
    assert locate_weights(foreign, prefer) == place
    assert extract_state_dict(foreign, prefer)["weight"].item() == value
    with pytest.raises(ValueError, match="prefer"):
        extract_state_dict(foreign, "best")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"a": torch.ones(1)}, ""),
        ({"state_dict": {"a": torch.ones(1)}, "anchors": torch.ones(1)}, "state_dict"),
        ({"model": {"a": torch.zeros(1)}, "ema": {"module": {"a": torch.ones(1)}, "updates": 3}}, "ema.module"),
        ({"model": {"a": torch.ones(1)}, "ema": None, "params_ema": {}}, "model"),
        ({"a": np.ones(1, dtype=">f4")}, ""),
    ],
)
def test_where_weights_stand(write_file, content, place):
    foreign = read(write_file(content))
    assert locate_weights(foreign) == place
    assert same(extract_state_dict(foreign), {"a": torch.ones(1)})


@pytest.mark.parametrize(
    "content", [{}, [torch.ones(1)], torch.ones(1), {"model": None, "epoch": 3}, {3: torch.ones(1)}, 5]
)
def test_no_weights_is_an_error(write_file, content):
    foreign = read(write_file(content))
    for call in (extract_state_dict, locate_weights, extract_metadata):
        with pytest.raises(NetbuildError, match=r"weights\.pt: holds no weights"):
            call(foreign)


def test_facts_are_what_stands_there(save_without_package, write_file):
    def make(package):
        train_args = {
            "save_dir": pathlib.PurePosixPath("runs/a"),
            "lr": np.float32(0.5),
            "odd": package.Net,
            "none": None,
        }
        return {"model": package.Net(), "train_args": train_args, "epoch": -1, "date": "2020-01-02", "version": None}

    path, content = save_without_package(make)
    said = run_watched(extract_metadata, read(path))
    assert said == {
        "yaml": content["model"].yaml,
        "names": {0: "a", 1: "b"},
        "stride": [8.0, 16.0],
        "args": {"imgsz": 320, "task": "detect"},
        "train_args": {"save_dir": "runs/a", "lr": 0.5, "odd": "gone_package.Net", "none": None},
        "epoch": -1,
        "date": "2020-01-02",
        "task": "detect",
        "imgsz": 320,
        "model_class": "gone_package.Net",
    }
    assert extract_metadata(read(write_file({"weight": torch.ones(1)}))) == {}


# -- hostile pickles: short names for the opcodes that they are made of


def glob(name):
    module, _, attribute = name.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def call(name, *args):
    return glob(name) + b"(" + b"".join(args) + b"tR"


def pid(kind="torch.FloatStorage", key="0", count=4, *more):
    return b"(" + text("storage") + glob(kind) + text(key) + text("cpu") + number(count) + b"".join(more) + b"tQ"


def row(*numbers):
    return b"(" + b"".join(map(number, numbers)) + b"t"


def tensor(storage=None, offset=0, size=(4,), stride=(1,)):
    hooks = call("collections.OrderedDict")
    return call(
        "torch._utils._rebuild_tensor_v2", storage or pid(), number(offset), row(*size), row(*stride), b"\x89", hooks
    )


SHELL = text("touch CANARY")
RUN = {
    "REDUCE": call("os.system", SHELL),
    "posix": call("posix.system", SHELL),
    "STACK_GLOBAL": text("os") + text("system") + b"\x93(" + SHELL + b"tR",
    "INST": b"(" + SHELL + b"ios\nsystem\n",
    "OBJ": b"(" + glob("subprocess.Popen") + SHELL + b"NNNNNNN\x88o",  # shell=True is its eighth argument
    "NEWOBJ_EX": glob("subprocess.Popen") + b")}\x92",
    "exec": call("builtins.exec", text("import os; os.system('touch CANARY')")),
    "eval": call("builtins.eval", text("__import__('os').system('touch CANARY')")),
    "Python 2": call("__builtin__.eval", text("__import__('os').system('touch CANARY')")),
    "partial": call("functools.partial", glob("os.system"), SHELL),
    "getattr": call("builtins.getattr", call("builtins.__import__", text("os")), text("system")) + b"(" + SHELL + b"tR",
    "apply": call("builtins.map", glob("os.system"), b"(" + SHELL + b"t"),
    "runpy": call("runpy.run_path", text("code.py")),
    "importlib": call("importlib.import_module", text("code")),
    "code": call("types.CodeType"),
    "marshal": call("marshal.loads", text("x")),
    "state": glob("collections.OrderedDict") + b")R" + glob("os.system") + b"b",
    "default": call("collections.defaultdict", glob("os.getcwd")),
    "nested": call("torch.storage._load_from_bytes", text("x")),
    "torch.load": call("torch.load", text("other.pt")),
    "torch.hub": call("torch.hub.load", text("a/b"), text("c")),
    "torch's os": call("torch.serialization.os.system", SHELL),
    "joblib": call("joblib.load", text("x")),
    "pip": call("pip.main", b"]"),
    "copyreg": call("copyreg.add_extension", text("os"), text("system"), number(1)),
    "class": glob("torch.nn.Module") + b"}" + text("forward") + text("x") + b"sb",
    "allowed class": glob("collections.OrderedDict") + b"N}" + text("x") + text("y") + b"s\x86b",
}
LIVE = ("REDUCE", "posix", "STACK_GLOBAL", "INST", "OBJ", "exec", "eval", "getattr")


@pytest.mark.parametrize("name", LIVE)
def test_the_attacks_are_real(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    done = pickle.loads(b"\x80\x04" + RUN[name] + b".")
    if hasattr(done, "wait"):
        done.wait()
    assert (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", RUN)
def test_a_file_that_wants_to_run_something_is_refused(write_file, tmp_path, monkeypatch, form, name):
    monkeypatch.chdir(tmp_path)
    path = write_file(WRITERS[form](b"\x80\x04}" + text("model") + RUN[name] + b"s."))
    with pytest.raises(NetbuildError, match=r"weights\.pt: the file tries to (run|change) \S+: refused") as caught:
        run_watched(read, path)
    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert not (tmp_path / "CANARY").exists()


def test_what_only_looks_harmful_is_kept_as_data(write_file):
    """Other packages' names, whatever they are, are never looked up."""
    inner = call("evil.os.system", SHELL)
    program = b"\x80\x04" + inner + b"(" + SHELL + b"tR" + b"}" + text("__reduce__") + glob("evil.x") + b"sb."
    stub = run_watched(read, write_file(make_archive(program))).root
    assert isinstance(stub, Stub)
    assert (stub.kind, stub.args) == ("evil.os.system()", ("touch CANARY",))
    assert str(stub.get("__reduce__")) == "evil.x"


# -- hostile sizes and shapes

V2 = "torch._utils._rebuild_tensor_v2"
MANY = 150_000
FEW = 4000  # of what takes more memory than any opcode
TENSOR_ARGS = b"(" + pid() + number(0) + row(4) + row(1) + b"\x89}t"
BROKEN = {
    # storages and tensors
    "storage larger than its entry": (tensor(pid(count=2**31 - 1)), "2,147,483,647|8,589,934,588"),
    "storage of no entry": (tensor(pid(key="7")), "storage 7"),
    "storage outside the folder": (tensor(pid(key="../../etc/passwd")), "should have 16 bytes"),
    "storage of another type": (tensor() + tensor(pid("torch.HalfStorage")), "two types or sizes"),
    "storage of a larger type": (tensor(pid("torch.DoubleStorage")), "should have 32 bytes"),
    "quantised storage": (tensor(pid("torch.QInt8Storage")), "not supported"),
    "storage of no torch type": (tensor(pid("os.FloatStorage")), "refused"),
    "storage of a foreign type": (tensor(pid("evil.FloatStorage")), "not supported"),
    "negative storage": (tensor(pid(count=-1)), "no size"),
    "id without size": (b"(" + text("storage") + b"tQ", "no storage"),
    "id of a number": (b"K\x05Q", "no storage"),
    "id of tensors": (b"(" + tensor() * 5 + b"tQ", "no storage"),
    "id as text": (b"Pabc\n", "persistent id in text"),
    "view of a storage": (tensor(pid("torch.FloatStorage", "0", 4, row(1, 2))), "not supported"),
    "offset": (tensor(offset=1), "value 4 of a storage that has 4"),
    "negative offset": (tensor(offset=-1), "offset"),
    "size": (tensor(size=(5,)), "value 4 of a storage that has 4"),
    "stride": (tensor(size=(2, 2), stride=(3, 1)), "value 4 of a storage that has 4"),
    "axes": (tensor(size=(2, 2), stride=(1,)), "number of axes"),
    "negative size": (tensor(size=(-1,)), "whole numbers"),
    "truth as size": (call(V2, pid(), number(0), b"(\x88t", row(1), b"\x89", b"}"), "whole numbers"),
    "many axes": (tensor(size=(1,) * 65, stride=(1,) * 65), "whole numbers"),
    "expanded without end": (tensor(size=(2**30, 2**30), stride=(0, 0)), "claims more bytes"),
    "empty without end": (tensor(size=(0, 2**31 - 1, 2**31 - 1), stride=(0, 0, 0)), "claims more bytes"),
    "no storage": (call(V2, number(1), number(0), row(1), row(1), b"\x89", b"}"), "no storage"),
    "few arguments": (call(V2), "no storage"),
    "sparse": (call("torch._utils._rebuild_sparse_tensor", b"N"), "a sparse tensor is not supported"),
    "meta": (call("torch._utils._rebuild_meta_tensor_no_storage", b"N"), "without values"),
    "parameter of a list": (call("torch._utils._rebuild_parameter", b"]"), "no tensor"),
    "state of a tensor": (
        tensor() + b"(" + pid() + number(9) + row(9) + row(1) + b"tb",
        "attributes of a value of type Tensor",
    ),
    "item of a tensor": (tensor() + b"K\x00K\x00s", "items of a value of type Tensor"),
    "numpy objects": (call("numpy.dtype", text("O8"), b"\x89\x88"), "not supported"),
    "numpy scalar": (
        call("numpy._core.multiarray.scalar", call("numpy.dtype", text("f8")), b"C\x03abc"),
        "has 3 bytes",
    ),
    "numpy shape": (
        call("numpy._core.multiarray._reconstruct")
        + b"(K\x01"
        + row(9, 9)
        + call("numpy.dtype", text("f8"))
        + b"\x89C\x01at"
        + b"b",
        "81 values has 1 bytes",
    ),
    # opcodes
    "empty stack": (b"0", "empty stack"),
    "no mark": (b"t", "not begun"),
    "no memo": (b"h\x07", "memo entry"),
    "call of a list": (b"])R", "calls a value of type list"),
    "arguments in a list": (glob("evil.C") + b"]R", "arguments"),
    "call of a tensor": (tensor() + b")R", "calls a value of type Tensor"),
    "append to a dict": (b"}K\x01a", "appends"),
    "odd items": (b"}(K\x01u", "key without a value"),
    "list as key": (b"}]K\x01s", "may not be a value of type list"),
    "tensor as key": (b"}" + tensor() + b"K\x01s", "may not be a value of type Tensor"),
    "state of a number": (b"K\x01}b", "attributes of a value of type int"),
    "extension": (b"\x82\x01", "extension"),
    "buffer": (b"\x97", "buffer"),
    "unknown opcode": (b"\xff", "cut short or no pickle"),
    "wide text as bytes": (call("_codecs.encode", text("€"), text("latin1")), "outside Latin-1"),
    "other encoding": (call("_codecs.encode", text("x"), text("zip")), "Latin-1"),
    "makes itself": (glob("copyreg.__newobj__") + b"2" * 3 + b"\x87R" + b"R", "object of something that is no class"),
    # lengths that lie, and what is small in the file and large in memory
    "bytes": (b"\x8e" + struct.pack("<Q", 2**40), "cut short"),
    "bytearray": (b"\x96" + struct.pack("<Q", 2**40), "cut short"),
    "text": (b"\x8d" + struct.pack("<Q", 2**62), "cut short"),
    "number": (b"\x8b" + struct.pack("<i", 2**30), "cut short"),
    "negative number": (b"\x8b" + struct.pack("<i", -5), "cut short"),
    "long number": (b"\x8b" + struct.pack("<i", 1000) + b"\x7f" * 1000, "bits"),
    "frame": (b"\x95" + struct.pack("<Q", 2**40) + b"1", "not begun"),
    "memo": (b"Nr\xff\xff\xff\xff", None),
    "dicts": (b"}" * MANY, "more objects"),
    "lists": (b"]" * MANY, "more objects"),
    "sets": (b"\x8f" * MANY, "more objects"),
    "marks": (b"(" * MANY, "more objects"),
    "copies": (b"N" + b"2" * MANY, "more objects"),
    "memos": (b"N" + b"\x94" * MANY, "more objects"),
    "pops": (b"N0" * MANY, "more objects"),
    "strides": (tensor() + b"\x94" + b"h\x00" * MANY, "more objects"),
    "tuples": (b"N" + b"\x85" * MANY, "more objects"),
    "stubs": (glob("evil.C") + b"\x94" + b"h\x00)R" * MANY, "more objects"),
    "chained stubs": (glob("evil.C") + b")R\x94" * MANY, "more objects"),
    "wide texts": (text("x" * 800_000 + "\U0001f600"), "more objects"),
    "tensors": (
        glob(V2) + b"\x94" + call("builtins.tuple", TENSOR_ARGS) + b"\x94" + b"h\x00h\x01R" * FEW,
        "more objects",
    ),
    "wide numpy texts": (
        glob("numpy._core.multiarray.scalar")
        + b"\x94"
        + call(
            "builtins.tuple",
            b"(" + call("numpy.dtype", text("U1000"), b"\x89\x88") + b"B\xa0\x0f\0\0" + bytes(4000) + b"t",
        )
        + b"\x94"
        + b"h\x00h\x01R" * FEW,
        "more objects",
    ),
    "makes itself for long": (
        glob("copyreg.__newobj__") + b"\x94(" + b"h\x00" * 5000 + b"tR",
        "object of something that is no class",
    ),
    "copied lists": (
        glob("builtins.list") + b"\x94](" + b"N" * 9999 + b"e\x85\x94" + b"h\x00h\x01R" * MANY,
        "more objects",
    ),
    "copied texts": (
        glob("_codecs.encode") + b"\x94" + text("x" * 99999) + b"\x85\x94" + b"h\x00h\x01R" * MANY,
        "more objects",
    ),
    "deep key": (b"}N" + b"\x85" * 10_000 + b"Ns", "may not be a value of type tuple"),
    "doubling key": (b"}N" + b"2\x86" * 60 + b"Ns", "may not be a value of type tuple"),
    "wide key": (b"}(" + b"N" * 10_000 + b"tNs", "may not be a value of type tuple"),
    "colliding key": (b"}\x8a\x08" + (2**61 - 1).to_bytes(8, "little") + b"Ns", "may not be a value of type int"),
    "tuples as keys": (b"}(" + b"".join(row(i) + b"N" for i in range(101)) + b"u", "too many tuples"),
    "long names": (b"c" + b"m" * 2000 + b"\nx\n", "more than a name"),
}


def test_truth_has_two_values(write_file):
    program = b"\x80\x02}" + text("a") + tensor(pid("torch.BoolStorage")) + b"s."
    weights = extract_state_dict(read(write_file(make_archive(program, [bytes((0, 1, 2, 255))]))))
    assert weights["a"].view(torch.uint8).tolist() == [0, 1, 1, 1]


def test_a_storage_of_another_size_in_the_early_format(write_file):
    content = save_to_bytes({"a": torch.arange(4.0)}, **FORMATS["legacy"])
    assert content[-24:-16] == (4).to_bytes(8, "little")
    with pytest.raises(NetbuildError, match="another size"):
        read(write_file(content[:-24] + (3).to_bytes(8, "little") + content[-16:]))


@pytest.fixture
def run_bounded(monkeypatch):
    """``run_bounded(call, *args)`` fails if Python or torch allocates more than a few MiB."""
    real, taken = torch.empty, []

    def empty(size, dtype, device):
        taken.append(math.prod(size if isinstance(size, (tuple, list)) else [size]) * dtype.itemsize)
        assert sum(taken) < 4 << 20
        return real(size, dtype=dtype, device=device)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(unpickle, "ALLOWANCE", 3 << 20)
    monkeypatch.setattr(contents, "ALLOWANCE", 3 << 20)
    monkeypatch.setattr(contents, "MAX_VALUES", 30_000)
    monkeypatch.setattr(machine, "MAX_TUPLE_KEYS", 100)

    def run(call, *args):
        tracemalloc.start()
        try:
            return run_watched(call, *args)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 12 << 20

    return run


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pickle_is_an_error(write_file, run_bounded, name):
    program, message = BROKEN[name]
    path = write_file(make_archive(b"\x80\x04" + program + b".", [bytes(16)]))
    if message is None:
        run_bounded(read, path)
    else:
        with pytest.raises(NetbuildError, match=message) as caught:
            run_bounded(read, path)
        assert len(str(caught.value)) < 500


ENDLESS = {
    "cycle": b"]\x94h\x00a",
    "deep": b"]" + b"]" * 5000 + b"a" * 5000,
    "doubling": b"]" + b"2\x86" * 60,
    "many": b"](" + b"N" * 1000 + b"e\x940](" + b"h\x00" * 30 + b"e",
    "stubs": glob("evil.C") + b")R}" + text("x") + b"](" + b"N" * 1000 + b"esb\x940](" + b"h\x00" * 30 + b"e",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_facts_without_end_are_an_error(write_file, run_bounded, name):
    weights = text("model") + b"}" + text("a") + tensor() + b"s"
    foreign = read(
        write_file(make_archive(b"\x80\x04}(" + weights + text("args") + ENDLESS[name] + b"u.", [bytes(16)]))
    )
    assert list(extract_state_dict(foreign)) == ["a"]
    with pytest.raises(NetbuildError, match="its metadata has more than"):
        run_bounded(extract_metadata, foreign)


def test_a_file_that_holds_itself_has_no_weights(write_file, run_bounded):
    program = b"\x80\x04}\x94(" + b"".join(text(key) + b"h\x00" for key in contents.EMA + contents.MODEL) + b"u."
    with pytest.raises(NetbuildError, match="holds no weights"):
        run_bounded(extract_state_dict, read(write_file(make_archive(program))))


def module(children, parameters=b"}"):
    state = text("_modules") + children + text("_parameters") + parameters + text("_buffers") + b"}"
    return glob("evil.Module") + b")\x81}(" + state + b"ub"


CYCLE = glob("evil.Module") + b")\x81\x94}(" + text("_modules") + b"}" + text("x") + b"h\x00s"
CYCLE += text("_parameters") + b"}" + text("_buffers") + b"}ub"


def make_shared_modules(times):
    """A module whose children are twice the same module, and so on."""
    program = module(b"}") + b"\x94"
    for i in range(times):
        child = b"h" + bytes([i])
        program += b"0" + module(b"}(" + text("a") + child + text("b") + child + b"u") + b"\x94"
    return program


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (CYCLE, "nested deeper"),
        (module(b"}", b"}" + text("w") + b"K\x01s"), "w is no tensor"),
        (module(b"}", b"N"), "has no _parameters"),
        (module(b"}", b"}K\x01Ns"), "has no _parameters"),
        (make_shared_modules(40), "more objects"),
    ],
    ids=["cycle", "number", "none", "name", "doubling"],
)
def test_a_module_without_end_is_an_error(write_file, run_bounded, program, message):
    foreign = read(write_file(make_archive(b"\x80\x04" + program + b".")))
    with pytest.raises(NetbuildError, match=message):
        run_bounded(extract_state_dict, foreign)


# -- hostile archives

PROGRAM = b"\x80\x02}" + text("a") + tensor() + b"s."


def make_compressed_archive(**options):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x/data.pkl", PROGRAM)
        z.writestr("x/data/0", bytes(10 << 20))
    return target.getvalue()


def make_duplicate_archive():
    target = io.BytesIO(make_archive(PROGRAM, [bytes(16)]))
    with zipfile.ZipFile(target, "a") as z:
        z.writestr("x/data/0", bytes(range(16)))
    return target.getvalue()


def patch_directory(data, at, new):
    """An archive with other bytes at an offset of its first directory record, or of its end record if negative."""
    place = data.rindex(b"PK\x05\x06") + ~at if at < 0 else data.index(b"PK\x01\x02") + at
    return data[:place] + new + data[place + len(new) :]


WHOLE = make_archive(PROGRAM, [bytes(16)])
ROOMY = make_archive(PROGRAM, [bytes(200)])
ARCHIVES = {
    "empty": (b"", "is empty"),
    "text": (b"weights: none\n", "neither a file of torch.save"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "tar archive"),
    "plain pickle": (pickle.dumps({"a": 1}), "not one of torch.save"),
    "compressed": (make_compressed_archive(), "entry x/data.pkl is compressed"),
    "two of a name": (make_duplicate_archive, "two entries named x/data/0"),
    "encrypted": (patch_directory(WHOLE, 8, b"\x01"), "encrypted"),
    "two sizes": (patch_directory(WHOLE, 20, b"\x01\x00"), "two sizes"),
    "overlap": (patch_directory(WHOLE, 20, struct.pack("<2L", 2000, 2000)), "overlap"),
    "far entry": (patch_directory(WHOLE, 42, struct.pack("<L", 2**31)), "cut short"),
    "wrong entry": (
        patch_directory(ROOMY, 42, struct.pack("<L", ROOMY.index(bytes(99)))),
        "not where its directory says",
    ),
    "checksum": (WHOLE.replace(b"\x80\x02}", b"\x80\x02]", 1), "checksum"),
    "many entries": (patch_directory(WHOLE, ~10, b"\xfe\xff"), "directory is cut short"),
    "far directory": (patch_directory(WHOLE, ~16, struct.pack("<L", 2**31)), "cut short"),
    "large directory": (patch_directory(WHOLE, ~12, struct.pack("<L", 2**31)), "more than"),
    "zip64 without a record": (patch_directory(WHOLE, ~16, b"\xff" * 4), "directory is damaged"),
    "no pickle": (make_archive(b"").replace(b"data.pkl", b"data.pkx"), "0 entries data.pkl"),
    "two pickles": (make_archive(PROGRAM, aa_aa_ab=b"").replace(b"x/aa_aa_ab", b"y/data.pkl"), "2 entries data.pkl"),
    "program": (make_archive(PROGRAM, **{"constants.pkl": b"."}), "TorchScript"),
    "byte order": (make_archive(PROGRAM, byteorder=b"big" if sys.byteorder == "little" else b"little"), "byte order"),
    "archive in it": (make_archive(WHOLE), "cut short or no pickle"),
    "large pickle": (lambda: make_archive(bytes(unpickle.MAX_PICKLE + 1)), "more than"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_broken_archive_is_an_error(write_file, name):
    content, message = ARCHIVES[name]
    path = write_file(content() if callable(content) else content)
    with pytest.raises(NetbuildError, match=message):
        run_watched(read, path)


# -- mutations: whatever is done to a file, an error of ours or tensors that can be used


class Facts:
    """What a trained network's file has beside weights."""

    def __init__(self):
        self.task, self.path = "detect", pathlib.PurePosixPath("a/b")
        self.yaml = {"nc": 3, "backbone": [[-1, 1, "Conv", [64, 3, 2]]]}


def checkpoint():
    network = small_network().half()
    network.args, network.f = Facts(), np.float64(0.5)
    mask = torch.zeros(3, dtype=torch.bool)
    return {"ema": None, "model": network, "date": "today", "mask": mask, "grid": TENSORS["views"]}


SOUND = {(form, name): save_to_bytes(content, **FORMATS[form])
         for form in FORMATS
         for name, content in {"state": small_network().state_dict(), "module": checkpoint()}.items()}  # fmt: skip
WEIGHTS = {"state": {**small_network().state_dict()}, "module": {**small_network().half().state_dict()}}
PROGRAMS = {name: zipfile.ZipFile(io.BytesIO(SOUND["zip", name])).read("archive/data.pkl") for name in WEIGHTS}
OPCODES = [op.code.encode("latin-1") for op in pickletools.opcodes]
ODD = [b"\0", b"\xff", b"\xff\xff\xff\x7f", bytes(8), *OPCODES, glob("os.system"), tensor(), row(1, 2), text("data")]

place = st.floats(0, 1, exclude_max=True)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("put"), place, st.sampled_from(ODD)),
        st.tuples(st.just("insert"), place, st.sampled_from(ODD)),
        st.tuples(st.just("copy"), place, st.tuples(place, st.integers(1, 60))),
        st.tuples(st.just("drop"), place, st.integers(1, 60)),
        st.tuples(st.just("cut"), place, st.none()),
    ),
    min_size=1,
    max_size=6,
)


def apply_edits(content, changes):
    """Some bytes after edits, each at a place between 0 and 1."""
    content = bytearray(content)
    for kind, share, value in changes:
        at = int(share * len(content))
        if kind == "flip" and content:
            content[at] ^= 1 << value
        elif kind == "put":
            content[at : at + len(value)] = value
        elif kind == "insert":
            content[at:at] = value
        elif kind == "copy":
            start = int(value[0] * len(content))
            content[at:at] = content[start : start + value[1]]
        elif kind in ("drop", "cut"):
            del content[at : at + value if value else None]
    return bytes(content)


def entries_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as z:
        return {name.partition("/")[2]: z.read(name) for name in z.namelist()}


def with_program(name, program):
    """A sound archive with another pickle, whose checksum is right."""
    entries = entries_of(SOUND["zip", name])
    del entries["data.pkl"]
    return make_archive(program, **entries)


def open_weights(path):
    foreign = run_watched(read, path)
    run_watched(extract_metadata, foreign)
    return run_watched(extract_state_dict, foreign)


def read_or_none(path, content):
    """Read a file's weights, None if that raises a NetbuildError; check that they claim no memory beyond the file."""
    path.write_bytes(content)
    try:
        weights = open_weights(path)
    except NetbuildError:
        weights = {}
    for value in weights.values():
        assert value.numel() * value.itemsize <= len(content) + tensors.EXPANDED
        assert value.untyped_storage().nbytes() <= len(content)
        if value.numel():
            value[(-1,) * value.dim()].item()  # the last value, wherever it lies
    return weights or None


def whole_file(path, form, name, changes):
    weights = read_or_none(path, apply_edits(SOUND[form, name], changes))
    # An archive's checksums leave no damage unseen; the early format has none.
    assert weights is None or form == "legacy" or same(weights, WEIGHTS[name])


def program(path, name, changes):
    read_or_none(path, with_program(name, apply_edits(PROGRAMS[name], changes)))


def swapped(path, name, moves):
    """Opcodes of a sound pickle in another order, some lost, some doubled."""
    ends = [at for _, _, at in pickletools.genops(PROGRAMS[name])][1:] + [len(PROGRAMS[name])]
    parts = [PROGRAMS[name][a:b] for a, b in zip([0, *ends], ends, strict=False)]
    for a, b, kind in moves:
        i, j = int(a * len(parts)), int(b * len(parts))
        parts[i : i + kind] = [parts[j]]
    read_or_none(path, with_program(name, b"".join(parts)))


quick = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
long = settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
names = st.sampled_from(list(WEIGHTS))
MUTATE = {
    "file": (whole_file, (st.sampled_from(list(FORMATS)), names, edits)),
    "pickle": (program, (names, edits)),
    "opcodes": (swapped, (names, st.lists(st.tuples(place, place, st.integers(0, 2)), min_size=1, max_size=5))),
}


def test_the_mutated_files_are_sound(tmp_path):
    for (_, name), content in SOUND.items():
        assert same(read_or_none(tmp_path / "a.pt", content), WEIGHTS[name])
    for name, content in PROGRAMS.items():
        assert same(read_or_none(tmp_path / "a.pt", with_program(name, content)), WEIGHTS[name])


@pytest.mark.parametrize("kind", MUTATE)
@pytest.mark.parametrize("profile", [quick, pytest.param(long, marks=pytest.mark.slow)], ids=["quick", "long"])
def test_a_mutated_file_gives_tensors_or_an_error(tmp_path, kind, profile):
    check, strategies = MUTATE[kind]
    profile(given(st.tuples(*strategies))(lambda drawn: check(tmp_path / "a.pt", *drawn)))()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_file_cut_short_anywhere_is_an_error(tmp_path, form, name):
    content = SOUND[form, name]
    for size in {*range(0, len(content), 37), *range(len(content) - 30, len(content))}:
        assert read_or_none(tmp_path / "a.pt", content[:size]) is None


def test_archives_without_checksums_are_read(write_file):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        content = save_to_bytes(WEIGHTS["state"])
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(extract_state_dict(read(write_file(content))), WEIGHTS["state"])


def test_torchs_default_device_is_left_alone(write_file):
    path = write_file({"a": torch.arange(3.0), "b": torch.zeros(0)})
    with torch.device("meta"):
        weights = extract_state_dict(read(path))
    assert same(weights, {"a": torch.arange(3.0), "b": torch.zeros(0)})


def test_files_that_are_none(tmp_path):
    for path in (tmp_path, tmp_path / "none.pt", "a\0b.pt"):
        with pytest.raises(NetbuildError, match="cannot be read"):
            read(path)
