"""The JSON Schema of network files: accepts what netbuild accepts, refuses typical mistakes, and serves editors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from helpers.language_server import LanguageServer
from helpers.mutants import FEATURES, mutant, originals

from netbuild import NetbuildError
from netbuild.author import index
from netbuild.author.schema import BLOCK_DOCS, KEYS, ROW_DOCS, VERB_DOCS, make_schema
from netbuild.grammar.blocks import BLOCK_KEYS
from netbuild.grammar.edits import EDIT_VERBS
from netbuild.grammar.keys import KNOWN_KEYS
from netbuild.grammar.locate import packaged_architectures
from netbuild.grammar.nodes import parse, read_text
from netbuild.grammar.rows import ROW_KEYS, SHARE
from netbuild.grammar.spec import load, read_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve

jsonschema = pytest.importorskip("jsonschema")
CASES = Path(__file__).parents[1] / "cases"
ROOT = Path(__file__).parents[2]
ROW = "layers:\n  - [-1, 1, Conv, [8]]\n"
QUICK = {"lenet5", "yolo11", "resnet50", "yolov8-world", "siamfc", "yolov9t", "swin-t"}


@pytest.fixture(scope="module")
def validator():
    made = make_schema()
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(made)


def faults(validator, text: str) -> list[str]:
    return [error.message for error in validator.iter_errors(parse(text, "net.yaml").plain())]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if Path(n).stem in QUICK else pytest.mark.slow)
        for n in sorted(packaged_architectures())
    ],
)
def test_packaged_files_are_valid(validator, name):
    assert faults(validator, read_text(packaged_architectures()[name])) == []


def test_other_files_that_are_built_are_valid(validator):
    """The files of the tests, and the templates of `netbuild new`."""
    texts = {read_text(path) for path in packaged_architectures().values()}
    refused = {path.stem for path in (ROOT / "tests" / "grammar" / "errors").glob("*.txt")}
    files = [*CASES.glob("*.yaml"), *(ROOT / "netbuild" / "author" / "templates").glob("*.yaml")]
    built = {*originals(), *(read_text(path) for path in files if path.stem not in refused)} - texts
    assert len(built) > 20
    for text in built:
        assert faults(validator, text) == [], text[:300]


def check_mutant(validator, seed: int, path: Path, most: int = 10**6) -> bool:
    """Return whether netbuild accepts a randomly changed file; if it does, check that the schema accepts it, too."""
    text = mutant(Random(seed))
    if len(text) > most:
        return False
    try:
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        spec = load(path) if isinstance(text, bytes) else read_spec(text, path)
        resolve(spec, Options(imgsz=(64, 64)))
    except NetbuildError:
        return False
    if spec.warnings:  # a key that has no effect: the schema marks it
        return False
    assert faults(validator, read_text(path)) == [], f"mutant {seed}: {text!r}"
    return True


@pytest.mark.filterwarnings("ignore")
def test_some_random_changes_that_netbuild_accepts_are_valid(validator, tmp_path):
    assert sum(check_mutant(validator, seed, tmp_path / "net.yaml", 800) for seed in range(40)) > 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_random_changes_that_netbuild_accepts_are_valid(validator, tmp_path):
    assert sum(check_mutant(validator, seed, tmp_path / "net.yaml") for seed in range(10, 1000)) > 200


WRONG = [
    f"{ROW}bakcbone: []\n",
    f"{ROW}backbone: []\n",
    f"{ROW}nc: many\n",
    f"{ROW}nc: 0\n",
    f"{ROW}imgsz: [640, 640, 3]\n",
    f"{ROW}scales: {{n: 0.5}}\n",
    f"{ROW}scales: {{n: [0.5]}}\n",
    f"{ROW}scales: {{n: [0.5, 0.25, 1024, 3]}}\n",
    f"{ROW}scales: {{n: [0, 0.25, 1024]}}\n",
    f"{ROW}params: {{nc: 3}}\n",
    f"{ROW}params: {{a: {{b: 3}}}}\n",
    f"{ROW}init: hee\n",
    f"{ROW}inputs: {{rgb: [3, 4, 5, 6]}}\n",
    f"{ROW}lr_factors: {{0: -1}}\n",
    f"{ROW}blocks: {{Own: {{params: [c2]}}}}\n",
    f"{ROW}blocks: {{Own: {{rows: [[-1, 1, Conv, [8]]], results: 3}}}}\n",
    f"{ROW}blocks: {{Own: {{rows: [[-1, 1, Conv]]}}}}\n",
    f"{ROW}edits: [{{remove: 3}}]\n",
    "nc: 3\n",
    "extends: [yolo11.yaml]\n",
    "extends: yolo11.yaml\nedits: {remove: 3}\n",
    "extends: yolo11.yaml\nedits: [{delete: 3}]\n",
    "extends: yolo11.yaml\nedits: [{remove: 3, replace: 4}]\n",
    "extends: yolo11.yaml\nedits: [{insert_after: 3}]\n",
    "extends: yolo11.yaml\nedits: [{insert_after: 3, row: [-1, 1, Conv, [{kk: 3}]]}]\n",
    "layers: [-1, 1, Conv, [8]]\n",
]
WRONG_ROWS = [
    "[-1, Conv]",
    "[-1, 1, Conv]",
    "[-1, 1, Conv, [8], stem, 3]",
    "[-1, 1, Conv, 8]",
    "[-1, 1, Conv, null]",
    "[-1, -1, Conv, [8]]",
    "[-1, 0, Conv, [8]]",
    "[-1, 1.5, Conv, [8]]",
    "[-1, 2000, Conv, [8]]",
    "[-1, Conv, 1, [8]]",
    "[[], 1, Conv, [8]]",
    "[1.5, 1, Conv, [8]]",
    "[null, 1, Conv, [8]]",
    "['a b', 1, Conv, [8]]",
    "[-1, 1, 3, [8]]",
    "[-1, 1, 'nn.ReLU()', []]",
    "[-1, 1, '', []]",
    "[-1, 1, Conv, [8], 3]",
    "[-1, 1, Conv, [8], input]",
    "[-1, 1, Conv, [8, {kk: 3}]]",
    "[-1, 1, Conv, {c2: 8, kk: 3}]",
    "[-1, 1, Conv, {c1: 8, c2: 8}]",
    "[-1, 1, nn.Conv2d, {out_channel: 8, kernel_size: 3}]",
    "{from: -1, modul: Conv}",
    "{from: -1, args: [8]}",
    "{module: Conv, args: {kk: 3}}",
    "{module: Conv, repeats: 3, args: [8]}",
    "Conv",
]


@pytest.mark.parametrize("text", [*WRONG, *(f"layers:\n  - {row}\n" for row in WRONG_ROWS)])
def test_typical_mistakes_are_marked(validator, tmp_path, text):
    assert faults(validator, text)
    (tmp_path / "net.yaml").write_text(text)
    with pytest.raises(NetbuildError):  # and netbuild agrees
        resolve(load(tmp_path / "net.yaml"), Options(imgsz=(64, 64)))


@pytest.mark.parametrize(
    "row",
    [
        "[-1, 1, MyGate, [8, {kk: 3}]]",
        "[-1, 1, package.module.Class, {kk: 3}]",
        "[-1, 1, timm.create_model, [resnet18, {features_only: true}]]",
        "[-1, n * 2, Conv, ['min(8, nc)', {act: 'nn.LeakyReLU(0.1)'}]]",
        "[['s[1]', s.b, '0[1]', input, -2], 1, Concat, []]",
        "{module: Conv, args: {c2: 8}}",
    ],
)
def test_unknown_modules_and_expressions_are_not_checked(validator, row):
    assert faults(validator, f"layers:\n  - {row}\n") == []


def test_a_module_of_the_file_may_have_a_packaged_name(validator):
    row = "layers:\n  - [-1, 1, Conv, {kk: 3}]\n"
    assert faults(validator, row)
    assert faults(validator, f"blocks: {{Conv: {{params: [kk], rows: [[-1, 1, nn.ReLU, []]]}}}}\n{row}") == []
    assert faults(validator, f"imports: {{Conv: ./own.py}}\n{row}") == []


def test_every_key_is_described():
    made = make_schema()
    assert set(KEYS) == set(KNOWN_KEYS) == set(made["properties"])
    assert (set(ROW_DOCS), set(BLOCK_DOCS), set(VERB_DOCS)) == ({*ROW_KEYS, SHARE}, set(BLOCK_KEYS), set(EDIT_VERBS))
    assert all(found["description"] for found in made["properties"].values())
    names = made["definitions"]["module"]["anyOf"][0]
    assert names["enum"] == list(index.load_parameters())
    docs = dict(zip(names["enum"], names["markdownEnumDescriptions"], strict=True))
    assert "`Conv(<c1>, c2, k=1, s=1, p=None, g=1, d=1, act=True)`\n\nConvolution without bias" in docs["Conv"]
    assert "https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html" in docs["nn.Conv2d"]


def test_the_command(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = cli("schema").out
    done = cli("schema", "-o", "netbuild.schema.json")
    assert "# yaml-language-server: $schema=netbuild.schema.json" in done.out
    text = Path("netbuild.schema.json").read_text()
    assert text == printed
    assert json.loads(text) == make_schema()
    assert len(text) < 500_000
    assert cli("schema", "-o", "no/folder/x.json").code == 2
    own = json.loads(cli("schema", "--modules", CASES / "a03-user-channel-gate.py").out)
    check = jsonschema.Draft7Validator(own)
    assert faults(check, "layers:\n  - [-1, 1, ChannelGate, [4]]\n") == []
    assert faults(check, "layers:\n  - [-1, 1, ChannelGate, {rr: 4}]\n")


def test_the_command_needs_no_torch():
    code = "import sys; sys.argv = ['netbuild', 'schema']\nfrom netbuild.cli.application import main\n"
    code += "try: main()\nexcept SystemExit as stop: assert not stop.code\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- in an editor -----------------------------------------------------------------------------------------------------

SERVER = os.environ.get("YAML_LANGUAGE_SERVER") or shutil.which("yaml-language-server")


@pytest.mark.slow
@pytest.mark.skipif(not SERVER, reason="npm install -g yaml-language-server, or YAML_LANGUAGE_SERVER=its path")
def test_the_language_server_completes_and_marks(cli, tmp_path):
    path = tmp_path / "netbuild.schema.json"
    cli("schema", "-o", path)
    server = LanguageServer([SERVER, "--stdio"], path, tmp_path)
    try:
        assert server.open("features.yaml", FEATURES.replace("&stem ", "")) == []
        assert server.open("yolo11.yaml", read_text(packaged_architectures()["yolo11.yaml"])) == []
        assert server.open("key.yaml", f"{ROW}bakcbone: 3\n") == ["Property bakcbone is not allowed."]
        messages = server.open("keyword.yaml", "layers:\n  - [-1, 1, Conv, [8, {kk: 3}]]\n")
        assert messages == ["Property kk is not allowed."]
        for name, row in (("flow", "[-1, 1, C|, [8]]"), ("mapping", "{from: -1, module: C|}")):
            offered = server.complete(f"{name}.yaml", f"layers:\n  - {row}\n")
            assert set(index.load_parameters()) <= offered.keys()
            assert "Convolution without bias" in str(offered["Conv"])
        assert {"backbone", "head", "blocks"} <= server.complete("keys.yaml", "nc: 3\n|\n").keys()
        offered = server.complete("keywords.yaml", "layers:\n  - [-1, 1, nn.Conv2d, {o|}]\n")
        assert {"out_channels", "kernel_size"} <= offered.keys()
        assert "c2" not in offered
    finally:
        server.close()
