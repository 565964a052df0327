"""Validation of a checkpoint, a network or an exported file on a data set."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from netbuild.data.dataset import Dataset
from netbuild.drawing import charts
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.feed.loader import BatchLoader
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.onnx_network import OnnxNetwork, RunNetwork, is_exported, open_exported
from netbuild.prediction.predictor import trained_embeddings
from netbuild.settings import BOX_SETTINGS, RESTORATION_SETTINGS, Settings
from netbuild.system.devices import pick_device
from netbuild.system.files import write_text
from netbuild.system.processes import broadcast, fail_together, init_process_group, is_main_process
from netbuild.tasks import TASKS
from netbuild.tasks import find as find_task
from netbuild.tasks.base import Metric, Task
from netbuild.training.batches import network_inputs, to_device
from netbuild.training.callback_list import CallbackList
from netbuild.training.callbacks import Callback
from netbuild.training.loop import merge_metric
from netbuild.training.parts import (
    check_settings,
    find_class_difference,
    find_further_inputs,
    make_loader,
    make_task,
    open_for_task,
    print_note,
    scan_splits,
    task_class,
)
from netbuild.training.plotting import MAX_BATCHES, prepare_plot_folder, save_comparison
from netbuild.weights.building import build_graph

VALIDATION_SETTINGS = (*BOX_SETTINGS, *RESTORATION_SETTINGS, "rect")  # those that only some tasks can have


def check_task(task: type[Task], dataset: Dataset) -> None:
    """Refuse a data set of a kind that the task does not learn from.

    Raises:
        NetbuildError: if the data set is of such a kind.
    """
    if task.learns_from and dataset.task not in task.learns_from:
        folders = dataset.format == "yolo" and "classify" in task.learns_from
        fitting = [name for name in TASKS.names() if dataset.task in find_task(name).learns_from]
        hint = f"it is for networks of the task {' or '.join(fitting)}" if fitting else "name another data set"
        hint = f"if its classes are folders, name the folder itself: --data {dataset.root}" if folders else hint
        message = f"{dataset.name} is a data set for '{dataset.task}', the network's task is '{task.name}'"
        raise NetbuildError(message, hint=hint)


def check_classes(network: Network, dataset: Dataset) -> None:
    """Refuse a data set whose number of classes differs from the network's, if the task depends on it.

    Raises:
        NetbuildError: if the numbers differ, of the network or of one of several heads.
    """
    if difference := find_class_difference(network.card, dataset):
        has, data = difference
        kind, _, count = has.rpartition(" ")
        raise NetbuildError(f"the {kind} has {count} classes, the data set {dataset.name} has {data}")


def validate(
    file: str | Path | Network,
    data: str | Path,
    split: str | None = None,
    settings: Settings | None = None,
    out: Path | None = None,
    *,
    overlap: str | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Measure a network on a data set.

    Args:
        file: a checkpoint; an exported ONNX file, whose pictures are padded to its size if that is fixed; or a network
            on the CPU.
        data: the data set, see `netbuild.data.open_data`.
        split: the split of the data set; by default ``val``, or ``test`` if there is no ``val``.
        settings: the settings of validation.
        out: a folder for curves and confusion matrix, as charts and as numbers in ``measures.json``, and for pictures
            of the first batches; None draws nothing.
        overlap: which kind of overlap the measures without a prefix are by, one of `Metric.overlaps`; None for the
            first one.
        callbacks: their scan hooks and ``on_validation_batch`` are called.
        options: ``modules`` and ``trusted``, for a network with custom modules.

    Returns:
        The measures by name, and a row of measures for each class; the same on all ranks.

    Raises:
        NetbuildError: if the network, the data set or the settings have an error or do not fit together.
    """
    settings, hooks = settings or Settings(), CallbackList(callbacks)
    init_process_group()
    with fail_together():
        if out is not None and is_main_process():
            prepare_plot_folder(out)
        network, task, metric, loader, device = _prepare(file, data, split, settings, overlap, hooks, options)
    with torch.no_grad():
        for number, batch in enumerate(loader.epoch(0)):
            batch = to_device(batch, device)
            size = batch["images"].shape[-2:]
            outputs = task.run(network, network_inputs(task, batch))
            predictions = task.postprocess(outputs, size, **task.decode_options(settings))
            metric.update(predictions, batch)
            hooks.call("on_validation_batch", number + 1, len(loader))
            if out is not None and is_main_process() and number < MAX_BATCHES and task.takes_pictures:
                save_comparison(task, batch, predictions, out / f"val_batch{number}.png")
    loader.close()
    metric = merge_metric(metric, loader)
    with fail_together():
        measures = (metric.result(), metric.classes()) if is_main_process() else ({}, [])
        if out is not None and is_main_process():
            list(charts.save_all(metric.plots(), out))
            found = {"measures": measures[0], "classes": measures[1], **metric.tables()}
            write_text(out / "measures.json", json.dumps(found))
    return broadcast(measures)


def make_metric(task: Task, overlap: str | None) -> Metric:
    """Return a metric of a task, whose main kind of overlap is the one of this name, unless that is None.

    Raises:
        NetbuildError: if the metric has no such kind of overlap.
    """
    metric = task.metric()
    if overlap is not None:
        if overlap not in metric.overlaps:
            _refuse_overlap(task, overlap, metric.overlaps)
        metric.choose_overlap(overlap)
    return metric


def _refuse_overlap(task: Task, overlap: str, known: Sequence[str]) -> NoReturn:
    if overlap.replace(".", "", 1).isdigit():
        hint = f"the threshold of non-maximum suppression is the setting iou: -O iou={overlap}"
    elif known:
        hint = did_you_mean(overlap, known) or f"it is {' or '.join(known)}"
    else:
        hint = "only oriented boxes have a choice: probiou or polygon"
    raise NetbuildError(f"the task '{task.name}' has no measures by the overlap '{overlap}'", hint=hint)


def _prepare(
    file: str | Path | Network,
    data: str | Path,
    split: str | None,
    settings: Settings,
    overlap: str | None,
    callbacks: CallbackList,
    options: Mapping[str, Any],
) -> tuple[Network, Task, Metric, BatchLoader, torch.device]:
    """Return the network, its task, an empty metric, the loader of the split, and the device."""
    network, device, settings = _open_network(file, settings, options)
    cls = task_class(network.card)  # an unknown task is reported before a wrong number of classes
    dataset = open_for_task(cls, data)
    check_classes(network, dataset)
    check_task(cls, dataset)
    network.card = cls.adapt_card(network.card, dataset, settings)
    facts = {**cls.card_options(network.card), **cls.data_options(dataset)}
    task = make_task(network.to(device).eval(), list(dataset.names), **facts)
    check_settings(task, settings, Settings(), VALIDATION_SETTINGS)
    metric = make_metric(task, overlap)
    split = split or dataset.held_out()
    report = scan_splits(cls, dataset, [split], settings, callbacks, allow_empty=True)
    if isinstance(network, OnnxNetwork | RunNetwork):  # forked workers may hang beside the threads of a runtime
        settings = replace(settings, workers=0)
    print_note(find_further_inputs(network, task, dataset, settings).note)
    return network, task, metric, make_loader(network, task, report, split, settings, False), device


def _open_network(
    file: str | Path | Network, settings: Settings, options: Mapping[str, Any]
) -> tuple[Network, torch.device, Settings]:
    """Return a file's network, the device on which its images are made, and the settings with those of its training."""
    if isinstance(file, Network):
        return file, torch.device("cpu"), settings
    if not is_exported(file):
        graph = open_graph(file, **options)
        if settings.class_embeddings is None:
            settings = replace(settings, class_embeddings=trained_embeddings(graph))
        return build_graph(graph), pick_device(settings.device), settings
    network: OnnxNetwork = open_exported(file, settings.device)
    network.choose_size(settings.imgsz, settings.rect)
    options = task_class(network.card).decode_options(settings)
    network.check({name: options[name] for name in ("conf", "max_det") if name in options})
    return network, torch.device("cpu"), settings
