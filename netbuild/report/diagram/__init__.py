"""Draws a network as a picture (SVG), an interactive page (HTML), or as source for Mermaid or Graphviz."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Unpack

from netbuild.errors import NetbuildError
from netbuild.graph.opening import NetworkOptions
from netbuild.report.rows import Report
from netbuild.report.summary import Summary, summarize
from netbuild.system.files import write_text

ALL_LEVELS = 64  # levels of submodules: a page opens all of them


def _lazy_form(module: str, function: str) -> Callable[[Report], str]:
    """Return a function that imports its module when it is called."""

    def make(summary: Report) -> str:
        return getattr(import_module(f"netbuild.report.diagram.{module}"), function)(summary)

    return make


FORMS: dict[str, Callable[[Report], str]] = {
    ".svg": _lazy_form("svg", "to_svg"),
    ".html": _lazy_form("page", "page"),
    ".mmd": _lazy_form("text", "to_mermaid"),
    ".dot": _lazy_form("text", "to_dot"),
}


def check_ending(out: str | Path) -> str:
    """Return the ending of an output file, which selects the form.

    Raises:
        NetbuildError: if there is no such form in `FORMS`.
    """
    ending = Path(out).suffix.lower()
    if ending not in FORMS:
        hint = "a picture ends in .svg, a page in .html, a text in .mmd (Mermaid) or .dot (Graphviz)"
        raise NetbuildError(f"{out}: a graph cannot be written as '{ending}'", hint=hint)
    return ending


def summarize_for(
    ending: str, file: str | Path, flops: str = "torch", fused: bool = False, **options: Unpack[NetworkOptions]
) -> Summary:
    """Return the summary that a form shows; arguments and errors are those of `netbuild.summarize`.

    Raises:
        MissingExtraError: if the form needs the layout library and it is not installed; before the network is read.
    """
    if ending in (".svg", ".html"):
        import_module("netbuild.report.diagram.layout").import_graphlay()
    return summarize(file, flops=flops, fused=fused, depth=ALL_LEVELS if ending == ".html" else 1, **options)


def draw(
    file: str | Path,
    out: str | Path,
    *,
    flops: str = "torch",
    fused: bool = False,
    **options: Unpack[NetworkOptions],
) -> Summary:
    """Draw a network's architecture into a file, in the form of its ending: ``.svg``, ``.html``, ``.mmd`` or ``.dot``.

    Args:
        file, flops, fused, options: as for `netbuild.summarize`.
        out: the file, which is written atomically.

    Returns:
        The summary that was drawn.

    Raises:
        NetbuildError: for mistakes in the network's file, an unknown ending, or a file that cannot be written.
        MissingExtraError: for a picture or a page, if the layout library is not installed.
    """
    ending = check_ending(out)
    summary = summarize_for(ending, file, flops, fused, **options)
    save(FORMS[ending](summary), out)
    return summary


def save(text: str, out: str | Path) -> None:
    """Write a text atomically into a file.

    Raises:
        NetbuildError: if it cannot be written.
    """
    write_text(Path(out), text)
