"""Summarises a network file again whenever it, or a file that it depends on, is saved."""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from netbuild.author.findings import Finding, convert_errors
from netbuild.errors import NetbuildError
from netbuild.grammar.extends import find_bases
from netbuild.grammar.spec import Spec, load
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import custom as modules
from netbuild.modules.loading import load_custom_modules
from netbuild.modules.source import code_files
from netbuild.report.rows import Report
from netbuild.report.summary import summarize_graph
from netbuild.report.units import giga

POLL_INTERVAL = 0.02  # seconds between two readings of the files' stamps
REAPPEAR_TIME = 0.1  # seconds that a missing or empty file gets: some editors truncate or delete it before they write

Stamp = tuple[int, int, int] | None  # a file's modification time, size and inode; None if it is missing
Trusted = Callable[[Path], bool]


@dataclass(frozen=True)
class WatchOptions:
    """The options of a watch, those of `netbuild.report.summary.summarize`."""

    network: Options
    set: Sequence[str] = ()
    modules: Sequence[str] = ()
    trusted: Trusted = lambda _: False
    flops: str = "torch"
    fused: bool = False
    batch: int = 1
    depth: int = 1


@dataclass(frozen=True)
class Snapshot:
    """The result of one reading of the file: a summary, or its errors."""

    summary: Report | None
    findings: tuple[Finding, ...]
    began: float  # the time when reading began, by time.perf_counter
    change: str = ""  # of the totals since the previous summary, as text


class Watcher:
    """Watches a network file.

    Args:
        path: the file.
        options: the options of its summary.
    """

    def __init__(self, path: Path, options: WatchOptions) -> None:
        self.path, self.options = path, options
        # The files that the last snapshot depends on, with their stamps from before they were read: a save during
        # the reading is noticed.
        self.known: dict[Path, Stamp] = {path: None}
        self._totals: tuple[int, int] | None = None
        self._code: dict[Path, Stamp] = {}

    def snapshots(self) -> Iterator[Snapshot]:
        """Yield a snapshot now and one after each save, forever; saves during a reading are merged into one."""
        while True:
            snapshot = self._read(time.perf_counter())
            if read_stamps(self.known) == self.known:
                yield self._compare(snapshot)
                del snapshot
                gc.collect()  # frees the old graph, which has reference cycles
                wait_for_save(self.known, self.path)

    def _read(self, began: float) -> Snapshot:
        self.known = read_stamps(self.known)
        needed = {self.path, *find_bases(self.path), *_code_files(self.options.modules)}
        self._add_files(needed)
        self._forget_changed_code()
        try:
            if not self.path.is_file():
                raise NetbuildError(f"{self.path}: there is no such file", hint="it is shown when it exists again")
            spec = load(self.path, self.options.set)
            needed |= {*_code_files(_imported_paths(spec))}
            self._add_files(needed)
            snapshot = Snapshot(self._summarize(spec), (), began)
            self.known = {file: stamp for file, stamp in self.known.items() if file in needed}
            return snapshot
        except NetbuildError as error:  # the file's imports may be unknown now, so files known before stay watched
            return Snapshot(None, tuple(convert_errors([error])), began)

    def _add_files(self, files: Iterable[Path]) -> None:
        """Record the stamps of further files before they are read."""
        for file in files:
            if file not in self.known:
                self.known[file] = _read_stamp(file)

    def _forget_changed_code(self) -> None:
        """Reload custom modules if any of their files has changed."""
        code = {file: stamp for file, stamp in self.known.items() if file.suffix not in (".yaml", ".yml")}
        if code != self._code:
            modules.unload_modules()
        self._code = code

    def _summarize(self, spec: Spec) -> Report:
        o = self.options
        custom = load_custom_modules(spec, o.modules, o.trusted)
        graph = resolve(spec, replace(o.network, modules=custom))
        return summarize_graph(graph, flops=o.flops, fuse=o.fused, batch=o.batch, depth=o.depth)

    def _compare(self, snapshot: Snapshot) -> Snapshot:
        """Add the change since the previous summary."""
        if snapshot.summary is None:
            return snapshot
        now = (snapshot.summary.totals["params"], snapshot.summary.totals["flops"])
        before, self._totals = self._totals, now
        return replace(snapshot, change=format_change(before, now) if before else "")


def format_change(before: tuple[int, int], now: tuple[int, int]) -> str:
    """Format the change of parameters and FLOPs since the last result: ``+1,234 params, +0.1 GFLOPs``."""
    params, flops = now[0] - before[0], now[1] - before[1]
    if not params and not flops:
        return "params and GFLOPs as before"
    return f"{params:+,} params, {'-' if flops < 0 else '+'}{giga(abs(flops))} GFLOPs"


def _imported_paths(spec: Spec) -> Iterator[Path]:
    for item in spec.imports:
        yield Path(item.node.source.name).parent / item.path


def _code_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the files of custom modules, and their folders because new files may appear in these."""
    for path in map(Path, paths):
        yield path
        if path.is_dir():
            with suppress(NetbuildError):  # loading the modules reports it
                yield from code_files(path)


def read_stamps(files: Iterable[Path]) -> dict[Path, Stamp]:
    """Return the stamps of files."""
    return {file: _read_stamp(file) for file in files}


def _read_stamp(file: Path) -> Stamp:
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def wait_for_save(known: dict[Path, Stamp], main: Path) -> None:
    """Wait until a file's stamp changes; a main file that is missing or empty gets a moment to reappear."""
    while (now := read_stamps(known)) == known:
        time.sleep(POLL_INTERVAL)
    until = time.perf_counter() + REAPPEAR_TIME
    while _is_missing_or_empty(now[main]) and not _is_missing_or_empty(known[main]) and time.perf_counter() < until:
        time.sleep(POLL_INTERVAL / 4)
        now = read_stamps(known)


def _is_missing_or_empty(stamp: Stamp) -> bool:
    return stamp is None or stamp[1] == 0


def configure_process() -> None:
    """Configure a process that reads files repeatedly: it collects garbage between readings and writes no byte code."""
    # Python would reuse the byte code of a file that was saved twice within a second with the same size.
    sys.dont_write_bytecode = True
    gc.disable()


def freeze_objects() -> None:
    """Freeze the objects that exist now, so that garbage collection skips torch's."""
    gc.collect()
    gc.freeze()
