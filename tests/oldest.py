"""Print the least versions that pyproject.toml promises, as constraints for pip: ``make test-oldest`` installs them."""

import re
import tomllib
from itertools import chain
from pathlib import Path


def least_versions(project: dict) -> dict[str, str]:
    """Return the least version of each package that the project or one of its extras states with ``>=``.

    Raises:
        ValueError: if two places state different least versions of one package.
    """
    least: dict[str, str] = {}
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        found = re.match(r"([\w.-]+)\s*>=\s*([\w.]+)", line)
        if not found:
            continue
        name, version = found.groups()
        if least.setdefault(name, version) != version:
            raise ValueError(f"{name} is promised from {least[name]} and from {version}")
    return least


if __name__ == "__main__":
    file = Path(__file__).resolve().parents[1] / "pyproject.toml"
    for name, version in least_versions(tomllib.loads(file.read_text())["project"]).items():
        print(f"{name}=={version}")
