"""Drawings of networks: they show every row and edge, nothing covers a text, and pages work in a real browser."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.browser import needs_browser
from helpers.small_networks import TINY

import netbuild
from netbuild import summarize
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.grammar.locate import packaged_architectures
from netbuild.grammar.spec import load
from netbuild.report.diagram import FORMS, draw
from netbuild.report.diagram import layout as layouts
from netbuild.report.diagram.page import Picture, Section, page
from netbuild.report.diagram.source import row_text
from netbuild.report.diagram.svg import CELL

ROOT = Path(__file__).parents[2]
QUICK = {"lenet5.yaml", "yolo11.yaml", "yolov9e.yaml", "ddpm-unet.yaml", "siamfc.yaml", "yolov8-world.yaml"}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8cfc0f01f0005000180a2fcbfaa0000000049454e44ae426082"
)  # one pixel
SVG = "{http://www.w3.org/2000/svg}"


def residual(rows):
    """Return a network of two sections with short skips everywhere and long ones from the first half to the second."""
    lines, half = ["nc: 10", "imgsz: 32", "backbone:"], rows // 2
    for i in range(rows):
        row = "[-1, 1, Conv, [8, 1]]"
        if i == rows - 1:
            row = "[-1, 1, Classify, [nc]]"
        elif i > half and i % 20 == 10:
            row = f"[[-1, {rows - i}], 1, Concat, [1]]"
        elif i and i % 3 == 0:
            row = "[[-1, -3], 1, Concat, [1]]"
        lines += ["head:"] * (i == half) + [f"  - {row}  # {i}"]
    return "\n".join(lines)


def dense(rows, block=24):
    """Return a network of blocks in which every other row reads all such rows before it."""
    lines = ["nc: 10", "imgsz: 32", "layers:"]
    for i in range(rows):
        first = i // block * block
        many = i % 2 == 0 and i > first + 1
        lines.append(f"  - [{[*range(first, i, 2), i - 1]}, 1, Concat, [1]]" if many else "  - [-1, 1, Conv, [8, 1]]")
    return "\n".join(lines)


GATES = """
inputs: {rgb: [3, 32, 32], depth: [1, 32, 32]}
blocks:
  Split:
    params: [c2]
    rows:
      - [input, 1, Conv, [c2], a]
      - [a, 1, Conv, [c2, 3], b]
    result: [a, b]
layers:
  - [rgb, 1, Split, [8], s]
  - [depth, 1, Conv, [8]]
  - [[s.b, "s[0]", -1, rgb], 1, Concat, [1]]
  - {from: [-1, -1, depth], module: Concat,
     args: [1], name: both}   # twice the same
"""
NETS = {"residual24": residual(24), "residual300": residual(300), "dense100": dense(100), "gates": GATES}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {**NETS, "tiny": TINY}.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def mark_slow(name):
    return pytest.param(name, marks=() if name in QUICK or name.removesuffix(".yaml") in NETS else pytest.mark.slow)


# -- geometry ---------------------------------------------------------------------------------------------------------


def number(element, key):
    return float(element.get(key))


def find_boxes(root):
    """Return the rectangle of each node: left, top, right, bottom."""
    found = {}
    for group in root.iter(f"{SVG}g"):
        if "node" in group.get("class", "").split():
            box = group.find(f"{SVG}rect[@class='box']")
            x, y, w, h = (number(box, key) for key in ("x", "y", "width", "height"))
            found[int(group.get("id")[1:])] = (x, y, x + w, y + h)
    return found


def find_lines(root):
    """Return the corners of each edge by its two nodes."""
    found = {}
    for group in root.iter(f"{SVG}g"):
        if group.get("class", "").startswith("edge"):
            ends = int(group.get("data-from")), int(group.get("data-to"))
            assert ends not in found
            path = group.find(f"{SVG}path[@class='line']").get("d")
            numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e-?\d+)?", path)]
            found[ends] = list(zip(numbers[::2], numbers[1::2], strict=True))
    return found


def overlap(a, b, slack=0.0):
    return a[0] < b[2] - slack and b[0] < a[2] - slack and a[1] < b[3] - slack and b[1] < a[3] - slack


def text_spans(group):
    """Yield the texts of a group with their rectangles, for the widest monospaced font."""
    for text in group.iter(f"{SVG}text"):
        width = len(text.text) * CELL * (1.8 if text.get("class") == "title" else 1)
        x = number(text, "x") - (width if text.get("text-anchor") == "end" else 0)
        yield text.text, (x, number(text, "y") - 11, x + width, number(text, "y") + 3)


def check_picture(svg, spec, inputs):
    root = ElementTree.fromstring(svg)
    boxes, lines = find_boxes(root), find_lines(root)
    assert set(boxes) == {row.index for row in spec.rows} | {-1 - i for i in range(inputs)}
    assert set(lines) == {(source, row.index) for row in spec.rows for source in row.sources}
    assert {text.text for text in root.findall(f"{SVG}g/{SVG}text")} >= {row.section for row in spec.rows}
    check_apart(root, boxes, lines)
    check_lanes(lines)
    check_texts(root, boxes)


def check_apart(root, boxes, lines):
    """Check that boxes do not overlap, and that lines enter no box; they touch only the two that they connect."""
    tops = [boxes[key][1] for key in sorted(boxes, key=lambda k: (k >= 0, k if k >= 0 else -k))]
    assert tops == sorted(tops)
    order = list(boxes.values())
    assert not any(overlap(a, b) for i, a in enumerate(order) for b in order[i + 1 :])
    width, height = number(root, "width"), number(root, "height")
    for (source, target), points in lines.items():
        left, _, right, bottom = boxes[source]
        (x, y), (end_x, end_y) = points[0], points[-1]
        assert min(abs(x - left), abs(x - right), abs(y - bottom)) < 0.01
        left, top, right, _ = boxes[target]
        assert min(abs(end_x - left), abs(end_x - right), abs(end_y - top)) < 3.01  # the tip is the rest
        for (x1, y1), (x2, y2) in pairwise(points):
            piece = min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1
            assert min(piece) >= 0
            assert (piece[2] <= width, piece[3] <= height) == (True, True)
            for key, box in boxes.items():
                assert not overlap(piece, box, 1.01 if key in (source, target) else 0), (source, target, key)


def check_lanes(lines):
    """Check that lines of different sources do not run along each other; they may cross."""
    pieces = [
        (source, min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
        for (source, _), points in lines.items()
        for a, b in pairwise(points)
        if a[0] == b[0] or a[1] == b[1]
    ]
    pieces = sorted(set(pieces), key=lambda piece: piece[2])
    for i, (source, x1, y1, x2, y2) in enumerate(pieces):
        for other, a1, b1, a2, b2 in pieces[i + 1 :]:
            if b1 > y2 + 2:
                break
            along = min(x2, a2) - max(x1, a1), min(y2, b2) - max(y1, b1)
            assert other == source or not (max(along) > 2 and min(along) > -2), (source, other, x1, y1)


def check_texts(root, boxes):
    outside = [span for span in text_spans(root) if span[1][2] > number(root, "width")]
    assert not outside
    for group in root.iter(f"{SVG}g"):
        if "node" in group.get("class", "").split():
            x1, y1, x2, y2 = boxes[int(group.get("id")[1:])]
            spans = list(text_spans(group))
            assert all(x1 < a and b > y1 and c < x2 and d < y2 for _, (a, b, c, d) in spans), spans
            assert not any(overlap(a[1], b[1]) for i, a in enumerate(spans) for b in spans[i + 1 :]), spans


@pytest.mark.parametrize(
    "name", [mark_slow(name) for name in [*packaged_architectures(), *(f"{n}.yaml" for n in NETS)]]
)
def test_every_row_and_edge_is_drawn_and_nothing_is_covered(here, monkeypatch, name):
    monkeypatch.delattr(layouts, "_first_fit")  # none of these networks is too large for the engine
    summary = summarize(name)
    rows, inputs = summary.graph.spec.rows, len(summary.graph.inputs)
    check_picture(FORMS[".svg"](summary), summary.graph.spec, inputs)
    edges = {
        (f"in{-source}" if source < 0 else f"r{source}", str(pick or ""), f"r{row.index}")
        for row in rows
        for source, pick in zip(row.sources, ["" if p is None else str(p) for p in row.selections], strict=True)
    }
    mermaid, dot = FORMS[".mmd"](summary), FORMS[".dot"](summary)
    assert set(re.findall(r'^  (\w+) -->(?:\|"(.*)"\|)? (r\d+)$', mermaid, re.M)) == edges
    assert {(a, c, b) for a, b, c in re.findall(r'^  (\w+) -> (r\d+)(?: \[label="(.*)"\])?;$', dot, re.M)} == edges
    for text in (mermaid, dot):
        names = re.findall(r"^ +((?:r|in)\d+) ?[\[(]", text, re.M)
        assert sorted(names) == sorted([f"r{row.index}" for row in rows] + [f"in{i + 1}" for i in range(inputs)])
    assert dot.count("{") == dot.count("}")


def test_a_network_too_large_for_the_layout_engine_has_lanes_too(here, monkeypatch):
    monkeypatch.setattr(layouts, "MAX_STEPS", 0)
    for name in ("dense100.yaml", "residual24.yaml", "yolov9e.yaml"):
        summary = summarize(name)
        check_picture(FORMS[".svg"](summary), summary.graph.spec, 1)


def test_sources_are_written_as_names_and_numbers(here):
    svg = FORMS[".svg"](summarize("gates.yaml"))
    shown = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"rgb", "depth", "s.b, s[0], 1, r…", "2, 2, depth", "both"} <= set(shown)
    assert "8×32×32 …" in shown  # the first of two outputs


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_picture_in_the_readme_is_up_to_date(tmp_path):
    draw("yolo11n.yaml", tmp_path / "x.svg")
    command = [sys.executable, "-m", "netbuild", "graph", "yolo11n.yaml", "-o", str(tmp_path / "y.svg")]
    # The order of sets is another one in another process: it must not matter.
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "3"})
    for name in ("x.svg", "y.svg"):
        assert (tmp_path / name).read_bytes() == (ROOT / "docs/yolo11n.svg").read_bytes(), "make picture draws it anew"
    assert "docs/yolo11n.svg" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_command_writes_every_format(cli, here):
    for ending, sign in {".svg": "<svg ", ".html": "<!doctype html>", ".mmd": "---\n", ".dot": "digraph "}.items():
        out = here / f"x{ending}"
        done = cli("graph", "tiny.yaml", "-o", out)
        assert (done.code, done.out) == (0, f"{out}: 4 rows, {summarize('tiny.yaml').totals['params']:,} parameters\n")
        assert out.read_text(encoding="utf-8").startswith(sign)
        draw("tiny.yaml", here / f"again{ending}")
        assert (here / f"again{ending}").read_bytes() == out.read_bytes()
    assert cli("graph", "tiny.yaml").out == (here / "x.mmd").read_text(encoding="utf-8")
    assert "batch norms merged" in FORMS[".svg"](summarize("tiny.yaml", fused=True))
    assert not list(here.glob(".*"))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.png", "a graph cannot be written as '.png'"),
        ("x", "a graph cannot be written as ''"),
        ("none/x.svg", "none/x.svg: cannot be written: No such file"),
        (".", "a graph cannot be written as ''"),
        ("folder.svg", "folder.svg: cannot be written: Is a directory"),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error(cli, here, out, message):
    (here / "folder.svg").mkdir()
    done = cli("graph", "tiny.yaml", "-o", out)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_picture_needs_the_extra_and_a_text_does_not(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "graphlay", None)
    for out in ("x.svg", "x.html"):
        with pytest.raises(MissingExtraError, match=r"netbuild\[graph\]"):
            draw("tiny.yaml", out)
    draw("tiny.yaml", "x.mmd")


def test_a_checkpoint_is_drawn_as_its_network(cli, here):
    assert cli("build", "yolo11n.yaml", "-o", "y.safetensors").code == 0
    draw("y.safetensors", "y.svg")
    draw("yolo11n.yaml", "x.svg")
    drawn, own = (find_boxes(ElementTree.parse(name).getroot()) for name in ("y.svg", "x.svg"))
    assert drawn.keys() == own.keys()
    assert "2,624,080 parameters" in Path("y.svg").read_text(encoding="utf-8")


def test_a_row_is_shown_as_written_in_its_file(here):
    (here / "odd.yaml").write_text(
        "layers: # all\n"
        "  - from: -1 # a\n    module: Conv\n\n    args: [8,\n      3] # b\n  # no part of it\n"
        "  - [-1, 1,\n     Conv, [8]] # c\n  - [-1, 1, Conv, [8]]\n# end\n",
        encoding="utf-8",
    )
    (here / "more.yaml").write_text(
        "extends: odd.yaml\nedits:\n  - {insert_after: 0, row: [-1, 1, nn.ReLU, []]}\n", encoding="utf-8"
    )
    lines = [
        "- from: -1 # a\n  module: Conv\n\n  args: [8,\n    3] # b",
        "- [-1, 1,\n   Conv, [8]] # c",
        "- [-1, 1, Conv, [8]]",
    ]
    assert [row_text(row.node) for row in load("odd.yaml").rows] == lines
    inserted = "- {insert_after: 0, row: [-1, 1, nn.ReLU, []]}"
    assert [row_text(row.node) for row in load("more.yaml").rows] == [lines[0], inserted, *lines[1:]]


# -- pages ------------------------------------------------------------------------------------------------------------


FIND_COVERED_TEXTS = """(() => {
  const texts = [...document.querySelectorAll("#stage text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
  const meets = (a, b) => a.left < b.right - 0.5 && b.left < a.right - 0.5
    && a.top < b.bottom - 2 && b.top < a.bottom - 2;
  texts.sort((a, b) => a[1].top - b[1].top);
  const found = [];
  texts.forEach(([word, a], i) => {
    for (let j = i + 1; j < texts.length && texts[j][1].top < a.bottom; j++)
      if (meets(a, texts[j][1])) found.push([word, texts[j][0]]);
  });
  for (const node of document.querySelectorAll(".node")) {
    const box = node.querySelector(".box").getBoundingClientRect();
    for (const text of node.querySelectorAll("text")) {
      const inside = text.getBoundingClientRect();
      if (inside.left < box.left || inside.right > box.right) found.push([text.textContent, "leaves its box"]);
    }
  }
  return found;
})()"""


@needs_browser
@pytest.mark.parametrize("name", ["residual24", "dense100", "residual300", "gates"])
def test_no_text_is_covered_in_a_browser(here, browser, name):
    draw(f"{name}.yaml", "x.html")
    browser.open(here / "x.html")
    assert browser.complaints == []
    assert browser.js('document.querySelectorAll("#stage .node text").length') > len(load(f"{name}.yaml").rows)
    assert browser.js(FIND_COVERED_TEXTS) == []
    assert browser.js("""(() => { const node = document.querySelector(".node").getBoundingClientRect();
      return node.height >= 20 && node.width > 400; })()""")  # letters of 12 pixels at the zoom it opens with


@needs_browser
def test_a_page_is_searched_opened_and_moved_through(here, browser):
    draw("yolo11n.yaml", "x.html")
    browser.open(here / "x.html")
    visible = """(() => { const s = document.getElementById("stage").getBoundingClientRect();
      const n = document.querySelector("%s").getBoundingClientRect();
      return n.top >= s.top && n.bottom <= s.bottom; })()"""
    text = 'document.getElementById("panel").innerText'
    browser.click("#search")
    browser.type("concat")
    assert browser.js("found.textContent") == "4 matches"
    assert browser.js('[...document.querySelectorAll(".hit")].map((e) => e.id)') == ["n12", "n15", "n18", "n21"]
    for place, node in (("1 of 4", "n12"), ("2 of 4", "n15"), ("3 of 4", "n18"), ("4 of 4", "n21"), ("1 of 4", "n12")):
        browser.key("Enter", "\r", 13)
        assert (browser.js("found.textContent"), browser.js('document.querySelector(".current").id')) == (place, node)
        assert browser.js(visible % f"#{node}")
    browser.js('search.value = "detect"; search.dispatchEvent(new Event("input"))')
    assert browser.js("found.textContent") == "1 match"
    browser.js('search.value = "7"; search.dispatchEvent(new Event("input"))')
    assert browser.js('[...document.querySelectorAll(".hit")].map((e) => e.id)') == ["n7"]

    browser.click("#n10")
    assert browser.js("document.activeElement.id") == "n10"
    shown = browser.js(text)
    for word in ("10 C2PSA", "249,728", "[1, 256, 20, 20]", "- [-1, 2, C2PSA, [1024], p5]", "attn", "qkv", "9.5%"):
        assert word in shown, word
    assert re.search(r"yolo11\.yaml:\d+", shown)
    browser.key("Escape", code=27)
    assert browser.js("panel.hidden")
    browser.key("ArrowDown", code=40)
    browser.key("ArrowDown", code=40)
    assert browser.js("document.activeElement.id") == "n12"
    browser.key("Enter", "\r", 13)
    assert "12 Concat" in browser.js(text)
    browser.key("End", code=35)
    assert "23 Detect" in browser.js(text)
    browser.key("Escape", code=27)
    browser.key("Home", code=36)
    browser.key(" ", " ", 32)
    assert browser.js(text).startswith(("×\ninput", "input"))
    assert browser.js("document.querySelectorAll(\".node[tabindex='0']\").length") == 1

    width = 'document.querySelector("#stage svg").getBoundingClientRect().width'
    before = browser.js(width)
    browser.click("#larger")
    assert browser.js(width) > 1.2 * before
    browser.click("#fit")
    assert browser.js("stage.scrollHeight <= stage.clientHeight + 1")
    browser.js('metric.value = "flops"; metric.dispatchEvent(new Event("change"))')
    assert float(browser.js('document.querySelector("#n23 .tint").getAttribute("fill-opacity")')) == 0.5
    assert browser.js('document.querySelector("#n8 .tint").getAttribute("fill-opacity")') < "0.1"
    assert browser.complaints == []


@needs_browser
def test_a_page_is_light_dark_and_on_paper(here, browser):
    draw("tiny.yaml", "x.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(here / "x.html", scheme="dark")
    dark = browser.js(ground)
    browser.click("#theme")
    light = browser.js(ground)
    browser.scheme("light")
    browser.open(here / "x.html")
    assert (browser.js(ground), light) == ("rgb(255, 255, 255)", "rgb(255, 255, 255)")
    assert sum(map(int, re.findall(r"\d+", dark))) < 120
    browser.click("#theme")
    assert browser.js(ground) == dark
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.js('window.dispatchEvent(new Event("beforeprint"))')
    shown = '[".tools", "#panel", "#stage", ".sheet", ".table"].filter((s) => document.querySelector(s)?.offsetParent)'
    shown = shown.replace("?.offsetParent", ".getClientRects().length")
    assert browser.js(shown) == [".sheet", ".table"]
    assert browser.js(ground) == light
    assert browser.js('document.querySelectorAll(".sheet .node").length') == 5
    browser.call("Emulation.setEmulatedMedia", media="")
    assert browser.complaints == []


HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


@needs_browser
def test_text_of_a_file_cannot_become_code(here, browser):
    text = f"""# the file of an enemy
blocks:
  Odd:
    params: [c2, {{label: ""}}]
    rows:
      - [-1, 1, Conv, [c2]]
layers:
  - [-1, 1, Odd, [8, "{HOSTILE}"]]  # {HOSTILE}
  - [-1, 1, Conv, [8]]  # --> ]]> <!-- <script>
"""
    name = "<img src=x onerror=window.hacked=1>&quot;.yaml"
    (here / name).write_text(text, encoding="utf-8")
    for ending in FORMS:
        draw(name, here / f"x{ending}")
    ElementTree.parse(here / "x.svg")
    browser.open(here / "x.html")
    browser.click("#n0")
    shown = browser.js('document.getElementById("panel").innerText')
    assert shown.count(HOSTILE) == 3  # as an argument, and twice in its line
    assert browser.js("window.hacked") is None
    assert browser.js("document.images.length + document.scripts.length") == 2
    assert browser.js("document.title").startswith("<img src=x")
    assert browser.complaints == []
    # Even code that got into the page could not run or load anything, because of the content security policy.
    browser.js("""document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked=1'>");
      const s = document.createElement("script"); s.textContent = "window.hacked=2"; document.body.append(s);
      fetch("https://example.org/").catch(() => 0); new Promise((done) => setTimeout(done, 100))""")
    assert browser.js("window.hacked") is None
    assert any("Content Security Policy" in line for line in browser.complaints)


def test_a_row_name_with_markup_is_refused(here):
    (here / "x.yaml").write_text("layers:\n  - [-1, 1, Conv, [8], '</script>']\n", encoding="utf-8")
    with pytest.raises(NetbuildError, match="is not a valid name"):
        draw("x.yaml", "x.svg")


@needs_browser
def test_a_page_shows_pictures_of_a_row_and_of_the_network(here, browser):
    pictures = {1: [Picture("feature maps <b>", PNG), Picture("kernels", PNG)]}
    sections = [Section("Activations", [Picture("SiLU", PNG)])]
    text = page(summarize("tiny.yaml", depth=64), pictures=pictures, sections=sections)
    (here / "x.html").write_text(text, encoding="utf-8")
    browser.open(here / "x.html")
    browser.click("#n1")
    loaded = '[...document.querySelectorAll("%s img")].map((i) => [i.alt, i.naturalWidth])'
    assert browser.js("Promise.all([...document.images].map((i) => i.decode())).then(() => 1)") == 1
    assert browser.js(loaded % "#panel") == [["feature maps <b>", 1], ["kernels", 1]]
    assert browser.js(loaded % ".figures") == [["SiLU", 1]]
    browser.click("#n0")
    assert browser.js(loaded % "#panel") == []
    assert browser.complaints == []


class Table(HTMLParser):
    """Reads the cells of a page's first table."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th", "a") if tag != "tr" else False

    def handle_data(self, data):
        if self.inside and self.rows:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self.inside = self.inside and tag == "a"


def test_a_summary_as_a_page_takes_its_flags(cli, here):
    done = cli("summary", "tiny.yaml", "--format", "html")
    assert (done.code, done.out) == (0, page(summarize("tiny.yaml", depth=64)))
    assert [row[0] for row in Table(done.out).rows[1:]] == ["0", "1", "2", "3"]
    flags = ("--columns", "i,module,params", "--depth", "2", "--fuse", "--flops", "all", "--batch", "4")
    done = cli("summary", "tiny.yaml", "--format", "html", *flags)
    table = Table(done.out).rows
    assert table[0] == ["#", "module", "params", "GFLOPs thop", "GFLOPs thop-stride"]
    fused = summarize("tiny.yaml", fused=True, depth=2)
    assert [row[::2][:2] for row in table[1:]] == [[str(row.i), str(row.params)] for row in fused.rows]
    assert "batch norms merged" in done.out
    assert cli("summary", "tiny.yaml", "--format", "htm").code == 2


@pytest.mark.parametrize("verb", ["build", "summarize", "draw", "eject"])
def test_a_wrong_keyword_is_refused_with_the_nearest_one(verb, tmp_path):
    out = [tmp_path / "graph.mmd"] if verb == "draw" else []
    with pytest.raises(netbuild.NetbuildError, match="no keyword 'scal'") as caught:
        getattr(netbuild, verb)("yolo11.yaml", *out, scal="n")
    assert "scale" in caught.value.hint
    assert isinstance(caught.value, TypeError)
