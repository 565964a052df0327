"""Which device a network runs on."""

import os
import sys

import torch

from netbuild.errors import NetbuildError
from netbuild.system.processes import local_device


def pick_device(wanted: str) -> torch.device:
    """The device of a run: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` takes the first accelerator that is there.

    Raises:
        NetbuildError: if it is not there.
    """
    if wanted in ("auto", "cuda") and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        wanted = f"cuda:{local_device(os.environ)}"
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        hint = "several processes, one a device: --nproc 2" if "," in wanted else "cpu is always there"
        raise NetbuildError(f"--device {wanted}: {str(error).splitlines()[0]}", hint=hint) from None
    return device


def peak_bytes() -> int:
    """The most memory that this process held so far; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
