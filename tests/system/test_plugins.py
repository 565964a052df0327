"""One registry for modules, tasks, targets and formats; packages show their public names."""

import pytest
from torch import nn

import netbuild
from netbuild import graph, training
from netbuild.data.formats import FORMATS
from netbuild.errors import NetbuildError
from netbuild.export.base import TARGETS
from netbuild.modules.registry import MODULES, get_factory
from netbuild.prediction.trackers import TRACKERS
from netbuild.tasks import TASKS
from netbuild.tasks.losses import LOSSES


class Own(nn.Module):
    pass


@pytest.mark.parametrize(
    ("registry", "group"), [(MODULES, "modules"), (TASKS, "tasks"), (TARGETS, "targets"), (FORMATS, "formats")]
)
def test_a_registry_finds_what_is_built_in_and_registered(registry, group, monkeypatch):
    monkeypatch.setattr(registry, "registered", {})
    assert registry.group == f"netbuild.{group}"
    name = next(iter(registry.built_in))
    assert registry.get(name).__name__ == registry.built_in[name].partition(":")[2]
    registry.register("mine", Own)
    assert registry.get("mine") is Own
    assert "mine" in registry.names()
    with pytest.raises(NetbuildError, match=f"no {registry.kind} 'myne'; there are ") as caught:
        registry.get("myne")
    assert caught.value.hint == "did you mean 'mine'?"


def test_a_registered_module_stands_in_rows(monkeypatch):
    monkeypatch.setattr(MODULES, "registered", {})
    with pytest.raises(NetbuildError, match="unknown module 'Mine'"):
        get_factory("Mine")
    MODULES.register("Mine", Own)
    assert isinstance(get_factory("Mine").make(), Own)
    get_factory.cache_clear()


def test_packages_show_their_public_names():
    for package, names in (
        (netbuild, netbuild.__all__),
        (graph, ["resolve", "Graph"]),
        (training, ["start", "resume"]),
    ):
        assert {*names} <= {*dir(package)}
        assert all(getattr(package, name) is not None for name in names)
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = package.nothing


@pytest.mark.parametrize("registry", [TASKS, TARGETS, FORMATS, LOSSES, TRACKERS], ids=lambda registry: registry.kind)
def test_a_decorator_refuses_a_class_that_is_no_plug_in(registry):
    with pytest.raises(NetbuildError, match=f"the {registry.kind} Nameless has no name"):
        registry.decorate(type("Nameless", (), {}))
    with pytest.raises(NetbuildError, match=rf"the {registry.kind} Stranger is no subclass of netbuild\."):
        registry.decorate(type("Stranger", (), {"name": "stranger"}))
    assert "stranger" not in registry.registered
