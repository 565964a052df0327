"""The list of packaged architectures with sizes, costs and papers, stored in a file so that it is shown at once.

``python -m netbuild.author.zoo`` measures the architectures and writes the file again; tests fail when it is out of
date.
"""

import fnmatch
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.locate import packaged_architectures, scaled_name
from netbuild.grammar.spec import load
from netbuild.system.tables import Table

FILE = Path(__file__).with_name("zoo.json")
_PAPER = re.compile(r"(?:arXiv|doi) (\d{4}\.\d{4,5}|10\.\d{4,5}/[\w.()/-]*\w)")


@dataclass(frozen=True)
class Entry:
    """A packaged architecture. ``sizes`` maps each scale, or "" without scales, to its parameters and FLOPs."""

    name: str
    family: str
    task: str | None
    imgsz: tuple[int, int]
    sizes: dict[str, tuple[int, int]]
    paper: str | None
    title: str

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as data, with sizes as a list of mappings."""
        sizes = [{"scale": s or None, "params": p, "flops": f} for s, (p, f) in self.sizes.items()]
        return {**asdict(self), "imgsz": list(self.imgsz), "sizes": sizes}


def measure(name: str, path: Path) -> Entry:
    """Resolve an architecture at every scale and return its entry."""
    from netbuild.graph.options import Options
    from netbuild.graph.resolver import resolve

    spec = load(path)
    graphs = {scale or "": resolve(spec, Options(scale or None)) for scale in [s.name for s in spec.scales] or [""]}
    sizes = {
        scale: (sum(r.params for r in g.layers), sum(r.tally.flops("torch") for r in g.layers))
        for scale, g in graphs.items()
    }
    first = next(iter(graphs.values()))
    text = path.read_text(encoding="utf-8")
    return Entry(
        name.removesuffix(".yaml"), path.parent.name, first.task, first.imgsz, sizes, find_paper(path), find_title(text)
    )


def find_paper(path: Path) -> str | None:
    """Return the first arXiv number or DOI in a file's comments, or in those of the file that it extends."""
    text = path.read_text(encoding="utf-8")
    comments = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    found = _PAPER.search(comments)
    base = re.search(r"^extends: (\S+)", text, re.MULTILINE)
    if found:
        return found[1]
    return find_paper(packaged_architectures()[base[1]]) if base and base[1] in packaged_architectures() else None


def find_title(text: str) -> str:
    """Return the first sentence of a file's comment."""
    comments = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.lstrip("# "))
    return re.split(r"(?<=[a-z0-9)])[.:;] ", " ".join(comments).strip() + " ")[0].rstrip(" .:")


@cache
def load_entries() -> tuple[Entry, ...]:
    """Return all entries of the stored list."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    return tuple(
        Entry(**{**item, "imgsz": tuple(item["imgsz"]), "sizes": {s: tuple(v) for s, v in item["sizes"].items()}})
        for item in data
    )


def find(pattern: str | None, family: str | None, task: str | None) -> list[Entry]:
    """Return the architectures whose name matches or contains a pattern, of the given family and task.

    Raises:
        NetbuildError: if there is none.
    """
    found = [
        e for e in load_entries() if _matches(e.name, pattern) and family in (None, e.family) and task in (None, e.task)
    ]
    if found:
        return found
    families, tasks = (
        sorted({str(v) for v in values}) for values in zip(*((e.family, e.task) for e in load_entries()))
    )
    near = did_you_mean(pattern or family or task or "", [*(e.name for e in load_entries()), *families, *tasks])
    raise NetbuildError(
        "no packaged architecture matches", hint=near or f"families: {', '.join(families)}; tasks: {', '.join(tasks)}"
    )


def _matches(name: str, pattern: str | None) -> bool:
    return not pattern or pattern.lower() in name or fnmatch.fnmatch(name, pattern.lower())


def table_rows(entries: Iterable[Entry]) -> Iterator[list[str]]:
    """Yield the cells of each scale: name, family, task, parameters, GFLOPs, size, paper."""
    for entry in entries:
        for scale, (params, flops) in entry.sizes.items():
            size = "x".join(map(str, entry.imgsz))
            paper = _paper_label(entry.paper)
            name = scaled_name(entry.name, scale if len(entry.sizes) > 1 else "")
            yield [name, entry.family, entry.task or "", f"{params:,}", _billions(flops), size, paper]


def _is_doi(paper: str | None) -> bool:
    return bool(paper and paper.startswith("10.") and "/" in paper)


def _paper_label(paper: str | None) -> str:
    return f"{'doi' if _is_doi(paper) else 'arXiv'} {paper}" if paper else ""


HEADINGS = ["name", "family", "task", "parameters", "GFLOPs", "image", "paper"]


def as_table(entries: Iterable[Entry]) -> Table:
    """Return the list as a table for a terminal."""
    left = [index for index, name in enumerate(HEADINGS) if name not in ("parameters", "GFLOPs")]
    steps = [(HEADINGS.index(name), least) for name, least in (("family", 0), ("paper", 0), ("image", 0), ("task", 0))]
    return Table([HEADINGS, *table_rows(entries)], left, steps)


def as_markdown(entries: Iterable[Entry]) -> str:
    """Return the Markdown table of docs/zoo.md, one line per file."""
    lines = ["| file | task | scales | parameters | GFLOPs | image | paper |", "|---|---|---|---|---|---|---|"]
    for e in entries:
        params, flops = zip(*e.sizes.values())
        scales = " ".join(filter(None, e.sizes))
        home = "https://doi.org" if _is_doi(e.paper) else "https://arxiv.org/abs"
        paper = f"[{_paper_label(e.paper)}]({home}/{e.paper})" if e.paper else ""
        size = f"{e.imgsz[0]}" if e.imgsz[0] == e.imgsz[1] else "x".join(map(str, e.imgsz))
        spans = _value_range([_millions(p) for p in params]), _value_range([_billions(f) for f in flops])
        lines.append(f"| `{e.name}` | {e.task or ''} | {scales} | {spans[0]} | {spans[1]} | {size} | {paper} |")
    return "\n".join(lines)


def _billions(count: int) -> str:
    value = count / 1e9
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count:,}"


def _value_range(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else f"{values[0]} … {values[-1]}"


def to_json() -> str:
    """Measure all architectures and return the JSON file's content, one line each."""
    found = [measure(name, path) for name, path in packaged_architectures().items()]
    found.sort(key=lambda e: (e.family, e.name))
    # One line per architecture keeps the differences between two versions of the file readable.
    return "[\n" + ",\n".join(json.dumps(asdict(e), ensure_ascii=False) for e in found) + "\n]\n"


def update_table(page: str) -> str:
    """Return the text of docs/zoo.md with its table generated again."""
    begin, end = "<!-- zoo: made by python -m netbuild.author.zoo -->\n", "<!-- end of zoo -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{as_markdown(load_entries())}\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    FILE.write_text(to_json(), encoding="utf-8")
    page = Path("docs/zoo.md")
    page.write_text(update_table(page.read_text(encoding="utf-8")), encoding="utf-8")
