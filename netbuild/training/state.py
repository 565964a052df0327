"""The whole state of a run in one file without executable code: a resumed run goes on as if nothing had happened."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.checkpoint_header import read_header
from netbuild.training.learners import Trainee
from netbuild.training.parallel import gather_tensor, shard_like
from netbuild.weights import checkpoint

SCHEMA = 1
KEY = "netbuild-state"
MAIN = "network"  # name of the run's own network


@dataclass
class Progress:
    """How far a run has come, and its best so far."""

    epoch: int = 0  # epochs done
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)  # the states of the run's callbacks


def save(path: Path, trainees: Mapping[str, Trainee], progress: Progress, write: bool = True) -> None:
    """Write the state of a run atomically.

    With FSDP every rank must call this (gathering is collective); only the one with ``write`` writes.

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
        own, facts[name] = _gather_state(trainee, write)
        tensors |= {f"{_prefix(name)}{key}": tensor for key, tensor in own.items()}
    if write:
        others = {name: fact for name, fact in facts.items() if name != MAIN}
        metadata = {"schema": SCHEMA, "progress": asdict(progress), **facts[MAIN], "others": others}
        checkpoint.write_safetensors(tensors, {KEY: json.dumps(metadata)}, path)


def _prefix(name: str) -> str:
    """What the keys of a network's tensors begin with; those of the run's own network have no prefix."""
    return "" if name == MAIN else f"{name}:"


def _gather_state(trainee: Trainee, write: bool) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Gather the tensors of a network, its average and its optimiser, and the facts that are no tensors."""
    tensors, numbers = {}, {}
    for name, value in _parts(trainee):
        value = gather_tensor(value)
        if not isinstance(value, torch.Tensor):
            numbers[name] = value
        elif write:
            tensors[name] = value.detach().cpu().contiguous().clone()
    saved_groups = trainee.plan.optimizer.state_dict()["param_groups"]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in saved_groups]
    return tensors, {"numbers": numbers, "groups": groups, "steps": trainee.average.steps}


def _parts(trainee: Trainee) -> Iterator[tuple[str, Any]]:
    yield from ((f"network/{key}", tensor) for key, tensor in trainee.network.state_dict().items())
    yield from ((f"average/{key}", tensor) for key, tensor in trainee.average.tensors.items())
    for index, values in trainee.plan.optimizer.state_dict()["state"].items():
        yield from ((f"optimizer/{index}/{key}", value) for key, value in values.items())


def load(path: Path, trainees: Mapping[str, Trainee]) -> Progress:
    """Restore the state of a run into its networks, averages and optimisers.

    Args:
        path: the file.
        trainees: the networks in training by name, as for `save`.

    Returns:
        How far the run had come.

    Raises:
        NetbuildError: if the file is no state, or that of other networks or optimisers.
    """
    from safetensors.torch import load_file

    try:
        metadata = json.loads(read_header(path)["__metadata__"][KEY])
        tensors = load_file(path)
        facts = {MAIN: metadata, **metadata.get("others", {})}
        if set(facts) != set(trainees):
            raise ValueError(f"it holds the networks {', '.join(facts)}, the run has {', '.join(trainees)}")
        for name, trainee in trainees.items():
            own = _under(tensors, _prefix(name)) if name != MAIN else tensors
            _restore(trainee, own, facts[name])
        return Progress(**metadata["progress"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        hint = "it belongs to a run of another network or other settings"
        raise NetbuildError(f"{path}: cannot be resumed from: {shorten(error)}", hint=hint) from error


def _restore(trainee: Trainee, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Load the state of one network, its average and its optimiser."""
    network, average, optimizer = trainee.network, trainee.average, trainee.plan.optimizer
    now = network.state_dict()
    network.load_state_dict({k: shard_like(v, now.get(k, v)) for k, v in _under(tensors, "network/").items()})
    for key, tensor in _under(tensors, "average/").items():
        average.tensors[key].copy_(shard_like(tensor, average.tensors[key]))
    average.steps = facts["steps"]
    state = optimizer.state_dict()
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    state["state"] = _optimizer_state(tensors, facts["numbers"], learning)
    state["param_groups"] = [{**g, **saved} for g, saved in zip(state["param_groups"], facts["groups"], strict=True)]
    optimizer.load_state_dict(state)


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _optimizer_state(
    tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any], learning: Sequence[torch.Tensor]
) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for name, value in {
        **_under(tensors, "optimizer/"),
        **{k.removeprefix("optimizer/"): v for k, v in numbers.items()},
    }.items():
        number, _, key = name.partition("/")
        like = learning[int(number)]
        same = isinstance(value, torch.Tensor) and value.shape == like.shape and value.ndim
        found.setdefault(int(number), {})[key] = shard_like(value, like) if same else value
    return found
