"""netbuild train, val: commands that train and evaluate networks."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from netbuild.cli.flags import (
    TRAIN,
    Background,
    Data,
    Lenient,
    Modules,
    Option,
    Scale,
    Set,
    Strict,
    Trust,
    command,
    may_run,
    refuse_code,
    refuse_unused,
)
from netbuild.cli.terminal import say, state, write, write_json
from netbuild.errors import NetbuildError

Nproc = Annotated[
    int, typer.Option(min=1, max=4096, help="Processes on this machine, one per GPU, started by torchrun.")
]


def _is_launcher(nproc: int, nnodes: int) -> bool:
    """Whether this process must launch the run's processes; these get the same flags and must not."""
    from netbuild.system.processes import is_launched

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
    """Start this command in several processes and exit with their exit code."""
    from netbuild.system import processes
    from netbuild.training.run import look

    processes.check_launch(nproc, nnodes, node_rank, rdzv, chosen.device)
    look(file, resume, **options)
    # The user has been asked for trust here already, so the processes get --trust and do not ask again.
    rerun = processes.rerun_arguments(sys.argv, command, "--trust")
    arguments = processes.build_torchrun_arguments(nproc, nnodes, node_rank, rdzv, rerun)
    raise typer.Exit(processes.launch(arguments, state.debug))


def _precision(amp: str | None, no_amp: bool) -> dict[str, str]:
    if amp and no_amp:
        raise NetbuildError("--amp and --no-amp exclude each other")
    chosen = "off" if no_amp else amp
    return {"amp": chosen} if chosen else {}


@command(TRAIN)
def train(
    file: Annotated[str | None, typer.Argument(help="A YAML file, a packaged network's name, or a checkpoint.")] = None,
    data: Data = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training data.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    imgsz: Annotated[int | None, typer.Option(min=1, help="Side of the square images.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Learning rate after warm-up.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="auto, sgd, adamw, adam, musgd.")] = None,
    freeze: Annotated[str | None, typer.Option(help="Rows that are not trained: numbers, ranges, names.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes that load images.")] = None,
    lenient: Lenient = False,
    strict: Strict = False,
    allow_background: Background = False,
    overfit: Annotated[
        bool,
        typer.Option("--overfit-batch", help="Self-test: overfit one batch, or exit with code 1."),
    ] = False,
    option: Option = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings; flags override it.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print all settings, explained.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/NAME unless given.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Resume the run in this folder.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint: rows of equal structure take its tensors.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Let pretrained rows download their weights.")] = False,
    scale: Scale = None,
    amp: Annotated[str | None, typer.Option(help="Mixed precision: auto, off, bf16, fp16.")] = None,
    no_amp: Annotated[bool, typer.Option("--no-amp", help="The same as --amp off.")] = False,
    nproc: Nproc = 1,
    nnodes: Annotated[int, typer.Option(min=1, max=65_536, help="Number of machines; run the command on each.")] = 1,
    node_rank: Annotated[
        int | None, typer.Option(min=0, help="Rank of this machine; agreed on among them unless given.")
    ] = None,
    rdzv: Annotated[str | None, typer.Option(help="Rendezvous: HOST:PORT of one of the machines.")] = None,
    callbacks: Annotated[
        list[Path] | None,
        typer.Option(help="A Python file with callbacks; its code is run. May be repeated."),
    ] = None,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Train a network on a data set; writes a run folder with checkpoints, metrics and settings."""
    from netbuild import settings

    named: dict[str, Any] = {"epochs": epochs, "batch": batch, "imgsz": imgsz, "seed": seed, "device": device}
    named |= {"workers": workers, "lr": lr, "optimizer": optimizer, "freeze": freeze}
    named |= {"lenient": lenient or None, "strict": strict or None, "allow_background": allow_background or None}
    named |= _precision(amp, no_amp)
    flags = {**settings.from_texts(option or ()), **{k: v for k, v in named.items() if v is not None}}
    if print_config:
        write(settings.load(config, flags).to_yaml(explained=True))
        return
    code: dict[str, Any] = {"modules": modules or (), "trusted": may_run(trust)}
    if resume is not None:
        unused = {"config": config, "data": data, "out": out, "weights": weights, "scale": scale, "set": set}
        refuse_unused("with --resume", **unused, overfit_batch=overfit or None)
    elif file is None:
        raise NetbuildError("which network? name its file", hint="netbuild train lenet5.yaml; netbuild zoo lists some")
    chosen = settings.load(config, flags)
    several = {"nproc": nproc if nproc > 1 else None, "nnodes": nnodes if nnodes > 1 else None}
    if overfit:
        refuse_unused("with --overfit-batch", out=out, callbacks=callbacks, node_rank=node_rank, rdzv=rdzv, **several)
        more: dict[str, Any] = {"weights": weights, "download": download, "scale": scale, "set": set or ()}
        _overfit(str(file), data, chosen, **more, **code)
        return
    if _is_launcher(nproc, nnodes):
        _launch("train", nproc, nnodes, node_rank, rdzv, chosen, file, resume, set=set or (), scale=scale, **code)
    refuse_unused("on one machine", **({} if nnodes > 1 else {"node-rank": node_rank, "rdzv": rdzv}))
    from netbuild.cli.progress import ProgressBar, scan_progress
    from netbuild.system.files import new_folder
    from netbuild.system.processes import destroy_process_group, is_main_process
    from netbuild.training.callbacks import callbacks_of_file
    from netbuild.training.run import resume as go_on
    from netbuild.training.run import start

    added = [callback for path in callbacks or () for callback in callbacks_of_file(path)]
    with scan_progress(brief=resume is not None) as scanning:
        listeners = [scanning, ProgressBar(), *added]
        if resume is not None:
            trainer = go_on(resume, flags, callbacks=listeners, **code)
        else:
            folder = out or new_folder(Path(str(file)).stem)
            more = {"weights": weights, "download": download, "scale": scale, "set": set or ()}
            trainer = start(str(file), data, chosen, folder, callbacks=listeners, **more, **code)
    done = trainer.run()
    if is_main_process():
        write(f"{trainer.folder}: best {done.best:.4f} in epoch {done.best_epoch} of {done.epoch}")
    destroy_process_group()


def _overfit(file: str, data: str | None, settings: Any, **options: Any) -> None:
    """Check that the network can overfit one batch; exit code 1 if it cannot."""
    from netbuild.cli.progress import scan_progress
    from netbuild.training.overfitting import is_overfit
    from netbuild.training.run import overfit_batch

    with scan_progress(brief=True) as scanning:
        losses = overfit_batch(file, data, settings, callbacks=[scanning], **options)
    done, said = (
        is_overfit(losses),
        f"{losses[0]:.4f} at first, {max(losses):.4f} at most, {min(losses[-5:]):.4f} at last",
    )
    write(f"one batch, {len(losses)} steps: loss above the least possible {said}: {'learnt' if done else 'not learnt'}")
    if not done:
        say("hint: give it more steps by --epochs or another --lr; then look at head, loss and labels")
    raise typer.Exit(0 if done else 1)


@command(TRAIN)
def val(
    file: Annotated[Path, typer.Argument(help="A checkpoint, or an exported .onnx file.")],
    data: Annotated[str, typer.Option(help="data.yaml, a folder, .json, .csv, or digits, digits-detect.")],
    split: Annotated[
        str | None, typer.Option(help="The data set's split: unless given val, or test if there is no val.")
    ] = None,
    imgsz: Annotated[int | None, typer.Option(min=1, help="Side of the square images.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Training batch size; validation uses twice as many images per batch.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = None,
    option: Option = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder for curves, the confusion matrix and pictures.")
    ] = None,
    lenient: Lenient = False,
    strict: Strict = False,
    nproc: Nproc = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Evaluate a checkpoint or an ONNX file on a data set, overall and per class."""
    from netbuild import settings

    refuse_code(file, modules, trust, nproc=nproc if nproc > 1 else None)

    named = {"imgsz": imgsz, "batch": batch, "device": device, "lenient": lenient or None, "strict": strict or None}
    flags = {**settings.from_texts(option or ()), **{k: v for k, v in named.items() if v is not None}}
    chosen, code = settings.load(None, flags), {"modules": modules or (), "trusted": may_run(trust)}
    if _is_launcher(nproc, 1):
        _launch("val", nproc, 1, None, None, chosen, str(file), None, **code)
    from netbuild.cli.progress import scan_progress, table
    from netbuild.system.processes import destroy_process_group, is_main_process
    from netbuild.training.validation import validate

    with scan_progress(brief=True) as scanning:
        measures, classes = validate(file, data, split, chosen, out, callbacks=[scanning], **code)
    speaks = is_main_process()
    destroy_process_group()
    if not speaks:
        return
    if json:
        write_json({"measures": measures, "classes": classes})
        return
    known = {name: value for name, value in measures.items() if value >= 0}  # COCO's -1: no object of the kind
    write(table([{"class": "all", **known}]))
    if classes:
        write(table(classes))
