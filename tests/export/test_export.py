"""Export to ONNX: contents of files, their proof, suppression, flags and errors. onnxruntime runs every file."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.filled_weights import fill
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import netbuild
from netbuild.data.fitting import FITTINGS
from netbuild.errors import NetbuildError
from netbuild.export import base, export, making
from netbuild.export.base import Job, Target, target
from netbuild.export.proof import ProofError, compare, pair_rows, prove
from netbuild.export.suppression import append_suppression
from netbuild.grammar.locate import packaged_architectures
from netbuild.tasks.nms import Filter, suppress

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TINY = """
nc: 3
imgsz: 64
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [[1, -1], 1, Detect, [nc]]
"""
TRAPS = """
import torch
from torch import nn

class TwoPictures(nn.Module):  # the batch that it was traced with is in the graph
    def forward(self, x):
        return x.view(2, 40, -1).reshape(x.shape) if len(x) == 2 else x * 1

class OneByOne(nn.Module):
    def forward(self, x):
        return torch.cat([x[i : i + 1] for i in range(x.shape[0])])

class Small(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[2] > 10 else x

class Large(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[3] > 40 else x

class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)

class Other(nn.Module):
    def forward(self, x):
        return x * (2.0 if torch.compiler.is_exporting() else 3.0)

class Values(nn.Module):
    def forward(self, x):
        return x if x.device.type == "meta" or x.sum() > 0 else -x
"""


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, *arrays):
    opened = session(path)
    return opened.run(None, {x.name: np.asarray(a) for x, a in zip(opened.get_inputs(), arrays, strict=True)})


def shapes(values):
    return [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in values]


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def pictures(count, height, width, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "traps.py").write_text(TRAPS)
    return tmp_path


def case(folder, name):
    """A copy of a case's file; its name."""
    return Path(shutil.copy(Path(__file__).parents[1] / f"cases/{name}.yaml", folder)).name


def make_network(text=TINY, **options):
    """A network with filled weights, so that its outputs depend on the image."""
    Path("lively.yaml").write_text(text)
    return fill(netbuild.build("lively.yaml", **options)).eval()


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_is_self_contained_and_equals_torch(cli, here):
    name = case(here, "d01-export-parity")
    done = cli("export", name, "--scale", "n", "--imgsz", "96", "160", "-o", "out.onnx")
    assert done.code == 0, done.err
    assert "random" in done.err
    assert "opset 20" in done.out
    assert "torch.onnx.export (dynamo)" in done.out
    assert done.out.count("1x7x1200") == 2  # two pictures in the table
    assert "allowed" in done.out
    assert sorted(os.listdir(here)) == sorted(
        [name, "out.onnx", "tiny.yaml", "traps.py"]
    )  # no .data, nothing left over
    (here / "elsewhere").mkdir()
    moved = shutil.move(here / "out.onnx", here / "elsewhere/moved.onnx")
    model = onnx.load(moved)
    onnx.checker.check_model(str(moved), full_check=True)
    assert (shapes(model.graph.input), shapes(model.graph.output)) == ([[1, 3, 96, 160]], [[1, 7, 1200]])
    assert not [node for node in model.graph.node if node.metadata_props or node.doc_string]  # they name paths
    assert str(here) not in str(model)
    torch.manual_seed(0)
    network = netbuild.build(name, scale="n", imgsz=(96, 160)).eval()
    assert sum(p.numel() for p in network.parameters()) == 128_034
    images = pictures(1, 96, 160)
    with torch.no_grad():
        assert np.abs(run(moved, images)[0] - network(images)[0].numpy()).max() < 1e-4


@pytest.mark.slow
def test_a_free_batch_takes_any_number_of_pictures(cli, here):
    name = case(here, "d01-export-parity")
    assert cli("export", name, "--scale", "n", "--imgsz", "96x160", "--dynamic", "batch", "-o", "b.onnx").code == 0
    model = onnx.load("b.onnx")
    assert (shapes(model.graph.input), shapes(model.graph.output)) == ([["batch", 3, 96, 160]], [["batch", 7, 1200]])
    torch.manual_seed(0)
    network = netbuild.build(name, scale="n", imgsz=(96, 160)).eval()
    for count in (1, 3, 5):
        images = pictures(count, 96, 160, count)
        with torch.no_grad():
            assert np.abs(run("b.onnx", images)[0] - network(images)[0].numpy()).max() < 1e-4


def test_adaptive_pooling_to_a_size_that_does_not_divide(cli, here):
    done = cli("export", case(here, "d04-adaptive-pool-3"), "--imgsz", "64", "--json", "-o", "a.onnx")
    assert done.code == 0, done.err
    assert json.loads(done.out)["outputs"] == [{"name": "output0", "type": "float32", "shape": [1, 10]}]


@pytest.mark.parametrize(
    ("opset", "ir", "flags"),
    [(18, 8, {}), (None, 9, {"simplify": True}),
     *(pytest.param(*case, marks=pytest.mark.slow) for case in [
         (19, 9, {"dynamic": "both"}), (20, 9, {"nms": True}), (20, 9, {"half": True}), (22, 10, {}), (23, 11, {})])],
)  # fmt: skip
def test_a_file_has_the_least_ir_version_of_its_opset(here, opset, ir, flags):
    export(make_network(), "v.onnx", imgsz=64, opset=opset, **flags)
    model = onnx.load("v.onnx")
    assert model.ir_version == ir
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset or 20)]


@pytest.mark.slow
def test_half_stores_float16_weights(cli, here):
    name = case(here, "a17-no-p5")
    whole = cli("export", name, "--imgsz", "64", "-o", "w.onnx", "--json")
    half = cli("export", name, "--imgsz", "64", "--half", "-o", "h.onnx")
    assert (whole.code, half.code) == (0, 0), half.err
    graph = onnx.load("h.onnx").graph
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input}  # ONNX has them float32
    kinds = {t.data_type for t in graph.initializer if t.name not in scales}
    assert onnx.TensorProto.FLOAT not in kinds
    assert onnx.TensorProto.FLOAT16 in kinds
    assert os.path.getsize("h.onnx") < 0.6 * os.path.getsize("w.onnx")
    assert "2e-02" in half.out  # the looser tolerance is message
    assert "images  float32" in half.out


def test_names_types_shapes_and_metadata(cli, here):
    name = case(here, "a13-nc-precedence")
    done = cli("export", name, "--imgsz", "64", "-o", "n.onnx")
    assert done.code == 0, done.err
    assert "images  float32  [1, 3, 64, 64]" in done.out
    assert "output0  float32  [1, 84, 256]" in done.out
    assert "centre x, centre y, width, height in pixels, then 80 class scores from 0 to 1" in done.out
    facts = metadata("n.onnx")
    assert set(facts) == {
        "netbuild", "torch", "task", "names", "stride", "imgsz", "channels", "fitting", "resizing", "one2one", "boxes",
        "objectness", "extra", "nms", "half", "dynamic", "yaml", "layout",
    }  # fmt: skip
    assert (facts["stride"], facts["task"], facts["imgsz"], facts["channels"]) == ("4", "detect", "[64, 64]", "3")
    assert len(json.loads(facts["names"])) == 80
    assert (facts["half"], facts["dynamic"], facts["nms"], facts["one2one"]) == ("false", "[]", "", "false")
    Path("again.yaml").write_text(facts["yaml"])
    assert netbuild.build("again.yaml").card.nc == 80
    done = cli("export", name, "--imgsz", "64", "-o", "n.onnx", "--input-names", "x", "--output-names", "y", "--json")
    data = json.loads(done.out)
    assert (data["inputs"][0]["name"], data["outputs"][0]["name"]) == ("x", "y")


def test_suppression_in_the_graph(here):
    network = make_network(imgsz=64)
    images = torch.cat((pictures(2, 64, 64), torch.zeros(1, 3, 64, 64)))
    with torch.no_grad():
        y = network(images)[0]
    best = y[:, 4:].amax((1, 2))
    conf = float(best.sort().values[:2].mean())  # one picture has no box
    done = export(network, "s.onnx", imgsz=64, dynamic="batch", nms={"conf": conf, "iou": 0.5, "max_det": 20})
    assert [p["name"] for p in done.outputs] == ["boxes", "scores", "classes", "index"]
    assert json.loads(metadata("s.onnx")["nms"]) == {"conf": conf, "iou": 0.5, "max_det": 20}
    wanted = suppress(y, Filter(conf=conf, iou=0.5, max_det=20))
    assert min(map(len, wanted)) == 0 < max(map(len, wanted))
    for chosen in ([0], [1], [2], [0, 1, 2]):
        check_detections(run("s.onnx", images[chosen]), [wanted[i] for i in chosen])


def check_detections(found, wanted):
    boxes, scores, classes, index = found
    assert index.tolist() == [i for i, rows in enumerate(wanted) for _ in rows]
    rows = torch.cat(wanted)
    assert np.allclose(boxes, rows[:, :4], atol=1e-3)
    assert np.allclose(scores, rows[:, 4], atol=1e-5)
    assert (classes == rows[:, 5].numpy()).all()
    assert (classes.dtype, index.dtype) == (np.int64, np.int64)


def test_suppression_equals_prediction_of_the_same_picture(here):
    network = netbuild.save(make_network(imgsz=64), "net.safetensors")
    source = Path(base.__file__).with_name("pictures") / "strip.jpg"
    (result,) = netbuild.predict(network, source, imgsz=64, rect=False, conf=0.01, device="cpu")
    assert len(result.prediction)
    export(network, imgsz=64, nms={"conf": 0.01})  # beside the checkpoint
    fitted, _ = FITTINGS["letterbox"](result.view.image, (64, 64), 32, False)
    image = fitted.transpose(2, 0, 1)[None].astype(np.float32) / 255
    check_detections(run("net.onnx", image), [result.prediction])


# -- suppression alone -------------------------------------------------------------------------------------------------


def suppression_session(folder, nc, chosen):
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["in"], ["raw"])], "g",
        [info("in", 1, ["b", 4 + nc, "a"])], [info("raw", 1, ["b", 4 + nc, "a"])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    append_suppression(model, chosen, ("boxes", "scores", "classes", "index"))
    onnx.save(model, folder / "only.onnx")
    onnx.checker.check_model(str(folder / "only.onnx"), full_check=True)
    return session(folder / "only.onnx")


@pytest.mark.parametrize("max_det", [1, 7, 300])
def test_suppression_of_any_boxes(tmp_path, max_det):
    chosen = Filter(conf=0.5, iou=0.45, max_det=max_det)
    opened = suppression_session(tmp_path, 4, chosen)
    for seed in range(30):
        random = np.random.default_rng(seed)
        batch, cells = random.integers(1, 5), random.integers(1, 200)
        centres, sizes = random.uniform(0, 60, (batch, 2, cells)), random.uniform(1, 40, (batch, 2, cells))
        scores = random.integers(0, 12, (batch, 4, cells)) / 12 * random.integers(0, 2, (batch, 1, 1))  # many equal
        y = np.concatenate((centres, sizes, scores), 1).astype(np.float32)
        check_detections(opened.run(None, {"in": y}), suppress(torch.from_numpy(y), chosen))


# -- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--opset 17", "--opset 17"),
        ("--opset 99", "--opset 99"),
        ("--conf 0.3", "--conf has no effect without --nms"),
        ("--max-det 3", "--max-det has no effect without --nms"),
        ("--nms --iou 2", "--iou 2"),
        ("--dynamic yes", "--dynamic yes"),
        ("--dynamic batch --batch 2", "--batch 2 has no effect"),
        ("--output-names a,b", "--output-names"),
        ("--input-names x --output-names x", "'x' is the name of an input and of an output"),
        ("--target nix", "no target 'nix'"),
        ("--imgsz 60", "60x60 is no multiple of the network's largest stride, 8"),
        ("--imgsz 64 64 64", "unexpected argument"),
        ("-o no/x.onnx", "there is no folder no"),
        ("-o x.pt", "must end in .onnx"),
        ("-o folder.onnx", "is a folder"),
    ],
)
def test_wrong_flags(cli, here, flags, message):
    (here / "folder.onnx").mkdir()
    before = sorted(os.listdir(here))
    done = cli("export", "tiny.yaml", *flags.split())
    assert done.code == 2
    assert message in done.err
    assert sorted(os.listdir(here)) == before


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("lenet5.yaml", "the task 'classify'"),
        ("yolo11n-obb.yaml", "the task 'obb'"),
        ("dncnn.yaml", "the task 'restore'"),
    ],
)
def test_suppression_is_refused_for_heads_without_boxes(cli, here, file, message):
    done = cli("export", file, "--nms", "--imgsz", "32")
    assert done.code == 2
    assert f"--nms has no effect for the head {message}" in done.err or f"--nms has no effect for {message}" in done.err


def test_suppression_is_refused_for_an_end_to_end_head(here):
    network = netbuild.build("yolov10n.yaml", imgsz=64)
    network.model[-1].end2end = True
    with pytest.raises(NetbuildError, match="needs no suppression"):
        export(network, "x.onnx", imgsz=64, nms=True)


def test_flags_and_packages_of_a_target_are_checked(cli, here):
    @target
    class Plain(Target):
        name, suffix, packages = "plain", ".plain", ()

        def write(self, job, path):
            raise AssertionError

        open = write

    @target
    class Lacking(Plain):
        name, packages, extra = "lacking", ("numpy", "no_such_package_here"), "lacking"

    try:
        done = cli("export", "tiny.yaml", "--target", "plain", "--half")
        assert (done.code, "the target 'plain' does not take --half" in done.err) == (2, True)
        done = cli("export", "no-such-file.yaml", "--target", "lacking")  # message before any work
        assert done.code == 3
        assert "no_such_package_here" in done.err
        assert "pip install no_such_package_here (the extra netbuild[lacking])" in done.err
    finally:
        del base.TARGETS.registered["plain"], base.TARGETS.registered["lacking"]


def test_a_missing_pillow_is_named(cli, here, monkeypatch):
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == "PIL" else True)
    done = cli("export", "no-such-file.yaml")
    assert done.code == 3
    assert "'onnx' needs pillow" in done.err


@pytest.mark.slow
def test_weights_of_a_large_file_are_stored_beside_it(here, monkeypatch):
    monkeypatch.setattr("netbuild.export.onnx.MAX_BYTES", 3000)
    done = export("tiny.yaml", "big.onnx")
    assert sorted(path.name for path in here.glob("big*")) == ["big.onnx", "big.onnx.data"]
    assert done.size == sum(path.stat().st_size for path in here.glob("big*"))
    assert any("big.onnx.data" in note for note in done.notes)
    assert run("big.onnx", pictures(1, 64, 64))[0].shape == (1, 7, 320)
    write_trap("Other")
    with pytest.raises(NetbuildError, match=r"moved to big\.failed") as caught:
        export("trap.yaml", "big.onnx", imgsz=32, modules=["traps.py"], set=())
    assert caught.value.exit_code == 1
    assert run("big.onnx", pictures(1, 64, 64))[0].shape == (1, 7, 320)  # the older file is whole


def test_simplify_reports_the_removed_nodes(here):
    done = export("tiny.yaml", "x.onnx", simplify=True)
    assert any("--simplify: " in note and ("nothing to remove" in note or "removed" in note) for note in done.notes)


@pytest.mark.slow
def test_export_leaves_the_callers_network_unchanged(here):
    network = make_network().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    fused, plain = (export(network, f"{fuse}.onnx", imgsz=32, fuse=fuse) for fuse in (True, False))
    assert network.training
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    images = pictures(1, 32, 32)
    assert np.allclose(run(fused.path, images)[0], run(plain.path, images)[0], atol=1e-3)
    assert fused.difference < 1e-4


def test_several_inputs_keep_their_names(here):
    Path("two.yaml").write_text(
        "inputs: {rgb: [3, 32, 32], text: [2, 5]}\nlayers:\n  - [rgb, 1, Conv, [5, 3, 2]]\n"
        "  - [-1, 1, nn.Flatten, [2]]\n  - [[text, -1], 1, traps.Product, []]\n"
    )
    Path("product.py").write_text(
        "import torch.nn as nn\nclass Product(nn.Module):\n    def forward(self, a, b):\n        return a @ b\n"
    )
    text = Path("two.yaml").read_text().replace("traps.Product", "Product")
    Path("two.yaml").write_text(text)
    done = export("two.yaml", "two.onnx", modules=["product.py"], dynamic="both")
    assert [(p["name"], p["shape"]) for p in done.inputs] == [
        ("rgb", ["batch", 3, "height", "width"]), ("text", ["batch", 2, 5]),
    ]  # fmt: skip


# -- sizes and batches ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """A network and its file, everything free."""
    folder = tmp_path_factory.mktemp("free")
    (folder / "tiny.yaml").write_text(TINY)
    network = fill(netbuild.build(folder / "tiny.yaml")).eval()
    export(network, folder / "free.onnx", imgsz=64, dynamic="both")
    return network, session(folder / "free.onnx")


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 5), height=st.integers(1, 14), width=st.integers(1, 14), seed=st.integers(0, 99))
def test_any_batch_and_size(free, batch, height, width, seed):
    network, opened = free
    images = pictures(batch, 8 * height, 8 * width, seed)
    with torch.no_grad():
        wanted = network(images)[0].numpy()
    (found,) = opened.run(None, {"images": images.numpy()})
    assert compare("y", "", found, wanted, 1e-4).ok


@pytest.mark.parametrize(
    ("module", "dynamic", "message"),
    [
        ("TwoPictures", "batch", "supports one batch only"),
        ("OneByOne", "both", "supports one batch only"),
        ("Small", "size", "branches where height is below 21"),
        ("Large", "both", "branches where width is above 80"),
        ("Bessel", None, "bessel_j0 cannot be written as ONNX"),
        ("Values", None, "cannot be traced"),
    ],
)
def test_modules_that_cannot_be_exported_are_errors_at_their_row(cli, here, module, dynamic, message):
    write_trap(module)
    flags = ["--dynamic", dynamic] if dynamic else []
    done = cli("export", "trap.yaml", "--imgsz", "32", "--modules", "traps.py", *flags)
    assert done.code == 2, done.out
    assert message in done.err
    assert f"trap.yaml:3:5: row 1 (odd) {module}" in done.err
    assert not list(here.glob("*.onnx"))


def write_trap(module):
    Path("trap.yaml").write_text(
        f"layers:\n  - [-1, 1, Conv, [40, 3, 2]]\n  - [-1, 1, {module}, [], odd]\n  - [-1, 1, Conv, [8, 3, 2]]\n"
    )


@pytest.mark.parametrize("module", ["Random", "Other"])
def test_a_file_that_differs_is_renamed_to_failed(cli, here, module):
    write_trap(module)
    (here / "trap.onnx").write_bytes(b"an older file")
    done = cli("export", "trap.yaml", "--imgsz", "32", "--modules", "traps.py")
    assert done.code == 1
    assert "differs from torch" in done.err
    assert "BEYOND" in done.err
    assert "trap.failed.onnx" in done.err
    assert (here / "trap.onnx").read_bytes() == b"an older file"
    onnx.checker.check_model(onnx.load(here / "trap.failed.onnx"))


class Noisy(nn.Module):
    """Gives its input back, less what float32 or float16 loses beside a large number."""

    def __init__(self, large):
        super().__init__()
        self.large = nn.Parameter(torch.tensor(float(large)))

    def forward(self, x):
        return ((x + self.large) - self.large,)


@pytest.mark.parametrize(
    ("large", "half", "off", "ok"),
    [(1e4, False, 0, True), (1e4, False, 1e-3, False), (2e3, True, 0.3, True), (2e3, True, 2, False)],
)
def test_rounding_of_torch_itself_is_tolerated(large, half, off, ok):
    """A file that is right where torch rounds is equal; one that is wrong is not excused by that."""
    images, tolerance = torch.rand(1, 3, 32, 32), 2e-2 if half else 1e-4
    job = Job(Noisy(large), (images,), ("images",), ("output0",), axes=({},), options={"half": half})
    found = making.prove_twice(job, lambda x: [x[0] + off], tolerance, "")
    assert all(c.ok for c in found) == ok
    assert not ok or any(c.remark for c in found)


def test_a_free_size_is_refused_for_inputs_of_different_sizes(here):
    with pytest.raises(NetbuildError, match="the size cannot stay free"):
        export("siamfc.yaml", "x.onnx", dynamic="size")


# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, *(pytest.param(n, marks=pytest.mark.slow) for n in (errno.EACCES, errno.EIO))]
)
def test_a_disk_error_leaves_no_file(cli, here, monkeypatch, number):
    written = Path.write_bytes

    def failing(self, data):
        if self.suffix == ".onnx":
            written(self, data[: len(data) // 2])
            raise OSError(number, os.strerror(number))
        return written(self, data)

    monkeypatch.setattr(Path, "write_bytes", failing)
    done = cli("export", "tiny.yaml", "-o", "t.onnx")
    assert done.code == 2
    assert f"t.onnx: cannot be written: {os.strerror(number)}" in done.err
    assert sorted(os.listdir(here)) == ["tiny.yaml", "traps.py"]


def test_a_read_only_folder_is_refused(cli, here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = cli("export", "tiny.yaml", "-o", "t.onnx")
    assert done.code == 2
    assert "its folder cannot be written to" in done.err


# -- comparison -------------------------------------------------------------------------------------------------------


def rows(count, seed=0):
    random = np.random.default_rng(seed)
    boxes = random.uniform(0, 600, (count, 4))
    scores = np.sort(random.uniform(0.1, 1, count))[::-1]
    return np.concatenate((boxes, scores[:, None], random.integers(0, 80, (count, 1))), 1).astype(np.float32)


def test_detections_are_compared_in_any_order():
    wanted = rows(50)
    a, b, left = pair_rows(wanted[np.random.default_rng(1).permutation(50)], wanted, 1e-4)
    assert left == 0
    assert (a == b).all()


def test_a_detection_of_another_class_or_place_is_a_difference():
    wanted = rows(50)
    for column, change in ((5, 1), (0, 1), (4, 0.1)):
        given_rows = wanted.copy()
        given_rows[3, column] += change
        a, b, left = pair_rows(given_rows, wanted, 1e-4)
        assert left == 0
        assert not compare("y", "", a, b, 1e-4).ok


def test_last_detections_of_equal_score_may_differ():
    wanted = rows(50)
    given_rows = wanted.copy()
    given_rows[-1, :4] += 100
    a, b, left = pair_rows(given_rows, wanted, 1e-4)
    assert left == 1
    assert compare("y", "", a, b, 1e-4).ok


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_never_equal(value):
    wanted = np.array([1, 2], np.float32)
    broken = np.array([1, value], np.float32)
    assert compare("y", "", wanted.copy(), wanted, 1e-4).ok
    for file, reference in ((broken, broken), (broken, wanted), (wanted, broken)):
        for tolerance in (1e-4, base.ANY):
            assert not compare("y", "", file, reference, tolerance).ok
    assert not compare("y", "", wanted[:1], wanted, 1e-4).ok
    assert not compare("y", "", None, wanted, 1e-4).ok


def spoil(network, how):
    """Make every weight NaN, infinite, too large for float32 outputs, or zero; or make one weight NaN."""
    values = {"nan": np.nan, "inf": np.inf, "overflow": 3e38, "zero": 0}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(values[how]) if how in values else parameter.view(-1)[0].fill_(np.nan)
    return network


@pytest.mark.parametrize(
    ("how", "options", "message"),
    [
        ("nan", {}, "not finite"),
        ("nan", {"nms": True}, "not finite"),
        ("nan", {"half": True, "dynamic": "batch"}, "not finite"),
        ("nan", {"target": "torchscript"}, "not finite"),
        ("inf", {}, "not finite"),
        ("overflow", {}, "not finite"),
        ("one", {}, "not finite"),
        ("zero", {}, "the same for"),
        ("zero", {"nms": True}, "the same for"),
        ("zero", {"dynamic": "both"}, "the same for"),
    ],
)
def test_a_network_that_proves_nothing_is_not_exported(here, how, options, message):
    network = spoil(make_network(imgsz=64).eval(), how)
    with pytest.raises(ProofError, match=message):
        export(network, **options)
    assert not [path for path in here.iterdir() if path.suffix in (".onnx", ".torchscript", ".pt")]


@pytest.mark.parametrize(
    ("scale", "tolerance", "file", "ok", "remark"),
    [
        (1, 1e-4, lambda x: x * 0, False, "the file's outputs do not depend"),
        (1, base.ANY, lambda x: x * 0, False, "the file's outputs do not depend"),
        (1, 1e-4, lambda x: x * np.nan, False, "not finite"),
        (1e-6, 1e-4, lambda x: x * 0, False, "the file's outputs do not depend"),
        (1e-6, 1e-4, lambda x: x * 0 + x.mean() / 1e6, True, "two pictures differ by"),  # below any rounding of outputs
        (1, 2, lambda x: x * 0 + x.mean(), False, "two pictures differ by"),
        (0, 1e-4, lambda x: x * 0, False, "torch's outputs do not depend"),
    ],
)
def test_outputs_without_the_picture_are_no_proof(scale, tolerance, file, ok, remark):
    class Scaled(nn.Module):
        def forward(self, x):
            return (x * scale,)

    images = torch.rand(1, 3, 32, 32)
    job = Job(Scaled(), (images,), ("images",), ("output0",), axes=({},))
    found = prove(job, lambda x: [file(x[0])], making.torch_reference(job), tolerance)
    assert all(c.ok for c in found) == ok
    assert any(remark in c.remark for c in found)
    right = prove(job, lambda x: [x[0] * np.float32(scale)], making.torch_reference(job), 1e-4)
    assert all(c.ok for c in right) == bool(scale)


@pytest.mark.slow
def test_an_end_to_end_head_exports_ranked_boxes(here):
    network = fill(netbuild.build("yolov10n.yaml", imgsz=64)).eval()
    network.model[-1].end2end = True
    done = export(network, "v10.onnx", imgsz=64)
    assert done.outputs[0]["shape"] == [1, 84, 6]
    assert metadata("v10.onnx")["one2one"] == "true"
    assert "x1, y1, x2, y2 in pixels, score, class" in metadata("v10.onnx")["layout"]


# -- all packaged architectures ----------------------------------------------------------------------------------------

SIZES = {"inception-v3": 128, "siamfc": None, "unet": None, "lenet5": 32, "dcgan-generator": None}
SIZES |= {"dcgan-digits-generator": None, "dcgan-digits-discriminator": None}
CANNOT: dict[str, str] = {}  # name -> why; none so far


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name.removesuffix(".yaml") for name in packaged_architectures()))
def test_every_architecture_exports_and_is_proven(here, name):
    if name in CANNOT:
        with pytest.raises(NetbuildError):
            export(f"{name}.yaml", "x.onnx", imgsz=SIZES.get(name, 64))
        return
    network = fill(netbuild.build(f"{name}.yaml", imgsz=SIZES.get(name, 64)), gain=1.0)
    done = export(network, "x.onnx", imgsz=SIZES.get(name, 64))
    onnx.checker.check_model("x.onnx", full_check=True)
    assert done.difference <= 1e-4


def test_the_table_of_targets_names_what_is_packaged_and_is_within_tolerance():
    page = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
    table = page.split("<!-- targets")[1].split("<!-- end of targets")[0]
    rows = {cells[1].strip(" `"): cells[2:-1] for line in table.splitlines() if len(cells := line.split("|")) > 3}
    heads = [cell.strip() for cell in rows.pop("architecture")]
    assert set(heads) <= set(base.names())
    assert rows.keys() - {"---"} == {name.removesuffix(".yaml") for name in packaged_architectures()}
    assert all(float(rows[name][heads.index("onnx")]) <= 1e-4 for name in rows.keys() - {"---"} - CANNOT.keys())


@pytest.mark.slow
def test_suppression_is_proven_for_scores_below_float_noise(cli, here):
    case = Path(__file__).parents[1] / "cases" / "a13-nc-precedence.yaml"
    done = cli("export", case, "--imgsz", "64", "--nms", "--dynamic", "batch", "-o", "small.onnx", "--json")
    assert done.code == 0, done.err
    proof = json.loads(done.out)["proof"]
    assert {"raw", "boxes", "scores", "classes", "index"} == {row["output"] for row in proof}
    assert any(row["output"] == "boxes" and row["shape"][0] > 0 for row in proof)


RTDETR = """
nc: 3
imgsz: 64
backbone:
  - [-1, 1, Conv, [8, 3, 4]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[1, 2], 1, RTDETRDecoder, [nc, 32, 30, 2, 4, 1]]
"""


@pytest.mark.slow
def test_a_decoder_of_queries_is_exported_with_free_axes(tmp_path, cli):
    (tmp_path / "net.yaml").write_text(RTDETR)
    network = fill(netbuild.build(tmp_path / "net.yaml")).eval()
    netbuild.save(network, tmp_path / "net.safetensors")
    done = cli("export", tmp_path / "net.safetensors", "--dynamic", "both", "-o", tmp_path / "net.onnx")
    assert (done.code, "proven equal to torch" in done.out) == (0, True), done.err
    model = netbuild.runtime.load(tmp_path / "net.onnx")
    for shape in ((1, 64, 64), (3, 96, 128), (2, 32, 48)):  # the last has fewer positions than the decoder queries
        images = torch.rand(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(0))
        expected = network(images)[0]
        (found,) = model.run(images.numpy())
        assert found.shape == tuple(expected.shape)
        np.testing.assert_allclose(found[..., 4], expected[..., 4].detach(), atol=1e-5)
