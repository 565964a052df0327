"""A run's whole state in one file, nothing of it executable: what resuming needs to go on as if nothing happened."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.checkpoint_header import read_header
from netbuild.training.optimisers import Average
from netbuild.training.parallel import gather_tensor, shard_like
from netbuild.weights import checkpoint

SCHEMA = 1
KEY = "netbuild-state"


@dataclass
class Progress:
    """How far a run has come, and its best so far."""

    epoch: int = 0  # epochs done
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)  # the states of the run's callbacks


def save(
    path: Path,
    network: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    write: bool = True,
) -> None:
    """Write the state: to a temporary file first, renamed when it is whole.

    Of a network in pieces all processes take part, and one writes.

    Raises:
        NetbuildError: if it cannot be written.
    """
    tensors, numbers = {}, {}
    for name, value in _parts(network, average, optimizer):
        value = gather_tensor(value)
        if not isinstance(value, torch.Tensor):
            numbers[name] = value
        elif write:
            tensors[name] = value.detach().cpu().contiguous().clone()
    if not write:
        return
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.state_dict()["param_groups"]]
    facts = {
        "schema": SCHEMA,
        "progress": asdict(progress),
        "numbers": numbers,
        "groups": groups,
        "steps": average.steps,
    }
    checkpoint.write_safetensors(tensors, {KEY: json.dumps(facts)}, path)


def _parts(network: nn.Module, average: Average, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    yield from ((f"network/{key}", tensor) for key, tensor in network.state_dict().items())
    yield from ((f"average/{key}", tensor) for key, tensor in average.tensors.items())
    for index, values in optimizer.state_dict()["state"].items():
        yield from ((f"optimizer/{index}/{key}", value) for key, value in values.items())


def load(path: Path, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a run's state back.

    Raises:
        NetbuildError: if the file is none, or of another network or optimiser.
    """
    from safetensors.torch import load_file

    try:
        facts = json.loads(read_header(path)["__metadata__"][KEY])
        tensors = load_file(path)
        now = network.state_dict()
        network.load_state_dict({k: shard_like(v, now.get(k, v)) for k, v in _under(tensors, "network/").items()})
        for key, tensor in _under(tensors, "average/").items():
            average.tensors[key].copy_(shard_like(tensor, average.tensors[key]))
        average.steps = facts["steps"]
        state = optimizer.state_dict()
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        state["state"] = _optimizer_state(tensors, facts["numbers"], learning)
        state["param_groups"] = [
            {**g, **saved} for g, saved in zip(state["param_groups"], facts["groups"], strict=True)
        ]
        optimizer.load_state_dict(state)
        return Progress(**facts["progress"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        hint = "it belongs to a run of another network or other settings"
        raise NetbuildError(f"{path}: cannot be resumed from: {shorten(error)}", hint=hint) from error


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
