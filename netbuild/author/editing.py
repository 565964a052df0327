"""Write edits of a network: a file that extends it, with the module of some rows swapped, or with rows inserted."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netbuild.author.diff import Diff, diff
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.locate import find_checkpoint, locate, packaged_architectures
from netbuild.grammar.nodes import Node, parse
from netbuild.grammar.rows import Row, evaluate_argument
from netbuild.grammar.spec import Spec, load, read_spec
from netbuild.grammar.writing import format_flow, format_text
from netbuild.graph.bind import accepts_value
from netbuild.graph.block_factory import make_factory
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options, make_config
from netbuild.graph.resolver import resolve
from netbuild.graph.scope import Scope
from netbuild.graph.written_channels import LEAST_WIDTH, choose_form
from netbuild.modules import registry
from netbuild.modules.factory import Factory, Parameter
from netbuild.modules.loading import load_custom_modules
from netbuild.report.summary import Summary, summarize_graph
from netbuild.roles import SUPPLIED, Width
from netbuild.system.files import check_parent, write_text

STDOUT_NAME = "edited.yaml"  # of a file that is only printed
_RANGE = re.compile(r"(\d{1,6})\s*(?:-|:|\.\.)\s*(\d{1,6})")
# Names that torch and timm use for parameters which netbuild's layers call otherwise.
_SHORT_NAMES = {"kernel_size": "k", "stride": "s", "padding": "p", "groups": "g", "dilation": "d"}


@dataclass(frozen=True)
class EditingOptions:
    """The options that a file is edited and resolved with.

    Attributes:
        out: the file to write; None to return its text only.
        args: arguments of the new rows as YAML: a list of all, or a mapping that is added to those that are kept.
        scale: an entry of the file's scales.
        imgsz: height and width of the image in pixels.
        modules: Python files or folders with custom modules; their code is run.
        trusted: whether code that the file imports may run, by path.
    """

    out: Path | None = None
    args: str | None = None
    scale: str | None = None
    imgsz: tuple[int, int] | None = None
    modules: Sequence[str | Path] = ()
    trusted: Callable[[Path], bool] = lambda _: False


@dataclass(frozen=True)
class EditedFile:
    """The text of a file that extends another, and the differences between the two networks.

    Attributes:
        text: the text of the file.
        edits: its edits as YAML, one each.
        rows: numbers of the base's rows that they name.
        diff: the differences; None where the base itself does not resolve.
        notes: remarks for the user.
    """

    text: str
    edits: tuple[str, ...]
    rows: tuple[int, ...]
    diff: Diff | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``--json``."""
        differences = self.diff.to_dict() if self.diff else None
        return {"text": self.text, "rows": list(self.rows), "edits": list(self.edits), "diff": differences}


def swap(file: str, rows: Sequence[str], module: str, options: EditingOptions) -> EditedFile:
    """Replace the module of rows; the arguments that the new module takes too are kept, the width first.

    Args:
        file: a network file, or the name of a packaged one.
        rows: row names, row numbers, ranges such as ``4-8``, or module names, which mean all their rows.
        module: the name of the new module.
        options: see `EditingOptions`.

    Raises:
        NetbuildError: if a row does not exist, or at the rows of the new network that do not resolve; nothing is
            written then.
    """
    base = _Base(file, options)
    new = base.find_new_factory(module)
    selected = select_rows(base.spec, rows)
    edits = []
    for row in selected:
        base.check_editable(row)
        arguments = base.keep_arguments(row, new, only_width=False)
        written = _format_row(_format_source(row), row, module, arguments)
        edits.append(f"{{replace: {row.index}, row: {written}}}")
    numbers = ", ".join(str(row.index) for row in selected)
    return base.finish(f"{module} in row{'s' * (len(selected) > 1)} {numbers}", edits, selected)


def insert(file: str, after: Sequence[str], before: Sequence[str], module: str, options: EditingOptions) -> EditedFile:
    """Insert a row after or before others; whatever read a row before then reads the row that comes after it.

    Args:
        file: a network file, or the name of a packaged one.
        after: rows to insert a row after, as for `swap`.
        before: rows to insert a row before; such a row reads one other row, or the one above.
        module: the name of the inserted module.
        options: see `EditingOptions`.

    Raises:
        NetbuildError: as for `swap`.
    """
    base = _Base(file, options)
    new = base.find_new_factory(module)
    edits, selected = [], []
    for row in select_rows(base.spec, after):
        inserted = f"[-1, 1, {module}, {base.keep_arguments(row, new, only_width=True)}]"
        edits.append(base.insert_after(row, inserted))
        selected.append(row)
    for row in select_rows(base.spec, before):
        edits.append(base.insert_before(row, module, new))
        selected.append(row)
    if not edits:
        raise NetbuildError("the place to insert a row is missing", hint="name it: --after ROW or --before ROW")
    places = [f"{word} {', '.join(rows)}" for word, rows in (("after", after), ("before", before)) if rows]
    return base.finish(f"{module} {' and '.join(places)}", edits, selected)


def select_rows(spec: Spec, texts: Sequence[str]) -> list[Row]:
    """Select rows of a file, in its order.

    Args:
        spec: the file.
        texts: row names, row numbers, ranges such as ``4-8``, or module names; commas separate several in one text.

    Raises:
        NetbuildError: if there is no such row.
    """
    selected: set[int] = set()
    for text in (part.strip() for joined in texts for part in joined.split(",")):
        selected |= _find_rows(spec, text)
    return [row for row in spec.rows if row.index in selected]


def _find_rows(spec: Spec, text: str) -> set[int]:
    named = {row.index for row in spec.rows if row.name == text}
    if found := named or {row.index for row in spec.rows if row.module == text}:
        return found
    numbers = _RANGE.fullmatch(text) or re.fullmatch(r"(\d{1,6})", text)
    if numbers:
        first, last = int(numbers[1]), int(numbers[numbers.re.groups])
        if first <= last < len(spec.rows):
            return set(range(first, last + 1))
        raise NetbuildError(f"row {text} does not exist: {spec.path.name} has rows 0..{len(spec.rows) - 1}")
    names = [row.name for row in spec.rows if row.name]
    modules = list(dict.fromkeys(row.module for row in spec.rows))
    hint = did_you_mean(text, [*names, *modules]) or f"modules: {', '.join(modules)}; names: {', '.join(names) or '-'}"
    raise NetbuildError(f"{spec.path.name} has no row with the name or the module '{text}'", hint=hint)


@dataclass(frozen=True)
class _Argument:
    """An argument of a row as it is written, with its evaluated value; ``is_width`` if it is the row's width."""

    node: Node
    value: Any
    is_width: bool


class _Base:
    """The network file that is edited.

    Args:
        file: its path or name.
        options: see `EditingOptions`.
    """

    def __init__(self, file: str, options: EditingOptions) -> None:
        self.options = options
        self.path, self.letter = locate(file)
        if find_checkpoint(self.path):
            hint = f"write its file first: netbuild show {file} > net.yaml"
            raise NetbuildError(f"{file} is a checkpoint, and edits extend a YAML file", hint=hint)
        if options.out is not None:
            check_parent(options.out)
            _check_free(options.out)
        self.spec = load(self.path)
        self.custom = load_custom_modules(self.spec, options.modules, options.trusted)
        self.scope: Scope = make_config(self.spec, self._network_options()).scope

    def _network_options(self) -> Options:
        letter = None if self.options.scale else self.letter
        return Options(self.options.scale, letter, imgsz=self.options.imgsz, modules=self.custom)

    # -- arguments ----------------------------------------------------------------------------------------------------

    def find_new_factory(self, module: str) -> Factory:
        """Find the factory of the new module: a block of the file, a custom module or a packaged one.

        Raises:
            NetbuildError: if there is none.
        """
        block = self.spec.blocks.get(module)
        return make_factory(block, self.scope) if block else registry.find_factory(module, self.custom)

    def _name_arguments(self, row: Row) -> dict[str, _Argument]:
        """Return the arguments of a row by parameter name."""
        try:
            factory = self.find_new_factory(row.module if row.module in self.custom else choose_form(row))
        except NetbuildError:  # of an unknown module only the width can be guessed
            is_width = bool(row.args) and type(row.args[0].value) is int and row.args[0].value >= LEAST_WIDTH
            named = [(Parameter("", Width, (), None, False), row.args[0])] if is_width else []
        else:
            is_full = factory.foreign and row.args
            free = [p for p in factory.parameters if is_full or p.role not in SUPPLIED]
            # Forks write the channels of the source before the module's own arguments.
            args = row.args[1:] if len(row.args) > len(free) else row.args
            by_name = {p.name: p for p in factory.parameters}
            named = [*zip(free, args, strict=False), *((by_name[k], v) for k, v in row.kwargs if k in by_name)]
        return {
            _SHORT_NAMES.get(p.name, p.name): _Argument(
                node, evaluate_argument(node, self.scope.names), p.role is Width
            )
            for p, node in named
        }

    def keep_arguments(self, row: Row, new: Factory, only_width: bool) -> str:
        """Format the arguments of a new module: those of a row that it takes too, and those of the options.

        Args:
            row: the row that is replaced, or that comes before the new one.
            new: builds the new module.
            only_width: whether to keep the width only.
        """
        given = parse(self.options.args, "--args") if self.options.args is not None else None
        if given is not None and isinstance(given.value, list):
            return format_flow(given)
        if given is not None and not isinstance(given.value, dict):
            raise given.error("the arguments must be a list such as [8] or a mapping such as {k: 5}")
        old = self._name_arguments(row)
        width = next((argument for argument in old.values() if argument.is_width), None)
        free = [p for p in new.parameters if p.role not in SUPPLIED]
        kept: dict[str, Node] = {}
        for p in free:
            argument = width if p.role is Width else old.get(_SHORT_NAMES.get(p.name, p.name))
            if argument is not None and (p.role is Width or (not only_width and accepts_value(p, argument.value))):
                kept[p.name] = argument.node
        kept.update(given.value if given is not None else {})
        return _format_arguments(kept, [] if new.foreign else [p.name for p in free])

    # -- edits --------------------------------------------------------------------------------------------------------

    def check_editable(self, row: Row) -> None:
        """Refuse a row that runs the module of another one."""
        if row.shares is not None:
            hint = f"name row {row.shares} instead, or write the edit by hand"
            raise NetbuildError(f"row {row.index} shares the module of row {row.shares}", row.where, hint)

    def insert_after(self, row: Row, inserted: str) -> str:
        """Write the edit that inserts a row after another, for all its readers."""
        if self._is_read_by_next_only(row):
            return f"{{insert_after: {row.index}, row: {inserted}}}"
        # The last of the rows that replace a row takes its name and its readers.
        self.check_editable(row)
        if any(other.shares == row.index for other in self.spec.rows):
            raise NetbuildError(f"rows share the module of row {row.index}", row.where, "write the edit by hand")
        return f"{{replace: {row.index}, rows: [{_format_old_row(row, _format_source(row))}, {inserted}]}}"

    def insert_before(self, row: Row, module: str, new: Factory) -> str:
        """Write the edit that inserts a row between another and its source."""
        items = row.written_from if isinstance(row.written_from, list) else [row.written_from]
        above = next((other for other in self.spec.rows if other.index == row.sources[0]), row)
        arguments = self.keep_arguments(above, new, only_width=True)
        if -1 in items:
            return f"{{insert_before: {row.index}, row: [-1, 1, {module}, {arguments}]}}"
        if len(items) > 1:
            hint = f"insert after one of them: --after {row.sources[0]}"
            raise NetbuildError(
                f"{row.label} reads several rows, so that the one to insert is unclear", row.where, hint
            )
        self.check_editable(row)
        inserted = f"[{_format_source(row)}, 1, {module}, {arguments}]"
        return f"{{replace: {row.index}, rows: [{inserted}, {_format_old_row(row, '-1')}]}}"

    def _is_read_by_next_only(self, row: Row) -> bool:
        """Whether the row below reads a row as the one above, and nothing else reads it."""
        if any(head.row == row.index for head in self.spec.heads):
            return False
        readers = [other for other in self.spec.rows if row.index in (*other.sources, other.shares)]
        if [other.index for other in readers] != [row.index + 1] or readers[0].shares == row.index:
            return not readers
        written = readers[0].written_from
        items = written if isinstance(written, list) else [written]
        read = [item for item, source in zip(items, readers[0].sources, strict=True) if source == row.index]
        return read == [-1]

    # -- the new file -------------------------------------------------------------------------------------------------

    def finish(self, title: str, edits: Sequence[str], rows: Sequence[Row]) -> EditedFile:
        """Resolve the network with its edits, compare it with the base, and write its file."""
        path = self.options.out or Path(STDOUT_NAME)
        name = self._name_for(path)
        lines = [f"# {path.name}: {Path(name).name} with {title}", f"extends: {format_text(name)}"]
        lines += ["edits:", *(f"  - {edit}" for edit in edits)]
        text = "\n".join(lines) + "\n"
        after = self._summarize(read_spec(text, path))
        notes, before = [], None
        try:
            before = self._summarize(self.spec)
        except NetbuildError as error:  # such as an unknown module, which is swapped
            notes = [f"no differences are shown, because {self.path.name} itself does not resolve: {error.message}"]
        if self.options.out is not None:
            _check_free(path)
            write_text(path, text)
        found = None
        if before is not None:
            found = diff(before, after)
            notes = _note_changed_heads(before.graph, after.graph)
        return EditedFile(text, tuple(edits), tuple(row.index for row in rows), found, tuple(notes))

    def _name_for(self, path: Path) -> str:
        """Return the name by which a file at ``path`` extends the base."""
        packaged = packaged_architectures().get(self.path.name)
        if packaged is not None and packaged.resolve() == self.path.resolve():
            return self.path.name  # found by its name from any folder
        return Path(os.path.relpath(self.path.resolve(), path.resolve().parent)).as_posix()

    def _summarize(self, spec: Spec) -> Summary:
        return summarize_graph(resolve(spec, self._network_options()))


def _note_changed_heads(before: Graph, after: Graph) -> list[str]:
    """Note the heads whose class branch differs because the file has no blocks of YOLO11 any more, or now has some."""
    if before.scope.settings["legacy"] == after.scope.settings["legacy"]:
        return []
    heads = [layer.row.label for layer in after.layers if "legacy" in layer.bound.call]
    reason = "its form follows the blocks of the file, such as C3k2"
    return [f"the class branch of {label} changes too: {reason}" for label in heads]


def _check_free(path: Path) -> None:
    if path.exists():
        raise NetbuildError(f"{path} exists already", hint="choose another name")


def _format_arguments(kept: Mapping[str, Node], names: Sequence[str]) -> str:
    """Format arguments: by position as far as they follow one another from the first, then by keyword."""
    positional: list[str] = []
    for name in names:
        if name not in kept:
            break
        positional.append(format_flow(kept[name]))
    keywords = [f"{name}: {format_flow(node)}" for name, node in kept.items() if name not in names[: len(positional)]]
    return f"[{', '.join([*positional, *(['{' + ', '.join(keywords) + '}'] if keywords else [])])}]"


def _format_source(row: Row) -> str:
    """Format a row's sources for an edit, where a number counts the base's rows and only -1 is relative."""
    items = row.written_from if isinstance(row.written_from, list) else [row.written_from]
    texts = [
        str(source if type(item) is int and item != -1 else item)
        for item, source in zip(items, row.sources, strict=True)
    ]
    return f"[{', '.join(texts)}]" if isinstance(row.written_from, list) else texts[0]


def _format_row(source: str, row: Row, module: str, arguments: str) -> str:
    repeats = format_flow(row.n) if isinstance(row.n, Node) else str(row.n)
    return f"[{source}, {repeats}, {module}, {arguments}]"


def _format_old_row(row: Row, source: str) -> str:
    """Format a row with other sources, without its name."""
    keywords = ", ".join(f"{name}: {format_flow(node)}" for name, node in row.kwargs)
    arguments = [*map(format_flow, row.args), *([f"{{{keywords}}}"] if keywords else [])]
    return _format_row(source, row, row.module_node.value, f"[{', '.join(arguments)}]")
