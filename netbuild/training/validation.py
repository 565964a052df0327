"""A checkpoint or an exported file measured on a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from netbuild.data import open_data
from netbuild.data.dataset import Dataset
from netbuild.drawing import charts
from netbuild.errors import NetbuildError
from netbuild.feed.loader import BatchLoader
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.onnx_network import OnnxNetwork, RunNetwork, is_exported, open_exported
from netbuild.settings import Settings
from netbuild.system.devices import pick_device
from netbuild.system.processes import broadcast, fail_together, init_process_group, is_main_process
from netbuild.tasks.base import Task
from netbuild.training.batches import network_inputs, to_device
from netbuild.training.callback_list import CallbackList
from netbuild.training.callbacks import Callback
from netbuild.training.loop import merge_metric
from netbuild.training.parts import feed_of, inputs_of, print_note, scan_splits, task_class, task_of
from netbuild.training.recorder import SHOWN, prepare, show
from netbuild.weights.building import build_graph


def check_task(task: type[Task], dataset: Dataset) -> None:
    """Refuse a data set that the task does not learn from.

    Raises:
        NetbuildError: if it does not.
    """
    if task.learns_from and dataset.task not in task.learns_from:
        raise NetbuildError(f"{dataset.name} is a data set for '{dataset.task}', the network's task is '{task.name}'")


def check_classes(network: Network, dataset: Dataset) -> None:
    """Refuse a data set with another number of classes than the network's, where the task counts them.

    Raises:
        NetbuildError: if the numbers differ.
    """
    card = network.card
    if card.nc != dataset.nc and task_class(card.task).counts_classes:
        raise NetbuildError(f"the network has {card.nc} classes, the data set {dataset.name} has {dataset.nc}")


def validate(
    file: str | Path | Network,
    data: str | Path,
    split: str | None = None,
    settings: Settings | None = None,
    out: Path | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The measures of a checkpoint on a data set, and those of each class.

    Args:
        file: a checkpoint, or an exported ONNX file; one of a fixed size sees pictures on that canvas. Or a network
            on the CPU, as it is.
        data: a data set.
        split: of it; ``val``, else ``test``, unless given.
        settings: of validation.
        out: a folder for curves, confusion matrix and pictures of the first batches; none are drawn unless given.
        callbacks: their scan hooks and ``on_validation_batch`` are called.
        options: ``modules`` and ``trusted``, for a network with custom modules.

    Raises:
        NetbuildError: for whatever is wrong with the two.
    """
    settings, hooks = settings or Settings(), CallbackList(callbacks)
    init_process_group()
    with fail_together():
        if out is not None and is_main_process():
            prepare(out)
        network, task, feed, device = _to_validate(file, data, split, settings, hooks, options)
    metric = task.metric()
    with torch.no_grad():
        for number, batch in enumerate(feed.epoch(0)):
            batch = to_device(batch, device)
            canvas = batch["images"].shape[-2:]
            predictions = task.postprocess(
                network(*network_inputs(task, batch)), canvas, **task.decode_options(settings)
            )
            metric.update(predictions, batch)
            hooks.call("on_validation_batch", number + 1, len(feed))
            if out is not None and is_main_process() and number < SHOWN:
                show(task, batch, predictions, out / f"val_batch{number}.png")
    metric = merge_metric(metric, feed)
    with fail_together():
        if out is not None and is_main_process():
            list(charts.save_all(metric.plots(), out))
        found = (metric.result(), metric.classes()) if is_main_process() else ({}, [])
    return broadcast(found)


def _to_validate(
    file: str | Path | Network,
    data: str | Path,
    split: str | None,
    settings: Settings,
    callbacks: CallbackList,
    options: Mapping[str, Any],
) -> tuple[Network, Task, BatchLoader, torch.device]:
    """A checkpoint's network, its task, its samples, and where it runs."""
    network, device, settings = _measured(file, settings, options)
    task_class(network.card.task)  # an unknown task is an error before the number of classes is
    dataset = open_data(data)
    check_classes(network, dataset)
    task = task_of(network.to(device).eval(), list(dataset.names))
    check_task(type(task), dataset)
    split = split or dataset.held_out()
    report = scan_splits(dataset, [split], settings, callbacks, allow_empty=True)
    if isinstance(network, OnnxNetwork | RunNetwork):  # a runtime has threads, beside which forked workers may hang
        settings = replace(settings, workers=0)
    print_note(inputs_of(network, task, dataset, settings).note)
    return network, task, feed_of(network, task, report, split, settings, False), device


def _measured(
    file: str | Path | Network, settings: Settings, options: Mapping[str, Any]
) -> tuple[Network, torch.device, Settings]:
    """Return a file's network, the device on which its images are made, and the settings with those of its training."""
    if isinstance(file, Network):
        return file, torch.device("cpu"), settings
    if not is_exported(file):
        graph = open_graph(file, **options)
        if settings.class_embeddings is None:
            settings = replace(settings, class_embeddings=_trained_embeddings(graph))
        return build_graph(graph), pick_device(settings.device), settings
    network: OnnxNetwork = open_exported(file, settings.device)
    network.settle(settings.imgsz, settings.rect)
    given = task_class(network.card.task).decode_options(settings)
    network.check({name: given[name] for name in ("conf", "max_det") if name in given})
    return network, torch.device("cpu"), settings


def _trained_embeddings(graph: Graph) -> str | None:
    """Return the file of class features that a checkpoint was trained with, None if it does not record one."""
    trained = graph.spec.checkpoint_info.training.get("settings") if graph.spec.checkpoint_info else None
    file = trained.get("class_embeddings") if isinstance(trained, dict) else None
    return file if isinstance(file, str) else None
