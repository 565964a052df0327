"""Tables as text: aligned, whole in a file, and as narrow as the terminal that shows them."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from netbuild.author import differences, zoo
from netbuild.author.diff import diff
from netbuild.cli.training import _list_kinds, _make_table
from netbuild.data.statistics import check, stats, stats_text
from netbuild.export.benchmark import BenchmarkResult, Row
from netbuild.export.making import format_table
from netbuild.report import text, textbook
from netbuild.report.summary import summarize
from netbuild.system.tables import Line, Table, align, fit, terminal_width
from netbuild.training.progress import MAX_BAR, MIN_BAR, fit_bar

WIDTHS = (60, 80, 120, 200)
CLASSES = [
    {"class": name, "images": 9, "mAP50-95": 0.5} for name in ("person", "a very long name of a class " * 4, "猫" * 40)
]


def shown(renderable, width):
    """Return the lines that a terminal of a width shows."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_columns_are_aligned_as_a_terminal_shows_them():
    rows = [("class", "AP", ""), ("猫", "0.5", "few"), ("person", "0.1234", "")]
    assert align(rows, left=[0, 2]) == ["class       AP", "猫         0.5  few", "person  0.1234"]
    assert align([("a", "b"), ("100", "2")]) == ["  a  b", "100  2"]
    assert align([]) == []
    assert Table([]).lines(80) == Table([]).lines(None) == []


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (60, {0: 3, 1: 30, 2: 8}),  # it fits: nothing changes
        (38, {0: 3, 1: 23, 2: 8}),  # the first step is enough
        (25, {0: 3, 1: 10, 2: 8}),
        (18, {0: 3, 1: 13}),  # a column that is left out makes room for the one that was cut
        (6, {0: 3}),
        (2, {0: 2}),
    ],
)
def test_columns_give_way_in_turn(width, widths):
    assert fit({0: 3, 1: 30, 2: 8}, width, [(1, 10), (2, 0)]) == widths


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("network", "columns"),
    [("yolo11n.yaml", "+"), ("yolo11n.yaml", "all"), ("googlenet.yaml", "+in,rf"), ("yolov8s-world.yaml", "+type")],
)
def test_a_summary_has_one_line_for_each_row(network, columns, width):
    picked = text.parse_columns(columns)
    summary = summarize(network, flops="all" if columns == "all" else "torch")
    lines = shown(text.as_table(summary, picked), width)
    assert max(map(cell_len, lines)) <= width
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["#"])
    rows = lines[start + 1 : start + 1 + len(summary.rows)]
    assert [line.split()[0] for line in rows] == [str(row.i) for row in summary.rows]
    if columns == "+":  # numbers are never cut, arguments first
        assert all(f" {row.params} " in line for row, line in zip(summary.rows, rows))
        assert ("…" in "".join(rows)) is (width < 100)
        assert any("cut: arguments" in line for line in lines) is (width == 80)
        assert all(f"{row.module} " in line for row, line in zip(summary.rows, rows))


@pytest.mark.parametrize("width", WIDTHS)
def test_other_tables_fit_too(width):
    unequal = diff("yolov8n.yaml", "yolo11n.yaml")
    proof = [
        SimpleNamespace(output="output0", case="noise of a long name " * 3, shape=(1, 84, 8400), difference=1e-6,
                        part=1e-6, tolerance=1e-4, ok=True, remark="a remark of many words " * 9)
    ]  # fmt: skip
    measures = [{"class": "all", **{f"metrics/measure-{i}": i / 17 for i in range(17)}}]
    for table in (
        differences.as_table(unequal, all=True),
        textbook.as_textbook(summarize("alexnet.yaml")),
        zoo.as_table(zoo.load_entries()),
        BenchmarkResult([Row("openvino", 2.5, 3.0, 400.0, 2_000_000, 0.0, {"top1": 0.5}, "needs " * 40)]),
        _make_table(CLASSES),
        _make_table(measures, split=True),
        Line("one sentence, " * 30),
    ):
        assert max(map(cell_len, shown(table, width))) <= width
    report, _ = check("digits-detect")
    for lines in (report.text(width).splitlines()[1:], stats_text(stats("digits-detect"), width).splitlines()[1:]):
        assert max(map(cell_len, lines)) <= width
    assert max(map(cell_len, format_table(proof, width))) <= width
    rows = [line for line in shown(differences.as_table(unequal), width) if re.match(r"[-+~>] ", line)]
    assert len(rows) == sum(row.status != "same" for row in unequal.rows)
    values = " ".join(shown(_make_table(measures, split=True), width))  # all of them, in blocks
    assert all(f"measure-{i}" in values for i in range(17))


def test_measures_by_several_kinds_of_overlap_share_columns_and_average_precision_is_shown_longest():
    measures = {"mAP50": 0.5, "AR-small": 0.2, "abs-rel": 0.1, "fitness": 1.1, "mask-mAP50": 0.6, "mask-AR-small": 0.3}
    assert _list_kinds(measures) == [
        {"class": "all", "mAP50": 0.5, "AR-small": 0.2, "abs-rel": 0.1, "fitness": 1.1},
        {"class": "all, mask-", "mAP50": 0.6, "AR-small": 0.3},
    ]
    kinds = [f"{prefix}{name}" for prefix in ("", "mask-") for name in ("precision", "recall", "F1", "AP50", "AP50-95")]
    table = _make_table([{"class": "a", "images": 3, "objects": 7, **dict.fromkeys(kinds, 0.5)}])
    assert shown(table, 70)[0].split() == ["class", "images", "objects", "AP50", "AP50-95", "mask-AP50", "mask-AP50-95"]
    assert shown(table, 1000)[0].split()[3:] == kinds


def test_a_file_or_pipe_gets_the_whole_table():
    summary = summarize("yolo11n.yaml")
    assert str(summary) == "\n".join(shown(text.as_table(summary), 1000))
    assert len(str(_make_table([{"class": "x" * 500, "mAP": 0.1}])).splitlines()[1]) == 508
    assert "…" not in str(diff("yolov8n.yaml", "yolo11n.yaml")) + str(summary)
    assert "arguments, output, params, FLOPs" in str(diff("yolo11n.yaml", "yolo11s.yaml"))
    assert terminal_width(io.StringIO()) is None


def test_text_of_a_cell_sends_no_commands_to_a_terminal():
    lines = shown(Table([["class"], ["a\x1b[31m\nb\t\x07c"]], left=[0]), 80)
    assert lines == ["class", "a [31m b  c"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("losses", [["box 1.234", "cls 0.123", "dfl 1.200"], [f"part{i} 0.123" for i in range(12)]])
def test_a_training_bar_has_room(width, losses):
    facts = ("1234 images/s", "12.34 GB", "12:34:56 left")
    before, after, bar = fit_bar(width - 12, "epoch 100/300", losses, facts)
    assert MIN_BAR <= bar <= MAX_BAR
    assert len(before) + len(after) + bar + 3 <= width - 12
    assert before.startswith("epoch 100/300")
    assert after.endswith("left")
    assert ("GB" in after) is (width >= 120 and len(losses) == 3)
    assert before.count("0.123") >= (width >= 120)
