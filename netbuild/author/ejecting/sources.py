"""Definitions gathered from modules as text: those that given classes need, and only these, each before its users."""

import ast
import importlib
import inspect
import re
import symtable
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from netbuild.errors import NetbuildError
from netbuild.modules.own import PREFIX

LAYERS = "netbuild.layers"
BUILDERS = "netbuild.modules.builders"
WIDTH = 120  # characters of a line
_KEPT = {"fuse"}  # methods that stay although nothing in the file but the network calls them
_IGNORED = re.compile(rb"  # (type: ignore|noqa)\b[^\n]*")
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITION = (*_FUNCTION, ast.ClassDef)

Key = tuple[str, str]  # module and name; of what is imported an empty module, and the dotted name


@dataclass(frozen=True)
class Import:
    """What an import binds a name to: a dotted name, and the statement that says so for a given name."""

    target: str
    statement: str  # with {} where a name after `as` may stand
    plain: str  # the name bound without `as`
    binds: str  # the name bound where it was found
    also: str = ""  # a statement that loads a submodule

    @property
    def top(self) -> str:
        """The package."""
        return self.target.split(".")[0]

    def line(self, name: str) -> str:
        """The statement that binds a name."""
        return self.statement.format("" if name == self.plain else f" as {name}")


@dataclass
class Definition:
    """A class, a function or a constant on its way into a file: its text, and what its global names mean."""

    key: Key
    text: str
    names: dict[str, Key]
    binds: str
    file: str = ""  # of an own module: where it comes from

    @property
    def is_block(self) -> bool:
        """Whether blank lines stand around it."""
        return isinstance(ast.parse(self.text).body[0], _DEFINITION)


class Module:
    """The text of a module and what its names are bound to.

    Args:
        name: dotted.
        text: its source.
        more: source whose definitions stand in place of those of the same names.
    """

    def __init__(self, name: str, text: str, more: str = "") -> None:
        self.name = name
        self.data = (text.rstrip() + "\n\n\n" + more if more else text).encode()
        self.tree = ast.parse(self.data)
        self.names: dict[str, ast.stmt | Import] = {}
        for statement in self.tree.body:
            self.names.update(_bound(statement, name))

    @cached_property
    def starts(self) -> list[int]:
        """Where each line begins, in bytes."""
        return [0, *(m.end() for m in re.finditer(rb"\n", self.data)), len(self.data)]

    def span(self, statement: ast.stmt) -> tuple[int, int]:
        """A statement's bytes, in whole lines, with its decorators and the comment right above it."""
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]) - 1
        while first and self.line(first - 1).lstrip().startswith(b"#"):
            first -= 1
        return self.starts[first], self.starts[statement.end_lineno or statement.lineno]

    def line(self, number: int) -> bytes:
        """A line's bytes, counted from 0."""
        return self.data[self.starts[number] : self.starts[number + 1]]

    def place(self, node: ast.expr) -> tuple[int, int]:
        """An expression's bytes."""
        begin = self.starts[node.lineno - 1] + node.col_offset
        return begin, self.starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)


def _bound(statement: ast.stmt, home: str) -> Iterator[tuple[str, ast.stmt | Import]]:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from _imported(statement, home)
    elif isinstance(statement, _DEFINITION):
        yield statement.name, statement
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, statement
            elif isinstance(node, _DEFINITION):
                yield node.name, statement
            elif isinstance(node, ast.alias):
                yield (node.asname or node.name).split(".")[0], statement


def _imported(statement: ast.Import | ast.ImportFrom, home: str) -> Iterator[tuple[str, Import]]:
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            module = _absolute(statement, home)
            form = f"from {module} import {alias.name}"
            name = alias.asname or alias.name
            yield name, Import(f"{module}.{alias.name}", form + "{}", alias.name, name)
        elif alias.asname:
            yield alias.asname, Import(alias.name, f"import {alias.name}" + "{}", alias.name, alias.asname)
        else:
            top = alias.name.split(".")[0]
            also = f"import {alias.name}" if alias.name != top else ""
            yield top, Import(top, f"import {top}" + "{}", top, top, also)


def _absolute(statement: ast.ImportFrom, home: str) -> str:
    if not statement.level:
        return statement.module or ""
    is_package = hasattr(sys.modules.get(home), "__path__")
    parts = home.split(".")
    base = parts[: len(parts) - statement.level + is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def is_ours(module: str) -> bool:
    """Whether a module's text goes into the file: netbuild's layers, and own modules."""
    top = module.split(".")[0]
    return top.startswith(PREFIX) or module == BUILDERS or (module + ".").startswith(LAYERS + ".")


@dataclass
class Gathered:
    """What a file takes over: definitions in order, imports by their target, and ``__future__`` features."""

    definitions: list[Definition]
    imports: dict[Key, Import]
    also: set[str] = field(default_factory=set)  # statements that load submodules
    future: set[str] = field(default_factory=set)

    def take(self, item: Import) -> None:
        """Import something."""
        self.imports.setdefault(("", item.target), item)
        if item.also:
            self.also.add(item.also)


class Sources:
    """Reads modules and gathers what classes of them need.

    Args:
        more: for a module's name source whose definitions stand in place of its own.
    """

    def __init__(self, more: Mapping[str, str]) -> None:
        self.more = more
        self._modules: dict[str, Module] = {}
        self._texts: dict[Any, str] = {}

    def gather(self, roots: Sequence[Key]) -> Gathered:
        """The definitions that roots need, each after those that it needs.

        Of netbuild's own classes the methods that nothing in the file uses are left out.

        Raises:
            NetbuildError: for an own module that needs more of netbuild than its layers.
        """
        used: set[str] = set(_KEPT)
        while True:
            found = self._closure(roots, used)
            more = used.union(*(_uses(d.text)[1] for d in found.definitions))
            if more == used:
                return found
            used = more

    def module(self, name: str) -> Module:
        """A module, read once."""
        if name not in self._modules:
            text = inspect.getsource(importlib.import_module(name))
            self._modules[name] = Module(name, text, self.more.get(name, ""))
        return self._modules[name]

    def resolve(self, home: str, name: str) -> Key | Import | None:
        """What a global name of a module means; None of a builtin.

        Raises:
            NetbuildError: if it is a part of netbuild that is no layer.
        """
        module = self.module(home)
        found = module.names.get(name)
        if found is None:
            return None
        if not isinstance(found, Import):
            return home, _first_name(found, home)
        if found.top != "netbuild" and not found.top.startswith(PREFIX):
            return found
        source, _, attribute = found.target.rpartition(".")
        if is_ours(source):
            inner = self.resolve(source, attribute)
            if inner is not None:
                return inner
        where = getattr(sys.modules.get(home), "__file__", home)
        message = f"{where}: '{name}' is {found.target}, which a file without netbuild cannot have"
        raise NetbuildError(message, hint="of netbuild an own module may take layers by name, and roles in Annotated")

    def _closure(self, roots: Sequence[Key], used: set[str]) -> Gathered:
        found = Gathered([], {})
        seen: set[Key] = set()

        def visit(key: Key) -> None:
            if key in seen:
                return
            seen.add(key)
            home, name = key
            text = self.text(key, used)
            names: dict[str, Key] = {}
            for local in _uses(text)[0]:
                meant = self.resolve(home, local) if local != name else key
                if isinstance(meant, Import):
                    names[local] = ("", meant.target)
                    found.take(meant)
                elif meant is not None:
                    names[local] = meant
                    visit(meant)
            found.definitions.append(Definition(key, text, names, name, _own_file(home)))
            found.future.update(_features(self.module(home)))

        for root in roots:
            visit(root)
        return found

    def text(self, key: Key, used: set[str]) -> str:
        """A definition as a file has it: without roles, marks of netbuild, and methods that nothing uses."""
        home, name = key
        module = self.module(home)
        statement = module.names.get(name)
        if statement is None or isinstance(statement, Import):
            raise NetbuildError(f"the source of {home}.{name} is not to be found")
        dead = tuple(_dead(module, statement, used)) if home.startswith("netbuild.") else ()
        memo = (key, *(id(d) for d in dead))
        if memo not in self._texts:
            self._texts[memo] = self._cleaned(module, statement, dead)
        return self._texts[memo]

    def _cleaned(self, module: Module, statement: ast.stmt, dead: Sequence[ast.stmt]) -> str:
        begin, end = module.span(statement)
        edits = [(*_with_blanks(module, d), b"") for d in dead]
        edits += [edit for edit in self._marks(module, statement) if not any(b <= edit[0] < e for b, e, _ in edits)]
        edits += [(m.start(), m.end(), b"") for m in _IGNORED.finditer(module.data, begin, end)]
        text = _edited(module.data, begin, end, edits).decode().rstrip() + "\n"
        if dead:
            text = re.sub(r"\n{3,}", "\n\n", text)
        return _joined(text) if module.name.startswith("netbuild.") else text

    def _marks(self, module: Module, statement: ast.stmt) -> Iterator[tuple[int, int, bytes]]:
        """Edits that take out roles of parameters, and decorators of netbuild."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Subscript) and _last_name(node.value) == "Annotated":
                assert isinstance(node.slice, ast.Tuple)
                kept, *extras = node.slice.elts
                if any(self._is_netbuilds(module, extra) for extra in extras):
                    yield *module.place(node), module.data[slice(*module.place(kept))]
            for decorator in getattr(node, "decorator_list", ()):
                if self._is_netbuilds(module, decorator):
                    yield module.starts[decorator.lineno - 1], module.starts[decorator.end_lineno], b""

    def _is_netbuilds(self, module: Module, node: ast.expr) -> bool:
        name = next((n.id for n in ast.walk(node) if isinstance(n, ast.Name)), "")
        meant = module.names.get(name)
        return isinstance(meant, Import) and meant.top == "netbuild"


def _first_name(statement: ast.stmt, home: str) -> str:
    return next(name for name, _ in _bound(statement, home))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _own_file(home: str) -> str:
    return str(getattr(sys.modules[home], "__file__", "")) if home.startswith(PREFIX) else ""


def _features(module: Module) -> Iterator[str]:
    for statement in module.tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            yield from (alias.name for alias in statement.names)


# -- what a class does without ----------------------------------------------------------------------------------------


def _dead(module: Module, statement: ast.stmt, used: set[str]) -> Iterator[ast.stmt]:
    """The methods and attributes of a class that nothing in the file uses, nor torch."""
    if not isinstance(statement, ast.ClassDef):
        return
    known = used | _of_torch(module.name, statement.name)
    for inner in statement.body:
        name = _attribute(inner)
        if name and not (name.startswith("__") and name.endswith("__")) and name not in known:
            yield inner


def _attribute(statement: ast.stmt) -> str | None:
    if isinstance(statement, _FUNCTION):
        return statement.name
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def _of_torch(home: str, name: str) -> set[str]:
    """Names that torch's bases of a class have: what is defined anew is called by torch."""
    bases = getattr(getattr(sys.modules[home], name, None), "__mro__", ())
    return {attribute for base in bases if base.__module__.startswith("torch.") for attribute in vars(base)}


def _with_blanks(module: Module, statement: ast.stmt) -> tuple[int, int]:
    """The bytes of a statement, with the blank lines before it unless another statement follows at once."""
    begin, end = module.span(statement)
    first, after = module.starts.index(begin), module.starts.index(end)
    while first and not module.line(first - 1).strip() and not module.line(after).strip():
        first -= 1
    return module.starts[first], end


# -- text -------------------------------------------------------------------------------------------------------------


@cache
def _uses(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The global names that a text refers to, in order, and all names of attributes in it."""
    tree = ast.parse(text)
    scopes = set(_globals(symtable.symtable(text, "definition", "exec")))
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]
    quoted = [word for t in _annotations(tree) for word in re.findall(r"[A-Za-z_]\w*", t)]
    scopes.update(quoted)
    attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    attributes.update(t for t in texts if t.isidentifier())
    return tuple(dict.fromkeys(n for n in names + quoted if n in scopes)), frozenset(attributes)


def _annotations(tree: ast.AST) -> list[str]:
    """Annotations that are written as texts."""
    places = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    inner = [n for place in places if isinstance(place, ast.expr) for n in ast.walk(place)]
    return [n.value for n in inner if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    is_module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (is_module or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals(child)


def _edited(data: bytes, begin: int, end: int, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
    parts, at = [], begin
    for start, stop, new in sorted(edits):
        if start >= at:
            parts += [data[at:start], new]
            at = stop
    return b"".join([*parts, data[at:end]])


_HUGGED = re.compile(r"^( *)((?:async )?def \w+\()\n +([^\n#]*[^\n#,])\n\1(\).*:)$", re.MULTILINE)


def _joined(text: str) -> str:
    """Signatures that fit into a line now that their roles are gone, in a line."""

    def join(match: re.Match[str]) -> str:
        line = "".join(match.groups())
        return line if len(line) <= WIDTH else match[0]

    return _HUGGED.sub(join, text)


def renamed(definition: Definition, names: Mapping[Key, str]) -> str:
    """A definition's text with the names that the file has for what it refers to."""
    new = {local: names[key] for local, key in definition.names.items() if names.get(key, local) != local}
    own = names[definition.key]
    if own != definition.binds:
        new[definition.binds] = own
    if not new:
        return definition.text
    module = Module("", definition.text)
    edits = [
        (*module.place(node), new[node.id].encode())
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and node.id in new
    ]
    head = next((s for s in module.tree.body if isinstance(s, _DEFINITION)), None)
    if head and head.name in new:
        at = module.data.index(head.name.encode(), module.starts[head.lineno - 1])
        edits.append((at, at + len(head.name.encode()), new[head.name].encode()))
    return _edited(module.data, 0, len(module.data), edits).decode()
