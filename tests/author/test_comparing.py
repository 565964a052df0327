"""Modules beside each other: families, costs on a map, and what is similar."""

import json
from pathlib import Path

import pytest

from netbuild.author import comparing, gallery
from netbuild.layers import pack
from netbuild.modules import registry

CASES = Path(__file__).parents[1] / "cases"


def test_every_module_has_a_family():
    families = {
        name: comparing.find_family(name, registry.find_factory(name, {})) for name in registry.packaged_names()
    }
    assert set(families.values()) <= set(comparing.list_families())
    assert families["SEAttention"] == families["ChannelAttention"] == "channel attention"
    assert (families["Detect"], families["C2f"], families["Concat"]) == ("head", "block", "fusion")
    assert [name for name, family in families.items() if family == comparing.OTHER] == ["TorchVision"]


def test_costs_of_a_family_on_a_map(cli):
    done = cli("modules", "--family", "channel attention", "--cost", "64x20x10", "--json")
    costs = {cost["name"]: cost for cost in json.loads(done.out)}
    assert set(costs) == {*pack.list_names("channel attention"), "ChannelAttention"}
    gate = costs["SEAttention"]
    assert (gate["params"], gate["flops"], gate["out_shape"]) == (2 * 64 * 4, 4 * 64 * 4, [1, 64, 20, 10])
    assert gate["milliseconds"] > 0
    assert gate["row"] == "[-1, 1, SEAttention, []]"
    shown = cli("modules", "--family", "fusion", "--cost", "64x20x10").out.splitlines()
    assert shown[0].split()[:4] == ["module", "family", "output", "params"]
    assert any(
        line.startswith("BiFusion") and "several sizes" in line for line in shown
    )  # it needs maps of three sizes
    own = cli("modules", "gate", "--cost", "64x8x8", "--json", "--modules", CASES / "a03-user-channel-gate.py")
    assert json.loads(own.out)[0]["family"] == comparing.OTHER


@pytest.mark.slow
def test_similar_modules(cli):
    found = json.loads(cli("modules", "--like", "SEAttention", "--json").out)
    assert len(found) == 10
    assert "ECAAttention" in [one["name"] for one in found]
    assert found == sorted(found, key=lambda one: -one["likeness"])
    assert "(channel attention)" in cli("modules", "--like", "SEAttention").out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--family", "atention"], "no family of modules is named 'atention'"),
        (["--cost", "64x20"], "--cost 64x20: not a map"),
        (["--cost", "64x0x20"], "not a map"),
        (["--like", "CBAN"], "unknown module 'CBAN'"),
        (["--like", "Detect", "--family", "head"], "--family"),
        (["nosuch", "--family", "head"], "no module matches"),
    ],
)
def test_wrong_comparisons(cli, flags, message):
    done = cli("modules", *flags)
    assert done.code == 2
    assert message in done.err


def test_the_gallery_is_made_from_the_registry():
    page = (Path(__file__).parents[2] / gallery.PAGE).read_text(encoding="utf-8")
    assert page == gallery.write_page(), "run python -m netbuild.author.gallery"
