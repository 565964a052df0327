"""A run that ends where the device has too little memory, with advice."""

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
def enough_memory(settings: Settings, device: torch.device) -> Iterator[None]:
    """A stretch in which a device may run out of memory.

    Raises:
        OutOfMemoryError: if it does.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        least = [f"--batch {max(settings.batch // 2, 1)} (-O accumulate=N keeps the images of a step)", "--imgsz"]
        more = [*([] if settings.amp in ("bf16", "fp16") else ["--amp bf16"]), "-O parallel=fsdp over several devices"]
        message = f"{device} has too little memory at --batch {settings.batch}: {peak_memory(device)}"
        raise OutOfMemoryError(message, hint=f"less of it: {', '.join([*least, *more])}") from error


def peak_memory(device: torch.device) -> str:
    """The most memory that was in use so far, in words."""
    if device.type == "cuda":
        used, there = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        return f"{used / 2**30:.1f} of {there / 2**30:.1f} GiB were in use"
    return f"{peak_bytes() / 2**30:.1f} GiB were in use"
