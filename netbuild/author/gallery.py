"""The gallery of modules, docs/modules.md: every module that rows can use, by family, made from the registry.

``python -m netbuild.author.gallery`` writes the page again; a test fails when it is out of date.
"""

from collections.abc import Iterator
from pathlib import Path

from netbuild.author.catalogue import Entry, make_entry, make_example_row
from netbuild.author.comparing import find_family, list_families
from netbuild.layers import pack
from netbuild.modules import registry

PAGE = Path("docs/modules.md")
_HEAD = """# Modules

Every module that a row can use, by family; torch's own are written `nn.Conv2d`. A row is shown with the arguments that
it needs at least, on maps of 64 channels. `netbuild explain NAME` shows all arguments, the parameters as a formula, an
example with its costs, and what is inside; `netbuild modules --family FAMILY --cost 256x40x40` compares a family on a
map of yours. Modules of the pack (`netbuild.layers.pack`) were each written from their paper, and have the parameters,
state-dict keys and outputs of the public copies.

This page is made by `python -m netbuild.author.gallery`.
"""


def write_page() -> str:
    """Return the text of the page."""
    return "\n".join([_HEAD, *(line for family in list_families() for line in _write_family(family))])


def _write_family(family: str) -> Iterator[str]:
    names = [n for n in sorted(registry.packaged_names(), key=str.lower) if _family(n) == family]
    if not names:
        return
    yield from (
        f"## {family[0].upper()}{family[1:]}",
        "",
        "| module | example row | what it does | paper |",
        "|---|---|---|---|",
    )
    yield from (_write_line(name) for name in names)
    yield ""


def _family(name: str) -> str:
    return find_family(name, registry.get_factory(name))


def _write_line(name: str) -> str:
    factory = registry.get_factory(name)
    entry = make_entry(factory, name)
    others = [alias for alias, target in pack.ALIASES.items() if target == name]
    also = f" ({', '.join(f'`{alias}`' for alias in others)})" if others else ""
    doc = entry.doc.replace("|", "\\|")
    return f"| `{name}`{also} | `{make_example_row(name, factory)}` | {doc} | {_link_paper(entry)} |"


def _link_paper(entry: Entry) -> str:
    kind, _, number = entry.paper.partition(" ")
    home = {"arXiv": "https://arxiv.org/abs", "doi": "https://doi.org"}
    return f"[{entry.paper}]({home[kind]}/{number})" if number else ""


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
