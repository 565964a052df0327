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


def of_errors(errors: Iterable[NetbuildError]) -> list[Finding]:
    """Convert an error, and the errors found with it, to findings."""
    return [Finding("error", e.message, e.where, e.hint) for error in errors for e in error.all()]


def of_text(spec: Spec) -> Iterator[Finding]:
    """Warnings of the reading, and words in quotes that are read as words."""
    for warning in spec.warnings:
        yield Finding("warning", warning.message, warning.where, warning.hint)
    for row in spec.rows:
        for node in row.args:
            if node.quoted and node.value in ("None", "True", "False"):
                word = {"None": "None", "True": "true", "False": "false"}[node.value]
                message = f"{row.label}: the text '{node.value}' is read as the word"
                yield Finding("warning", message, node.where, f"write {word}")


def of_names(spec: Spec, packaged: set[str]) -> Iterator[Finding]:
    """Return a warning for each block with the name of a packaged module, which it hides."""
    for block in spec.blocks.values():
        if block.name in packaged:
            message = f"the block '{block.name}' hides the packaged module of this name"
            yield Finding("warning", message, block.node.where)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings: errors first, then by place; duplicates are removed."""
    found: dict[tuple[Any, ...], Finding] = {}
    for finding in findings:
        found.setdefault((finding.level, finding.where, finding.message), finding)
    return sorted(found.values(), key=_order)


def _order(finding: Finding) -> tuple[str, int, int]:
    place = finding.where
    return finding.level, place.line if place else 0, place.column if place else 0
