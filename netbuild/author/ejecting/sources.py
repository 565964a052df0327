"""Collects from source files the definitions that given classes need: only these, each before those that use it."""

import ast
import importlib
import inspect
import re
import symtable
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from netbuild.author.ejecting.modules import DEFINITION, FUNCTION, Import, Module, apply_edits, first_name
from netbuild.errors import NetbuildError
from netbuild.modules.custom import PREFIX

LAYERS = "netbuild.layers"
BUILDERS = "netbuild.modules.builders"
WIDTH = 120  # characters of a line
_ALWAYS_USED = {"fuse"}  # methods that stay although no layer calls them: the network's fuse does
_IGNORED = re.compile(rb"  # (type: ignore|noqa)\b[^\n]*")

Key = tuple[str, str]  # (module, name) of a definition, ("", dotted name) of an import


@dataclass
class Definition:
    """A class, function or constant to be written into the file: its source, and what its global names refer to."""

    key: Key
    text: str
    names: dict[str, Key]
    binds: str
    file: str = ""  # the path of the custom module that it comes from, if any

    @property
    def is_block(self) -> bool:
        """Whether it is a class or function, which is surrounded by blank lines."""
        return isinstance(ast.parse(self.text).body[0], DEFINITION)


def is_ours(module: str) -> bool:
    """Return whether a module's source is copied into the file: that of netbuild's layers and of custom modules is."""
    top = module.split(".")[0]
    return top.startswith(PREFIX) or module == BUILDERS or (module + ".").startswith(LAYERS + ".")


@dataclass
class Gathered:
    """The code taken from other modules: definitions in order, imports, ``__future__`` features."""

    definitions: list[Definition]
    imports: dict[Key, Import]
    also: set[str] = field(default_factory=set)  # statements that load submodules
    future: set[str] = field(default_factory=set)

    def take(self, item: Import) -> None:
        """Add an import, and the statement that loads its submodule if it needs one."""
        self.imports.setdefault(("", item.target), item)
        if item.also:
            self.also.add(item.also)


class Sources:
    """Reads the source of modules and collects the definitions that classes of them need.

    Args:
        more: source by the name of a module; its definitions replace those of the module.
    """

    def __init__(self, more: Mapping[str, str]) -> None:
        self.more = more
        self._modules: dict[str, Module] = {}
        self._texts: dict[Any, str] = {}

    def gather(self, roots: Sequence[Key]) -> Gathered:
        """Collect the definitions that the roots depend on, in an order in which each follows what it refers to.

        Methods of netbuild's own classes that nothing in the file uses are left out.

        Raises:
            NetbuildError: for a custom module that needs more of netbuild than its layers.
        """
        used: set[str] = set(_ALWAYS_USED)
        # A method that stays may use further ones: repeat until no name is added.
        while True:
            found = self._closure(roots, used)
            more = used.union(*(_names_in(d.text)[1] for d in found.definitions))
            if more == used:
                return found
            used = more

    def module(self, name: str) -> Module:
        """Return a module's parsed source; each module is read once."""
        if name not in self._modules:
            text = inspect.getsource(importlib.import_module(name))
            self._modules[name] = Module(name, text, self.more.get(name, ""))
        return self._modules[name]

    def resolve(self, home: str, name: str) -> Key | Import | None:
        """Return what a global name of a module refers to: a definition, an import, or None for a builtin.

        Raises:
            NetbuildError: if it belongs to a part of netbuild other than its layers.
        """
        module = self.module(home)
        found = module.names.get(name)
        if found is None:
            return None
        if not isinstance(found, Import):
            return home, first_name(found, home)
        if found.top != "netbuild" and not found.top.startswith(PREFIX):
            return found
        source, _, attribute = found.target.rpartition(".")
        if is_ours(source):
            inner = self.resolve(source, attribute)
            if inner is not None:
                return inner
        where = getattr(sys.modules.get(home), "__file__", home)
        message = f"{where}: '{name}' is {found.target}, which cannot be copied into a file without netbuild"
        raise NetbuildError(message, hint="a custom module may import only layers, by name, and roles from netbuild")

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
            for local in _names_in(text)[0]:
                resolved = self.resolve(home, local) if local != name else key
                if isinstance(resolved, Import):
                    names[local] = ("", resolved.target)
                    found.take(resolved)
                elif resolved is not None:
                    names[local] = resolved
                    visit(resolved)
            found.definitions.append(Definition(key, text, names, name, _custom_file(home)))
            found.future.update(_features(self.module(home)))

        for root in roots:
            visit(root)
        return found

    def text(self, key: Key, used: set[str]) -> str:
        """Return a definition's source without roles, netbuild's decorators, and methods that nothing uses."""
        home, name = key
        module = self.module(home)
        statement = module.names.get(name)
        if statement is None or isinstance(statement, Import):
            raise NetbuildError(f"the source of {home}.{name} cannot be found")
        dead = tuple(_unused_members(module, statement, used)) if home.startswith("netbuild.") else ()
        memo = (key, *(id(d) for d in dead))
        if memo not in self._texts:
            self._texts[memo] = self._clean(module, statement, dead)
        return self._texts[memo]

    def _clean(self, module: Module, statement: ast.stmt, dead: Sequence[ast.stmt]) -> str:
        begin, end = module.span(statement)
        edits = [(*_with_blanks(module, d), b"") for d in dead]
        edits += [edit for edit in self._marks(module, statement) if not any(b <= edit[0] < e for b, e, _ in edits)]
        edits += [(m.start(), m.end(), b"") for m in _IGNORED.finditer(module.data, begin, end)]
        text = apply_edits(module.data, begin, end, edits).decode().rstrip() + "\n"
        if dead:
            text = re.sub(r"\n{3,}", "\n\n", text)
        return _join_signatures(text) if module.name.startswith("netbuild.") else text

    def _marks(self, module: Module, statement: ast.stmt) -> Iterator[tuple[int, int, bytes]]:
        """Yield the edits that remove the roles of parameters and netbuild's decorators."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Subscript) and _last_name(node.value) == "Annotated":
                assert isinstance(node.slice, ast.Tuple)
                annotation, *extras = node.slice.elts
                if any(self._is_netbuilds(module, extra) for extra in extras):
                    yield *module.place(node), module.data[slice(*module.place(annotation))]
            for decorator in getattr(node, "decorator_list", ()):
                if self._is_netbuilds(module, decorator):
                    yield module.starts[decorator.lineno - 1], module.starts[decorator.end_lineno], b""

    def _is_netbuilds(self, module: Module, node: ast.expr) -> bool:
        name = next((n.id for n in ast.walk(node) if isinstance(n, ast.Name)), "")
        resolved = module.names.get(name)
        return isinstance(resolved, Import) and resolved.top == "netbuild"


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _custom_file(home: str) -> str:
    return str(getattr(sys.modules[home], "__file__", "")) if home.startswith(PREFIX) else ""


def _features(module: Module) -> Iterator[str]:
    for statement in module.tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            yield from (alias.name for alias in statement.names)


# -- members that nothing uses ----------------------------------------------------------------------------------------


def _unused_members(module: Module, statement: ast.stmt, used: set[str]) -> Iterator[ast.stmt]:
    """Yield the methods and attributes of a class that neither the file nor torch uses."""
    if not isinstance(statement, ast.ClassDef):
        return
    known = used | _torch_names(module.name, statement.name)
    for inner in statement.body:
        name = _attribute(inner)
        if name and not (name.startswith("__") and name.endswith("__")) and name not in known:
            yield inner


def _attribute(statement: ast.stmt) -> str | None:
    if isinstance(statement, FUNCTION):
        return statement.name
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def _torch_names(home: str, name: str) -> set[str]:
    """Return the attributes of a class's torch bases: torch calls their overrides, so these must stay."""
    bases = getattr(getattr(sys.modules[home], name, None), "__mro__", ())
    return {attribute for base in bases if base.__module__.startswith("torch.") for attribute in vars(base)}


def _with_blanks(module: Module, statement: ast.stmt) -> tuple[int, int]:
    """Return a statement's byte range, with the blank lines before it unless another statement follows at once."""
    begin, end = module.span(statement)
    first, after = module.starts.index(begin), module.starts.index(end)
    while first and not module.line(first - 1).strip() and not module.line(after).strip():
        first -= 1
    return module.starts[first], end


# -- text -------------------------------------------------------------------------------------------------------------


@cache
def _names_in(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the global names that source text refers to, in order, and the names of all attributes in it."""
    tree = ast.parse(text)
    scopes = set(_globals(symtable.symtable(text, "definition", "exec")))
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]
    quoted = [word for t in _annotations(tree) for word in re.findall(r"[A-Za-z_]\w*", t)]
    # symtable does not look into annotations that are strings.
    scopes.update(quoted)
    attributes = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    attributes.update(t for t in texts if t.isidentifier())  # they may be names for getattr
    return tuple(dict.fromkeys(n for n in names + quoted if n in scopes)), frozenset(attributes)


def _annotations(tree: ast.AST) -> list[str]:
    """Return the annotations that are written as strings."""
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


_HUGGED = re.compile(r"^( *)((?:async )?def \w+\()\n +([^\n#]*[^\n#,])\n\1(\).*:)$", re.MULTILINE)


def _join_signatures(text: str) -> str:
    """Join signatures that fit into one line once their roles are removed."""

    def join(match: re.Match[str]) -> str:
        line = "".join(match.groups())
        return line if len(line) <= WIDTH else match[0]

    return _HUGGED.sub(join, text)


def rename(definition: Definition, names: Mapping[Key, str]) -> str:
    """Return a definition's source with each name replaced by the one that the file uses for it."""
    new = {local: names[key] for local, key in definition.names.items() if names.get(key, local) != local}
    new_name = names[definition.key]
    if new_name != definition.binds:
        new[definition.binds] = new_name
    if not new:
        return definition.text
    module = Module("", definition.text)
    edits = [
        (*module.place(node), new[node.id].encode())
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and node.id in new
    ]
    head = next((s for s in module.tree.body if isinstance(s, DEFINITION)), None)
    if head and head.name in new:
        at = module.data.index(head.name.encode(), module.starts[head.lineno - 1])
        edits.append((at, at + len(head.name.encode()), new[head.name].encode()))
    return apply_edits(module.data, 0, len(module.data), edits).decode()
