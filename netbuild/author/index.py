"""The signatures of packaged and torch layers as a file, so that names and arity can be checked without torch.

``python -m netbuild.author.index`` writes it anew; a test keeps it true.
"""

import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("index.json")


def generate() -> dict[str, list[list[object]]]:
    """Name to parameters: [name, role, whether it must be given], and a last entry ["*", ...] where any number fits."""
    from netbuild import registry

    index: dict[str, list[list[object]]] = {}
    for name in (*sorted(registry.names()), *registry.torch_names()):
        factory = registry.factory(name)
        index[name] = [[p.name, p.role.value, p.required] for p in factory.parameters]
        if factory.variadic:
            index[name].append(["*", "plain", False])
    return index


def text() -> str:
    """The file's content: a module a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(parameters)}" for name, parameters in generate().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def load() -> dict[str, list[list[object]]]:
    """The index as written."""
    data: dict[str, list[list[object]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return data


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
