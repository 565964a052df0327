"""Wrap a network for several processes: replicated with averaged gradients (DDP), or sharded (FSDP2)."""

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


def check_settings(settings: Settings, device: torch.device) -> None:
    """Refuse settings that do not work with the number of processes or the device.

    Raises:
        NetbuildError: for the first such setting.
    """
    count = world_size()
    if settings.batch % count:
        below, above = settings.batch // count * count, -(-settings.batch // count) * count
        choice = f"--batch {below} or {above}" if below else f"--batch {above}"
        message = f"--batch {settings.batch} is no multiple of the {count} processes"
        raise NetbuildError(message, hint=f"the batch is divided among all processes: {choice}")
    if settings.sync_bn and count > 1 and device.type in _NO_SYNC:
        message = f"sync_bn: torch's SyncBatchNorm does not work on {device.type}"
        raise NetbuildError(message, hint="train on GPUs, leave sync_bn out, or use GroupNorm")
    if settings.parallel == "fsdp":
        _check_fsdp(settings, device)


def _check_fsdp(settings: Settings, device: torch.device) -> None:
    """Refuse settings that do not work with FSDP."""
    if world_size() == 1:
        raise NetbuildError("parallel: fsdp needs several processes", hint="start them with --nproc")
    if not hasattr(importlib.import_module("torch.distributed.fsdp"), "fully_shard"):
        raise NetbuildError(f"torch {torch.__version__} has no fully_shard", hint="parallel: fsdp needs torch 2.6")
    if settings.amp == "fp16":
        raise NetbuildError("parallel: fsdp does not work with fp16", hint="--amp bf16")
    if settings.optimizer == "musgd":
        raise NetbuildError("parallel: fsdp does not work with musgd", hint="--optimizer adamw, or sgd")


def convert_sync_bn(network: Network) -> None:
    """Make batch norms compute their statistics over all ranks; keys of the state dict stay the same."""
    network.model = nn.SyncBatchNorm.convert_sync_batchnorm(network.model)


def wrap_model(network: Network, settings: Settings, device: torch.device) -> Any:
    """Return the module to call in training: the network, compiled if the setting is on, in DDP or sharded by FSDP.

    DDP keeps the network's parameters; FSDP replaces them by shards.
    """
    if settings.parallel == "fsdp":
        return _shard(network, settings, device)
    model: Any = torch.compile(network) if settings.compile else network
    if world_size() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, [device] if device.type == "cuda" else None)


def _shard(network: Network, settings: Settings, device: torch.device) -> Any:
    """Shard each row by itself, so that only one row at a time is gathered; then whatever is left."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    for row in network.model.children():
        if settings.compile:
            row.compile()
        if any(True for _ in row.parameters()):
            fully_shard(row, mesh=mesh)
    # Reshard after forward: validation swaps averaged weights in, so no gathered copy may outlive a pass.
    return fully_shard(network, mesh=mesh, reshard_after_forward=True)


def accumulate_locally(model: Any, last: bool) -> AbstractContextManager[Any]:
    """Return a context without DDP's averaging of gradients, unless this is the last batch of the optimiser's step."""
    return nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()


def sync_buffers(network: nn.Module, averaged: Mapping[str, Tensor]) -> None:
    """Broadcast rank 0's buffers (batch-norm statistics) and their averages: ranks differ as they saw other samples."""
    for name, tensor in network.named_buffers() if world_size() > 1 else ():
        torch.distributed.broadcast(tensor, 0)
        if name in averaged:
            torch.distributed.broadcast(averaged[name], 0)


# -- sharded (FSDP) ---------------------------------------------------------------------------------------------------


def gather_tensor(tensor: Any) -> Any:
    """Return the full tensor of a sharded one (collective: every rank must call it); other values stay as is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local_shard(tensor: Any) -> Any:
    """Return this rank's shard of a tensor; other values are returned as they are."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard_like(tensor: Tensor, like: Any) -> Tensor:
    """Shard a full tensor as another one is sharded; it is returned as it is if that one is not."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def cpu_copy(network: Network) -> Network:
    """Return an unsharded copy on the CPU, to gather the sharded weights into."""
    return copy.deepcopy(network).cpu()


@contextmanager
def temporary_weights(network: Network, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which the network has other weights, sharded as its own; afterwards it has its own again."""
    original = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
    copy_weights(network, tensors)
    try:
        yield
    finally:
        copy_weights(network, original)


@torch.no_grad()
def copy_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the network's parameters and buffers."""
    for key, tensor in network.state_dict().items():
        tensor.copy_(shard_like(tensors[key], tensor))
