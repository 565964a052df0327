"""Turn torch's out-of-memory errors into errors that name the settings which need less memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from netbuild.errors import NetbuildError
from netbuild.settings import Settings
from netbuild.system.devices import peak_bytes


class OutOfMemoryError(NetbuildError):
    """The device has too little memory for the run."""

    exit_code = 1


@contextmanager
def explain_out_of_memory(settings: Settings, device: torch.device) -> Iterator[None]:
    """Context that turns out-of-memory errors, of GPU or CPU, into one that names the settings which need less memory.

    Raises:
        OutOfMemoryError: if the device runs out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        advice = [
            f"--batch {max(settings.batch // 2, 1)} (-O accumulate=N keeps the images per step)",
            "a smaller --imgsz",
        ]
        if settings.amp not in ("bf16", "fp16"):
            advice.append("--amp bf16")
        advice.append("-O parallel=fsdp on several devices")
        message = f"{device} has too little memory at --batch {settings.batch}: {describe_peak_memory(device)}"
        raise OutOfMemoryError(message, hint=f"to need less: {', '.join(advice)}") from error


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a RuntimeError like any other, so its text must tell.
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def describe_peak_memory(device: torch.device) -> str:
    """Describe the peak memory use so far, for error messages."""
    if device.type == "cuda":
        used, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        return f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB were in use"
    return f"{peak_bytes() / 2**30:.1f} GiB were in use"
