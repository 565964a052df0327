"""Set up training runs: open network and data, check them, construct the trainer and create the run's folder."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from netbuild import settings as settings_of
from netbuild.data.dataset import Dataset
from netbuild.data.scanning import Report
from netbuild.errors import NetbuildError
from netbuild.feed.loader import BatchLoader
from netbuild.graph.card import NetworkCard
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.settings import Settings
from netbuild.system.devices import pick_device
from netbuild.system.files import write_text
from netbuild.system.processes import fail_together, init_process_group, is_main_process
from netbuild.tasks.base import Task
from netbuild.tasks.losses import default_settings
from netbuild.training import parallel
from netbuild.training.batches import to_device
from netbuild.training.callback_list import CallbackList
from netbuild.training.callbacks import Callback, installed_callbacks
from netbuild.training.folder import (
    DESCRIPTION,
    RunDescription,
    check_new_folder,
    create_folder,
    hash_data,
    read_description,
)
from netbuild.training.loop import Trainer
from netbuild.training.opening import open_further_networks, open_network_and_data
from netbuild.training.overfitting import overfit
from netbuild.training.parts import (
    complete_settings,
    describe_size_fault,
    find_class_difference,
    find_further_inputs,
    fit_head,
    make_calibration_loader,
    make_loader,
    make_samples,
    make_training_task,
    open_for_task,
    print_note,
    scan_for_training,
    task_class,
)
from netbuild.training.plotting import make_configured_callbacks
from netbuild.weights import checkpoint
from netbuild.weights.building import build_graph

SCAN_FILE = "data.json"  # the report of the data's scan
START_FILE = "start.safetensors"  # the network before training, from which a resumed run is built


def start(
    file: str | Path,
    data: str | Path | None,
    settings: Settings,
    folder: Path,
    *,
    callbacks: Sequence[Callback] = (),
    weights: str | Path | None = None,
    networks: Mapping[str, str | Path] | None = None,
    **options: Any,
) -> Trainer:
    """Set up a new run and create its folder; `Trainer.run` then trains.

    Args:
        file: the network's file, or a checkpoint.
        data: a data set, see `netbuild.data.open_data`; None for the embedded data of the network's task.
        settings: the settings of the run.
        folder: the run's folder, which must be new or empty.
        callbacks: the run's callbacks, see `netbuild.training.callbacks`; their scan hooks are called here.
        weights: a checkpoint whose tensors are copied into rows of the same structure.
        networks: files of the further networks that the task trains, by name.
        options: how the network's file is read, see `netbuild.graph.opening.open_graph`; and ``download``: whether
            rows may download published weights.

    Raises:
        NetbuildError: if network, data, settings or folder have an error or do not fit together.
    """
    init_process_group()
    with fail_together():
        if is_main_process():
            check_new_folder(folder)
        network, dataset, settings = open_network_and_data(file, data, settings, weights, **options)
        code = {name: value for name, value in options.items() if name in ("modules", "trusted")}
        others = open_further_networks(task_class(network.card), networks or {}, network.card.nc, **code)
        hooks = CallbackList([*installed_callbacks(), *callbacks])
        arguments, report = _make_arguments(network, dataset, settings, folder, hooks)
        fit_head(network, arguments["task"], report, settings)
        arguments["networks"] = others
    with fail_together():
        trainer = _make_trainer(arguments, report)
        if is_main_process():
            _create_folder(trainer, report, data)
    return trainer


def overfit_batch(
    file: str | Path,
    data: str | Path | None,
    settings: Settings,
    *,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> list[float]:
    """Overfit the first batch of the data, without augmentation: a self-test of network, loss and data.

    Args:
        file, data, options: as for `start`.
        settings: ``epochs`` is the number of steps; ``batch``, ``imgsz``, ``seed``, ``lr`` and ``device`` are used too.
        callbacks: their scan hooks are called.

    Returns:
        The loss of every step, minus the least possible loss.

    Raises:
        NetbuildError: if network, data or settings have an error or do not fit together.
    """
    network, dataset, settings = open_network_and_data(file, data, settings, **options)
    if others := task_class(network.card).networks:
        message = f"one batch cannot be overfitted: the task '{network.card.task}' also trains {', '.join(others)}"
        raise NetbuildError(message, hint="train for a few epochs instead")
    report = scan_for_training(network, dataset, ["train"], settings, CallbackList(callbacks))
    settings = complete_settings(task_class(network.card), report, settings)
    device = pick_device(settings.device)
    task = make_training_task(network.to(device), report, settings)
    fit_head(network, task, report, settings)
    print_note(find_further_inputs(network, task, dataset, settings).note)
    samples, collate = make_samples(network, task, report, "train", replace(settings, rect=False), False)
    loader = BatchLoader(samples, settings.batch, collate, settings.seed, True)
    batch = to_device(next(loader.epoch(0)), device)
    return overfit(network, task, batch, settings.epochs, settings.lr or 0.003)


def resume(
    folder: Path,
    flags: Mapping[str, Any] | None = None,
    *,
    data: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Trainer:
    """Set up a run that was stopped, from the state in its folder; `Trainer.run` then goes on training.

    Args:
        folder: the run's folder.
        flags: settings that override those of the run.
        data: where the run's data set lies now, if it was moved.
        callbacks: the run's callbacks, see `netbuild.training.callbacks`; their scan hooks are called here.
        options: ``modules`` and ``trusted``, for a network with custom modules.

    Raises:
        NetbuildError: if the folder holds no run, it cannot be resumed with these settings, or ``data`` is not its
            data set.
    """
    init_process_group()
    with fail_together():
        hooks = CallbackList([*installed_callbacks(), *callbacks])
        arguments, report = _restore_arguments(folder, flags, data, hooks, options)
    with fail_together():
        trainer = _make_trainer(arguments, report)
    with fail_together():
        if trainer.state_path.is_file():
            trainer.resume()
            _check_epochs(trainer)
            _forget_lost_best(trainer)
            if is_main_process():  # so that resuming it once more keeps the settings that were given now
                write_text(folder / "args.yaml", trainer.settings.to_yaml(comments=True) + "\n")
        else:
            _check_state_is_not_lost(trainer)
            print_note(f"{folder}: no epoch was finished, so the run begins with the first one")
    return trainer


def _restore_arguments(
    folder: Path,
    flags: Mapping[str, Any] | None,
    data: str | Path | None,
    callbacks: CallbackList,
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], Report]:
    """Return the arguments of the `Trainer` of a run to resume, and the report of its data."""
    description = read_description(folder)
    before, settings = settings_of.load(folder / "args.yaml").to_dict(), settings_of.load(folder / "args.yaml", flags)
    if unstated := settings_of.list_unstated(folder / "args.yaml"):  # cut off, or of an earlier version
        print_note(f"{folder / 'args.yaml'}: does not state these settings, which are the defaults: {_list(unstated)}")
    for name, value in settings.to_dict().items():
        if value != before[name]:
            print_note(f"{folder}: {name} is {value} from now on, it was {before[name]}")
    network = build_graph(open_graph(folder / START_FILE, **options))
    dataset = _open_run_data(data or description.data, network)
    names = task_class(network.card).networks
    arguments, report = _make_arguments(network, dataset, settings, folder, callbacks)
    _check_data(report, description, data)
    arguments["networks"] = {name: build_graph(open_graph(folder / _start_file(name), **options)) for name in names}
    return arguments, report


def _open_run_data(data: str | Path, network: Network) -> Dataset:
    """Open the data set of a run to resume.

    Raises:
        NetbuildError: if it is not there, or its classes are no longer as many as the network's.
    """
    try:
        dataset = open_for_task(task_class(network.card), data)
    except NetbuildError as error:
        if not Path(data).exists():
            error.hint = "if the run's data was moved: --data says where it lies now"
        raise
    if difference := find_class_difference(network.card, dataset):
        has, count = difference
        message = f"{dataset.name} has {count} classes now, the run's {has}"
        raise NetbuildError(message, hint="begin a new run, with --weights of this one's last.safetensors")
    return dataset


def _check_data(report: Report, description: RunDescription, data: str | Path | None) -> None:
    """Say that a run's data has changed; refuse another data set that was named.

    Raises:
        NetbuildError: if ``data`` is not the data set that the run began with.
    """
    if not description.data_hash or hash_data(report) == description.data_hash:
        return
    if data is not None:
        message = f"{data}: is not the data of the run: pictures or labels differ"
        raise NetbuildError(
            message, hint="for other data begin a new run, with --weights of this one's last.safetensors"
        )
    print_note(f"{description.data}: the data has changed since the run began; it goes on with the data as it is now")


def _check_epochs(trainer: Trainer) -> None:
    """Refuse fewer epochs than the run has finished; say that a finished run has nothing left to do.

    Raises:
        NetbuildError: for fewer epochs.
    """
    done, epochs = trainer.progress.epoch, trainer.settings.epochs
    if epochs < done:
        hint = f"more than {done} go on; best.safetensors is the best epoch so far"
        raise NetbuildError(f"--epochs {epochs}: the run in {trainer.folder} has finished {done} epochs", hint=hint)
    if epochs == done:
        print_note(f"{trainer.folder}: all {done} epochs are finished; --epochs with a larger number goes on")


def _forget_lost_best(trainer: Trainer) -> None:
    """Choose the best epoch anew, with a note, if the checkpoint of the one so far is lost or damaged."""
    path = trainer.folder / "best.safetensors"
    if not trainer.progress.best_epoch or trainer.progress.epoch >= trainer.settings.epochs:
        return
    try:
        checkpoint.load_tensors(path)
    except NetbuildError as error:
        reason = error.message.removeprefix(f"{path}: ")
        print_note(f"{path}: {reason}: the best epoch is chosen anew from the next one on")
        trainer.progress.best, trainer.progress.best_epoch = None, 0


def _check_state_is_not_lost(trainer: Trainer) -> None:
    """Refuse to begin a run anew whose folder has the results of finished epochs: its state was lost.

    One epoch is no proof: its results are written before the first state.

    Raises:
        NetbuildError: for such a folder.
    """
    results = trainer.folder / "results.csv"
    if results.is_file() and len(results.read_bytes().splitlines()) > 2:
        hint = "begin a new run, with --weights of this one's last.safetensors"
        raise NetbuildError(f"{trainer.state_path}: is missing, and the run has finished epochs", hint=hint)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _start_file(name: str) -> str:
    """Return the name of the file that holds a further network before training."""
    return START_FILE.replace(".", f".{name}.", 1)


def check_network(file: str | Path | None, resume: Path | None, **options: Any) -> None:
    """Check a run's network before processes are started for it, so that its errors are printed only once.

    It is also the last place where the user can be asked whether to trust code: the processes have no terminal.

    Args:
        file: the network's file.
        resume: the folder of the run to resume; None for a new run.
        options: as for `netbuild.graph.opening.open_graph`.

    Raises:
        NetbuildError: if the network has an error or no task that can be trained, or the folder holds no run.
    """
    if resume is not None:
        read_description(resume)
    if resume is not None or file is not None:
        task_class(open_graph(resume / START_FILE if resume else str(file), **options))


def _make_arguments(
    network: Network, dataset: Dataset, settings: Settings, folder: Path, callbacks: CallbackList
) -> tuple[dict[str, Any], Report]:
    """Return the arguments of the `Trainer` of a run, and the report of its data, which is scanned here."""
    parallel.check_settings(settings, pick_device(settings.device))
    if settings.class_embeddings:  # a run may be resumed, or validated, from another folder
        settings = replace(settings, class_embeddings=str(Path(settings.class_embeddings).absolute()))
    network.card = replace(network.card, resizing="area")  # whatever an imported checkpoint was trained on
    # All labels and pictures are read before the first step, so that no fault ends the run hours later.
    held_out = dataset.held_out()
    report = scan_for_training(network, dataset, ["train", held_out], settings, callbacks)
    settings = complete_settings(task_class(network.card), report, settings)
    print_note(describe_size_fault(network, settings))
    task = make_training_task(network, report, settings)
    defaults = {name: value for head in network.heads for name, value in default_settings(head).items()}
    settings = settings.with_network_defaults(defaults)
    print_note(find_further_inputs(network, task, dataset, settings).note)
    train = make_loader(network, task, report, "train", settings, True)
    val = make_loader(network, task, report, held_out, settings, False)
    arguments = {
        "network": network,
        "task": task,
        "train": train,
        "val": val,
        "settings": settings,
        "folder": folder,
        "names": list(dataset.names) if states_names(task, network.card) else None,
        "decode_options": task.decode_options(settings),
        "callbacks": callbacks,
    }
    return arguments, report


def states_names(task: Task, card: NetworkCard) -> bool:
    """Return whether the checkpoints of a network state the names of the data's classes."""
    return task.counts_classes or (task.conditional and card.nc is not None)


def _make_trainer(arguments: dict[str, Any], report: Report) -> Trainer:
    """Construct the trainer; on rank 0 with the callbacks that the settings turn on, before the user's own."""
    trainer = Trainer(**arguments)
    trainer.calibration = make_calibration_loader(trainer.network, trainer.task, report, trainer.settings)
    if is_main_process():
        trainer.callbacks[:0] = make_configured_callbacks(trainer.settings, report.samples("train"))
    return trainer


def _create_folder(trainer: Trainer, report: Report, data: str | Path | None) -> None:
    """Create the run's folder with settings, network file, report of the data and initial networks."""
    with create_folder(trainer.folder) as draft:
        _check_disk_space(trainer)
        place = str(Path(data).absolute()) if data and Path(data).exists() else report.dataset.name
        write_text(draft / "args.yaml", trainer.settings.to_yaml(comments=True) + "\n")
        write_text(draft / "model.yaml", trainer.network.card.yaml + "\n")
        write_text(draft / SCAN_FILE, json.dumps(report.to_dict(), indent=1) + "\n")
        write_text(draft / DESCRIPTION, RunDescription(place, hash_data(report)).to_json())
        checkpoint.save(trainer.unsharded_network(), draft / START_FILE, names=trainer.names)
        for name, network in trainer.networks.items():
            checkpoint.save(network, draft / _start_file(name), names=trainer.names)


def _check_disk_space(trainer: Trainer) -> None:
    """Check that the disk has room for the run's checkpoints.

    Raises:
        NetbuildError: if it has too little.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in trainer.learner.state_dict().values())
    # Three checkpoints (start, last, best), and two states, old and new, of about four times the weights: network,
    # EMA and two moments of the optimiser.
    period = trainer.settings.save_period
    need = size * (3 + 2 * 4 + (trainer.settings.epochs // period if period else 0))
    folder = trainer.folder
    free = shutil.disk_usage(folder.parent).free
    if free < need:
        message = f"{folder}: {free / 1e6:.0f} MB of the disk are free, the run's checkpoints need {need / 1e6:.0f} MB"
        raise NetbuildError(message, hint="free some space, or choose another disk by --out")
