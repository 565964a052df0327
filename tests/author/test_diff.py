"""Comparisons of networks: rows are aligned, edits are recognised, and changes of costs add up."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import netbuild
from netbuild.author import differences
from netbuild.author.changes import MARKS
from netbuild.author.diff import diff
from netbuild.grammar.locate import packaged_architectures
from netbuild.grammar.spec import load

QUICK = {"lenet5", "resnet18", "yolo11", "yolo11-cls", "yolov8-world", "siamfc", "yolov5", "unet", "ddpm"}
FILES = [
    pytest.param(n, marks=() if Path(n).stem in QUICK else pytest.mark.slow) for n in sorted(packaged_architectures())
]
CHAIN = ["Conv, [8]", "nn.ReLU, []", "Conv, [8, 3]", "nn.Tanh, []", "DWConv, [8, 3]", "nn.SiLU, []", "Conv, [8, 5]"]
NEW = ["nn.Identity, []", "nn.GELU, []", "Conv, [8, 1, 1, {act: false}]", "nn.Dropout, [0.1]"]


def check_sums(found) -> None:
    """Check that the rows' changes add up to the network's, and that no row is missing."""
    for cost in ("params", "flops"):
        a, b = found.totals()[cost]
        assert sum(row.change(cost) for row in found.rows) == b - a
    for side in "ab":
        rows = [getattr(row, side) for row in found.rows if getattr(row, side)]
        assert sorted(row.index for row in rows) == list(range(len(getattr(found, side).top_rows)))
    assert sum(found.counts().values()) == len(found.rows)


@pytest.mark.parametrize("name", FILES)
def test_a_file_equals_itself(name):
    first, second = netbuild.summarize(name), netbuild.summarize(name)
    found = diff(first, second)
    assert found.equal
    assert found.facts == {}
    assert {row.status for row in found.rows} == {"same"}
    assert found.to_dict()["rows"] == []
    check_sums(found)


@pytest.mark.parametrize("name", FILES)
def test_every_row_of_two_scales_is_aligned(name):
    scales = [scale.name for scale in load(packaged_architectures()[name]).scales]
    if len(scales) < 2:
        pytest.skip("one scale")
    first, second = (netbuild.summarize(name, scale=scale) for scale in (scales[0], scales[-1]))
    found = diff(first, second)
    assert all(row.a.index == row.b.index for row in found.rows)
    assert found.counts()["moved"] == 0
    assert not found.equal or first.totals == second.totals
    check_sums(found)


@pytest.mark.parametrize(
    ("a", "b"), [("lenet5", "alexnet"), ("yolov8n", "yolo11n"), ("resnet18", "yolo11n-cls"), ("vgg11", "vgg13")]
)
@pytest.mark.parametrize("flops", ["torch", "thop-stride"])
def test_changes_of_rows_add_up_to_that_of_the_network(a, b, flops):
    found = netbuild.diff(f"{a}.yaml", f"{b}.yaml", flops=flops)
    check_sums(found)
    back = netbuild.diff(f"{b}.yaml", f"{a}.yaml", flops=flops)
    assert sum(row.change("flops") for row in back.rows) == -sum(row.change("flops") for row in found.rows)


# -- edits of a chain -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diff")
    (folder / "base.yaml").write_text("ch: 8\nimgsz: 8\nlayers:\n" + "".join(f"  - [-1, 1, {row}]\n" for row in CHAIN))
    return folder


def edit_and_diff(folder, *edits: str):
    """Compare a file that extends the base by edits with the base."""
    (folder / "net.yaml").write_text("extends: base.yaml\n" + "edits:\n" * bool(edits) + "".join(edits))
    found = diff(folder / "base.yaml", folder / "net.yaml")
    check_sums(found)
    return found


def differing_rows(found) -> list[tuple]:
    """Return the status, numbers and changed properties of the rows that differ."""
    sides = ((row, row.a and row.a.index, row.b and row.b.index) for row in found.rows if row.status != "same")
    return [(row.status, a, b, sorted(row.changes)) for row, a, b in sides]


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (["{insert_after: 2, row: [-1, 1, nn.GELU, []]}"], [("added", None, 3, [])]),
        (["{insert_before: 0, row: [-1, 1, nn.GELU, []]}"], [("added", None, 0, [])]),
        (["{remove: [2, 3]}"], [("removed", 2, None, []), ("removed", 3, None, [])]),
        (["{replace: 1, row: [-1, 1, nn.GELU, []]}"], [("changed", 1, 1, ["module"])]),
        (["{replace: 4, row: [-1, 1, DWConv, [8, 5]]}"], [("changed", 4, 4, ["args", "flops", "params"])]),
        (["{replace: 2, row: [-1, 2, Conv, [8, 3]]}"], [("changed", 2, 2, ["flops", "n", "params"])]),
        (["{replace: 5, row: [2, 1, nn.SiLU, []]}"], [("changed", 5, 5, ["from"])]),
        (["{remove: 0}", "{insert_after: 5, row: [-1, 1, Conv, [8]]}"], [("moved", 0, 5, [])]),
        (["{insert_after: 2, row: [0, 1, nn.GELU, []]}"], [("added", None, 3, []), ("changed", 3, 4, ["from"])]),
    ],
)  # fmt: skip
def test_edits_are_recognised(folder, edits, expected):
    assert differing_rows(edit_and_diff(folder, *(f"  - {edit}\n" for edit in edits))) == expected


single = st.one_of(
    st.tuples(st.just("insert_after"), st.integers(0, 6), st.sampled_from(NEW)),
    st.tuples(st.just("remove"), st.integers(0, 6), st.none()),
    st.tuples(st.just("replace"), st.integers(0, 6), st.sampled_from(NEW)),
    st.tuples(st.just("move"), st.integers(0, 6), st.integers(0, 6)),
)


def as_yaml(verb: str, place: int, what) -> str:
    if verb == "remove":
        return f"  - {{remove: {place}}}\n"
    if verb == "move":
        return f"  - {{insert_after: {what}, row: [-1, 1, {CHAIN[place]}]}}\n  - {{remove: {place}}}\n"
    return f"  - {{{verb}: {place}, row: [-1, 1, {what}]}}\n"


@given(single)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_any_single_edit_is_recognised(folder, edit):
    verb, place, what = edit
    found = differing_rows(edit_and_diff(folder, as_yaml(*edit)))
    if verb == "move":
        # A row that is moved to its own place does not change.
        unchanged = place - 1 <= what <= place
        assert [row[0] for row in found] == [] if unchanged else [row[:1] for row in found] == [("moved",)]
    else:
        status = {"insert_after": "added", "remove": "removed", "replace": "changed"}[verb]
        numbers = {"added": (None, place + 1), "removed": (place, None), "changed": (place, place)}[status]
        assert [row[:3] for row in found] == [(status, *numbers)]


@given(st.lists(single, min_size=2, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_any_edits_add_up(folder, edits):
    text = [as_yaml(*edit) for edit in edits if edit[0] != "move"]
    places = [edit[1] for edit in edits if edit[0] in ("remove", "replace")]
    if len(set(places)) < len(places) or len(text) < 2:
        return
    removed = {edit[1] for edit in edits if edit[0] == "remove"}
    if any(edit[0] == "insert_after" and edit[1] in removed for edit in edits):
        return
    found = edit_and_diff(folder, *text)
    counts = found.counts()
    verbs = [edit[0] for edit in edits]
    assert counts["added"] - counts["removed"] == verbs.count("insert_after") - verbs.count("remove")
    assert 7 - counts["same"] <= 2 * len(edits)  # an edit changes at most two rows
    assert not found.equal or verbs.count("insert_after") == verbs.count("remove")


def test_numbers_and_names_that_shift_change_nothing(folder):
    rows = ["[-1, 1, Conv, [8], stem]", "[-1, 1, Conv, [8, 3]]", "[[0, 1], 1, Add, []]", "[[stem, -1], 1, Concat, [1]]"]
    (folder / "a.yaml").write_text("layers:\n" + "".join(f"  - {row}\n" for row in rows))
    rows = ["[-1, 1, nn.Identity, []]", rows[0], rows[1], "[[-2, -1], 1, Add, []]", "[[1, 3], 1, Concat, [1]]"]
    (folder / "b.yaml").write_text("layers:\n" + "".join(f"  - {row}\n" for row in rows))
    assert differing_rows(diff(folder / "a.yaml", folder / "b.yaml")) == [("added", None, 0, [])]


@pytest.mark.parametrize(
    ("a", "b", "inside"),
    [
        ("nn.ReLU, []", "nn.SiLU, []", ("(0): ReLU()", "(0): SiLU()")),
        ("nn.Conv2d, [8, 8, 3, 1, 1]", "nn.Conv2d, [8, 8, 3, 1, 2, 2]", None),
    ],
)
def test_a_difference_inside_a_block_is_shown(folder, a, b, inside):
    for name, row in (("a", a), ("b", b)):
        text = f"ch: 8\nblocks: {{Own: {{rows: [[input, 1, {row}]]}}}}\nlayers: [[-1, 1, Own, []]]\n"
        (folder / f"{name}.yaml").write_text(text)
    (row,) = diff(folder / "a.yaml", folder / "b.yaml").rows
    assert set(row.changes) == {"inside"}
    assert inside in (None, row.changes["inside"])


def test_own_modules_of_equal_cost_are_compared_by_their_code(folder):
    text = "import torch.nn as nn\nclass Own(nn.Module):\n    def forward(self, x): return {}\n"
    (folder / "net.yaml").write_text("ch: 8\nlayers: [[-1, 1, Own, []]]\n")
    found = []
    for name, result in (("one", "x[:, :4]"), ("two", "x[:, 4:]"), ("three", "x[:, :4]")):
        (folder / f"{name}.py").write_text(text.format(result))
        found.append(netbuild.summarize(folder / "net.yaml", modules=[folder / f"{name}.py"]))
    head, tail = (f"def forward(self, x): return x[:, {part}]" for part in (":4", "4:"))
    assert diff(found[0], found[1]).rows[0].changes == {"inside": (head, tail)}
    assert diff(found[0], found[2]).equal


def test_an_activation_that_no_module_takes_is_no_difference(folder):
    plain = "layers: [[-1, 1, nn.Conv2d, [3, 8, 3]], [-1, 1, nn.Tanh, []]]\n"
    (folder / "a.yaml").write_text(plain)
    (folder / "b.yaml").write_text(f"activation: nn.ReLU()\n{plain}")
    assert diff(folder / "a.yaml", folder / "b.yaml", imgsz=32).facts == {}
    (folder / "b.yaml").write_text(plain.replace("nn.Tanh, []", "nn.GELU, []"))
    assert diff(folder / "a.yaml", folder / "b.yaml", imgsz=32).facts == {"activation": ("Tanh", "GELU")}


def test_another_default_activation_is_a_difference(folder):
    rows = "ch: 8\nlayers: [[-1, 1, Conv, [8, 3]]]\n"
    (folder / "a.yaml").write_text(rows)
    (folder / "b.yaml").write_text(f"activation: nn.ReLU()\n{rows}")
    found = diff(folder / "a.yaml", folder / "b.yaml")
    assert found.facts == {"activation": ("SiLU", "ReLU")}
    assert not found.equal


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [("yolov8n.yaml", "yolo11n.yaml"), ("lenet5.yaml", "alexnet.yaml")])
@pytest.mark.parametrize("flag", [[], ["--all"]])
def test_the_json_is_the_table(cli, a, b, flag):
    data = json.loads(cli("diff", a, b, "--json", *flag).out)
    marks = [MARKS[row["status"]] for row in data["rows"]]
    for form in ("table", "markdown"):
        out = cli("diff", a, b, "--format", form, *flag).out
        pattern = r"^([-+~>]) +\d" if form == "table" else r"^\| `([-+~>])` "
        assert re.findall(pattern, out, re.MULTILINE) == [mark for mark in marks if mark != " "]
        for row in data["rows"]:
            assert not row["params_change"] or f"{row['params_change']:+,}" in out
        for total in ("params", "flops"):
            assert all(f"{data['totals'][total][side]:,}" in out for side in "ab")
    kept = [row for row in data["rows"] if row["status"] != "same"]
    assert {row["status"] for row in kept} <= MARKS.keys()
    assert sum(row["params_change"] for row in kept) == data["totals"]["params"]["change"]


def test_equal_networks_are_one_line_and_exit_codes(cli, tmp_path):
    done = cli("diff", "lenet5.yaml", "lenet5.yaml", "--exit-code")
    assert (done.code, done.out) == (0, "equal: 11 rows, 60,000 parameters\n")
    assert cli("diff", "lenet5.yaml", "alexnet.yaml").code == 0
    assert cli("diff", "lenet5.yaml", "alexnet.yaml", "--exit-code").code == 1
    assert cli("diff", "lenet5.yaml", "nothere.yaml", "--exit-code").code == 2
    wrong = [(["--format", "tabel"], "'table'"), (["--flops", "flop"], "'flop'"), (["--nc", "1"] * 3, "3 times")]
    for flags, expected in wrong:
        done = cli("diff", "lenet5.yaml", "lenet5.yaml", *flags)
        assert (done.code, done.out) == (2, "")
        assert expected in done.err


def test_a_flag_applies_to_both_networks_and_given_twice_to_one_each(cli):
    def totals(*flags):
        data = json.loads(cli("diff", "yolo11.yaml", "yolo11.yaml", *flags, "--json").out)
        return data["totals"]["params"]["a"], data["totals"]["params"]["b"]

    n, s = 2_590_815, 9_429_727
    assert totals("--scale", "n", "--nc", "5") == (n, n)
    assert totals("--scale", "n", "--scale", "s", "--nc", "5") == (n, s)
    assert totals("--scale", "s", "--nc", "5", "--nc", "80") == (s, 9_458_752)


def test_a_checkpoint_equals_its_file(cli, tmp_path):
    assert cli("build", "lenet5.yaml", "-o", tmp_path / "net.safetensors").code == 0
    assert cli("diff", "lenet5.yaml", tmp_path / "net.safetensors").out.startswith("equal")
    assert "nc: 10 -> 4" in cli("diff", "lenet5.yaml", tmp_path / "net.safetensors", "--nc", "10", "--nc", "4").out


def test_colours_are_for_terminals(monkeypatch):
    from rich.console import Console

    found = diff("lenet5.yaml", "alexnet.yaml")
    for no_color, coloured in ((None, True), ("1", False)):
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color:
            monkeypatch.setenv("NO_COLOR", no_color)
        console = Console(force_terminal=True, color_system="standard", width=200)
        with console.capture() as capture:
            console.print(differences.as_table(found))
        assert ("\x1b[32m" in capture.get()) is coloured
    assert "\x1b" not in str(found)


def test_a_notebook_shows_rows_totals_and_facts():
    page = diff("lenet5.yaml", "alexnet.yaml")._repr_html_()
    assert page.count("<table>") == 2
    assert all(text in page for text in ("nc: 10 -&gt; 1000", "60,000"))
    equal = diff("lenet5.yaml", "lenet5.yaml")._repr_html_()
    assert equal.count("<table>") == 1
    assert "equal: 11 rows, 60,000 parameters" in equal
