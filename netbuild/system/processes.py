"""Distributed training: start processes, form their process group, and exchange values and errors between ranks.

The processes are started by torchrun (which `launch` calls) or by SLURM's srun, which set each one's rank and the world
size in its environment. Everything else is torch.distributed.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from netbuild.errors import NetbuildError

T = TypeVar("T")
LAUNCHED = "NETBUILD_LAUNCHED"  # set in the environment of processes that `launch` starts


class PeerLostError(NetbuildError):
    """This process lost the connection to another rank, which has ended."""

    exit_code = 1


class PeerFailedError(NetbuildError):
    """Raised on the ranks that did not fail: they exit silently with the failing rank's exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of the run failed")
        self.exit_code = exit_code

    def __str__(self) -> str:
        return ""  # the failing rank prints the error


# -- the process group ------------------------------------------------------------------------------------------------


def is_distributed(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun or SLURM started this process as one of several; the process group need not exist yet."""
    return int(environment.get("WORLD_SIZE", "1")) > 1 or bool(read_slurm_environment(environment))


def init_process_group() -> None:
    """Form the process group if torchrun or SLURM started several processes; do nothing otherwise.

    Raises:
        NetbuildError: if the other processes cannot be reached.
    """
    if torch.distributed.is_initialized() or not is_distributed():
        return
    os.environ.update(read_slurm_environment(os.environ))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(choose_local_device(os.environ))
    try:
        # CPU tensors and Python objects go through gloo, also on machines with GPUs.
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    except (ValueError, RuntimeError) as error:  # DistNetworkError, DistStoreError among them
        reason = str(error).splitlines()[0]
        raise NetbuildError(f"the processes of the run cannot connect to each other: {reason}") from error


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
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    if int(tasks) < 2 or "SLURM_PROCID" not in environment or "WORLD_SIZE" in environment:
        return {}
    # Ports below the ephemeral range; the job and step numbers keep steps on one host apart.
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    address = environment.get("MASTER_ADDR") or find_first_host(environment.get("SLURM_JOB_NODELIST", "localhost"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
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
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def all_gather(value: T) -> list[T]:
    """Return the values of all ranks, in order, on all ranks; they are pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
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
        PeerFailedError: on all other ranks, silently, so that the message is printed once.
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
        raise PeerFailedError(failures[0][1])


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


# -- starting ---------------------------------------------------------------------------------------------------------


def check_launch(nproc: int, nnodes: int, node_rank: int | None, rdzv: str | None, device: str) -> None:
    """Check the flags of a distributed run before anything is started.

    Raises:
        NetbuildError: if a flag is missing or wrong, or there are too few devices.
    """
    if is_distributed():
        raise NetbuildError(
            "--nproc: torchrun or srun started this process already", hint="use either --nproc or torchrun"
        )
    if nnodes > 1 and not rdzv:
        raise NetbuildError(f"--nnodes {nnodes}: --rdzv is missing", hint="--rdzv HOST:PORT, on one of the machines")
    if rdzv and not re.fullmatch(r"[\w.:\[\]-]+:\d{1,5}", rdzv):
        raise NetbuildError(f"--rdzv {rdzv}: must be HOST:PORT")
    if node_rank is not None and not 0 <= node_rank < nnodes:
        raise NetbuildError(f"--node-rank {node_rank}: must be from 0 to {nnodes - 1}, below --nnodes")
    devices = torch.cuda.device_count()
    if devices and device in ("auto", "cuda") and nproc > devices:
        raise NetbuildError(
            f"--nproc {nproc}: this machine has {devices} GPU(s)", hint="fewer processes, or --device cpu"
        )


def build_torchrun_arguments(
    nproc: int, nnodes: int, node_rank: int | None, rdzv: str | None, command: Sequence[str]
) -> list[str]:
    """Build the arguments of torchrun.

    Args:
        nproc: processes on this machine.
        nnodes: machines.
        node_rank: this machine's number; None lets the machines agree on their numbers.
        rdzv: HOST:PORT of the rendezvous; None for one machine.
        command: what torchrun starts, from `build_rerun_arguments`.
    """
    # Port 0 is any free port, which will do for the processes of one machine.
    static = node_rank is not None and rdzv is not None
    rendezvous = [f"--rdzv-backend={'static' if static else 'c10d'}", f"--rdzv-endpoint={rdzv or 'localhost:0'}"]
    number = [f"--node-rank={node_rank}"] if static else []
    return [
        f"--nnodes={nnodes}", f"--nproc-per-node={nproc}", *rendezvous, *number, f"--rdzv-id={_run_id(rdzv)}", *command,
    ]  # fmt: skip


def _run_id(rdzv: str | None) -> str:
    # On several machines the id must be equal; on one it must differ from that of another run beside it.
    return "netbuild" if rdzv else f"netbuild-{os.getpid()}"


def launch(arguments: Sequence[str], debug: bool = False) -> int:
    """Run torchrun in this process and return the exit code of the processes that it started.

    Args:
        arguments: from `build_torchrun_arguments`.
        debug: whether torchrun logs.

    Raises:
        KeyboardInterrupt: if it was interrupted.
        NetbuildError: if the machines cannot connect to each other, or a process was killed.
    """
    import logging

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not debug:  # the failing process prints its own error; torchrun's log would bury it
        for name in [n for n in logging.root.manager.loggerDict if n.startswith("torch.distributed")]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun sets it too, but with a warning
    try:
        with tempfile.TemporaryDirectory(prefix="netbuild-") as logs:  # by default torchrun leaves a folder behind
            run.run(run.parse_args([f"--log-dir={logs}", *arguments]))
    except ChildFailedError as error:
        return _get_exit_code(error)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return 128 + int(error.sigval)
    except (torch.distributed.DistError, ConnectionError, TimeoutError) as error:
        reason = str(error).splitlines()[0]
        raise NetbuildError(f"the machines of the run cannot connect to each other: {reason}") from error
    finally:
        del os.environ[LAUNCHED]
    return 0


def _get_exit_code(error: Any) -> int:
    """Return the exit code of the process that failed first.

    Raises:
        NetbuildError: if it was killed by a signal.
    """
    number, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        return int(failure.exitcode)
    name = signal.Signals(-failure.exitcode).name
    hint = (
        "the system kills processes when memory runs out: try a smaller --batch or fewer --workers"
        if name == "SIGKILL"
        else ""
    )
    killed = NetbuildError(f"process {number} was killed by {name}", hint=hint)
    killed.exit_code = 1
    raise killed from None


def build_rerun_arguments(arguments: Sequence[str], command: str, *flags: str) -> list[str]:
    """Return the arguments with which torchrun starts this command again, by the same script or as a module.

    Args:
        arguments: ``sys.argv``.
        command: the name of the command.
        flags: further flags, put after the command's name.
    """
    script, position = Path(arguments[0]), list(arguments).index(command) + 1
    # After the dashes nothing is taken for an option of torchrun.
    program = ["--", str(script)] if script.is_file() and script.name != "__main__.py" else ["-m", "--", "netbuild"]
    return [*program, *arguments[1:position], *flags, *arguments[position:]]


def is_launched() -> bool:
    """Whether `launch` started this process; the parent then prints what concerns all ranks."""
    return LAUNCHED in os.environ
