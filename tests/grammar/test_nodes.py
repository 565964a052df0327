"""YAML text to nodes with places: scalars of YAML 1.2, limits, files, and random text."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from netbuild.errors import NetbuildError
from netbuild.grammar.nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, parse, read_text
from netbuild.grammar.spec import read_spec

steady = settings(derandomize=True, deadline=None, database=None)


def error_of(text):
    with pytest.raises(NetbuildError) as caught:
        parse(text, "net.yaml")
    return caught.value


def place(error):
    return error.where.line, error.where.column


# -- scalars ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-1", -1), ("+1", 1), ("010", 10), ("-007", -7), ("0", 0), ("0x1F", 31), ("0o17", 15),
        ("1.0", 1.0), (".5", 0.5), ("1.", 1.0), ("-1.5e3", -1500.0), ("1e-3", 0.001), ("1E3", 1000.0), ("1e3", 1000.0),
        (".inf", math.inf), ("-.inf", -math.inf), ("+.inf", math.inf),
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("False", False), ("FALSE", False),
        ("null", None), ("~", None), ("Null", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("None", "None"), ("tRUE", "tRUE"),
        ("1_000", "1_000"), ("0b11", "0b11"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"),
        ("-0x1", "-0x1"), ("=", "="),
        ("inf", "inf"), ("nan", "nan"), ("1e", "1e"), ("e3", "e3"), (".", "."), ("1.2.3", "1.2.3"),
        ("08", 8),
        ("'1'", "1"), ('"true"', "true"), ("'~'", "~"), ('""', ""), ("!!str 1", "1"), ("! 1", "1"), ("!!int 3", 3),
        ("nn.ReLU()", "nn.ReLU()"), ("a b", "a b"), ("|\n  a\n  b\n", "a\nb\n"), (">\n  a\n  b\n", "a b\n"),
        ("1" * 18, int("1" * 18)),
    ],
)  # fmt: skip
def test_scalars_of_yaml_1_2(text, value):
    texts = (f"a: {text}", f"{{b: [], a: {text}}}") if text[:1].isalnum() else (f"a: {text}",)
    for around in texts:
        got = parse(around, "n").plain()["a"]
        assert (got, type(got)) == (value, type(value))


def test_not_a_number():
    assert math.isnan(parse(".nan", "n").value)


def test_keys_are_texts():
    assert parse("{1: a, true: b, 1.5: c, 'x y': d, ~: e}", "n").plain() == {
        "1": "a", "True": "b", "1.5": "c", "x y": "d", "null": "e",
    }  # fmt: skip


def test_an_alias_is_its_anchors_node():
    node = parse("a: &x [1, 2]\nb: *x\nc: &x 3\nd: *x", "n")
    assert node.plain() == {"a": [1, 2], "b": [1, 2], "c": 3, "d": 3}
    assert node.value["b"].where.line == 1


# -- places -----------------------------------------------------------------------------------------------------------

PLACED = """\
# a comment
nc: 80
backbone:
  - [-1, 1, Conv, [64, 3, {act: "relu"}]]   # first
  - [ [-1, 6],
      1, Concat, [
        1 ] ]
näme: {k: é, 'kéy': v}
"""


def scalars(node):
    if isinstance(node.value, (list, dict)):
        yield from node.keys.values()
        for item in node.value.values() if isinstance(node.value, dict) else node.value:
            yield from scalars(item)
    else:
        yield node


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_every_scalar_knows_its_place(ending):
    lines = PLACED.splitlines()
    found = list(scalars(parse(PLACED.replace("\n", ending), "net.yaml")))
    assert len(found) == 20
    for node in found:
        where = node.where
        assert where.text == lines[where.line - 1]
        assert where.text[where.column - 1 :].lstrip("\"'").startswith(str(node.value))
    assert str(found[0].where) == "net.yaml:2:1"


def test_a_node_given_in_code_has_the_place_of_another():
    node = parse("a: [1, 2]", "n").value["a"]
    assert Node(5, node.source, node).error("wrong").where == node.where


# -- errors of the text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("", "file is empty", (1, 1)),
        ("# nothing\n", "file is empty", (1, 1)),
        ("a: 1\na: 2", "key 'a' is given twice: lines 1 and 2", (2, 1)),
        ("{a: 1, b: {x: 1, x: 2}}", "key 'x' is given twice", (1, 18)),
        ("1: a\n'1': b", "key '1' is given twice", (2, 1)),
        ("a: 1\n---\nb: 2", "second YAML document", (2, 1)),
        ("a: 1\n...\n---\nb: 2", "second YAML document", (3, 1)),
        ("a: !!python/object/apply:os.system [ls]", "Python tags are not allowed", (1, 4)),
        ("!!python/name:os.system x", "Python tags are not allowed", (1, 1)),
        ("a: !own 1", "tags such as '!own'", (1, 4)),
        ("a: !!binary aGk=", "tags such as", (1, 4)),
        ("!!set {a, b}", "tags such as", (1, 1)),
        ("!!omap [a: 1]", "tags such as", (1, 1)),
        ("a: !e!x 1", "undefined tag handle", (1, 4)),
        ("a: &x [1, *x]", "'*x' refers to itself", (1, 11)),
        ("&x {a: *x}", "'*x' refers to itself", (1, 8)),
        ("a: *x\nb: &x 1", "'*x' refers to itself or to nothing before it", (1, 4)),
        ("a:\n  <<: {b: 1}", "merge keys", (2, 3)),
        ("? [a, b]\n: 1", "a key must be a word", (1, 3)),
        ("{{a: 1}: 2}", "a key must be a word", (1, 2)),
        ("a: [1, 2", "'[' opened here is not closed", (1, 4)),
        ("a: {b: 1", "'{' opened here is not closed", (1, 4)),
        ("a:\n  - [1, 2]]", "YAML syntax", (2, 11)),
        ("a: 'b", "YAML syntax", (1, 6)),
        ("{", "YAML syntax: did not find expected node content", (1, 2)),
        ("nc: 3\np", "could not find expected ':'", (2, 2)),
        ("a: [x, {k: 1, : 2}]", "YAML syntax: did not find expected node content", (1, 15)),
        ("a: 1\n b: 2", "YAML syntax", (2, 3)),
        ("a:\n\t- 1", "YAML syntax", (2, 1)),
        ('a: "x\\y"', "backslash in double quotes", (1, 7)),
        ("a: @x", "YAML syntax", (1, 4)),
        ("a: b: c", "YAML syntax", (1, 5)),
        ("a: 1\nb: \x00", "U+0000 is not allowed", (2, 4)),
        ("a: 1\x07", "U+0007 is not allowed", (1, 5)),
        ("a: \x1b[31m", "U+001B is not allowed", (1, 4)),
        ("a: \ud800", "U+D800 is not allowed", (1, 4)),
        ("a: " + "1" * 19, "more than 18 digits", (1, 4)),
        ("a: 1\nb: 0x" + "f" * 20, "more than 18 digits", (2, 4)),
        ("%YAML 3.0\n---\na: 1", "YAML syntax", (1, 1)),
    ],
)
def test_a_mistake_is_an_error_at_its_place(text, message, where):
    error = error_of(text)
    assert message in error.message
    assert place(error) == where
    assert f"net.yaml:{where[0]}:{where[1]}" in error.render()


def test_tabs_are_named():
    assert "not with tabs" in error_of("a:\n\t- 1").hint


def test_depth_is_limited():
    deep = parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, "n")
    for _ in range(MAX_DEPTH - 1):
        (deep,) = deep.value
    assert deep.value == []
    error = error_of("[" * 200)
    assert f"deeper than {MAX_DEPTH} levels" in error.message
    assert place(error) == (1, MAX_DEPTH + 1)
    assert "nest" in error_of("[" * 100_000).message
    assert "deeper" in error_of("\n".join(f"{' ' * i}a:" for i in range(MAX_DEPTH + 2))).message


def test_aliases_do_not_deepen_beyond_the_limit():
    """Each line nests the one before: few values, little text, but a tree too deep to walk."""
    lines = ["- &a0 [x]"] + [f"- &a{i} [*a{i - 1}]" for i in range(1, 900)]
    error = error_of("\n".join(lines))
    assert f"deeper than {MAX_DEPTH} levels by its aliases" in error.message
    assert place(error) == (MAX_DEPTH, len(f"- &a{MAX_DEPTH - 1} [*"))
    assert parse("\n".join(lines[: MAX_DEPTH - 2]), "n").plain()[1] == [["x"]]


def test_a_bomb_of_aliases_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    error = error_of("\n".join(lines))
    assert f"more than {MAX_NODES} values once its aliases are expanded" in error.message
    assert error.where


def test_many_values_are_refused():
    assert f"more than {MAX_NODES}" in error_of("[" + "1," * (MAX_NODES + 1) + "]").message
    bomb = "a: &a [" + "1," * 1000 + "]\nb: [" + "*a," * (MAX_NODES // 1000) + "]"
    assert f"more than {MAX_NODES}" in error_of(bomb).message


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message", "where"),
    [
        (b"nc: 1\nn\xe4me: 2\n", "byte 0xe4 is not UTF-8", (2, 2)),
        (b"\xff\xfen\x00c\x00", "byte 0xff is not UTF-8", (1, 1)),
        (b"nc: 1\r\nx: \xc3", "byte 0xc3 is not UTF-8", (2, 4)),
        (b"nc: \xed\xa0\x80", "byte 0xed is not UTF-8", (1, 5)),
    ],
)
def test_invalid_utf_8_is_an_error_at_its_place(tmp_path, data, message, where):
    path = tmp_path / "net.yaml"
    path.write_bytes(data)
    with pytest.raises(NetbuildError) as caught:
        read_text(path)
    assert message in caught.value.message
    assert place(caught.value) == where


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_bytes("\ufeffnäme: 1\r\n".encode())
    node = parse(read_text(path), "n")
    assert node.plain() == {"näme": 1}
    assert node.keys["näme"].where.column == 1


def test_a_large_file_is_refused(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read_text(path)) == MAX_BYTES
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(NetbuildError, match=r"larger than 4 MiB"):
        read_text(path)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, name):
    with pytest.raises(NetbuildError, match="cannot be read"):
        read_text(tmp_path / name)


# -- random text ------------------------------------------------------------------------------------------------------

YAMLISH = st.text(alphabet="ab1-.:,[]{}'\"#&*!|>%@?~<= \n\t\\é", max_size=60)


def reads_or_refuses(text, reader):
    try:
        return reader(text)
    except NetbuildError as error:
        for one in error.all():
            assert one.message
            assert one.where
            assert one.render()
    return None


@steady
@given(st.text(max_size=80) | YAMLISH)
@example("a: \x85b: \u2028")
@example("? ")
@example("*a")
@example("&a &b c")
@example("%")
@example("--- |")
@example("!<tag:yaml.org,2002:int> x")
@example("!!int x")
@example("!!float .")
@example("0x")
@example("\ufeff")
@example("a\ufeff: 1")
def test_any_text_gives_a_node_or_an_error_with_a_place(text):
    node = reads_or_refuses(text, lambda t: parse(t, "n"))
    assert node is None or isinstance(node, Node)


@steady
@given(st.binary(max_size=60) | YAMLISH.map(str.encode))
def test_any_file_gives_text_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    text = reads_or_refuses(path, read_text)
    assert text is None or text.encode() in data


@steady
@given(
    st.text(alphabet="ab1-.:,[]{}'\"# \n", max_size=60),
    st.sampled_from(["{}", "layers:\n  - {}", "layers: [{}]", "blocks: {}"]),
)
def test_any_text_gives_a_spec_or_an_error_with_a_place(text, around):
    reads_or_refuses(around.replace("{}", text), lambda t: read_spec(t, Path("net.yaml")))


WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS.filter(lambda w: w != "<<"), inner, max_size=4),
    max_leaves=12,
)


@steady
@given(VALUES)
def test_json_is_read_as_json(value):
    assert parse(json.dumps(value, ensure_ascii=False), "n").plain() == value


PLAIN = st.recursive(
    st.integers(-(10**6), 10**6) | st.text(alphabet="bcdgk", min_size=1, max_size=6) | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet="bcdgk", min_size=1, max_size=6), inner)
    ),
    max_leaves=12,
)


@steady
@given(PLAIN, st.booleans())
def test_yaml_of_pyyaml_is_read_alike(value, flow):
    assert parse(yaml.safe_dump(value, default_flow_style=flow), "n").plain() == value
