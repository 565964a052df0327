"""The keys ``degrade`` and ``space`` of a network's file, and the settings of these names: entries and mistakes."""

import numpy as np
import pytest

import netbuild
from netbuild import settings
from netbuild.errors import NetbuildError
from netbuild.grammar.degrade import count_scale
from netbuild.grammar.spec import load

ROWS = (
    "ch: 1\nimgsz: 32\ntask: restore\nparams: {zoom: 3, sigma: [0, 25]}\nlayers:\n"
    "  - [-1, 1, nn.Conv2d, {out_channels: zoom ** 2, kernel_size: 3, padding: 1}]\n"
    "  - [-1, 1, nn.PixelShuffle, [zoom]]\n"
)


def read(folder, degrade, more=""):
    (folder / "net.yaml").write_text(f"{ROWS}degrade: {degrade}\n{more}")
    return load(folder / "net.yaml")


def test_entries_are_read_in_order_with_expressions_and_kernels(tmp_path):
    np.savetxt(tmp_path / "kernel.txt", [[0, 1, 0], [1, 4, 1], [0, 1, 0]])
    text = "[{blur: kernel.txt}, {blur: {sigma: 1.5, size: 7}}, {downscale: zoom}, {noise: sigma}, "
    text += "{noise: {poisson: 30}}, {jpeg: [10, 40]}, {mask: 0.5}, {mask: {boxes: 2, side: [4, zoom * 3]}}, "
    text += "{downscale: {factor: 2, method: area}}]"
    spec = read(tmp_path, text, "space: y\n")
    assert list(spec.restoration.degrade) == [
        {"blur": {"kernel": [[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]]}},
        {"blur": {"sigma": 1.5, "size": 7}},
        {"downscale": {"factor": 3}},
        {"noise": {"sigma": [0, 25]}},
        {"noise": {"poisson": 30}},
        {"jpeg": {"quality": [10, 40]}},
        {"mask": {"share": 0.5}},
        {"mask": {"boxes": 2, "side": [4, 9]}},
        {"downscale": {"factor": 2, "method": "area"}},
    ]
    assert (spec.restoration.space, count_scale(spec.restoration.degrade)) == ("y", 6)
    # The text of the card builds the same network without the kernel's file.
    card = netbuild.build(tmp_path / "net.yaml").card
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/net.yaml").write_text(card.yaml)
    assert netbuild.build(tmp_path / "elsewhere/net.yaml").card.degrade == card.degrade == spec.restoration.degrade
    assert card.output == (1, 96, 96)


def test_a_file_that_extends_another_and_set_change_the_scale(tmp_path):
    read(tmp_path, "[{downscale: zoom}]")
    assert load(tmp_path / "net.yaml", ["zoom=2"]).restoration.degrade == ({"downscale": {"factor": 2}},)
    (tmp_path / "noisy.yaml").write_text("extends: net.yaml\ndegrade: [{downscale: zoom}, {noise: 5}]\n")
    assert len(load(tmp_path / "noisy.yaml").restoration.degrade) == 2


@pytest.mark.parametrize(
    ("degrade", "place", "message", "hint"),
    [
        ("{downscale: 3}", "10", "'degrade' is a list such as [{downscale: 3}]", "[{downscale: ...}]"),
        ("[downscale]", "11", "an entry of 'degrade' is a mapping with one key", ""),
        ("[{jpeg: 3, mask: 0.5}]", "11", "not 2 keys", ""),
        ("[{nois: 3}]", "12", "'degrade': there is no 'nois'", "did you mean 'noise'?"),
        ("[{blurr: 3}]", "12", "there is no 'blurr'", "did you mean 'blur'?"),
        ("[{downscale: 1}]", "23", "'factor' of 'downscale' must be a whole number from 2 to 16, not 1", ""),
        ("[{downscale: 1.5}]", "23", "must be a whole number", ""),
        ("[{downscale: {factor: 2, method: bicubik}}]", "43", "must be one of bicubic, area, nearest", "'bicubic'"),
        ("[{downscale: {method: area}}]", "23", "'downscale' needs factor", ""),
        ("[{noise: -1}]", "19", "'sigma' of 'noise' must be a number from 0 to 255, or a range", ""),
        ("[{noise: [30, 10]}]", "19", "or a range [least, most] of these", ""),
        ("[{noise: {sigma: 3, poisson: 3}}]", "19", "'noise' needs sigma or poisson, and not both", ""),
        ("[{blur: {}}]", "18", "'blur' needs sigma or kernel", ""),
        ("[{blur: {sigma: 1, size: 4}}]", "35", "'size' of 'blur' must be an odd number", ""),
        ("[{blur: nothing.txt}]", "18", "'kernel' of 'blur' cannot be read", ""),
        ("[{blur: [[1, 1], [1, 1]]}]", "18", "an odd number of rows and columns", ""),
        ("[{blur: [[1, -2, 1]]}]", "18", "has a sum of 0", ""),
        ("[{jpeg: 0}]", "18", "'quality' of 'jpeg' must be a whole number from 1 to 100", ""),
        ("[{mask: 1.5}]", "18", "'share' of 'mask' must be a number from 0 to 1", ""),
        ("[{mask: {share: 0.2, side: 3}}]", "18", "has a side, which only boxes have", ""),
        ("[{mask: {share: 0.2, sid: 3}}]", "31", "'mask' has no 'sid'", "did you mean 'side'?"),
    ],
)
def test_mistakes_have_a_place_and_a_repair(tmp_path, degrade, place, message, hint):
    with pytest.raises(NetbuildError) as caught:
        read(tmp_path, degrade)
    assert message in caught.value.message
    assert (str(caught.value.where).endswith(f"net.yaml:8:{place}"), hint in caught.value.hint) == (True, True)
    value = settings.parse(degrade, "text").plain()
    if "nothing.txt" not in degrade:  # the same mistake in a setting
        with pytest.raises(NetbuildError) as caught:
            settings.load(None, {"degrade": value})
        assert message.partition(",")[0] in caught.value.message
        (tmp_path / "settings.yaml").write_text(f"epochs: 3\ndegrade: {degrade}\n")
        with pytest.raises(NetbuildError) as caught:
            settings.load(tmp_path / "settings.yaml")
        assert str(caught.value.where).endswith(f"settings.yaml:2:{place}")


def test_all_mistakes_of_a_list_are_listed_and_a_space_is_one_of_three(tmp_path):
    with pytest.raises(NetbuildError) as caught:
        read(tmp_path, "[{noise: 300}, {jpeg: 0}]", "space: rbg\n")
    messages = [error.message for error in caught.value.all()]
    assert len(messages) == 3
    assert messages[-1] == "'space' must be y, rgb or grey, not 'rbg'"


def test_settings_are_written_and_read_again(tmp_path):
    flags = settings.from_texts(["degrade=[{downscale: 2}, {noise: [0, 5]}]", "space=y"])
    chosen = settings.load(None, flags)
    assert chosen.degrade == [{"downscale": {"factor": 2}}, {"noise": {"sigma": [0, 5]}}]
    (tmp_path / "args.yaml").write_text(chosen.to_yaml(comments=True))
    assert settings.load(tmp_path / "args.yaml") == chosen
    with pytest.raises(NetbuildError, match="'degrade' is a list such as"):
        settings.load(None, {"degrade": 3})
