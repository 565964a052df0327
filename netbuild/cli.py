"""The command line. torch is imported inside commands only, so that --help and completion stay quick."""

import atexit
import gc
import os
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from netbuild import __version__
from netbuild.errors import NetbuildError
from netbuild.spec import MAX_SIDE

app = typer.Typer(
    name="netbuild",
    help="Write a vision network in YAML, see what it is and what it costs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _State:
    """What this process was asked for."""

    debug = bool(os.environ.get("NETBUILD_DEBUG"))
    only_printed = False  # nothing is left that an orderly exit would finish


_state = _State()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"netbuild {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or set NETBUILD_DEBUG=1).")
    ] = False,
) -> None:
    """Write a vision network in YAML, see what it is and what it costs."""
    _state.debug = _state.debug or debug


def image_size(text: str | None) -> tuple[int, int] | None:
    """``640`` or ``640x384`` (height x width) as (height, width).

    Raises:
        NetbuildError: for anything else, or a side beyond the limits.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,6})(?:\s*[x*, ]\s*(\d{1,6}))?\s*", text.lower())
    sides = tuple(int(side) for side in match.groups() if side) if match else ()
    if not sides or not all(1 <= side <= MAX_SIDE for side in sides):
        hint = "write --imgsz 640, or --imgsz 640x384 for height x width"
        raise NetbuildError(f"'{text}' is no image size of 1 to {MAX_SIDE} pixels a side", hint=hint)
    return sides[0], sides[-1]


def _check_view(view: str | None, reverse: bool, form: str, columns: str | None, depth: int) -> None:
    """No flag is passed over in silence."""
    if view not in (None, "textbook"):
        raise NetbuildError(f"unknown view '{view}'", hint="there is: textbook")
    if reverse and not view:
        raise NetbuildError("--reverse belongs to --view textbook")
    if view and (form != "table" or columns or depth > 1):
        raise NetbuildError(
            "--view textbook has its own columns and form", hint="leave out --format, --columns, --depth"
        )
    if columns and form in ("json", "plain"):
        raise NetbuildError(f"--columns has no effect on --format {form}", hint="it picks for table, csv and markdown")
    if depth > 1 and form == "plain":
        raise NetbuildError("--depth has no effect on --format plain", hint="use the table, or --format json")


def _refuse_unused(where: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise NetbuildError(f"--{name.replace('_', '-')} has no effect {where}", hint="leave it out")


Modules = Annotated[
    list[str] | None,
    typer.Option("--modules", help="A Python file or folder with own modules; its code is run. May be repeated."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="A value of the file's params: NAME=VALUE. May be repeated.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Run the code that the network's file imports.")]


def _trusted(always: bool) -> Callable[[Path], bool]:
    """Whether code that a file imports may run: asked for, remembered, or confirmed now at a terminal."""

    def ask(path: Path) -> bool:
        from netbuild import trust

        if always or trust.is_remembered(path):
            _state.only_printed = False  # own code may have something to do at the end
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()) or _is_one_of_several():
            return False
        _state.only_printed = False
        agreed = typer.confirm(f"The network's file imports the code of {path}. Run it, now and as it is?", err=True)
        if agreed:
            try:
                trust.remember(path)
            except OSError as error:
                say(f"note: the answer is not remembered: {error.strerror}")
        return agreed

    return ask


@app.command()
def summary(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged network such as yolo11n.yaml.")],
    scale: Annotated[str | None, typer.Option(help="An entry of the file's scales.")] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="Number of classes, instead of the file's.")] = None,
    ch: Annotated[int | None, typer.Option(min=1, help="Image channels, instead of the file's.")] = None,
    imgsz: Annotated[str | None, typer.Option(help="Image size: 640, or 640x384 for height x width.")] = None,
    flops: Annotated[str, typer.Option(help="How to count: torch, thop, thop-stride, or all side by side.")] = "torch",
    fused: Annotated[bool, typer.Option("--fused", help="Count after merging batch norms into convolutions.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Batch size for the memory of training.")] = 1,
    columns: Annotated[
        str | None, typer.Option(help="Columns, comma-separated; +rf,stride adds, all shows all.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, max=64, help="Open rows into their submodules.")] = 1,
    format: Annotated[
        str, typer.Option(help="table, json, csv, markdown, or plain (the published logs' layout).")
    ] = "table",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    view: Annotated[str | None, typer.Option(help="textbook: Layer, Type, Maps, Size, Kernel, Stride, ...")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="With --view textbook: output first.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Print a network's rows with parameters, shapes and FLOPs, and its totals."""
    size = image_size(imgsz)
    _start_printing()
    from netbuild import render
    from netbuild.summary import summarize

    form = "json" if json else render.check_format(format)
    picked = render.pick_columns(columns)
    _check_view(view, reverse, form, columns, depth)
    with _waiting(file):
        result = summarize(
            file, scale=scale, nc=nc, ch=ch, imgsz=size, flops=flops, fused=fused, batch=batch, depth=depth,
            modules=modules or (), trusted=_trusted(trust), set=set or (),
        )  # fmt: skip
    for warning in result.graph.spec.warnings:
        say(warning.render("warning"))
    for note in result.notes:
        say(f"note: {note}")
    if form == "table":
        show(render.as_textbook(result, reverse) if view else render.as_table(result, picked))
    elif form == "json":
        write(render.as_json(result))
    else:
        write(render.FORMATS[form](result, picked) if columns or form != "csv" else render.as_csv(result))


@app.command()
def build(
    file: Annotated[str, typer.Argument(help="A YAML file, the name of a packaged network, or a checkpoint.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write: NAME.safetensors.")],
    scale: Annotated[str | None, typer.Option(help="An entry of the file's scales.")] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="Number of classes, instead of the file's.")] = None,
    ch: Annotated[int | None, typer.Option(min=1, help="Image channels, instead of the file's.")] = None,
    imgsz: Annotated[str | None, typer.Option(help="Image size: 640, or 640x384 for height x width.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Tensors for the rows of the same structure, whatever their numbers.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random numbers that initialise what no weights are given for.")] = 0,
    download: Annotated[
        bool, typer.Option("--download", help="Let rows with pretrained: true download their weights.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="What was loaded, as data.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Build a network with weights and write it as a checkpoint, its own modules' code within."""
    size = image_size(imgsz)
    import torch

    from netbuild.api import build_graph, open_graph, transfer
    from netbuild.weights.checkpoint import check_target, save

    check_target(out)
    graph = open_graph(
        file, scale=scale, nc=nc, ch=ch, imgsz=size, modules=modules or (), trusted=_trusted(trust), set=set or ()
    )
    torch.manual_seed(seed)
    with _busy(f"building {graph.name}"):
        network = build_graph(graph, download)
        report = transfer(network, weights) if weights else None
        save(network, out)
    if json:
        write_json({"file": str(out), "weights": report.to_dict() if report else None})
    else:
        write("\n".join([*([str(report)] if report else []), f"{out}: {graph.name}"]))


Data = Annotated[str | None, typer.Option(help="data.yaml, a folder, .json, .csv, or digits, digits-detect.")]
Option = Annotated[
    list[str] | None, typer.Option("--option", "-O", help="Any setting of --print-config: NAME=VALUE. May be repeated.")
]


Lenient = Annotated[bool, typer.Option("--lenient", help="Wrong labels are dropped, not errors.")]
Strict = Annotated[bool, typer.Option("--strict", help="Unreadable pictures are errors, not dropped.")]
Background = Annotated[bool, typer.Option("--allow-background", help="No object in any training picture is no error.")]
Nproc = Annotated[int, typer.Option(min=1, max=4096, help="Processes on this machine, one a GPU; by torchrun.")]


def _is_one_of_several() -> bool:
    from netbuild.processes import is_one_of_several

    return is_one_of_several()


def _is_launcher(nproc: int, nnodes: int) -> bool:
    """Whether this process is to start others: those that it starts have the same flags."""
    from netbuild.processes import is_launched

    return nproc * nnodes > 1 and not is_launched()


def _launch(
    command: str,
    nproc: int,
    nnodes: int,
    node_rank: int | None,
    rdzv: str | None,
    chosen: Any,
    file: str | None,
    resume: Path | None,
    **options: Any,
) -> NoReturn:
    """Start this command in several processes, and leave with their exit code."""
    from netbuild import processes
    from netbuild.training import look

    processes.check_launch(nproc, nnodes, node_rank, rdzv, chosen.device)
    look(file, resume, **options)
    # What was asked and answered here is not asked again in each of them.
    again = processes.again(sys.argv, command, "--trust")
    arguments = processes.torchrun_arguments(nproc, nnodes, node_rank, rdzv, again)
    raise typer.Exit(processes.launch(arguments, _state.debug))


def _refuse_code(file: object, modules: list[str] | None, trust: bool, **given: Any) -> None:
    """An exported file holds no code that flags could bring or allow."""
    if str(file).lower().endswith(".onnx"):
        _refuse_unused("on an ONNX file", modules=modules or None, trust=trust or None, **given)


def _precision(amp: str | None, no_amp: bool) -> dict[str, str]:
    if amp and no_amp:
        raise NetbuildError("--amp and --no-amp exclude each other")
    chosen = "off" if no_amp else amp
    return {"amp": chosen} if chosen else {}


@app.command()
def train(
    file: Annotated[str | None, typer.Argument(help="A YAML file, a packaged network's name, or a checkpoint.")] = None,
    data: Data = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training data.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    imgsz: Annotated[int | None, typer.Option(min=1, help="Side of the square images.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and augmentation.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Learning rate after warm-up.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="auto, sgd, adamw, adam, musgd.")] = None,
    freeze: Annotated[str | None, typer.Option(help="Rows that do not learn: numbers, ranges, names.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that prepare images.")] = None,
    lenient: Lenient = False,
    strict: Strict = False,
    allow_background: Background = False,
    overfit: Annotated[
        bool,
        typer.Option("--overfit-batch", help="Self-test: one batch learnt by heart, or exit code 1."),
    ] = False,
    option: Option = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings; flags go over it.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print all settings, explained.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/NAME unless given.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Tensors for the rows of the same structure.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Let pretrained rows download their weights.")] = False,
    scale: Annotated[str | None, typer.Option(help="An entry of the file's scales.")] = None,
    amp: Annotated[str | None, typer.Option(help="Mixed precision: auto, off, bf16, fp16.")] = None,
    no_amp: Annotated[bool, typer.Option("--no-amp", help="The same as --amp off.")] = False,
    nproc: Nproc = 1,
    nnodes: Annotated[int, typer.Option(min=1, max=65_536, help="Machines, on each of which this is run.")] = 1,
    node_rank: Annotated[
        int | None, typer.Option(min=0, help="Which of the machines; they agree unless given.")
    ] = None,
    rdzv: Annotated[str | None, typer.Option(help="HOST:PORT of one of the machines, where they meet.")] = None,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Train a network on a data set: a run folder with checkpoints, numbers and settings."""
    from netbuild import settings

    named: dict[str, Any] = {"epochs": epochs, "batch": batch, "imgsz": imgsz, "seed": seed, "device": device}
    named |= {"workers": workers, "lr": lr, "optimizer": optimizer, "freeze": freeze}
    named |= {"lenient": lenient or None, "strict": strict or None, "allow_background": allow_background or None}
    named |= _precision(amp, no_amp)
    flags = {**settings.from_texts(option or ()), **{k: v for k, v in named.items() if v is not None}}
    if print_config:
        write(settings.load(config, flags).to_yaml(explained=True))
        return
    code: dict[str, Any] = {"modules": modules or (), "trusted": _trusted(trust)}
    if resume is not None:
        unused = {"config": config, "data": data, "out": out, "weights": weights, "scale": scale, "set": set}
        _refuse_unused("with --resume", **unused, overfit_batch=overfit or None)
    elif file is None:
        raise NetbuildError("which network? name its file", hint="netbuild train lenet5.yaml; netbuild zoo lists some")
    chosen = settings.load(config, flags)
    several = {"nproc": nproc if nproc > 1 else None, "nnodes": nnodes if nnodes > 1 else None}
    if overfit:
        _refuse_unused("with --overfit-batch", out=out, node_rank=node_rank, rdzv=rdzv, **several)
        more: dict[str, Any] = {"weights": weights, "download": download, "scale": scale, "set": set or ()}
        _overfit(str(file), data, chosen, **more, **code)
        return
    if _is_launcher(nproc, nnodes):
        _launch("train", nproc, nnodes, node_rank, rdzv, chosen, file, resume, set=set or (), scale=scale, **code)
    _refuse_unused("on one machine", **({} if nnodes > 1 else {"node-rank": node_rank, "rdzv": rdzv}))
    from netbuild.author.progress import onlooker, reporter
    from netbuild.processes import is_first, leave
    from netbuild.training import new_folder, start
    from netbuild.training import resume as go_on

    with onlooker(brief=resume is not None) as looker:
        if resume is not None:
            trainer = go_on(resume, flags, onlooker=looker, **code)
        else:
            folder = out or new_folder(Path(str(file)).stem)
            more = {"weights": weights, "download": download, "scale": scale, "set": set or ()}
            trainer = start(str(file), data, chosen, folder, onlooker=looker, **more, **code)
    with reporter(trainer) as told:
        trainer.reporter = told
        done = trainer.run()
    if is_first():
        write(f"{trainer.folder}: best {done.best:.4f} in epoch {done.best_epoch} of {done.epoch}")
    leave()


def _overfit(file: str, data: str | None, settings: Any, **options: Any) -> None:
    """Tell whether a batch is learnt by heart; exit code 1 if it is not."""
    from netbuild.author.progress import onlooker
    from netbuild.train import learnt
    from netbuild.training import overfit_batch

    with onlooker(brief=True) as looker:
        losses = overfit_batch(file, data, settings, onlooker=looker, **options)
    done, said = learnt(losses), f"{losses[0]:.4f} at first, {max(losses):.4f} at most, {min(losses[-5:]):.4f} at last"
    write(f"one batch, {len(losses)} steps: loss above the least possible {said}: {'learnt' if done else 'not learnt'}")
    if not done:
        say("hint: give it more steps by --epochs or another --lr; then look at head, loss and labels")
    raise typer.Exit(0 if done else 1)


@app.command()
def val(
    file: Annotated[Path, typer.Argument(help="A checkpoint, or an exported .onnx file.")],
    data: Annotated[str, typer.Option(help="data.yaml, a folder, .json, .csv, or digits, digits-detect.")],
    split: Annotated[str | None, typer.Option(help="Of the data: val, else test, unless given.")] = None,
    imgsz: Annotated[int | None, typer.Option(min=1, help="Side of the square images.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Of training: twice as many are measured at a time.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = None,
    option: Option = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for curves, confusion and pictures.")
    ] = None,
    nproc: Nproc = 1,
    json: Annotated[bool, typer.Option("--json", help="The measures as data.")] = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Measure a checkpoint or an ONNX file on a data set, in all and class by class."""
    from netbuild import settings

    _refuse_code(file, modules, trust, nproc=nproc if nproc > 1 else None)

    named = {"imgsz": imgsz, "batch": batch, "device": device}
    flags = {**settings.from_texts(option or ()), **{k: v for k, v in named.items() if v is not None}}
    chosen, code = settings.load(None, flags), {"modules": modules or (), "trusted": _trusted(trust)}
    if _is_launcher(nproc, 1):
        _launch("val", nproc, 1, None, None, chosen, str(file), None, **code)
    from netbuild.author.progress import onlooker, table
    from netbuild.processes import is_first, leave
    from netbuild.training import validate

    with onlooker(brief=True) as looker:
        measures, classes = validate(file, data, split, chosen, out, onlooker=looker, **code)
    speaks = is_first()
    leave()
    if not speaks:
        return
    if json:
        write_json({"measures": measures, "classes": classes})
        return
    known = {name: value for name, value in measures.items() if value >= 0}  # COCO's -1: no object of the kind
    write(table([{"class": "all", **known}]))
    if classes:
        write(table(classes))


@app.command()
def predict(
    file: Annotated[str, typer.Argument(help="A checkpoint, or .onnx; of a network's file the weights are random.")],
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Pictures, videos, folders, patterns in quotes ('a/**/*.jpg'), - for stdin."
        ),
    ],
    imgsz: Annotated[str | None, typer.Option(help="Fit pictures into this size: 640, or 640x384.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time, at most.")] = 8,
    conf: Annotated[float | None, typer.Option(help="Least score of a box: 0.25 unless given.")] = None,
    iou: Annotated[float | None, typer.Option(help="Overlap beyond which a box is dropped: 0.7 unless given.")] = None,
    max_det: Annotated[int | None, typer.Option(help="Boxes a picture at most: 300 unless given.")] = None,
    agnostic: Annotated[bool, typer.Option("--agnostic", help="Boxes of different classes drop one another.")] = False,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="A box may have several classes.")] = False,
    classes: Annotated[str | None, typer.Option(help="Only these: names or numbers, with commas between.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    rect: Annotated[
        bool | None,
        typer.Option("--rect/--no-rect", help="The canvas as narrow as a picture allows (usual), or square."),
    ] = None,
    save: Annotated[str | None, typer.Option(help="pictures (usual), txt, json, crops, with commas; or none.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A new folder; runs/predict unless given.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="All results as one document; saves only what --save or --out ask for.")
    ] = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Show what a network finds in pictures and videos. Exit code 1: some could not be read."""
    size = image_size(imgsz)
    _refuse_code(file, modules, trust)
    import torch

    from netbuild import saving
    from netbuild.author.progress import counting
    from netbuild.predicting import prepare
    from netbuild.sources import find, is_video
    from netbuild.training import new_folder

    found = find(pictures)
    torch.manual_seed(0)
    options = {"conf": conf, "iou": iou, "max_det": max_det, "classes": classes}
    flags = {"agnostic": agnostic or None, "multi_label": multi_label or None}
    with _busy(f"opening {file}"):
        predictor = prepare(
            file, imgsz=size, batch=batch, rect=rect, device=device, modules=modules or (), trusted=_trusted(trust),
            **options, **flags,
        )  # fmt: skip
    kinds = () if json and save is None and out is None else saving.chosen(save, predictor.task)
    _refuse_unused("where nothing is saved", **({} if kinds else {"out": out}))
    folder = out or new_folder("predict")
    saving.check_folder(folder)
    if not file.lower().endswith((".safetensors", ".onnx")):
        say(f"note: {file} is no checkpoint: its weights are random")
    results, failed = [], []

    def unreadable(path: Path, error: NetbuildError) -> None:
        failed.append({"path": str(path), "reason": error.message})
        say(str(error))

    total = None if any(map(is_video, found)) else len(found)
    with counting(total) as step, saving.Writer(folder, kinds) as writer:
        for result in predictor.run(found, unreadable):
            writer.add(result)
            results.append(result.to_dict())
            if not json:
                write(result.line())
            step()
        document = saving.document(predictor.task, results, failed)
        writer.end(document)
    if json:
        write_json(document)
    elif folder.exists():
        say(f"saved in {folder}")
    raise typer.Exit(int(bool(failed)))


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="An ONNX file, of netbuild or of others.")],
    imgsz: Annotated[str | None, typer.Option(help="Of images whose size is free: 640, or 640x384.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Of inputs whose batch is free.")] = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="Every node with output, bytes and FLOPs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="All of it as data, with every node.")] = False,
) -> None:
    """Look into an ONNX file: ports, operators, parameters, FLOPs, memory, metadata. It is not run."""
    size = image_size(imgsz)
    _refuse_unused("with --json, which has all nodes", **({"nodes": nodes or None} if json else {}))
    from netbuild.inspecting import inspect as look

    found = look(file, size, batch)
    if json:
        write_json(found.to_dict())
    else:
        write(found.text(nodes))


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="A checkpoint; of a network's file the weights are random.")],
    sizes: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file; beside the checkpoint or here unless given.")
    ] = None,
    target: Annotated[str, typer.Option(help="onnx, onnx-int8, openvino, torch-export or torchscript.")] = "onnx",
    imgsz: Annotated[str | None, typer.Option(help="Image size: 640, 640x384 or 640 384 for height x width.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=65_536, help="Pictures at once: 1 unless given.")] = None,
    dynamic: Annotated[str | None, typer.Option(help="What stays free: batch, size or both.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Weights in float16; inputs and outputs stay float32.")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX: operator set, 18 to 23; 20 unless given.")] = None,
    simplify: Annotated[bool, typer.Option("--simplify", help="Rewrite the graph where that removes nodes.")] = False,
    nms: Annotated[bool, typer.Option("--nms", help="Suppression inside: boxes, scores, classes, index.")] = False,
    conf: Annotated[float | None, typer.Option(help="With --nms: least score of a box, 0.25 unless given.")] = None,
    iou: Annotated[
        float | None, typer.Option(help="With --nms: overlap beyond which a box is dropped, 0.7 unless given.")
    ] = None,
    max_det: Annotated[int | None, typer.Option(help="With --nms: boxes a picture, 300 unless given.")] = None,
    fuse: Annotated[bool, typer.Option("--fuse/--no-fuse", help="Merge batch norms into convolutions first.")] = True,
    input_names: Annotated[str | None, typer.Option(help="Instead of images; with commas between.")] = None,
    output_names: Annotated[str | None, typer.Option(help="Instead of output0,...; with commas between.")] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(help="onnx-int8: a data set, or a folder of pictures, that its ranges are learnt from."),
    ] = None,
    pictures: Annotated[int | None, typer.Option(min=1, help="Of --calibrate at most: 128 unless given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of random weights: 0 unless given.")] = None,
    scale: Annotated[str | None, typer.Option(help="An entry of the file's scales.")] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="Number of classes, instead of the file's.")] = None,
    ch: Annotated[int | None, typer.Option(min=1, help="Image channels, instead of the file's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="All that is said, as data.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Write a network for other runtimes; the file is run and compared with torch. Exit code 1: it differs."""
    size = _size_of(imgsz, sizes)
    filtering = {"conf": conf, "iou": iou, "max_det": max_det}
    _refuse_unused("without --nms", **({} if nms else filtering))
    is_random = not file.lower().endswith(".safetensors")
    _refuse_unused("on a checkpoint", **({} if is_random else {"seed": seed}))
    import torch

    from netbuild.export import export as write_file

    torch.manual_seed(seed or 0)
    with _busy(f"exporting {file}"):
        done = write_file(
            file, out, target=target, imgsz=size, batch=batch, dynamic=dynamic, half=half, opset=opset,
            simplify=simplify, nms=filtering if nms else False, fuse=fuse, input_names=_split(input_names),
            output_names=_split(output_names), scale=scale, nc=nc, ch=ch, set=set or (), modules=modules or (),
            trusted=_trusted(trust), more={"calibrate": calibrate, "pictures": pictures},
        )  # fmt: skip
    if is_random:
        say(f"note: {file} is no checkpoint: its weights are random")
    if json:
        write_json(done.to_dict())
    else:
        write(done.text())


@app.command()
def benchmark(
    file: Annotated[str, typer.Argument(help="A checkpoint; of a network's file the weights are random.")],
    files: Annotated[list[str] | None, typer.Argument(help="Files exported from it, to be run as they are.")] = None,
    targets: Annotated[str, typer.Option(help="all, or names with commas between; with files none besides.")] = "all",
    imgsz: Annotated[str | None, typer.Option(help="Image size: 640, or 640x384 for height x width.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Pictures at once.")] = 1,
    data: Annotated[str | None, typer.Option(help="A data set: accuracy, and the ranges of int8.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of every runtime.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each, in turn.")] = 50,
    scale: Annotated[str | None, typer.Option(help="An entry of the file's scales.")] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="Number of classes, instead of the file's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The rows as data.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Time a network on the CPU in torch and in every form that it is exported to; compare size, outputs, accuracy."""
    size = image_size(imgsz)
    import torch

    from netbuild.author.progress import counting
    from netbuild.benchmark import benchmark as measure
    from netbuild.benchmark import text

    torch.manual_seed(0)
    with counting(None) as step:
        rows = measure(
            file, files or (), targets=targets, imgsz=size, batch=batch, data=data, threads=threads, rounds=rounds,
            step=step, scale=scale, nc=nc, set=set or (), modules=modules or (), trusted=_trusted(trust),
        )  # fmt: skip
    if not file.lower().endswith(".safetensors"):
        say(f"note: {file} is no checkpoint: its weights are random")
    if json:
        write_json([row.to_dict() for row in rows])
    else:
        write(text(rows))


def _size_of(imgsz: str | None, more: list[str] | None) -> tuple[int, int] | None:
    """``--imgsz 96 160`` too: the second number is what stands after it."""
    if not more:
        return image_size(imgsz)
    if imgsz is None or len(more) > 1 or not (imgsz.isdecimal() and more[0].isdecimal()):
        raise NetbuildError(f"unexpected argument '{more[0]}'", hint="netbuild export FILE; see --help")
    return image_size(f"{imgsz}x{more[0]}")


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]


data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("check")
def check_data(
    data: Annotated[str, typer.Argument(help="data.yaml, a folder, .json, .csv, or digits, digits-detect.")],
    nc: Annotated[int | None, typer.Option(min=1, help="Classes of the network, if not the data's own.")] = None,
    lenient: Lenient = False,
    strict: Strict = False,
    allow_background: Background = False,
    json: Annotated[bool, typer.Option("--json", help="Every problem, as data.")] = False,
) -> None:
    """Look at every label and every picture: what is wrong, where, and what would be dropped."""
    from netbuild.author.progress import counting
    from netbuild.data.commands import check as look

    with counting(None) as step:
        told: dict[str, Any] = {"progress": lambda *_: step()}
        report, faults = look(data, nc, lenient=lenient, strict=strict, allow_empty=allow_background, **told)
    if json:
        write_json({**report.to_dict(), "faults": [fault.message for fault in faults]})
    else:
        write(report.text())
        for fault in faults:
            say(str(fault))
    raise typer.Exit(2 if faults else 0)


@data_app.command()
def stats(
    data: Annotated[str, typer.Argument(help="data.yaml, a folder, .json, .csv, or digits, digits-detect.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder for pictures of it, as PNG.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --out: of the choice of pictures that are shown.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="The same as data.")] = False,
) -> None:
    """Count a data set: objects a class, sizes of boxes and of pictures; with --out draw that, and some pictures."""
    from netbuild.data import open_data, scan
    from netbuild.data.commands import stats_of, stats_text

    with _busy(f"counting {data}"):
        report = scan(open_data(data))
        found = stats_of(report)
    if out is not None:
        from netbuild.overview import write as write_pictures

        with _busy(f"drawing {data}"):
            write_pictures(report, out, seed)
    if json:
        write_json(found)
    else:
        write(stats_text(found))


weights_app = typer.Typer(help="Weights of other programs.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")


@weights_app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="A .pt or .pth file, a state dict, or safetensors. No code of it is run.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint to write: NAME.safetensors.")],
    model: Annotated[
        str | None, typer.Option(help="The network's file, where the checkpoint does not tell its rows.")
    ] = None,
    map: Annotated[
        str | None, typer.Option(help="Fit in the order of definition: torchvision, timm or order; without, by keys.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="With --model: an entry of its scales.")] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="With --model: number of classes.")] = None,
    prefer: Annotated[str, typer.Option(help="ema: averaged weights where there are some; model: the last.")] = "ema",
    half: Annotated[bool, typer.Option("--half", help="Write half precision: half the size.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a file that does not fit whole.")] = False,
    json: Annotated[bool, typer.Option("--json", help="What fitted, as data.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Turn a checkpoint of another program into one of netbuild's, every tensor checked."""
    from netbuild.importing import halved, import_weights
    from netbuild.weights.checkpoint import check_target, save

    check_target(out)
    if prefer not in ("ema", "model"):
        raise NetbuildError(f"--prefer {prefer}: must be ema or model")
    _refuse_unused("without --model", **({} if model else {"scale": scale, "nc": nc, "set": set}))
    options = {"scale": scale, "nc": nc, "set": set or (), "modules": modules or (), "trusted": _trusted(trust)}
    with _busy(f"reading {file}"):
        found = import_weights(
            file, model=model, mapping=map, strict=strict, prefer=prefer, **(options if model else {})
        )
        network = halved(found.network) if half else found.network
        save(network, out, names=found.names, training=found.said)
    if json:
        write_json({"file": str(out), "name": found.network.facts["name"], "names": found.names, **found.fit.report()})
    else:
        write(f"{found.fit}\n{out}: {found.network.facts['name']}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The file to write, with or without .yaml.")],
    origin: Annotated[str, typer.Option("--from", help="classifier, segmenter, autoencoder, or a packaged network.")],
) -> None:
    """Write a commented starter file."""
    from netbuild.author.new import start

    path = start(name, origin)
    write(f"{path}: next, netbuild summary {path}")


@app.command("show")
def show_file(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged network.")],
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With what it extends read in and its edits done.")
    ] = False,
    code: Annotated[
        bool, typer.Option("--code", help="Of a checkpoint: the code of own modules that it carries.")
    ] = False,
) -> None:
    """Print a network file, or that of a checkpoint: as it stands, or resolved."""
    from netbuild.author.show import text

    write(text(file, resolved, code))


@app.command()
def check(
    files: Annotated[list[str], typer.Argument(help="YAML files, or names of packaged networks.")],
    scale: Annotated[str | None, typer.Option(help="One scale; otherwise all of a file's scales are checked.")] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="Number of classes, instead of the file's.")] = None,
    ch: Annotated[int | None, typer.Option(min=1, help="Image channels, instead of the file's.")] = None,
    imgsz: Annotated[str | None, typer.Option(help="Image size: 640, or 640x384 for height x width.")] = None,
    json: Annotated[bool, typer.Option("--json", help="A list of findings for editors.")] = False,
    shapes: Annotated[bool, typer.Option(help="Without: syntax, names, sources and arity, at once.")] = True,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Report every error and doubt of network files. Exit code 0: none, 1: warnings only, 2: errors."""
    size = image_size(imgsz)
    _start_printing()
    if shapes:
        from netbuild.author.check import check as check_file
        from netbuild.prepare import Options

        options = Options(scale, None, nc, ch, size)
        found = [(file, f) for file in files for f in check_file(file, options, modules or (), _trusted(trust))]
    else:
        _refuse_unused("with --no-shapes", scale=scale, nc=nc, ch=ch, imgsz=imgsz, modules=modules, trust=trust or None)
        from netbuild.author.quick import check as check_text

        found = [(file, f) for file in files for f in check_text(file)]
    if json:
        write_json([finding.to_dict(file) for file, finding in found])
    else:
        for _, finding in found:
            say(finding.render())
        counts = [sum(f.level == level for _, f in found) for level in ("error", "warning")]
        write(f"{len(files)} file(s): {counts[0]} error(s), {counts[1]} warning(s)")
    raise typer.Exit(2 if any(f.level == "error" for _, f in found) else int(bool(found)))


@app.command()
def modules(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name, or a pattern with * and ?; nn.* for torch's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A list with signatures and roles.")] = False,
    own: Modules = None,
) -> None:
    """List what may stand in a row: signature (<supplied> by netbuild), one line, paper."""
    _start_printing()
    from netbuild.author.catalogue import entries
    from netbuild.modules import load as load_modules

    found = entries(pattern, load_modules(own or ()))
    if not found:
        raise NetbuildError(
            f"no module matches '{pattern}'", hint="netbuild modules lists all, netbuild modules 'nn.*' torch's"
        )
    if json:
        write_json([entry.to_dict() for entry in found])
        return
    for entry in found:
        write(f"{entry.signature}\n    {entry.doc}".rstrip())


@app.command()
def zoo(
    pattern: Annotated[str | None, typer.Argument(help="Part of a name, or a pattern with * and ?.")] = None,
    family: Annotated[str | None, typer.Option(help="A folder of packaged files, such as classic.")] = None,
    task: Annotated[str | None, typer.Option(help="Such as detect, segment, classify.")] = None,
    json: Annotated[bool, typer.Option("--json", help="A list with sizes, costs and papers.")] = False,
) -> None:
    """List the packaged architectures: parameters, GFLOPs at their size, task, paper."""
    from netbuild.author.zoo import as_text, pick

    found = pick(pattern, family, task)
    if json:
        write_json([entry.to_dict() for entry in found])
    else:
        write(as_text(found))


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="A module's name, as rows have it.")],
    json: Annotated[bool, typer.Option("--json", help="The same as data.")] = False,
    own: Modules = None,
) -> None:
    """Explain one module: signature, roles, an example row, what it costs, its inner modules."""
    _start_printing()
    from netbuild.author.catalogue import explain as explain_module
    from netbuild.modules import load as load_modules

    data = explain_module(name, load_modules(own or ()))
    if json:
        write_json(data)
    else:
        from netbuild.render import as_explanation

        write(as_explanation(data))


def _start_printing() -> None:
    # Importing torch makes a million objects that all stay: collecting among them costs 5 % of the start.
    gc.disable()
    _state.only_printed = True


def _waiting(file: str) -> AbstractContextManager[Any]:
    """A sign of life on a terminal while a file of thousands of rows is resolved."""
    if not os.path.isfile(file) or os.path.getsize(file) < 50_000:
        return nullcontext()
    return _busy(f"resolving {file}")


def _busy(what: str) -> AbstractContextManager[Any]:
    """A sign of life on a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)


def say(text: str) -> None:
    """A line for the person at the terminal: to stderr."""
    print(_encodable(text, sys.stderr), file=sys.stderr)


def write(text: str) -> None:
    """Data, to stdout alone."""
    print(_encodable(text.rstrip("\n"), sys.stdout))


def write_json(data: Any) -> None:
    """Data as JSON, to stdout."""
    import json

    write(json.dumps(data, indent=1))


def show(renderable: Any) -> None:
    """A rich renderable to stdout: in colour on a terminal, plain and unwrapped elsewhere."""
    from netbuild.render import to_text

    if not sys.stdout.isatty():
        write(to_text(renderable))
        return
    from rich.console import Console

    Console(soft_wrap=False).print(renderable)


def _encodable(text: str, stream: Any) -> str:
    encoding = stream.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def main() -> None:
    """Run the command line: errors of the user's become one message on stderr and an exit code."""
    try:
        app()
    except NetbuildError as error:
        if _state.debug:
            raise
        if str(error):
            say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if "netbuild.processes" not in sys.modules or not sys.modules["netbuild.processes"].is_launched():
            say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(_end_of_pipe())


def entry() -> None:
    """What the installed command runs: `main`, and after commands that only print an exit without clearing up."""
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = _end_of_pipe()
    if _may_have_joined() and isinstance(code, int):
        atexit._run_exitfuncs()
        os._exit(code)  # gloo's threads now and then abort a process that ends in an orderly way
    if _state.only_printed and isinstance(code, int):
        os._exit(code)  # freeing a million objects one by one takes up to a fifth of the run
    sys.exit(code)  # type: ignore[arg-type]


def _may_have_joined() -> bool:
    """Without torch, where it is not there yet: then nothing has been joined either."""
    return "netbuild.processes" in sys.modules and _is_one_of_several()


def _end_of_pipe() -> int:
    # The reader of the pipe has seen enough; keep Python from complaining again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
