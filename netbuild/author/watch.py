"""Summarises a network file again whenever it, or a file that it depends on, is saved."""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from netbuild.author.findings import Finding, of_errors
from netbuild.errors import NetbuildError
from netbuild.grammar.extends import bases
from netbuild.grammar.spec import Spec, load
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import own as modules
from netbuild.modules.gather import load_own_modules
from netbuild.report.rows import Report
from netbuild.report.summary import summarize_graph
from netbuild.report.units import giga

PAUSE = 0.02  # seconds between two looks at the files' stamps
SETTLE = 0.1  # for a file that is gone or empty to come back: some editors empty it first, or write a new one

Stamp = tuple[int, int, int] | None  # of a file: time, size and inode; None where there is none
Trusted = Callable[[Path], bool]


@dataclass(frozen=True)
class Wanted:
    """The options of a watch, those of `netbuild.report.summary.summarize`."""

    options: Options
    set: Sequence[str] = ()
    modules: Sequence[str] = ()
    trusted: Trusted = lambda _: False
    flops: str = "torch"
    fused: bool = False
    batch: int = 1
    depth: int = 1


@dataclass(frozen=True)
class Look:
    """The result of one reading of the file: a summary, or its errors."""

    summary: Report | None
    findings: tuple[Finding, ...]
    began: float  # by time.perf_counter
    change: str = ""  # against the last summary before


class Watch:
    """A network file that is watched, with the options of its summary.

    Args:
        path: of the file.
        wanted: scale and other options.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.wanted = path, wanted
        self.known: dict[Path, Stamp] = {path: None}  # files that the last look depends on, as they were before it
        self._totals: tuple[int, int] | None = None
        self._code: dict[Path, Stamp] = {}

    def looks(self) -> Iterator[Look]:
        """Yield a result now and one after each save, forever; saves during a reading are merged into one."""
        while True:
            look = self._look(time.perf_counter())
            if stamps(self.known) == self.known:
                yield self._compared(look)
                del look
                gc.collect()  # of the graph before: it has cycles
                wait(self.known, self.path)

    def _look(self, began: float) -> Look:
        self.known = stamps(self.known)
        needed = {self.path, *bases(self.path), *_code(self.wanted.modules)}
        self._note(needed)
        self._forget_code()
        try:
            if not self.path.is_file():
                raise NetbuildError(f"{self.path}: there is no such file", hint="it is shown once it is there again")
            spec = load(self.path, self.wanted.set)
            needed |= {*_code(_imports(spec))}
            self._note(needed)
            look = Look(self._summary(spec), (), began)
            self.known = {file: stamp for file, stamp in self.known.items() if file in needed}
            return look
        except NetbuildError as error:  # what it imports may be unknown: all that was known goes on counting
            return Look(None, tuple(of_errors([error])), began)

    def _note(self, files: Iterable[Path]) -> None:
        """Record the time stamps of further files before they are read."""
        for file in files:
            if file not in self.known:
                self.known[file] = _stamp(file)

    def _forget_code(self) -> None:
        """Reload own modules if any of their files has changed."""
        code = {file: stamp for file, stamp in self.known.items() if file.suffix not in (".yaml", ".yml")}
        if code != self._code:
            modules.forget()
        self._code = code

    def _summary(self, spec: Spec) -> Report:
        w = self.wanted
        own = load_own_modules(spec, w.modules, w.trusted)
        graph = resolve(spec, replace(w.options, modules=own))
        return summarize_graph(graph, flops=w.flops, fuse=w.fused, batch=w.batch, depth=w.depth)

    def _compared(self, look: Look) -> Look:
        if look.summary is None:
            return look
        now = (look.summary.totals["params"], look.summary.totals["flops"])
        before, self._totals = self._totals, now
        return replace(look, change=change(before, now) if before else "")


def change(before: tuple[int, int], now: tuple[int, int]) -> str:
    """Format the change of parameters and FLOPs since the last result: ``+1,234 params, +0.1 GFLOPs``."""
    params, flops = now[0] - before[0], now[1] - before[1]
    if not params and not flops:
        return "params and GFLOPs as before"
    return f"{params:+,} params, {'-' if flops < 0 else '+'}{giga(abs(flops))} GFLOPs"


def _imports(spec: Spec) -> Iterator[Path]:
    for item in spec.imports:
        yield Path(item.node.source.name).parent / item.path


def _code(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Return the files of own modules and their folders, in which new files may appear."""
    for path in map(Path, paths):
        yield path
        if path.is_dir():
            yield from modules.code_files(path)


def stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    """Return the time stamps of files."""
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> Stamp:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def wait(known: dict[Path, Stamp], main: Path) -> None:
    """Wait until a file's stamp changes; a main file that is missing or empty gets a moment to reappear."""
    while (now := stamps(known)) == known:
        time.sleep(PAUSE)
    until = time.perf_counter() + SETTLE
    while _is_between(now[main]) and not _is_between(known[main]) and time.perf_counter() < until:
        time.sleep(PAUSE / 4)
        now = stamps(known)


def _is_between(stamp: Stamp) -> bool:
    return stamp is None or stamp[1] == 0


def begin() -> None:
    """Configure a process that reads files repeatedly: it collects garbage between readings and writes no byte code."""
    # Byte code is held to be valid for a second after a save of the same size.
    sys.dont_write_bytecode = True
    gc.disable()


def settle() -> None:
    """Freeze the objects that exist now, so that garbage collection skips torch's."""
    gc.collect()
    gc.freeze()
