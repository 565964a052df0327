"""Open what a run begins with: its network, with the values that follow the data set, and further networks."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from netbuild.data import embedded
from netbuild.data.dataset import Dataset
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.settings import Settings
from netbuild.tasks.base import Task
from netbuild.training.parts import embedded_data, open_for_task, print_note, print_transfer, task_class
from netbuild.training.validation import check_task
from netbuild.weights.building import build_for_classes, build_graph, transfer

DEMO_WINDOW = 64  # pixels of the middle of an image that is left to the pictures of an embedded data set


def open_network_and_data(
    file: str | Path,
    data: str | Path | None,
    settings: Settings,
    weights: str | Path | None = None,
    download: bool = False,
    **options: Any,
) -> tuple[Network, Dataset, Settings]:
    """Open a data set and build a network with as many classes; the arguments are those of `start`.

    Returns:
        The network, the data set and the settings, in which the size of pictures may be that of the embedded data.

    Raises:
        NetbuildError: if one of them has an error or they do not fit together.
    """
    if settings.imgsz is not None:  # so that rows that do not fit this size are errors here, with their place
        options = {**options, "imgsz": (settings.imgsz, settings.imgsz)}
    graph = open_graph(file, **options)
    task = task_class(graph)
    dataset = open_for_task(task, data or embedded_data(task))
    if not data:
        message = f"note: no --data: the network is trained on the embedded demonstration set '{dataset.name}'"
        side = choose_embedded_size(graph, dataset.name) if settings.imgsz is None else None
        smaller = _open_at_size(file, side, options) if side is not None else None
        if smaller is not None and side is not None:
            settings, options, graph = replace(settings, imgsz=side), {**options, "imgsz": (side, side)}, smaller
            about = "for a quick demonstration" if graph.map_step else "about the size of its pictures"
            message += f" at {side} pixels, {about} (--imgsz for another)"
        print_note(message)
    changes: dict[str, Any] = {}
    if (name := task.task_for(dataset)) != task.name:
        changes = {"task": name, **task.network_options(dataset)}
        graph = open_graph(file, **{**options, **changes})
        task = task_class(graph)
        print_note(f"note: {dataset.name} is a data set for '{name}', so this becomes the task of the network")
    check_task(task, dataset)
    changes |= find_changes(graph, task.network_options(dataset), task.conditional)
    if changes:
        graph = open_graph(file, **{**options, **changes})
    for note in graph.notes:
        print_note(f"note: {note}")
    torch.manual_seed(settings.seed)
    source = graph.spec.checkpoint
    if source is not None and changes:
        network, report = build_for_classes(graph, source)
        print_transfer(source, report)
    else:
        network = build_graph(graph, download)
    if weights is not None:
        print_transfer(weights, transfer(network, weights))
    return network, dataset, settings


def _open_at_size(file: str | Path, side: int, options: Mapping[str, Any]) -> Graph | None:
    """Return the graph of a network's file for pictures of another size; None if its rows do not fit that size."""
    try:
        return open_graph(file, **{**options, "imgsz": (side, side)})
    except NetbuildError:  # convolutions without padding need larger pictures, for instance
        return None


def choose_embedded_size(graph: Graph, name: str) -> int | None:
    """Return the side for the pictures of an embedded data set; None for the network's own.

    The pictures are small: enlarged to the usual size of a detector they only make a run many times longer. Where the
    map leaves out a border of the image, which costs as much as its middle, they are shrunk into a middle of at least
    `DEMO_WINDOW` pixels.
    """
    side = embedded.SIDES.get(name)
    if side is None or graph.spec.checkpoint is not None:
        return None
    own = min(graph.imgsz)
    if graph.map_step:
        covered = graph.map_step * min(graph.out_shape[2:])
        side = own - (covered - DEMO_WINDOW) // graph.stride * graph.stride
    else:
        side = math.ceil(side / graph.stride) * graph.stride
    return side if own > side else None


def find_changes(graph: Graph, wanted: Mapping[str, Any], conditional: bool = False) -> dict[str, Any]:
    """Return the options, of those that a task wants for its data, by which a network must be opened again.

    A note is printed for each but the numbers of classes, which the run's description tells. An option that the file
    does not have is left out: if the head does not fit the data, `Task.check_samples` refuses it. So is the number of
    classes of a ``conditional`` task only: others want it of every network.
    """
    changes = {}
    for name, value in wanted.items():
        stated = getattr(graph, name)
        if stated == value or (stated is None and (name != "nc" or conditional)):
            continue
        changes[name] = value
        if name not in ("nc", "head_nc"):
            value, stated = (list(x) if isinstance(x, tuple) else x for x in (value, stated))
            print_note(f"note: {name} is {value} as in the data set; the network's file has {stated}")
    return changes


def open_further_networks(
    task: type[Task], files: Mapping[str, str | Path], nc: int | None = None, **options: Any
) -> dict[str, Network]:
    """Build the further networks that a task trains beside the run's own, in the order of `Task.networks`.

    Args:
        task: the task, whose ``networks`` are their names.
        files: the file of each network by name.
        nc: number of classes of the run's own network, which a further one also gets if its file states a number.
        options: ``modules`` and ``trusted`` are used; the other options are only for the run's own network.

    Raises:
        NetbuildError: if one is missing, or the task has no network of a name; see also `open_graph`.
    """
    for name in files:
        if name not in task.networks:
            known = f"its networks: {', '.join(task.networks)}" if task.networks else "leave it out"
            hint = did_you_mean(name, task.networks) or known
            raise NetbuildError(f"--with {name}: the task '{task.name}' trains no such network", hint=hint)
    for name in task.networks:
        if name not in files:
            hint = f"name its file: --with {name}=FILE.yaml"
            raise NetbuildError(f"the task '{task.name}' trains a second network, '{name}'", hint=hint)
    code = {key: value for key, value in options.items() if key in ("modules", "trusted")}
    return {name: build_graph(_open_for_classes(files[name], nc, code)) for name in task.networks}


def _open_for_classes(file: str | Path, nc: int | None, code: Mapping[str, Any]) -> Graph:
    """Open a further network, with the number of classes of the run's own if its file states one."""
    graph = open_graph(file, **code)
    return graph if nc is None or graph.nc in (None, nc) else open_graph(file, nc=nc, **code)
