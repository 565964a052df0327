"""Start the processes of a distributed run by torchrun, and report how they ended."""

import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from netbuild.errors import NetbuildError
from netbuild.system.processes import is_distributed

LAUNCHED = "NETBUILD_LAUNCHED"  # set in the environment of processes that `launch` starts


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
