"""netbuild swap and insert: edited files that extend a network."""

import json

import pytest

import netbuild

NET = """
nc: 4
scales: {n: [1, 0.5, 256], s: [1, 1, 256]}
blocks:
  Pair: {params: [c2, {k: 3}], rows: [[-1, 1, Conv, [c2, k]], [-1, 1, Conv, [c2, k]]]}
backbone:
  - [-1, 1, Conv, [16, 3, 2], stem]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 2, C3k2, [32, false, 0.25], c2]
  - [-1, 1, {NAME}, [64, 3, 2]]
  - [-1, 1, C3k2, [64, true], c3]
head:
  - [-2, 1, nn.Identity, []]
  - [c3, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - {from: c2, module: Conv, args: {c2: 16, k: 3}, name: side}
  - [[7, side], 1, Concat, [1]]
  - [[-1, c3], 1, Detect, [nc]]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.yaml").write_text(NET.replace("{NAME}", "Conv"), encoding="utf-8")
    (tmp_path / "lost.yaml").write_text(NET.replace("{NAME}", "Lost"), encoding="utf-8")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "edits"),
    [
        # The width comes first, then arguments of the same name; c3k is dropped.
        ("swap net.yaml --rows C3k2 --with VoVGSCSP", ["{replace: 2, row: [-1, 2, VoVGSCSP, [32, {e: 0.25}]]}",
                                                       "{replace: 4, row: [-1, 1, VoVGSCSP, [64]]}"]),
        ("swap net.yaml --rows stem,1 --rows 3-3 --with GhostConv",
         [f"{{replace: {i}, row: [-1, 1, GhostConv, [{w}, 3, 2]]}}" for i, w in ((0, 16), (1, 32), (3, 64))]),
        # A number that counts back counts the whole base in an edit, so it is written as the row's own number.
        ("swap net.yaml --rows 5 --with SimAM", ["{replace: 5, row: [3, 1, SimAM, []]}"]),
        ("swap net.yaml --rows side --with nn.Conv2d --args {padding:_1}",
         ["{replace: 8, row: [c2, 1, nn.Conv2d, [{out_channels: 16, kernel_size: 3, padding: 1}]]}"]),
        ("swap net.yaml --rows side --with Pair", ["{replace: 8, row: [c2, 1, Pair, [16, 3]]}"]),
        ("swap net.yaml --rows c3 --with C2f --args [48,_true]", ["{replace: 4, row: [-1, 1, C2f, [48, true]]}"]),
        ("swap lost.yaml --rows Lost --with Conv --args {s:_2}", ["{replace: 3, row: [-1, 1, Conv, [64, {s: 2}]]}"]),
        ("insert net.yaml --after stem --module Conv", ["{insert_after: 0, row: [-1, 1, Conv, [16]]}"]),
        # Others than the next row read c3 too: all of them read the new row.
        ("insert net.yaml --after c3 --module EMA --args [8]",
         ["{replace: 4, rows: [[-1, 1, C3k2, [64, true]], [-1, 1, EMA, [8]]]}"]),
        ("insert net.yaml --before 7,side --module SimAM",
         ["{insert_before: 7, row: [-1, 1, SimAM, []]}",
          "{replace: 8, rows: [[c2, 1, SimAM, []], [-1, 1, Conv, [{c2: 16, k: 3}]]]}"]),
    ],
)  # fmt: skip
def test_edits(cli, folder, flags, edits):
    flags = [flag.replace("_", " ") for flag in flags.split()]
    printed = cli(*flags, "--imgsz", "64")
    assert printed.code == 0, printed.err
    assert [line[4:] for line in printed.out.splitlines() if line.startswith("  - ")] == edits
    assert ("rows" in printed.err) == (flags[1] != "lost.yaml")  # the differences
    assert ("lost.yaml itself does not resolve: row 3: unknown module 'Lost'" in printed.err) == (
        flags[1] == "lost.yaml"
    )
    # A file in another folder finds its base, and its text is the same but for the base's path.
    done = cli(*flags, "--imgsz", "64", "-o", folder / "sub" / "mine.yaml", "--json")
    data = json.loads(done.out)
    assert (folder / "sub" / "mine.yaml").read_text(encoding="utf-8") == data["text"]
    assert data["edits"] == edits
    assert f"extends: ../{flags[1]}" in data["text"]
    assert netbuild.summarize(folder / "sub" / "mine.yaml", imgsz=64).totals


def test_readers_of_a_row_read_the_inserted_row(cli, folder):
    assert cli("insert", "net.yaml", "--after", "c3", "--module", "SimAM", "-o", "a.yaml").code == 0
    rows = netbuild.summarize("a.yaml", imgsz=64).graph.layers
    readers = [layer.row.index for layer in rows if 5 in layer.row.sources]
    assert (rows[5].row.module, rows[5].row.name, readers) == ("SimAM", "c3", [7, 11])
    assert rows[6].row.sources == (3,)


def test_a_packaged_network_is_extended_by_its_name(cli, folder):
    done = cli("swap", "yolo11s.yaml", "--rows", "C3k2", "--with", "VoVGSCSP", "-o", "sub/mine.yaml")
    assert (done.code, "8 edits" in done.out, "9 changed" in done.out) == (0, True, True), done.err
    assert "extends: yolo11.yaml\n" in (folder / "sub" / "mine.yaml").read_text(encoding="utf-8")
    # Detect's form follows the blocks of the file.
    assert "note: the class branch of row 23 (detect) Detect changes too" in done.err
    assert "scale s" in done.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("swap net.yaml --rows C3k3 --with Conv", "no row with the name or the module 'C3k3'"),
        ("swap net.yaml --rows 4-99 --with Conv", "row 4-99 does not exist: net.yaml has rows 0..10"),
        ("swap net.yaml --rows c3 --with EMAA", "did you mean 'EMA'?"),
        ("swap net.yaml --rows c3 --with Conv --args 8", "a list such as [8] or a mapping"),
        ("swap net.yaml --rows 3 --with SimAM", "net.yaml:15:5: row 7 Concat: the spatial sizes"),
        ("swap net.yaml --rows c2 --with Conv --args [32,{'kk':3}]", "mine.yaml:4:47: row 2 (c2) Conv has no argument"),
        ("swap net.yaml --rows c2 --with Conv -o net.yaml", "net.yaml exists already"),
        ("insert net.yaml --module EMA", "--after ROW or --before ROW"),
        ("insert net.yaml --before 9 --module EMA", "--after 7"),
        ("insert net.yaml --after 7 --module Conv", "c2 missing"),
    ],
)
def test_wrong_edits_write_nothing(cli, folder, flags, message):
    out = [] if "-o" in flags.split() else ["-o", "mine.yaml"]
    before = sorted(folder.iterdir())
    done = cli(*flags.split(), *out, "--imgsz", "64")
    assert (done.code, message in done.err) == (2, True), done.err
    assert sorted(folder.iterdir()) == before
