"""Names in any script are drawn with a font that has their letters; a note names letters that none has."""

import numpy as np
import pytest

from netbuild.drawing import charts, fonts
from netbuild.drawing.annotated import Drawing
from netbuild.drawing.sheets import make_sheet

FOUND = {"Cyrillic": "кошка", "Greek": "γάτα", "Latin": "Łódź"}  # DejaVu Sans has them, which matplotlib brings
ABSENT = "\U00012f90"  # a Cypro-Minoan sign: in no common font


@pytest.fixture(autouse=True)
def unsaid():
    fonts._seen.clear()
    fonts._said.clear()
    fonts.choose_file.cache_clear()


def drawn(name):
    """Return the ways in which a name is drawn: beside a box, under a picture and on a sheet."""
    image = np.full((200, 300, 3), 255, np.uint8)
    box = np.array([[50.0, 50.0, 200.0, 150.0]])
    boxes = Drawing(image, box, [name], [(230, 159, 0)])
    return (
        boxes.render(),
        Drawing(image, bars=[(name, 0.5, (0, 0, 0))]).render(),
        make_sheet([Drawing(image, caption=name)]),
    )


@pytest.mark.parametrize("name", FOUND.values(), ids=FOUND)
@pytest.mark.parametrize("has_fontconfig", [True, False])
def test_a_font_that_has_the_letters_is_found(name, has_fontconfig, monkeypatch, capsys):
    if not has_fontconfig:
        monkeypatch.setattr(fonts, "_ask_fontconfig", lambda letters: [])
    font = fonts.find_font([name], 24)
    box = bytes(font.getmask("\U0010fffe"))
    assert all(bytes(font.getmask(letter)) != box for letter in name)
    boxes = drawn("\U0010fffe" * len(name))
    for picture, other in zip(drawn(name), boxes):
        assert picture.shape == other.shape or (picture != 255).any()
        assert picture.shape != other.shape or not np.array_equal(picture, other)
    note = capsys.readouterr().err  # the letter of the boxes only
    assert not any(letter in note for letter in name if not letter.isascii())


def test_english_names_keep_pillows_font():
    from PIL import ImageFont

    font = fonts.find_font(["person", "traffic light 3"], 20)
    assert font.getname() == ImageFont.load_default(20).getname()


def test_letters_that_no_font_has_are_named_once(capsys):
    for _ in range(3):
        drawn(f"cat {ABSENT}")
    figure = charts.plot_confusion(np.eye(2), [f"a{ABSENT}", "b"])
    charts.encode_png(figure)
    note = capsys.readouterr().err
    assert note.count("note: no font of this system has ") == 1
    assert ABSENT in note
    assert "a" not in note.partition("has ")[2].partition(" (")[0]


def test_charts_take_further_fonts(monkeypatch, tmp_path, capsys):
    path = fonts._list_files()[0]
    monkeypatch.setattr(fonts, "choose_file", lambda letters: (path, frozenset()))
    name = fonts.packages.package("matplotlib.font_manager").FontProperties(fname=path).get_name()
    assert fonts.matplotlib_families(["кошка"]) == ["DejaVu Sans"]  # matplotlib's own font has Cyrillic letters
    assert fonts.matplotlib_families(["猫"]) == ["DejaVu Sans", name]
    figure = charts.plot_confusion(np.eye(2), ["猫", "dog"])
    charts.set_fonts(figure)
    labels = [text for text in figure.axes[0].get_xticklabels() if text.get_text() == "猫"]
    assert [text.get_fontfamily() for text in labels] == [["DejaVu Sans", name]]
    assert capsys.readouterr().err == ""
