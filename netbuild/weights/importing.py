"""Import checkpoints of other programs: the network from the rows in the file, its modules and tensors compared."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.checkpoint_header import find_info, is_checkpoint
from netbuild.grammar.keys import KNOWN_KEYS, MAX_SIDE
from netbuild.grammar.locate import scaled_name
from netbuild.grammar.nodes import parse
from netbuild.grammar.spec import read_spec
from netbuild.grammar.writing import to_yaml
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import builders
from netbuild.weights.hyperparameters import CheckedRows, compare_modules, differences_error, fit_rows
from netbuild.weights.matching import LEAVES, Match, is_counter, match
from netbuild.weights.reading import WeightsFile, read_weights
from netbuild.weights.transfer import describe_bad_values

# Keys that Ultralytics adds to a network's YAML when it builds it; they are no keys of the file.
_ADDED_KEYS = ("scale", "yaml_file", "channels", "text_model")
# Metadata of the foreign file that is recorded in the new checkpoint.
_ORIGIN_KEYS = ("epoch", "date", "version", "license", "task")


@dataclass(frozen=True)
class ImportedWeights:
    """A network with the weights of a foreign file.

    Args:
        network: the network, weights loaded.
        match: which tensors fitted.
        names: class names in order, or None if the file has none.
        origin: ``{"imported": {"file": ..., ...}}``, to be stored as the checkpoint's ``training``.
        notes: what was changed in the rows, was not compared, or is doubtful, in sentences.
    """

    network: Network
    match: Match
    names: list[str] | None
    origin: dict[str, Any]
    notes: tuple[str, ...] = ()


def import_weights(
    path: str | Path,
    *,
    model: str | Path | None = None,
    mapping: str | None = None,
    strict: bool = False,
    prefer: str = "ema",
    **options: Any,
) -> ImportedWeights:
    """Read a foreign checkpoint into a netbuild network without running code from the file.

    Args:
        path: a file of ``torch.save`` (a whole model or a state dict) or a safetensors file.
        model: the network's file; may be omitted if the checkpoint contains its rows, as those of Ultralytics do.
        mapping: how keys are matched, see `netbuild.weights.matching.match`.
        strict: raise unless every tensor of both sides is matched.
        prefer: ``ema`` to take the averaged weights where the file has some, ``model`` to take the last weights.
        options: for the network's file, as for `netbuild.graph.opening.open_graph`.

    Raises:
        NetbuildError: if the file cannot be read, describes no network, or does not fit.
    """
    source = read_weights(Path(path), prefer)
    if model:
        graph = open_graph(model, **options)
        notes = _check_modules(source, graph)
    else:
        fitted = fit_network(source)
        graph, notes = fitted.graph, describe_fit(fitted)
    with builders.pretrained_mode("skip"):  # the file's weights replace pretrained ones
        network = graph.build()
    found = match(source.tensors, network.state_dict(), mapping)
    _check_not_fused(found, path)
    _check_computing_tensors(found, network, path)
    # Rows of the file itself must take all of its tensors: nobody asked for another network.
    if strict or not found.weights or (not model and (found.missing or found.mismatched)):
        found.require(path)
    network.load_state_dict(dict(found.tensors), strict=False)
    if 2 * len(found.weights) < len([key for key in network.state_dict() if not is_counter(key)]):
        notes.append("warning: less than half of the network's tensors were loaded, the rest is as initialised")
    state = network.state_dict()
    notes += [f"warning: {text}" for text in describe_bad_values({key: state[key] for key in found.tensors})]
    origin = {key: source.metadata[key] for key in _ORIGIN_KEYS if key in source.metadata}
    names = list_class_names(source.metadata.get("names"))
    if names and network.card.nc is not None and len(names) != network.card.nc:
        notes.append(f"the file names {len(names)} classes, the network has {network.card.nc}: the names are left out")
        names = None
    elif names is None and source.metadata.get("names"):
        notes.append("the file's names of classes are no list of texts: they are left out")
    if isinstance(source.metadata.get("yaml"), dict) and network.card.task != "classify":
        origin["resizing"] = "linear"  # as Ultralytics resizes the pictures of all tasks but this one
    return ImportedWeights(network, found, names, {"imported": {"file": Path(path).name, **origin}}, tuple(notes))


def fit_network(source: WeightsFile) -> CheckedRows:
    """Resolve the network whose rows a foreign checkpoint carries, edited where its pickled modules differ from them.

    Raises:
        NetbuildError: if it carries none, they do not resolve, or a module differs in a way that rows cannot express.
    """
    rows = source.metadata.get("yaml")
    if not isinstance(rows, dict) or "backbone" not in rows:
        if is_checkpoint(source.path) and find_info(source.path):
            hint = "use it as it is; it has its network"
            raise NetbuildError(f"{source.path}: is a checkpoint of netbuild already", hint=hint)
        raise NetbuildError(
            f"{source.path}: the checkpoint does not contain its network's rows",
            hint="name the network's file: netbuild weights import FILE --model NETWORK, or give FILE as --weights",
        )
    scale = rows.get("scale") if isinstance(rows.get("scale"), str) else None
    stem = _remove_scale(PurePosixPath(str(rows.get("yaml_file") or source.path.name)).stem, scale)

    def resolve_keys(keys: Mapping[str, Any]) -> Graph:
        spec = read_spec(_to_text(keys), Path(f"{stem}.yaml"))
        return resolve(spec, Options(scale if spec.scales and scale in {s.name for s in spec.scales} else None))

    keys = rows_to_keys(rows, source.metadata)
    if source.model is None:
        fitted = CheckedRows(resolve_keys(keys), (), 0, ())
    else:
        fitted = fit_rows(source.model, keys, resolve_keys, source.path)
    return replace(fitted, notes=(*fitted.notes, *_describe_dropped(rows, source.metadata)))


def describe_fit(fitted: CheckedRows) -> list[str]:
    """Describe in sentences how the rows of a checkpoint were edited, and what was not compared."""
    if not fitted.compared:
        unsure = "the file has no modules: whether its rows are those of its tensors could not be compared"
        return [unsure, *fitted.notes]
    edits = [f"the file's modules differ from its rows; the new file says {edit}" for edit in fitted.edits]
    return [*edits, *fitted.notes]


def _check_modules(source: WeightsFile, graph: Graph) -> list[str]:
    """Compare the modules of a pickled model with those of a network file that was named; return notes.

    Raises:
        NetbuildError: if modules of the same path differ.
    """
    if source.model is None:
        return []
    found = compare_modules(source.model, graph)
    if found.differences:
        raise differences_error(found.differences, source.path)
    if not found.compared:
        return ["the file's modules have other names than the network's: their hyper-parameters were not compared"]
    notes = list(found.notes)
    if found.extra:
        notes.append(f"warning: {len(found.extra)} modules have no counterpart: {found.extra[0]}")
    return notes


def _check_computing_tensors(found: Match, network: Network, path: str | Path) -> None:
    """Refuse tensors of the file that a module of the network would have to compute with, but does not have.

    Such is the bias of a convolution that has none in the network. Tensors of modules that the network does not have,
    and buffers of no known name, are only reported.

    Raises:
        NetbuildError: for such tensors.
    """
    modules = {source.rpartition(".")[0]: key.rpartition(".")[0] for key, source in found.sources.items()}
    extra = [key for key in found.unexpected if key.rpartition(".")[0] in modules and key.rpartition(".")[2] in LEAVES]
    if extra:
        module = network.get_submodule(modules[extra[0].rpartition(".")[0]])
        text = f"{len(extra)} tensors that their modules in the network do not have: {extra[0]}"
        raise NetbuildError(
            f"{path}: {text} (a {type(module).__name__})",
            hint="write a network file with these modules, and give it by --model",
        )


def _check_not_fused(found: Match, path: str | Path) -> None:
    """Refuse a checkpoint whose batch norms were merged into its convolutions.

    Raises:
        NetbuildError: for such a checkpoint.
    """
    norms = [key.removesuffix("bn.running_var") for key in found.missing if key.endswith(".bn.running_var")]
    fused = [prefix for prefix in norms if f"{prefix}conv.bias" in found.unexpected]
    if fused:
        names = f"{fused[0]}conv and others" if len(fused) > 1 else f"{fused[0]}conv"
        message = f"{path}: the checkpoint is fused: {len(fused)} convolutions have no batch norm ({names})"
        raise NetbuildError(message, hint="import the checkpoint that it was made from, which can be trained, too")


def _remove_scale(stem: str, scale: str | None) -> str:
    """The file name without its scale letter: ``yolo11n-seg`` at scale n becomes ``yolo11-seg``."""
    for i in range(1, len(stem) + 1):
        if scale and stem[i - 1 : i] == scale and scaled_name(stem[: i - 1] + stem[i:], scale) == stem:
            return stem[: i - 1] + stem[i:]
    return stem


def rows_to_keys(rows: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows that a foreign checkpoint carries as the data of a netbuild network file."""
    keys = {k: value for k, value in rows.items() if k not in _ADDED_KEYS and k in KNOWN_KEYS and value is not None}
    channels = rows.get("ch", rows.get("channels"))
    size = metadata.get("imgsz")
    if type(channels) is int:
        keys["ch"] = channels
    if _is_size(size):
        keys["imgsz"] = size
    return keys


def _is_size(size: Any) -> bool:
    """Whether a value is the side of a square, or height and width, in pixels."""
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    return all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides)


def _describe_dropped(rows: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """Name what a foreign checkpoint states of its network and the new file will not."""
    notes = []
    if unknown := [shorten(str(key), 40) for key in rows if key not in KNOWN_KEYS and key not in _ADDED_KEYS]:
        notes.append(f"keys of its rows that networks here do not have are left out: {', '.join(unknown[:8])}")
    if (size := metadata.get("imgsz")) is not None and not _is_size(size):
        notes.append(f"its imgsz is no image size, and is left out: {shorten(repr(size), 40)}")
    return notes


def _to_text(keys: Mapping[str, Any]) -> str:
    """Write the data of a network file as YAML.

    Raises:
        NetbuildError: if they are not plain data.
    """
    try:
        return to_yaml(parse(json.dumps(keys), "the file's rows"))
    except (TypeError, ValueError) as error:
        raise NetbuildError(f"the checkpoint's rows are not plain data: {shorten(error)}") from None


def list_class_names(names: Any) -> list[str] | None:
    """Class names in order, from a list, or a mapping of class numbers 0, 1, ... to names; None for anything else."""
    if isinstance(names, dict):
        numbers = {int(key): name for key, name in names.items() if str(key).isdecimal()}
        names = [numbers[i] for i in sorted(numbers)] if sorted(numbers) == list(range(len(names))) else None
    if isinstance(names, list) and all(isinstance(name, (str, int, float)) for name in names):
        return [str(name) for name in names]
    return None


def convert_to_half(network: Network) -> Network:
    """Convert floating-point tensors to float16 in place, which halves the saved file; a loaded network is float32.

    Raises:
        NetbuildError: if a value is too large for float16 and would become infinite.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point():
            largest = tensor.detach().abs().nan_to_num(0, 0).max().item() if tensor.numel() else 0
            if largest > torch.finfo(torch.float16).max:
                raise NetbuildError(f"--half: {name} has the value {largest:g}, and float16 ends at 65504")
            tensor.data = tensor.data.to(torch.float16)
    return network
