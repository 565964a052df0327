"""Tables as plain text."""

from netbuild.system.tables import align


def test_columns_are_aligned_as_a_terminal_shows_them():
    rows = [("class", "AP", ""), ("猫", "0.5", "few"), ("person", "0.1234", "")]
    assert align(rows, left=[0, 2]) == ["class       AP", "猫         0.5  few", "person  0.1234"]
    assert align([("a", "b"), ("100", "2")]) == ["  a  b", "100  2"]
    assert align([]) == []
