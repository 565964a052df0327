"""Several processes that train together: how they are started, meet, agree and share; all of it by torch's own means.

torchrun (`launch` calls it), or SLURM's srun, starts them and says in their environment who they are.
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
LAUNCHED = "NETBUILD_LAUNCHED"  # in the environment of processes that `launch` started


class LostError(NetbuildError):
    """This process cannot go on, because another one of the run has ended."""

    exit_code = 1


class SaidError(NetbuildError):
    """Another process of the run went wrong, and says so; this one ends without a word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of the run went wrong")
        self.exit_code = exit_code

    def __str__(self) -> str:
        return ""


# -- meeting ----------------------------------------------------------------------------------------------------------


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process was started as one of several, by torchrun or SLURM; they need not have met yet."""
    return int(environment.get("WORLD_SIZE", "1")) > 1 or bool(slurm(environment))


def join() -> None:
    """Meet the other processes of a run, where torchrun or a scheduler started several.

    Raises:
        NetbuildError: if they are not found.
    """
    if torch.distributed.is_initialized() or not is_one_of_several():
        return
    os.environ.update(slurm(os.environ))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_device(os.environ))
    try:
        # What is no tensor of a GPU goes by gloo, on every machine.
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    except (ValueError, RuntimeError) as error:  # DistNetworkError, DistStoreError among them
        said = str(error).splitlines()[0]
        raise NetbuildError(f"the processes of the run do not find each other: {said}") from error


def leave() -> None:
    """Part from the other processes at the end of a run."""
    if torch.distributed.is_initialized():
        gather(None)  # none goes while another still talks to it, or draws
        torch.distributed.destroy_process_group()


def local_device(environment: Mapping[str, str]) -> int:
    """Which of this machine's accelerators is this process's; where it sees one alone, as under SLURM, that."""
    count = torch.cuda.device_count()
    return int(environment.get("LOCAL_RANK", "0")) if count > 1 else 0


def slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """What torch must know of a process that srun started as one of several; nothing for any other process."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS", "1")
    if int(tasks) < 2 or "SLURM_PROCID" not in environment or "WORLD_SIZE" in environment:
        return {}
    # Below the ports that systems hand out by themselves; two steps of a job do not meet on one.
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    address = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_JOB_NODELIST", "localhost"))
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": address,
        "MASTER_PORT": environment.get("MASTER_PORT") or str(12_000 + (job + step) % 20_000),
    }


def first_host(nodes: str) -> str:
    """The first host of a list as SLURM writes it: ``gpu[003-007,12],login`` is gpu003."""
    if shutil.which("scontrol"):
        done = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.split():
            return done.stdout.split()[0]
    found = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


# -- who is who -------------------------------------------------------------------------------------------------------


def world() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, the first being 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes and speaks."""
    return rank() == 0


# -- sharing ----------------------------------------------------------------------------------------------------------


def shared(value: T) -> T:
    """The first process's value, in all."""
    if world() == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """The values of all processes, in all."""
    if world() == 1:
        return [value]
    box: list[Any] = [None] * world()
    torch.distributed.all_gather_object(box, value)
    return box


def pooled(total: Tensor, least: float) -> Tensor:
    """What each share of a loss is divided by, so that their mean is the loss of all: see `netbuild.tasks.base`."""
    total = total.detach().clone()
    if world() > 1:
        torch.distributed.all_reduce(total)
    return total.clamp(min=least) / world()


def means(values: Mapping[str, float]) -> dict[str, float]:
    """The means of figures over the processes."""
    every = gather(dict(values))
    return {name: sum(one[name] for one in every) / len(every) for name in values}


@contextmanager
def agreed() -> Iterator[None]:
    """A stretch that all processes pass, or none: what goes wrong in any of them ends all, and is said once.

    Raises:
        NetbuildError: what went wrong here, if no process before this one says the same.
        SaidError: in the other processes.
    """
    error: NetbuildError | None = None
    try:
        yield
    except NetbuildError as caught:
        error = caught
    found = gather((str(error), error.exit_code) if error else None)
    wrong = [one for one in found if one]
    if error and found.index((str(error), error.exit_code)) == rank():
        raise error
    if wrong:
        raise SaidError(wrong[0][1])


@contextmanager
def together() -> Iterator[None]:
    """A stretch in which a process may lose the others.

    Raises:
        LostError: if it does.
    """
    try:
        yield
    except RuntimeError as error:
        if world() == 1 or not _is_lost(error):
            raise
        message = f"process {rank()} of {world()} ended, as it lost the others: {str(error).splitlines()[0]}"
        raise LostError(message, hint="the process that ended first says why") from error


def _is_lost(error: RuntimeError) -> bool:
    known = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "/gloo/")
    return isinstance(error, torch.distributed.DistError) or any(text in str(error) for text in known)


# -- starting ---------------------------------------------------------------------------------------------------------


def check_launch(nproc: int, nnodes: int, node_rank: int | None, rdzv: str | None, device: str) -> None:
    """Refuse what cannot be started.

    Raises:
        NetbuildError: if flags do not go together, or there are too few devices.
    """
    if is_one_of_several():
        raise NetbuildError("--nproc: this is one of several processes already", hint="leave out --nproc, or torchrun")
    if nnodes > 1 and not rdzv:
        raise NetbuildError(f"--nnodes {nnodes}: where do they meet?", hint="--rdzv HOST:PORT, of one of them")
    if rdzv and not re.fullmatch(r"[\w.:\[\]-]+:\d{1,5}", rdzv):
        raise NetbuildError(f"--rdzv {rdzv}: must be HOST:PORT")
    if node_rank is not None and not 0 <= node_rank < nnodes:
        raise NetbuildError(f"--node-rank {node_rank}: must be from 0 to {nnodes - 1}, below --nnodes")
    devices = torch.cuda.device_count()
    if devices and device in ("auto", "cuda") and nproc > devices:
        raise NetbuildError(f"--nproc {nproc}: this machine has {devices} device(s)", hint="or add --device cpu")


def torchrun_arguments(
    nproc: int, nnodes: int, node_rank: int | None, rdzv: str | None, command: Sequence[str]
) -> list[str]:
    """What torchrun is to be told."""
    # Without a rank the machines agree on one by themselves; the processes of one machine meet on any free port.
    static = node_rank is not None and rdzv is not None
    meeting = [f"--rdzv-backend={'static' if static else 'c10d'}", f"--rdzv-endpoint={rdzv or 'localhost:0'}"]
    number = [f"--node-rank={node_rank}"] if static else []
    return [
        f"--nnodes={nnodes}", f"--nproc-per-node={nproc}", *meeting, *number, f"--rdzv-id={_run_id(rdzv)}", *command,
    ]  # fmt: skip


def _run_id(rdzv: str | None) -> str:
    return "netbuild" if rdzv else f"netbuild-{os.getpid()}"


def launch(arguments: Sequence[str], debug: bool = False) -> int:
    """Run torchrun in this process; gives the exit code of what it started.

    Args:
        arguments: of torchrun.
        debug: whether torchrun speaks.

    Raises:
        KeyboardInterrupt: if it was interrupted.
        NetbuildError: if the processes do not find each other, or one was killed.
    """
    import logging

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not debug:  # what went wrong is said by the process in which it did
        for name in [n for n in logging.root.manager.loggerDict if n.startswith("torch.distributed")]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, which would say so
    try:
        with tempfile.TemporaryDirectory(prefix="netbuild-") as logs:  # torchrun would leave one behind
            run.run(run.parse_args([f"--log-dir={logs}", *arguments]))
    except ChildFailedError as error:
        return _exit_code(error)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return 128 + int(error.sigval)
    except (torch.distributed.DistError, ConnectionError, TimeoutError) as error:
        said = str(error).splitlines()[0]
        raise NetbuildError(f"the machines of the run do not find each other: {said}") from error
    finally:
        del os.environ[LAUNCHED]
    return 0


def _exit_code(error: Any) -> int:
    """That of the process that ended first."""
    number, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        return int(failure.exitcode)
    name = signal.Signals(-failure.exitcode).name
    hint = (
        "the system ends processes when memory is short: a smaller --batch, fewer workers" if name == "SIGKILL" else ""
    )
    failed = NetbuildError(f"process {number} was ended by {name}", hint=hint)
    failed.exit_code = 1
    raise failed from None


def again(arguments: Sequence[str], command: str, *flags: str) -> list[str]:
    """This command as torchrun is to start it, with further flags: by the same script, or as a module."""
    script, at = Path(arguments[0]), list(arguments).index(command) + 1
    how = ["--", str(script)] if script.is_file() and script.name != "__main__.py" else ["-m", "--", "netbuild"]
    # Behind the dashes nothing is taken for an option of torchrun's.
    return [*how, *arguments[1:at], *flags, *arguments[at:]]


def is_launched() -> bool:
    """Whether `launch` started this process: what concerns all is said by the process that called it."""
    return LAUNCHED in os.environ
