"""Several labels of a picture, and numbers, from CSV files: columns, one column of names, and their faults by line."""

import json

import numpy as np
import pytest
from PIL import Image

from netbuild.data import open_data, scan
from netbuild.data.statistics import stats_of, stats_text


@pytest.fixture
def table(tmp_path):
    for number in range(30):
        shade = np.full((8, 8, 3), 8 * number, np.uint8)
        Image.fromarray(shade).save(tmp_path / f"{number}.png")

    def write(text, name="data.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("text", "names", "labels"),
    [
        ("image,cat,dog\n0.png,0,1\n1.png,1,1\n2.png,,0\n", ("cat", "dog"), [[0, 1], [1, 1], [np.nan, 0]]),
        ("image,cat,dog,split\n0.png,true,0.0,train\n1.png,False,1,train\n", ("cat", "dog"), [[1, 0], [0, 1]]),
        ("image,labels\n0.png,dog|big cat\n1.png,\n2.png,dog\n", ("big cat", "dog"), [[1, 1], [0, 0], [0, 1]]),
        ('image,tags\n0.png,"b, a"\n1.png,"c"\n', ("a", "b", "c"), [[1, 1, 0], [0, 0, 1]]),
        ("image;classes\n0.png;2|0\n1.png;1\n", ("0", "1", "2"), [[1, 0, 1], [0, 1, 0]]),
        ("image,tags\n0.png,clear primary\n1.png,clear\n", ("clear", "primary"), [[1, 1], [1, 0]]),
        ("image,cat,where,dog\n0.png,0,home,1\n1.png,1,away,1\n", ("cat", "dog"), [[0, 1], [1, 1]]),
    ],
)
def test_several_labels_are_read(table, text, names, labels):
    report = scan(open_data(table(text)), cache=False)
    assert (report.dataset.task, report.dataset.names, report.faults()) == ("multilabel", names, [])
    np.testing.assert_array_equal([s.labels for s in report.samples("train")], labels)
    notes = " ".join(problem.message for problem in report.problems("note"))
    assert ("separated by blanks" in notes) == (text.startswith("image,tags\n0.png,clear"))
    assert ("are no numbers: where" in notes) == ("where" in text)
    counts = [row["objects"] for row in stats_of(report)["splits"]["train"]["classes"]]
    assert counts == np.nansum(labels, 0).tolist()


@pytest.mark.parametrize(
    ("text", "names", "numbers"),
    [
        ("image,age,height\n0.png,3,1.5\n1.png,40,\n", ("age", "height"), [[3, 1.5], [40, np.nan]]),
        ("image,weight\n0.png,0.25\n1.png,1e3\n", ("weight",), [[0.25], [1000]]),
        ("0.png,-0.5\n1.png,2\n", ("value",), [[-0.5], [2]]),
        ("image,age,male\n0.png,30,0\n1.png,31,1\n", ("age", "male"), [[30, 0], [31, 1]]),
    ],
)
def test_numbers_are_read(table, text, names, numbers):
    report = scan(open_data(table(text)), cache=False)
    assert (report.dataset.task, report.dataset.names, report.faults()) == ("regress", names, [])
    np.testing.assert_array_equal([s.numbers for s in report.samples("train")], numbers)
    found = stats_of(report)
    json.dumps(found)
    rows = found["splits"]["train"]["numbers"]
    assert [(row["name"], row["min"], row["max"]) for row in rows] == [
        (name, low, high) for name, low, high in zip(names, np.nanmin(numbers, 0), np.nanmax(numbers, 0), strict=True)
    ]
    assert names[0] in stats_text(found)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("image,label\n0.png,3\n1.png,40\n", "classify"),
        ("image,labels\n0.png,cat\n1.png,dog\n", "classify"),
        ("image,label,age\n0.png,cat,3.5\n1.png,dog,4.5\n", "classify"),
        ("image,label\n0.png,1.5\n1.png,cat\n", "classify"),
    ],
)
def test_one_label_of_each_picture_stays_a_class(table, text, task):
    assert open_data(table(text)).task == task


def test_wrong_cells_are_errors_at_their_lines(table):
    lines = "".join(f"{i}.png,{i % 2},{1 - i % 2}\n" for i in range(28))
    report = scan(open_data(table(f"image,cat,dog\n{lines}28.png,2,0\n29.png,x,\n3.png,0,0\n")), cache=False)
    (error,) = report.faults()
    for words in ("data.csv:30: 'cat' is '2', expected 0 or 1", "data.csv:31: 'cat' is 'x'", "data.csv:32: 3.png is "):
        assert words in error.message
    assert len(report.samples("train")) == 28
    lines = "".join(f"{i}.png,{i / 2},{i}\n" for i in range(29))
    (error,) = scan(open_data(table(f"image,a,b\n{lines}29.png,1,many\n")), cache=False).faults()
    assert "data.csv:31: 'b' is 'many', expected a number" in error.message
    with pytest.raises(Exception, match="no line with a path and a label"):
        open_data(table("image,labels\n0.png,\n1.png,\n"))
    table("image,a,b\n0.png,1,0\n", "train.csv")
    path = table("image,b,a\n1.png,1,0\n", "val.csv")
    with pytest.raises(Exception, match=r"val.csv: its columns differ from those of the other files"):
        open_data(path.parent)
