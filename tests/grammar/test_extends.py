"""Files that extend others: edits by number and name, renumbered sources, and mistakes at their place."""

import json

import pytest

BASE = """\
nc: 3
params: {w: 8, k: 3}
scales: {n: [1, 1, 64]}
backbone:
  - [-1, 1, Conv, [w, k, 2], p1]     # 0
  - [-1, 1, Conv, [16, 3, 2]]        # 1
  - [-1, 1, Conv, [24, 3, 2], p3]    # 2
head:
  - [-1, 1, nn.Upsample, [None, 2]]  # 3
  - [[-1, 1], 1, Concat, [1]]        # 4
  - [[4, p3, -5], 1, Detect, [nc]]   # 5  -5 is row 0
"""


@pytest.fixture
def rows(cli, tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def resolve(edits: str, *flags: str) -> list[tuple]:
        (tmp_path / "net.yaml").write_text("extends: base.yaml\n" + edits)
        done = cli("summary", tmp_path / "net.yaml", "--imgsz", "64", "--json", *flags)
        assert done.code == 0, done.err
        return [(r["from"], r["module"], r["args"][:2]) for r in json.loads(done.out)["rows"]]

    return resolve


@pytest.fixture
def refused(cli, tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def resolve(text: str) -> str:
        (tmp_path / "net.yaml").write_text(text)
        done = cli("summary", tmp_path / "net.yaml", "--imgsz", "64")
        assert (done.code, done.out) == (2, "")
        return done.err

    return resolve


def test_without_edits_only_other_keys_change(rows):
    plain = rows("")
    assert [r[0] for r in plain] == [-1, -1, -1, -1, [-1, 1], [4, "p3", -5]]
    assert rows("nc: 7\n")[-1][2][0] == 7
    assert rows("params: {w: 32}\n")[0][2] == [3, 32]
    assert rows("params: {w: 32}\n", "--set", "k=5")[0][2] == [3, 32]


@pytest.mark.parametrize("target", ["1", "p1"])
def test_insertion_moves_the_numbers_that_follow(rows, target):
    verb = {"1": "insert_before", "p1": "insert_after"}[target]
    new = rows(f"edits:\n  - {{{verb}: {target}, rows: [[-1, 1, Conv, [8]], [-1, 1, nn.Identity, [], extra]]}}\n")
    assert [r[1] for r in new] == ["Conv", "Conv", "nn.Identity", "Conv", "Conv", "nn.Upsample", "Concat", "Detect"]
    # Row 1 is 3 now, row 4 is 6, row 0 stays; -1 means the row before, the inserted one too.
    assert [r[0] for r in new] == [-1, -1, -1, -1, -1, -1, [-1, 3], [6, "p3", 0]]


def test_new_rows_use_the_numbers_of_the_base(rows):
    new = rows(
        "edits:\n  - {insert_after: 0, row: [-1, 1, nn.Identity, []]}\n  - {insert_after: 3, row: [1, 1, Conv, [8]]}\n"
    )
    assert new[5] == (2, "Conv", [16, 8])


def test_a_replaced_row_is_read_under_its_number_and_name(rows):
    new = rows("edits:\n  - {replace: p3, rows: [[-1, 1, Conv, [24, 3, 2]], [-1, 1, DWConv, [40, 3]]]}\n")
    assert [r[1] for r in new[2:4]] == ["Conv", "DWConv"]
    assert new[-1] == ([5, "p3", 0], "Detect", [3, [56, 40, 8]])


def test_removal(rows):
    new = rows("edits:\n  - {remove: [3, 4]}\n  - {replace: 5, row: [[0, 1, p3], 1, Detect, [nc]]}\n")
    assert [r[1] for r in new] == ["Conv", "Conv", "Conv", "Detect"]


def test_a_chain_of_files_and_a_packaged_base(cli, tmp_path):
    (tmp_path / "one.yaml").write_text("extends: yolo11.yaml\nnc: 5\n")
    (tmp_path / "two.yaml").write_text("extends: one.yaml\nedits:\n  - {insert_after: p5, row: [-1, 1, CBAM, []]}\n")
    data = json.loads(cli("summary", tmp_path / "two.yaml", "--scale", "n", "--json").out)
    assert len(data["rows"]) == 25
    assert data["rows"][-1]["from"] == [17, 20, 23]
    cbam = data["rows"][11]["params"]
    assert cbam > 0
    assert data["totals"]["params"] == 2_590_815 + cbam


def test_the_resolved_file_is_a_file(cli, tmp_path, rows):
    expected = rows("edits:\n  - {insert_after: 1, row: [-1, 1, Conv, [8, {act: 'nn.LeakyReLU(0.1)'}]]}\n")
    shown = cli("show", tmp_path / "net.yaml", "--resolved").out
    (tmp_path / "flat.yaml").write_text(shown)
    data = json.loads(cli("summary", tmp_path / "flat.yaml", "--imgsz", "64", "--json").out)
    assert [(r["from"], r["module"], r["args"][:2]) for r in data["rows"]] == expected
    assert "extends" not in shown
    assert cli("show", tmp_path / "net.yaml").out.startswith("extends: base.yaml")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("extends: nothere.yaml\n", "1:10", "there is no file 'nothere.yaml'"),
        ("extends: net.yaml\n", "1:10", "may not extend itself: net.yaml extends net.yaml"),
        ("extends: yolo11n.yaml\n", "1:10", "write extends: yolo11.yaml"),
        ("extends: [a, b]\n", "1:10", "extends names one file"),
        ("edits: []\nlayers:\n  - [-1, 1, Conv, [8]]\n", "1:1", "'edits' need 'extends'"),
        ("extends: base.yaml\nedits: {remove: 3}\n", "2:8", "edits must be a list"),
        ("extends: base.yaml\nedits:\n  - {remove: 9}\n", "3:14", "rows 0..5"),
        ("extends: base.yaml\nedits:\n  - {remove: p9}\n", "3:14", "named: p1, p3"),
        ("extends: base.yaml\nedits:\n  - {delete: 3}\n", "3:5", "an edit has one of"),
        ("extends: base.yaml\nedits:\n  - {remove: 3, replace: 4}\n", "3:5", "an edit has one of"),
        ("extends: base.yaml\nedits:\n  - {insert_after: 3}\n", "3:5", "needs a row"),
        ("extends: base.yaml\nedits:\n  - {insert_after: 3, raw: []}\n", "3:23", "did you mean 'row'"),
        ("extends: base.yaml\nedits:\n  - {remove: 1}\n", "3:14", "reads row 1 of the base, which an edit removes"),
        ("extends: base.yaml\nedits:\n  - {replace: 3, row: [-1, 1, Conv, [8]]}\n  - {remove: 3}\n", "4:14", "line 3"),
        (
            "extends: base.yaml\nedits:\n  - {remove: 5}\n  - {insert_after: 5, row: [-1, 1, Conv, [8]]}\n",
            "4:20",
            "was removed",
        ),
        ("extends: base.yaml\nedits: []\nhead: []\n", "2:1", "cannot edit those of its base"),
        (
            "extends: base.yaml\nedits:\n  - {insert_after: 3, row: [-1, 1, Cnov, [8]]}\n",
            "3:36",
            "unknown module 'Cnov'",
        ),
    ],
)
def test_mistakes_are_errors_at_their_place(refused, text, place, message):
    err = refused(text)
    assert f"net.yaml:{place}: " in err
    assert message in err


def test_an_error_in_the_base_is_shown_in_the_base(refused, tmp_path):
    (tmp_path / "base.yaml").write_text(BASE.replace("[24, 3, 2], p3", "[24, three, 2], p3"))
    err = refused("extends: base.yaml\n")
    assert "base.yaml:7:24: " in err
    assert "[24, three, 2]" in err


def test_two_files_that_extend_each_other(cli, tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    done = cli("summary", tmp_path / "a.yaml")
    assert done.code == 2
    assert "a.yaml extends b.yaml extends a.yaml" in done.err


SECRET = "hunter2"
FOREIGN_KEYS = {
    "a text": f"password: {SECRET}\n",
    "a mapping": f"aws: {{key: {SECRET}, region: eu}}\n",
    "a list": f"users: [{SECRET}]\n",
    "an empty value": "password:\n",
    "two": f"name: x\napi: {SECRET}\n",
    "a number": "5: 6\n",
    "almost a key": f"imgz: {SECRET}\n",
}


@pytest.mark.parametrize("name", FOREIGN_KEYS)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("suffix", ["yaml", "txt"])
def test_keys_of_a_base_that_no_network_file_has_are_errors(cli, tmp_path, name, steps, suffix):
    text = FOREIGN_KEYS[name]
    (tmp_path / f"base.{suffix}").write_text(BASE + text)
    (tmp_path / "middle.yaml").write_text(f"extends: base.{suffix}\n")
    (tmp_path / "net.yaml").write_text("extends: middle.yaml\n" if steps == 2 else f"extends: base.{suffix}\n")
    out = tmp_path / "net.safetensors"
    for command in (["build", "-o", out], ["summary"], ["check"], ["show", "--resolved"]):
        done = cli(command[0], tmp_path / "net.yaml", *command[1:])
        assert done.code == 2
        for key in (line.partition(":")[0] for line in text.splitlines()):
            assert f"base.{suffix}:" in done.err
            assert f"unknown key '{key}'" in done.err
        assert SECRET not in done.out
    assert not out.exists()


def test_a_file_that_holds_no_network_is_no_base(cli, tmp_path):
    (tmp_path / "secret.yaml").write_text(f"password: {SECRET}\nhost: h\n")
    (tmp_path / "net.yaml").write_text("extends: secret.yaml\n" + BASE)
    done = cli("build", tmp_path / "net.yaml", "-o", tmp_path / "net.safetensors")
    assert (done.code, "secret.yaml:1:1: unknown key 'password'" in done.err) == (2, True), done.err


@pytest.mark.parametrize("name", ["a text", "a mapping", "a list"])
def test_keys_without_effect_get_into_no_checkpoint(cli, tmp_path, name):
    (tmp_path / "net.yaml").write_text(BASE + FOREIGN_KEYS[name])
    done = cli("build", tmp_path / "net.yaml", "-o", tmp_path / "net.safetensors")
    assert done.code == 0, done.err
    assert SECRET.encode() not in (tmp_path / "net.safetensors").read_bytes()
    assert SECRET not in cli("show", tmp_path / "net.yaml", "--resolved").out
    assert f"unknown key '{FOREIGN_KEYS[name].partition(':')[0]}'" in cli("check", tmp_path / "net.yaml").err
