"""Distributed training: form the process group of several processes, and exchange values and errors between ranks.

The processes are started by torchrun (which `netbuild.system.launching` calls), by SLURM's srun or by hand; each one's
rank and the world size are in its environment. Everything else is torch.distributed.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from netbuild.errors import NetbuildError

T = TypeVar("T")
_state = SimpleNamespace(has_tried=False)  # whether this process has tried to connect to the others
CONNECTION_TIMEOUT = 300  # seconds to wait for the other processes when a run starts
EARLY_TIMEOUT = 60  # the same for a process that failed already
REMINDER = 10  # seconds after which a process says that it waits


class PeerLostError(NetbuildError):
    """This process lost the connection to another rank, which has ended."""

    exit_code = 1


class PeerFailedError(NetbuildError):
    """Raised on the ranks that did not fail: they exit with the failing rank's exit code.

    Args:
        number: rank of the process that failed.
        message: of its error.
        exit_code: its exit code.
    """

    def __init__(self, number: int, message: str, exit_code: int) -> None:
        reason = f": {message.splitlines()[0].removeprefix('error: ')}" if message else ""
        super().__init__(f"process {number} of {world_size()} of the run failed{reason}")
        self.exit_code = exit_code

    def __str__(self) -> str:
        # Under torchrun all processes print to one terminal, where the failing one has printed its error.
        return "" if _has_launcher() else super().__str__()


# -- the process group ------------------------------------------------------------------------------------------------


def is_distributed(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun or SLURM started this process as one of several; the process group need not exist yet."""
    return _read_number(environment, "WORLD_SIZE", "1") > 1 or bool(read_slurm_environment(environment))


def _read_number(environment: Mapping[str, str], name: str, default: str) -> int:
    """Read a number of the environment.

    Raises:
        NetbuildError: if it is none.
    """
    text = environment.get(name, default)
    if not text.isdecimal():
        message = f"the environment has {name}={text!r}, which is no number"
        raise NetbuildError(message, hint=f"unset {name}, or let torchrun or srun set it")
    return int(text)


def _read_place() -> tuple[int, int, str]:
    """Read the rank of this process, the number of processes, and the address of rank 0 from the environment.

    Raises:
        NetbuildError: if one is missing or no number.
    """
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        message = f"the environment has WORLD_SIZE={os.environ['WORLD_SIZE']} but no {', '.join(missing)}"
        raise NetbuildError(message, hint="start the processes by --nproc, torchrun or srun, or unset WORLD_SIZE")
    number, count, port = (_read_number(os.environ, name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if number >= count:
        message = f"the environment has RANK={number} and WORLD_SIZE={count}: ranks are from 0 to {count - 1}"
        raise NetbuildError(message)
    return number, count, f"{os.environ['MASTER_ADDR']}:{port}"


def _has_launcher() -> bool:
    """Whether torchrun started this process; it ends the other processes when one fails."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def init_process_group(patience: float | None = None) -> None:
    """Form the process group if torchrun or SLURM started several processes; do nothing otherwise.

    Args:
        patience: seconds to wait for the other processes, at the start and later; by default `CONNECTION_TIMEOUT` at
            the start, and then as long as torch does.

    Raises:
        NetbuildError: if the other processes cannot be reached.
    """
    if torch.distributed.is_initialized() or not is_distributed():
        return
    _state.has_tried = True
    os.environ.update(read_slurm_environment(os.environ))
    number, count, place = _read_place()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(choose_local_device(os.environ))
    seconds = patience or CONNECTION_TIMEOUT
    reminder = threading.Timer(REMINDER, print_waiting, (number, count, place, seconds))
    reminder.daemon = True
    reminder.start()
    try:
        start = timedelta(seconds=seconds)
        later = timedelta(seconds=patience) if patience else torch.distributed.constants.default_pg_timeout
        store, *_ = next(rendezvous("env://", timeout=start))
        store.set_timeout(later)
        # CPU tensors and Python objects go through gloo, also on machines with GPUs.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=later)
    except (ValueError, RuntimeError) as error:  # DistNetworkError, DistStoreError among them
        reason = str(error).splitlines()[0]
        message = f"process {number} of {count} cannot connect to the others at {place}: {reason}"
        raise NetbuildError(message, hint="start all of them, or unset RANK and WORLD_SIZE for a single one") from error
    finally:
        reminder.cancel()


def print_waiting(number: int, count: int, place: str, seconds: float) -> None:
    """Print that this process waits for others to start, and for how long at most."""
    print(
        f"process {number} of {count} waits for the others at {place} (at most {seconds:g} s)",
        file=sys.stderr,
        flush=True,
    )


def report_early_failure(exit_code: int) -> None:
    """Tell the other processes that this one failed before the group was formed, so that they do not wait for it.

    It does nothing where torchrun, which ends them, is the launcher, and gives up if they cannot be reached soon.
    """
    if _state.has_tried or _has_launcher():
        return
    try:
        if is_distributed():
            init_process_group(EARLY_TIMEOUT)
            all_gather(("its own output has the reason", exit_code))  # the others are in `fail_together`
    except Exception:  # its own error has been printed
        return


def destroy_process_group() -> None:
    """Destroy the process group at the end of a run, after waiting for all ranks."""
    if torch.distributed.is_initialized():
        all_gather(None)  # a barrier: rank 0 may still be drawing plots, and others may still send to this one
        torch.distributed.destroy_process_group()


def choose_local_device(environment: Mapping[str, str]) -> int:
    """Return the index of this process's GPU: its local rank, or 0 if it sees only one, as SLURM may arrange."""
    count = torch.cuda.device_count()
    return int(environment.get("LOCAL_RANK", "0")) if count > 1 else 0


def read_slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Translate the environment that srun sets to the variables that torch.distributed reads.

    Returns an empty dict for a process that srun did not start as one of several, or torchrun started.
    """
    name = "SLURM_STEP_NUM_TASKS" if environment.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    tasks = _read_number(environment, name, "1")
    if tasks < 2 or "SLURM_PROCID" not in environment or "WORLD_SIZE" in environment:
        return {}
    # Ports below the ephemeral range; the job and step numbers keep steps on one host apart.
    job, step = (_read_number(environment, name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    address = environment.get("MASTER_ADDR") or find_first_host(environment.get("SLURM_JOB_NODELIST", "localhost"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": address,
        "MASTER_PORT": environment.get("MASTER_PORT") or str(12_000 + (job + step) % 20_000),
    }


def find_first_host(nodes: str) -> str:
    """Return the first host of a SLURM node list: ``gpu[003-007,12],login`` gives gpu003."""
    if shutil.which("scontrol"):
        result = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True)
        if result.returncode == 0 and result.stdout.split():
            return result.stdout.split()[0]
    match = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


# -- ranks ------------------------------------------------------------------------------------------------------------


def world_size() -> int:
    """Return the number of processes in the group, 1 without one."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number in the group, 0 without one."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is rank 0, the process that writes files and prints."""
    return rank() == 0


# -- collective operations: every rank must call them -----------------------------------------------------------------


def broadcast(value: T) -> T:
    """Return rank 0's value on all ranks; it is pickled."""
    if world_size() == 1:
        return value
    values = [value]
    with detect_lost_peers():
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def all_gather(value: T) -> list[T]:
    """Return the values of all ranks, in order, on all ranks; they are pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with detect_lost_peers():
        torch.distributed.all_gather_object(values, value)
    return values


def reduce_normaliser(total: Tensor, least: float) -> Tensor:
    """Return the normaliser by which each rank divides its share of a loss; see `netbuild.tasks.base`.

    It is the sum of `total` over the ranks, at least `least`, divided by the number of ranks: DDP averages gradients
    over the ranks, and the average of the losses is then the loss of the whole batch.
    """
    total = total.detach().clone()
    if world_size() > 1:
        torch.distributed.all_reduce(total)
    return total.clamp(min=least) / world_size()


def average_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each value over all ranks."""
    ranks = all_gather(dict(values))
    return {name: sum(figures[name] for figures in ranks) / len(ranks) for name in values}


@contextmanager
def fail_together() -> Iterator[None]:
    """Context that fails on all ranks if it fails on any, so that no rank waits for one that has ended.

    Raises:
        Exception: on the lowest rank that raised this exception.
        PeerFailedError: on all other ranks; under torchrun without a text, so that the message is printed once.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # a callback or another plug-in may raise anything
        error = caught
    outcome = (str(error), getattr(error, "exit_code", 1)) if error is not None else None
    outcomes = all_gather(outcome)
    failures = [outcome for outcome in outcomes if outcome]
    if error is not None and outcomes.index(outcome) == rank():
        raise error
    if failures:
        raise PeerFailedError(outcomes.index(failures[0]), *failures[0])


@contextmanager
def detect_lost_peers() -> Iterator[None]:
    """Context that turns torch's errors for a lost connection into a PeerLostError.

    Raises:
        PeerLostError: if another rank has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not _is_lost(error):
            raise
        message = f"process {rank()} of {world_size()} lost the connection to the others: {str(error).splitlines()[0]}"
        raise PeerLostError(message, hint="the process that ended first prints the reason") from error


def _is_lost(error: RuntimeError) -> bool:
    # gloo and NCCL raise a plain RuntimeError for most of these.
    known = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "/gloo/")
    return isinstance(error, torch.distributed.DistError) or any(text in str(error) for text in known)
