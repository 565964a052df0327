"""netbuild train, val: commands that train and evaluate networks."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

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
    SquareSize,
    Strict,
    Trust,
    command,
    may_run,
    parse_square_size,
    refuse_code,
    refuse_unused,
)
from netbuild.cli.terminal import say, show, state, write, write_json
from netbuild.errors import NetbuildError

if TYPE_CHECKING:
    from netbuild.system.tables import Table

Nproc = Annotated[
    int, typer.Option(min=1, max=4096, help="Processes on this machine, one per GPU, started by torchrun.")
]


@dataclass(frozen=True)
class _Processes:
    """The number and place of a run's processes, as given by flags."""

    nproc: int
    nnodes: int = 1
    node_rank: int | None = None
    rdzv: str | None = None

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that were given, by name; None for the others."""
        several = {"nproc": self.nproc, "nnodes": self.nnodes}
        return {
            **{name: number if number > 1 else None for name, number in several.items()},
            "node_rank": self.node_rank, "rdzv": self.rdzv,
        }  # fmt: skip

    def launch(self, command: str, device: str, file: str | None, resume: Path | None, **options: Any) -> None:
        """Start this command in several processes and exit with their exit code; do nothing in one of these.

        Args:
            command: the command's name.
            device: the device setting of the run.
            file, resume, options: the network, which is opened here once, so that its errors are reported once.
        """
        from netbuild.system import launching

        if self.nproc * self.nnodes == 1 or launching.is_launched():
            return
        from netbuild.training.run import check_network

        where = (self.nproc, self.nnodes, self.node_rank, self.rdzv)
        launching.check_launch(*where, device)
        check_network(file, resume, **options)
        # The user has been asked for trust here already, so the processes get --trust and do not ask again.
        rerun = launching.build_rerun_arguments(sys.argv, command, "--trust")
        raise typer.Exit(launching.launch(launching.build_torchrun_arguments(*where, rerun), state.debug))


def _amp_setting(amp: str | None, no_amp: bool) -> str | None:
    if amp and no_amp:
        raise NetbuildError("--amp and --no-amp exclude each other")
    return "off" if no_amp else amp


def _settings_given(option: list[str] | None, **flags: Any) -> dict[str, Any]:
    """Collect the settings given by flags and by --option; a flag that was not given is None or False."""
    from netbuild import settings

    named = {name: value for name, value in flags.items() if value is not None and value is not False}
    return {**settings.from_texts(option or ()), **named}


OverfitBatch = Annotated[
    bool,
    typer.Option("--overfit-batch", help="Self-test: overfit one batch, or exit with code 1."),
]
StartWeights = Annotated[Path | None, typer.Option(help="A checkpoint: rows of equal structure take its tensors.")]
NodeRank = Annotated[int | None, typer.Option(min=0, help="Rank of this machine; agreed on among them unless given.")]
Callbacks = Annotated[
    list[Path] | None,
    typer.Option(help="A Python file with callbacks; its code is run. May be repeated."),
]


Resume = Annotated[
    Path | None, typer.Option(help="Resume the run in this folder; settings and the place of its data may change.")
]
Networks = Annotated[
    list[str] | None,
    typer.Option("--with", help="NAME=FILE: a further network that the task trains. May be repeated."),
]


@command(TRAIN)
def train(
    file: Annotated[str | None, typer.Argument(help="A YAML file, a packaged network's name, or a checkpoint.")] = None,
    data: Data = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training data.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    imgsz: SquareSize = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and augmentation.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Learning rate after warm-up.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="auto, sgd, adamw, adam, musgd.")] = None,
    freeze: Annotated[str | None, typer.Option(help="Rows that are not trained: numbers, ranges, names.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes that load images.")] = None,
    lenient: Lenient = False,
    strict: Strict = False,
    allow_background: Background = False,
    overfit: OverfitBatch = False,
    option: Option = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings; flags override it.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print all settings, explained.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/NAME unless given.")] = None,
    resume: Resume = None,
    weights: StartWeights = None,
    networks: Networks = None,
    download: Annotated[bool, typer.Option("--download", help="Let pretrained rows download their weights.")] = False,
    scale: Scale = None,
    amp: Annotated[str | None, typer.Option(help="Mixed precision: auto, off, bf16, fp16.")] = None,
    no_amp: Annotated[bool, typer.Option("--no-amp", help="The same as --amp off.")] = False,
    nproc: Nproc = 1,
    nnodes: Annotated[int, typer.Option(min=1, max=65_536, help="Number of machines; run the command on each.")] = 1,
    node_rank: NodeRank = None,
    rdzv: Annotated[str | None, typer.Option(help="Rendezvous: HOST:PORT of one of the machines.")] = None,
    callbacks: Callbacks = None,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Train a network on a data set; writes a run folder with checkpoints, metrics and settings."""
    from netbuild import settings

    flags = _settings_given(
        option, epochs=epochs, batch=batch, imgsz=parse_square_size(imgsz), seed=seed, device=device, workers=workers,
        lr=lr, optimizer=optimizer, freeze=freeze, lenient=lenient, strict=strict, allow_background=allow_background,
        amp=_amp_setting(amp, no_amp),
    )  # fmt: skip
    chosen = settings.load(config, flags)
    if print_config:
        if file is not None:
            chosen = _settings_of_network(file, chosen, trust, scale=scale, set=set or (), modules=modules or ())
        write(chosen.to_yaml(comments=True))
        return
    network = {"weights": weights, "download": download, "scale": scale, "set": set or ()}
    code = {"modules": modules or (), "trusted": may_run(trust)}
    processes = _Processes(nproc, nnodes, node_rank, rdzv)
    run = _Run(file, data, config, out, resume, callbacks or [], network, code, processes, _named_files(networks or ()))
    if overfit:
        run.overfit(chosen)
    else:
        run.train(chosen, flags)


def _settings_of_network(file: str, chosen: Any, trust: bool, **options: Any) -> Any:
    """Return the settings with the values that a run of this network would choose for those that are open."""
    from netbuild.graph.opening import open_graph
    from netbuild.tasks.losses import default_settings

    graph = open_graph(file, **options, trusted=may_run(trust))
    heads = [graph.layers[row].factory.make for row in graph.plan.result]
    return chosen.with_network_defaults({n: v for head in heads for n, v in default_settings(head).items()})


def _named_files(texts: Sequence[str]) -> dict[str, str]:
    """Split each NAME=FILE of --with."""
    files: dict[str, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise NetbuildError(f"--with {text}: write NAME=FILE", hint="--with discriminator=discriminator.yaml")
        if name in files:
            raise NetbuildError(f"--with {text}: {name} is given twice", hint="leave one out")
        files[name] = file
    return files


@dataclass(frozen=True)
class _Run:
    """The arguments of `train` beside the settings of the run.

    Args:
        file: the network's file; None with ``resume``.
        data, config, out, resume, callbacks: the values of these flags.
        network: how the network is opened and gets its first weights: weights, download, scale and set.
        code: modules and trusted.
        processes: the processes of the run.
        others: files by name of the further networks that the task trains.
    """

    file: str | None
    data: str | None
    config: Path | None
    out: Path | None
    resume: Path | None
    callbacks: list[Path]
    network: dict[str, Any]
    code: dict[str, Any]
    processes: _Processes
    others: dict[str, str]

    def __post_init__(self) -> None:
        if self.resume is not None:
            if self.file is not None:
                hint = f"leave it out; or train {self.file} into another folder, without --resume"
                raise NetbuildError(f"{self.file} has no effect with --resume: the run has its network", hint=hint)
            unused = {"config": self.config, "out": self.out, "with": self.others or None}
            given = {name: self.network[name] or None for name in ("weights", "scale", "set")}
            refuse_unused("with --resume", **unused, **given)
        elif self.file is None:
            hint = "netbuild train lenet5.yaml; netbuild zoo lists the packaged networks"
            raise NetbuildError("the network's file is missing", hint=hint)

    def overfit(self, settings: Any) -> NoReturn:
        """Check that the network can overfit one batch; exit code 1 if it cannot."""
        refuse_unused("with --resume", overfit_batch=True if self.resume else None)
        unused = {"out": self.out, "callbacks": self.callbacks or None, "with": self.others or None}
        unused |= self.processes.flags
        refuse_unused("with --overfit-batch", **unused)
        from netbuild.training.overfitting import is_overfit
        from netbuild.training.progress import scan_progress
        from netbuild.training.run import overfit_batch

        with scan_progress(brief=True) as scanning:
            losses = overfit_batch(
                str(self.file), self.data, settings, callbacks=[scanning], **self.network, **self.code
            )
        is_learnt = is_overfit(losses)
        numbers = f"{losses[0]:.4f} at first, {max(losses):.4f} at most, {min(losses[-5:]):.4f} at last"
        verdict = "learnt" if is_learnt else "not learnt"
        write(f"one batch, {len(losses)} steps: loss above the least possible {numbers}: {verdict}")
        if not is_learnt:
            say("hint: give it more steps by --epochs or another --lr; then look at head, loss and labels")
        raise typer.Exit(0 if is_learnt else 1)

    def train(self, settings: Any, flags: dict[str, Any]) -> None:
        """Begin or resume the run, in several processes if there are to be some; print its best epoch.

        Args:
            settings: all settings, for a run that begins.
            flags: those that were given, which override the stored ones of a run that is resumed.
        """
        opening = {name: self.network[name] for name in ("set", "scale")}
        self.processes.launch("train", settings.device, self.file, self.resume, **opening, **self.code)
        if self.processes.nnodes == 1:
            refuse_unused("on one machine", node_rank=self.processes.node_rank, rdzv=self.processes.rdzv)
        from netbuild.system.files import new_folder
        from netbuild.system.processes import destroy_process_group, is_main_process
        from netbuild.training.announcing import (
            BestClasses,
            describe_end,
            describe_interruption,
            describe_next,
            describe_start,
        )
        from netbuild.training.callbacks import callbacks_of_file
        from netbuild.training.progress import ProgressBar, scan_progress
        from netbuild.training.run import resume, start

        added = [callback for path in self.callbacks for callback in callbacks_of_file(path)]
        with scan_progress(brief=self.resume is not None) as scanning:
            classes = BestClasses()
            callbacks = [scanning, ProgressBar(), classes, *added]
            if self.resume is not None:
                trainer = resume(self.resume, flags, data=self.data, callbacks=callbacks, **self.code)
            else:
                folder = self.out or new_folder(Path(str(self.file)).stem)
                options = {"networks": self.others, "callbacks": callbacks, **self.network, **self.code}
                trainer = start(str(self.file), self.data, settings, folder, **options)
        if is_main_process():
            say(describe_start(trainer))
        try:
            trainer.run()
        except KeyboardInterrupt:
            if is_main_process():
                say(describe_interruption(trainer))
            raise
        if is_main_process():
            _show_rows(classes.rows)
            write(describe_end(trainer))
            say(describe_next(trainer))
        destroy_process_group()


@command(TRAIN)
def val(
    file: Annotated[Path, typer.Argument(help="A checkpoint, or an exported .onnx file.")],
    data: Annotated[str, typer.Option(help="data.yaml, a folder, .json, .csv, or digits, digits-detect, shapes.")],
    split: Annotated[
        str | None, typer.Option(help="The data set's split: unless given val, or test if there is no val.")
    ] = None,
    imgsz: SquareSize = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Training batch size; validation uses twice as many images per batch.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = None,
    iou: Annotated[
        str | None,
        typer.Option(
            help="Oriented boxes: the overlap of mAP50-95, probiou (unless given) or polygon, which is exact.",
        ),
    ] = None,
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

    processes = _Processes(nproc)
    refuse_code(file, modules, trust, nproc=processes.flags["nproc"])
    side = parse_square_size(imgsz)
    flags = _settings_given(option, imgsz=side, batch=batch, device=device, lenient=lenient, strict=strict)
    chosen, code = settings.load(None, flags), {"modules": modules or (), "trusted": may_run(trust)}
    processes.launch("val", chosen.device, str(file), None, **code)
    from netbuild.system.processes import destroy_process_group, is_main_process
    from netbuild.tasks.metric import UNDEFINED
    from netbuild.training.progress import scan_progress
    from netbuild.training.validation import validate

    with scan_progress(brief=True) as scanning:
        measures, classes = validate(file, data, split, chosen, out, overlap=iou, callbacks=[scanning], **code)
    is_printing = is_main_process()
    destroy_process_group()
    if not is_printing:
        return
    if json:
        write_json({"measures": measures, "classes": classes})
        return
    known = {name: value for name, value in measures.items() if value != UNDEFINED}
    _show_rows(_list_measures(known), split=True)
    _show_rows(classes)


def _make_table(rows: Sequence[Mapping[str, Any]], split: bool = False) -> "Table":
    """Return rows of metrics as a table; with ``split`` a narrow terminal shows all columns, in several blocks."""
    from netbuild.system.tables import Table
    from netbuild.training.api import format_value

    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([format_value(row.get(key, "")) for key in columns] for row in rows)]
    steps = [(0, 12)]
    for name in () if split else ("F1", "recall", "precision"):  # on a narrow terminal average precision stays longest
        steps += [(index, 0) for index, column in enumerate(columns) if column.endswith(name)]
    return Table(cells, steps=steps, split=split)


def _show_rows(rows: Sequence[Mapping[str, Any]], split: bool = False) -> None:
    """Print rows of metrics as a table, or as one for each of several heads, whose measures differ."""
    for head in dict.fromkeys(row.get("head") for row in rows):
        show(_make_table([row for row in rows if row.get("head") == head], split))


def _list_measures(measures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the rows of `_list_kinds`; of several heads, whose measures are named ``boxes/mAP50``, for each."""
    heads: dict[str, dict[str, float]] = {}
    for name, value in measures.items():
        head, _, measure = name.rpartition("/")
        heads.setdefault(head, {})[measure] = value
    own = heads.pop("", {})
    rows = [{"head": head, **row} for head, inner in heads.items() for row in _list_kinds(inner)]
    return [*rows, *([{"head": "all", **own}] if heads else _list_kinds(own))]


def _list_kinds(measures: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a row of the measures without prefix, and one for each prefix, such as ``mask-``, of the same measures."""
    rows: dict[str, dict[str, Any]] = {"": {"class": "all"}}
    prefixes = {name.partition("-")[0] + "-" for name in measures if name.partition("-")[2] in measures}
    for name, value in measures.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        rows.setdefault(prefix, {"class": f"all, {prefix}"})[name.removeprefix(prefix)] = value
    return list(rows.values())
