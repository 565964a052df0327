"""Arithmetic in rows: it gives the same values as Python, and allows nothing else that Python can do."""

import math
from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from netbuild.grammar.expressions import (
    MAX_MAGNITUDE,
    MAX_TEXT,
    WORDS,
    Call,
    ExpressionError,
    evaluate,
    looks_arithmetic,
    parse_call,
)

steady = settings(derandomize=True, deadline=None, database=None)
NAMES = {"nc": 80, "w": 0.25, "c": 64, "name": "x", "flag": True, "sizes": [1, 2], "nothing": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("nc * (4 + 1)", 400),
        (" nc + 5 ", 85),
        ("-nc", -80),
        ("+nc", 80),
        ("2 ** 3 ** 2", 512),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("7 % 3", 1),
        ("7 / 2", 3.5),
        ("c / 2", 32),
        ("c * w", 16.0),
        ("1e3", 1000.0),
        ("min(c, nc, 3)", 3),
        ("max(c, nc)", 80),
        ("int(c * 0.3)", 19),
        ("round(c * 0.3)", 19),
        ("round(2.567, 1)", 2.6),
        ("abs(-c)", 64),
        (f"{MAX_MAGNITUDE}", MAX_MAGNITUDE),
    ],
)
def test_values(text, value):
    got = evaluate(text, NAMES)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "cannot be computed"),
        ("1 // 0", "cannot be computed"),
        ("1 % 0", "cannot be computed"),
        ("0 ** -1", "cannot be computed"),
        ("(nc - 80) ** -1", "cannot be computed"),
        ("9 ** 9 ** 9", "power is too large"),
        ("2 ** 65", "power is too large"),
        ("2 ** 64", "out of range"),
        ("0.5 ** -64", "out of range"),
        ("(-2) ** 0.5", "out of range"),
        ("9007199254740993", "out of range"),
        ("1e308 * 10", "out of range"),
        ("1e400", "out of range"),
        ("10 ** 10 * 10 ** 10", "out of range"),
        ("-(2 ** 53) - 1", "out of range"),
        ("unknown + 1", "'unknown' is not known here"),
        ("name + 1", "'x', not a number"),
        ("flag + 1", "True, not a number"),
        ("sizes * 2", "not a number"),
        ("nothing + 1", "None, not a number"),
        ("True + 1", "only numbers, names"),
        ("1j", "only numbers, names"),
        ("'a' * 3", "only numbers, names"),
        ("b'a'", "only numbers, names"),
        ("f'{nc}'", "only numbers, names"),
        ("nc.real", "only numbers, names"),
        ("sizes[0]", "only numbers, names"),
        ("[1][0]", "only numbers, names"),
        ("{1: 2}", "only numbers, names"),
        ("{1}", "only numbers, names"),
        ("(1, 2)", "only numbers, names"),
        ("lambda: 1", "only numbers, names"),
        ("[i for i in sizes]", "only numbers, names"),
        ("(i for i in sizes)", "only numbers, names"),
        ("nc if nc else 1", "only numbers, names"),
        ("nc and 1", "only numbers, names"),
        ("not nc", "only numbers, names"),
        ("~nc", "only numbers, names"),
        ("nc < 1", "only numbers, names"),
        ("nc << 2", "only numbers, names"),
        ("nc | 1", "only numbers, names"),
        ("sizes @ sizes", "only numbers, names"),
        ("(nc := 1)", "only numbers, names"),
        ("min(*sizes)", "only numbers, names"),
        ("min(1, key=abs)", "only numbers, names"),
        ("abs(**sizes)", "only numbers, names"),
        ("(abs)(nc)(nc)", "only numbers, names"),
        ("nc.bit_length()", "only numbers, names"),
        ("__import__('os')", "only numbers, names"),
        ("eval(nc)", "'eval' is not allowed"),
        ("pow(2, 3)", "'pow' is not allowed"),
        ("__import__(nc)", "'__import__' is not allowed"),
        ("min()", "min does not take 0"),
        ("min(nc)", "min does not take 1"),
        ("abs(1, 2)", "abs does not take 2"),
        ("int(1, 2, 3)", "int does not take 3"),
        ("round(1.5, 0.5)", "round does not take 2"),
        ("", "not an arithmetic expression"),
        ("1 +", "not an arithmetic expression"),
        ("nc nc", "not an arithmetic expression"),
        ("import os", "not an arithmetic expression"),
        ("nc = 1", "not an arithmetic expression"),
        ("1; 2", "not an arithmetic expression"),
        ("1\x002", "not an arithmetic expression"),
        ("(" * 150 + "1", "not an arithmetic expression"),
        ("1" * (MAX_TEXT + 1), f"longer than {MAX_TEXT}"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(ExpressionError, match=message.replace("(", r"\(")):
        evaluate(text, NAMES)


@pytest.mark.parametrize(
    "text", ["(" * 99 + "1" + ")" * 99, "-" * 199 + "1", "1" + "+1" * 99, "abs(" * 45 + "1" + ")" * 45]
)
def test_deep_expressions_give_a_value_or_an_error(text):
    with suppress(ExpressionError):
        assert isinstance(evaluate(text, {}), int)


@pytest.mark.parametrize("text", ["1if nc else 2", r"f('\d')", "1is 1", "0x1for x in y"])
def test_python_gives_no_warnings(text, recwarn):
    assert parse_call(text) is None
    with pytest.raises(ExpressionError):
        evaluate(text, NAMES)
    assert not recwarn


NUMBERS = st.one_of(
    st.integers(0, 999).map(str), st.floats(0, 99, allow_subnormal=False).map(lambda x: repr(round(x, 3)))
)
LEAVES = NUMBERS | st.sampled_from(["nc", "w", "c"])


def _combine(inner):
    binary = st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner)
    return st.one_of(
        binary.map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"-{t}"),
        st.tuples(inner, st.integers(0, 4)).map(lambda t: f"{t[0]} ** {t[1]}"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(st.sampled_from(["int", "round", "abs"]), inner).map(lambda t: f"{t[0]}({t[1]})"),
    )


@steady
@given(st.recursive(LEAVES, _combine, max_leaves=8))
def test_values_equal_those_of_python(text):
    assume(len(text) <= MAX_TEXT)
    names = {key: NAMES[key] for key in ("nc", "w", "c")}
    try:
        expected = eval(text, {}, names)  # generated above: arithmetic only
    except (ZeroDivisionError, OverflowError):
        expected = math.nan
    value = _evaluate_or_catch(text, names)
    # A part may leave the bounds although the whole would come back.
    left = isinstance(value, ExpressionError) and ("out of range" in str(value) or "too large" in str(value))
    assert left or (math.isnan(expected) == isinstance(value, ExpressionError)), (text, expected, value)
    assert isinstance(value, ExpressionError) or value == pytest.approx(expected, rel=1e-12)


def _evaluate_or_catch(text, names):
    try:
        return evaluate(text, names)
    except ExpressionError as error:
        return error


@steady
@given(st.text(max_size=40))
def test_any_text_gives_a_number_or_an_expression_error(text):
    try:
        value = evaluate(text, NAMES)
    except ExpressionError:
        return
    assert type(value) in (int, float)
    assert abs(value) <= MAX_MAGNITUDE


@steady
@given(st.text(alphabet="nc.()[]'+-*/% 0e,_", max_size=30))
def test_any_text_is_parsed_as_a_call_without_failing(text):
    call = parse_call(text)
    assert call is None or isinstance(call, Call)
    looks_arithmetic(text, NAMES)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("nn.ReLU()", Call("nn.ReLU")),
        (" nn.ReLU() ", Call("nn.ReLU")),
        ("nn.LeakyReLU(0.1)", Call("nn.LeakyReLU", (0.1,))),
        ("nn.ELU(alpha=-0.5, inplace=True)", Call("nn.ELU", (), (("alpha", -0.5), ("inplace", True)))),
        ("torch.nn.Hardtanh(-1, 1)", Call("torch.nn.Hardtanh", (-1, 1))),
        ("f([1, (2, 'a')], None)", Call("f", ([1, (2, "a")], None))),
    ],
)
def test_calls(text, call):
    assert parse_call(text) == call
    assert parse_call(str(call)) == call


@pytest.mark.parametrize(
    "text",
    [
        "nn.ReLU",
        "nn.ReLU(",
        "nn.ReLU)",
        "nn.ReLU() + 1",
        "nn.ReLU()()",
        "nn.ReLU(x)",
        "nn.ReLU(f())",
        "nn.ReLU(1 + nc)",
        "nn.ReLU(*[1])",
        "nn.ReLU(**{'inplace': True})",
        "nn.ReLU(inplace=True, inplace=False)",
        "nn.ReLU([i for i in [1]])",
        "nn.ReLU().forward(1)",
        "[f][0](1)",
        "'a'.join([])",
        "(lambda: 1)()",
        "nn.ReLU(\x00)",
        "a b()",
        "",
        "f(" + "1," * MAX_TEXT + ")",
    ],
)
def test_texts_that_are_not_calls(text):
    assert parse_call(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nc * 2", True),
        ("-nc", True),
        ("min(nc, 2)", True),
        ("nc", False),
        ("3 * 2", False),
        ("yolo-n", False),
        ("a/b.txt", False),
        ("nearest", False),
        ("c", False),
        ("c-d", True),
    ],
)
def test_looks_arithmetic(text, expected):
    assert looks_arithmetic(text, NAMES) is expected


def test_words():
    assert [WORDS[word] for word in ("None", "null", "~", "True", "true", "False", "false")] == [
        None, None, None, True, True, False, False,
    ]  # fmt: skip
