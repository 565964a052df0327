"""Findings of a check, and the warnings that need no shapes. Imports no torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from netbuild.errors import NetbuildError, Where
from netbuild.grammar.spec import Spec


@dataclass(frozen=True)
class Finding:
    """An error or a warning at a place."""

    level: str
    message: str
    where: Where | None
    hint: str = ""

    def render(self) -> str:
        """Return the finding as text for a terminal."""
        return NetbuildError(self.message, self.where, self.hint).render(self.level)

    def to_dict(self, file: str) -> dict[str, Any]:
        """Return the finding as data for an editor; lines and columns count from 1."""
        place = self.where
        return {
            "file": place.file if place else file,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "level": self.level,
            "message": self.message,
            "hint": self.hint,
        }


def convert_errors(errors: Iterable[NetbuildError]) -> list[Finding]:
    """Convert an error, and the errors found with it, to findings."""
    return [Finding("error", e.message, e.where, e.hint) for error in errors for e in error.all()]


def find_text_warnings(spec: Spec) -> Iterator[Finding]:
    """Yield the warnings of the reader, and a warning for each quoted None, True or False."""
    for warning in spec.warnings:
        yield Finding("warning", warning.message, warning.where, warning.hint)
    for row in spec.rows:
        for node in row.args:
            if node.quoted and node.value in ("None", "True", "False"):
                word = {"None": "None", "True": "true", "False": "false"}[node.value]
                message = f"{row.label}: '{node.value}' in quotes is read as {word}, not as a text"
                yield Finding("warning", message, node.where, f"write {word} without quotes")


def find_hiding_blocks(spec: Spec, packaged: set[str]) -> Iterator[Finding]:
    """Yield a warning for each block that has the name of a packaged module and so hides it."""
    for block in spec.blocks.values():
        if block.name in packaged:
            message = f"the block '{block.name}' hides the packaged module of this name"
            yield Finding("warning", message, block.node.where)


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings: errors first, then by place; duplicates are removed."""
    found: dict[tuple[Any, ...], Finding] = {}
    for finding in findings:
        found.setdefault((finding.level, finding.where, finding.message), finding)
    return sorted(found.values(), key=_sort_key)


def _sort_key(finding: Finding) -> tuple[str, int, int]:
    place = finding.where
    return finding.level, place.line if place else 0, place.column if place else 0
