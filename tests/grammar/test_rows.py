"""Rows and top-level keys of network files: mistakes are errors at their place, and all of them are reported."""

from pathlib import Path

import pytest

from netbuild.errors import NetbuildError
from netbuild.grammar.repeats import MAX_REPEATS
from netbuild.grammar.rows import MAX_ROWS
from netbuild.grammar.spec import read_spec

GOOD = "[-1, 1, Conv, [8]]"


def place(error):
    return error.where.line, error.where.column


def errors_of(text):
    with pytest.raises(NetbuildError) as caught:
        read_spec(text, Path("net.yaml"))
    return caught.value.all()


@pytest.mark.parametrize(
    ("row", "message", "column"),
    [
        ("[-1, 1, Conv]", "3 fields, needs 4", 5),
        ("[-1, Conv, [8]]", "3 fields, needs 4 [from, repeats, module, args]; 'Conv' stands where repeats belongs", 5),
        ("[]", "0 fields, needs 4", 5),
        ("[-1]", "1 fields, needs 4", 5),
        ("[-1, 1, Conv, [8], name, extra]", "6 fields, needs 4 [from, repeats, module, args], or 5 with a name", 5),
        ("[-1, 1, Conv, [8], 3]", "fifth field must be the row's name, and 3 is not a valid name", 24),
        ("[-1, 1, Conv, [8], [a]]", "fifth field must be the row's name, and a list is not a valid name", 24),
        ("[-1, 1, Conv, [8], null]", "is not a valid name", 24),
        ("[-1, 1, Conv, [8], 'a b']", "is not a valid name", 24),
        ("[-1, 1, Conv, [8], input]", "means the network's input", 24),
        ("[-1, 1, Conv, [8], good]", "the name 'good' is already used by row 0", 24),
        ("Conv", "a row is a list", 5),
        ("5", "a row is a list", 5),
        ("null", "a row is a list", 5),
        ("[-1, 1, 5, [8]]", "the module must be a name", 13),
        ("[-1, 1, null, [8]]", "the module must be a name", 13),
        ("[-1, 1, ' ', [8]]", "the module must be a name", 13),
        ("[-1, 1, [Conv], [8]]", "the module must be a name", 13),
        ("[-1, 1, Conv, 8]", "the arguments must be a list, not 8", 19),
        ("[-1, 1, Conv, null]", "the arguments must be a list, not nothing", 19),
        ("[-1, 1, Conv, x]", "the arguments must be a list, not 'x'", 19),
        ("[-1, 1, Conv, [{k: 3}, 8]]", "keyword arguments come last", 20),
        ("[-1, 1, Conv, [8, {k: 3, k: 1}]]", "key 'k' is given twice", 30),
        ("[-1, 0, Conv, [8]]", "repeats must be a whole number of at least 1, not 0", 10),
        ("[-1, -1, Conv, [8]]", "repeats must be a whole number of at least 1, not -1", 10),
        ("[-1, x, Conv, [8]]", "repeats must be a whole number of at least 1, not 'x'", 10),
        ("[-1, '1', Conv, [8]]", "repeats must be a whole number of at least 1, not '1'", 10),
        ("[-1, 1.5, Conv, [8]]", "repeats must be a whole number of at least 1, not 1.5", 10),
        ("[-1, 1.0, Conv, [8]]", "repeats must be a whole number of at least 1, not 1.0", 10),
        ("[-1, true, Conv, [8]]", "repeats must be a whole number of at least 1, not True", 10),
        ("[-1, null, Conv, [8]]", "repeats must be a whole number of at least 1, not nothing", 10),
        ("[-1, [1], Conv, [8]]", "repeats must be a whole number of at least 1, not a list", 10),
        (f"[-1, {MAX_REPEATS + 1}, Conv, [8]]", f"the limit is {MAX_REPEATS}", 10),
        ("[[], 1, Conv, [8]]", "the list of sources is empty", 6),
        ("[1, 1, Conv, [8]]", "source 1 is the row itself", 6),
        ("[2, 1, Conv, [8]]", "source 2 is row 2, but only rows 0..0 exist before it", 6),
        ("[-3, 1, Conv, [8]]", "source -3 reaches before row 0", 6),
        ("[-1.0, 1, Conv, [8]]", "a source is a row number or a row's name, not -1.0", 6),
        ("[true, 1, Conv, [8]]", "a source is a row number or a row's name, not True", 6),
        ("[null, 1, Conv, [8]]", "a source is a row number or a row's name, not nothing", 6),
        ("[[-1, goood], 1, Concat, [1]]", "no row before it is named 'goood'", 11),
        ("[[-1, [0]], 1, Concat, [1]]", "a source is a row number or a row's name, not a list", 11),
        ("{from: -1, n: 1, args: [8]}", "the field 'module' is missing", 5),
        ("{module: Conv, arg: [8]}", "unknown field 'arg'", 20),
        ("{module: Conv, n: 0}", "repeats must be a whole number", 23),
    ],
)
def test_a_malformed_row_is_an_error_at_its_place(row, message, column):
    (error,) = errors_of(f"layers:\n  - [-1, 1, Conv, [8], good]\n  - {row}\n  - {GOOD}\n")
    assert message in error.message
    assert place(error) == (3, column)


def test_all_malformed_rows_are_reported():
    rows = ["[-1, 1, Conv]", GOOD, "[-1, 0, Conv, [8]]", "[9, 1, Conv, [8]]", GOOD]
    errors = errors_of("layers:\n" + "".join(f"  - {row}\n" for row in rows))
    assert [error.where.line for error in errors] == [2, 4, 5]


@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("[1]", "a network file is a mapping", (1, 1)),
        ("layers: 3", "'layers' must be a list of rows, not 3", (1, 9)),
        ("layers:", "'layers' must be a list of rows, not nothing", (1, 8)),
        ("layers: []", "'layers' has no rows", (1, 9)),
        ("nc: 1", "needs backbone and head", (1, 1)),
        ("train: a\nval: b\nnames: [x]", "looks like a data set file", (1, 1)),
        (f"layers: [{GOOD}]\nnc: x", "must be a whole number", (2, 5)),
        (f"layers: [{GOOD}]\nnc: 0", "must be a whole number", (2, 5)),
        (f"layers: [{GOOD}]\nnc: true", "must be a whole number", (2, 5)),
        (f"layers: [{GOOD}]\nbackbon: 1", "unknown key 'backbon'", (2, 1)),
        (f"layers: [{GOOD}]\nscales: [n]", "scales must be a mapping", (2, 9)),
        (f"layers: [{GOOD}]\nscales: {{n: [1]}}", "scale 'n' must be", (2, 13)),
        (f"layers: [{GOOD}]\nscales: {{n: [1, 0]}}", "must be a number above 0", (2, 17)),
        (f"layers: [{GOOD}]\nimgsz: [1, 2, 3]", "not 3 numbers", (2, 8)),
        (f"layers: [{', '.join([GOOD] * (MAX_ROWS + 1))}]", f"the limit is {MAX_ROWS}", (1, 9)),
    ],
)
def test_a_malformed_file_is_an_error_at_its_place(text, message, where):
    error = errors_of(text)[0]
    assert message in error.message
    assert place(error) == where
