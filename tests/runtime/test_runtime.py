"""Exported files run without torch, and in place of a checkpoint: same boxes and scores, clear error messages."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.filled_weights import fill
from helpers.real_data import CHECKPOINTS, DATA, needs_checkpoints
from helpers.small_networks import TINY, network_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import netbuild
from netbuild import runtime
from netbuild.data import fitting
from netbuild.data.images import read_image
from netbuild.export.inspection import inspect
from netbuild.prediction import predictor
from netbuild.tasks import nms

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from netbuild.export import export  # noqa: E402

PLAIN = (
    "task: classify\nnc: 4\nch: {ch}\nimgsz: 32\nlayers:\n  - [-1, 1, Conv, [8, 3, 2]]\n  - [-1, 1, Classify, [nc]]\n"
)
NAMES = ["bolt", "nut", "screw"]
QUERIES = TINY.replace("[[-1], 1, Detect, [nc]]", "[[-1], 1, RTDETRDecoder, [nc, 32, 30, 4, 2, 2, 64]]")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a detector, its exported files, and pictures of different shapes."""
    folder = tmp_path_factory.mktemp("made")
    detector = network_of(folder, "detector", TINY, NAMES)
    export(detector, folder / "free.onnx", dynamic="both")
    export(detector, folder / "fixed.onnx", imgsz=(64, 96), batch=3)
    export(detector, folder / "nms.onnx", dynamic="batch", nms={"conf": 0.3, "iou": 0.6, "max_det": 20})
    foreign = onnx.load(folder / "free.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, folder / "foreign.onnx")
    rng = np.random.default_rng(0)
    for i, (w, h) in enumerate(((90, 60), (50, 130), (64, 64), (300, 200))):
        coarse = rng.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((w, h)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def classifier(files):
    """The checkpoint of a classifier and its exported file, in the same folder."""
    export(network_of(files, "classifier", PLAIN.format(ch=1), ["a", "b", "c", "d"]), files / "classifier.onnx")


@pytest.fixture(scope="module")
def double(files):
    """The checkpoint of a detector with two branches, and the exported file of the branch that ranks."""
    network = netbuild.build(network_of(files, "double", TINY + "end2end: true\n", NAMES))
    network.model[-1].end2end = True
    network.card = replace(network.card, names=NAMES)
    export(network, files / "double.onnx")


@pytest.fixture(scope="module")
def decoder(files):
    """The checkpoint of a decoder and its exported file, in the same folder."""
    checkpoint = network_of(files, "decoder", QUERIES, NAMES)
    netbuild.save(fill(netbuild.build(checkpoint)), checkpoint, names=NAMES)
    export(checkpoint, files / "decoder.onnx")


@pytest.fixture
def here(files, monkeypatch):
    monkeypatch.chdir(files)
    return files


PICTURES = [f"{i}.png" for i in range(4)]


def assert_same_results(found, wanted, pixels=0.5, score=1e-3):
    """Assert that two results have the same records; nearly equal scores may be in any order."""
    assert [row["path"] for row in found] == [str(row["path"]) for row in wanted]
    for a, b in zip(found, wanted, strict=True):
        assert (a["width"], a["height"], len(a["records"])) == (b["width"], b["height"], len(b["records"]))
        left = list(b["records"])
        for record in a["records"]:
            near = min(left, key=lambda other: distance(record, other))
            assert distance(record, near) <= pixels
            assert (record["class"], record["name"]) == (near["class"], near["name"])
            assert record["confidence"] == pytest.approx(near["confidence"], abs=score)
            left.remove(near)


def distance(a, b):
    far = 1e6 * (a["class"] != b["class"])
    return far + max((abs(x - y) for x, y in zip(a.get("box", ()), b.get("box", ()), strict=True)), default=0)


def predict_to_dicts(file, pictures=PICTURES, **options):
    where = {} if isinstance(file, torch.nn.Module) else {"device": "cpu"}
    return [result.to_dict() for result in netbuild.predict(file, pictures, **where, **options)]


# -- the same as predict ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "checkpoint", "options", "reference"),
    [
        ("free", "detector", {}, {}),
        ("free", "detector", {"imgsz": 96, "conf": 0.5}, {"imgsz": 96, "conf": 0.5}),
        ("free", "detector", {"imgsz": (64, 128), "rect": False}, {"imgsz": (64, 128), "rect": False}),
        ("free", "detector", *[{"agnostic": True, "iou": 0.3, "max_det": 9, "classes": "nut,2"}] * 2),
        ("free", "detector", *[{"multi_label": True, "conf": 0.6}] * 2),
        ("fixed", "detector", {}, {"imgsz": (64, 96), "rect": False}),
        ("nms", "detector", {}, {"rect": False, "conf": 0.3, "iou": 0.6, "max_det": 20}),
        ("nms", "detector", {"conf": 0.5, "classes": [0]}, {"rect": False, "conf": 0.5, "iou": 0.6, "classes": [0]}),
        ("decoder", "decoder", {"conf": 0.02}, {"conf": 0.02}),
        ("classifier", "classifier", {}, {}),
    ],
)
def test_records_are_those_of_predict(request, here, file, checkpoint, options, reference):
    if file in ("decoder", "classifier"):
        request.getfixturevalue(file)
    wanted = predict_to_dicts(f"{checkpoint}.safetensors", **reference)
    assert any(row["records"] for row in wanted)
    model = runtime.load(f"{file}.onnx", threads=1)
    document = model.document(PICTURES, **options)
    assert document["names"] == (["a", "b", "c", "d"] if checkpoint == "classifier" else NAMES)
    assert_same_results(document["pictures"], wanted)
    assert_same_results(predict_to_dicts(f"{file}.onnx", batch=2, **options), wanted)


def test_a_head_that_ranks_needs_no_suppression(double, here):
    network = netbuild.build("double.safetensors")
    network.model[-1].end2end = True
    wanted = predict_to_dicts(network, conf=0.3, rect=False)
    for row in wanted:
        row["records"] = [{**record, "name": NAMES[record["class"]]} for record in row["records"]]
    model = runtime.load("double.onnx", threads=1)
    assert_same_results(model.document(PICTURES, conf=0.3)["pictures"], wanted)
    assert_same_results(predict_to_dicts("double.onnx", conf=0.3), wanted)
    with pytest.raises(runtime.RunError, match="iou has no effect without suppression"):
        model.predict("0.png", iou=0.5)


@pytest.mark.slow
@needs_checkpoints
@pytest.mark.parametrize("dynamic", ["both", None])
def test_real_pictures_have_the_same_boxes_and_the_same_map(tmp_path, cli, dynamic):
    assert cli("weights", "import", CHECKPOINTS / "yolo11n-bccd.pt", "-o", tmp_path / "bccd.safetensors").code == 0
    file = export(tmp_path / "bccd.safetensors", tmp_path / "bccd.onnx", imgsz=320, dynamic=dynamic).path
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
        for path in sorted((DATA / "bccd" / kind / "val").glob("*.*"))[:10]:
            shutil.copy(path, tmp_path / "data" / kind / "val")
    (tmp_path / "data/data.yaml").write_text("train: images/val\nval: images/val\nnames: [RBC, WBC, Platelets]\n")
    rect = [] if dynamic else ["-O", "rect=false"]
    common = ("--data", tmp_path / "data/data.yaml", "--device", "cpu", "-O", "workers=0", "--json")
    wanted = cli("val", tmp_path / "bccd.safetensors", "--imgsz", 320, *rect, *common)
    found = cli("val", file, *common)
    assert (wanted.code, found.code) == (0, 0), found.err
    wanted, found = (json.loads(done.out)["measures"] for done in (wanted, found))
    assert found == pytest.approx(wanted, abs=1e-3)
    assert found["mAP50"] > 0.5
    pictures = sorted((tmp_path / "data/images/val").iterdir())
    boxes = predict_to_dicts(tmp_path / "bccd.safetensors", pictures, imgsz=320, rect=bool(dynamic))
    assert_same_results(runtime.load(file, threads=1).document(pictures)["pictures"], boxes, pixels=1, score=0.01)


@pytest.mark.slow
def test_classes_are_measured_alike(here, cli):
    (here / "digits.yaml").write_text(PLAIN.format(ch=1).replace("nc: 4", "nc: 10"))
    torch.manual_seed(0)
    netbuild.save(netbuild.build("digits.yaml"), "digits.safetensors")
    export("digits.safetensors", "digits.onnx", dynamic="batch")
    found, wanted = (validate(cli, file, "digits") for file in ("digits.onnx", "digits.safetensors"))
    assert found == pytest.approx(wanted, abs=1e-3)


def validate(cli, file, data, *settings):
    done = cli("val", file, "--data", data, "--device", "cpu", "-O", "workers=0", "--lenient", *settings, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)["measures"]


def test_boxes_as_fractions_of_the_image_are_measured_alike(decoder, here, cli):
    best = netbuild.predict("decoder.safetensors", PICTURES, device="cpu", conf=0.0, max_det=4)
    for kind in ("images", "labels"):
        (here / "own" / kind).mkdir(parents=True)
    for name, result in zip(PICTURES, best, strict=True):  # the labels are its own predictions
        shutil.copy(name, here / "own/images")
        rows = [row.rpartition(" ")[0] for row in result.task.rows(result.records, result.size)]
        (here / "own/labels" / name).with_suffix(".txt").write_text("\n".join(rows))
    Path("own/data.yaml").write_text(f"train: images\nval: images\nnames: {NAMES}\n")
    wanted = validate(cli, "decoder.safetensors", "own/data.yaml")
    assert validate(cli, "decoder.onnx", "own/data.yaml") == pytest.approx(wanted, abs=1e-3)
    assert wanted["mAP50"] > 0.5


def test_a_fixed_batch_is_filled_up(here):
    model = runtime.load("fixed.onnx", threads=1)
    images = np.random.default_rng(0).random((4, 3, 64, 96), np.float32)
    whole = model.run(images)[0]
    assert whole.shape[0] == 4
    assert np.array_equal(whole[3:], model.run(images[3:])[0])


def test_pictures_may_be_arrays(classifier, here):
    model = runtime.load("classifier.onnx", threads=1)
    rgb = read_image("0.png")
    assert model.predict(rgb)["records"] == model.predict("0.png")["records"]
    with pytest.raises(runtime.RunError, match="1, 3 or 4 channels, this one has 2"):
        model.predict(rgb[..., :2])
    with pytest.raises(runtime.RunError, match="pictures must be uint8"):
        model.predict(rgb / 255)


# -- its own versions of other functions -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pictures_are_resized_as_opencv_does(data):
    h, w, new_h, new_w = (data.draw(st.integers(1, 70)) for _ in range(4))
    image = np.random.default_rng(h * w).integers(0, 256, (h, w, 3), dtype=np.uint8)
    found, wanted = runtime.resize(image, new_h, new_w), fitting.resize(image, new_h, new_w)
    assert np.abs(found.astype(int) - wanted).max() <= 1
    if new_h >= h and new_w >= w:
        assert np.array_equal(found, wanted)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from([1, 8, 32]), st.booleans(),
)  # fmt: skip
def test_pictures_are_fitted_as_predict_fits_them(shape, size, stride, rect):
    image = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for (found, placement), (wanted, letterbox) in (
        (runtime.letterbox(image, size, stride, rect), fitting.letterbox(image, size, stride, rect)),
        (runtime.center_crop(image, size), fitting.fit_center_crop(image, size, stride, rect)),
        (runtime.stretch(image, size, stride), fitting.stretch(image, size, stride, rect)),
    ):
        assert (placement.size, placement.inner, placement.corner) == tuple(vars(letterbox).values())
        assert placement.input_size == found.shape[:2] == wanted.shape[:2]
        assert np.abs(found.astype(int) - wanted).max() <= 1
    assert runtime.GREY == fitting.GREY


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "upright"])
def test_pictures_are_read_as_predict_reads_them(tmp_path, mode, channels):
    noise = np.random.default_rng(0).integers(0, 256, (11, 7, 4), dtype=np.uint8)
    path, more = tmp_path / "a.tif", {}
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(noise).convert("RGB" if mode in ("P", "CMYK", "upright") else mode)
        image = image if mode == "upright" else image.convert(mode)
    if mode == "upright":
        path, more["exif"] = tmp_path / "a.png", image.getexif()
        more["exif"][0x0112] = 6
    image.save(path, **more)
    read = read_image(path, 4 if channels == 4 else 3)
    wanted = np.asarray(Image.fromarray(read).convert("L"))[..., None] if channels == 1 else read
    assert np.array_equal(runtime.read_image(path, channels), wanted)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(0, 60), st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.5]),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.booleans(), st.booleans(), st.sampled_from([None, (0,), (0, 2)]),
    st.integers(1, 40),
)  # fmt: skip
def test_suppression_is_that_of_the_task(seed, cells, nc, conf, iou, agnostic, multi_label, classes, most):
    rng = np.random.default_rng(seed)
    boxes = rng.integers(0, 12, (4, cells)) * 4.0  # many overlap, some are equal, some have no area
    y = np.concatenate((boxes, rng.integers(0, 9, (nc, cells)) / 8)).astype(np.float32)
    chosen = (conf, iou, most, agnostic, multi_label, classes)
    wanted = nms.suppress(torch.from_numpy(y)[None], nms.Filter(*chosen))[0]
    assert np.array_equal(runtime.suppress(y, runtime.Filter(*chosen)), wanted.numpy())


# -- without torch ----------------------------------------------------------------------------------------------------

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "cv2", "torchvision", "yaml", "typer", "rich", "scipy", *{more!r}):
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
"""


def run_without_packages(folder, code):
    env = {**os.environ, "PYTHONPATH": str(Path(netbuild.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_neither_torch_nor_opencv_is_needed(here):
    code = BLOCK.format(more=()) + (
        "import json, netbuild.runtime as r\n"
        "print(json.dumps(r.load('free.onnx').document(['0.png', '1.png'])))\n"
        "known = {'netbuild', 'netbuild.runtime', 'netbuild.errors', 'netbuild.system', 'netbuild.system.plugins'}\n"
        "assert {m for m in sys.modules if m.startswith('netbuild')} <= known"
    )
    assert_same_results(
        json.loads(run_without_packages(here, code))["pictures"], predict_to_dicts("detector.safetensors", PICTURES[:2])
    )


def test_the_file_works_by_itself(here, tmp_path):
    for name in ("free.onnx", "0.png"):
        shutil.copy(here / name, tmp_path)
    shutil.copy(runtime.__file__, tmp_path / "runtime.py")
    code = BLOCK.format(more=("netbuild",)) + (
        "import runpy\nsys.argv = ['runtime.py', 'free.onnx', '0.png', '--json', '--conf', '0.3']\n"
        "try:\n    runpy.run_path('runtime.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code"
    )
    document = json.loads(run_without_packages(tmp_path, code))
    assert sorted(document) == ["failed", "names", "pictures", "task"]
    assert_same_results(document["pictures"], predict_to_dicts("detector.safetensors", ["0.png"], conf=0.3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_an_output_that_cannot_be_written_is_an_error(here):
    command = [sys.executable, runtime.__file__, "free.onnx", "0.png", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=here, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: the output cannot be written: No space left on device\n")


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(classifier, double, here):
    whole = (here / "free.onnx").read_bytes()
    (here / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (here / "empty.onnx").write_bytes(b"")
    (here / "text.onnx").write_text("no ONNX at all")
    torch.save({"a": torch.zeros(1)}, here / "torch.onnx")
    (here / "bad.png").write_bytes((here / "3.png").read_bytes()[:900])
    wrong = onnx.load(here / "free.onnx")
    {p.key: p for p in wrong.metadata_props}["names"].value = '["one", "two"]'
    onnx.save(wrong, here / "wrong.onnx")
    {p.key: p for p in wrong.metadata_props}["imgsz"].value = "large"
    onnx.save(wrong, here / "unclear.onnx")
    return here


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cut.onnx 0.png", "cut.onnx: onnxruntime cannot open the file"),
        ("empty.onnx 0.png", "empty.onnx: the file is empty"),
        ("text.onnx 0.png", "no ONNX file"),
        ("torch.onnx 0.png", "no ONNX file"),
        ("gone.onnx 0.png", "gone.onnx: cannot be read: No such file"),
        ("foreign.onnx 0.png", "--task detect --names cat,dog --stride 32"),
        ("foreign.onnx 0.png --task detect", "give it: --imgsz 640"),
        ("foreign.onnx 0.png --task detect --imgsz 64 --names a,b", "its output has 3 classes, names are given for 2"),
        ("foreign.onnx 0.png --task track --imgsz 64", "outputs of the task 'track' cannot be decoded"),
        ("foreign.onnx 0.png --task segment --imgsz 64", "masks need a second output"),
        ("foreign.onnx 0.png --task pose --imgsz 64", "its output has -48 classes"),
        ("foreign.onnx 0.png --task pose --imgsz 64 --extra 17", "the task 'pose' cannot have [17] values"),
        ("foreign.onnx clip.mp4 --task detect --imgsz 64 --names a,b,c", "there is no picture 'clip.mp4'"),
        ("wrong.onnx 0.png", "its output has 3 classes, names are given for 2"),
        ("unclear.onnx 0.png", "its metadata 'imgsz' cannot be read: large"),
        ("free.onnx gone.png", "there is no picture 'gone.png'"),
        ("free.onnx 0.png --conf 2", "conf 2.0: must be from 0 to 1"),
        ("free.onnx 0.png --max-det 0", "max_det 0: must be at least 1"),
        ("free.onnx 0.png --classes cow", "there is no class 'cow'"),
        ("fixed.onnx 0.png --imgsz 64", "the file takes 64x96 only"),
        ("fixed.onnx 0.png --no-rect", "rect has no effect on a file whose size is fixed"),
        ("classifier.onnx 0.png --conf 0.5", "conf has no effect for the task 'classify'"),
        ("nms.onnx 0.png --conf 0.1", "conf 0.1: the file itself drops what is below 0.3"),
        ("nms.onnx 0.png --max-det 50", "max_det 50: the file itself returns at most 20"),
        ("nms.onnx 0.png --agnostic", "agnostic has no effect without suppression"),
    ],
)
def test_mistakes_are_explained(broken, capsys, words, message):
    assert runtime.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert message in err
    assert out == ""


def test_an_unreadable_picture_is_reported_and_the_others_are_predicted(broken, capsys):
    assert runtime.main(["free.onnx", "bad.png", "0.png"]) == 1
    out, err = capsys.readouterr()
    assert "error: bad.png: cannot be read as a picture" in err
    assert out.startswith("0.png 60x90: ")
    with pytest.raises(runtime.PictureError):
        runtime.load("free.onnx").predict("bad.png")


def test_flags_replace_the_metadata_of_other_programs_files(here, capsys):
    words = ["foreign.onnx", *PICTURES, "--task", "detect", "--names", ",".join(NAMES), "--imgsz", "64", "--json"]
    assert runtime.main(words) == 0
    assert_same_results(json.loads(capsys.readouterr().out)["pictures"], predict_to_dicts("detector.safetensors"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict foreign.onnx 0.png", "the file has no metadata of netbuild"),
        ("predict cut.onnx 0.png", "onnxruntime cannot open the file"),
        ("predict gone.onnx 0.png", "gone.onnx: cannot be read"),
        ("predict wrong.onnx 0.png", "its output has 3 classes, names are given for 2"),
        ("predict free.onnx 0.png --device mps", "--device mps: ONNX files run on cpu, cuda"),
        ("predict free.onnx 0.png --device tpu9", "--device tpu9"),
        ("predict free.onnx 0.png --modules a.py", "--modules has no effect on an ONNX file"),
        ("predict free.onnx 0.png --trust", "--trust has no effect on an ONNX file"),
        ("predict fixed.onnx 0.png --imgsz 64", "the file takes 64x96 only"),
        ("predict fixed.onnx 0.png --rect", "rect has no effect on a file whose size is fixed"),
        ("predict nms.onnx 0.png --conf 0.1", "the file itself drops what is below 0.3"),
        ("predict nms.onnx 0.png --iou 0.5", "iou has no effect without suppression"),
        ("predict classifier.onnx 0.png --conf 0.1", "conf has no effect for the task 'classify'"),
        ("predict free.onnx 0.png --classes cow", "there is no class 'cow'"),
        ("predict free.onnx 0.png --imgsz 100000", "is no image size"),
        ("val free.onnx --data digits", "the network has 3 classes, the data set digits has 10"),
        ("val classifier.onnx --data digits", "the network has 4 classes"),
        ("val fixed.onnx --data digits-detect --imgsz 320", "the file takes 64x96 only"),
        ("val fixed.onnx --data digits-detect -O rect=true", "rect has no effect on a file whose size is fixed"),
        ("val fixed.onnx --data digits-detect -O rect=false", "rect has no effect on a file whose size is fixed"),
        ("val nms.onnx --data digits-detect", "the file itself drops what is below 0.3"),
        ("val free.onnx --data digits --trust", "--trust has no effect on an ONNX file"),
        ("val free.onnx --data digits --nproc 2", "--nproc has no effect on an ONNX file"),
        ("val cut.onnx --data digits-detect", "onnxruntime cannot open the file"),
        ("val foreign.onnx --data digits-detect", "the file has no metadata of netbuild"),
        ("val unclear.onnx --data digits-detect", "its metadata 'imgsz' cannot be read"),
        ("predict fixed.onnx 0.png -o text.onnx/x", "text.onnx/x: cannot be written"),
        ("val fixed.onnx --data digits-detect -o text.onnx/x", "text.onnx/x: cannot be written"),
        ("export detector.safetensors -o text.onnx/x.onnx", "there is no folder text.onnx"),
        ("export free.onnx", "an ONNX file has no rows"),
        ("export detector.safetensors --imgsz 50", "try --imgsz 48x48"),
        ("benchmark foreign.onnx", "the file has no metadata of netbuild"),
        ("benchmark detector.safetensors cut.onnx", "cut.onnx: cannot be run"),
        ("benchmark detector.safetensors gone.onnx", "gone.onnx: does not exist"),
        ("benchmark detector.safetensors --imgsz 50", "try --imgsz 48x48"),
        ("benchmark detector.safetensors --data digits-detect", "the network has 3 classes"),
        (
            "benchmark detector.safetensors double.onnx",
            "does not match the network: its output0 is [1, 64, 6] instead of",
        ),
        ("inspect cut.onnx", "cut.onnx: not an ONNX file, or it is truncated"),
        ("inspect empty.onnx", "empty.onnx: the file is empty"),
        ("inspect text.onnx", "text.onnx: not an ONNX file"),
        ("inspect torch.onnx", "torch.onnx: this is a zip archive"),
        ("inspect gone.onnx", "gone.onnx: cannot be read"),
        ("inspect fixed.onnx --imgsz 64", "images has 96 on axis 3, not 64"),
        ("inspect free.onnx --json --nodes", "--nodes has no effect with --json"),
    ],
)
def test_commands_refuse_options_without_effect_and_wrong_files(broken, cli, command, message):
    done = cli(*command.split())
    assert (done.code, message in done.err) == (2, True), done.err
    assert "Traceback" not in done.err


def test_frames_of_videos_are_predicted_one_by_one(here, cli, tmp_path, capsys):
    cv2 = pytest.importorskip("cv2")
    frames = [np.asarray(Image.open("3.png").rotate(90 * i))[..., ::-1] for i in range(3)]
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (300, 200))
    for frame in frames:
        writer.write(frame)
    writer.release()
    done = cli(
        "predict", "free.onnx", "clip.avi", "--device", "cpu", "--json", "--save", "pictures", "-o", tmp_path / "v"
    )
    assert done.code == 0, done.err
    rows = json.loads(done.out)["pictures"]
    assert [row["frame"] for row in rows] == [1, 2, 3]
    assert os.listdir(tmp_path / "v") == ["clip.mp4"]
    model, video = runtime.load("free.onnx", threads=1), cv2.VideoCapture("clip.avi")
    for row in rows:  # the runtime's own prediction of each frame
        found = {**model.predict(video.read()[1][..., ::-1]), "path": "clip.avi"}
        assert_same_results([found], [row])
    assert runtime.main(["free.onnx", "clip.avi"]) == 1
    assert "clip.avi: a video, not a picture; use netbuild predict" in capsys.readouterr().err


def test_results_are_drawn_and_saved(here, cli, tmp_path):
    done = cli(
        "predict", "free.onnx", "0.png", "--save", "pictures,txt,json", "-o", tmp_path / "out", "--device", "cpu"
    )
    assert done.code == 0, done.err
    assert "random" not in done.err
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "labels", "results.json"]
    assert predictor.prepare("free.onnx", device="cpu").network.card.names == NAMES


# -- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect_counts_what_summary_counts(here, cli):
    wanted = json.loads(cli("summary", "detector.yaml", "--imgsz", "64x96", "--fuse", "--json").out)
    for arguments in (["fixed.onnx"], ["free.onnx", "--imgsz", "64x96", "--batch", "3"]):
        done = cli("inspect", *arguments, "--json")
        assert done.code == 0, done.err
        found = json.loads(done.out)
        assert found["flops"] == 3 * wanted["totals"]["flops"]
        assert (found["unknown_nodes"], found["uncounted"]) == (0, {})
        assert found["inputs"] == [{"name": "images", "type": "float32", "shape": [3, 3, 64, 96]}]
        assert found["outputs"] == [{"name": "output0", "type": "float32", "shape": [3, 7, 96]}]
        assert found["params"]["float32"]["count"] == pytest.approx(wanted["totals"]["params"], abs=500)
        assert found["operators"]["Conv"] == sum(node["op"] == "Conv" for node in found["nodes"])
        assert found["peak"]["bytes"] >= max(node["bytes"] for node in found["nodes"])
        assert found["metadata"]["task"] == "detect"


def test_inspect_names_the_free_axes(here, cli):
    done = cli("inspect", "foreign.onnx")
    assert done.code == 0, done.err
    for message in ("input      images  float32 [batch, 3, height, width]", "at least", "give --imgsz, --batch"):
        assert message in done.out
    assert len(cli("inspect", "fixed.onnx", "--nodes").out.splitlines()) > 55


def test_inspect_reads_files_of_other_programs(here, cli):
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    w = helper.make_tensor("w", TensorProto.FLOAT16, [5, 7], b"\0" * 70, raw=True)
    far = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1000], data_location=TensorProto.EXTERNAL)
    far.external_data.add(key="location", value="weights.bin")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "product"),
        helper.make_node("Attention", ["m"], ["y"], "other", domain="com.example"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [w, far])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    (here / "other.onnx").write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
    done = cli("inspect", "other.onnx", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["flops"] == 2 * 2 * 5 * 7
    assert found["uncounted"] == {"com.example.Attention": 1}
    assert found["params"] == {"float32": {"count": 1000, "bytes": 4000}, "float16": {"count": 35, "bytes": 70}}
    assert found["external"] == ["weights.bin"]
    assert found["nodes"][0]["bytes"] == 28
    assert cli("inspect", "other.onnx", "--imgsz", "64").code == 2


def value(name, *shape, kind=1):
    return onnx.helper.make_tensor_value_info(name, kind, shape or None)


def number(name, kind):
    return onnx.helper.make_tensor_value_info(name, kind, [])


def inspect_graph(folder, nodes, inputs, constants=()):
    """Inspect a graph whose output is y."""
    tensors = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()]
    graph = onnx.helper.make_graph(nodes, "g", inputs, [value("y")], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(model, folder / "graph.onnx")
    return inspect.inspect(folder / "graph.onnx")


@pytest.mark.parametrize(
    ("equation", "shapes", "count"),
    [
        ("ij,jk->ik", [(2, 3), (3, 5)], 2 * 3 * 5),
        ("bij, bjk", [(7, 2, 3), (7, 3, 5)], 7 * 2 * 3 * 5),
        ("...ij,...jk->...ik", [(4, 1, 2, 3), (4, 6, 3, 5)], 4 * 6 * 2 * 3 * 5),
        ("bchw,bkc->bkhw", [(2, 8, 4, 6), (2, 3, 8)], 2 * 8 * 4 * 6 * 3),
        ("i,j->ij", [(4,), (5,)], 20),
        ("ij->ji", [(4, 5)], 0),
        ("ij,jk,kl->il", [(2, 3), (3, 5), (5, 7)], 2 * 3 * 5 + 2 * 5 * 7),
    ],
)
def test_inspect_counts_einsum(tmp_path, equation, shapes, count):
    from torch.utils.flop_counter import FlopCounterMode  # half a second, with triton

    names = [f"x{i}" for i in range(len(shapes))]
    node = onnx.helper.make_node("Einsum", names, ["y"], equation=equation)
    found = inspect_graph(tmp_path, [node], [value(n, *shape) for n, shape in zip(names, shapes, strict=True)])
    assert (found.flops, found.uncounted, found.unknown) == (2 * count, {}, 0)
    if len(shapes) == 2 and "..." not in equation:
        with FlopCounterMode(display=False) as counter:
            torch.einsum(equation.replace(" ", ""), *map(torch.ones, shapes))
        assert counter.get_total_flops() in (2 * count, 0)  # an outer product is none of torch's matrix products


def body(name, inputs, outputs, *nodes):
    return onnx.helper.make_graph(list(nodes), name, inputs, outputs)


def test_inspect_counts_branches_and_loops(tmp_path):
    make = onnx.helper.make_node
    inputs = [value("x", 4, 8), value("large", 8, 16), value("small", 8, 2), number("c", 9), number("n", 7)]
    yes = make("MatMul", ["x", "large"], ["y1"], "a")
    no = make("MatMul", ["x", "small"], ["y2"], "b")
    wide, narrow = 2 * 4 * 8 * 16, 2 * 4 * 8 * 2
    branches = {"then_branch": body("t", [], [value("y2")], no), "else_branch": body("e", [], [value("y1")], yes)}
    found = inspect_graph(tmp_path, [make("If", ["c"], ["y"], "either", **branches)], inputs)
    assert (found.flops, found.uncounted) == (wide, {})
    assert found.remarks == ["If either: its else_branch, the larger of two"]
    assert "counted    If either: its else_branch" in found.text()
    found = inspect_graph(tmp_path, [make("If", ["sure"], ["y"], "one", **branches)], inputs, {"sure": np.array(True)})
    assert (found.flops, found.remarks) == (narrow, ["If one: its then_branch, which is always taken"])

    square = make("MatMul", ["v", "w"], ["v2"], "turn")
    kept = make("Identity", ["go"], ["go2"])
    loop = body(
        "l", [number("i", 7), number("go", 9), value("v", 4, 8)], [number("go2", 9), value("v2", 4, 8)],
        kept, square,
    )  # fmt: skip
    ends = body(
        "l", [number("i", 7), number("go", 9), value("v", 4, 8)], [number("go2", 9), value("v2", 4, 8)],
        make("Identity", ["c"], ["go2"]), square,
    )  # fmt: skip
    weights = {"w": np.ones((8, 8), np.float32), "five": np.array(5), "true": np.array(True)}
    once = 2 * 4 * 8 * 8
    for words, inner, flops, message in (
        (["five", "true", "x"], loop, 5 * once, "Loop again: 5 iterations"),
        (["five", "", "x"], loop, 5 * once, "Loop again: 5 iterations"),
        (["five", "true", "x"], ends, 5 * once, "Loop again: 5 iterations at most"),
        (["n", "true", "x"], loop, 0, None),
        (["", "c", "x"], loop, 0, None),
    ):
        found = inspect_graph(tmp_path, [make("Loop", words, ["y"], "again", body=inner)], inputs, weights)
        assert (found.flops, found.remarks) == (flops, [message] if message else [])
        assert found.uncounted == ({} if message else {"Loop": 1})
        assert message or ("at least" in found.text() and "not counted: 1 Loop" in found.text())

    scanned = body("s", [value("v", 4), value("r", 8)], [value("v2", 4), value("o", 2)],
                   make("Identity", ["v"], ["v2"]), make("MatMul", ["r", "small"], ["o"], "row"))  # fmt: skip
    scan = make("Scan", ["start", "x"], ["last", "y"], "along", body=scanned, num_scan_inputs=1)
    found = inspect_graph(tmp_path, [scan], inputs, {"start": np.ones(4, np.float32)})
    assert (found.flops, found.remarks, found.uncounted) == (4 * 2 * 8 * 2, ["Scan along: 4 iterations"], {})

    strange = body("t", [], [value("y2")], make("DFT", ["x"], ["d"]), no)
    nested = {
        "then_branch": strange,
        "else_branch": body("e", [], [value("y1")], make("If", ["c"], ["y1"], "deep", **branches)),
    }
    found = inspect_graph(tmp_path, [make("If", ["c"], ["y"], "outer", **nested)], inputs)
    assert (found.flops, found.uncounted) == (wide, {"DFT": 1})
    assert found.operators == {"If": 2, "MatMul": 3, "DFT": 1}
