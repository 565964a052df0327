"""A network as a picture (SVG), a page (HTML) or a text that other programs draw (Mermaid, DOT)."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Unpack

from netbuild.errors import NetbuildError
from netbuild.graph.opening import NetworkOptions
from netbuild.report.rows import Report
from netbuild.report.summary import Summary, summarize
from netbuild.system.files import write_text

EVERY = 64  # levels of submodules: a page opens all of them


def _form(module: str, function: str) -> Callable[[Report], str]:
    def make(summary: Report) -> str:
        return getattr(import_module(f"netbuild.report.diagram.{module}"), function)(summary)

    return make


FORMS: dict[str, Callable[[Report], str]] = {
    ".svg": _form("svg", "picture"),
    ".html": _form("page", "page"),
    ".mmd": _form("text", "mermaid"),
    ".dot": _form("text", "dot"),
}


def ending_of(out: str | Path) -> str:
    """The ending of a file to be drawn into.

    Raises:
        NetbuildError: if it is none of `FORMS`.
    """
    ending = Path(out).suffix.lower()
    if ending not in FORMS:
        hint = "a picture ends in .svg, a page in .html, a text in .mmd (Mermaid) or .dot (Graphviz)"
        raise NetbuildError(f"{out}: its ending '{ending}' is no form of a graph", hint=hint)
    return ending


def summarize_for(
    ending: str, file: str | Path, flops: str = "torch", fused: bool = False, **options: Unpack[NetworkOptions]
) -> Summary:
    """The summary that a form of a graph shows; arguments and errors are those of `netbuild.summarize`.

    Raises:
        MissingExtraError: at once, if the form needs the layout library and it is not installed.
    """
    if ending in (".svg", ".html"):
        import_module("netbuild.report.diagram.layout").engine()
    return summarize(file, flops=flops, fused=fused, depth=EVERY if ending == ".html" else 1, **options)


def draw(
    file: str | Path,
    out: str | Path,
    *,
    flops: str = "torch",
    fused: bool = False,
    **options: Unpack[NetworkOptions],
) -> Summary:
    """Draw a network's architecture into a file; its ending says how: ``.svg``, ``.html``, ``.mmd`` or ``.dot``.

    Args:
        file, flops, fused, options: as for `netbuild.summarize`.
        out: the file to write; it appears whole or not at all.

    Returns:
        The summary that was drawn.

    Raises:
        NetbuildError: for mistakes in the network's file, an unknown ending, or a file that cannot be written.
        MissingExtraError: if a picture or a page is asked for and the layout library is not installed.
    """
    ending = ending_of(out)
    summary = summarize_for(ending, file, flops, fused, **options)
    save(FORMS[ending](summary), out)
    return summary


def save(text: str, out: str | Path) -> None:
    """Write a text into a file that appears whole or not at all.

    Raises:
        NetbuildError: if it cannot be written.
    """
    write_text(Path(out), text)
