"""The signatures of packaged and torch layers as a file, so that names and arity can be checked without torch.

``python -m netbuild.author.index`` writes it anew; a test keeps it true.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netbuild.modules.factory import Factory

FILE = Path(__file__).with_name("index.json")
Parameters = list[list[object]]


def generate() -> dict[str, dict[str, Any]]:
    """Name to what `entry` has of it."""
    from netbuild.modules import registry

    names = (*sorted(registry.names()), *registry.torch_names())
    return {name: entry(name, registry.factory(name)) for name in names}


def entry(name: str, factory: "Factory") -> dict[str, Any]:
    """A module's parameters, its signature, and of one that is not torch's a line on it.

    Parameters are [name, role, whether it must be given], and a last ["*", ...] where any number fits.
    """
    from netbuild.author import catalogue

    parameters: Parameters = [[p.name, p.role.value, p.required] for p in factory.parameters]
    if factory.variadic:
        parameters.append(["*", "plain", False])
    shown = catalogue.entry(factory, name)
    return {"parameters": parameters, "signature": shown.signature, "doc": "" if factory.foreign else shown.doc}


def text() -> str:
    """The file's content: a module a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in generate().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def entries() -> Mapping[str, Mapping[str, Any]]:
    """The index as written."""
    data: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return data


@cache
def load() -> dict[str, Parameters]:
    """The parameters of each module."""
    return {name: found["parameters"] for name, found in entries().items()}


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
