"""A network over several processes: copies whose gradients are averaged (DDP), or one in pieces (FSDP2)."""

import copy
import importlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from netbuild.errors import NetbuildError
from netbuild.graph.network import Network
from netbuild.settings import Settings
from netbuild.system.processes import world_size

_NO_SYNC = ("cpu", "mps")  # where torch's SyncBatchNorm does not work


def check(settings: Settings, device: torch.device) -> None:
    """Refuse settings that several processes cannot follow, before anything is built.

    Raises:
        NetbuildError: for the setting.
    """
    count = world_size()
    if settings.batch % count:
        less, more = settings.batch // count * count, -(-settings.batch // count) * count
        choice = f"--batch {less} or {more}" if less else f"--batch {more}"
        message = f"--batch {settings.batch} does not divide among {count} processes"
        raise NetbuildError(message, hint=f"it is the batch of all together: {choice}")
    if settings.sync_bn and count > 1 and device.type in _NO_SYNC:
        message = f"sync_bn: torch's SyncBatchNorm does not work on {device.type}"
        raise NetbuildError(message, hint="train on GPUs, leave it out, or take norms of single images")
    if settings.parallel == "fsdp":
        _check_fsdp(settings, device)


def _check_fsdp(settings: Settings, device: torch.device) -> None:
    if world_size() == 1:
        raise NetbuildError("parallel: fsdp needs several processes", hint="start them with --nproc")
    if not hasattr(importlib.import_module("torch.distributed.fsdp"), "fully_shard"):
        raise NetbuildError(f"torch {torch.__version__} has no fully_shard", hint="parallel: fsdp needs torch 2.6")
    if settings.amp == "fp16":
        raise NetbuildError("parallel: fsdp does not go with fp16", hint="--amp bf16")
    if settings.optimizer == "musgd":
        raise NetbuildError("parallel: fsdp does not go with musgd", hint="--optimizer adamw, or sgd")


def convert_sync_bn(network: Network) -> None:
    """Let batch norms take their statistics over the batch of all processes. Keys of the state stay as they are."""
    network.model = nn.SyncBatchNorm.convert_sync_batchnorm(network.model)


def wrap_model(network: Network, settings: Settings, device: torch.device) -> Any:
    """What is called in training instead of the network, whose parameters stay or are replaced by their pieces."""
    if settings.parallel == "fsdp":
        return _sharded(network, settings, device)
    model: Any = torch.compile(network) if settings.compile else network
    if world_size() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, [device] if device.type == "cuda" else None)


def _sharded(network: Network, settings: Settings, device: torch.device) -> Any:
    """Row by row, so that one row at a time is whole; then the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    for row in network.model.children():
        if settings.compile:
            row.compile()
        if any(True for _ in row.parameters()):
            fully_shard(row, mesh=mesh)
    # Nothing stays whole after forward: validation exchanges the weights between two passes.
    return fully_shard(network, mesh=mesh, reshard_after_forward=True)


def accumulate_locally(model: Any, last: bool) -> AbstractContextManager[Any]:
    """A context without DDP's averaging of gradients, unless this is the last batch of the optimiser's step."""
    return nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()


def sync_buffers(network: nn.Module, averaged: Mapping[str, Tensor]) -> None:
    """Broadcast rank 0's buffers (batch-norm statistics), which differ because each rank saw other samples."""
    for name, tensor in network.named_buffers() if world_size() > 1 else ():
        torch.distributed.broadcast(tensor, 0)
        if name in averaged:
            torch.distributed.broadcast(averaged[name], 0)


# -- sharded (FSDP) ---------------------------------------------------------------------------------------------------


def gather_tensor(tensor: Any) -> Any:
    """The full tensor of a sharded one (collective: every rank must call it); other values as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local_shard(tensor: Any) -> Any:
    """This rank's shard of a tensor; other values are returned as they are."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard_like(tensor: Tensor, like: Any) -> Tensor:
    """A full tensor sharded like another one."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def cpu_copy(network: Network) -> Network:
    """An unsharded copy on the CPU, to gather the sharded weights into."""
    return copy.deepcopy(network).cpu()


@contextmanager
def temporary_weights(network: Network, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """A block in which the network has other weights, sharded like its own; afterwards it has its own again."""
    own = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
    copy_weights(network, tensors)
    try:
        yield
    finally:
        copy_weights(network, own)


@torch.no_grad()
def copy_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the network's parameters and buffers."""
    for key, tensor in network.state_dict().items():
        tensor.copy_(shard_like(tensors[key], tensor))
