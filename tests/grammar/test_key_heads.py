"""The key ``heads`` of a network's file: entries, mistakes at their place, files that extend others, writing."""

import pytest
from helpers.small_networks import TWO_HEADS

import netbuild
from netbuild.errors import NetbuildError
from netbuild.grammar.spec import load, read_spec

ROWS = f"nc: 3\nimgsz: 64\n{TWO_HEADS}  - [fine, 1, nn.Conv2d, [8, 1, 1], map]\n"
HEADS = "heads:\n  boxes: {row: detect}\n  lanes: {row: 4, weight: 0.5, data: lanes, nc: 2}\n"


def read(text, folder):
    (folder / "net.yaml").write_text(text)
    return load(folder / "net.yaml")


def test_entries_name_rows_by_name_or_number(tmp_path):
    boxes, lanes = read(ROWS + HEADS, tmp_path).heads
    assert (boxes.name, boxes.row, boxes.task, boxes.weight, boxes.data, boxes.nc) == (
        "boxes",
        3,
        None,
        1.0,
        None,
        None,
    )
    assert (lanes.name, lanes.row, lanes.weight, lanes.data, lanes.nc) == ("lanes", 4, 0.5, "lanes", 2)
    assert read(ROWS, tmp_path).heads == ()


@pytest.mark.parametrize(
    ("heads", "message", "hint"),
    [
        ("{boxes: {row: detct}}", "the head 'boxes': no row is named 'detct'", "did you mean 'detect'?"),
        ("{boxes: {row: 6}}", "the head 'boxes': rows are 0 to 5, this is 6", ""),
        ("{boxes: {row: -1}}", "rows are 0 to 5, this is -1", ""),
        ("{boxes: {weight: 1}}", "the head 'boxes' names no row", "write row: with the name"),
        ("{boxes: {row: 3, wieght: 1}}", "the head 'boxes': unknown key 'wieght'", "did you mean 'weight'?"),
        ("{boxes: {row: 3, weight: 0}}", "the weight of the head 'boxes' must be a number above 0", "left out"),
        ("{boxes: {row: 3, weight: -2}}", "must be a number above 0", ""),
        ("{boxes: {row: 3, weight: .nan}}", "must be a number above 0", ""),
        ("{boxes: {row: 3, weight: heavy}}", "must be a number above 0", ""),
        ("{boxes: {row: 3, nc: 0}}", "nc of the head 'boxes' must be a whole number from 1", ""),
        ("{boxes: {row: 3, data: [a]}}", "must be a text", ""),
        (
            "{a: {row: 3}, b: {row: detect}}",
            "the heads 'a' and 'b' name the same row, row 3 (detect) Detect",
            "one",
        ),
        ("{fine: {row: detect}}", "the head 'fine' has the name of another row than its own", "another name"),
        ("{1st: {row: detect}}", "'1st' is not a valid name", ""),
        ("{boxes: detect}", "the head 'boxes' is a mapping such as {row: detect, weight: 1.0}", ""),
        ("[detect]", "'heads' is a mapping such as boxes: {row: detect, weight: 1.0}", "a list named head"),
    ],
)
def test_mistakes_have_a_place_and_a_repair(tmp_path, heads, message, hint):
    with pytest.raises(NetbuildError) as caught:
        read(f"{ROWS}heads: {heads}\n", tmp_path)
    assert message in caught.value.message
    assert caught.value.where.line == 10
    assert hint in caught.value.hint


def test_a_file_has_a_task_or_heads(tmp_path):
    with pytest.raises(NetbuildError, match="'task' has no effect: each of the heads has its own"):
        read(f"{ROWS}{HEADS}task: detect\n", tmp_path)
    (tmp_path / "base.yaml").write_text(ROWS + "task: detect\n")
    assert len(read("extends: base.yaml\n" + HEADS, tmp_path).heads) == 2
    (tmp_path / "base.yaml").write_text(ROWS + HEADS)
    assert read("extends: base.yaml\ntask: semantic\n", tmp_path).heads == ()


def test_edits_move_the_rows_of_heads(tmp_path):
    (tmp_path / "base.yaml").write_text(ROWS + HEADS)
    edits = "edits:\n  - {insert_after: 0, row: [-1, 1, Conv, [8]]}\n"
    spec = read("extends: base.yaml\n" + edits, tmp_path)
    assert [head.row for head in spec.heads] == [4, 5]
    own = read(f"extends: base.yaml\nheads: {{lanes: {{row: 5}}}}\n{edits}", tmp_path)
    assert [(head.name, head.row) for head in own.heads] == [("lanes", 5)]
    with pytest.raises(NetbuildError, match="the base's head 'lanes' is row 4, which an edit removes"):
        read("extends: base.yaml\nedits:\n  - {remove: 4}\n", tmp_path)


def test_learning_rates_by_head(tmp_path):
    text = f"{ROWS}{HEADS}lr_factors: {{layers: 0.5, lanes: 0.1}}\n"
    assert read(text, tmp_path).lr_factors == {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5, 4: 0.1, 5: 0.5}
    with pytest.raises(NetbuildError, match="no row or section 'lane'") as caught:
        read(text.replace("lanes: 0.1", "lane: 0.1"), tmp_path)
    assert "lanes" in caught.value.hint


def test_a_written_file_has_the_same_heads(tmp_path):
    read(ROWS + HEADS, tmp_path)
    card = netbuild.build(tmp_path / "net.yaml", nc=5, head_nc={"lanes": 4}).card
    again = read_spec(card.yaml, tmp_path / "again.yaml")
    assert [(h.name, h.row, h.task, h.weight, h.data, h.nc) for h in again.heads] == [
        ("boxes", 3, "detect", 1.0, None, None), ("lanes", 4, "semantic", 0.5, "lanes", 4),
    ]  # fmt: skip
    assert again.settings["nc"] == 5


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("heads: {map: {row: map}}", {}, "the head 'map': row 5 (map) nn.Conv2d states no task"),
        (HEADS, {"head_nc": {"lane": 2}}, "the network has no head 'lane'"),
    ],
)
def test_heads_need_a_task_and_a_name(tmp_path, text, options, message):
    read(f"{ROWS}{text}\n", tmp_path)
    with pytest.raises(NetbuildError) as caught:
        netbuild.build(tmp_path / "net.yaml", **options)
    assert message in caught.value.message
    read(f"{ROWS}heads: {{map: {{row: map, task: semantic}}}}\n", tmp_path)
    assert netbuild.build(tmp_path / "net.yaml").card.heads[0].task == "semantic"
