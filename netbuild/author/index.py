"""The signatures of packaged and torch layers in a JSON file, so that names and arity can be checked without torch.

``python -m netbuild.author.index`` writes the file again; a test fails when it is out of date.
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
    """Return the entries of all modules by name."""
    from netbuild.layers import pack
    from netbuild.modules import registry

    names = (*sorted([*registry.packaged_names(), *pack.ALIASES]), *registry.torch_names())
    return {name: make_entry(name, registry.get_factory(name)) for name in names}


def make_entry(name: str, factory: "Factory") -> dict[str, Any]:
    """Return a module's parameters, its signature and, unless it is torch's, the first line of its docstring.

    A parameter is [name, role, is required]; a last one ["*", ...] stands for any number of arguments.
    """
    from netbuild.author import catalogue

    parameters: Parameters = [[p.name, p.role.value, p.required] for p in factory.parameters]
    if factory.has_varargs:
        parameters.append(["*", "plain", False])
    found = catalogue.make_entry(factory, name)
    return {"parameters": parameters, "signature": found.signature, "doc": "" if factory.foreign else found.doc}


def to_json() -> str:
    """Return the JSON file's content, one line per module."""
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in generate().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def load_entries() -> Mapping[str, Mapping[str, Any]]:
    """Return the entries of the stored file by module name."""
    data: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return data


@cache
def load_parameters() -> dict[str, Parameters]:
    """Return the parameters of each module by its name."""
    return {name: found["parameters"] for name, found in load_entries().items()}


if __name__ == "__main__":
    FILE.write_text(to_json(), encoding="utf-8")
