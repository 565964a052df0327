"""Completion of arguments in a shell: packaged networks, modules, settings, row names, choices. Imports no torch."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Complete = Callable[[Any, str], list[str]]
NETWORK_SUFFIXES = (".yaml", ".yml", ".safetensors", ".pt", ".onnx")
DATA_SUFFIXES = (".yaml", ".yml", ".json", ".csv")


def choices(*names: str) -> Complete:
    """Return a completion by fixed names."""
    return lambda ctx, incomplete: matching(names, incomplete)


def matching(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin with what was typed; after a comma with the part behind the last one."""
    typed, comma, last = incomplete.rpartition(",")
    return [f"{typed}{comma}{name}" for name in names if name.startswith(last)]


def network(ctx: Any, incomplete: str) -> list[str]:
    """Complete a packaged network's name, each scale of it too, or a file."""
    from netbuild.author.zoo import load_entries
    from netbuild.grammar.locate import scaled_name

    names = [scaled_name(entry.name, scale) for entry in load_entries() for scale in entry.sizes]
    names = sorted({*names, *(entry.name for entry in load_entries())})
    return [*files(incomplete, NETWORK_SUFFIXES), *matching([f"{name}.yaml" for name in names], incomplete)]


def module(ctx: Any, incomplete: str) -> list[str]:
    """Complete a module's name; torch's layers after ``nn.``; the blocks of ``--file``."""
    from netbuild.author.index import load_entries

    names = [name for name in load_entries() if incomplete.startswith("n") or not name.startswith("nn.")]
    return matching([*_names_in_file(ctx, blocks=True), *names], incomplete)


def data(ctx: Any, incomplete: str) -> list[str]:
    """Complete an embedded data set or a file."""
    names = (
        "digits",
        "digits-detect",
        "shapes",
        "shapes-segment",
        "shapes-pose",
        "shapes-obb",
        "shapes-digits",
        "shapes-labels",
        "shapes-numbers",
        "shapes-video",
    )
    return [*matching(names, incomplete), *files(incomplete, DATA_SUFFIXES)]


def setting(ctx: Any, incomplete: str) -> list[str]:
    """Complete the name of a setting with its equals sign, or one of its choices after it."""
    from netbuild.settings import FIELDS

    name, equals, value = incomplete.partition("=")
    if not equals:
        return [f"{field}=" for field in FIELDS if field.startswith(name)]
    field = FIELDS.get(name)
    known = field.metadata["choices"] if field else ()
    known = known or (("true", "false") if field and isinstance(field.default, bool) else ())
    return [f"{name}={choice}" for choice in known if choice.startswith(value)]


def scale(ctx: Any, incomplete: str) -> list[str]:
    """Complete a scale of the file that is named on the line."""
    spec = _spec_of(ctx)
    return matching([scale.name for scale in spec.scales], incomplete) if spec else []


def row(ctx: Any, incomplete: str) -> list[str]:
    """Complete the name of a row of the file that is named on the line."""
    return matching(_names_in_file(ctx), incomplete)


def columns(ctx: Any, incomplete: str) -> list[str]:
    """Complete columns of a summary, separated by commas."""
    names = ("i", "name", "from", "n", "params", "module", "args", "in", "out", "flops", "macs", "bytes", "rf")
    plus = "+" * incomplete.startswith("+")
    found = matching((*names, "stride", "type", "all"), incomplete.removeprefix("+"))
    return [plus + name for name in found]


def family(ctx: Any, incomplete: str) -> list[str]:
    """Complete the folder of packaged networks."""
    from netbuild.author.zoo import load_entries

    return matching(sorted({entry.family for entry in load_entries()}), incomplete)


def task(ctx: Any, incomplete: str) -> list[str]:
    """Complete a task that packaged networks have."""
    from netbuild.author.zoo import load_entries

    return matching(sorted({entry.task for entry in load_entries() if entry.task}), incomplete)


def python_file(ctx: Any, incomplete: str) -> list[str]:
    """Complete a file of Python code, or a folder."""
    return files(incomplete, (".py",))


def files(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """List the files of some kinds and the folders that begin with what was typed."""
    folder, prefix = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
        return [
            os.path.join(folder, entry.name) + "/" * entry.is_dir()
            for entry in entries
            if entry.name.startswith(prefix)
            and (prefix.startswith(".") or not entry.name.startswith("."))
            and (entry.is_dir() or entry.name.lower().endswith(suffixes))
        ]
    except OSError:
        return []


def _names_in_file(ctx: Any, blocks: bool = False) -> Iterator[str]:
    spec = _spec_of(ctx)
    if spec:
        yield from spec.blocks if blocks else (row.name for row in spec.rows if row.name)


def _spec_of(ctx: Any) -> Any:
    """Read the network file on the command line that is typed; None if there is none or it is wrong."""
    from netbuild.errors import NetbuildError
    from netbuild.grammar.locate import locate
    from netbuild.grammar.spec import load

    # Where the line ends in an option, the arguments before it have not been given to their parameters yet.
    file = ctx.params.get("file") or ctx.params.get("a") or next(iter(ctx.args), None)
    try:
        return load(locate(str(file))[0]) if file else None
    except (NetbuildError, OSError):
        return None


# The names are written out, because their classes import torch; a test compares them.
TARGETS = (
    "onnx", "onnx-int8", "openvino", "ncnn", "coreml", "executorch", "litert", "torch-export", "torchscript",
)  # fmt: skip
TRACKER_SETTINGS = (
    "high", "low", "start", "iou", "low_iou", "new_iou", "fuse", "patience", "by_class", "camera", "confidence", "hits",
    "momentum", "interval",
)  # fmt: skip
# Completions by the name of a command's parameter; `command` in `netbuild.cli.flags` gives them to its parameters.
COMPLETIONS: dict[str, Complete] = {
    "file": network, "files": network, "a": network, "b": network, "weights": network, "data": data, "scale": scale,
    "option": setting, "freeze": row, "columns": columns, "family": family, "task": task, "modules": python_file,
    "target": choices(*TARGETS), "save": choices("pictures", "txt", "labels", "json", "crops", "beside", "none"),
    "split": choices("train", "val", "test"),
    "flops": choices("torch", "thop", "thop-stride", "all"), "device": choices("auto", "cpu", "cuda", "mps"),
    "amp": choices("auto", "off", "bf16", "fp16"), "optimizer": choices("auto", "sgd", "adamw", "adam", "musgd"),
    "tracker": choices("sort", "bytetrack", "ocsort", "botsort"), "view": choices("textbook"),
    "dynamic": choices("batch", "size", "both"), "rows": row, "after": row, "before": row,
}  # fmt: skip
# Completions that belong to a parameter of one command, whose name means something else in others.
OF_COMMAND: dict[tuple[str, str], Complete] = {
    ("summary", "format"): choices("table", "json", "csv", "markdown", "html", "plain"),
    ("diff", "format"): choices("table", "markdown", "json"),
    ("explain", "name"): module,
    ("modules", "pattern"): module,
    ("swap", "new"): module,
    ("insert", "module"): module,
    ("track", "option"): choices(*(f"{name}=" for name in TRACKER_SETTINGS)),
    ("track", "save"): choices("video", "mot", "json", "none"),
    ("new", "origin"): lambda ctx, incomplete: [
        *matching(("classifier", "segmenter", "autoencoder"), incomplete), *network(ctx, incomplete)
    ],
}  # fmt: skip


def find_completion(command: str, parameter: str) -> Complete | None:
    """Return the completion of a command's parameter, if there is one."""
    return OF_COMMAND.get((command, parameter)) or COMPLETIONS.get(parameter)
