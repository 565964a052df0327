"""Targets beside ONNX: written, proven and run by their own runtimes; int8; the benchmark of all of them."""

import gc
import json
import os
import shutil
import signal
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import mil_by_torch as mil
from helpers.filled_weights import fill

import netbuild
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.export import base, export, making
from netbuild.export.base import Job
from netbuild.export.benchmark import BenchmarkResult, Row, benchmark
from netbuild.export.executorch import DECOMPOSITIONS
from netbuild.export.jobs import make_job
from netbuild.export.making import torch_reference
from netbuild.export.options import ExportOptions
from netbuild.export.parts import decompose
from netbuild.export.proof import Comparison, ProofError, prove
from netbuild.prediction.contract import returns_detections
from netbuild.system.packages import install_hint

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TINY = """
task: detect
nc: 3
imgsz: 64
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [[-1, 1], 1, Detect, [nc]]
"""
CLASSES = """
task: classify
nc: 10
ch: 1
imgsz: 32
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Classify, [nc]]
"""
SLOW = {"executorch", "litert", "ncnn"}  # converters of seconds, which `make test-targets` installs
FREE = {"executorch": ("batch", [1, 3, 64, 64], [8, 3, 64, 64])}  # what may be free, two shapes; of most all may
ALL = ("both", [1, 3, 32, 64], [4, 3, 96, 40])
FLAGS = {
    "nms": [], "opset": ["20"], "simplify": [], "calibrate": ["digits"], "pictures": ["3"], "half": [],
    "dynamic": ["batch"],
}  # fmt: skip


def targets_with(*takes):
    """The targets that must equal torch and take these flags; slow ones are marked."""
    found = [n for n in base.names() if not base.find(n).needs and base.find(n).takes.issuperset(takes)]
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in found]


PICTURES = Path(base.__file__).with_name("pictures")


def find_or_skip(name, runs=True):
    """Find a target; skip the test if a package is missing or its files do not run here."""
    chosen = base.find(name)
    try:
        base.check_packages(chosen)
    except MissingExtraError as error:
        pytest.skip(error.message)
    if runs and chosen.barrier():
        pytest.skip(chosen.barrier())
    return chosen


def make_network(name="lively", content=TINY, **options):
    Path(f"{name}.yaml").write_text(content)
    return fill(netbuild.build(f"{name}.yaml", **options)).eval()


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pictures(here):
    """A folder of pictures without labels."""
    (here / "pictures").mkdir()
    for name in ("digits.png", "strip.jpg"):
        shutil.copy(PICTURES / name, here / "pictures")
    return here / "pictures"


# -- equal to torch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", targets_with())
def test_a_file_equals_torch_and_holds_its_metadata(here, capfd, name):
    chosen, network = find_or_skip(name), make_network()
    done = export(network, target=name, imgsz=64)
    assert done.path == Path(f"lively{chosen.suffix}")
    assert done.equal
    assert done.difference < 1e-4
    assert set(os.listdir(here)) == {done.path.name, "lively.yaml"}  # nothing is left beside it
    (here / "elsewhere").mkdir()
    moved = Path(shutil.move(done.path, here / "elsewhere"))
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        wanted = network(x)[0].numpy()
    for run in (chosen.open(moved), chosen.open_fast(moved, 2)):
        assert np.abs(run([x.numpy()])[0] - wanted).max() < 1e-3
    assert chosen.read_metadata(moved) == done.metadata
    assert json.loads(done.metadata["names"]) == ["0", "1", "2"]
    assert capfd.readouterr() == ("", "")  # libraries talk
    del run
    gc.collect()
    assert signal_handlers_work()


def signal_handlers_work():
    """Whether a handler in Python still works; else (its stack is gone) the signal kills, here a process of its own."""
    if not (child := os.fork()):
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.slow
@pytest.mark.parametrize("name", targets_with("dynamic"))
def test_free_axes_take_other_sizes(here, name):
    chosen, network = find_or_skip(name), make_network()
    dynamic, *shapes = FREE.get(name, ALL)
    done = export(network, target=name, imgsz=64, dynamic=dynamic)
    sides = ["height", "width"] if dynamic == "both" else [64, 64]
    assert done.inputs[0]["shape"] == ["batch", 3, *sides]
    run = chosen.open(done.path)
    for shape in shapes:
        with torch.no_grad():
            assert np.abs(run([images(*shape).numpy()])[0] - network(images(*shape))[0].numpy()).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", targets_with("half"))
def test_half_files_are_half_the_size(here, name):
    find_or_skip(name)
    Path("broad.yaml").write_text(TINY.replace("[16,", "[256,"))
    network = netbuild.build("broad.yaml")  # weights as a beginning has them: larger ones lose more in float16
    whole, half = (export(network, target=name, imgsz=64, half=half) for half in (False, True))
    assert half.size < 0.65 * whole.size
    assert half.metadata["half"] == "true"


@pytest.mark.parametrize("name", base.names())
def test_flags_that_a_target_does_not_take_are_refused(cli, here, name):
    chosen = find_or_skip(name, runs=False)
    Path("tiny.yaml").write_text(TINY)
    needs = [word for flag in chosen.needs for word in (f"--{flag}", *FLAGS[flag])]
    for flag in FLAGS.keys() - chosen.takes:
        done = cli("export", "tiny.yaml", "--target", name, *needs, f"--{flag}", *FLAGS[flag])
        assert done.code == 2
        assert f"the target '{name}' does not take --{flag}" in done.err
    assert os.listdir(here) == ["tiny.yaml"]


@pytest.mark.parametrize("name", base.names())
def test_a_missing_package_is_named_with_its_extra(cli, here, monkeypatch, name):
    chosen = base.find(name)
    monkeypatch.setattr(base, "is_installed", lambda package: package != chosen.packages[0])
    needs = [word for flag in chosen.needs for word in (f"--{flag}", *FLAGS[flag])]
    done = cli("export", "no-such-file.yaml", "--target", name, *needs)
    assert done.code == 3
    assert f"the target '{name}' needs " in done.err
    assert install_hint(chosen.extra) in done.err


@pytest.mark.parametrize(
    ("target", "versions", "found", "hint"),
    [
        ("onnx", {"onnxscript": "0.5.1"}, "onnxscript 0.7 (here is 0.5.1)", "'onnxscript>=0.7'"),
        ("openvino", {"torch": "2.4.1+cpu"}, "torch 2.8 (here is 2.4.1+cpu)", "'torch>=2.8'"),
        ("onnx", {"torch": "2.4", "onnx": "1.9"}, "torch 2.8 (here is 2.4), onnx 1.17 (here is 1.9)", "'torch>=2.8' "),
        ("onnx", {"torch": "2.8.0+cpu", "onnxruntime": "1.31rc1"}, "", ""),
        ("torchscript", {"torch": "2.4", "onnx": "1.1"}, "", ""),
    ],
)  # fmt: skip
def test_a_package_that_is_too_old_is_named_with_both_versions(cli, here, monkeypatch, target, versions, found, hint):
    find_or_skip(target, runs=False)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or version(name))
    done = cli("export", "no-such-file.yaml", "--target", target)
    assert (done.code, f"the target '{target}' needs {found}" in done.err) == ((3, True) if found else (2, False))
    assert f"hint: pip install {hint}" in done.err if found else "no-such-file.yaml" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("name", targets_with())
def test_files_contain_no_paths_of_this_machine(here, name):
    find_or_skip(name)
    done = export(make_network(), target=name, imgsz=64)
    files = [p for p in (done.path, *done.path.rglob("*")) if p.is_file()]
    held = b"".join(path.read_bytes() for path in files)
    for path in filter(zipfile.is_zipfile, files):
        with zipfile.ZipFile(path) as opened:
            held += b"".join(opened.read(entry) for entry in opened.namelist())
    for folder in (Path(netbuild.__file__).parent, Path(torch.__file__).parent, here):
        assert str(folder).encode() not in held


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
@pytest.mark.parametrize("operator", ["torch.special.bessel_j0(x)", "torch.linalg.svdvals(x)"])
def test_an_operator_that_a_target_lacks_is_an_error_at_its_row(cli, here, name, operator):
    find_or_skip(name)
    Path("own.py").write_text(
        f"import torch\n\nclass Odd(torch.nn.Module):\n    def forward(self, x):\n        return {operator}\n"
    )
    Path("odd.yaml").write_text("ch: 3\nimgsz: 32\nlayers:\n  - [-1, 1, Conv, [4, 3, 1]]\n  - [-1, 1, Odd, []]\n")
    done = cli("export", "odd.yaml", "--target", name, "--modules", "own.py")
    assert done.code == 2
    if name == "ncnn":  # its converter is another program, which crashes on the second
        expected = "odd.yaml:5:5: row 1 Odd: ncnn has no operator" if "bessel" in operator else "pnnx cannot convert"
        assert expected in done.err
    else:
        assert "odd.yaml:5:5: row 1 Odd: the operator aten." in done.err
        assert "cannot be written as" in done.err
    assert sorted(os.listdir(here)) == ["odd.yaml", "own.py"]


SIZES = {"inception-v3": 128, "siamfc": None, "unet": None, "lenet5": 32}
BEYOND = {("executorch", "ddpm-unet"), *(("ncnn", net) for net in ("lenet5", "rtdetr-l", "swin-t"))}
NETS = """
alexnet convnext-tiny ddpm-unet densenet121 efficientnet-b0 googlenet inception-v3 lenet5 mobilenet-v2
mobilenet-v3-small resnet18 rtdetr-l siamfc swin-t unet vit-b-16 yolo11 yolo11-cls yolo11-obb yolo11-pose yolo11-seg
yolo12 yolo26 yolo26-depth yolo26-sem yoloe-11 yolov10n yolov8-world
"""


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS.split())
@pytest.mark.parametrize("name", sorted(SLOW))
def test_architectures_are_proven(here, name, net):
    find_or_skip(name)
    network = fill(netbuild.build(f"{net}.yaml", imgsz=SIZES.get(net, 64)), gain=1.0)
    if net == "yolov10n":
        network.model[-1].end2end = True
    if (name, net) in BEYOND:
        with pytest.raises(NetbuildError):
            export(network, target=name, imgsz=SIZES.get(net, 64))
        return
    done = export(network, target=name, imgsz=SIZES.get(net, 64))
    print(f"| {net} | {name} {done.difference:.0e} |")  # with -s the cells of the table in docs/export.md


@pytest.mark.slow
def test_executorch_has_fixed_sizes_and_batches_up_to_eight(here):
    chosen = find_or_skip("executorch")
    with pytest.raises(NetbuildError, match="fixed sizes only"):
        export(make_network(), target="executorch", imgsz=64, dynamic="size")
    done = export(make_network(), target="executorch", imgsz=64, dynamic="batch")
    assert "batches of 1 to 8" in done.notes
    with pytest.raises(RuntimeError):
        chosen.open(done.path)([images(9, 3, 64, 64).numpy()])


@pytest.mark.parametrize(
    ("module", "gone"),
    [
        (torch.nn.LocalResponseNorm(5), "avg_pool3d"),
        (torch.nn.LocalResponseNorm(4), "avg_pool3d"),
        (torch.nn.AvgPool3d(2), None),
        (torch.nn.ZeroPad2d(-2), "pad"),
        (torch.nn.ConstantPad2d((1, -2, -1, 3), 5.0), "aten.pad."),
        (torch.nn.ReflectionPad2d(2), None),
    ],
)
def test_decompositions_equal_the_operators(module, gone):
    x = images(2, 6, 8, 8)
    before = torch.export.export(torch.nn.Sequential(module), (x,))
    after = decompose(before, DECOMPOSITIONS)
    called = " ".join(str(node.target) for node in after.graph.nodes)
    assert gone is None or (gone in str(before.graph) and gone not in called)
    assert (after.module()(x) - module(x)).abs().max() == 0


def test_the_proof_finds_control_flow_that_a_trace_loses(here):
    Path("own.py").write_text(
        "from torch import nn\n\nclass Wide(nn.Module):\n    def forward(self, x):\n"
        "        return x * 2 if x.shape[3] > 40 else x\n"
    )
    Path("wide.yaml").write_text("ch: 3\nimgsz: 40\nlayers:\n  - [-1, 1, Conv, [4, 3, 1]]\n  - [-1, 1, Wide, []]\n")
    with pytest.raises(ProofError, match=r"wide\.failed\.torchscript"):
        export("wide.yaml", target="torchscript", imgsz=40, dynamic="both", modules=["own.py"])
    assert not Path("wide.torchscript").exists()


# -- folders, packages ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("openvino", ["tiny.bin", "tiny.xml"]),
        ("ncnn", ["netbuild.json", "tiny.bin", "tiny.param"]),
        ("coreml", ["Data", "Manifest.json"]),
    ],
)
def test_a_folder_with_other_files_is_not_replaced(cli, here, name, held):
    chosen = find_or_skip(name, runs=False)
    Path("tiny.yaml").write_text(TINY)
    call = ("export", "tiny.yaml", "--target", name, *(["--unproven"] if chosen.barrier() else []))
    assert cli(*call).code == 0
    folder = Path(f"tiny{chosen.suffix}")
    assert sorted(os.listdir(folder)) == held
    assert cli(*call).code == 0  # replaced
    for mine in ("notes.txt", "more/notes.json"):
        (folder / mine).parent.mkdir(exist_ok=True)
        (folder / mine).write_text("mine")
        done = cli(*call)
        assert (done.code, "other things in it" in done.err) == (2, True)
        (folder / mine).unlink()
    done = cli(*call, "-o", "x.onnx")
    assert (done.code, f"must end in {chosen.suffix}" in done.err) == (2, True)


@pytest.mark.slow
def test_a_benchmark_names_missing_packages(here, monkeypatch):
    monkeypatch.setattr(base, "is_installed", lambda package: package in ("onnx", "onnxscript", "onnxruntime", "PIL"))
    Path("tiny.yaml").write_text(TINY)
    rows = {row.target: row for row in benchmark("tiny.yaml", rounds=2)}
    for name in ("openvino", "ncnn", "coreml", "executorch", "litert"):
        assert f"netbuild[{name}]" in rows[name].remark
    assert rows["onnx"].median_ms > 0


# -- ncnn -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ncnn_has_the_given_names_and_takes_one_picture(here):
    chosen = find_or_skip("ncnn")
    done = export(make_network(), target="ncnn", imgsz=64, input_names=["seen"], output_names=["found"])
    words = Path("lively_ncnn/lively.param").read_text().split()
    assert {"seen", "found"} < set(words)
    assert not {"in0", "out0"} & set(words)
    with pytest.raises(ValueError, match="one picture"):
        chosen.open(done.path)([images(2, 3, 64, 64).numpy()])
    with pytest.raises(NetbuildError, match="one picture at a time"):
        export(make_network(), target="ncnn", imgsz=64, batch=2)


def test_an_operator_that_ncnn_lacks_is_an_error_at_its_row(cli, here):
    find_or_skip("ncnn")
    Path("own.py").write_text(
        "from torch import nn\n\nclass Best(nn.Module):\n    def forward(self, x):\n        return x.topk(4, 3)[0]\n"
    )
    Path("best.yaml").write_text("ch: 3\nimgsz: 32\nlayers:\n  - [-1, 1, Conv, [4, 3, 1]]\n  - [-1, 1, Best, []]\n")
    done = cli("export", "best.yaml", "--target", "ncnn", "--modules", "own.py", "--trust")
    assert done.code == 2
    assert "best.yaml:5:" in done.err
    assert "ncnn has no operator for torch.topk" in done.err
    assert sorted(os.listdir(here)) == ["best.yaml", "own.py"]


# -- CoreML -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_without_proof_needs_unproven(cli, here):
    chosen = find_or_skip("coreml", runs=False)
    Path("tiny.yaml").write_text(TINY)
    done = cli("export", "tiny.yaml", "--target", "onnx", "--unproven")
    assert (done.code, "--unproven has no effect" in done.err) == (2, True)
    if not chosen.barrier():
        return
    done = cli("export", "no-such-file.yaml", "--target", "coreml")  # message before any work
    assert done.code == 2
    assert "CoreML runs on macOS only" in done.err
    assert "--unproven" in done.err
    assert os.listdir(here) == ["tiny.yaml"]
    with pytest.raises(NetbuildError, match="macOS"):
        benchmark("tiny.yaml", target="coreml", rounds=1)
    done = cli("export", "tiny.yaml", "--target", "coreml", "--unproven")
    assert done.code == 0
    assert "NOT PROVEN here: CoreML runs on macOS only" in done.out
    with pytest.raises(NetbuildError, match="cannot be run here"):
        benchmark("tiny.yaml", ["tiny.mlpackage"], rounds=1)
    done = json.loads(cli("export", "tiny.yaml", "--target", "coreml", "--unproven", "--json").out)
    assert (done["proven"], done["equal"], done["difference"], done["proof"]) == (False, False, None, [])
    assert done["outputs"] == [{"name": "output0", "type": "float32", "shape": [1, 7, 320]}]


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_a_coreml_program_computes_what_the_network_does(here, half):
    chosen, network = find_or_skip("coreml", runs=False), make_network()
    done = export(network, target="coreml", imgsz=64, half=half, unproven=bool(chosen.barrier()))
    assert chosen.read_metadata(done.path) == done.metadata
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        wanted = network(x)[0].numpy()
    assert mil.run(done.path, [x.numpy()])[0] == pytest.approx(wanted, rel=2e-2 if half else 1e-4, abs=0.1 * half)
    held = b"".join(file.read_bytes() for file in done.path.rglob("*") if file.is_file())
    assert str(Path(netbuild.__file__).parent).encode() not in held


SIDES = {"lenet5": 32, "unet": None}  # in pixels, 64 unless told
CANNOT = {
    ("ncnn", "lenet5"): "ncnn stops on the way to output0",
    ("ncnn", "rtdetr-l"): "ncnn has no operator for",
    ("ncnn", "swin-t"): "ncnn has no operator for Tensor.slice, Tensor.unflatten",
    ("coreml", "rtdetr-l"): "cannot be written for CoreML: Op",
    ("coreml", "swin-t"): "cannot be written for CoreML: New var",
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ncnn", "coreml"])
@pytest.mark.parametrize(
    "name",
    "yolo11n yolov10n yolo26n yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls rtdetr-l lenet5 alexnet googlenet"
    " resnet18 mobilenet-v2 mobilenet-v3-small shufflenet-v2-x0-5 vit-b-16 swin-t convnext-tiny unet unet-same".split(),
)
def test_architectures_on_devices(here, name, target):
    chosen, side = find_or_skip(target, runs=False), SIDES.get(name, 64)
    network = fill(netbuild.build(f"{name}.yaml", imgsz=side), gain=1.0).eval().fuse()
    if (target, name) in CANNOT:
        with pytest.raises(NetbuildError, match=CANNOT[target, name]):
            export(network, target=target, imgsz=side, unproven=bool(chosen.barrier()))
        return
    done = export(network, target=target, imgsz=side, unproven=bool(chosen.barrier()))
    difference = done.difference
    if difference is None:  # then of its program, done by torch
        job = make_job(network, ExportOptions(imgsz=side))
        match = "rows" if returns_detections(network.model[-1]) else ""
        difference = max(c.part for c in prove(job, lambda x: mil.run(done.path, x), torch_reference(job), 1e-4, match))
    assert difference < 1e-4
    print(f"| {name} | {target} | {difference:.0e} |")  # with -s the rows of the table in docs/export.md


# -- int8 -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_int8_is_calibrated_on_pictures_without_labels(cli, pictures):
    import onnx

    netbuild.save(make_network(), "net.safetensors")
    done = cli("export", "net.safetensors", "--target", "onnx-int8", "--calibrate", "pictures", "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert (data["path"], data["equal"], data["proof"][0]["tolerance"]) == ("net.int8.onnx", False, None)
    assert any("the pictures have no labels" in note for note in data["notes"])
    assert any("ranges of 2 pictures" in note for note in data["notes"])
    model = onnx.load("net.int8.onnx")
    assert {p.key: p.value for p in model.metadata_props}["int8"] == '{"pictures": 2}'
    # What reads the softmax of the head, and so decodes boxes, is left in float.
    makers = {output: node for node in model.graph.node for output in node.output}
    floats = [n for n in model.graph.node if n.op_type == "Conv" and makers[n.input[0]].op_type != "DequantizeLinear"]
    assert len(floats) == 1
    plain = cli("export", "net.safetensors", "--target", "onnx-int8", "--calibrate", "pictures", "--pictures", "1")
    assert "quantised, so not equal to torch" in plain.out
    assert "ranges of 1 pictures" in plain.out
    assert cli("predict", "net.int8.onnx", "pictures", "--json").code == 0


def test_int8_reports_accuracy_beside_float32(here):
    network = make_network("classes", CLASSES)
    done = export(network, target="onnx-int8", calibrate="digits", pictures=16)
    assert "accuracy of int8 on " in done.notes[1], done.notes
    assert "(float32 0." in done.notes[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "needs --calibrate"),
        (["--calibrate", "no-such-place"], "there is no data set"),
        (["--calibrate", "pictures", "--half"], "does not take --half"),
        (["--calibrate", "pictures", "-o", "x.onnx"], "must end in .int8.onnx"),
    ],
)
def test_wrong_flags_of_int8_are_refused(cli, pictures, flags, message):
    Path("tiny.yaml").write_text(TINY)
    done = cli("export", "tiny.yaml", "--target", "onnx-int8", *flags)
    assert (done.code, message in done.err) == (2, True)
    assert sorted(os.listdir()) == ["pictures", "tiny.yaml"]


# -- benchmark --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_benchmark_of_all_with_data(cli, here):
    netbuild.save(make_network("classes", CLASSES), "net.safetensors")
    done = cli("benchmark", "net.safetensors", "--data", "digits", "--rounds", 3, "--json")
    assert done.code == 0, done.err
    rows = {row["target"]: row for row in json.loads(done.out)}
    assert set(rows) == {"torch", *base.names()}
    for row in (row for row in rows.values() if not row["remark"]):
        assert row["p95_ms"] >= row["median_ms"] > 0
        assert row["images_per_s"] == pytest.approx(1e3 / row["median_ms"])
        assert row["size"] > 0
        assert row["difference"] < (1e-4 if row["target"] != "onnx-int8" else 1)
        assert row["accuracy"]["top1"] == pytest.approx(rows["torch"]["accuracy"]["top1"], abs=0.05)
    assert sorted(os.listdir(here)) == ["classes.yaml", "net.safetensors"]


def test_a_benchmarks_result_prints_itself_in_a_terminal_and_in_a_notebook():
    from rich.console import Console

    rows = BenchmarkResult(
        [
            Row("x<y>", remark="needs onnx"),
            Row("torch", 2.5, 3.0, 400.0, 2_000_000, 0.0, {"boxes/mAP50": 0.5, "sem/mIoU": 0.25}),
        ]
    )
    head, *lines = str(rows).splitlines()
    assert head.split("  ")[0] == "target"
    assert head.endswith("remark")  # last, although the first row has it before the others have their accuracy
    assert [line.split()[0] for line in lines] == ["x<y>", "torch"]
    assert head.split()[-3:-1] == ["boxes/mAP50", "sem/mIoU"]
    assert lines[1].split()[-2:] == ["0.5000", "0.2500"]
    console = Console(width=300, color_system=None)
    with console.capture() as capture:
        console.print(rows)
    assert [line.rstrip() for line in capture.get().splitlines()] == [head, *lines]
    page = rows._repr_html_()
    assert page.startswith("<table><thead><tr><th>target</th><th>median ms</th>")
    assert all(f"<td>{cell}</td>" in page for cell in ("x&lt;y&gt;", "needs onnx", "0.5000", "400.0", "2.00"))
    assert page.count("<tr>") == 3


class Looser(base.Target):
    """A target whose file is off by a thousandth, as a runtime with coarser arithmetic is."""

    name, suffix = "looser", ".looser"

    def write(self, job, path):
        torch.save({"module": job.module, "metadata": job.metadata}, path)
        return ["looser"]

    def open(self, path):
        module = torch.load(path, weights_only=False)["module"]
        return lambda arrays: [x.detach().numpy() * 1.001 for x in module(*map(torch.from_numpy, arrays))]


@pytest.fixture
def looser(monkeypatch):
    monkeypatch.setitem(base.TARGETS.registered, "looser", Looser)
    netbuild.save(make_network(), "net.safetensors")


@pytest.mark.slow
def test_a_looser_tolerance_is_the_users_word_and_in_the_file(cli, here, looser):
    call = ("export", "net.safetensors", "--target", "looser", "--imgsz", 64)
    done = cli(*call)
    assert (done.code, "differs from torch" in done.err, "--tolerance" in done.err) == (1, True, True)
    for wrong in (0, -1, "nan", "inf", 2):
        done = cli(*call, "--tolerance", wrong)
        assert (done.code, "must be above 0 and at most 1" in done.err) == (2, True)
    done = cli(*call, "--tolerance", "2e-3")
    assert done.code == 0, done.err
    assert "equal to torch within 0.002 (--tolerance)" in done.out
    assert "proven equal" not in done.out
    assert torch.load("net.looser", weights_only=False)["metadata"]["tolerance"] == "0.002"
    assert cli(*call, "--tolerance", "5e-4").code == 1
    strict = cli("export", "net.safetensors", "--imgsz", 64, "--tolerance", "1e-9")  # a stricter one is taken too
    assert strict.code == 1, strict.out


@pytest.mark.slow
def test_a_benchmark_prints_the_target_that_differs(cli, here, looser):
    call = ("benchmark", "net.safetensors", "--target", "looser,onnx", "--rounds", 1)
    done = cli(*call)
    assert done.code == 1
    assert [line.split()[0] for line in done.out.splitlines()] == ["target", "torch", "onnx", "looser"]
    assert "differs from torch by 1.0e-03" in done.out
    done = cli(*call, "--tolerance", "2e-3", "--json")
    assert done.code == 0
    assert [row["failed"] for row in json.loads(done.out)] == [False] * 3


@pytest.mark.parametrize(
    ("file", "noise", "ok"),
    [(1.1e-4, 5e-5, True), (1.1e-4, 1e-5, False), (4e-4, 1.5e-4, True), (6e-4, 1e-2, False)],
)
def test_the_float64_look_decides(monkeypatch, file, noise, ok):
    """A file off by a few times what torch itself is off from float64 passes; more than 5e-4 never does."""
    offsets = iter([file, noise])
    found = Comparison("y", "", (1,), 1.2e-4, 1.2e-4, 1e-4)

    def look(job, run, reference, tolerance, match):
        part = next(offsets)
        return [Comparison("y", "", (1,), part, part, tolerance)]

    monkeypatch.setattr(making, "prove", look)
    job = Job(torch.nn.Identity(), (torch.rand(1, 3, 8, 8),), ("images",), ("y",), axes=({},))
    (judged,) = making.second_look(job, lambda x: x, [found], "")
    assert judged.ok == ok


@pytest.mark.slow
def test_benchmark_of_exported_files(here):
    network = make_network()
    netbuild.save(network, "net.safetensors")
    made = export(network, "net.onnx", imgsz=64)
    rows = benchmark("net.safetensors", ["net.onnx"], rounds=2)
    assert [row.target for row in rows] == ["torch", "net.onnx"]
    assert rows[1].difference < 1e-4
    assert rows[1].size == made.size
    assert str(rows).splitlines()[0].split()[:3] == ["target", "median", "ms"]
    with pytest.raises(NetbuildError, match="does not run"):
        benchmark("net.safetensors", ["net.onnx"], imgsz=32, rounds=2)
    with pytest.raises(NetbuildError, match="ends in none of"):
        benchmark("net.safetensors", ["lively.yaml"], rounds=2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "nix"], "no target 'nix'"),
        (["--target", "onnx-int8"], "give them by --data"),
        (["--data", "digits"], "is a data set for 'classify'"),
        (["none.onnx"], "does not exist"),
    ],
)
def test_wrong_flags_of_benchmark_are_refused(cli, here, flags, message):
    Path("tiny.yaml").write_text(TINY)
    done = cli("benchmark", "tiny.yaml", *flags)
    assert (done.code, message in done.err) == (2, True)
