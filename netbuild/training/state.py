"""Save and load the state of a run: one safetensors file from which the run is resumed bit-equal.

It holds weights, averaged weights, optimiser states and the progress, and no executable code.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.checkpoint_header import read_header
from netbuild.grammar.metadata import integer, json_value, list_of, mapping_of, number, optional, record
from netbuild.training.learners import Trainee
from netbuild.training.parallel import gather_tensor, shard_like
from netbuild.weights import checkpoint

SCHEMA = 1
KEY = "netbuild-state"  # of the metadata
MAIN = "network"  # name of the run's own network

_count = integer(0, 2**53)
_NETWORK = {"numbers": mapping_of(json_value), "groups": list_of(mapping_of(json_value)), "steps": _count}
_PROGRESS = record(
    {
        "epoch": _count,
        "best": optional(number),
        "best_epoch": _count,
        "seconds": number,
        "history": list_of(mapping_of(number)),
    },
    {"callbacks": mapping_of(json_value)},
)
_STATE = record(
    {"schema": integer(1, SCHEMA), "progress": _PROGRESS, **_NETWORK}, {"others": mapping_of(record(_NETWORK))}
)


@dataclass
class Progress:
    """How far a run has come, and its best epoch so far.

    Attributes:
        epoch: number of finished epochs.
        best: the best value of the measure that chooses the best epoch.
        best_epoch: the epoch of that value, from 1.
        seconds: the time of all finished epochs.
        history: for each epoch its number, losses and measures.
        callbacks: the states of the run's callbacks.
    """

    epoch: int = 0
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)


def save(path: Path, trainees: Mapping[str, Trainee], progress: Progress, write: bool = True) -> None:
    """Write the state of a run atomically.

    With FSDP every rank must call this, because gathering is collective; only the one with ``write`` writes.

    Args:
        path: the file.
        trainees: the networks in training by name; ``network`` is the run's own.
        progress: how far the run has come.
        write: whether this process writes.

    Raises:
        NetbuildError: if it cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, trainee in trainees.items():
        gathered, facts[name] = _gather_state(trainee, write)
        tensors |= {f"{_prefix(name)}{key}": tensor for key, tensor in gathered.items()}
    if write:
        others = {name: fact for name, fact in facts.items() if name != MAIN}
        metadata = {"schema": SCHEMA, "progress": asdict(progress), **facts[MAIN], "others": others}
        checkpoint.write_safetensors(tensors, {KEY: json.dumps(metadata)}, path)


def _prefix(name: str) -> str:
    """Return the prefix of the keys of a network's tensors; the run's own network has none."""
    return "" if name == MAIN else f"{name}:"


def _gather_state(trainee: Trainee, write: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of a network, its EMA and its optimiser, and the other values of their states."""
    tensors, numbers = {}, {}
    for name, value in _iterate_state(trainee):
        value = gather_tensor(value)
        if not isinstance(value, torch.Tensor):
            numbers[name] = value
        elif write:
            tensors[name] = value.detach().cpu().contiguous().clone()
    saved_groups = trainee.plan.optimizer.state_dict()["param_groups"]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in saved_groups]
    return tensors, {"numbers": numbers, "groups": groups, "steps": trainee.average.steps}


def _iterate_state(trainee: Trainee) -> Iterator[tuple[str, Any]]:
    """Yield each value of a network's state with its key: network/..., average/..., optimizer/INDEX/...."""
    yield from ((f"network/{key}", tensor) for key, tensor in trainee.network.state_dict().items())
    yield from ((f"average/{key}", tensor) for key, tensor in trainee.average.tensors.items())
    for index, values in trainee.plan.optimizer.state_dict()["state"].items():
        yield from ((f"optimizer/{index}/{key}", value) for key, value in values.items())


def load(path: Path, trainees: Mapping[str, Trainee]) -> Progress:
    """Load the state of a run into its networks, EMAs and optimisers.

    Args:
        path: the file.
        trainees: the networks in training by name, as for `save`.

    Returns:
        The progress of the run.

    Raises:
        NetbuildError: if the file is not the state of a run, or was saved with other networks or optimisers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        metadata = json.loads(read_header(path)["__metadata__"][KEY])
        _STATE(metadata, "")
        tensors = load_file(path)
        facts = {MAIN: metadata, **metadata.get("others", {})}
        if set(facts) != set(trainees):
            raise ValueError(f"it holds the networks {', '.join(facts)}, the run has {', '.join(trainees)}")
        for name, trainee in trainees.items():
            selected = tensors if name == MAIN else _select(tensors, _prefix(name))
            _restore(trainee, selected, facts[name])
        known = {key: value for key, value in metadata["progress"].items() if key in Progress.__dataclass_fields__}
        return Progress(**known)
    except SafetensorError as error:
        hint = "begin a new run, with --weights of this one's last.safetensors"
        raise NetbuildError(f"{path}: damaged or incomplete: {shorten(error)}", hint=hint) from None
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        hint = "the state was saved with another network or other settings"
        raise NetbuildError(
            f"{path}: the run cannot be resumed from this state: {shorten(error)}", hint=hint
        ) from error


def _restore(trainee: Trainee, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Load the state of one network, its EMA and its optimiser."""
    network, average, optimizer = trainee.network, trainee.average, trainee.plan.optimizer
    current = network.state_dict()
    weights = _select(tensors, "network/")
    network.load_state_dict({k: shard_like(v, current.get(k, v)) for k, v in weights.items()})
    for key, tensor in _select(tensors, "average/").items():
        average.tensors[key].copy_(shard_like(tensor, average.tensors[key]))
    average.steps = facts["steps"]
    state = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state["state"] = _optimizer_state(tensors, facts["numbers"], parameters)
    state["param_groups"] = [{**g, **saved} for g, saved in zip(state["param_groups"], facts["groups"], strict=True)]
    optimizer.load_state_dict(state)


def _select(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose keys have a prefix, under the keys without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _optimizer_state(
    tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any], parameters: Sequence[torch.Tensor]
) -> dict[int, dict[str, Any]]:
    """Return the optimiser's state by index of the parameter; moments are sharded like their parameters."""
    values = {**_select(tensors, "optimizer/"), **{k.removeprefix("optimizer/"): v for k, v in numbers.items()}}
    found: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        index, _, key = name.partition("/")
        parameter = parameters[int(index)]
        is_moment = isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim
        found.setdefault(int(index), {})[key] = shard_like(value, parameter) if is_moment else value
    return found
