"""Convert network files of other programs to netbuild's own grammar, or with their weights to a checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from netbuild.author.naming import name_rows
from netbuild.errors import NetbuildError
from netbuild.grammar.checkpoint_header import SUFFIX
from netbuild.grammar.locate import locate
from netbuild.grammar.spec import Spec, load, read_spec
from netbuild.grammar.writing import to_yaml
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules.loading import load_custom_modules
from netbuild.system.files import check_parent, write_text
from netbuild.weights.building import build_graph
from netbuild.weights.checkpoint import check_path, save
from netbuild.weights.darknet import load_darknet_weights

DARKNET = "Darknet"


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        file: the new file.
        source: the file that was converted.
        dialects: names of the dialects that it is written in.
        rows: the number of rows.
        parameters: the number of parameters, at the first of the scales.
        scales: the number of scales at which both files were compared.
        weights: the file of weights that was read, if any.
    """

    file: str
    source: str
    dialects: tuple[str, ...]
    rows: int
    parameters: int
    scales: int
    weights: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the values for ``--json``."""
        return asdict(self)

    def text(self) -> str:
        """Return one sentence for the terminal."""
        facts = f"{self.rows} rows, {self.parameters:,} parameters, equal to those of {self.source} row by row"
        at = f" at {self.scales} scales" if self.scales > 1 else ""
        return f"{self.file}: {facts}{at}{f', weights of {self.weights}' if self.weights else ''}"


def convert(
    file: str | Path,
    out: Path,
    *,
    weights: Path | None = None,
    modules: Sequence[str | Path] = (),
    trusted: bool | Callable[[Path], bool] = False,
) -> Conversion:
    """Write a network file in netbuild's own grammar, or a Darknet file with its weights as a checkpoint.

    Both files are resolved, at each scale, and their rows compared before anything is written.

    Args:
        file: a ``.cfg`` file of Darknet, a file in a dialect or of netbuild, or a checkpoint.
        out: the file to write: ``.yaml``, or ``.safetensors`` with ``weights``.
        weights: the ``.weights`` file of Darknet.
        modules: Python files or folders whose module classes the rows may use; their code is run.
        trusted: whether to run code that the file imports, or a function that decides by path.

    Raises:
        NetbuildError: if a file cannot be read or written, the weights do not fit, or the rows differ.
    """
    path, _ = locate(str(file))
    spec = load(path)
    _check_out(path, out, weights, spec)
    may_run = trusted if callable(trusted) else lambda _: bool(trusted)
    custom = load_custom_modules(spec, modules, may_run)
    text = f"# Converted from {path.name} by netbuild convert.\n{to_yaml(name_rows(spec))}\n"
    named = read_spec(text, out if weights is None else path.with_suffix(".yaml"))
    graphs = []
    for scale in spec.scales or (None,):
        options = Options(scale=scale.name if scale else None, modules=custom)
        graphs.append(resolve(named, options))
        compare_rows(resolve(spec, options), graphs[-1])
    if weights is None:
        write_text(out, text)
    else:
        save(load_darknet_weights(build_graph(graphs[0]), weights, path), out)
    parameters = sum(layer.params for layer in graphs[0].layers if layer.row.shares is None)
    return Conversion(
        str(out), path.name, spec.dialects, len(spec.rows), parameters, len(graphs), str(weights) if weights else None
    )


def _check_out(path: Path, out: Path, weights: Path | None, spec: Spec) -> None:
    """Refuse an output of the wrong kind, and one that would replace the file that is converted."""
    if weights is not None:
        if DARKNET not in spec.dialects:
            hint = "netbuild weights import reads the weights of other programs"
            raise NetbuildError(f"--weights reads Darknet's weights, and {path.name} is no .cfg file", hint=hint)
        check_path(out)
        return
    if out.suffix not in (".yaml", ".yml"):
        hint = f"a name in {SUFFIX} needs --weights" if out.suffix == SUFFIX else "write -o NAME.yaml"
        raise NetbuildError(f"{out}: a network file's name ends in .yaml", hint=hint)
    check_parent(out)
    if spec.imports and out.parent.resolve() != path.parent.resolve():
        hint = f"write -o {path.with_name(out.name)}"
        raise NetbuildError(
            f"{path.name} imports {spec.imports[0].path}, which is found from its own folder only", hint=hint
        )
    if out.exists() and out.samefile(path):
        raise NetbuildError(f"{out}: is the file that is converted", hint="choose another name")


def compare_rows(old: Graph, new: Graph) -> None:
    """Compare two resolved networks row by row: sources, modules, parameters and shapes.

    Raises:
        NetbuildError: at the first row that differs.
    """
    for before, after in zip(old.layers, new.layers, strict=True):
        facts = [
            (layer.row.sources, layer.row.module, layer.n, layer.params, layer.out_shape, layer.strides)
            for layer in (before, after)
        ]
        if facts[0] != facts[1]:
            message = f"{after.row.label}: converted it differs from the file's row: {facts[1]}, not {facts[0]}"
            raise NetbuildError(message, before.row.where, "please report this")
