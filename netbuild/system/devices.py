"""Choose the device that a network runs on, and measure this process's memory."""

import os
import sys

import torch

from netbuild.errors import NetbuildError
from netbuild.system.processes import choose_local_device


def pick_device(name: str) -> torch.device:
    """Return the device of a name, after checking that a tensor can be created on it.

    Args:
        name: a name of torch, such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; or ``auto``: CUDA,
            else MPS, else the CPU. In a distributed run ``auto`` and ``cuda`` are this process's own GPU.

    Raises:
        NetbuildError: if the device does not exist.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        name = f"cuda:{choose_local_device(os.environ)}"
    if name.isdecimal():  # a GPU's number alone, as other programs take it
        name = f"cuda:{name}"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        hint = "for several devices, run one process on each: --nproc 2" if "," in name else "--device cpu always works"
        raise NetbuildError(
            f"--device {name}: must be auto, cpu, cuda, mps, or a GPU such as cuda:1", hint=hint
        ) from None
    if device.type == "meta":
        raise NetbuildError("--device meta: has no values, so nothing can be computed on it")
    try:
        torch.empty(1, device=device)  # torch.device() itself accepts devices that are not there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        is_there = device.type == "cuda" and torch.cuda.device_count() > (device.index or 0)
        reason = str(error).splitlines()[0] if is_there else f"torch {torch.__version__} has no such device here"
        raise NetbuildError(f"--device {name}: {reason}", hint="--device cpu always works") from None
    return device


def peak_bytes() -> int:
    """Return the peak memory of this process in bytes, 0 where the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB on Linux
