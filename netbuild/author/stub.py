"""Write a Python file with a class for each module that a network's rows call and that is unknown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.expressions import Call
from netbuild.grammar.locate import locate
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import Row, evaluate_argument
from netbuild.grammar.spec import Spec, load
from netbuild.grammar.writing import format_flow
from netbuild.graph.opening import open_graph
from netbuild.graph.written_channels import LEAST_WIDTH, choose_form
from netbuild.modules import registry
from netbuild.modules.factory import Factory
from netbuild.modules.loading import load_custom_modules
from netbuild.roles import ROLE_BY_NAME, SUPPLIED
from netbuild.system.files import check_parent, write_text

MAX_ROWS_SHOWN = 20  # in the docstring of a class
_MOST_KERNEL = 15
# Names of parameters by the type of their values, where nothing else suggests a name.
_NAME_BY_TYPE = {"bool": "flag", "int": "number", "float": "ratio", "str": "mode", "list": "values"}

_HEAD = '''"""Modules that {file} calls and netbuild does not know; begun by netbuild stub.

The parameters are guessed from the rows. Each class stands for its module, so that netbuild summary shows the rest of
the network, and refuses to be trained: write its constructor and its forward.
"""

import torch
from torch import nn
'''

_CLASS = '''
class {name}(nn.Module):
    """A placeholder: {action}.

{rows}
    """

    def __init__(self, {parameters}) -> None:
        super().__init__(){body}

    def forward(self, x: {kind}) -> {result}:
        if self.training:
            raise NotImplementedError("{name} is a stub: write its forward")
        return {value}
'''


@dataclass(frozen=True)
class StubParameter:
    """A constructor parameter that rows suggest; without a default it is required."""

    name: str
    type: str
    default: str | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.type}" + (f" = {self.default}" if self.default is not None else "")


@dataclass(frozen=True)
class MissingModule:
    """A module that rows call and that is unknown.

    Attributes:
        name: its name.
        rows: the rows that call it.
        parameters: the guessed parameters of its constructor, without the input channels ``c1``.
        takes_list: whether it reads several sources.
        is_last: whether it is the last row, whose sources the placeholder returns.
    """

    name: str
    rows: tuple[Row, ...]
    parameters: tuple[StubParameter, ...]
    takes_list: bool
    is_last: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``--json``."""
        rows = [{"row": row.index, "line": row.where.line, "text": format_flow(row.node)} for row in self.rows]
        return {"name": self.name, "signature": self.signature(), "rows": rows}

    def signature(self) -> str:
        """Return the parameters of the constructor as Python."""
        channels = StubParameter("c1", "list[int]" if self.takes_list else "int")
        return ", ".join(map(str, (channels, *self.parameters)))

    def describe(self) -> str:
        """Describe the class on one line."""
        lines = ", ".join(str(row.where.line) for row in self.rows)
        return f"{self.name}({self.signature()}): line{'s' * (len(self.rows) > 1)} {shorten(lines)}"

    def format_class(self) -> str:
        """Return the class as Python."""
        names = [parameter.name for parameter in self.parameters]
        first = "x[0]" if self.takes_list else "x"
        body, value, kind = "", first, "list[torch.Tensor]" if self.takes_list else "torch.Tensor"
        action = "it returns its first source" if self.takes_list else "it returns its source"
        if self.is_last and self.takes_list:
            action, value = "it returns its sources", "x"
        elif "c2" in names:
            action = "a 1x1 convolution of its first source" if self.takes_list else "a 1x1 convolution"
            channels, stride = "c1[0]" if self.takes_list else "c1", ", s" if "s" in names else ""
            body = f"\n        self.placeholder = nn.Conv2d({channels}, c2, 1{stride})"
            value = f"self.placeholder({first})"
        shown = [shorten(format_flow(row.node), 90) for row in self.rows[:MAX_ROWS_SHOWN]]
        lines = [f"    Line {row.where.line}: {text}" for row, text in zip(self.rows, shown, strict=False)]
        return _CLASS.format(
            name=self.name, action=action, rows="\n".join(map(_escape, lines)), parameters=self.signature(), body=body,
            kind=kind, result=kind if value == "x" else "torch.Tensor", value=value,
        )  # fmt: skip


def find_missing(file: str, modules: Sequence[str | Path], trusted: Callable[[Path], bool]) -> list[MissingModule]:
    """Find the modules that a network's rows call and that are unknown, in the order of the file.

    Args:
        file: a network file.
        modules: Python files or folders with custom modules; their code is run.
        trusted: whether code that the file imports may run, by path.

    Raises:
        NetbuildError: if all modules are known.
    """
    spec = load(locate(file)[0])
    custom = load_custom_modules(spec, modules, trusted)
    rows: dict[str, list[Row]] = {}
    for row in spec.all_rows():
        if row.shares is None and row.module not in spec.blocks and _is_missing(row, custom):
            rows.setdefault(row.module, []).append(row)
    if not rows:
        raise NetbuildError(f"{file} calls no unknown module", hint=f"netbuild summary {file} shows it")
    return [_guess_module(name, found, spec) for name, found in rows.items()]


def _is_missing(row: Row, custom: Mapping[str, Factory]) -> bool:
    """Whether a row's module is unknown and may be a class of a Python file."""
    if not row.module.isidentifier() or iskeyword(row.module) or row.module in custom:
        return False
    try:
        registry.find_factory(choose_form(row), custom)
    except NetbuildError as error:
        return error.exit_code == NetbuildError.exit_code  # not for a package that is not installed
    return False


def format_file(file: str, missing: Sequence[MissingModule]) -> str:
    """Return the text of a Python file with the classes."""
    head = _HEAD.format(file=_escape(Path(file).name))
    return "\n".join([head, *(module.format_class() for module in missing)])


def save(path: Path, file: str, missing: Sequence[MissingModule]) -> None:
    """Write the Python file.

    Raises:
        NetbuildError: if the file exists, is no Python file, or cannot be written.
    """
    if path.suffix != ".py":
        raise NetbuildError(f"{path}: a file of modules ends in .py", hint=f"-o {path.with_suffix('.py')}")
    check_parent(path)
    if path.exists():
        raise NetbuildError(f"{path} exists already", hint="choose another name")
    write_text(path, format_file(file, missing))


def try_file(file: str, modules: Sequence[str | Path], trusted: Callable[[Path], bool]) -> list[str]:
    """Resolve a network with its new classes; return the errors that remain, each with its place."""
    try:
        open_graph(file, modules=modules, trusted=trusted)
    except NetbuildError as error:
        return [f"{one.where}: {one.message}" if one.where else one.message for one in error.all()]
    return []


# -- guesses ----------------------------------------------------------------------------------------------------------


def _guess_module(name: str, rows: Sequence[Row], spec: Spec) -> MissingModule:
    last = spec.rows[-1]
    takes_list = any(len(row.sources) > 1 for row in rows)
    return MissingModule(name, tuple(rows), tuple(_guess_parameters(rows, spec)), takes_list, last in rows)


def _guess_parameters(rows: Sequence[Row], spec: Spec) -> list[StubParameter]:
    found: dict[str, StubParameter] = {}
    keywords = dict.fromkeys(name for row in rows for name, _ in row.kwargs)
    for position in range(max(len(row.args) for row in rows)):
        nodes = [row.args[position] for row in rows if len(row.args) > position]
        values = [_evaluate(node, spec) for node in nodes]
        kind = _find_type(values)
        name = _guess_name(position, nodes, values, kind, found)
        optional = len(nodes) < len(rows)
        found[name] = _make_parameter(name, kind, values[0], optional)
    for name in keywords:
        if name in found or not name.isidentifier() or iskeyword(name) or ROLE_BY_NAME.get(name) in SUPPLIED:
            continue
        values = [_evaluate(node, spec) for row in rows for key, node in row.kwargs if key == name]
        found[name] = _make_parameter(name, _find_type(values), values[0], optional=True)
    return list(found.values())


def _make_parameter(name: str, kind: str, value: Any, optional: bool) -> StubParameter:
    if not optional:
        return StubParameter(name, kind)
    if (name, kind) == ("s", "int"):
        return StubParameter(name, kind, "1")  # a row that writes no stride keeps the size
    if isinstance(value, (bool, int, float, str)):
        return StubParameter(name, kind, repr(value))
    return StubParameter(name, kind if kind.endswith("None") else f"{kind} | None", "None")


def _evaluate(node: Node, spec: Spec) -> Any:
    """Evaluate an argument by the names of the file and the defaults of its blocks; other text stays as it is."""
    parameters = {p.name: p.default for block in spec.blocks.values() for p in block.params}
    # A parameter without a default is a width in most blocks.
    names = {name: LEAST_WIDTH if default is None else default.plain() for name, default in parameters.items()}
    try:
        return evaluate_argument(node, {"c1": LEAST_WIDTH, **names, **spec.settings, **spec.params})
    except NetbuildError:
        return node.value


def _find_type(values: Sequence[Any]) -> str:
    """Return the annotation that all values fit, ``object`` if there is none but this."""
    names = {_name_type(value) for value in values}
    types = names - {"None"}
    if types == {"int", "float"}:
        types = {"float"}
    name = types.pop() if len(types) == 1 else "object"
    return f"{name} | None" if "None" in names else name


def _name_type(value: Any) -> str:
    if isinstance(value, Call):
        return "nn.Module"
    if value is None:
        return "None"
    known = (bool, int, float, str, list)
    return next((cls.__name__ for cls in known if isinstance(value, cls)), "object")


def _guess_name(
    position: int, nodes: Sequence[Node], values: Sequence[Any], kind: str, taken: Mapping[str, Any]
) -> str:
    """Guess the name of a positional parameter: by a name that all rows write, by its values, or by its type."""
    written = {node.value for node in nodes} if all(isinstance(node.value, str) for node in nodes) else set()
    name = written.pop() if len(written) == 1 and kind != "str" else ""
    if name.isidentifier() and not iskeyword(name) and name not in taken and ROLE_BY_NAME.get(name) not in SUPPLIED:
        return name
    if kind == "int":
        if position == 0 and min(values) >= 8 and max(values) >= LEAST_WIDTH:
            return "c2"
        if "c2" in taken and position == 1 and max(values) <= _MOST_KERNEL:
            return "k"
        if "k" in taken and position == 2 and set(values) <= {1, 2}:
            return "s"
    base = _NAME_BY_TYPE.get(kind.removesuffix(" | None"), "value")
    return base if base not in taken else f"{base}{position}"


def _escape(text: str) -> str:
    """Return a text that cannot end the docstring that it stands in."""
    return "".join(c if c.isprintable() else " " for c in text).replace("\\", "\\\\").replace('"', "'")
